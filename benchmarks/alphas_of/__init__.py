"""What `benchmarks/alphas.py` studies: when gates open, what they are worth, where layers look, and controls."""
