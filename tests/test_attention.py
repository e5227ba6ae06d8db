"""Attention in flows: every piece against complex steps, causality by the bit,
the cache against the naive loop."""

import json

import numpy as np
import pytest
from conftest import complex_step, norm_error

from afnp.compiled.stages import gpu_step
from afnp.constructors import tarflow
from afnp.networks.attention import (
    CausalAttention,
    LayerNorm,
    causal_softmax,
    gelu,
    linear,
    softmax_backward,
)
from afnp.networks.transformer import EXPANSION, Block, CausalTransformer
from afnp.params import Layout
from afnp.train import fit
from afnp.transforms import attentive, image_order
from afnp.transforms.cost import CostTable
from afnp.univariate import UNIVARIATES
from afnp.verify import check_flow, dependency_pattern

GRADIENT = 1e-8
"""Of the largest entry; both sides are exact to rounding,
which softmax and norms amplify by some hundreds."""

CACHED = 1e-12
"""Largest difference of cache and naive loop in float64: the same sums,
in products of other shapes."""

SHAPES = [(D, P) for D in range(1, 9) for P in range(1, D + 1) if D % P == 0]


def stirred(part, seed=0, size=0.5):
    """Parameters of a part that hide nothing: every one is random, scales stay away from 0."""
    rng = np.random.default_rng([seed, part.layout.size if hasattr(part, "layout") else 0])
    layout = part.layout if hasattr(part, "layout") else Layout(part.shapes)
    p = layout.views(rng.uniform(-size, size, layout.size))
    for name in p:
        if name.startswith("gamma"):
            p[name] += 1
    return layout, p


def prepared(D, P, C=0, n=4, order=None, seed=0, **kwargs):
    """A layer with living parameters, rows, contexts."""
    layer = attentive(
        D, patch=P, **{"width": 8, "heads": 2, "blocks": 2} | kwargs, order=order, context=C
    )
    _, p = stirred(layer, seed)
    rng = np.random.default_rng([seed, D, P, C])
    return layer, p, rng.standard_normal((n, D)), rng.standard_normal((n, C))


def turned(D):
    return np.roll(np.arange(D), -1)


# ---- pieces --------------------------------------------------------------------------------------


def test_the_slope_of_gelu_is_its_complex_step():
    z = np.linspace(-6, 6, 41)
    np.testing.assert_allclose(gelu(z)[1], gelu(z + 1e-30j)[0].imag / 1e-30, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("complex_too", [False, True])
def test_softmax_weights_are_a_triangle_of_rows_that_sum_to_one(complex_too):
    """Scores of thousands do not overflow; what is forbidden does not count even where it is the
    largest."""
    s = 3000 * np.random.default_rng(0).standard_normal((2, 5, 5)) + (1e-30j if complex_too else 0)
    w = causal_softmax(s)
    assert np.isfinite(w).all() and not w[:, ~np.tri(5, dtype=bool)].any()
    np.testing.assert_allclose(w.sum(axis=-1), 1, rtol=1e-14)
    s[:, ~np.tri(5, dtype=bool)] = 1e300
    np.testing.assert_array_equal(causal_softmax(s), w)


def test_softmax_is_the_quotient_of_exponentials():
    s = np.random.default_rng(1).standard_normal((4, 4))
    e = np.exp(s) * np.tri(4)
    np.testing.assert_allclose(causal_softmax(s), e / e.sum(axis=1, keepdims=True), rtol=1e-14)


def test_the_backward_of_softmax_is_its_transposed_jacobian():
    rng = np.random.default_rng(2)
    s, d_w = rng.standard_normal((4, 4)), rng.standard_normal((4, 4))
    truth = complex_step(lambda s: (d_w * causal_softmax(s)).sum(), s)
    assert norm_error(softmax_backward(causal_softmax(s), d_w), truth) < 1e-13


def test_layer_norm_gives_mean_zero_and_variance_one():
    layout, p = stirred(LayerNorm("", 7))
    p["gamma"][:], p["beta"][:] = 1, 0
    y, _ = LayerNorm("", 7).forward(p, 100 + 10 * np.random.default_rng(3).standard_normal((5, 7)))
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-13)
    np.testing.assert_allclose(
        y.var(axis=1), 1, rtol=1e-5
    )  # EPSILON beside a variance of about 100
    assert np.isfinite(LayerNorm("", 7).forward(p, np.ones((1, 7)))[0]).all()


PIECES = {
    "norm": lambda: LayerNorm("", 6),
    "attention, 1 head": lambda: CausalAttention("", 6, 1),
    "attention, 3 heads": lambda: CausalAttention("", 6, 3),
    "block": lambda: Block("0", 6, 2),
}


@pytest.mark.parametrize("name", PIECES)
def test_each_piece_has_the_gradient_of_complex_steps(name):
    piece, rng = PIECES[name](), np.random.default_rng(4)
    layout, p = stirred(piece)
    z, d_y = rng.standard_normal((2, 5, 6)), rng.standard_normal((2, 5, 6))
    grad = np.ones(layout.size)
    d_z = piece.backward(p, piece.forward(p, z)[1], d_y, layout.views(grad))
    assert norm_error(d_z, complex_step(lambda z: (d_y * piece.forward(p, z)[0]).sum(), z)) < 1e-12
    z = z.astype(complex)
    by_theta = complex_step(
        lambda theta: (d_y * piece.forward(layout.views(theta), z)[0]).sum(), p.flat
    )
    assert norm_error(grad - 1, by_theta) < 1e-12


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_the_sum_that_it_says(heads):
    """Written once more with loops over rows, heads and tokens."""
    piece = CausalAttention("", 4, heads)
    _, p = stirred(piece)
    x = np.random.default_rng(5).standard_normal((2, 3, 4))
    H, joined = 4 // heads, np.zeros((2, 3, 4))
    for n in range(2):
        for a in range(heads):
            q, k, v = (
                x[n] @ p["W_qkv"][part * 4 + a * H : part * 4 + (a + 1) * H].T for part in range(3)
            )
            for t in range(3):
                e = np.array([np.exp(q[t] @ k[s] / np.sqrt(H)) for s in range(t + 1)])
                joined[n, t, a * H : (a + 1) * H] = sum(e[s] * v[s] for s in range(t + 1)) / e.sum()
    truth = joined @ p["W_heads"].T + p["b_heads"]
    np.testing.assert_allclose(piece.forward(p, x)[0], truth, rtol=1e-12, atol=1e-13)


def test_a_block_token_by_token_is_the_block():
    block = Block("0", 6, 3)
    _, p = stirred(block)
    z = np.random.default_rng(6).standard_normal((4, 5, 6))
    memory = block.attention.memory(4, 5, z.dtype)
    steps = np.stack([block.step(p, t, z[:, t], memory) for t in range(5)], axis=1)
    assert norm_error(steps, block.forward(p, z)[0]) < 1e-14


# ---- the transform -------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [0, 2])
@pytest.mark.parametrize("D, P", SHAPES)
def test_there_and_back_by_cache_and_by_loop(D, P, C):
    layer, p, x, context = prepared(D, P, C, order=turned(D))
    u, log_det, _ = layer.normalize(p, x, context)
    back, log_det_back = layer.generate(p, u, context)
    assert norm_error(back, x) < 1e-11 and np.abs(log_det + log_det_back).max() < 1e-11
    drawn, naive = layer.generate(p, x, context), layer.naive(p, x, context)
    assert norm_error(drawn[0], naive[0]) < CACHED and norm_error(drawn[1], naive[1]) < CACHED


@pytest.mark.parametrize("C", [0, 2])
@pytest.mark.parametrize("D, P", SHAPES)
def test_gradients_are_those_of_complex_steps(D, P, C):
    layer, p, x, context = prepared(D, P, C, n=3, order=turned(D), blocks=1)
    rng, layout = np.random.default_rng(7), layer.layout
    d_u, d_log_det, grad = (
        rng.standard_normal(x.shape),
        rng.standard_normal(len(x)),
        np.ones(layout.size),
    )

    def loss(theta, x):
        u, log_det, _ = layer.normalize(layout.views(theta), x, context.astype(complex))
        return (d_u * u).sum() + (d_log_det * log_det).sum()

    d_x = layer.backward(p, layer.normalize(p, x, context)[2], d_u, d_log_det, layout.views(grad))
    assert norm_error(d_x, complex_step(lambda x: loss(p.flat.astype(complex), x), x)) < GRADIENT
    z = x.astype(complex)
    assert norm_error(grad - 1, complex_step(lambda theta: loss(theta, z), p.flat)) < GRADIENT


@pytest.mark.parametrize("univariate", sorted(UNIVARIATES))
@pytest.mark.parametrize("P", [1, 2])
def test_every_univariate_serves(univariate, P):
    """Angles are heard as cosine and sine; knots and tails are worse conditioned than an affine
    map."""
    layer, p, x, context = prepared(4, P, 1, n=3, univariate=univariate, blocks=1)
    x, layout = 0.9 * x, layer.layout
    u, log_det, cache = layer.normalize(p, x, context)
    for method in ("substitution", "naive"):
        back, log_det_back = layer.sampler(method)(p, u, context)
        assert norm_error(back, x) < 1e-9 and np.abs(log_det + log_det_back).max() < 1e-9
    d_u, d_log_det = np.cos(u), np.sin(log_det)
    d_x = layer.backward(p, cache, d_u, d_log_det, layout.views(np.zeros(layout.size)))

    def loss(x):
        u, log_det, _ = layer.normalize(p, x, context.astype(complex))
        return (d_u * u).sum() + (d_log_det * log_det).sum()

    assert norm_error(d_x, complex_step(loss, x)) < GRADIENT


@pytest.mark.parametrize("D, P", SHAPES)
def test_log_determinants_are_those_of_the_jacobian(D, P):
    layer, p, x, context = prepared(D, P, 2, order=turned(D))
    _, log_det, _ = layer.normalize(p, x, context)
    for n in range(len(x)):
        J = complex_step(
            lambda x, n=n: layer.normalize(p, x[None], context[n : n + 1].astype(complex))[0][0],
            x[n],
        )
        assert not J[~layer.allowed()].any()
        assert abs(log_det[n] - np.linalg.slogdet(J)[1]) < 1e-10 * (1 + abs(log_det[n]))


@pytest.mark.parametrize("D, P", SHAPES)
def test_nothing_later_is_heard_by_a_single_bit(D, P):
    """And everything earlier is; going back, all of the inverse's triangle, which is the same."""
    layer, p, x, context = prepared(D, P, n=4, order=turned(D))
    for way in (layer.normalize, layer.generate):
        pattern = dependency_pattern(
            lambda x, way=way: way(p, x, np.empty((len(x), 0)))[0], x, rng=D
        )
        np.testing.assert_array_equal(pattern, layer.allowed())


def test_the_numbers_of_a_token_do_not_hear_the_token():
    layer, p, x, _ = prepared(6, 2, n=4)
    for number in range(2):
        heard = dependency_pattern(
            lambda x, k=number: layer.conditioner.forward(p, np.empty((len(x), 0)), x)[0][:, :, k],
            x,
            rng=0,
        )
        np.testing.assert_array_equal(heard, layer.allowed() & ~np.eye(6, dtype=bool))


@pytest.mark.parametrize("D, P", SHAPES)
def test_the_context_reaches_every_feature(D, P):
    layer, p, x, context = prepared(D, P, 2)
    for c in range(2):
        moved = context.copy()
        moved[:, c] += 0.5
        assert (
            (layer.normalize(p, x, moved)[0] != layer.normalize(p, x, context)[0]).any(axis=0).all()
        )


def test_each_key_is_computed_once(monkeypatch):
    """The cache maps each token once; the loop maps T tokens T times."""
    layer, p, x, context = prepared(8, 2, n=3)
    counted, parts = [], CausalAttention._parts
    monkeypatch.setattr(
        CausalAttention,
        "_parts",
        lambda self, p, x, T: (counted.append(len(x)), parts(self, p, x, T))[1],
    )
    layer.generate(p, x, context)
    assert counted == [3] * 4 * 2  # tokens, blocks
    counted.clear()
    layer.naive(p, x, context)
    assert counted == [3 * 4] * 4 * 2


def test_the_cost_that_is_printed():
    layer = attentive(12, patch=3, width=8, heads=2, blocks=2, context=5)
    T, M = 4, 8
    block = T * ((3 + 1) * M * M + 2 * EXPANSION * M * M) + 2 * (T * (T + 1) // 2) * M
    work = 5 * M + (T - 1) * 3 * M + 2 * block + T * M * 3 * 2
    assert layer.cost.normalize == (1, 1, work) and layer.cost.generate == (1, T, work)
    assert layer.cost.naive == (T, T, T * work)
    assert "1 pass, 4 steps" in repr(CostTable([layer])) and "4 passes" in repr(CostTable([layer]))


@pytest.mark.parametrize("D, P", [(1, 1), (6, 2)])
def test_no_rows_single_precision_and_nothing_changed(D, P):
    layer, p, x, context = prepared(D, P, 1)
    theta = p.flat.copy()
    kept = [a.copy() for a in (x, context)]
    for a in (x, context, p.flat):
        a.flags.writeable = False
    u, log_det, cache = layer.normalize(p, x, context)
    first = layer.backward(p, cache, x, x[:, 0], layer.layout.views(np.zeros(layer.layout.size)))
    layer.generate(p, x, context)
    again = layer.backward(p, cache, x, x[:, 0], layer.layout.views(np.zeros(layer.layout.size)))
    np.testing.assert_array_equal(first, again)
    assert (p.flat == theta).all() and (x == kept[0]).all() and (context == kept[1]).all()
    for way in ("substitution", "naive"):
        assert layer.sampler(way)(p, x[:0], context[:0])[0].shape == (0, D)
    assert layer.normalize(p, x[:0], context[:0])[0].shape == (0, D)
    single = layer.layout.views(theta.astype(np.float32))
    x, context = x.astype(np.float32), context.astype(np.float32)
    u32, log_det32, cache = layer.normalize(single, x, context)
    d_x = layer.backward(
        single, cache, u32, log_det32, layer.layout.views(np.zeros_like(single.flat))
    )
    back = layer.generate(single, u32, context)
    assert {a.dtype for a in (u32, log_det32, d_x, *back)} == {np.dtype(np.float32)}
    assert norm_error(u32, u) < 1e-4


def test_a_configuration_rebuilds_the_layer():
    layer, p, x, context = prepared(
        6, 2, 1, order=turned(6), univariate="spline", options={"bins": 5}
    )
    again = type(layer).from_config(json.loads(json.dumps(layer.config())))
    assert again.config() == layer.config() and again.layout.shapes == layer.layout.shapes
    np.testing.assert_array_equal(
        again.normalize(p, x, context)[0], layer.normalize(p, x, context)[0]
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(patch=4), r"patch: expected a divisor of 6 features, one of \[1, 2, 3, 6\], got 4"),
        (dict(patch=0), "patch: expected an integer of at least 1, got 0"),
        (dict(patch=1.5), "patch: expected an integer, got 1.5"),
        (dict(heads=3), "heads: expected a divisor of the width 8, got 3"),
        (dict(width=2, heads=1), "width: expected an integer of at least 4, got 2"),
        (dict(blocks=0), "blocks: expected an integer of at least 1"),
        (dict(univariate="cubic"), "univariate: expected one of"),
        (dict(order=[0, 0, 1, 2, 3, 4]), "order: expected a permutation"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match="^" + words):
        attentive(6, **{"width": 8, "heads": 2} | arguments)


def test_there_is_no_gpu_rendering_and_it_says_so():
    flow = tarflow(4, width=8, heads=2, blocks=1, transforms=1)
    with pytest.raises(ValueError, match="'cuda' has no CausalTransformer"):
        gpu_step(flow.layers[0], flow.split(flow.theta)[0])


def test_patches_of_an_image():
    order = image_order(4, 6, 2).reshape(6, 4)
    assert sorted(order.ravel()) == list(range(24))
    np.testing.assert_array_equal(order[:2], [[0, 1, 6, 7], [2, 3, 8, 9]])
    np.testing.assert_array_equal(image_order(3, 2, 1), np.arange(6))
    with pytest.raises(ValueError, match="side: expected a common divisor of 4 and 6, got 4"):
        image_order(4, 6, 4)


# ---- flows ---------------------------------------------------------------------------------------


def test_directions_alternate():
    first, second, third = (
        layer.order.tolist() for layer in tarflow(6, patch=2, transforms=3).layers
    )
    assert first == third == list(range(6)) and second == first[::-1]


@pytest.mark.parametrize("D, P, C", [(1, 1, 0), (2, 1, 0), (3, 1, 2), (4, 2, 1), (6, 3, 0)])
def test_every_check_passes_at_random_parameters(D, P, C):
    flow = tarflow(D, patch=P, width=8, heads=2, blocks=1, transforms=2, context=C, seed=1)
    report = check_flow(flow, level="quick", seed=D)
    assert report.ok, str(report)


def test_training_learns_what_only_earlier_tokens_tell():
    """x_1 = x_0² + noise of 1/4. Without x_0 the divergence would be at least log(√2 / (1/4)) = 1.7
    nats."""
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((4000, 2))
    x = np.stack([noise[:, 0], noise[:, 0] ** 2 + noise[:, 1] / 4], axis=1)
    flow = tarflow(2, width=16, heads=2, blocks=1, transforms=1, seed=1)
    fit(flow, x[:2500], x[2500:3000], epochs=15, batch_size=100, learning_rate=3e-3)
    truth = -0.5 * (noise**2).sum(axis=1) - np.log(2 * np.pi) + np.log(4)
    assert -0.02 < (truth[3000:] - flow.log_prob(x[3000:])).mean() < 0.15


def test_one_linear_map_hears_everything():
    m = linear("_x", 3, 2)
    layout, p = stirred(m)
    x = np.random.default_rng(9).standard_normal((4, 3))
    np.testing.assert_allclose(m.forward(p, x), x @ p["W_x"].T + p["b_x"], rtol=1e-14)
    assert layout.size == 8 and linear("_y", 0, 2).forward(
        stirred(linear("_y", 0, 2))[1], x[:, :0]
    ).shape == (4, 2)


def test_the_conditioner_starts_near_the_identity():
    net = CausalTransformer(4, 2, width=8, heads=2)
    p = net.layout.views(np.zeros(net.layout.size))
    net.initialize(p, np.random.default_rng(0))
    h, _ = net.forward(p, np.empty((50, 0)), np.random.default_rng(1).standard_normal((50, 4)))
    assert 0 < np.abs(h).max() < 0.1
