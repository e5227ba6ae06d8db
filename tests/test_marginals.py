"""Marginals and conditionals of one order: against quadrature and samples; else estimated."""

import math

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.bases import StudentT
from afnp.marginals import (
    estimate,
    log_prob,
    log_prob_given,
    marginal,
    sample_given,
    shared_order,
)
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
    pd = pytest.importorskip("pandas", reason="NOT TESTED: pip install pandas")
    flow = living("maf")
    flow.columns = ["a", "b", "c"]
    table = pd.DataFrame({"c": [0.5, None], "a": [1.0, 2.0], "b": [0.0, 0.1]})
    got = log_prob(flow, table)
    assert got[0] == flow.log_prob([[1.0, 0.0, 0.5]])[0]
    assert got[1] == marginal(flow, 2).log_prob([[2.0, 0.1]])[0]
    found = estimate(flow, table)
    assert np.abs(found.log_prob - got).max() < 0.1 and found.standard_error[0] == 0
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


@pytest.mark.parametrize("make", [afnp.maf, afnp.iaf, afnp.nsf, afnp.realnvp, afnp.nice])
def test_every_family_is_told_what_helps(make):
    """Couplings have no order to build: the estimate is there for all."""
    with pytest.raises(ValueError, match="afnp.marginals.estimate estimates the marginals of any"):
        marginal(make(3, (8,), transforms=2), 2)


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


# ---- estimated, where layers stand in different orders -------------------------------------------

MIXED = {
    "maf": lambda D, **k: afnp.maf(D, (8,), 2, **k),
    "iaf": lambda D, **k: afnp.iaf(D, (8,), 2, **k),
    "realnvp": lambda D, **k: afnp.realnvp(D, (8,), 2, **k),
    "nsf": lambda D, **k: afnp.nsf(D, (8,), 2, **k),
    "matrices": lambda D, **k: afnp.maf(D, (8,), 2, between="lu", **k),
    "bounds": lambda D, **k: afnp.maf(D, (8,), 2, preprocess=[Bounds([0.0] * D, [9.0] * D)], **k),
    "float32": lambda D, **k: afnp.maf(D, (8,), 2, dtype="float32", **k),
}


def mixed(kind, D, **options):
    return lively(MIXED[kind](D, **options), seed=len(kind), last=0.2)


def middle(flow, context=None):
    """A row where the density is: the median of samples."""
    return np.median(flow.sample(500, rng=3, context=context), axis=0)


def off(found, exact):
    """How many standard errors an estimate is off."""
    return (found.log_prob - exact) / found.standard_error


def box(flow, x, gaps, context=None):
    """log ∫ p(x) over the features that are gaps, by Gauss and Legendre in each."""
    t, w = np.polynomial.legendre.leggauss(200 if len(gaps) == 1 else 80)
    bounded = any(isinstance(layer, Bounds) for layer in flow.layers)
    if bounded:
        nodes, volume = 4.5 * (t + 1), 4.5 * w
    else:
        nodes, volume = np.sinh(4 * t), 4 * np.cosh(4 * t) * w
    rows = np.tile(x, (len(t) ** len(gaps), 1))
    rows[:, gaps] = np.stack(np.meshgrid(*[nodes] * len(gaps), indexing="ij"), -1).reshape(
        len(rows), -1
    )
    volumes = np.prod(np.stack(np.meshgrid(*[volume] * len(gaps), indexing="ij"), -1), -1).ravel()
    return math.log((np.exp(flow.log_prob(rows, context).astype(float)) * volumes).sum())


@pytest.mark.parametrize("gaps", [[0], [1], [0, 2], [1, 2]])
@pytest.mark.parametrize("kind", MIXED)
def test_the_estimate_is_the_integral_to_its_error(kind, gaps):
    flow = mixed(kind, 3)
    x = middle(flow).astype(float)
    row = x.copy()
    row[gaps] = np.nan
    found = estimate(flow, row[None], draws=4000, rng=1)
    assert abs(off(found, box(flow, x, gaps))[0]) < 4.5
    assert found.standard_error[0] < 0.05 and found.effective_sample_size[0] > 400


def test_the_estimate_given_a_context_is_the_integral_too():
    flow = mixed("maf", 2, context=2)
    flow.standardize_context([[10.0, 0.0], [30.0, 1.0]])
    c = np.array([[12.0, 0.3], [25.0, 0.9]])
    x = np.stack([middle(flow, row[None]) for row in c])
    gaps = np.where([[True, False], [False, True]], np.nan, x)
    found = estimate(flow, gaps, draws=4000, context=c)
    exact = [box(flow, x[n], [n], c[n : n + 1]) for n in range(2)]
    assert np.abs(off(found, exact)).max() < 4.5 and found.standard_error.max() < 0.05


def gaussian_flow(D):
    """Layers in both orders whose scales depend on nothing: a Gaussian, with its covariance."""
    flow = lively(afnp.maf(D, (), 2), seed=5, last=0.7)
    for layer in "01":
        flow.parameters[f"{layer}.W0"][1::2] = 0
    zero, eye = flow.generate(np.zeros((1, D)))[0], flow.generate(np.eye(D))[0]
    A = (eye - zero).T
    return flow, zero[0], A @ A.T


def test_the_estimate_of_a_gaussian_is_its_marginal_for_any_gaps():
    D, rng = 5, np.random.default_rng(0)
    flow, mean, V = gaussian_flow(D)
    x = flow.sample(30, rng=1)
    gaps = np.where(rng.random((30, D)) < 0.5, np.nan, x)
    found = estimate(flow, gaps, rng=2)
    exact = np.zeros(30)
    for n, row in enumerate(gaps):
        kept = np.flatnonzero(~np.isnan(row))
        d, S = (row - mean)[kept], V[np.ix_(kept, kept)]
        exact[n] = -0.5 * (d @ np.linalg.solve(S, d) + np.linalg.slogdet(2 * np.pi * S)[1])
    known = (~np.isnan(gaps)).sum(axis=1)
    partly = (known > 0) & (known < D)
    off_by = np.abs(found.log_prob - exact)
    assert partly.sum() > 20 and (off_by <= 4.5 * found.standard_error + 1e-9).all()
    assert found.log_prob[~partly] == pytest.approx(exact[~partly], abs=1e-9)
    assert (found.standard_error[~partly] == 0).all() and found.standard_error.max() < 0.03


def test_the_estimate_of_one_order_is_the_exact_marginal():
    flow = living("nsf", 4)
    x = flow.sample(20, rng=1)
    x[:, 2:] = np.nan
    found = estimate(flow, x)
    assert np.abs(off(found, log_prob(flow, x))).max() < 4.5


def test_the_standard_error_is_the_spread_of_estimates():
    flow = mixed("realnvp", 3)
    x = middle(flow).astype(float)
    row = np.array([[x[0], np.nan, np.nan]])
    exact, rng = box(flow, x, [1, 2]), np.random.default_rng(0)
    found = estimate(flow, np.repeat(row, 200, axis=0), draws=300, rng=rng)
    assert 0.85 < off(found, exact).std() < 1.15 and abs(off(found, exact).mean()) < 0.3


def test_angles_are_drawn_around_the_circle():
    flow = lively(afnp.nsf(2, (8,), 2, circular=True), seed=1, last=0.3)
    found = estimate(flow, [[0.5, np.nan]], draws=4000)
    t, w = np.polynomial.legendre.leggauss(200)
    rows = np.stack([np.full(200, 0.5), np.pi * t], axis=1)
    exact = math.log((np.exp(flow.log_prob(rows)) * np.pi * w).sum())
    assert abs(off(found, exact)[0]) < 4.5 and found.standard_error[0] < 0.05


def test_a_proposal_of_ones_own_is_drawn_from():
    """The exact conditional of a flow of one order has equal weights."""
    flow = afnp.made(2, (), context=1)
    shift = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.3, 0.6, 0.0], [0.0, 0.0, 0.0]]  # of c and x_0
    flow.parameters["0.W0"] = shift
    conditional = afnp.made(1, (), context=2)
    conditional.parameters["0.W0"] = [[0.6, 0.3, 0.0], [0.0, 0.0, 0.0]]
    rows, c = np.array([[0.7, np.nan], [-1.0, np.nan]]), [[0.2], [1.5]]
    found = estimate(flow, rows, 10, context=c, proposal=conditional)
    assert found.log_prob == pytest.approx(log_prob(flow, rows, c), abs=1e-12)
    assert found.effective_sample_size == pytest.approx(10)
    assert found.standard_error == pytest.approx(0, abs=1e-7)


def test_weights_that_say_little_are_warned_of_with_what_helps():
    flow, far = mixed("maf", 3), afnp.made(1, (), context=2)
    far.parameters["0.b0"] = [30.0, 0.0]
    x = [[0.0, 0.0, np.nan]]
    with pytest.warns(UserWarning, match='below 100 of 1000 draws, row 0 has .*order="natural"'):
        found = estimate(flow, x, proposal=far)
    assert found.effective_sample_size[0] < 100
    bounded = mixed("bounds", 2)
    with pytest.warns(UserWarning, match="row 0 has 0.0"):
        found = estimate(bounded, [[-1.0, np.nan]])
    assert found.log_prob[0] == -np.inf and found.standard_error[0] == np.inf


def test_estimates_repeat_with_the_seed():
    flow = mixed("maf", 3)
    one, same, other = (estimate(flow, [[0.1, np.nan, 0.2]], rng=seed) for seed in (1, 1, 2))
    assert one.log_prob == same.log_prob != other.log_prob


PROPOSALS = {
    "kind": (lambda: 3, "proposal: expected a Flow, got int"),
    "width": (
        lambda: afnp.made(2, (), context=1),
        "proposal: expected 1 features, those that are unknown, and a context of 2, got 2 and 1",
    ),
    "gaps": (lambda: afnp.made(1, (), context=2), "x: row 1 has other gaps than row 0"),
}


@pytest.mark.parametrize("case", PROPOSALS)
def test_proposals_that_do_not_fit_are_refused(case):
    make, message = PROPOSALS[case]
    second = [0.0, np.nan, np.nan] if case == "gaps" else [0.0, 0.0, np.nan]
    with pytest.raises(ValueError, match=message):
        estimate(mixed("maf", 3), [[0.0, 0.0, np.nan], second], proposal=make())
    with pytest.raises(ValueError, match="draws: expected an integer of at least 2, got 1"):
        estimate(mixed("maf", 3), [[0.0, 0.0, np.nan]], draws=1)
    with pytest.raises(ValueError, match="flow: expected a Flow, got DiscreteMADE"):
        estimate(afnp.DiscreteMADE(3), [[0.0, 0.0, np.nan]])


def test_what_is_given_is_found_by_name():
    pd = pytest.importorskip("pandas", reason="PANDAS IS MISSING: pip install '.[data]'")
    x = pd.DataFrame(np.random.default_rng(0).standard_normal((300, 3)), columns=list("abc"))
    flow = afnp.maf(3, (8,), 2, order="natural")
    afnp.fit(flow, x, epochs=1, progress=False)
    given = x[["a", "b"]].iloc[:5]
    drawn = sample_given(flow, 5, given[["b", "a"]], rng=1)
    np.testing.assert_array_equal(drawn, sample_given(flow, 5, given.to_numpy(), rng=1))
    with pytest.raises(ValueError, match="given: expected the columns 'a', 'b'; the table lacks"):
        sample_given(flow, 5, x[["c", "b"]].iloc[:5])


# ---- the flow's own spelling ---------------------------------------------------------------------

columns_first = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "turned"])


@columns_first
@pytest.mark.parametrize("context", [0, 2])
def test_a_flow_scores_its_first_columns(kind, context):
    flow = living(kind, context=context)
    given = np.array([[0.4, -0.7]]) if context else None
    x = flow.sample(6, 1, given)
    for k in (1, 2, D):
        found = flow.log_prob(x[:, :k], given, features=k)
        assert (found == marginal(flow, k).log_prob(x[:, :k], given)).all()
    assert found == pytest.approx(flow.log_prob(x, given), rel=1e-12)


@columns_first
def test_a_flow_samples_given_its_first_columns(kind):
    flow = living(kind)
    first = flow.sample(5, 2)[:, :2]
    drawn = flow.sample(5, 3, given=first)
    assert (drawn[:, :2] == first).all()
    assert (drawn == sample_given(flow, 5, first, rng=3)).all()
    drawn_freely = flow.normalize(flow.sample(5, 3))[0]
    assert norm_error(flow.normalize(drawn)[0][:, 2], drawn_freely[:, 2]) < 1e-6


@pytest.mark.parametrize("method", ["substitution", "naive", "jacobi"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_is_given_goes_with_any_engine_and_method(method, backend):
    flow = living("maf", context=2)
    options = {"rng": 0, "context": [[1.0, -1.0]], "given": [[0.3]]}
    expected = flow.sample(4, **options, backend="numpy")
    if (method, backend) == ("naive", "numba"):
        with pytest.raises(ValueError, match="backend: .*naive"):
            flow.sample(4, **options, method=method, backend=backend)
        return
    got = flow.sample(4, **options, method=method, backend=backend)
    assert norm_error(got, expected) < 1e-9 and (got[:, 0] == 0.3).all()


def test_first_columns_are_found_by_name():
    pd = pytest.importorskip("pandas", reason="NOT TESTED: pip install pandas")
    flow = living("maf")
    flow.columns = ["a", "b", "c"]
    x = flow.sample(3, 1)
    frame = pd.DataFrame(x[:, [1, 0]], columns=["b", "a"])
    assert (flow.log_prob(frame, features=2) == flow.log_prob(x[:, :2], features=2)).all()
    assert (flow.sample(3, given=frame)[:, :2] == x[:, :2]).all()
    with pytest.raises(ValueError, match="columns"):
        flow.sample(3, given=frame.rename(columns={"a": "z"}))


ASKED_AMISS = {
    "wide": (lambda f: f.log_prob(np.zeros((2, 3)), features=2), "x: expected .*2.*, got .*3"),
    "too many": (lambda f: f.log_prob(np.zeros((2, 4)), features=4), "features: expected at most"),
    "none": (lambda f: f.log_prob(np.zeros((2, 0)), features=0), "features: expected"),
    "half": (lambda f: f.log_prob(np.zeros((2, 1)), features=1.5), "features: expected"),
    "rows": (lambda f: f.sample(3, given=np.zeros((2, 1))), "given: expected 3 rows .or 1., got 2"),
    "each": (lambda f: f.sample(3, given=[[0.0]], each=True), "given: goes without each=True"),
    "gap": (lambda f: f.sample(1, given=[[np.nan]]), "given: row 0, feature 0 is nan"),
}


@pytest.mark.parametrize("case", ASKED_AMISS)
def test_first_columns_that_make_no_sense_are_refused(case):
    ask, message = ASKED_AMISS[case]
    with pytest.raises(ValueError, match=message):
        ask(living("maf"))


def test_where_there_is_no_exact_answer_another_way_is_named_that_works():
    """The order of columns is not the flow's; the layers turn it; the noise is not independent."""
    with pytest.raises(ValueError, match=r"begins with the columns \[0, 2\], not with the first 2"):
        living("turned").log_prob(np.zeros((1, 2)), features=2)
    with pytest.raises(ValueError, match="begins with"):
        living("turned").sample(2, given=[[0.0, 1.0]])
    for flow in (afnp.maf(3, (8,), 2), afnp.realnvp(3, (8,))):
        with pytest.raises(ValueError, match='order="natural", and afnp.marginals.estimate'):
            flow.log_prob([[0.0]], features=1)
        with pytest.raises(ValueError, match='order="natural", and afnp.marginals.estimate'):
            flow.sample(2, given=[[0.0]])
        assert np.isfinite(estimate(flow, [[0.0, np.nan, np.nan]]).log_prob).all()
    for build in (afnp.made, afnp.maf, afnp.iaf, afnp.nsf, afnp.maf_mog):
        kin = build(3, hidden=(8,), order="natural")
        assert kin.sample(2, given=[[0.0]]).shape == (2, 3)
