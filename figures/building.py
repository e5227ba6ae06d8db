"""Build figures: compute, draw and record each of them, several side by side.

Each figure is built in a process that keeps to its share of the cores. Those that measure time wait
until nothing else is running.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from afnp.atomic import write_bytes
from figures import common

__all__ = ["build", "claim", "cores", "find", "in_turn", "names", "side_by_side", "takes_folder"]

FOLDER = Path(__file__).parent

LONG = ("01_chain_rule", "24_speech", "08_galaxies", "07_digits", "27_patches", "16_gallery")
"""Built first: a quick one, to have something to look at; then those that train for long."""

TIMED = (
    "04_determinant_cost",
    "05_sampling_cost",
    "13_roofline",
    "14_family",
    "22_attention",
    "23_sweeps",
    "31_million",
)
"""Built last, one after the other: what they show is time."""

ASIDE = ("24_speech",)
"""Ratios of times stand beside their claim, and rivals take turns: they need not be alone."""


def names() -> list[str]:
    """Return the figures' names, in order."""
    return sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))


def claim(name: str) -> str:
    """Return the first line of a figure's docstring, without running the script."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def find(wanted: str) -> str | None:
    """Return the figure of that name, of that name without its number, or of that number."""
    for name in names():
        number, short = name.split("_", 1)
        if wanted in (name, short, number, number.lstrip("0")):
            return name
    return None


def takes_folder(name: str) -> bool:
    """Return whether a figure reads a data set that the user brings."""
    return "folder" in inspect.signature(importlib.import_module(f"figures.{name}").data).parameters


def build(name: str, out: str | Path = common.OUT, quick: bool = False, **given: Path) -> float:
    """Compute and draw one figure; write its picture twice, its numbers once, and its own files.

    Returns
    -------
    float
        Seconds taken.
    """
    start = perf_counter()
    module = importlib.import_module(f"figures.{name}")
    with common.style():
        data = module.data(quick=quick, **given)
        pictures = {kind: _render(module.draw(data), kind) for kind in ("png", "svg")}
    seconds = perf_counter() - start
    record = {
        "figure": name,
        "claim": claim(name),
        "quick": quick,
        "seconds": round(seconds, 2),
        "numbers": data["numbers"],
        "versions": common.versions(),
        "machine": data.get("machine") or common.machine(),
    }
    pictures["json"] = common.as_json(record).encode()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{name}.{kind}": content for kind, content in pictures.items()}
    for file, content in {**written, **data.get("files", {})}.items():
        write_bytes(folder / file, content)
    return seconds


def _render(figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


# ---- several figures -----------------------------------------------------------------------------

Result = tuple[str, float, str]
"""A figure's name, the seconds it took, and the traceback if it failed."""

Say = Callable[[Sequence[str]], object]
"""Told which figures are in work."""


def in_turn(chosen: Sequence[str], out: Path, quick: bool, say: Say, **given: Path) -> Iterator:
    """Build figure after figure in this process; yield a ``Result`` for each."""
    for name in chosen:
        say([name])
        yield _result(name, out, quick, **given)


def side_by_side(
    chosen: Sequence[str], out: Path, quick: bool, say: Say, jobs: int
) -> Iterator[Result]:
    """Build figures in several processes, and those in ``TIMED`` afterwards in this one.

    Parameters
    ----------
    chosen : list of str
        Figures; those in ``LONG`` are begun first.
    out : Path
        Folder to write to.
    quick : bool
        Small settings.
    say : callable
        Told which figures are in work whenever that changes.
    jobs : int
        Number of processes.

    Yields
    ------
    Result
        One for each figure, as they are finished.
    """
    untimed = [name for name in chosen if name not in TIMED]
    waiting = [name for name in LONG if name in untimed]
    waiting += [name for name in untimed if name not in LONG]
    running: dict[Future, str] = {}
    with (
        _share_of_the_cores(jobs),
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[pool.submit(_result, name, out, quick)] = name
            say(sorted(running.values()))
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                yield done.result()
    yield from in_turn([name for name in chosen if name in TIMED], out, quick, say)


def _result(name: str, out: Path, quick: bool, **given: Path) -> Result:
    try:
        return name, build(name, out, quick, **given), ""
    except Exception:
        return name, 0.0, traceback.format_exc()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


THREADS = ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def _share_of_the_cores(jobs: int) -> Iterator[None]:
    """Let each process that is started meanwhile use its share, unless the user has said more."""
    share = str(max(1, cores() // jobs))
    ours = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, share))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
