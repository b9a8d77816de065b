"""A run from its first image to its last, and everything that its folder holds."""
