"""The course in a browser: JupyterLite beside the site, with the notebooks and this afnp's wheel.

``python -m lessons.web --live`` makes it. Python itself, compiled for browsers, is Pyodide; pages
fetch it from its usual host, or it is copied from a folder that the builder names. There is no
Numba in it and there are no threads: all code runs in NumPy. A browser gives such pages their files
over http alone, not from file://.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from lessons.folder import copy

__all__ = ["NEEDED", "address", "build", "notebook"]

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("jupyterlite_core", "jupyterlite_pyodide_kernel", "build", "setuptools")
KERNEL = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
RUNTIME = ("pyodide.mjs", "pyodide-lock.json")
"""What a folder with Pyodide holds, beside much else."""


def address(name: str) -> str:
    """Return where a notebook runs, relative to the site's front page.

    >>> address("04_masks")
    'live/lab/index.html?path=04_masks.ipynb'
    """
    return f"live/lab/index.html?path={name}.ipynb"


def build(work: Path, html: Path, pyodide: Path | None = None, trained: Path | None = None) -> None:
    """Write the folder ``live`` of a site: pages, notebooks and what they import, afnp's wheel.

    Parameters
    ----------
    work : Path
        A folder for what is made on the way; an old one is removed.
    html : Path
        The site.
    pyodide : Path, optional
        A folder with Pyodide's own files, to be copied; without it pages fetch them.
    trained : Path, optional
        A folder with the lessons' trainings, which are then taken up instead of run.

    Raises
    ------
    FileNotFoundError
        If the folder holds no Pyodide.
    RuntimeError
        If a tool fails; the message ends as its output does.
    """
    lacking = [name for name in RUNTIME if pyodide and not (pyodide / name).is_file()]
    if lacking:
        raise FileNotFoundError(f"{pyodide}: expected Pyodide, found no {', '.join(lacking)}")
    shutil.rmtree(work, ignore_errors=True)
    contents(work / "contents", trained)
    if pyodide:
        shutil.copytree(pyodide, work / "lite" / "static" / "pyodide")
    (work / "lite").mkdir(exist_ok=True)
    tree(work / "tree")
    _run(work, "build", "--no-isolation", "--outdir", work / "dist", work / "tree")
    (wheel,) = (work / "dist").glob("*.whl")
    shutil.rmtree(html / "live", ignore_errors=True)
    _run(
        work,
        "jupyterlite_core",
        "build",
        *("--lite-dir", work / "lite"),
        *("--contents", work / "contents"),
        *("--piplite-wheels", wheel),
        *("--output-dir", html / "live"),
        *("--apps", "lab"),
        *("--no-sourcemaps", "--no-unused-shared-packages"),
    )


def tree(folder: Path) -> None:
    """Copy what a wheel is made of: who makes one writes beside it, and others may do so too."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "out", "cache")
    for name in ("afnp", "lessons", "figures"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)


def contents(folder: Path, trained: Path | None = None) -> None:
    """Lay out the files that the browser's JupyterLab lists."""
    copy(folder)
    shutil.copy(ROOT / "lessons" / "trained.py", folder)
    if trained and trained.is_dir():
        shutil.copytree(trained, folder / "trained")
    for hidden in folder.glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    for path in folder.glob("*.ipynb"):
        shipped = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(notebook(shipped), indent=1), encoding="utf-8")


def notebook(shipped: dict[str, Any]) -> dict[str, Any]:
    """Return a lesson as it runs in a browser: its first cell of code installs what it imports."""
    packages = ["afnp", "ipywidgets"]
    if any('data.load("digits")' in "".join(cell["source"]) for cell in shipped["cells"]):
        packages.append("scikit-learn")
    title, *others = shipped["cells"]
    install: dict[str, Any] = {
        "cell_type": "code",
        "id": "live-install",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": f"%pip install -q {' '.join(packages)}\n{RECALL}",
    }
    said = {"cell_type": "markdown", "id": "live-said", "metadata": {}, "source": SAID}
    metadata = {**shipped["metadata"], "kernelspec": KERNEL}
    return {**shipped, "metadata": metadata, "cells": [title, said, install, *others]}


RECALL = "import pathlib, trained\ntrained.recall(pathlib.Path('trained'))"
SAID = (
    "*This page is a computer: the cells run in your browser, and what you write stays in it. All "
    "of it is plain NumPy, on one core and without fast matrix products. The lesson's own trainings "
    "are taken up as they ended elsewhere; one that you change is run, and may take a minute where "
    "an installed afnp takes a second. First run the cell below.*"
)


def _run(folder: Path, module: str, *arguments: object) -> None:
    """Run a module in a process of its own, in a folder where it may leave something."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{(done.stdout + done.stderr)[-4000:]}")
