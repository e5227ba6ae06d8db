"""The figure of inexact samples: exact ways are exact, tolerances are ordered,
the exponent foretells the iterations, the picture shows the numbers."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp.sampling.fixed_point import Jacobi, likelihood_error  # noqa: E402
from figures import common  # noqa: E402

figure = import_module("figures.33_inexact")


@pytest.fixture(scope="module")
def quick(trained_flows):
    """The figure's data, at its quick settings with fewer samples of fewer features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "N", 4)
        patch.setattr(figure, "D", 24)
        patch.setattr(figure, "WIDE", 32)
        patch.setattr(figure, "BLOCK", 8)
        yield figure.data(quick=True)


def test_exact_ways_leave_rounding_and_tolerances_are_ordered(quick):
    for name, found in quick["numbers"]["flows"].items():
        features = 32 if name == "wide" else 24
        for way in figure.EXACT:
            assert found[way]["nats"] < 1e-11
        for way in figure.WAYS:
            loose, tight, exact = found[way]["nats"]
            assert exact < 1e-6 and exact <= tight <= max(loose, 1e-11)
            assert all(np.array(found[way]["worst_nats"]) >= found[way]["nats"])
            counts = np.array(found[way]["iterations"])
            assert (np.diff(counts, axis=0) >= 0).all() and (counts <= features).all()
            assert all(t > 0 for t in found[way]["ms"])
        assert (
            np.array(found["newton"]["iterations"][0]) <= found["jacobi"]["iterations"][0]
        ).all()


def test_the_exponent_foretells_the_iterations(quick):
    """From tame to wild: one rises with the other; Newton needs fewer than Jacobi."""
    scan = quick["numbers"]["exponents"]["untrained"]
    assert (np.diff(scan["exponent"]) > 0).all()
    assert (np.diff(scan["jacobi"]) > -0.7).all() and scan["jacobi"][-1] > 2 * scan["jacobi"][0]
    assert (np.array(scan["newton"]) <= scan["jacobi"]).all()
    assert scan["exponent"][0] < -2 and scan["exponent"][-1] > 0


def test_the_error_is_that_of_the_package():
    flow = afnp.maf(figure.D, (64,), transforms=1, seed=0)
    u = np.random.default_rng(0).standard_normal((4, figure.D))
    x, log_det = flow.generate(u, method=Jacobi(0.1))
    expected = likelihood_error(flow, u, method=Jacobi(0.1))
    np.testing.assert_allclose(figure._error(flow, u, x, log_det), expected, atol=1e-12)


def test_the_picture_says_what_the_numbers_say(quick):
    with common.style():
        drawn = figure.draw(quick)
        drawn.draw_without_rendering()
    assert len(drawn.axes) == len(figure.TITLES) + 1
    for ax, name in zip(drawn.axes, figure.TITLES, strict=False):
        found = quick["numbers"]["flows"][name]
        texts = [text.get_text() for text in ax.texts]
        assert figure.CACHES[name] in texts and "Newton" in texts
        line = next(l for l in ax.lines if l.get_color() == common.COLORS["red"])
        assert line.get_xdata().tolist() == found["jacobi"]["ms"]
        shown = np.where(np.array(found["jacobi"]["nats"]) < 1e-6, figure.FLOOR, line.get_ydata())
        assert line.get_ydata().tolist() == shown.tolist()
    assert f"{quick['numbers']['flows']['masked']['jacobi']['nats'][0]:.2g}" in figure._note(quick)
