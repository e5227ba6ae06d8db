"""What is particular to each transform: solves, blocks, statistics, triangles, costs,
and what is refused."""

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp.compiled.stages import compiled
from afnp.flow import Flow
from afnp.networks import MLP, MaskedMLP
from afnp.networks.layers import ACTIVATIONS
from afnp.networks.masked_mlp import Feedforward
from afnp.sampling.substitution import substitute_back
from afnp.transforms import (
    ActNorm,
    BatchNorm,
    CostTable,
    Coupling,
    Inverse,
    LULinear,
    Permutation,
    Standardize,
    attentive,
    masked,
    split_of,
)
from afnp.transforms.cost import FREE
from afnp.transforms.linear import factorize

NONE = np.empty((6, 0))


def rows(D, n=6, seed=0):
    return np.random.default_rng([seed, D]).standard_normal((n, D))


# ---- the inverse: reverse substitution -----------------------------------------------------------

NETS = {
    "plain": dict(hidden=(7, 9)),
    "narrow": dict(hidden=(2, 3)),
    "residual": dict(hidden=(8, 8, 8, 8, 8), residual=True),
    "tanh": dict(hidden=(6,), activation="tanh"),
    "linear": dict(hidden=()),
}
ORDERS = {"natural": None, "turned": [1, 2, 3, 4, 0]}


def prepared(net, order=None, context=1, garbage=1e3):
    """An autoregressive layer, its parameters, and the cache of its backward pass."""
    layer = masked(5, order=order, context=context, **NETS[net])
    flow = lively(Flow([layer], context=context), gain=1.0, last=0.7, garbage=garbage)
    p = flow.split(flow.theta)[0]
    return layer, p, layer.normalize(p, rows(5), rows(context, seed=1))[2]


narrow = pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")


@narrow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("net", NETS)
def test_reverse_substitution_undoes_the_backward_pass(net, order):
    layer, p, cache = prepared(net, ORDERS[order])
    d_u, d_log_det, g = (
        rows(5, seed=2),
        rows(1, seed=3)[:, 0],
        layer.layout.views(np.zeros(layer.layout.size)),
    )
    d_x = layer.backward(p, cache, d_u, d_log_det, g)
    assert norm_error(layer.solve_backward(p, cache, d_x, d_log_det), d_u) < 1e-12


@narrow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("net", NETS)
def test_reverse_substitution_equals_the_naive_way(net, order):
    """D backward passes give the Jacobian, one more the log-determinant's gradient;
    then a dense solve."""
    layer, p, cache = prepared(net, ORDERS[order])
    d_x, d_log_det, g = (
        rows(5, seed=2),
        rows(1, seed=3)[:, 0],
        layer.layout.views(np.zeros(layer.layout.size)),
    )
    zero, D = np.zeros((6, 5)), 5
    J = np.stack(
        [layer.backward(p, cache, zero + np.eye(D)[i], zero[:, 0], g) for i in range(D)], axis=1
    )
    right = d_x - layer.backward(p, cache, zero, d_log_det, g)
    truth = np.linalg.solve(np.swapaxes(J, 1, 2), right[:, :, None])[:, :, 0]
    assert norm_error(layer.solve_backward(p, cache, d_x, d_log_det), truth) < 1e-11


@narrow
@pytest.mark.parametrize("net", NETS)
def test_reverse_substitution_differentiates_each_unit_once(net):
    """And loads no weight beyond a staircase: NaN lies there."""
    layer, p, cache = prepared(net, garbage=0.0)
    net, zero = layer.conditioner, np.zeros((6, 5))
    clean = layer.solve_backward(p, cache, rows(5), zero[:, 0])
    _, p, _ = prepared(next(k for k in NETS if NETS[k]["hidden"] == net.hidden), garbage=np.nan)
    seen, phi = [], ACTIVATIONS[net.activation].backward

    def counting(a, d_a):
        seen.append(a.size)
        return phi(a, d_a)

    slope = layer.univariate.backward(cache[1], zero + 1, zero)
    offset = layer.univariate.backward(cache[1], zero, zero)
    d_u = substitute_back(
        net.staircases(p), counting, cache[0], slope, offset, rows(5), 1, net.embed.backward
    )
    assert sum(seen) == 6 * sum(net.hidden)
    np.testing.assert_array_equal(d_u, clean)


def test_an_iaf_is_a_maf_read_the_other_way():
    layer, p, _ = prepared("plain")
    x, context = rows(5), rows(1, seed=1)
    inverse = Inverse(layer)
    for mine, its in ((inverse.normalize, layer.generate), (inverse.generate, layer.normalize)):
        for a, b in zip(mine(p, x, context)[:2], its(p, x, context)[:2], strict=True):
            np.testing.assert_array_equal(a, b)
    assert (
        inverse.cost.generate == layer.cost.normalize
        and inverse.cost.normalize == layer.cost.generate
    )


def test_the_inverse_agrees_in_both_renderings():
    layer, p, _ = prepared("plain", [1, 2, 3, 4, 0])
    layer, x, context = Inverse(layer), rows(5), rows(1, seed=1)
    twin = compiled(layer)
    pairs = [
        (layer.normalize(p, x, context), twin.normalize(p, x, context)),
        (layer.generate(p, x, context), twin.sampler("substitution")(p, x, context)),
    ]
    for plain, other in pairs:
        assert norm_error(other[0], plain[0]) < 1e-12 and norm_error(other[1], plain[1]) < 1e-12


@pytest.mark.parametrize("inside", [ActNorm(3), Coupling(3, (4,)), attentive(4, width=4, heads=2)])
def test_only_masked_transforms_are_inverted(inside):
    with pytest.raises(ValueError, match="^transform: expected"):
        Inverse(inside)


# ---- coupling: two blocks ------------------------------------------------------------------------

SPLITS = {"alternating": "alternating", "half": "half", "given": [False, True, True, False, True]}


@pytest.mark.parametrize("univariate", ["affine", "additive", "spline"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_first_block_passes_bit_by_bit(split, univariate):
    layer = Coupling(5, (8,), SPLITS[split], univariate)
    flow = lively(Flow([layer]))
    u, x = flow.normalize(rows(5))[0], flow.generate(rows(5))[0]
    for y in (u, x):
        assert (y[:, layer.passing] == rows(5)[:, layer.passing]).all()
        assert (y[:, ~layer.passing] != rows(5)[:, ~layer.passing]).all()


@pytest.mark.parametrize("split", SPLITS)
def test_a_coupling_is_autoregressive_with_two_blocks(split):
    """An autoregressive transform in the order (A, B) whose numbers for A are zero,
    and for B do not hear B."""
    coupling = Coupling(5, (), SPLITS[split], context=2)
    flow = lively(Flow([coupling], context=2), last=1.0)
    p, A = flow.split(flow.theta)[0], len(coupling.A)
    whole = masked(5, (), coupling.order, context=2)
    q = whole.layout.views(np.zeros(whole.layout.size))
    q["W0"][2 * A :, : 2 + A], q["b0"][2 * A :] = p["W0"], p["b0"]
    x, context = rows(5), rows(2, seed=1)
    for one, other in ((coupling.normalize, whole.normalize), (coupling.generate, whole.generate)):
        for a, b in zip(one(p, x, context)[:2], other(q, x, context)[:2], strict=True):
            assert norm_error(a, b) < 1e-14
    assert not (coupling.allowed() & ~whole.allowed()).any()


def test_sorted_by_block_the_jacobian_is_block_triangular():
    layer = Coupling(5, (16,), [False, True, True, False, True], activation="tanh")
    flow = lively(Flow([layer]))
    p = flow.split(flow.theta)[0]
    J = complex_step(
        lambda x: layer.normalize(p, x[None], NONE[:1].astype(complex))[0][0], rows(5)[0]
    )
    J, A = J[np.ix_(layer.order, layer.order)], layer.fixed
    np.testing.assert_array_equal(J[:A], np.eye(5)[:A])
    assert (J[A:, :A] != 0).all() and (J[A:, A:] == np.diag(np.diag(J[A:, A:]))).all()


def test_the_network_of_a_coupling_is_a_masked_one_of_full_staircases():
    """What kernels rely on: every row hears all inputs, and every hidden unit is known at once."""
    net = MLP(3, 2, (4, 6, 5), inputs=4, context=1)
    assert isinstance(net, Feedforward) and not isinstance(net, MaskedMLP)
    assert [(linear.prefix == linear.shapes[linear.W][1]).all() for linear in net.linears] == [
        True
    ] * 4
    assert net.starts == [[0, H, H, H] for H in (4, 6, 5)] + [[0, 2, 4, 6]]


def test_splits_by_name():
    assert split_of("alternating", 4).tolist() == [True, False, True, False]
    assert split_of("alternating", 4, swapped=True).tolist() == [False, True, False, True]
    assert split_of("half", 5).tolist() == [True] * 3 + [False] * 2
    drawn = [split_of("random", 7, np.random.default_rng(k)) for k in range(3)]
    assert [passing.sum() for passing in drawn] == [4] * 3 and (drawn[0] != drawn[1]).any()
    for name in ("alternating", "half", "random"):
        for swapped in (False, True):
            assert not split_of(name, 1, np.random.default_rng(0), swapped).any()


BAD_SPLITS = [
    ("stripes", r"^split: expected one of 'alternating', 'half', 'random', got 'stripes'$"),
    ([True, False], "^split: expected one of .* or 3 bools"),
    ([1, 0, 1], "^split: expected one of .* or 3 bools"),
    ([True, True, True], "^split: expected at least one feature to transform"),
    ([[True], [False, True]], "^split: expected one of"),
    ("random", "^split 'random' needs a numpy.random.Generator$"),
]


@pytest.mark.parametrize("split, message", BAD_SPLITS)
def test_splits_that_make_no_sense_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        Coupling(3, (4,), split)


@pytest.mark.parametrize("kind", [masked, Coupling])
def test_unknown_univariates_and_options_are_named(kind):
    with pytest.raises(
        ValueError, match=r"^univariate: expected one of 'additive', .*, got 'cubic'$"
    ):
        kind(3, (4,), univariate="cubic")
    with pytest.raises(
        ValueError, match=r"^options of 'spline': expected one of 'bins', 'bound', .*, got 'bin'$"
    ):
        kind(3, (4,), univariate="spline", options={"bin": 4})
    with pytest.raises(ValueError, match="bins"):
        kind(3, (4,), univariate="spline", options={"bins": 0})


# ---- normalisations ------------------------------------------------------------------------------


def test_actnorm_begins_at_the_statistics_of_the_batch_and_only_once():
    layer, x = ActNorm(3), 5 + rows(3, 50) * [1.0, 10.0, 0.0]
    p = layer.layout.views(np.zeros(6))
    layer.start_from_data(p, x)
    u = layer.normalize(p, x, NONE)[0]
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(u.std(axis=0), [1, 1, 0], atol=1e-12)  # a constant keeps its scale
    theta = p.flat.copy()
    layer.start_from_data(p, 3 * x)
    assert (p.flat == theta).all()


def batchnorms():
    """Two normalisations around a network, so that gradients run through statistics of
    statistics."""
    layers = [BatchNorm(4), masked(4, (9,), activation="tanh"), BatchNorm(4, epsilon=0.1)]
    flow = lively(Flow(layers))
    p = flow.split(flow.theta)
    rng = np.random.default_rng(0)
    for norm in (p[0], p[2]):
        for part in norm.values():
            part[:] = 0.3 * rng.standard_normal(part.shape)
    return flow, layers


def through(flow, layers, theta, x, w=None):
    """The training pass of a stack."""
    log_det, caches, none = 0, [], np.empty((len(x), 0), x.dtype)
    for layer, p in zip(layers, flow.split(theta), strict=True):
        x, more, cache = layer.normalize_training(p, x, none, w)
        log_det = log_det + more
        caches.append(cache)
    return x, log_det, caches


@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize("n", [2, 7])
def test_gradients_run_through_the_statistics_of_the_batch(n, weighed):
    """The mean log-likelihood of a batch in training, against complex steps through everything,
    statistics too."""
    flow, layers = batchnorms()
    x, w, weights = 2 + 3 * rows(4, n), np.ones(n), None
    if weighed:
        w = weights = np.random.default_rng(1).uniform(0.2, 2, n)

    def loss(x, theta):
        u, log_det, _ = through(flow, layers, theta, x, weights)
        return (w * (0.5 * (u * u).sum(axis=1) - log_det)).mean()

    u, _, caches = through(flow, layers, flow.theta, x, weights)
    d_x, d_log_det, grad = w[:, None] * u / n, -w / n, np.zeros_like(flow.theta)
    parts = zip(layers, flow.split(flow.theta), caches, flow.split(grad), strict=True)
    for layer, p, cache, g in reversed(list(parts)):
        d_x = layer.backward(p, cache, d_x, d_log_det, g)
    by_x = complex_step(lambda x: loss(x, flow.theta.astype(complex)), x)
    by_theta = complex_step(lambda theta: loss(x.astype(complex), theta), flow.theta)
    assert np.abs(d_x - by_x).max() < 1e-9 * max(1e-3, np.abs(by_x).max())
    assert norm_error(grad, by_theta) < 1e-9
    for norm in (flow.split(grad)[0], flow.split(grad)[2]):
        assert (
            not norm["mean"].any() and not norm["w"].any()
        )  # the running statistics are not trained


def test_training_uses_the_batch_and_evaluation_the_running_statistics():
    layer, x = BatchNorm(3, epsilon=1e-9), 4 + 2 * rows(3, 40)
    p = layer.layout.views(np.zeros(12))
    u, log_det, cache = layer.normalize_training(p, x, NONE)
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(u.var(axis=0), 1, rtol=1e-8)  # epsilon
    np.testing.assert_allclose(log_det, -np.log(x.std(axis=0)).sum(), rtol=1e-8)
    np.testing.assert_array_equal(layer.normalize(p, x, NONE)[0], x)  # nothing has moved yet
    p["mean"][:], p["w"][:] = cache[1].mean, cache[1].w
    np.testing.assert_array_equal(layer.normalize(p, x, NONE)[0], u)


def test_one_row_has_no_statistics():
    """It takes the running ones, which stay as they are, untrained."""
    layer, rng = BatchNorm(3), np.random.default_rng(0)
    p, g = (layer.layout.views(rng.standard_normal(12)) for _ in range(2))
    x, before, g_before = rows(3, 1), p.flat.copy(), g.flat.copy()
    u, log_det, cache = layer.normalize_training(p, x, NONE)
    for got, expected in zip((u, log_det), layer.evaluate(p, x, NONE), strict=True):
        np.testing.assert_array_equal(got, expected)
    d_u, d_log_det = rows(3, 1, seed=1), np.ones(1)
    d_x = layer.backward(p, cache, d_u, d_log_det, g)
    evaluated, other = layer.normalize(p, x, NONE)[2], layer.layout.views(np.zeros(12))
    np.testing.assert_array_equal(d_x, layer.backward(p, evaluated, d_u, d_log_det, other))
    unmoved = layer.layout.views(g_before)
    assert all((g[name] == unmoved[name]).all() for name in ("mean", "w"))
    p["mean"][:] += 1
    layer.update_statistics(p, cache, 0.01)
    np.testing.assert_array_equal(p.flat, before)
    fresh = layer.layout.views(np.zeros(12))
    layer.start_from_data(fresh, x)
    assert not fresh.flat.any()


def test_running_statistics_weigh_a_batch_by_its_rows():
    """Two halves with the same statistics move as far as one whole;
    a hundredth moves a hundredth as far."""
    layer, x = BatchNorm(2, momentum=0.3), 4 + 2 * rows(2, 30)
    moved = {}
    for share, times in ((1.0, 1), (0.5, 2), (0.01, 1)):
        p = layer.layout.views(np.zeros(8))
        for _ in range(times):
            layer.update_statistics(p, layer.normalize_training(p, x, NONE)[2], share)
        moved[share] = p.flat.copy()
    np.testing.assert_allclose(moved[0.5], moved[1.0], rtol=1e-12)
    mean = layer.layout.views(moved[0.01])["mean"]
    np.testing.assert_allclose(mean, (1 - 0.7**0.01) * x.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_last_batch_of_one_row_does_no_harm(seed):
    """101 normal rows in batches of 100: evaluation ends near the entropy of 2.84 nats,
    training near it too."""
    x = np.random.default_rng(seed).standard_normal((101, 2))
    flow = afnp.maf(2, hidden=(16,), transforms=2, between="batchnorm", seed=seed)
    history = afnp.fit(flow, x, epochs=60, batch_size=100, learning_rate=1e-3, progress=False)
    entropy = 0.5 * 2 * np.log(2 * np.pi * np.e)
    evaluated = -flow.log_prob(x).mean()
    # two features, 101 rows: the sample's own entropy is within 0.3 of the truth
    assert abs(evaluated - entropy) < 0.35 and abs(evaluated - history.train_loss[-1]) < 0.1


def test_running_statistics_are_averages_and_undo_what_an_optimizer_did_to_them():
    layer, x = BatchNorm(2, momentum=0.25, epsilon=1e-9), 4 + 2 * rows(2, 30)
    p = layer.layout.views(np.zeros(8))
    layer.start_from_data(p, 3 * x)
    begun = np.exp(p["w"])
    _, _, cache = layer.normalize_training(p, x, NONE)
    p.flat *= 0.9  # weight decay
    layer.update_statistics(p, cache, 1.0)
    np.testing.assert_allclose(
        p["mean"], 0.75 * 3 * x.mean(axis=0) + 0.25 * x.mean(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(
        np.exp(p["w"]), 0.75 * begun + 0.25 * x.var(axis=0), rtol=1e-7
    )  # epsilon
    layer.start_from_data(p, 100 + x)
    assert (p["mean"] < 50).all()  # begun statistics do not begin again


def test_running_statistics_come_to_those_of_the_data():
    rng = np.random.default_rng(0)
    layer, x = (
        BatchNorm(2, momentum=0.02),
        [3.0, -1.0] + rng.standard_normal((5000, 2)) * [2.0, 0.5],
    )
    p = layer.layout.views(np.zeros(8))
    for batch in np.array_split(rng.permutation(x), 200):
        layer.update_statistics(p, layer.normalize_training(p, batch, NONE)[2], 1.0)
    # an average over the last 50 batches of 25 rows: three standard errors of about std / 35
    np.testing.assert_allclose(p["mean"], x.mean(axis=0), atol=3 * 2 / 35 + 0.06)
    np.testing.assert_allclose(np.exp(p["w"]), x.var(axis=0), rtol=0.15)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(momentum=0), r"^momentum: expected a number in \(0, 1\], got 0$"),
        (dict(momentum=float("nan")), "^momentum: expected"),
        (dict(epsilon=0), r"^epsilon: expected a number in \(0, 1\), got 0$"),
        (dict(features=0), "^features: expected an integer of at least 1, got 0$"),
    ],
)
def test_batch_normalisations_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        BatchNorm(**{"features": 2} | change)


# ---- permutations and matrices -------------------------------------------------------------------


@pytest.mark.parametrize("order", ["reverse", [0, 0, 1], [1, 2], [[0, 1]], [], 3])
def test_orders_that_are_no_permutations(order):
    with pytest.raises(ValueError, match="^(order|features): expected"):
        Permutation(order)


@pytest.mark.parametrize("D", [1, 2, 3, 8, 64])
def test_a_rotation_is_drawn_and_held_by_its_triangles(D):
    layer = LULinear.rotation(D, np.random.default_rng(D))
    p = layer.layout.views(np.zeros(layer.layout.size))
    layer.initialize(p, np.random.default_rng(0))
    W = layer.normalize(p, np.eye(D), NONE)[0].T
    np.testing.assert_allclose(W @ W.T, np.eye(D), atol=1e-12)
    assert D == 1 or np.abs(W - np.diag(np.diag(W))).max() > 0.1
    assert abs(p["s"].sum()) < 1e-12
    other = LULinear.rotation(D, np.random.default_rng(D + 1))
    assert (
        D == 1
        or other.order.tolist() != layer.order.tolist()
        or (other._first["s"] != p["s"]).any()
    )


@pytest.mark.parametrize("D", [1, 2, 5, 30])
def test_triangles_are_those_of_the_matrix_with_the_largest_pivots(D):
    """A wrong permutation of a rotation is a rotation too; and small pivots would lose digits."""
    W = np.random.default_rng(D).standard_normal((D, D))
    order, LU = factorize(W)
    L, U = np.tril(LU, -1) + np.eye(D), np.triu(LU)
    np.testing.assert_allclose((L @ U)[order], W, atol=1e-13 * D)
    assert np.abs(np.tril(LU, -1)).max() <= 1


def test_without_a_rotation_a_matrix_starts_as_a_signed_permutation():
    layer = LULinear(3, [2, 0, 1], [1, -1, 1])
    p = layer.layout.views(np.ones(layer.layout.size))
    layer.initialize(p, np.random.default_rng(0))
    u, log_det, _ = layer.normalize(p, np.array([[10.0, 11.0, 12.0]]), NONE)
    assert u.tolist() == [[12.0, 10.0, -11.0]] and log_det.tolist() == [0.0]


@pytest.mark.parametrize("signs", [[1, 1], [1, 0, 1], [1, 2, 1], ["a", "b", "c"]])
def test_signs_are_plus_or_minus_one(signs):
    with pytest.raises(ValueError, match="^signs: expected 3 numbers 1 or -1"):
        LULinear(3, signs=signs)


# ---- costs ---------------------------------------------------------------------------------------


def test_passes_count_the_arithmetic_below_the_staircases():
    """2 features, 3 hidden units: unit degrees 1, 1, 1 hear one input;
    only the second output hears them."""
    layer = masked(2, (3,))
    assert layer.cost.normalize == (1, 1, 3 * 1 + 2 * 3)
    assert layer.cost.generate == (1, 2, 9) and layer.cost.naive == (2, 2, 18)
    coupling = Coupling(5, (6,), context=1)
    assert coupling.cost.normalize == coupling.cost.generate == (1, 1, 6 * 4 + 2 * 2 * 6)


def test_a_table_adds_up_what_layers_cost():
    layers = [
        masked(3, (4,)),
        ActNorm(3),
        Permutation([2, 0, 1]),
        Inverse(masked(features=3, hidden=(4,))),
    ]
    table = CostTable([Standardize([0.0], [1.0]), *layers])
    assert table.total == sum((layer.cost for layer in layers), FREE)
    assert table.total.normalize == (2, 4, 18 + 3 + 18)
    lines = repr(table).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        "Standardize",
        *(type(layer).__name__ for layer in layers),
    ]
    assert "free" in lines[1] and "6 passes" in lines[-1]
    assert lines[3].split() == ["ActNorm", "3", "mul-adds", "3", "mul-adds"]
