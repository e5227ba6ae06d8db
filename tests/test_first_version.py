"""Recipes that were written down once: the same densities, samples and gradients, to rounding.

``first_version.json`` holds what version 0.1.0 computed in NumPy, float64, before the package was
rearranged. Parameters are those of the seed plus normal noise; rows follow from the same generator.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import afnp

RECIPES = json.loads(Path(__file__).with_name("first_version.json").read_text(encoding="utf-8"))
ROUNDING = 1e-10
"""Relative to numbers of order one: sums of some hundred terms, in another order."""


def model_of(name):
    recipe = RECIPES[name]
    model = getattr(afnp, recipe["maker"])(**recipe["options"])
    return recipe, model, np.random.default_rng([99, len(name)])


@pytest.mark.parametrize("name", RECIPES)
def test_seeds_give_the_same_initial_parameters(name):
    recipe, model, _ = model_of(name)
    sums = [model.theta.sum(), np.square(model.theta).sum()]
    np.testing.assert_allclose(sums, recipe["initial_parameters"], rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("discrete", "ensemble")])
def test_flows_compute_what_they_did(name, backend):
    recipe, flow, rng = model_of(name)
    flow.theta += 0.1 * rng.standard_normal(flow.theta.size)
    context = rng.standard_normal((3, flow.context)) if flow.context else None
    x = rng.uniform(-2, 2, (3, flow.features))
    if name == "tarflow" and backend == "numba":
        backend = "auto"  # nobody has compiled attention
    log_prob = flow.log_prob(x, context, backend=backend)
    sample = flow.sample(3, rng=5, context=context, backend=backend)
    _, gradient = flow.loss_and_grad(x, context, backend=backend)
    np.testing.assert_allclose(log_prob, recipe["log_prob"], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(sample, recipe["sample"], rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(np.linalg.norm(gradient), recipe["gradient_norm"], rtol=ROUNDING)


@pytest.mark.parametrize("name", ["discrete", "ensemble"])
def test_discrete_models_compute_what_they_did(name):
    recipe, model, rng = model_of(name)
    model.theta += 0.3 * rng.standard_normal(model.theta.size)
    x = rng.integers(0, model.levels, (5, model.features))
    _, gradient = model.loss_and_grad(x)
    np.testing.assert_allclose(model.log_prob(x), recipe["log_prob"], rtol=ROUNDING)
    np.testing.assert_array_equal(model.sample(5, rng=5), recipe["sample"])
    np.testing.assert_allclose(np.linalg.norm(gradient), recipe["gradient_norm"], rtol=ROUNDING)
