"""Every transform, in every dimension: there and back, log-determinants, structure,
and gradients by hand."""

import inspect
import json
import warnings

import numpy as np
import pytest
from conftest import complex_step, norm_error

from afnp.flow import Flow
from afnp.networks import masks
from afnp.transforms import (
    ActNorm,
    BatchNorm,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
    masked,
    split_of,
)
from afnp.univariate import UNIVARIATES

EXACT = 1e-10
"""Rounding of a log-determinant of D ≤ 8 features, and of a complex-step Jacobian's."""

GRADIENT = 1e-9
"""Of the largest entry: both sides are exact to rounding,
amplified by conditions of at most some thousands."""

FEATURES = (1, 2, 3, 5, 8)


def turned(features):
    """1, 2, ..., 0: from D = 3 on it is not its own inverse."""
    return np.roll(np.arange(features), -1)


def network(features, context, **kwargs):
    return dict(features=features, hidden=(12, 12), context=context) | kwargs


RESIDUAL = dict(hidden=(12, 12, 12), residual=True, activation="tanh")

LAYERS = {
    "autoregressive": lambda D, C: masked(**network(D, C, activation="tanh"), order=turned(D)),
    "inverse": lambda D, C: Inverse(masked(**network(D, C, activation="tanh"), order=turned(D))),
    "inverse residual": lambda D, C: Inverse(masked(**network(D, C, **RESIDUAL))),
    "inverse linear": lambda D, C: Inverse(masked(**network(D, C, hidden=()))),
    "coupling": lambda D, C: Coupling(**network(D, C)),
    "coupling residual": lambda D, C: Coupling(
        **network(D, C, **RESIDUAL), split=split_of("half", D, swapped=True)
    ),
    "coupling additive": lambda D, C: Coupling(**network(D, C), univariate="additive"),
    "permutation": lambda D, C: Permutation(turned(D)),
    "actnorm": lambda D, C: ActNorm(D),
    "batchnorm": lambda D, C: BatchNorm(D),
    "linear": lambda D, C: LULinear(D, turned(D), [(-1) ** i for i in range(D)]),
    "rotation": lambda D, C: LULinear.rotation(D, np.random.default_rng(D)),
}
FREE_OF_CONTEXT = ("permutation", "actnorm", "batchnorm", "linear", "rotation")

CASES = [
    pytest.param(name, D, C, id=f"{name}-{D}-{C}")
    for name in LAYERS
    for D in FEATURES
    for C in (0, 2)
    if not (C and name in FREE_OF_CONTEXT)
]


def alive(layer, seed=0, last=1.0):
    """Random parameters that hide nothing: gain 1 in hidden layers,
    garbage where masks forbid to read."""
    rng = np.random.default_rng([seed, layer.features])
    p = layer.layout.views(np.zeros(layer.layout.size))
    layer.initialize(p, rng)
    conditioner = getattr(layer, "conditioner", None)
    for linear in getattr(conditioner, "linears", []):
        W, size = p[linear.W], last if linear is conditioner.linears[-1] else np.sqrt(2)
        heard = masks.mask(linear.prefix, W.shape[1])
        scale = size / np.sqrt(np.maximum(linear.prefix[:, None], 1))
        W[:] = np.where(heard, scale, 1e3) * rng.standard_normal(W.shape)
        p[linear.b][:] = rng.standard_normal(p[linear.b].shape) / 2
    if conditioner is None:
        size = (
            0.5 / layer.features if isinstance(layer, LULinear) else 0.5
        )  # a matrix of D² random entries
        for part in p.values():
            part += size * rng.standard_normal(part.shape)
    return p


def prepared(name, D, C, n=4, seed=0):
    """A living layer, its parameters, and rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # wide enough: nothing is lost
        layer = LAYERS[name](D, C)
    rng = np.random.default_rng([seed, D, C])
    return layer, alive(layer, seed), rng.standard_normal((n, D)), rng.standard_normal((n, C))


def jacobian(layer, p, x, context):
    """J[i, j] = du_i / dx_j of one row (D,)."""
    return complex_step(
        lambda x: layer.normalize(p, x[None], context[None].astype(complex))[0][0], x
    )


# ---- both directions -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["substitution", "naive"])
@pytest.mark.parametrize("name, D, C", CASES)
def test_there_and_back(name, D, C, method):
    """Tolerance: rounding amplified by the condition of one layer."""
    layer, p, x, context = prepared(name, D, C)
    u, log_det, _ = layer.normalize(p, x, context)
    back, log_det_back = layer.sampler(method)(p, u, context)
    assert u.shape == x.shape and log_det.shape == (len(x),)
    assert norm_error(back, x) < 1e-10 and np.abs(log_det + log_det_back).max() < 1e-10
    drawn, _ = layer.sampler(method)(p, x, context)
    assert norm_error(layer.normalize(p, drawn, context)[0], x) < 1e-10


@pytest.mark.parametrize("name, D, C", CASES)
def test_log_determinants_are_those_of_the_jacobian(name, D, C):
    layer, p, x, context = prepared(name, D, C)
    _, log_det, _ = layer.normalize(p, x, context)
    for n in range(len(x)):
        truth = np.linalg.slogdet(jacobian(layer, p, x[n], context[n]))[1]
        assert abs(log_det[n] - truth) <= EXACT * (1 + abs(truth))


@pytest.mark.parametrize("name, D, C", CASES)
def test_the_jacobian_has_the_structure_that_is_promised(name, D, C):
    """Exactly zero where it must be, and somewhere different from zero where it may be."""
    layer, p, x, context = prepared(name, D, C, n=8)
    jacobians = np.array([jacobian(layer, p, x[n], context[n]) for n in range(len(x))])
    assert not jacobians[:, ~layer.allowed()].any()
    assert (jacobians[:, layer.allowed()] != 0).any(axis=0).all()


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in FREE_OF_CONTEXT])
@pytest.mark.parametrize("D", FEATURES)
def test_the_context_reaches_every_output_that_listens(name, D):
    layer, p, x, context = prepared(name, D, 2, n=8)
    u = layer.normalize(p, x, context)[0]
    for c in range(2):
        moved = context.copy()
        moved[:, c] += 0.5
        heard = (layer.normalize(p, x, moved)[0] != u).any(axis=0)
        np.testing.assert_array_equal(heard, layer.allowed_context().any(axis=1))


# ---- gradients -----------------------------------------------------------------------------------


def gradients(normalize, backward, layout, p, x, context, seed=0):
    """Claimed and true derivatives of Σ d_u u + Σ d_logdet logdet, by x and by theta."""
    rng = np.random.default_rng([seed, 7])
    d_u, d_log_det = rng.standard_normal(x.shape), rng.standard_normal(len(x))

    def loss(x, theta):
        u, log_det, _ = normalize(layout.views(theta), x, context.astype(complex))
        return (d_u * u).sum() + (d_log_det * log_det).sum()

    grad = np.ones(layout.size)
    d_x = backward(p, normalize(p, x, context)[2], d_u, d_log_det, layout.views(grad))
    by_x = complex_step(lambda x: loss(x, p.flat.astype(complex)), x)
    moved = x.astype(complex)
    by_theta = (
        complex_step(lambda theta: loss(moved, theta), p.flat) if layout.size else np.zeros(0)
    )
    return (d_x, by_x), (grad - 1, by_theta)  # gradients are added to what is there


@pytest.mark.parametrize("name, D, C", CASES)
def test_gradients_are_those_of_complex_steps(name, D, C):
    layer, p, x, context = prepared(name, D, C)
    by_x, by_theta = gradients(layer.normalize, layer.backward, layer.layout, p, x, context)
    assert norm_error(*by_x) < GRADIENT
    assert norm_error(*by_theta) < GRADIENT


def with_few_parameters(name):
    """Return a univariate of few bins or components: each parameter takes a complex step."""
    kind, few = UNIVARIATES[name], {"bins": 3, "components": 2}
    taken = set(few) & set(inspect.signature(kind).parameters)
    return kind(**{option: few[option] for option in taken})


@pytest.mark.parametrize(
    "kind", [lambda **options: Inverse(masked(**options)), Coupling], ids=["Inverse", "Coupling"]
)
@pytest.mark.parametrize("univariate", sorted(UNIVARIATES))
@pytest.mark.parametrize("D", [1, 3])
def test_every_univariate_serves_as_iaf_and_coupling(univariate, kind, D):
    univariate = with_few_parameters(univariate)
    layer = kind(**network(D, 1, hidden=(4,), univariate=univariate, activation="tanh"))
    p, rng = alive(layer, last=0.7), np.random.default_rng(3)
    x, context = 0.9 * rng.standard_normal((3, D)), rng.standard_normal((3, 1))
    u, log_det, _ = layer.normalize(p, x, context)
    back, log_det_back = layer.generate(p, u, context)
    assert norm_error(back, x) < 1e-9 and np.abs(log_det + log_det_back).max() < 1e-9
    for n in range(len(x)):
        assert abs(log_det[n] - np.linalg.slogdet(jacobian(layer, p, x[n], context[n]))[1]) < 1e-9
    for claimed, truth in gradients(layer.normalize, layer.backward, layer.layout, p, x, context):
        assert (
            norm_error(claimed, truth) < 1e-8
        )  # knots and tails are worse conditioned than an affine map


# ---- types, purity, configurations ---------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_single_precision_stays_single(name):
    layer, p, x, context = prepared(name, 5, 0)
    single = layer.layout.views(p.flat.astype(np.float32))
    u, log_det, cache = layer.normalize(single, x.astype(np.float32), context.astype(np.float32))
    g = layer.layout.views(np.zeros(layer.layout.size, np.float32))
    back, log_det_back = layer.generate(single, u, context.astype(np.float32))
    d_x = layer.backward(single, cache, u, log_det, g)
    assert {a.dtype for a in (u, log_det, back, log_det_back, d_x)} == {np.dtype(np.float32)}
    assert norm_error(u, layer.normalize(p, x, context)[0]) < 1e-4


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_is_given_changes(name):
    """No layer writes to its input or its parameters; statistics move in fit alone."""
    layer, p, x, context = prepared(name, 3, 0)
    before, theta = x.copy(), p.flat.copy()
    x.flags.writeable = p.flat.flags.writeable = False
    p = layer.layout.views(p.flat)
    u, _, cache = layer.normalize(p, x, context)
    kept = u.copy()
    layer.generate(p, x, context)
    layer.backward(p, cache, x, x[:, 0].copy(), layer.layout.views(np.zeros(layer.layout.size)))
    assert (x == before).all() and (p.flat == theta).all() and (u == kept).all()
    np.testing.assert_array_equal(layer.normalize(p, x, context)[0], kept)


@pytest.mark.parametrize("name, D, C", [case for case in CASES if case.values[1] in (1, 5)])
def test_a_configuration_rebuilds_the_layer(name, D, C):
    layer, p, x, context = prepared(name, D, C)
    again = type(layer).from_config(json.loads(json.dumps(layer.config())))
    assert again.config() == layer.config() and again.layout.shapes == layer.layout.shapes
    np.testing.assert_array_equal(
        again.normalize(p, x, context)[0], layer.normalize(p, x, context)[0]
    )


@pytest.mark.parametrize("name", LAYERS)
def test_no_rows_are_no_trouble(name):
    layer, p, x, context = prepared(name, 3, 0, n=0)
    for result in (layer.normalize(p, x, context), layer.generate(p, x, context)):
        assert result[0].shape == (0, 3) and result[1].shape == (0,)


# ---- stacks --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "inverse linear"])
def test_ten_layers_of_64_features_come_back(name):
    """1e-9 (1 + max|x|), at gain 1; last layers shrink with depth and width,
    as in the verification.

    Left out is the network without hidden layers: 64 scales that are exponentials of each other's
    results.
    """
    D, rng = 64, np.random.default_rng(0)
    layers = [LAYERS[name](D, 0) for _ in range(10)]
    ps = [alive(layer, seed, last=1 / np.sqrt(10 * D / 8)) for seed, layer in enumerate(layers)]
    x = rng.standard_normal((5, D))
    u, none, log_det, log_det_back = x, np.empty((5, 0)), 0, 0
    for layer, p in zip(layers, ps, strict=True):
        u, more, _ = layer.normalize(p, u, none)
        log_det = log_det + more
    back = u
    for layer, p in zip(layers[::-1], ps[::-1], strict=True):
        back, more = layer.generate(p, back, none)
        log_det_back = log_det_back + more
    assert np.abs(back - x).max() <= 1e-9 * (1 + np.abs(x).max())
    assert (
        np.abs(log_det + log_det_back).max() < 1e-8
    )  # a sum of 640 terms that each carry such an error


def test_layers_of_all_kinds_compose_into_a_flow(backend):
    """Density, sampler and gradient of one flow of everything, in both renderings."""
    D, C = 5, 1
    layers = [make(D, 0 if name in FREE_OF_CONTEXT else C) for name, make in LAYERS.items()]
    flow = Flow(layers, context=C, seed=1)
    flow.theta += 0.1 * np.random.default_rng(2).standard_normal(flow.theta.size)
    rng = np.random.default_rng(3)
    x, context = rng.standard_normal((20, D)), rng.standard_normal((20, C))
    u, log_det = flow.normalize(x, context, backend=backend)
    back, log_det_back = flow.generate(u, context, backend=backend)
    assert norm_error(back, x) < 1e-10 and np.abs(log_det + log_det_back).max() < 1e-10
    loss, grad = flow.loss_and_grad(x, context, backend=backend)

    def complex_loss(theta):
        return -flow.log_prob_with(
            flow.split(theta), x.astype(complex), context.astype(complex)
        ).mean()

    some = rng.choice(flow.theta.size, 60, replace=False)
    truth = complex_step(lambda part: complex_loss(_with(flow.theta, some, part)), flow.theta[some])
    assert norm_error(grad[some], truth) < GRADIENT
    assert loss == pytest.approx(-flow.log_prob(x, context, backend="numpy").mean(), abs=1e-12)


def _with(theta, where, values):
    moved = theta.astype(complex)
    moved[where] = values
    return moved
