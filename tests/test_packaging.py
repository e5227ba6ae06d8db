"""What a user's machine meets: a quick import, parts found when named, and nothing needed but NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import afnp

ROOT = Path(__file__).parents[1]


def python(code, folder, **environment):
    """Run code in a fresh interpreter that finds this tree; return what it printed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- import afnp ---------------------------------------------------------------------------------

HEAVY = ("numba", "llvmlite", "matplotlib", "tqdm", "pandas", "sklearn", "scipy", "torch", "dask")

SECONDS = """
import sys, time
import numpy
start = time.process_time()
import afnp
print(time.process_time() - start)
print(*(name for name in {heavy} if name in sys.modules))
"""


def test_the_import_is_quick_and_brings_nothing_heavy(tmp_path):
    """Processor seconds beside NumPy, the best of three: other programs do not count."""
    printed = [python(SECONDS.format(heavy=HEAVY), tmp_path).split("\n") for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in printed) < 0.2
    assert all(heavy == "" for _, heavy, *_ in printed)


def test_every_part_is_found_when_it_is_named(tmp_path):
    """All folders and public files of the package, after nothing but ``import afnp``."""
    parts = {path.stem for path in (ROOT / "afnp").glob("*.py")}
    parts |= {path.parent.name for path in (ROOT / "afnp").glob("*/__init__.py")}
    parts -= {"__init__", "__main__", "cli"}
    code = "import afnp\nfor name in {!r}: print(getattr(afnp, name).__name__)"
    found = python(code.format(sorted(parts)), tmp_path).split()
    assert found == [f"afnp.{name}" for name in sorted(parts)]
    assert parts <= set(dir(afnp))


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'afnp' has no attribute 'flwo'"):
        afnp.flwo  # noqa: B018
    assert not hasattr(afnp, "__wrapped__")


def test_the_version_is_one():
    assert afnp.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "version = attr: afnp.__version__" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
