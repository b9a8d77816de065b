"""Training, run from a clone: `accelerate launch training/train.py --config training/recipes/avatars-32.yaml`."""
