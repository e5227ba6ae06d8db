"""Constructors: whole flows from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp import masks
from afnp.flows import Flow
from afnp.inputs import integer
from afnp.transforms import Autoregressive

__all__ = ["made", "maf"]


def maf(
    features: int,
    hidden: Sequence[int] = (512, 512),
    transforms: int = 5,
    order: str | Sequence[int] | np.ndarray = "reverse",
    univariate: str = "affine",
    context: int = 0,
    seed: int = 0,
    dtype=np.float64,
    activation: str = "relu",
    residual: bool = False,
    preprocess: Sequence = (),
) -> Flow:
    """Build a masked autoregressive flow (MAF, arXiv 1705.07057): fast density, sampling by substitution.

    Parameters
    ----------
    features : int
        D, at least 1.
    hidden : sequence of int
        Widths of each conditioner's hidden layers; below D - 1 (D with a context) some dependencies are lost,
        and a warning says how many.
    transforms : int
        How many autoregressive transforms are stacked.
    order : {"reverse", "natural", "random"} or a permutation
        Generation order. "reverse": natural, then reversed, in turn; "natural": always natural; "random": a new
        permutation for each transform; a permutation: that one, then its reverse, in turn.
    univariate : {"affine"}
    context : int
        C, the width of the condition, 0 for none; it reaches every feature, the first too.
    seed : int
        For initial parameters and random orders.
    dtype : float64 or float32
    activation : {"relu", "tanh"}
    residual : bool
        Residual blocks of two layers (an odd number of equal widths).
    preprocess : sequence of transforms
        Fixed layers before the first transform, from :func:`afnp.preprocess.preprocessing`.

    Raises
    ------
    ValueError
        If an argument makes no sense; it names argument, expectation and value.

    Examples
    --------
    >>> flow = maf(4, hidden=(16, 16), transforms=2, seed=0)
    >>> x = np.zeros((2, 4))
    >>> u, log_det = flow.normalize(x)
    >>> bool(np.allclose(flow.generate(u)[0], x))
    True
    """
    features, context = integer("features", features, least=1), integer("context", context, least=0)
    transforms = integer("transforms", transforms, least=1)
    rng = np.random.default_rng([seed, 1])
    layers = [
        Autoregressive(
            features,
            hidden,
            order=_order_of_transform(order, k, features, rng),
            univariate=univariate,
            context=context,
            activation=activation,
            residual=residual,
        )
        for k in range(transforms)
    ]
    return Flow([*preprocess, *layers], context=context, dtype=dtype, seed=seed)


def _order_of_transform(order, k: int, features: int, rng: np.random.Generator) -> np.ndarray:
    """Return the generation order of transform k."""
    if isinstance(order, str) and order in ("natural", "random"):
        return masks.order_of(order, features, rng)
    first = masks.order_of("natural" if isinstance(order, str) and order == "reverse" else order, features)
    return first[::-1] if k % 2 else first


def made(
    features: int, hidden: Sequence[int] = (512, 512), order: str | Sequence[int] | np.ndarray = "natural", **kwargs
) -> Flow:
    """Build a Gaussian MADE (arXiv 1502.03509): one autoregressive transform; arguments as in :func:`maf`.

    Examples
    --------
    >>> made(3, hidden=(8,), order=[2, 0, 1]).layers[0].order
    array([2, 0, 1])
    """
    if isinstance(order, str) and order == "reverse":
        order = masks.order_of("reverse", features)
    return maf(features, hidden, transforms=1, order=order, **kwargs)
