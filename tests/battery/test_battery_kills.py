"""Training killed at random moments: nothing unreadable or left behind, the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kills import FAMILIES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

SCRIPT = Path(__file__).parent / "kills.py"


def killed(family, engine, kills, tmp_path, seed=0):
    command = [sys.executable, str(SCRIPT), family, engine, str(kills), str(seed), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{family}, {engine}: {counts}")
    assert counts["kills"] >= kills
    assert counts["unreadable"] == counts["left behind"] == 0
    assert counts["equal"] == counts["resumed"] > 0


def test_a_few_kills(tmp_path):
    killed("maf", "numpy", 6, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_many_kills(family, engine, tmp_path):
    """32 each: 1,024 kills over all families and both engines."""
    killed(family, engine, 32, tmp_path)
