"""Whether compiled code can be used at all, and which of it this process has already loaded."""

from __future__ import annotations

import functools

__all__ = ["LOADED", "load"]

LOADED: set = set()
"""Keys of the kernels that have run here; see :meth:`afnp.model.Model.kernels`."""


@functools.cache
def load():
    """Import the compiled stages, once, and return their module.

    Raises
    ------
    Exception
        Whatever keeps Numba from working here: it is missing or broken, may write nowhere, or has
        been told not to compile.
    """
    from numba import config  # half a second, which only compiled work should cost

    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    from afnp.compiled import stages

    stages.workers()
    return stages
