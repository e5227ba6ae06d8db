"""Compiled code on disk: kept, found again, never stale; and what is said when that fails."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import time

import pytest
from numba.extending import is_jitted

from afnp import compiled

ADAM = (
    "import numpy as np, sys\n"
    "from afnp.compiled import adam, compiler\n"
    "compiler.PATIENCE = 0.0\n"
    "for dtype in (np.float32, np.float64):\n"
    "    theta, g, m, v = np.ones((4, 3), dtype)\n"
    "    adam.step(theta, g, m, v, 0.9, 0.999, 0.1, 1e-8, 1.0, 1.0)\n"
    "print(theta[0], sum(adam.adam_kernel.stats.cache_hits.values()))\n"
)


def environment(folder):
    return {**os.environ, "NUMBA_CACHE_DIR": str(folder)}


def run(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def test_a_wait_is_explained_once_and_what_is_compiled_is_kept(tmp_path):
    (theta, hits), told = run(ADAM, tmp_path)
    assert hits == "0"
    assert told.count("afnp: compiling") == 1 and f"kept in {tmp_path}" in told
    (again, hits), told = run(ADAM, tmp_path)
    assert again == theta and told == "" and hits == "2"


@pytest.mark.parametrize("damage", [b"", b"\x80\x05garbage", None])
def test_damaged_files_are_compiled_anew(tmp_path, damage):
    """Emptied, overwritten, or cut in half."""
    (theta, _), _ = run(ADAM, tmp_path)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for suffix in (".nbi", ".nbc"):
        for path in files:
            if path.suffix == suffix:
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        (again, _), _ = run(ADAM, tmp_path)
        assert again == theta
        (again, hits), told = run(ADAM, tmp_path)
        assert (again, hits, told) == (theta, "2", ""), "it was kept again"


def test_without_a_folder_it_runs_with_one_warning_that_names_the_remedy(tmp_path):
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    (theta, _), told = run(ADAM, no_folder)
    assert float(theta) < 1
    assert told.count("UserWarning") == 1 and "NUMBA_CACHE_DIR" in told
    assert told.count("not kept") == 1


def test_other_sources_find_nothing_of_these(tmp_path):
    """A change in any file of the folder: what was kept before is not taken."""
    run(ADAM, tmp_path)
    before = set(tmp_path.iterdir())
    changed = "compiler.sources = lambda: 'ab' * 32\n"
    _, told = run(ADAM.replace("compiler.PATIENCE", changed + "compiler.PATIENCE"), tmp_path)
    assert "compiling" in told and len(set(tmp_path.iterdir())) == 2 * len(before)


def test_the_hash_is_of_every_source(monkeypatch, tmp_path):
    from afnp.compiled import compiler

    (tmp_path / "deep").mkdir()
    source, other = tmp_path / "compiler.py", tmp_path / "deep" / "other.py"
    source.write_text("a")
    other.write_text("b")
    monkeypatch.setattr(compiler, "__file__", str(source))
    digests = []
    for text in ("b", "c", "b"):
        other.write_text(text)
        digests.append(compiler.sources.__wrapped__())
    assert digests[0] == digests[2] != digests[1]


def test_what_only_compiled_code_calls_has_no_entries_of_its_own():
    """Each entry is code to compile, and nobody takes it; kernels have one, for Python."""
    parts = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(compiled.__path__, "afnp.compiled.")
        if ".cuda" not in module.name
    ]
    found = {part for module in parts for part in vars(module).values() if is_jitted(part)}
    kernels = {part for part in found if part.__name__.endswith("_kernel")}
    assert len(kernels) >= 10 and len(found - kernels) >= 50
    for part in found:
        options = part.targetoptions
        assert options["no_cfunc_wrapper"] and ("no_cpython_wrapper" in options) == (
            part not in kernels
        ), part


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interruption_while_compiling_is_obeyed(tmp_path):
    program = (
        "import afnp, numpy as np, threading\n"
        "flow = afnp.maf(6, hidden=(8,), dtype=np.float32)\n"
        "x = np.zeros((100_000, 6), np.float32)  # worth a second thread\n"
        "print('begin', flush=True)\n"
        "flow.log_prob(x, backend='numba')\n"
        "print('end', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**environment(tmp_path), "NUMBA_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "begin\n"
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        asked = time.perf_counter()
        out, err = process.communicate(timeout=60)
    assert "end" not in out and "KeyboardInterrupt" in err
    assert time.perf_counter() - asked < 15, "a minute, once"
