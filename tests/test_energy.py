"""Training from an energy: the derivative of sampling, the free energy, and honest weights."""

import math

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error

import afnp
from afnp import model as models
from afnp.bases import StudentT
from afnp.networks import AddedMLP, CausalConv, CausalTransformer
from afnp.train.energy import effective_sample_size, fit_energy, importance_sample
from afnp.transforms import (
    ActNorm,
    Autoregressive,
    BatchNorm,
    Bounds,
    Coupling,
    Inverse,
    LinearPrediction,
    Logit,
    LULinear,
    Permutation,
    Standardize,
)
from afnp.univariate import Affine

D = 4
ROUNDING = 1e-9
"""Complex steps are exact; the layers amplify rounding."""

LAYERS = {
    "standardize": lambda: Standardize(np.arange(D), np.linspace(0.5, 2, D)),
    "logit": lambda: Logit(D, alpha=0.01),
    "bounds": lambda: Bounds([0.0, None, None, -1.0], [None, None, 2.0, 1.0]),
    "actnorm": lambda: ActNorm(D),
    "batchnorm": lambda: BatchNorm(D),
    "permutation": lambda: Permutation([2, 0, 3, 1]),
    "lu": lambda: LULinear.rotation(D, np.random.default_rng(1)),
    "linear prediction": lambda: LinearPrediction(D, [0.5, -0.2], scale=0.7, mean=0.1),
    "made": lambda: afnp.made(D, (8,), order=[2, 0, 3, 1], activation="tanh").layers[0],
    "residual": lambda: afnp.made(D, (7, 7, 7), residual=True, activation="tanh").layers[0],
    "spline": lambda: afnp.nsf(D, (8,), 1, activation="tanh").layers[0],
    "mixture": lambda: afnp.maf_mog(D, (8,), 1, activation="tanh").layers[1],
    "coupling": lambda: afnp.realnvp(D, (8,), 1, activation="tanh").layers[0],
    "spline coupling": lambda: afnp.nsf(D, (8,), 1, coupling=True, activation="tanh").layers[0],
    "inverse": lambda: Inverse(afnp.made(D, (8,), order=[2, 0, 3, 1], activation="tanh").layers[0]),
    "convolution": lambda: Autoregressive(CausalConv(D, 2, 3, (1, 2)), Affine()),
    "attention": lambda: Autoregressive(CausalTransformer(D, 2, 2, 8, 2, 1), Affine(), "reverse"),
}


def prepared(name):
    """A flow of one layer whose parameters hide nothing, and noise."""
    flow = lively(afnp.Flow([LAYERS[name]()]), seed=len(name))
    rng = np.random.default_rng(len(name))
    flow.theta += 0.1 * rng.standard_normal(flow.theta.size)
    return flow, 0.7 * rng.standard_normal((3, D))


def pulled(flow, u, d_x, d_log_det, context=None, engine="numpy"):
    """The gradients of d_x · x + d_log_det · log|det| by theta and by u, and x."""
    g = flow.split(np.zeros_like(flow.theta))
    context = np.empty((len(u), 0), u.dtype) if context is None else context
    x, _, caches = flow.generate_keeping(flow.own, u, context, engine)
    d_u = flow.generate_backward(flow.own, caches, d_x, d_log_det, g, engine)
    return g.flat, d_u, x


@pytest.mark.parametrize("name", LAYERS)
def test_the_derivative_of_sampling_is_that_of_complex_steps(name):
    flow, u = prepared(name)
    rng = np.random.default_rng(0)
    d_x, d_log_det = rng.standard_normal((3, D)), rng.standard_normal(3)

    def loss(theta, u):
        x, log_det = flow.generate_with(flow.split(theta), u, np.empty((3, 0)))
        return (d_x * x).sum() + (d_log_det * log_det).sum()

    d_theta, d_u, x = pulled(flow, u, d_x, d_log_det)
    assert norm_error(x, flow.generate(u, backend="numpy")[0]) < 1e-12
    theta = flow.theta.astype(complex)
    assert norm_error(d_u, complex_step(lambda u: loss(theta, u), u)) < ROUNDING
    ways = rng.standard_normal((4, len(theta)))  # no entry is wrong that no direction sees
    along = complex_step(lambda t: loss(theta + t @ ways, u.astype(complex)), np.zeros(4))
    assert norm_error(ways @ d_theta, along) < ROUNDING


CONDITIONAL = {
    "maf": lambda: afnp.maf(D, (8,), 2, context=2, activation="tanh"),
    "iaf": lambda: afnp.iaf(D, (8,), 2, context=2, activation="tanh"),
    "coupling": lambda: afnp.realnvp(D, (8,), 2, context=2, activation="tanh"),
    "spline coupling": lambda: afnp.nsf(D, (8,), 2, coupling=True, context=2, activation="tanh"),
    "beside": lambda: afnp.Flow(
        [Autoregressive(AddedMLP(D, 2, (8, 8), 2, "tanh"), Affine())], context=2
    ),
    "gated": lambda: afnp.Flow(
        [
            Coupling(
                D,
                (7, 7, 7),
                [True, True, False, False],
                context=2,
                activation="tanh",
                residual=True,
                gated=True,
            )
        ],
        context=2,
    ),
}


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_the_derivative_of_sampling_given_a_context(kind):
    """By theta along random ways, and by u; units of the context are part of it."""
    flow = lively(CONDITIONAL[kind](), seed=3, last=0.3)
    rng = np.random.default_rng(2)
    flow.theta += 0.1 * rng.standard_normal(flow.theta.size)
    flow.standardize_context([[10.0, -1.0], [30.0, 1.0]])
    u, c = rng.standard_normal((3, D)), [20.0, 0.0] + rng.standard_normal((3, 2)) * [10.0, 1.0]
    d_x, d_log_det = rng.standard_normal((3, D)), rng.standard_normal(3)

    def loss(theta, u):
        x, log_det = flow.generate_with(flow.split(theta), u, c)
        return (d_x * x).sum() + (d_log_det * log_det).sum()

    d_theta, d_u, x = pulled(flow, u, d_x, d_log_det, c)
    assert norm_error(x, flow.generate(u, c, backend="numpy")[0]) < 1e-12
    theta = flow.theta.astype(complex)
    assert norm_error(d_u, complex_step(lambda u: loss(theta, u), u)) < ROUNDING
    ways = rng.standard_normal((4, len(theta)))
    along = complex_step(lambda t: loss(theta + t @ ways, u.astype(complex)), np.zeros(4))
    assert norm_error(ways @ d_theta, along) < ROUNDING


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("univariate", ["affine", "spline", "gaussian_mixture"])
def test_compiled_code_has_the_derivative_of_inverse_flows(univariate, context, dtype):
    """Between them an ordinary layer, which stays in NumPy; 300 rows are several tiles."""
    bounds = Bounds([0.0] * D, [9.0] * D)
    options = {"univariate": univariate, "context": context, "preprocess": [bounds]}
    flow = lively(afnp.iaf(D, (16, 9), 2, between="actnorm", **options), seed=1, last=0.3)
    flow = afnp.Flow.from_config({**flow.config(), "dtype": dtype}, flow.theta.astype(dtype))
    rng = np.random.default_rng(0)
    u, d_x = rng.standard_normal((2, 300, D)).astype(dtype)
    c = rng.standard_normal((300, context)).astype(dtype)
    d_log_det = rng.standard_normal(300).astype(dtype)
    of_numpy = pulled(flow, u, d_x, d_log_det, c)
    compiled = pulled(flow, u, d_x, d_log_det, c, "numba")
    for got, expected in zip(compiled, of_numpy, strict=True):
        assert norm_error(got, expected) < (1e-10 if dtype == "float64" else 1e-3)
    assert np.abs(of_numpy[0]).max() > 0


@pytest.mark.parametrize("kind", ["maf", "iaf", "realnvp", "nsf"])
def test_whole_flows_and_both_precisions(kind):
    options = {"preprocess": [Standardize(np.ones(D), np.full(D, 2.0))]}
    flow = lively(getattr(afnp, kind)(D, (8,), 2, **options), seed=2, last=0.3)
    single = afnp.Flow.from_config(
        {**flow.config(), "dtype": "float32"}, flow.theta.astype(np.float32)
    )
    rng = np.random.default_rng(1)
    u, d_x, d_log_det = rng.standard_normal((5, D)), rng.standard_normal((5, D)), np.ones(5)
    d_theta, _, _ = pulled(flow, u, d_x, d_log_det)
    direction, h = rng.standard_normal(flow.theta.size), 1e-6
    losses = []
    for sign in (1, -1):
        moved = afnp.Flow.from_config(flow.config(), flow.theta + sign * h * direction)
        x, log_det = moved.generate(u, backend="numpy")
        losses.append((d_x * x).sum() + log_det.sum())
    assert direction @ d_theta == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5)
    rounded, _, _ = pulled(single, u.astype(np.float32), d_x, d_log_det)
    assert rounded.dtype == np.float32 and norm_error(rounded, d_theta) < 1e-3


def gaussian(mean, covariance):
    """Energy of a Gaussian, without its constant, which is -log Z."""
    precision = np.linalg.inv(covariance)

    def energy(x):
        d = (x - mean) @ precision
        return 0.5 * (d * (x - mean)).sum(axis=1), d

    return energy, 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


@pytest.mark.parametrize("kind", ["maf", "iaf", "realnvp"])
def test_a_gaussian_is_found_with_its_normaliser(kind):
    mean, covariance = np.array([1.0, -1.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
    energy, log_z = gaussian(mean, covariance)
    flow = getattr(afnp, kind)(2, (), 2)
    history = fit_energy(
        flow, energy, epochs=10, steps=40, batch_size=64, learning_rate=0.05, progress=False
    )
    found = importance_sample(flow, energy, 2000, rng=1)
    assert history.train_loss[-1] == pytest.approx(-log_z, abs=0.02)
    assert found.fraction > 0.98
    assert found.log_normaliser == pytest.approx(log_z, abs=5 * found.standard_error + 1e-6)
    x = flow.sample(20_000, rng=2)
    assert x.mean(axis=0) == pytest.approx(mean, abs=0.05)
    assert np.cov(x.T) == pytest.approx(covariance, abs=0.05)


def spread(x, c):
    """A Gaussian around c_1 of standard deviation c_2, in both features: Z = 2 pi c_2^2."""
    d = (x - c[:, :1]) / c[:, 1:]
    return 0.5 * (d * d).sum(axis=1), d / c[:, 1:]


def test_one_flow_learns_a_family_of_densities():
    """Each with its own Z; contexts that it was not given lie between them."""
    rng = np.random.default_rng(0)
    contexts = np.column_stack([rng.uniform(-2, 2, 500), rng.uniform(0.5, 2.0, 500)])
    flow = afnp.iaf(2, (16,), 1, context=2)
    flow.standardize_context(contexts)
    options = {"epochs": 25, "batch_size": 128, "learning_rate": 0.03, "progress": False}
    history = fit_energy(flow, spread, context=contexts, **options)
    log_z = np.log(2 * np.pi * contexts[:, 1] ** 2)
    assert history.train_loss[-1] == pytest.approx(-log_z.mean(), abs=0.1)
    for mean, std in ((0.0, 1.0), (1.3, 0.7)):
        found = importance_sample(flow, spread, 2000, rng=1, context=[[mean, std]])
        assert found.fraction > 0.9
        expected = math.log(2 * np.pi * std**2)
        assert found.log_normaliser == pytest.approx(expected, abs=5 * found.standard_error + 1e-3)
        assert found.x.mean() == pytest.approx(mean, abs=0.15)


def test_compiled_and_in_numpy_a_flow_is_trained_the_same(monkeypatch):
    def trained():
        flow = afnp.iaf(3, (64, 64), 2)
        options = {"epochs": 1, "steps": 3, "batch_size": 256, "progress": False}
        fit_energy(flow, gaussian(np.ones(3), np.diag([1.0, 2.0, 0.5]))[0], **options)
        return flow.theta

    compiled = trained()
    monkeypatch.setattr(models, "_unusable", ["to compare"])
    assert norm_error(trained(), compiled) < 1e-9


def double_well(x):
    """Two wells at -1 and 1 of the first feature, 1 in the second."""
    a, b = x.T
    energy = 4 * (a * a - 1) ** 2 + 0.5 * b * b
    return energy, np.stack([16 * a * (a * a - 1), b], axis=1)


def test_the_free_energy_is_never_below_and_the_weights_make_up_for_it():
    grid = np.linspace(-3, 3, 4001)
    density = np.exp(-4 * (grid**2 - 1) ** 2)
    log_z = math.log(density.sum() * (grid[1] - grid[0])) + 0.5 * math.log(2 * np.pi)
    flow = afnp.nsf(2, (16,), 2, coupling=True, bound=4.0)
    history = fit_energy(
        flow,
        double_well,
        epochs=15,
        batch_size=128,
        learning_rate=1e-2,
        temperature=lambda done: 1 + 4 * max(0.0, 1 - 2 * done),
        progress=False,
    )
    found = importance_sample(flow, double_well, 4000, rng=1)
    mean_free = -found.log_weights.mean()
    assert mean_free > -log_z - 3 * found.log_weights.std() / np.sqrt(4000)
    assert found.log_normaliser == pytest.approx(log_z, abs=5 * found.standard_error + 0.01)
    assert 0.2 < (found.x[:, 0] > 0).mean() < 0.8 and found.fraction > 0.5
    assert history.stopped == "epochs" and len(history.train_loss) == 15


def test_who_sits_in_one_well_reports_a_good_size_and_half_of_z():
    """What the module warns of: the weights know nothing of a well that is never sampled."""

    def narrow(x):
        a, b = x.T
        return 40 * (a * a - 1) ** 2 + 0.5 * b * b, np.stack([160 * a * (a * a - 1), b], axis=1)

    grid = np.linspace(-2, 2, 8001)
    z = np.exp(-40 * (grid**2 - 1) ** 2).sum() * (grid[1] - grid[0]) * math.sqrt(2 * np.pi)
    flow = afnp.maf(2, (), 1)
    flow.parameters["0.b0"] = [1.0, 7 * np.arctanh(math.log(0.06) / 7), 0.0, 0.0]
    fit_energy(flow, narrow, epochs=10, learning_rate=1e-2, progress=False)
    found = importance_sample(flow, narrow, 4000, rng=1)
    assert found.fraction > 0.9
    assert math.exp(found.log_normaliser) / z == pytest.approx(0.5, abs=0.05)


def test_the_seed_repeats_it_and_callbacks_end_it():
    def fitted(seed, **options):
        flow = afnp.iaf(2, (8,), 1)
        history = fit_energy(
            flow,
            double_well,
            epochs=3,
            steps=3,
            batch_size=16,
            progress=False,
            seed=seed,
            **options,
        )
        return flow.theta, history

    told = []
    one, history = fitted(0, callbacks=[lambda epoch: told.append(epoch) or epoch.epoch == 1])
    assert history.stopped == "callback" and [epoch.epoch for epoch in told] == [0, 1]
    assert told[0].train_loss == history.train_loss[0] and told[0].val_loss is None
    assert (fitted(0)[0] == fitted(0)[0]).all() and (fitted(0)[0] != fitted(1)[0]).any()
    assert len(one)


REFUSED = {
    "shape": (
        dict(energy_and_gradient=lambda x: (x, x)),
        r"energy_and_gradient: expected shapes \(16,\) and \(16, 2\), got \(16, 2\)",
    ),
    "pair": (dict(energy_and_gradient=lambda x: x[0]), "energy_and_gradient: expected"),
    "temperature": (dict(temperature=lambda done: 0.0), "temperature: expected a positive number"),
    "temperature kind": (dict(temperature=2.0), "temperature: expected a callable, got 2.0"),
    "schedule": (dict(schedule="linear"), "schedule: expected one of 'cosine', 'constant'"),
    "steps": (dict(steps=0), "steps: expected an integer of at least 1, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(case):
    options, message = REFUSED[case]
    options = {"energy_and_gradient": double_well, "batch_size": 16, "progress": False, **options}
    with pytest.raises(ValueError, match=message):
        fit_energy(afnp.iaf(2, (8,), 1), **options)


def test_flows_that_cannot_be_trained_so_are_refused():
    with pytest.raises(ValueError, match="flow: expected a Flow, got DiscreteMADE"):
        fit_energy(afnp.DiscreteMADE(2), double_well)
    conditional = afnp.iaf(2, (8,), 1, context=1)
    with pytest.raises(ValueError, match="context: expected 1 columns, got none"):
        fit_energy(conditional, double_well)
    with pytest.raises(ValueError, match="context: expected at least one row, got none"):
        fit_energy(conditional, double_well, context=np.empty((0, 1)))
    with pytest.raises(ValueError, match=r"context: expected no columns, got shape \(3, 1\)"):
        fit_energy(afnp.iaf(2, (8,), 1), double_well, context=np.ones((3, 1)))
    with pytest.raises(ValueError, match="context: expected one row, for which weights are, got 3"):
        importance_sample(conditional, double_well, 5, context=np.ones((3, 1)))


@pytest.mark.parametrize("fault", ["energy", "gradient"])
def test_an_energy_that_is_no_number_keeps_the_last_good_parameters(fault):
    calls = []

    def energy(x):
        calls.append(1)
        value, gradient = double_well(x)
        if len(calls) == 5:
            (value if fault == "energy" else gradient)[3] = np.nan
        return value, gradient

    flow, same = afnp.iaf(2, (8,), 1), afnp.iaf(2, (8,), 1)
    with pytest.raises(FloatingPointError, match="not finite at epoch 1, step 0, row 3"):
        fit_energy(flow, energy, steps=4, batch_size=16, progress=False)
    assert np.isfinite(flow.theta).all() and (flow.theta != same.theta).any()


def test_other_bases_and_no_temperature():
    flow = afnp.maf(2, (8,), 2, base=StudentT(2, df=5.0))
    history = fit_energy(flow, double_well, epochs=5, learning_rate=1e-2, progress=False)
    assert history.train_loss[-1] < history.train_loss[0]


# ---- weights -------------------------------------------------------------------------------------


def test_kishs_size():
    assert effective_sample_size(np.zeros(7)) == pytest.approx(7)
    assert effective_sample_size([0.0, -np.inf, -np.inf]) == 1
    assert effective_sample_size(np.log([1, 3]) + 1e4) == pytest.approx(1.6)
    for wrong in ([], [-np.inf], [np.nan, 0.0], [[0.0]]):
        with pytest.raises(ValueError, match="log_weights: expected a vector of numbers"):
            effective_sample_size(wrong)


def test_a_flow_weighed_for_its_own_density_has_equal_weights(backend):
    flow = lively(afnp.maf(D, (8,), 2), seed=1)
    found = importance_sample(flow, lambda x: (-flow.log_prob(x), -flow.score(x)), 500)
    assert found.log_weights == pytest.approx(np.zeros(500), abs=1e-9)
    assert found.fraction == pytest.approx(1) and found.log_normaliser == pytest.approx(0, abs=1e-9)
    assert found.largest_share == pytest.approx(1 / 500)
    assert found.standard_error == pytest.approx(0, abs=1e-5)
    with pytest.raises(FloatingPointError, match="row 0 has an energy that is not a number"):
        importance_sample(flow, lambda x: (np.full(len(x), np.nan), x), 5)


def test_the_fitted_surface_of_alanines_torsions_is_learned_from_its_energy():
    """Two angles of molecular dynamics: -log p of a flow that was fitted to them, so that Z = 1."""
    angles = afnp.data.load("alanine_300K").train[:4000]
    surface = afnp.nsf(2, (16, 16), 2, circular=True, seed=1)
    afnp.fit(surface, angles, epochs=6, batch_size=200, learning_rate=1e-2, progress=False)
    flow = afnp.nsf(2, (16, 16), 4, coupling=True, circular=True)

    def energy(x):
        return -surface.log_prob(x), -surface.score(x)

    options = {"epochs": 15, "learning_rate": 1e-2, "progress": False}
    fit_energy(flow, energy, temperature=lambda done: 1 + 4 * max(0.0, 1 - 2 * done), **options)
    found = importance_sample(flow, energy, 4000, rng=1)
    assert found.fraction > 0.8
    assert abs(found.log_normaliser) < 5 * found.standard_error + 0.005
    w = np.exp(found.log_weights - found.log_weights.max())
    left = w @ (found.x[:, 0] < 0) / w.sum()
    assert left == pytest.approx((surface.sample(20_000)[:, 0] < 0).mean(), abs=0.01)
