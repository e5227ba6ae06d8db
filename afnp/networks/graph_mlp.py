r"""The masked network of any directed acyclic graph: hidden units are labelled by sets of features.

.. math::
    M^{(0)}_{rj} = [\, j \in S_r \,], \qquad M^{(l)}_{rc} = [\, S_c \subseteq S_r \,], \qquad
    M^{(L-1)}_{ic} = [\, S_c \subseteq \mathrm{pa}(i) \,]

MADE's unit of degree m depends on features 1 to m: on a *set*, of which a number says all, because
there the sets lie inside each other. Here a unit's label is the set S itself. It depends on the
features of its set and on units whose sets lie within its own, so that nothing else can reach it,
and output i depends on units whose sets lie within pa(i). Labels are the parent sets of the
features, each once, evenly many units of each. With at least one unit of every label in every
layer, the network's reachability *is* the graph: from a parent j of i through the units labelled
pa(i). Where the graph is a whole order, sets are prefixes, labels degrees, and masks MADE's.

Other constructions for the same purpose: factorised binary masks (StrNN, arXiv 2311.02221).

**Still substitution.** Features are in an order that the graph allows, and units in the order in
which their sets become known. So every mask lies under a staircase, and each unit is evaluated
once. Features of one level come together.

Letters: N rows, D features, C context inputs, K params a feature, E inputs a feature, H units.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afnp.inputs import integer, integers
from afnp.networks.features import embedding
from afnp.networks.graph import ROWS, follow
from afnp.networks.masked_mlp import Feedforward
from afnp.sampling.substitution import Staircase

__all__ = ["GraphMLP"]

MOST = 2**14
"""Features of the largest graph: its matrix is held whole, 256 MiB."""


class GraphMLP(Feedforward):
    """Masked network of a graph: h_i is a function of the context and of the parents of i.

    Parameters
    ----------
    features, numbers : int
        D and K.
    parents : sequence of D sequences of int
        Of each feature, in generation order: numbers below its own. A row may also be written as
        ``config()`` writes it, ``"0-3 7"``.
    hidden, context, activation, residual, periodic
        As in :class:`afnp.networks.MaskedMLP`.

    Warns
    -----
    UserWarning
        When a layer is too narrow for a unit of every label; it says how many dependencies are
        lost, and what width suffices.

    Raises
    ------
    ValueError
        If parents do not come before their children, or a width, the activation, or the residual
        layout makes no sense.

    Examples
    --------
    Feature 2 depends on 0 and 1, which do not depend on each other:

    >>> net = GraphMLP(3, 2, parents=[[], [], [0, 1]], hidden=(4,))
    >>> list(net.groups), net.depth
    ([slice(0, 2, None), slice(2, 3, None)], 2)
    >>> net.allowed().astype(int)
    array([[0, 0, 0],
           [0, 0, 0],
           [1, 1, 0]])
    """

    def __init__(
        self,
        features: int,
        numbers: int,
        parents: Sequence[Sequence[int]],
        hidden: Sequence[int] = (512, 512),
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        periodic: bool = False,
    ):
        features = integer("features", features, least=1)
        context = integer("context", context, least=0)
        self.adjacency = _checked_parents(parents, features)
        self.periodic = bool(periodic)
        widths = integers("hidden", hidden, least=1)
        embed = embedding(periodic)
        sets = _labels(self.adjacency, context)
        self.labels = [sets[np.arange(width) * len(sets) // width] for width in widths]
        inputs = np.repeat(np.arange(1, features + 1), embed.width)
        degrees = [
            np.concatenate([np.zeros(context, dtype=np.int64), inputs]),
            *(_degrees(labels) for labels in self.labels),
        ]
        super().__init__(features, numbers, widths, context, activation, residual, embed, degrees)
        self._masks = self._masks_of()
        self._warn_of_lost_dependencies(len(sets))

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this network."""
        parents = [_spans(row) for row in self.adjacency]
        return {**super().config(), "parents": parents, "periodic": self.periodic}

    # ---- the masks -------------------------------------------------------------------------------

    def _masks_of(self) -> list[np.ndarray]:
        """Return each layer's mask (J, I)."""
        sets = [*self.labels, self.adjacency]
        of_context = np.ones((len(sets[0]), self.context), dtype=bool)
        first = np.hstack([of_context, np.repeat(sets[0], self.embed.width, axis=1)])
        masks = [first, *(_within(c, r) for c, r in itertools.pairwise(sets))]
        masks[-1] = np.repeat(masks[-1], self.numbers, axis=0)
        return masks

    def mask(self, l: int) -> np.ndarray:
        """Return which inputs each row of layer l depends on, (J, I) bool."""
        return self._masks[l]

    def reach(self) -> np.ndarray:
        """Return which h_i the masks let depend on which x_j, (D, D) bool."""
        first, *others = self._masks
        one_each = [first[:, self.context :: self.embed.width], *others]
        one_each[-1] = one_each[-1][:: self.numbers]
        return follow(one_each)

    def _warn_of_lost_dependencies(self, needed: int) -> None:
        legal, reached = int(self.adjacency.sum()), int(self.reach().sum())
        if reached < legal:
            warnings.warn(
                f"hidden widths {self.hidden} make {legal - reached} of {legal} dependencies of "
                f"the graph impossible; every width of at least {needed} keeps them all",
                stacklevel=3,
            )

    def allowed(self) -> np.ndarray:
        """Return which h_i may depend on which x_j, (D, D) bool: the graph."""
        return self.adjacency.copy()

    @property
    def groups(self) -> Iterator[slice]:
        """The columns of each level in turn: features that do not depend on each other."""
        first = 0
        for i in range(1, self.features + 1):
            if i == self.features or self.adjacency[i, first:i].any():
                yield slice(first, i)
                first = i

    @property
    def depth(self) -> int:
        """How many levels there are: steps that wait for each other."""
        return len(list(self.groups))

    @property
    def cost(self) -> int:
        """Useful multiply-adds of one pass, a row: the ones of the masks."""
        return sum(int(mask.sum()) for mask in self._masks)

    # ---- all features at once --------------------------------------------------------------------

    def only(self, p: dict) -> dict:
        """Return the parameters with zeros where the graph lets nothing through, M ⊙ W."""
        return dict(p) | {l.W: W for l, W in zip(self.linears, self.weights(p), strict=True)}

    def forward(self, p: dict, context: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, list]:
        """Map (N, C) and (N, D) to h (N, D, K); the cache holds every layer's inputs."""
        return super().forward(self.only(p), context, x)

    def backward_context(self, p: dict, cache: Any, d_h: np.ndarray, g: dict) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        under = {name: np.zeros_like(values) for name, values in g.items()}
        both = super().backward_context(self.only(p), cache, d_h, under)
        for name, values in self.only(under).items():
            g[name] += values
        return both

    def staircases(self, p: dict) -> list[Staircase]:
        """Return the layers as the substitution kernels take them, without what is masked."""
        return super().staircases(self.only(p))


def _checked_parents(parents: Any, features: int) -> np.ndarray:
    """Return the graph (D, D) of lists of parents, or say what is wrong with them."""
    if features > MOST:
        raise ValueError(f"parents: expected a graph of at most {MOST} features, got {features}")
    if len(parents) != features:
        raise ValueError(f"parents: expected {features} sequences, got {len(parents)}")
    adjacency = np.zeros((features, features), dtype=bool)
    for i, of_feature in enumerate(parents):
        spans = of_feature.split() if isinstance(of_feature, str) else of_feature
        for span in spans:
            first, last = _ends(span)
            if not 0 <= first <= last < i:
                raise ValueError(f"parents: expected numbers below {i} for feature {i}, got {span}")
            adjacency[i, first : last + 1] = True
    return adjacency


def _spans(row: np.ndarray) -> str:
    """Write where a row is true: ``"0-3 7"``, which is short where parents follow each other."""
    changes = np.flatnonzero(np.diff(row, prepend=False, append=False))
    pairs = zip(changes[::2].tolist(), (changes[1::2] - 1).tolist(), strict=True)
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def _ends(span: Any) -> tuple[int, int]:
    """Return the first and last number of ``"0-3"``, of ``"7"``, or of 7."""
    if not isinstance(span, str):
        return (integer("parents", span, least=0),) * 2
    ends = span.split("-")
    if len(ends) > 2 or not all(end.isascii() and end.isdigit() and len(end) < 9 for end in ends):
        raise ValueError(f"parents: expected numbers such as '0-3 7', got {span!r}")
    return int(ends[0]), int(ends[-1])


def _labels(adjacency: np.ndarray, context: int) -> np.ndarray:
    """Return the sets that label units, (S, D) bool, in the order in which they become known.

    The empty set carries the context alone, and is useless where there is none; unless there is no
    other.
    """
    sets = _distinct(adjacency)
    if context:
        sets = _distinct(np.concatenate([np.zeros_like(sets[:1]), sets]))
    elif sets.any():
        sets = sets[sets.any(axis=1)]
    return sets[np.lexsort((sets.sum(axis=1), _degrees(sets)))]


def _distinct(sets: np.ndarray) -> np.ndarray:
    """Return every set (S, D) once, sorted; they are compared as strings of bits."""
    bits = np.packbits(sets, axis=1)
    strings = bits.view(np.dtype((np.void, bits.shape[1])))[:, 0]
    return sets[np.unique(strings, return_index=True)[1]]


def _degrees(sets: np.ndarray) -> np.ndarray:
    """Return how many features must be known before each set (S, D) is: 1 + its last one, or 0."""
    D = sets.shape[1]
    return np.where(sets.any(axis=1), D - np.argmax(sets[:, ::-1], axis=1), 0)


def _within(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return which sets of columns (I, D) lie within which sets of rows (J, D), as (J, I) bool."""
    members = columns.astype(np.float32).T
    found = np.empty((len(rows), len(columns)), dtype=bool)
    for k in range(0, len(rows), ROWS):
        outside = (~rows[k : k + ROWS]).astype(np.float32) @ members
        np.equal(outside, 0, out=found[k : k + ROWS])
    return found
