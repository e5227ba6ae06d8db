"""Open the course: ``python -m lessons`` starts JupyterLab on the table of contents.

With ``--folder DIR`` on a copy, made there first: answers in it are never overwritten, and what was
solved is kept beside them. ``afnp lessons`` is the same with ``--folder afnp-lessons``. Further
arguments go to JupyterLab: ``afnp lessons --no-browser --port 9999``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lessons import folder as copies

__all__ = ["command", "environment", "main"]

LESSONS = Path(__file__).resolve().parent
CONTENTS = "00_contents.ipynb"


def command(folder: Path = LESSONS, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that serves a folder, and nothing above it, on this machine alone."""
    lab = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}"]
    return [*lab, f"--LabApp.default_url=/lab/tree/{CONTENTS}", *arguments]


def environment() -> dict[str, str]:
    """Return what the server and its kernels run under: afnp found, no pop-up, pictures inside."""
    added = {"PYTHONPATH": LESSONS.parent, "JUPYTER_CONFIG_PATH": LESSONS / "lab"}
    paths = {
        name: os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])])
        for name, path in added.items()
    }
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return {**kept, **paths}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options, others = _parser().parse_known_args(arguments)
    folder = LESSONS if options.folder is None else options.folder.resolve()
    try:
        if options.progress:
            print(copies.progress(folder))
            return 0
        if folder != LESSONS:
            _copy(folder)
    except OSError as error:
        print(f"lessons: {error}", file=sys.stderr)
        return 2
    if options.copy:
        return 0
    wanted = ("jupyterlab", "ipywidgets")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"the lessons need {' and '.join(missing)}: pip install 'afnp[lessons]'",
            file=sys.stderr,
        )
        return 1
    try:
        return subprocess.call(command(folder, others), env=environment())
    except KeyboardInterrupt:
        return 0


def _copy(folder: Path) -> None:
    kept = copies.copy(folder)
    print(f"lessons: {folder}")
    if kept:
        print(f"kept as you left them, though newer ones came: {', '.join(kept)}")


def _parser() -> argparse.ArgumentParser:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="afnp lessons", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--folder", type=Path, metavar="DIR", help="copy the course there first, and open the copy")
    add("--progress", action="store_true", help="say which exercises of the folder are solved")
    add("--copy", action="store_true", help="copy, and open nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
