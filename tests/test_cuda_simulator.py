"""The CUDA sampler, run by numba-cuda's simulator, gives the numbers of the NumPy definition.

The simulator must be chosen before Numba is first imported, so this file runs itself once more in a process of its
own. It shows that the algorithm is right: indices, barriers, memory. It shows nothing about the compiler
(``test_cuda_compile.py``) or the hardware (``test_cuda_gpu.py``).
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
from afnp.kernels import cuda
from afnp.transforms import Autoregressive

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
INSTALLED = importlib.util.find_spec("numba_cuda") is not None

if not SIMULATED:

    def test_what_is_missing_is_said(monkeypatch):
        everything = [], np.empty((0, 0)), np.empty((0, 2))
        monkeypatch.setattr(cuda, "cuda", SimpleNamespace(is_available=lambda: False))
        with pytest.raises(RuntimeError, match="needs an NVIDIA GPU"):
            cuda.solve_all(*everything)
        monkeypatch.setattr(cuda, "cuda", None)
        with pytest.raises(RuntimeError, match=r"pip install 'afnp\[cuda\]'"):
            cuda.solve_all(*everything)

    @pytest.mark.skipif(not INSTALLED, reason="THE CUDA KERNELS ARE NOT TESTED: pip install 'afnp[cuda]'")
    def test_everything_in_this_file_in_the_simulator():
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).resolve())],
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
        """One multiprocessor, narrow thread blocks, and memory that is NaN until somebody writes it."""
        monkeypatch.setattr(cuda, "LANES", 2)
        monkeypatch.setattr(cuda, "GROUPS", 2)
        monkeypatch.setattr(cuda, "_multiprocessors", lambda: 1)
        device_array = cuda.cuda.device_array

        def spoiled(shape, dtype):
            array = device_array(shape, dtype)
            array[:] = np.nan
            return array

        monkeypatch.setattr(cuda.cuda, "device_array", spoiled)

    def steps(flow):
        pairs = zip(reversed(flow.layers), reversed(flow._split(flow.theta)), strict=True)
        return [
            cuda.Step(p.flat, cuda.plan_of(layer.conditioner), layer.univariate.bound, layer.order)
            for layer, p in pairs
            if isinstance(layer, Autoregressive)
        ]

    def check(flow, n, seed=0):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((n, flow.features)).astype(flow.dtype)
        context = rng.standard_normal((n, flow.context)).astype(flow.dtype)
        x, log_det = cuda.solve_all(steps(flow), context, u)
        true_x, true_log_det = flow._generate(flow._split(flow.theta), u, context)
        assert x.dtype == log_det.dtype == flow.dtype
        assert norm_error(x, true_x) < TOLERANCE[flow.dtype.type]
        assert norm_error(log_det, true_log_det) < TOLERANCE[flow.dtype.type]

    def maf(features, hidden=(6, 6), transforms=1, **kwargs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # narrow networks lose dependencies: so they should
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
        """Shared memory for no window, for one feature in narrow or in wide tiles, and for something between."""
        monkeypatch.setattr(cuda, "SHARED_BYTES", shared)
        monkeypatch.setattr(cuda, "_solve_shared" if shared == 0 else "_solve_global", None)
        check(maf(5, hidden=(8, 8, 8), residual=residual, context=1), n=n)

    @pytest.mark.parametrize("n", [0, 1, 5, 7, 8, 12, 17])
    def test_any_number_of_samples(n):
        """Below eight samples, tiles of two lanes; from there on, of eight. Two thread blocks take all tiles."""
        check(maf(3), n=n)

    @pytest.mark.parametrize(("n", "idle"), [(7, "_tile4"), (8, "_tile1")])
    def test_tiles_are_wide_when_every_multiprocessor_gets_one(monkeypatch, n, idle):
        monkeypatch.setattr(cuda, idle, None)
        check(maf(5), n=n)

    def test_transforms_in_a_row_stay_on_the_gpu():
        check(maf(3, hidden=(5,), transforms=3, order=[1, 2, 0], context=1), n=4)

    def test_transforms_of_different_shapes():
        flow = maf(3, hidden=(5,))
        wide = Autoregressive(3, (4, 12), order=[2, 0, 1], activation="tanh")
        check(lively(afnp.Flow([*flow.layers, wide])), n=4)

    def test_long_inputs_are_streamed(monkeypatch):
        monkeypatch.setattr(cuda, "BATCH_BYTES", 3 * (3 + 1 + 1) * 8)
        check(maf(3, context=1), n=8)

    def test_parameters_are_copied_when_any_bit_of_them_changes(monkeypatch):
        copies, transposed = [], cuda._transposed
        monkeypatch.setattr(cuda, "_transposed", lambda *args: copies.append(1) or transposed(*args))
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
        x, log_det = cuda.solve(*step[:3], np.empty((4, 0)), u, step.order)
        expected = flow._generate(flow._split(flow.theta), u, np.empty((4, 0)))
        assert norm_error(x, expected[0]) < 1e-12 and norm_error(log_det, expected[1]) < 1e-12
