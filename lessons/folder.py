"""A reader's own folder of lessons: copied once, refreshed where nothing was written, answers kept.

A file is the reader's as soon as it differs from what was last copied; ``.shipped.json`` remembers
what that was. The checker keeps what was right in ``.passed``, a file a lesson.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from afnp.atomic import write_bytes

__all__ = ["copy", "progress"]

LESSONS = Path(__file__).resolve().parent
SHIPPED, PASSED = ".shipped.json", ".passed"
LEFT_OUT = ("__init__.py", "__main__.py", "folder.py", "trained.py", "ruff.toml")
"""What serves the course and is no part of it; so are folders but for exercises and solutions."""


def copy(folder: Path) -> list[str]:
    """Copy the course; return the files with answers that no newer version was put over.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PASSED).mkdir(exist_ok=True)
    known, kept = _read(folder / SHIPPED), []
    for name in _names():
        content, target = (LESSONS / name).read_bytes(), folder / name
        digest = hashlib.sha256(content).hexdigest()
        before = hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else None
        if before in (None, known.get(name)):
            target.parent.mkdir(exist_ok=True)
            write_bytes(target, content)
            known[name] = digest
        elif digest not in (before, known.get(name)):
            kept.append(name)
    write_bytes(folder / SHIPPED, json.dumps(known, indent=1).encode())
    return kept


def progress(folder: Path) -> str:
    """Return a line a lesson: how many exercises were right, and which are still open.

    Raises
    ------
    FileNotFoundError
        If no course was copied there.
    """
    if not (folder / PASSED).is_dir():
        raise FileNotFoundError(f"{folder}: no lessons were copied there yet")
    return "\n".join(_line(folder, path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))[1:])


def _line(folder: Path, notebook: Path) -> str:
    kept = _read(folder / PASSED / f"{notebook.stem[:2]}.json")
    title = notebook.stem[3:].replace("_", " ")
    if not kept:
        return f"{notebook.stem[:2]}  {title:32s}  -"
    still = [name for name in kept["all"] if name not in kept["right"]]
    count = f"{len(kept['all']) - len(still)} of {len(kept['all'])}"
    return f"{notebook.stem[:2]}  {title:32s}  {count}" + (
        f"; open: {', '.join(still)}" * bool(still)
    )


def _names() -> list[str]:
    """Return the course's files, relative to its folder."""
    patterns = ("*.ipynb", "*.py", "exercises/*.py", "solutions/*.py")
    found = (path for pattern in patterns for path in sorted(LESSONS.glob(pattern)))
    return [path.relative_to(LESSONS).as_posix() for path in found if path.name not in LEFT_OUT]


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
