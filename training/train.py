"""Train: ``accelerate launch training/train.py --config training/recipes/avatars-32.yaml [--field value ...]``."""

import sys
from pathlib import Path

# `accelerate launch` puts this file's folder on the path, not the repository's root that the imports start from.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fagan_hf.training.command import main

if __name__ == "__main__":
    main()
