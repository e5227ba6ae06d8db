"""Advice before training: what would make a fit useless is said once, with the remedy; good data is
left in peace."""

import re
import warnings

import numpy as np
import pytest

import afnp
from afnp import advice, data
from afnp.advice import DataWarning

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((500, 3))
YEARS = RNG.uniform(1990, 2020, (500, 1))


def flow_for(x, **options):
    return afnp.maf(x.shape[1], **{"hidden": (8,), "transforms": 1, **options})


def said(x, context=None, flow=None, **options):
    """The findings in rows, as fit sees them."""
    x = np.asarray(x, np.float64)
    c = np.empty((len(x), 0)) if context is None else np.asarray(context, np.float64)
    flow = flow_for(x, context=c.shape[1], **options) if flow is None else flow
    return advice.findings(flow, x, c)


def with_column(column, x=NORMAL):
    return np.column_stack([x, column])


COUNTS = RNG.poisson(3.0, 500)
FINDINGS = {
    "a constant": (with_column(np.full(500, 2.5)), "feature 3 never changes.*leave it out"),
    "an index": (with_column(RNG.permutation(500)), "feature 3 counts up.*an index"),
    "counts": (with_column(COUNTS), "feature 3 holds whole numbers.*dequantize.*DiscreteMADE"),
    "grey levels": (
        RNG.integers(0, 256, (500, 4)),
        "features 0, 1, 2 and 1 more hold whole numbers",
    ),
    "grey levels in [0, 1]": (
        RNG.integers(0, 17, (500, 2)) / 16,
        "features 0, 1 take at most 17 different values in 500 rows.*uniform noise",
    ),
    "photographs in [0, 1]": (
        (RNG.integers(0, 256, (900, 2)) / 255).astype(np.float32),
        "features 0, 1 hold equal steps, at most 256 of them, as grey levels.*dequantize",
    ),
    "photographs in [-1, 1]": (
        (RNG.integers(0, 256, (900, 2)) / 127.5 - 1).astype(np.float32),
        "features 0, 1 hold equal steps, at most 256 of them",
    ),
    "photographs in standard deviations": (
        ((RNG.integers(0, 256, (900, 2)) - 127.3) / 73.9).astype(np.float32),
        "features 0, 1 hold equal steps, at most 256 of them",
    ),
    "seconds since 1970 in float32": (
        with_column((1.7e9 + 600 * NORMAL[:, 0]).astype(np.float32)),
        r"feature 3 has hardly a digit left \(feature 3: numbers near 1.7e\+09 are 128 apart and "
        r"spread by 59.\); subtract what they share before",
    ),
    "more than float64 holds": (
        with_column(1e17 + 100 * NORMAL[:, 0]),
        "feature 3 has hardly a digit left .* are 16 apart",
    ),
    "copies": (np.repeat(NORMAL[:100], 5, axis=0), "400 of 500 rows repeat another one exactly"),
    "a sum": (
        with_column(NORMAL.sum(axis=1)),
        "features 0, 1, 2 and 1 more depend on each other linearly",
    ),
    "a copy": (with_column(2 * NORMAL[:, 1] + 1), "features 1, 3 depend on each other linearly"),
    "metres as micrometres": (
        NORMAL * [1, 1, 1e6],
        r"feature 2 reaches the first network unscaled \(feature 2: median .*preprocess=",
    ),
    "far from the origin": (NORMAL + [0, 0, 1e4], "feature 2 reaches the first network unscaled"),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_what_makes_a_fit_useless_is_found(case):
    x, words = FINDINGS[case]
    assert any(re.search(words, line) for line in said(x)), said(x)


def test_what_a_float32_flow_would_round_is_told_with_the_remedy():
    """The same rows raise no finding once the flow takes them in float64."""
    x = np.column_stack([NORMAL, 1.7e9 + 60 * NORMAL[:, 0]]).astype(np.float64)
    flow = flow_for(x, dtype=np.float32)
    with pytest.warns(DataWarning, match="feature 3 has hardly a digit left.*in float64, with pre"):
        afnp.fit(flow, x, epochs=1, progress=False)
    assert said(x, dtype=np.float32, preprocess=afnp.preprocessing(x)) == [
        line for line in said(x, preprocess=afnp.preprocessing(x))
    ]


def test_what_float32_leaves_no_difference_of_is_not_simply_left_out():
    days = np.float32(2.45e6 + 1e-3 * NORMAL).astype(np.float64)
    remedy = "if numbers 0.25 apart are too coarse .*in float64, with preprocess="
    assert re.search(remedy, said(days, flow=afnp.maf(3, hidden=(4,), dtype=np.float32))[0])
    assert not re.search(remedy, said(days)[0])


def test_a_context_in_years_is_one_number_to_a_network():
    lines = said(NORMAL, YEARS)
    assert len(lines) == 1 and lines[0].startswith("context: column 0 has mean 200")
    assert said(NORMAL, (YEARS - YEARS.mean()) / YEARS.std()) == []
    assert said(NORMAL, np.eye(3)[RNG.integers(0, 3, 500)]) == []
    assert said(NORMAL, 0.997 + 0.004 * NORMAL) == []  # says little, and does no harm
    assert "column 0 has mean" in said(NORMAL, 1e-3 * NORMAL)[0]
    assert "column 0 has mean 2000" in said(NORMAL, np.full((500, 1), 2000.0))[0]
    assert said(NORMAL, np.zeros((500, 1))) == said(NORMAL, np.ones((500, 1))) == []


def test_splines_beyond_their_bound_have_no_gradient():
    flow = afnp.nsf(3, hidden=(8,), transforms=1)
    lines = said(NORMAL + 100, flow=flow)
    assert len(lines) == 1 and "outside [-4, 4] in up to 100 % of the rows" in lines[0]
    assert not flow.loss_and_grad(NORMAL + 100)[1].any()
    assert said(NORMAL * 1.5, flow=flow) == []
    scaled = afnp.nsf(3, hidden=(8,), transforms=1, preprocess=afnp.preprocessing(NORMAL + 100))
    assert said(NORMAL + 100, flow=scaled) == []


def test_one_feature_and_affine_layers_are_a_gaussian():
    x = NORMAL[:, :1]
    assert "this is a Gaussian whatever its parameters" in said(x)[0]
    assert said(x, univariate="spline") == said(x, univariate="gaussian_mixture") == []
    with pytest.warns(DataWarning, match="this is a Gaussian whatever its parameters"):
        flow, energy = afnp.maf(1, hidden=(4,)), lambda x: (x[:, 0] ** 4, 4 * x**3)
        afnp.fit_energy(flow, energy, epochs=1, steps=1, progress=False)
    assert said(x, YEARS - 2005) == [] and said(x, base=afnp.bases.StudentT(1)) == []


CLEAN = {
    "standard": lambda: NORMAL,
    "few rows": lambda: np.round(NORMAL[:15]),
    "galaxies": lambda: data.load("galaxies").train,
    "two moons": lambda: data.load("two_moons").train,
    "molecule": lambda: data.load("alanine_300K").train,
    "dequantised": lambda: data.dequantize(COUNTS[:, None] * np.ones(2), 16, RNG),
    "outliers": lambda: np.concatenate([NORMAL, [[100.0, 100.0, -100.0]]]),
    "many zeros": lambda: NORMAL * (RNG.uniform(size=NORMAL.shape) > 0.4),
    "rounded": lambda: NORMAL.round(2),
    "one rounded column": lambda: NORMAL[:, :1].round(2),
}


@pytest.mark.parametrize("case", CLEAN)
def test_nothing_is_said_of_good_data(case):
    x = CLEAN[case]()
    assert said(x, preprocess=afnp.preprocessing(x), univariate="gaussian_mixture") == []


def test_a_row_far_out_sets_the_scale_of_all_others():
    x = np.concatenate([NORMAL, [[0.0, 1e9, 0.0]]])
    lines = said(x, preprocess=afnp.preprocessing(x))
    assert len(lines) == 1 and "feature 1 has a few values far out, such as 1e+09" in lines[0]


@pytest.mark.parametrize("scale", [1e155, 1e200, 1e300])
def test_numbers_whose_squares_are_none_are_no_error(scale):
    """Their correlation once ended in "Eigenvalues did not converge"."""
    x = scale * NORMAL
    assert isinstance(said(x), list)
    flow = flow_for(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        with pytest.raises(FloatingPointError, match="training rows"):
            afnp.fit(flow, x, epochs=1, progress=False)


def test_fit_says_it_once_and_names_the_columns():
    x = with_column(np.full(500, 2.5))
    with pytest.warns(DataWarning, match="feature 3 never changes") as caught:
        afnp.fit(flow_for(x), x, epochs=1, progress=False)
    assert len(caught) == 1 and caught[0].filename == __file__
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(x, columns=["a", "b", "c", "same"])
    with pytest.warns(DataWarning, match=r"feature 3 \('same'\) never changes"):
        afnp.fit(flow_for(x), table, epochs=1, progress=False)


def test_other_models_are_left_in_peace():
    x = RNG.integers(0, 3, (50, 2))
    model = afnp.DiscreteMADE(2, levels=3, hidden=(4,))
    assert advice.findings(model, x, np.empty((50, 0))) == []
