r"""What is measured: sizes, operations, and how long.

.. math:: P = T \, \big[ (D + 1) H + (H + 1) H + (H + 1)\, n D \big]

P numbers in a flow of T transforms, each a MADE with two hidden layers of H and n numbers a
feature: every library must have exactly as many. An affine transform (arXiv 1705.07057) has n = 2,
a rational-quadratic spline of K bins between linear tails (arXiv 1906.04032) n = 3 K - 1; a library
with free slopes at the ends as well has n = 3 K + 1. The widths are those in use for the data sets
that the configurations are named after.

Letters: D features, H hidden units, T transforms, K bins, n params a feature, P parameters.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "CONFIGURATIONS",
    "FULL",
    "MACHINE",
    "QUICK",
    "SMALL",
    "TRAINED",
    "Configuration",
    "Effort",
    "Operation",
]

SMALL = (1, 10, 100)
"""Rows of small calls."""

TRAINED = (32, 100, 1000)
"""Rows of a training step."""


class Operation(NamedTuple):
    """What one call does: a kind that the worker knows, and the number of rows."""

    kind: str
    rows: int
    cheaper: str = ""
    """Name of an operation that must have been quick for this one to be asked for."""

    @property
    def name(self) -> str:
        """Name in tables and in the JSON file.

        Examples
        --------
        >>> Operation("sample", 1000).name
        'sample 1000'
        """
        return f"{self.kind} {self.rows}"


class Configuration(NamedTuple):
    """The size of a flow, and how many samples to ask for."""

    name: str
    features: int
    hidden: int
    samples: tuple[int, ...] = (1000,)
    transforms: int = 5
    bins: int = 0
    """K of splines, 0 for affine transforms."""

    @property
    def numbers(self) -> int:
        """n, as afnp has it."""
        return 3 * self.bins - 1 if self.bins else 2

    @property
    def parameters(self) -> int:
        """P, as afnp has it.

        Examples
        --------
        >>> Configuration("power", 6, 100).parameters
        60060
        """
        return self.parameters_of(self.numbers)

    def parameters_of(self, numbers: int) -> int:
        """Return P for so many params a feature, see the module's formula."""
        D = self.features
        H = self.hidden
        return self.transforms * ((D + 1) * H + (H + 1) * H + (H + 1) * numbers * D)

    @property
    def operations(self) -> list[Operation]:
        """What is timed, in this order: large batches, training, then small calls."""
        few, *more = self.samples
        first = [
            Operation("log_prob", 1000),
            *([Operation("log_prob", few)] if more else []),
            Operation("sample", few),
            *(Operation("sample", n, cheaper=f"sample {few}") for n in more),
            *(Operation("train", n) for n in TRAINED),
        ]
        small = [Operation("log_prob", n) for n in SMALL]
        small += [Operation("sample", n, cheaper="sample 1" if n > 1 else "") for n in SMALL]
        known = {operation.name for operation in first}
        small = [operation for operation in small if operation.name not in known]
        return [*first, *small, Operation("alternating", few)]

    def request(self) -> dict:
        """Return what a worker needs to know."""
        return {
            "features": self.features,
            "hidden": self.hidden,
            "transforms": self.transforms,
            "bins": self.bins,
        }


class Effort(NamedTuple):
    """How often to ask."""

    rounds: int
    """At most so many turns for each library and operation."""
    seconds: float
    """No further turn for a library that has spent so long on an operation (and made three calls of
    less)."""
    turn: float
    """Calls that are shorter are repeated within a turn, for so long."""
    pause: float
    """Seconds of silence between turns: threads of the one before may still spin."""
    cold: bool
    """Whether to measure the compilation of a fresh installation too."""


FULL = Effort(rounds=30, seconds=2.0, turn=0.02, pause=0.04, cold=True)
QUICK = Effort(rounds=4, seconds=0.3, turn=0.01, pause=0.02, cold=False)

CONFIGURATIONS = {
    c.name: c
    for c in (
        Configuration("toy", 2, 64),
        Configuration("power", 6, 100),
        Configuration("miniboone", 43, 512),
        Configuration("bsds", 63, 512),
        Configuration("mnist", 784, 1024, samples=(100, 1000)),
        Configuration("galaxies-spline", 7, 128, transforms=3, bins=8),
        Configuration("miniboone-spline", 43, 512, transforms=3, bins=8),
    )
}

MACHINE = [Operation("matmul", 2048), Operation("copy", 2**25), Operation("read", 2**25)]
"""Float32 product of two square matrices of so many rows; copy of so many float32 numbers by all
cores; their sum by one core."""
