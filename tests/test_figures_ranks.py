"""Ranks, drawn: the same bits, a formula for what a cluster would do, and no silence about what
was not measured."""

import doctest
import math
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from afnp.train.ranks import CALLS  # noqa: E402
from figures import common  # noqa: E402

figure = import_module("figures.37_ranks")
COSTS = {"row": 1e-4, "shard": 1e-3, "step": 2e-3}


@pytest.fixture(scope="module")
def quick():
    """The figure's data, at its quick settings."""
    return figure.data(quick=True)


def words(data):
    with common.style():
        drawn = figure.draw(data)
        drawn.draw_without_rendering()
    assert isinstance(drawn, Figure)
    legends = [text.get_text() for axes in drawn.axes for text in axes.get_legend().get_texts()]
    return " ".join([drawn.get_suptitle(), drawn.get_supxlabel(), *legends]).replace("\n", " ")


def test_examples_in_docstrings():
    result = doctest.testmod(figure)
    assert result.attempted and not result.failed


def test_one_rank_sends_nothing():
    """T(1) = c B + h S + t."""
    assert figure.seconds_on_paper(1, 1000, 10**9, COSTS) == pytest.approx(0.1 + 0.008 + 0.002)


def test_the_formula_written_out():
    """Four ranks: the fullest of them, two shards each, two levels, three quarters of two sums."""
    rows = 250 + math.sqrt(2 * 250 * math.log(4))
    sent = 4 * 2 * figure.LATENCY + 2 * 0.75 * 8e6 / figure.BANDWIDTH
    expected = 1e-4 * rows + 2e-3 + 2e-3 + sent
    assert figure.seconds_on_paper(4, 1000, 8 * 10**6, COSTS) == pytest.approx(expected)


def test_a_rank_holds_no_more_rows_than_a_batch_has():
    none = {"row": 1.0, "shard": 0.0, "step": 0.0}
    assert figure.seconds_on_paper(1024, 8, 0, none) < 9


def test_the_fullest_rank_is_as_full_as_chance_makes_it():
    """The mean of the largest of K counts lies below the formula, and not far."""
    for K, batch in ((4, 2048), (64, 65536)):
        counts = np.random.default_rng(0).multinomial(batch, np.full(K, 1 / K), 2000).max(axis=1)
        mean = batch / K
        bound = mean + math.sqrt(2 * mean * math.log(K))
        assert mean < counts.mean() < bound < mean + 2.2 * (counts.mean() - mean)


def test_waiting_is_not_work():
    class Comm:
        def allgather(self, value):
            start = time.process_time()
            while time.process_time() < start + 0.05:
                pass
            return [value]

    for name in CALLS:
        if name not in dir(Comm):
            setattr(Comm, name, None)
    comm = figure.Timed(Comm())
    before = time.process_time()
    assert comm.allgather(7) == [7] and comm.seconds >= 0.05
    assert time.process_time() - before - comm.seconds < 0.03


def test_costs_and_paper(quick):
    numbers = quick["numbers"]
    assert numbers["costs"]["row"] >= 0 and sum(numbers["costs"].values()) > 0
    assert all(len(numbers["paper"][name]) == 11 for name in ("strong", "large", "weak"))
    said = words(quick)
    assert "on paper" in said and "the same batch" not in said


def test_ranks_come_to_the_same_bits(quick):
    measured = quick["numbers"]["measured"]
    if measured is None:
        pytest.skip(f"{quick['numbers']['missing']} IS MISSING: pip install '.[mpi]'")
    assert len(set(measured["checksums"])) == 1
    assert min(measured["strong"] + measured["weak"]) > 0
    assert "1, 2, 4 ranks came to the same bits" in words(quick)


def test_parameters_that_differ_would_be_said(quick):
    measured = {"K": [1, 2], "checksums": [1, 2], "strong": [1.0, 0.5], "weak": [1.0, 1.0]}
    measured["clock"] = {"strong": [1.0, 0.7]}
    changed = {**quick, "numbers": {**quick["numbers"], "measured": measured}}
    assert "DIFFERENT parameters" in words(changed)


def test_without_mpi4py_the_figure_says_so(quick, monkeypatch):
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    assert figure.what_is_missing() == "mpi4py"
    without = {**quick["numbers"], "measured": None, "missing": "mpi4py"}
    said = words({**quick, "numbers": without})
    assert "No ranks were measured: mpi4py is missing here" in said and "measured on" not in said
