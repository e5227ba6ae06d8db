"""Wrong values that nobody was told of: the right ones, or an error that names its row."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import lively

import afnp
from afnp import marginals
from afnp.applications.forecast import sample_paths
from afnp.bases import StandardNormal, StudentT, UniformTorus
from afnp.flow import Flow
from afnp.interop.frames import to_frame
from afnp.networks import graph_mlp
from afnp.transforms import Standardize, masked


def rows(n, D, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_gradient_of_a_density_beyond_float32_names_its_row(backend):
    flow = afnp.made(2, hidden=(3,), dtype=np.float32)
    x = rows(70, 2)
    x[17] = 1e25
    assert flow.log_prob(x, backend=backend)[17] == -np.inf
    with pytest.raises(FloatingPointError, match="gradient of row 17 of x is not finite in float"):
        flow.loss_and_grad(x, backend=backend)


def test_labels_are_distinct_sets_in_the_order_of_their_members():
    sets = np.random.default_rng(0).random((300, 11)) < 0.2
    assert np.array_equal(graph_mlp._distinct(sets), np.unique(sets, axis=0))


# ---- circles -------------------------------------------------------------------------------------


def circle(name="clipped_circle"):
    return masked(2, (6,), univariate=name, options={"bins": 3})


BESIDE = {
    "normal noise": lambda name: Flow([circle(name)]),
    "heavy tails": lambda name: Flow([circle(name)], base=StudentT(2)),
    "an affine layer": lambda name: Flow([circle(name), masked(2, (6,))], base=UniformTorus(2)),
    "other units": lambda name: Flow(
        [Standardize([0.0, 0.0], [2.0, 2.0]), circle(name)], base=UniformTorus(2)
    ),
    "a box that is narrower": lambda name: Flow(
        [circle(name), Standardize([0.0, 0.0], [0.99, 0.99])], base=UniformTorus(2)
    ),
    "a box that is far wider": lambda name: Flow(
        [circle(name), Standardize([0.0, 0.0], [1.1, 1.1])], base=UniformTorus(2)
    ),
    "a box elsewhere": lambda name: Flow(
        [circle(name), Standardize([1.0, 0.0], [1.0, 1.0])], base=UniformTorus(2)
    ),
}


@pytest.mark.parametrize("name", ["clipped_circle", "circular_spline"])
@pytest.mark.parametrize("beside", BESIDE)
def test_a_circle_beside_what_is_none_is_refused(name, beside):
    """Circles of zuko's kind integrated to 0.99, 3.97 and 15.8."""
    with pytest.raises(ValueError, match="layers of angles need noise|does not map angles"):
        BESIDE[beside](name)


@pytest.mark.parametrize("name", ["clipped_circle", "circular_spline"])
def test_circles_have_an_integral_of_one_and_know_no_points_outside(name):
    flow = lively(afnp.maf(2, (6,), 2, univariate=name, options={"bins": 3}))
    side = np.linspace(-np.pi, np.pi, 201)
    side = (side[1:] + side[:-1]) / 2
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert abs(np.exp(flow.log_prob(x)).mean() * (2 * np.pi) ** 2 - 1) < 2e-3
    with pytest.raises(ValueError, match=r"x: row 0, feature 1: expected an angle in \[-pi, pi\]"):
        flow.log_prob([[0.0, 4.0]])


# ---- digits --------------------------------------------------------------------------------------


SECONDS = 1.7e9 + 60 * rows(500, 2)
"""Unix time: float32 tells numbers 128 seconds apart."""


def of_seconds(seed=0, **options):
    scaled = {"dtype": np.float32, "preprocess": afnp.preprocessing(SECONDS), "seed": seed}
    return lively(afnp.maf(2, (6,), 1, **scaled, **options))


def by_frame():
    flow = of_seconds()
    return to_frame(flow, flow.sample(500)).to_numpy()


def by_paths():
    column = afnp.preprocessing(SECONDS[:, :1])
    flow = afnp.maf(1, (6,), 1, context=2, dtype=np.float32, preprocess=column)
    flow.standardize_context(SECONDS)
    return sample_paths(flow, SECONDS[:1], steps=3, paths=500)[0]


def by_dask():
    dask = pytest.importorskip("afnp.interop.dask", reason="NO DASK ARRAY WAS DRAWN: extra 'dask'")
    lazy = dask.sample(of_seconds(), 500)
    assert lazy.dtype == np.float64
    return lazy.compute()


SAMPLES = {
    "dask": by_dask,
    "a flow": lambda: of_seconds().sample(500),
    "an ensemble": lambda: afnp.FlowEnsemble([of_seconds(0), of_seconds(1)]).sample(500),
    "a marginal": lambda: marginals.marginal(of_seconds(), 1).sample(500),
    "given the first": lambda: marginals.sample_given(of_seconds(), 500, SECONDS[:1, :1])[:, 1:],
    "a frame": by_frame,
    "paths": by_paths,
}


@pytest.mark.parametrize("way", SAMPLES)
def test_samples_of_float32_flows_keep_the_digits_of_the_data(way):
    """Five distinct rows came out of an ensemble, four of a frame."""
    x = SAMPLES[way]()
    assert x.dtype == np.float64
    assert min(len(np.unique(column)) for column in x.T) == 500


def test_an_ensemble_draws_several_samples_for_each_context():
    flows = [lively(afnp.made(2, (4,), context=1, seed=seed)) for seed in (0, 1)]
    contexts = rows(3, 1)
    x = afnp.FlowEnsemble(flows).sample(4, 7, contexts, each=True)
    flat = afnp.FlowEnsemble(flows).sample(12, 7, np.repeat(contexts, 4, axis=0))
    assert x.shape == (3, 4, 2) and (x.reshape(12, 2) == flat).all()
    with pytest.raises(ValueError, match="each: needs a context"):
        afnp.FlowEnsemble([afnp.made(2, (4,))]).sample(4, each=True)


@pytest.mark.parametrize("df", [1e5, 1e20, 1e300])
def test_student_t_of_many_degrees_is_normal(df):
    """Beyond 1e61 it was an OverflowError."""
    u = rows(5, 2)
    close = {"rtol": 0, "atol": 20 / df + 1e-12}
    np.testing.assert_allclose(
        StudentT(2, df).log_prob({}, u), StandardNormal(2).log_prob({}, u), **close
    )
