"""Sound files: 16-bit mono WAV in and out, in whole quantisation steps.

Nothing but the standard library.

A sample is an integer s in [-32768, 32768). Models are given x = s + v with uniform v in [0, 1),
and -log2 p(x) then counts bits, beside the 16 of the raw file (see :func:`afnp.data.bits_per_dim`).

Letters: T samples.
"""

from __future__ import annotations

import io
import os
import wave
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afnp.inputs import plain_array

from .shipped import wav

__all__ = ["encode", "load_wavs", "to_steps"]

LOWEST, HIGHEST = -(2**15), 2**15 - 1


def load_wavs(*paths: str | os.PathLike[str]) -> tuple[list[NDArray[np.int16]], int]:
    """Read 16-bit mono WAV files of one sampling rate.

    Returns
    -------
    signals : list of (T,) int16 arrays
    rate : int
        Samples a second.

    Raises
    ------
    ValueError
        If a file is no such WAV, has no samples, or has another rate than the first: names the
        file.
    OSError
        If it cannot be opened.

    Examples
    --------
    >>> from afnp.data.dataset import SHIPPED
    >>> (train, test), rate = load_wavs(SHIPPED / "speech_train.wav", SHIPPED / "speech_test.wav")
    >>> len(train), len(test), rate
    (113600, 47840, 16000)
    """
    if not paths:
        raise ValueError("paths: expected at least one WAV file, got none")
    read = [wav(path) for path in paths]
    for path, (signal, rate) in zip(paths, read, strict=True):
        if not len(signal):
            raise ValueError(f"{path}: expected samples, got an empty sound")
        if rate != read[0][1]:
            raise ValueError(
                f"{path}: expected {read[0][1]} samples a second, as in {paths[0]}, got {rate}; "
                "resample one"
            )
    return [signal for signal, _ in read], read[0][1]


def to_steps(x: ArrayLike) -> NDArray[np.int16]:
    """Undo dequantisation: the step s that each x (T,) lies in; what is too loud is clipped.

    Raises
    ------
    ValueError
        If x is no series of finite numbers.

    Examples
    --------
    >>> to_steps([0.9, -0.1, 40000.0]).tolist()
    [0, -1, 32767]
    """
    x = plain_array(x, "x")
    if x.ndim != 1 or x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise ValueError(
            f"x: expected a series (T,) of finite numbers, got shape {x.shape}, {x.dtype}"
        )
    return np.floor(x).clip(LOWEST, HIGHEST).astype(np.int16)


def encode(signal: NDArray[Any], rate: int) -> bytes:
    """Return a signal (T,) int16 as the bytes of a WAV file.

    Raises
    ------
    ValueError
        If the signal is not int16 or not one channel, or the rate no positive integer.

    Examples
    --------
    >>> encode(np.zeros(8, dtype=np.int16), 16000)[:4]
    b'RIFF'
    """
    if np.asarray(signal).dtype != np.int16 or np.ndim(signal) != 1:
        shape = np.shape(signal)
        dtype = np.asarray(signal).dtype
        raise ValueError(
            f"signal: expected one channel (T,) of int16, got shape {shape}, {dtype}; see to_steps"
        )
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or not 0 < rate < 2**31:
        raise ValueError(f"rate: expected a positive integer, got {rate!r}")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(int(rate))
        sound.writeframes(np.asarray(signal).astype("<i2").tobytes())
    return buffer.getvalue()
