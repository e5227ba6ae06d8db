"""What holds for long and far out: threads, processes, memory, a thousand features, 10⁶ σ."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import lively
from kills import FAMILIES

import afnp
from afnp.flow import Flow

FLOWS = {name: make for name, make in FAMILIES.items() if isinstance(make(), Flow)}


# ---- threads -------------------------------------------------------------------------------------


def job(name, engine):
    """All that a caller asks of a flow, in one array."""
    flow = FLOWS[name]()
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((70, 4)), rng.standard_normal((70, flow.context))
    c = c if flow.context else None
    results = [
        flow.log_prob(x, c, backend=engine),
        *flow.normalize(x, c, backend=engine),
        *flow.generate(x, c, backend=engine),
        flow.sample(70, 1, c, backend=engine),
        flow.loss_and_grad(x, c, backend=engine)[1],
    ]
    return np.concatenate([np.ravel(result) for result in results]).tobytes()


def in_threads(repeats):
    names = [n for n, make in FLOWS.items() if not make().uncompiled]
    jobs = [(name, engine) for name in names for engine in ("numpy", "numba")]
    alone = {one: job(*one) for one in jobs}
    asked = [one for _ in range(repeats) for one in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda one: job(*one), asked))
    equal = sum(alone[one] == result for one, result in zip(asked, together, strict=True))
    print(f"\n{equal} of {len(asked)} jobs in 6 threads equal to the last bit")
    assert equal == len(asked)


def test_some_jobs_in_threads():
    in_threads(2)


@pytest.mark.slow
def test_many_jobs_in_threads():
    in_threads(28)


# ---- processes -----------------------------------------------------------------------------------

POOL = """
import sys
import numpy as np
import afnp

def job(seed):
    flow = afnp.maf(6, hidden=(70, 70), dtype=np.float32, seed=seed)
    x = flow.sample(300, seed, backend="numba")
    return flow.log_prob(x, backend="numba").tobytes(), flow.log_prob(x, backend="numpy").tobytes()

def through(kind, seeds):
    if kind == "loky":
        from joblib import Parallel, delayed
        return Parallel(n_jobs=2, backend="loky")(delayed(job)(seed) for seed in seeds)
    import multiprocessing
    with multiprocessing.get_context(kind).Pool(2) as pool:
        return pool.map(job, seeds)

if __name__ == "__main__":
    alone = [job(seed) for seed in range(4)]
    together = through(sys.argv[1], range(4))
    print(sum(a == b for a, b in zip(alone, together)), "of", len(alone))
"""


@pytest.mark.parametrize("kind", ["fork", "spawn", "loky"])
def test_processes_give_the_same_bits(kind, tmp_path):
    """Of a parent that has used compiled code before."""
    if kind == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    if kind == "loky":
        pytest.importorskip("joblib", reason="LOKY WAS NOT TRIED: joblib comes with scikit-learn")
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    command = [sys.executable, "-W", "ignore", str(script), kind]
    env = {**os.environ, "NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}  # as loky has it
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "of", "4"]


# ---- memory --------------------------------------------------------------------------------------

GROWTH = """
import gc, sys
import numpy as np
import afnp

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

flow = afnp.maf(4, hidden=(16,), transforms=2, context=1)
x, c = np.random.default_rng(0).standard_normal((40, 4)), np.zeros((40, 1))
calls = [
    lambda: flow.log_prob(x, c, backend="numpy"),
    lambda: flow.log_prob(x, c, backend="numba"),
    lambda: flow.sample(40, 0, c),
    lambda: flow.loss_and_grad(x, c),
    lambda: flow.score(x, c),
]
for k in range(500):
    calls[k % 5]()
before = resident()
for k in range(int(sys.argv[1])):
    calls[k % 5]()
print(resident() - before)
"""


def grown(calls):
    command = [sys.executable, "-c", GROWTH, str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    print(f"\n{calls} calls: {float(done.stdout):.2f} MiB more")
    assert float(done.stdout) < 1


linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")


@linux
def test_some_calls_keep_no_memory():
    """A kibibyte a call would be 2 MiB."""
    grown(2000)


@linux
@pytest.mark.slow
def test_many_calls_keep_no_memory():
    grown(10**5)


# ---- a thousand features, and a million standard deviations --------------------------------------


@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-13), (np.float32, 3e-5)])
def test_round_trips_of_a_thousand_features(dtype, most, backend):
    flow = lively(afnp.maf(1000, hidden=(1000,), transforms=2, dtype=dtype), last=0.1)
    x = np.random.default_rng(0).standard_normal((20, 1000)).astype(dtype)
    u, log_det = flow.normalize(x, backend=backend)
    back, other = flow.generate(u, backend=backend)
    error = np.abs(back - x).max()
    print(f"\n{np.dtype(dtype)}, {backend}: {error:.1e}, {np.abs(log_det + other).max():.1e} nats")
    assert np.abs(u - x).max() > 0.1 and error < most
    assert np.abs(log_det + other).max() < 1000 * most


@pytest.mark.parametrize("name", FLOWS)
def test_no_result_up_to_a_million_sigma_is_nan(name, backend):
    """Every feature by itself and all together, on both sides; what is NaN would be an error."""
    flow = lively(FLOWS[name]())
    if backend == "numba" and flow.uncompiled:
        pytest.skip(f"{flow.uncompiled} has no compiled code")
    sizes = np.concatenate([sign * 10.0 ** np.arange(7) for sign in (1, -1)])
    usual = np.random.default_rng(0).standard_normal((len(sizes), 4))
    rows = [np.where(np.arange(4) == i, sizes[:, None], usual) for i in range(4)]
    x = np.concatenate([*rows, np.repeat(sizes[:, None], 4, axis=1)])
    c = np.zeros((len(x), flow.context)) if flow.context else None
    log_prob = flow.log_prob(x, c, backend=backend)
    u, _ = flow.normalize(x, c, backend=backend)
    assert not np.isnan(log_prob).any() and not np.isnan(u).any()
    assert not np.isnan(flow.generate(x, c, backend=backend)[0]).any()
