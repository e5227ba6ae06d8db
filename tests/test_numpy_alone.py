"""NumPy alone is enough: no Numba, no tqdm, no threads, as in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK = """
import sys, threading

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in BLOCKED:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)

def refuse(self):
    raise RuntimeError("can't start new thread")

if "threads" in BLOCKED:
    threading.Thread.start = refuse
"""

PROGRAM = """
import warnings
import numpy as np
import afnp

x = np.random.default_rng(0).standard_normal((4000, 3)) + 5
for make in (afnp.maf, afnp.iaf, afnp.realnvp, afnp.nsf, afnp.maf_mog):
    flow = make(3, hidden=(32, 32), transforms=2, preprocess=afnp.preprocessing(x))
    afnp.fit(flow, x[:500], x[500:600], epochs=1)
    assert np.isfinite(flow.log_prob(x)).all()               # enough work to be compiled
    assert flow.sample(4000, rng=0).shape == (4000, 3)
    assert np.isfinite(flow.loss_and_grad(x)[1]).all()
afnp.save(flow, "f.afnp")
assert (afnp.load("f.afnp").theta == flow.theta).all()
series = afnp.wavenet_flow(64, channels=4, layers=3, transforms=1)
assert series.sample(3, rng=0).shape == (3, 64)
binary = afnp.DiscreteMADE(4, hidden=(8,))
assert binary.sample(5, rng=0).shape == (5, 4)
print("done")
"""

CHECKED = """
import afnp
flow = afnp.maf(3, hidden=(16,), transforms=2)
report = afnp.verify.check_flow(flow, level="quick")
assert report.ok and len(report.passed) > 10, report
print("done")
"""

PLUGIN = """
import sys
import pytest
from pathlib import Path
Path("ours.py").write_text("flow = {'normalize': lambda x: (x, 0 * x[:, 0]), 'features': 2}")
sys.path.insert(0, ".")
options = ["--afnp-flow", "ours:flow", "--afnp-level", "quick", "-q", "-p", "no:cacheprovider"]
assert pytest.main(["-p", "afnp.verify.pytest_plugin", *options]) == 0
assert not {"numba", "matplotlib"} & set(sys.modules)
print("done")
"""

UNIX = ("fcntl", "grp", "pwd", "resource", "termios")
"""What Python itself lacks where it has been compiled for browsers."""
EVERYTHING = ("numba", "llvmlite", "tqdm", "threads", *UNIX)
CASES = [("numba", "llvmlite"), ("tqdm",), ("threads",), EVERYTHING]


def run(code, folder, blocked):
    """Run code in an interpreter that lacks something; return what it printed."""
    # a child that cannot import Numba must not be told how many threads it has
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {blocked!r}\n{BLOCK}\n{code}"],
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("blocked", CASES, ids=["numba", "tqdm", "threads", "everything"])
def test_everything_but_compiled_code_works(blocked, tmp_path):
    assert run(PROGRAM, tmp_path, blocked).endswith("done\n")


@pytest.mark.parametrize("blocked", [EVERYTHING], ids=["everything"])
def test_the_checks_run(blocked, tmp_path):
    assert run(CHECKED, tmp_path, blocked).endswith("done\n")


def test_the_plugin_makes_its_tests(tmp_path):
    blocked = ("numba", "llvmlite", "tqdm", "matplotlib")
    assert run(PLUGIN, tmp_path, blocked).endswith("done\n")


def test_what_was_asked_for_by_name_is_missed_by_name(tmp_path):
    code = """
import afnp
try:
    afnp.made(2, hidden=(4,)).sample(3, backend="numba")
except ImportError as error:
    print(error)
"""
    assert "numba" in run(code, tmp_path, ("numba", "llvmlite")).lower()


LESSONS = sorted((ROOT / "lessons").glob("[01][0-9]_*.ipynb"))[1:]


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lessons_run(lesson, tmp_path):
    """Cells one after another, as shipped: where exercises are open, their checks say so."""
    cells = [
        "".join(cell["source"])
        for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    code = "\n".join(
        f"exec(compile({cell!r}, 'cell {k}', 'exec'), globals())" for k, cell in enumerate(cells)
    )
    said = run(
        f"import sys; sys.path.insert(0, {str(lesson.parent)!r})\n{code}", tmp_path, EVERYTHING
    )
    assert "exercises are right" in said
