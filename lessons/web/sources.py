"""What the site is built from: a folder like the repository, in which documents' links hold.

The front page is one screen: what afnp is, and where to start. Notebooks are copied with three
changes: where to run them and where to get them is said at the top, drawing code is folded, and
below a picture that moves stands what was recorded.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from lessons.folder import copy
from lessons.web import explainer, gallery, live, reference
from lessons.web.gallery import TURNED

__all__ = ["lesson", "write"]

ROOT = Path(__file__).parents[2]
ABOUT = (
    "README.md",
    "lessons/README.md",
    "lessons/TEACHERS.md",
    "figures/README.md",
    "afnp/README.md",
    "afnp/TASKS.md",
    "afnp/verify/README.md",
    "afnp/verify/PEERS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "THIRD_PARTY.md",
)


def write(folder: Path, runs: bool = False) -> None:
    """Write all sources into a new folder; where lessons run beside them, pages say so."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = lessons(folder / "lessons", runs)
    reference.write(folder / "reference")
    gallery.write(folder / "figures")
    (folder / "index.md").write_text(front(names), encoding="utf-8")
    (folder / "explainer.md").write_text(explainer.page(), encoding="utf-8")
    for name in (*ABOUT, *linked()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    kept = ROOT / "figures" / "gallery"
    shutil.copytree(kept, folder / "figures" / "gallery")


def linked() -> list[str]:
    """Return the files that the documents link to and that no other part of the site makes."""
    found = set()
    for name in ABOUT:
        for target in re.findall(r"\]\(([\w/.-]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            path = (ROOT / name).parent.joinpath(target).resolve()
            if path.is_file() and path.suffix not in (".md", ".ipynb", ".png"):
                found.add(path.relative_to(ROOT.resolve()).as_posix())
    return sorted(found)


def front(names: list[str]) -> str:
    """Return the front page, with the tables of contents that make the sidebar."""
    trees = {
        "Start here": ["explainer", *(f"lessons/{name}" for name in names)],
        "Look up": ["figures/index", "reference/index"],
        "About": [name.removesuffix(".md") for name in ABOUT],
    }
    return FRONT.replace("COUNT", str(len(gallery.names()))) + "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"
        for caption, entries in trees.items()
    )


FRONT = """# afnp

A **normalizing flow** is an invertible map between noise and data: one direction makes samples, the
other says exactly how probable any point is. afnp has the autoregressive ones, in NumPy that can be
read, with every derivative by hand, checked against mathematics, and fast.

::::{container} doors
[**Watch one work**: every number on screen](explainer.md)

[**The course**: fifteen lessons, from the chain rule on](lessons/00_contents.ipynb)

[**Figures**: COUNT claims, with the evidence](figures/index.rst)

[**Reference**: every public name](reference/index.rst)

[**Verify your own flow**](reference/afnp.verify.rst)
::::

```{image} figures/gallery/32_density_and_samples.png
:alt: Noise becomes samples of a spiral, and beside them the density of the same flow
:class: picture front
```

```console
$ pip install .          # in a clone
```

```python
import afnp

x = afnp.data.load("galaxies")
flow = afnp.maf(7, hidden=(64, 64), preprocess=afnp.preprocessing(x.train))
afnp.fit(flow, x.train, x.val, epochs=10)
print(flow.log_prob(x.test).mean(), "nats")
samples = flow.sample(1000, rng=0)
print(afnp.verify.check_flow(flow))
```
"""


def lessons(folder: Path, runs: bool = False) -> list[str]:
    """Copy the lessons, and what their kernels import; return the notebooks' names."""
    home = ROOT / "lessons"
    folder.mkdir()
    for path in home.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("exercises", "solutions"):
        shutil.copytree(home / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    paths = sorted(home.glob("[0-9][0-9]_*.ipynb"))
    pack(paths, folder / "download")
    for path in paths:
        notebook = lesson(json.loads(path.read_text(encoding="utf-8")), path.name, runs)
        (folder / path.name).write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    return [path.stem for path in paths]


def pack(paths: list[Path], folder: Path) -> None:
    """Lay out what readers download: each notebook, and all of them with what they import."""
    course = folder / "afnp-lessons"
    course.mkdir(parents=True)
    copy(course)
    with zipfile.ZipFile(folder / "afnp-lessons.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(course.rglob("*")):
            archive.write(path, path.relative_to(folder))
    shutil.rmtree(course)
    for path in paths:
        shutil.copy(path, folder)


def lesson(notebook: dict[str, Any], name: str, runs: bool = False) -> dict[str, Any]:
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
            cells.append(_note(f"{cell['id']}-moves", MOVES.format(names=names)))
    if not name.startswith("00"):
        button = BUTTON.format(address=live.address(Path(name).stem)) if runs else ""
        cells.insert(1, _note("run-it", button + RUN.format(name=name)))
        cells.insert(2, _note("turned", TURNED, "aside turned"))
        cells.insert(3, KEEP)
    return {**notebook, "cells": cells}


KEEP: dict[str, Any] = {
    "cell_type": "code",
    "id": "keep-trainings",
    "metadata": {"tags": ["remove-cell"]},
    "execution_count": None,
    "outputs": [],
    "source": (
        "import os, pathlib, trained\n"
        "trained.keep(pathlib.Path(os.environ['AFNP_RECORD']).with_name('trained'))"
    ),
}
"""On the site's own copy of a lesson: what its trainings end with is for the live one."""

MOVES = "Recorded at some positions of {names}; in JupyterLab it moves freely."
BUTTON = '<a class="run" href="../{address}">Run this lesson</a> in your browser, slowly.\n\n'
RUN = (
    "To run it, turn its knobs and be checked: `python -m lessons`, then `{name}`. Or download "
    "{{download}}`this notebook <download/{name}>`, or "
    "{{download}}`all of them <download/afnp-lessons.zip>` with what they import."
)


def moved(code: str) -> list[str]:
    """Return the names of the controls in a cell that calls ``easel.play``."""
    call = re.search(r"^easel\.play\((.*)\)", code, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<![=\w(])(\w+)=", call[1]) if call else []


def _note(id: str, text: str, kind: str = "aside") -> dict[str, Any]:
    source = f"```{{container}} {kind}\n{text}\n```"
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}
