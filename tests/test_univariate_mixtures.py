"""Mixtures: against high precision far out, as densities, and in the search for their inverse."""

import math

import numpy as np
import pytest

from afnp.univariate import GaussianMixture, LogisticMixture, normal, root
from afnp.univariate.normal import normal_quantile, normal_tail
from afnp.univariate.root import increasing_root
from afnp.univariate.stable import log1p, log_sum_exp, softplus
from afnp.verify.tolerance import perturbed_arrays

KINDS = [LogisticMixture, GaussianMixture]


@pytest.fixture
def mp():
    """High precision, of the many digits that tails need."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        yield mpmath


# The normal tail


def test_normal_tails_to_rounding(mp):
    """log Phi(-t), the log of the hazard, and hazard - t,
    through the end of the residue at 8.9 and far out."""
    t = np.concatenate(
        [
            [0.0],
            np.logspace(-9, 4, 80),
            np.linspace(0.05, 12, 80),
            normal.POLE + np.array([-1e-9, 0, 1e-9]),
        ]
    )
    got = normal_tail(t)
    for n, value in enumerate(map(mp.mpf, t.tolist())):
        tail = mp.erfc(value / mp.sqrt(2)) / 2
        hazard = mp.npdf(value) / tail
        for column, truth in zip(got, (mp.log(tail), mp.log(hazard), hazard - value), strict=True):
            assert float(column[n]) == pytest.approx(float(truth), rel=1e-14, abs=1e-15), (
                f"t = {value}"
            )


def test_normal_quantiles_undo_tails():
    t = np.concatenate([[0.0], np.logspace(-6, 5, 200)])
    np.testing.assert_allclose(normal_quantile(normal_tail(t)[0]), t, rtol=1e-14, atol=5e-16)


def test_two_halley_steps_reach_rounding(monkeypatch):
    log_tail = -math.log(2) - np.concatenate([[0], np.logspace(-16, 300, 3000)])
    last = normal_quantile(log_tail)
    scale = 1 + last
    monkeypatch.setattr(normal, "HALLEY_STEPS", 3)
    assert (np.abs(normal_quantile(log_tail) - last) / scale).max() < 1e-14
    monkeypatch.setattr(normal, "HALLEY_STEPS", 1)
    assert 1e-12 < (np.abs(normal_quantile(log_tail) - last) / scale).max() < 1e-11
    monkeypatch.setattr(normal, "HALLEY_STEPS", 0)
    assert 1e-4 < (np.abs(normal_quantile(log_tail) - last) / scale).max() < 4.5e-4


# Stable functions


def test_stable_functions_keep_small_complex_steps():
    w = np.array([1e-20, -1e-12, -0.5, 1.0]) + 1e-30j
    np.testing.assert_allclose(log1p(w).real, np.log1p(w.real), rtol=1e-14)
    np.testing.assert_allclose(log1p(w).imag, 1e-30 / (1 + w.real), rtol=1e-14)
    z = np.array([-600.0, -40.0, 0.0, 40.0, 600.0])
    np.testing.assert_allclose(softplus(z + 1e-30j)[0].real, np.logaddexp(0, z), rtol=1e-13)
    np.testing.assert_allclose(softplus(z + 1e-30j)[0].imag / 1e-30, softplus(z)[1], rtol=1e-13)


def test_log_sum_exp_neither_overflows_nor_loses_the_smallest():
    total, shares = log_sum_exp(np.array([[1000.0, -1000.0], [1000.0, -1001.0]]))
    np.testing.assert_allclose(
        total, [1000 + math.log(2), -1000 + math.log1p(math.exp(-1))], rtol=1e-15
    )
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-15)


# The mixtures


def parameters(tau, h, mp):
    """pi, mu and s of one point in high precision, by their recipe."""
    C = tau.components
    logits, means, a = (list(map(mp.mpf, part.tolist())) for part in np.split(h, 3))
    places = [mp.mpf(-2) + mp.mpf(4 * k) / (C - 1) for k in range(C)] if C > 1 else [mp.mpf(0)]
    total = sum(mp.exp(l) for l in logits)
    return (
        [mp.exp(l) / total for l in logits],
        [m + place for m, place in zip(means, places, strict=True)],
        [tau.bound * mp.tanh(v / tau.bound) for v in a],
    )


def high_precision(tau, h, x, mp):
    """u and log du/dx; the base's own quantile of the smaller tail by mpmath's root finder."""
    pi, mu, s = parameters(tau, h, mp)
    z = [(x - m) * mp.exp(-v) for m, v in zip(mu, s, strict=True)]
    if isinstance(tau, LogisticMixture):
        B, b = lambda v: 1 / (1 + mp.exp(-v)), lambda v: mp.exp(-v) / (1 + mp.exp(-v)) ** 2
    else:
        B, b = lambda v: mp.erfc(-v / mp.sqrt(2)) / 2, mp.npdf
    below, above = (sum(p * B(sign * v) for p, v in zip(pi, z, strict=True)) for sign in (1, -1))
    if isinstance(tau, LogisticMixture):
        u = mp.log(below) - mp.log(above)
    else:
        T = min(below, above)
        start = mp.sqrt(max(-2 * mp.log(2 * T), mp.mpf(10) ** -30))
        t = mp.findroot(lambda t: mp.log(B(-t)) - mp.log(T), start)
        u = t if above < below else -t
    density = sum(p * b(v) * mp.exp(-w) for p, v, w in zip(pi, z, s, strict=True))
    return float(u), float(mp.log(density) - mp.log(b(u)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("components", [1, 2, 5])
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_values_and_log_derivatives_far_into_both_tails(kind, components, size, mp):
    """Near u = 0 it is the tail that is good to rounding, so u is to 1e-15 absolutely."""
    tau, rng = kind(components), np.random.default_rng([components, int(size)])
    x = np.array([-1e4, -300.0, -50.0, -8.0, -1.5, 0.0, 0.7, 3.0, 20.0, 50.0, 1e3, 1e5])
    h = size * rng.standard_normal((len(x), tau.numbers))
    u, log_du, _ = tau.normalize(h, x)
    for n in range(len(x)):
        true_u, true_log = high_precision(tau, h[n], mp.mpf(float(x[n])), mp)
        assert u[n] == pytest.approx(true_u, rel=1e-13, abs=1e-14), f"x = {x[n]}"
        assert log_du[n] == pytest.approx(true_log, rel=1e-11, abs=1e-12), f"x = {x[n]}"


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_is_affine(kind):
    tau, rng = kind(1), np.random.default_rng(0)
    h, x = rng.standard_normal((100, 3)), 10 * rng.standard_normal(100)
    s = 7 * np.tanh(h[:, 2] / 7)
    u, log_du, _ = tau.normalize(h, x)
    np.testing.assert_allclose(u, (x - h[:, 1]) * np.exp(-s), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(log_du, -s, rtol=1e-11, atol=1e-12)


def test_normal_noise_makes_the_mixture_of_gaussians_itself():
    """log phi(u) + log du/dx is the log-density of the mixture: MADE MoG, whose integral is 1."""
    tau, rng = GaussianMixture(4), np.random.default_rng(1)
    x = np.linspace(-60, 60, 200_001)
    for h in rng.standard_normal((3, tau.numbers)):
        u, log_du, _ = tau.normalize(np.broadcast_to(h, (*x.shape, tau.numbers)), x)
        log_prob = log_du - u * u / 2 - math.log(2 * math.pi) / 2
        logits, means, a = np.split(h, 3)
        mu, s = means + np.linspace(-2, 2, 4), 7 * np.tanh(a / 7)
        terms = np.exp(-(((x[:, None] - mu) / np.exp(s)) ** 2) / 2 - s) / math.sqrt(2 * math.pi)
        density = terms @ (np.exp(logits) / np.exp(logits).sum())
        near = density > 1e-200
        np.testing.assert_allclose(log_prob[near], np.log(density[near]), rtol=1e-11, atol=1e-11)
        assert np.exp(log_prob).sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_components_start_alike(kind):
    """Alike, they would get the same gradient, and stay alike."""
    tau, x = kind(5), np.linspace(-3, 2, 50)
    d_h = tau.backward(tau.normalize(np.zeros((50, 15)), x)[2], x, np.ones(50))[0].sum(axis=0)
    for part in np.split(d_h, 3):
        assert np.abs(np.subtract.outer(part, part) + np.eye(5)).min() > 1e-3


# The inverse


@pytest.mark.parametrize("kind", KINDS)
def test_samples_return_to_their_noise(kind):
    """To 1e-9 wherever |u| <= 8, also on pieces so flat that no x is determined."""
    rng = np.random.default_rng(2)
    for components in (1, 2, 8):
        tau = kind(components)
        for size in (1, 3, 10):
            h, u = size * rng.standard_normal((2000, tau.numbers)), rng.uniform(-8, 8, 2000)
            x, log_dx = tau.generate(h, u)
            error = np.abs(tau.normalize(h, x)[0] - u)
            assert (error <= 1e-13 * (1 + np.abs(x) * (1 + np.exp(np.minimum(-log_dx, 30))))).all()
            assert (error[np.abs(x) < 1e3] <= 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_that_errs_is_asked_once_a_root_is_known(kind, monkeypatch):
    """The root itself is found by plain numbers: one that errs in every step never settles."""
    rng, delta = np.random.default_rng(7), 1e-8
    tau, h, u = kind(3), rng.normal(size=(50, 2, 9)), rng.normal(size=(50, 2))
    x, log_derivative = tau.generate(h, u)
    kinds, shaken = [], perturbed_arrays(rng, delta)
    normalize = kind._normalize

    def noted(self, parts, x):
        kinds.append(type(parts[0]))
        return normalize(self, parts, x)

    monkeypatch.setattr(kind, "_normalize", noted)
    moved, log_moved = tau.generate(h.view(shaken), u.view(shaken))
    assert kinds.count(shaken) == 2 and len(kinds) < 20
    assert 0.3 < np.median(np.abs(log_moved - log_derivative)) / delta < 30
    error = np.abs(moved - x) / delta * np.exp(-log_derivative)  # of u
    assert 0.3 < np.median(error) < 30 and error.max() < 300


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_float32_return_far_out(kind):
    """There the logarithm of a tail is 1e10, and its last digit more than log lambda."""
    rng = np.random.default_rng(3)
    h = rng.normal(size=(400, 6)).astype(np.float32)
    for size in (1e3, 1e5):
        u = (size * rng.standard_normal(400)).astype(np.float32)
        back = kind(2).normalize(h, kind(2).generate(h, u)[0])[0]
        assert (np.abs(back - u) <= 1e-5 * size).all()


def test_a_gap_between_far_components_is_crossed():
    """Between them F is 1/2 to all digits and du/dx is e^-20000:
    Newton's steps say nothing there."""
    tau = GaussianMixture(2)
    h = np.array([0.0, 0.0, -8.0, 8.0, -3.4, -3.4])  # components at -10 and 10
    u = np.array([-1.0, -1e-3, -1e-9, 1e-9, 1e-3, 1.0])
    x, log_dx = tau.generate(np.broadcast_to(h, (6, 6)), u)
    np.testing.assert_allclose(x, np.sign(u) * 10, atol=0.4)
    np.testing.assert_allclose(tau.normalize(np.broadcast_to(h, (6, 6)), x)[0], u, atol=1e-14)
    assert np.isfinite(log_dx).all()
    middle = tau.normalize(h, np.array(0.3))
    assert np.isfinite(middle[1]) and middle[1] < -10_000 and abs(middle[0]) < 1e-15
    assert all(np.isfinite(d).all() for d in tau.backward(middle[2], np.array(1.0), np.array(1.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_are_no_numbers_are_refused_by_name(kind):
    h, u = np.zeros((3, 2, 6)), np.zeros((3, 2))
    h[2, 1, 3] = np.nan
    with pytest.raises(
        FloatingPointError,
        match="bracket of the root, or its width, is not finite: 1 of 6, worst at row 2, feature "
        "1$",
    ):
        kind(2).generate(h, u)
    with pytest.raises(FloatingPointError, match="worst at row 1$"):
        kind(2).generate(np.zeros((3, 6)), np.array([0, np.inf, 0]))


def test_a_search_that_does_not_end_is_reported_where_it_is_worst(monkeypatch):
    monkeypatch.setattr(root, "ITERATIONS", 2)
    tau, h = LogisticMixture(2), np.zeros((2, 3, 6))
    h[1, 2, 2:4] = [-30.0, 30.0]
    u = np.zeros((2, 3))
    u[1, 2] = 0.3
    with pytest.raises(
        FloatingPointError, match="no root within 2 steps: 1 of 6, worst at row 1, feature 2$"
    ):
        tau.generate(h, u)


def test_a_function_without_a_value_inside_is_no_root():
    one = np.ones(1)
    with pytest.raises(
        FloatingPointError, match="no root within 200 steps: 1 of 1, worst at row 0$"
    ):
        increasing_root(lambda x, which: (np.full_like(x, np.nan), x), one, 0 * one, 2 * one, one)


@pytest.mark.parametrize("slope", [-1e6, 0.0, 1e6])
def test_bisection_alone_ends_when_slopes_are_wrong(slope):
    """A slope e^-1e6 sends every Newton step away, a slope e^1e6 keeps each in its place."""
    y = np.linspace(0.1, 7.9, 50)
    two = np.full(50, 2.0)
    x = increasing_root(lambda x, which: (x**3, np.full_like(x, slope)), two / 2, 0 * two, two, y)
    assert (np.abs(x - np.cbrt(y)) <= (1e-14 if slope < 1e6 else 2)).all()


def test_no_step_leaves_the_bracket():
    """A slope four times too flat sends Newton from 1.9 to 2.3,
    where this function is not to be asked."""
    asked = []

    def cube(x, which):
        asked.append(float(x[0]))
        return x**3, np.log(3 * x**2 / 4)

    x = increasing_root(cube, *(np.array([v]) for v in (1.9, 0.5, 2.0, 7.9)))
    assert x[0] == pytest.approx(np.cbrt(7.9), rel=1e-14)
    assert 0.5 <= min(asked) and max(asked) <= 2


def test_newton_needs_few_steps(monkeypatch):
    """The iterations that gain-1 parameters take: the limit is far from them."""
    calls = []
    step = root._step
    monkeypatch.setattr(root, "_step", lambda *args: calls.append(len(args[0])) or step(*args))
    tau, rng = LogisticMixture(8), np.random.default_rng(3)
    tau.generate(rng.standard_normal((5000, 24)), rng.standard_normal(5000))
    assert len(calls) < 40 and sum(calls) < 10 * 5000
