"""The CUDA sampler on a real GPU: ``pytest -m gpu``, or with ``-s`` to see times.

Not selected by default. Asked for by name, these tests fail where there is no GPU: they never skip.
"""

import statistics
import time

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.kernels import cuda
from afnp.transforms import Autoregressive

pytestmark = pytest.mark.gpu

SHAPES = {
    "line": (1, (8,)),
    "moons": (2, (64, 64)),
    "wide moons": (2, (512, 512)),
    "power": (6, (100, 100)),
    "miniboone": (43, (512, 512)),
    "bsds": (63, (512, 512)),
    "mnist": (784, (1024, 1024)),
}


def steps(flow):
    pairs = zip(reversed(flow.layers), reversed(flow._split(flow.theta)), strict=True)
    return [
        cuda.Step(p.flat, cuda.plan_of(layer.conditioner), layer.univariate.bound, layer.order)
        for layer, p in pairs
        if isinstance(layer, Autoregressive)
    ]


def noise(flow, n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, width)).astype(flow.dtype) for width in (flow.context, flow.features)]


def check(flow, n):
    """As near to the definition in double precision as NumPy is in the flow's own, or nearly so."""
    context, u = noise(flow, n)
    x, log_det = cuda.solve_all(steps(flow), context, u)
    exact = afnp.Flow.from_config({**flow.config(), "dtype": "float64"})
    exact.theta = flow.theta
    p, p_exact = flow._split(flow.theta), exact._split(exact.theta)
    true = exact._generate(p_exact, u.astype(np.float64), context.astype(np.float64))
    for got, numpy, truth in zip((x, log_det), flow._generate(p, u, context), true, strict=True):
        assert got.dtype == flow.dtype
        assert norm_error(got, truth) <= 10 * norm_error(numpy, truth) + 20 * np.finfo(flow.dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_samples_as_numpy_does(shape, dtype):
    features, hidden = SHAPES[shape]
    flow = lively(afnp.maf(features, hidden, 2, dtype=dtype, order="random"), last=features**-0.5 / 2)
    for n in (0, 1, 1000) if features > 100 else (0, 1, 33, 1000, 40_000):
        check(flow, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"hidden": ()},
        {"activation": "tanh"},
        {"context": 3},
        {"hidden": (64, 64, 64), "residual": True, "context": 1, "activation": "tanh"},
        {"order": [3, 0, 4, 1, 2]},
    ],
    ids=str,
)
def test_every_kind_of_network(options, dtype):
    flow = lively(afnp.maf(5, **{"hidden": (32, 32), "transforms": 3, "dtype": dtype, **options}), garbage=3.0)
    for n in (1, 129, 20_000):
        check(flow, n)


def test_two_runs_give_the_same_bits_and_other_rows_do_not_matter():
    flow = lively(afnp.maf(63, (512, 512), 2, dtype=np.float32), last=0.05)
    context, u = noise(flow, 20_000)
    x, log_det = cuda.solve_all(steps(flow), context, u)
    again = cuda.solve_all(steps(flow), context, u)
    assert np.array_equal(x, again[0]) and np.array_equal(log_det, again[1])
    u[1::2] = 0.5
    assert np.array_equal(cuda.solve_all(steps(flow), context, u)[0][::2], x[::2])


def test_long_inputs_are_streamed(monkeypatch):
    flow = lively(afnp.maf(6, (100, 100), 2, context=2))
    context, u = noise(flow, 5000)
    whole = cuda.solve_all(steps(flow), context, u)
    monkeypatch.setattr(cuda, "BATCH_BYTES", 2**16)
    parts = cuda.solve_all(steps(flow), context, u)
    assert norm_error(parts[0], whole[0]) < 1e-12 and norm_error(parts[1], whole[1]) < 1e-12


def test_changed_parameters_are_seen():
    flow = lively(afnp.maf(6, (100, 100), 2))
    for change in range(3):
        flow.theta[change::7] *= 1.01
        check(flow, 100)


@pytest.mark.parametrize("n", [1000, 65_536])
@pytest.mark.parametrize("shape", ["bsds", "mnist"])
def test_time_of_five_transforms(shape, n):
    """No claim but that it runs; the first call compiles and copies the parameters."""
    features, hidden = SHAPES[shape]
    flow = lively(afnp.maf(features, hidden, 5, dtype=np.float32), last=features**-0.5 / 10)
    context, u = noise(flow, n)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        x, _ = cuda.solve_all(steps(flow), context, u)
        times.append(1000 * (time.perf_counter() - start))
    print(
        f"\n{shape} N={n}: first {times[0]:.0f} ms, then median {statistics.median(times[1:]):.1f} ms with copies"
    )
    assert np.isfinite(x).all()
