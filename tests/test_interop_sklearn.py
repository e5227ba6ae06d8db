"""scikit-learn's face: its own checks, its tools around it, and the numbers behind it."""

from __future__ import annotations

import numpy as np
import pytest

import afnp

pytest.importorskip(
    "sklearn", minversion="1.6", reason="SCIKIT-LEARN IS MISSING: pip install '.[sklearn]'"
)

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from afnp.interop.sklearn import ConditionalFlow, FlowDensity, FlowOutlierDetector

SMALL = {"hidden": (8,), "options": {"transforms": 2}, "epochs": 5, "random_state": 0}
REGRESSION = {**SMALL, "hidden": (32,), "epochs": 60, "learning_rate": 1e-2, "points": 20}
CHECKED = [
    FlowDensity(**SMALL),
    FlowOutlierDetector(**SMALL),
    ConditionalFlow(**REGRESSION),
]


@pytest.mark.slow
@parametrize_with_checks(CHECKED)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    z = np.random.default_rng(0).standard_normal((300, 3))
    return z @ np.array([[2, 0, 0], [1, 0.5, 0], [0, 1, 3]]).T + [10, -3, 100]


@pytest.fixture(scope="module")
def density(x):
    return FlowDensity(**SMALL).fit(x)


def test_scores_are_the_flows_own(density, x):
    assert (density.score_samples(x) == density.flow_.log_prob(x)).all()
    assert density.score(x) == pytest.approx(density.flow_.log_prob(x).mean())


def test_a_flow_learns_more_than_no_training(x):
    long = FlowDensity(**{**SMALL, "epochs": 60, "learning_rate": 1e-2}).fit(x)
    gaussian = -0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(x.T))[1]
    assert gaussian - 0.3 < long.score(x) < gaussian + 0.3


def test_the_same_state_gives_the_same_estimator(density, x):
    again = clone(density).fit(x)
    assert (again.flow_.theta == density.flow_.theta).all()
    assert (again.sample(5, random_state=1) == density.sample(5, random_state=1)).all()
    other = clone(density).set_params(random_state=1).fit(x)
    assert (other.flow_.theta != density.flow_.theta).any()


def test_it_works_in_pipelines_searches_and_processes(x):
    search = GridSearchCV(
        FlowDensity(**SMALL), {"kind": ["made", "realnvp"], "epochs": [1, 5]}, cv=2
    )
    search.set_params(estimator__options=None).fit(x)
    assert set(search.best_params_) == {"kind", "epochs"}
    pipe = make_pipeline(StandardScaler(), FlowDensity(**SMALL))
    assert np.isfinite(cross_val_score(pipe, x, cv=3, n_jobs=2)).all()


def test_names_come_in_and_go_out(x):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(x, columns=["a", "b", "c"])
    density = FlowDensity(**SMALL).fit(table)
    assert list(density.sample(3).columns) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(table[["b", "a", "c"]])


def test_a_trained_flow_is_saved_as_any_other(density, tmp_path, x):
    afnp.save(density.flow_, tmp_path / "f.afnp")
    assert (afnp.load(tmp_path / "f.afnp").log_prob(x) == density.score_samples(x)).all()


@pytest.mark.parametrize("contamination", [0.05, 0.5])
def test_so_many_training_rows_are_outliers(x, contamination):
    detector = FlowOutlierDetector(**SMALL, contamination=contamination).fit(x)
    assert (detector.predict(x) == -1).sum() == pytest.approx(contamination * len(x), abs=1)
    assert detector.predict([[1000.0, 0.0, 0.0]]) == [-1]


REFUSED = {
    "kind": ({"kind": "flow"}, "kind: expected one of made, maf"),
    "validation_fraction": (
        {"validation_fraction": 1.0},
        "validation_fraction: expected 0 <= f < 1",
    ),
    "contamination": ({"contamination": 0.0}, "contamination: expected 0 < c <= 0.5"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(x, option):
    given, message = REFUSED[option]
    with pytest.raises(ValueError, match=message):
        FlowOutlierDetector(**{**SMALL, **given}).fit(x)


# ---- y given x -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regression():
    """A line with noise that grows along it: mean 3 x, standard deviation 0.1 + 0.2 x."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 2, (2000, 1))
    y = 3 * x[:, 0] + (0.1 + 0.2 * x[:, 0]) * rng.standard_normal(2000)
    model = ConditionalFlow(
        "maf", (32,), {"transforms": 1}, learning_rate=1e-2, epochs=40, random_state=0
    )
    return model.fit(x, y), x, y


def test_mean_and_interval_are_those_of_the_noise(regression):
    model, *_ = regression
    at = np.array([[0.5], [1.5]])
    low, high = model.predict_interval(at, coverage=0.9)
    assert model.predict(at) == pytest.approx([1.5, 4.5], abs=0.06)
    assert (high - low) / 2 == pytest.approx(1.645 * np.array([0.2, 0.4]), rel=0.15)


def test_intervals_hold_what_they_say(regression):
    model, x, y = regression
    low, high = model.predict_interval(x, coverage=0.8)
    assert ((low <= y) & (y <= high)).mean() == pytest.approx(0.8, abs=0.04)


def test_samples_of_each_row_and_their_density(regression):
    model, x, y = regression
    assert model.sample(x[:5], 7, random_state=0).shape == (5, 7)
    drawn = model.sample([[1.0]], 20_000, random_state=0)
    assert drawn.mean() == pytest.approx(model.predict([[1.0]])[0], abs=0.01)
    sd = 0.1 + 0.2 * x[:, 0]
    true = -0.5 * ((y - 3 * x[:, 0]) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    assert model.log_prob(x, y).mean() == pytest.approx(true.mean(), abs=0.05)


def test_several_columns_keep_their_names_and_rows():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(2)
    x = pd.DataFrame(rng.standard_normal((100, 2)), columns=["p", "q"], index=range(50, 150))
    y = pd.DataFrame(rng.standard_normal((100, 2)), columns=["r", "s"], index=x.index)
    model = ConditionalFlow("maf", **SMALL).fit(x, y)
    low, high = model.predict_interval(x)
    for table in (model.predict(x), low, high):
        assert list(table.columns) == ["r", "s"] and (table.index == x.index).all()
    assert model.sample(x, 3).shape == (100, 3, 2)
    with pytest.raises(ValueError, match="y: expected the columns"):
        model.log_prob(x, y[["s", "r"]])
    assert ConditionalFlow(**SMALL).fit(x, y["r"]).predict(x).name == "r"
