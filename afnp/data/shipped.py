"""Real sets small enough to travel inside the package: geyser, galaxies, a molecule, a voice.

Independent rows are split by a random permutation. Time series (molecule, voice) are split in
contiguous pieces: neighbouring frames are nearly copies, and a random split would put copies of
training rows into test.

Letters: N rows, D columns, T samples of a sound.
"""

from __future__ import annotations

import os
import struct
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import SHIPPED, Array, Dataset, block_split, generator, random_split
from .tables import read_npz, read_table, refuse_special

WINDOW = 64
PCM = 2**15  # levels of 16-bit sound in one unit of x


def old_faithful(seed: int = 0) -> Dataset:
    """272 eruptions of the Old Faithful geyser: duration and waiting time, minutes; 192 / 40 / 40.

    Examples
    --------
    >>> old_faithful()
    Dataset('old_faithful', train (192, 2), val (40, 2), test (40, 2), levels=None)
    """
    x = read_table(SHIPPED / "old_faithful.csv")
    train, val, test = (x[rows] for rows in random_split(len(x), 40, 40, generator(seed)))
    return Dataset(
        "old_faithful",
        train,
        val,
        test,
        columns=("eruptions", "waiting"),
        description="Old Faithful geyser: duration of an eruption and waiting time to the next, in "
        "minutes",
        license="facts, no known restriction (distributed with R as datasets::faithful)",
        source="Azzalini & Bowman 1990, Applied Statistics 39, 357-365; Haerdle 1991; R datasets "
        "`faithful`",
    )


def galaxies(seed: int = 0) -> Dataset:
    """Redshift and six magnitudes of 20,000 simulated galaxies.

    16,000 / 2,000 / 2,000, not standardised.

    Examples
    --------
    >>> galaxies().columns
    ('redshift', 'u', 'g', 'r', 'i', 'z', 'y')
    """
    x = read_npz(SHIPPED / "galaxies.npz", "data").astype(np.float64)
    train, val, test = (x[rows] for rows in random_split(len(x), 2_000, 2_000, generator(seed)))
    return Dataset(
        "galaxies",
        train,
        val,
        test,
        columns=("redshift", "u", "g", "r", "i", "z", "y"),
        description="Simulated LSST-like galaxies: redshift and magnitudes u g r i z y; a random "
        "fifth of "
        "the example catalogue of pzflow",
        license="MIT, Copyright (c) 2021 John Franklin Crenshaw (pzflow)",
        source="DeRose et al. 2019, arXiv 1901.02401 (Buzzard catalogue), as packaged in pzflow "
        "4.0.0",
    )


def alanine(kelvin: int, seed: int = 0) -> Dataset:
    r"""Backbone angles phi, psi of alanine dipeptide, radians in [-pi, pi): data on a torus.

    One molecular-dynamics run, a time series. Its integrated autocorrelation time is 53 frames at
    300 K (psi) and 85 frames at 600 K (phi), so it is cut into 50 contiguous blocks of 500 (240)
    frames, which a seeded permutation deals 40 / 5 / 5 to train, validation and test. One cut at
    80% would be purer still, but at 600 K the basin with phi > 0 comes in few long visits, and the
    last tenth of the run says little about it.

    Examples
    --------
    >>> alanine(600)
    Dataset('alanine_600K', train (9600, 2), val (1200, 2), test (1200, 2), levels=None)
    """
    if kelvin not in (300, 600):
        raise ValueError(f"kelvin: expected 300 or 600, got {kelvin!r}")
    x = read_npz(SHIPPED / "alanine_dihedrals.npz", f"phi_psi_{kelvin}K").astype(np.float64)
    train, val, test = (x[rows] for rows in block_split(len(x), 50, 5, 5, generator(seed)))
    warning = {
        300: "the basin with phi > 0 is practically not reached",
        600: "the basin with phi > 0 holds 10% of the frames, but was entered only some ten times: "
        "no free-energy reference",
    }[kelvin]
    return Dataset(
        f"alanine_{kelvin}K",
        train,
        val,
        test,
        columns=("phi", "psi"),
        description=f"Alanine dipeptide in implicit solvent at {kelvin} K: backbone angles in "
        "radians, one "
        f"time series split in blocks; {warning}",
        license="CC0",
        source="own simulation: OpenMM 8.6, amber14 with OBC2, Langevin middle integrator",
    )


def wav(path: str | os.PathLike[str]) -> tuple[NDArray[np.int16], int]:
    """Signal (T,) and sampling rate (1/s) of a 16-bit mono WAV file; ValueError for any other."""
    refuse_special(path)
    try:
        with wave.open(os.fspath(path), "rb") as sound:
            kind = sound.getnchannels(), 8 * sound.getsampwidth()
            count, rate = sound.getnframes(), sound.getframerate()
            declared = count * sound.getnchannels() * sound.getsampwidth()
            size = os.path.getsize(path)
            if declared > size:  # before so much memory is asked for
                raise ValueError(
                    f"{path}: the header declares {declared} bytes of sound, the whole file holds "
                    f"{size}"
                )
            frames = sound.readframes(count)
    except (wave.Error, EOFError, RuntimeError, ZeroDivisionError, struct.error) as error:
        raise ValueError(
            f"{path}: expected a PCM WAV file, got something else ({error})"
        ) from error
    if kind != (1, 16):
        raise ValueError(f"{path}: expected 1 channel of 16 bits, got {kind[0]} of {kind[1]}")
    if len(frames) != 2 * count:
        raise ValueError(
            f"{path}: the header declares {2 * count} bytes, the file holds {len(frames)}"
        )
    return np.frombuffer(frames, "<i2").astype(np.int16), rate


def speech_waveform(split: str = "train") -> tuple[NDArray[np.int16], int]:
    """Read the sound behind ``speech``: signal (T,) int16 and rate; 7.1 s (train), 3.0 s (test).

    Examples
    --------
    >>> signal, rate = speech_waveform("test")
    >>> signal.shape, signal.dtype, rate
    ((47840,), dtype('int16'), 16000)
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    return wav(SHIPPED / f"speech_{split}.wav")


def windows(signal: NDArray[Any], rng: np.random.Generator) -> Array:
    r"""Dequantised windows of a 16-bit sound, one a row, in [-1, 1).

    The last incomplete window is dropped.

    .. math:: x = (s + v) / 2^{15}, \quad v \sim \mathrm{Uniform}[0, 1)
    """
    rows = signal[: len(signal) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return (rows + rng.random(rows.shape)) / PCM


def speech(seed: int = 0) -> Dataset:
    """Windows of 64 samples (4 ms) of read speech in [-1, 1): 1,598 / 177 / 747.

    The windows do not overlap and stay in their order in time. Validation is the last tenth of the
    training sound, test another recording. The values are dequantised 16-bit numbers in units of
    2^15 levels: ``bits_per_dim(log_prob, 64, scale=2**15)`` counts bits a sample.

    Examples
    --------
    >>> speech()
    Dataset('speech', train (1598, 64), val (177, 64), test (747, 64), levels=None)
    """
    rng = generator(seed)
    first, _ = speech_waveform("train")
    second, _ = speech_waveform("test")
    x, test = windows(first, rng), windows(second, rng)
    cut = len(x) - len(x) // 10
    return Dataset(
        "speech",
        x[:cut],
        x[cut:],
        test,
        columns=tuple(f"t{i}" for i in range(WINDOW)),
        description="Read English, 16 kHz: windows of 64 samples, 16 bits dequantised, in [-1, 1)",
        license="public domain (LibriVox)",
        source="Jane Austen, Sense and Sensibility, LibriVox, as packaged in Debian's "
        "pocketsphinx-testdata",
    )
