"""What the tests share: parameters that hide nothing, derivatives independent of the package,
a browser."""

import os
import shutil
import signal
import subprocess

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; compiled code still has its own threads
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import numpy as np
import pytest

from afnp.networks import masks

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a job in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = ["numpy", "numba"]
"""Who may do the arithmetic; whatever takes a backend is tested with each."""


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def complex_step(f, x, step=1e-30):
    """Jacobian of a real-analytic f at x, shape f(x).shape + x.shape, exact to rounding:
    Im f(x + ih) / h."""
    x = np.asarray(x, dtype=np.complex128)
    columns = []
    for k in range(x.size):
        moved = x.copy()
        moved.flat[k] += 1j * step
        columns.append(np.imag(f(moved)) / step)
    return np.stack(columns, axis=-1).reshape(*np.shape(columns[0]), *x.shape)


def lively(flow, seed=0, gain=1.0, last=0.5, garbage=0.0):
    """Fill a flow with random parameters, in place: small ones would hide most mistakes.

    Hidden rows keep the size of what they hear (times ``gain``), the last layers multiply it by
    ``last``; ``garbage`` is the size of what is written where the masks forbid to read.
    """
    rng = np.random.default_rng([seed, 99])
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
        for linear in layer.conditioner.linears if layer.conditioner is not None else ():
            W, prefix = p[linear.W], linear.prefix[:, None]
            size = last if linear is layer.conditioner.linears[-1] else gain * np.sqrt(2)
            heard = masks.mask(linear.prefix, W.shape[1])
            drawn = rng.standard_normal(W.shape)
            W[:] = np.where(heard, size * drawn / np.sqrt(np.maximum(prefix, 1)), garbage * drawn)
            p[linear.b][:] = size * rng.standard_normal(p[linear.b].shape) / 2
    return flow


def norm_error(got, true):
    """Largest difference in units of the largest entry: an entry may be a sum that cancels,
    its error is not."""
    got, true = np.asarray(got), np.asarray(true)
    assert got.shape == true.shape
    largest = np.abs(true).max(initial=0.0)
    difference = np.abs(got - true).max(initial=0.0)
    return difference / largest if largest else difference


@pytest.fixture(scope="session")
def trained_flows(tmp_path_factory):
    """A folder for what figures train: one for all tests and processes, never the figures' own."""
    from figures import common

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "CACHE", folder / "trained_flows")
        yield common.CACHE


@pytest.fixture(scope="session")
def browser():
    """A chromium: Debian's, installed if it can be; one for all tests,
    because its driver allows no second."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "chromium"],
        ):
            subprocess.run(command, env=quietly, check=False, timeout=600)
        found = shutil.which("chromium")
    if not found:
        who = (
            "apt-get could not install it"
            if os.geteuid() == 0
            else "not root, so it cannot be installed here"
        )
        pytest.skip(
            f"NO BROWSER TEST WAS RUN: chromium is missing; {who}: apt-get install chromium"
        )
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="NO BROWSER TEST WAS RUN: pip install playwright"
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()
