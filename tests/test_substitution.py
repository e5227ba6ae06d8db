"""Sampling by substitution equals the textbook loop of D passes,
and evaluates each hidden unit once."""

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp.networks.layers import ACTIVATIONS

SAME = 1e-12
"""Of the largest entry: the same sums in another order,
through D steps that each amplify rounding a little. Last layers are kept below gain 1, because a
chain of many expanding steps would amplify it without bound."""

NETS = {
    "plain": dict(widths=2),
    "tanh": dict(widths=1, activation="tanh"),
    "residual": dict(widths=3, residual=True),
    "linear": dict(widths=0),
}


def order_named(name, features):
    """ "turned" is 1, 2, ..., 0: from D = 3 on it is not its own inverse."""
    return np.roll(np.arange(features), -1) if name == "turned" else name


def flow_of(
    features, net="plain", order="natural", context=0, transforms=1, dtype=np.float64, **kwargs
):
    """A lively flow, wide enough that no dependency is lost unless ``width`` says otherwise."""
    width = kwargs.pop("width", max(features, 4))
    net = dict(NETS[net])
    hidden = (width,) * net.pop("widths")
    flow = afnp.maf(
        features,
        hidden,
        transforms,
        order_named(order, features),
        context=context,
        dtype=dtype,
        **net,
        **kwargs,
    )
    return lively(flow, seed=features, last=0.3)


def noise(flow, n, seed=1):
    rng = np.random.default_rng(seed)
    context = rng.standard_normal((n, flow.context)) if flow.context else None
    return rng.standard_normal((n, flow.features)), context


def check_against_naive(flow, n, backend, tolerance=SAME):
    u, context = noise(flow, n)
    x, log_det = flow.generate(u, context, backend=backend)
    x_naive, log_det_naive = flow.generate(u, context, method="naive", backend="numpy")
    assert norm_error(x, x_naive) < tolerance
    assert norm_error(log_det, log_det_naive) < tolerance


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("order", ["natural", "reverse", "random", "turned"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_substitution_equals_naive(features, net, order, context, backend):
    check_against_naive(flow_of(features, net, order, context, transforms=2), 7, backend)


@pytest.mark.parametrize(
    "net, order, context",
    [("plain", "turned", 0), ("residual", "random", 2), ("tanh", "reverse", 1)],
)
def test_substitution_equals_naive_with_64_features(net, order, context, backend):
    check_against_naive(flow_of(64, net, order, context), 5, backend)


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
def test_substitution_equals_naive_with_784_features_and_few_units(backend):
    check_against_naive(flow_of(784, order="turned", width=100), 3, backend)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["plain", "residual"])
def test_substitution_equals_naive_with_784_features(net, backend):
    check_against_naive(flow_of(784, net, "random", width=1024), 2, backend)


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("net", ["plain", "residual"])
@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_narrow_networks_skip_degrees(width, net, backend):
    """Features without hidden units of their degree."""
    check_against_naive(flow_of(11, net, "turned", context=1, width=width), 7, backend)


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("hidden", [(3, 50), (50, 3), (17, 1, 30), (64, 5)])
def test_layers_of_unequal_widths(hidden, backend):
    check_against_naive(lively(afnp.maf(12, hidden, 2, "random"), last=0.3), 9, backend)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, SAME), (np.float32, 1e-4)])
def test_any_number_of_rows(n, dtype, tolerance, backend):
    check_against_naive(
        flow_of(5, "residual", "turned", context=2, dtype=dtype), n, backend, tolerance
    )


def test_an_untrained_flow_agrees_too(backend):
    check_against_naive(afnp.maf(6, hidden=(8, 8), transforms=3, seed=3), 10, backend)


@pytest.mark.parametrize("garbage", [1e3, 1e30])
@pytest.mark.parametrize("net", NETS)
def test_masked_weights_are_never_read(net, garbage, backend):
    flow = flow_of(6, net, "turned", context=1, transforms=2)
    u, context = noise(flow, 70)
    clean = [
        *flow.generate(u, context, backend=backend),
        *flow.generate(u, context, method="naive", backend="numpy"),
    ]
    lively(flow, seed=6, last=0.3, garbage=garbage)
    dirty = [
        *flow.generate(u, context, backend=backend),
        *flow.generate(u, context, method="naive", backend="numpy"),
    ]
    assert np.abs(flow.theta).max() > garbage / 10
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("features", [1, 2, 5, 64])
def test_round_trips(features, net, backend):
    """1e-10: rounding of one direction is amplified by the other's condition."""
    flow = flow_of(features, net, "turned", context=1, transforms=2)
    z, context = noise(flow, 7)
    u, _ = flow.normalize(z, context, backend=backend)
    x, _ = flow.generate(z, context, backend=backend)
    assert norm_error(flow.generate(u, context, backend=backend)[0], z) < 1e-10
    assert norm_error(flow.normalize(x, context, backend=backend)[0], z) < 1e-10


def test_rows_do_not_know_each_other(backend):
    """Alone, elsewhere in the batch, or beside other rows: a row gives the same, to rounding."""
    flow = flow_of(5, "plain", "turned", context=1, transforms=2)
    u, context = noise(flow, 40)
    x, log_det = flow.generate(u, context, backend=backend)
    turned = np.roll(np.arange(40), 7)
    x_turned, log_det_turned = flow.generate(u[turned], context[turned], backend=backend)
    assert (
        norm_error(x_turned, x[turned]) < SAME
        and norm_error(log_det_turned, log_det[turned]) < SAME
    )
    for n in (0, 13, 39):
        alone = flow.generate(u[n : n + 1], context[n : n + 1], backend=backend)
        assert norm_error(alone[0][0], x[n]) < SAME and norm_error(alone[1][0], log_det[n]) < SAME


@pytest.mark.parametrize("net", NETS)
def test_substitution_takes_complex_numbers_as_the_loop_does(net):
    flow = flow_of(5, net, "turned", context=2)
    u, context = noise(flow, 3)
    p = flow.split(flow.theta)
    for method in ("substitution", "naive"):
        x, log_det = flow.generate_with(p, u + 1e-30j, context.astype(complex), method)
        moved = (
            flow.generate_with(p, u + 1e-7, context, method)[0]
            - flow.generate_with(p, u - 1e-7, context, method)[0]
        )
        assert norm_error(x.real, flow.generate_with(p, u, context, method)[0]) < SAME
        assert norm_error(x.imag / 1e-30, moved / 2e-7) < 1e-6  # central differences


@pytest.mark.parametrize("net", ["plain", "residual"])
def test_each_hidden_unit_is_evaluated_once(net, monkeypatch):
    """The work of one density pass: as many activations as hidden units, not D times as many."""
    flow = flow_of(7, net, context=1)
    layer, p = flow.layers[0], flow.split(flow.theta)[0]
    u, context = noise(flow, 3)
    evaluated = []

    def counting(z):
        evaluated.append(z.size)
        return np.maximum(z, 0)

    monkeypatch.setitem(ACTIVATIONS, "relu", ACTIVATIONS["relu"]._replace(forward=counting))
    layer.generate(p, u, context)
    assert sum(evaluated) == 3 * sum(layer.conditioner.hidden)


def test_weights_beyond_the_prefix_are_not_even_loaded():
    """NaN where the masks forbid to read: substitution slices, it does not multiply by zero."""
    flow = flow_of(5, context=1)
    u, context = noise(flow, 3)
    clean = flow.generate(u, context, backend="numpy")
    lively(flow, seed=5, last=0.3, garbage=np.nan)
    for a, b in zip(clean, flow.generate(u, context, backend="numpy"), strict=True):
        np.testing.assert_array_equal(a, b)
