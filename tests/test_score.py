"""The score: the gradient of log p by the data and by the context, of every layer and family."""

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp import model
from afnp.bases import Logistic, StudentT
from afnp.transforms import Bounds, LinearPrediction, Standardize

D, C = 4, 2
ROUNDING = 1e-9
"""Complex steps are exact; the flows amplify rounding."""

FAMILIES = {
    "made": lambda **k: afnp.made(D, (8,), order=[2, 0, 3, 1], **k),
    "maf": lambda **k: afnp.maf(D, (8, 7), 2, **k),
    "residual": lambda **k: afnp.maf(D, (7, 7, 7), 2, residual=True, **k),
    "linear": lambda **k: afnp.maf(D, (), 2, **k),
    "iaf": lambda **k: afnp.iaf(D, (8,), 2, **k),
    "realnvp": lambda **k: afnp.realnvp(D, (8,), 2, **k),
    "nice": lambda **k: afnp.nice(D, (8,), **k),
    "nsf": lambda **k: afnp.nsf(D, (8,), 2, **k),
    "nsf coupling": lambda **k: afnp.nsf(D, (8,), 2, coupling=True, **k),
    "maf_mog": lambda **k: afnp.maf_mog(D, (8,), 1, **k),
    "tarflow": lambda **k: afnp.tarflow(D, patch=2, width=8, heads=2, transforms=2, **k),
    "wavenet": lambda **k: afnp.wavenet_flow(D, channels=4, layers=2, **k),
    "between": lambda **k: afnp.maf(
        D, (8,), 4, between=("batchnorm", "lu", "actnorm", "permutation"), **k
    ),
}
"""Every network, univariate and layer."""


def living(family, **options):
    """A flow of a family whose parameters hide nothing."""
    flow = lively(FAMILIES[family](**options), seed=len(family))
    noise = np.random.default_rng(len(family)).standard_normal(flow.theta.size)
    flow.theta += 0.05 * noise.astype(flow.dtype)
    return flow


def rows(flow, n=3, seed=1):
    rng = np.random.default_rng(seed)
    x = flow.sample(n, rng, rng.standard_normal((n, C)) if flow.context else None)
    return x, rng.standard_normal((n, C)) if flow.context else None


def by_complex_step(flow, x, context):
    """The gradients of log p by x and by the context of each row, (N, D) and (N, C)."""
    p, c = flow.split(flow.theta), np.empty((len(x), 0)) if context is None else context

    def of_row(row, given):
        of_x = complex_step(lambda z: flow.log_prob_with(p, z[None], given[None])[0], row)
        if not len(given):
            return of_x, given
        row = row[None].astype(complex)
        return of_x, complex_step(lambda z: flow.log_prob_with(p, row, z[None])[0], given)

    return tuple(map(np.array, zip(*map(of_row, x, c), strict=True)))


@pytest.mark.parametrize("context", [0, C])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_derivative_of_log_p(family, context):
    flow = living(family, context=context)
    x, c = rows(flow)
    of_x, of_context = by_complex_step(flow, x, c)
    assert norm_error(flow.score(x, c, backend="numpy"), of_x) < ROUNDING
    if context:
        assert norm_error(flow.score(x, c, of="context"), of_context) < ROUNDING


def test_flows_of_a_graph_and_what_lies_beyond_their_masks():
    graph = np.tri(D, k=-1, dtype=bool)
    graph[3, 1] = False
    flow = afnp.maf(D, (8,), 2, structure=graph, context=C)
    flow.theta[:] = 0.3 * np.random.default_rng(0).standard_normal(flow.theta.size)
    x, c = rows(flow)
    of_x, of_context = by_complex_step(flow, x, c)
    assert norm_error(flow.score(x, c), of_x) < ROUNDING
    assert norm_error(flow.score(x, c, of="context"), of_context) < ROUNDING


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "tarflow"])
def test_the_compiled_score_is_that_of_numpy(family):
    flow = living(family, context=C)
    x, c = rows(flow, 70)
    assert norm_error(flow.score(x, c, backend="numba"), flow.score(x, c, backend="numpy")) < 1e-10


@pytest.mark.parametrize("family", ["maf", "iaf", "nsf"])
def test_single_precision_follows_double(family):
    """To float32's rounding, amplified by splines whose slopes are steep."""
    flow = living(family)
    single = type(flow).from_config(
        {**flow.config(), "dtype": "float32"}, flow.theta.astype(np.float32)
    )
    x, _ = rows(flow, 20)
    got = single.score(x)
    assert got.dtype == np.float32 and norm_error(got, flow.score(x)) < 5e-3


@pytest.mark.parametrize(
    "base", [None, Logistic(D), StudentT(D, df=3.0)], ids=["normal", "logistic", "student"]
)
def test_every_base_and_fixed_layer(base):
    fixed = [
        Bounds([0.0, None, None, -1.0], [None, None, 2.0, 1.0]),
        Standardize(np.zeros(D), np.linspace(0.1, 0.4, D)),
        LinearPrediction(D, [0.5, -0.2], scale=0.7, mean=0.1),
    ]
    flow = lively(afnp.maf(D, (8,), 2, preprocess=fixed, base=base), seed=3)
    x = np.random.default_rng(1).uniform(0.1, 0.9, (3, D))
    assert norm_error(flow.score(x), by_complex_step(flow, x, None)[0]) < ROUNDING


def test_angles():
    flow = lively(afnp.nsf(2, (8,), 2, circular=True), seed=1)
    x, _ = rows(flow, 4)
    assert norm_error(flow.score(x), by_complex_step(flow, x, None)[0]) < ROUNDING


def test_of_a_gaussian_it_is_the_precision_times_the_distance():
    L = np.array([[2.0, 0.0], [1.0, 0.5]])
    flow = afnp.made(2, ())
    log_scale = 7 * np.arctanh(np.log(np.diag(L)) / 7)
    flow.parameters["0.W0"] = np.zeros((4, 2))
    flow.parameters["0.W0"][2, 0] = L[1, 0] / L[0, 0]
    flow.parameters["0.b0"] = [0.0, log_scale[0], 0.0, log_scale[1]]
    x = np.random.default_rng(0).standard_normal((5, 2))
    assert norm_error(flow.score(x), -x @ np.linalg.inv(L @ L.T)) < 1e-12


def test_contexts_are_moved_in_their_own_units():
    flow = living("maf", context=C)
    x, c = rows(flow)
    flow.standardize_context(100.0 + 30.0 * np.random.default_rng(0).standard_normal((50, C)))
    c = 100.0 + 30.0 * c
    h = 1e-3
    for k in range(C):
        step = h * np.eye(C)[k]
        central = (flow.log_prob(x, c + step) - flow.log_prob(x, c - step)) / (2 * h)
        assert norm_error(flow.score(x, c, of="context")[:, k], central) < 1e-6


def test_rows_outside_the_support_have_the_score_zero():
    flow = afnp.maf(2, (8,), 1, preprocess=[Bounds([0.0, 0.0], [1.0, None])])
    x = np.array([[0.3, 1.0], [2.0, 1.0]])
    assert np.isneginf(flow.log_prob(x)[1])
    assert not flow.score(x)[1].any() and flow.score(x)[0].all()


def test_long_inputs_come_in_pieces(monkeypatch, backend):
    flow = living("maf", context=C)
    x, c = rows(flow, 150)
    whole = flow.score(x, c, backend=backend)
    monkeypatch.setattr(model, "BATCH_NUMBERS", 40 * len(flow.layers) * flow.widest)
    assert norm_error(flow.score(x, c, backend=backend), whole) < 1e-13
    assert flow.score(x[:0], c[:0], backend=backend).shape == (0, D)


def test_one_context_serves_all_rows():
    flow = living("maf", context=C)
    x, c = rows(flow, 5)
    one = np.repeat(c[:1], 5, axis=0)
    for of in ("x", "context"):
        assert (flow.score(x, c[:1], of=of) == flow.score(x, one, of=of)).all()


def test_what_makes_no_sense_is_refused():
    flow = living("maf")
    x, _ = rows(flow)
    with pytest.raises(ValueError, match="of: expected one of 'x', 'context', got 'u'"):
        flow.score(x, of="u")
    with pytest.raises(ValueError, match="of: expected 'x', for this flow takes no context"):
        flow.score(x, of="context")
    given = living("maf", context=C)
    x, c = rows(given)
    with pytest.raises(ValueError, match="backend: the gradient by the context runs in 'numpy'"):
        given.score(x, c, of="context", backend="numba")
    with pytest.raises(ValueError, match="backend: 'cuda' only generates"):
        flow.score(x, backend="cuda")


def test_adjusted_langevin_walks_keep_the_flows_distribution():
    """Means of a walk that accepts by Metropolis' rule, within five standard errors."""
    flow = lively(afnp.maf(2, (16,), 2, activation="tanh"), seed=5, last=0.3)
    rng, step = np.random.default_rng(0), 0.05
    x = flow.sample(4000, rng=1)
    accepted = []
    for _ in range(20):
        drift = x + step * flow.score(x)
        y = drift + np.sqrt(2 * step) * rng.standard_normal(x.shape)
        back = y + step * flow.score(y)
        there, again = ((y - drift) ** 2).sum(axis=1), ((x - back) ** 2).sum(axis=1)
        ratio = flow.log_prob(y) - flow.log_prob(x) + (there - again) / (4 * step)
        keep = np.log(rng.random(len(x))) < ratio
        x = np.where(keep[:, None], y, x)
        accepted.append(keep.mean())
    other = flow.sample(4000, rng=2)
    error = np.sqrt((x.var(axis=0) + other.var(axis=0)) / 4000)
    assert 0.5 < np.mean(accepted) < 1
    assert (np.abs(x.mean(axis=0) - other.mean(axis=0)) < 5 * error).all()
