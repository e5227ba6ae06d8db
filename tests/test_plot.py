"""Pictures: what is drawn is what was computed, with the names of the columns.

Drawn twice, the same.
"""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import afnp
from afnp import plot
from afnp.bases import Logistic
from afnp.train import History


@pytest.fixture(scope="module")
def flow():
    made = afnp.maf(3, hidden=(8,), transforms=1, preprocess=afnp.preprocessing(rows()))
    made.columns = ("mass", "age", "flux")
    return made


def rows(n=400):
    return np.random.default_rng(0).standard_normal((n, 3)) * [1.0, 2.0, 3.0] + [0.0, 5.0, 0.0]


def test_a_corner_has_every_pair_once_with_names_at_its_edges(flow):
    figure = plot.corner(flow, rows(), n=2000)
    assert isinstance(figure, Figure) and len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in figure.axes[-3:]] == ["mass", "age", "flux"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "age", "", "flux", "", ""]
    assert "2,000 samples" in figure.get_suptitle() and "400 rows" in figure.get_suptitle()
    low, high = figure.axes[2].get_xlim()
    assert low < np.quantile(rows()[:, 1], 0.005) and np.quantile(rows()[:, 1], 0.995) < high
    figure.draw_without_rendering()


def test_histograms_are_densities(flow):
    axes = plot.corner(flow, rows(), n=5000).axes[0]
    bars = [patch for patch in axes.patches if hasattr(patch, "get_width")]
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(1, rel=1e-9)


def test_contours_enclose_what_they_say():
    """On independent normal samples: circles of radius sqrt(-2 log(1 - 0.393)) = 1, and 2."""
    figure = plot.corner(afnp.maf(2, hidden=(4,), transforms=1), n=200_000)
    found = figure.axes[1].collections[0]
    radii = [
        np.linalg.norm(path.vertices, axis=1).mean()
        for path in found.get_paths()
        if len(path.vertices)
    ]
    np.testing.assert_allclose(sorted(radii), [1, 2], rtol=0.08)


def test_features_are_chosen_by_number_and_name(flow):
    axes = plot.corner(flow, n=200, features=["flux", 0]).axes
    assert [a.get_xlabel() for a in axes[-2:]] == ["flux", "mass"]
    wide = afnp.maf(12, hidden=(12,), transforms=1)
    assert plot.corner(wide, n=100).axes[-1].get_xlabel() == "x7"


def test_a_conditional_flow_is_given_its_context():
    flow = afnp.maf(2, hidden=(4,), transforms=1, context=1)
    assert len(plot.corner(flow, n=100, context=[[1.0]]).axes) == 3
    with pytest.raises(ValueError, match="context: expected 1 columns, got none"):
        plot.corner(flow, n=100)


def test_losses_show_both_curves_and_the_epoch_that_was_kept():
    history = History(train_loss=[9.0, 2.0, 1.0], val_loss=[8.0, 2.0, 2.5], best_epoch=1)
    axes = plot.losses(history).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), history.train_loss)
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), history.val_loss)
    assert "kept: epoch 2, 2.000 nats" in [text.get_text() for text in axes.texts]
    assert len(plot.losses(History(train_loss=[1.0])).axes[0].lines) == 1


def test_pit_is_flat_within_its_band_where_the_density_is_right(flow):
    right, wrong = flow.sample(2000, rng=1), flow.sample(2000, rng=1) * 1.3
    for x, inside in ((right, True), (wrong, False)):
        axes = plot.pit(flow, x).axes[0]
        furthest = max(np.abs(line.get_ydata()).max() for line in axes.lines[1:])
        assert (furthest < 1.63 / np.sqrt(2000)) == inside


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda f: plot.corner(f, n=5), "n: expected an integer of at least 10, got 5"),
        (lambda f: plot.corner(f, np.zeros((0, 3))), "data: expected at least one row"),
        (lambda f: plot.corner(f, np.zeros((4, 2))), "data: expected 3 columns, got 2"),
        (lambda f: plot.corner(f, features=["size"]), "features: .* 'mass', 'age'.*, got 'size'"),
        (lambda f: plot.corner(f, features=[3]), "features: expected numbers below 3"),
        (
            lambda f: plot.corner(f, features="mass"),
            "features: expected numbers or names in a list",
        ),
        (lambda f: plot.losses(History()), "history: expected at least one epoch"),
        (lambda f: plot.pit(f, np.zeros((0, 3))), "x: expected at least one row"),
        (
            lambda f: plot.pit(afnp.maf(2, (4,), 1, base=Logistic(2)), np.zeros((1, 2))),
            "flow: expected standard normal noise, got Logistic",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(flow, call, words):
    with pytest.raises(ValueError, match=words):
        call(flow)


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, afnp.plot, afnp.cli; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
