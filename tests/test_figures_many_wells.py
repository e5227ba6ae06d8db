"""The figure of many wells: its density, its exact samples, and what they find out."""

import functools
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import norm_error

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from afnp.train.energy import ImportanceSample  # noqa: E402
from afnp.verify import central_jacobian  # noqa: E402
from figures import common  # noqa: E402

wells = import_module("figures.39_many_wells")


@functools.cache
def quick():
    return wells.data(quick=True)


def test_the_gradient_is_that_of_central_differences():
    x = np.random.default_rng(0).standard_normal((3, 2 * wells.K))
    central = central_jacobian(lambda x: wells.many_wells(x)[0][:, None], x)[:, 0]
    assert norm_error(wells.many_wells(x)[1], central) < 1e-7


def test_the_normaliser_is_the_papers():
    """exp(-E) of one feature integrates to 11784.50927, as the authors' code has it."""
    expected = 16 * (math.log(11784.50927) + math.log(2 * math.pi) / 2)
    assert wells.log_z() == pytest.approx(expected, abs=1e-6)


def test_exact_samples_are_of_the_density():
    """Shares of both wells, and E[a E'(a)] = 1, which holds for exp(-E) alone (Stein)."""
    x = wells.exact(20_000, np.random.default_rng(0))
    assert (x[:, ::2] < 0).mean() == pytest.approx(wells.left(), abs=5 * math.sqrt(0.14 / 320_000))
    for features in (slice(0, None, 2), slice(1, None, 2)):
        work = (x * wells.many_wells(x)[1])[:, features]
        assert work.mean() == pytest.approx(1, abs=5 * work.std() / math.sqrt(work.size))


class Biased:
    """Knows the exact density, and takes each left well with another share."""

    def __init__(self, share):
        self.share = share

    def log_prob(self, x):
        log_p = -wells.many_wells(x)[0] - wells.log_z()
        p = wells.left()
        factor = np.where(x[:, ::2] < 0, self.share / p, (1 - self.share) / (1 - p))
        return log_p + np.log(factor).sum(axis=1)


@pytest.mark.parametrize("share", [wells.left(), 0.2])
def test_exact_samples_measure_what_is_known_of_a_biased_density(share):
    """E_p[p / q] of one double well is p² / share + (1 - p)² / (1 - share), and 16 multiply."""
    p = wells.left()
    expected = (p * p / share + (1 - p) ** 2 / (1 - share)) ** -16
    x = wells.exact(50_000, np.random.default_rng(1))
    own = ImportanceSample(x[:10], np.zeros(10))
    found = wells.said(Biased(share), own, x)
    assert found["exact_fraction"] == pytest.approx(expected, rel=0.02)
    kl = 16 * (p * math.log(p / share) + (1 - p) * math.log((1 - p) / (1 - share)))
    assert found["nats"] == pytest.approx(kl, abs=2 * found["nats_two_standard_errors"] + 1e-9)


def test_the_picture_shows_the_numbers():
    with common.style():
        drawn = wells.draw(quick())
        drawn.draw_without_rendering()
    numbers = quick()["numbers"]
    for line, found in zip(drawn.axes[1].lines[1:], numbers["ways"].values(), strict=True):
        assert line.get_ydata().tolist() == found["left"].tolist()
    for line, found in zip(drawn.axes[2].lines, numbers["ways"].values(), strict=True):
        shown = [found["effective_fraction"], found["exact_fraction"]]
        assert line.get_ydata().tolist() == shown
