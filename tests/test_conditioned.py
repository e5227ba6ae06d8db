"""Networks with a context beside the layers, and those that end linear: against themselves without
short cuts, against complex steps, and compiled against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import complex_step

import afnp
from afnp.compiled.stages import uncompiled
from afnp.flow import Flow
from afnp.networks import MLP, AddedMLP, GatedMaskedMLP, GatedMLP, MaskedMLP
from afnp.sampling.fixed_point import Jacobi, Newton
from afnp.transforms import Autoregressive, Coupling, Inverse, masked
from afnp.univariate import Affine, FlooredAffine, RationalQuadratic

RESIDUAL = (7, 7, 7, 7, 7)
LAYERS = {
    "added": lambda: Autoregressive(AddedMLP(4, 2, (9, 8), 2, "tanh"), FlooredAffine()),
    "added, blocks": lambda: Autoregressive(
        AddedMLP(4, 2, RESIDUAL, 2, residual=True, linear_end=True), Affine(), "reverse"
    ),
    "added, blocks, tanh": lambda: Autoregressive(
        AddedMLP(4, 2, RESIDUAL, 2, "tanh", True), FlooredAffine("sigmoid")
    ),
    "added, wider than the features": lambda: Autoregressive(
        AddedMLP(2, 2, (9, 8), 5, "tanh"), FlooredAffine()
    ),
    "added, blocks, wider": lambda: Autoregressive(
        AddedMLP(2, 2, RESIDUAL, 9, residual=True, linear_end=True), Affine()
    ),
    "added, no hidden layer": lambda: Autoregressive(AddedMLP(3, 2, (), 2), Affine()),
    "gated": lambda: Autoregressive(
        GatedMaskedMLP(4, 8, RESIDUAL, 2, linear_end=True), RationalQuadratic(3)
    ),
    "gated, one feature": lambda: Autoregressive(GatedMaskedMLP(1, 2, (5, 5, 5), 2), Affine()),
    "gated, inverse": lambda: Inverse(
        Autoregressive(GatedMaskedMLP(4, 2, RESIDUAL, 2, "tanh"), Affine(), [2, 0, 3, 1])
    ),
    "added, inverse": lambda: Inverse(
        Autoregressive(AddedMLP(3, 2, RESIDUAL, 2, "tanh", True, linear_end=True), Affine())
    ),
    "gated coupling": lambda: Coupling(
        5, (6, 6, 6), univariate="spline", context=2, gated=True, linear_end=True
    ),
    "linear end": lambda: Autoregressive(
        MaskedMLP(4, 2, RESIDUAL, 2, residual=True, linear_end=True), Affine()
    ),
    "linear end, tanh": lambda: Autoregressive(
        MaskedMLP(4, 2, (7, 6), 2, "tanh", linear_end=True), Affine()
    ),
    "linear end, coupling": lambda: Coupling(
        4, RESIDUAL, context=2, residual=True, linear_end=True
    ),
}
COMPILED = [name for name in LAYERS if "inverse" not in name]


@pytest.fixture(params=LAYERS)
def flow(request):
    return flow_of(LAYERS[request.param]())


def flow_of(layer):
    flow, rng = Flow([layer], context=layer.context), np.random.default_rng(1)
    flow.theta = flow.theta + 0.4 * rng.standard_normal(flow.theta.size)
    return flow


def rows(flow, n=6):
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, flow.features)), rng.standard_normal((n, flow.context))


def test_substitution_is_the_textbook_loop(flow):
    x, context = rows(flow)
    u, log_det = flow.normalize(x, context, backend="numpy")
    for method in ("substitution", "naive", Jacobi(), Newton(0.0)):
        back, log_det_back = flow.generate(u, context, method=method, backend="numpy")
        np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LAYERS if "coupling" not in name])
def test_the_jacobian_of_a_network_is_that_of_complex_steps(name):
    """What Newton's method solves with: dh/dx, weighted."""
    flow = flow_of(LAYERS[name]())
    layer = flow.layers[0]
    net, p = getattr(layer, "transform", layer).conditioner, flow.split(flow.theta)[0]
    x, context = rows(flow, 3)
    slope = np.random.default_rng(2).standard_normal((3, net.features, net.numbers))
    T = net.jacobian(p, context, x, slope)
    for n in range(3):
        c = context[n : n + 1].astype(complex)
        true = complex_step(lambda row, c=c: net.forward(p, c, row[None])[0][0], x[n])
        expected = np.einsum("ik,ikj->ij", slope[n], true)
        np.testing.assert_allclose(T[n], expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_complex_steps(flow):
    x, context = rows(flow, 3)
    layer, rng = flow.layers[0], np.random.default_rng(5)
    d_u, d_log_det = rng.standard_normal(x.shape), rng.standard_normal(len(x))
    layout = layer.layout

    def loss(theta, x):
        u, log_det, _ = layer.normalize(layout.views(theta), x, context.astype(complex))
        return (d_u * u).sum() + (d_log_det * log_det).sum()

    g = layout.views(np.zeros(layout.size))
    cache = layer.normalize(layout.views(flow.theta), x, context)[2]
    d_x = layer.backward(layout.views(flow.theta), cache, d_u, d_log_det, g)
    by_x = complex_step(lambda x: loss(flow.theta.astype(complex), x), x)
    by_theta = complex_step(lambda theta: loss(theta, x.astype(complex)), flow.theta)
    np.testing.assert_allclose(d_x, by_x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(g.flat, by_theta, rtol=1e-9, atol=1e-9)


def test_the_score_is_that_of_complex_steps(flow):
    """By the data and by the context, for one row."""
    x, context = rows(flow, 1)
    p = flow.split(flow.theta)
    by_x = complex_step(lambda z: flow.log_prob_with(p, z, context.astype(complex))[0], x)
    by_context = complex_step(lambda c: flow.log_prob_with(p, x.astype(complex), c)[0], context)
    np.testing.assert_allclose(flow.score(x, context), by_x, rtol=1e-9, atol=1e-9)
    found = flow.score(x, context, of="context")
    np.testing.assert_allclose(found, by_context, rtol=1e-9, atol=1e-9)


def test_a_saved_flow_is_the_same_flow(flow, tmp_path):
    """Model files count a network's parameters before they build it."""
    x, context = rows(flow)
    again = afnp.load(afnp.save(flow, tmp_path / "f.afnp") or tmp_path / "f.afnp")
    np.testing.assert_array_equal(again.log_prob(x, context), flow.log_prob(x, context))


@pytest.mark.parametrize("name", ["added", "gated", "gated coupling", "linear end"])
def test_the_checks_find_nothing(name):
    assert afnp.verify.check_flow(flow_of(LAYERS[name]()), level="quick").ok


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_is_what_numpy_is(name, dtype):
    """On few rows, which have kernels of their own, and on many; of one context, and of several."""
    flow = flow_of(LAYERS[name]())
    flow = Flow(flow.layers, flow.context, dtype, theta=flow.theta.astype(dtype))
    assert not uncompiled(flow.layers)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-3}
    for n, contexts in ((3, 3), (3, 1), (70, 70), (70, 1), (72, 3)):
        x, context = (values.astype(dtype) for values in rows(flow, n))
        context = np.repeat(context[:contexts], n // contexts, axis=0)
        for task in (flow.normalize, flow.generate):
            for fast, plain in zip(
                task(x, context, backend="numba"), task(x, context, backend="numpy"), strict=True
            ):
                np.testing.assert_allclose(fast, plain, **close)
        fast, plain = (flow.loss_and_grad(x, context, backend=b)[1] for b in ("numba", "numpy"))
        np.testing.assert_allclose(fast, plain, **close)


@pytest.mark.parametrize("name", [name for name in COMPILED if "ed" in name.split(",")[0]])
def test_a_context_that_rows_share_is_folded_into_weights(name, monkeypatch):
    """NumPy is not asked then; it may be where every row has a context of its own."""
    flow = flow_of(LAYERS[name]())
    x, context = rows(flow, 64)

    def refuse(*_):
        raise RuntimeError("NumPy was asked")

    monkeypatch.setattr(type(flow.layers[0]), "evaluate", refuse)
    monkeypatch.setattr(type(flow.layers[0]), "generate", refuse)
    for context_of in (np.repeat(context[:1], 64, axis=0), np.repeat(context[:4], 16, axis=0)):
        flow.normalize(x, context_of, backend="numba")
        flow.generate(x, context_of, backend="numba")
    if name.startswith("gated") or name == "added, blocks, tanh":  # tanh carries nothing unchanged
        with pytest.raises(RuntimeError, match="NumPy was asked"):
            flow.normalize(x, context, backend="numba")


@pytest.mark.parametrize("name", COMPILED)
def test_no_rows_are_no_rows(name):
    flow = flow_of(LAYERS[name]())
    for task in (flow.normalize, flow.generate):
        values, log_det = task(*rows(flow, 0), backend="numba")
        assert values.shape == (0, flow.features) and log_det.shape == (0,)


def test_what_is_not_compiled_says_so():
    flow = flow_of(LAYERS["gated, inverse"]())
    with pytest.raises(ValueError, match="GatedMaskedMLP"):
        flow.sample(2, context=np.zeros((1, 2)), backend="numba")
    assert flow.sample(2, context=np.zeros((1, 2))).shape == (2, 4)


def test_a_context_moves_every_feature():
    """The default degrees let it; those of other libraries may not."""
    flow = flow_of(LAYERS["added"]())
    x, context = rows(flow, 1)
    moved = flow.normalize(x, context + 0.1)[0] != flow.normalize(x, context)[0]
    assert moved.all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AddedMLP(3, 2, (4,), 0), "context: expected an integer of at least 1"),
        (lambda: GatedMLP(3, 2, (4, 4), 1, 1), "hidden: residual=True needs an odd number"),
        (lambda: MLP(3, 2, (), 1, linear_end=True), "linear_end: expected at least one hidden"),
        (lambda: Coupling(3, (4,), context=0, gated=True), "context: expected an integer"),
        (
            lambda: Coupling(3, (4,), univariate="circular_spline", context=1, gated=True),
            "gated: expected a univariate that is not periodic",
        ),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_of_old_files_have_not_changed():
    """What is not set is not written: files are what they were."""
    assert "linear_end" not in masked(3, (4,)).conditioner.config()
    assert not {"linear_end", "gated"} & set(Coupling(3, (4,)).config())
