"""Applications: forecasts of series, densities as outlier scores,
and bounds beside exact likelihoods."""

import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import complex_step, norm_error
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp.applications.forecast import crps, pit, sample_paths  # noqa: E402
from afnp.bases import Logistic  # noqa: E402
from afnp.data import idx  # noqa: E402
from afnp.data.series import carry_forward, load_series, windows  # noqa: E402
from afnp.flow import Flow  # noqa: E402
from afnp.transforms import masked  # noqa: E402
from figures import common  # noqa: E402

series, outliers, bounds = (
    import_module(f"figures.{name}") for name in ("25_series", "28_outliers", "29_bounds")
)


@pytest.fixture(scope="module", autouse=True)
def cache(trained_flows):
    """Train for all tests once, whatever the figures' own cache holds."""


def drawn(module, data):
    """Draw; return the figure and its caption."""
    with common.style():
        figure = module.draw(data)
        figure.draw_without_rendering()
    assert isinstance(figure, Figure)
    common.as_json(data["numbers"])  # raises for anything that is not a finite JSON value
    return figure.get_suptitle() + figure.get_supxlabel()


def numbers_in(found):
    """All arrays of nested dicts, one after the other."""
    if isinstance(found, dict):
        return np.concatenate([numbers_in(item) for item in found.values()])
    return np.ravel(np.asarray(found, np.float64))


# ---- windows -------------------------------------------------------------------------------------


def test_windows_hold_what_was_known_before_their_targets():
    x = np.random.default_rng(0).standard_normal(50)
    rows = windows(x, 7, ahead=3)
    assert rows.at.tolist() == list(range(7, 48))
    for context, target, at in zip(*rows, strict=True):
        assert np.array_equal(context, x[at - 7 : at]) and np.array_equal(target, x[at : at + 3])


@pytest.mark.parametrize("ahead", [1, 4])
def test_parts_in_time_share_no_target_and_training_sees_nothing_later(ahead):
    x, cut = np.arange(60.0), 40
    rows, changed = windows(x, 5, ahead), windows(np.where(x < cut, x, -x), 5, ahead)
    train, later = rows.between(5, cut), rows.between(cut, 60)
    assert train.target.max() == cut - 1 and later.target.min() == cut
    for known, other in zip(train, changed.between(5, cut), strict=True):
        assert np.array_equal(known, other)
    assert later.context[0].tolist() == list(
        range(cut - 5, cut)
    )  # the past of the first forecast is known to it


def test_a_target_that_was_never_measured_is_left_out():
    missing = np.zeros(20, bool)
    missing[[3, 11]] = True
    assert windows(np.arange(20.0), 4, 1, missing).at.tolist() == [
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        *range(12, 20),
    ]
    assert windows(np.arange(20.0), 4, 2, missing).at.tolist() == [4, 5, 6, 7, 8, 9, *range(12, 19)]


def test_gaps_are_filled_from_the_past_alone():
    x = np.random.default_rng(1).standard_normal(30)
    gaps = [4, 5, 6, 20, 29]
    x[gaps] = np.nan
    filled, missing = carry_forward(x)
    assert np.flatnonzero(missing).tolist() == gaps and np.array_equal(
        filled[~missing], x[~missing]
    )
    assert filled[6] == x[3] and filled[20] == x[19] and filled[29] == x[28]
    for T in range(1, 30):
        assert np.array_equal(carry_forward(x[:T])[0], filled[:T])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: windows(np.zeros(10), 10),
            "window: 10 past and 1 future values need a series of 11 or more, got 10; .* at most 9",
        ),
        (lambda: windows(np.zeros(3), 1, ahead=4), "a series of 5 or more, got 3; no window fits"),
        (lambda: windows(np.zeros(10), 0), "window: expected an integer of at least 1, got 0"),
        (lambda: windows([0, 1, np.nan, 3], 2), "value 2 is nan; fill gaps first"),
        (lambda: windows(np.zeros((10, 1)), 2), r"one dimension, got shape \(10, 1\)"),
        (
            lambda: windows(np.zeros(10), 2, missing=[True]),
            r"missing: expected shape \(10,\).*got \(1,\)",
        ),
        (lambda: carry_forward([np.nan, 1.0]), "begins with a value, got nan first"),
        (lambda: load_series("moon"), "name: expected one of 'co2', 'sunspots', got 'moon'"),
    ],
)
def test_bad_series_are_refused_with_advice(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_two_series_and_their_gaps():
    pytest.importorskip("statsmodels")
    co2, sunspots = load_series("co2"), load_series("sunspots")
    assert (len(co2.values), int(co2.missing.sum())) == (2284, 59) and "59 weeks" in co2.description
    assert np.isfinite(co2.values).all() and np.allclose(np.diff(co2.time), 7 / 365.25)
    assert abs(co2.time[0] - 1958.238) < 2e-3 and co2.values[0] == 316.1  # 29 March
    assert sunspots.time[[0, -1]].tolist() == [1700, 2008] and not sunspots.missing.any()


def test_without_statsmodels_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets.co2", None)
    with pytest.raises(ImportError, match=r"pip install 'afnp\[series\]'"):
        load_series("co2")


# ---- forecasts -----------------------------------------------------------------------------------


def test_paths_of_an_ar_model_have_its_mean_and_spread():
    a, b, sigma, paths = 0.3, 0.8, 0.5, 20_000
    flow = series.ar_flow(np.array([a, b]), sigma)
    drawn = sample_paths(flow, [[9.0, 2.0], [9.0, -1.0]], steps=6, paths=paths, rng=3)
    assert drawn.shape == (2, paths, 6)
    for row, last in zip(drawn, (2.0, -1.0), strict=True):
        for k in range(1, 7):
            mean = a * (1 - b**k) / (1 - b) + b**k * last
            spread = sigma * math.sqrt((1 - b ** (2 * k)) / (1 - b * b))
            assert abs(row[:, k - 1].mean() - mean) < 5 * spread / math.sqrt(paths)
            assert abs(row[:, k - 1].std() / spread - 1) < 5 / math.sqrt(2 * paths)


def test_the_window_moves_by_one_and_forgets_the_oldest():
    flow = series.ar_flow(np.array([0.0, 0.0, 0.0, 1.0]), 2e-3)  # x_t = x_{t-3}, but for 0.002
    path = sample_paths(flow, [[7.0, 1.0, 2.0, 3.0]], steps=7, paths=1)
    assert np.allclose(path, [[[1, 2, 3, 1, 2, 3, 1]]], atol=0.03)


def test_paths_are_reproducible_and_told_apart_by_seed():
    flow = series.ar_flow(np.array([0.0, 0.5]), 1.0)
    one, again, other = (sample_paths(flow, [[1.0]], 4, 3, rng=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sample_paths(afnp.maf(1, (4,), context=5), [[1.0, 2.0]], 3),
            "window is 5 values long, got 2",
        ),
        (
            lambda: sample_paths(afnp.maf(1, (4,)), [[1.0]], 3),
            "a window as its context, got 1 and a context of 0",
        ),
        (
            lambda: sample_paths(afnp.maf(2, (4,), context=2), [[1.0, 2.0]], 3),
            "one feature .* got 2",
        ),
        (
            lambda: sample_paths(afnp.maf(1, (4,), context=1), [[1.0]], 0),
            "steps: expected an integer of at least 1",
        ),
        (
            lambda: sample_paths(afnp.maf(1, (4,), context=1), [[np.nan]], 1),
            "history: row 0, feature 0 is nan",
        ),
        (
            lambda: pit(afnp.maf(2, (4,)), np.zeros((1, 2))),
            "one feature and standard normal noise, got 2",
        ),
        (lambda: pit(afnp.maf(1, (4,), base=Logistic(1)), np.zeros((1, 1))), "got 1 and Logistic"),
        (lambda: crps(np.zeros((3, 1)), np.zeros(3)), r"an axis of 2 or more, got \(3, 1\)"),
        (lambda: crps(np.zeros((3, 5)), np.zeros(4)), r"expected shape \(4,\)"),
        (lambda: crps([[0.0, np.nan]], [0.0]), r"samples: .* got nan at index \(0, 1\)"),
        (lambda: crps([[0.0, 1.0]], [np.inf]), r"x: expected finite numbers, got inf"),
        (lambda: crps([[0.0, None]], [0.0]), "samples: expected real numbers, got dtype object"),
    ],
)
def test_bad_forecasts_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_pit_is_the_normal_distribution_function_far_out_too():
    flow = series.ar_flow(np.array([1.0, 0.0]), 0.5)
    x = np.array([[1.0], [0.0], [2.0], [-9.0], [30.0]])
    truth = [0.5 * math.erfc(-(value - 1) / 0.5 / math.sqrt(2)) for value in x[:, 0]]
    few_ulps = 1e-12  # d log F / d log |u| is u², 400 at -20: one rounding of u there is 1e-13 of F
    assert np.allclose(pit(flow, x, np.zeros((5, 1))), truth, rtol=few_ulps, atol=0)


def test_pit_of_own_samples_is_uniform():
    layers = [masked(1, hidden=(8,), univariate="spline", context=2)]
    flow, rng = Flow(layers, context=2), np.random.default_rng(0)
    flow.theta = rng.standard_normal(flow.theta.size)
    context = rng.standard_normal((4_000, 2))
    x = flow.sample(4_000, rng=1, context=context)
    once_in_a_thousand = 1.95 / math.sqrt(4_000)
    assert series._kolmogorov(pit(flow, x, context)) < once_in_a_thousand
    assert series._kolmogorov(pit(flow, x, context[::-1])) > 2 * once_in_a_thousand


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("between", ["lu", ("lu", "lu"), "actnorm"])
def test_pit_is_the_distribution_function_whichever_way_the_axis_points(between, seed):
    """A linear layer of one feature is a rotation: by 0 or by half a turn."""
    flow = afnp.maf(1, hidden=(4,), transforms=2, between=between, seed=seed)
    x = np.linspace(-9, 9, 18_001)[:, None]
    F = np.cumsum(np.exp(flow.log_prob(x))) * 1e-3
    assert np.allclose(pit(flow, x), F, atol=1e-3)
    assert np.allclose(pit(flow, [[-2.0]]), 0.02275, atol=1e-5)


def test_crps_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    X, x = rng.standard_normal((4, 3, 9)), rng.standard_normal((4, 3))
    pairs = np.abs(X[..., :, None] - X[..., None, :]).sum(axis=(-1, -2)) / (9 * 8)
    assert np.allclose(crps(X, x), np.abs(X - x[..., None]).mean(axis=-1) - pairs / 2, atol=1e-14)


@pytest.mark.parametrize("x", [-2.0, 0.1, 3.0])
@pytest.mark.parametrize("M", [3, 1000])
def test_crps_of_normal_samples_has_its_closed_form_in_the_mean_for_any_number_of_samples(x, M):
    mu, sigma, forecasts = 0.5, 1.5, 300_000 // M
    z = (x - mu) / sigma
    Phi, phi = 0.5 * math.erfc(-z / math.sqrt(2)), math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    truth = sigma * (z * (2 * Phi - 1) + 2 * phi - 1 / math.sqrt(math.pi))
    found = crps(np.random.default_rng(1).normal(mu, sigma, (forecasts, M)), np.full(forecasts, x))
    assert abs(found.mean() - truth) < 5 * found.std() / math.sqrt(forecasts)


# ---- the figure of series ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick_series():
    pytest.importorskip("statsmodels")
    return series.data(quick=True)


def test_an_ar_model_is_a_flow():
    AutoReg = pytest.importorskip("statsmodels.tsa.ar_model").AutoReg
    z = np.random.default_rng(0).standard_normal(120).cumsum() / 5
    fitted, rows = AutoReg(z, 4).fit(), windows(z, 4)
    for hidden in (None, (6,)):
        parameters, sigma = series.autoregression(z, 4)
        flow = series.ar_flow(parameters, sigma, hidden)
        log_p = flow.log_prob(rows.target, rows.context)
        assert abs(log_p.sum() - fitted.llf) < 1e-9 * abs(fitted.llf)
        mean = flow.generate(np.zeros((len(z) - 4, 1)), rows.context)[0][:, 0]
        assert np.allclose(mean, fitted.fittedvalues, atol=1e-12)


def test_nothing_is_learned_from_the_test_part(monkeypatch):
    pytest.importorskip("statsmodels")
    before = series._models(series._prepare("sunspots"), (3, 5), quick=True)
    known = load_series("sunspots")
    later = np.arange(len(known.values)) >= int(series.VAL * len(known.values))
    monkeypatch.setattr(
        series, "load_series", lambda name: replace(known, values=known.values + 500 * later)
    )
    after = series._models(series._prepare("sunspots"), (3, 5), quick=True)
    assert before[1] == after[1]
    for name, flow in before[0].items():
        assert np.array_equal(flow.theta, after[0][name].theta)


def test_changes_of_co2_next_to_a_gap_are_not_scored():
    pytest.importorskip("statsmodels")
    ready = series._prepare("co2")
    gaps = np.flatnonzero(ready.series.missing[ready.start :])
    assert ready.missing[0] and ready.missing[gaps].all() and ready.missing[gaps + 1].all()
    assert ready.missing.sum() == 1 + len(set(gaps) | set(gaps + 1))
    values = ready.series.values[ready.start :]
    back = series.PROBLEMS["co2"].back((ready.z * ready.std + ready.mean)[1:], values[:1])
    assert np.allclose(back[0] if back.ndim > 1 else back, values[1:], atol=1e-9)


def test_the_series_figure_agrees_with_itself(quick_series):
    found = quick_series["numbers"]
    for name, of in found.items():
        assert np.isfinite(numbers_in({k: v for k, v in of.items() if k != "verified"})).all()
        assert (
            of["verified"]["passed"]
            and len(quick_series["series"][name]["pit"]["AR"]) == of["rows"]["test"]
        )
        lead, error = of["lead_over_ar_and_standard_error"]["splines"]
        assert abs(of["test_nats"]["splines"] - of["test_nats"]["AR"] - lead) < 1e-12 and error > 0
        assert (
            0.7 < of["coverage_of_90_percent"]["AR"] <= 1
            and 0.5 < of["crps_all_steps"]["AR"] / of["crps_all_steps"]["splines"] < 2
        )
    assert found["co2"]["crps_last_step"]["AR"] > found["co2"]["crps_one_step"]["AR"]
    assert "nats one step ahead" in drawn(series, quick_series)


# ---- outliers ------------------------------------------------------------------------------------


def test_auroc_counts_pairs_and_ties_by_half():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    normal, anomalies = rng.integers(0, 6, 40), rng.integers(2, 9, 25)
    pairs = (anomalies[:, None] > normal).mean() + (anomalies[:, None] == normal).mean() / 2
    truth = metrics.roc_auc_score(np.repeat([0, 1], [40, 25]), np.concatenate([normal, anomalies]))
    assert abs(outliers.auroc(normal, anomalies) - pairs) < 1e-12 and abs(pairs - truth) < 1e-12
    assert (
        outliers.auroc(np.zeros(3), np.ones(2)) == 1
        and outliers.auroc(np.ones(3), np.ones(2)) == 0.5
    )


def test_no_anomaly_is_among_the_normal_rows():
    pytest.importorskip("sklearn")
    cells = outliers.cell_parts(0)
    assert sum(map(len, cells[:3])) == 357 and len(cells.anomalies) == 212
    assert np.allclose(cells.train.mean(axis=0), 0) and np.allclose(cells.train.std(axis=0), 1)
    everything = outliers.digit_parts(None)
    assert len(everything.anomalies) == 0 and sum(map(len, everything)) == 1797
    for c in (0, 7):
        parts = outliers.digit_parts(c)
        rows = [{row.tobytes() for row in part} for part in parts]
        assert sum(map(len, rows)) == len(set.union(*rows)) == 1797 and 170 < len(rows[3]) < 190


def test_rivals_in_any_space_are_densities_of_the_same_rows():
    """The likelihoods by which a space is chosen are comparable only if each counts its own
    volume."""
    rng = np.random.default_rng(0)
    x = rng.normal(8, 1.2, (400, 1))
    for space in (afnp.Flow(afnp.preprocessing(x)), afnp.Flow(afnp.preprocessing(x, levels=17))):
        grid = np.linspace(1e-4, 17 - 1e-4, 40_001)[:, None]
        inside = outliers._through(space, outliers.kernels(outliers._into(space, x), 0.3))
        share = np.exp(inside(grid)).mean() * 17
        assert abs(share - 1) < 1e-3  # the grid's ends


def test_the_likelier_candidate_is_taken():
    candidates = [lambda x, s=s: np.full(len(x), s) for s in (-3.0, -1.0, -2.0)]
    assert outliers._likeliest(candidates, np.zeros((2, 1)))(np.zeros((1, 1))) == -1


def test_simple_pictures_are_what_they_are_called():
    x = np.random.default_rng(0).integers(0, 17, (5, 64))
    made = {k: afnp.data.quantize(v, 17) for k, v in outliers.simple_pictures(x + 0.5).items()}
    assert not made["blank"].any() and np.array_equal(made["half the ink"], x // 2)
    assert np.array_equal(made["ink inverted"], 16 - x) and np.array_equal(
        np.sort(made["pixels shuffled"]), np.sort(x)
    )
    assert (
        np.array_equal(made["upper half only"][:, :32], x[:, :32])
        and not made["upper half only"][:, 32:].any()
    )
    image = x.reshape(5, 8, 8)
    assert np.array_equal(
        made["smoothed"].reshape(5, 8, 8)[:, 3, 4], np.rint(image[:, 2:5, 3:6].mean(axis=(1, 2)))
    )


def test_a_folder_without_the_data_says_what_to_do(tmp_path):
    (tmp_path / "mnist").mkdir()
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(
            ValueError,
            match="expected .*fashion_mnist with the four idx files.*put train-images-idx3",
        ):
            outliers.data(quick=True, folder=folder)


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.tobytes())


@pytest.fixture
def two_folders(tmp_path, monkeypatch):
    """Small sets in the format of MNIST: grey noise, and thin strokes on black."""
    rng = np.random.default_rng(0)

    def noise(n):
        return rng.integers(0, 256, (n, 6, 6))

    def strokes(n):
        return 200 * (np.arange(6) == rng.integers(0, 6, (n, 1, 1))) * np.ones((1, 6, 1), int)

    for name, images in (("fashion_mnist", noise), ("mnist", strokes)):
        (tmp_path / name).mkdir()
        for file, array in zip(
            idx.FILES,
            (images(300), np.arange(300) % 10, images(60), np.arange(60) % 10),
            strict=True,
        ):
            write_idx(tmp_path / name / file, array.astype(np.uint8))
    monkeypatch.setattr(idx, "MD5", {name: (None,) * 4 for name in idx.MD5})
    return outliers._folders(tmp_path)


def test_sets_from_folders_are_scored(two_folders, tmp_path):
    numbers, bits = outliers._clothes(two_folders, quick=True)
    assert {name: len(values) for name, values in bits.items()} == {"clothes": 60, "digits": 60}
    assert numbers["auroc"]["flow"] == outliers.auroc(bits["clothes"], bits["digits"])
    assert 7 < numbers["bits_per_dim"]["clothes"] < 9  # noise of 256 levels takes 8 bits
    (tmp_path / "fashion_mnist" / idx.FILES[0]).unlink()
    with pytest.raises(ValueError, match=f"expected a file {idx.FILES[0]}"):
        outliers._clothes(two_folders, quick=True)


def test_the_outlier_figure_agrees_with_itself():
    pytest.importorskip("sklearn")
    found = outliers.data(quick=True)
    numbers = found["numbers"]
    assert all(
        0 <= area <= 1
        for of in ("cells", "digits")
        for areas in numbers[of].values()
        for area in areas
    )
    assert numbers["cells_mean"]["Gaussian"] > 0.8
    log_p = found["pictures"]["log_p"]
    again = outliers.auroc(-log_p["test digits"], -log_p["blank"])
    assert numbers["simple"]["auroc"]["flow"]["blank"] == again
    assert "1810.09136" in drawn(outliers, found)


# ---- bounds --------------------------------------------------------------------------------------


def test_gradients_of_the_vae_are_those_of_the_complex_step():
    vae, rng = bounds.VAE(hidden=4, seed=1), np.random.default_rng(0)
    theta = vae.theta + rng.standard_normal(vae.theta.size) / 3
    x, eps = rng.standard_normal((7, 2)), rng.standard_normal((7, 1))
    true = complex_step(lambda t: np.asarray(vae.loss_and_grad(t, x, eps)[0]), theta)
    assert norm_error(vae.loss_and_grad(theta, x, eps)[1], true) < 1e-13  # two ways of rounding


def test_the_loss_is_the_bound_that_is_reported():
    vae, rng = bounds.VAE(hidden=8, seed=2), np.random.default_rng(0)
    x = rng.standard_normal((3, 2))
    log_w = vae.log_weights(x, 200_000, rng)
    loss = [vae.loss_and_grad(vae.theta, x, rng.standard_normal((3, 1)))[0] for _ in range(4_000)]
    error = math.hypot(
        log_w.mean(axis=0).std() / math.sqrt(200_000), np.std(loss) / math.sqrt(4_000)
    )
    assert abs(log_w.mean() + np.mean(loss)) < 5 * error


def linear_vae(sigma, direction):
    """A VAE whose decoder is f(z) = direction · z but for 1e-8,
    and whose q is the exact posterior."""
    vae, small = bounds.VAE(hidden=2), 1e-4
    vae.theta[:] = 0
    p, precision = vae.layout.views(vae.theta), 1 + direction @ direction / sigma**2
    p["log_sigma"][:] = np.log(sigma)
    p["W_p0"][:, 0] = [small, 0]
    p["W_p1"][:] = p["W_q1"][:] = np.eye(2)
    p["W_p2"][:, 0] = direction / small
    p["W_q0"][:] = small * np.eye(2)
    p["W_q2"][0] = direction / sigma**2 / precision / small
    p["b_q2"][1] = -0.5 * np.log(precision)
    return vae


def test_a_linear_vae_is_a_gaussian_and_its_bound_is_tight():
    sigma, direction = 0.4, np.array([0.8, -0.5])
    vae, x = linear_vae(sigma, direction), np.random.default_rng(0).standard_normal((50, 2))
    cov = np.outer(direction, direction) + sigma**2 * np.eye(2)
    square = (x * np.linalg.solve(cov, x.T).T).sum(axis=1)
    truth = -0.5 * (square + np.log(np.linalg.det(cov))) - np.log(2 * np.pi)
    assert np.abs(vae.log_prob(x) - truth).max() < 1e-6  # tanh is linear to 1e-8 of its argument
    log_w = vae.log_weights(x, 64, np.random.default_rng(1))
    assert np.abs(log_w - truth[:, None]).max() < 1e-5


def test_the_grid_over_z_resolves_a_sharp_decoder_and_the_density_has_integral_one():
    x = afnp.data.load("two_moons").train[:2000]
    vae, _ = bounds.train(x, epochs=40)
    assert np.abs(vae.log_prob(x[:50]) - vae.log_prob(x[:50], 16_001)).max() < 1e-9
    M = 160
    first, second = np.linspace(-3, 4, M), np.linspace(-2.5, 3, M)
    points = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    total = (
        np.exp(vae.log_prob(points, 1001)).sum() * (first[1] - first[0]) * (second[1] - second[0])
    )
    assert abs(total - 1) < 1e-3
    log_w = vae.log_weights(x[:300], 64, np.random.default_rng(0))
    means = [
        bounds.log_mean_exp(log_w.reshape(300, -1, K)).mean() for K in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert (np.diff(means) > 0).all() and means[-1] < vae.log_prob(x[:300]).mean() + 0.02
    assert means[0] < vae.log_prob(x[:300]).mean()


def test_the_figure_of_bounds_agrees_with_itself():
    found = bounds.data(quick=True)
    numbers = found["numbers"]
    below = {name: pair[0] for name, pair in numbers["truth_below_and_standard_error"].items()}
    ladder = [below[f"VAE, K = {K}"] for K in bounds.SAMPLES]
    assert (np.diff(ladder) < 0).all() and ladder[0] > below["VAE, exact"]
    assert abs(numbers["bound_gap"]["1"] - (below["VAE, K = 1"] - below["VAE, exact"])) < 1e-9
    assert numbers["quadrature_error"] < 1e-6
    assert "GAN" in drawn(bounds, found)
