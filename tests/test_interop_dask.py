"""Dask: the same numbers, to the last bit, whatever the chunks, workers and accidents."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import afnp

pytest.importorskip("dask.array", reason="DASK IS MISSING: pip install '.[dask]'")

import dask
import dask.array as da

from afnp.interop import dask as doors

N = 3000
CHUNKS = [N, 1024, 700, (1, 2, 2997), (1500, 0, 1500)]

LIVELY = {
    "maf": lambda: afnp.maf(3, hidden=(16,), transforms=2, seed=1),
    "float32": lambda: afnp.maf(3, hidden=(16,), transforms=2, dtype="float32"),
    "spline": lambda: afnp.nsf(3, hidden=(16,), transforms=2),
    "conditional": lambda: afnp.maf(3, hidden=(16,), transforms=2, context=2),
    "compiled": lambda: afnp.maf(3, hidden=(128, 128), transforms=5),
}


@pytest.fixture(scope="module", params=LIVELY)
def case(request):
    """A flow with parameters that hide nothing, rows, and a context where it takes one."""
    flow, rng = LIVELY[request.param](), np.random.default_rng(0)
    flow.theta = flow.theta + 0.1 * rng.standard_normal(flow.theta.size)
    context = rng.standard_normal((N, flow.context)) if flow.context else None
    return flow, rng.standard_normal((N, 3)), context


def lazy(array, chunks):
    return None if array is None else da.from_array(array, chunks=(chunks, array.shape[1]))


@pytest.fixture(autouse=True)
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def test_it_agrees_with_the_flow_itself(case):
    flow, x, context = case
    close = {"rtol": 1e-4, "atol": 1e-4} if flow.dtype == np.float32 else {"rtol": 1e-10}
    arrays = lazy(x, 1000), lazy(context, 800)
    np.testing.assert_allclose(
        doors.log_prob(flow, *arrays).compute(), flow.log_prob(x, context), **close
    )
    np.testing.assert_allclose(
        doors.score(flow, *arrays).compute(), flow.score(x, context), **close
    )
    for got, expected in zip(
        dask.compute(*doors.normalize(flow, *arrays)), flow.normalize(x, context), strict=True
    ):
        np.testing.assert_allclose(got, expected, **close)


def test_chunks_change_no_bit(case):
    flow, x, context = case
    found = []
    for chunks in CHUNKS:
        arrays = lazy(x, chunks), lazy(context, chunks)
        u, log_det = doors.normalize(flow, *arrays)
        drawn = (
            doors.sample(flow, N, chunks, seed=5)
            if context is None and isinstance(chunks, int)
            else doors.sample(flow, N, seed=5, context=lazy(context, chunks))
        )
        densities = doors.log_prob(flow, *arrays), doors.score(flow, *arrays)
        found.append(dask.compute(*densities, u, log_det, drawn))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.dtype == b.dtype == flow.dtype and a.shape == b.shape
            assert (a == b).all()


def test_the_noise_is_noise():
    """Normal, and not the same in any two batches or under any two seeds."""
    flow = afnp.made(2, hidden=(4,))
    u = flow.normalize(doors.sample(flow, 40_000, seed=1).compute())[0]
    assert abs(u.mean()) < 4 / 80_000**0.5 and abs((u**2).mean() - 1) < 4 * (2 / 80_000) ** 0.5
    assert len(np.unique(u)) == 80_000
    assert (u[: doors.BATCH] != flow.normalize(doors.sample(flow, 1024, seed=2).compute())[0]).all()


def test_fewer_rows_are_the_first_of_more():
    flow = afnp.made(2, hidden=(4,))
    few, more = (doors.sample(flow, n, chunks=500).compute() for n in (1500, 4000))
    assert (few == more[:1500]).all()
    assert doors.sample(flow, 0).compute().shape == (0, 2)


def test_dataframes_and_unknown_lengths():
    dd = pytest.importorskip("dask.dataframe", reason="DASK.DATAFRAME IS MISSING")
    import pandas as pd

    flow, x = afnp.made(2, hidden=(4,)), np.random.default_rng(0).standard_normal((500, 2))
    table = dd.from_pandas(pd.DataFrame(x, columns=["a", "b"]), npartitions=3)
    np.testing.assert_allclose(doors.log_prob(flow, table).compute(), flow.log_prob(x))
    positive = lazy(x, 200)[lazy(x, 200)[:, 0] > 0]
    np.testing.assert_allclose(
        doors.log_prob(flow, positive).compute(), flow.log_prob(x[x[:, 0] > 0])
    )


REFUSED = {
    "no dask": (lambda f: doors.log_prob(f, np.zeros((3, 2))), "x: expected a dask array"),
    "width": (lambda f: doors.log_prob(f, da.zeros((3, 5))), r"x: expected 2 columns, got"),
    "context": (lambda f: doors.sample(f, 3, context=da.zeros((3, 1))), "context: expected no"),
    "seed": (lambda f: doors.sample(f, 3, seed=-1), "seed"),
    "n": (lambda f: doors.sample(f, 1.5), "n: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call(afnp.made(2, hidden=(4,)))


def test_lengths_must_agree():
    flow = afnp.made(2, hidden=(4,), context=1)
    with pytest.raises(ValueError, match="context: expected 5 rows, got 4"):
        doors.log_prob(flow, da.zeros((5, 2)), da.zeros((4, 1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_that_loses_a_worker_gives_the_same_bits(tmp_path):
    """Two processes, an array larger than their memory together, and one of them killed."""
    distributed = pytest.importorskip("distributed", reason="DASK.DISTRIBUTED IS MISSING")
    flow = afnp.maf(60, hidden=(60,), transforms=1, dtype="float64")
    n, limit = 3_000_000, 600 * 2**20
    sampled = doors.sample(flow, n, chunks=60_000, seed=3)
    assert sampled.nbytes > 2 * limit
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": limit}
    options |= {"processes": True, "dashboard_address": None, "host": "127.0.0.1"}
    with (
        dask.config.set({"temporary-directory": str(tmp_path), "scheduler": None}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        future = client.compute(doors.log_prob(flow, sampled)[::1000])
        distributed.wait(client.submit(abs, -1))
        os.kill(next(iter(pids.values())), signal.SIGKILL)
        spread = future.result(timeout=300)
    with dask.config.set(scheduler="synchronous"):
        here = doors.log_prob(flow, doors.sample(flow, 4000, chunks=1300, seed=3))[::1000].compute()
    assert len(spread) == n // 1000 and (spread[: len(here)] == here).all()


# ---- names and places ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named():
    """A flow that knows the names of its columns, frames of data and contexts, and their rows."""
    pd = pytest.importorskip("pandas", reason="PANDAS IS MISSING: pip install '.[dask]'")
    rng = np.random.default_rng(5)
    x = pd.DataFrame(rng.standard_normal((2500, 3)) + [0, 10, 20], columns=list("abc"))
    c = pd.DataFrame(rng.standard_normal((2500, 2)), columns=list("pq"))
    flow = afnp.maf(3, hidden=(8,), transforms=2, context=2, preprocess="standard")
    afnp.fit(flow, x, context=c, epochs=1, progress=False)
    return flow, x, c


def frame(table):
    import dask.dataframe as dd

    return dd.from_pandas(table, npartitions=3)


def test_columns_are_found_by_name(named):
    flow, x, c = named
    turned = frame(x[["c", "a", "b"]]), frame(c[["q", "p"]])
    np.testing.assert_allclose(
        doors.log_prob(flow, *turned).compute(), flow.log_prob(x, c), rtol=1e-10
    )
    few = frame(c[["q", "p"]])
    drawn = [doors.sample(flow, len(c), seed=1, context=some) for some in (frame(c), few)]
    assert (drawn[0] == drawn[1]).all().compute()


def test_other_columns_are_refused_by_name(named):
    flow, x, c = named
    with pytest.raises(ValueError, match="x: expected the columns .* lacks 'a' and has also 'z'"):
        doors.log_prob(flow, frame(x.rename(columns={"a": "z"})), frame(c))
    with pytest.raises(ValueError, match="context: expected the columns .* lacks 'q'"):
        doors.sample(flow, len(c), context=frame(c.rename(columns={"q": "z"})))


@pytest.mark.parametrize("chunks", [2500, 900])
def test_a_value_that_is_missing_is_found_by_its_row(named, chunks):
    flow, x, c = named
    rows = x.to_numpy().copy()
    rows[2321, 1] = np.nan
    arrays = lazy(rows, chunks), lazy(c.to_numpy(), chunks)
    with pytest.raises(ValueError, match="x: row 2321, feature 1 is nan"):
        doors.log_prob(flow, *arrays).compute()


def test_what_is_no_flow_is_refused():
    with pytest.raises(ValueError, match="flow: expected a Flow, got int"):
        doors.log_prob(3, lazy(np.zeros((5, 3)), 5))
