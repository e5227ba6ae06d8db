"""Verification: clean flows pass every check, and every check catches the defects it is there
for."""

import numpy as np
import pytest

import afnp
from afnp import verify
from afnp.networks import MaskedMLP, masks
from afnp.networks.layers import MaskedLinear
from afnp.transforms import attentive, convolutional, masked
from afnp.transforms.preprocess import Standardize, preprocessing
from afnp.univariate import Affine, RationalQuadratic
from afnp.verify import check_flow
from afnp.verify.jacobian import invertible, log_det_of
from afnp.verify.levels import LEVELS
from afnp.verify.results import NotRun, beyond_rounding, compare
from afnp.verify.subject import Subject
from afnp.verify.tolerance import perturb, perturbed_arrays

CYCLE = [2, 0, 1]  # applied twice it is not undone
PLANTED_IN = ["numpy"]  # the definition; the other renderings are compared with it


def small(**changes):
    """A flow on which every defect below can show: three features, an order that is no involution,
    a context."""
    arguments = {"hidden": (12, 12), "transforms": 2, "order": CYCLE, "context": 1, "seed": 3}
    return afnp.maf(3, **{**arguments, **changes})


def result_of(check, flow=None, **arguments):
    return check_flow(flow, checks=[check], **{"level": "quick", **arguments})[check]


# ---- clean flows pass ----------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clean_flows_pass_every_check(features, dtype):
    flow = afnp.maf(
        features,
        hidden=(max(features, 6),) * (3 if features % 2 else 2),
        transforms=2 + features % 2,
        order="random",
        context=features % 3,
        residual=features % 2 == 1,
        activation="tanh" if features == 5 else "relu",
        dtype=dtype,
        seed=features,
    )
    report = check_flow(flow, seed=features, level="quick", backends=["auto", "numpy", "numba"])
    assert report.ok, f"\n{report}"
    coarse = (
        {"agreement", "noise"} if dtype == np.float32 else set()
    )  # a line may be too steep for its few digits
    assert set(report.not_run) <= {"normalisation"} | coarse


@pytest.mark.parametrize("levels", [None, 17])
def test_flows_with_their_preprocessing_pass(levels):
    x = np.random.default_rng(0).uniform(0, 17, size=(200, 3))
    report = check_flow(small(preprocess=preprocessing(x, levels=levels)), level="quick")
    assert report.ok, f"\n{report}"
    assert set(report.not_run) <= {
        "normalisation",
        "agreement",
    }  # a logit's samples may round to its ends


def test_a_large_flow_is_checked_along_random_directions():
    flow = afnp.maf(4, hidden=(80, 80), transforms=1)
    assert flow.theta.size > LEVELS["full"].parameters
    assert result_of("gradients", flow).status == "passed"


def test_a_fresh_flow_passes_at_its_own_parameters_although_some_relus_stand_on_their_kink():
    for seed in range(3):
        report = check_flow(small(), parameters="own", seed=seed, level="quick")
        assert report.ok, f"\n{report}"


def test_plain_functions_pass():
    flow = verify.randomize(afnp.maf(2, hidden=(8,), transforms=2, activation="tanh", context=1))
    report = check_flow(
        normalize=flow.normalize,
        generate=flow.generate,
        log_prob=flow.log_prob,
        sample=flow.sample,
        features=2,
        context=1,
    )
    assert report.ok, f"\n{report}"
    assert report.not_run == ["dependency", "triangular", "gradients", "staleness"]


def test_the_flow_has_its_parameters_back_afterwards():
    flow = small()
    theta = flow.theta.copy()
    check_flow(flow)
    assert np.array_equal(flow.theta, theta)


# ---- planted defects are caught ------------------------------------------------------------------


def wrong_mask_by_one_degree(flow):
    """The outputs of the density's network hear the feature that they belong to."""
    net, layer = flow.layers[0].conditioner, flow.layers[0]
    wrong = MaskedMLP(net.features, net.numbers, net.hidden, net.context)
    prefix = masks.prefixes(net.degrees[-1], net.degrees[-2], strict=False)
    wrong.linears[-1] = MaskedLinear(prefix, len(net.degrees[-2]), name=str(len(net.hidden)))
    layer.conditioner.forward = wrong.forward


def leak(flow):
    """The first feature hears the last one, with weight 1e-9."""
    net = flow.layers[1].conditioner
    forward = net.forward

    def leaking(p, context, x):
        h, cache = forward(p, context, x)
        h[:, 0, 0] += 1e-9 * x[:, -1]
        return h, cache

    net.forward = leaking


def sampler_in_wrong_order(flow):
    """Each x follows the noise of its neighbour, which may come later in the order."""
    generate = flow.layers[0].generate
    flow.layers[0].generate = lambda p, u, c, *way: generate(p, np.roll(u, 1, axis=1), c, *way)


def dead_context(flow):
    """The first feature never sees the context."""
    net = flow.layers[0].conditioner
    forward = net.forward

    def deaf(p, context, x):
        h, cache = forward(p, context, x)
        h[:, 0] = forward(p, 0 * context, x)[0][:, 0]
        return h, cache

    net.forward = deaf


class WrongSign(Affine):
    """The log-determinants of both directions have the wrong sign, so that they still cancel."""

    def normalize(self, h, x):
        u, log_derivative, cache = super().normalize(h, x)
        return u, -log_derivative, cache

    def generate(self, h, u):
        x, log_derivative = super().generate(h, u)
        return x, -log_derivative


class UnclampedSampler(Affine):
    """The log-scale is bounded in the density only."""

    def generate(self, h, u):
        return h[..., 0] + u * np.exp(h[..., 1]), h[..., 1]


class GradientWithoutLogDet(Affine):
    """The gradient forgets the log-determinant."""

    def backward(self, cache, d_u, d_log):
        return super().backward(cache, d_u, 0 * d_log)


def with_univariate(cls):
    def plant(flow):
        for layer in flow.layers:
            layer.univariate = cls()

    plant.__name__ = cls.__name__
    return plant


def one_log_det_negative(flow):
    """Only ``generate`` has the wrong sign."""
    generate = flow.generate

    def negative(u, context=None, **kwargs):
        x, log_det = generate(u, context, **kwargs)
        return x, -log_det

    flow.generate = negative


class ForgottenScale(Standardize):
    """Standardisation without its Jacobian, in both directions."""

    def _constants(self, x):
        m, s, log_s = super()._constants(x)
        return m, s, 0 * log_s


def forgotten_scale(flow):
    flow.layers.insert(0, ForgottenScale([1.0, 2.0, 3.0], [2.0, 0.5, 3.0]))


def one_step_short(flow):
    """The last feature of the order is left as noise."""
    layer = flow.layers[0]
    generate = layer.generate

    def short(p, u, c, *way):
        x, log_det = generate(p, u, c, *way)
        x[:, layer.order[-1]] = u[:, layer.order[-1]]
        return x, log_det

    layer.generate = short


def order_not_undone(flow):
    """The order is applied where its inverse was needed:
    right for every permutation that is an involution."""
    layer = flow.layers[0]
    generate = layer.generate

    def confused(p, u, c, *way):
        x, log_det = generate(p, u, c, *way)
        return x[:, layer.order][:, layer.order], log_det

    layer.generate = confused


def counts_calls(flow):
    """Every log_prob changes the next one a little."""
    log_prob = flow.log_prob

    def stateful(x, context=None, **way):
        flow.theta[-1] *= 1 + 4 * np.finfo(flow.dtype).eps
        return log_prob(x, context, **way)

    flow.log_prob = stateful


def random_sampler(flow):
    """The seed is ignored."""
    sample, own = flow.sample, np.random.default_rng(0)
    flow.sample = lambda n, rng=0, context=None, **way: sample(n, own, context, **way)


def stale_copy(flow):
    """The sampler keeps the parameters that it saw first."""
    p: list = []

    def generate(u, context=None, method="substitution", backend="auto"):
        if not p:
            p.append(flow.split(flow.theta.copy()))
        return flow.generate_with(p[0], u, context, method)

    flow.generate = generate


def gradient_of_masked_entry(flow):
    """An entry that is never read gets a gradient, tiny as it may be."""
    loss_and_grad = flow.loss_and_grad

    def touching(x, context=None, backend="auto"):
        loss, gradient = loss_and_grad(x, context, backend)
        gradient[np.flatnonzero(gradient == 0)[0]] = 1e-30
        return loss, gradient

    flow.loss_and_grad = touching


DEFECTS = [
    (wrong_mask_by_one_degree, "dependency"),
    (wrong_mask_by_one_degree, "triangular"),
    (leak, "dependency"),
    (leak, "triangular"),
    (sampler_in_wrong_order, "dependency"),
    (dead_context, "connectivity"),
    (with_univariate(WrongSign), "log_det"),
    (with_univariate(WrongSign), "triangular"),
    (one_log_det_negative, "antisymmetry"),
    (forgotten_scale, "log_det"),
    (one_step_short, "round_trip"),
    (order_not_undone, "round_trip"),
    (with_univariate(UnclampedSampler), "round_trip"),
    (counts_calls, "deterministic"),
    (random_sampler, "randomness"),
    (with_univariate(GradientWithoutLogDet), "gradients"),
    (gradient_of_masked_entry, "gradients"),
    (stale_copy, "staleness"),
]


@pytest.mark.parametrize(
    ("plant", "check"), DEFECTS, ids=lambda value: getattr(value, "__name__", value)
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_planted_defect_is_caught(plant, check, dtype):
    flow = small(dtype=dtype)
    plant(flow)
    result = result_of(check, flow, backends=PLANTED_IN)
    assert result.status == "failed", result
    assert not result.reason.startswith("raised"), result


@pytest.mark.parametrize("seed", range(3))
def test_catching_does_not_hang_on_a_lucky_seed(seed):
    for plant, check in DEFECTS:
        flow = small(seed=seed)
        plant(flow)
        report = check_flow(flow, checks=[check], seed=seed, backends=PLANTED_IN, level="quick")
        assert report.failed == [check], plant.__name__


def test_a_wrong_sign_in_both_directions_hides_from_round_trip_and_antisymmetry():
    flow = small()
    with_univariate(WrongSign)(flow)
    report = check_flow(flow, checks=["round_trip", "antisymmetry", "log_det"], backends=PLANTED_IN)
    assert report.passed == ["round_trip", "antisymmetry"] and report.failed == ["log_det"]


def test_renderings_that_disagree_are_caught():
    flow = small()
    with_univariate(WrongSign)(flow)  # in NumPy only
    report = check_flow(flow, checks=["antisymmetry", "log_det"], backends=["numpy", "numba"])
    assert report.failed == ["antisymmetry", "log_det"]


def test_a_rendering_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="backends: expected names among auto, numpy, numba, got"):
        check_flow(small(), backends=["numpy", "abacus"])


def test_a_rendering_that_does_not_run_fails(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("afnp.compiled.stages.Stack.generate", broken)
    result = result_of("round_trip", small(), backends=["numpy", "numba"])
    assert result.status == "failed" and "no such instruction" in result.reason


def test_lost_dependencies_are_counted():
    with pytest.warns(UserWarning, match="impossible"):
        flow = afnp.maf(6, hidden=(2,), transforms=1)
    below, above = (linear.prefix for linear in flow.layers[0].conditioner.linears)
    legal, lost = masks.lost_dependencies([below, above[::2]], features=6)  # two numbers a feature
    result = result_of("connectivity", flow)
    assert result.status == "failed"
    assert (
        result.measured == lost
        and f"{lost} of {legal} legal dependencies are dead" in result.reason
    )


# ---- and in anybody's functions ------------------------------------------------------------------


def scale(x):
    """The honest map u = 2 x, from which the wrong ones below differ in one thing."""
    return 2 * x, np.full(len(x), x.shape[1] * np.log(2), dtype=x.dtype)


def unscale(u):
    return u / 2, np.full(len(u), -u.shape[1] * np.log(2), dtype=u.dtype)


def density(x):
    return (-2 * x**2 + np.log(2) - np.log(2 * np.pi) / 2).sum(axis=1)


def in_place(x):
    x *= 2
    return x, np.full(len(x), x.shape[1] * np.log(2))


def in_float32(x):
    return (2.0 * x.astype(np.float32) + np.float32(0.1)).astype(np.float64), scale(x)[1]


def off_in_float32(u):
    return (u - 0.1) / 2, unscale(u)[1]


def batch_dependent(x):
    return 2 * x + 1e-12 * x.mean(), scale(x)[1]


def summed_over_batch(x):
    return 2 * x, scale(x)[1].sum()


def negative_branch(x):
    return np.where(x.real > 0, x, x / 2), np.zeros(len(x))


def not_finite(x):
    return 2 * x, np.full(len(x), np.nan)


def test_honest_functions_pass():
    functions: dict = {"normalize": scale, "generate": unscale, "log_prob": density}
    for complex_step in (False, True):
        report = check_flow(**functions, features=2, allowed=np.eye(2), complex_step=complex_step)
        assert report.ok, f"\n{report}"
        assert report.not_run == [
            "triangular",
            "agreement",
            "randomness",
            "gradients",
            "staleness",
            "noise",
        ]


@pytest.mark.parametrize(
    ("functions", "check"),
    [
        ({"normalize": in_place, "generate": unscale}, "pure"),
        ({"normalize": in_float32, "generate": off_in_float32}, "round_trip"),
        ({"normalize": lambda x: tuple(a.astype(np.float32) for a in scale(x))}, "shapes"),
        ({"normalize": batch_dependent}, "batch_independence"),
        ({"normalize": summed_over_batch}, "shapes"),
        ({"normalize": not_finite}, "shapes"),
        ({"normalize": not_finite}, "log_det"),
        ({"normalize": negative_branch}, "log_det"),
        ({"normalize": negative_branch, "complex_step": True}, "log_det"),
        ({"normalize": scale, "generate": lambda u: (u / 2, scale(u)[1])}, "antisymmetry"),
        ({"log_prob": lambda x: density(x) + 0.01, "generate": unscale}, "normalisation"),
        (
            {"normalize": lambda x: (np.cumsum(x, axis=1), np.zeros(len(x))), "allowed": np.eye(2)},
            "dependency",
        ),
        ({"normalize": scale, "allowed": np.tri(2)}, "connectivity"),
    ],
)
def test_a_defect_in_a_plain_function_is_caught(functions, check):
    result = result_of(check, features=2, **functions)
    assert result.status == "failed", result
    assert not result.reason.startswith("raised"), result


def test_a_forgotten_context_is_noted_and_a_failure_where_allowed_has_columns_for_it():
    def found(**said):
        functions = {"normalize": lambda x, context: scale(x), "features": 2, "context": 3, **said}
        return check_flow(functions, checks=["connectivity"])["connectivity"]

    assert found().status == "passed" and "no context input moves u" in found().notes[0]
    columns = found(allowed=np.hstack([np.ones((2, 3), bool), np.eye(2, dtype=bool)]))
    assert columns.status == "failed" and "6 of 8 legal dependencies are dead" in columns.reason


# ---- how much is looked at -----------------------------------------------------------------------


def test_small_flows_are_looked_at_everywhere_and_large_ones_at_fewer_places():
    def looked(flow, level):
        subject = Subject.of_flow(flow, ["numpy"], LEVELS[level])
        return [
            subject.worth(8, 2),
            subject.tolerance.count,
            "generate, naive" in subject.generators,
        ]

    small, default = afnp.maf(3, hidden=(8, 8), transforms=2), afnp.maf(3)
    assert looked(small, "quick") == looked(default, "paranoid") == [8, 8, True]
    assert looked(default, "quick") == [2, 2, False]
    assert looked(default, "full") == [2, 2, True]


def test_all_checks_are_given_rows_of_the_same_candidates_whoever_asks_first():
    flow = verify.randomize(afnp.maf(3, hidden=(8, 8), transforms=2, context=1))
    one, two = (Subject.of_flow(flow, ["numpy"]) for _ in range(2))
    two.points.rows(np.random.default_rng(1), 64)
    given = [subject.points.rows(np.random.default_rng(2), 9) for subject in (one, two)]
    assert all(np.array_equal(a, b) for a, b in zip(*given, strict=True))
    x, u, c = given[0]
    assert np.allclose(flow.generate(u, c)[0], x, atol=1e-9)
    flow.theta = flow.theta / 2  # other parameters, other rows
    x, u, c = one.points.rows(np.random.default_rng(2), 9)
    assert np.allclose(flow.generate(u, c)[0], x, atol=1e-9)


def test_random_parameters_leave_no_unit_silent():
    silent = 0
    for seed in range(20):
        flow = verify.randomize(afnp.maf(3, hidden=(6, 6), transforms=2, context=1), seed)
        rng = np.random.default_rng(seed)
        u, c = rng.standard_normal((400, 3)), rng.standard_normal((400, 1))
        x = flow.generate(u, c)[0]
        for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
            activations = layer.conditioner.forward(p, c, x[:, layer.order])[1][1:]
            silent += sum(int((a == 0).all(axis=0).sum()) for a in activations)
            x = layer.normalize(p, x, c)[0]
    assert silent <= 5  # of 480


def test_rows_outside_the_support_are_never_asked_for():
    def log_of_positive(x):
        assert (x > 0).all()
        return np.log(x), -np.log(x).sum(axis=1)

    data = np.random.default_rng(0).uniform(0.1, 3, (50, 2))
    report = check_flow(
        normalize=log_of_positive,
        features=2,
        data=data,
        checks=["log_det", "deterministic", "pure"],
    )
    assert report.ok, f"\n{report}"


# ---- the report says what happened ---------------------------------------------------------------


def test_what_is_missing_is_not_run_and_never_passed():
    report = check_flow(normalize=scale, features=3)
    assert report.not_run == [
        "dependency",
        "connectivity",
        "triangular",
        "round_trip",
        "antisymmetry",
        "normalisation",
        "agreement",
        "randomness",
        "gradients",
        "staleness",
        "identities",
        "noise",
    ]
    assert report["round_trip"].reason == "needs generate"
    assert report.ok


def test_a_report_without_a_passed_check_is_not_ok():
    assert not check_flow(normalize=scale, features=3, checks=["round_trip"]).ok


def test_an_exception_becomes_a_failed_result():
    def broken(x):
        raise RuntimeError("no such table")

    result = result_of("log_det", normalize=broken, features=2)
    assert result.status == "failed" and result.reason == "raised RuntimeError: no such table"


def test_a_failed_report_raises_with_its_table():
    report = check_flow(normalize=negative_branch, features=2)
    with pytest.raises(AssertionError, match="C3  log_det +failed"):
        report.raise_if_failed()
    check_flow(small(), checks=["round_trip"]).raise_if_failed()


def test_a_result_says_how_much_was_allowed_and_why():
    result = result_of("round_trip", small())
    assert 0 <= result.measured < result.tolerance < 1e-6
    assert (
        "condition" in result.why
        and set(result.worst) == {"trip", "row", "feature"}
        and result.seconds > 0
    )


def test_the_same_seed_gives_the_same_report():
    one, two = (check_flow(small(), seed=4, checks=["round_trip", "log_det"]) for _ in range(2))
    assert [(r.measured, r.tolerance, r.worst) for r in one.results] == [
        (r.measured, r.tolerance, r.worst) for r in two.results
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a flow, or functions"),
        ({"flow": small(), "normalize": scale}, "either a flow, or functions"),
        ({"normalize": scale}, "features"),
        ({"normalize": scale, "features": 0}, "features"),
        ({"flow": small(), "checks": ["log_det", "magic"]}, "magic"),
        ({"flow": small(), "parameters": "mine"}, "parameters"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_flow(**arguments)


# ---- derivatives and patterns --------------------------------------------------------------------


def test_both_jacobians_agree_with_calculus():
    x = np.random.default_rng(0).standard_normal((4, 3))
    A = np.random.default_rng(1).standard_normal((2, 3))
    exact = np.cos(x @ A.T)[:, :, None] * A
    complex_step = verify.complex_step_jacobian(lambda z: np.sin(z @ A.T), x)
    central = verify.central_jacobian(lambda z: np.sin(z @ A.T), x)
    assert np.abs(complex_step - exact).max() < 1e-15
    assert 1e-14 < np.abs(central - exact).max() < 1e-9


def test_a_function_that_drops_the_imaginary_part_is_refused():
    with pytest.raises(TypeError, match="complex"):
        verify.complex_step_jacobian(lambda z: z.real, np.ones((1, 2)))


def test_the_dependency_pattern_of_a_thousand_features_is_exact():
    D, rng = 1000, np.random.default_rng(0)
    W = np.tril(rng.standard_normal((D, D)))
    W[3, 700] = 1e-9
    pattern = verify.dependency_pattern(lambda z: z @ W.T, rng.standard_normal(D), rng)
    assert np.array_equal(pattern, W != 0)


def test_several_base_points_see_behind_a_dead_relu():
    def relu(z):
        return np.maximum(z, 0)

    assert not verify.dependency_pattern(relu, np.full(2, -9.0), rng=0).any()
    assert np.array_equal(
        verify.dependency_pattern(relu, np.array([[-9.0, -9.0], [9.0, 9.0]]), rng=0), np.eye(2)
    )


def test_random_parameters_fill_what_is_masked_and_nobody_reads_it():
    flow = verify.randomize(small(), seed=5)
    assert (flow.theta != 0).all()
    x, context = np.ones((2, 3)), np.ones((2, 1))
    before = flow.log_prob(x, context)
    _, gradient = flow.loss_and_grad(x, context)
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
        for linear in layer.conditioner.linears:
            W = p[linear.W]
            W[~masks.mask(linear.prefix, W.shape[1])] = 1e6
    assert np.array_equal(flow.log_prob(x, context), before)
    assert np.array_equal(flow.loss_and_grad(x, context)[1], gradient)


def test_every_check_stands_alone():
    flow = verify.randomize(small(), seed=1)
    subject = verify.Subject.of_flow(flow)
    result = verify.CHECKS["triangular"](subject, np.random.default_rng(0))
    assert (result.name, result.code, result.status) == ("triangular", "C3", "passed")


def test_shaken_arithmetic_says_how_much_is_rounded_inside_a_layer():
    """A spline's last bin is a difference of knots: where it is narrow its gradient is off by
    thousands of ε, which no moved input shows."""
    tau, rng, delta = RationalQuadratic(bins=4), np.random.default_rng(0), 1e-8
    h, x = (
        rng.standard_normal((300, 11)).astype(np.float32),
        rng.uniform(3.993, 3.999, 300).astype(np.float32),
    )
    h[:, 0] += 12  # the first bin takes all that there is

    def gradient(h, x):
        return np.asarray(
            tau.backward(tau.normalize(h, x)[2], np.ones_like(x), np.ones_like(x))[0], np.float64
        )

    h64, x64 = h.astype(np.float64), x.astype(np.float64)
    exact, shaken = gradient(h64, x64), perturbed_arrays(rng, delta)

    def off(gradients):
        return np.sqrt(np.mean([np.square(g - exact).sum(axis=1) for g in gradients], axis=0))

    rounded = off([gradient(h, x)]) / np.finfo(np.float32).eps
    inside = off([gradient(h64.view(shaken), x64.view(shaken)) for _ in range(8)]) / delta
    outside = (
        off([gradient(perturb(h64, rng, delta), perturb(x64, rng, delta)) for _ in range(8)])
        / delta
    )
    assert 0.1 < np.median(rounded / inside) < 1 and (rounded / inside).max() < 2
    assert (rounded / outside).max() > 20


@pytest.mark.parametrize(
    "layer",
    [
        masked(4, (6, 6), univariate="spline"),
        masked(4, (6, 6, 6), residual=True, univariate="logistic_mixture"),
        attentive(4, width=4, heads=2),
        convolutional(4, univariate="gaussian_mixture"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_shaken_arithmetic_reaches_the_inside_of_networks_and_univariates(layer):
    """Were it lost on the way, as in a plain buffer, what follows would count as exact."""
    rng = np.random.default_rng(0)
    shaken = perturbed_arrays(rng, 1e-8)
    theta, x = (rng.standard_normal(shape).view(shaken) for shape in (layer.layout.size, (3, 4)))
    net = layer.conditioner
    h, _ = net.forward(layer.layout.views(theta), np.empty((3, 0)).view(shaken), x)
    assert type(h) is shaken and type(layer.univariate.normalize(h, x)[0]) is shaken


def test_points_without_a_tolerance_are_no_success():
    with pytest.raises(NotRun, match="too ill-conditioned"):
        compare(
            np.ones((2, 2)),
            beyond_rounding(np.full((2, 2), 2.0), np.ones((2, 2))),
            "",
            ("row", "feature"),
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_data_that_are_preprocessed_stay_in_float64(dtype):
    rows = np.random.default_rng(0).normal(1e4, 3.0, (50, 2))
    flow = afnp.made(2, (4,), dtype=dtype, preprocess=afnp.preprocessing(rows))
    assert check_flow(flow, checks=("shapes",), level="quick").ok
    assert flow.sample(3, rng=0).dtype == np.float64
    flow.sample = lambda *args, **kwargs: np.zeros((args[0], 2), np.float16)
    assert not check_flow(flow, checks=("shapes",), level="quick").ok


def test_matrices_that_rounding_makes_singular_are_told_apart():
    """A scale of its own for each row and column is no loss of rank; two equal rows are."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    scaled = Q * [1e-90, 1.0, 1e90] * [[1.0], [1e50], [1e-50]]
    lost = Q.copy()
    lost[2] = lost[1] * (1 + 1e-16)
    assert invertible(np.stack([Q, scaled, lost])).tolist() == [True, True, False]


def test_a_matrix_that_counts_as_invertible_tells_how_far_its_determinant_may_be_off():
    """Rounding of an entry next to 1 moves the gap of two equal rows: log det by eps / gap."""
    gaps = np.geomspace(1e-16, 1e-9, 200)
    J = np.ones((200, 2, 2))
    J[:, 1, 1] += gaps
    spread = log_det_of(J, np.zeros_like(J))[1]
    counts = invertible(J)
    assert counts.any() and not counts.all()
    assert (spread >= np.finfo(np.float64).eps / gaps)[counts].all()
