"""Constructors: one signature, defaults that work, and errors that name the argument."""

import inspect

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp.bases import Logistic
from afnp.constructors import BETWEEN, iaf, made, maf, maf_mog, nice, nsf, realnvp
from afnp.flow import Flow
from afnp.transforms import (
    ActNorm,
    Autoregressive,
    BatchNorm,
    Bounds,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
)
from afnp.transforms.preprocess import Standardize


def nsf_coupling(features, **kwargs):
    return nsf(features, coupling=True, **kwargs)


ALL = [maf, iaf, realnvp, nice, nsf, nsf_coupling, maf_mog, made]
STACKED = [kind for kind in ALL if kind is not made]
named = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
stacked = pytest.mark.parametrize("kind", STACKED, ids=lambda kind: kind.__name__)


def small(kind, D=3, **kwargs):
    return kind(D, **{"hidden": (8,), **({} if kind is made else {"transforms": 2}), **kwargs})


def rows(flow, n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, flow.features)), rng.standard_normal(
        (n, flow.context)
    ) if flow.context else None


# ---- every flow does everything ------------------------------------------------------------------


@named
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("D", [1, 2, 3, 5])
def test_flows_come_back_and_know_their_density(kind, D, context):
    """Log-densities against determinants by complex steps; 1e-9:
    mixtures are inverted by iteration."""
    flow = lively(small(kind, D, context=context), last=0.4)
    x, c = rows(flow)
    u, log_det = flow.normalize(x, c)
    back, log_det_back = flow.generate(u, c)
    assert norm_error(back, x) < 1e-9 and np.abs(log_det + log_det_back).max() < 1e-9
    p, c = flow.split(flow.theta), np.zeros((6, 0)) if c is None else c
    for n in range(2):
        J = complex_step(
            lambda x, n=n: flow.normalize_with(p, x[None], c[n : n + 1].astype(complex))[0][0], x[n]
        )
        expected = flow.base.log_prob(p.base, u[n : n + 1])[0] + np.linalg.slogdet(J)[1]
        assert flow.log_prob(x, c if context else None)[n] == pytest.approx(expected, abs=1e-9)


@named
def test_every_flow_has_exact_gradients(kind):
    flow = lively(small(kind, context=1, activation="tanh"), last=0.4)
    x, c = rows(flow)
    _, grad = flow.loss_and_grad(x, c)

    def loss(theta):
        return -flow.log_prob_with(flow.split(theta), x.astype(complex), c.astype(complex)).mean()

    assert norm_error(grad, complex_step(loss, flow.theta)) < 1e-8


@named
def test_every_flow_samples_in_the_precision_asked_for(kind):
    flow = small(kind, dtype=np.float32)
    x = flow.sample(5, rng=1)
    assert x.dtype == np.float32 and x.shape == (5, 3) and np.isfinite(flow.log_prob(x)).all()
    assert (x == flow.sample(5, rng=1)).all() and (x != flow.sample(5, rng=2)).any()


@named
def test_defaults_work(kind):
    """At the widths and depths that nobody has to name."""
    flow = kind(2)
    x, _ = rows(flow, 3)
    assert flow.theta.size > 100_000 or kind in (made, nice)
    assert norm_error(flow.generate(flow.normalize(x)[0])[0], x) < 1e-9


@named
def test_seeds_decide(kind):
    a, b, other = (small(kind, seed=seed) for seed in (1, 1, 2))
    assert (a.theta == b.theta).all() and (a.theta != other.theta).any()


@named
def test_contexts_reach_the_noise(kind):
    flow = lively(small(kind, context=1))
    x, c = rows(flow)
    assert (flow.log_prob(x, c) != flow.log_prob(x, c + 1)).all()


# ---- one signature -------------------------------------------------------------------------------


@named
def test_the_signature_is_one(kind):
    """Everything that maf takes of a flow, the others take too."""
    mean = Standardize([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    shared = dict(
        context=1, seed=3, dtype=np.float32, residual=True, activation="tanh", preprocess=[mean]
    )
    flow = small(kind, hidden=(8, 8, 8), base=Logistic(3), **shared)
    assert flow.layers[0] is mean and isinstance(flow.base, Logistic)
    assert (flow.context, flow.dtype) == (1, np.dtype(np.float32))
    nets = [layer.conditioner for layer in flow.layers if layer.conditioner is not None]
    assert all(
        net.residual and net.activation == "tanh" and net.hidden == (8, 8, 8) for net in nets
    )


@stacked
def test_the_first_arguments_stand_in_one_order(kind):
    names = list(inspect.signature(kind if kind is not nsf_coupling else nsf).parameters)
    assert names[:3] == ["features", "hidden", "transforms"]


KINDS = {
    maf: [Autoregressive] * 3,
    iaf: [Inverse] * 3,
    realnvp: [Coupling] * 3,
    nice: [Coupling] * 3 + [ActNorm],
    nsf: [Autoregressive] * 3,
    nsf_coupling: [Coupling] * 3,
    maf_mog: [Autoregressive] * 4,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_flows_are_made_of_what_their_names_say(kind):
    flow = small(kind, transforms=3)
    assert [type(layer) for layer in flow.layers] == KINDS[kind]
    names = {maf: "affine", iaf: "affine", realnvp: "affine", nice: "additive", maf_mog: "affine"}
    univariates = [layer.name for layer in flow.layers if layer.conditioner is not None]
    expected = [names.get(kind, "spline")] * 3 + ["gaussian_mixture"] * (kind is maf_mog)
    assert univariates == expected


@stacked
def test_every_feature_is_transformed_twice_by_four_layers(kind):
    """Couplings change blocks, autoregressive transforms their order: nothing stays what it was."""
    flow = lively(small(kind, D=5, transforms=4), last=0.5)
    x, _ = rows(flow)
    assert (flow.normalize(x)[0] != x).all()
    blocks = [layer.passing for layer in flow.layers if isinstance(layer, Coupling)]
    for one, other in zip(blocks[:-1], blocks[1:], strict=True):
        np.testing.assert_array_equal(one, ~other)


@pytest.mark.parametrize("kind", [maf, iaf, nsf, maf_mog])
def test_orders_alternate(kind):
    orders = [
        layer.order.tolist() for layer in small(kind, transforms=3, order=[1, 2, 0]).layers[:3]
    ]
    assert orders == [[1, 2, 0], [0, 2, 1], [1, 2, 0]]
    orders = [layer.order.tolist() for layer in small(kind).layers[:2]]
    assert orders == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize("D, transforms", [(5, 4), (8, 6)])
def test_random_splits_cover_everything_in_pairs(D, transforms):
    blocks = [
        layer.passing for layer in realnvp(D, (4,), transforms, split="random", seed=5).layers
    ]
    for k in range(0, transforms, 2):
        np.testing.assert_array_equal(blocks[k], ~blocks[k + 1])
    assert any((blocks[0] != blocks[k]).any() for k in range(2, transforms, 2))


# ---- between and around --------------------------------------------------------------------------

BETWEEN_TYPES = dict(
    actnorm=ActNorm, batchnorm=BatchNorm, lu=LULinear, permutation=Permutation, reverse=Permutation
)


@stacked
@pytest.mark.parametrize("name", sorted(BETWEEN))
def test_layers_stand_between_transforms(kind, name):
    flow = small(kind, transforms=3, between=name)
    types = [type(layer) for layer in flow.layers]
    between = KINDS[kind][0], BETWEEN_TYPES[name]
    assert types[:5] == [between[0], between[1], between[0], between[1], between[0]]
    assert types.count(BETWEEN_TYPES[name]) == 2 + (kind is maf_mog) + (
        kind is nice and name == "actnorm"
    )
    x, _ = rows(lively(flow, last=0.4))
    assert norm_error(flow.generate(flow.normalize(x)[0])[0], x) < 1e-8


def test_several_layers_stand_between_in_turn():
    types = [type(layer) for layer in maf(3, (4,), 2, between=["batchnorm", "permutation"]).layers]
    assert types == [Autoregressive, BatchNorm, Permutation, Autoregressive]


@pytest.mark.parametrize(
    "options", [{"univariate": "spline"}, {"univariate": None}, {"last": [ActNorm(2)]}]
)
def test_nice_is_what_it_is(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: a nice flow"):
        nice(2, hidden=(4,), **options)


@pytest.mark.parametrize("last", ["a", -1, [3], [ActNorm(3)]])
def test_layers_closest_to_the_noise_are_layers(last):
    with pytest.raises(ValueError, match="^last: expected transforms"):
        realnvp(2, hidden=(4,), last=last)


def test_univariate_options_arrive():
    assert maf(2, (4,), 1, options={"bound": 3.0}).layers[0].univariate.bound == 3.0
    spline = nsf(2, (4,), 1, bins=5, bound=2.0, options={"min_slope": 0.01}).layers[0].univariate
    assert (spline.bins, spline.bound, spline.min_slope) == (5, 2.0, 0.01)
    assert maf_mog(2, (4,), 1, components=3).layers[-1].univariate.components == 3
    mixing = realnvp(2, (4,), 1, univariate="logistic_mixture", options={"components": 2})
    assert mixing.layers[0].univariate.numbers == 6


@pytest.mark.parametrize("coupling", [False, True])
def test_circular_flows_live_on_the_torus(coupling):
    """Densities of angles: every turn is the same, and the whole torus has probability one."""
    flow = lively(nsf(2, (8,), 3, coupling=coupling, circular=True, bins=4), last=0.3)
    x = flow.sample(200, rng=0)
    assert (np.abs(x) <= np.pi).all()
    grid = -np.pi + 2 * np.pi * (np.arange(300) + 0.5) / 300
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    # midpoints on 300 x 300 cells, of a density with kinks: error of a few cells' size squared
    assert np.exp(flow.log_prob(points)).mean() * (2 * np.pi) ** 2 == pytest.approx(1, abs=2e-3)


def test_the_base_of_a_maf_of_mixtures_is_a_made_of_mixtures():
    """With an identity before it, the density is the product of conditional mixtures,
    written out."""
    K, flow = 4, lively(maf_mog(3, (8,), 1, components=4), last=1.0)
    p = flow.split(flow.theta)
    p[0].flat[:] = 0
    x, last = np.random.default_rng(0).standard_normal((9, 3)), flow.layers[-1]
    h = last.conditioner.forward(p[1], np.empty((9, 0)), x[:, last.order])[0][:, last.rank]
    logits, mu, s = np.split(h, 3, axis=-1)
    mu, s = mu + np.linspace(-2, 2, K), 7 * np.tanh(s / 7)
    pi = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    normal = np.exp(-0.5 * ((x[..., None] - mu) / np.exp(s)) ** 2 - s) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(
        flow.log_prob(x), np.log((pi * normal).sum(axis=-1)).sum(axis=1), rtol=1e-11
    )


# ---- what is refused -----------------------------------------------------------------------------

BAD = [
    (dict(features=0), "^features: expected an integer of at least 1, got 0$"),
    (dict(features=2.5), "^features: expected an integer, got 2.5$"),
    (dict(context=-1), "^context: expected an integer of at least 0, got -1$"),
    (dict(hidden=(0,)), "^hidden: expected an integer of at least 1, got 0$"),
    (dict(hidden=6), "^hidden: expected a sequence of integers, got 6$"),
    (dict(hidden="6"), "^hidden: expected a sequence of integers, got '6'$"),
    (dict(hidden=np.array(6)), r"^hidden: expected a sequence of integers, got array\(6\)$"),
    (dict(activation="swish"), "^activation: expected one of .*'relu', 'tanh', got 'swish'$"),
    (dict(hidden=(4, 4), residual=True), "^hidden: residual=True needs an odd number"),
    (dict(dtype=np.int64), "^dtype: expected float32 or float64, got int64$"),
    (dict(base=Logistic(2)), "^base: expected 3 features, got 2$"),
    (dict(between="dropout"), "^between: expected one of 'actnorm', .*, got 'dropout'$"),
    (dict(between=np.array(3)), r"^between: expected names among .*, got array\(3\)$"),
    (dict(between=3), "^between: expected names among 'actnorm', .*, got 3$"),
    (
        dict(preprocess=[Standardize([0.0], [1.0])]),
        r"^preprocess: expected transforms of 3 features",
    ),
]


@named
@pytest.mark.parametrize("change, message", BAD)
def test_flows_that_make_no_sense_are_refused(kind, change, message):
    change = dict(change)
    with pytest.raises(ValueError, match=message):
        small(kind, **{"D": change.pop("features", 3)} | change)


@stacked
def test_there_is_at_least_one_transform(kind):
    with pytest.raises(ValueError, match="^transforms: expected an integer of at least 1, got 0$"):
        small(kind, transforms=0)


OF_ONE_KIND = [
    (maf, dict(order=[0, 1]), r"^order: expected a permutation of 0..2"),
    (iaf, dict(order="sorted"), "^order: expected 'natural'"),
    (realnvp, dict(split="checkerboard"), "^split: expected one of"),
    (realnvp, dict(univariate="cubic"), "^univariate: expected one of"),
    (nsf, dict(bins=1), "^bins: "),
    (nsf, dict(bound=-1.0), "^bound: "),
    (nsf, dict(options={"bin": 3}), "^options of 'spline': expected one of"),
    (
        nsf,
        dict(circular=True, between="batchnorm"),
        "^between: expected 'permutation' or 'reverse' on",
    ),
    (nsf, dict(circular=True, bound=2.0), "^bound: "),
    (maf_mog, dict(components=0), "^components: "),
]


@pytest.mark.parametrize("kind, change, message", OF_ONE_KIND)
def test_arguments_of_one_kind_are_checked_too(kind, change, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **change)


@named
def test_contexts_of_the_wrong_width_or_length_are_named(kind):
    flow = small(kind, context=2)
    x, c = rows(flow)
    width, length = "context: expected 2 columns, got 1", "context: expected 6 rows"
    for wrong, message in ((c[:, :1], width), (c[:4], length), (None, "context: .* got none")):
        with pytest.raises(ValueError, match=message):
            flow.log_prob(x, wrong)


# Bounds

LOW, HIGH = [0.0, None, -1.0, None], [None, 5.0, 3.0, None]
BOUNDED = {"half-open above": 0, "half-open below": 1, "between": 2, "free": 3}


def inside(n=40, seed=0):
    """Rows inside LOW and HIGH, some very near to an end."""
    rng = np.random.default_rng(seed)
    x = np.column_stack(
        [
            rng.exponential(size=n),
            5 - rng.exponential(size=n),
            rng.uniform(-1, 3, n),
            rng.normal(size=n),
        ]
    )
    x[0, :3] = [1e-12, 5 - 1e-12, 3 - 1e-12]
    return x


def test_bounds_are_undone_and_have_their_derivative():
    layer, x = Bounds(LOW, HIGH), inside()
    y, log_det, cache = layer.normalize({}, x, None)
    back, log_det_back = layer.generate({}, y, None)
    np.testing.assert_allclose(back, x, rtol=1e-12)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-3, atol=1e-9)
    few = x[1:6]
    J = complex_step(lambda x: layer.normalize({}, x, None)[0], few)
    for n in range(5):
        slopes = np.diag(J[n, :, n, :])
        np.testing.assert_array_equal(J[n, :, n, :], np.diag(slopes))
        assert np.log(slopes).sum() == pytest.approx(log_det[1 + n], rel=1e-12)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(few.shape), rng.standard_normal(len(few))

    def score(x):
        y, log_det, _ = layer.normalize({}, x, None)
        return (a * y).sum() + (b * log_det).sum()

    d_x = layer.backward({}, layer.normalize({}, few, None)[2], a, b, {})
    assert norm_error(d_x, complex_step(score, few)) < 1e-13


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_noise_leaves_the_bounds_and_outside_the_density_is_zero(dtype):
    x = inside(400)
    layers = afnp.preprocessing(x, bounds=list(zip(LOW, HIGH, strict=True)))
    assert [type(layer).__name__ for layer in layers] == ["Bounds", "Standardize"]
    flow = afnp.nsf(4, hidden=(8,), transforms=1, preprocess=layers, dtype=dtype)
    u = 4 * np.random.default_rng(0).standard_normal((5000, 4)).astype(dtype)
    y = flow.generate(u)[0]
    low = np.array([-np.inf if end is None else end for end in LOW])
    high = np.array([np.inf if end is None else end for end in HIGH])
    assert ((y > low.astype(dtype)) & (y < high.astype(dtype))).all()
    assert np.isfinite(flow.log_prob(y)).all()
    for feature, value in ((0, 0.0), (0, -1.0), (1, 5.0), (1, 6.0), (2, -1.0), (2, 3.5)):
        rows = inside(2, seed=3)
        rows[0, feature] = value
        got = flow.log_prob(rows)
        assert got[0] == -np.inf and np.isfinite(got[1])


@pytest.mark.parametrize("kind", [k for k, i in BOUNDED.items() if i < 3])
def test_a_bounded_density_integrates_to_one(kind):
    i = BOUNDED[kind]
    layer = Bounds([LOW[i]], [HIGH[i]])
    flow = Flow([layer])
    y = np.linspace(-9, 9, 20_001)
    x = layer.generate({}, y[:, None], None)[0][:, 0]
    p = np.exp(flow.log_prob(x[:, None]))
    assert np.trapezoid(p, x) == pytest.approx(1, abs=1e-4)


def test_bounds_by_name_and_in_model_files(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(inside(200), columns=["mass", "age", "angle", "z"])
    named = afnp.preprocessing(table, bounds={"mass": (0, None), "angle": (-1, 3), 1: (None, 5)})
    numbered = afnp.preprocessing(inside(200), bounds={0: (0, np.inf), 2: (-1, 3), 1: (-np.inf, 5)})
    assert [layer.config() for layer in named] == [layer.config() for layer in numbered]
    flow = afnp.maf(4, hidden=(8,), transforms=1, preprocess=named)
    afnp.save(flow, tmp_path / "m.afnp")
    again = afnp.load(tmp_path / "m.afnp")
    np.testing.assert_array_equal(again.log_prob(inside()), flow.log_prob(inside()))


@pytest.mark.parametrize(
    "bounds, message",
    [
        ({4: (0, 1)}, "bounds: expected features among 0, 1, 2, 3, got 4"),
        ({"mass": (0, 1)}, "bounds: expected features among 0, 1, 2, 3, got 'mass'"),
        ({0: 3}, r"bounds: expected \(low, high\) for feature 0"),
        ({0: (0, 1, 2)}, r"bounds: expected \(low, high\) for feature 0"),
        ({0: ("a", None)}, r"bounds: low\[0\]: expected a number"),
        ({0: (np.nan, None)}, r"bounds: low\[0\]: expected a number"),
        ({3: (2, 1)}, "bounds: feature 3: expected low < high, got 2.0 and 1.0"),
        (
            {0: (1e-6, None)},
            r"bounds: row 0, feature 0: expected a value inside \(1e-06, inf\), got 1e-12",
        ),
        (5, "bounds: expected {feature: "),
        ([(0, None)] * 5, "bounds: expected {feature: "),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        afnp.preprocessing(inside(), bounds=bounds)


@pytest.mark.parametrize(
    "kind, given, near",
    [
        (afnp.iaf, "hiden", "hidden"),
        (afnp.nsf, "bin", "bins"),
        (afnp.realnvp, "splitt", "split"),
        (afnp.nice, "activaton", "activation"),
        (afnp.maf_mog, "component", "components"),
        (afnp.tarflow, "head", "heads"),
        (afnp.wavenet_flow, "channel", "channels"),
        (afnp.nsf, "preproces", "preprocess"),
    ],
)
def test_a_misspelt_argument_is_named_with_what_was_meant(kind, given, near):
    with pytest.raises(TypeError, match=rf"^{given}: expected .*; did you mean {near}\?$"):
        kind(4, **{given: 3})


def test_an_argument_of_nothing_is_refused_without_a_guess():
    with pytest.raises(TypeError, match="^qqq: expected an argument that this constructor has$"):
        afnp.nsf(4, coupling=True, qqq=1)


def test_levels_have_bounds_of_their_own():
    with pytest.raises(ValueError, match="^bounds: levels have their own"):
        afnp.preprocessing(np.full((3, 2), 0.5), levels=2, bounds={0: (0, 1)})
