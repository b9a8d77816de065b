"""One step of each network, from a batch of real images to updated weights."""
