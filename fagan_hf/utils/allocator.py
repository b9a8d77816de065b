"""Settings of glibc's malloc for two kinds of programs.

A training step on a CPU allocates the same feature maps again and again. glibc returns large ones to the kernel, which
hands them out page by page, each filled with zeros first: tens of thousands of page faults in a step. A server's many
threads each get a separate arena, which retains the memory of its largest request.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_... of malloc.h
_KEPT_BYTES = 1 << 30
_SHARED_ARENAS = 2


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of what it frees, in blocks of any size below; on Linux with glibc only.

    Nothing is changed if another allocator is loaded or the environment sets malloc's own variables.

    Returns:
        Whether the setting was applied.
    """
    return _set_malloc({_TRIM_THRESHOLD: _KEPT_BYTES, _MMAP_THRESHOLD: _KEPT_BYTES})


def share_memory_between_threads() -> bool:
    """Let the threads of this process allocate from two arenas instead of eight per core; on Linux with glibc only.

    Call it before starting threads. Nothing is changed if another allocator is loaded or the environment sets malloc's
    own variables.

    Returns:
        Whether the setting was applied.
    """
    return _set_malloc({_ARENA_MAX: _SHARED_ARENAS})


def _set_malloc(options: dict[int, int]) -> bool:
    is_chosen = "LD_PRELOAD" in os.environ or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform != "linux" or is_chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(option, value) for option, value in options.items())
