"""Marginals and conditionals of one order: against quadrature and samples; refused otherwise."""

import math

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.bases import StudentT
from afnp.marginals import log_prob, log_prob_given, marginal, sample_given, shared_order
from afnp.networks import CausalConv
from afnp.transforms import (
    Autoregressive,
    Bounds,
    Coupling,
    LinearPrediction,
    Permutation,
    Standardize,
)
from afnp.univariate import Affine

D = 3
KINDS = {
    "made": lambda D, **k: afnp.made(D, (8,), **k),
    "maf": lambda D, **k: afnp.maf(D, (8, 7), 2, order="natural", **k),
    "linear": lambda D, **k: afnp.maf(D, (), 2, order="natural", **k),
    "residual": lambda D, **k: afnp.maf(D, (7, 7, 7), 2, order="natural", residual=True, **k),
    "turned": lambda D, **k: afnp.made(D, (8,), order=np.roll(np.arange(D), 1), **k),
    "iaf": lambda D, **k: afnp.iaf(D, (8,), 2, order="natural", **k),
    "nsf": lambda D, **k: afnp.nsf(D, (8,), 2, order="natural", **k),
    "normalised": lambda D, **k: afnp.maf(
        D, (8,), 2, order="natural", between=("batchnorm", "actnorm"), **k
    ),
    "attention": lambda D, **k: afnp.tarflow(
        D, width=8, heads=2, transforms=2, order="natural", **k
    ),
    "waves": lambda D, **k: afnp.wavenet_flow(D, channels=4, layers=2, order="natural", **k),
    "fixed": lambda D, **k: afnp.maf(
        D,
        (8,),
        1,
        preprocess=[Standardize(np.arange(D) / 3, np.linspace(0.8, 1.2, D))],
        base=StudentT(D, df=8.0),
        **k,
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def living(kind, D=D, **options):
    """A flow of one order, whose parameters hide nothing, and no longer than its quadrature."""
    flow = lively(KINDS[kind](D, **options), seed=len(kind), last=0.2)
    flow.theta += 0.03 * np.random.default_rng(D).standard_normal(flow.theta.size)
    return flow


NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
REACH = 25.0


def integrated(flow, x, k, context=None):
    """log ∫ p(x) over the last feature of the order alone, by quadrature in its noise's scale."""
    order = shared_order(flow)
    last = order[k]
    part = flow if k + 1 == flow.features else marginal(flow, k + 1)
    kept, known = np.sort(order[: k + 1]), np.sort(order[:k])
    t = REACH * NODES
    rows = np.zeros((len(t), k + 1))
    rows[:, np.searchsorted(kept, known)] = x[known]
    rows[:, np.searchsorted(kept, last)] = np.sinh(t / 5)
    volume = np.cosh(t / 5) / 5 * REACH * WEIGHTS
    log_p = part.log_prob(rows, context)
    return math.log((np.exp(log_p) * volume).sum())


@pytest.mark.parametrize("features", [2, 3])
@each_kind
def test_the_marginal_is_the_integral_of_the_density(kind, features):
    """400 nodes of Gauss and Legendre; kinks of relu leave 1e-4."""
    flow = living(kind, features)
    x = np.random.default_rng(1).standard_normal(features)
    order = shared_order(flow)
    for k in range(1, features):
        got = marginal(flow, k).log_prob(x[np.sort(order[:k])][None])[0]
        assert got == pytest.approx(integrated(flow, x, k), abs=1e-3)


@pytest.mark.parametrize("context", [0, 2])
@each_kind
def test_the_marginals_noise_is_the_flows_own(kind, context, backend):
    flow = living(kind, 5, context=context)
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((20, 5)), rng.standard_normal((20, 2)) if context else None
    u, _ = flow.normalize(x, c, backend="numpy")
    for k in (1, 3, 5):
        kept = np.sort(shared_order(flow)[:k])
        part = marginal(flow, k)
        engine = backend if kind != "attention" else "numpy"
        got, log_det = part.normalize(x[:, kept], c, backend=engine)
        assert norm_error(got, u[:, kept]) < 1e-11
        back, log_det_back = part.generate(got, c, backend=engine)
        assert norm_error(back, x[:, kept]) < 1e-9 and norm_error(log_det, -log_det_back) < 1e-9


@each_kind
def test_conditionals_integrate_to_one(kind):
    flow = living(kind, 2)
    first = shared_order(flow)[0]
    t = REACH * NODES
    rows = np.empty((len(t), 2))
    rows[:, first], rows[:, 1 - first] = 0.3, np.sinh(t / 5)
    density = np.exp(log_prob_given(flow, rows, 1))
    assert (density * np.cosh(t / 5) / 5 * REACH * WEIGHTS).sum() == pytest.approx(1, abs=1e-3)


def test_samples_of_the_joint_are_samples_of_the_marginal():
    """Two samples of 20,000: the largest gap of their distributions, at the level 1e-4."""
    flow = living("nsf")
    joint, alone = flow.sample(20_000, rng=1)[:, :2], marginal(flow, 2).sample(20_000, rng=2)
    for i in range(2):
        both = np.sort(np.concatenate([joint[:, i], alone[:, i]]))
        ranks = [np.searchsorted(np.sort(x[:, i]), both, side="right") for x in (joint, alone)]
        assert np.abs(ranks[0] - ranks[1]).max() / 20_000 < 2.23 * math.sqrt(2 / 20_000)
    assert np.corrcoef(joint.T) == pytest.approx(np.corrcoef(alone.T), abs=0.05)


def test_samples_given_the_first_features_are_those_of_the_conditional():
    """Of a Gaussian: mean and covariance given the first of three."""
    flow = lively(afnp.made(D, ()), seed=4, last=0.5)
    flow.parameters["0.W0"][1::2] = 0  # scales that depend on nothing
    x = flow.sample(200_000, rng=0)
    S, mean = np.cov(x.T), x.mean(axis=0)
    drawn = sample_given(flow, 50_000, [[1.2]], rng=1)
    assert (drawn[:, 0] == 1.2).all()
    expected = mean[1:] + S[1:, 0] / S[0, 0] * (1.2 - mean[0])
    covariance = S[1:, 1:] - np.outer(S[1:, 0], S[0, 1:]) / S[0, 0]
    scale = np.sqrt(np.diag(covariance))
    assert np.abs((drawn[:, 1:].mean(axis=0) - expected) / scale).max() < 0.05
    got = np.cov(drawn[:, 1:].T)
    assert np.abs((got - covariance) / np.outer(scale, scale)).max() < 0.05


@pytest.mark.parametrize("kind", ["turned", "iaf", "nsf"])
def test_what_was_sampled_is_read_off_and_drawn_again(kind):
    """Rows whose first features are given have the noise of those features."""
    flow = living(kind, 4, context=2)
    c = np.random.default_rng(1).standard_normal((6, 2))
    x = flow.sample(6, rng=0, context=c)
    kept = np.sort(shared_order(flow)[:2])
    again = sample_given(flow, 6, x[:, kept], rng=3, context=c)
    u, v = flow.normalize(x, c)[0], flow.normalize(again, c)[0]
    assert (again[:, kept] == x[:, kept]).all() and norm_error(v[:, kept], u[:, kept]) < 1e-9
    others = np.setdiff1d(np.arange(4), kept)
    assert (u[:, others] != v[:, others]).all()
    same = sample_given(flow, 6, x[:, kept], rng=3, context=c)
    assert (again == same).all()
    assert sample_given(flow, 3, np.empty((3, 0)), context=c[:1]).shape == (3, 4)


def test_missing_values_at_the_end_are_left_out():
    flow = living("turned", 4, context=2)
    order = shared_order(flow)
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((10, 4)), rng.standard_normal((10, 2))
    gaps = x.copy()
    for row in range(10):
        gaps[row, order[row % 5 :]] = np.nan
    got = log_prob(flow, gaps, c)
    for row in range(10):
        kept, k = np.sort(order[: row % 5]), row % 5
        expected = marginal(flow, k).log_prob(x[row : row + 1, kept], c[row : row + 1]) if k else 0
        assert got[row] == pytest.approx(float(np.squeeze(expected)), abs=1e-12)
    assert got[0] == 0 and (log_prob(flow, x, c) == flow.log_prob(x, c)).all()


def test_frames_have_gaps_by_name():
    pd = pytest.importorskip("pandas")
    flow = living("maf")
    flow.columns = ["a", "b", "c"]
    table = pd.DataFrame({"c": [0.5, None], "a": [1.0, 2.0], "b": [0.0, 0.1]})
    got = log_prob(flow, table)
    assert got[0] == flow.log_prob([[1.0, 0.0, 0.5]])[0]
    assert got[1] == marginal(flow, 2).log_prob([[2.0, 0.1]])[0]
    assert marginal(flow, 2).columns == ("a", "b")


def test_it_is_a_flow_like_any_other(tmp_path):
    flow = living("maf", 4, dtype=np.float32, context=1)
    flow.standardize_context([[10.0], [30.0]])
    part = marginal(flow, 2)
    x, c = np.zeros((3, 2)), np.full((3, 1), 25.0)
    afnp.save(part, tmp_path / "m.afnp")
    assert (afnp.load(tmp_path / "m.afnp").log_prob(x, c) == part.log_prob(x, c)).all()
    assert part.dtype == np.float32 and part.score(x, c).shape == (3, 2)
    before = flow.theta.copy()
    part.theta += 1
    assert (flow.theta == before).all()


def test_bounds_and_filters():
    fixed = [Bounds([0.0, None, -1.0], [None, None, 1.0]), LinearPrediction(3, [0.5])]
    flow = lively(afnp.made(3, (8,), preprocess=fixed), seed=1, last=0.2)
    x = flow.sample(5, rng=0)
    u = flow.normalize(x)[0]
    assert norm_error(marginal(flow, 2).normalize(x[:, :2])[0], u[:, :2]) < 1e-12
    assert (sample_given(flow, 4, x[:1, :2])[:, 2] < 1).all()
    with pytest.raises(ValueError, match="given: row 0 has density zero"):
        sample_given(flow, 4, [[-1.0]])


def test_tokens_stay_whole():
    flow = afnp.tarflow(4, patch=2, width=8, heads=2, transforms=1)
    x = np.random.default_rng(0).standard_normal((3, 4))
    u = flow.normalize(x)[0]
    assert norm_error(marginal(flow, 2).normalize(x[:, :2])[0], u[:, :2]) < 1e-12
    with pytest.raises(ValueError, match="features: expected whole tokens of 2 features, got 3"):
        marginal(flow, 3)


REFUSED = {
    "reverse": (
        lambda: afnp.maf(3, (8,), 2),
        r"one order, \[0, 1, 2\], but layer 1 \(Autoregressive\) lets feature 0 depend on",
    ),
    "permutation": (
        lambda: afnp.Flow([*afnp.made(3, (8,)).layers, Permutation([2, 0, 1])]),
        r"layer 1 \(Permutation\) lets feature 0 depend on feature 2",
    ),
    "matrix": (
        lambda: afnp.maf(3, (8,), 2, order="natural", between="lu"),
        r"layer 1 \(LULinear\) lets feature 0",
    ),
    "coupling": (
        lambda: afnp.Flow([Coupling(3, (8,), split=[True, False, False])]),
        r"layer 0 \(Coupling with a MLP\) has no marginal here",
    ),
    "discrete": (lambda: afnp.DiscreteMADE(3), "flow: expected a Flow, got DiscreteMADE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_flows_that_turn_the_order_are_refused_with_the_layer(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        marginal(build(), 2)


def test_gaps_before_known_features_are_refused():
    flow = living("maf")
    with pytest.raises(ValueError, match="x: row 1: feature 0 is missing and feature 1, which"):
        log_prob(flow, [[0.0, 0.0, 0.0], [np.nan, 1.0, np.nan]])
    with pytest.raises(ValueError, match="x: row 0, feature 2 is inf"):
        log_prob(flow, [[0.0, 0.0, np.inf]])
    with pytest.raises(ValueError, match="features: expected at most 3, got 4"):
        marginal(flow, 4)
    with pytest.raises(ValueError, match=r"given: expected 5 rows \(or 1\), got 2"):
        sample_given(flow, 5, np.zeros((2, 1)))


def test_a_network_of_one_kept_feature_needs_no_units():
    net = CausalConv(3, 2, 2, (1,))
    flow = afnp.Flow([Autoregressive(net, Affine()), *afnp.made(3, (2,)).layers])
    part = marginal(lively(flow), 1)
    assert [layer.features for layer in part.layers] == [1, 1]
    assert part.layers[1].conditioner.hidden == (1,)
