"""Images: no pixel in two parts, numbers that closed forms know."""

import doctest
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp.data import images  # noqa: E402
from figures import __main__ as command  # noqa: E402
from figures import common  # noqa: E402

patches = import_module("figures.27_patches")


@pytest.fixture(scope="module", autouse=True)
def cache(trained_flows):
    """Train for all tests once, whatever the figures' own cache holds."""


def drawn(module, found):
    with common.style():
        figure = module.draw(found)
        figure.draw_without_rendering()
    assert isinstance(figure, Figure) and common.as_json(found["numbers"])
    return figure


# ---- patches -------------------------------------------------------------------------------------


def test_regions_share_no_pixel_and_lie_whole_in_the_image():
    image = np.arange(150 * 200.0).reshape(150, 200)  # every pixel has a number of its own
    squares = images.regions(image)
    assert squares.shape == (2 * 3, 64, 64)
    assert len(np.unique(squares)) == squares.size
    assert np.array_equal(squares[4], image[64:128, 64:128])


def test_windows_are_all_patches_four_pixels_apart():
    square = np.arange(64 * 64.0).reshape(64, 64)
    found = images.windows(square)
    assert found.shape == (patches.REGION, 64)
    assert np.array_equal(found[16].reshape(8, 8), square[4:12, 4:12])
    assert found.max() == square.max() and len(np.unique(found)) == square.size


@pytest.fixture(scope="module")
def loaded():
    pytest.importorskip("skimage")
    return afnp.data.load("patches_63")


def test_no_pixel_of_a_test_patch_is_in_a_training_patch(loaded, monkeypatch):
    """Photographs whose levels name their place are split as the real ones are."""
    column = np.arange(64 * 5)
    fake = np.broadcast_to((column // 64).astype(np.uint8), (64 * 6, 64 * 5)).copy()
    fake += 5 * (np.arange(64 * 6) // 64).astype(np.uint8)[:, None]  # 30 regions, a level each

    class Photos:
        def __getattr__(self, name):
            return lambda: fake + np.uint8(30 * images.PHOTOS.index(name))

    monkeypatch.setattr(images, "extra", lambda module, name: Photos())
    monkeypatch.setattr(images, "without_mean", lambda x: x)
    parts = [images.patches_63(seed=1)]
    levels = [
        set(np.floor(getattr(parts[0], part) * 256).astype(int).ravel()) for part in patches.PARTS
    ]
    assert [len(level) for level in levels] == [120, 15, 15]
    assert len(set().union(*levels)) == 150


def test_patches_63_is_complete_and_described(loaded):
    parts = [getattr(loaded, part) for part in patches.PARTS]
    assert [x.shape for x in parts] == [(48_600, 63), (6_075, 63), (6_075, 63)]
    assert all(x.dtype == np.float64 and np.isfinite(x).all() for x in parts)
    assert loaded.name == "patches_63" and loaded.levels is None and len(loaded.columns) == 63
    assert loaded.description and loaded.license and loaded.source
    again = afnp.data.load("patches_63")
    other = afnp.data.load("patches_63", seed=1)
    assert np.array_equal(again.train, loaded.train) and not np.array_equal(
        other.train, loaded.train
    )
    for bad in (None, -1, True):
        with pytest.raises(ValueError, match="seed: expected"):
            afnp.data.load("patches_63", seed=bad)


def test_a_patch_gets_its_last_pixel_back(loaded):
    back = patches.whole(loaded.test[:100])
    np.testing.assert_allclose(
        back.sum(axis=(1, 2)), 0, atol=1e-13
    )  # 64 pixels below 1 and their rounding
    ramp = np.arange(64.0)[None] / 256
    np.testing.assert_allclose(
        patches.whole(images.without_mean(ramp)).ravel(), (ramp - ramp.mean()).ravel()
    )
    assert np.allclose(patches.differences(images.without_mean(ramp)), 1 / 256)


def test_a_patch_is_noise_of_one_level_around_its_pixels(loaded):
    """Flat regions of photographs show the dequantisation alone:
    differences of two uniform variables."""
    smallest = np.sort(patches.differences(loaded.test).reshape(-1, 56).std(axis=1))[:20]
    assert (smallest * 256 > 0.3).all() and (smallest * 256 < 0.5).all()  # sqrt(1/6) = 0.41 a level


def test_kurtosis_of_known_distributions():
    rng = np.random.default_rng(0)
    assert abs(patches.kurtosis(rng.standard_normal(200_000))) < 0.1
    assert abs(patches.kurtosis(rng.uniform(size=200_000)) + 1.2) < 0.03
    assert abs(patches.kurtosis(rng.laplace(size=400_000)) - 3) < 0.3


def test_standard_errors_are_taken_over_regions():
    lead = np.repeat([1.0, 3.0], patches.REGION)
    found = patches._lead(lead)
    assert found["test_lead_over_gaussian"] == 2
    assert found["test_lead_standard_error"] == pytest.approx(1)  # not 1 / sqrt(450)


@pytest.fixture(scope="module")
def quick_patches(loaded):
    return patches.data(quick=True)


def test_the_gaussian_of_patches_is_the_closed_form(quick_patches, loaded):
    nats = quick_patches["numbers"]["models"]["Gaussian"]["nats"]
    for part in patches.PARTS:
        expected = afnp.data.gaussian_log_prob(loaded.train, getattr(loaded, part)).mean()
        assert nats[part] == pytest.approx(expected, abs=1e-7)


def test_photographs_have_heavy_tails_and_the_gaussian_none(quick_patches):
    kurtosis = quick_patches["numbers"]["kurtosis"]
    assert kurtosis["test patches"] > 10 and abs(kurtosis["Gaussian"]) < 0.3
    assert quick_patches["numbers"]["impossible_share"]["test patches"] == 0


def test_leads_are_differences_of_nats_and_the_picture_says_them(quick_patches):
    models = quick_patches["numbers"]["models"]
    figure = drawn(patches, quick_patches)
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    for of in models.values():
        lead = of["nats"]["test"] - models["Gaussian"]["nats"]["test"]
        assert of["test_lead_over_gaussian"] == pytest.approx(lead, abs=1e-6)
        assert any(text.startswith(f"{of['nats']['test']:.1f}".replace("-", "−")) for text in texts)


@pytest.mark.slow
def test_patches_claim():
    models = patches.data()["numbers"]["models"]
    for name in ("MADE", "MAF", "spline flow"):
        assert (
            models[name]["test_lead_over_gaussian"] > 5 * models[name]["test_lead_standard_error"]
        )
        assert models[name]["test_lead_over_gaussian"] > 55


def test_examples_in_docstrings():
    for module in (patches, images):
        assert doctest.testmod(module).failed == 0


def test_the_command_takes_a_folder_for_one_figure_that_reads_it(tmp_path, capsys):
    for names in ([], ["chain_rule"], ["outliers", "patches"]):
        assert command.main([*names, "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "python -m figures outliers --data DIR" in error
    assert command.main(["outliers", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "fashion_mnist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
