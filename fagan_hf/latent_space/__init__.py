"""The latent space: walks through it, directions in it, and where a given image lies."""
