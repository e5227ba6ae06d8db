"""The figures of the family: who depends on whom, curves and scales, known densities,
and what rounding loses."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp.verify import Subject, complex_step_jacobian, randomize  # noqa: E402
from figures import common  # noqa: E402

NAMES = ("14_family", "15_univariates", "16_gallery", "17_round_trip")
family, univariates, gallery, round_trip = (import_module(f"figures.{name}") for name in NAMES)
EPS32 = np.finfo(np.float32).eps


def words(module, data):
    """Draw, and return every text of the figure in one string."""
    with common.style():
        figure = module.draw(data)
        figure.draw_without_rendering()
    assert isinstance(figure, Figure)
    parts = [figure, *figure.subfigs]
    texts = [text for part in parts for text in (part.get_suptitle(), part.get_supxlabel())]
    for axes in figure.axes:
        texts += [axes.get_title(loc) for loc in ("left", "center")] + [
            axes.get_xlabel(),
            axes.get_ylabel(),
        ]
        texts += [text.get_text() for text in axes.texts]
    return "\n".join(texts)


# ---- MAF, IAF and couplings ----------------------------------------------------------------------

TRIANGLE = np.tri(8, dtype=bool)
HALVES = np.eye(8, dtype=bool) | (np.arange(8)[:, None] >= 4) & (np.arange(8) < 4)
AT_ONCE, ONE_BY_ONE, AFTER_HALF = np.ones(8), np.arange(1, 9), np.repeat([0, 1], 4)


@pytest.mark.parametrize(
    ("name", "way", "moved", "steps"),
    [
        ("MAF", "density", TRIANGLE, AT_ONCE),
        ("MAF", "sampling", TRIANGLE, ONE_BY_ONE),
        ("IAF", "density", TRIANGLE, ONE_BY_ONE),
        ("IAF", "sampling", TRIANGLE, AT_ONCE),
        ("RealNVP", "density", HALVES, AFTER_HALF),
        ("RealNVP", "sampling", HALVES, AFTER_HALF),
    ],
)
def test_patterns_are_triangles_and_blocks_and_steps_say_who_waits(name, way, moved, steps):
    found_moved, found_steps = family.pattern(name, way)
    assert np.array_equal(found_moved, moved) and np.array_equal(found_steps, steps)


@pytest.fixture(scope="module")
def small_family():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("D", 9), ("H", 16), ("TRANSFORMS", 3)):
            patch.setattr(family, name, value)
        yield family.data(quick=True)


def test_costs_have_closed_forms(small_family):
    D, H, T = 9, 16, 3
    c = H // (
        D - 1
    )  # units of each degree: then c D (D - 1) (c + 3) / 2 ones in the masks of a transform
    solved = {"passes": T, "depth": T * D, "multiply_adds": T * c * (c + 3) * D * (D - 1) // 2}
    at_once = {**solved, "depth": T}
    found = small_family["numbers"]["passes"]
    loop = {"passes": T * D, "depth": T * D, "multiply_adds": D * solved["multiply_adds"]}
    assert found["MAF"] == {"density": at_once, "sampling": solved, "textbook loop": loop}
    assert found["IAF"] == {"density": solved, "sampling": at_once, "textbook loop": loop}
    assert found["RealNVP"]["density"] == found["RealNVP"]["sampling"]
    # 5, 4, 5 features pass: inputs to H, H to H, H to two numbers for each of the others
    assert found["RealNVP"]["density"]["multiply_adds"] == sum(
        a * H + H * H + H * 2 * (D - a) for a in (5, 4, 5)
    )
    assert found["RealNVP"]["density"]["depth"] == found["RealNVP"]["density"]["passes"] == T


def test_every_direction_is_timed_on_both_backends_and_the_loop_where_something_waits(small_family):
    times = small_family["numbers"]["milliseconds"]
    ways = [
        f"{name}, {way}" for name in ("MAF", "IAF", "RealNVP") for way in ("density", "sampling")
    ]
    expected = {f"{way}, {backend}" for way in ways for backend in ("numpy", "numba")}
    assert times.keys() == expected | {"MAF, sampling, loop", "IAF, density, loop"}
    assert all(0 < of["minimum"] <= of["median"] for of in times.values())


def test_the_twin_of_an_iaf_is_its_density_in_the_other_direction():
    flow = randomize(afnp.iaf(5, hidden=(8,), transforms=3, activation="tanh"), seed=4)
    x = np.random.default_rng(0).standard_normal((20, 5))
    u, log_det = flow.normalize(x)
    by_loop, log_det_by_loop = family.twin(flow).generate(x, method="naive")
    assert (
        np.abs(u - by_loop).max() < 1e-11 and np.abs(log_det - log_det_by_loop).max() < 1e-11
    )  # conditioning
    assert (
        np.abs(family.twin(flow).normalize(x)[0] - u).max() > 0.1
    )  # it is not the other direction


def test_the_timed_loop_is_the_timed_density(small_family):
    assert (
        0 < small_family["numbers"]["loop_is_the_same_map_within"] < 1e-5
    )  # float32, two algorithms


def test_the_picture_of_the_family_names_passes_and_steps(small_family):
    text = words(family, small_family)
    assert (
        "MAF, sampling: 3 passes, 27 steps" in text and "IAF, density: 3 passes, 27 steps" in text
    )
    assert "RealNVP, sampling: 3 passes, 3 steps" in text


# ---- univariates ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curves():
    return univariates.data(quick=True)


def test_every_univariate_increases_and_tells_its_true_slope(curves):
    numbers = curves["numbers"]
    assert list(numbers["always_increasing"].values()) == [True] * 6
    assert min(numbers["smallest_derivative"].values()) > 0
    # rounding through splines, whose steepest bins cancel a few digits
    assert numbers["largest_error_of_log_derivative"] < 1e-11


def test_slopes_are_continuous(curves):
    """Continuous and piecewise smooth: half the step, about half the jump."""
    numbers = curves["numbers"]
    for name, jump in numbers["largest_jump"].items():
        assert numbers["largest_jump_at_half_the_step"][name] <= 0.65 * jump, name
    assert numbers["largest_jump"]["affine"] == numbers["largest_jump"]["additive"] == 0


def test_a_curve_that_falls_and_a_slope_that_jumps_would_be_seen():
    x = np.linspace(-1, 1, 101)
    u = np.where(x > 0, x, 2 * x)
    assert (univariates.rises({"u": u[None], "periodic": False}) > 0).all()
    assert not (univariates.rises({"u": (x**2)[None], "periodic": False}) > 0).all()
    assert univariates.jump(np.log(np.where(x > 0, 1, 2))[None]) == np.log(2)


def test_once_round_the_circle_is_an_increase():
    u = np.array([[2.5, 3.1, -3.1, -2.0]])
    assert np.allclose(univariates.rises({"u": u, "periodic": True}), [[0.6, 2 * np.pi - 6.2, 1.1]])
    assert not (univariates.rises({"u": u, "periodic": False}) > 0).all()


def test_ranges_of_the_scales_are_those_of_their_formulas(curves):
    found = curves["numbers"]["alpha_range"]
    assert found["exp"] == [-50, 50]
    assert found["tanh"] == pytest.approx([-7 * np.tanh(50 / 7), 7 * np.tanh(50 / 7)])
    assert found["softplus"][1] == pytest.approx(np.log(50 + np.log(np.e - 1)))
    assert found["sigmoid"] == pytest.approx([-48, 0], abs=1e-12)


def test_only_the_scale_bounded_both_ways_remembers_the_noise(curves):
    numbers = curves["numbers"]
    # x near mu is rounded by at most epsilon |x| / 2; |x| < 4 here, and the way back multiplies by
    # e^7
    assert numbers["largest_error"]["tanh"] < 4 * EPS32 * np.exp(7)
    assert numbers["forgets_below_a"]["tanh"] is None
    for name in ("exp", "softplus", "sigmoid"):
        # rounding errors of about epsilon / 4 become 1/10 at a = log(10 epsilon / 4), -15; the gate
        # adds 2 to a
        assert -19 <= numbers["forgets_below_a"][name] <= -14
        assert numbers["rms_error"][name] == pytest.approx(
            1, abs=0.15
        )  # u itself: x = mu to the last bit


def test_the_picture_of_univariates_names_ranges(curves):
    text = words(univariates, curves)
    assert "tanh: −7 to 7" in text and "sigmoid: −48 to 0" in text and "circular spline" in text


# ---- known densities -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_gallery(tmp_path_factory):
    """Two targets and two flows; which flows were checked, and how."""
    checked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(
            gallery, "FLOWS", {name: gallery.FLOWS[name] for name in ("MADE", "NSF, coupling")}
        )
        check = gallery.verified
        patch.setattr(
            gallery, "verified", lambda flow, quick: checked.append(flow) or check(flow, quick)
        )
        data = gallery.data(quick=True)
        yield data, checked, words(gallery, data)


def test_divergence_of_known_densities_comes_out():
    """KL(N(0, 1) || N(m, s)) = log s + (1 + m^2) / (2 s^2) - 1/2, here 2 times over."""
    m, s = 0.5, 1.5
    x = np.random.default_rng(0).standard_normal((100_000, 2))

    def log_q(x, m, s):
        return (-0.5 * ((x - m) / s) ** 2 - np.log(s)).sum(axis=1)

    mean, error = gallery.mean_and_error(log_q(x, 0, 1) - log_q(x, m, s))
    expected = 2 * (np.log(s) + (1 + m**2) / (2 * s**2) - 0.5)
    assert abs(mean - expected) < 4 * error < 0.02
    assert error == pytest.approx(np.std(log_q(x, 0, 1) - log_q(x, m, s)) / 100_000**0.5, rel=1e-4)


@pytest.mark.parametrize("name", gallery.TARGETS)
def test_windows_show_all_of_the_truth(name):
    known = afnp.data.load(name)
    grid = gallery.grid_of(name, 200)
    mass = gallery.density(known.log_density, grid).sum() * grid.area
    assert mass == pytest.approx(1, abs=0.02)  # the checkerboard's edges fall within pixels
    p = gallery.density(known.log_density, grid)
    top = grid.points[p.argmax()]
    assert known.log_density(top[None])[0] == pytest.approx(np.log(p.max()))


def test_test_rows_are_not_those_of_training():
    known = afnp.data.load("two_moons")
    seen = np.concatenate([known.train, known.val])
    assert not np.isin(gallery.fresh("two_moons")[:, 0], seen[:, 0]).any()


def test_no_flow_is_above_the_truth_and_splines_are_closer(small_gallery):
    numbers = small_gallery[0]["numbers"]
    assert numbers["kl_and_standard_error"].keys() == {"two_moons", "checkerboard"}
    assert numbers["least_kl_in_standard_errors"] > 3
    assert numbers["smallest_kl"] > 0
    for of in numbers["kl_and_standard_error"].values():
        (made, made_error), (spline, spline_error) = of["MADE"], of["NSF, coupling"]
        assert made - spline > 5 * np.hypot(made_error, spline_error)
    # the entropy of the checkerboard is that of eight unit squares, and has no spread
    entropy, error = numbers["entropy_and_standard_error"]["checkerboard"]
    assert (entropy, error) == pytest.approx((np.log(8), 0), abs=1e-12)


def test_gaps_are_filled_by_affine_layers(small_gallery):
    mass = small_gallery[0]["numbers"]["mean_mass_in_the_gaps"]
    assert 0 < mass["NSF, coupling"] < mass["MADE"] < 1


def test_flows_are_checked_before_they_are_shown(small_gallery):
    data, checked, _ = small_gallery
    assert len(checked) == data["numbers"]["checked_flows"] == 2  # those of one target, if quick


def test_the_picture_shows_each_divergence_once(small_gallery):
    data, _, text = small_gallery
    for of in data["numbers"]["kl_and_standard_error"].values():
        for mean, error in of.values():
            assert text.count(f"{mean:.3f} ± {error:.3f}") == 1
    assert "truth" in text and "entropy 2.08" in text


# ---- round trips ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trips():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DEPTHS", (1, 3, 5)), ("WIDTHS", (2, 16)), ("TYPICAL_WIDTH", 16)):
            patch.setattr(round_trip, name, value)
        yield round_trip.data(quick=True)


@pytest.mark.parametrize(
    ("kind", "activation"), [("affine", "tanh"), ("affine", "relu"), ("spline", "tanh")]
)
def test_conditioning_is_the_jacobian_applied_to_the_sizes_of_x(kind, activation):
    flow = round_trip.build(kind, activation, np.float64, T=2, D=5)
    u = np.random.default_rng(0).standard_normal((4, 5))
    x, _ = flow.generate(u)
    J = complex_step_jacobian(
        lambda z: Subject.of_flow(flow).analytic(z, np.empty((len(z), 0)))[0], x
    )
    signs = np.random.default_rng(2).choice([-1.0, 1.0], x.shape)
    expected = np.abs(np.einsum("nij,nj->ni", J, x * signs)).max(axis=1)
    assert round_trip.conditioning(flow, u, 4) == pytest.approx(expected, rel=1e-10)


def test_sizes_are_depths_at_one_width_and_widths_at_one_depth(trips):
    sizes = {(t.T, t.D) for t in trips["trips"] if t.activation == "tanh"}
    assert sizes == {(1, 16), (3, 16), (5, 16), (5, 2)}
    assert len(trips["trips"]) == 2 * 2 * 4 + 3


def test_errors_are_what_conditioning_predicts(trips):
    low, high = trips["numbers"]["error_over_prediction"]
    assert 0.05 < low <= high < 10  # of magnitude: errors inside the networks are left out


def test_both_precisions_lose_the_same_multiple_of_epsilon(trips):
    of = {t[:5]: t.median for t in trips["trips"] if t.activation == "tanh"}
    for (kind, activation, dtype, T, D), median in of.items():
        if dtype == "float32":
            ratio = median / of[kind, activation, "float64", T, D]
            assert abs(np.log2(ratio) - 29) < 1.6, (kind, T, D)  # medians of few ulps are coarse


def test_depth_costs_digits_and_relu_most_of_all(trips):
    numbers = trips["numbers"]
    assert all(growth > 2 for growth in numbers["growth_with_depth"].values())
    largest = {
        t.activation: t.largest
        for t in trips["trips"]
        if t[0] == "affine" and t[2:5] == ("float64", 5, 16)
    }
    assert largest["relu"] > 100 * largest["tanh"]


def test_the_worst_rows_are_named_in_the_picture(trips):
    text = words(round_trip, trips)
    for name, value in trips["numbers"]["largest_error_at_5_layers"].items():
        assert f"{value:.0e} ({name})" in text
