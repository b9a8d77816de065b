"""What a model's attention does: where it looks, how much it counts, and pictures of it."""
