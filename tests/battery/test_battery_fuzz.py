"""A million mutations of model files and checkpoints by a coverage-guided fuzzer."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "fuzz.py"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("mode", ["model", "checkpoint"])
def test_a_hundred_thousand_mutations(mode, seed, tmp_path):
    """A million in all; a process for each hundred thousand, since the fuzzer itself takes 12 kB of
    memory for every mutation and gives none back."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("NOTHING WAS FUZZED: pip install -e .[fuzz]")
    runs = int(os.environ.get("AFNP_FUZZ_RUNS", 100_000))
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            mode,
            str(tmp_path),
            f"-runs={runs}",
            f"-seed={seed}",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    tried = int(re.search(r"number_of_executed_units: (\d+)", done.stderr).group(1))
    print(f"\n{mode}: {tried:,} mutations, none of them got through")
    assert tried >= runs
