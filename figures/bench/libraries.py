"""All libraries by name; each stands in the file of what it is built on."""

from __future__ import annotations

from typing import Any

from figures.bench import library_jax, library_numpy, library_torch

__all__ = ["LIBRARIES", "PEERS"]

LIBRARIES: dict[str, Any] = {
    **library_numpy.LIBRARIES,
    **library_torch.LIBRARIES,
    **library_jax.LIBRARIES,
}

PEERS = [*library_torch.LIBRARIES, *library_jax.LIBRARIES]
"""What afnp is compared with."""
