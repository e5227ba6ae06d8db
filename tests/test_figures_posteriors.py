"""Posteriors from simulations: the record that the page shows, and how it is made."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from references import written  # noqa: E402

from figures.simulators import TASKS, open_references  # noqa: E402

posteriors = import_module("figures.38_posteriors")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """References, a record and a cache of their own, and a classifier that tells who asked it."""
    asked = []
    monkeypatch.setattr(posteriors, "RECORD", tmp_path / "posteriors.json")
    monkeypatch.setattr(posteriors.common, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(posteriors, "c2st", lambda a, b: asked.append(a) or 0.5 + len(asked) / 100)
    return written(tmp_path, "two_moons", samples=200), asked


CHOSEN = {"tasks": ["two_moons"], "simulations": [1_000]}


def test_a_row_is_measured_and_the_figure_draws_it(stand_in):
    folder, asked = stand_in
    found = posteriors.data(True, folder, **CHOSEN)
    (row,) = found["record"]["rows"]
    assert (np.array(asked) == open_references(folder, "two_moons").samples).all()
    assert row["c2st"] == pytest.approx(np.arange(0.51, 0.601, 0.01))
    assert len(row["best"]) == 10 and all(0.49 < accuracy <= 1 for accuracy in row["best"])
    assert found["numbers"]["best"]["1000"]["two_moons"] == pytest.approx(np.mean(row["best"]))
    assert found["numbers"]["measured"] == {"1000": 1, "10000": 0, "100000": 0}
    assert 0 <= row["fresh"]["p_value"] <= 1
    posteriors.draw(found).draw_without_rendering()
    assert not posteriors.RECORD.exists()  # quick ones are not kept


def test_a_row_goes_on_where_it_was_interrupted(stand_in):
    folder, asked = stand_in
    none = posteriors.data(True, folder, **CHOSEN, networks=0)["record"]
    assert not asked and "not run" in posteriors.markdown(none)
    posteriors.keep(none)
    few = posteriors.data(True, folder, **CHOSEN, networks=3)["record"]
    posteriors.keep(few)
    assert (
        "(3 of 10)" in posteriors.markdown(few)
        and few["rows"][0]["best"] == none["rows"][0]["best"]
    )
    again = posteriors.data(True, folder, **CHOSEN)["record"]["rows"][0]
    assert again["c2st"][:3] == few["rows"][0]["c2st"] and len(again["c2st"]) == 10
    assert len(asked) == 10
    posteriors.keep({"rows": [again]})
    posteriors.data(True, folder, **CHOSEN)
    assert len(asked) == 10  # nothing is measured twice
    posteriors.draw(posteriors.data()).draw_without_rendering()


@pytest.mark.parametrize(("shift", "accuracy"), [(0.0, 0.5), (0.1, 0.7603)])
def test_the_best_classifier_is_asked_of_the_exact_posterior(shift, accuracy):
    """Of the linear Gaussian, Normal(x / 2, 0.05): Phi(|shift| / (2 sqrt(0.05)))."""

    class Shifted:
        def log_prob(self, theta, x):
            return -np.square(theta - x / 2 - shift).sum(axis=1) / 0.1

    rng = np.random.default_rng(0)
    x = np.full((1, 10), 0.3)
    exact, samples = 0.15 + np.sqrt(0.05) * rng.standard_normal((2, 10_000, 10))
    found = posteriors.best(TASKS["gaussian_linear"], Shifted(), exact, samples + shift, x)
    assert found == pytest.approx(accuracy, abs=0.015)


def test_missed_rows_say_so():
    row = {"task": "sir", "simulations": 10_000, "best": [0.67, 0.69] * 5, "c2st": []}
    assert posteriors.markdown({"rows": [row]}).count("missed") == 0
    row["best"] = [0.681, 0.701] * 5
    said = posteriors.markdown({"rows": [row]})
    assert "| 0.680 | 3 | 0.691 ± 0.007 | not run | missed |" in said
    assert posteriors.summary({"rows": [row]})["reached"]["10000"] == 0
    row["c2st"] = [0.6] * 9
    assert "missed" in posteriors.markdown({"rows": [row]})  # not by nine of ten
    row["c2st"] = [0.6] * 10
    assert "missed" not in posteriors.markdown({"rows": [row]})


def test_a_row_keeps_the_recipe_it_was_measured_with():
    """What a later version does differently holds for new rows only."""
    row = {"task": "sir", "simulations": 100_000}
    ours = posteriors.RECIPES[100_000]
    assert posteriors.recipe_of(row) == ours
    former = ours._replace(members=2, hidden=(50, 50))
    row["recipe"] = json.loads(json.dumps(former._asdict()))
    assert posteriors.recipe_of(row) == former
    rows = [row | {"best": [0.6] * 10, "c2st": []}, row_at(100_000, 0.6), row_at(1_000, 0.6)]
    assert "| 0.585 | 2 | 0.600" in posteriors.markdown({"rows": rows})
    texts = posteriors.draw({"record": {"rows": rows}}).texts
    said = " ".join(text.get_text() for text in texts)
    assert "5 flows at 1,000, 2 or 5 flows at 100,000" in " ".join(said.split())


def row_at(N, best, failed=()):
    fresh = {"failed": list(failed)}
    return {"task": "sir", "simulations": N, "best": [best] * 10, "c2st": [], "fresh": fresh}


def test_rows_are_counted():
    rows = [row_at(1_000, 0.8, ["x0"]), row_at(10_000, 0.9), row_at(10_000, 0.6, ["density"])]
    assert posteriors.counted({"rows": rows}) == {
        "reached": "by simulations: 1,000: 1 of 1; 10,000: 1 of 2",
        "defects": "found defects of 1 of 1 at 1,000; 1 of 2 at 10,000 simulations",
        "missing": "Not run yet: 7 tasks at 1,000, 6 tasks at 10,000, 8 tasks at 100,000 "
        "simulations.",
    }
    whole = [row_at(N, 0.6) for N in posteriors.SIMULATIONS for _ in TASKS]
    assert posteriors.counted({"rows": whole})["missing"] == ""
    one_lacks = posteriors.counted({"rows": whole[:-1]})["missing"]
    assert one_lacks == "Not run yet: 1 task at 100,000 simulations."


def test_the_page_shows_the_record():
    page = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    record = posteriors.known()
    assert record["rows"] and posteriors.markdown(record) in page
    words = " ".join(page.split())
    for said in posteriors.counted(record).values():
        assert said in words
