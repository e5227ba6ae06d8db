"""What the site is built from: a folder like the repository, in which the documents' own links hold.

The README is the front page. Notebooks are copied with three changes: where to run them is said at
the top, drawing code is folded, and below a picture that moves stands where it does.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from lessons.web import gallery, reference

__all__ = ["lesson", "write"]

ROOT = Path(__file__).parents[2]
ABOUT = ("CONTRIBUTING.md", "CHANGELOG.md", "afnp/verify/PEERS.md", "THIRD_PARTY.md")


def write(folder: Path) -> None:
    """Write all sources into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = lessons(folder / "lessons")
    reference.write(folder / "reference")
    gallery.write(folder / "figures")
    (folder / "index.md").write_text(front(names), encoding="utf-8")
    for name in (*ABOUT, "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    kept = ROOT / "figures" / "gallery"
    shutil.copytree(kept, folder / "figures" / "gallery")


def front(names: list[str]) -> str:
    """Return the README, with the tables of contents that make the sidebar."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    trees = {
        "The course": [f"lessons/{name}" for name in names],
        "Look up": ["figures/index", "reference/index"],
        "About": [name.removesuffix(".md") for name in ABOUT],
    }
    return readme + "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"
        for caption, entries in trees.items()
    )


def lessons(folder: Path) -> list[str]:
    """Copy the lessons, and what their kernels import; return the notebooks' names."""
    home = ROOT / "lessons"
    folder.mkdir()
    for path in home.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("exercises", "solutions"):
        shutil.copytree(home / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    paths = sorted(home.glob("[0-9][0-9]_*.ipynb"))
    for path in paths:
        notebook = lesson(json.loads(path.read_text(encoding="utf-8")), path.name)
        (folder / path.name).write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    return [path.stem for path in paths]


def lesson(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a notebook as the site shows it."""
    cells: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "picture" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
        cells.append(cell)
        controls = moved("".join(cell["source"])) if cell["cell_type"] == "code" else []
        if controls:
            names = ", ".join(f"*{control.replace('_', ' ')}*" for control in controls)
            cells.append(_note(f"{cell['id']}-moves", f"In JupyterLab this moves: {names}."))
    if not name.startswith("00"):
        cells.insert(1, _note("run-it", RUN.format(name=name)))
    return {**notebook, "cells": cells}


RUN = "To run it, turn its knobs and be checked: `python -m lessons`, then `{name}`."


def moved(code: str) -> list[str]:
    """Return the names of the controls in a cell that calls ``easel.play``."""
    call = re.search(r"^easel\.play\((.*)\)", code, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<![=\w(])(\w+)=", call[1]) if call else []


def _note(id: str, text: str) -> dict[str, Any]:
    source = f"```{{container}} aside\n{text}\n```"
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}
