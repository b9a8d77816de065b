"""Seeds and labels to latents, label vectors and images."""
