"""Speech: WAV files, linear prediction against closed forms, its layer,
and a flow that hears loudness."""

import io
import os
import sys
import wave
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import complex_step, norm_error
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp.applications.linear_prediction import (  # noqa: E402
    LinearPredictor,
    adapted_log_prob,
    autocovariance,
    levinson,
)
from afnp.bases import Logistic  # noqa: E402
from afnp.constructors import wavenet_flow  # noqa: E402
from afnp.data import audio, wav  # noqa: E402
from afnp.transforms import LinearPrediction  # noqa: E402
from afnp.verify import check_flow  # noqa: E402
from figures import building, common  # noqa: E402

speech = import_module("figures.24_speech")
EPS = np.finfo(np.float64).eps
A1, A2, VARIANCE, MEAN = 1.2, -0.5, 0.7, 3.0
AR2 = LinearPredictor(np.array([A1, A2]), VARIANCE, MEAN)


def toeplitz(r):
    back = np.abs(np.subtract.outer(np.arange(len(r)), np.arange(len(r))))
    return np.asarray(r)[back]


def autocovariances_of_ar2(n):
    """r_0 = σ² (1 - a_2) / ((1 + a_2) ((1 - a_2)² - a_1²)), r_1 = a_1 r_0 / (1 - a_2),
    then the recursion."""
    r = [VARIANCE * (1 - A2) / ((1 + A2) * ((1 - A2) ** 2 - A1**2))]
    r.append(A1 * r[0] / (1 - A2))
    while len(r) < n:
        r.append(A1 * r[-1] + A2 * r[-2])
    return np.array(r[:n])


def log_normal(e, variance):
    return -0.5 * np.log(2 * np.pi * variance) - e**2 / (2 * variance)


# ---- files ---------------------------------------------------------------------------------------


def write(path, channels=1, width=2, rate=16_000, samples=4):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(bytes(channels * width * samples))
    return path


def test_a_sound_survives_the_file_bit_for_bit(tmp_path):
    signal = np.array([-(2**15), -1, 0, 1, 258, 2**15 - 1], dtype=np.int16)
    (tmp_path / "a.wav").write_bytes(audio.encode(signal, 8_000))
    (again,), rate = audio.load_wavs(tmp_path / "a.wav")
    assert again.dtype == np.int16 and np.array_equal(again, signal) and rate == 8_000
    with wave.open(str(tmp_path / "a.wav")) as sound:
        assert sound.getparams()[:4] == (1, 2, 8_000, 6)
        assert sound.readframes(6)[8:10] == b"\x02\x01"  # 258, little end first


def test_steps_are_what_dequantisation_came_from():
    signal = np.random.default_rng(0).integers(-(2**15), 2**15, 1000).astype(np.int16)
    assert np.array_equal(audio.to_steps(signal + np.random.default_rng(1).random(1000)), signal)
    assert audio.to_steps([-1e9, 1e9]).tolist() == [-(2**15), 2**15 - 1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"rate": 8_000},
            "b.wav: expected 16000 samples a second, as in .*a.wav, got 8000; resample",
        ),
        ({"channels": 2}, "b.wav: expected 1 channel of 16 bits, got 2 of 16"),
        ({"width": 1}, "b.wav: expected 1 channel of 16 bits, got 1 of 8"),
        ({"samples": 0}, "b.wav: expected samples, got an empty sound"),
    ],
)
def test_sounds_that_do_not_fit_are_refused_by_name(tmp_path, other, message):
    with pytest.raises(ValueError, match=message):
        audio.load_wavs(write(tmp_path / "a.wav"), write(tmp_path / "b.wav", **other))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: audio.load_wavs(), "at least one WAV file"),
        (
            lambda: audio.encode(np.zeros(3), 16_000),
            "expected one channel .* of int16, got shape .*float64",
        ),
        (lambda: audio.encode(np.zeros((3, 2), np.int16), 16_000), r"got shape \(3, 2\)"),
        (
            lambda: audio.encode(np.zeros(3, np.int16), 0),
            "rate: expected a positive integer, got 0",
        ),
        (
            lambda: audio.encode(np.zeros(3, np.int16), 16e3),
            "rate: expected a positive integer, got 16000.0",
        ),
        (lambda: audio.to_steps([0.0, np.nan]), "finite numbers"),
    ],
)
def test_what_is_no_sound_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the linear predictor ------------------------------------------------------------------------


def test_autocovariance_is_the_sum_it_says():
    x = np.random.default_rng(0).standard_normal(50)
    expected = [sum(x[t] * x[t - k] for t in range(k, 50)) / 50 for k in range(6)]
    assert norm_error(autocovariance(x, 5), expected) < 8 * EPS


def test_levinson_solves_the_equations_of_every_order():
    r = autocovariance(np.random.default_rng(1).standard_normal(300).cumsum(), 12)
    ladder, variances = levinson(r)
    R = toeplitz(r)
    for p, (a, v) in enumerate(zip(ladder, variances, strict=True)):
        residual = R[:p, :p] @ a - r[1 : p + 1]
        assert (
            np.abs(residual).max(initial=0) < 1e-12 * r[0]
        )  # backward stable for positive definite R
        assert v == pytest.approx(
            np.exp(np.linalg.slogdet(R[: p + 1, : p + 1])[1] - np.linalg.slogdet(R[:p, :p])[1])
        )


def test_the_second_order_process_has_its_closed_form():
    r = autocovariances_of_ar2(4)
    ladder, variances = levinson(r)
    assert norm_error(ladder[2], [A1, A2]) < 1e-14 and variances[2] == pytest.approx(
        VARIANCE, rel=1e-13
    )
    assert norm_error(ladder[3], [A1, A2, 0.0]) < 1e-14
    down, below = AR2.ladder()
    assert down[1][0] == pytest.approx(A1 / (1 - A2), rel=8 * EPS)
    assert below == pytest.approx(variances[:3], rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_log_density_is_that_of_the_normal_vector(n):
    x = AR2.sample(n, rng=2)
    R = toeplitz(autocovariances_of_ar2(n))
    y = x - MEAN
    sign, log_det = np.linalg.slogdet(2 * np.pi * R)
    assert sign == 1
    assert AR2.log_prob(x).sum() == pytest.approx(
        -0.5 * (log_det + y @ np.linalg.solve(R, y)), rel=1e-11
    )


def test_every_term_is_a_conditional_that_later_samples_do_not_change():
    x = np.random.default_rng(3).normal(MEAN, 1, 20)
    whole = AR2.log_prob(x)
    for t in range(1, 20):
        assert np.array_equal(AR2.log_prob(x[:t]), whole[:t])


def test_samples_are_the_noise_that_the_errors_give_back():
    x = AR2.sample(500, rng=4)
    z = np.random.default_rng(4).standard_normal(500)
    _, variances = AR2.ladder()
    scale = np.sqrt(variances[np.minimum(np.arange(500), 2)])
    assert norm_error(AR2.errors(x) / scale, z) < 1e-13


def test_samples_are_stationary_from_the_first():
    x = np.array([AR2.sample(4, rng=[5, k]) for k in range(4000)])
    expected = toeplitz(autocovariances_of_ar2(4))
    # a covariance from n normal pairs has standard error sqrt((r_0² + r_k²) / n)
    assert np.abs(np.cov(x.T) - expected).max() < 4.5 * np.sqrt(2 / 4000) * expected[0, 0]


@pytest.mark.parametrize("method", ["levinson", "least squares"])
def test_fitting_finds_the_process_that_made_the_series(method):
    fitted = LinearPredictor.fit(AR2.sample(20_000, rng=6), 2, method)
    # the coefficients' standard error is sqrt((1 - a_2²) / T) (Box and Jenkins), here 0.006
    assert np.abs(fitted.coefficients - [A1, A2]).max() < 4 * np.sqrt((1 - A2**2) / 20_000)
    assert fitted.variance == pytest.approx(VARIANCE, rel=4 * np.sqrt(2 / 20_000))
    assert abs(fitted.mean - MEAN) < 4 * np.sqrt(VARIANCE / 20_000) / (1 - A1 - A2)


def test_least_squares_has_the_least_squares():
    x = AR2.sample(60, rng=7)
    least, other = (LinearPredictor.fit(x, 2, method) for method in ("least squares", "levinson"))
    total = [float((p.errors(x)[2:] ** 2).sum()) for p in (least, other)]
    assert total[0] < total[1] and least.variance == pytest.approx(total[0] / 58, rel=1e-12)


def test_a_higher_order_never_has_a_larger_variance():
    x = AR2.sample(400, rng=8)
    assert (np.diff([LinearPredictor.fit(x, order).variance for order in range(9)]) <= 0).all()


def test_an_adaptive_gain_still_is_a_density():
    one = LinearPredictor(np.array([0.5]), 1.0)
    first, second = (
        np.arange(-12, 12.1, 0.5),
        np.arange(-60, 60.1, 0.5),
    )  # half of the smallest scale: exact for normals
    total = (
        sum(np.exp(adapted_log_prob(one, [a, b], 0.6, 0.5).sum()) for a in first for b in second)
        * 0.5**2
    )
    assert total == pytest.approx(1, abs=1e-7)


def test_an_adaptive_gain_follows_the_errors_before_and_not_those_to_come():
    white = LinearPredictor(np.zeros(0), 4.0)
    x = np.array([1.0, -3.0, 0.5])
    w = [4.0, 0.9 * 4 + 0.1 * 1, 0.9 * (0.9 * 4 + 0.1) + 0.1 * 9]
    assert (
        norm_error(adapted_log_prob(white, x, 0.9, 0.25), log_normal(x, np.array(w) + 0.25))
        < 8 * EPS
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: LinearPredictor(np.array([1.01]), 1.0).log_prob(np.zeros(3)),
            "stationary process, got .* 1.01, p=1",
        ),
        (lambda: LinearPredictor(np.array([np.nan]), 1.0), "coefficients: sample 0 is nan"),
        (lambda: LinearPredictor(np.array([0.5]), 0.0), "variance > 0"),
        (lambda: LinearPredictor.fit(np.zeros(8), 2), "positive variances, got 0 at order 0"),
        (lambda: LinearPredictor.fit(np.zeros(4), 2), "at least 5 samples, got 4"),
        (lambda: LinearPredictor.fit(np.zeros((4, 2)), 1), r"one series .* got shape \(4, 2\)"),
        (
            lambda: LinearPredictor.fit(np.arange(9), 2, "burg"),
            "method: expected one of 'levinson', 'least squares'",
        ),
        (lambda: LinearPredictor.fit([0, 1, np.inf, 2], 1), "sample 2 is inf"),
        (lambda: autocovariance([1.0], 1), "at least 2 samples, got 1"),
        (lambda: levinson([1.0, 2.0]), "positive variances, got -3 at order 1"),
        (lambda: adapted_log_prob(AR2, [1.0], 1.0, 1.0), "memory in"),
        (lambda: adapted_log_prob(AR2, [1.0], 0.5, 0.0), "floor > 0"),
        (lambda: LinearPrediction(0, [0.5]), "features: expected an integer of at least 1"),
        (lambda: LinearPrediction(3, [0.5], scale=0.0), "scale > 0"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the layer -----------------------------------------------------------------------------------


def test_the_layer_alone_is_the_predictor_with_zeros_before_the_start():
    x = AR2.sample(30, rng=9)
    flow = afnp.Flow([AR2.layer(30)])
    y = np.concatenate([np.zeros(2), x - MEAN])
    e = np.array([y[t + 2] - A1 * y[t + 1] - A2 * y[t] for t in range(30)])
    assert flow.log_prob(x[None])[0] == pytest.approx(log_normal(e, VARIANCE).sum(), rel=1e-13)
    assert (
        norm_error(log_normal(e, VARIANCE)[2:], AR2.log_prob(x)[2:]) < 1e-13
    )  # from P on, LPC's own terms


def test_derivatives_of_the_layer_match_the_complex_step():
    layer = LinearPrediction(7, [0.9, -0.4, 0.2], scale=2.5, mean=0.3)
    rng = np.random.default_rng(10)
    x = rng.standard_normal((1, 7))
    d_u = rng.standard_normal((1, 7))
    J = complex_step(lambda x: layer.normalize({}, x, None)[0][0], x)[:, 0]
    assert not J[~layer.allowed()].any() and J[layer.allowed()].all()
    assert norm_error(layer.backward({}, None, d_u, None, {}), d_u @ J) < 8 * EPS
    assert layer.normalize({}, x, None)[1][0] == pytest.approx(np.linalg.slogdet(J)[1], rel=1e-14)
    back = complex_step(lambda u: layer.generate({}, u, None)[0][0], x)[:, 0]
    assert norm_error(back, np.linalg.inv(J)) < 1e-14


def test_the_layer_keeps_the_type_of_its_rows():
    layer = LinearPrediction(5, [0.5, 0.1], 2.0, 1.0)
    x = np.ones((2, 5), dtype=np.float32)
    for direction in (layer.normalize, layer.generate):
        values, log_det = direction({}, x, None)[:2]
        assert values.dtype == log_det.dtype == np.float32


def test_a_flow_with_the_layer_comes_back_from_its_file(tmp_path):
    predictor = LinearPredictor(np.array([0.5, -0.2]), 0.3, 0.1)
    flow = afnp.Flow(
        [LinearPrediction(5, predictor.coefficients, predictor.variance, predictor.mean)]
    )
    afnp.save(flow, tmp_path / "flow.afnp")
    u = np.random.default_rng(0).standard_normal((4, 5))
    np.testing.assert_array_equal(
        afnp.load(tmp_path / "flow.afnp").generate(u)[0], flow.generate(u)[0]
    )


def test_a_flow_with_the_layer_passes_the_checks():
    layers = wavenet_flow(9, channels=3, layers=2, transforms=1).layers
    flow = afnp.Flow(
        [LinearPrediction(9, [0.8, -0.3], scale=2.0, mean=0.5), *layers], base=Logistic(9)
    )
    report = check_flow(flow, level="quick")
    report.raise_if_failed()
    assert {"dependency", "triangular", "log_det", "round_trip", "gradients"} <= set(report.passed)


# ---- what it is for ------------------------------------------------------------------------------


def loud_and_quiet(rows, D, seed):
    """Series of the second-order process whose noise is 16 times as large in every other block of
    32 steps."""
    rng = np.random.default_rng(seed)
    scale = np.where((np.arange(D) + rng.integers(0, 64, (rows, 1))) // 32 % 2, 0.125, 2.0)
    e = scale * rng.standard_normal((rows, D))
    x = np.zeros((rows, D + 2))
    for t in range(D):
        x[:, t + 2] = A1 * x[:, t + 1] + A2 * x[:, t] + e[:, t]
    return x[:, 2:], log_normal(e, scale**2).sum(axis=1)


def test_a_short_training_beats_the_best_stationary_gaussian_where_loudness_changes():
    (train, _), (test, truth) = loud_and_quiet(64, 256, seed=0), loud_and_quiet(32, 256, seed=1)
    predictor = LinearPredictor.fit(train.ravel(), 8)
    flow = wavenet_flow(256, channels=6, layers=5, transforms=1, preprocess=[predictor.layer(256)])
    afnp.fit(flow, train, epochs=12, batch_size=8, learning_rate=0.01, progress=False)
    gaussian = np.mean([predictor.log_prob(x).sum() for x in test]) / 256
    nats = flow.log_prob(test).mean() / 256
    best = truth.mean() / 256
    assert (
        gaussian + 0.5 < nats < best
    )  # nobody knows the next sample's loudness better than who made it


# ---- the figure ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "CACHE", tmp_path_factory.mktemp("cache"))
        yield speech.data(quick=True)


def test_bits_count_quantisation_steps():
    step = 300.0
    x = step * np.random.default_rng(11).standard_normal(50_000)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * step**2)
    assert speech.bits_of(log_normal(x, step**2)) == pytest.approx(
        entropy, abs=4 * np.sqrt(0.5 / 50_000) / np.log(2)
    )
    assert speech.bits_of(np.full(9, -16 * np.log(2))) == pytest.approx(
        16, rel=4 * EPS
    )  # uniform over all levels


def test_windows_of_validation_follow_training_and_test_is_another_recording():
    sound = speech.clips(quick=False)
    assert np.array_equal(np.concatenate([sound.train, sound.val]), sound.whole)
    assert (len(sound.val), len(sound.whole), len(sound.test)) == (16_000, 113_600, 47_840)
    assert np.array_equal(
        audio.to_steps(sound.test), wav(ROOT / "afnp/datasets/speech_test.wav")[0]
    )


@pytest.mark.parametrize("t", [1, 2, 20])
def test_flows_of_all_lengths_are_one_chain_rule(t):
    """p(x_1 ... x_t) / p(x_1 ... x_{t-1}) is a density of x_t:
    validation is scored by such a ratio."""
    rng = np.random.default_rng(12)
    first = LinearPredictor(np.array([0.5]), 4.0, 1.0)
    size = {"channels": 3, "layers": 3}
    theta = speech.network(1, size, np.float64).theta
    stack = speech.Stack(first, 0.3 * rng.standard_normal(theta.size), size)
    line = np.arange(-200, 200, 0.02)
    past = 3 * rng.standard_normal(t - 1)
    x = np.concatenate([np.broadcast_to(past, (len(line), t - 1)), line[:, None]], axis=1)
    before = stack.of_length(t - 1).log_prob(past[None])[0] if t > 1 else 0.0
    total = np.exp(stack.of_length(t).log_prob(x, backend="numpy") - before).sum() * 0.02
    assert total == pytest.approx(
        1, abs=1e-9
    )  # trapezoidal rule on a smooth function with exponential tails


def test_the_other_reading_is_the_inverse_and_waits_where_the_first_does_not(quick):
    found = quick["numbers"]["reading"]
    inverse = found["inverse"]
    assert (
        inverse["walk_then_pass"] < 1e-12 and inverse["log_det_sum"] < 1e-12
    )  # errors stay where they were made
    assert set(inverse["steps_that_agree"].values()) <= set(range(20, 1_001))
    assert found["depth"] == {"pass": 1, "walk": 1_000}
    assert found["naive_multiply_adds"] == 1_000 * found["multiply_adds"]
    assert all(time > 0 for time in found["milliseconds"].values())


def test_the_picture_and_the_sounds_lie_side_by_side(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "data", lambda quick: data)
    data = quick
    building.build("24_speech", tmp_path, quick=True)
    sounds = [f"24_speech_{name}.wav" for name in ("flow", "lpc", "test")]
    assert sorted(os.listdir(tmp_path)) == [
        *(f"24_speech.{kind}" for kind in ("json", "png", "svg")),
        *sounds,
    ]
    for name, signal in quick["sounds"].items():
        assert np.array_equal(wav(tmp_path / f"24_speech_{name}.wav")[0], signal)
    assert isinstance(speech.draw(quick), Figure)


def test_sounds_are_as_loud_as_speech_is(quick):
    loud = quick["numbers"]["root_mean_square"]
    assert all(0.05 * loud["test"] < value < 20 * loud["test"] for value in loud.values())
    with wave.open(io.BytesIO(quick["files"]["24_speech_flow.wav"])) as sound:
        assert sound.getnframes() == 16_000


def test_all_models_are_scored_on_the_same_samples(quick):
    bits = quick["numbers"]["bits_per_sample"]
    assert "LPC 16" in bits and "LPC 32" in bits
    assert all(3 < found[split] < 32 for found in bits.values() for split in ("val", "test"))
    sound = speech.clips(quick=True)
    independent = LinearPredictor.fit(sound.train, 0)
    expected = -log_normal(sound.test - independent.mean, independent.variance).mean() / np.log(2)
    assert bits["independent Gaussian"]["test"] == pytest.approx(expected, rel=1e-12)


def test_spectrograms_find_a_tone_and_its_power():
    t = np.arange(8000)
    found = speech.spectrogram(100 * np.sin(2 * np.pi * 2000 * t / 16_000))
    assert (found.argmax(axis=0) == 64).all()  # 2 kHz of 8 in 257 rows
    # a tone's power: (A/2)² (Σ w)² / Σ w²; a Hann window of 512 has (Σ w)² / Σ w² = 2/3 · 511
    assert found[64].mean() == pytest.approx(10 * np.log10(50**2 * 511 * 2 / 3), abs=0.02)
