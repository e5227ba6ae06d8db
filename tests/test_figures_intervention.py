"""The figure of interventions: the simulator is what it says, both graphs fit,
the true one foresees."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures import common  # noqa: E402

figure = import_module("figures.34_intervention")


@pytest.fixture(scope="module")
def quick(trained_flows):
    return figure.data(quick=True)


def test_the_simulator_knows_its_noise_and_its_density():
    u = figure.noise(200_000, np.random.default_rng(1))
    x = figure.simulate(u)
    np.testing.assert_allclose(figure.noise_of(x), u, atol=1e-12)
    entropy = 2 * np.log(2 * np.pi * np.e) + np.log(0.6 * 0.4 * 0.5)
    assert abs(figure.true_log_prob(x).mean() + entropy) < 0.02
    held = figure.simulate(u, do={figure.T: 1.0})
    assert (held[:, figure.T] == 1).all() and (held[:, figure.Z] == x[:, figure.Z]).all()
    assert abs(held[:, figure.Y].mean() - 0.8 * 1.3) < 0.03


def test_both_graphs_fit_and_the_true_one_foresees(quick):
    numbers = quick["numbers"]
    logs = numbers["log_prob"]
    assert abs(logs["true"] - logs["reversed"]) < 0.05
    assert max(logs.values()) < numbers["log_prob_truth"] + 0.01
    simulator, true, reverse = (
        np.array(numbers["do"][name]) for name in ("simulator", "true", "reversed")
    )
    inside = np.abs(figure.VALUES) <= 1
    assert np.abs(true - simulator)[inside].max() < 0.35
    assert np.abs(reverse - simulator)[inside].max() > 1
    assert np.abs(reverse - numbers["given"])[inside].max() < 0.6
    assert numbers["counterfactual_rms"] < 0.2 * numbers["spread"]
    assert numbers["steps"] == {"true": 4, "reversed": 3}


def test_the_picture_says_what_the_numbers_say(quick):
    with common.style():
        drawn = figure.draw(quick)
        drawn.draw_without_rendering()
    texts = [text.get_text() for ax in drawn.axes for text in ax.texts]
    assert {*figure.NAMES, *(line[0] for line in figure.LINES.values())} <= set(texts)
    assert f"rms difference {quick['numbers']['counterfactual_rms']:.2f}" in texts
