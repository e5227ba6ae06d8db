"""The house grows by one file: a new network and a new univariate, in use without another line."""

import numpy as np
import pytest
from conftest import norm_error

import afnp
from afnp.networks import NETWORKS, Network
from afnp.params import Layout
from afnp.sampling.fixed_point import Jacobi
from afnp.transforms import Autoregressive
from afnp.univariate import UNIVARIATES
from afnp.verify import check_flow


class Triangle(Network):
    r"""A masked linear network without hidden units: all h at once, or one after the other.

    .. math:: h_i = b_i + \sum_{j < i} W_{ij}\, x_j + F_i\, c
    """

    def __init__(self, features, numbers, context=0):
        self.features, self.numbers, self.context = features, numbers, context
        D, K, C = features, numbers, context
        self.layout = Layout({"W": (K, D, D), "F": (K, D, C), "b": (K, D)})

    def config(self):
        return {"features": self.features, "numbers": self.numbers, "context": self.context}

    @classmethod
    def count(cls, config):
        D, K, C = config["features"], config["numbers"], config["context"]
        return K * D * (D + C + 1)

    @property
    def cost(self):
        return self.numbers * (self.features * (self.features - 1) // 2 + self.context)

    def initialize(self, p, rng, gain=1.0, last=0.1):
        for values in p.values():
            values[:] = last * gain * rng.standard_normal(values.shape)

    def forward(self, p, context, x):
        W = np.tril(p["W"], -1)
        h = np.einsum("kij,nj->nik", W, x) + np.einsum("kic,nc->nik", p["F"], context)
        return h + p["b"].T, (context, x)

    def backward(self, p, cache, d_h, g):
        context, x = cache
        g["W"] += np.tril(np.einsum("nik,nj->kij", d_h, x), -1)
        g["F"] += np.einsum("nik,nc->kic", d_h, context)
        g["b"] += d_h.sum(axis=0).T
        return np.einsum("nik,kij->nj", d_h, np.tril(p["W"], -1))

    def init_state(self, p, context):
        return np.einsum("kic,nc->nik", p["F"], context) + p["b"].T

    def advance(self, p, state, group, known):
        i = group.start
        if known is not None:  # what is known is added to all that depend on it, once
            state[:, i:] += known[:, :, None] * p["W"][:, i:, i - 1].T
        return state[:, group]


class Bend:
    r"""Shift, and a smooth bend between two slopes.

    .. math:: u = y + a \sqrt{1 + y^2}, \qquad y = x - m, \qquad a = 0.9 \tanh h_1, \qquad
              y = \frac{u - a \sqrt{u^2 + 1 - a^2}}{1 - a^2}
    """

    numbers = 2
    support = (-np.inf, np.inf)
    periodic = False

    def config(self):
        return {}

    def normalize(self, h, x):
        y, t = x - h[..., 0], np.tanh(h[..., 1])
        a, s = 0.9 * t, np.sqrt(1 + y * y)
        slope = 1 + a * y / s
        return y + a * s, np.log(slope), (y, a, s, slope, 0.9 * (1 - t * t))

    def generate(self, h, u):
        a = 0.9 * np.tanh(h[..., 1])
        y = (u - a * np.sqrt(u * u + 1 - a * a)) / (1 - a * a)
        return y + h[..., 0], -np.log(1 + a * y / np.sqrt(1 + y * y))

    def backward(self, cache, d_u, d_log):
        y, a, s, slope, d_a_of_h = cache
        d_y = d_u * slope + d_log * a / s**3 / slope
        d_a = d_u * s + d_log * y / s / slope
        return np.stack([-d_y, d_a * d_a_of_h], axis=-1), d_y


@pytest.fixture
def grown(monkeypatch):
    """A univariate takes its place by one line; a network by being defined."""
    monkeypatch.setitem(UNIVARIATES, "bend", Bend)


def flow_of(univariate, D=3, context=1, seed=0):
    layers = [
        Autoregressive(Triangle(D, univariate.numbers, context), univariate, order)
        for order in ("natural", "reverse")
    ]
    return afnp.Flow(layers, context=context, seed=seed)


def test_the_network_is_registered_by_being_defined():
    assert NETWORKS["Triangle"] is Triangle


@pytest.mark.parametrize("univariate", [Bend(), afnp.univariate.Affine()])
def test_density_and_all_samplers(grown, univariate):
    flow, rng = flow_of(univariate), np.random.default_rng(1)
    u, c = rng.standard_normal((7, 3)), rng.standard_normal((7, 1))
    x, log_det = flow.generate(u, c)
    for method in ("naive", "jacobi", "gauss-seidel", Jacobi()):
        y, other = flow.generate(u, c, method=method)
        assert norm_error(y, x) < 1e-12 and norm_error(other, log_det) < 1e-12
    back, log_det_back = flow.normalize(x, c)
    assert norm_error(back, u) < 1e-12 and norm_error(log_det_back, -log_det) < 1e-12
    normal = -0.5 * (u * u + np.log(2 * np.pi)).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x, c), normal - log_det, rtol=1e-12)
    with pytest.raises(ValueError, match="no compiled code for layer 0"):
        flow.log_prob(x, c, backend="numba")


def test_training_and_a_model_file(grown, tmp_path):
    rng = np.random.default_rng(2)
    c = rng.standard_normal((200, 1))
    x = np.cumsum(0.5 * rng.standard_normal((200, 3)), axis=1) + c
    flow = flow_of(Bend())
    history = afnp.fit(flow, x, context=c, epochs=15, learning_rate=0.03, progress=False)
    assert history.train_loss[-1] < history.train_loss[0] - 0.5
    afnp.save(flow, tmp_path / "flow.afnp")
    again = afnp.load(tmp_path / "flow.afnp")
    np.testing.assert_array_equal(again.log_prob(x, c), flow.log_prob(x, c))
    assert flow.parameters["0.W"].shape == (2, 3, 3)


@pytest.mark.parametrize("univariate", [Bend(), afnp.univariate.Affine()])
def test_every_check_passes(grown, univariate):
    report = check_flow(flow_of(univariate), level="quick", backends=["numpy"])
    assert not report.failed, str(report)


def test_constructors_take_objects():
    flow = afnp.maf(3, hidden=(8,), transforms=2, univariate=afnp.univariate.RationalQuadratic(5))
    assert (
        flow.config()
        == afnp.maf(3, hidden=(8,), transforms=2, univariate="spline", options={"bins": 5}).config()
    )
    with pytest.raises(ValueError, match="^options: go with a name"):
        afnp.maf(3, univariate=afnp.univariate.Affine(), options={"bound": 2.0})


@pytest.mark.parametrize("degrees", [[[1, 1, 2, 0, 1][i] for i in (3, 0, 1, 4, 2)], [1, 2, 1, 2]])
def test_an_imported_network_has_degrees_of_its_own(degrees):
    """Cyclic ones are sorted first, with the rows and columns of their weights."""
    units = np.argsort(degrees, kind="stable")
    sorted_degrees = np.asarray(degrees)[units]
    net = afnp.networks.MaskedMLP(3, 2, (len(degrees),), degrees=[sorted_degrees])
    rng = np.random.default_rng(0)
    W = rng.standard_normal((len(degrees), 3)), rng.standard_normal((6, len(degrees)))
    masks = (
        np.asarray(degrees)[:, None] >= np.arange(1, 4),
        np.repeat(np.arange(1, 4), 2)[:, None] > np.asarray(degrees),
    )
    x = rng.standard_normal((4, 3))
    expected = np.maximum(x @ (masks[0] * W[0]).T, 0) @ (masks[1] * W[1]).T
    p = net.layout.views(np.zeros(net.layout.size))
    p["W0"][:], p["W1"][:] = W[0][units], W[1][:, units]
    h = net.forward(p, np.empty((4, 0)), x)[0]
    np.testing.assert_allclose(h.reshape(4, 6), expected, atol=1e-14)
    assert afnp.networks.MaskedMLP(**net.config()).config() == net.config()


@pytest.mark.parametrize(
    "degrees, words",
    [([[2, 1]], "sorted integers"), ([[1]], "one a unit"), ([[1, 9]], "expected 0 to 3")],
)
def test_degrees_that_make_no_sense_are_named(degrees, words):
    with pytest.raises(ValueError, match=f"^degrees: .*{words}"):
        afnp.networks.MaskedMLP(3, 2, (2,), degrees=degrees)
