"""Open the course: ``python -m lessons`` starts JupyterLab on the table of contents.

Further arguments go to JupyterLab: ``python -m lessons --no-browser --port 9999``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "main"]

LESSONS = Path(__file__).resolve().parent
CONTENTS = "00_contents.ipynb"


def command(arguments: Sequence[str] = ()) -> list[str]:
    """Return the command that serves this folder, and nothing above it, on this machine alone."""
    lab = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={LESSONS}"]
    return [*lab, f"--LabApp.default_url=/lab/tree/{CONTENTS}", *arguments]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    missing = [
        name for name in ("jupyterlab", "ipywidgets") if importlib.util.find_spec(name) is None
    ]
    if missing:
        print(
            f"the lessons need {' and '.join(missing)}: pip install -e '.[lessons]'",
            file=sys.stderr,
        )
        return 1
    paths = [
        str(LESSONS.parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]  # afnp, installed or not
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop(
        "MPLBACKEND", None
    )  # pictures belong into the notebook, whatever other programs are told
    try:
        return subprocess.call(
            command(sys.argv[1:] if arguments is None else arguments), env=environment
        )
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
