r"""What the figures share: a style, trained flows from a cache, fair timing, the machine.

A figure is a module ``NN_name.py``: its docstring's first line is the claim, ``data(quick=False)``
computes a dict (``numbers`` in it are the claim's evidence, plain JSON values), ``draw(data)``
makes the Figure.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

import afnp
from afnp import files
from afnp.train import History
from afnp.verify import check_flow

__all__ = [
    "CACHE",
    "COLORS",
    "OUT",
    "as_json",
    "below",
    "caption",
    "machine",
    "median_seconds",
    "note",
    "one_thread",
    "slope",
    "style",
    "trained",
    "verified",
    "versions",
]

HOME = Path(__file__).resolve().parent
OUT = HOME / "out"
CACHE = Path(os.environ.get("AFNP_FIGURES_CACHE", HOME / "cache"))
"""Where trained flows are kept; everything in it can be deleted."""

TRAINING = 1
"""Part of every cache key. Raise it when the same recipe gives other parameters than before."""

COLORS = {
    "blue": "#0072B2",
    "red": "#D55E00",
    "green": "#009E73",
    "yellow": "#E69F00",
    "sky": "#56B4E9",
    "pink": "#CC79A7",
    "ink": "#222222",
    "grey": "#767676",
    "light": "#DDDDDD",
}
"""Okabe and Ito's colours, which the colour-blind tell apart; in grey, line styles and direct
labels do."""

SHEET = {
    "axes.edgecolor": COLORS["grey"],
    "axes.labelcolor": COLORS["ink"],
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.use": True,
    "figure.figsize": (9, 4.2),
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "afnp",
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["grey"],
    "xtick.labelcolor": COLORS["ink"],
    "xtick.labelsize": 9,
    "ytick.color": COLORS["grey"],
    "ytick.labelcolor": COLORS["ink"],
    "ytick.labelsize": 9,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save under the one style sheet; Matplotlib's settings are restored afterwards."""
    cycle = cycler(
        color=[COLORS[name] for name in ("blue", "red", "green", "yellow", "ink")],
        linestyle=["-", "--", "-.", ":", "-"],
        marker=["o", "s", "^", "D", "v"],
    )
    with matplotlib.style.context(["default", {**SHEET, "axes.prop_cycle": cycle}]):
        yield


def caption(figure: Figure, claim: str) -> None:
    """Put the claim above everything, left-aligned, in as few lines as fit, of about one length."""
    width = int(
        figure.get_figwidth() * 72 / (12 * 0.6)
    )  # points a line, over an average bold letter at 12 pt
    lines = len(textwrap.wrap(claim, width))
    while width > 1 and len(textwrap.wrap(claim, width - 1)) == lines:
        width -= 1
    figure.suptitle("\n".join(textwrap.wrap(claim, width)), x=0.01, ha="left")


def note(figure: Figure, text: str) -> None:
    """Put small print below everything, left-aligned, lines broken as given."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9)


# ---- trained flows -------------------------------------------------------------------------------


def below(heights: Sequence[float], gap: float) -> np.ndarray:
    r"""Return labels' heights on a logarithmic axis, moved down where they would overlap.

    .. math:: \log y_{(k+1)} \le \log y_{(k)} - \mathrm{gap}

    y are the heights from the highest to the lowest.
    """
    result = np.array(heights)
    order = np.argsort(-result, kind="stable")
    for higher, lower in zip(order, order[1:], strict=False):
        result[lower] = min(result[lower], result[higher] * np.exp(-gap))
    return result


def trained(
    flow: afnp.Flow,
    x_train,
    x_val=None,
    *,
    cache: str | os.PathLike | None = None,
    progress=None,
    **fit_options,
) -> tuple[afnp.Flow, History]:
    """Train the flow in place as ``afnp.fit`` would, or take what the same recipe gave before.

    Parameters
    ----------
    flow : Flow
        Its configuration and its present parameters are part of the recipe.
    x_train, x_val : (N, D) arrays
    cache : path, optional
        A folder, ``CACHE`` if left out; each file in it is a model that ``afnp.load`` reads.
    progress : bool, optional
        A bar while training; where there is a terminal, if left out.
    **fit_options
        As for ``afnp.fit``; arrays among them (contexts) count with their contents.

    Returns
    -------
    flow : Flow
        The one that was given.
    history : afnp.train.History
    """
    folder = CACHE if cache is None else Path(cache)
    path = folder / f"{_key(flow, x_train, x_val, fit_options)}.afnp"
    try:
        header, arrays = files.read(path, "model")
        flow.theta = arrays["theta"]
        return flow, History(**header["notes"]["history"])
    except (FileNotFoundError, files.ModelFileError):
        pass
    progress = sys.stderr.isatty() if progress is None else progress
    history = afnp.fit(flow, x_train, x_val, progress=progress, **fit_options)
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    folder.mkdir(parents=True, exist_ok=True)
    files.write(
        path,
        "model",
        {"flow": flow.config(), "notes": {"history": asdict(history)}},
        {"theta": flow.theta},
    )
    return flow, history


QUICK_CHECKS = ("dependency", "triangular", "log_det", "round_trip")
"""Enough to see that a flow is one; the others take their time on large networks."""


def verified(flow: afnp.Flow, quick: bool = False) -> dict:
    """Check a flow at its own parameters; return what passed, and what could not be decided there.

    Raises
    ------
    AssertionError
        If a check fails: no figure is drawn of a flow that is not one.
    """
    report = check_flow(
        flow, parameters="own", level="quick", checks=QUICK_CHECKS if quick else None
    )
    report.raise_if_failed()
    return {"passed": report.passed, "not_run": report.not_run}


def _key(flow: afnp.Flow, x_train, x_val, fit_options: Mapping) -> str:
    """Return the recipe's hash: everything that the trained parameters depend on."""
    given = {"x_train": x_train, "x_val": x_val, **fit_options}
    recipe = {name: _fingerprint(value) for name, value in given.items()}
    recipe |= {"flow": flow.config(), "theta": _fingerprint(flow.theta), "training": TRAINING}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24]


def _fingerprint(value):
    """Return arrays as type, shape and hash of the contents; anything else as it is."""
    if not isinstance(value, (np.ndarray, list, tuple)):
        return value
    a = np.ascontiguousarray(value)
    return [a.dtype.str, list(np.shape(value)), hashlib.sha256(a.tobytes()).hexdigest()]


# ---- timing --------------------------------------------------------------------------------------


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep products and compiled code on one core: timings then mean the same on a busy machine.

    For NumPy's products this needs threadpoolctl, which scikit-learn brings; ``machine`` tells what
    was used.
    """
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with _one_blas_thread():
            yield
    finally:
        numba.set_num_threads(before)


def _one_blas_thread():
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")


def median_seconds(
    functions: Mapping[str, Callable[[], object]], repeats: int, warm: bool = True
) -> dict[str, dict[str, float]]:
    """Time rivals in turn, so that whatever else the machine does meets them all alike.

    Parameters
    ----------
    functions : dict of str to callable
        Each is called without arguments.
    repeats : int
        Rounds; every round calls each rival once.
    warm : bool
        Call each once before, unmeasured.

    Returns
    -------
    dict
        ``{"median": s, "minimum": s}`` for each name, in seconds.

    Examples
    --------
    >>> times = median_seconds({"sum": lambda: sum(range(1000))}, repeats=3)
    >>> times["sum"]["median"] >= times["sum"]["minimum"] > 0
    True
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(-1 if warm else 0, repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_ >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: {"median": float(np.median(t)), "minimum": min(t)} for name, t in times.items()}


def slope(x, y) -> float:
    r"""Return s of the best :math:`y \approx c\, x^s`, by least squares on the logarithms.

    Examples
    --------
    >>> round(slope([1, 2, 4], [3, 24, 192]), 6)
    3.0
    """
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---- the record ----------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions that a picture depends on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "matplotlib": matplotlib.__version__,
    }


def machine() -> dict[str, object]:
    """Return what timings depend on: processor, cores, Python, NumPy, and NumPy's BLAS."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": _blas(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{found.get('name')} {found.get('version')}"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    pools = [pool for pool in pools if "numpy" in pool["filepath"]] or pools  # SciPy brings its own
    return "; ".join(
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}, threads: "
        f"{pool['num_threads']}"
        for pool in pools
    )


def as_json(record: Mapping) -> str:
    """Write a record as JSON: NumPy's arrays become plain, NaN and infinity are refused.

    Raises
    ------
    ValueError
        If a number is not finite.
    TypeError
        If a value is neither JSON nor NumPy.
    """
    return json.dumps(record, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"expected JSON or NumPy values, got {type(value).__name__}")
