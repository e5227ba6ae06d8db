"""Splines: against the published formula, at their ends and knots, and around the circle."""

import numpy as np
import pytest

from afnp.univariate import CircularRationalQuadratic, RationalQuadratic
from afnp.univariate.circular import wrap


def knots_of(tau, h):
    """x_k, y_k and delta_k by the recipe of the paper, point by point."""
    n, B = tau.bins, tau.bound

    def softmax(a):
        return np.exp(a) / np.exp(a).sum()

    x = -B + 2 * B * np.append(
        0, np.cumsum(tau.min_width + (1 - n * tau.min_width) * softmax(h[:n]))
    )
    y = -B + 2 * B * np.append(
        0, np.cumsum(tau.min_height + (1 - n * tau.min_height) * softmax(h[n : 2 * n]))
    )
    delta = tau.min_slope + np.log1p(np.exp(h[2 * n :] + np.log(np.exp(1 - tau.min_slope) - 1)))
    return x, y, delta


def published(x, y, delta, v):
    """Value and slope at v as arXiv 1906.04032 writes them, eq. 4 and 5."""
    k = np.searchsorted(x, v, side="right") - 1
    s, xi = (y[k + 1] - y[k]) / (x[k + 1] - x[k]), (v - x[k]) / (x[k + 1] - x[k])
    bottom = s + (delta[k + 1] + delta[k] - 2 * s) * xi * (1 - xi)
    value = y[k] + (y[k + 1] - y[k]) * (s * xi**2 + delta[k] * xi * (1 - xi)) / bottom
    slope = (
        s**2 * (delta[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + delta[k] * (1 - xi) ** 2) / bottom**2
    )
    return value, slope


@pytest.mark.parametrize("tau", [RationalQuadratic(), RationalQuadratic(3, 1.0, 0.1, 0.05, 0.2)])
def test_the_spline_is_the_published_one(tau):
    rng = np.random.default_rng(0)
    h, v = rng.standard_normal((200, tau.numbers)), rng.uniform(-tau.bound, tau.bound, 200)
    u, log_du, _ = tau.normalize(h, v)
    for n in range(200):
        x, y, delta = knots_of(tau, h[n])
        value, slope = published(x, y, np.concatenate([[1], delta, [1]]), v[n])
        assert u[n] == pytest.approx(value, abs=1e-12) and log_du[n] == pytest.approx(
            np.log(slope), abs=1e-10
        )


def test_the_circular_spline_is_the_published_one_turned_by_its_phase():
    tau, rng = CircularRationalQuadratic(bins=5), np.random.default_rng(1)
    h, v = rng.standard_normal((200, tau.numbers)), rng.uniform(-np.pi, np.pi, 200)
    u, log_du, _ = tau.normalize(h, v)
    for n in range(200):
        x, y, delta = knots_of(tau, h[n, :-1])
        value, slope = published(x, y, np.append(delta, delta[0]), float(wrap(v[n] - h[n, -1])))
        assert u[n] == pytest.approx(value, abs=1e-12) and log_du[n] == pytest.approx(
            np.log(slope), abs=1e-10
        )


# The ends


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bound", [0.1, 1.0, 1 / 3, 2.7, 3.0, 4.0, 10.0, 1e3, 12345.678])
def test_the_ends_stay_to_the_last_bit(bound, dtype):
    """f(±B) = ±B, whatever the parameters, in both directions; so does all beyond."""
    tau, rng = RationalQuadratic(bound=bound), np.random.default_rng(0)
    B = dtype(bound)
    points = np.array(
        [-np.inf, -2 * B, np.nextafter(-B, -np.inf, dtype=dtype), -B, B, 2 * B, np.inf], dtype=dtype
    )
    for size in (0, 1, 10):
        h = (size * rng.standard_normal((len(points), tau.numbers))).astype(dtype)
        for image, log_derivative in (tau.normalize(h, points)[:2], tau.generate(h, points)):
            np.testing.assert_array_equal(image, points)
            np.testing.assert_array_equal(log_derivative, 0)


def test_value_and_slope_go_through_the_ends_and_knots_without_a_jump():
    tau, h = RationalQuadratic(bins=6), np.random.default_rng(2).standard_normal(17)
    h[:6] = 0  # knots of x at equal distances
    knots = np.linspace(-4, 4, 7)
    sides = [tau.normalize(np.broadcast_to(h, (7, 17)), knots + side) for side in (-1e-9, 1e-9)]
    for below, above in zip(sides[0][:2], sides[1][:2], strict=True):
        np.testing.assert_allclose(below, above, atol=1e-7)
    y = knots_of(tau, h)[1]
    np.testing.assert_allclose(tau.normalize(np.broadcast_to(h, (7, 17)), knots)[0], y, atol=1e-14)


@pytest.mark.parametrize("kind", [RationalQuadratic, CircularRationalQuadratic])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_inverse_finds_a_root_for_harsh_parameters(kind, dtype):
    """Numbers of size 30: slopes from 1e-3 to 100 and bins at their least size (nflows #87 stopped
    here)."""
    tau, rng = kind(), np.random.default_rng(3)
    h = (30 * rng.standard_normal((20_000, tau.numbers))).astype(dtype)
    u = rng.uniform(-tau.bound, tau.bound, 20_000).astype(dtype)
    x, log_dx = tau.generate(h, u)
    assert (
        np.isfinite(x).all()
        and np.isfinite(log_dx).all()
        and (np.abs(x) <= tau.bound * (1 + 1e-6)).all()
    )
    if kind is RationalQuadratic:
        eps = np.finfo(dtype).eps
        assert (
            np.abs(tau.normalize(h, x)[0] - u) <= 20 * eps * tau.bound * (1 + np.exp(-log_dx))
        ).all()


def test_float32_sampling_returns_to_its_noise_within_1e_4():
    tau, rng = RationalQuadratic(), np.random.default_rng(4)
    h = rng.standard_normal((50_000, tau.numbers)).astype(np.float32)
    u = rng.standard_normal(50_000).astype(np.float32)
    assert np.abs(tau.normalize(h, tau.generate(h, u)[0])[0] - u).max() <= 1e-4


def test_each_bin_keeps_its_least_width_height_and_slope():
    tau = RationalQuadratic(bins=4, bound=1.0, min_width=0.05, min_height=0.1, min_slope=0.2)
    h = np.full((3, 11), -1e3)
    h[:, [0, 4]] = 1e3  # the first bin wants everything
    x = np.array([1 - 2 * 0.05, 1 - 4 * 0.05, 1 - 6 * 0.05])  # so these are knots
    u, log_du, _ = tau.normalize(h, x)
    np.testing.assert_allclose(u, [1 - 2 * 0.1, 1 - 4 * 0.1, 1 - 6 * 0.1], rtol=1e-12)
    np.testing.assert_allclose(log_du, np.log(0.2), rtol=1e-12)


# The circle


def test_angles_come_out_in_the_half_open_circle_and_stay_if_they_are_there():
    inside = np.array([-np.pi, -1.0, 0.0, 3.0, np.nextafter(np.pi, 0)])
    np.testing.assert_array_equal(wrap(inside), inside)
    rng = np.random.default_rng(5)
    for dtype in (np.float64, np.float32):
        many = np.concatenate([rng.uniform(-50, 50, 10_000), [np.pi, -1e30, 1e30]]).astype(dtype)
        many[:2] = (
            np.nextafter(dtype(-np.pi), dtype(-4)),
            dtype(-np.pi) * (1 + 2 * np.finfo(dtype).eps),
        )
        turned = wrap(many)
        assert (
            turned.dtype == dtype
            and (turned >= dtype(-np.pi)).all()
            and (turned < dtype(np.pi)).all()
        )
        near = np.abs(many) < 100
        np.testing.assert_allclose(
            np.exp(1j * turned[near]), np.exp(1j * many[near]), atol=1e3 * np.finfo(dtype).eps
        )


@pytest.mark.parametrize("direction", ["normalize", "generate"])
def test_an_angle_and_the_same_angle_a_turn_later_are_one(direction):
    tau, rng = CircularRationalQuadratic(), np.random.default_rng(6)
    h, x = rng.standard_normal((1000, tau.numbers)), rng.uniform(-np.pi, np.pi, 1000)
    run = getattr(tau, direction)
    (a, log_a), (b, log_b) = run(h, x)[:2], run(h, x + 2 * np.pi)[:2]
    assert (a >= -np.pi).all() and (a < np.pi).all()
    np.testing.assert_allclose(np.exp(1j * a), np.exp(1j * b), atol=1e-12)
    np.testing.assert_allclose(log_a, log_b, atol=1e-9)


def test_an_angle_just_below_the_end_does_not_round_to_the_end():
    tau, rng = CircularRationalQuadratic(), np.random.default_rng(10)
    h, last = rng.standard_normal((2000, tau.numbers)), np.full(2000, np.nextafter(np.pi, 0))
    h[:1000, -1] = 0
    for image in (tau.normalize(h, last)[0], tau.generate(h, last)[0]):
        assert (image >= -np.pi).all() and (image < np.pi).all()


def test_the_density_is_continuous_where_the_circle_closes_and_free_there():
    tau, rng = CircularRationalQuadratic(), np.random.default_rng(7)
    for seam in (
        0.0,
        1.0,
    ):  # where the circle of angles closes, and where the spline's own does, at the phase
        h = rng.standard_normal((500, tau.numbers))
        at = wrap(np.full(500, np.pi) + seam * h[:, -1])
        left, right = (tau.normalize(h, wrap(at + side))[1] for side in (-1e-9, 1e-9))
        np.testing.assert_allclose(left, right, atol=1e-5)
        assert np.std(left) > 0.3


def test_the_circle_maps_onto_itself_once():
    """du/dx is positive and integrates to one turn: the density of angles integrates to 1."""
    tau, rng = CircularRationalQuadratic(bins=4), np.random.default_rng(8)
    x = -np.pi + 2 * np.pi * (np.arange(200_000) + 0.5) / 200_000
    for h in rng.standard_normal((3, tau.numbers)):
        slope = np.exp(tau.normalize(np.broadcast_to(h, (*x.shape, tau.numbers)), x)[1])
        assert slope.mean() == pytest.approx(1, abs=1e-8)


def test_the_phase_turns_the_whole_curve():
    tau, rng = CircularRationalQuadratic(), np.random.default_rng(9)
    h, x = (
        np.broadcast_to(rng.standard_normal(tau.numbers), (100, tau.numbers)).copy(),
        rng.uniform(-np.pi, np.pi, 100),
    )
    still = h.copy()
    still[:, -1] = 0
    np.testing.assert_allclose(
        tau.normalize(h, wrap(x + h[:, -1]))[0], tau.normalize(still, x)[0], atol=1e-12
    )
