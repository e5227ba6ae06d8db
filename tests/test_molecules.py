"""Molecules: internal coordinates, there and back, with their volume; shipped frames;
the figure made of them."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import complex_step
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from afnp import data  # noqa: E402
from afnp.data.dataset import SHIPPED  # noqa: E402
from afnp.data.internal_coordinates import ZMatrix  # noqa: E402
from afnp.data.molecules import ALANINE, ATOMS, METHYLS, RIGID, UNIT, alanine_energies  # noqa: E402
from figures import common  # noqa: E402

molecules = import_module("figures.26_molecules")
MASS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}


@pytest.fixture(scope="module")
def frames():
    return data.load("alanine_frames").test.reshape(-1, 22, 3)


def random_chain(rng, atoms):
    """A Z-matrix that hangs every atom on random earlier ones,
    and internal coordinates away from lines."""
    labels = rng.permutation(atoms)
    rows = [(labels[k], *labels[rng.permutation(k)[: min(k, 3)]]) for k in range(atoms)]
    q = np.concatenate(
        [
            rng.uniform(0.5, 2, (4, atoms - 1)),
            rng.uniform(0.3, np.pi - 0.3, (4, atoms - 2)),
            rng.uniform(-np.pi, np.pi, (4, atoms - 3)),
        ],
        axis=1,
    )
    return ZMatrix(rows), q


def rotation(rng):
    """A random rotation: no mirror."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return turn * np.sign(np.linalg.det(turn))


def apart(phi, psi):
    """Difference of angles on the circle."""
    return np.abs(np.angle(np.exp(1j * (phi - psi))))


def superposed(x, y):
    """Frames y after the rotation (no mirror) and shift that bring them closest to x (Kabsch)."""
    x_mid = x.mean(axis=1, keepdims=True)
    y_mid = y.mean(axis=1, keepdims=True)
    U, _, V = np.linalg.svd(np.swapaxes(y - y_mid, 1, 2) @ (x - x_mid))
    keep = np.stack([np.ones(len(x)), np.ones(len(x)), np.linalg.det(U @ V)], axis=1)
    return (y - y_mid) @ (U * keep[:, None]) @ V + x_mid


# ---- there and back ------------------------------------------------------------------------------


def test_frames_survive_the_round_trip_up_to_a_rigid_motion(frames):
    rng = np.random.default_rng(0)
    moved = frames @ rotation(rng) + rng.standard_normal((len(frames), 1, 3))
    back = ALANINE.to_cartesian(ALANINE.to_internal(moved))
    assert np.abs(superposed(moved, back) - moved).max() < 1e-13  # nanometres; a few dozen ulp
    assert (
        np.abs(back[:, 6]).max() == 0
        and np.abs(back[:, 8, 1:]).max() == 0
        and np.abs(back[:, 14, 2]).max() == 0
    )
    assert back[:, 8, 0].min() > 0 and back[:, 14, 1].min() > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_any_tree_of_atoms_survives_the_round_trip(atoms, seed):
    z, q = random_chain(np.random.default_rng(seed), atoms)
    try:
        again = z.to_internal(z.to_cartesian(q))
    except ValueError as error:  # the three that a dihedral turns about may lie on a line by chance
        assert "on a line" in str(error)
        return
    d, theta, phi = z._parts(q)
    d2, theta2, phi2 = z._parts(again)
    assert np.abs(d2 - d).max() < 1e-10 and np.abs(theta2 - theta).max() < 1e-10
    if atoms > 3:  # axes of a nearly straight triple are worth fewer digits
        sines = np.stack(
            [np.sin(_angle_of(z.to_cartesian(q), *row[1:])) for row in z.dihedrals], axis=1
        )
        assert (apart(phi2, phi) * sines).max() < 1e-10


def _angle_of(x, i, b, a):
    e = x[:, i] - x[:, b]
    f = x[:, a] - x[:, b]
    return np.arctan2(np.linalg.norm(np.cross(e, f), axis=1), (e * f).sum(axis=1))


def test_internal_coordinates_are_what_chemists_mean(frames):
    q = ALANINE.to_internal(frames[:50])
    i, b = ALANINE.bonds.T
    assert np.allclose(
        q[:, :21], np.linalg.norm(frames[:50, i] - frames[:50, b], axis=2), atol=1e-15
    )
    square = ZMatrix([(0,), (1, 0), (2, 1, 0), (3, 2, 1, 0)])
    corner = np.array([[0.0, 1, 0], [0, 0, 0], [1, 0, 0]])
    for last, phi in (
        ([1.0, 1, 0], 0),
        ([1.0, -1, 0], np.pi),
        ([1.0, 0, 1], np.pi / 2),
        ([1.0, 0, -1], -np.pi / 2),
    ):
        found = square.to_internal(np.concatenate([corner, [last]])[None])[0]
        assert found[:5] == pytest.approx([1, 1, 1, np.pi / 2, np.pi / 2])
        assert apart(found[5], phi) < 1e-15


def test_a_mirror_turns_every_dihedral_and_no_rotation_does(frames):
    q = ALANINE.to_internal(frames)
    turned = ALANINE.to_internal(frames @ rotation(np.random.default_rng(1)))
    mirrored = ALANINE.to_internal(frames * [1, 1, -1])
    assert (
        np.abs(turned[:, :41] - q[:, :41]).max() < 1e-13
        and apart(turned[:, 41:], q[:, 41:]).max() < 1e-12
    )
    assert (
        np.abs(mirrored[:, :41] - q[:, :41]).max() < 1e-13
        and apart(mirrored[:, 41:], -q[:, 41:]).max() < 1e-12
    )
    x = ALANINE.to_cartesian(q)
    volume = np.einsum(
        "ni,ni->n", np.cross(x[:, 6] - x[:, 8], x[:, 14] - x[:, 8]), x[:, 10] - x[:, 8]
    )
    assert (volume > 0).all()  # N, C, CB about CA: an L amino acid, in every frame


def test_shipped_angles_are_those_of_the_frames(frames):
    """The same run was shipped as angles: every third of them,
    to the rounding of frames (0.05 pm)."""
    steps = np.load(SHIPPED / "alanine_frames.npz")["xyz"].astype(float) * UNIT
    angles = np.load(SHIPPED / "alanine_dihedrals.npz")["phi_psi_300K"][::3]
    phi = ALANINE.to_internal(steps)[:, 41:43]
    assert len(angles) == len(phi) and apart(phi, angles).max() < 2e-3


# ---- volume --------------------------------------------------------------------------------------


def cartesian_log_det(z, q):
    """log|det| of the map from (q, shift, turn) to all Cartesian coordinates, by complex steps."""
    x = z.to_cartesian(q[None])[0]
    inner = complex_step(lambda q: z._to_cartesian(q[None])[0].ravel(), q)
    shift = np.tile(np.eye(3), (z.atoms, 1))
    turn = np.stack([np.cross(axis, x).ravel() for axis in np.eye(3)], axis=1)
    return np.linalg.slogdet(np.concatenate([inner, shift, turn], axis=1))[1]


def test_the_volume_element_is_the_determinant_of_all_66_coordinates(frames):
    q = ALANINE.to_internal(frames[::100])
    assert q.shape == (9, 60)
    expected = [cartesian_log_det(ALANINE, row) for row in q]
    assert ALANINE.log_det(q) == pytest.approx(expected, abs=1e-10)  # of about -91


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 7), st.integers(0, 2**32 - 1))
def test_the_volume_element_of_any_tree(atoms, seed):
    z, q = random_chain(np.random.default_rng(seed), atoms)
    x = z.to_cartesian(q)
    sines = [np.sin(_angle_of(x, *row[1:])).min() for row in z.dihedrals]
    if min(sines, default=1) > 1e-3:  # else the axes themselves are worth few digits
        assert z.log_det(q) == pytest.approx([cartesian_log_det(z, row) for row in q], abs=1e-8)


# ---- what is wrong is said -----------------------------------------------------------------------


def test_bad_frames_are_named(frames):
    x = frames[:3].copy()
    for bad in (x[0], x[:, :21], x.reshape(3, 66), x.astype(complex), [["a"]]):
        with pytest.raises(ValueError, match=r"x: expected real numbers \(N, 22, 3\), got"):
            ALANINE.to_internal(bad)
    x[2, 5, 1] = np.nan
    with pytest.raises(ValueError, match="frame 2, atom 5: y is nan"):
        ALANINE.to_internal(x)
    water = ZMatrix([(0,), (1, 0), (2, 0, 1)])
    with pytest.raises(ValueError, match="frame 0, atoms 2-0-1: three atoms on a line"):
        water.to_internal([[[0, 0, 0], [1, 0, 0], [-1, 0, 0]]])
    with pytest.raises(ValueError, match="frame 0, atoms 1-0: two bonded atoms in one place"):
        water.to_internal([[[0, 0, 0], [0, 0, 0], [-1, 0, 0]]])
    peroxide = ZMatrix([(0,), (1, 0), (2, 1, 0), (3, 0, 2, 1)])
    with pytest.raises(ValueError, match="frame 0, atoms 3-0-2: three atoms on a line"):
        peroxide.to_internal([[[0, 0, 0], [1, 1, 0], [1, 0, 0], [2, 0, 0]]])
    assert ALANINE.to_internal(np.empty((0, 22, 3))).shape == (0, 60)


def test_bad_internal_coordinates_are_named(frames):
    q = ALANINE.to_internal(frames[:3])
    for f in (ALANINE.to_cartesian, ALANINE.log_det):
        with pytest.raises(ValueError, match="q: expected 60 columns, got 59"):
            f(q[:, :59])
        for column, value, message in (
            (4, 0.0, "frame 1, bond 4: expected a positive length, got 0"),
            (21, 3.2, r"frame 1, angle 0: expected radians in \(0, pi\), got 3.2"),
            (59, np.inf, "row 1, feature 59 is inf"),
        ):
            bad = q.copy()
            bad[1, column] = value
            with pytest.raises(ValueError, match=message):
                f(bad)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0,), (1, 0)], "at least three atoms, got 2"),
        ([(0,), (1, 0), (2, 0)], "row 2: expected 3 atoms"),
        ([(0,), (1, 0), (1, 0, 1)], "row 2: expected a new atom of 0..2, got 1"),
        ([(0,), (1, 0), (3, 0, 1)], "row 2: expected a new atom of 0..2, got 3"),
        ([(0,), (1, 2), (2, 0, 1)], "row 1: expected different atoms that are placed already"),
        ([(0,), (1, 0), (2, 1, 1)], "row 2: expected different atoms that are placed already"),
    ],
)
def test_bad_trees_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        ZMatrix(rows)


# ---- the shipped frames --------------------------------------------------------------------------


def test_frames_and_energies_are_split_alike_and_in_blocks():
    known = data.load("alanine_frames", seed=3)
    energies = alanine_energies(seed=3)
    raw = np.load(SHIPPED / "alanine_frames.npz")
    row_of = {energy: k for k, energy in enumerate(raw["energy_kj_mol"].tolist())}
    for x, energy in zip((known.train, known.val, known.test), energies, strict=True):
        rows = np.array([row_of[e] for e in energy.tolist()])
        same = raw["energy_kj_mol"][rows] == energy
        assert same.all() and len(x) == len(energy)
        assert (
            np.abs(raw["xyz"][rows].reshape(-1, 66) * UNIT - x) < 1e-12
        ).mean() > 0.99  # a few energies recur
    assert (np.diff(rows) != 1).sum() < 10  # test: five blocks
    assert sum(map(len, energies)) == 8334 and known.columns[3 * 8] == "CA(8).x"


def test_bonds_to_hydrogen_are_rigid_and_nothing_else_is():
    known = data.load("alanine_frames")
    bonds = ALANINE.to_internal(known.train.reshape(-1, 22, 3))[:, :21]
    assert (
        RIGID.sum() == 12
        and bonds[:, RIGID].std(axis=0).max() < 3e-5 < 2e-3 < bonds[:, ~RIGID].std(axis=0).min()
    )
    assert sorted(ATOMS[a][0] for a in range(22)) == sorted("C" * 6 + "H" * 12 + "N" * 2 + "O" * 2)


def test_the_factor_of_rigid_bonds_hardly_varies(frames):
    r"""Fixman's factor, :math:`\sqrt{\det Z}` with
    :math:`Z_{ij} = \sum_a \nabla_a d_i \nabla_a d_j / m_a`."""
    bonds = ALANINE.bonds[RIGID]
    gradient = np.zeros((len(frames), len(bonds), 22, 3))
    for k, (h, heavy) in enumerate(bonds):
        along = frames[:, h] - frames[:, heavy]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        gradient[:, k, h], gradient[:, k, heavy] = along, -along
    mass = np.array([MASS[name[0]] for name in ATOMS])
    Z = np.einsum("nkax,nlax,a->nkl", gradient, gradient, 1 / mass)
    assert 1e-5 < (0.5 * np.linalg.slogdet(Z)[1]).std() < 1e-3


# ---- the figure ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(trained_flows):
    return molecules.data(quick=True)


def test_hydrogens_are_handed_on_without_a_mirror(frames):
    other = molecules.handed_on(frames, 0)
    bonds = ALANINE.to_internal(other)[:, :21]
    q = ALANINE.to_internal(frames)
    assert (other != frames).any(axis=(1, 2)).mean() > 0.9  # all but one in 27
    assert (
        np.abs(bonds - q[:, :21]).max() < 2e-4
    )  # at their own carbons: twice sqrt(3) / 2 steps of 0.05 pm
    hydrogens = np.array(METHYLS).ravel()
    assert np.array_equal(np.delete(other, hydrogens, axis=1), np.delete(frames, hydrogens, axis=1))
    assert np.array_equal(
        np.sort(other[:, METHYLS[0]], axis=1), np.sort(frames[:, METHYLS[0]], axis=1)
    )
    for column in (41 + 11, 41 + 12):  # H2 and H3 about the bond, from H1: 120 degrees either way
        assert (np.sign(ALANINE.to_internal(other)[:, column]) == np.sign(q[:, column])).all()


def test_rivals_are_densities():
    z = ALANINE
    rng = np.random.default_rng(0)
    q = z.to_internal(data.load("alanine_frames").train[::4].reshape(-1, 22, 3))
    assert molecules.steady(q).sum() == 14 and not molecules.steady(q)[[0, 1]].any()
    length = np.i0(2.0) ** -1 * np.mean(
        np.cos(molecules.ANGLES) * np.exp(2 * np.cos(molecules.ANGLES))
    )
    assert molecules.concentration(length) == pytest.approx(2, abs=1e-6)
    assert molecules.log_i0(np.array([2.0])) == pytest.approx(np.log(np.i0(2.0)), abs=1e-12)
    f = molecules.gaussian(q, False)
    grid = np.linspace(-np.pi, np.pi, 2000, endpoint=False)
    for column in (41, 51):  # along one dihedral, a density but for the others' factor
        rows = np.repeat(q[:1], 2000, axis=0)
        rows[:, column] = grid
        along = np.exp(f(rows) - f(rows).max())
        x = q[:, column]
        mean = np.exp(1j * x).mean()
        kappa = molecules.concentration(abs(mean))
        expected = np.exp(kappa * (np.cos(grid - np.angle(mean)) - 1))
        assert np.abs(along / along.sum() - expected / expected.sum()).max() < 1e-6
    noise = q + 0.01 * rng.standard_normal(q.shape)
    assert f(q).mean() > f(noise).mean()


def test_weights_of_a_known_pair_have_the_known_share():
    """Unit normal p, normal q of deviation 1.2: ESS = (2 s² - 1)^½ / s²,
    KL = log s + 1 / (2 s²) - ½."""
    x = np.random.default_rng(0).standard_normal(200_000)
    s = 1.2
    target = -x * x / 2 + 5.0  # log Z = 5 + log sqrt(2 pi) has to drop out
    log_q = -((x / s) ** 2) / 2 - np.log(s * np.sqrt(2 * np.pi))
    found = molecules.beside_energies({molecules.FLOW: log_q}, target)[molecules.FLOW]
    assert found["effective_share"] == pytest.approx(np.sqrt(2 * s**2 - 1) / s**2, abs=0.01)
    assert found["kl"] == pytest.approx(np.log(s) + 1 / (2 * s**2) - 0.5, abs=0.01)
    assert found["correlation"] == pytest.approx(1)


def test_numbers_of_the_figure_hang_together(quick):
    numbers = quick["numbers"]
    volume = numbers["cartesian_nats_and_standard_error"]
    test = data.load("alanine_frames").test.reshape(-1, 22, 3)
    log_det = ALANINE.log_det(ALANINE.to_internal(test)).mean()
    for name, (nats, _) in numbers["test_nats_and_standard_error"].items():
        assert volume[name][0] == pytest.approx(nats - log_det, abs=1e-8)
    for name in (molecules.MIXED, molecules.SIMPLE):
        lead = numbers["lead_and_standard_error"][name][0]
        kl = numbers["energies"][name]["kl"] - numbers["energies"][molecules.FLOW]["kl"]
        assert kl == pytest.approx(lead, abs=1e-8)
    assert len(numbers["bonds_nm"]) == 21 and numbers["other_angles"]["how_many"] == 16
    assert 0 <= numbers["other_angles"]["strange_samples"] < 0.5  # after seconds of training
    assert 0.9 < numbers["energies"][molecules.MIXED]["correlation"] < 1


def test_samples_of_the_figure_are_molecules(quick):
    for bond in quick["numbers"]["bonds_nm"].values():
        (mean, spread), (mean2, spread2) = bond["frames"], bond["samples"]
        assert (
            abs(mean - mean2) < 1e-3 and abs(spread - spread2) < 1e-3
        )  # nm, after seconds of training
    i, j = molecules.far_pairs()
    assert (4, 6) not in set(zip(i, j, strict=True)) and (0, 21) in set(zip(i, j, strict=True))
    assert quick["closest"]["frames"].min() > 0.15 and len(quick["closest"]["samples"]) == 500


def test_the_picture_of_the_molecule_can_be_drawn(quick):
    with common.style():
        figure = molecules.draw(quick)
        FigureCanvasAgg(figure).draw()
    common.as_json(quick["numbers"])
    assert "48 moving coordinates" in figure.get_suptitle()
    assert len(figure.axes) == 7
