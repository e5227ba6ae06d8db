"""The chain rule is exact: whatever the table or the Gaussian, and whatever the order.

References here share nothing with the module: log of the table's own entry, slogdet and solve on
the full covariance, Schur complements, bounds for samples with a stated error rate.
"""

from math import erf, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afnp.chain_rule import DiscreteChain, GaussianChain, factorize, joint

EPS = np.finfo(np.float64).eps
CYCLE = [
    2,
    0,
    3,
    1,
]  # its own inverse it is not: order and argsort(order) cannot be confused unseen
repeatable = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def tables(draw):
    """Random tables, D in 1..4, levels in 1..4, any order; sometimes with impossible entries."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = draw(st.permutations(range(len(shape))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.exponential(size=shape) ** draw(st.sampled_from([1, 8]))
    weights *= rng.random(shape) >= draw(st.sampled_from([0, 0.3, 0.8]))
    weights.flat[rng.integers(weights.size)] = 1.0
    return weights / weights.sum(), order


@st.composite
def gaussians(draw):
    """Random means and covariances, D in 1..6, scales from 0.01 to 100, any order."""
    features = draw(st.integers(1, 6))
    order = draw(st.permutations(range(features)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    factor = rng.standard_normal((features, features + 3)) * 10.0 ** rng.uniform(
        -2, 2, (features, 1)
    )
    return rng.standard_normal(features), factor @ factor.T, order, rng


def all_rows(table):
    return np.argwhere(np.ones(table.shape))


def before(order, i):
    """Features that come before feature i."""
    return list(order[: list(order).index(i)])


# Discrete tables


@repeatable
@given(tables())
def test_the_product_of_the_conditionals_is_the_table(case):
    table, order = case
    # two roundings a factor and the table's own total
    np.testing.assert_allclose(
        joint(factorize(table, order), order), table, rtol=16 * EPS, atol=1e-300
    )


@repeatable
@given(tables())
def test_conditionals_are_distributions_over_the_features_so_far(case):
    table, order = case
    for r, p in enumerate(factorize(table, order)):
        assert p.shape == tuple(table.shape[i] for i in order[: r + 1])
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=4 * EPS)


@repeatable
@given(tables())
def test_log_prob_is_the_log_of_the_table_entry(case):
    table, order = case
    log_prob = DiscreteChain(table, order).log_prob(all_rows(table))
    with np.errstate(divide="ignore"):
        expected = np.log(table.ravel())
    np.testing.assert_array_equal(np.isneginf(log_prob), table.ravel() == 0)
    np.testing.assert_allclose(log_prob, expected, rtol=8 * EPS, atol=16 * EPS)


def test_conditionals_against_sums_written_out_by_hand():
    table = np.random.default_rng(1).dirichlet(np.ones(24)).reshape(2, 3, 4)
    first, second, third = factorize(table, order=[1, 2, 0])
    for a, b, c in all_rows(table):
        assert first[b] == pytest.approx(table[:, b, :].sum())
        assert second[b, c] == pytest.approx(table[:, b, c].sum() / table[:, b, :].sum())
        assert third[b, c, a] == pytest.approx(table[a, b, c] / table[:, b, c].sum())


def test_given_an_impossible_event_the_conditional_is_uniform():
    p_first, p_second = factorize([[0.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    np.testing.assert_array_equal(p_first, [0, 1])
    np.testing.assert_array_equal(p_second, [[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25, 0]])


def test_the_smallest_numbers_are_not_lost():
    tiny = np.nextafter(0, 1)
    table = np.array([[tiny, 2 * tiny], [0.5, 0.5]])
    np.testing.assert_array_equal(joint(factorize(table)), table)


def test_ten_features_of_two_levels():
    table = np.random.default_rng(2).dirichlet(np.ones(1024)).reshape((2,) * 10)
    order = np.random.default_rng(3).permutation(10)
    np.testing.assert_allclose(joint(factorize(table, order), order), table, rtol=32 * EPS)


def largest_gap(x, table):
    """Largest distance of the two distribution functions over the cells, in their numbering."""
    cells = np.ravel_multi_index(tuple(x.T), table.shape)
    frequencies = np.bincount(cells, minlength=table.size) / len(x)
    return abs(np.cumsum(frequencies - table.ravel())).max()


def dkw(n, error_rate=1e-6):
    """Return the gap that is exceeded at most so often (Dvoretzky, Kiefer, Wolfowitz;
    Massart 1990)."""
    return sqrt(log(2 / error_rate) / (2 * n))


@pytest.mark.parametrize("order", [None, [3, 2, 1, 0], CYCLE])
def test_samples_have_the_frequencies_of_the_table(order):
    n = 100_000  # a gap of 0.0085 is seen
    table = np.random.default_rng(4).dirichlet(np.full(81, 0.3)).reshape(3, 3, 3, 3)
    x = DiscreteChain(table, order).sample(n, rng=5)
    assert largest_gap(x, table) < dkw(n)
    assert (table[tuple(x.T)] > 0).all()


@pytest.mark.parametrize("axes", [CYCLE, np.argsort(CYCLE), [1, 0, 2, 3]])
def test_the_frequency_test_would_see_axes_in_the_wrong_order(axes):
    table = np.random.default_rng(4).dirichlet(np.full(81, 0.3)).reshape(3, 3, 3, 3)
    wrong = DiscreteChain(table.transpose(axes)).sample(100_000, rng=5)
    assert largest_gap(wrong, table) > 2 * dkw(100_000)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_impossible_rows_are_never_drawn(order):
    table = np.zeros((3, 3, 3))
    table[0, 2, 1] = table[2, 0, 1] = 0.5
    x = DiscreteChain(table, order).sample(1000, rng=0)
    assert {tuple(row) for row in x.tolist()} == {(0, 2, 1), (2, 0, 1)}


class Constant(np.random.Generator):
    """A generator at the edge of its range."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


@pytest.mark.parametrize("v, level", [(0.0, 1), (1 - EPS / 2, 10)])
def test_the_edges_of_the_unit_interval_meet_no_impossible_level(v, level):
    p = [0.0, *[0.1] * 10, 0.0]  # one after the other, ten tenths add up to 1 - EPS / 2
    assert DiscreteChain(p).sample(1, Constant(v)) == [[level]]


def test_booleans_and_any_integers_are_levels():
    chain = DiscreteChain([[0.1, 0.2], [0.3, 0.4]])
    for dtype in (bool, np.uint8, np.int64):
        assert chain.log_prob(np.array([[1, 0]], dtype)) == pytest.approx([log(0.3)])


# Gaussians


def deviations(S):
    return np.sqrt(S.diagonal())


def condition(S):
    """Condition number of the correlation matrix: the units of the features do not matter."""
    return np.linalg.cond(S / np.outer(deviations(S), deviations(S)))


def direct_log_density(x, mean, covariance):
    """Compute log N(x; mean, covariance) with slogdet and solve, on the full covariance."""
    z = x - mean
    mahalanobis = (z * np.linalg.solve(covariance, z.T).T).sum(axis=1)
    return -0.5 * (mahalanobis + np.linalg.slogdet(covariance)[1] + len(mean) * log(2 * pi))


@repeatable
@given(gaussians())
def test_log_prob_is_the_multivariate_normal_density(case):
    mean, S, order, rng = case
    x = rng.multivariate_normal(mean, S, size=5, method="cholesky")
    log_prob = GaussianChain(mean, S, order).log_prob(x)
    np.testing.assert_allclose(log_prob, direct_log_density(x, mean, S), atol=1e-13 * condition(S))


@repeatable
@given(gaussians())
def test_means_and_scales_are_schur_complements(case):
    mean, S, order, rng = case
    chain = GaussianChain(mean, S, order)
    unit = deviations(S)
    x = mean + unit * rng.standard_normal((5, len(mean)))
    means, tolerance = chain.conditional_means(x), 1e-13 * condition(S)
    for i in range(len(mean)):
        b = before(order, i)
        slopes = np.linalg.solve(S[np.ix_(b, b)], S[b, i])
        variance = S[i, i] - S[i, b] @ slopes
        np.testing.assert_allclose(
            chain.scales[i] ** 2 / S[i, i], variance / S[i, i], atol=tolerance
        )
        np.testing.assert_allclose(
            chain.coefficients[i, b] * unit[b] / unit[i], slopes * unit[b] / unit[i], atol=tolerance
        )
        expected = mean[i] + (x - mean)[:, b] @ slopes
        np.testing.assert_allclose(means[:, i] / unit[i], expected / unit[i], atol=tolerance)


@repeatable
@given(gaussians())
def test_the_flow_is_the_cholesky_factor(case):
    mean, S, order, rng = case
    chain = GaussianChain(mean, S, order)
    L, unit, tolerance = (
        np.linalg.cholesky(S[np.ix_(order, order)]),
        deviations(S),
        1e-14 * condition(S),
    )
    np.testing.assert_allclose(
        chain.cholesky / unit[order, None], L / unit[order, None], atol=tolerance
    )
    u = rng.standard_normal((5, len(mean)))
    x, log_det = chain.generate(u)
    np.testing.assert_allclose(
        (x / unit)[:, order],
        (mean / unit)[order] + u[:, order] @ L.T / unit[order],
        rtol=1e-14,
        atol=10 * tolerance,
    )
    np.testing.assert_allclose(log_det, 0.5 * np.linalg.slogdet(S)[1], atol=tolerance)


def jacobian(function, point):
    """Complex step: exact to rounding, and exactly zero where nothing depends."""
    h = 1e-100
    rows, _ = function(point + 1j * h * np.eye(len(point)))
    return rows.imag.T / h


@repeatable
@given(gaussians())
def test_jacobians_are_triangular_in_the_order_and_log_det_is_theirs(case):
    mean, S, order, rng = case
    chain = GaussianChain(mean, S, order)
    point = rng.standard_normal(len(mean))
    allowed = np.array(
        [[j == i or j in before(order, i) for j in range(len(mean))] for i in range(len(mean))]
    )
    for function in (chain.normalize, chain.generate):
        J = jacobian(function, point)
        assert not J[~allowed].any()
        assert J[allowed].all()  # and all that may depend does
        log_det = function(point[None])[1]
        assert log_det.shape == (1,)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(J)[1], atol=1e-9)


@repeatable
@given(gaussians())
def test_generate_undoes_normalize_and_back(case):
    mean, S, order, rng = case
    chain = GaussianChain(mean, S, order)
    u = rng.standard_normal((5, len(mean)))
    x, log_det = chain.generate(u)
    back, inverse_log_det = chain.normalize(x)
    unit = np.abs(mean) + deviations(S)  # x - m loses what x = m + z rounded away
    tolerance = 1e-14 * condition(S) * max(unit / chain.scales)
    np.testing.assert_allclose(back, u, atol=tolerance)
    np.testing.assert_allclose(chain.generate(back)[0] / unit, x / unit, atol=tolerance)
    np.testing.assert_array_equal(log_det, -inverse_log_det)


@pytest.mark.parametrize("order", [None, CYCLE])
def test_samples_have_the_right_distribution_in_every_direction(order):
    n, rng = 20_000, np.random.default_rng(6)
    factor, mean = rng.standard_normal((4, 4)), rng.standard_normal(4)
    S = factor @ factor.T
    x = GaussianChain(mean, S, order).sample(n, rng=7)
    for direction in rng.standard_normal((20, 4)):
        z = np.sort((x - mean) @ direction / sqrt(direction @ S @ direction))
        cdf = np.array([0.5 * (1 + erf(t / sqrt(2))) for t in z])
        assert abs(cdf - (np.arange(n) + 0.5) / n).max() + 0.5 / n < dkw(n)


@repeatable
@given(gaussians())
def test_a_degenerate_covariance_is_refused_in_every_order(case):
    mean, S, order, _ = case
    S = np.block(
        [[S, S[:, :1]], [S[:1], S[:1, :1]]]
    )  # the first feature again: the variance left is rounding
    for last in ([*order, len(mean)], [len(mean), *order]):
        with pytest.raises(ValueError, match="positive definite"):
            GaussianChain(np.append(mean, 0), S, last)


def test_nearly_degenerate_covariances_are_taken():
    n = np.arange(12.0)
    hilbert = 1 / (1 + np.add.outer(n, n))  # condition number 1.7e16
    L = GaussianChain(np.zeros(12), hilbert).cholesky
    np.testing.assert_allclose(L @ L.T, hilbert, rtol=1e-14)


def test_a_covariance_symmetric_but_for_rounding_is_made_symmetric():
    S = GaussianChain([0, 0], [[1, 0.5 + 1e-13], [0.5, 1]]).covariance
    assert S[0, 1] == S[1, 0] == pytest.approx(0.5)


def test_a_textbook_example():
    """The bivariate normal: regression rho s1 / s0, residual s1 sqrt(1 - rho^2)."""
    s0, s1, rho = 2.0, 3.0, 0.6
    chain = GaussianChain([1.0, -1.0], [[s0**2, rho * s0 * s1], [rho * s0 * s1, s1**2]])
    assert chain.coefficients[1, 0] == pytest.approx(rho * s1 / s0)
    assert chain.scales == pytest.approx([s0, s1 * sqrt(1 - rho**2)])
    assert chain.log_prob([[1.0, -1.0]])[0] == pytest.approx(
        -log(2 * pi * s0 * s1 * sqrt(1 - rho**2))
    )


# Both


@pytest.fixture(params=["discrete", "gaussian"])
def chain(request):
    if request.param == "discrete":
        return DiscreteChain(
            np.random.default_rng(8).dirichlet(np.ones(512)).reshape(8, 8, 8), order=[1, 2, 0]
        )
    return GaussianChain(np.zeros(3), np.eye(3) + 0.5, order=[1, 2, 0])


def test_samples_are_repeatable_and_differ_by_seed(chain):
    np.testing.assert_array_equal(
        chain.sample(20, rng=9), chain.sample(20, np.random.default_rng(9))
    )
    assert (chain.sample(20, rng=9) != chain.sample(20, rng=10)).any()
    generator = np.random.default_rng(9)
    assert (chain.sample(20, generator) != chain.sample(20, generator)).any()


def test_no_rows_are_no_error(chain):
    assert chain.sample(0).shape == (0, 3)
    assert chain.log_prob(chain.sample(0)).shape == (0,)


def test_input_is_not_changed_and_may_be_read_only(chain):
    x = chain.sample(5)
    x.setflags(write=False)
    first = chain.log_prob(x)
    np.testing.assert_array_equal(first, chain.log_prob(x))


def test_attributes_are_copies_that_cannot_go_stale(chain):
    arrays = [
        v
        for value in vars(chain).values()
        for v in (value if isinstance(value, tuple) else [value])
    ]
    assert not any(a.flags.writeable for a in arrays if isinstance(a, np.ndarray))
    table, mean, S = np.full((2, 2), 0.25), np.zeros(2), np.eye(2)
    discrete, gaussian = DiscreteChain(table), GaussianChain(mean, S)
    for source in (table, mean, S):
        source[:] = 7
    assert discrete.log_prob([[0, 1]]) == pytest.approx([log(0.25)])
    assert gaussian.log_prob([[0, 0]]) == pytest.approx([-log(2 * pi)])


# Errors say what was expected, what came, and where


@pytest.mark.parametrize(
    "table, order, message",
    [
        ([[0.5, 0.6], [-0.1, 0.0]], None, r"table >= 0, got -0\.1 at \[1, 0\]"),
        ([0.5, 0.4], None, r"table to sum to 1, got 0\.9"),
        ([0.5, 0.5 + 1e-8], None, r"sum to 1, got 1\.00000001"),
        (np.array([0.1, 0.9], np.float32) / 3, None, r"sum to 1, got 0\.333"),
        ([0.5, np.nan], None, r"table to be finite, got nan at \[1\]"),
        ([0.5, np.inf], None, r"table to be finite, got inf at \[1\]"),
        ([0.5, 0.5j], None, r"table: expected .*, got complex128"),
        (["a", "b"], None, r"table: expected .*, got <U1"),
        (np.zeros((2, 0)), None, r"sum to 1, got 0"),
        (1.0, None, r"at least one feature"),
        (np.full((2, 2), 0.25), [0, 0], r"order: expected a permutation of 0\.\.1, got \[0, 0\]"),
        (np.full((2, 2), 0.25), [0], r"order: .*got \[0\]"),
        (np.full((2, 2), 0.25), [1, 2], r"order: .*got \[1, 2\]"),
        (np.full((2, 2), 0.25), [0.0, 1.0], r"order: .*got \[0\.0, 1\.0\]"),
        (np.full((2, 2), 0.25), [[0, 1]], r"order: .*got \[\[0, 1\]\]"),
        (np.full((2, 2), 0.25), "reverse", r"order: .*got reverse"),
    ],
)
def test_bad_tables(table, order, message):
    for function in (factorize, DiscreteChain):
        with pytest.raises(ValueError, match=message):
            function(table, order)


@pytest.mark.parametrize(
    "conditionals, order, message",
    [
        ([], None, "at least one feature"),
        ([1.0], None, r"conditionals\[0\]: expected shape \(K\), got \(\)"),
        ([[0.5, 0.5], [[1.0]]], None, r"conditionals\[1\]: expected shape \(2, K\), got \(1, 1\)"),
        (
            [[0.5, 0.5], [[0.5, 0.5], [0.5, 0.4]]],
            None,
            r"conditionals\[1\] to sum to 1, got 0\.9 at \[1\]",
        ),
        ([[1.5, -0.5]], None, r"conditionals\[0\] >= 0, got -0\.5 at \[1\]"),
        ([[0.5, 0.5]], [1], r"order: .*got \[1\]"),
    ],
)
def test_bad_conditionals(conditionals, order, message):
    with pytest.raises(ValueError, match=message):
        joint(conditionals, order)


@pytest.mark.parametrize(
    "x, message",
    [
        ([[0, 0], [0, 3]], r"0 <= x\[row, feature\] < \(2, 3\)\[feature\], got 3 at \[1, 1\]"),
        ([[-1, 0]], r"got -1 at \[0, 0\]"),
        ([[0.0, 1.0]], r"expected a dtype of kind b/i/u, got float64"),
        ([0, 1], r"expected shape \(N, 2\), got \(2,\)"),
        ([[0, 1, 0]], r"expected shape \(N, 2\), got \(1, 3\)"),
    ],
)
def test_bad_discrete_rows(x, message):
    with pytest.raises(ValueError, match=message):
        DiscreteChain(np.full((2, 3), 1 / 6)).log_prob(x)


@pytest.mark.parametrize(
    "mean, covariance, order, message",
    [
        (
            [0, 0, 0],
            [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
            None,
            r"minor of order 3 .*feature 2 given features \[0, 1\]",
        ),
        (
            [0, 0, 0],
            [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
            [2, 0, 1],
            r"order 2 .*feature 0 given features \[2\]",
        ),
        (
            [0, 0],
            [[1, 2], [2, 1]],
            None,
            r"order 2 .*variance -3 of feature 1 given features \[0\]",
        ),
        (
            [0, 0],
            [[-1, 0], [0, 1]],
            None,
            r"order 1 .*variance -1 of feature 0 given features \[\]",
        ),
        ([0, 0], [[1, 1 - 1e-17], [1, 1]], None, "positive definite"),
        ([0], [[0]], None, "positive definite"),
        ([0, 0], [[1, 0.5], [0.4, 1]], None, r"covariance symmetric, got 0\.5 at \[0, 1\]"),
        ([0, 0], [[1, np.nan], [np.nan, 1]], None, r"to be finite, got nan at \[0, 1\]"),
        ([0, np.inf], np.eye(2), None, r"mean\[feature\] to be finite, got inf at \[1\]"),
        ([0, 0], np.eye(3), None, r"expected shape \(2, 2\), got \(3, 3\)"),
        ([[0, 0]], np.eye(2), None, r"expected shape \(D\), got \(1, 2\)"),
        ([], np.zeros((0, 0)), None, "at least one feature"),
        ([0, 0], np.eye(2), [1, 1], r"order: .*got \[1, 1\]"),
    ],
)
def test_bad_gaussians(mean, covariance, order, message):
    with pytest.raises(ValueError, match=message):
        GaussianChain(mean, covariance, order)


@pytest.mark.parametrize("method", ["normalize", "generate", "log_prob", "conditional_means"])
@pytest.mark.parametrize(
    "x, message",
    [
        ([[0, 0], [0, np.nan]], r"\[row, feature\] to be finite, got nan at \[1, 1\]"),
        ([0, 0], r"expected shape \(N, 2\), got \(2,\)"),
        ([[0, 0, 0]], r"expected shape \(N, 2\), got \(1, 3\)"),
        ([["0", "0"]], r"got <U1"),
    ],
)
def test_bad_gaussian_rows(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(GaussianChain([0, 0], np.eye(2)), method)(x)


@pytest.mark.parametrize(
    "n, rng, message", [(-1, 0, "got -1"), (1.5, 0, "got 1.5"), (1, None, "got None")]
)
def test_bad_sample_requests(chain, n, rng, message):
    with pytest.raises(ValueError, match=message):
        chain.sample(n, rng)
