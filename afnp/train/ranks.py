r"""Ranks: processes that fit one flow together, each with rows of its own, to the same bits.

.. math:: g = \frac1B \sum_{s=1}^S g_s
          = \frac1B \big( ((g_1 + g_2) + (g_3 + g_4)) + \dots \big), \qquad
          g_s = \sum_{n \,\in\, \text{batch} \,\cap\, \text{shard } s} \nabla_\theta
          \big( -w_n \log p_\theta(x_n \mid c_n) \big)

The rows of all ranks, numbered in the ranks' order, are cut into S shards. S is a power of two that
the number of ranks divides, so that each rank holds whole shards. Sums over shards go along one
binary tree. K ranks sum the subtrees that are theirs, and then the upper log K levels: rank q gets
the q-th part of everybody's sum, adds these up along the tree, and gives the result to all. One
rank, or four, round in the same places; where NumPy multiplies matrices, that needs as many threads
of its BLAS on each (``OPENBLAS_NUM_THREADS=1``), for these too decide where it rounds.

No rank waits for one that has failed. Ranks meet in :meth:`Ranks.gather` alone, and a rank that
fails joins the next meeting with its error, whichever that is; the others raise it too.

A communicator is mpi4py's, or anything that acts like it: ``Get_rank``, ``Get_size``,
``allgather``, ``alltoall``, ``Allgather``, ``Alltoall``, ``Abort``. afnp imports mpi4py in
:func:`world` alone, which asks whether this process was started by mpirun.

Letters: K ranks, S shards, N rows of all ranks, B rows a batch, D features, P parameters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from afnp.inputs import integer
from afnp.transforms.preprocess import mean_and_std

__all__ = ["SHARDS", "Ranks", "added", "launched", "world"]

SHARDS = 8
"""How many, where there is a communicator and nothing else was asked for."""

CALLS = ("Get_rank", "Get_size", "allgather", "alltoall", "Allgather", "Alltoall", "Abort")
"""What a communicator must be able to do."""

FAILURES = (ValueError, FloatingPointError, KeyboardInterrupt, MemoryError, OSError)
"""Errors that reach other ranks as what they are; all others as a RuntimeError."""

LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
)
"""Where Open MPI's mpirun, that of MPICH and its kin, and srun tell a process who it is."""


def added(parts: np.ndarray) -> np.ndarray:
    """Return the sum of M parts (M, ...), a power of two, along a binary tree, in their memory.

    Examples
    --------
    >>> float(added(np.array([1.0, 2.0, 3.0, 4.0])))
    10.0
    """
    step = 1
    with np.errstate(over="ignore", invalid="ignore"):
        while step < len(parts):
            parts[:: 2 * step] += parts[step :: 2 * step]
            step *= 2
    return parts[0]


class One:
    """The communicator of a process by itself."""

    def Get_rank(self) -> int:  # noqa: N802 - the names are MPI's
        """Return which rank this is."""
        return 0

    def Get_size(self) -> int:  # noqa: N802
        """Return how many ranks there are."""
        return 1

    def allgather(self, value) -> list:
        """Return what each rank gives."""
        return [value]


class Ranks:
    """All ranks of one fit, as one of them sees them; inside ``with``, they fail together.

    Parameters
    ----------
    comm : communicator or None
        See the module; None is this process by itself.
    shards : int, optional
        S; 8 if left out, and 1 without a communicator.

    Raises
    ------
    ValueError
        If that is no communicator, S no power of two, or the number of ranks does not divide it.

    Examples
    --------
    >>> with Ranks(None, shards=4) as ranks:
    ...     blocks = ranks.blocks(10)
    ...     float(ranks.total([sum(range(10)[block]) for block in blocks]))
    45.0
    """

    def __init__(self, comm, shards: int | None = None):
        if comm is None:
            shards = 1 if shards is None else shards
            comm = One()
        else:
            _check(comm)
        self.comm = comm
        self.rank, self.size = _place(comm)
        self.first = self.rank == 0
        self.over = self.inside = False
        try:
            self.shards = _power_of_two(SHARDS if shards is None else shards, self.size)
        except ValueError as error:
            self.__exit__(ValueError, error, None)
            raise
        self.mine = self.shards // self.size

    # ---- meetings --------------------------------------------------------------------------------

    def __enter__(self) -> Ranks:
        """Return the ranks themselves."""
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Wait until all ranks are done; if this one has failed, tell those that wait for it."""
        if self.over:
            return
        if error is None:
            self.gather(None)
            self.over = True
        elif self.inside:  # of a sum, in which the others would wait for ever
            self.comm.Abort(1)
        else:
            self.over = True
            self.comm.allgather((_described(error), None))

    def gather(self, value) -> list:
        """Return what each rank gives, in their order.

        Raises
        ------
        ValueError, FloatingPointError, KeyboardInterrupt, MemoryError, OSError, RuntimeError
            What another rank has failed with.
        """
        self.inside = self.size > 1
        said = self.comm.allgather((None, value))
        self.inside = False
        for rank, (failure, _) in enumerate(said):
            if failure is not None:
                self.over = True
                number, text = failure
                kind = (*FAILURES, RuntimeError)[number]
                raise kind(f"rank {rank}: {text}")
        return [given for _, given in said]

    def any(self, flag: bool) -> bool:
        """Return whether any rank says so."""
        return any(self.gather(flag))

    def from_first(self, value):
        """Return what the first rank gives."""
        return self.gather(value if self.first else None)[0]

    def agree(self, facts: dict) -> None:
        """Raise a ValueError on all ranks that names the first fact that is not the same."""
        said = self.gather(facts)
        for rank, theirs in enumerate(said):
            for name, value in said[0].items():
                if theirs[name] != value:
                    raise ValueError(
                        f"{name}: expected the same on all ranks, got {_short(value)} on rank 0 "
                        f"and {_short(theirs[name])} on rank {rank}"
                    )

    # ---- rows ------------------------------------------------------------------------------------

    def deal(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the rows of this rank's shards, of arrays of as many rows as each rank has.

        Nothing moves where rank r of K already holds its rows, N r // K to N (r + 1) // K.
        """
        counts = self.gather(len(arrays[0]))
        wanted = [sum(counts) * k // self.size for k in range(self.size + 1)]
        if counts == np.diff(wanted).tolist():
            return list(arrays)
        start = sum(counts[: self.rank])
        cuts = np.clip(np.array(wanted) - start, 0, len(arrays[0]))
        pieces = [[a[low:high] for a in arrays] for low, high in zip(cuts, cuts[1:], strict=False)]
        self.inside = True
        received = self.comm.alltoall(pieces)
        self.inside = False
        return [np.concatenate(parts) for parts in zip(*received, strict=True)]

    def share(self, N: int) -> slice:
        """Return which of N rows are this rank's."""
        return slice(N * self.rank // self.size, N * (self.rank + 1) // self.size)

    def start_and_count(self, held: int) -> tuple[int, int]:
        """Return the number of this rank's first row, and N, where this rank holds so many rows."""
        counts = self.gather(held)
        return sum(counts[: self.rank]), sum(counts)

    def blocks(self, held: int) -> list[slice]:
        """Return where the shards of this rank lie among the rows that it holds."""
        start, N = self.start_and_count(held)
        shards = range(self.rank * self.mine, (self.rank + 1) * self.mine)
        edges = [(N * s // self.shards - start, N * (s + 1) // self.shards - start) for s in shards]
        return [slice(low, high) for low, high in edges]

    # ---- sums ------------------------------------------------------------------------------------

    def total(self, values: Sequence) -> np.ndarray:
        """Return the sum over all shards of one value for each of this rank's shards, float64."""
        every = [value for part in self.gather(list(values)) for value in part]
        return added(np.array(every, dtype=np.float64))

    def average(self, x: np.ndarray, axis: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Return means over all ranks' rows, as ``numpy.average`` does over one's."""
        w = np.ones(len(x)) if weights is None else weights
        blocks = self.blocks(len(x))
        weighed = self.total([(x[b] * w[b, None]).sum(axis=axis) for b in blocks])
        return weighed / self.total([w[b].sum() for b in blocks])

    def largest(self, x: np.ndarray, axis: int) -> np.ndarray:
        """Return the largest values over all ranks' rows, none of them below 0."""
        return np.max(self.gather(x.max(axis=axis, initial=0)), axis=0)

    def moments(self, x: np.ndarray, weights: np.ndarray | None = None) -> tuple:
        """Return mean and standard deviation (D,) of all ranks' rows, as ``mean_and_std`` does."""
        return mean_and_std(x, weights, self.average, self.largest)

    def room(self, size: int, dtype) -> np.ndarray:
        """Return memory for one vector (P,) for each of this rank's shards, and some zeros."""
        slices = -(-size // self.size)
        self.others = np.empty((self.size, slices), dtype)
        return np.zeros((self.mine, self.size * slices), dtype)

    def add_up(self, parts: np.ndarray) -> np.ndarray:
        """Return the sum over all shards of what lies in this rank's ``room``, in that memory."""
        total = added(parts)
        if self.size > 1:
            self.inside = True
            self.comm.Alltoall(total, self.others)
            self.comm.Allgather(added(self.others), total)
            self.inside = False
        return total


# ---- who is there --------------------------------------------------------------------------------


def launched() -> tuple[int, int] | None:
    """Return rank and number of ranks as mpirun says, or None where it has not started this."""
    for rank, size in LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return None


def world():
    """Return mpi4py's communicator of all ranks; None where mpirun has not started this process.

    Raises
    ------
    ImportError
        If mpi4py is missing.
    ValueError
        If mpi4py was made for another MPI than the one whose mpirun has started this.
    """
    place = launched()
    if place is None:
        return None
    try:
        from mpi4py import MPI
    except ImportError as error:
        said = f"mpirun needs the extra 'mpi': pip install 'afnp[mpi]' ({error})"
        raise ImportError(said) from error
    size = MPI.COMM_WORLD.Get_size()
    if size != place[1]:
        raise ValueError(
            f"mpirun has started {place[1]} ranks, and mpi4py knows of {size}: they are of "
            f"different MPIs; mpi4py's is {' '.join(MPI.Get_library_version().split()[:3])}"
        )
    return MPI.COMM_WORLD


def _check(comm) -> None:
    """Raise a ValueError unless this can do what a communicator can."""
    missing = [name for name in CALLS if name not in dir(comm)]
    if missing:
        raise ValueError(
            f"comm: expected a communicator, as mpi4py's MPI.COMM_WORLD, got "
            f"{type(comm).__name__} without {', '.join(missing)}"
        )


def _power_of_two(shards: int, size: int) -> int:
    """Return the number of shards, or raise a ValueError."""
    shards = integer("shards", shards, least=1)
    if shards & (shards - 1) or shards % size:
        ranks = "" if size == 1 else f" that the number of ranks, {size}, divides"
        raise ValueError(f"shards: expected a power of two{ranks}, got {shards}")
    return shards


def _place(comm) -> tuple[int, int]:
    """Return rank and number of ranks; raise a ValueError for a communicator of nobody."""
    try:
        return int(comm.Get_rank()), int(comm.Get_size())
    except Exception as error:  # mpi4py's own kind, of MPI.COMM_NULL say
        raise ValueError(f"comm: expected a communicator with ranks in it: {error}") from error


def _described(error: BaseException) -> tuple[int, str]:
    """Return which of the failures this is, and what it says."""
    for number, kind in enumerate(FAILURES):
        if isinstance(error, kind):
            return number, str(error) or kind.__name__
    return len(FAILURES), f"{type(error).__name__}: {error}"


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
