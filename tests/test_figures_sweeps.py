"""The figure of sweeps: counts obey the theorem, all ways give one sample,
the picture shows the numbers."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from figures import common  # noqa: E402

figure = import_module("figures.23_sweeps")
SINGLE = 1e-3
"""Of the largest entry, in float32: each step may amplify the rounding of those before it."""


@pytest.fixture(scope="module")
def quick(trained_flows):
    """The figure's data, at its quick settings with fewer samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "N", 20)
        yield figure.data(quick=True)


def test_no_flow_takes_more_sweeps_than_features(quick):
    numbers = quick["numbers"]
    D = np.array(numbers["D"])
    for counts in numbers["sweeps"].values():
        for way in ("jacobi", "gauss_seidel"):
            assert (np.array(counts[f"{way}_most"]) <= D).all()
            assert (1 <= np.array(counts[f"{way}_mean"])).all()
            assert (np.array(counts[f"{way}_mean"]) <= counts[f"{way}_most"]).all()
        assert (
            np.array(counts["gauss_seidel_passes"])[-1] < np.array(counts["jacobi_passes"])[-1]
        ).all()
    for found in numbers["training"].values():
        assert max(found["most"]) <= found["D"] and max(found["mean"]) <= max(
            found["slowest_transform"]
        )


def test_lively_flows_take_more_sweeps_than_tame_ones(quick):
    sweeps = quick["numbers"]["sweeps"]
    tame, middle, lively = (sweeps[name]["jacobi_mean"][-1] for name in figure.STARTS)
    assert tame < middle < lively


def test_jacobi_passes_are_sweeps(quick):
    """A tile's lanes wait for each other, so passes are at least the mean of sweeps,
    at most the most."""
    for counts in quick["numbers"]["sweeps"].values():
        passes = np.array(counts["jacobi_passes"])
        assert (passes >= np.array(counts["jacobi_mean"]) - 1e-3).all()
        assert (passes <= np.array(counts["jacobi_most"]) + 1e-3).all()


def test_all_ways_give_the_same_samples(quick):
    numbers = quick["numbers"]
    for name in (figure.TIMED, "gain 1"):
        assert numbers[name]["largest_difference"] < SINGLE
        assert all(t > 0 for way in figure.WAYS for t in numbers[name][f"{way}_ms"])
    for found in numbers["training"].values():
        assert max(found["difference"]) < SINGLE


def test_the_picture_says_what_the_numbers_say(quick):
    with common.style():
        drawn = figure.draw(quick)
        drawn.draw_without_rendering()
    assert isinstance(drawn, Figure)
    texts = [text.get_text() for axes in drawn.axes for text in axes.texts]
    legend = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert set(legend) == set(figure.STARTS)
    for name, found in quick["numbers"]["training"].items():
        assert f"{name}: {found['mean'][-1]:.1f}" in texts
    times = quick["numbers"][figure.TIMED]
    for way, (label, _, _) in figure.LINES.items():
        time = times[f"{way}_ms"][-1]
        assert f"{label}: {time:,.{0 if time > 100 else 1}f} ms" in texts
    assert common.as_json(quick["numbers"])


def test_labels_keep_their_distance():
    np.testing.assert_allclose(common.below([8.0, 1.0, 8.0], np.log(2)), [8.0, 1.0, 4.0])
