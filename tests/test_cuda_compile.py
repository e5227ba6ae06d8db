"""The CUDA samplers compile for real chips, and into what they should: no GPU is needed for that.

Numba writes PTX; NVIDIA's ``ptxas`` turns it into each chip's machine code and says what that
takes. Spills, a stack frame (an array that fell out of the registers) or double precision would be
correct and slow: no other test sees them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from afnp.compiled.cuda import causal_conv as cuda_queues
from afnp.compiled.cuda import device as gpu
from afnp.compiled.cuda import fixed_point as cuda_sweeps
from afnp.compiled.cuda import staircase as cuda
from afnp.compiled.tiles import network_plan
from afnp.networks import MaskedMLP

INSTALLED = importlib.util.find_spec("numba_cuda") is not None
pytestmark = [
    pytest.mark.skipif(
        not INSTALLED, reason="THE CUDA KERNELS ARE NOT COMPILED: pip install 'afnp[cuda]'"
    ),
    pytest.mark.skipif(
        os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="the simulator does not compile"
    ),
]

CHIPS = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_120": (12, 0)}
"""A100, H100 and H200, RTX 50."""
CEILING = {"float32": 128, "float64": 192}
"""Registers a thread; a multiprocessor has 65,536, and BLOCKS blocks in single precision must
fit."""


def masked(types, real):
    """Parameters and tables of a masked network, as substitution and iterations take them."""
    from numba import from_dtype

    layers = from_dtype(cuda.DEVICE_LAYER)[::1]
    return [real[::1], layers, types.int32[::1], types.int32[:, ::1], types.int32[::1]]


def substitution(types, real):
    i, network = types.int64, masked(types, real)
    network = types.NamedTuple([*network, i, i, i, real], cuda.DeviceStaircase)
    return types.void(network, real[:, ::1], real[:, ::1], real[::1], real[:, ::1], real[:, ::1])


def queues(types, real):
    dimensions = {
        "E": 2,
        "F": 2,
        "e": 1,
        "W": 3,
        "V": 3,
        "U": 3,
        "b": 2,
        "S": 3,
        "s": 2,
        "H": 2,
        "h": 1,
    }
    weights = [types.Array(real, n, "C") for n in dimensions.values()]
    others = [types.int32[::1], types.int64, types.int64, types.boolean, real]
    assert cuda_queues.DeviceConvolution._fields[: len(weights)] == tuple(dimensions)
    network = types.NamedTuple([*weights, *others], cuda_queues.DeviceConvolution)
    return types.void(network, real[:, ::1], real[:, ::1], real[::1], real[:, :, ::1])


def iterations(types, real):
    i = types.int64
    network = types.NamedTuple([*masked(types, real), i, i, real], cuda_sweeps.DeviceNetwork)
    method = [real, types.int32[::1], i[:, ::1], i[::1], i[::1]]
    return types.void(network, real[:, ::1], real[:, ::1], real[::1], real[:, :, ::1], *method)


KERNELS = {
    "substitution, shared": (cuda._solve_shared, substitution),
    "substitution, global": (cuda._solve_global, substitution),
    "queues": (cuda_queues._walk, queues),
    "iterations": (cuda_sweeps._solve, iterations),
}


def compile_ptx(function, signature, cc):
    return cuda.cuda.compile_ptx(function, signature, device=False, cc=cc)[0]


def ptx_of(kernel, real, cc):
    from numba import types

    function, signature = KERNELS[kernel]
    return compile_ptx(function.py_func, signature(types, getattr(types, real)), cc)


def ptxas():
    """The assembler from NVIDIA's wheel, or from the system."""
    roots = (
        importlib.util.find_spec("nvidia").submodule_search_locations
        if importlib.util.find_spec("nvidia")
        else []
    )
    found = [str(path) for root in roots for path in Path(root).glob("*/bin/ptxas")]
    path = found[0] if found else shutil.which("ptxas")
    assert path, "numba-cuda is installed, but no ptxas: pip install 'afnp[cuda]'"
    return path


def assemble(ptx, chip, tmp_path):
    """What the machine code takes: registers a thread, and bytes of stack,
    spills and fixed shared memory."""
    source = tmp_path / "kernel.ptx"
    source.write_text(ptx)
    command = [ptxas(), f"-arch={chip}", "-v", str(source), "-o", str(tmp_path / "kernel.cubin")]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    frame, stores, loads = re.search(
        r"(\d+) bytes stack frame, (\d+) .*stores, (\d+) .*loads", log
    ).groups()
    shared = re.search(r"(\d+) bytes smem", log)
    return {
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "stack": int(frame),
        "spills": int(stores) + int(loads),
        "shared": int(shared[1]) if shared else 0,
    }


def check(ptx, real, chip, tmp_path):
    if real == "float32":
        assert ".f64" not in ptx, "double precision in a single-precision kernel"
    assert ".local" not in ptx
    used = assemble(ptx, chip, tmp_path)
    print(f"{real} {chip}: {used}")
    assert used["stack"] == used["spills"] == used["shared"] == 0, used
    assert used["registers"] <= CEILING[real], used


@pytest.mark.parametrize("real", CEILING)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_for_every_chip(kernel, real, tmp_path):
    ptx = ptx_of(kernel, real, min(CHIPS.values()))
    for chip in CHIPS:
        check(ptx, real, chip, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("real", CEILING)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_compile_for_each_chip_with_its_own_instructions(kernel, real, chip, tmp_path):
    ptx = ptx_of(kernel, real, CHIPS[chip])
    check(ptx, real, chip, tmp_path)


def test_registers_leave_room_for_the_blocks_that_the_launch_counts_on():
    assert CEILING["float32"] * cuda.LANES * cuda.GROUPS * cuda.BLOCKS <= 65536
    assert CEILING["float64"] * cuda.LANES * cuda.GROUPS <= 65536
    assert cuda_queues.THREADS == cuda_sweeps.THREADS == cuda.LANES * cuda.GROUPS


@pytest.mark.parametrize(
    ("features", "hidden", "samples", "block"),
    [
        (43, (512, 512), 4, 3),
        (63, (512, 512), 4, 4),
        (784, (1024, 1024), 4, 13),
        (2, (64, 64), 1, 2),
    ],
)
def test_windows_of_real_networks_fit_into_shared_memory(features, hidden, samples, block):
    plan, row_bytes = network_plan(MaskedMLP(features, 2, hidden)), samples * cuda.LANES * 4
    _, got, rows, fits = cuda.fitting_window(plan, row_bytes)
    assert fits and rows * row_bytes <= gpu.SHARED_BYTES
    assert got == block
    assert got == plan.block or cuda._window(plan, got + 1)[1] * row_bytes > gpu.SHARED_BYTES


def test_a_window_too_large_for_shared_memory_is_known_as_such():
    plan = network_plan(MaskedMLP(2, 2, (512, 512)))
    assert cuda.fitting_window(plan, 512)[1:] == (plan.block, 1 + 2 + 512 + 512 + 4, False)


# The checks themselves can fail


def test_a_leak_of_double_precision_is_seen(tmp_path):
    from numba import types

    def leaky(x):
        x[0] = x[0] * 2.1

    ptx = compile_ptx(leaky, types.void(types.float32[::1]), (8, 0))
    with pytest.raises(AssertionError, match="double precision"):
        check(ptx, "float32", "sm_80", tmp_path)


def test_an_array_that_fell_out_of_the_registers_is_seen(tmp_path):
    from numba import types

    toolkit = cuda.cuda

    def falling(x, n):
        a = toolkit.local.array(32, np.float32)
        for i in range(32):
            a[i * n % 32] = x[i]
        x[0] = a[n]

    ptx = compile_ptx(falling, types.void(types.float32[::1], types.int64), (8, 0))
    assert assemble(ptx, "sm_80", tmp_path)["stack"] > 0
    with pytest.raises(AssertionError):
        check(ptx, "float32", "sm_80", tmp_path)
