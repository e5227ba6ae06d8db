"""The compiled kernels against the NumPy definition: the same numbers for every network,
batch and thread count."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import afnp
from afnp.compiled import threads
from afnp.compiled.adam import squared_length
from afnp.compiled.threads import in_threads, row_blocks
from afnp.train import Adam

SHAPES = {
    "one feature": dict(features=1, hidden=(4,)),
    "one feature, context": dict(features=1, hidden=(4,), context=1),
    "two": dict(features=2, hidden=(5, 3), transforms=3),
    "linear": dict(features=4, hidden=(), context=2),
    "tanh, context": dict(
        features=5, hidden=(20, 20, 20), context=2, activation="tanh", order="random"
    ),
    "residual": dict(features=9, hidden=(33,) * 5, residual=True, order="random"),
    "residual, tanh, context": dict(
        features=7, hidden=(16,) * 3, residual=True, context=3, activation="tanh"
    ),
    "wide": dict(features=43, hidden=(130, 70), order="reverse"),
    "many features": dict(features=200, hidden=(210, 230), transforms=1),
}
BATCHES = (1, 3, 64, 65, 131)
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-4}


def flow_and_rows(name, rows, dtype):
    """A flow with parameters everywhere, masked entries too,
    and rows from its own density's neighbourhood."""
    flow = afnp.maf(**SHAPES[name], dtype=dtype, seed=3)
    rng = np.random.default_rng(4)
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
        layer.conditioner.initialize(p, rng, gain=1.0, last=0.1)
        for linear in layer.conditioner.linears:
            beyond = np.arange(p[linear.W].shape[1]) >= linear.prefix[:, None]
            p[linear.W][beyond] = 1e3
            p[linear.b][:] = rng.normal(size=len(linear.prefix)) * 0.1
    context = rng.normal(size=(rows, flow.context)).astype(dtype) if flow.context else None
    return flow, rng.normal(size=(rows, flow.features)).astype(dtype), context


def assert_close(got, expected, dtype):
    """Close relative to the largest entry, or to 1: sums are taken in another order."""
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(got / scale, expected / scale, atol=TOLERANCE[dtype], rtol=0)
    assert got.dtype == expected.dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_density_and_samples_equal_the_numpy_rendering(name, dtype):
    for rows in BATCHES:
        flow, x, context = flow_and_rows(name, rows, dtype)
        for method in (flow.normalize, flow.generate):
            for got, expected in zip(
                method(x, context, backend="numba"),
                method(x, context, backend="numpy"),
                strict=True,
            ):
                assert_close(got, expected, dtype)
        assert_close(
            flow.log_prob(x, context, backend="numba"),
            flow.log_prob(x, context, backend="numpy"),
            dtype,
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_equal_the_numpy_rendering_and_vanish_beyond_the_masks(name, dtype):
    for rows in BATCHES:
        flow, x, context = flow_and_rows(name, rows, dtype)
        loss, grad = flow.loss_and_grad(x, context, backend="numba")
        expected_loss, expected = flow.loss_and_grad(x, context, backend="numpy")
        assert loss == pytest.approx(expected_loss, rel=10 * TOLERANCE[dtype])
        assert_close(grad, expected, dtype)
        for layer, g in zip(flow.layers, flow.split(grad), strict=True):
            for linear in layer.conditioner.linears:
                beyond = np.arange(g[linear.W].shape[1]) >= linear.prefix[:, None]
                assert not g[linear.W][beyond].any()


def test_preprocessing_runs_before_the_compiled_transforms():
    x = np.random.default_rng(0).uniform(0, 17, size=(150, 6))
    flow = afnp.maf(6, hidden=(12,), transforms=2, preprocess=afnp.preprocessing(x, levels=17))
    assert_close(flow.log_prob(x, backend="numba"), flow.log_prob(x, backend="numpy"), np.float64)
    grads = [flow.loss_and_grad(x, backend=backend)[1] for backend in ("numba", "numpy")]
    assert_close(*grads, np.float64)


def test_samples_are_the_same_bits_whatever_the_thread_count():
    program = (
        "import afnp, numpy as np, hashlib\n"
        "flow = afnp.maf(20, hidden=(70, 70), dtype=np.float32, seed=1)\n"
        "for n in (1, 257, 1000):  # 257: a last row that is left over from whole tiles\n"
        "    x = flow.sample(n, rng=2, backend='numba')\n"
        "    print(hashlib.sha256(x.tobytes() + flow.log_prob(x, "
        "backend='numba').tobytes()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1


def test_gradients_and_training_are_the_same_bits_whatever_the_thread_count():
    program = (
        "import afnp, numpy as np, hashlib\n"
        "flow = afnp.maf(20, hidden=(150, 130), transforms=3, dtype=np.float32, seed=1)\n"
        "flow.theta[:] += 0.01 * np.random.default_rng(0).normal(size=flow.theta.size)\n"
        "for n in (100, 1000, 5000):  # the last one in two chunks of tiles\n"
        "    x = np.random.default_rng(n).normal(size=(n, 20))\n"
        "    loss, grad = flow.loss_and_grad(x, backend='numba')\n"
        "    print(loss, hashlib.sha256(grad.tobytes()).hexdigest())\n"
        "afnp.fit(flow, x, epochs=1, batch_size=1000, clip=0.1, progress=False)  # clipped\n"
        "print(hashlib.sha256(flow.theta.tobytes()).hexdigest())\n"
        "from afnp.compiled.adam import squared_length\n"
        "print(squared_length(np.random.default_rng(1).normal(size=300_000)))\n"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
        if int(threads) <= max(2, os.cpu_count() or 1)
    }
    assert len(results) == 1 and next(iter(results))


def test_a_long_batch_is_the_sum_of_its_chunks():
    """More tiles than are kept at a time."""
    flow, x, _ = flow_and_rows("two", 4500, np.float64)
    (loss, grad), (expected_loss, expected) = (
        flow.loss_and_grad(x, backend=backend) for backend in ("numba", "numpy")
    )
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_close(grad, expected, np.float64)


def test_rows_do_not_influence_each_other():
    flow, x, _ = flow_and_rows("wide", 100, np.float64)
    others = x.copy()
    others[1:] *= -2
    assert (
        flow.generate(x, backend="numba")[0][0].tobytes()
        == flow.generate(others, backend="numba")[0][0].tobytes()
    )


def test_parameters_changed_in_place_are_followed():
    flow, x, _ = flow_and_rows("two", 10, np.float64)
    before = flow.generate(x, backend="numba")[0]
    flow.theta[:] *= 0.5
    after = flow.generate(x, backend="numba")[0]
    assert not np.array_equal(before, after)
    assert_close(after, flow.generate(x, backend="numpy")[0], np.float64)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_copy_of_a_flow_follows_its_own_parameters(again):
    flow, x, _ = flow_and_rows("two", 10, np.float64)
    before = flow.log_prob(x, backend="numba")
    other = again(flow)
    other.theta[:] *= 0.5
    assert np.array_equal(flow.log_prob(x, backend="numba"), before)
    assert_close(other.log_prob(x, backend="numba"), other.log_prob(x, backend="numpy"), np.float64)
    assert not np.allclose(other.log_prob(x), before)


def test_read_only_strided_and_empty_input():
    flow, x, _ = flow_and_rows("wide", 90, np.float64)
    expected = flow.log_prob(x[::3], backend="numba")
    strided = np.asfortranarray(x)[::3]
    strided.flags.writeable = False
    assert np.array_equal(flow.log_prob(strided, backend="numba"), expected)
    assert flow.generate(x[:0], backend="numba")[0].shape == (0, 43)


def test_the_naive_loop_has_no_compiled_rendering():
    with pytest.raises(ValueError, match="method 'naive' is the NumPy definition"):
        afnp.made(2, hidden=(4,)).sample(3, method="naive", backend="numba")


def test_several_python_threads_may_call_at_once():
    flow, x, _ = flow_and_rows("wide", 300, np.float64)
    expected, results = flow.generate(x, backend="numba")[0], [None] * 4

    def call(k):
        for _ in range(5):
            results[k] = flow.generate(x, backend="numba")[0]

    callers = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_works_with_threads_of_its_own():
    program = (
        "import os, sys, afnp, numpy as np\n"
        "flow = afnp.maf(20, hidden=(70, 70), dtype=np.float32)\n"
        "x = flow.sample(1000, backend='numba')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if np.array_equal(flow.sample(1000, backend='numba'), x) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    env = {**os.environ, "NUMBA_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", program], env=env, timeout=600).returncode == 0


@pytest.mark.parametrize(
    "n, unit, most", [(0, 64, 100), (1, 64, 100), (64, 64, 64), (1000, 64, 128), (129, 64, 10**6)]
)
def test_row_blocks_cover_every_row_once_in_whole_units(n, unit, most):
    blocks = row_blocks(n, unit, most)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(n))
    assert all(block.start % unit == 0 for block in blocks)
    assert all(block.stop - block.start <= max(most, 2 * unit) for block in blocks)


def test_more_blocks_than_threads_are_all_done(monkeypatch):
    monkeypatch.setattr(threads, "workers", lambda: 1)
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    assert in_threads(lambda k: in_threads(lambda j: j * k, [1, 2]), [1, 2, 3]) == [
        [1, 2],
        [2, 4],
        [3, 6],
    ]


def test_in_threads_keeps_the_order_and_passes_errors_on():
    assert in_threads(lambda k: k * k, [1, 2, 3, 4]) == [1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda k: 1 // k, [1, 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_adam_equals_the_plain_formula(dtype):
    rng = np.random.default_rng(0)
    start = rng.normal(size=200_000).astype(dtype)
    results = []
    for backend in ("numpy", "numba"):
        theta, adam = start.copy(), Adam(start.size, dtype, backend=backend)
        for step in range(5):
            g = np.random.default_rng(step).normal(size=start.size).astype(dtype)
            adam.step(theta, g, rate=1e-2, weight_decay=1e-3)
        results.append(theta)
    # each step moves by 1e-2 at the most, and rounds a handful of times
    np.testing.assert_allclose(
        *results, atol=20 * np.finfo(dtype).eps, rtol=20 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**16 + 5, 200_001])
def test_a_squared_length_counts_every_value_once(size):
    g = np.random.default_rng(0).normal(size=size)
    assert squared_length(g) == pytest.approx(float(g @ g), rel=1e-13)
