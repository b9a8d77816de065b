"""What measures speed and quality; run from a clone."""
