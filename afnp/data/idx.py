r"""MNIST and Fashion-MNIST from a folder of raw idx files, plain or gzipped.

An idx file is ``0, 0, type, axes``, one big-endian 32-bit length an axis, and the bytes. Type 8 is
uint8.

Letters: N images, D = 784 pixels, L = 256 levels.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, dequantize, generator, one_hot, pixel_names
from .tables import refuse_special

LIMIT = 2**31
DEFLATE = 1032
"""Deflate shrinks nothing further than by this factor."""
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MD5 = {  # of the four files, unpacked: gzip may pack the same bytes differently
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
ABOUT = {
    "mnist": ("MNIST handwritten digits", "CC BY-SA 3.0", "LeCun, Cortes & Burges 1998"),
    "fashion_mnist": (
        "Fashion-MNIST articles of clothing",
        "MIT, Copyright (c) 2017 Zalando SE",
        "Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747",
    ),
}


def read_idx(path: str | os.PathLike[str], md5: str | None = None) -> NDArray[np.uint8]:
    """Read the uint8 array of an idx file, plain or gzipped: its first bytes say which.

    Parameters
    ----------
    path : str or path
    md5 : str, optional
        Expected MD5 of the unpacked bytes.

    Raises
    ------
    ValueError
        Wrong magic number, truncated, too long, broken gzip, another MD5, or no regular file.
    """
    refuse_special(path)
    with open(path, "rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            magic = stream.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                raise ValueError(
                    f"{path}: expected an idx file of bytes (00 00 08, then 1 to 4 axes), "
                    f"got {magic.hex(' ') or 'nothing'}"
                )
            lengths = stream.read(4 * magic[3])
            if len(lengths) < 4 * magic[3]:
                raise ValueError(
                    f"{path}: declares {magic[3]} axes, the file ends before their lengths"
                )
            shape = tuple(
                int.from_bytes(lengths[i : i + 4], "big") for i in range(0, 4 * magic[3], 4)
            )
            if math.prod(shape) > LIMIT:
                raise ValueError(f"{path}: declares shape {shape}, the limit is {LIMIT} bytes")
            most = os.path.getsize(path) * (DEFLATE if packed else 1)
            if math.prod(shape) > most:  # before so much memory is asked for
                raise ValueError(
                    f"{path}: declares shape {shape}, {math.prod(shape)} bytes, the file holds "
                    "fewer"
                )
            values = stream.read(math.prod(shape) + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path}: expected an intact gzip file, got a broken one ({error})"
        ) from error
    if len(values) != math.prod(shape):
        raise ValueError(
            f"{path}: declares shape {shape}, {math.prod(shape)} bytes, "
            f"the file holds {'fewer' if len(values) < math.prod(shape) else 'more'}"
        )
    found = hashlib.md5(magic + lengths + values, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise ValueError(
            f"{path}: expected MD5 {md5}, got {found}; check=False reads it all the same"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def find(folder: Path, name: str) -> Path:
    """`name` or `name`.gz in the folder; ValueError when there is none."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder}: expected a file {name} or {name}.gz, found neither")


def idx_folder(
    name: str, folder: str | os.PathLike[str], seed: int = 0, check: bool = True
) -> Dataset:
    """MNIST or Fashion-MNIST from a folder: 50,000 / 10,000 / 10,000, 784 pixels, 256 levels.

    Validation is the last sixth of the training file, as in the MAF paper (arXiv 1705.07057). The
    paper goes on with logit(1e-6 + (1 - 2e-6) x/256), which are layers of the flow.

    Parameters
    ----------
    name : {'mnist', 'fashion_mnist'}
    folder : path
        Holds the four files, plain or ``.gz``.
    seed : int
        Of the dequantisation noise.
    check : bool
        Compare the MD5 of the four files with the published ones; ``False`` for other sets of this
        format.

    Raises
    ------
    ValueError
        Missing, broken or unexpected files; numbers of images and labels that differ.
    """
    folder, rng = Path(folder), generator(seed)
    sums = dict(zip(FILES, MD5[name], strict=True)) if check else {}
    images, labels, test_images, test_labels = (
        read_idx(find(folder, f), sums.get(f)) for f in FILES
    )
    agree(folder, images, labels)
    agree(folder, test_images, test_labels)
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{folder}: expected images of one size, got {images.shape[1:]} for training, "
            f"{test_images.shape[1:]} for test"
        )
    height, width = images.shape[1:]
    cut = len(images) - len(images) // 6
    x, test = (
        dequantize(pixels.reshape(len(pixels), -1), 256, rng) for pixels in (images, test_images)
    )
    classes = one_hot(labels, 10)
    title, rights, authors = ABOUT[name]
    return Dataset(
        name,
        x[:cut],
        x[cut:],
        test,
        columns=pixel_names(height, width),
        levels=256,
        description=f"{title}, {height} x {width} pixels of 256 levels, dequantised; context: the "
        "class; " + ("MD5 of all files as published" if check else "MD5 not checked"),
        license=rights,
        source=authors,
        context_train=classes[:cut],
        context_val=classes[cut:],
        context_test=one_hot(test_labels, 10),
    )


def agree(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """ValueError unless there is a label 0..9 for every image, and at least one."""
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
        raise ValueError(
            f"{folder}: expected images (N, height, width) and labels (N,), got {images.shape} and "
            f"{labels.shape}"
        )
    if labels.max() > 9:
        raise ValueError(
            f"{folder}: expected labels 0..9, got {labels.max()} at index {labels.argmax()}"
        )
