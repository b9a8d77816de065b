"""Several processes as one: what they share, how they are launched and how they are stopped."""
