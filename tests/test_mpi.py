"""Ranks: processes that fit one flow together come to the same bits, and end together.

Most tests run ranks as threads, which meet at a barrier; those at the end are started by mpirun.
"""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import afnp
from afnp import files, fit
from afnp.train import ranks as ranks_module
from afnp.train.interruption import Interruption
from afnp.train.loop import RowsNotFinite
from afnp.train.ranks import Ranks, added

# ---- ranks as threads ----------------------------------------------------------------------------


class Threads:
    """A communicator's one rank of K, each a thread; what is sent is pickled, as MPI does."""

    def __init__(self, rank, slots, barrier):
        self.rank, self.slots, self.barrier = rank, slots, barrier

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return len(self.slots)

    def swapped(self, value, take):
        self.slots[self.rank] = pickle.dumps(value)
        self.barrier.wait(60)
        found = [take(pickle.loads(sent)) for sent in self.slots]
        self.barrier.wait(60)
        return found

    def allgather(self, value):
        return self.swapped(value, lambda given: given)

    def alltoall(self, values):
        return self.swapped(values, lambda given: given[self.rank])

    def Allgather(self, sent, received):
        received[:] = np.reshape(self.swapped(sent, lambda given: given), received.shape)

    def Alltoall(self, sent, received):
        parts = sent.reshape(len(self.slots), -1)
        received[:] = self.swapped(parts, lambda given: given[self.rank])

    def Abort(self, code):
        self.barrier.abort()


def together(K, work):
    """Return what ``work(comm)`` returns, or raises, on each of K ranks; none is left waiting."""
    slots, barrier, results = [b""] * K, threading.Barrier(K), [None] * K

    def run(rank):
        try:
            results[rank] = work(Threads(rank, slots, barrier))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(K)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a rank waits for ever"
    assert not any(isinstance(result, threading.BrokenBarrierError) for result in results), results
    return results


def raised(K, work, kind, message):
    """Check that all ranks raise this; return their messages."""
    results = together(K, work)
    for result in results:
        assert isinstance(result, kind), result
        assert re.search(message, str(result)), result
    return [str(result) for result in results]


# ---- what is fitted ------------------------------------------------------------------------------


def banana(n=120, seed=0):
    """Rows (n, 2): x_1 = x_0² / 2 + noise."""
    z = np.random.default_rng(seed).standard_normal((n, 2))
    return np.stack([z[:, 0], z[:, 0] ** 2 / 2 + 0.3 * z[:, 1]], axis=1)


def small(**options):
    return afnp.maf(2, hidden=(8,), transforms=2, **options)


def act_normed():
    layers = [*small().layers, afnp.transforms.ActNorm(2), *small().layers]
    return afnp.Flow(layers)


MODELS = {
    "maf": small,
    "float32": lambda: small(dtype=np.float32),
    "context": lambda: small(context=1),
    "scaled in the flow": lambda: small(context=1, preprocess="standard"),
    "bounds, then scales": lambda: small(
        preprocess=[*afnp.preprocessing(banana(), bounds={0: (-9, None)})]
    ),
    "statistics of the rows": act_normed,
    "statistics in float32": lambda: small(between="actnorm", dtype=np.float32),
    "splines": lambda: afnp.nsf(2, hidden=(8,), transforms=2),
    "attention": lambda: afnp.tarflow(2, width=4, heads=1, blocks=1, transforms=2),
    "discrete": lambda: afnp.DiscreteMADE(2, levels=3, hidden=(8,)),
}

OPTIONS = dict(epochs=3, batch_size=50, learning_rate=0.02, progress=False)


class Problem:
    """Rows of all ranks, and what goes with them."""

    def __init__(self, name, weighed=False):
        rng = np.random.default_rng(3)
        self.make = MODELS[name]
        self.x, self.x_val = banana(), banana(45, seed=1)
        if name == "discrete":
            self.x, self.x_val = rng.integers(3, size=(120, 2)), rng.integers(3, size=(45, 2))
        self.c = self.c_val = self.w = self.w_val = None
        if self.make().context:
            self.c, self.c_val = 5 + 2 * self.x[:, :1] ** 2, 5 + 2 * self.x_val[:, :1] ** 2
        if weighed:
            self.w = rng.uniform(0.1, 3, 120) * (rng.random(120) < 0.7)
            self.w_val = rng.uniform(0.1, 3, 45) * (rng.random(45) < 0.7)

    def fit(self, comm=None, rows=slice(None), rows_val=slice(None), **options):
        """Fit some of the rows; return parameters, history and what the flow is."""

        def some(values, which):
            return None if values is None else values[which]

        flow = self.make()
        history = fit(
            flow,
            self.x[rows],
            self.x_val[rows_val],
            context=some(self.c, rows),
            context_val=some(self.c_val, rows_val),
            weights=some(self.w, rows),
            weights_val=some(self.w_val, rows_val),
            comm=comm,
            **{**OPTIONS, **options},
        )
        return flow.theta, history, flow.config()

    def by(self, K, cuts=None, cuts_val=None, **options):
        """Let K ranks fit it, each with its rows; return what one of them returns."""

        def work(comm):
            rank = Ranks(comm)
            rows, rows_val = rank.share(len(self.x)), rank.share(len(self.x_val))
            if cuts is not None:
                rows = slice(*cuts[rank.rank : rank.rank + 2])
                rows_val = slice(*cuts_val[rank.rank : rank.rank + 2])
            return self.fit(comm, rows, rows_val, **options)

        results = together(K, work)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            assert same(result, results[0])
        return results[0]


def losses(history):
    return history.train_loss, history.val_loss, history.learning_rate, history.best_epoch


def same(one, other):
    """Whether parameters, losses and flows are equal to the last bit."""
    return (
        np.array_equal(one[0], other[0])
        and losses(one[1]) == losses(other[1])
        and one[1].stopped == other[1].stopped
        and one[2] == other[2]
    )


# ---- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("M", [1, 2, 4, 8])
def test_added_is_the_tree(M):
    """((a + b) + (c + d)) + ..., to the last bit; and in place."""
    parts = np.random.default_rng(0).standard_normal((M, 5))
    level = list(parts.copy())
    while len(level) > 1:
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
    result = added(parts)
    assert np.array_equal(result, level[0]) and np.shares_memory(result, parts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("P", [1, 3, 8, 1000])
@pytest.mark.parametrize("K", [1, 2, 4, 8])
def test_vectors_are_added_alike_by_any_number_of_ranks(K, P, dtype):
    vectors = np.random.default_rng(0).standard_normal((8, P)).astype(dtype)

    def work(comm):
        with Ranks(comm) as ranks:
            parts = ranks.room(P, dtype)
            parts[:, :P] = vectors[ranks.rank * ranks.mine : (ranks.rank + 1) * ranks.mine]
            return ranks.add_up(parts)[:P].copy()

    for result in together(K, work):
        assert np.array_equal(result, added(vectors.copy()))


@pytest.mark.parametrize("counts", [[30, 30, 30, 30], [0, 120, 0, 0], [100, 1, 2, 17]])
def test_rows_are_dealt_in_their_order(counts):
    x = np.arange(120)
    cuts = np.cumsum([0, *counts])

    def work(comm):
        with Ranks(comm) as ranks:
            low, high = cuts[ranks.rank : ranks.rank + 2]
            return ranks.deal([x[low:high], 2 * x[low:high]])

    for rank, (one, two) in enumerate(together(4, work)):
        assert np.array_equal(one, x[30 * rank : 30 * rank + 30]) and np.array_equal(two, 2 * one)


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*repeat another one exactly")
@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize("name", MODELS)
def test_one_two_four_and_eight_ranks_come_to_the_same_bits(name, weighed):
    problem = Problem(name, weighed)
    alone = problem.fit(shards=8)
    for K in (1, 2, 4, 8):
        assert same(problem.by(K), alone), K


@pytest.mark.parametrize("batch_size", [3, 7, 1000])
def test_batches_of_any_size(batch_size):
    """Also of fewer rows than there are shards."""
    problem = Problem("maf")
    alone = problem.fit(shards=8, batch_size=batch_size)
    assert same(problem.by(4, batch_size=batch_size), alone)


@pytest.mark.parametrize("cuts", [[0, 0, 120, 120, 120], [0, 100, 101, 103, 120]])
def test_rows_may_lie_anywhere(cuts):
    """On one rank, say: they are dealt before training."""
    problem = Problem("scaled in the flow", weighed=True)
    assert same(problem.by(4, cuts, [0, 0, 5, 45, 45]), problem.fit(shards=8))


def test_in_compiled_code(monkeypatch):
    """Larger shards too, with several blocks of rows."""
    pytest.importorskip("numba")
    monkeypatch.setattr("afnp.model.COMPILED_FROM", 0)
    problem = Problem("maf")
    problem.x = banana(2400)
    problem.x_val = banana(900, seed=1)
    alone = problem.fit(shards=4, batch_size=1200)
    for K in (1, 2, 4):
        assert same(problem.by(K, shards=4, batch_size=1200), alone)


@pytest.mark.filterwarnings("ignore:.*repeat another one exactly")
@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize("name", [name for name in MODELS if "float32" not in name])
def test_it_is_the_fit_of_one_process_to_rounding(name, weighed):
    """The batches are the same rows; only sums have another order."""
    problem = Problem(name, weighed)
    theta, history, _ = problem.by(4)
    expected, alone, _ = problem.fit()
    np.testing.assert_allclose(theta, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(history.train_loss, alone.train_loss, rtol=1e-9)
    np.testing.assert_allclose(history.val_loss, alone.val_loss, rtol=1e-9)


def test_one_shard_is_the_fit_of_one_process():
    problem = Problem("context", weighed=True)
    assert same(problem.by(1, shards=1), problem.fit())


def test_shards_change_no_more_than_last_bits():
    problem = Problem("maf")
    thetas = [problem.fit(shards=shards)[0] for shards in (1, 2, 16)]
    assert not np.array_equal(thetas[0], thetas[2])
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(thetas[2], thetas[0], rtol=1e-6, atol=1e-8)


def test_clipped_and_frozen_alike():
    problem = Problem("maf")
    options = dict(clip=0.05, freeze=[1])
    assert same(problem.by(4, **options), problem.fit(shards=8, **options))


# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Let a rank be asked to end when it has looked for the k-th time."""

    def arrange(rank, k):
        looks = threading.local()

        class Asking(Interruption):
            @property
            def asked(self):
                looks.count = getattr(looks, "count", 0) + 1
                return looks.rank == rank and looks.count >= k

        monkeypatch.setattr(sys.modules["afnp.train.fit"], "Interruption", Asking)
        return looks

    return arrange


@pytest.mark.parametrize("before, after", [(4, 2), (1, 4), (2, 8), (4, 4)])
@pytest.mark.parametrize("k", [2, 4, 6])
def test_a_checkpoint_is_resumed_by_another_number_of_ranks(
    tmp_path, asked, monkeypatch, before, after, k
):
    """From the middle of an epoch, to the bits of the run that was never interrupted."""
    problem, path = Problem("context", weighed=True), tmp_path / "c"
    looks = asked(before - 1, k)

    def work(comm):
        looks.rank = comm.Get_rank()
        ranks = Ranks(comm)
        try:
            return problem.fit(comm, ranks.share(120), ranks.share(45), checkpoint=path)[1].stopped
        except KeyboardInterrupt as error:
            return str(error)[:11]

    assert set(together(before, work)) <= {"interrupted"}
    monkeypatch.undo()
    resumed = problem.by(after, checkpoint=path, resume=True)
    assert same(resumed, problem.fit(shards=8))


def test_a_checkpoint_of_ranks_is_one_of_a_process_with_shards(tmp_path):
    problem, path = Problem("maf"), tmp_path / "c"
    problem.by(2, checkpoint=path)
    longer = problem.fit(shards=8, checkpoint=path, resume=True, epochs=5)
    problem.by(4, checkpoint=tmp_path / "d")
    assert same(problem.by(8, checkpoint=tmp_path / "d", resume=True, epochs=5), longer)
    for shards in (None, 16):
        with pytest.raises(ValueError, match="shards differs"):
            problem.fit(shards=shards, checkpoint=path, resume=True, epochs=5)


def test_only_the_first_rank_writes_and_speaks(tmp_path, capsys):
    """Others may have no such folder at all."""
    problem = Problem("maf")

    def work(comm):
        ranks = Ranks(comm)
        path = tmp_path / "c" if ranks.first else tmp_path / "nowhere" / "c"
        rows = ranks.share(120), ranks.share(45)
        return problem.fit(comm, *rows, checkpoint=path, progress=True)

    results = together(4, work)
    assert all(same(result, results[0]) for result in results)
    assert capsys.readouterr().err.count("epoch 3/3") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


# ---- ending together -----------------------------------------------------------------------------


def fit_of(change, K=4, **options):
    """Return work for ranks: a fit in which the rank 2 of K does something else."""
    problem = Problem("maf")

    def work(comm):
        ranks = Ranks(comm)
        arguments = {"flow": small(), "x": problem.x[ranks.share(120)], **OPTIONS, **options}
        if ranks.rank == 2 % K:
            arguments.update(change)
        flow, x = arguments.pop("flow"), arguments.pop("x")
        return fit(flow, x, comm=comm, **arguments)

    return work


DIFFERENT = {
    "another flow": ({"flow": afnp.maf(2, hidden=(9,), transforms=2)}, "flow: expected the same"),
    "other parameters": ({"flow": small(seed=1)}, "flow.theta: expected the same on all ranks"),
    "other options": (
        {"batch_size": 49},
        "batch_size: expected the same on all ranks, got 50 on rank 0 and 49 on rank 2",
    ),
    "other shards": ({"shards": 4}, "shards: expected the same .* 8 on rank 0 and 4 on rank 2"),
    "wrong shards": ({"shards": 6}, "shards: expected a power of two"),
    "too few shards": ({"shards": 2}, "number of ranks, 4, divides, got 2"),
    "no option": ({"epochs": 0}, "epochs: expected an integer of at least 1"),
    "wide rows": ({"x": banana()[:, [0, 1, 1]]}, "x_train: expected 2 columns, got 3"),
    "one row": ({"x": banana()[0]}, "x_train: expected a two-dimensional array"),
    "nan": ({"x": np.full((30, 2), np.nan)}, "x_train: row 0, feature 0 is nan"),
    "a context": ({"context": banana()}, "context: expected no columns"),
    "weights": ({"weights": np.ones(30)}, "weights: expected the same .* 'None' .* 'some'"),
    "validation rows": ({"x_val": banana()}, "x_val: expected the same on all ranks"),
    "patience": ({"patience": 3}, "patience: needs validation rows"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_ranks_that_differ_are_refused_by_all(name):
    change, message = DIFFERENT[name]
    raised(4, fit_of(change), ValueError, message)


def test_tables_have_one_order_of_columns():
    """Names are read on every rank; a rank that would take columns for others is refused."""
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(banana(), columns=["mass", "age"])

    def work(comm, columns=("mass", "age")):
        rank = Ranks(comm)
        mine = columns if rank.rank == 1 else ("mass", "age")
        flow = small()
        fit(flow, table[list(mine)][rank.share(120)], comm=comm, **OPTIONS)
        return flow.columns, flow.theta

    alone = small()
    fit(alone, banana(), shards=8, **OPTIONS)
    for columns, theta in together(2, work):
        assert columns == ("mass", "age") and np.array_equal(theta, alone.theta)
    raised(2, lambda comm: work(comm, ("age", "mass")), ValueError, "flow: expected the same on")


def test_the_message_says_whose_error_it_was():
    said = raised(4, fit_of({"epochs": -1}), ValueError, "epochs: expected")
    assert [text.startswith("rank 2: ") for text in said] == [True, True, False, True]


def test_a_row_outside_the_bounds_has_its_number_among_all():
    make = MODELS["bounds, then scales"]
    x = banana()
    x[65, 0] = -10.0

    def work(comm):
        fit(make(), x[Ranks(comm).share(120)], comm=comm, **OPTIONS)

    raised(4, work, ValueError, "x_train: row 65, feature 0: expected a value inside")


@pytest.mark.parametrize("weights, message", [(-1, "row 3"), (math.nan, "row 3"), (0, "zeros")])
def test_bad_weights_on_one_rank(weights, message):
    w = np.zeros(30) if weights == 0 else np.where(np.arange(30) == 3, weights, 1.0)
    every = dict(weights=np.zeros(30) if weights == 0 else np.ones(30))
    raised(4, fit_of({"weights": w}, **every), ValueError, message)


def test_fewer_rows_than_shards():
    message = "expected at least (one row|8 rows, one a shard)"
    raised(4, lambda comm: fit(small(), banana(1), comm=comm, **OPTIONS), ValueError, message)
    with pytest.raises(ValueError, match="expected at least 8 rows, one a shard, got 7"):
        fit(small(), banana(7), shards=8, **OPTIONS)


@pytest.mark.parametrize("comm", [0, "world", object(), np.zeros(3)])
def test_no_communicator(comm):
    with pytest.raises(ValueError, match="comm: expected a communicator.* without Get_rank"):
        fit(small(), banana(), comm=comm, **OPTIONS)


def test_a_communicator_of_nobody():
    class Null(Threads):
        def Get_rank(self):
            raise RuntimeError("MPI_ERR_COMM: invalid communicator")

    with pytest.raises(ValueError, match="comm: expected a communicator with ranks in it: MPI_ERR"):
        fit(small(), banana(), comm=Null(0, [b""], None), **OPTIONS)


@pytest.mark.parametrize("shards", [0, 3, 2.0, True, "8"])
def test_shards_that_are_none(shards):
    with pytest.raises(ValueError, match="shards: expected"):
        fit(small(), banana(), shards=shards, **OPTIONS)


def test_three_ranks_do_not_divide_a_power_of_two():
    raised(3, fit_of({}, K=3), ValueError, "number of ranks, 3, divides, got 8")


def test_statistics_of_a_batch_are_refused_by_name():
    def make():
        return afnp.Flow([*small().layers, afnp.transforms.BatchNorm(2)])

    message = "shards: BatchNorm takes statistics of a whole batch"
    raised(2, lambda comm: fit(make(), banana(), comm=comm, **OPTIONS), ValueError, message)
    fit(make(), banana(), **OPTIONS)


def test_a_bad_row_is_named_by_all():
    """By its number among the rows of all ranks."""
    x = banana()
    x[71] = 1e25

    def work(comm):
        rows = Ranks(comm).share(120)
        return fit(small(dtype=np.float32), x[rows], comm=comm, **OPTIONS)

    raised(4, work, FloatingPointError, r"not finite at epoch 0, step \d: training rows \[71\]")


def test_a_bad_validation_row_is_named_by_all():
    x = np.random.default_rng(0).uniform(0, 4, (80, 2))
    v = x[:40].copy()
    v[33, 0] = 1e25

    def work(comm):
        ranks, flow = Ranks(comm), small(dtype=np.float32)
        return fit(flow, x[ranks.share(80)], v[ranks.share(40)], comm=comm, **OPTIONS)

    raised(4, work, RowsNotFinite, "^row 33 of x_val has density zero after epoch 0")


def test_a_row_outside_is_named_by_all():
    x = np.random.default_rng(0).uniform(0, 4, (80, 2))
    v = x[:40].copy()
    v[33, 0] = 9

    def work(comm):
        ranks = Ranks(comm)
        flow = small(preprocess=afnp.preprocessing(x, levels=4))
        return fit(flow, x[ranks.share(80)], v[ranks.share(40)], comm=comm, **OPTIONS)

    raised(4, work, ValueError, "x_val: row 33, feature 0: expected a value inside")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ZeroDivisionError])
def test_what_a_callback_raises_ends_all_ranks(error, tmp_path):
    """After the checkpoint has been written, from which all can go on."""

    def spoil(record):
        if record.epoch == 1:
            raise error("not today")

    path = tmp_path / "c"
    results = together(4, fit_of({"callbacks": [spoil]}, checkpoint=path))
    kinds = [type(result) for result in results]
    others = RuntimeError if error is ZeroDivisionError else error
    assert kinds == [others, others, error, others]
    assert all("rank 2" in str(result) for k, result in enumerate(results) if k != 2)
    assert np.isfinite(together(4, fit_of({}, checkpoint=path, resume=True))[0].train_loss).all()


def test_a_callback_on_one_rank_stops_all():
    results = together(4, fit_of({"callbacks": [lambda record: record.epoch == 1]}))
    assert [(r.stopped, len(r.train_loss)) for r in results] == [("callback", 2)] * 4


def test_a_checkpoint_that_cannot_be_written_ends_all_ranks(tmp_path):
    (tmp_path / "c").mkdir()
    raised(4, fit_of({}, checkpoint=tmp_path / "c"), OSError, "directory")
    raised(4, fit_of({}, checkpoint=tmp_path / "no" / "c"), ValueError, "a folder that exists")
    (tmp_path / "d").write_bytes(b"")
    raised(4, fit_of({}, checkpoint=tmp_path / "d"), ValueError, "exists; pass resume=True")
    raised(4, fit_of({}, checkpoint=tmp_path / "d", resume=True), ValueError, "d: ")


def test_parameters_that_part_are_noticed():
    """As on processors that round otherwise."""

    def shift(flow):
        def change(record):
            flow.theta[0] += 1e-12

        return change

    flow = small()
    change = {"flow": flow, "callbacks": [shift(flow)]}
    raised(4, fit_of(change), ValueError, "flow.theta: expected the same on all ranks")


def test_a_rank_that_fails_inside_a_sum_aborts():
    """There is no meeting that it could join with its error."""

    class Failing(Threads):
        def Alltoall(self, sent, received):
            if self.rank == 1:
                raise KeyboardInterrupt
            super().Alltoall(sent, received)

    def work(comm):
        return fit(small(), banana(60), comm=Failing(comm.rank, comm.slots, comm.barrier))

    slots, barrier, errors = [b""] * 2, threading.Barrier(2), [None] * 2

    def run(rank):
        try:
            work(Threads(rank, slots, barrier))
        except BaseException as error:
            errors[rank] = type(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [threading.BrokenBarrierError, KeyboardInterrupt]


# ---- who has started this ------------------------------------------------------------------------


@pytest.fixture
def no_launcher(monkeypatch):
    for names in ranks_module.LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


def test_without_mpirun_nobody_asks_for_mpi4py(no_launcher, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert ranks_module.launched() is None and ranks_module.world() is None


@pytest.mark.parametrize("names", ranks_module.LAUNCHERS)
def test_under_mpirun_mpi4py_is_needed(no_launcher, monkeypatch, names):
    for name, value in zip(names, ("1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert ranks_module.launched() == (1, 4)
    with pytest.raises(ImportError, match=r"pip install 'afnp\[mpi\]'"):
        ranks_module.world()


def test_two_mpis_that_do_not_know_each_other(no_launcher, monkeypatch):
    """Each process would think itself alone, and all would write the same file."""

    class MPI:
        COMM_WORLD = ranks_module.One()

        @staticmethod
        def Get_library_version():
            return "Some MPI v1 of some house"

    class package:
        pass

    package.MPI = MPI
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ValueError, match="started 2 ranks, and mpi4py knows of 1.*is Some MPI v1$"):
        ranks_module.world()


# ---- started by mpirun ---------------------------------------------------------------------------

HOMES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
MPIRUN = shutil.which("mpirun", path=HOMES)
mpi = pytest.mark.skipif(
    MPIRUN is None or importlib.util.find_spec("mpi4py") is None,
    reason="MPI IS MISSING: pip install '.[mpi]'",
)

FIT = """
import os, signal, sys
import numpy as np
from mpi4py import MPI
import afnp
from afnp.train.ranks import Ranks

comm, (path, accident, epochs) = MPI.COMM_WORLD, sys.argv[1:]
z = np.random.default_rng(0).standard_normal((120, 2))
x = np.stack([z[:, 0], z[:, 0] ** 2 / 2 + 0.3 * z[:, 1]], axis=1)
last = comm.Get_rank() == comm.Get_size() - 1

def after(record):
    if last and record.epoch == 1 and accident.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, accident))
    if last and record.epoch == 1 and accident == "error":
        raise ZeroDivisionError("not today")

flow = afnp.maf(2, hidden=(8,), transforms=2)
rows = x[Ranks(comm).share(120)]
options = dict(epochs=int(epochs), batch_size=50, learning_rate=0.02, checkpoint=path, resume=True)
history = afnp.fit(flow, rows, comm=comm, callbacks=[after], **options)
print(f"rank {comm.Get_rank()}: {history.stopped}, {flow.theta.tobytes().hex()}", flush=True)
"""


def start(K, *arguments):
    """Start K ranks of Python; they share the cores, and yield them while they wait."""
    root = str(Path(__file__).parents[1])
    settings = {"PYTHONPATH": root, "OMPI_MCA_mpi_yield_when_idle": "1", "NUMBA_NUM_THREADS": "1"}
    command = [MPIRUN, "-n", str(K), "--oversubscribe", "--allow-run-as-root", sys.executable]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return code, output and errors; no test waits for ever."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def in_one_process(path=None, **options):
    flow = small()
    run = {**OPTIONS, "epochs": 4, "shards": 8, **options}
    fit(flow, banana(), checkpoint=path, resume=path is not None, **run)
    return flow.theta.tobytes().hex()


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "fit.py"
    path.write_text(FIT, encoding="utf-8")
    return path


@mpi
@pytest.mark.parametrize("K", [1, 2, 4])
def test_mpirun_comes_to_the_bits_of_one_process(script, tmp_path, K):
    code, out, err = finish(start(K, script, tmp_path / "c", "none", 4))
    assert code == 0, err
    expected = in_one_process()
    assert sorted(out.split("\n"))[1:] == [f"rank {k}: epochs, {expected}" for k in range(K)]
    assert err.count("epoch 4/4") == 1


@mpi
def test_a_rank_that_is_killed_ends_the_run_and_leaves_a_checkpoint(script, tmp_path):
    """Which one process goes on from, and four ranks do, to the bits of an uninterrupted run."""
    path = tmp_path / "c"
    code, out, err = finish(start(2, script, path, "SIGKILL", 4))
    assert code != 0 and "rank 1" in err and "killed" in err.lower() and "epochs" not in out
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    assert in_one_process(copy) == in_one_process()
    code, out, err = finish(start(4, script, path, "none", 4))
    assert code == 0, err
    assert out.count(in_one_process()) == 4


@mpi
def test_a_signal_to_one_rank_stops_all(script, tmp_path):
    code, out, _ = finish(start(2, script, tmp_path / "c", "SIGTERM", 4))
    assert code == 0 and out.count("interrupted") == 2
    assert in_one_process(tmp_path / "c") == in_one_process()


@mpi
def test_an_error_on_one_rank_ends_all(script, tmp_path):
    code, _, err = finish(start(2, script, tmp_path / "c", "error", 4))
    assert code != 0 and "ZeroDivisionError: not today" in err
    assert "RuntimeError: rank 1: ZeroDivisionError: not today" in err
    assert in_one_process(tmp_path / "c") == in_one_process()


CLI = ("-m", "afnp", "fit")
FAST = ("--hidden", 8, "--transforms", 2, "--batch-size", 32, "--seed", 4)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, banana(300))
    return path


@mpi
def test_the_command_line_under_mpirun(table, tmp_path):
    """One model, one report; the same bits by one, two and four ranks."""
    models = []
    for K in (1, 2, 4):
        models.append(tmp_path / f"{K}.afnp")
        code, out, err = finish(start(K, *CLI, table, "-o", models[-1], *FAST, "--epochs", 3))
        assert code == 0, err
        assert out.count("wrote") == out.count("test log-likelihood") == 1
        assert (f"; {K} ranks" in out) == (K > 1) and err.count("epoch 3/3") == 1
    first, *others = map(afnp.load, models)
    for other in others:
        assert np.array_equal(other.theta, first.theta) and other.config() == first.config()


@mpi
def test_errors_of_the_command_line_under_mpirun(table, tmp_path):
    """One line, of whichever rank."""
    (tmp_path / "old").write_bytes(b"")
    bad = tmp_path / "bad.npy"
    np.save(bad, np.full((300, 2), np.nan))
    for data, model, message in [
        (table, tmp_path / "old", "old exists; --force overwrites it"),
        (tmp_path / "no.npy", tmp_path / "m", "no.npy"),
        (bad, tmp_path / "m", "got nan in row 0"),
    ]:
        code, out, err = finish(start(2, *CLI, data, "-o", model, *FAST, "--epochs", 1))
        said = [line for line in err.splitlines() if line.startswith("afnp: error: ")]
        assert code == 2 and out == "" and len(said) == 1 and message in said[0], err


@mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_under_mpirun(script, tmp_path, number):
    """All ranks are told, and killed a moment later; either way one process goes on from there."""
    path, epochs = tmp_path / "c", 10**6
    process = start(2, script, path, "none", epochs)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    code, _, _ = finish(process)
    assert code != 0
    header, _ = files.read(path, "checkpoint")
    done = header["run"]["epoch"]
    enough = [lambda record: record.epoch == done]
    resumed = in_one_process(path, epochs=epochs, callbacks=enough)
    assert done >= 1 and resumed == in_one_process(epochs=epochs, callbacks=enough)
