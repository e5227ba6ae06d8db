"""Flows of angles: networks hear cosine and sine, so nothing jumps where the circle closes."""

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp.bases import UniformTorus
from afnp.flow import Flow
from afnp.networks import MaskedMLP
from afnp.transforms import Coupling, Inverse, masked

KINDS = {
    "autoregressive": masked,
    "coupling": Coupling,
    "inverse": lambda **options: Inverse(masked(**options)),
}
SHAPES = [(1, 1), (2, 0), (3, 2), (5, 0)]
TOLERANCE = {np.float64: 1e-11, np.float32: 3e-5}


def flow_of(kind, features, context, dtype=np.float64):
    """Two circular splines of a kind, with lively parameters."""
    options = {
        "univariate": "circular_spline",
        "options": {"bins": 4},
        "context": context,
        "hidden": (12, 12),
    }
    rng, layers = np.random.default_rng(features), []
    for k in range(2):
        if kind == "coupling":
            way = {"split": (np.arange(features) % 2 == k) if features > 1 else "half"}
        else:
            way = {"order": rng.permutation(features)}
        layers.append(KINDS[kind](features=features, **options, **way))
    return lively(Flow(layers, context=context, dtype=dtype, base=UniformTorus(features)), last=0.7)


def angles(flow, n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-np.pi, np.pi, size=(n, flow.features)).astype(flow.dtype)
    return x, rng.normal(size=(n, flow.context)).astype(flow.dtype) if flow.context else None


@pytest.mark.parametrize("features, context", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_density_is_the_same_on_both_sides_of_the_place_where_the_circle_closes(
    kind, features, context
):
    flow = flow_of(kind, features, context)
    x, c = angles(flow, 20)
    for feature in range(features):
        left, right = x.copy(), x.copy()
        left[:, feature], right[:, feature] = -np.pi, np.nextafter(np.pi, 0)
        np.testing.assert_allclose(
            flow.log_prob(left, c), flow.log_prob(right, c), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("features, context", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_both_directions_undo_each_other_and_the_naive_loop_agrees(kind, features, context):
    flow = flow_of(kind, features, context)
    x, c = angles(flow, 9)
    u, log_det = flow.normalize(x, c)
    for method in ("substitution", "naive"):
        again, log_det_again = flow.generate(u, c, method=method)
        np.testing.assert_allclose(again, x, atol=1e-10)
        np.testing.assert_allclose(log_det_again, -log_det, atol=1e-10)


@pytest.mark.parametrize("features, context", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through_cosine_and_sine(kind, features, context):
    flow = flow_of(kind, features, context)
    x, c = angles(flow, 4)
    c = np.empty((4, 0)) if c is None else c

    def loss(theta):
        return -flow.log_prob_with(flow.split(theta), x.astype(theta.dtype), c).mean()

    _, grad = flow.loss_and_grad(x, c if flow.context else None)
    assert norm_error(grad, complex_step(loss, flow.theta)) < 1e-9


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("features, context", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_compiled_rendering_hears_the_same(kind, features, context, dtype):
    flow = flow_of(kind, features, context, dtype)
    for n in (3, 70, 0):
        x, c = angles(flow, n)
        one, two = (flow.normalize(x, c, backend=backend) for backend in ("numba", "numpy"))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, atol=TOLERANCE[dtype] * (1 + np.abs(b).max(initial=0)))
        if n == 0:
            continue
        generated = [flow.generate(two[0], c, backend=backend)[0] for backend in ("numba", "numpy")]
        if dtype == np.float64:  # in float32 rounding of u alone may move x further
            np.testing.assert_allclose(*generated, atol=1e-10)
        grads = [flow.loss_and_grad(x, c, backend=backend)[1] for backend in ("numba", "numpy")]
        assert norm_error(*grads) < 10 * TOLERANCE[dtype]


def test_what_the_network_hears_of_an_angle_has_the_angles_degree():
    net = MaskedMLP(features=3, numbers=1, hidden=(6,), context=1, periodic=True)
    assert net.degrees[0].tolist() == [0, 1, 1, 2, 2, 3, 3]
    x = np.array([[0.1, 2.0, -3.0]])
    expected = [np.stack([np.cos(x[0]), np.sin(x[0])], axis=1).ravel()]
    np.testing.assert_array_equal(net.embed.forward(x), expected)


def test_too_narrow_networks_are_warned_of_as_if_there_were_one_input_a_feature():
    with pytest.warns(UserWarning, match="make 1 of 3 legal dependencies impossible"):
        MaskedMLP(features=3, numbers=1, hidden=(1,), periodic=True)


@pytest.mark.parametrize("method", ["log_prob", "generate"])
def test_numbers_that_are_no_angles_are_refused(method):
    flow = afnp.nsf(2, hidden=(8,), transforms=1, circular=True)
    name = "u" if method == "generate" else "x"
    with pytest.raises(
        ValueError, match=rf"{name}: row 1, feature 0: expected an angle in \[-pi, pi\], got 3.2"
    ):
        getattr(flow, method)([[0.0, 1.0], [3.2, 0.0]])
