"""Univariates: each is a bijection whose inverse, derivative and gradients are what they say."""

import numpy as np
import pytest
from conftest import complex_step

from afnp.univariate import UNIVARIATES, Affine

CASES = [Affine(), Affine(bound=0.5), Affine(bound=50.0)]


def ids(case):
    return f"{type(case).__name__}{case.config()}"


@pytest.fixture(params=CASES, ids=ids)
def tau(request):
    return request.param


def numbers(tau, shape=(4, 3), size=2.0, seed=0):
    """Conditioner's numbers h, data x, and gradients d_u and d_log, of any leading shape."""
    rng = np.random.default_rng(seed)
    return size * rng.standard_normal((*shape, tau.numbers)), *(2 * rng.standard_normal(shape) for _ in range(3))


def test_affine_is_its_formula():
    h, x, *_ = numbers(Affine())
    mu, alpha = h[..., 0], 7 * np.tanh(h[..., 1] / 7)
    u, log_derivative, _ = Affine().normalize(h, x)
    np.testing.assert_allclose(u, (x - mu) / np.exp(alpha), rtol=1e-13)
    np.testing.assert_array_equal(log_derivative, -alpha)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0, 3)])
def test_generate_inverts_normalize_for_any_leading_shape(tau, shape):
    h, x, *_ = numbers(tau, shape)
    u, log_du, _ = tau.normalize(h, x)
    back, log_dx = tau.generate(h, u)
    assert np.shape(u) == np.shape(log_du) == np.shape(back) == np.shape(log_dx) == shape
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(log_dx, -log_du)


def test_log_derivatives_are_logs_of_the_derivatives(tau):
    h, x, *_ = numbers(tau, shape=(6,))
    u, log_du, _ = tau.normalize(h, x)
    du = np.diag(complex_step(lambda x: tau.normalize(h, x)[0], x))
    dx = np.diag(complex_step(lambda u: tau.generate(h, u)[0], u))
    np.testing.assert_allclose(log_du, np.log(du), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tau.generate(h, u)[1], np.log(dx), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("paths", ["value", "log-derivative", "both"])
@pytest.mark.parametrize("size", [0.3, 2.0, 8.0])
def test_gradients(tau, paths, size):
    """Entry by entry: each is one product, nothing is summed; 1e-14 where 1 - tanh^2 itself has cancelled."""
    h, x, d_u, d_log = numbers(tau, size=size)
    d_u, d_log = (d_u if paths != "log-derivative" else 0 * d_u), (d_log if paths != "value" else 0 * d_log)

    def loss(h, x):
        u, log_derivative, _ = tau.normalize(h, x)
        return (d_u * u + d_log * log_derivative).sum()

    d_h, d_x = tau.backward(tau.normalize(h, x)[2], d_u, d_log)
    truth = complex_step(lambda h: loss(h, x), h)
    np.testing.assert_allclose(d_h, truth, rtol=1e-10, atol=1e-14 * np.abs(truth).max())
    np.testing.assert_allclose(d_x, complex_step(lambda x: loss(h, x), x), rtol=1e-10)


def test_float32_stays_and_agrees(tau):
    h, x, d_u, d_log = numbers(tau, size=1.0)
    results = []
    for dtype in (np.float64, np.float32):
        H, X, D_u, D_log = (a.astype(dtype) for a in (h, x, d_u, d_log))
        u, log_du, cache = tau.normalize(H, X)
        results.append([u, log_du, *tau.generate(H, D_u), *tau.backward(cache, D_u, D_log)])
        assert all(r.dtype == dtype for r in results[-1])
    for double, single in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


def test_every_value_is_increasing_and_finite_far_out(tau):
    x = np.linspace(-1e6, 1e6, 1001)
    for a in (-1e30, -5.0, 0.0, 5.0, 1e30):
        h = np.stack([np.ones_like(x), np.full_like(x, a)], axis=-1)
        u, log_du, _ = tau.normalize(h, x)
        assert (np.diff(u) > 0).all() and np.isfinite(u).all()
        assert (np.abs(log_du) <= tau.bound).all()


def test_the_clip_is_the_identity_near_zero_and_monotone():
    a = np.linspace(-30, 30, 2001)
    alpha = -Affine().normalize(np.stack([0 * a, a], axis=-1), 0 * a)[1]
    assert (np.diff(alpha) > 0).all() and (np.abs(alpha) < 7).all()
    near = np.abs(a) < 0.1
    np.testing.assert_allclose(alpha[near], a[near], atol=0.1**3 / 7**2)


def test_the_registry_rebuilds_what_it_names(tau):
    name = next(k for k, v in UNIVARIATES.items() if v is type(tau))
    assert UNIVARIATES[name](**tau.config()).config() == tau.config()


@pytest.mark.parametrize("bound", [0, -1.0, np.inf, np.nan])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match=r"bound: expected a number in \(0, 80\], got"):
        Affine(bound=bound)
