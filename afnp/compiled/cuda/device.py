r"""The GPU itself: whether there is one, how much fits, and the functions that all kernels share.

.. math:: x = \mu + u\, e^{\alpha}, \qquad \alpha = B \tanh(a / B)

numba-cuda is imported here and nowhere else. Without it, functions stay as they are, and whoever
asks for the GPU is told what to install.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

_found: Any = None
try:
    import numba.cuda
    import numba_cuda  # noqa: F401  (without it, numba.cuda is an older one that cannot do this)

    _found = numba.cuda
except ImportError:
    pass

__all__ = [
    *("BATCH_BYTES", "SHARED_BYTES", "activate", "affine_generate", "batches", "cuda"),
    *("device", "kernel", "lock", "multiprocessors", "room"),
]

cuda = _found
"""The module ``numba.cuda``, or None without numba-cuda."""
SHARED_BYTES = 48 * 1024
"""Shared memory that every GPU gives a block without being asked for more."""
BATCH_BYTES = 2**30
"""Samples on the GPU at a time, and global memory of all tiles, each; longer inputs are
streamed."""

# compiled at the first launch
_jit = cuda.jit if cuda else lambda **options: lambda function: function
kernel, device = _jit(), _jit(device=True, inline="always")
"""For what the host starts, and for what a kernel calls."""
lock = threading.Lock()
"""One thread at a time speaks to the GPU."""


# ---- elementwise functions -----------------------------------------------------------------------


@device
def activate(kind, z, zero):
    """Return relu(z) or tanh(z); unlike the hardware's maximum, relu lets NaN through."""
    if kind == 0:
        a = zero if z < zero else z
    else:
        a = math.tanh(z)
    return a


@device
def affine_generate(mu, a, u, bound):
    """Return x = mu + u exp(alpha) and alpha = B tanh(a / B), see :mod:`afnp.univariate.affine`."""
    alpha = bound * math.tanh(a / bound)
    return mu + u * math.exp(alpha), alpha


# ---- what is there -------------------------------------------------------------------------------


def multiprocessors() -> int:
    """Return how many there are, or raise a RuntimeError that says what is missing."""
    if cuda is None:
        raise RuntimeError(
            "backend 'cuda' needs numba-cuda, which is not installed: pip install 'afnp[cuda]'"
        )
    if not cuda.is_available():
        raise RuntimeError("backend 'cuda' needs an NVIDIA GPU and its driver; none was found")
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


def room(each: int) -> int:
    """Return how many things of so many bytes fit into ``BATCH_BYTES``: at least one."""
    return max(1, BATCH_BYTES // each)


def batches(context, u) -> Iterator[slice]:
    """Cut rows into batches that fit."""
    rows = room((u.shape[1] + context.shape[1] + 1) * u.itemsize)
    return (slice(begin, begin + rows) for begin in range(0, len(u), rows))
