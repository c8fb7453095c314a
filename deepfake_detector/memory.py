"""How the C library deals with the memory of a training step."""

import ctypes

# Parameters of mallopt (malloc.h of glibc).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step; returns whether this C library can (glibc). Call it before any thread starts.

    Usually an array of more than 32 MB is mapped when it is made and unmapped when it is freed, and the system clears
    every page of it anew: more than half of the time of a step on large pictures on the CPU. Now all come from one heap
    that never shrinks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library; on Windows CDLL(None) is a TypeError
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) for parameter, value in settings)
