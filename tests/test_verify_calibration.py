"""Calibration of conditional flows: exact posteriors pass, as rarely as stated they do not, and
planted defects are caught as often as stated."""

import math
import sys

import numpy as np
import pytest

import afnp
from afnp.verify import best_accuracy, c2st, calibration
from afnp.verify.two_sample import c2st_p_value


class Gaussian:
    """The posterior of x ~ Normal(0, 1), c = x + s e, each feature by itself; with defects.

    .. math:: x | c ~ Normal(m c, m s^2),  m = 1 / (1 + s^2)
    """

    def __init__(self, D, s=0.7, factor=1.0, shift=0.0, order=None, deaf=False):
        self.D, self.s = D, s
        m = 1 / (1 + s * s)
        self.m = 0.0 if deaf else m
        self.sigma = factor * (1.0 if deaf else math.sqrt(m) * s)
        self.shift = shift * math.sqrt(m) * s
        self.order = np.arange(D) if order is None else np.array(order)

    def joint(self, N, rng):
        x = rng.standard_normal((N, self.D))
        return x, x + self.s * rng.standard_normal((N, self.D))

    def mean(self, context):
        return self.m * context[:, self.order] + self.shift * np.eye(self.D)[0]

    def sample(self, n, rng, context):
        return self.mean(context) + self.sigma * rng.standard_normal((n, self.D))

    def log_prob(self, x, context):
        z = (x - self.mean(context)) / self.sigma
        return -np.square(z).sum(axis=1) / 2 - self.D * math.log(self.sigma)


def share_that_fails(posterior, N, runs, seed=0, **options):
    rng = np.random.default_rng(seed)
    failed = 0
    for _ in range(runs):
        report = calibration(posterior, *posterior.joint(N, rng), rng=rng, **options)
        failed += not report.ok
    return failed / runs


def surely_below(share, runs, sigmas=3.5):
    """A bound that a share of runs exceeds by chance about once in four thousand times."""
    return share + sigmas * math.sqrt(share * (1 - share) / runs)


# ---- what is right, passes -----------------------------------------------------------------------


@pytest.mark.parametrize("D", [1, 3])
def test_an_exact_posterior_passes(D):
    posterior = Gaussian(D)
    report = calibration(posterior, *posterior.joint(1000, np.random.default_rng(1)))
    assert report.ok and not report.failed and report.p_value > 0.05
    for level in (0.5, 0.9):
        for of in ("density", "distance"):
            assert report.coverage(level, of) == pytest.approx(level, abs=0.05)
    report.raise_if_failed()


@pytest.mark.parametrize("false_alarm", [0.05, 0.3])
def test_false_alarms_are_as_rare_as_stated(false_alarm):
    runs = 200
    share = share_that_fails(Gaussian(2), 100, runs, samples=20, false_alarm=false_alarm)
    assert share <= surely_below(false_alarm, runs)


def test_a_flow_of_afnp_that_is_a_gaussian_posterior_exactly():
    posterior = Gaussian(2)
    x, c = posterior.joint(2000, np.random.default_rng(2))
    flow = afnp.maf(2, hidden=(8,), transforms=1, context=2)
    own = flow.sample(len(c), rng=3, context=c)
    assert calibration(flow, own, c).ok
    assert not calibration(flow, x, c).ok
    ensemble = afnp.FlowEnsemble([flow, flow])
    assert calibration(ensemble, own, c).ok


def test_ranks_of_an_exact_posterior_are_uniform_with_ties_too():
    class Coins(Gaussian):
        def sample(self, n, rng, context):
            return np.sign(rng.standard_normal((n, self.D)))

        def log_prob(self, x, context):
            return np.full(len(x), -self.D * math.log(2))

    rng = np.random.default_rng(0)
    x = np.sign(rng.standard_normal((2000, 2)))
    assert calibration(Coins(2), x, rng.standard_normal((2000, 2)), samples=10).ok


# ---- what is wrong, is caught --------------------------------------------------------------------


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("defect", ["narrow", "wide", "shifted"])
def test_planted_defects_are_caught_as_often_as_stated(D, defect):
    """At the size that a report says is seen in 90 of 100 cases, here with few rows and samples."""
    N, L, runs = 300, 50, 120
    posterior = Gaussian(D)
    sees = calibration(posterior, *posterior.joint(N, np.random.default_rng(0)), samples=L).sees
    factor = {"narrow": math.exp(-sees["scale"]), "wide": math.exp(sees["scale"])}.get(defect, 1)
    wrong = Gaussian(D, factor=factor, shift=sees["shift"] if defect == "shifted" else 0)
    caught = share_that_fails(wrong, N, runs, samples=L)
    assert 1 - caught <= surely_below(0.1, runs), f"{caught:.2f} caught of {sees}"


def test_a_tenth_too_narrow_is_caught_with_as_many_rows_as_the_report_says():
    posterior, wrong = Gaussian(3), Gaussian(3, factor=0.9)
    rng, N = np.random.default_rng(0), 500
    assert calibration(posterior, *posterior.joint(N, rng)).sees["scale"] < -math.log(0.9)
    assert 1 - share_that_fails(wrong, N, 40) <= surely_below(0.1, 40)
    report = calibration(wrong, *wrong.joint(4000, rng))
    assert "density" in report.failed and report.coverage(0.9) < 0.88
    with pytest.raises(AssertionError, match="FAILED"):
        report.raise_if_failed()


def test_a_shift_is_found_in_its_feature():
    wrong = Gaussian(3, shift=0.2)
    report = calibration(wrong, *wrong.joint(3000, np.random.default_rng(0)))
    assert "x0" in report.failed and not {"x1", "x2"} & set(report.failed)


def test_a_wrong_context_column_is_caught():
    wrong = Gaussian(2, order=[1, 0])
    assert share_that_fails(wrong, 200, 20) == 1


def test_a_posterior_that_does_not_listen_is_caught_by_distances_alone():
    """The prior is calibrated: its ranks and regions of highest density are right on average."""
    deaf = Gaussian(2, deaf=True)
    report = calibration(deaf, *deaf.joint(1000, np.random.default_rng(0)))
    assert report.failed == ["distance"]


# ---- a classifier --------------------------------------------------------------------------------


def test_a_classifier_compares_with_exact_posteriors():
    pytest.importorskip("sklearn")
    posterior, rng = Gaussian(1), np.random.default_rng(0)
    c = np.array([[0.0], [1.0]])
    exact = np.stack([posterior.sample(300, rng, np.repeat(row[None], 300, axis=0)) for row in c])
    x, contexts = posterior.joint(200, rng)
    right = calibration(posterior, x, contexts, references=(c, exact))
    assert right.ok and right.accuracies.shape == (2,) and "c2st 1" in right.p_values
    wrong = Gaussian(1, shift=1.0)
    report = calibration(wrong, x, contexts, references=(c, exact))
    assert {"c2st 0", "c2st 1"} <= set(report.failed)
    assert (report.accuracies > report.sees["accuracy"]).all()
    assert "accuracy" in str(report) and len(report.plot().axes) == 3


def test_accuracy_is_what_theory_says():
    """Half of 1 + TV; for two normals d apart the best accuracy is Phi(d / 2)."""
    pytest.importorskip("sklearn")
    a, b = np.random.default_rng(0).standard_normal((2, 1000, 2))
    assert c2st(a, b + [2.0, 0.0]) == pytest.approx(0.8413, abs=0.03)
    same = c2st(a, b)
    assert abs(same - 0.5) < 0.05 and c2st_p_value(same, 1000) > 1e-3
    assert c2st(a, b) == same != c2st(a, b, seed=2)
    assert c2st(1e6 * a + 1e7, 1e6 * b + 1e7) == pytest.approx(same, abs=0.02)


@pytest.mark.parametrize("constant", [0.0, -300.0, 40.0])
def test_the_best_classifier_needs_no_network_and_no_constant(constant):
    """Normals of other width: it says which side of a radius, P(|z| < r) against P(|2 z| < r)."""
    a, b = np.random.default_rng(0).standard_normal((2, 100_000)) * [[1], [2]]

    def ratio(x):
        return -x * x / 2 + x * x / 8 + constant

    r = math.sqrt(8 * math.log(2) / 3)
    expected = (math.erf(r / math.sqrt(2)) + 1 - math.erf(r / math.sqrt(8))) / 2
    assert best_accuracy(ratio(a), ratio(b)) == pytest.approx(expected, abs=0.005)
    assert best_accuracy(ratio(a), ratio(a[::-1])) == pytest.approx(0.5, abs=0.005)


def test_the_best_classifier_knows_where_one_has_no_density():
    inside, outside = np.zeros(100), np.full(100, -np.inf)
    assert best_accuracy(inside, outside) == best_accuracy(-outside, outside) == 1
    half = np.where(np.arange(100) < 50, 0, -np.inf)  # q reaches twice as far as p
    assert best_accuracy(inside, half) == 0.75
    with pytest.raises(ValueError, match="at_samples: expected as many"):
        best_accuracy(inside, inside[:50])


@pytest.mark.slow
def test_accuracies_of_one_distribution_are_no_higher_than_coins_are():
    pytest.importorskip("sklearn")
    rng, M, runs = np.random.default_rng(0), 100, 200
    p = [c2st_p_value(c2st(*rng.standard_normal((2, M, 1))), M) for _ in range(runs)]
    for alpha in (0.05, 0.2):
        assert np.mean(np.array(p) < alpha) <= surely_below(alpha, runs)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ImportError, match=r"afnp\[data\]"):
        c2st(np.eye(5), np.eye(5))


# ---- how it is shown, and what is refused --------------------------------------------------------


def test_a_report_prints_and_draws_what_it_found():
    wrong = Gaussian(5, factor=0.7)
    report = calibration(wrong, *wrong.joint(500, np.random.default_rng(0)))
    text = str(report)
    assert "FAILED" in text and "90 of 100 cases" in text and "false alarms at most 0.01" in text
    figure = report.plot()
    assert [axes.get_title() for axes in figure.axes] == ["ranks of features", "coverage"]
    assert len(figure.axes[0].lines) == 1 + 5 and len(figure.axes[1].lines) == 1 + 2
    assert report.p_value < 1e-6 and report.p_value >= min(report.p_values.values())


def test_features_are_named_as_the_columns_of_a_table():
    pandas = pytest.importorskip("pandas")
    posterior = Gaussian(2)
    x, c = posterior.joint(100, np.random.default_rng(0))
    report = calibration(posterior, pandas.DataFrame(x, columns=["mass", "age"]), c)
    assert report.quantities == ("mass", "age", "density", "distance")


def test_a_seed_gives_the_same_report_again():
    posterior = Gaussian(2)
    x, c = posterior.joint(100, np.random.default_rng(0))
    first, again, other = (calibration(posterior, x, c, rng=seed) for seed in (0, 0, 1))
    assert (first.ranks == again.ranks).all() and str(first) == str(again)
    assert (first.ranks != other.ranks).any()


def rows(N=100, D=2):
    return np.random.default_rng(0).standard_normal((N, D))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": rows(20), "context": rows(20)}, "x: expected at least 50 rows"),
        ({"context": rows(99)}, "100 rows and 99 contexts"),
        ({"context": np.empty((100, 0))}, "context: expected at least one column"),
        ({"x": rows() * [1, 0]}, "x: feature 1 is constant"),
        ({"x": rows() * np.nan}, "x: row 0, feature 0 is nan"),
        ({"samples": 5}, "samples: expected an integer of at least 10"),
        ({"false_alarm": 1}, "false_alarm: expected a number"),
        ({"rng": None}, "rng: expected a seed"),
        ({"references": rows()}, "references: expected a tuple"),
        ({"references": (rows(2), rows())}, r"references\[1\]: expected \(2, M, 2\)"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    given = {"x": rows(), "context": rows(), **change}
    with pytest.raises(ValueError, match=message):
        calibration(Gaussian(2), **given)


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        ("sample", lambda n, rng, context: np.zeros((n, 3)), "flow: expected samples"),
        ("log_prob", lambda x, context: np.full(len(x), np.nan), "none of them nan"),
        ("log_prob", lambda x, context: 0.0, "flow: expected log-densities"),
    ],
)
def test_what_a_flow_returns_is_looked_at(method, wrong, message):
    posterior = Gaussian(2)
    setattr(posterior, method, wrong)
    with pytest.raises(ValueError, match=message):
        calibration(posterior, rows(), rows())


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (rows(), rows(99), "samples: expected as many rows"),
        (rows(), rows(D=3), "samples: expected 2 columns"),
        (rows() * [0, 1], rows(), "reference: feature 0 is constant"),
        (rows(4), rows(4), "at least 5"),
    ],
)
def test_two_samples_that_do_not_fit_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        c2st(a, b)


def test_a_level_is_a_level():
    posterior = Gaussian(2)
    report = calibration(posterior, *posterior.joint(100, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="level"):
        report.coverage(1.5)
    with pytest.raises(ValueError, match="of: expected 'density'"):
        report.coverage(0.5, "x0")
