"""Fixed-point iterations give the sample of the textbook loop, in at most D of them,
whatever happens on the way."""

import doctest
from itertools import pairwise

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp.compiled.stages import uncompiled
from afnp.networks import Network
from afnp.sampling import blocks as blockwise
from afnp.sampling import fixed_point
from afnp.sampling.fixed_point import (
    GaussSeidel,
    Jacobi,
    Newton,
    Record,
    exponent,
    iterate,
    likelihood_error,
)
from afnp.sampling.substitution import naive
from afnp.transforms import attentive, convolutional, masked

SAME = 1e-12
"""Of the largest entry: the same sums in another order,
through steps that each amplify rounding a little."""

METHODS = [
    "jacobi",
    "gauss-seidel",
    GaussSeidel(block=1),
    GaussSeidel(block=3),
    GaussSeidel(block=100),
]


def flow_of(kind, D=7, dtype=np.float64, context=0, last=0.3):
    """A lively flow of each kind; those without masks are given large parameters by hand."""
    common = dict(context=context, dtype=dtype, seed=3)
    if kind == "attention":
        flow = afnp.Flow([attentive(D, width=8, heads=2, blocks=2, context=context)], **common)
    elif kind == "tokens":
        flow = afnp.Flow(
            [attentive(D + D % 2, patch=2, width=8, heads=2, blocks=1, context=context)], **common
        )
    elif kind == "convolution":
        layers = [convolutional(D, 4, (1, 2), reverse=r, context=context) for r in (False, True)]
        flow = afnp.Flow(layers, **common)
    else:
        build, options = {
            "maf": (afnp.maf, {"order": np.roll(np.arange(D), -1)}),
            "residual": (
                afnp.maf,
                {"residual": True, "hidden": (max(D, 8),) * 3, "order": "random"},
            ),
            "tanh": (afnp.maf, {"activation": "tanh", "hidden": (9,)}),
            "linear": (afnp.maf, {"hidden": ()}),
            "spline": (afnp.nsf, {}),
            "mixture": (afnp.maf_mog, {}),
            "angles": (afnp.maf, {"univariate": "circular_spline", "options": {"bins": 4}}),
        }[kind]
        options = {"hidden": (max(D, 8),) * 2, "transforms": 2, **options, **common}
        return lively(build(D, **options), seed=D, last=last)
    rng = np.random.default_rng(5)
    flow.theta = flow.theta + 0.3 * rng.standard_normal(flow.theta.shape)
    return flow


KINDS = [
    "maf",
    "residual",
    "tanh",
    "linear",
    "spline",
    "mixture",
    "angles",
    "attention",
    "tokens",
    "convolution",
]


def noise(flow, n, seed=1):
    rng = np.random.default_rng(seed)
    context = rng.standard_normal((n, flow.context)) if flow.context else None
    if getattr(flow.layers[-1], "periodic", False):
        return rng.uniform(-3, 3, (n, flow.features)), context
    return rng.standard_normal((n, flow.features)), context


def check_same(flow, n, method, backend, tolerance=SAME):
    u, context = noise(flow, n)
    backend = "auto" if uncompiled(flow.layers) else backend
    x, log_det = flow.generate(u, context, method=method, backend=backend)
    x_naive, log_det_naive = flow.generate(u, context, method="naive")
    assert x.dtype == flow.dtype and log_det.dtype == flow.dtype
    assert norm_error(x, x_naive) < tolerance
    assert norm_error(log_det, log_det_naive) < tolerance


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("spline", "mixture", "angles")]
)
def test_iterations_equal_the_textbook_loop(kind, method, context, backend):
    check_same(flow_of(kind, context=context), 40, method, backend)


@pytest.mark.parametrize("method", ["jacobi", GaussSeidel(block=3)], ids=str)
@pytest.mark.parametrize("kind", ["spline", "mixture", "angles"])
def test_iterations_equal_the_textbook_loop_through_every_univariate(kind, method, backend):
    """1e-9: a spline may be steep, and a root stops at rounding;
    both are amplified by what follows."""
    check_same(flow_of(kind), 40, method, backend, tolerance=1e-9)


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("hidden", [(3,), (2, 9), (9, 2, 1)])
@pytest.mark.parametrize("method", ["jacobi", GaussSeidel(block=4)], ids=str)
def test_narrow_networks_skip_degrees(hidden, method, backend):
    check_same(lively(afnp.maf(11, hidden, 2, "random", context=1), last=0.3), 7, method, backend)


@pytest.mark.parametrize("n", [0, 1, 2, 8, 9, 31, 32, 33, 65, 129])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, SAME), (np.float32, 1e-4)])
def test_any_number_of_rows(n, dtype, tolerance, backend):
    for method in ("jacobi", GaussSeidel(block=3)):
        check_same(flow_of("residual", 5, dtype, context=2), n, method, backend, tolerance)


@pytest.mark.parametrize("D", [1, 2, 3, 16, 17, 40])
def test_any_number_of_features(D, backend):
    flow = lively(afnp.maf(D, (max(D, 4),), 2, context=1), seed=D, last=0.3)
    for method in ("jacobi", "gauss-seidel"):
        check_same(flow, 12, method, backend)


def test_flows_are_sampled_through_layers_that_do_not_sweep(backend):
    """Couplings and inverse transforms take one pass, whatever the method;
    the record is of those that iterate."""
    for flow, solved in (
        (lively(afnp.realnvp(6, (8,), 2)), 0),
        (lively(afnp.iaf(6, (8,), 2), last=0.3), 0),
    ):
        check_same(flow, 5, "jacobi", backend)
        u, _ = noise(flow, 5)
        assert iterate(flow, u, backend=backend)[2].iterations.shape == (5, solved)


@pytest.mark.parametrize("kind", ["attention", "convolution"])
def test_where_the_arithmetic_is_the_same_so_are_the_bits(kind):
    """One row of a whole network: each iteration is a pass of the loop,
    and features not yet right add exact zeros."""
    flow = flow_of(kind)
    for seed in range(5):
        u, _ = noise(flow, 1, seed)
        x = flow.generate(u, method="jacobi", backend="numpy")[0]
        np.testing.assert_array_equal(x, flow.generate(u, method="naive")[0])


def test_a_block_of_all_features_is_jacobi(backend):
    flow = flow_of("maf", 9)
    u, _ = noise(flow, 50)
    for D in (9, 10):
        wide, jacobi = (
            iterate(flow, u, method=m, backend=backend) for m in (GaussSeidel(block=D), Jacobi())
        )
        np.testing.assert_array_equal(wide[0], jacobi[0])
        np.testing.assert_array_equal(wide[2].iterations, jacobi[2].iterations)


def test_samples_of_a_seed_are_the_same(backend):
    flow = flow_of("maf")
    by_loop = flow.sample(9, rng=7, method="naive")
    for method in METHODS:
        assert norm_error(flow.sample(9, rng=7, method=method, backend=backend), by_loop) < SAME


@pytest.mark.parametrize("method", METHODS[:4], ids=str)
@pytest.mark.parametrize("kind", ["maf", "residual", "attention", "convolution"])
def test_iterations_take_complex_numbers(kind, method):
    """Their derivative is that of the loop, by complex steps through both."""
    flow, method = flow_of(kind, 4, context=1), fixed_point.method_of(method, "numpy")
    u, context = noise(flow, 1)
    p = flow.split(flow.theta)

    def jacobian(how):
        return complex_step(
            lambda v: flow.generate_with(p, v[None], context.astype(complex), how)[0][0], u[0]
        )

    assert norm_error(jacobian(method), jacobian("naive")) < SAME


# ---- how many iterations -------------------------------------------------------------------------


def chain(D, weight):
    """x_i = u_i + w x_{i-1}: the simplest of all chains, as a linear flow."""
    flow = afnp.Flow([masked(D, (), univariate="additive")])
    W = flow.own[0]["W0"]
    W[:] = weight * np.eye(D, k=-1)
    return flow


@pytest.mark.parametrize("D", [1, 2, 5, 12])
def test_a_chain_needs_all_iterations_and_its_absence_one(D, backend):
    """With w = 1, what happens to x_1 reaches x_D in iteration D, not before; with w = 0,
    iteration 1 changes nothing."""
    u, _ = noise(chain(D, 1.0), 20)
    x, _, record = iterate(chain(D, 1.0), u, backend=backend)
    assert norm_error(x, np.cumsum(u, axis=1)) < SAME
    assert (record.iterations == D).all()
    x, _, record = iterate(chain(D, 0.0), u, backend=backend)
    np.testing.assert_array_equal(x, u)
    assert (record.iterations == 1).all()


def test_a_contraction_stops_when_nothing_changes(backend):
    """|w| = 2^-10: each iteration settles 10 bits of 53, whatever D is: 6 iterations,
    then one or two to see it."""
    u, _ = noise(chain(60, 2.0**-10), 30)
    x, _, record = iterate(chain(60, 2.0**-10), u, backend=backend)
    assert 6 <= record.iterations.min() and record.iterations.max() <= 8
    assert norm_error(x, chain(60, 2.0**-10).generate(u, method="naive")[0]) < SAME


def test_never_more_iterations_than_features(backend):
    for kind in ("maf", "spline"):
        flow = flow_of(kind, 9, last=1.0)
        u, _ = noise(flow, 100)
        assert iterate(flow, u, backend=backend)[2].iterations.max() <= 9
        record = iterate(flow, u, method=GaussSeidel(block=4), backend=backend)[2]
        assert record.iterations.max() <= 9


def test_after_k_iterations_the_first_k_features_are_right():
    """The theorem, watched: the network stops answering truly after k iterations, for any guess."""
    layer = flow_of("maf", 8, last=1.0).layers[0]
    p = layer.layout.views(flow_of("maf", 8, last=1.0).own[0].flat.copy())
    u, context = np.random.default_rng(2).standard_normal((20, 8)), np.empty((20, 0))
    true, _ = naive(layer.conditioner, layer.univariate.generate, p, u, context)
    rng = np.random.default_rng(3)
    guess = 3 * rng.standard_normal(u.shape)
    for k in range(1, 9):
        x = guess.copy()
        for _ in range(k):
            h, _ = layer.conditioner.forward(p, context, x)
            x, _ = layer.univariate.generate(h, u)
        assert norm_error(x[:, :k], true[:, :k]) < SAME


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
def test_a_tolerance_stops_earlier_and_is_kept(tolerance, backend):
    """In the chain an error shrinks by w an iteration, so the last change bounds what is left by
    w / (1 - w) < 1."""
    flow = chain(40, 0.25)
    u, _ = noise(flow, 50)
    exact, _, full = iterate(flow, u, backend=backend)
    for method in (Jacobi(tolerance), GaussSeidel(block=20, tolerance=tolerance)):
        x, _, record = iterate(flow, u, method=method, backend=backend)
        assert 0 < np.abs(x - exact).max() < tolerance
        assert (record.iterations < full.iterations).all()


def test_rows_do_not_know_each_other(backend):
    flow = flow_of("maf", 9, context=1)
    u, context = noise(flow, 60)
    turned = np.roll(np.arange(60), 7)
    for method in (Jacobi(1e-3), GaussSeidel(4)):
        x, log_det, record = iterate(flow, u, context, method, backend)
        x_turned, log_det_turned, record_turned = iterate(
            flow, u[turned], context[turned], method, backend
        )
        assert (
            norm_error(x_turned, x[turned]) < SAME
            and norm_error(log_det_turned, log_det[turned]) < SAME
        )
        assert (
            np.abs(record_turned.iterations - record.iterations[turned]) <= 2
        ).all()  # last bits may settle otherwise
    if backend == "numba":
        np.testing.assert_array_equal(record_turned.iterations, record.iterations[turned])


def test_a_settled_row_waits_without_moving(backend):
    """Three rows of little noise settle long before seven of much; waiting changes nothing,
    at any tolerance."""
    flow = chain(40, 0.25)
    u, _ = noise(flow, 10)
    u *= np.where(np.arange(10) < 3, 0.1, 1e4)[:, None]
    for method in (Jacobi(1e-2), GaussSeidel(20, tolerance=1e-2)):
        x, log_det, record = iterate(flow, u, method=method, backend=backend)
        alone, log_det_alone, record_alone = iterate(flow, u[:3], method=method, backend=backend)
        assert record.iterations[:3].max() < record.iterations[3:].min()
        np.testing.assert_array_equal(record.iterations[:3], record_alone.iterations)
        assert norm_error(x[:3], alone) < SAME
        np.testing.assert_array_equal(log_det[:3], log_det_alone)


def test_backends_take_the_same_iterations_up_to_last_bits():
    flow = flow_of("maf", 16)
    u, _ = noise(flow, 200)
    by_numpy, by_numba = (
        iterate(flow, u, backend=backend)[2].iterations for backend in ("numpy", "numba")
    )
    assert np.abs(by_numpy.mean(axis=0) - by_numba.mean(axis=0)).max() < 1


# ---- garbage -------------------------------------------------------------------------------------


def harsh_flow(D=8):
    """Scales e^a without bound: guesses overflow, samples mostly do not."""
    options = {"univariate": "affine", "options": {"scale": "exp"}}
    return lively(afnp.maf(D, (16, 16), 1, **options), seed=1, gain=1.5, last=1.2)


def harsh_noise(flow, n=60):
    """Rows whose sample is finite and of moderate size, by the definition;
    with large noise last."""
    rng = np.random.default_rng(4)
    u = rng.standard_normal((20 * n, flow.features))
    u[:, 2:] *= 30
    with np.errstate(all="ignore"):
        x, _ = flow.generate_with(flow.own, u, np.empty((len(u), 0)), "naive")
    good = np.isfinite(x).all(axis=1) & (np.abs(x) < 1e100).all(axis=1)
    assert good.sum() >= n
    return u[good][:n]


def plain_iteration(flow, u):
    """D density passes without any care."""
    layer, p, x = flow.layers[0], flow.own[0], u
    with np.errstate(all="ignore"):
        for _ in range(u.shape[1]):
            h, _ = layer.conditioner.forward(p, np.empty((len(u), 0)), x)
            x, _ = layer.univariate.generate(h, u)
    return x


@pytest.mark.parametrize("method", ["jacobi", GaussSeidel(block=5)], ids=str)
def test_guesses_that_overflow_do_no_harm(method, backend):
    """Row by row, of its own largest entry: sizes differ by orders. 1e-9:
    steep steps amplify rounding."""
    flow = harsh_flow()
    u = harsh_noise(flow)
    true, log_det_true = flow.generate(u, method="naive")
    lost = ~np.isfinite(plain_iteration(flow, u)).all(axis=1)
    assert lost.sum() > 5  # what the repair is for: 0 · inf
    x, log_det, record = iterate(flow, u, method=method, backend=backend)
    assert (np.abs(x - true).max(axis=1) <= 1e-9 * np.abs(true).max(axis=1)).all()
    assert norm_error(log_det, log_det_true) < 1e-9
    assert record.iterations.max() <= 8


@pytest.mark.parametrize("start", [np.nan, np.inf, -np.inf, 1e308])
def test_any_guess_will_do(start):
    """From a guess of nothing but garbage, through both ways of running a network."""
    flow = flow_of("maf", 6)
    layer, p = flow.layers[0], flow.own[0]
    u, context = np.random.default_rng(2).standard_normal((9, 6)), np.empty((9, 0))
    true, log_det_true = naive(layer.conditioner, layer.univariate.generate, p, u, context)
    for network in (
        layer.conditioner.solver(p, context),
        blockwise.Whole(layer.conditioner, p, context),
    ):
        x = np.full((9, 6), start)
        network.begin(x, 0, 6)
        with np.errstate(all="ignore"):
            log_det, taken, passes = blockwise.settle(
                network.params, layer.univariate.generate, u, x, 0.0
            )
        assert norm_error(x, true) < SAME and norm_error(log_det, log_det_true) < SAME
        assert (taken <= 6).all() and (passes > taken).all()


@pytest.mark.parametrize("kind", ["spline", "mixture", "angles"])
def test_any_guess_will_do_for_univariates_that_refuse_garbage(kind):
    """A mixture raises where it finds no root; then only the feature that is certain is asked
    for."""
    flow = flow_of(kind, 5)
    layer, p = next(
        pair for pair in zip(flow.layers, flow.own, strict=True) if pair[0].conditioner is not None
    )
    u, context = np.random.default_rng(2).uniform(-1, 1, (9, 5)), np.empty((9, 0))
    true, _ = naive(layer.conditioner, layer.univariate.generate, p, u, context)
    network, x = layer.conditioner.solver(p, context), np.full((9, 5), 1e300)
    network.begin(x, 0, 5)
    with np.errstate(all="ignore"):
        blockwise.settle(network.params, layer.univariate.generate, u, x, 0.0)
    assert norm_error(x, true) < 1e-9


def test_masked_weights_are_never_read(backend):
    for method in ("jacobi", GaussSeidel(block=2)):
        flow = flow_of("maf", 6, context=1)
        u, context = noise(flow, 40)
        clean = flow.generate(u, context, method=method, backend=backend)
        lively(flow, seed=6, last=0.3, garbage=np.nan)
        for a, b in zip(
            clean, flow.generate(u, context, method=method, backend=backend), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_what_is_itself_not_a_number_is_refused(backend):
    """x_1 = e^800 has no float64: no method may answer."""
    flow = afnp.made(3, hidden=(4,), univariate="affine", options={"scale": "exp"})
    lively(flow, last=0.3)
    flow.own[0]["b1"][:2] = 0, 800
    flow.own[0]["W0"][:, 0] = 1
    for method in ("naive", "jacobi", "gauss-seidel"):
        if method == "naive" or backend == "numpy":
            with pytest.raises(
                FloatingPointError, match="^row 0 of u gives a result that is not a number$"
            ):
                flow.generate(np.ones((2, 3)), method=method)


# ---- what it took --------------------------------------------------------------------------------


def test_arithmetic_is_counted(backend):
    """A chain of one dense layer: D (D - 1) / 2 weights an iteration;
    in blocks of B those of the diagonal repeat."""
    D, B, n = 12, 4, 32
    u, _ = noise(chain(D, 1.0), n)
    each = D * (D - 1) // 2
    assert (iterate(chain(D, 1.0), u, backend=backend)[2].multiply_adds == D * each).all()
    record = iterate(chain(D, 1.0), u, method=GaussSeidel(block=B), backend=backend)[2]
    inside = B * (B - 1) // 2
    assert (record.multiply_adds == (each - D // B * inside) + D * inside).all()
    assert (record.iterations == D).all()


def test_blocks_of_one_feature_take_the_arithmetic_of_substitution(backend):
    flow = flow_of("residual", 6, context=2)
    u, context = noise(flow, 10)
    record = iterate(flow, u, context, GaussSeidel(block=1), backend)[2]
    per_transform = [layer.cost.generate.multiply_adds for layer in flow.layers]
    np.testing.assert_array_equal(record.multiply_adds, np.tile(per_transform, (10, 1)))


def test_the_record_follows_the_layers_from_the_data_to_the_noise(backend):
    """A chain that needs D iterations before one that needs 1, and the other way round."""
    hard, easy = chain(6, 1.0), chain(6, 0.0)
    for first, second, expected in ((hard, easy, (6, 1)), (easy, hard, (1, 6))):
        flow = afnp.Flow([first.layers[0], second.layers[0]])
        flow.theta = np.concatenate([first.theta, second.theta])
        u, _ = noise(flow, 5)
        np.testing.assert_array_equal(
            iterate(flow, u, backend=backend)[2].iterations, np.tile(expected, (5, 1))
        )


def test_rows_that_have_settled_are_dropped():
    """Half of the rows have nothing to do: they cost one or two iterations, not the others'."""
    D = 24
    u = np.zeros((40, D))
    u[20:] = np.random.default_rng(0).standard_normal((20, D))
    record = iterate(chain(D, 1.0), u, backend="numpy")[2]
    each = D * (D - 1) // 2
    assert (record.iterations[:20] == 1).all() and (record.iterations[20:] == D).all()
    assert (record.multiply_adds[:20] == each).all() and (
        record.multiply_adds[20:] == D * each
    ).all()


def test_settled_rows_are_counted():
    record = Record(np.array([[1, 2], [3, 2], [3, 2]]), np.zeros((3, 2), int))
    assert record.settled(0).tolist() == [0, 1, 1, 3] and record.settled(1).tolist() == [0, 0, 3]


def test_streamed_batches_keep_their_records(backend, monkeypatch):
    flow = flow_of("maf")
    u, _ = noise(flow, 201)
    whole = iterate(flow, u, backend=backend)
    monkeypatch.setattr("afnp.model.BATCH_NUMBERS", 64)
    parts = iterate(flow, u, backend=backend)
    assert norm_error(parts[0], whole[0]) < SAME and parts[2].iterations.shape == whole[
        2
    ].iterations.shape == (201, 2)


# ---- stopping early ------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, 7])
def test_iterations_are_bounded_and_the_first_features_right(most, backend):
    """After k iterations of a block its first k features are right; engines stop alike."""
    flow = lively(afnp.made(7, (9, 9)), last=1.0)
    u, _ = noise(flow, 40)
    true = flow.generate(u, method="naive")[0]
    for method in (Jacobi(max_iterations=most), GaussSeidel(4, max_iterations=most)):
        x, log_det, record = iterate(flow, u, method=method, backend=backend)
        blocks = 1 if isinstance(method, Jacobi) else 2
        assert record.iterations.max() <= blocks * most
        assert norm_error(x[:, :most][:, :4], true[:, :most][:, :4]) < SAME
        by_numpy = iterate(flow, u, method=method, backend="numpy")
        assert norm_error(x, by_numpy[0]) < 1e-9 and norm_error(log_det, by_numpy[1]) < 1e-9
        np.testing.assert_array_equal(record.iterations, by_numpy[2].iterations)
    assert (np.abs(x - true).max() > 1e-6) == (most < 4)


def test_the_error_of_the_likelihood_is_what_the_claim_is_off(backend):
    flow = flow_of("maf", 9, context=1)
    u, context = noise(flow, 30)
    before = np.inf
    for tolerance in (0.3, 1e-2, 1e-4, 0.0):
        method = Jacobi(tolerance)
        x, log_det = flow.generate(u, context, method, backend)
        claimed = -0.5 * (u**2).sum(axis=1) - 4.5 * np.log(2 * np.pi) - log_det
        error = likelihood_error(flow, u, context, method, backend)
        assert np.allclose(error, flow.log_prob(x, context) - claimed, atol=1e-12)
        assert np.abs(error).mean() < before
        before = np.abs(error).mean()
    assert before < 1e-11


# ---- Newton's method -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:hidden widths:UserWarning")
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_newton_equals_the_textbook_loop(kind, context):
    """1e-9: the last iteration leaves the square of the tolerance, times a curvature."""
    if context and kind in ("spline", "mixture", "angles"):
        return
    flow = flow_of(kind, context=context)
    check_same(flow, 20, "newton", "auto", tolerance=1e-9)
    u, c = noise(flow, 20)
    assert iterate(flow, u, c, Newton())[2].iterations.max() <= flow.features
    assert np.abs(likelihood_error(flow, u, c, "newton")).max() < 1e-8


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_newton_in_both_precisions_of_any_number_of_rows(dtype, tolerance):
    for n in (0, 1, 5):
        check_same(flow_of("residual", 5, dtype, context=2), n, "newton", "auto", tolerance)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "mixture"])
def test_the_matrix_of_newton_is_the_derivative(kind, context):
    """By complex steps through the network; a mixture's root takes none."""
    if context and kind in ("spline", "angles"):
        return
    flow = flow_of(kind, context=context)
    layer, p = flow.layers[0], flow.own[0]
    net = layer.conditioner
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (3, net.features))
    c = rng.standard_normal((3, context))
    slope = rng.standard_normal((3, net.features, net.numbers))
    T = net.jacobian(p, c, x, slope)
    for n in range(3):

        def h(row, n=n):
            return net.forward(p, c[n : n + 1].astype(complex), row[None])[0][0]

        true = np.einsum("ik,ikj->ij", slope[n], complex_step(h, x[n]))
        assert norm_error(T[n], true) < 1e-13
        assert not T[n][~net.allowed()].any()


def test_the_jacobian_of_a_masked_network_is_that_of_any_network():
    """By its own products, and by backward passes of D rows; in blocks as well."""
    flow = flow_of("residual", 6, context=1)
    net, p = flow.layers[0].conditioner, flow.own[0]
    x, c = np.random.default_rng(0).standard_normal((5, 6)), np.ones((5, 1))
    slope = np.random.default_rng(1).standard_normal((5, 6, 2))
    own = net.jacobian(p, c, x, slope)
    assert norm_error(own, Network.jacobian(net, p, c, x, slope)) < 1e-14
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afnp.networks.base.JACOBIAN_NUMBERS", 1)
        assert norm_error(own, Network.jacobian(net, p, c, x, slope)) < 1e-14


@pytest.mark.parametrize("kind", ["maf", "spline", "attention", "convolution"])
def test_the_matrix_of_an_iteration_is_its_derivative(kind):
    """By central differences of a pass of the network and τ, noise held."""
    flow = flow_of(kind, 6)
    layer, p, none = flow.layers[0], flow.own[0], np.empty((1, 0))
    u = np.random.default_rng(3).standard_normal((1, 6))
    x, _ = layer.generate(p, u, none)
    T = layer.iteration_matrix(p, x, none)[0]

    def iterated(ordered):
        h, _ = layer.conditioner.forward(p, none, ordered)
        return layer.univariate.generate(h, u[:, layer.order])[0][0]

    steps = 1e-6 * np.eye(6)[:, None]
    ordered = x[:, layer.order]
    true = [(iterated(ordered + e) - iterated(ordered - e)) / 2e-6 for e in steps]
    assert norm_error(T, np.transpose(true)) < 1e-8


@pytest.mark.parametrize("w", [0.25, 1.5])
def test_the_exponent_of_a_chain_is_the_logarithm_of_its_weight(w):
    layer = chain(20, w).layers[0]
    T = layer.iteration_matrix(chain(20, w).own[0], np.ones((3, 20)), np.empty((3, 0)))
    assert np.allclose(T, w * np.eye(20, k=-1)) and np.allclose(exponent(T), np.log(w))
    assert np.isneginf(exponent(T, steps=20)).all(), "D iterations leave nothing"


def test_newton_solves_a_linear_chain_at_once():
    """Jacobi needs all D; Newton one, and one that sees it."""
    flow = chain(12, 1.0)
    u, _ = noise(flow, 20)
    x, _, record = iterate(flow, u, method=Newton())
    assert norm_error(x, np.cumsum(u, axis=1)) < SAME
    assert (record.iterations == 2).all()
    each = 12 * 11 // 2
    assert (record.multiply_adds == 2 * (each + 12 * each + each)).all()


def test_newton_squares_its_error():
    """A smooth flow: from 1e-2 on each iteration at least squares, up to a constant of 10."""
    flow = flow_of("tanh", 8, last=0.5)
    flow = afnp.Flow(flow.layers[:1], theta=flow.own[0].flat.copy())
    u, _ = noise(flow, 30)
    true = flow.generate(u, method="naive")[0]
    errors = [
        np.abs(flow.generate(u, method=Newton(0.0, max_iterations=k))[0] - true).max(axis=1)
        for k in range(1, 9)
    ]
    pairs = [(e, f) for e, f in pairwise(errors)]
    before, after = (np.concatenate(part) for part in zip(*pairs, strict=True))
    near = (before < 1e-2) & (before > 1e-7)
    assert near.sum() > 20
    assert (after[near] < 10 * before[near] ** 2 + 1e-13).all()


@pytest.mark.parametrize("kind", ["maf", "tanh", "attention", "spline"])
def test_newton_is_done_after_as_many_iterations_as_features(kind, monkeypatch):
    """The theorem: k iterations make the first k features right, even with a wrong matrix."""
    flow = flow_of(kind, 7, last=1.0)
    flow = afnp.Flow(flow.layers[:1], theta=flow.own[0].flat.copy())
    u, _ = noise(flow, 20)
    order = flow.layers[0].order
    true = flow.generate(u, method="naive")[0][:, order]
    jacobian = Network.jacobian
    for wrong in (False, True):
        if wrong:
            monkeypatch.setattr(
                type(flow.layers[0].conditioner),
                "jacobian",
                lambda net, *args: -3 * jacobian(net, *args),
            )
        for k in range(1, 8):
            x = flow.generate(u, method=Newton(0.0, max_iterations=k))[0][:, order]
            assert norm_error(x[:, :k], true[:, :k]) < 1e-9
        assert iterate(flow, u, method=Newton(0.0))[2].iterations.max() <= 7


def test_newton_survives_guesses_that_overflow():
    flow = harsh_flow()
    u = harsh_noise(flow)
    true, _ = flow.generate(u, method="naive")
    x, _, record = iterate(flow, u, method=Newton(0.0))
    assert (np.abs(x - true).max(axis=1) <= 1e-9 * np.abs(true).max(axis=1)).all()
    assert record.iterations.max() <= 8


def test_newton_reads_no_masked_weights():
    flow = flow_of("maf", 6, context=1)
    u, context = noise(flow, 10)
    clean = flow.generate(u, context, method="newton")[0]
    lively(flow, seed=6, last=0.3, garbage=np.nan)
    np.testing.assert_array_equal(clean, flow.generate(u, context, method="newton")[0])


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1e-9, -1, np.nan, np.inf, "loose", None])
def test_a_tolerance_is_a_number_from_zero_on(value):
    for method in (Jacobi, lambda tolerance: GaussSeidel(4, tolerance)):
        with pytest.raises(
            ValueError, match="^tolerance: expected a finite number of at least 0, got "
        ):
            method(tolerance=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, "all"])
@pytest.mark.parametrize("method", [Jacobi, GaussSeidel, Newton])
def test_a_bound_on_iterations_is_a_number_from_one_on(method, value):
    with pytest.raises(ValueError, match="^max_iterations: expected an integer"):
        method(max_iterations=value)


def test_what_no_engine_renders_is_refused():
    flow = afnp.made(2, hidden=(4,))
    with pytest.raises(ValueError, match="^backend: Newton's method runs in NumPy; got .*'numba'$"):
        flow.sample(2, method="newton", backend="numba")
    with pytest.raises(ValueError, match="^backend: 'cuda' has no max_iterations"):
        flow.sample(2, method=Jacobi(max_iterations=2), backend="cuda")
    with pytest.raises(ValueError, match="^tolerance: expected a finite number"):
        Newton(tolerance=-1.0)


@pytest.mark.parametrize("value", [0, -3, 1.5, None])
def test_a_block_has_at_least_one_feature(value):
    with pytest.raises(ValueError, match="^block: expected an integer"):
        GaussSeidel(block=value)


def test_methods_that_do_not_exist_are_refused():
    flow = afnp.made(2, hidden=(4,))
    names = "'substitution', 'naive', 'jacobi', 'gauss-seidel', 'newton'"
    with pytest.raises(ValueError, match=f"^method: expected one of {names}, got 'secant'$"):
        flow.sample(2, method="secant")
    with pytest.raises(
        ValueError,
        match="^method: expected a name or one of Jacobi, GaussSeidel and Newton, got 7$",
    ):
        flow.sample(2, method=7)
    with pytest.raises(
        ValueError,
        match="^method: expected one of 'jacobi', 'gauss-seidel', 'newton', got 'naive'$",
    ):
        iterate(flow, np.zeros((1, 2)), method="naive")


@pytest.mark.parametrize("module", [fixed_point, blockwise])
def test_examples_in_docstrings(module):
    assert not doctest.testmod(module).failed
