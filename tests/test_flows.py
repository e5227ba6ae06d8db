"""Flows: densities, gradients and samples are what mathematics says, whatever the architecture."""

import copy
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp import flow as flows
from afnp import model as models
from afnp.bases import StandardNormal
from afnp.chain_rule import GaussianChain
from afnp.networks.layers import MaskedLinear
from afnp.transforms import masked
from afnp.transforms.preprocess import Dequantize, Logit, Standardize, preprocessing

D, LEVELS = 5, 17
TURNED = [1, 2, 3, 4, 0]  # not its own inverse: order and argsort(order) cannot be confused unseen
GRADIENT = 1e-10
"""Of the largest entry of a parameter's gradient: complex steps are exact to rounding."""


def grey():
    return [
        Dequantize(D, LEVELS),
        Logit(D, alpha=0.01),
        Standardize(np.linspace(-1, 1, D), np.linspace(0.5, 2, D)),
    ]


KINDS = {
    "plain": dict(hidden=(8, 7), transforms=2),
    "tanh": dict(hidden=(8,), transforms=2, activation="tanh"),
    "residual": dict(hidden=(7, 7, 7), transforms=2, residual=True),
    "linear": dict(hidden=(), transforms=3),
    "turned": dict(hidden=(8,), transforms=2, order=TURNED),
    "random": dict(hidden=(8,), transforms=3, order="random", seed=5),
    "context": dict(hidden=(8, 8), transforms=2, order=TURNED, context=2),
    "residual context": dict(hidden=(6, 6, 6), transforms=2, residual=True, context=1),
    "standardized": dict(
        hidden=(8,), transforms=1, preprocess=[Standardize(np.arange(D), np.linspace(0.1, 10, D))]
    ),
    "grey": dict(hidden=(8,), transforms=1, preprocess=grey()),
}


def flow_of(kind, dtype=np.float64):
    return lively(afnp.maf(D, dtype=dtype, **KINDS[kind]), seed=len(kind))


def rows(flow, n, seed=1):
    """Data inside the support, and a context where the flow has one."""
    rng = np.random.default_rng(seed)
    x = (
        rng.uniform(0.5, LEVELS - 0.5, (n, D))
        if isinstance(flow.layers[0], Dequantize)
        else rng.standard_normal((n, D))
    )
    return x, rng.standard_normal((n, flow.context)) if flow.context else None


def trusted(context, n):
    """The context as the arithmetic without checks takes it."""
    return np.empty((n, 0)) if context is None else context


def jacobian(flow, x, context):
    """du/dx of one row, (D, D), by complex step."""
    p, c = flow.split(flow.theta), trusted(context, 1)
    return complex_step(lambda x: flow.normalize_with(p, x[None], c)[0][0], x)


each_kind = pytest.mark.parametrize("kind", KINDS)


# Densities


@each_kind
def test_log_det_is_that_of_the_jacobian(kind, backend):
    flow = flow_of(kind)
    x, context = rows(flow, 4)
    u, log_det = flow.normalize(x, context, backend=backend)
    for n in range(len(x)):
        J = jacobian(flow, x[n], None if context is None else context[n : n + 1])
        sign, truth = np.linalg.slogdet(J)
        assert sign in (-1, 1) and log_det[n] == pytest.approx(truth, rel=1e-10, abs=1e-10)


@each_kind
def test_log_prob_is_the_normal_density_of_the_noise_and_the_volume(kind, backend):
    flow = flow_of(kind)
    x, context = rows(flow, 6)
    u, log_det = flow.normalize(x, context, backend=backend)
    normal = -(u**2).sum(axis=1) / 2 - D / 2 * math.log(2 * math.pi)
    np.testing.assert_allclose(
        flow.log_prob(x, context, backend=backend), normal + log_det, rtol=1e-12
    )


@each_kind
def test_generate_inverts_and_log_dets_cancel(kind, backend):
    """1e-9: rounding of one direction, amplified by the condition of the other."""
    flow = flow_of(kind)
    x, context = rows(flow, 6)
    u, log_det = flow.normalize(x, context, backend=backend)
    for method in ("substitution", "naive"):
        back, log_det_back = flow.generate(
            u, context, method=method, backend=backend if method != "naive" else "auto"
        )
        assert norm_error(back, x) < 1e-9
        np.testing.assert_allclose(log_det_back, -log_det, rtol=0, atol=1e-9)


@each_kind
def test_log_det_of_generate_is_that_of_its_own_jacobian(kind):
    flow = flow_of(kind)
    _, context = rows(flow, 1)
    u, p = np.random.default_rng(3).standard_normal(D), flow.split(flow.theta)
    for method in ("substitution", "naive"):

        def f(u, method=method):
            return flow.generate_with(p, u[None], trusted(context, 1), method)[0][0]

        truth = np.linalg.slogdet(complex_step(f, u))[1]
        assert flow.generate(u[None], context, method)[1][0] == pytest.approx(
            truth, rel=1e-10, abs=1e-10
        )


@pytest.mark.parametrize("order", ["natural", "reverse", "random", TURNED])
@pytest.mark.parametrize(
    "net", [dict(hidden=(8, 7)), dict(hidden=(7, 7, 7), residual=True), dict(hidden=())]
)
def test_jacobian_is_triangular_in_the_order(order, net):
    """Exact zeros above the diagonal, nothing but legal dependencies missing,
    a positive diagonal."""
    flow = lively(
        afnp.made(D, order=order, seed=2, activation="tanh", **net)
    )  # without relu's dead units
    first = flow.layers[0].order
    J = jacobian(flow, np.random.default_rng(0).standard_normal(D), None)
    in_order = J[np.ix_(first, first)]
    assert not np.triu(in_order, 1).any()
    assert (np.diag(in_order) > 0).all() and (in_order[np.tril_indices(D)] != 0).all()
    assert not J[~flow.layers[0].allowed()].any() and (J[flow.layers[0].allowed()] != 0).all()


def test_orders_of_a_stack():
    def orders(order):
        return [layer.order.tolist() for layer in afnp.maf(5, (8,), 3, order=order, seed=1).layers]

    up, down = [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]
    assert orders("reverse") == [up, down, up]
    assert orders("natural") == [up, up, up]
    assert orders(TURNED) == [TURNED, TURNED[::-1], TURNED]
    assert len({tuple(order) for order in orders("random")}) == 3 and orders("random") == orders(
        "random"
    )
    assert afnp.made(5, (8,), order="reverse").layers[0].order.tolist() == down
    assert afnp.made(5, (8,), order=TURNED).layers[0].order.tolist() == TURNED


@pytest.mark.parametrize(
    "net", [dict(hidden=()), dict(hidden=(8, 8)), dict(hidden=(7, 7, 7), residual=True)]
)
def test_context_reaches_every_output_also_the_first(net, backend):
    """Both numbers of every feature move, in both directions, with every column of the context."""
    flow = lively(afnp.maf(D, transforms=2, order=TURNED, context=3, activation="tanh", **net))
    x, context = rows(flow, 1)
    layer, p = flow.layers[0], flow.split(flow.theta)[0]
    for column in range(flow.context):
        moved = context.copy()
        moved[0, column] += 0.3
        h, h_moved = (layer.conditioner.forward(p, c, x)[0] for c in (context, moved))
        assert (h != h_moved).all()
        u, u_moved = (flow.normalize(x, c, backend=backend)[0] for c in (context, moved))
        assert (u != u_moved).all()
        x_there, x_moved = (flow.generate(x, c, backend=backend)[0] for c in (context, moved))
        assert (x_there != x_moved).all()


@pytest.mark.parametrize("context", [None, [[1.5]], [[-2.0]]])
@pytest.mark.parametrize("transforms", [1, 2])
def test_a_density_in_two_dimensions_integrates_to_one(transforms, context):
    """Smooth networks bounded by tanh: Gaussian tails, and the trapezoid rule converges
    geometrically."""
    flow = afnp.maf(2, (6,), transforms, activation="tanh", context=0 if context is None else 1)
    lively(flow, seed=4, last=0.4)
    edge, step = 16, 0.04
    axis = np.arange(-edge, edge + step / 2, step)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    density = np.exp(flow.log_prob(grid, context, backend="numpy")).reshape(len(axis), -1)
    rim = max(density[0].max(), density[-1].max(), density[:, 0].max(), density[:, -1].max())
    assert rim < 1e-12
    assert density.sum() * step**2 == pytest.approx(1, abs=1e-6)


# Known densities


def gaussian(order, seed=0):
    """A random Gaussian, and the linear MADE that is its Cholesky factor."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((D, D + 2))
    chain = GaussianChain(rng.standard_normal(D), A @ A.T, order)
    flow = afnp.made(D, hidden=(), order=order)
    layer, p = flow.layers[0], flow.split(flow.theta)[0]
    a, m, B = chain.coefficients[np.ix_(order, order)], chain.mean[order], layer.univariate.bound
    p["W0"][:] = 0
    p["W0"][0::2], p["b0"][0::2] = a, m - a @ m
    p["b0"][1::2] = B * np.arctanh(np.log(chain.scales[order]) / B)
    return chain, flow


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], TURNED])
def test_a_linear_flow_is_a_gaussian(order, backend):
    chain, flow = gaussian(order)
    x = np.random.default_rng(1).standard_normal((20, D)) * 3
    residual = x - chain.mean
    quadratic = (residual * np.linalg.solve(chain.covariance, residual.T).T).sum(axis=1)
    truth = -(quadratic + np.linalg.slogdet(2 * np.pi * chain.covariance)[1]) / 2
    log_prob = flow.log_prob(x, backend=backend)
    np.testing.assert_allclose(log_prob, chain.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(log_prob, truth, rtol=1e-10)
    np.testing.assert_allclose(
        flow.normalize(x, backend=backend)[0], chain.normalize(x)[0], rtol=1e-11, atol=1e-11
    )
    np.testing.assert_allclose(
        flow.generate(x, backend=backend)[0], chain.generate(x)[0], rtol=1e-11, atol=1e-11
    )


def test_samples_of_a_linear_flow_have_the_gaussian_moments(backend):
    """Twenty z-scores of 100,000 samples: beyond 5 by chance once in 80,000 seeds."""
    chain, flow = gaussian(TURNED)
    x, n = flow.sample(100_000, rng=3, backend=backend), 100_000
    S = chain.covariance
    z_mean = (x.mean(axis=0) - chain.mean) / np.sqrt(np.diag(S) / n)
    z_cov = (np.cov(x.T, bias=True) - S) / np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / n)
    assert np.abs(z_mean).max() < 5 and np.abs(z_cov).max() < 5


def test_base_is_the_standard_normal():
    u = np.array([[0.0, 0.0], [1.0, -2.0]])
    np.testing.assert_allclose(
        StandardNormal(2).log_prob({}, u), [-math.log(2 * math.pi), -math.log(2 * math.pi) - 2.5]
    )
    d = StandardNormal(2).backward({}, u, np.array([1.0, 2.0]), {})
    truth = complex_step(lambda u: StandardNormal(2).log_prob({}, u) @ [1.0, 2.0], u)
    np.testing.assert_allclose(d, truth, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_drawn_in_the_precision_of_the_flow(dtype):
    assert StandardNormal(D).sample({}, 4, np.random.default_rng(0), dtype).dtype == dtype


# Preprocessing


def test_standardizing_counts_its_jacobian():
    m, s = np.arange(D) - 2.0, np.linspace(0.1, 10, D)
    inner = flow_of("plain")
    outer = afnp.maf(D, **KINDS["plain"], preprocess=[Standardize(m, s)])
    outer.theta = inner.theta
    x = np.random.default_rng(0).standard_normal((6, D))
    np.testing.assert_allclose(
        outer.log_prob(m + s * x), inner.log_prob(x) - np.log(s).sum(), rtol=1e-12
    )


def test_standardizing_tenfold_costs_log_ten_nats_a_feature():
    flow = flows.Flow([Standardize(np.zeros(D), np.full(D, 10.0))])
    assert flow.log_prob(np.zeros((1, D)))[0] == pytest.approx(
        -D / 2 * math.log(2 * math.pi) - D * math.log(10)
    )


@pytest.mark.parametrize("levels, bits", [(2, 1), (256, 8), (LEVELS, math.log2(LEVELS))])
def test_grey_levels_cost_their_bits(levels, bits):
    log_det = flows.Flow([Dequantize(D, levels)]).normalize(np.full((1, D), 0.3))[1][0]
    assert -log_det / (D * math.log(2)) == pytest.approx(bits, rel=1e-14)


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
@pytest.mark.parametrize("levels", [2, LEVELS, 256])
def test_a_uniform_image_costs_log2_levels_bits_a_pixel(levels, alpha):
    """x uniform on [0, L)^D has a logit y of density s (1 - s) / (1 - 2 alpha):
    p(x) must come out as L^-D."""
    x = np.random.default_rng(0).uniform(0, levels, (50, D))
    y, log_det = flows.Flow([Dequantize(D, levels), Logit(D, alpha)]).normalize(x)
    s = 1 / (1 + np.exp(-y))
    log_p = np.log(s * (1 - s) / (1 - 2 * alpha)).sum(axis=1) + log_det
    np.testing.assert_allclose(-log_p / (D * math.log(2)), math.log2(levels), rtol=1e-9)


def test_the_middle_grey_has_this_density():
    """At x = L/2: s = 1/2, y = 0, dy/dx = 4 (1 - 2 alpha) / L in every pixel."""
    flow = flows.Flow([Dequantize(D, LEVELS), Logit(D, alpha=0.05)])
    truth = D * (math.log(4 * 0.9 / LEVELS) - math.log(2 * math.pi) / 2)
    assert flow.log_prob(np.full((1, D), LEVELS / 2))[0] == pytest.approx(truth, rel=1e-14)


def test_the_density_of_grey_levels_integrates_to_one():
    """Over the whole support, which is a little wider than [0, L];
    midpoints never meet its open ends."""
    alpha, n = 0.05, 100_000
    flow = flows.Flow([Dequantize(1, LEVELS), Logit(1, alpha)])
    beyond = alpha / (1 - 2 * alpha) * LEVELS
    step = (LEVELS + 2 * beyond) / n
    x = -beyond + step * (np.arange(n) + 0.5)
    assert np.exp(flow.log_prob(x[:, None])).sum() * step == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("outside", [-1.0, LEVELS + 1.0, -1e30, 1e30])
def test_outside_the_support_the_density_is_zero(outside, backend):
    flow = flow_of("grey")
    x, _ = rows(flow, 3)
    inside = flow.log_prob(x, backend=backend)
    x[1, 2] = outside
    log_prob = flow.log_prob(x, backend=backend)
    assert log_prob[1] == -np.inf
    np.testing.assert_allclose(log_prob[[0, 2]], inside[[0, 2]], rtol=1e-12)
    assert np.isfinite(flow.normalize(x, backend=backend)[0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grey_levels_at_both_ends_are_inside(dtype):
    flow = flows.Flow([Dequantize(1, LEVELS), Logit(1)], dtype=dtype)
    ends = np.array([[0.0], [np.nextafter(dtype(LEVELS), dtype(0))], [LEVELS]])
    log_prob = flow.log_prob(ends)
    y = math.log(1e-6 / (1 - 1e-6))
    truth = (
        -(y**2) / 2 - math.log(2 * math.pi) / 2 + math.log((1 - 2e-6) / LEVELS / 1e-6 / (1 - 1e-6))
    )
    np.testing.assert_allclose(log_prob[[0, 2]], truth, rtol=1e-6 if dtype == np.float32 else 1e-12)
    assert np.isfinite(log_prob).all()


@pytest.mark.parametrize("dtype, far", [(np.float32, 120.0), (np.float64, 800.0)])
def test_generating_grey_levels_from_far_noise_keeps_a_finite_log_det(dtype, far):
    """dx/dy = s (1 - s) / (1 - 2 alpha) -> exp(-|y|), whose logarithm is -|y| however small it
    is."""
    flow = flows.Flow([Dequantize(1, LEVELS), Logit(1)], dtype=dtype)
    x, log_det = flow.generate(np.array([[far], [-far]]))
    np.testing.assert_allclose(log_det, -far + math.log(LEVELS), rtol=1e-5)


def test_preprocessing_makes_training_rows_standard():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3)) * [1e-3, 1, 1e6] + [1, 0, 1e7]
    y = flows.Flow(preprocessing(x)).normalize(x)[0]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-8)
    grey_rows = rng.uniform(0, LEVELS, (500, 3))
    y = flows.Flow(preprocessing(grey_rows, levels=LEVELS)).normalize(grey_rows)[0]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-12)


def test_constant_features_keep_their_scale():
    x = np.stack([np.full(9, 0.1), np.zeros(9), np.arange(9.0)], axis=1)
    assert Standardize.of(x).std.tolist()[:2] == [1, 1]


def test_small_units_are_no_constants():
    """Charges in coulomb vary around 1e-19, and are not constant."""
    x = np.random.default_rng(0).standard_normal((100, 2)) * 1e-19
    np.testing.assert_allclose(Standardize.of(x).std, x.std(axis=0))


# Gradients


@each_kind
@pytest.mark.parametrize("n", [1, 6, 131])
def test_gradients_of_the_loss(kind, n, backend):
    flow = flow_of(kind)
    x, context = rows(flow, n)
    loss, grad = flow.loss_and_grad(x, context, backend=backend)

    def by_definition(theta):
        return -flow.log_prob_with(
            flow.split(theta), x.astype(theta.dtype), trusted(context, n)
        ).mean()

    truth = complex_step(by_definition, flow.theta)
    assert grad.shape == flow.theta.shape and loss == pytest.approx(
        by_definition(flow.theta), rel=1e-12
    )
    for g, t in zip(flow.split(grad), flow.split(truth), strict=True):
        for name in g:
            assert norm_error(g[name], t[name]) < GRADIENT, name


@each_kind
def test_gradients_of_every_input(kind):
    """What the layers' backward hands on, down to the data:
    from any gradient of u and of log|det|."""
    flow = flow_of(kind)
    x, context = rows(flow, 3)
    rng, p, c = np.random.default_rng(2), flow.split(flow.theta), trusted(context, 3)
    d_u, d_log_det = rng.standard_normal((3, D)), rng.standard_normal(3)

    def weighted(x):
        u, log_det, _ = flow._normalize(p, x, c)
        return (d_u * u).sum() + (d_log_det * log_det).sum()

    d_x, caches = d_u, flow._normalize(p, x, c)[2]
    g = flow.split(np.zeros_like(flow.theta))
    for layer, p_layer, cache, g_layer in list(zip(flow.layers, p, caches, g, strict=True))[::-1]:
        d_x = layer.backward(p_layer, cache, d_x, d_log_det, g_layer)
    assert norm_error(d_x, complex_step(weighted, x)) < GRADIENT


@pytest.mark.parametrize("paths", [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("layer", grey(), ids=lambda layer: type(layer).__name__)
def test_gradients_of_fixed_transforms_by_each_path(layer, paths):
    rng = np.random.default_rng(0)
    x, d_y, d_log_det = (
        rng.uniform(0.1, 0.9, (4, D)),
        rng.standard_normal((4, D)),
        rng.standard_normal(4),
    )
    d_y, d_log_det = paths[0] * d_y, paths[1] * d_log_det

    def weighted(x):
        y, log_det, _ = layer.normalize({}, x, None)
        return (d_y * y).sum() + (d_log_det * log_det).sum()

    d_x = layer.backward({}, layer.normalize({}, x, None)[2], d_y, d_log_det, {})
    assert norm_error(d_x, complex_step(weighted, x)) < GRADIENT


@each_kind
def test_masked_weights_change_nothing_and_have_no_gradient(kind, backend):
    flow = flow_of(kind)
    x, context = rows(flow, 70)

    def everything():
        loss, grad = flow.loss_and_grad(x, context, backend=backend)
        generated = [
            a for m in ("substitution", "naive") for a in flow.generate(u, context, method=m)
        ]
        compiled = [
            *flow.normalize(x, context, backend=backend),
            *flow.generate(u, context, backend=backend),
        ]
        return [
            flow.log_prob(x, context, backend=backend),
            np.array(loss),
            grad,
            *generated,
            *compiled,
        ]

    u = np.random.default_rng(2).standard_normal((70, D))
    clean = everything()
    lively(flow, seed=len(kind), garbage=1e6)
    dirty = everything()
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
    unread = np.abs(flow.theta) > 1e3
    assert unread.any() and not dirty[2][unread].any()


# Precision


@each_kind
def test_float32_is_float32_everywhere(kind, backend, monkeypatch):
    flow = flow_of(kind, dtype=np.float32)
    x, context = rows(flow, 5)
    forward, seen = MaskedLinear.forward, []
    monkeypatch.setattr(
        MaskedLinear, "forward", lambda *args: seen.append(forward(*args)) or seen[-1]
    )
    u, log_det = flow.normalize(x, context, backend=backend)
    results = [
        u,
        log_det,
        flow.log_prob(x, context, backend=backend),
        flow.loss_and_grad(x, context, backend=backend)[1],
    ]
    data = [flow.sample(3, context=None if context is None else context[:3], backend=backend)]
    for method in ("substitution", "naive"):
        way = backend if method != "naive" else "auto"
        y, log_det = flow.generate(u, context, method=method, backend=way)
        data.append(y)
        results.append(log_det)
    # rows that are preprocessed keep the digits that float32 has not
    expected = np.float64 if flow.layers[0].preprocesses else np.float32
    assert [a.dtype for a in data] == [expected] * 3
    assert [a.dtype for a in [*results, *seen]] == [np.float32] * (len(results) + len(seen))
    assert isinstance(flow.loss_and_grad(x, context, backend=backend)[0], float)


@each_kind
def test_float32_agrees_with_float64(kind, backend):
    """Float32 parameters and data moved to float64 are exact. 1e-4:
    eps = 1.2e-7 times a condition below 1000."""
    single = flow_of(kind, dtype=np.float32)
    double = flow_of(kind)
    double.theta = single.theta
    x, context = rows(single, 20)
    x, context = x.astype(np.float32), None if context is None else context.astype(np.float32)
    u = np.random.default_rng(3).standard_normal((20, D)).astype(np.float32)
    for name, values in (("normalize", x), ("generate", u)):
        for a, b in zip(
            getattr(single, name)(values, context, backend=backend),
            getattr(double, name)(values, context, backend=backend),
            strict=True,
        ):
            assert norm_error(a, b) < 1e-4, name
    log_prob = single.log_prob(x, context, backend=backend)
    assert norm_error(log_prob, double.log_prob(x, context, backend=backend)) < 1e-4
    (loss, grad), (loss_double, grad_double) = (
        flow.loss_and_grad(x, context, backend=backend) for flow in (single, double)
    )
    assert loss == pytest.approx(loss_double, rel=1e-4)
    assert norm_error(grad, grad_double) < 1e-4


# Samples


@each_kind
def test_samples_follow_their_seed(kind, backend):
    flow = flow_of(kind)
    context = rows(flow, 9)[1]
    x = flow.sample(9, rng=7, context=context, backend=backend)
    assert x.shape == (9, D)
    np.testing.assert_array_equal(flow.sample(9, rng=7, context=context, backend=backend), x)
    np.testing.assert_array_equal(
        flow.sample(9, np.random.default_rng(7), context, backend=backend), x
    )
    assert (flow.sample(9, rng=8, context=context, backend=backend) != x).any(axis=1).all()
    assert len(np.unique(x, axis=0)) == 9


def test_the_naive_method_draws_the_same_samples():
    flow = flow_of("plain")
    assert norm_error(flow.sample(9, rng=7, method="naive"), flow.sample(9, rng=7)) < 1e-12


def test_a_generator_moves_on():
    flow, rng = flow_of("plain"), np.random.default_rng(7)
    first, second = flow.sample(3, rng), flow.sample(3, rng)
    assert (first != second).any(axis=1).all()
    np.testing.assert_allclose(np.concatenate([first, second]), flow.sample(6, rng=7), rtol=1e-12)


def test_the_seed_gives_the_parameters():
    first, same, other = (afnp.maf(D, (8,), 2, order="random", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.theta, same.theta)
    assert first.config() == same.config() != other.config()
    assert (first.theta != other.theta).any()
    np.testing.assert_array_equal(
        afnp.maf(D, (8,), 2, seed=1, dtype=np.float32).theta, first.theta.astype(np.float32)
    )


# Parameters, copies, configurations


def outcomes(flow, backend="auto"):
    """Everything that a flow computes."""
    x, context = rows(flow, 4)
    z = np.random.default_rng(5).standard_normal((4, D))
    return [
        flow.log_prob(x, context, backend=backend),
        *flow.normalize(x, context, backend=backend),
        *flow.generate(z, context, backend=backend),
        *flow.generate(z, context, method="naive"),
        flow.sample(4, context=context, backend=backend),
        flow.loss_and_grad(x, context, backend=backend)[1],
    ]


def twin(flow):
    """A flow that shares nothing with this one but the configuration and the values of the
    parameters."""
    other = flows.Flow.from_config(json.loads(json.dumps(flow.config())))
    other.theta = flow.theta.copy()
    return other


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@each_kind
def test_a_flow_is_its_configuration_and_its_parameters(kind, backend):
    flow = flow_of(kind)
    assert twin(flow).config() == flow.config() and twin(flow).dtype == flow.dtype
    assert same(outcomes(twin(flow), backend), outcomes(flow, backend))


@each_kind
def test_writing_into_theta_changes_everything(kind, backend):
    flow = flow_of(kind)
    before = outcomes(flow, backend)
    flow.theta[:] *= 0.9
    in_place = outcomes(flow, backend)
    assert not any(np.array_equal(a, b) for a, b in zip(before, in_place, strict=True))
    assert same(in_place, outcomes(twin(flow), backend))
    flow.theta *= 0.9
    assert same(outcomes(flow, backend), outcomes(twin(flow), backend))
    flow.theta = np.zeros(flow.theta.size)
    assert same(outcomes(flow, backend), outcomes(twin(flow), backend))
    assert not any(
        np.array_equal(a, b)
        for a, b in zip(in_place[:-1], outcomes(flow, backend)[:-1], strict=True)
    )


def test_assigning_theta_copies_into_the_same_memory():
    flow = flow_of("plain")
    theta, values = flow.theta, np.zeros(flow.theta.size)
    flow.theta = values
    assert flow.theta is theta and not theta.any() and not np.shares_memory(theta, values)


@each_kind
def test_calls_change_no_parameter_and_remember_nothing(kind, backend):
    flow = flow_of(kind)
    theta, first = flow.theta.copy(), outcomes(flow, backend)
    flow.sample(70, context=rows(flow, 70)[1], backend=backend)
    assert same(outcomes(flow, backend), first)
    np.testing.assert_array_equal(flow.theta, theta)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))]
)
@each_kind
def test_copies_are_independent(kind, duplicate, backend):
    flow = flow_of(kind)
    before = outcomes(flow, backend)
    other = duplicate(flow)
    assert same(outcomes(other, backend), before)
    other.theta[:] *= 0.9
    assert same(outcomes(flow, backend), before)
    assert same(outcomes(other, backend), outcomes(twin(other), backend))
    flow.theta[:] = 0
    assert same(outcomes(other, backend), outcomes(twin(other), backend))


def test_a_gradient_belongs_to_the_caller():
    flow = flow_of("plain")
    x, _ = rows(flow, 3)
    first = flow.loss_and_grad(x)[1]
    kept = first.copy()
    flow.loss_and_grad(x + 1)
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, flow.theta)


def test_repr_says_what_the_flow_is():
    text = repr(
        afnp.maf(
            3, (8,), 2, context=1, dtype=np.float32, preprocess=[Standardize([0, 0, 0], [1, 2, 3])]
        )
    )
    assert text.splitlines()[0] == "Flow(features=3, context=1, dtype=float32)"
    assert "Standardize" in text and "order=reverse" in text and "hidden=[8]" in text
    P = 4 * 8 + 8 + 8 * 6 + 6
    assert [line.split()[-1] for line in text.splitlines()[2:]] == [str(P), str(P), str(2 * P)]


@pytest.mark.parametrize("make", [afnp.iaf, afnp.nice, afnp.realnvp, afnp.nsf, afnp.maf_mog])
def test_every_family_has_a_repr(make):
    flow = make(3, transforms=2)
    assert len(repr(flow).splitlines()) == len(flow.layers) + 2


def test_repr_of_a_wide_flow_stays_narrow():
    wide = afnp.maf(
        784, (783,), 1, order="random", preprocess=[Standardize(np.zeros(784), np.ones(784))]
    )
    assert max(map(len, repr(wide).splitlines())) < 200


@pytest.mark.parametrize(
    "build",
    [
        lambda: afnp.maf(np.int64(3), (8,), 1),
        lambda: afnp.maf(3, (8,), 1, context=np.int64(2)),
        lambda: flows.Flow([Dequantize(3, np.int64(LEVELS))]),
        lambda: flows.Flow([Logit(np.int64(3))]),
    ],
    ids=["features", "context", "levels", "Logit"],
)
def test_numpy_integers_are_as_good_as_integers(build):
    """A width that NumPy computed, like x.max() + 1, can be saved too."""
    json.dumps(build().config())


# Batches


@each_kind
@pytest.mark.parametrize("method", ["substitution", "naive"])
def test_streamed_batches_equal_one_batch(kind, method, backend, monkeypatch):
    flow = flow_of(kind)
    x, context = rows(flow, 201)
    z = np.random.default_rng(5).standard_normal((201, D))
    generated_by = "auto" if method == "naive" else backend

    def results():
        return [
            flow.log_prob(x, context, backend=backend),
            *flow.normalize(x, context, backend=backend),
            *flow.generate(z, context, method=method, backend=generated_by),
            flow.sample(201, context=context, method=method, backend=generated_by),
        ]

    whole = results()
    monkeypatch.setattr(models, "BATCH_NUMBERS", 1)  # 64 rows a batch
    for a, b in zip(results(), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", ["substitution", "naive"])
def test_one_row_of_context_serves_every_batch(method, backend, monkeypatch):
    flow = flow_of("context")
    x, context = rows(flow, 150)
    generated_by = "auto" if method == "naive" else backend
    monkeypatch.setattr(models, "BATCH_NUMBERS", 1)
    one, many = context[:1], np.repeat(context[:1], 150, axis=0)
    np.testing.assert_array_equal(
        flow.log_prob(x, one, backend=backend), flow.log_prob(x, many, backend=backend)
    )
    for a, b in zip(
        flow.generate(x, one, method, generated_by),
        flow.generate(x, many, method, generated_by),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        flow.sample(150, 0, one, method, generated_by),
        flow.sample(150, 0, many, method, generated_by),
    )


MEMORY = """
import numpy as np
import afnp
flow = afnp.maf(64, hidden=(256, 256), transforms=2, dtype=np.float32)
x = np.random.default_rng(0).standard_normal((10**6, 64), dtype=np.float32)
assert np.isfinite(flow.log_prob(x, backend={backend!r})).all()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""
"""The peak of this process alone: ru_maxrss remembers that of the tests, which started it."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_million_rows_fit_into_two_gibibytes(backend):
    code = MEMORY.format(backend=backend)
    peak = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(peak) < 2 * 2**30


def test_layers_of_one_flow_have_one_width():
    with pytest.raises(
        ValueError, match=r"layers: expected one or more of equal width, got widths \[3, 4\]"
    ):
        flows.Flow([masked(3, (4,)), masked(4, (4,))])
    with pytest.raises(
        ValueError, match=r"layers: expected one or more of equal width, got widths \[\]"
    ):
        flows.Flow([])
