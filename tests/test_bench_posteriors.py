"""Posterior estimation beside sbi: the benchmark runs, or says what it needs."""

from __future__ import annotations

from importlib import metadata

import pytest

from figures.bench import posteriors


def test_without_sbi_it_says_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(posteriors.metadata, "version", missing)
    with pytest.raises(SystemExit) as stopped:
        posteriors.main(["--quick"])
    assert stopped.value.code == 2
    assert "pip install '.[sbi]'" in capsys.readouterr().err


def test_a_table_has_both_and_their_ratio():
    row = {"task": "slcp", "kind": "nsf", "epoch": {"sbi": 3.0, "afnp": 0.5}}
    row["samples"] = {"sbi": 0.2, "afnp": 0.1}
    said = posteriors.markdown([row])
    assert "| slcp | splines | 3, 0.5 | 6.0 | 0.2, 0.1 | 2.0 |" in said


@pytest.mark.filterwarnings("ignore")  # of sbi, which is asked for a single epoch
def test_one_network_is_measured(tmp_path, monkeypatch):
    pytest.importorskip("sbi", reason="SBI WAS NOT TIMED: pip install '.[sbi]'")
    monkeypatch.chdir(tmp_path)
    found = posteriors.measured("two_moons", "maf", simulations=500, epochs=1)
    assert min(*found["epoch"].values(), *found["samples"].values()) > 0
    assert not list(tmp_path.iterdir())  # sbi's logs lie elsewhere
