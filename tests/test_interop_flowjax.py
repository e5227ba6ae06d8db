"""flowjax: its flows, imported, are the same flows, inverted or not."""

from __future__ import annotations

import numpy as np
import pytest

import afnp
from afnp.compiled.stages import uncompiled

jax = pytest.importorskip("jax", reason="FLOWJAX WAS NOT TESTED: pip install jax flowjax")
flowjax = pytest.importorskip("flowjax", reason="FLOWJAX WAS NOT TESTED: pip install flowjax")

import equinox  # noqa: E402
import paramax  # noqa: E402
from flowjax import bijections, distributions, flows  # noqa: E402

from afnp.interop.flowjax import from_flowjax  # noqa: E402

SPLINE = bijections.RationalQuadraticSpline(knots=4, interval=3)
FLOWS = {
    "maf": ("masked_autoregressive_flow", 3, None, {}),
    "maf, context": ("masked_autoregressive_flow", 3, 2, {"nn_activation": jax.numpy.tanh}),
    "another start": (
        "masked_autoregressive_flow",
        2,
        None,
        {"transformer": bijections.Affine(1.0, 2.0)},
    ),
    "spline": ("masked_autoregressive_flow", 3, None, {"transformer": SPLINE}),
    "elu": ("masked_autoregressive_flow", 3, None, {"nn_activation": jax.nn.elu}),
    "not inverted": ("masked_autoregressive_flow", 3, 2, {"invert": False}),
    "normal base": ("masked_autoregressive_flow", 3, None, {}),
    "coupling": ("coupling_flow", 4, 2, {}),
    "spline coupling": ("coupling_flow", 3, None, {"transformer": SPLINE}),
}


def flow_of(name):
    """A flow with parameters that hide nothing."""
    kind, D, C, options = FLOWS[name]
    base, rng = distributions.StandardNormal((D,)), np.random.default_rng(0)
    if name == "normal base":
        base = distributions.Normal(np.arange(D), np.linspace(0.5, 2.0, D))
    sizes = {"base_dist": base, "cond_dim": C, "flow_layers": 2, "nn_width": 8, **options}
    flow = getattr(flows, kind)(jax.random.key(0), **sizes)
    fixed = paramax.NonTrainable
    trained, rest = equinox.partition(
        flow, equinox.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, fixed)
    )

    def moved(a):
        return a + (0.2 * rng.standard_normal(a.shape)).astype(a.dtype)

    return equinox.combine(jax.tree_util.tree_map(moved, trained), rest)


@pytest.mark.parametrize("name", FLOWS)
def test_an_imported_flow_is_the_same_flow_in_float64(name, tmp_path):
    """afnp compares both directions by itself, to 1e-6; the file holds all of it."""
    with jax.enable_x64(True):
        ours = from_flowjax(flow_of(name))
    assert ours.dtype == np.float64
    assert not uncompiled(ours.layers) or name == "elu"
    afnp.save(ours, tmp_path / "f.afnp")
    again = afnp.load(tmp_path / "f.afnp")
    assert (again.theta == ours.theta).all() and again.config() == ours.config()


def test_float32_stays_float32():
    assert from_flowjax(flow_of("maf")).dtype == np.float32


def test_the_direction_follows_invert():
    costs = [
        from_flowjax(flow_of(name), prove=False).layers[-1 if name == "not inverted" else 0].cost
        for name in ("maf", "not inverted")
    ]
    assert [cost.normalize.depth for cost in costs] == [1, 3]


def standardised():
    """As in their tutorials: rows are standardised by a bijection that stays with the flow."""
    inside = flow_of("maf")
    mean, std = np.array([10.0, 0.0, -3.0]), np.array([4.0, 0.1, 1.0])
    return distributions.Transformed(inside, bijections.Affine(mean, std))


def chained():
    parts = [
        bijections.Scale(np.array([2.0, 0.5, 1.0])),
        bijections.Loc(np.array([3.0, 0.0, -1.0])),
    ]
    forward = bijections.Chain(parts)
    back = bijections.Invert(bijections.Chain([*parts, bijections.Affine(1.0, np.full(3, 0.3))]))
    inside = flow_of("normal base")
    return distributions.Transformed(distributions.Transformed(inside, forward), back)


@pytest.mark.parametrize("nested", [standardised, chained])
def test_what_stands_around_a_flow_comes_in_with_it(nested):
    with jax.enable_x64(True):
        theirs = nested()
        ours = from_flowjax(theirs)
        x = np.array(theirs.sample(jax.random.key(1), (20,)))
        np.testing.assert_allclose(ours.log_prob(x), theirs.log_prob(x), rtol=1e-9, atol=1e-9)
        merged = from_flowjax(theirs.merge_transforms())
    np.testing.assert_allclose(merged.log_prob(x), ours.log_prob(x), rtol=1e-9, atol=1e-9)


def test_what_is_not_trained_comes_in_too():
    with jax.enable_x64(True):
        fixed = equinox.tree_at(
            lambda flow: flow.base_dist, flow_of("normal base"), replace_fn=paramax.non_trainable
        )
        ours = from_flowjax(fixed)
    assert type(ours.layers[-1]).__name__ == "ActNorm"


def refused(change):
    kind = flows.masked_autoregressive_flow
    base = distributions.StandardNormal((3,))
    return kind(jax.random.key(0), base_dist=base, flow_layers=1, nn_width=4, **change)


REFUSED = {
    "transformer": (
        lambda: refused({"transformer": bijections.Power(3.0)}),
        "layer 0, MaskedAutoregressive: cannot import the transformer Power",
    ),
    "activation": (
        lambda: refused({"nn_activation": jax.nn.gelu}),
        "cannot import a network with the activation gelu",
    ),
    "interval": (
        lambda: refused(
            {"transformer": bijections.RationalQuadraticSpline(knots=3, interval=(-1, 2))}
        ),
        r"cannot import a spline on \(-1, 2\)",
    ),
    "planar": (
        lambda: flows.planar_flow(
            jax.random.key(0), base_dist=distributions.StandardNormal((3,)), flow_layers=1
        ),
        "layer 0: cannot import a Planar",
    ),
    "base": (
        lambda: flows.masked_autoregressive_flow(
            jax.random.key(0), base_dist=distributions.Cauchy(np.ones(3)), flow_layers=1
        ),
        "base_dist: cannot import a Cauchy",
    ),
    "around": (
        lambda: distributions.Transformed(flow_of("maf"), bijections.Exp((3,))),
        "bijection: cannot import a Exp",
    ),
    "couplings the other way": (
        lambda: flows.coupling_flow(
            jax.random.key(0),
            base_dist=distributions.StandardNormal((3,)),
            flow_layers=1,
            invert=False,
        ),
        "layer 0, Coupling: cannot import one that is not inverted",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_flowjax(make())
