"""What the tests share: parameters that hide nothing, derivatives independent of the package,
a browser."""

import os
import shutil
import signal
import subprocess
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; compiled code still has its own threads
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import numpy as np
import pytest

from afnp.networks.masked_mlp import Feedforward

# a job in the background ignores Ctrl-C, and its children would too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = ["numpy", "numba"]
"""Who may do the arithmetic; whatever takes a backend is tested with each."""


@pytest.fixture(autouse=True)
def matplotlib_as_it_was():
    """Give Matplotlib its own settings back: a lesson changes them for its whole process."""
    yield
    if "matplotlib" in sys.modules:
        sys.modules["matplotlib"].rcdefaults()


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
        masked = isinstance(layer.conditioner, Feedforward)  # others stay as they begin
        for l, linear in enumerate(layer.conditioner.linears if masked else ()):
            W = p[linear.W]
            heard = layer.conditioner.mask(l)
            size = last if linear is layer.conditioner.linears[-1] else gain * np.sqrt(2)
            count = np.maximum(heard.sum(axis=1, keepdims=True), 1)
            drawn = rng.standard_normal(W.shape)
            W[:] = np.where(heard, size * drawn / np.sqrt(count), garbage * drawn)
            p[linear.b][:] = size * rng.standard_normal(p[linear.b].shape) / 2
    return flow


def norm_error(got, true):
    """Largest difference in units of the largest entry: an entry may be a sum that cancels,
    its error is not."""
    got = np.asarray(got)
    true = np.asarray(true)
    assert got.shape == true.shape
    largest = np.abs(true).max(initial=0.0)
    difference = np.abs(got - true).max(initial=0.0)
    return difference / largest if largest else difference


def shared_by_processes(tmp_path_factory):
    """A temporary folder that is one and the same for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def trained_flows(tmp_path_factory):
    """A folder for what figures train: one for all tests and processes, never the figures' own."""
    from figures import common

    folder = shared_by_processes(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "CACHE", folder / "trained_flows")
        yield common.CACHE


def chromium():
    """Where it is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def install_chromium(folder):
    """Install Debian's, in one process; others wait for it."""
    import fcntl

    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = ["apt-get", "update", "-qq"]
    install = ["apt-get", "install", "-y", "-qq", "chromium"]
    with (folder / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (update, install) if chromium() is None else ():
            subprocess.run(command, env=quietly, check=False, timeout=600)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A chromium, installed if it can be; one a process, because its driver allows no second."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if chromium() is None and root and shutil.which("apt-get"):
        install_chromium(shared_by_processes(tmp_path_factory))
    if (found := chromium()) is None:
        who = "apt-get could not install it" if root else "not root, so it cannot be installed here"
        missing = f"chromium is missing; {who}: apt-get install chromium"
        pytest.skip(f"NO BROWSER TEST WAS RUN: {missing}")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="NO BROWSER TEST WAS RUN: pip install playwright"
    )
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()
