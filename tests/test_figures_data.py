"""The figures of trained flows: their numbers agree with each other, with closed forms,
and with their claims."""

import importlib

import numpy as np
import pytest
from matplotlib.figure import Figure

import afnp
from figures import common, recipes

NAMES = ("06_two_moons", "07_digits", "08_galaxies", "10_training")


@pytest.fixture(scope="module", autouse=True)
def cache(trained_flows):
    """Train for all tests once, whatever the figures' own cache holds."""


def compute(name, quick=True):
    return importlib.import_module(f"figures.{name}").data(quick=quick)


@pytest.fixture(scope="module")
def quick():
    return {name: compute(name) for name in NAMES}


def arrays(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from arrays(item)
    elif isinstance(value, list):
        for item in value:
            yield from arrays(item)
    else:
        yield np.asarray(value)


# ---- quick settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_data_is_finite_and_draws(name, quick):
    data = quick[name]
    common.as_json(data["numbers"])  # raises for anything that is not a finite JSON value
    assert all(
        np.isfinite(a).all() for key, part in data.items() if key != "numbers" for a in arrays(part)
    )
    before = [
        a.copy() for a in arrays({key: part for key, part in data.items() if key != "numbers"})
    ]
    with common.style():
        figure = importlib.import_module(f"figures.{name}").draw(data)
    assert isinstance(figure, Figure) and figure.get_suptitle()
    after = arrays({key: part for key, part in data.items() if key != "numbers"})
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_two_moons_numbers_agree(quick):
    data = quick["06_two_moons"]
    numbers = data["numbers"]
    assert abs(numbers["integral"] - 1) < 1e-3
    assert abs(numbers["kl_test"] - numbers["kl_integral"]) < 5 * numbers["kl_test_standard_error"]
    assert 0 < numbers["rare_mass_true"] < numbers["rare_mass_flow"] < 0.1
    assert len(data["stages"]) == numbers["layers"] + 1
    recipe = recipes.two_moons(quick=True)
    assert np.allclose(
        data["stages"][-1], recipe.flows["MAF"].normalize(recipe.data.test)[0], atol=1e-12
    )
    assert abs(data["upper"].mean() - 0.5) < 0.05


def test_digits_gaussian_is_the_closed_form(quick):
    nats = quick["07_digits"]["numbers"]["models"]["Gaussian"]["nats"]
    recipe = recipes.digits(quick=True)
    z = {
        split: recipes.standardize(recipe.flows["MAF"], getattr(recipe.data, split))[0]
        for split in nats
    }
    for split in nats:
        assert abs(nats[split] - afnp.data.gaussian_log_prob(z["train"], z[split]).mean()) < 1e-8
    assert abs(nats["test"] + 76.98) < 0.05


@pytest.mark.parametrize("model", ["MADE", "MAF"])
def test_standardised_nats_are_those_of_the_trained_layers_alone(model):
    recipe = recipes.digits(quick=True)
    flow = recipe.flows[model]
    x = recipe.data.val
    z, log_det = recipes.standardize(flow, x)
    tail = afnp.Flow([layer for layer in flow.layers if layer.layout.size], dtype=np.float64)
    tail.theta = flow.theta
    error = tail.log_prob(z) - (flow.log_prob(x) - log_det)
    assert (
        np.abs(error).max() < 0.2 and abs(error.mean()) < 2e-3
    )  # float32: an ulp of x near 17 moves the logit
    assert np.allclose(z.std(axis=0), 1, atol=0.5)


def test_digits_images_and_parameters(quick):
    data = quick["07_digits"]
    assert {name: rows.shape[1:] for name, rows in data["images"].items()} == dict.fromkeys(
        data["images"], (8, 8)
    )
    assert all(rows.min() >= 0 and rows.max() <= 16 for rows in data["images"].values())
    fresh = afnp.maf(
        64, (256, 256), transforms=1
    )  # its biases, and the weights under the mask, are still zero
    biases = 256 + 256 + 128
    assert data["numbers"]["models"]["MADE"]["parameters"] == np.count_nonzero(fresh.theta) + biases


def test_bits_and_nats_tell_the_same(quick):
    recipe = recipes.digits(quick=True)
    _, log_det = recipes.standardize(recipe.flows["MAF"], recipe.data.test)
    for model in quick["07_digits"]["numbers"]["models"].values():
        bits = -(model["nats"]["test"] + log_det.mean()) / (64 * np.log(2))
        assert abs(bits - model["bits_per_dim"]["test"]) < 1e-9


def test_galaxies_statistics():
    figure = importlib.import_module("figures.08_galaxies")
    rng = np.random.default_rng(0)
    assert abs(figure._kolmogorov(np.arange(10.0), np.arange(10.0) + 3) - 0.3) < 1e-12
    assert figure._kolmogorov(np.arange(10.0), np.arange(10.0)) == 0
    far = [
        figure._kolmogorov(*rng.standard_normal((2, 500))) > figure.CRITICAL * np.sqrt(2 / 500)
        for _ in range(400)
    ]
    assert 0.02 < np.mean(far) < 0.08
    plane = rng.random((20, 30))
    held = [plane[plane >= level].sum() / plane.sum() for level in figure._levels(plane)]
    assert np.allclose(held, figure.SHARES, atol=1 / plane.size * 3)
    x = rng.standard_normal((5, 7))
    assert np.linalg.matrix_rank(figure._quantities(np.eye(7))) == 7
    assert np.allclose(figure._quantities(x)[:, 2:].sum(axis=1), x[:, 1] - x[:, 6])


def test_training_curves_end_where_the_scores_are(quick):
    for name, figure in (("digits", "07_digits"), ("galaxies", "08_galaxies")):
        for model, numbers in quick["10_training"]["numbers"][name]["models"].items():
            curves = quick["10_training"]["curves"][name][model]
            assert (
                len(curves["train"])
                == len(curves["val"])
                == len(curves["rate"])
                == numbers["epochs"]
            )
            assert numbers["best_epoch"] == np.argmin(curves["val"]) + 1
            scored = quick[figure]["numbers"]["models"][model]["nats"]["val"]
            assert abs(numbers["val_at_best"] + scored) < 1e-3


# ---- the full recipes, and what the docstrings claim ---------------------------------------------


@pytest.mark.slow
def test_two_moons_claim():
    numbers = compute("06_two_moons", quick=False)["numbers"]
    assert abs(numbers["integral"] - 1) < 1e-6
    assert abs(numbers["integral"] - 1) < abs(numbers["integral_at_twice_the_step"] - 1)
    assert numbers["kl_test"] < 0.06 and abs(numbers["kl_test"] - numbers["kl_integral"]) < 0.02


@pytest.mark.slow
def test_digits_claim():
    models = compute("07_digits", quick=False)["numbers"]["models"]
    nats = {name: model["nats"] for name, model in models.items()}
    assert abs(nats["Gaussian"]["test"] + 76.98) < 0.05
    assert nats["MADE"]["test"] >= -81.1
    assert nats["MAF"]["test"] >= -82.3
    gap = {name: scores["train"] - scores["test"] for name, scores in nats.items()}
    for name in ("MADE", "MAF"):
        assert nats[name]["train"] > nats["Gaussian"]["train"] and gap[name] > 2 * gap["Gaussian"]
        assert (
            models[name]["test_lead_over_gaussian"] < -4 * models[name]["test_lead_standard_error"]
        )


@pytest.mark.slow
def test_galaxies_claim():
    numbers = compute("08_galaxies", quick=False)["numbers"]
    nats = {name: model["nats"]["test"] for name, model in numbers["models"].items()}
    assert abs(nats["Gaussian"] + 0.56) < 0.01
    assert nats["MADE"] >= 2.5
    assert nats["MAF"] >= 5.4
    assert (
        max(numbers["kolmogorov_distances"].values()) < 2 * numbers["kolmogorov_distance_5_percent"]
    )


@pytest.mark.slow
def test_training_claim():
    numbers = compute("10_training", quick=False)["numbers"]
    for model in ("MADE", "MAF"):
        digits, galaxies = (numbers[name]["models"][model] for name in ("digits", "galaxies"))
        assert (
            digits["stopped"] == "patience" and digits["val_at_end"] > digits["val_at_best"] + 0.5
        )
        assert digits["val_at_best"] > numbers["digits"]["gaussian_val"]
        assert (
            galaxies["stopped"] == "epochs"
            and galaxies["val_at_end"] < galaxies["val_at_best"] + 0.1
        )
        assert galaxies["val_at_end"] < galaxies["train_at_end"] + 0.5
