"""``accelerate launch -m fagan_hf.training --recipe avatars-32 [--field value ...]``."""

from fagan_hf.training.command import main

if __name__ == "__main__":
    main(program="fagan_hf.training")
