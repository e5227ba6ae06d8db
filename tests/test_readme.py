"""What the README shows runs as it stands."""

import json
import re
from pathlib import Path

import pytest

import afnp

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    """Fewer epochs and samples, everything else to the letter."""
    monkeypatch.chdir(tmp_path)
    program = (
        PYTHON[0].replace("epochs=60", "epochs=2, progress=False").replace("1_000_000", "10_000")
    )
    assert program.count("epochs=2") == program.count("10_000") == 1
    exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "nats" in printed and " 0 failed" in printed
    assert afnp.load(tmp_path / "galaxies.afnp").features == 7


def test_the_second_example_checks_a_strangers_flow():
    shift = afnp.made(3, hidden=(8,))
    names = {"afnp": afnp, "f": shift.normalize, "g": shift.generate, "their_flow": shift}
    exec(compile("import afnp.verify\n" + PYTHON[1], "README.md", "exec"), names)
    assert names["report"].ok


def test_every_file_that_is_named_exists():
    root = Path(__file__).parents[1]
    for name in re.findall(r"\]\(([^):]+)\)", README):
        assert (root / name).exists(), name


def test_the_speed_table_is_what_the_benchmark_recorded():
    """Median milliseconds, and the fastest other library's over them, to three digits."""
    record = json.loads(
        (Path(__file__).parents[1] / "figures" / "benchmark.json").read_text(encoding="utf-8")
    )
    for name, one in record["configurations"].items():
        row = re.search(
            rf"^\| {name}: D = {one['features']}\b.*|^\| {name}: splines.*",
            README,
            flags=re.MULTILINE,
        )
        cells = [cell.replace(",", "") for cell in row[0].split("|")[2:-1]]
        few = dict(map(str.split, one["operations"]))["alternating"]
        operations = (f"log_prob {few}", f"sample {few}", "train 100", "train 1000", "sample 1")
        for cell, operation in zip(cells, operations, strict=True):
            mine, *others = (
                of[operation]["median"] for of in one["seconds"].values() if operation in of
            )
            milliseconds, ratio = map(float, re.fullmatch(r" (\S+) \((\S+)\) ", cell).groups())
            assert milliseconds == pytest.approx(1e3 * mine, rel=5e-3)
            assert ratio == pytest.approx(min(others) / mine, rel=5e-3)
