"""The benchmark of imported flows: its record is what the page shows, and it runs."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from figures.bench import imported

HOME = Path(imported.__file__).parents[1]
RECORD = json.loads(imported.RECORD.read_text(encoding="utf-8"))


def test_the_page_shows_the_record():
    assert imported.markdown(RECORD) in (HOME / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_its_ratios():
    readme = (HOME.parent / "README.md").read_text(encoding="utf-8")
    for kind in imported.KINDS:
        ratios = [f"{found['ratio']:,.0f}" for found in RECORD["flows"] if found["kind"] == kind]
        assert f"| {kind} | {' | '.join(ratios)} |" in readme


def test_imported_flows_are_as_fast_as_was_aimed_at():
    flows = [(found["kind"], found["features"]) for found in RECORD["flows"]]
    assert flows == [(kind, D) for D in imported.FEATURES for kind in imported.KINDS]
    for found in RECORD["flows"]:
        assert found["ratio"] >= found["features"] / 2
        assert found["difference"]["samples"] < 1e-3 and found["rounds"] >= 2


def test_the_figure_draws_the_record():
    numbers = import_module("figures.36_imported").data(quick=True)["numbers"]
    ratios = {(found["kind"], found["features"]): found["ratio"] for found in RECORD["flows"]}
    for kind, over in numbers["ratio"].items():
        assert over == {str(D): ratios[kind, D] for D in imported.FEATURES}


def test_rivals_take_turns():
    called = []
    rivals = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = imported.processor_seconds(rivals, 3)
    assert "".join(called) == "ababab"
    assert all(of["median"] >= of["minimum"] >= 0 for of in seconds.values())


def test_without_torch_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        imported.main(["--quick"])
    assert stopped.value.code == 2
    assert "pip install '.[zuko]'" in capsys.readouterr().err


def test_one_configuration_is_measured():
    pytest.importorskip("torch", reason="IMPORTED FLOWS WERE NOT TIMED: pip install torch zuko")
    pytest.importorskip("zuko", reason="IMPORTED FLOWS WERE NOT TIMED: pip install '.[zuko]'")
    found = imported.measured("MAF", 6, patience=0.0)
    assert found["rounds"] == 2 and found["difference"]["log_prob"] < 1e-3
    assert "| MAF | 6 | 100 |" in imported.markdown({"flows": [found]})
