r"""Masked networks of other libraries, their units sorted by degree.

.. math:: W^{(l)} \to P_{l+1}\, (M^{(l)} \odot W^{(l)})\, P_l^\top

Their masks are MADE's, with units in another order. A unit's degree is the place of the last
feature that it depends on; P sorts the units of each layer by it. Then every mask lies under a
staircase (:mod:`afnp.networks.masks`), and a sample needs each unit once instead of D passes of the
network. Where their mask has a zero under the staircase, the weight is zero.

Letters: D features, C context inputs, K params a feature, P permutations.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from afnp.networks import MaskedMLP
from afnp.transforms import Autoregressive

__all__ = ["Linear", "Network", "generation_order", "masked_layer"]


class Linear(NamedTuple):
    """A masked linear map of J outputs and I inputs."""

    W: np.ndarray
    """(J, I)."""
    b: np.ndarray
    """(J,)."""
    mask: np.ndarray
    """(J, I) bool."""


class Network(NamedTuple):
    """Masked linear maps with an activation between them."""

    linears: Sequence[Linear]
    """From D features and then C context inputs to K params of each feature in turn."""
    activation: str = "relu"
    residual: bool = False
    """Whether every second layer after the first closes a block, as in ResMADE."""


def generation_order(network: Network, features: int) -> np.ndarray:
    """Return an order (D,) in which every feature's params depend on earlier features alone.

    Features that depend on fewer others come first: on what they depend on, and on what that
    depends on.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> one = Linear(np.ones((2, 2)), np.zeros(2), np.array([[False, True], [False, False]]))
    >>> generation_order(Network([one]), features=2)
    array([1, 0])
    """
    reach = np.eye(network.linears[0].mask.shape[1])
    for linear in network.linears:
        reach = np.minimum(linear.mask.astype(np.float64) @ reach, 1)
    closed = reach[:, :features].reshape(features, -1, features).max(axis=1)
    for _ in range(features.bit_length()):  # paths of up to 2, 4, 8, ... steps
        closed = np.minimum(closed @ closed + closed, 1)
    if np.diag(closed).any():
        i = int(np.argmax(np.diag(closed)))
        raise ValueError(f"network: the params of feature {i} depend on the feature itself")
    return np.argsort(closed.sum(axis=1), kind="stable")


def masked_layer(
    network: Network, univariate: Any, order: np.ndarray
) -> tuple[Autoregressive, dict[str, np.ndarray]]:
    """Return a network's transform with its units sorted by degree, and its arrays by name.

    Parameters
    ----------
    network : Network
    univariate : univariate
        Takes K params.
    order : (D,) int array
        Feature ``order[r]`` comes r-th; any that the network allows.

    Raises
    ------
    ValueError
        If the params of a feature depend on a later one.
    """
    D, K = len(order), univariate.numbers
    C = network.linears[0].W.shape[1] - D
    place = np.argsort(order) + 1
    degrees = np.concatenate([place, np.zeros(C, dtype=np.int64)])
    columns = np.concatenate([D + np.arange(C), order])
    outputs = (order[:, None] * K + np.arange(K)).ravel()
    arrays: dict[str, np.ndarray] = {}
    layers: list[tuple[np.ndarray, np.ndarray]] = []  # degrees of hidden units, and their order
    last = len(network.linears) - 1
    for l, (W, b, mask) in enumerate(network.linears):
        degrees = np.where(mask, degrees, 0).max(axis=1, initial=0)
        if l == last:
            _check_order(degrees, np.repeat(place, K), K)
            rows = outputs
        elif network.residual and l and l % 2 == 0:
            degrees, rows = _on_the_stream(degrees, *layers[l - 2])
        else:
            rows = np.argsort(degrees, kind="stable")
        layers.append((degrees, rows))
        arrays |= {f"W{l}": (W * mask)[np.ix_(rows, columns)], f"b{l}": b[rows]}
        columns = rows
    hidden = [degrees[rows] for degrees, rows in layers[:last]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a narrow network loses, it lost there
        net = MaskedMLP(
            D,
            K,
            [len(units) for units in hidden],
            C,
            network.activation,
            network.residual,
            degrees=[units.tolist() for units in hidden] or None,
        )
    return Autoregressive(net, univariate, order), arrays


def _on_the_stream(
    added: np.ndarray, degrees: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return degrees and order of a stream's units, to which a block adds some of these degrees."""
    if (added > degrees).any():
        raise ValueError("network: a residual block adds what its stream may not depend on")
    return degrees, rows


def _check_order(degrees: np.ndarray, places: np.ndarray, K: int) -> None:
    late = np.flatnonzero(degrees >= places)
    if late.size:
        i = int(late[0]) // K
        raise ValueError(f"order: the params of feature {i} depend on a later feature")
