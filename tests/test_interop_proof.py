"""The proof at import: it says nothing of the same flow, and where two that differ part."""

from __future__ import annotations

import numpy as np
import pytest

import afnp
from afnp.interop.proof import ROWS, prove


def flow(context=0, dtype="float64"):
    made = afnp.maf(3, hidden=(8,), transforms=2, context=context, dtype=dtype)
    made.theta += 0.1 * np.random.default_rng(0).standard_normal(made.theta.size)
    return made


def functions(model):
    return model.log_prob, lambda u, context: model.generate(u, context)[0]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("context", [0, 2])
def test_the_same_flow_passes(context, dtype):
    model = flow(context, dtype)
    prove(model, *functions(model), "itself")


def test_contexts_come_in_the_spread_that_the_flow_expects():
    model, seen = flow(context=2), []
    model.standardize_context(np.array([[1000.0, 5.0], [1002.0, 5.5]]))
    log_prob, generate = functions(model)

    def watched(x, context):
        seen.append(context)
        return log_prob(x, context)

    prove(model, watched, generate, "itself")
    assert seen[0].shape == (ROWS, 2)
    np.testing.assert_allclose(seen[0].mean(axis=0), [1001.0, 5.25], atol=1)


@pytest.mark.parametrize("k", [0, ROWS - 1])
@pytest.mark.parametrize("size", [1e-4, np.nan])
def test_one_row_that_differs_is_named(k, size):
    model = flow()
    log_prob, generate = functions(model)

    def wrong_density(x, context):
        return log_prob(x, context) + np.where(np.arange(ROWS) == k, size, 0)

    def wrong_samples(u, context):
        x = generate(u, context)
        x[k, 1] += size
        return x

    with pytest.raises(ArithmeticError, match=f"log_prob: row {k} is .* they part by"):
        prove(model, wrong_density, generate, "another")
    with pytest.raises(ArithmeticError, match=f"samples: row {k} is .* in another: they part by"):
        prove(model, log_prob, wrong_samples, "another")


def test_another_shape_is_no_proof():
    model = flow()
    log_prob, generate = functions(model)
    with pytest.raises(ArithmeticError, match=r"log_prob: expected \(64,\), got \(64, 1\)"):
        prove(model, lambda x, c: log_prob(x, c)[:, None], generate, "another")
