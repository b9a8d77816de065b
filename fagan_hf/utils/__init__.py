"""What every wing may use: files that are complete or absent, suggestions, redaction, devices."""
