"""The bug museum: real errors of released code, replayed in a few lines of NumPy,
each caught by a named check."""

import numpy as np
import pytest

from afnp.verify import check_flow
from afnp.verify.results import NotRun, compare

CYCLE = np.array([2, 0, 1])  # applied twice it is not undone
REVERSAL = np.array([2, 1, 0])


class Chain:
    """An honest flow: u_i = (x_i - m_i) exp(-a_i), m = sin(x L^T) and a = tanh(x M^T) / 2 of what
    came before."""

    def __init__(self, features=3, order=None, seed=0):
        order = np.arange(features) if order is None else order
        rng, self.rank = np.random.default_rng(seed), np.argsort(order)
        self.order, self.features = order, features
        self.allowed = self.rank[None, :] <= self.rank[:, None]
        before = self.rank[None, :] < self.rank[:, None]
        self.L, self.M = before * rng.standard_normal((2, features, features))

    def parameters(self, x):
        return np.sin(x @ self.L.T), self.log_scale(x @ self.M.T)

    def log_scale(self, raw):
        return np.tanh(raw) / 2

    def normalize(self, x):
        m, a = self.parameters(x)
        return (x - m) * np.exp(-a), -a.sum(axis=1)

    def steps(self):
        return self.order

    def generate(self, u):
        x = np.zeros_like(u)
        for i in self.steps():
            m, a = self.parameters(x)
            x[:, i] = m[:, i] + u[:, i] * np.exp(a[:, i])
        return x, self.parameters(x)[1].sum(axis=1)

    def log_prob(self, x):
        u, log_det = self.normalize(x)
        return log_det - (u * u).sum(axis=1) / 2 - self.features / 2 * np.log(2 * np.pi)

    def sample(self, n, rng):
        return self.generate(np.random.default_rng(rng).standard_normal((n, self.features)))[0]


def report_of(flow, *checks, **more):
    """Run checks on whatever directions an object has."""
    names = ("normalize", "generate", "log_prob", "sample", "allowed", "context", "data", "dtype")
    given = {name: getattr(flow, name) for name in names if hasattr(flow, name)}
    return check_flow(features=flow.features, checks=checks or None, **{**given, **more})


def caught(flow, check, **more):
    """Whether a check fails, and not because something raised."""
    result = report_of(flow, check, **more)[check]
    return result.status == "failed" and not result.reason.startswith("raised")


@pytest.mark.parametrize("order", [None, CYCLE, REVERSAL], ids=["natural", "cycle", "reversal"])
def test_the_honest_flow_passes(order):
    report = report_of(Chain(order=order), complex_step=True)
    assert report.ok, f"\n{report}"
    assert {"dependency", "connectivity", "log_det", "round_trip", "antisymmetry"} <= set(
        report.passed
    )


# ---- signs ---------------------------------------------------------------------------------------


def test_pytorch_flows_16_the_inverse_returns_its_log_det_with_the_wrong_sign():
    class Wrong(Chain):
        def generate(self, u):
            x, log_det = super().generate(u)
            return x, -log_det

    assert caught(Wrong(), "antisymmetry")


def test_normflows_27_both_signs_are_wrong_and_still_cancel():
    class Wrong(Chain):
        def normalize(self, x):
            u, log_det = super().normalize(x)
            return u, -log_det

        def generate(self, u):
            x, log_det = super().generate(u)
            return x, -log_det

    assert report_of(Wrong(), "antisymmetry", "round_trip").ok
    assert caught(Wrong(), "log_det")


def test_flowjax_208_a_sign_that_a_volume_preserving_test_map_cannot_show():
    class Wrong:
        features = 2

        def __init__(self, scale):
            self.scale = np.array(scale)

        def normalize(self, x):
            return x * self.scale, np.full(len(x), -np.log(self.scale).sum())

    assert report_of(Wrong([2.0, 0.5]), "log_det").ok  # what their test used
    assert caught(Wrong([2.0, 0.7]), "log_det")


def test_flowjax_169_the_log_det_of_a_leaky_relu_is_wrong_on_its_negative_branch():
    class Leaky:
        features = 2

        def normalize(self, x):
            return np.where(x.real > 0, x, 0.3 * x), np.zeros(len(x))

    positive = np.random.default_rng(0).uniform(0.5, 3, (50, 2))
    assert report_of(Leaky(), "log_det", data=positive).ok
    assert caught(Leaky(), "log_det")
    assert caught(Leaky(), "log_det", complex_step=True)


# ---- orders --------------------------------------------------------------------------------------


def test_normalizing_flows_maf_a_random_input_order_makes_the_jacobian_full():
    class Wrong(Chain):
        """Inputs have degrees by the order, outputs by its inverse:
        the same for an order that is its own."""

        def __init__(self, order):
            super().__init__(order=order)
            before = order[None, :] < self.rank[:, None]
            self.L, self.M = before * np.random.default_rng(0).standard_normal((2, 3, 3))

    assert report_of(Wrong(REVERSAL), "dependency", "log_det").ok
    assert caught(Wrong(CYCLE), "dependency")
    assert caught(Wrong(CYCLE), "log_det")


def test_normalizing_flows_maf_sampling_walks_the_degrees_where_it_needs_their_argsort():
    class Wrong(Chain):
        def steps(self):
            return self.rank

    assert report_of(Wrong(order=REVERSAL), "round_trip").ok
    assert caught(Wrong(order=CYCLE), "round_trip")


@pytest.mark.parametrize("features", [2, 3, 4])
def test_deepul_10_an_order_in_the_place_of_its_inverse_shows_from_three_features_on(features):
    order = np.roll(np.arange(features), 1)

    class Wrong(Chain):
        def generate(self, u):
            x, log_det = super().generate(u)
            return x[:, self.order][:, self.order], log_det

    assert caught(Wrong(features, order), "round_trip") == (features > 2)


@pytest.mark.parametrize("features", [2, 4])
def test_karpathy_10_a_split_of_every_second_joined_as_halves_shows_from_four_features_on(features):
    class Wrong:
        def normalize(self, x):
            even, odd = x[:, ::2], x[:, 1::2]
            return np.concatenate([even, odd * 2 + np.sin(even)], axis=1), np.full(
                len(x), np.log(2) * odd.shape[1]
            )

        def generate(self, u):
            even, odd = u[:, ::2], u[:, 1::2]
            return np.concatenate([even, (odd - np.sin(even)) / 2], axis=1), np.full(
                len(u), -np.log(2) * odd.shape[1]
            )

    Wrong.features = features
    assert caught(Wrong(), "round_trip") == (features > 2)


# ---- inverses ------------------------------------------------------------------------------------


def test_gpapamak_maf_the_log_scale_is_clamped_in_the_sampler_only():
    class Wrong(Chain):
        def log_scale(self, raw):
            return raw

        def generate(self, u):
            x = np.zeros_like(u)
            for i in self.order:
                m, a = self.parameters(x)
                x[:, i] = m[:, i] + u[:, i] * np.exp(np.minimum(a[:, i], 0.3))
            return x, np.minimum(self.parameters(x)[1], 0.3).sum(axis=1)

    assert caught(Wrong(), "round_trip")
    assert caught(Wrong(), "agreement")


def test_flowtorch_100_a_test_that_reads_cached_values_compares_them_with_themselves():
    class Wrong(Chain):
        """The inverse gives back what went in last; computed afresh, it has the wrong scale."""

        last = None

        def normalize(self, x):
            u, log_det = super().normalize(x)
            self.last = u, x, log_det
            return u, log_det

        def generate(self, u):
            if self.last is not None and self.last[0] is u:
                return self.last[1], -self.last[2]
            x, log_det = super().generate(u / 2)
            return x, log_det

    flow, x = Wrong(), np.random.default_rng(0).standard_normal((5, 3))
    u, log_det = flow.normalize(x)
    back, log_det_back = flow.generate(u)
    assert np.array_equal(back, x) and np.array_equal(log_det, -log_det_back)  # what their test saw
    assert caught(flow, "round_trip")


class Spline:
    """A rational-quadratic spline on [-1, 1] in float32,
    its inverse from the textbook (arXiv 1906.04032)."""

    features, dtype = 1, np.float32
    bins = 10
    widths = np.float32([0.2] * 8 + [0.399, 0.001])
    heights = np.float32([0.2] * 10)  # whose sum, as float32, falls short of 2
    slopes = np.full(11, 1e-3, dtype=np.float32)

    def knots(self):
        start = np.float32([-1])
        return [
            np.cumsum(np.concatenate([start, w]), dtype=np.float32)
            for w in (self.widths, self.heights)
        ]

    def inside(self, rows, k):
        """Return which rows the spline bends, and each one's bin among knots k."""
        bins = np.searchsorted(self.knots()[k], rows[:, 0], side="right") - 1
        return np.abs(rows[:, 0]) <= 1, np.clip(bins, 0, self.bins - 1)

    def normalize(self, x):
        (X, Y), (inside, k) = self.knots(), self.inside(x, 0)
        s = self.heights[k] / self.widths[k]
        xi = np.clip((x[:, 0] - X[k]) / self.widths[k], 0, 1)
        d0, d1 = self.slopes[k], self.slopes[k + 1]
        Q = s + (d0 + d1 - 2 * s) * xi * (1 - xi)
        u = Y[k] + self.heights[k] * (s * xi**2 + d0 * xi * (1 - xi)) / Q
        slope = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / Q**2
        return np.where(inside, u, x[:, 0])[:, None], np.where(inside, np.log(slope), np.float32(0))

    def generate(self, u):
        (X, Y), (inside, k) = self.knots(), self.inside(u, 1)
        s, v = self.heights[k] / self.widths[k], np.where(inside, u[:, 0] - Y[k], np.float32(0))
        d0, d1 = self.slopes[k], self.slopes[k + 1]
        a = self.heights[k] * (s - d0) + v * (d0 + d1 - 2 * s)
        b = self.heights[k] * d0 - v * (d0 + d1 - 2 * s)
        discriminant = b**2 + 4 * a * s * v
        if (discriminant < 0).any():
            raise AssertionError("discriminant >= 0")
        x = X[k] + self.widths[k] * 2 * s * v / (b + np.sqrt(discriminant))
        x = np.where(inside, x, u[:, 0])[:, None]
        return x, -self.normalize(x)[1]


def test_nflows_87_the_discriminant_of_a_spline_turns_negative_in_float32():
    result = report_of(Spline(), "edges")["edges"]
    assert result.status == "failed" and "discriminant" in result.reason


# ---- dependencies --------------------------------------------------------------------------------


def test_nflows_85_the_first_feature_never_sees_the_context():
    class Wrong(Chain):
        context, generate, log_prob, sample = 2, None, None, None

        def normalize(self, x, context):
            u, log_det = super().normalize(x)
            return u + np.tri(3, 3, -1)[:, :1].T * context.sum(axis=1, keepdims=True), log_det

    everything = np.hstack([np.ones((3, 2), dtype=bool), Wrong().allowed])
    result = report_of(Wrong(), "connectivity", allowed=everything)["connectivity"]
    assert result.status == "failed" and result.measured == 2  # one feature, two context inputs
    result = report_of(Wrong(), "connectivity")["connectivity"]
    assert result.status == "passed" and "2 of 6 pairs of feature and context" in result.notes[0]


@pytest.mark.parametrize("width", [2, 3, 4])
def test_nflows_normflows_zuko_hidden_widths_below_d_minus_1_drop_legal_dependencies(width):
    class Masked(Chain):
        def __init__(self):
            super().__init__(features=5)
            inputs, hidden = np.arange(1, 6), np.arange(width) % 4 + 1
            rng = np.random.default_rng(0)
            self.V = rng.standard_normal((width, 5)) * (inputs <= hidden[:, None])
            self.W = rng.standard_normal((5, width)) * (hidden < inputs[:, None])

        def parameters(self, x):
            return np.tanh(x @ self.V.T) @ self.W.T, 0 * x

    paths = np.abs(Masked().W) @ np.abs(Masked().V)
    lost = int((np.tri(5, k=-1, dtype=bool) & (paths == 0)).sum())
    assert (lost > 0) == (width < 4)
    assert report_of(Masked(), "connectivity")["connectivity"].measured == lost
    assert report_of(Masked(), "dependency").ok


# ---- totals --------------------------------------------------------------------------------------


class LogNormal:
    """x = exp(u), one feature."""

    features = 1
    data = np.exp(np.random.default_rng(0).standard_normal((200, 1)))

    def normalize(self, x):
        return np.log(x), -np.log(x).sum(axis=1)

    def generate(self, u):
        return np.exp(u), u.sum(axis=1)

    def log_prob(self, x):
        u, log_det = self.normalize(x)
        return log_det - (u * u).sum(axis=1) / 2 - np.log(2 * np.pi) / 2


def test_the_honest_log_normal_passes():
    assert report_of(LogNormal(), "log_det", "round_trip", "normalisation").ok


def test_flowjax_102_a_density_that_does_not_integrate_to_one():
    class Wrong(LogNormal):
        def log_prob(self, x):
            return super().log_prob(x) + np.log(x).sum(
                axis=1
            )  # the base's density at log x, and no Jacobian

    assert caught(Wrong(), "normalisation")


def test_zuko_55_a_likelihood_above_the_entropy_of_its_data():
    class Wrong(LogNormal):
        def log_prob(self, x):
            return super().log_prob(x) + 0.1  # on data of this very density no model can do so well

    u = np.random.default_rng(1).standard_normal((20_000, 1))
    entropy = 0.5 * np.log(2 * np.pi * np.e)  # of exp(u), whose mean log is 0
    assert Wrong().log_prob(np.exp(u)).mean() > -entropy + 0.05
    assert caught(Wrong(), "normalisation")


def test_normflows_24_the_jacobian_of_the_standardisation_was_forgotten():
    class Wrong(Chain):
        def normalize(self, x):
            return super().normalize((x - 1) / 4)

        def generate(self, u):
            x, log_det = super().generate(u)
            return 1 + 4 * x, log_det

    assert report_of(Wrong(features=2), "round_trip", "antisymmetry").ok
    assert caught(Wrong(features=2), "log_det")
    assert caught(Wrong(features=2), "normalisation")


@pytest.mark.parametrize("constant", [np.log(10), 2 * np.log(256)], ids=["classes", "grey levels"])
def test_maf_first_version_and_uvadlc_93_constants_of_conditionals_and_of_dequantisation(constant):
    class Wrong(Chain):
        def log_prob(self, x):
            return super().log_prob(x) + constant

    assert report_of(Wrong(features=2), "log_det", "round_trip", "antisymmetry").ok
    assert caught(Wrong(features=2), "normalisation")


# ---- behaviour -----------------------------------------------------------------------------------


def test_wohlert_21_the_log_det_is_summed_over_the_batch():
    class Wrong(Chain):
        def normalize(self, x):
            u, log_det = super().normalize(x)
            return u, np.full(len(x), log_det.sum())

    assert caught(Wrong(), "batch_independence")
    assert caught(Wrong(), "log_det")


def test_zuko_an_empty_batch_crashes():
    class Wrong(Chain):
        def log_prob(self, x):
            return super().log_prob(x) - 0 * x[0, 0]

    result = report_of(Wrong(), "shapes")["shapes"]
    assert result.status == "failed" and "empty" in result.reason


def test_tfp_1203_exp_overflows_under_a_large_context():
    class Wrong(Chain):
        context, generate, log_prob, sample = 1, None, None, None

        def normalize(self, x, context):
            u, log_det = super().normalize(x)
            return u * np.exp(context), log_det + 3 * context[:, 0]

    assert report_of(Wrong(), "log_det").ok
    assert caught(Wrong(), "edges")


def test_freia_a_tolerance_that_is_infinite_says_nothing_and_never_passes():
    with pytest.raises(NotRun, match="ill-conditioned"):
        compare(np.array([1e9]), np.array([np.inf]), "as FrEIA's tests had it", ("row",), limit=1.0)
