"""Eight simulators against mathematics, and their references as sbibm's wheel holds them."""

import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from references import written  # noqa: E402

from figures import simulators  # noqa: E402
from figures.simulators import TASKS, design, open_references  # noqa: E402

N = 40_000


def drawn(name, n=N, seed=0):
    task, rng = TASKS[name], np.random.default_rng(seed)
    theta = task.prior(n, rng)
    return theta, task.simulate(theta, rng)


def at(name, theta, n=N):
    """Simulations of one theta."""
    rng = np.random.default_rng(1)
    return TASKS[name].simulate(np.tile(np.array(theta, dtype=float), (n, 1)), rng)


def close(found, expected, spread, n=N):
    """Within five standard errors of means of n numbers of a spread."""
    assert np.all(np.abs(found - expected) < 5 * spread / math.sqrt(n))


# ---- simulators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_shapes_are_as_said_and_a_seed_repeats_them(name):
    task = TASKS[name]
    (theta, x), again = drawn(name, 50), drawn(name, 50)
    assert theta.shape == (50, task.parameters) and x.shape == (50, task.outputs)
    assert (theta == again[0]).all() and (x == again[1]).all()
    if task.bounds is not None:
        low, high = task.bounds
        assert (theta > low).all() and (high is None or (theta < high).all())


def test_two_moons_are_half_rings_about_a_centre_that_two_thetas_share():
    theta = np.array([0.3, 0.5])
    x = at("two_moons", theta)
    centre = np.array([0.25 - 0.8 / math.sqrt(2), 0.2 / math.sqrt(2)])
    radius = np.linalg.norm(x - centre, axis=1)
    close(radius.mean(), 0.1, 0.01)
    close(radius.var(), 1e-4, 1e-4 * math.sqrt(2))
    assert (x[:, 0] > centre[0]).all()
    mirrored = at("two_moons", -theta[::-1])  # theta_1 + theta_2 changes its sign, the rest stays
    assert mirrored == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("D", [10])
def test_the_posterior_of_the_linear_gaussian_is_half_of_x_with_half_of_the_variance(D):
    theta, x = drawn("gaussian_linear")
    assert theta.shape[1] == D
    close((theta - x / 2).mean(axis=0), 0, math.sqrt(0.05))
    close(((theta - x / 2) ** 2).mean(axis=0), 0.05, 0.05 * math.sqrt(2))
    close(((theta - x / 2) * x).mean(axis=0), 0, math.sqrt(0.05 * 0.2))


def test_the_mixture_is_wide_in_half_of_its_draws_in_both_features_at_once():
    x = at("gaussian_mixture", [3.0, -4.0]) - [3.0, -4.0]
    close((x**2).mean(axis=0), 0.505, math.sqrt(1.5))
    close((x**4).mean(axis=0), 1.5 * 1.0001, math.sqrt(55))
    close((x[:, 0] ** 2 * x[:, 1] ** 2).mean(), 0.5 * 1.0001, math.sqrt(5))


def test_the_points_of_slcp_have_the_mean_and_covariance_that_theta_says():
    theta = np.array([0.7, -2.9, -1.0, 1.3, 0.6])
    x = at("slcp", theta).reshape(N, 4, 2) - theta[:2]
    s1, s2, rho = 1.0, 1.69, math.tanh(0.6)
    covariance = np.einsum("nki,nkj->kij", x, x) / N
    expected = np.array([[s1 * s1, rho * s1 * s2], [rho * s1 * s2, s2 * s2]])
    close(covariance, expected, 2 * s2 * s2)
    close(x.mean(axis=0), 0, s2)
    close((x[:, 0] * x[:, 1]).mean(axis=0), 0, s2 * s2)  # the points are independent


@pytest.mark.parametrize("rates", [(0.4, 0.125), (1.5, 0.2), (0.1, 0.3)])
def test_an_epidemic_follows_its_equations(rates):
    integrate = pytest.importorskip("scipy.integrate")
    beta, gamma = rates

    def slope(_, y):
        S, infected = y
        return [-beta * S * infected / 1e6, beta * S * infected / 1e6 - gamma * infected]

    days = 17.0 * np.arange(10)
    options = {"t_eval": days, "rtol": 1e-10, "atol": 1e-8}
    share = integrate.solve_ivp(slope, (0, days[-1]), [1e6 - 1, 1.0], **options).y[1].clip(0) / 1e6
    x = at("sir", rates, n := 4000)
    spread = np.sqrt(1000 * share * (1 - share))
    assert (np.abs(x.mean(axis=0) - 1000 * share) < 5 * spread / math.sqrt(n) + 1e-3).all()
    assert x.max() <= 1000 and (x == np.floor(x)).all()


NEAR = {
    "two_moons": ([0.3, 0.5], [0.297, 0.503]),  # of one support
    "gaussian_linear": ([0.1] * 10, [0.15] * 10),
    "gaussian_linear_uniform": ([-0.2] * 10, [-0.25] * 10),
    "gaussian_mixture": ([3.0, -4.0], [3.05, -4.05]),
    "slcp": ([0.7, -2.9, -1.0, 1.3, 0.6], [0.75, -2.8, -1.02, 1.27, 0.55]),
    "bernoulli_glm": ([0.1] * 10, [0.15] * 10),
    "bernoulli_glm_raw": ([0.1] * 10, [0.15] * 10),
    "sir": ([0.5, 0.12], [0.501, 0.1205]),
}
"""Two parameters of each task whose simulations look alike."""


@pytest.mark.parametrize("name", TASKS)
def test_the_likelihood_is_that_of_the_simulator(name):
    """E_{x|a} p(x|b) / p(x|a) = 1: only for the density of the simulator, in both theta and x."""
    (a, b), likelihood = NEAR[name], TASKS[name].log_likelihood
    for first, second in ((a, b), (b, a)):
        x = at(name, first, n := 4000 if name == "sir" else N)
        rows = (np.tile(np.array(theta, dtype=float), (n, 1)) for theta in (first, second))
        there, here = (likelihood(theta, x) for theta in rows)
        ratio = np.exp(here - there)
        assert ratio.std() > 0.02
        close(ratio.mean(), 1, ratio.std(), n)


@pytest.mark.parametrize("name", TASKS)
def test_the_prior_is_that_of_its_draws(name):
    """E_{theta} p(theta + e) / p(theta) = 1 where the prior has no sides."""
    task, rng = TASKS[name], np.random.default_rng(0)
    theta = task.prior(N, rng)
    log_p = task.log_prior(theta)
    assert np.isfinite(log_p).all()
    if name in ("two_moons", "gaussian_linear_uniform", "gaussian_mixture", "slcp"):
        assert (log_p == log_p[0]).all()
        assert task.log_prior(1.001 * task.bounds[1] * np.ones((1, task.parameters)))[0] == -np.inf
        return
    for i in range(task.parameters):
        shifted = theta * 1.05 if name == "sir" else theta + 0.05 * np.eye(task.parameters)[i]
        jacobian = 1.05**2 if name == "sir" else 1
        ratio = np.exp(task.log_prior(shifted) - log_p) * jacobian
        close(ratio.mean(), 1, ratio.std())


def test_the_classical_method_is_of_fourth_order():
    error = []
    for h in (0.1, 0.05):
        y = np.array([1.0])
        for _ in range(round(1 / h)):
            y = simulators.runge_kutta(lambda y: -y * y, y, h)
        error.append(abs(y[0] - 0.5))
    assert error[0] / error[1] == pytest.approx(16, rel=0.15)


def test_the_design_of_the_neuron_convolves_its_stimulus():
    V = design()
    stimulus = V[:, 1]
    assert V.shape == (100, 10) and (V[:, 0] == 1).all()
    assert stimulus[:3].round(4).tolist() == [0.4967, -0.1383, 0.6477]
    f = np.arange(1.0, 10.0)
    assert V[:, 1:] @ f == pytest.approx(np.convolve(stimulus, f)[:100])


def test_filters_of_the_neuron_are_smooth_and_spikes_follow_them():
    theta, x = drawn("bernoulli_glm_raw")
    step = np.eye(9) - np.eye(9, k=-1)
    F = step @ step + np.diag(np.arange(9) / 9) ** 0.5
    close(theta[:, 0].var(), 2, 2 * math.sqrt(2))
    whitened = theta[:, 1:] @ F.T
    close(whitened.T @ whitened / N, np.eye(9), math.sqrt(2))
    residual = x - 1 / (1 + np.exp(-theta @ design().T))
    close(residual.mean(axis=0), 0, 0.5)
    close((residual * theta[:, :1]).mean(axis=0), 0, math.sqrt(0.5))


def test_what_is_kept_of_spikes_is_sufficient():
    _, spikes = drawn("bernoulli_glm_raw", 20)
    _, kept = drawn("bernoulli_glm", 20)
    assert kept == pytest.approx(spikes @ design())
    assert (kept[:, 0] == spikes.sum(axis=1)).all()


# ---- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two_moons", "bernoulli_glm_raw"])
@pytest.mark.parametrize("form", ["unpacked", "inside", "wheel", "folder of a wheel"])
def test_references_are_read_from_a_wheel_or_a_folder(tmp_path, name, form):
    where = written(tmp_path / "there", name)
    if "wheel" in form:
        (tmp_path / "w").mkdir()
        wheel = tmp_path / "w" / "sbibm-1.1.0-py2.py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in where.rglob("*.*"):
                if file.is_file():
                    archive.write(file, file.relative_to(where).as_posix())
        where = wheel if form == "wheel" else wheel.parent
    found = open_references(where / "sbibm" if form == "inside" else where, name)
    task = TASKS[name]
    assert found.x.shape == (10, task.outputs) and found.samples.shape == (10, 7, task.parameters)
    assert found.x[:, 0].tolist() == list(range(1, 11))
    assert (found.theta == found.samples[:, 0]).all()


def test_a_folder_without_references_says_how_to_get_them(tmp_path):
    with pytest.raises(ValueError, match="pip download --no-deps sbibm"):
        open_references(tmp_path, "sir")
