"""A million dimensions, drawn: all ways give one sample, memory is that of the process,
the claim is computed."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
figure = import_module("figures.31_million")


@pytest.fixture(scope="module")
def quick():
    """The figure's data, at its quick settings."""
    return figure.data(quick=True)


def test_loop_and_queues_give_one_sample(quick):
    """Sums of 16 channels through ten layers, in another order."""
    assert 0 <= quick["numbers"]["difference"] < 1e-12


def test_the_loop_falls_behind_as_dimensions_grow(quick):
    ratios = list(quick["numbers"]["loop_over_queues"].values())
    assert len(ratios) == 2 and 1 < ratios[0] < ratios[1]


def test_the_memory_is_that_of_the_process_which_samples():
    """A million float64 numbers take 8 MB; what this process has taken before does not count."""
    hoard = bytearray(2**30)
    few = figure.megabytes(100)
    many = figure.megabytes(10**6)
    assert len(hoard) == 2**30
    assert 20 < few < 1024 and few + 7 < many < 1024


def test_the_claim_and_the_lines_are_the_numbers(quick):
    drawn = figure.draw(quick)
    assert isinstance(drawn, Figure)
    ratio = quick["numbers"]["loop_over_queues"]["256"]
    assert f"{ratio:,.0f} times faster" in drawn.get_suptitle().replace("\n", " ")
    labels = [line.get_label() for line in drawn.axes[0].lines]
    assert [label.split(":")[0] for label in labels] == [
        label for label, *_ in figure.WAYS.values()
    ]
