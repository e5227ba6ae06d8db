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
WIDE = {**SMALL, "hidden": (32,)}
CHECKED = [
    FlowDensity(**WIDE),
    FlowOutlierDetector(**WIDE),
    ConditionalFlow(**REGRESSION),
    ConditionalFlow(),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")  # of whole numbers, of few rows
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


# ---- weights of rows -----------------------------------------------------------------------------


copies = pytest.mark.filterwarnings("ignore:.*repeat another one:afnp.advice.DataWarning")


@pytest.fixture(scope="module")
def weighted(x):
    """Rows with whole weights, and the same rows repeated, in another order."""
    rng = np.random.default_rng(3)
    w = rng.integers(0, 4, len(x))
    return x, w, rng.permutation(np.repeat(x, w, axis=0))


@copies
@pytest.mark.parametrize("batch_size", [20, 1000])
@pytest.mark.parametrize("kind", ["maf", "realnvp"])
def test_whole_weights_are_repeated_rows_to_the_last_bit(weighted, kind, batch_size):
    rows, w, repeated = weighted
    options = {**SMALL, "kind": kind, "batch_size": batch_size}
    one = FlowDensity(**options).fit(rows, sample_weight=w)
    other = FlowDensity(**options).fit(repeated)
    assert (one.flow_.theta == other.flow_.theta).all()
    assert one.history_.val_loss == other.history_.val_loss
    assert one.score(rows, sample_weight=w) == pytest.approx(other.score(repeated), rel=1e-12)


def test_rows_of_weight_zero_change_nothing(x):
    w = np.ones(len(x))
    w[::3] = 0
    far = np.where(w[:, None] == 0, 1e6, x)
    one = FlowDensity(**SMALL).fit(far, sample_weight=w)
    other = FlowDensity(**SMALL).fit(x[w > 0])
    assert (one.flow_.theta == other.flow_.theta).all()


def test_weights_move_the_density(x):
    w = np.where(x[:, 0] > 10, 9.0, 1.0)
    density = FlowDensity(**{**SMALL, "epochs": 60, "learning_rate": 1e-2})
    drawn = density.fit(x, sample_weight=w).sample(4000, random_state=0)
    mean = np.average(x, axis=0, weights=w)
    assert abs(mean[0] - x[:, 0].mean()) > 1  # in units in which the columns have size 1 and more
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.2)


@copies
def test_outliers_are_counted_by_weight(weighted):
    rows, w, repeated = weighted
    one = FlowOutlierDetector(**SMALL).fit(rows, sample_weight=w)
    other = FlowOutlierDetector(**SMALL).fit(repeated)
    assert one.offset_ == pytest.approx(other.offset_, rel=1e-12)
    assert (one.predict(rows) == other.predict(rows)).all()
    outliers = (other.predict(repeated) == -1).sum()
    assert 0 <= 0.1 * len(repeated) - outliers < w.max()


@copies
def test_conditional_flows_are_weighted_alike(weighted):
    rows, w, repeated = weighted
    one = ConditionalFlow("maf", **SMALL).fit(rows[:, :2], rows[:, 2], sample_weight=w)
    other = ConditionalFlow("maf", **SMALL).fit(repeated[:, :2], repeated[:, 2])
    assert (one.flow_.theta == other.flow_.theta).all()
    assert (one.predict(rows[:, :2]) == other.predict(rows[:, :2])).all()


def test_weights_reach_through_pipelines(x):
    w = np.random.default_rng(4).uniform(0, 2, len(x))
    pipe = make_pipeline(StandardScaler(), FlowDensity(**SMALL))
    pipe.fit(x, flowdensity__sample_weight=w)
    scaled = StandardScaler().fit_transform(x)
    alone = FlowDensity(**SMALL).fit(scaled, sample_weight=w)
    assert (pipe[-1].flow_.theta == alone.flow_.theta).all()


@copies
def test_no_row_validates_that_has_a_copy_among_those_that_train(x):
    twice = np.repeat(x, 2, axis=0)
    one, other = FlowDensity(**SMALL).fit(twice), FlowDensity(**SMALL).fit(x)
    assert (one.flow_.theta == other.flow_.theta).all()


@copies
def test_batch_normalisation_counts_repeated_rows(x):
    options = {**SMALL, "options": {"transforms": 2, "between": "batchnorm"}}
    twice = np.repeat(x, 2, axis=0)
    one, other = FlowDensity(**options).fit(twice), FlowDensity(**options).fit(x)
    assert (one.flow_.theta == other.flow_.theta).all()


def test_what_makes_a_fit_useless_is_said(x):
    whole = np.round(x / 5)
    with pytest.warns(afnp.advice.DataWarning, match="hold whole numbers"):
        FlowDensity(**SMALL).fit(whole)
    with pytest.warns(afnp.advice.DataWarning, match="repeat another one exactly"):
        FlowDensity(**SMALL).fit(np.repeat(x, 2, axis=0))


WRONG_WEIGHTS = {
    "shape": (np.ones(3), "sample_weight: expected 300 numbers, got shape"),
    "negative": (np.r_[np.ones(299), -1.0], "sample_weight: row 299: expected at least 0"),
    "zeros": (np.zeros(300), "sample_weight: expected at least one weight above zero"),
    "nan": (np.r_[np.ones(299), np.nan], "sample_weight contains NaN"),
}


@pytest.mark.parametrize("fault", WRONG_WEIGHTS)
def test_weights_that_make_no_sense_are_refused(x, fault):
    w, message = WRONG_WEIGHTS[fault]
    for estimator in (FlowDensity(**SMALL), FlowOutlierDetector(**SMALL)):
        with pytest.raises(ValueError, match=message):
            estimator.fit(x, sample_weight=w)


REFUSED = {
    "kind": ({"kind": "flow"}, "kind: expected one of made, maf"),
    "hidden": ({"hidden": 8}, "hidden: expected a sequence of integers, got 8"),
    "options": ({"options": {"depth": 3}}, "options: expected arguments of afnp.maf .* 'depth'"),
    "options twice": ({"options": {"seed": 3}}, "no parameters here, got {'seed': 3}: .*seed"),
    "no options": ({"options": 3}, "options: expected arguments of afnp.maf .*, got 3"),
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


def test_masked_values_are_refused(density, regression, x):
    """scikit-learn takes what lies under a mask."""
    masked = np.ma.masked_greater(x, x.max() - 0.1)
    flow, X, y = regression[:3]
    calls = {
        "X": [lambda: density.score_samples(masked), lambda: type(density)().fit(masked)],
        "y": [lambda: flow.log_prob(X, np.ma.masked_array(y, mask=True))],
        "sample_weight": [lambda: density.score(x, sample_weight=np.ma.masked_all(len(x)))],
    }
    for name, refused in calls.items():
        for call in refused:
            with pytest.raises(ValueError, match=f"^{name}: .* is masked"):
                call()


def test_several_columns_keep_their_names_and_rows():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(2)
    x = pd.DataFrame(rng.standard_normal((100, 2)), columns=["p", "q"], index=range(50, 150))
    y = pd.DataFrame(rng.standard_normal((100, 2)), columns=["r", "s"], index=x.index)
    model = ConditionalFlow("maf", **SMALL).fit(x, y)
    low, high = model.predict_interval(x)
    for table in (model.predict(x), low, high):
        assert list(table.columns) == ["r", "s"] and (table.index == x.index).all()
    drawn = model.sample(x, 3, random_state=0)
    assert list(drawn.columns) == ["r", "s"] and (drawn.index == x.index.repeat(3)).all()
    assert (drawn == model.sample(x, 3, random_state=0)).all(axis=None)
    with pytest.raises(ValueError, match="y: expected the columns"):
        model.log_prob(x, y[["s", "r"]])
    one = ConditionalFlow(**SMALL).fit(x, y["r"])
    assert one.predict(x).name == "r"
    drawn = one.sample(x, random_state=0)
    assert list(drawn.columns) == ["r"] and (drawn.index == x.index).all()
    assert one.sample(x, 0).shape == (0, 1)


def test_samples_of_each_row_are_those_given_that_row(regression):
    """Whether they come in a table or under names."""
    pd = pytest.importorskip("pandas")
    model, x, y = regression
    at = np.array([[0.2], [1.8]])
    drawn = model.sample(at, 5000, random_state=1)
    assert drawn.mean(axis=1) == pytest.approx(model.predict(at), abs=0.05)
    frame = pd.DataFrame(x, columns=["x"])
    named = ConditionalFlow(**model.get_params()).fit(frame, pd.Series(y, name="y"))
    where = pd.DataFrame(at, columns=["x"], index=["left", "right"])
    table = named.sample(where, 5000, random_state=1)
    assert table.groupby(level=0)["y"].mean().to_numpy() == pytest.approx(drawn.mean(axis=1))
