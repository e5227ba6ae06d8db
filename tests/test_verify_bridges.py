"""A density and a sampler, and nothing between them: bridges say whether they fit, in any D."""

import math

import numpy as np
import pytest

from afnp.verify import check_flow
from afnp.verify.bridge import Bridge, shape_tests, tempered, total
from afnp.verify.mutants import MUTANTS, check_planted
from afnp.verify.mutants.clean import random_flow
from afnp.verify.proposal import Proposal

LOG_2PI = math.log(2 * math.pi)
BOTH = ["normalisation", "agreement"]


def normal(D=4, constant=0.0, temperature=1.0):
    return {
        "log_prob": lambda x: -np.square(x).sum(axis=1) / 2 - D * LOG_2PI / 2 + constant,
        "sample": lambda n, rng: temperature * rng.standard_normal((n, D)),
        "features": D,
    }


def student(D=4, freedom=2.0, temperature=1.0):
    """Neither a variance nor directions."""
    constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    constant -= math.log(freedom * math.pi) / 2
    return {
        "log_prob": lambda x: (constant - (freedom + 1) / 2 * np.log1p(x * x / freedom)).sum(1),
        "sample": lambda n, rng: temperature * rng.standard_t(freedom, (n, D)),
        "features": D,
    }


def modes(wrong=False):
    """Three far modes of different widths; a sampler that is wrong forgets one."""
    middle, width = np.array([-6.0, 0.0, 5.0]), np.array([0.3, 1.0, 0.6])

    def log_prob(x):
        z = (x[:, None] - middle[:, None]) / width[:, None]
        terms = -np.square(z).sum(axis=2) / 2 - 3 * np.log(width) - 1.5 * LOG_2PI
        return np.logaddexp.reduce(terms, axis=1) - np.log(3)

    def sample(n, rng):
        k = rng.integers(2 if wrong else 3, size=(n, 1))
        return middle[k] + width[k] * rng.standard_normal((n, 3))

    return {"log_prob": log_prob, "sample": sample, "features": 3}


def squares():
    """Uniform in a box, with bounds that are said."""
    return {
        "log_prob": lambda x: np.where(((x > 0) & (x < 1)).all(axis=1), 0.0, -np.inf),
        "sample": lambda n, rng: rng.random((n, 3)),
        "features": 3,
        "support": (0.0, 1.0),
    }


def days():
    """Julian days: far from 0 beside their width."""
    there = normal(3)
    return {
        "log_prob": lambda x: there["log_prob"]((x - 2.46e6) / 100) - 3 * np.log(100),
        "sample": lambda n, rng: 2.46e6 + 100 * rng.standard_normal((n, 3)),
        "features": 3,
    }


def listening():
    """With a context, which moves and widens everything."""
    there = normal(3)

    def log_prob(x, context):
        scale = 1 + context[:, :1] ** 2
        return there["log_prob"]((x - context) / scale) - 3 * np.log(scale[:, 0])

    def sample(n, rng, context):
        return context + (1 + context[:, :1] ** 2) * rng.standard_normal((n, 3))

    return {"log_prob": log_prob, "sample": sample, "features": 3, "context": 3}


CLEAN = {
    "normal": normal(),
    "one feature": normal(1),
    "twenty features": normal(20),
    "heavy tails": student(),
    "no mean": student(3, freedom=0.9),
    "modes": modes(),
    "a box": squares(),
    "days": days(),
    "context": listening(),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_density_and_its_sampler_pass(name):
    report = check_flow(CLEAN[name], level="quick", checks=["normalisation"])
    assert report.passed == ["normalisation"], f"\n{report}"
    assert "bridge sampling" in report["normalisation"].why


@pytest.mark.parametrize("name", ["normal", "heavy tails"])
def test_neither_do_their_shapes_raise_an_alarm(name):
    report = check_flow(CLEAN[name], level="quick", checks=["agreement"])
    assert report.ok and "shows a temperature of 1.0" in report["agreement"].why, f"\n{report}"


@pytest.mark.parametrize("constant", [0.3, -0.3, 4 * LOG_2PI / 2])
def test_a_forgotten_constant_is_caught_without_generate(constant):
    result = check_flow(normal(constant=constant), level="quick", checks=BOTH[:1])["normalisation"]
    assert result.status == "failed", result
    assert result.values["where samples lie, the integral is"] == pytest.approx(
        math.exp(constant), rel=0.05
    )


@pytest.mark.parametrize("make", [normal, student])
@pytest.mark.parametrize("temperature", [1.05, 0.93])
def test_a_temperature_is_caught_without_normalize(make, temperature):
    tempered_ = make(temperature=temperature)
    if make is student:  # its middle tells more than its tails, which any scale fits
        tempered_ = student(8, freedom=5.0, temperature=temperature)
    report = check_flow(tempered_, level="full", checks=["agreement"])
    assert report.failed == ["agreement"], f"\n{report}"
    assert "log_prob" in report["agreement"].reason or "feature" in report["agreement"].reason


def test_a_sampler_that_forgets_a_mode_is_caught():
    report = check_flow(modes(wrong=True), level="quick", checks=["normalisation"])
    assert report.failed == ["normalisation"]
    assert report["normalisation"].values["where samples lie, the integral is"] == pytest.approx(
        2 / 3, rel=0.05
    )


def test_what_is_not_resolved_is_not_passed():
    """Samples lie near a curve that winds: a mixture of normals shares too little with them."""

    def bend(u, sign):
        x = u.copy()
        x[:, 1:] += sign * 30 * np.sin(2 * u[:, :1] * np.arange(1, 8))
        return x

    def log_prob(x):
        return normal(8)["log_prob"](bend(x, -1))

    result = check_flow(
        log_prob=log_prob,
        sample=lambda n, rng: bend(rng.standard_normal((n, 8)), 1),
        features=8,
        level="quick",
        checks=["normalisation"],
    )["normalisation"]
    assert result.status == "not run" and result.reason.startswith("not resolved"), result


def test_samples_that_share_values_have_no_bridge():
    report = check_flow(
        log_prob=normal()["log_prob"],
        sample=lambda n, rng: np.round(rng.standard_normal((n, 4)), 1),
        features=4,
        level="quick",
        checks=["normalisation"],
    )
    assert "samples share values" in report["normalisation"].reason


def test_where_rounding_decides_about_the_density_there_is_no_bridge():
    """A float32 flow whose noise does not survive there and back, as a random one that came up."""
    flow = random_flow(159)
    result = check_flow(
        log_prob=lambda x: flow.log_prob(x, backend="numpy"),
        sample=lambda n, rng: flow.sample(n, rng, backend="numpy"),
        features=flow.features,
        dtype=np.float32,
        level="quick",
        checks=["normalisation"],
    )["normalisation"]
    assert result.status == "not run" and "rounding moves" in result.reason, result


def test_a_density_that_is_no_number_is_a_finding():
    wrong = {
        **normal(),
        "log_prob": lambda x: np.where(x[:, 0] > 0, normal()["log_prob"](x), np.nan),
    }
    result = check_flow(wrong, level="quick", checks=["normalisation"])["normalisation"]
    assert result.status == "failed" and "log_prob gives nan" in result.reason


# ---- beside a map --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [5068, 5098])
def test_where_weights_vary_too_much_a_bridge_answers(seed):
    report = check_flow(random_flow(seed), level="quick", checks=["normalisation"], seed=seed)
    assert report.passed == ["normalisation"], f"\n{report}"
    assert "bridge sampling" in report["normalisation"].why


def test_a_sampler_of_another_density_is_no_constant():
    report = check_planted(MUTANTS["one_pass_short"].planted(), level="quick", checks=BOTH[:1])
    result = report["normalisation"]
    assert result.reason.startswith("where samples lie, the density integrates to")
    assert result.cause == "a constant, or samples of another density"


# ---- the mathematics -----------------------------------------------------------------------------


def bridges(count, rows, constant=0.0, temperature=1.0, seed=0):
    """Bridges between a normal density in the plane and a proposal that is wider."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        sampled = rng.random(rows) < 0.5
        x = rng.standard_normal((rows, 2)) * np.where(sampled, temperature, 1.3)[:, None]
        log_p = -np.square(x).sum(axis=1) / 2 + constant
        log_q = -np.square(x / 1.3).sum(axis=1) / 2 - 2 * np.log(1.3)
        yield Bridge(log_p, log_q, sampled, x)


def test_the_standard_error_is_that_of_repetitions():
    found = [total(bridge) for bridge in bridges(200, 2000, constant=0.5)]
    constants = np.array([one.log_integral for one in found])
    assert abs(constants.mean() - 0.5) < 4 * constants.std() / np.sqrt(200)
    stated = np.mean([one.deviation for one in found])
    assert 0.8 < constants.std() / stated < 1.25


def test_a_row_with_hardly_any_density_does_not_blur_the_constant():
    bridge = next(bridges(1, 8000, constant=0.5))
    lonely = np.where(np.arange(8000) == np.argmin(bridge.sampled), -1e25, bridge.log_p)
    found = total(bridge._replace(log_p=lonely))
    assert abs(found.log_integral - 0.5) < 0.1


def test_bounds_are_passed_as_seldom_as_stated():
    """At alpha = 0.2 fewer than one set in five is beyond any bound."""
    beyond = [
        any(test.measured > test.bound for test in shape_tests(bridge, total(bridge), alpha=0.2))
        for bridge in bridges(200, 1000)
    ]
    assert np.mean(beyond) < 0.2
    assert all(one.measured < one.bound for one in map(total, bridges(200, 1000)))


def test_what_is_said_to_be_seen_is_seen():
    bridge = next(bridges(1, 8000))
    whole = total(bridge)
    each = 1e-6 / len(shape_tests(bridge, whole, 1e-6))
    constant, temperature = whole.seen, 1 + tempered(bridge, whole, each)
    off = [total(one) for one in bridges(20, 8000, constant=constant, seed=1)]
    assert np.mean([one.measured > one.bound for one in off]) > 0.9
    wide = bridges(20, 8000, temperature=temperature, seed=2)
    seen = [any(t.measured > t.bound for t in shape_tests(one, total(one), 1e-6)) for one in wide]
    assert np.mean(seen) > 0.9


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (-1.0, 40.0)])
def test_a_proposal_has_the_density_that_it_draws_from(bounds):
    """The mean of 1/q in a box is the box's volume."""
    rng = np.random.default_rng(0)
    x = np.minimum(rng.standard_exponential((4000, 2)), 39.0)
    q = Proposal(x, rng, *(np.full(2, b) for b in bounds))
    y = q.sample(200_000, rng)
    inside = ((y > 0.2) & (y < 2)).all(axis=1)
    volume = np.mean(np.where(inside, np.exp(-q.log_prob(y)), 0.0))
    assert volume == pytest.approx(1.8**2, rel=0.03)


@pytest.mark.parametrize(
    "name", ["density_alone_off_by_three_tenths", "density_alone_without_its_constant"]
)
def test_the_mutants_of_a_density_alone_fall_at_quick(name):
    report = check_planted(MUTANTS[name].planted(), level="quick", checks=["normalisation"])
    assert report.failed == ["normalisation"]
