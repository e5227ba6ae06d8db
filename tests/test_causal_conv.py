"""Causal dilated convolutions: who hears whom, gradients, chunks, queues,
and a million dimensions."""

import functools
import time
import tracemalloc

import numpy as np
import pytest
from conftest import complex_step, norm_error

import afnp
from afnp.compiled.stages import compiled
from afnp.constructors import wavenet_flow
from afnp.flow import Flow
from afnp.networks.causal_conv import CausalConv
from afnp.transforms import convolutional
from afnp.verify import check_flow

FEATURES = (1, 2, 5, 8, 33)
CONFIGS = {
    "gated": dict(dilations=(1, 2, 4)),
    "relu": dict(dilations=(2, 1), activation="relu"),
    "tanh, reversed": dict(dilations=(1, 3, 1), activation="tanh", reverse=True),
    "far": dict(dilations=(1, 16, 40)),
    "no layers": dict(dilations=()),
    "spline": dict(dilations=(1, 2), univariate="spline", options={"bins": 3}, reverse=True),
    "circle": dict(dilations=(1, 2), univariate="circular_spline", options={"bins": 3}),
}
CASES = [
    pytest.param(c, D, C, id=f"{c}-{D}-{C}") for c in CONFIGS for D in FEATURES for C in (0, 2)
]

SAME = 1e-12
"""Two orders of the same sums, of at most 33 steps that feed on each other."""


def alive(config="gated", D=8, C=0, seed=0, channels=3):
    """A layer with random parameters that hide nothing."""
    layer = convolutional(D, channels, context=C, **CONFIGS[config])
    rng = np.random.default_rng([seed, 5])
    p = layer.layout.views(np.zeros(layer.layout.size))
    layer.conditioner.initialize(p, rng, last=0.3)
    for name in ("e", "b", "s", "h"):
        p[name] += 0.3 * rng.standard_normal(p[name].shape)
    return layer, p


def rows(D, n=3, seed=0):
    return np.random.default_rng([seed, D]).standard_normal((n, D))


# ---- the definition ------------------------------------------------------------------------------


def by_recursion(net, p, x, c):
    """h of one row, each number from the formulas, asking for what it needs."""

    def a(l, t):
        if t < 0:
            return np.zeros(net.channels)
        if l == 0:
            return (p["E"][:, 0] * x[t - 1] if t else 0) + p["F"] @ c + p["e"]
        z = p["W"][l - 1] @ a(l - 1, t) + p["V"][l - 1] @ a(l - 1, t - net.dilations[l - 1])
        z, R = z + p["U"][l - 1] @ c + p["b"][l - 1], net.channels
        y = np.tanh(z[:R]) / (1 + np.exp(-z[R:])) if net.activation == "gated" else np.maximum(z, 0)
        return a(l - 1, t) + p["S"][l - 1] @ y + p["s"][l - 1]

    return np.array([p["H"] @ a(len(net.dilations), t) + p["h"] for t in range(net.features)])


@pytest.mark.parametrize("config", ["gated", "relu", "no layers"])
def test_the_network_is_its_formula(config):
    layer, p = alive(config, 8, 2)
    net, x, c = layer.conditioner, rows(8), rows(2)
    h, _ = net.forward(p, c, x)
    truth = np.array([by_recursion(net, p, *row) for row in zip(x, c, strict=True)])
    assert norm_error(h, truth) < 1e-14


@pytest.mark.parametrize("config, D, C", CASES)
def test_the_jacobian_is_the_band_that_it_says(config, D, C):
    layer, p = alive(config, D, C)
    x, c = rows(D, 1), rows(C, 1, seed=1)
    J = complex_step(lambda x: layer.normalize(p, x[None], c.astype(complex))[0][0], x[0])
    assert not J[~layer.allowed()].any()
    log_det = layer.normalize(p, x, c)[1][0]
    assert abs(np.linalg.slogdet(J)[1] - log_det) < 1e-12 * max(1, D)
    if layer.conditioner.activation != "relu":  # whose units can be off for one x
        assert J[layer.allowed()].all()


@pytest.mark.parametrize("render", [lambda layer: layer, compiled], ids=["numpy", "numba"])
@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_outside_the_band_moves_by_a_bit(config, n, render):
    layer, p = alive(config, 33, 1)
    evaluate = render(layer).evaluate
    x, c, allowed = rows(33, n), rows(1, n), layer.allowed()
    u = evaluate(p, x, c)[0]
    for j in (0, 4, 17, 32):
        moved = x.copy()
        moved[:, j] += 0.7
        same = evaluate(p, moved, c)[0] == u
        assert same[:, ~allowed[:, j]].all() and not same[:, j].any()


def test_the_context_reaches_every_step():
    layer, p = alive("gated", 8, 2)
    x, c = rows(8), rows(2)
    u = layer.normalize(p, x, c)[0]
    for k in range(2):
        assert (layer.normalize(p, x, c + np.eye(2)[k])[0] != u).all()


@pytest.mark.parametrize("D", FEATURES)
@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_receptive_field_loses_is_counted(config, D):
    layer = alive(config, D)[0]
    net, allowed = layer.conditioner, layer.allowed()
    legal, lost = net.lost_dependencies()
    assert legal == D * (D - 1) // 2 and legal - lost == allowed.sum() - D
    distances = np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
    assert not (allowed & (distances > net.receptive_field)).any()
    assert (np.triu(allowed, 1) if not layer.order[0] else np.tril(allowed, -1)).sum() == 0


@pytest.mark.parametrize(
    "config, D, C", [("gated", 33, 2), ("relu", 5, 0), ("far", 8, 1), ("circle", 8, 0)]
)
def test_multiply_adds_are_counted_one_by_one(config, D, C):
    net = alive(config, D, C)[0].conditioner
    R, G, L = net.channels, net.gates, len(net.dilations)
    count = C * (R + L * G)
    for t in range(D):
        count += (t > 0) * R * net.embedding + sum(
            G * R * (1 + (t >= d)) + R * R for d in net.dilations
        )
        count += net.numbers * R
    assert net.cost == count


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config, D, C", [case for case in CASES if case.values[1] in (1, 2, 8)])
def test_gradients_by_hand_are_the_derivatives(config, D, C):
    """Of a loss in which all outputs count differently, by parameters and inputs:
    exact to rounding."""
    layer, p = alive(config, D, C, channels=2)
    x, c, d_u, d_log_det = rows(D, 2), rows(C, 2), rows(D, 2, seed=2), rows(1, 2, seed=3)[:, 0]

    def loss(theta, x):
        u, log_det, _ = layer.normalize(layer.layout.views(theta), x, c.astype(complex))
        return (u * d_u).sum() + (log_det * d_log_det).sum()

    g = layer.layout.views(np.zeros(layer.layout.size))
    d_x = layer.backward(p, layer.normalize(p, x, c)[2], d_u, d_log_det, g)
    assert norm_error(d_x, complex_step(lambda x: loss(p.flat.astype(complex), x), x)) < 1e-11
    assert (
        norm_error(g.flat, complex_step(lambda theta: loss(theta, x.astype(complex)), p.flat))
        < 1e-11
    )


def test_gradients_of_the_rows():
    net = CausalConv(5, 2, 3, (1, 2), context=2)
    p = net.layout.views(np.random.default_rng(0).standard_normal(net.layout.size))
    x, c, d_h = rows(5, 2), rows(2, 2), np.random.default_rng(1).standard_normal((2, 5, 2))
    cache = net.forward(p, c, x)[1]
    d_x = net.backward(p, cache, d_h, net.layout.views(np.zeros(net.layout.size)))
    truth = complex_step(lambda x: (net.forward(p, c.astype(complex), x)[0] * d_h).sum(), x)
    assert norm_error(d_x, truth) < 1e-12


# ---- chunks and queues ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("config, D, C", CASES)
def test_the_density_in_chunks_is_the_whole(config, D, C, n):
    layer, p = alive(config, D, C)
    x, c = rows(D, n), rows(C, n)
    u, log_det, _ = layer.normalize(p, x, c)
    stream = layer.conditioner.stream
    for chunk in (0, 1, 3, 7, D):
        layer.conditioner.stream = functools.partial(stream, chunk=chunk)
        for got, true in zip(layer.evaluate(p, x, c), (u, log_det), strict=True):
            assert norm_error(got, true) < SAME


@pytest.mark.parametrize("n", [1, 8, 9, 70])
@pytest.mark.parametrize("config, D, C", CASES)
def test_queues_are_the_naive_loop(config, D, C, n):
    """NumPy and compiled, lanes and single samples; and back by every density.
    Angles stay within [-pi, pi]."""
    layer, p = alive(config, D, C)
    u, c = rows(D, n) / (2 if layer.periodic else 1), rows(C, n)
    x, log_det = layer.naive(p, u, c)
    for stage in (layer, compiled(layer)):
        for got, true in zip(stage.generate(p, u, c), (x, log_det), strict=True):
            assert norm_error(got, true) < SAME
        back, back_log_det = stage.evaluate(p, x, c)
        assert norm_error(back, u) < SAME and norm_error(back_log_det, -log_det) < 10 * SAME


@pytest.mark.parametrize("n", [1, 40])
def test_single_precision_stays_single(n):
    layer, p = alive("gated", 33, 2)
    q = layer.layout.views(p.flat.astype(np.float32))
    u, c = rows(33, n), rows(2, n)
    x, log_det = layer.generate(p, u, c)
    for stage in (layer, compiled(layer)):
        got = stage.generate(q, u.astype(np.float32), c.astype(np.float32))
        assert got[0].dtype == got[1].dtype == np.float32
        # 33 steps that feed on each other lose a digit or two of seven
        assert norm_error(got[0], x) < 1e-4 and norm_error(got[1], log_det) < 1e-4


def test_the_queues_evaluate_each_unit_once():
    layer, p = alive("gated", 33, 1)
    net, seen = layer.conditioner, []
    gate = net._gate
    net._gate = lambda z: (seen.append(z.size), gate(z))[1]
    layer.generate(p, rows(33, 4), rows(1, 4))
    once = 4 * 33 * net.gates * len(net.dilations)
    assert sum(seen) == once
    seen.clear()
    layer.naive(p, rows(33, 4), rows(1, 4))
    assert sum(seen) == 33 * once


@pytest.mark.parametrize("n", [5, 70])
def test_rows_do_not_hear_each_other(n):
    """Neither through lanes nor through a queue that was not emptied."""
    layer, p = alive("gated", 33, 1)
    u, c = rows(33, n), rows(1, n)
    stage = compiled(layer)
    x = stage.generate(p, u, c)[0]
    for kept in (2, n - 1):  # in the first tile, and after others
        others = np.arange(n) != kept
        v, d = np.where(others[:, None], -9, u), np.where(others[:, None], 1, c)
        np.testing.assert_array_equal(stage.generate(p, v, d)[0][kept], x[kept])


def test_a_longer_series_begins_like_a_shorter_one():
    """Parameters do not depend on D, and nothing hears the end: the first bits are the same."""
    short, p = alive("gated", 33)
    long = convolutional(500, 3, **CONFIGS["gated"])
    u, none = rows(500, 2), np.empty((2, 0))
    for render in (lambda layer: layer, compiled):
        x = render(long).generate(p, u, none)[0]
        y = render(short).generate(p, u[:, :33], none)[0]
        np.testing.assert_array_equal(x[:, :33], y)


def test_chunks_keep_memory_small():
    """A pass that keeps everything needs 3 R L numbers a step; the chunks x, u,
    log du/dx and their own buffers."""
    layer, p = alive("gated", 200_000)
    x, none = rows(200_000, 1), np.empty((1, 0))
    tracemalloc.start()
    layer.evaluate(p, x, none)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    buffers = 12 * 2**18 * 8
    assert peak < 4 * x.nbytes + buffers < 3 * 3 * 3 * x.nbytes + buffers


# ---- flows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["quick", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("D, C", [(5, 0), (3, 2)])
def test_the_verifier_finds_nothing(D, C, level):
    flow = wavenet_flow(
        D, channels=4, layers=3, transforms=2, context=C, univariate="affine", activation="gated"
    )
    report = check_flow(flow, level=level)
    assert report.ok, str(report)


def test_flows_are_saved_rebuilt_and_repeated(tmp_path):
    flow = wavenet_flow(
        6, channels=4, layers=3, cycle=2, transforms=3, context=1, activation="tanh", seed=3
    )
    assert [layer.conditioner.dilations for layer in flow.layers] == [(1, 2, 1)] * 3
    assert [layer.config()["order"] for layer in flow.layers] == ["natural", "reverse", "natural"]
    afnp.save(flow, tmp_path / "flow.afnp")
    again = afnp.load(tmp_path / "flow.afnp")
    assert again.config() == flow.config()
    x, c = rows(6, 4), rows(1, 4)
    np.testing.assert_array_equal(again.log_prob(x, c), flow.log_prob(x, c))
    other = wavenet_flow(
        6, channels=4, layers=3, cycle=2, transforms=3, context=1, activation="tanh", seed=4
    )
    assert (other.theta != flow.theta).any()


def test_a_flow_learns_an_autoregressive_process():
    """x_t = 0.9 x_{t-2} + noise of size 0.5: one transform can be exact,
    and comes near the entropy."""
    rng, T = np.random.default_rng(0), 40
    noise, x = rng.standard_normal((600, 100 + T)), np.zeros((600, 100 + T))
    for t in range(2, 100 + T):
        x[:, t] = 0.9 * x[:, t - 2] + 0.5 * noise[:, t]
    x = x[:, 100:]
    flow = wavenet_flow(T, channels=8, layers=2, transforms=1)
    afnp.fit(flow, x[:400], x[400:500], epochs=30, learning_rate=1e-2, progress=False)
    entropy = (T - 2) * (0.5 * np.log(2 * np.pi * np.e) + np.log(0.5))
    entropy += 2 * 0.5 * np.log(2 * np.pi * np.e * 0.25 / (1 - 0.81))
    # a row's log-density varies by sqrt(T / 2) nats, a mean of 100 by 0.45; and 5 % of the entropy
    # to learn
    assert abs(-flow.log_prob(x[500:]).mean() - entropy) < 0.05 * entropy + 3 * 0.45


def test_costs_are_told():
    layer = alive("gated", 33)[0]
    work = layer.conditioner.cost
    assert layer.cost.normalize == (1, 1, work) and layer.cost.generate == (1, 33, work)
    assert layer.cost.naive == (33, 33, 33 * work)


BAD = [
    (dict(dilations=[0]), "^dilations: expected an integer of at least 1, got 0$"),
    (dict(dilations=[1.5]), "^dilations: expected an integer, got 1.5$"),
    (dict(dilations=4), "^dilations: expected a sequence of integers, got 4$"),
    (dict(dilations="12"), "^dilations: expected a sequence of integers, got '12'$"),
    (dict(channels=0), "^channels: expected an integer of at least 1, got 0$"),
    (dict(features=0), "^features: expected an integer of at least 1, got 0$"),
    (dict(context=-1), "^context: expected an integer of at least 0, got -1$"),
    (dict(activation="gelu"), "^activation: expected one of 'gated', .*'relu', 'tanh', got"),
    (dict(univariate="cubic"), "^univariate: expected one of"),
]


@pytest.mark.parametrize("change, message", BAD)
def test_networks_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        convolutional(**{"features": 3} | change)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(layers=-1), "^layers: expected an integer of at least 0, got -1$"),
        (dict(cycle=0), "^cycle: expected an integer of at least 1, got 0$"),
        (dict(transforms=0), "^transforms: expected an integer of at least 1, got 0$"),
        (dict(order="random"), "^order: expected one of 'reverse', 'natural', got 'random'$"),
        (dict(between="glue"), "^between: expected one of"),
    ],
)
def test_flows_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        wavenet_flow(**{"features": 3} | change)


def test_rows_of_another_length_and_no_rows():
    flow = wavenet_flow(6, channels=2, layers=2)
    with pytest.raises(ValueError, match="^x: expected 6 columns, got 5$"):
        flow.log_prob(rows(5))
    for backend in ("numpy", "numba"):
        assert flow.log_prob(np.empty((0, 6)), backend=backend).shape == (0,)


# ---- a million dimensions ------------------------------------------------------------------------


def long_flow(D):
    """Ten layers of sixteen channels, moved well away from the identity:
    log-scales are of order 1."""
    flow = Flow([convolutional(D, 16, [2**l for l in range(10)])])
    p = flow.split(flow.theta)[0]
    p["H"] *= 30
    return flow, flow.layers[0], p


def probe(D, seed=0):
    """Sample D steps, and check triangle, log-determinant and round trip at random places;
    return the seconds."""
    flow, layer, p = long_flow(D)
    rng, F = np.random.default_rng(seed), layer.conditioner.receptive_field
    u = rng.standard_normal((1, D))
    begun = time.perf_counter()
    x, log_det = flow.generate(u, backend="numba")
    seconds = time.perf_counter() - begun
    back, back_log_det = flow.normalize(x, backend="numba")
    chunked, chunked_log_det = flow.normalize(x, backend="numpy")
    assert norm_error(back, u) < SAME and norm_error(chunked, u) < SAME
    # sums of D numbers of order 1 in different orders
    assert (
        norm_error(back_log_det, -log_det) < SAME and norm_error(chunked_log_det, -log_det) < SAME
    )
    for j in rng.integers(0, D, 3):
        moved = x.copy()
        moved[0, j] += 0.5
        changed = np.flatnonzero(flow.normalize(moved, backend="numba")[0] != back)
        assert changed.min() == j and changed.max() <= j + F
    window, none = (
        convolutional(F + 1, 16, layer.conditioner.dilations),
        np.empty((1, 0), complex),
    )
    derivatives = []
    for i in rng.integers(F, D, 5):
        seen = x[:, i - F : i + 1].astype(complex)
        seen[0, -1] += 1e-30j
        v = window.normalize(p, seen, none)[0][0, -1]
        assert abs(v.real - u[0, i]) < 1e-12
        derivatives.append(np.log(v.imag / 1e-30))
    assert np.std(derivatives) > 0.01  # the scales do depend on the past
    return seconds


def test_all_log_derivatives_add_up_at_two_thousand_steps():
    """Every 97th by complex step through its window alone;
    all of them against the compiled log-determinant."""
    D = 2000
    flow, layer, p = long_flow(D)
    F, x = layer.conditioner.receptive_field, rows(D, 1)
    window, none = convolutional(F + 1, 16, layer.conditioner.dilations), np.empty((1, 0))
    full = np.concatenate([np.zeros((1, F)), x], axis=1)
    total = 0.0
    for i in range(F, D, 97):
        seen = full[:, i : i + F + 1].astype(complex)
        seen[0, -1] += 1e-30j
        total += np.log(window.normalize(p, seen, none.astype(complex))[0][0, -1].imag / 1e-30)
    h = layer.conditioner.forward(p, none, x)[0]
    log_derivative = layer.univariate.normalize(h, x)[1][0]
    assert abs(log_derivative[F::97].sum() - total) < 1e-11
    assert abs(log_derivative.sum() - flow.normalize(x, backend="numba")[1][0]) < 1e-10


def test_twenty_thousand_dimensions():
    assert probe(20_000) > 0


@pytest.mark.slow
def test_a_million_dimensions_and_linear_time():
    """At most 60 s, and time proportional to D: a slope of at most 1.05 from a thousand steps to a
    million."""
    sizes = (10**3, 10**4, 10**5, 10**6)
    seconds = []
    for D in sizes:
        flow, u, times = long_flow(D)[0], rows(D, 1), []
        for _ in range(max(2, min(20, 10**5 // D))):
            begun = time.thread_time()  # one thread walks; its own time, whoever else is busy
            flow.generate(u, backend="numba")
            times.append(time.thread_time() - begun)
        seconds.append(min(times))
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    assert slope <= 1.05, f"slope {slope:.3f} of {seconds}"
    assert probe(10**6) <= 60
