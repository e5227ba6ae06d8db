"""Wrong values that nobody was told of: the right ones, or an error that names its row."""

from __future__ import annotations

import numpy as np
import pytest

import afnp
from afnp.networks import graph_mlp


def rows(n, D, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_gradient_of_a_density_beyond_float32_names_its_row(backend):
    flow = afnp.made(2, hidden=(3,), dtype=np.float32)
    x = rows(70, 2)
    x[17] = 1e25
    assert flow.log_prob(x, backend=backend)[17] == -np.inf
    with pytest.raises(FloatingPointError, match="gradient of row 17 of x is not finite in float"):
        flow.loss_and_grad(x, backend=backend)


def test_labels_are_distinct_sets_in_the_order_of_their_members():
    sets = np.random.default_rng(0).random((300, 11)) < 0.2
    assert np.array_equal(graph_mlp._distinct(sets), np.unique(sets, axis=0))
