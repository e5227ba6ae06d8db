"""Every Python that is declared, and the oldest libraries: the core of the tests, in environments
of their own.

A Python that is not on the machine is skipped, and the reason says so.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.10", "3.12", "3.13")
"""Beside the one that runs the tests; the first that is found gets the oldest libraries."""
NEWEST_OF_THE_OLDEST = "3.12"
"""For later ones there is no numba 0.60 and no NumPy 1.26."""

FILES = ("chain_rule", "masks", "minimal", "flows", "train", "files", "numpy_alone")
LEFT_OUT = "not kill_9 and not float32_is_float32 and not tqdm and not threads"
"""Of these files: what takes longest and says least of a Python or a library."""


def interpreter(version):
    """Return a Python that starts and makes environments, or None; a pyenv shim may do neither."""
    name = f"python{version}"
    found = [Path(folder) / name for folder in os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))
    found += sorted(Path.home().glob(f".local/share/uv/python/cpython-{version}.*/bin/{name}"))
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for path in filter(Path.is_file, found):
        said = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.strip() == version:
            return path
    return None


def requirements(oldest):
    """Return what setup.cfg asks for; the oldest of each, if that is wanted."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = config["options"]["install_requires"].split("\n")
    lines = [line for line in declared if line and not line.startswith("#")]
    return [re.sub(r">=([\d.]+)", r"==\1.*", line) if oldest else line for line in lines]


def run(command, folder):
    """Run a command with nothing of this test run's settings; return what it printed."""
    ours = ("PYTEST", "NUMBA", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**kept, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_the_oldest_libraries_are_those_that_are_declared():
    oldest = requirements(oldest=True)
    assert oldest[0] == "numpy==1.26.*" and oldest[1].startswith("numba==0.60.*")
    assert len(oldest) == len(requirements(oldest=False)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_core_of_the_tests_passes(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"PYTHON {version} WAS NOT TESTED: no python{version} that starts was found")
    oldest = version == next(v for v in VERSIONS if interpreter(v)) <= NEWEST_OF_THE_OLDEST
    run([python, "-m", "venv", tmp_path / "venv"], tmp_path)
    home = tmp_path / "venv" / "bin" / "python"
    tools = ("pytest>=8", "pytest-xdist>=3.8", "hypothesis>=6.100")
    run([home, "-m", "pip", "install", "-q", *requirements(oldest), *tools], tmp_path)
    code = "import numba, numpy; print(numpy.__version__, numba.__version__)"
    said = run([home, "-c", code], tmp_path)
    assert said.startswith("1.26.") == oldest and (" 0.60." in said) == oldest
    tests = [f"tests/test_{name}.py" for name in FILES]
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", LEFT_OUT)
    assert " passed" in run([home, "-m", "pytest", *options, *tests], ROOT)
