"""The CUDA samplers, run by numba-cuda's simulator, give the numbers of the NumPy definition.

The simulator must be chosen before Numba is first imported, so this file runs itself once more in a
process of its own. It shows that the algorithms are right: indices, barriers, memory. It shows
nothing about the compiler (``test_cuda_compile.py``) or the hardware (``test_cuda_gpu.py``).
"""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.compiled.cuda import causal_conv as cuda_queues
from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda import fixed_point as cuda_sweeps
from afnp.compiled.cuda import staircase as cuda
from afnp.compiled.stages import gpu_step
from afnp.sampling.fixed_point import GaussSeidel, Jacobi, iterate
from afnp.transforms import Autoregressive, attentive, convolutional, masked

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
INSTALLED = importlib.util.find_spec("numba_cuda") is not None

if not SIMULATED:

    def test_what_is_missing_is_said(monkeypatch):
        masked, series = afnp.maf(2, (4,), 1), afnp.Flow([convolutional(2)])
        samplers = [(masked, "substitution"), (masked, "jacobi"), (series, "substitution")]
        absent = SimpleNamespace(is_available=lambda: False)
        for found, message in (
            (absent, "needs an NVIDIA GPU"),
            (None, r"pip install 'afnp\[cuda\]'"),
        ):
            monkeypatch.setattr(gpu, "cuda", found)
            for flow, method in samplers:
                with pytest.raises(RuntimeError, match=message):
                    flow.sample(2, method=method, backend="cuda")

    @pytest.mark.parametrize("method", ["substitution", "jacobi"])
    def test_what_the_gpu_cannot_do_is_said(method):
        """Before anything else is done: it needs no GPU."""
        spline, scale = {"univariate": "spline"}, {"options": {"scale": "softplus"}}
        message = (
            r"samples the univariate 'affine' with the scale 'tanh', got '(spline|affine)' with "
        )
        for options in (spline, scale):
            with pytest.raises(ValueError, match=message):
                gpu_step(convolutional(3, **options), {})
            with pytest.raises(ValueError, match=message):
                gpu_step(masked(3, (4,), **options), {})
        with pytest.raises(ValueError, match="'cuda' has no CausalTransformer"):
            afnp.Flow([attentive(4, patch=2, width=4, heads=1)]).sample(
                2, method=method, backend="cuda"
            )

    def test_convolutions_are_not_swept_on_the_gpu():
        with pytest.raises(ValueError, match="^backend: convolutions are iterated by 'numpy'"):
            afnp.Flow([convolutional(3)]).sample(2, method="jacobi", backend="cuda")

    @pytest.mark.skipif(
        not INSTALLED, reason="THE CUDA KERNELS ARE NOT TESTED: pip install 'afnp[cuda]'"
    )
    def test_everything_in_this_file_in_the_simulator():
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                str(Path(__file__).resolve()),
            ],
            env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert " passed" in result.stdout and "skipped" not in result.stdout, result.stdout

else:
    TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}

    @pytest.fixture(autouse=True)
    def small_gpu(monkeypatch):
        """One multiprocessor, narrow thread blocks, and memory that is NaN until somebody writes
        it."""
        monkeypatch.setattr(cuda, "LANES", 2)
        monkeypatch.setattr(cuda, "GROUPS", 2)
        monkeypatch.setattr(cuda_queues, "LANES", 2)
        monkeypatch.setattr(gpu, "multiprocessors", lambda: 1)
        for kernels in (cuda_queues, cuda_sweeps):
            monkeypatch.setattr(kernels, "THREADS", 4)
        device_array = cuda.cuda.device_array

        def spoiled(shape, dtype):
            array = device_array(shape, dtype)
            array[:] = np.nan
            return array

        monkeypatch.setattr(cuda.cuda, "device_array", spoiled)

    def steps(flow):
        pairs = zip(reversed(flow.layers), reversed(flow.split(flow.theta)), strict=True)
        return [
            cuda.StaircaseStep(
                p.flat, cuda.device_plan(layer.conditioner), layer.univariate.bound, layer.order
            )
            for layer, p in pairs
            if isinstance(layer, Autoregressive)
        ]

    def check(flow, n, seed=0):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((n, flow.features)).astype(flow.dtype)
        context = rng.standard_normal((n, flow.context)).astype(flow.dtype)
        x, log_det = cuda.solve_all(steps(flow), context, u)
        true_x, true_log_det = flow.generate_with(flow.split(flow.theta), u, context)
        assert x.dtype == log_det.dtype == flow.dtype
        assert norm_error(x, true_x) < TOLERANCE[flow.dtype.type]
        assert norm_error(log_det, true_log_det) < TOLERANCE[flow.dtype.type]

    def maf(features, hidden=(6, 6), transforms=1, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # narrow networks lose dependencies: so they should
            return lively(afnp.maf(features, hidden, transforms, **kwargs), garbage=3.0)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("features", [1, 2, 5, 9])
    def test_the_simulated_gpu_samples_as_numpy_does(features, dtype):
        check(maf(features, dtype=dtype), n=3)

    @pytest.mark.parametrize(
        "options",
        [
            {"hidden": ()},
            {"hidden": (3,)},
            {"hidden": (16, 11)},
            {"activation": "tanh"},
            {"context": 2},
            {"context": 1, "hidden": ()},
            {"hidden": (9, 9, 9), "residual": True},
            {"hidden": (4, 4, 4, 4, 4), "residual": True, "activation": "tanh", "context": 2},
            {"order": [3, 0, 4, 1, 2]},
        ],
        ids=str,
    )
    def test_every_kind_of_network(options):
        check(maf(5, **options), n=3)

    @pytest.mark.parametrize("shared", [0, 300, 600, 1200])
    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("n", [3, 9])
    def test_small_windows_and_windows_in_global_memory(monkeypatch, shared, residual, n):
        """Shared memory for no window, for one feature in narrow or in wide tiles,
        and for something between."""
        monkeypatch.setattr(gpu, "SHARED_BYTES", shared)
        monkeypatch.setattr(cuda, "_solve_shared" if shared == 0 else "_solve_global", None)
        check(maf(5, hidden=(8, 8, 8), residual=residual, context=1), n=n)

    @pytest.mark.parametrize("n", [0, 1, 5, 7, 8, 12, 17])
    def test_any_number_of_samples(n):
        """Below eight samples, tiles of two lanes; from there on, of eight.
        Two thread blocks take all tiles."""
        check(maf(3), n=n)

    @pytest.mark.parametrize(("n", "idle"), [(7, "_tile4"), (8, "_tile1")])
    def test_tiles_are_wide_when_every_multiprocessor_gets_one(monkeypatch, n, idle):
        monkeypatch.setattr(cuda, idle, None)
        check(maf(5), n=n)

    def test_transforms_in_a_row_stay_on_the_gpu():
        check(maf(3, hidden=(5,), transforms=3, order=[1, 2, 0], context=1), n=4)

    def test_transforms_of_different_shapes():
        flow = maf(3, hidden=(5,))
        wide = masked(3, (4, 12), order=[2, 0, 1], activation="tanh")
        check(lively(afnp.Flow([*flow.layers, wide])), n=4)

    def test_long_inputs_are_streamed(monkeypatch):
        monkeypatch.setattr(gpu, "BATCH_BYTES", 3 * (3 + 1 + 1) * 8)
        check(maf(3, context=1), n=8)

    def test_parameters_are_copied_when_any_bit_of_them_changes(monkeypatch):
        copies, transposed = [], cuda._transposed
        monkeypatch.setattr(
            cuda, "_transposed", lambda *args: copies.append(1) or transposed(*args)
        )
        flow = maf(2, hidden=(3,))
        for change in (None, None, 0, 5, -1):
            if change is not None:
                flow.theta[change] = np.nextafter(flow.theta[change], np.inf)
            check(flow, n=2)
        assert len(copies) == 4
        flow.theta[:] *= 1.5
        check(flow, n=2)

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_nan_is_never_silent(activation):
        flow = maf(2, hidden=(3,), activation=activation)
        flow.layers[0].layout.views(flow.theta)["W0"][0, 0] = np.nan
        x, log_det = cuda.solve_all(steps(flow), np.empty((2, 0)), np.ones((2, 2)))
        assert not np.isnan(x[:, 0]).any() and np.isnan(x[:, 1]).all() and np.isnan(log_det).all()

    def test_inputs_are_read_only_and_any_layout_is_accepted():
        flow = maf(3)
        u = np.asfortranarray(np.random.default_rng(0).standard_normal((4, 3)))
        u.flags.writeable = False
        (step,) = steps(flow)
        x, log_det = cuda.solve_all([step], np.empty((4, 0)), u)
        expected = flow.generate_with(flow.split(flow.theta), u, np.empty((4, 0)))
        assert norm_error(x, expected[0]) < 1e-12 and norm_error(log_det, expected[1]) < 1e-12

    # ---- queues ----------------------------------------------------------------------------------

    def series(features=6, channels=3, dilations=(1, 2), context=0, dtype=np.float64, **options):
        """Two convolutions in a row, one of them reversed, with parameters that hide nothing."""
        layers = [
            convolutional(features, channels, dilations, reverse=r, context=context, **options)
            for r in (False, True)
        ]
        flow, rng = (
            afnp.Flow(layers, context=context, dtype=dtype, seed=3),
            np.random.default_rng(7),
        )
        flow.theta = flow.theta + 0.3 * rng.standard_normal(flow.theta.shape)
        return flow

    def noise(flow, n):
        rng = np.random.default_rng([n, flow.features])
        return [
            rng.standard_normal((n, width)).astype(flow.dtype)
            for width in (flow.features, flow.context)
        ]

    def check_flow(flow, n, method="substitution"):
        """The public way, against the textbook loop."""
        u, context = noise(flow, n)
        context = context if flow.context else None
        x, log_det = flow.generate(u, context, method=method, backend="cuda")
        true_x, true_log_det = flow.generate(u, context, method="naive")
        assert x.dtype == log_det.dtype == flow.dtype
        assert norm_error(x, true_x) < TOLERANCE[flow.dtype.type]
        assert norm_error(log_det, true_log_det) < TOLERANCE[flow.dtype.type]

    @pytest.mark.parametrize(
        "options",
        [
            {"dtype": np.float32},
            {"context": 2},
            {"activation": "relu"},
            {"activation": "tanh", "context": 1, "channels": 2},
            {"dilations": ()},
            {"dilations": (3, 1, 50)},
            {"channels": 1, "dilations": (2,)},
            {"features": 1, "dilations": (1,)},
            {"features": 2},
        ],
        ids=str,
    )
    def test_queues_sample_as_the_textbook_loop_does(options):
        check_flow(series(**options), n=3)

    @pytest.mark.parametrize("n", [0, 1, 2, 5])
    def test_queues_of_any_number_of_series(n):
        """Up to one series, tiles of one lane; from two on, of two,
        and an odd last one is alone in its tile."""
        check_flow(series(4, dilations=(1,)), n)

    def test_few_tiles_take_all_series_in_turn(monkeypatch):
        """Rings are empty again, and sums of logarithms begin anew, for every tile."""
        monkeypatch.setattr(gpu, "BATCH_BYTES", 1)
        monkeypatch.setattr(cuda_queues, "LANES", 1)
        flow = series(4, dilations=(1,), context=1)
        u, context = noise(flow, 3)
        steps = [gpu_step(layer, p) for layer, p in zip(flow.layers, flow.own, strict=True)][::-1]
        x, log_det = np.empty_like(u), np.zeros(len(u))
        cuda_queues._walk_batch(steps, 1, context, u, x, log_det)
        expected = flow.generate(u, context, method="naive")
        assert norm_error(x, expected[0]) < 1e-12 and norm_error(log_det, expected[1]) < 1e-12
        check_flow(flow, n=3)  # and streamed, a row at a time

    def test_tiles_are_narrower_where_shared_memory_is_small(monkeypatch):
        flow, launches = series(3, dilations=(1,)), []
        monkeypatch.setattr(gpu, "SHARED_BYTES", (2 * 3 + 1) * 8)
        monkeypatch.setattr(
            cuda_queues, "_walk_batch", lambda steps, T, *arrays: launches.append(T)
        )
        cuda_queues.walk_all(
            [gpu_step(flow.layers[0], flow.own[0])], np.empty((4, 0)), np.ones((4, 3))
        )
        assert launches == [1]
        monkeypatch.setattr(gpu, "SHARED_BYTES", (2 * 3 + 1) * 8 - 1)
        with pytest.raises(
            ValueError, match="^backend 'cuda' walks with at most 2 channels, got 3$"
        ):
            flow.sample(2, backend="cuda")

    def test_many_logarithms_are_added_without_losing_digits():
        """A plain sum of these is wrong by 20 roundings."""
        flow = afnp.Flow([convolutional(200, 1, ())], dtype=np.float32)
        p = flow.own[0]
        p.flat[:] = 0
        p["h"][1] = 0.1
        _, log_det = flow.generate(np.zeros((1, 200)), backend="cuda")
        each = flow.layers[0].univariate.generate(p["h"], np.zeros(1, np.float32))[1]
        true = 200 * each.astype(np.float64)
        assert abs(log_det[0] / true - 1) < 2 * np.finfo(np.float32).eps

    @pytest.mark.parametrize("activation", ["relu", "tanh", "gated"])
    def test_nan_is_never_silent_in_a_queue(activation):
        flow = afnp.Flow([convolutional(3, 2, (1,), activation=activation)])
        flow.own[0]["b"][0, 1] = np.nan
        with pytest.raises(FloatingPointError, match="^row 0 of u gives"):
            flow.sample(1, backend="cuda")

    def test_transforms_of_every_kind_in_a_row():
        """Masked ones, convolutions, and those that stay in NumPy;
        also where the masked ones are iterated."""
        layers = [
            *afnp.maf(3, (5,), 2, context=1).layers,
            *afnp.realnvp(3, (4,), 1, context=1).layers,
        ]
        flow = lively(
            afnp.Flow([*layers, convolutional(3, 2, (1,), context=1)], context=1), last=0.3
        )
        check_flow(flow, n=3)
        check_flow(lively(afnp.Flow(layers, context=1), last=0.3), n=3, method="jacobi")

    # ---- iterations ------------------------------------------------------------------------------

    METHODS = [Jacobi(), GaussSeidel(block=1), GaussSeidel(block=3)]

    @pytest.mark.parametrize("method", METHODS, ids=str)
    @pytest.mark.parametrize(
        "options",
        [
            {"dtype": np.float32, "transforms": 2},
            {"hidden": ()},
            {"hidden": (16, 11), "order": [3, 0, 4, 1, 2]},
            {"hidden": (4, 4, 4, 4, 4), "residual": True, "activation": "tanh", "context": 2},
        ],
        ids=str,
    )
    def test_iterations_sample_as_the_textbook_loop_does(options, method):
        check_flow(maf(5, **options), n=3, method=method)

    @pytest.mark.parametrize("features", [1, 2, 7])
    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_iterations_of_any_number_of_samples_and_features(n, features):
        check_flow(maf(features, (4,)), n, method="jacobi")

    @pytest.mark.parametrize("method", [Jacobi(1e-7), GaussSeidel(3, 1e-7)], ids=str)
    def test_the_record_is_that_of_numpy(monkeypatch, method):
        """The tolerance is far above rounding, so that it cannot tip an iteration;
        alone in a tile nobody waits."""
        flow = lively(afnp.maf(7, (8, 8), 2, context=1, order="random"), last=0.2)
        u, context = noise(flow, 4)
        monkeypatch.setattr(cuda_queues, "LANES", 1)
        x, log_det, record = iterate(flow, u, context, method, backend="cuda")
        rows = [
            iterate(flow, u[n : n + 1], context[n : n + 1], method, backend="numpy")
            for n in range(len(u))
        ]
        assert norm_error(x, np.concatenate([row[0] for row in rows])) < 1e-12
        assert norm_error(log_det, np.concatenate([row[1] for row in rows])) < 1e-12
        for got, true in zip(record, zip(*(row[2] for row in rows), strict=True), strict=True):
            np.testing.assert_array_equal(got, np.concatenate(true))
        assert len(np.unique(record.iterations[:, 0])) > 1  # or a count of anything would do

    def test_lanes_that_have_settled_wait_unchanged():
        """In tiles of two, rows take as many iterations as alone;
        a tile works until its last row has settled."""
        flow, method = (
            lively(afnp.maf(7, (8, 8), 1), seed=3, last=0.2),
            Jacobi(0.03),
        )  # far from the solution
        u, _ = noise(flow, 5)
        alone = [iterate(flow, u[n : n + 1], None, method, backend="numpy") for n in range(5)]
        x, log_det, record = iterate(flow, u, None, method, backend="cuda")
        assert norm_error(x, np.concatenate([row[0] for row in alone])) < 1e-12
        assert norm_error(log_det, np.concatenate([row[1] for row in alone])) < 1e-12
        assert record.iterations[:, 0].tolist() == [row[2].iterations[0, 0] for row in alone]
        work = [row[2].multiply_adds[0, 0] for row in alone]
        assert work[0] != work[1] and work[2] != work[3]
        assert np.abs(x - flow.generate(u)[0]).max() > 1e-3
        tiles = np.repeat([max(work[:2]), max(work[2:4]), work[4]], [2, 2, 1])
        assert record.multiply_adds[:, 0].tolist() == tiles.tolist()

    def test_iterations_stop_when_nothing_moves():
        flow = afnp.maf(6, (8,), 1, seed=0)  # nearly the identity: a contraction
        _, _, record = iterate(flow, noise(flow, 2)[0], None, Jacobi(1e-6), backend="cuda")
        assert record.iterations.max() < 6

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    @pytest.mark.parametrize("start", [np.nan, np.inf, 1e308])
    def test_garbage_reaches_nobody_who_does_not_hear_it(monkeypatch, start):
        """From a guess of nothing but garbage."""
        settle = cuda_sweeps._converge

        def from_garbage(net, lane, *arguments):
            lane.tile[1 : 1 + len(net.order)] = start
            return settle(net, lane, *arguments)

        monkeypatch.setattr(cuda_sweeps, "_converge", from_garbage)
        check_flow(maf(5, context=1), n=3, method="jacobi")

    def test_iterations_are_streamed_and_few_tiles_take_all_samples(monkeypatch):
        flow = maf(4, (5,), transforms=2, context=1)
        monkeypatch.setattr(gpu, "BATCH_BYTES", 3 * (4 + 1 + 1) * 8)
        check_flow(flow, n=7, method=GaussSeidel(block=2))
