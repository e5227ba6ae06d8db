"""The kit: what is new in a check, levels, expectations, time limits, cases for pytest,
and reports."""

import json
import threading
import time

import numpy as np
import pytest

import afnp
from afnp import bases, verify
from afnp.flow import Flow
from afnp.transforms import masked, preprocess
from afnp.univariate import RationalQuadratic
from afnp.verify import check_flow
from afnp.verify.adapters.targets import build, found_object, functions_of_target
from afnp.verify.atoms import distinct_rows, repeated
from afnp.verify.integrals import along_lines, distribution
from afnp.verify.report import mutation_score
from afnp.verify.results import Finding
from afnp.verify.rows import Rows
from afnp.verify.uniform import thresholds
from afnp.verify.worker import NAME, Worker

LOG_2PI = np.log(2 * np.pi)


def scale(x):
    """The honest map u = 2 x, from which the wrong ones below differ in one thing."""
    return 2 * x, np.full(len(x), x.shape[1] * np.log(2), dtype=x.dtype)


def unscale(u):
    return u / 2, np.full(len(u), -u.shape[1] * np.log(2), dtype=u.dtype)


def density(x):
    return (-2 * x**2 + np.log(2) - LOG_2PI / 2).sum(axis=1)


def draw(n, rng):
    return rng.standard_normal((n, 2)) / 2


HONEST = {
    "normalize": scale,
    "generate": unscale,
    "log_prob": density,
    "sample": draw,
    "features": 2,
}


def result_of(check, level="quick", **changes):
    return check_flow({**HONEST, **changes}, checks=[check], level=level)[check]


def spline(features=2, univariate="spline", **changes):
    return afnp.maf(features, hidden=(8,), transforms=2, univariate=univariate, **changes)


# ---- clean flows of every kind -------------------------------------------------------------------


def torus():
    orders = ([0, 1], [1, 0])
    layers = [masked(2, (8,), order=order, univariate="circular_spline") for order in orders]
    return Flow(layers, base=bases.UniformTorus(2))


KINDS = {
    "spline": spline,
    "spline, float32": lambda: spline(dtype=np.float32, context=1),
    "additive": lambda: spline(univariate="additive"),
    "logistic mixture": lambda: spline(univariate="logistic_mixture"),
    "torus": torus,
    "logistic base": lambda: Flow(spline(univariate="affine").layers, base=bases.Logistic(2)),
    "t base": lambda: Flow(spline(univariate="affine").layers, base=bases.StudentT(2, 4.0)),
    "functions": lambda: HONEST,
}


@pytest.mark.parametrize("kind", KINDS)
def test_clean_flows_of_every_kind_pass(kind):
    report = check_flow(KINDS[kind](), level="quick", backends=["numpy"])
    assert report.ok, f"\n{report}"
    assert {"log_det", "round_trip", "monotone", "edges", "randomness", "odd_input"} <= set(
        report.passed
    )


@pytest.mark.parametrize(
    ("level", "seconds"), [("quick", 2), pytest.param("full", 30, marks=pytest.mark.slow)]
)
def test_quick_is_quick_and_full_not_long(level, seconds):
    """Seconds on two idle cores; the tests may share theirs with anything,
    so the cores' own time is measured."""
    flow = afnp.maf(4, hidden=(32, 32), transforms=3)
    check_flow(flow, level="quick", checks=["log_det"])
    start = time.process_time()
    assert check_flow(flow, level=level).ok
    assert time.process_time() - start < 2 * seconds


# ---- C4 monotone ---------------------------------------------------------------------------------


def folded(x):
    """u = |x| for the last feature: two x for one u."""
    u = 2 * x
    u[:, -1] = np.abs(u[:, -1])
    return u, scale(x)[1]


def clamped(x):
    return np.clip(2 * x, -9, 9), scale(x)[1]


def wavy(x):
    """Ascends, but for a wave of a thousandth."""
    return 2 * x + 1e-3 * np.sin(3e3 * x), scale(x)[1]


@pytest.mark.parametrize("wrong", [folded, clamped, wavy])
def test_a_line_that_turns_back_is_caught(wrong):
    result = result_of("monotone", normalize=wrong, allowed=np.eye(2))
    assert result.status == "failed"
    assert ("stands still" if wrong is clamped else "turns back") in result.reason


def test_without_an_order_the_determinant_keeps_its_sign():
    assert result_of("monotone", level="full", normalize=folded).reason.startswith(
        "det du/dx changes its sign"
    )
    assert result_of("monotone", level="full").status == "passed"


def test_descending_features_are_no_mistake():
    assert (
        result_of("monotone", normalize=lambda x: (-2 * x, scale(x)[1]), allowed=np.eye(2)).status
        == "passed"
    )


def test_a_layer_that_stands_still_is_caught():
    flow = spline()
    univariate = flow.layers[1].univariate
    normalize = univariate.normalize

    def clamp(h, x):
        u, *rest = normalize(h, x)
        return np.where(u.real > 6, 6 + 0 * u, u), *rest

    univariate.normalize = clamp
    result = check_flow(flow, checks=["monotone"], level="quick")["monotone"]
    assert (
        result.status == "failed" and result.worst["layer"] == 1 and "stands still" in result.reason
    )


def test_a_plateau_between_modes_is_no_standstill():
    """Behind a wide standardisation u moves slowly, and between narrow modes by less than its last
    digit."""
    mixture = masked(1, (), univariate="gaussian_mixture", options={"components": 2})
    flow = Flow([preprocess.Standardize([0.0], [8.0]), mixture], dtype=np.float32)
    flow.split(flow.theta)[1]["b0"][:] = [0.0, -2.0, 0.5, 0.5, -1.5, -1.5]
    result = check_flow(flow, checks=["monotone"], parameters="own")["monotone"]
    assert result.status == "passed", result


# ---- C11 sampler and density ---------------------------------------------------------------------


def wrong_samples(change):
    def sample(n, rng):
        return change(rng.standard_normal((n, 2)), rng) / 2

    sample.__name__ = change.__name__
    return sample


def temperature(u, rng):
    return 0.9 * u


def shifted(u, rng):
    return u + np.array([0.0, 0.2])


def uniform(u, rng):
    return rng.uniform(-np.sqrt(3), np.sqrt(3), u.shape)


def correlated(u, rng):
    return u + 0.5 * (u[:, ::-1] - u)


def truncated(u, rng):
    return np.clip(u, -2.5, 2.5)


@pytest.mark.parametrize("change", [temperature, shifted, uniform, correlated, truncated])
def test_a_sampler_of_another_density_is_caught(change):
    result = result_of("agreement", level="full", sample=wrong_samples(change))
    assert result.status == "failed" and result.reason.startswith("samples and density disagree"), (
        result
    )


def test_a_sampler_that_misses_a_far_mode_is_caught_by_its_marginal():
    """Two modes, in both features at once: no line through a sample meets the other one."""

    def two(x):
        modes = [
            -(((x - m) / 0.2) ** 2 / 2 + np.log(0.2) + LOG_2PI / 2).sum(axis=1) for m in (-3.0, 3.0)
        ]
        return np.logaddexp(*modes) - np.log(2)

    def both(n, rng):
        return 0.2 * rng.standard_normal((n, 2)) + 3 * rng.choice([-1.0, 1.0], (n, 1))

    def one(n, rng):
        return 0.2 * rng.standard_normal((n, 2)) + 3

    functions = {"log_prob": two, "features": 2, "checks": ["agreement"]}
    assert check_flow(sample=both, **functions).ok
    assert "marginal" in check_flow(sample=one, **functions)["agreement"].reason


def test_a_context_that_the_sampler_mixes_up_is_caught():
    def log_prob(x, context):
        return density(x - context)

    def sample(n, rng, context, roll=0):
        return np.roll(context, roll, axis=0) + draw(n, rng)

    functions = {
        "log_prob": log_prob,
        "features": 2,
        "context": 2,
        "checks": ["agreement"],
        "level": "quick",
    }
    assert check_flow(sample=sample, **functions).ok
    assert check_flow(sample=lambda n, rng, c: sample(n, rng, c, 1), **functions).failed == [
        "agreement"
    ]


# ---- two functions alone, of which each pair is tied ---------------------------------------------


def double(u, *context):
    """The honest way from noise, x = 2 u + 3 c."""
    return 2 * u + sum(3 * c for c in context), np.full(len(u), u.shape[1] * np.log(2))


def drawn(temperature, features=3):
    def sample(n, rng, *context):
        return double(temperature * rng.standard_normal((n, features)), *context)[0]

    return sample


@pytest.mark.parametrize(("temperature", "context"), [(1.05, 0), (1.03, 0), (0.97, 1)])
def test_a_sampler_at_another_temperature_than_generate_is_caught(temperature, context):
    pair = {"generate": double, "features": 3, "context": context, "checks": ["noise"]}
    wrong = check_flow(**pair, sample=drawn(temperature))["noise"]
    assert wrong.status == "failed" and "not distributed as images of noise" in wrong.reason
    assert "above 1" in wrong.cause if temperature > 1 else "below 1" in wrong.cause
    right = check_flow(**pair, sample=drawn(1.0))["noise"]
    assert right.status == "passed" and "show a temperature off by" in right.why, right


def shares_noise(n, rng):
    return double(0.8 * rng.standard_normal((n, 3)) + 0.6 * rng.standard_normal((n, 1)))[0]


def takes_another_rows_context(n, rng, context):
    return drawn(1.0)(n, rng, np.roll(context, 1, axis=0))


def is_beside_it(n, rng):
    return drawn(1.0)(n, rng) + 0.5


@pytest.mark.parametrize("sample", [shares_noise, takes_another_rows_context, is_beside_it])
def test_a_sampler_of_another_distribution_than_generate_is_caught(sample):
    context = int(sample is takes_another_rows_context)
    pair = {"generate": double, "features": 3, "context": context, "level": "quick"}
    assert check_flow(**pair, sample=sample, checks=["noise"]).failed == ["noise"]


def test_a_sampler_that_is_generate_itself_is_no_success():
    report = check_flow(generate=double, base="normal", features=3, checks=["noise"])
    assert "a sampler of its own" in report["noise"].reason and not report.ok


def test_units_atoms_and_tails_are_no_difference_between_sampler_and_generate():
    """Julian days in float32, of which rounding leaves few, and a lognormal beside them."""

    def generate(u):
        days = 2.46e6 + 30 * u[:, :1].astype(np.float64)
        x = np.hstack([days, np.exp(3 * u[:, 1:])]).astype(np.float32)
        return x, np.log(30) + np.log(3) + 3 * u[:, 1]

    pair = {"generate": generate, "features": 2, "dtype": np.float32, "checks": ["noise"]}
    for seed in range(3):
        assert check_flow(
            **pair,
            level="quick",
            sample=lambda n, rng: generate(rng.standard_normal((n, 2), dtype=np.float32))[0],
            seed=seed,
        ).ok


def test_generate_alone_has_the_log_det_of_its_jacobian():
    def halved(u):
        return double(u)[0], double(u)[1] / 2

    def jacobian(x):
        return np.broadcast_to(np.eye(3) / 2, (len(x), 3, 3))

    alone = {"features": 3, "checks": ["log_det"], "level": "quick"}
    assert check_flow(generate=double, **alone).ok
    wrong = check_flow(generate=halved, **alone)["log_det"]
    assert wrong.status == "failed" and "a factor of 0.7071 a feature" in wrong.cause, wrong
    assert check_flow(generate=double, jacobian=jacobian, **alone).ok
    wrong = check_flow(generate=double, jacobian=lambda x: 2 * jacobian(x), **alone)["log_det"]
    assert "the caller's jacobian says" in wrong.values, wrong


def test_noise_and_base_are_tied():
    """A base without its constant integrates to (2 π)^(3/2), whatever log_prob says."""

    def base(u):
        return -np.square(u).sum(axis=1) / 2

    def log_prob(x):
        return base(x / 2) - 3 * np.log(2)

    def normal(u):
        return base(u) - 1.5 * LOG_2PI

    pair = {"normalize": lambda x: (x / 2, np.full(len(x), -3 * np.log(2))), "features": 3}
    noise = {"noise": lambda n, rng: rng.standard_normal((n, 3))}
    options = {"checks": ["normalisation", "agreement"], "level": "quick", **pair}
    wrong = check_flow(**options, **noise, log_prob=log_prob, base=base)
    assert wrong.failed == ["normalisation"] and "base and noise" in wrong["normalisation"].reason
    assert not check_flow(**options, **noise, base=normal).failed
    wider = {"noise": lambda n, rng: 1.2 * rng.standard_normal((n, 3))}
    wrong = check_flow(**options, **wider, base=normal)
    assert wrong["agreement"].reason.startswith("noise and base disagree"), wrong


def test_a_support_is_kept():
    def same(x):
        return x, np.zeros(len(x))

    def beyond(n, rng):
        return rng.uniform(0, 1.3, (n, 2))

    options = {"support": (0.0, 1.0), "features": 2, "level": "quick"}
    report = check_flow(sample=beyond, **options)
    assert {"shapes", "randomness"} <= set(report.failed)
    assert "outside the support (0.0, 1.0)" in report["shapes"].reason
    with pytest.raises(ValueError, match="data: expected numbers within support, 0 to 1, got 1.5"):
        check_flow(normalize=same, data=[[0.5, 0.5], [0.5, 1.5]], **options)
    edge = {"support": (0.0, 0.1), "features": 2, "dtype": np.float32, "level": "quick"}
    rounded = np.full((9, 2), 0.1, dtype=np.float32)
    assert float(rounded[0, 0]) > 0.1
    assert check_flow(normalize=same, data=rounded, **edge, checks=["pure"]).ok
    within = {"sample": lambda n, rng: rng.uniform(size=(n, 2)), "checks": ["noise"]}
    for way in ({"normalize": same}, {"generate": same}):
        assert check_flow(**way, **within, **options)["noise"].status == "not run"


def test_agreement_states_its_power_and_false_alarms():
    result = result_of("agreement")
    assert "false alarms < 1e-06" in result.why and "show a shift of" in result.why


def test_the_bounds_hold_for_uniform_numbers():
    """A thousand sets at alpha = 0.05: fewer than one in twenty is beyond any bound."""
    rng, n = np.random.default_rng(0), 50
    F = np.sort(rng.uniform(size=(1000, n)), axis=1)
    distance, moments = thresholds(n, 0.05)
    gap = np.maximum(np.arange(1, n + 1) / n - F, F - np.arange(n) / n).max(axis=1)
    assert 0.01 < np.mean(gap > distance) < 0.05
    for k, bound in enumerate(moments, 1):
        P = np.polynomial.legendre.Legendre.basis(k)(2 * F - 1).mean(axis=1)
        assert np.mean(np.sqrt(2 * k + 1) * np.abs(P) > bound) < 0.05


def test_lines_find_narrow_peaks_far_out():
    """Two normal peaks, one a thousandth wide and far from every node,
    one where the line's own place is."""

    def log_density(t, lines):
        return np.logaddexp(-(t**2) / 2, -(((t - 77.7) / 1e-3) ** 2) / 2 + np.log(3e3)) - np.log(
            np.sqrt(2 * np.pi)
        )

    nodes = np.sort(np.append(np.linspace(-100, 100, 40), [0.0, 77.7]))[None]
    found = along_lines(log_density, nodes, np.array([0.0]), refinements=60)
    assert abs(found.below[0] - 0.125) < 1e-3 and abs(np.exp(found.log_total[0]) - 4) < 1e-2
    assert found.error[0] < 1e-3
    F, total, _ = distribution(log_density, nodes[0], refinements=60)
    assert abs(total - 4) < 1e-2 and np.allclose(F(np.array([0.0, 50.0])), [0.125, 0.25], atol=1e-3)


# ---- C12 randomness ------------------------------------------------------------------------------

OWN = np.random.default_rng(5)


def ignores_its_seed(n, rng):
    return OWN.standard_normal((n, 2))


def ignores_its_generator(n, rng):
    return np.random.default_rng(7).standard_normal((n, 2))


def repeats_itself(n, rng):
    rng.random()
    return np.random.default_rng(rng.bit_generator.seed_seq.entropy).standard_normal((n, 2)) / 2


def repeats_rows(n, rng):
    return rng.standard_normal((max(n // 4, 1), 2))[np.arange(n) % max(n // 4, 1)]


def walks(n, rng):
    u = rng.standard_normal((n, 2))
    return 0.6 * np.roll(u, 1, axis=0) + 0.8 * u


def antithetic(n, rng):
    u = rng.standard_normal(((n + 1) // 2, 2))
    return np.concatenate([u, -u])[:n]


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (ignores_its_seed, "differs for the same seed"),
        (ignores_its_generator, "same for another seed"),
        (repeats_itself, "repeats the last one"),
        (repeats_rows, "equal rows"),
        (walks, "rows 1 apart are correlated"),
        (antithetic, "apart are correlated"),
    ],
)
def test_a_sampler_that_is_not_random_is_caught(sampler, reason):
    result = result_of("randomness", level="full", sample=sampler)
    assert result.status == "failed" and reason in result.reason, result


def lands_on_few_values(n, rng):
    """A first feature that rounding brings together, nine times of ten."""
    u = rng.standard_normal((n, 2))
    return np.stack([np.where(np.abs(u[:, 0]) < 1.6, 0.0, u[:, 0]), u[:, 1]], axis=1)


def test_equal_values_are_in_no_order():
    result = result_of("randomness", level="full", sample=lands_on_few_values)
    assert result.status == "passed", result


def test_samples_that_rounding_brings_together_repeat_nothing():
    """Float32 leaves some hundred numbers to most of these samples: they come again,
    as half of one batch does."""

    def sample(seed):
        z = np.random.default_rng(seed).standard_normal((4000, 1))
        return (0.5 + np.where(np.abs(z) < 1.2, 1e-5, 1e-3) * z).astype(np.float32)

    x, again = sample(0), sample(1)
    assert np.isin(again, x).mean() > 0.5 and distinct_rows(x) > len(x)
    assert not repeated(again, x)
    wide = np.random.default_rng(0).standard_normal((4000, 1))
    assert repeated(wide[::-1], wide) and not repeated(wide + 1, wide)


# ---- C14 edges -----------------------------------------------------------------------------------


class MovedEnd(RationalQuadratic):
    """The spline ends a last digit before its bound."""

    def normalize(self, h, x):
        u, log_derivative, cache = super().normalize(h, x)
        return np.where(x == self.bound, u * (1 - 2**-50), u), log_derivative, cache


class SteepEnd(RationalQuadratic):
    """The slope just inside the bound is not that outside."""

    def normalize(self, h, x):
        u, log_derivative, cache = super().normalize(h, x)
        near = (np.abs(x.real) < self.bound) & (np.abs(x.real) > self.bound - 1e-9)
        return u, np.where(near, log_derivative + 0.5, log_derivative), cache


class NoNumberAtZero(RationalQuadratic):
    """0/0 at exactly 0."""

    def normalize(self, h, x):
        u, log_derivative, cache = super().normalize(h, x)
        return np.where(x == 0, u + np.nan, u), log_derivative, cache


@pytest.mark.parametrize("cls", [MovedEnd, SteepEnd, NoNumberAtZero])
def test_a_wrong_edge_of_a_spline_is_caught(cls):
    flow = spline()
    flow.layers[0].univariate = cls()
    result = check_flow(flow, checks=["edges"], level="quick")["edges"]
    assert result.status == "failed" and "layer 0" in result.reason, result


def overflowing(x):
    return np.where(np.abs(x) > 500, x * np.inf, 2 * x), scale(x)[1]


def refusing(x):
    if (np.abs(x) == 0).any():
        raise ValueError("0 has no image")
    return scale(x)


@pytest.mark.parametrize(
    ("wrong", "said"), [(overflowing, "not finite at ±1000"), (refusing, "raises ValueError at ±0")]
)
def test_a_function_that_breaks_at_its_edges_is_caught(wrong, said):
    result = result_of("edges", normalize=wrong)
    assert result.status == "failed" and said in result.reason, result


def test_a_way_back_that_is_clamped_is_caught():
    def clamp(u):
        return np.clip(u / 2, -50, 50), unscale(u)[1]

    assert "no way back" in result_of("edges", generate=clamp).reason


# ---- C15 odd questions ---------------------------------------------------------------------------


def swallowing(x):
    return scale(np.nan_to_num(x))


def spoiling(x):
    u, log_det = scale(x)
    return u + 0 * x.sum(), log_det


def by_memory(x):
    return (2 * x if x.flags.c_contiguous else 3 * x), scale(x)[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (swallowing, "finite numbers for"),
        (spoiling, "spoils other rows"),
        (by_memory, "apart in memory"),
    ],
)
def test_an_odd_input_that_looks_fine_is_caught(wrong, said):
    result = result_of("odd_input", normalize=wrong)
    assert result.status == "failed" and said in result.reason, result


def test_passing_nan_on_is_noted_and_an_error_is_not():
    def refuse(x):
        if not np.isfinite(x).all():
            raise ValueError("not finite")
        return scale(x)

    assert "normalize passes NaN on without an error" in result_of("odd_input").notes
    assert (
        "normalize passes NaN on without an error"
        not in result_of("odd_input", normalize=refuse).notes
    )


def crash_on_empty(x):
    return 2 * x / np.abs(x).max(), scale(x)[1]


def refuse_empty(x):
    if not len(x):
        raise ValueError("expected at least one row, got an empty batch")
    return scale(x)


def squeezed(x):
    return scale(x) if len(x) != 1 else (2 * x[0], scale(x)[1])


def test_few_rows_have_their_shapes():
    assert "ValueError for an empty batch" in result_of("shapes", normalize=crash_on_empty).reason
    assert "shapes (2,), (1,) where (1, 2), (1,)" in result_of("shapes", normalize=squeezed).reason
    assert result_of("shapes", normalize=refuse_empty).status == "passed"
    assert (
        "sample gives shape" in result_of("shapes", sample=lambda n, rng: draw(n + 1, rng)).reason
    )


# ---- strangers that do not behave ----------------------------------------------------------------


def raises(x):
    raise RuntimeError("no such table")


def leaves(x):
    raise SystemExit(3)


ODD = {
    "one thing": (lambda x: 2 * x, "gives a ndarray of shape"),
    "three things": (lambda x: (2 * x, 0, 0), "gives 3 things"),
    "text": (lambda x: (np.full(x.shape, "a"), scale(x)[1]), "where numbers are expected"),
    "columns lost": (lambda x: (2 * x[:, :1], scale(x)[1]), "gives shapes"),
    "nothing": (lambda x: None, "gives a NoneType"),
    "exception": (raises, "raised RuntimeError: no such table"),
    "exit": (leaves, "raised SystemExit"),
}


@pytest.mark.parametrize("name", ODD)
def test_nonsense_is_a_finding_with_its_reason_and_no_crash(name):
    function, reason = ODD[name]
    report = check_flow({**HONEST, "normalize": function}, level="quick", allowed=np.eye(2))
    assert {"shapes", "log_det", "round_trip", "antisymmetry", "monotone"} <= set(report.failed), (
        f"\n{report}"
    )
    assert reason in report["log_det"].reason


def test_what_hangs_is_given_up_and_the_rest_goes_on():
    over = threading.Event()

    def hangs(x):
        over.wait(30)
        return scale(x)

    start = time.monotonic()
    report = check_flow(
        {**HONEST, "normalize": hangs},
        checks=["log_det", "randomness"],
        level="quick",
        time_limit=0.5,
    )
    assert time.monotonic() - start < 10
    assert report.failed == ["log_det"] and report.passed == ["randomness"]
    assert (
        report["log_det"].reason == "gave no answer within 0.5 seconds"
        and report["log_det"].code == "C3"
    )
    over.set()  # no thread is left to the tests that follow
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(20)
            assert not thread.is_alive()


def test_a_stochastic_function_is_caught():
    rng = np.random.default_rng(0)
    noisy = {
        **HONEST,
        "normalize": lambda x: (2 * x + 1e-9 * rng.standard_normal(x.shape), scale(x)[1]),
    }
    assert {"deterministic", "round_trip"} <= set(check_flow(noisy, level="quick").failed)


def test_an_answer_that_is_overwritten_later_is_caught():
    buffers = {}

    def reused(x):
        u = buffers.setdefault(x.shape, np.empty(x.shape))
        u[:] = 2 * x
        return u, scale(x)[1]

    assert "overwrites an answer" in result_of("deterministic", normalize=reused).reason


def test_a_worker_raises_what_its_function_raised():
    with Worker(limit=5.0) as worker, pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 / 0)
    with Worker(limit=None) as worker:
        assert worker.run(lambda: 3) == 3


# ---- nobody knows that he is being checked -------------------------------------------------------


def test_batches_are_of_many_sizes_and_rows_in_no_order():
    sizes = []

    def watching(x):
        sizes.append(len(x))
        return scale(x)

    check_flow(normalize=watching, generate=unscale, features=2, level="full", time_limit=None)
    odd = [size for size in sizes if size < 17]
    assert len(odd) < len(sizes) / 3 and len(set(sizes)) > 20
    assert {0, 1} < set(odd)  # asked for on purpose


def test_a_disguised_function_answers_as_the_plain_one():
    calls = []

    def keep(x, c):
        calls.append(x)
        return x[:, 0] * 10

    x, c = np.arange(8.0).reshape(4, 2), np.empty((4, 0))
    disguised = Rows("f", keep, scores=True).disguised(np.random.default_rng(0))
    assert np.array_equal(disguised(x, c), keep(x, c))
    assert np.array_equal(disguised(x, c), keep(x, c))
    assert 17 <= len(calls[0]) <= 64 and np.array_equal(calls[0], calls[2])
    assert not np.array_equal(calls[0][:4], x)
    with pytest.raises(Finding, match="shape"):
        Rows("f", lambda x, c: x, scores=True)(x, c)


# ---- levels, expectations, arguments -------------------------------------------------------------


def test_levels_look_longer_and_longer():
    quick, full, paranoid = (verify.LEVELS[name] for name in ("quick", "full", "paranoid"))
    for number in ("repeats", "points", "samples", "refinements", "parameters"):
        assert getattr(quick, number) < getattr(full, number) < getattr(paranoid, number)
    with pytest.raises(
        ValueError, match="level: expected one of 'quick', 'full', 'paranoid', got 'slow'"
    ):
        check_flow(HONEST, level="slow")


def test_a_higher_level_sees_what_a_lower_one_misses():
    sampler = {"sample": wrong_samples(temperature)}
    assert result_of("agreement", level="quick", **sampler).status == "passed"
    assert result_of("agreement", level="full", **sampler).status == "failed"


def test_an_expected_failure_is_no_failure_and_its_absence_is():
    options = {"checks": ["log_det", "pure"], "level": "quick"}
    wrong = {**HONEST, "normalize": lambda x: (2 * x, 0 * scale(x)[1])}
    report = check_flow(wrong, expected_failures={"log_det"}, **options)
    assert report.ok and report.expected == ["log_det"] and report.failed == []
    assert "1 failed as expected" in str(report)
    report = check_flow(HONEST, expected_failures=["log_det"], **options)
    assert (
        report.failed == ["log_det"]
        and report["log_det"].reason == "was expected to fail, and passed"
    )
    with pytest.raises(ValueError, match="expected_failures"):
        check_flow(HONEST, expected_failures={"magic"}, **options)


def test_the_callers_own_jacobian_is_used_and_looked_at():
    def jacobian(x):
        return np.broadcast_to(2 * np.eye(2), (len(x), 2, 2))

    result = result_of("log_det", jacobian=jacobian)
    assert (
        result.status == "passed" and "caller's jacobian" in result.why and result.tolerance < 1e-10
    )
    assert "jacobian gives shape" in result_of("log_det", jacobian=lambda x: 2 * np.eye(2)).reason
    assert result_of("log_det", jacobian=lambda x: 2 * jacobian(x)).status == "failed"


def test_noise_of_another_base_is_drawn_where_it_lies():
    """u uniform on (0, 1), x = 3 u: outside, there is nothing to ask for."""
    asked = []

    def generate(u):
        asked.append(u)
        return 3 * u, np.full(len(u), np.log(3))

    functions = {
        "generate": generate,
        "log_prob": lambda x: np.where((x >= 0) & (x <= 3), -np.log(3), -np.inf)[:, 0],
        "sample": lambda n, rng: 3 * rng.uniform(size=(n, 1)),
        "noise": lambda n, rng: rng.uniform(size=(n, 1)),
        "support": (0.0, 3.0),
        "features": 1,
    }
    report = check_flow(functions, checks=["agreement", "shapes", "deterministic"], level="full")
    assert report.ok and not report.not_run, f"\n{report}"
    assert (
        min(u.min(initial=0.5) for u in asked) >= 0 and max(u.max(initial=0.5) for u in asked) <= 1
    )


# ---- targets -------------------------------------------------------------------------------------


def test_functions_come_as_a_dictionary_a_module_or_from_a_factory(tmp_path, monkeypatch):
    (tmp_path / "my_flow.py").write_text(
        "import numpy as np\n"
        "features = 2\n"
        "def normalize(x):\n    return 2 * x, np.full(len(x), 2 * np.log(2))\n"
        "class Holder:\n    inner = {'normalize': normalize, 'features': 2}\n"
        "def make():\n    return Holder.inner\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_flow", "my_flow:Holder.inner", "my_flow:make"):
        found = functions_of_target(build(found_object(name)))
        assert check_flow(found, checks=["log_det"]).ok
    with pytest.raises(ValueError, match="has no 'nothing'"):
        found_object("my_flow:nothing")
    with pytest.raises(ValueError, match="no module named 'no_such_flow'"):
        found_object("no_such_flow:make")
    with pytest.raises(ValueError, match="expected names among .*'inverse'"):
        functions_of_target({"inverse": scale})
    with pytest.raises(ValueError, match="at least one of normalize"):
        functions_of_target({"features": 2})


# ---- cases for pytest ----------------------------------------------------------------------------

WRONG = {**HONEST, "normalize": lambda x: (2 * x, 0 * scale(x)[1])}


@verify.parametrize({"honest": HONEST, "ours": lambda: afnp.maf(2, hidden=(4,), transforms=2)})
def test_every_case_passes(check):
    result = check()
    assert result.status == "passed" and check.id.endswith(result.name)


@verify.parametrize([WRONG], checks=["log_det", "pure"], expected_failures={"log_det"})
def test_a_case_that_must_fail_does(check):
    assert check().status == ("expected" if check.check == "log_det" else "passed")


def test_cases_are_named_after_flow_and_check():
    calls = []

    def factory():
        calls.append(1)
        return HONEST

    found = verify.cases([factory, HONEST, WRONG], checks=["pure", "log_det"])
    names = [case.id for case in found]
    assert names == [
        "factory-pure",
        "factory-log_det",
        "dict1-pure",
        "dict1-log_det",
        "dict2-pure",
        "dict2-log_det",
    ]
    assert [found[k].result().status for k in (0, 1, 5)] == [
        "passed",
        "passed",
        "failed",
    ] and calls == [1]
    with pytest.raises(AssertionError, match="C3  log_det +failed"):
        found[5]()
    with pytest.raises(pytest.skip.Exception, match="needs the parameters"):
        verify.cases(HONEST, checks=["staleness"])[0]()


# ---- the report ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return check_flow({**WRONG, "allowed": np.eye(2)}, level="quick")


def test_a_report_is_json_and_markdown_and_html(report):
    read = json.loads(
        report.to_json(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON")
    )
    assert read["ok"] is False and read["level"] == "quick"
    assert [result["name"] for result in read["results"]] == list(verify.CHECKS)
    assert "| C3 | log_det | failed |" in report.to_markdown()
    page = report._repr_html_()
    assert (
        page.count("<tr") == 1 + len(report.results) and "log_det" in page and "<script" not in page
    )


def test_a_report_escapes_what_a_stranger_says():
    def shouting(x):
        raise ValueError("<script>alert(1)</script> | &")

    report = check_flow(normalize=shouting, features=2, checks=["log_det"])
    assert "<script>" not in report._repr_html_() and "\\|" in report.to_markdown()


def _title(ax):
    """Read a title wherever the reader's style puts it."""
    return "".join(ax.get_title(loc) for loc in ("left", "center", "right"))


def test_the_picture_shows_jacobian_round_trip_and_pit(report):
    figure = report.plot()
    titles = [_title(ax) for ax in figure.axes]
    assert any("∂u/∂x" in title for title in titles)
    assert any("round trip" in title for title in titles) and any(
        "samples" in title for title in titles
    )
    figure.canvas.draw()
    forbidden = check_flow(
        normalize=lambda x: (np.cumsum(x, axis=1), np.zeros(len(x))),
        features=3,
        allowed=np.eye(3),
        checks=["log_det"],
    )
    assert "3 forbidden" in _title(forbidden.plot().axes[0])
    with pytest.raises(ValueError, match="no picture"):
        check_flow(HONEST, checks=["pure"]).plot()


def test_the_report_says_how_derivatives_were_taken():
    assert "central differences" in str(check_flow(HONEST, checks=["log_det"], level="quick"))
    assert "complex step" in str(
        check_flow({**HONEST, "complex_step": True}, checks=["log_det"], level="quick")
    )


def test_the_mutation_score_is_read_where_it_was_measured(tmp_path):
    path = tmp_path / "kill_matrix.json"
    assert mutation_score("quick", path) == ""
    rows = {
        "a": {"kind": "flow", "quick": ["log_det", "round_trip"]},
        "b": {"kind": "flow", "quick": ["gradients"]},
        "c": {"kind": "flow", "quick": []},
        "d": {"kind": "functions", "quick": ["pure"]},
        "e": {"kind": "flow", "quick": [], "equivalent": "for a reason"},
    }
    alarms = {"flows": 1000, "alarms": 0, "level": "quick"}
    record = {"mutants": rows, "false_alarms": alarms}
    path.write_text(json.dumps(record))
    assert "catch 2 of 3 defects planted in flows" in mutation_score("quick", path)
    assert "catch 1 of 3" in mutation_score("quick", path, ran=["round_trip", "pure"])
    assert "catch 1 of 1 defects planted in plain functions" in mutation_score(
        "quick", path, kind="functions", ran=["round_trip", "pure"]
    )
    assert "0 false alarms in 1,000 clean flows" in mutation_score("quick", path)
    assert mutation_score("full", path) == ""  # nothing was measured at this level
    assert "alarms" not in mutation_score("quick", path, kind="functions")


# ---- exactness at size ---------------------------------------------------------------------------


def test_a_thousand_features_take_two_passes_for_their_dependencies():
    D, calls = 1000, []
    W = np.eye(D)
    W[3, 700] = 1e-9

    def normalize(x):
        calls.append(len(x))
        return x @ W.T, np.zeros(len(x))

    pattern = verify.dependency_pattern(lambda z: normalize(z)[0], np.zeros(D), rng=0)
    assert calls == [D, D] and pattern[3, 700] and pattern.sum() == D + 1
    calls.clear()
    result = check_flow(
        normalize=normalize, features=D, allowed=np.eye(D), checks=["dependency"], level="quick"
    )
    assert result["dependency"].measured == 1 and result["dependency"].worst["input"] == 700
    assert sum(size >= D for size in calls) == 2
