"""A flow on one page: true by mathematics, and the independent oracle of the package's."""

import ast
import inspect

import numpy as np
import pytest

import afnp
from afnp import minimal
from afnp.minimal import MADE
from afnp.verify import randomize

SHAPES = [(2, (4,), 1), (3, (7,), 2), (5, (9, 6), 3), (6, (5, 12, 8), 2)]
"""Features, hidden widths (some below D - 1), transforms."""

pytestmark = pytest.mark.filterwarnings("ignore:hidden widths")


def filled(flow, theta):
    """Put a flat vector's numbers into a minimal flow, in the order of its parameters."""
    start = 0
    for p in minimal.parameters(flow):
        p[:] = theta[start : start + p.size].reshape(p.shape)
        start += p.size
    assert start == len(theta)
    return flow


def flat(arrays):
    return np.concatenate([p.ravel() for p in arrays])


def random_flow(D, hidden, transforms, seed=0):
    flow = minimal.maf(D, hidden, transforms)
    rng = np.random.default_rng(seed)
    return filled(flow, 0.7 * rng.standard_normal(sum(p.size for p in minimal.parameters(flow))))


@pytest.fixture(params=SHAPES, ids=str)
def flow(request):
    return random_flow(*request.param)


def rows(flow, n=7, seed=1):
    return np.random.default_rng(seed).standard_normal((n, flow[0].masks[0].shape[1]))


# ---- against mathematics -------------------------------------------------------------------------


def jacobian(flow, x):
    """Complex step: exact to rounding, and exactly zero where nothing is read."""
    u, _, _ = minimal.normalize(flow, x + 1e-100j * np.eye(len(x)))
    return u.imag.T / 1e-100


def test_one_made_has_a_triangular_jacobian_to_the_last_bit(flow):
    """Its outputs come in the opposite order: so is the triangle."""
    J = jacobian(flow[:1], rows(flow)[0])[::-1]
    assert not np.triu(J, 1).any()
    assert (J.diagonal() > 0).all()


def test_log_det_is_that_of_the_jacobian(flow):
    x = rows(flow)
    _, log_det, _ = minimal.normalize(flow, x)
    expected = [np.linalg.slogdet(jacobian(flow, row))[1] for row in x]
    np.testing.assert_allclose(log_det, expected, atol=1e-11)


def test_the_density_is_change_of_variables(flow):
    x = rows(flow)
    u, _, _ = minimal.normalize(flow, x)
    noise = np.prod(np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi), axis=1)
    volume = [abs(np.linalg.det(jacobian(flow, row))) for row in x]
    np.testing.assert_allclose(np.exp(minimal.log_prob(flow, x)), noise * volume, rtol=1e-10)


def test_the_density_integrates_to_one():
    """Quadrature over t with x = sinh(t): the trapezoid rule on a line, twice."""
    flow = random_flow(2, (5,), 2, seed=3)
    t = np.linspace(-9, 9, 1201)
    x = np.stack(np.meshgrid(np.sinh(t), np.sinh(t), indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(np.cosh(t), np.cosh(t)).ravel() * (t[1] - t[0]) ** 2
    assert (np.exp(minimal.log_prob(flow, x)) * weights).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sampler", [MADE.loop, MADE.substitution])
def test_both_samplers_undo_normalize(flow, sampler):
    u = rows(flow)
    x = minimal.generate(flow, u, sampler)
    np.testing.assert_allclose(minimal.normalize(flow, x)[0], u, rtol=1e-9, atol=1e-9)


def test_the_gradient_is_the_complex_step(flow):
    x = rows(flow)
    loss, grads = minimal.loss_and_grad(flow, x)
    theta = flat(minimal.parameters(flow))
    for made in flow:
        made.W = [W.astype(complex) for W in made.W]
        made.b = [b.astype(complex) for b in made.b]
    steps = np.zeros_like(theta)
    for k in range(len(theta)):
        stepped = theta.astype(complex)
        stepped[k] += 1e-100j
        steps[k] = -minimal.log_prob(filled(flow, stepped), x).mean().imag / 1e-100
    np.testing.assert_allclose(flat(grads), steps, atol=1e-12 * np.abs(steps).max())
    assert loss == pytest.approx(-minimal.log_prob(flow, x).mean().real)


def test_the_gradient_by_the_input_is_the_complex_step(flow):
    x, c = rows(flow), rows(flow, seed=4)
    u, _, cache = flow[0].normalize(x)
    d_x, _, _ = flow[0].backward(cache, c, np.arange(len(x)))
    for j in range(x.shape[1]):
        u, log_det, _ = flow[0].normalize(x + 1e-100j * (np.arange(x.shape[1]) == j))
        by_row = (c * u).sum(axis=1) + np.arange(len(x)) * log_det
        np.testing.assert_allclose(d_x[:, j], by_row.imag / 1e-100, rtol=1e-10, atol=1e-11)


def test_every_hidden_unit_is_computed_once_by_substitution(flow, monkeypatch):
    units = {"computed": 0}
    true_tanh = np.tanh

    def counting(z):
        units["computed"] += z.shape[1] if z.ndim == 2 else 0
        return true_tanh(z)

    monkeypatch.setattr(np, "tanh", counting)
    flow[0].substitution(rows(flow))
    hidden = sum(map(len, flow[0].degrees[1:]))
    assert units["computed"] == hidden


def test_adam_takes_steps_of_its_rate_and_finds_the_minimum():
    theta, m, v = ([np.array([1.0, -3.0])], *([np.zeros(2)] for _ in "mv"))
    minimal.adam(theta, [np.array([100.0, -0.001])], m, v, 1, rate=0.5)
    np.testing.assert_allclose(theta[0], [0.5, -2.5], rtol=1e-4)
    for t in range(2, 800):
        minimal.adam(theta, [2 * theta[0]], m, v, t, rate=0.02)
    np.testing.assert_allclose(theta[0], 0, atol=1e-3)


def test_it_learns_a_normal_distribution():
    """The loss comes down to the entropy of the truth, log sigma + D/2 log 2 pi e."""
    x = np.random.default_rng(5).standard_normal((2000, 2)) * [0.5, 3.0] + [2.0, -1.0]
    x[:, 1] += x[:, 0]
    flow = minimal.maf(2, (8,), 2)
    m, v = ([0 * p for p in minimal.parameters(flow)] for _ in "mv")
    for t in range(1, 401):
        loss, grads = minimal.loss_and_grad(flow, x)
        minimal.adam(minimal.parameters(flow), grads, m, v, t, rate=0.03)
    entropy = np.log(0.5 * 3.0) + np.log(2 * np.pi * np.e)
    assert abs(loss - entropy) < 3 * np.sqrt(1 / 2000)


# ---- as the package's oracle ---------------------------------------------------------------------


@pytest.fixture(params=SHAPES, ids=str)
def twins(request):
    """The same parameters in both: a flow of the package, and one of the page."""
    D, hidden, transforms = request.param
    theirs = randomize(afnp.maf(D, hidden, transforms, activation="tanh"), seed=6)
    return theirs, filled(minimal.maf(D, hidden, transforms), theirs.theta)


def turned(flow, u):
    """The page reverses the features behind every MADE; the package leaves them in their places."""
    return u[:, ::-1] if len(flow) % 2 else u


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * np.abs(b).max())


def test_masks_are_the_packages(twins):
    theirs, ours = twins
    for made in ours:
        shapes = [p.shape for p in minimal.parameters([made])]
        assert shapes == list(theirs.layers[0].layout.shapes.values())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_log_prob_and_noise_are_the_packages(twins, backend):
    theirs, ours = twins
    x = rows(ours, n=40)
    u, log_det, _ = minimal.normalize(ours, x)
    close(theirs.log_prob(x, backend=backend), minimal.log_prob(ours, x))
    their_u, their_log_det = theirs.normalize(x, backend=backend)
    close(their_u, turned(ours, u))
    close(their_log_det, log_det)


WAYS = [("naive", "numpy"), ("substitution", "numpy"), ("substitution", "numba")]


@pytest.mark.parametrize("method, backend", WAYS)
@pytest.mark.parametrize("sampler", [MADE.loop, MADE.substitution])
def test_samples_are_the_packages(twins, sampler, method, backend):
    theirs, ours = twins
    x = rows(ours, n=40)  # noise of ordinary data: other noise may lead far out, where digits go
    u = theirs.normalize(x)[0]
    mine = minimal.generate(ours, turned(ours, u), sampler)
    other, log_det = theirs.generate(u, method=method, backend=backend)
    np.testing.assert_allclose(other, mine, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(log_det, -minimal.normalize(ours, mine)[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_gradient_is_the_packages(twins, backend):
    theirs, ours = twins
    x = rows(ours, n=40)
    loss, grads = minimal.loss_and_grad(ours, x)
    their_loss, their_grad = theirs.loss_and_grad(x, backend=backend)
    assert their_loss == pytest.approx(loss, rel=1e-11)
    close(their_grad, flat(grads))


def test_the_oracle_would_see_a_difference(twins):
    """One parameter that is not masked, moved by a millionth of what is there."""
    theirs, ours = twins
    x = rows(ours)
    ours[0].b[-1][0] += 1e-6
    assert np.abs(theirs.log_prob(x) - minimal.log_prob(ours, x)).max() > 1e-9


# ---- one page ------------------------------------------------------------------------------------


def test_it_is_one_page_and_needs_numpy_alone():
    source = inspect.getsource(minimal)
    tree = ast.parse(source)
    imported = [
        ast.unparse(n) for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    assert imported == ["import numpy as np"]
    assert len(source.splitlines()) <= 200
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    docstrings = sum(len((ast.get_docstring(n) or "").splitlines()) for n in [tree, *documented])
    assert len(source.splitlines()) - docstrings <= 130
    assert max(map(len, source.splitlines())) <= 100
