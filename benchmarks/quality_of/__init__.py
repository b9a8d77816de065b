"""What `benchmarks/quality.py` compares, at equal work, and how it judges."""
