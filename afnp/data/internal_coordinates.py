r"""Internal coordinates: a molecule as bond lengths, bond angles and dihedral angles, and back.

.. math:: x_i = x_b + d_i \left( -\cos\theta_i\, \hat u + \sin\theta_i \cos\varphi_i\, \hat m
          + \sin\theta_i \sin\varphi_i\, \hat n \right), \qquad
          \log\left|\det \frac{\partial x}{\partial q}\right|
          = 2 \sum_i \log d_i + \sum_i \log \sin\theta_i

Each atom i is placed by three earlier ones (b, a, c): its distance d from b, the angle θ at b
between i and a, and the dihedral φ, by which the plane (i, b, a) is turned out of the plane (b, a,
c) about the line from a to b. That line is u; m, at right angles to it, points towards c, and n = u
× m. (φ = 0 is cis, ±π trans; mirror images have opposite φ.) These are spherical coordinates about
the bond: the volume element of an atom is d² sin θ dd dθ dφ, and as every atom depends on earlier
ones only, the whole Jacobian is triangular in blocks of three, and its determinant the product of
theirs.

Where a molecule lies and how it is turned say nothing of its shape. The six rigid coordinates are
left out: the first atom's place, the direction of the first bond and the turn about it, measured by
d³x dΩ dα, whose integral is volume times 8π². What remains of the second atom is d², of the third
d² sin θ: the formula above counts every bond and every angle. A density of q becomes one of
Cartesian coordinates, the rigid ones left out, by log p(x) = log p(q) − log|det ∂x/∂q|. Coordinates
of this kind carry normalizing flows to molecules in arXiv 1812.01729.

Letters: N frames, A atoms; q has 3A − 6 columns: A − 1 bonds, A − 2 angles, A − 3 dihedrals, in
order of placement.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import check_rows, plain_array

__all__ = ["ZMatrix"]

STRAIGHT = 1e-6
"""Sine below which three atoms lie on a line: a dihedral about it has lost six digits."""


class ZMatrix:
    """The order in which atoms are placed, and which earlier atoms place each.

    Parameters
    ----------
    rows : sequence of tuples of int
        (i,), (i, b), (i, b, a), then (i, b, a, c) for every further atom: i is placed by its
        distance from b, the angle i-b-a and the dihedral i-b-a-c. Atoms are numbered from 0.

    Attributes
    ----------
    atoms, width : int
        A, and 3A − 6.
    bonds, angles, dihedrals : (A - 1, 2), (A - 2, 3), (A - 3, 4) int arrays
        The atoms of each coordinate, in the order of q's columns.

    Raises
    ------
    ValueError
        If there are fewer than three rows, a row has the wrong length, an atom is placed twice or
        never, or a row names an atom that is not placed yet, or one twice; it names the row.

    Examples
    --------
    Water, and its volume element d₁² d₂² sin θ:

    >>> water = ZMatrix([(0,), (1, 0), (2, 0, 1)])
    >>> q = np.array([[0.1, 0.1, np.pi / 2]])
    >>> water.to_cartesian(q).round(3).tolist()
    [[[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]]]
    >>> bool(np.allclose(water.to_internal(water.to_cartesian(q)), q))
    True
    >>> np.exp(water.log_det(q)).round(6)
    array([0.0001])
    """

    def __init__(self, rows: Sequence[Sequence[int]]):
        self.rows = [tuple(int(atom) for atom in row) for row in rows]
        _check_order(self.rows)
        self.atoms, self.width = len(self.rows), 3 * len(self.rows) - 6
        self.bonds, self.angles, self.dihedrals = (
            np.array([row[:k] for row in self.rows[k - 1 :]], dtype=np.intp).reshape(-1, k)
            for k in (2, 3, 4)
        )

    def _parts(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part the columns of q into d (N, A - 1), θ (N, A - 2) and φ (N, A - 3)."""
        A = self.atoms
        return q[:, : A - 1], q[:, A - 1 : 2 * A - 3], q[:, 2 * A - 3 :]

    # ---- public: checked input -------------------------------------------------------------------

    def to_internal(self, x) -> np.ndarray:
        r"""Return q (N, 3A - 6) of frames x (N, A, 3): d in x's unit, θ in (0, π), φ in [-π, π].

        .. math:: \theta = \operatorname{atan2}(|e \times f|,\, e \cdot f), \qquad
                  \varphi = \operatorname{atan2}(\hat u \times m \cdot e,\, m \cdot e)

        Raises
        ------
        ValueError
            If x has the wrong shape, a value that is not finite, two bonded atoms in one place, or
            three atoms on a line where an angle or a dihedral needs a plane; it names frame and
            atoms.
        """
        x = self._check_frames(x)
        i, b, a = self.angles.T
        around = self.dihedrals[:, 1:].T
        d = _length(_between(x, *self.bonds.T))
        self._refuse(d <= 0, self.bonds, "two bonded atoms in one place")
        self._refuse(_sine(x, i, b, a) < STRAIGHT, self.angles, "three atoms on a line")
        self._refuse(_sine(x, *around) < STRAIGHT, self.dihedrals[:, 1:], "three atoms on a line")
        return np.concatenate([d, _angle(x, i, b, a), _dihedral(x, *self.dihedrals.T)], axis=1)

    def to_cartesian(self, q) -> np.ndarray:
        """Return frames (N, A, 3): first atom at 0, second on the x axis, third at y > 0, z = 0.

        Raises
        ------
        ValueError
            As ``log_det``.
        """
        return self._to_cartesian(self._check_internal(q))

    def log_det(self, q) -> np.ndarray:
        """Return log|det dx/dq| (N,) of q (N, 3A - 6), nats; the unit of length is that of q.

        Raises
        ------
        ValueError
            If q has the wrong shape, a value that is not finite, a bond that is not positive or an
            angle outside (0, π); it names frame and coordinate.
        """
        return self._log_det(self._check_internal(q))

    # ---- trusted: any dtype, also complex --------------------------------------------------------

    def _log_det(self, q: np.ndarray) -> np.ndarray:
        d, theta, _ = self._parts(q)
        return 2 * np.log(d).sum(axis=1) + np.log(np.sin(theta)).sum(axis=1)

    def _to_cartesian(self, q: np.ndarray) -> np.ndarray:
        d, theta, phi = self._parts(q)
        x = np.zeros((len(q), self.atoms, 3), dtype=q.dtype)
        first, second, third = (row[0] for row in self.rows[:3])
        x[:, second, 0] = d[:, 0]
        x[:, third, 0] = x[:, self.rows[2][1], 0] + self._outward() * d[:, 1] * np.cos(theta[:, 0])
        x[:, third, 1] = d[:, 1] * np.sin(theta[:, 0])
        for k, (i, b, a, c) in enumerate(self.rows[3:]):
            u, m, n = _axes(x, b, a, c)
            bent, turned = theta[:, k + 1, None], phi[:, k, None]
            away = -np.cos(bent) * u + np.sin(bent) * (np.cos(turned) * m + np.sin(turned) * n)
            x[:, i] = x[:, b] + d[:, k + 2, None] * away
        return x

    def _outward(self) -> int:
        """Return the sign of the x axis from the third atom's neighbour to the other of the two."""
        return 1 if self.rows[2][1] == self.rows[0][0] else -1

    # ---- checks ----------------------------------------------------------------------------------

    def _check_frames(self, x) -> np.ndarray:
        x = plain_array(x, "x")
        if x.dtype.kind not in "fiu" or x.ndim != 3 or x.shape[1:] != (self.atoms, 3):
            raise ValueError(
                f"x: expected real numbers (N, {self.atoms}, 3), got {x.dtype} of shape {x.shape}"
            )
        bad = np.argwhere(~np.isfinite(x))
        if len(bad):
            frame, atom, axis = bad[0]
            raise ValueError(
                f"x: frame {frame}, atom {atom}: {'xyz'[axis]} is {x[frame, atom, axis]}, not "
                "finite"
            )
        return x.astype(np.float64)

    def _refuse(self, wrong: np.ndarray, atoms: np.ndarray, what: str) -> None:
        """Raise a ValueError with frame and atoms of the first True of wrong (N, K), if any."""
        if wrong.any():
            frame, k = np.argwhere(wrong)[0]
            raise ValueError(f"x: frame {frame}, atoms {'-'.join(map(str, atoms[k]))}: {what}")

    def _check_internal(self, q) -> np.ndarray:
        q = check_rows(q, self.width, np.float64, name="q")
        d, theta, _ = self._parts(q)
        for name, values, good, rule in (
            ("bond", d, d > 0, "a positive length"),
            ("angle", theta, (theta > 0) & (theta < np.pi), "radians in (0, pi)"),
        ):
            if not good.all():
                frame, k = np.argwhere(~good)[0]
                raise ValueError(
                    f"q: frame {frame}, {name} {k}: expected {rule}, got {values[frame, k]}"
                )
        return q


def _check_order(rows: list[tuple[int, ...]]) -> None:
    """Raise a ValueError unless every atom is placed once, by earlier ones."""
    if len(rows) < 3:
        raise ValueError(f"rows: expected at least three atoms, got {len(rows)}")
    placed: set[int] = set()
    for k, row in enumerate(rows):
        if len(row) != min(k, 3) + 1:
            raise ValueError(f"rows: row {k}: expected {min(k, 3) + 1} atoms, got {row}")
        if row[0] in placed or not 0 <= row[0] < len(rows):
            raise ValueError(
                f"rows: row {k}: expected a new atom of 0..{len(rows) - 1}, got {row[0]}"
            )
        if not placed.issuperset(row[1:]) or len(set(row)) < len(row):
            raise ValueError(
                f"rows: row {k}: expected different atoms that are placed already, got {row[1:]}"
            )
        placed.add(row[0])


# ---- vectors: (N, 3) or (N, K, 3), no complex conjugates -----------------------------------------


def _between(x: np.ndarray, i, b) -> np.ndarray:
    """Return the vectors from atoms b to atoms i."""
    return x[:, i] - x[:, b]


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt((v * v).sum(axis=-1))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / _length(v)[..., None]


def _axes(x: np.ndarray, b, a, c) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return u from a to b, m across it towards c, and n = u × m: right-handed unit vectors."""
    u, to_c = _unit(_between(x, b, a)), _between(x, c, a)
    m = _unit(to_c - (to_c * u).sum(axis=-1)[..., None] * u)
    return u, m, np.cross(u, m)


def _sine(x: np.ndarray, i, b, a) -> np.ndarray:
    """Return the sine of the angle i-b-a; 0, a line, where atoms coincide."""
    e, f = _between(x, i, b), _between(x, a, b)
    size = _length(e) * _length(f)
    return _length(np.cross(e, f)) / np.where(size > 0, size, 1)


def _angle(x: np.ndarray, i, b, a) -> np.ndarray:
    """Return the angle i-b-a; unlike the arc cosine, exact near 0 and π too."""
    e, f = _between(x, i, b), _between(x, a, b)
    return np.arctan2(_length(np.cross(e, f)), (e * f).sum(axis=-1))


def _dihedral(x: np.ndarray, i, b, a, c) -> np.ndarray:
    """Return the dihedral i-b-a-c."""
    _, m, n = _axes(x, b, a, c)
    e = _between(x, i, b)
    return np.arctan2((n * e).sum(axis=-1), (m * e).sum(axis=-1))
