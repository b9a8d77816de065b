"""Images to train on: drawn, from folders, archives, tables or the Hub; decoded once and cached, or streamed."""
