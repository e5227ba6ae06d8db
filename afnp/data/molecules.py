r"""Whole frames of a molecule in motion: alanine dipeptide, its atoms, and how they hang together.

.. math:: p(x) \propto e^{-E(x) / kT}, \qquad kT = 2.494\ \mathrm{kJ/mol} \text{ at } 300\ \mathrm K

One molecular-dynamics run at 300 K, a frame every 3 ps, with the potential energy of each. The
simulation held the 12 bonds to hydrogen at fixed lengths: of the 60 internal coordinates, 48 move,
and a density is one of these.

Shipped are integers, units of 0.05 pm, of frames laid alike (first atom of `ALANINE` at the origin,
second on the x axis, third in the plane), which says nothing of a shape. Rounding moves a bond by
0.019 pm, an angle by 0.013° and a dihedral by 0.018° (root mean squares over all frames), where the
least spread of what moves is 2.3 pm, 2.8° and 4.4°. The energies are those of the frames before
rounding, which changes them by 0.07 kJ/mol (root mean square, largest 0.25, of every eighth frame).

Letters: N frames, A = 22 atoms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .dataset import SHIPPED, Array, Dataset, block_split, generator
from .internal_coordinates import ZMatrix
from .tables import read_npz

__all__ = [
    "ALANINE",
    "ATOMS",
    "KT",
    "METHYLS",
    "RIGID",
    "Energies",
    "alanine_energies",
    "alanine_frames",
]

KT = 8.31446261815324e-3 * 300
"""kT at 300 K, kJ/mol."""

UNIT = 5e-5
"""Nanometres in one integer step of the file."""

ATOMS = tuple("H1 CH3 H2 H3 C O N H CA HA CB HB1 HB2 HB3 C O N H C H1 H2 H3".split())
"""Names of the 22 atoms: acetyl (0 to 5), alanine (6 to 15), methylamide (16 to 21)."""

METHYLS = ((0, 2, 3), (11, 12, 13), (19, 20, 21))
"""Hydrogens of the three methyl groups: moving each on to the next's place changes no energy."""

ALANINE = ZMatrix(
    [
        (6,),
        (8, 6),
        (14, 8, 6),  # N, CA, C of alanine
        (4, 6, 8, 14),
        (16, 14, 8, 6),  # phi, psi
        (10, 8, 14, 6),
        (9, 8, 14, 6),
        (7, 6, 8, 4),  # CB, HA, H
        (5, 4, 6, 8),
        (1, 4, 6, 5),
        (15, 14, 8, 16),  # the peptide planes
        (18, 16, 14, 8),
        (17, 16, 14, 18),
        (0, 1, 4, 6),
        (2, 1, 4, 0),
        (3, 1, 4, 0),  # three methyl groups
        (11, 10, 8, 14),
        (12, 10, 8, 11),
        (13, 10, 8, 11),
        (19, 18, 16, 14),
        (20, 18, 16, 19),
        (21, 18, 16, 19),
    ]
)
"""Its 60 internal coordinates.

Dihedrals 0 and 1 are phi and psi, five more turn freely or nearly so.
"""

RIGID = np.array([any(ATOMS[atom].startswith("H") for atom in bond) for bond in ALANINE.bonds])
"""Which of the 21 bonds the simulation held fixed, (21,) bool: the 12 to hydrogen."""


class Energies(NamedTuple):
    """Potential energies, kJ/mol, one a frame of each part of `alanine_frames`."""

    train: Array
    val: Array
    test: Array


def _split(n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Cut the run in 50 blocks of neighbouring frames, and deal them 40 / 5 / 5."""
    return block_split(n, 50, 5, 5, generator(seed))


def alanine_frames(seed: int = 0) -> Dataset:
    """Cartesian frames of alanine dipeptide at 300 K, nanometres, 22 atoms by 3; 6,667 / 833 / 834.

    ``data.train.reshape(-1, 22, 3)`` are frames as `ALANINE` reads them. One time series, split in
    contiguous blocks of 166 or 167 frames (half a nanosecond), as ``alanine_300K`` is; the basin
    with phi > 0 is not reached.

    Examples
    --------
    >>> alanine_frames()
    Dataset('alanine_frames', train (6667, 66), val (833, 66), test (834, 66), levels=None)
    """
    x = read_npz(SHIPPED / "alanine_frames.npz", "xyz").astype(np.float64) * UNIT
    train, val, test = (x[rows].reshape(len(rows), -1) for rows in _split(len(x), seed))
    return Dataset(
        "alanine_frames",
        train,
        val,
        test,
        columns=tuple(f"{name}({k}).{axis}" for k, name in enumerate(ATOMS) for axis in "xyz"),
        description="Alanine dipeptide in implicit solvent at 300 K: 22 atoms, nanometres, a frame "
        "every 3 ps, "
        "laid alike; bonds to hydrogen are rigid; one time series split in blocks",
        license="CC0",
        source="own simulation: OpenMM 8.6, amber14 with OBC2, Langevin middle integrator",
    )


def alanine_energies(seed: int = 0) -> Energies:
    """Potential energies of the same frames, kJ/mol, split alike.

    Examples
    --------
    >>> [part.shape for part in alanine_energies()]
    [(6667,), (833,), (834,)]
    """
    energy = read_npz(SHIPPED / "alanine_frames.npz", "energy_kj_mol").astype(np.float64)
    return Energies(*(energy[rows] for rows in _split(len(energy), seed)))
