"""How torch's threads wait for each other."""

import os


def yield_cores() -> None:
    """Let waiting threads of torch give their core to other programs after a fifth of a millisecond.

    GNU OpenMP's threads (on Linux) spin while they wait. Where another program wants a core too, they hold it for
    nothing and a run falls to a fraction of its speed. For so short a time it pays: the next work comes sooner. To be
    called before torch is imported, which reads it; an environment that says otherwise stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
