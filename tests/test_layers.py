"""Layers: hand-written backward passes are the derivatives, and masked weights do not exist."""

import numpy as np
import pytest
from conftest import complex_step, norm_error

import afnp
from afnp.networks import MaskedMLP, layers, masks
from afnp.networks.layers import ACTIVATIONS, MaskedLinear
from afnp.params import Layout

GRADIENT = 1e-10
"""Of the largest entry: complex steps are exact to rounding,
and sums of a few hundred products lose two digits."""

PREFIXES = {
    "square": [1, 2, 3, 4, 5, 6],
    "steps": [0, 0, 2, 2, 2, 5, 6],
    "nothing heard": [0, 0, 0],
    "everything heard": [6, 6, 6, 6],
    "one row": [3],
}


@pytest.fixture(params=[1, 2, 3, 128])
def height(request, monkeypatch):
    """Small panels cut even small layers into many."""
    monkeypatch.setattr(layers, "PANEL_HEIGHT", request.param)
    return request.param


# Parameters


def test_layout_lays_names_over_one_vector_in_order():
    layout = Layout({"W": (2, 3), "b": (2,), "nothing": (0, 4)})
    p = layout.views(np.arange(8.0))
    assert layout.size == 8
    np.testing.assert_array_equal(p["W"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(p["b"], [6, 7])
    assert p["nothing"].shape == (0, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_views_write_through_and_never_copy(dtype):
    theta = np.zeros(8, dtype=dtype)
    p = Layout({"W": (2, 3), "b": (2,)}).views(theta)
    p["W"][1, 2], p["b"][0] = 5, 7
    assert theta.tolist() == [0, 0, 0, 0, 0, 5, 7, 0]
    assert p["W"].dtype == dtype and np.shares_memory(p["b"], theta) and p.flat is theta


@pytest.mark.parametrize("shape", [(7,), (9,), (2, 4), ()])
def test_views_need_a_vector_of_the_right_size(shape):
    with pytest.raises(ValueError, match=r"parameters: expected shape \(8,\), got"):
        Layout({"W": (2, 3), "b": (2,)}).views(np.zeros(shape))


# The masked linear layer


def linear_layer(name, rng, N=4, I=6):
    """A layer with random parameters, inputs, and output weights c;
    and the mask by its definition."""
    prefix = np.array(PREFIXES[name])
    layer = MaskedLinear(prefix, I)
    p = {"W": rng.standard_normal((len(prefix), I)), "b": rng.standard_normal(len(prefix))}
    M = np.array([[float(i < k) for i in range(I)] for k in prefix])
    return layer, p, M, rng.standard_normal((N, I)), rng.standard_normal((N, len(prefix)))


@pytest.mark.parametrize("name", PREFIXES)
def test_masked_linear_is_the_dense_masked_product(name, height):
    layer, p, M, x, _ = linear_layer(name, np.random.default_rng(0))
    np.testing.assert_allclose(layer.forward(p, x), x @ (M * p["W"]).T + p["b"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("N", [1, 4])
@pytest.mark.parametrize("name", PREFIXES)
def test_masked_linear_gradients(name, N, height):
    layer, p, M, x, c = linear_layer(name, np.random.default_rng(1), N)

    layout = Layout(layer.shapes)
    theta, grad = np.concatenate([p["W"].ravel(), p["b"]]), np.zeros(layout.size)

    def loss(theta, x):
        return (c * layer.forward(layout.views(theta), x)).sum()

    g = layout.views(grad)
    d_x = layer.backward(p, x, c, g)
    truth = layout.views(complex_step(lambda theta: loss(theta, x), theta))
    assert norm_error(g["W"], truth["W"]) < GRADIENT
    assert norm_error(g["b"], truth["b"]) < GRADIENT
    assert norm_error(d_x, complex_step(lambda x: loss(theta, x), x)) < GRADIENT
    assert not g["W"][M == 0].any()


def test_gradients_are_added(height):
    layer, p, _, x, c = linear_layer("steps", np.random.default_rng(2))
    once, twice = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    layer.backward(p, x, c, once)
    for _ in range(2):
        layer.backward(p, x, c, twice)
    for name in p:
        np.testing.assert_array_equal(twice[name], 2 * once[name])


@pytest.mark.parametrize("garbage", [-7.0, 1e6, 1e300])
def test_masked_weights_are_never_read(garbage, height):
    check_that_masked_weights_are_never_read(garbage)


@pytest.mark.parametrize("garbage", [np.inf, np.nan])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_masked_weights_are_never_read_even_if_not_finite(garbage):
    check_that_masked_weights_are_never_read(garbage)


def check_that_masked_weights_are_never_read(garbage):
    layer, p, M, x, c = linear_layer("steps", np.random.default_rng(3))
    clean, dirty = {**p, "W": p["W"] * M}, {**p, "W": np.where(M, p["W"], garbage)}
    np.testing.assert_array_equal(layer.forward(dirty, x), layer.forward(clean, x))
    g_clean, g_dirty = ({k: np.zeros_like(v) for k, v in p.items()} for _ in range(2))
    d_clean, d_dirty = layer.backward(clean, x, c, g_clean), layer.backward(dirty, x, c, g_dirty)
    np.testing.assert_array_equal(d_dirty, d_clean)
    np.testing.assert_array_equal(g_dirty["W"], g_clean["W"])
    assert not g_dirty["W"][M == 0].any()


# Activations


@pytest.mark.parametrize(
    "name, truth",
    [
        ("relu", lambda z: z * (z > 0)),
        ("tanh", lambda z: np.sinh(z) / np.cosh(z)),
        ("elu", lambda z: np.where(z > 0, z, np.exp(z) - 1)),
    ],
)
def test_activations_and_their_derivatives_on_both_sides(name, truth):
    z, d_a = (
        np.array([-3.0, -0.5, -1e-3, 1e-3, 0.5, 3.0]),
        np.array([1.0, -2.0, 3.0, -4.0, 5.0, -6.0]),
    )
    phi = ACTIVATIONS[name]
    a = phi.forward(z)
    np.testing.assert_allclose(a, truth(z), rtol=1e-12)
    derivative = np.diag(complex_step(phi.forward, z))
    np.testing.assert_allclose(phi.backward(a, d_a), d_a * derivative, rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_dtype(name):
    a = ACTIVATIONS[name].forward(np.ones(2, dtype=np.float32))
    assert a.dtype == ACTIVATIONS[name].backward(a, a).dtype == np.float32


def test_activations_far_out_are_finite():
    far = np.array([-1e300, -800.0, 0.0, 800.0, 1e300])
    assert ACTIVATIONS["tanh"].forward(far).tolist() == [-1, -1, 0, 1, 1]
    assert ACTIVATIONS["relu"].forward(far).tolist() == [0, 0, 0, 800, 1e300]
    assert ACTIVATIONS["elu"].forward(far).tolist() == [-1, -1, 0, 800, 1e300]


# The masked network

NETWORKS = {
    "plain": dict(hidden=(5, 6)),
    "tanh": dict(hidden=(6,), activation="tanh"),
    "context": dict(hidden=(6, 5), context=2),
    "no hidden": dict(hidden=()),
    "no hidden, context": dict(hidden=(), context=2),
    "residual": dict(hidden=(6, 6, 6), residual=True),
    "deep residual": dict(hidden=(5,) * 5, residual=True, activation="tanh", context=1),
    "one block is none": dict(hidden=(6,), residual=True),
    "one feature": dict(features=1, hidden=(3, 2)),
    "one feature, context": dict(features=1, hidden=(3, 2), context=2),
    "three numbers": dict(hidden=(6,), numbers=3),
}


def network(name, seed=0, N=3):
    """A network of gain 1, its parameters, rows of inputs, and weights c of its outputs."""
    rng = np.random.default_rng(seed)
    net = MaskedMLP(**{"features": 4, "numbers": 2, **NETWORKS[name]})
    theta = rng.standard_normal(net.layout.size)
    p = net.layout.views(theta)
    for linear in net.linears:
        p[linear.W] *= np.sqrt(2 / np.maximum(linear.prefix, 1))[:, None]
    inputs = rng.standard_normal((N, net.context + net.features))
    return net, theta, inputs, rng.standard_normal((N, net.features, net.numbers))


def parted(net, inputs):
    """The context and the features of rows that hold both."""
    return inputs[:, : net.context], inputs[:, net.context :]


def forward_by_definition(net, theta, inputs):
    """The module's formula, with masks from degrees and dense products."""
    p = net.layout.views(theta)
    phi = {"relu": lambda z: np.where(z > 0, z, 0), "tanh": np.tanh}[net.activation]
    z, last = [], len(net.hidden)
    for l in range(last + 1):
        columns, rows = net.degrees[l], net.degrees[l + 1]
        M = columns[None, :] < rows[:, None] if l == last else columns[None, :] <= rows[:, None]
        z.append((phi(z[-1]) if l else inputs) @ (M * p[f"W{l}"]).T + p[f"b{l}"])
        if net.residual and l % 2 == 0 and 0 < l < last:
            z[l] = z[l] + z[l - 2]
    return z[-1].reshape(len(inputs), net.features, net.numbers)


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_is_its_formula(name, height):
    net, theta, inputs, _ = network(name)
    h = net.forward(net.layout.views(theta), *parted(net, inputs))[0]
    np.testing.assert_allclose(h, forward_by_definition(net, theta, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_gradients(name, N, monkeypatch):
    monkeypatch.setattr(layers, "PANEL_HEIGHT", 3)
    net, theta, inputs, c = network(name, seed=1, N=N)

    def loss(theta, inputs):
        return (c * net.forward(net.layout.views(theta), *parted(net, inputs))[0]).sum()

    p, grad = net.layout.views(theta), np.zeros_like(theta)
    d_x = net.backward(p, net.forward(p, *parted(net, inputs))[1], c, net.layout.views(grad))
    truth = net.layout.views(complex_step(lambda t: loss(t, inputs), theta))
    for name, g in net.layout.views(grad).items():
        assert norm_error(g, truth[name]) < GRADIENT, name
    truth = complex_step(lambda x: loss(theta, x), inputs)
    assert norm_error(d_x, truth[:, net.context :]) < GRADIENT


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_gradients_in_float32(name):
    net, theta, inputs, c = network(name, seed=2, N=8)
    results = []
    for dtype in (np.float64, np.float32):
        p, grad = net.layout.views(theta.astype(dtype)), np.zeros(theta.size, dtype=dtype)
        h, cache = net.forward(p, *parted(net, inputs.astype(dtype)))
        d_x = net.backward(p, cache, c.astype(dtype), net.layout.views(grad))
        assert h.dtype == d_x.dtype == dtype and all(a.dtype == dtype for a in cache)
        results.append((h, grad, d_x))
    for double, single in zip(*results, strict=True):
        assert norm_error(single, double) < 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_hear_the_context_and_earlier_features_alone(name):
    """Every legal input moves every output (all widths suffice), and no other moves any:
    exact zeros."""
    net, theta, inputs, _ = network(name, seed=3, N=1)
    f = lambda x: net.forward(net.layout.views(theta), *parted(net, x[None]))[0][0]  # noqa: E731
    J = complex_step(f, inputs[0])
    heard = (
        np.arange(net.context + net.features)[None, None, :]
        < net.context + np.arange(net.features)[:, None, None]
    )
    assert not J[~np.broadcast_to(heard, J.shape)].any()
    staircases = [linear.prefix for linear in net.linears]
    assert masks.reach(staircases)[:: net.numbers].tolist() == [
        net.context + i for i in range(net.features)
    ]


def test_initial_rows_have_the_stated_variance():
    """W ~ N(0, 2 gain^2 / prefix): 20,000 numbers estimate a variance to 1 %,
    the bound is five times that."""
    net = MaskedMLP(features=201, numbers=2, hidden=(200, 200))
    p = net.layout.views(np.ones(net.layout.size))
    net.initialize(p, np.random.default_rng(0), gain=1.5, last=0.1)
    for linear, factor in zip(net.linears, [1.5, 1.5, 0.15], strict=True):
        heard = masks.mask(linear.prefix, p[linear.W].shape[1])
        scaled = (p[linear.W] * np.sqrt(linear.prefix)[:, None])[heard]
        assert scaled.var() == pytest.approx(2 * factor**2, rel=0.05)
        assert not p[linear.W][~heard].any() and not p[linear.b].any()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(hidden=(4, 0)), r"hidden: expected an integer of at least 1, got 0"),
        (dict(hidden=(-1,)), r"hidden: expected an integer of at least 1, got -1"),
        (dict(activation="gelu"), r"activation: expected one of .*'relu', 'tanh', got 'gelu'"),
        (
            dict(hidden=(4, 4), residual=True),
            r"residual=True needs an odd number of equal widths, got \(4, 4\)",
        ),
        (dict(hidden=(4, 5, 4), residual=True), r"odd number of equal widths, got \(4, 5, 4\)"),
        (dict(hidden=(), residual=True), r"odd number of equal widths, got \(\)"),
    ],
)
def test_networks_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MaskedMLP(**{"features": 3, "numbers": 2, "hidden": (4,), **change})


@pytest.mark.parametrize("make", [afnp.maf, afnp.realnvp, afnp.iaf])
def test_networks_of_elu_are_sound_and_run_in_numpy(make):
    flow = make(3, (8, 8), 2, activation="elu", context=1)
    report = afnp.verify.check_flow(flow, level="quick")
    assert report.ok, f"\n{report}"
    assert flow.plan("auto", 10**6).engine == "numpy"
    with pytest.raises(ValueError, match="no compiled code for layer 0, .* of 'elu' and Affine"):
        flow.log_prob(np.zeros((1, 3)), [[0.0]], backend="numba")
