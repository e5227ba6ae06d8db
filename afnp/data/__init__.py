"""Data sets for density estimation, each with its splits, description, licence and source.

>>> data = load("galaxies", seed=0)
>>> data
Dataset('galaxies', train (16000, 7), val (2000, 7), test (2000, 7), levels=None)
>>> data.license
'MIT, Copyright (c) 2021 John Franklin Crenshaw (pzflow)'

Toy densities and the small real sets need nothing but NumPy; ``digits``, ``patches``,
``patches_63`` and ``mnist_5k`` need the extra ``data``; the rest is read from a folder that the
user names. Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from .dataset import Dataset, bits_per_dim, dequantize, quantize
from .idx import ABOUT, idx_folder, read_idx
from .images import digits, mnist_5k, patches, patches_63
from .molecules import alanine_frames
from .shipped import alanine, galaxies, old_faithful, speech, speech_waveform, wav
from .tables import Table, gaussian_log_prob, read_named, read_table
from .toy import TOYS, toy_set
from .uci import UCI, uci_folder

__all__ = [
    "Dataset",
    "Table",
    "bits_per_dim",
    "dequantize",
    "gaussian_log_prob",
    "load",
    "names",
    "quantize",
    "read_idx",
    "read_named",
    "read_table",
    "speech_waveform",
    "wav",
]

HERE: dict[str, tuple[str, Callable[..., Dataset]]] = {
    **{name: (f"toy, 2 columns: {line}", partial(toy_set, name)) for name, line in TOYS.items()},
    "old_faithful": ("geyser eruptions, 272 x 2: duration and waiting time", old_faithful),
    "galaxies": ("simulated galaxies, 20,000 x 7: redshift and magnitudes", galaxies),
    "alanine_300K": (
        "a molecule's two torsion angles at 300 K, 25,000 x 2, radians",
        partial(alanine, 300),
    ),
    "alanine_600K": (
        "a molecule's two torsion angles at 600 K, 12,000 x 2, radians",
        partial(alanine, 600),
    ),
    "alanine_frames": (
        "a whole molecule at 300 K, 8,334 frames of 22 atoms by 3, nanometres",
        alanine_frames,
    ),
    "speech": ("read English, 2,522 windows of 64 samples at 16 kHz", speech),
    "digits": ("handwritten digits, 1,797 x 64, 17 levels (extra: data)", digits),
    "patches": ("natural image patches, 18,254 x 64, 256 levels (extra: data)", patches),
    "patches_63": (
        "natural image patches without their mean, 60,750 x 63 (extra: data)",
        patches_63,
    ),
    "mnist_5k": ("MNIST digits, 5,000 x 784, 256 levels (extra: data)", mnist_5k),
}
IN_FOLDER: dict[str, tuple[str, Callable[..., Dataset]]] = {
    **{
        name: (
            f"{about[0]}, 70,000 x 784, 256 levels (folder of idx files)",
            partial(idx_folder, name),
        )
        for name, about in ABOUT.items()
    },
    **{
        name: (f"{line} (folder: Zenodo record 1161203)", partial(uci_folder, name))
        for name, line in UCI.items()
    },
}


def names() -> dict[str, str]:
    """Every set that `load` knows, with one line about it.

    Examples
    --------
    >>> print(", ".join(list(names())[:6]))
    two_moons, rings, checkerboard, eight_gaussians, spiral, old_faithful
    """
    return {name: line for name, (line, _) in {**HERE, **IN_FOLDER}.items()}


def meant(name: str) -> str:
    """Return a hint at the set whose name is nearest; nothing where none is near.

    Examples
    --------
    >>> meant("galaxie")
    '; did you mean galaxies?'
    """
    close = difflib.get_close_matches(name, list(names()), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def load(
    name: str, seed: int = 0, folder: str | os.PathLike[str] | None = None, **options: Any
) -> Dataset:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        One of `names`.
    seed : int
        Of split, dequantisation noise and toy draws; the same seed gives the same bits.
    folder : path, optional
        Where the files are, for sets that are neither shipped nor packaged (MNIST, Fashion-MNIST,
        UCI).
    **options
        ``check=False`` (MNIST, Fashion-MNIST): skip the MD5 sums; ``trust_pickle=True`` (gas):
        unpickle.

    Raises
    ------
    ValueError
        Unknown name, missing or superfluous folder or option, missing or malformed files in the
        folder.
    FileNotFoundError
        When there is no such folder.
    ImportError
        When the extra ``data`` is needed and not installed.

    Examples
    --------
    >>> load("two_moons", seed=3).train.shape
    (10000, 2)
    >>> load("moons")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: name: expected one of two_moons, ...; got 'moons'; did you mean two_moons?
    """
    if name in IN_FOLDER:
        if folder is None:
            raise ValueError(f"{name!r} is read from a folder: load({name!r}, folder=...)")
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"folder: expected that of {name!r}, found none at {os.fspath(folder)!r}"
            )
        allowed = {"check"} if name in ABOUT else {"trust_pickle"} if name == "gas" else set()
        if not allowed.issuperset(options):
            raise ValueError(f"{name!r} takes the options {sorted(allowed)}, got {sorted(options)}")
        return IN_FOLDER[name][1](folder, seed=seed, **options)
    if name not in HERE:
        raise ValueError(
            f"name: expected one of {', '.join(names())}; got {name!r}{meant(str(name))}"
        )
    if folder is not None or options:
        raise ValueError(
            f"{name!r} is not read from a folder and takes no options, got folder={folder!r}, "
            f"options={options}"
        )
    return HERE[name][1](seed=seed)
