"""How torch's threads wait for each other."""

import os


def yield_cores() -> None:
    """Make waiting threads of torch yield their core to other programs after a fifth of a millisecond.

    GNU OpenMP's threads (on Linux) spin while they wait. If another program needs the core, spinning wastes it, and a
    run drops to a fraction of its speed. Spinning briefly pays off, because the next work usually follows soon. Call it
    before importing torch, which reads the setting; an existing setting in the environment takes precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
