"""One setting of the C library's allocator that speeds up work on large tensors."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's mallopt(3)


@functools.cache
def keep_freed_memory(at_most: int = 256 << 20) -> bool:
    """Let freed memory stay with the process, up to `at_most` bytes, instead of going back to the system at once.

    A forward pass frees and asks for the same tens of megabytes in every layer. Given back and handed out again, each page
    costs a fault: a tenth of a training step, and in a virtual machine up to half of a model's first pass
    (`python -m benchmarks.dashboard_speed`). The setting is of the whole process, takes effect once, and exists on Linux
    with glibc only; elsewhere nothing happens.

    Returns:
        whether it was set.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # 32 MB is the largest threshold that glibc takes
    wanted = ((_TRIM_THRESHOLD, at_most), (_TOP_PAD, 64 << 20), (_MMAP_THRESHOLD, 32 << 20))
    set_all = [mallopt(name, value) == 1 for name, value in wanted]
    return all(set_all)
