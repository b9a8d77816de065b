"""Keep memory that is freed, for the next step to take.

A step on a CPU allocates the same feature maps again and again. glibc gives large ones back to the kernel, which hands
them out anew page by page, each filled with zeros first: tens of thousands of interruptions in a step.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of what it frees, in blocks of any size below; on Linux with glibc only.

    Nothing is changed where another allocator is loaded or the environment sets malloc's own variables.

    Returns:
        Was it done?
    """
    is_chosen = "LD_PRELOAD" in os.environ or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform != "linux" or is_chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(each, _KEPT_BYTES) for each in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
