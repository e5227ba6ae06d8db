"""The CUDA samplers on a real GPU: ``pytest -m gpu``, or with ``-s`` to see times.

Not selected by default. Asked for by name, these tests fail where there is no GPU: they never skip.
"""

import statistics
import time

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda import staircase as cuda
from afnp.sampling.fixed_point import GaussSeidel, Jacobi, iterate
from afnp.transforms import Autoregressive, convolutional

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
    pairs = zip(reversed(flow.layers), reversed(flow.split(flow.theta)), strict=True)
    return [
        cuda.StaircaseStep(
            p.flat, cuda.device_plan(layer.conditioner), layer.univariate.bound, layer.order
        )
        for layer, p in pairs
        if isinstance(layer, Autoregressive)
    ]


def noise(flow, n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((n, width)).astype(flow.dtype)
        for width in (flow.context, flow.features)
    ]


def check(flow, n):
    """As near to the definition in double precision as NumPy is in the flow's own, or nearly so."""
    context, u = noise(flow, n)
    x, log_det = cuda.solve_all(steps(flow), context, u)
    exact = afnp.Flow.from_config({**flow.config(), "dtype": "float64"})
    exact.theta = flow.theta
    p, p_exact = flow.split(flow.theta), exact.split(exact.theta)
    true = exact.generate_with(p_exact, u.astype(np.float64), context.astype(np.float64))
    for got, numpy, truth in zip(
        (x, log_det), flow.generate_with(p, u, context), true, strict=True
    ):
        assert got.dtype == flow.dtype
        assert (
            norm_error(got, truth) <= 10 * norm_error(numpy, truth) + 20 * np.finfo(flow.dtype).eps
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gpu_samples_as_numpy_does(shape, dtype):
    features, hidden = SHAPES[shape]
    flow = lively(
        afnp.maf(features, hidden, 2, dtype=dtype, order="random"), last=features**-0.5 / 2
    )
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
    flow = lively(
        afnp.maf(5, **{"hidden": (32, 32), "transforms": 3, "dtype": dtype, **options}), garbage=3.0
    )
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
    monkeypatch.setattr(gpu, "BATCH_BYTES", 2**16)
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
        f"\n{shape} N={n}: first {times[0]:.0f} ms, then median {statistics.median(times[1:]):.1f} "
        "ms with copies"
    )
    assert np.isfinite(x).all()


# Queues


def series(features, channels=16, dilations=(1, 2, 4, 8), dtype=np.float64, **options):
    """Two convolutions in a row, one of them reversed, with parameters that hide nothing."""
    layers = [
        convolutional(features, channels, dilations, reverse=reverse, **options)
        for reverse in (False, True)
    ]
    flow, rng = (
        afnp.Flow(layers, context=options.get("context", 0), dtype=dtype, seed=3),
        np.random.default_rng(7),
    )
    flow.theta = flow.theta + 0.1 * rng.standard_normal(flow.theta.shape)
    return flow


def check_flow(flow, n, method="substitution"):
    """As ``check``, but the public way: as near to the definition in double precision as NumPy is,
    or nearly so."""
    context, u = noise(flow, n)
    context = context if flow.context else None
    exact = afnp.Flow.from_config({**flow.config(), "dtype": "float64"})
    exact.theta = flow.theta
    true = exact.generate(u, context, backend="numpy")
    got, numpy = (flow.generate(u, context, method, backend) for backend in ("cuda", "numpy"))
    for one, two, truth in zip(got, numpy, true, strict=True):
        assert one.dtype == flow.dtype
        assert norm_error(one, truth) <= 10 * norm_error(two, truth) + 20 * np.finfo(flow.dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"features": 1},
        {"activation": "relu", "context": 3},
        {"activation": "tanh", "channels": 7},
        {"channels": 65, "dilations": (1, 300)},
        {"channels": 300, "dilations": (1,), "features": 20},
        {"dilations": ()},
    ],
    ids=str,
)
def test_queues_sample_as_numpy_does(options, dtype):
    flow = series(**{"features": 100, "dtype": dtype, **options})
    for n in (0, 1, 2, 33, 1000, 10_001):
        check_flow(flow, n)


def test_queues_too_wide_for_shared_memory_are_refused():
    with pytest.raises(
        ValueError, match="^backend 'cuda' walks with at most 3071 channels, got 3072$"
    ):
        afnp.Flow([convolutional(2, 3072, ())]).sample(1, backend="cuda")
    flow = afnp.Flow([convolutional(2, 3071, ())])
    assert norm_error(flow.sample(2, backend="cuda"), flow.sample(2, backend="numpy")) < 1e-12


def test_a_million_logarithms_are_added_without_losing_digits():
    flow = afnp.Flow([convolutional(10**6, 1, ())], dtype=np.float32)
    p = flow.own[0]
    p.flat[:] = 0
    p["h"][1] = 0.1
    _, log_det = flow.generate(np.zeros((2, 10**6)), backend="cuda")
    true = 10**6 * 7 * np.tanh(np.float64(p["h"][1]) / 7)
    assert (
        np.abs(log_det / true - 1).max() < 4 * np.finfo(np.float32).eps
    )  # tanh is right to some roundings


def test_queues_are_streamed_and_give_the_same_bits(monkeypatch):
    flow = series(50, context=2, dtype=np.float32)
    context, u = noise(flow, 5000)
    whole, again = (flow.generate(u, context, backend="cuda") for _ in range(2))
    assert np.array_equal(whole[0], again[0]) and np.array_equal(whole[1], again[1])
    monkeypatch.setattr(gpu, "BATCH_BYTES", 2**18)
    parts = flow.generate(u, context, backend="cuda")
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])


def timed(function, repeats=5):
    """The last result, and milliseconds: of the first call, and of the others their median."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        result = function()
        times.append(1000 * (time.perf_counter() - start))
    return result, times[0], statistics.median(times[1:])


@pytest.mark.parametrize("n", [1, 100, 10_000])
@pytest.mark.parametrize("channels", [16, 64])
def test_time_of_queues(channels, n):
    """No claim but that it runs, and gives what the CPU gives; two transforms of 1000 steps,
    ten layers each."""
    flow = series(1000, channels, [2**l for l in range(10)], dtype=np.float32)
    context, u = noise(flow, n)
    (x, _), first, median = timed(lambda: flow.generate(u, backend="cuda"))
    (on_cpu, _), _, cpu = timed(lambda: flow.generate(u, backend="numba"), repeats=1)
    print(
        f"\nqueues R={channels} N={n}: first {first:.0f} ms, then median {median:.1f} ms; CPU "
        f"{cpu:.0f} ms"
    )
    assert norm_error(x, on_cpu) < 1e-3


# FixedPoint

METHODS = [Jacobi(), GaussSeidel(block=16)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", [*METHODS, GaussSeidel(block=1)], ids=str)
@pytest.mark.parametrize("shape", ["line", "moons", "power", "miniboone", "mnist"])
def test_iterations_sample_as_numpy_does(shape, method, dtype):
    features, hidden = SHAPES[shape]
    flow = lively(
        afnp.maf(features, hidden, 2, dtype=dtype, order="random"), last=features**-0.5 / 2
    )
    for n in (0, 1, 100) if features > 40 else (0, 1, 33, 1000, 10_001):
        check_flow(flow, n, method)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": ()},
        {"activation": "tanh", "order": [3, 0, 4, 1, 2]},
        {"hidden": (64, 64, 64), "residual": True, "context": 1, "activation": "tanh"},
    ],
    ids=str,
)
def test_iterations_of_every_kind_of_network(options):
    flow = lively(afnp.maf(5, **{"hidden": (32, 32), "transforms": 3, **options}), garbage=3.0)
    for n in (1, 129, 20_000):
        check_flow(flow, n, GaussSeidel(block=3))


def test_the_record_is_that_of_numpy():
    """The tolerance is far above rounding; yet a row in some hundreds may move by just so much."""
    flow = lively(afnp.maf(20, (40, 40), 2, order="random"), last=0.2)
    _, u = noise(flow, 1000)
    got, true = (
        iterate(flow, u, None, Jacobi(1e-7), backend)[2].iterations for backend in ("cuda", "numpy")
    )
    assert (got == true).mean() > 0.99
    assert np.abs(got - true).max() <= 1


def test_iterations_are_streamed_and_give_the_same_bits(monkeypatch):
    flow = lively(afnp.maf(6, (100, 100), 2, context=2, dtype=np.float32))
    context, u = noise(flow, 5000)
    whole, again = (flow.generate(u, context, "jacobi", "cuda") for _ in range(2))
    assert np.array_equal(whole[0], again[0]) and np.array_equal(whole[1], again[1])
    monkeypatch.setattr(gpu, "BATCH_BYTES", 2**16)
    parts = flow.generate(u, context, "jacobi", "cuda")
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])


@pytest.mark.parametrize("n", [1, 100, 10_000])
@pytest.mark.parametrize("shape", ["bsds", "mnist"])
def test_time_of_sweeps(shape, n):
    """No claim but that all give the same; five transforms,
    against substitution on the same GPU."""
    features, hidden = SHAPES[shape]
    flow = lively(afnp.maf(features, hidden, 5, dtype=np.float32), last=features**-0.5 / 10)
    _, u = noise(flow, n)
    solved, _, median = timed(lambda: flow.generate(u, backend="cuda"))
    print(f"\n{shape} N={n}: substitution {median:.1f} ms")
    for method in METHODS:
        (x, _, record), _, median = timed(
            lambda method=method: iterate(flow, u, None, method, "cuda")
        )
        print(
            f"    {method}: {median:.1f} ms, "
            f"{record.iterations.mean():.1f} iterations a transform and row"
        )
        assert norm_error(x, solved[0]) < 1e-3
