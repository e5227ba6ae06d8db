r"""Support: a flow's layers and its noise live on the circle together, or none of them does.

.. math:: \int p(x)\, dx = \int p_{\mathrm{base}}(u)\, du = 1 \quad\text{only if each layer maps the
          support of its input onto that of the next}

A layer of angles wraps whatever it is given. Numbers of the line would meet many to one (the
density's integral is then too large), and noise of the line would be cut off at π (too small).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from afnp.bases import Base
from afnp.transforms.base import Transform
from afnp.transforms.linear import Permutation
from afnp.transforms.preprocess import Standardize

__all__ = ["check_support", "of_angles"]

WIDER = 1e-4
"""So much wider than the circle the noise's box may be: that part of the density is lost."""


def of_angles(layer: Transform) -> bool:
    """Return whether a layer maps angles to angles.

    It may give them to its network as they are, so that its params know an end, as zuko has it.
    """
    tau = layer.univariate
    return layer.periodic or (tau is not None and tau.support == (-math.pi, math.pi))


def check_support(layers: Sequence[Transform], base: Base) -> None:
    """Raise a ValueError if layers of angles stand beside a layer or noise of the line.

    At least one is a layer of angles: noise on the torus at the end of layers of the line is a box,
    and sound. Noise may lie in a box that is a little wider than the circle, as zuko has it.

    Examples
    --------
    >>> from afnp.bases import StandardNormal
    >>> from afnp.transforms import masked
    >>> check_support([masked(2, (4,), univariate="circular_spline")], StandardNormal(2))
    Traceback (most recent call last):
        ...
    ValueError: base: layers of angles need noise on the circle, UniformTorus(2), got StandardNormal
    """
    for k, layer in enumerate(layers):
        at_the_end = k == len(layers) - 1 and _hardly_wider(layer)
        if not (of_angles(layer) or isinstance(layer, Permutation) or at_the_end):
            raise ValueError(
                f"layers: layer {k}, {type(layer).__name__}, does not map angles to angles, as "
                "those beside it need; circular flows take angles in [-pi, pi] as they are, "
                "without preprocess="
            )
    if not base.periodic:
        raise ValueError(
            "base: layers of angles need noise on the circle, "
            f"UniformTorus({base.features}), got {type(base).__name__}"
        )


def _hardly_wider(layer: Transform) -> bool:
    """Return whether a layer maps angles into [-pi, pi], and leaves hardly anything of it out."""
    if not isinstance(layer, Standardize):
        return False
    gap = layer.std - 1
    return not layer.mean.any() and bool(((gap >= 0) & (gap < WIDER)).all())
