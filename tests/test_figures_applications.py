"""The figures of the family on data: angles, classes, redshifts, orders of pixels,
digits and galaxies."""

import itertools
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D, Bbox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
pytest.importorskip("sklearn", reason="NOT TESTED: pip install scikit-learn")

from scipy.special import ndtr  # noqa: E402

import afnp  # noqa: E402
from afnp.applications.forecast import pit  # noqa: E402
from figures import common, recipes  # noqa: E402

NAMES = (
    "07_digits",
    "08_galaxies",
    "18_torus",
    "19_conditional_digits",
    "20_redshift",
    "21_orders",
)
MEMBERS = ("MADE", "MAF", "RealNVP", "spline flow", "MAF MoG")
digits, galaxies, torus, conditional, redshift, orders = (
    import_module(f"figures.{name}") for name in NAMES
)


@pytest.fixture(scope="module", autouse=True)
def cache(trained_flows):
    """Train for all tests once, whatever the figures' own cache holds."""


# ---- what can be read ----------------------------------------------------------------------------


def drawn(figure):
    """Lay the figure out on a canvas of its own."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def texts(figure):
    """Every visible text of the figure, but for tick labels outside their axes' limits."""
    found = [*figure.texts]  # the claim and the small print are among them
    for ax in figure.axes:
        found += [
            ax.title,
            ax._left_title,
            ax._right_title,
            ax.xaxis.label,
            ax.yaxis.label,
            *ax.texts,
        ]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            found += [
                tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
            ]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def outline(text):
    """The box of a text in pixels, turned with it, and a pixel smaller on every side."""
    angle = text.get_rotation()
    renderer = text.figure.canvas.get_renderer()
    if angle % 90 == 0:
        return Outline.unit_rectangle().transformed(_onto(text.get_window_extent(renderer)))
    assert text.get_rotation_mode() == "anchor"
    text.set_rotation(0)
    flat = Outline.unit_rectangle().transformed(_onto(text.get_window_extent(renderer)))
    anchor = text.get_transform().transform(text.get_unitless_position())
    text.set_rotation(angle)
    return flat.transformed(Affine2D().rotate_deg_around(*anchor, angle))


def _onto(box):
    return (
        Affine2D()
        .scale(max(box.width - 2, 1), max(box.height - 2, 1))
        .translate(box.x0 + 1, box.y0 + 1)
    )


def collisions(figure):
    """Pairs of texts that overlap, texts that leave the figure,
    and texts of axes that a line of theirs crosses."""
    outlines = [(text, outline(text)) for text in texts(figure)]
    bad = [
        (a.get_text(), b.get_text())
        for (a, box_a), (b, box_b) in itertools.combinations(outlines, 2)
        if box_a.intersects_path(box_b, filled=True)
    ]
    for text, box in outlines:
        (x0, y0), (x1, y1) = box.get_extents().get_points()
        if not (0 <= x0 and x1 <= figure.bbox.width and 0 <= y0 and y1 <= figure.bbox.height):
            bad.append((text.get_text(), "edge of the figure"))
        bad += [
            (text.get_text(), "line") for line in _lines(text) if crosses(line, box.get_extents())
        ]
    return bad


def _lines(text):
    return text.axes.lines if text.axes is not None and text in text.axes.texts else ()


def crosses(line, box):
    """Whether a line, or one of its markers, passes through a box of pixels."""
    path = line.get_transform().transform_path(line.get_path())
    if line.get_linestyle() == "None":
        return any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for x, y in path.vertices)
    return path.intersects_bbox(Bbox(box.get_points()), filled=False)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({"x": 0.5, "y": 0.8, "s": "clear"}, 0),
        ({"x": 0.52, "y": 0.5, "s": "over"}, 1),
        ({"x": 0.97, "y": 0.8, "s": "outside"}, 1),
        ({"x": 0.5, "y": 0.2, "s": "on the line"}, 1),
        ({"x": 0.5, "y": 0.8, "s": "turned", "rotation": 45, "rotation_mode": "anchor"}, 0),
    ],
)
def test_collisions_are_seen(second, expected):
    with common.style():
        figure = Figure(layout="none")
        ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))
        ax.set_axis_off()
        ax.text(0.5, 0.5, "first")
        ax.text(**second)
        ax.plot([0, 1], [0.21, 0.21], "-")
        assert len(collisions(drawn(figure))) == expected


def read(module, data):
    """Draw; return every text in one string, and see that all of them can be read."""
    common.as_json(data["numbers"])
    with common.style():
        figure = drawn(module.draw(data))
        assert not collisions(figure)
        return "\n".join(text.get_text() for text in texts(figure))


# ---- angles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def angles():
    return torus.data(quick=True)


def test_the_lattice_has_a_fibonacci_number_of_places_and_no_angle_twice():
    at = torus.lattice(1000)
    assert at.shape == (1597, 2)
    assert all(len(np.unique(column.round(9))) == 1597 for column in at.T)
    assert at.min() == -np.pi and at.max() < np.pi


def test_the_lattice_integrates_smooth_densities_to_rounding():
    # sums of 1597 terms of about 1e-2 to 1e1: rounding stays below 1e-13, and what a lattice misses
    # of waves too
    at = torus.lattice(1000)
    mu = np.array([0.3, -2.0])
    kappa = np.array([1.0, 2.0])
    p = np.exp((kappa * np.cos(at - mu)).sum(axis=1)) / np.prod(2 * np.pi * np.i0(kappa))
    assert abs(torus.integral(p) - 1) < 1e-12
    assert abs(torus.integral(np.ones(len(at))) - 4 * np.pi**2) < 1e-12


def test_the_density_of_angles_integrates_to_one():
    known = afnp.data.load("alanine_600K")
    known = torus.replace(known, train=known.train[:1000])
    flow, _ = torus._fitted(known, quick=True, circular=True)
    p = np.exp(flow.log_prob(torus.lattice(torus.PLACES // 2)))
    # corners of the splines leave 4e-7 at 832,040 places, 8e-8 at 514,229
    assert abs(torus.integral(p) - 1) < 1e-6


def test_the_circle_has_no_seam_and_the_plane_has(angles):
    for found in angles["numbers"].values():
        assert found["places"] == 196_418  # the first Fibonacci number from PLACES / 16 on
        assert (
            abs(found["integral"] - 1) < 1e-5
            and abs(found["integral_over_a_quarter_of_the_places"] - 1) < 1e-4
        )
        assert (
            found["jump_at_the_seam"] < 1e-11
        )  # an ulp of an angle, times the slopes of three splines
        assert (
            found["integral_on_the_plane"] < 0.99 and found["jump_at_the_seam_on_the_plane"] > 0.1
        )


def test_a_jump_is_measured_across_both_seams():
    for column in (0, 1):
        assert torus.jump(lambda x, i=column: x[:, i] / 100) == pytest.approx(2 * np.pi / 100)
        assert torus.jump(lambda x, i=column: np.cos(x[:, i])) < 1e-12


def test_leads_are_differences_of_likelihoods(angles):
    for found in angles["numbers"].values():
        nats = found["test_nats_and_standard_error"]
        leads = found["lead_and_standard_error"]
        assert list(nats) == list(torus.MODELS) and list(leads) == list(torus.MODELS[1:])
        for name, (lead, _) in leads.items():
            assert lead == pytest.approx(nats[torus.MODELS[0]][0] - nats[name][0], abs=1e-12)
        assert 0 < found["phi_positive"]["frames"] < 0.5 and 0 < found["phi_positive"]["flow"] < 1


def test_standard_errors_are_over_blocks():
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 20)
    assert torus._blocked(values) == pytest.approx((3.0, np.sqrt(2.5 / 5)))


def test_a_histogram_is_a_density():
    x = np.random.default_rng(0).uniform(-np.pi, np.pi, (500, 2))
    at = torus._angles(120)
    grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    for bins, extra in ((12, 0.1), (24, 1.0)):
        assert torus.integral(np.exp(torus._binned(x, bins, extra)(grid))) == pytest.approx(
            1, abs=1e-12
        )


def test_the_von_mises_product_is_the_most_likely():
    assert torus._concentration(0.697774657964) == pytest.approx(2, abs=1e-8)  # I1(2) / I0(2)
    x = np.random.default_rng(0).vonmises([0.5, 3.0], [2.0, 5.0], (4000, 2))
    best = torus._von_mises(x)(x).mean()
    at = torus.lattice(1000)
    assert torus.integral(np.exp(torus._von_mises(x)(at))) == pytest.approx(1, abs=1e-9)
    for mu, kappa in (([0.5, 3.0], [2.0, 5.0]), ([0.5, 3.0], [2.2, 5.0]), ([0.6, 3.0], [2.0, 5.0])):
        other = (kappa * np.cos(x - mu) - np.log(2 * np.pi * np.i0(kappa))).sum(axis=1).mean()
        assert best - 0.02 < other < best


def test_the_picture_of_angles_can_be_read(angles):
    text = read(torus, angles)
    assert "φ [°]" in text and "300 K: p integrates to 1 within" in text
    for found in angles["numbers"].values():
        assert (
            "{:.3f} ± {:.3f} less".format(*found["lead_and_standard_error"]["histogram"]).replace(
                "-", "−"
            )
            in text
        )


# ---- classes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes():
    return conditional.data(quick=True)


def test_bayes_reads_far_above_chance(classes):
    numbers = classes["numbers"]
    confusion = numbers["confusion"]
    assert confusion.sum() == numbers["rows"]["test"] == 300
    assert (
        numbers["accuracy"] == np.trace(confusion) / 300 > 0.5
    )  # chance: a tenth, with 0.02 of spread
    assert (confusion.sum(axis=1) == afnp.data.load("digits").context_test.sum(axis=0)).all()


def test_what_the_class_tells_is_below_its_bound_and_adds_up(classes):
    numbers = classes["numbers"]
    nats = {name: mean for name, (mean, _) in numbers["test_nats_and_standard_error"].items()}
    told, error = numbers["told_by_the_class"]
    assert 0 < told < numbers["most_told"] == np.log(10) and error > 0
    assert told == pytest.approx(nats["given the class"] - nats["sum over classes"], abs=1e-9)
    lead = numbers["lead_over_the_flow_without"][0]
    assert lead == pytest.approx(nats["sum over classes"] - nats["without the class"], abs=1e-9)


def test_bits_and_nats_of_conditional_digits_tell_the_same(classes):
    numbers = classes["numbers"]
    known = afnp.data.load("digits")
    flow, _ = conditional._fitted(known, quick=True, context=10)
    log_det = recipes.standardize(flow, known.test)[1].mean()
    for name, (nats, _) in numbers["test_nats_and_standard_error"].items():
        assert numbers["bits_per_dim"][name] == pytest.approx(
            -(nats + log_det) / (64 * np.log(2)), abs=1e-9
        )
    by_class = conditional.class_log_probs(flow, known.test[:5])
    for row, y in enumerate(known.context_test[:5].argmax(axis=1)):
        own = flow.log_prob(known.test[row : row + 1], np.eye(10)[[y]])[0]
        assert by_class[y, row] == pytest.approx(own, abs=2e-3)  # float32, of about -200


def test_samples_are_of_the_classes_that_were_given(classes):
    numbers = classes["numbers"]
    assert classes["samples"].shape == (10, 10, 8, 8) and numbers["samples"] == 500
    assert 0 <= classes["samples"].min() and classes["samples"].max() <= 16
    assert (
        0.2 < numbers["samples_read_as_given"] <= 1
    )  # after three epochs; chance: 0.1, with 0.013 of spread
    assert (conditional._classes(30) == np.repeat(range(10), 3)).all()


def test_the_nearest_neighbour_of_a_training_image_is_itself():
    known = afnp.data.load("digits")
    images = afnp.data.quantize(known.train[:200], known.levels)
    assert (conditional._nearest(known, images) == known.context_train[:200].argmax(axis=1)).all()


def test_the_picture_of_classes_can_be_read(classes):
    text = read(conditional, classes)
    numbers = classes["numbers"]
    assert f"Bayes' rule reads {100 * numbers['accuracy']:.1f} % of 300" in text.replace("\n", " ")
    assert "The class tells {:.2f} ± {:.2f} nats".format(*numbers["told_by_the_class"]) in text


# ---- redshifts -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifts():
    return redshift.data(quick=True)


@pytest.fixture(scope="module")
def small_redshift():
    """The quick flow, calibrated, and the parts of the data."""
    train, val, test = redshift._parts(1500)
    raw, _ = redshift._fitted(train, val, quick=True)
    return raw, redshift.calibrated(raw, val), val, test


def test_pit_is_a_cumulative_distribution(small_redshift):
    _, flow, _, test = small_redshift
    F = pit(flow, *test)
    assert F.shape == (2000,) and 0 <= F.min() < 0.1 and 0.9 < F.max() <= 1
    rising = np.linspace(0, 2, 50)[:, None]
    assert (np.diff(pit(flow, rising, np.tile(test.m[0], (50, 1)))) >= 0).all()


def test_quantiles_are_the_inverse_of_the_cumulative_distribution(small_redshift):
    _, flow, _, test = small_redshift
    q = redshift._quantiles(flow, test.m[:20], pieces=5)
    part = redshift.Part(q.reshape(-1, 1), np.repeat(test.m[:20], 5, axis=0))
    # float32 there and back
    assert pit(flow, *part).reshape(20, 5) == pytest.approx(
        np.tile([0.1, 0.3, 0.5, 0.7, 0.9], (20, 1)), abs=1e-3
    )


def test_calibration_standardises_the_noise_of_validation_and_adds_likelihood(small_redshift):
    raw, flow, val, _ = small_redshift
    u = flow.normalize(val.z, val.m)[0].astype(np.float64)
    assert u.mean() == pytest.approx(0, abs=1e-5) and u.std() == pytest.approx(
        1, abs=1e-5
    )  # float32
    assert flow.log_prob(val.z, val.m).mean() > raw.log_prob(val.z, val.m).mean()
    assert np.array_equal(flow.theta, raw.theta)


def test_calibration_of_right_and_of_too_narrow_densities():
    u = np.random.default_rng(0).standard_normal(20_000)
    right, narrow = (redshift.calibration(ndtr(scale * u)) for scale in (1, 1.5))
    assert (
        right["kolmogorov_distance"]
        < redshift.CRITICAL / np.sqrt(20_000)
        < narrow["kolmogorov_distance"]
    )
    assert right["coverage"]["90 %"] == pytest.approx(0.9, abs=0.01)
    assert narrow["coverage"]["90 %"] == pytest.approx(0.727, abs=0.01)  # |u| < 1.645 / 1.5
    assert right["counts"].sum() == 20_000 and narrow["counts"][0] > 1.5 * right["counts"][0]
    assert redshift._kolmogorov(np.array([0.5])) == 0.5


def test_densities_integrate_to_one_and_to_their_cumulative_distribution(shifts):
    numbers = shifts["numbers"]
    assert 0 < numbers["integral_error"] < 1e-4  # float32, and the corners of the splines
    assert 0 < numbers["cumulative_error"] < 1e-3
    for curve in shifts["curves"]:
        assert (np.diff(curve["grid"]) >= 0).all() and curve["p"].min() >= 0


def test_errors_have_closed_forms():
    z = np.array([[0.0], [1.0], [3.0]])
    test = redshift.Part(z, np.zeros((3, 1)))
    of_flow = {"mean": z[:, 0] + [0.1, 0.2, 0.4], "median": z[:, 0] + [0.2, 0.2, 0.4]}
    found = redshift._errors(of_flow, {"far": lambda m: z[:, 0] + (1 + z[:, 0]) * 0.3}, test)
    assert found["rms_error"] == pytest.approx({"flow": 0.1, "far": 0.3})
    assert found["typical_error"] == pytest.approx({"flow": 0.1, "far": 0.3})
    assert found["outliers"] == pytest.approx({"flow": 1 / 3, "far": 1})


def test_the_linear_rival_finds_a_line():
    m = np.random.default_rng(0).standard_normal((50, 6))
    line = redshift._linear(redshift.Part((m @ np.arange(6) + 2)[:, None], m))
    assert line(np.eye(6)) == pytest.approx(np.arange(6) + 2)


def test_redshifts_are_known_better_with_magnitudes(shifts):
    numbers = shifts["numbers"]
    nats = {name: mean for name, (mean, _) in numbers["test_nats_and_standard_error"].items()}
    assert nats["flow"] > nats["linear regression"] > nats["Gaussian, no condition"]
    z = afnp.data.load("galaxies")
    mu = z.train[:1500, 0].mean()
    sd = z.train[:1500, 0].std()
    expected = afnp.data.gaussian_log_prob(
        (z.train[:1500, :1] - mu) / sd, (z.test[:, :1] - mu) / sd
    ).mean()
    assert nats["Gaussian, no condition"] == pytest.approx(expected, abs=1e-5)
    assert numbers["rms_error"]["flow"] < numbers["rms_error"]["linear regression"]
    for found in numbers["calibration"].values():
        assert found["counts"].sum() == numbers["rows"]["test"]
        assert (
            0
            < found["coverage"]["50 %"]
            < found["coverage"]["90 %"]
            < found["coverage"]["99 %"]
            <= 1
        )


def test_the_picture_of_redshifts_can_be_read(shifts):
    text = read(redshift, shifts)
    numbers = shifts["numbers"]
    held = numbers["calibration"]["flow"]["coverage"]["90 %"]
    assert f"90 % intervals hold {100 * held:.1f} % of unseen galaxies" in text.replace("\n", " ")
    assert "log-likelihood" in text


# ---- orders --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def averages():
    return orders.data(quick=True)


def test_averages_are_those_of_the_library(averages):
    numbers = averages["numbers"]
    for kind in orders.KINDS:
        assert numbers[kind]["alone"] == pytest.approx(numbers["averaging_gain"][kind], abs=1e-9)
        assert numbers[kind]["averaged"] == pytest.approx(
            numbers["averaging_gain"][f"{kind} averaged"], abs=1e-9
        )


def test_no_average_is_below_the_mean_and_gains_come_with_standard_errors(averages):
    for kind in orders.KINDS:
        found = averages["numbers"][kind]
        mean_gain, mean_error = found["gain_over_the_mean"]
        best_gain, best_error = found["gain_over_the_best"]
        assert mean_gain > 0 and mean_gain > best_gain and min(mean_error, best_error) > 0
        assert mean_gain == pytest.approx(found["averaged"] - np.mean(found["alone"]), abs=1e-9)
        assert best_gain == pytest.approx(found["averaged"] - np.max(found["alone"]), abs=1e-9)
        steps = found["averaged_by_number"]
        assert len(steps) == orders.ORDERS and (np.diff(steps) > 0).all()
        assert steps[0] == pytest.approx(np.mean(found["alone"])) and steps[-1] == pytest.approx(
            found["averaged"]
        )


def test_summaries_of_known_probabilities():
    p = np.array([[0.5, 0.5, 0.1], [0.1, 0.1, 0.5]])
    found = orders._summary(np.log(p))
    gain = np.log(0.3) - np.log([0.5, 0.5, 0.1])
    assert found["averaged"] == pytest.approx(np.log(0.3))
    assert found["gain_over_the_best"] == pytest.approx(
        (gain.mean(), gain.std(ddof=1) / np.sqrt(3))
    )
    assert orders._summary(np.log(p[[0, 0]]))["gain_over_the_mean"] == pytest.approx((0, 0))


def test_pixels_are_one_from_half_of_the_levels_on():
    levels = np.arange(17.0)
    assert orders.binary(np.stack([levels, levels + 0.999])).tolist() == [[0] * 8 + [1] * 9] * 2


def test_pixels_apart_are_a_product_of_coins():
    x = np.array([[0, 1], [1, 1], [1, 1]])
    p = np.array([2.5 / 4, 3.5 / 4])
    assert orders._apart(x, np.array([[1, 1], [0, 1]])) == pytest.approx(
        np.log(p[1]) + (np.log(p[0]) + np.log(1 - p[0])) / 2
    )


def test_the_picture_of_orders_can_be_read(averages):
    text = read(orders, averages).replace("\n", " ")
    for kind in orders.KINDS:
        gain = "{:+.2f} ± {:.2f}".format(*averages["numbers"][kind]["gain_over_the_best"]).replace(
            "-", "−"
        )
        assert text.count(gain) >= 2  # in the claim, and beside the points


# ---- every member on digits and galaxies ---------------------------------------------------------


def made_up_digits():
    """Numbers of all members that nobody trained, and images of noise."""
    names = ["Gaussian", *digits._pairs(dict.fromkeys(recipes.FAMILY))]
    models = {
        name: {
            "nats": {"train": -60.0 - k, "val": -71.0 - k, "test": -72.0 - k},
            "bits_per_dim": {"train": 2.0, "val": 2.2, "test": 2.25 + k / 100},
            "parameters": 697_692,
        }
        for k, name in enumerate(names)
    }
    shown = ["data", "Gaussian", *recipes.FAMILY, "spline flow" + digits.RANDOM]
    images = {
        name: np.random.default_rng(0).integers(0, 17, (digits.SHOWN, 8, 8)) for name in shown
    }
    return {"numbers": {"rows": {"train": 1297}, "models": models}, "images": images}


def test_random_orders_stand_under_raster_order():
    assert digits._pairs(
        {"A": None, "B": None, "A, random orders": None, "B, random orders": None}
    ) == [
        "A",
        "A, random orders",
        "B",
        "B, random orders",
    ]


def test_the_picture_of_digits_shows_nats_and_bits_of_every_member():
    data = made_up_digits()
    text = read(digits, data)
    for model in data["numbers"]["models"].values():
        assert f"−{-model['nats']['test']:.1f}\n{model['bits_per_dim']['test']:.2f}" in text
    assert "no flow beats a Gaussian" in text.replace("\n", " ")


@pytest.fixture(scope="module")
def two_members():
    """The quick figure of galaxies with two members, the better one of which comes first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "FAMILY", {name: recipes.FAMILY[name] for name in ("MAF", "MADE")})
        yield galaxies.data(quick=True)


def test_samples_are_of_the_member_that_validation_prefers(two_members):
    models = two_members["numbers"]["models"]
    assert list(models) == ["Gaussian", "MAF", "MADE"]
    flows = [name for name in models if name != "Gaussian"]
    assert two_members["numbers"]["sampled"] == max(
        flows, key=lambda name: models[name]["nats"]["val"]
    )
    assert set(models["MAF"]["verified"]["passed"]) >= {"triangular", "log_det", "round_trip"}


def test_the_picture_of_galaxies_can_be_read(two_members):
    numbers = two_members["numbers"]
    models = {name: numbers["models"]["MAF"] for name in MEMBERS} | numbers["models"]
    text = read(galaxies, two_members | {"numbers": numbers | {"models": models}})
    assert (
        f"{numbers['models']['MAF']['nats']['test']:.2f}".replace("-", "−") in text
        and "RealNVP" in text
    )


# ---- the full recipes ----------------------------------------------------------------------------


@pytest.mark.slow
def test_every_member_reaches_what_the_figures_say():
    models = digits.data()["numbers"]["models"]
    nats = {name: model["nats"]["test"] for name, model in models.items()}
    for member in recipes.FAMILY:
        assert nats[member + digits.RANDOM] > nats[member] + 2
    for order in ("", digits.RANDOM):
        assert min(nats["spline flow" + order], nats["MAF MoG" + order]) > nats["Gaussian"] + 1
        affine = [models[name + order] for name in ("MADE", "MAF", "RealNVP")]
        assert all(
            one["test_lead_over_gaussian"] < 2 * one["test_lead_standard_error"] for one in affine
        )
    assert nats["spline flow" + digits.RANDOM] >= -71.7
    nats = {
        name: model["nats"]["test"] for name, model in galaxies.data()["numbers"]["models"].items()
    }
    assert nats["spline flow"] >= 5.0 and max(nats.values()) >= 5.8


@pytest.mark.slow
def test_applications_claim():
    for found in torus.data()["numbers"].values():
        assert abs(found["integral"] - 1) < 1e-6 and found["jump_at_the_seam"] < 1e-11
        for lead, error in found["lead_and_standard_error"].values():
            assert lead > 2 * error
    found = conditional.data()["numbers"]
    assert found["accuracy"] > 0.88 and found["samples_read_as_given"] > 0.6
    found = redshift.data()["numbers"]
    before, after = (
        found["calibration"][name]["coverage"]["90 %"] for name in (redshift.BEFORE, redshift.FLOW)
    )
    assert abs(after - 0.9) < abs(before - 0.9)
    assert all(
        found["rms_error"]["flow"] < e for name, e in found["rms_error"].items() if name != "flow"
    )
    for kind in orders.KINDS:
        gain, error = orders.data()["numbers"][kind]["gain_over_the_best"]
        assert gain > 3 * error
