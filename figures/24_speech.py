r"""A gated causal convolution needs fewer bits for unseen speech than linear prediction.

.. math:: \text{bits} = -\frac{1}{T} \sum_t \log_2 p(x_t \mid x_{<t}), \qquad
          x = s + v, \quad v \sim
          \mathrm{Uniform}[0, 1)

s being 16-bit samples, so that a raw file needs 16. All densities are exact, of whole clips from
their first sample. A linear predictor (LPC) is itself a flow, of one transform with one scale. Put
as a fixed layer before the network (WaveNet, arXiv 1609.03499), it leaves to it what a stationary
Gaussian cannot know: when speech is loud.

Trained on the first six seconds of one recording, chosen on its seventh, tested on another. Below
right: the network read the other way is the generator of Parallel WaveNet (arXiv 1711.10433, there
with weights of its own).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.applications.linear_prediction import LinearPredictor, adapted_log_prob
from afnp.bases import Logistic
from afnp.constructors import wavenet_flow
from afnp.data import bits_per_dim, speech_waveform
from afnp.data.audio import encode, to_steps
from figures import common
from figures.common import COLORS, caption, median_seconds, note, one_thread, trained, verified

ORDERS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MEMORIES = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
FLOORS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
SHAPE = {"window": 2048, "batch": 2, "channels": 32, "layers": 9, "rate": 3e-3}
FULL = SHAPE | {"epochs": 25, "steps": 16_000}
QUICK = SHAPE | {"window": 1024, "channels": 8, "layers": 6, "epochs": 2, "steps": 1_000}


class Clips(NamedTuple):
    """Dequantised sounds in quantisation steps; ``whole`` is ``train`` and then ``val``."""

    train: np.ndarray
    val: np.ndarray
    whole: np.ndarray
    test: np.ndarray
    rate: int


def clips(quick: bool) -> Clips:
    """Return the recordings, the last second of the first for validation; quick: pieces."""
    rng = np.random.default_rng(0)
    (whole, rate), (test, _) = speech_waveform("train"), speech_waveform("test")
    if quick:
        whole = whole[rate : 4 * rate]
        test = test[rate : 2 * rate]
    whole, test = (signal + rng.random(len(signal)) for signal in (whole, test))
    return Clips(whole[:-rate], whole[-rate:], whole, test, rate)


def data(quick: bool = False) -> dict:
    """Fit, train, score; sample as long as the test clip."""
    sound = clips(quick)
    size = QUICK if quick else FULL
    predictors = {order: LinearPredictor.fit(sound.train, order) for order in ORDERS}
    lpc = predictors[16]
    bits = linear_bits(sound, predictors)
    stacks = {}
    training = {}
    for name, order in (("alone", 0), ("flow", 16)):
        stacks[name], training[name] = train(sound, predictors[order], size, quick)
    bits["convolution alone"] = flow_bits(sound, stacks["alone"])
    bits["LPC 16, then convolution"] = flow_bits(sound, stacks["flow"])
    n = len(sound.test)
    samples = {"flow": stacks["flow"].of_length(n).sample(1, rng=1)[0], "lpc": lpc.sample(n, rng=2)}
    sounds = {"test": to_steps(sound.test)} | {name: to_steps(x) for name, x in samples.items()}
    numbers = {
        "bits_per_sample": bits,
        "raw_bits": 16,
        "seconds_of": {
            "train": len(sound.train) / sound.rate,
            "test": len(sound.test) / sound.rate,
        },
        "training": training,
        "checks": verified(stacks["flow"].of_length(24), quick=True),
        "root_mean_square": {name: float(np.std(s)) for name, s in sounds.items()},
        "clipped": {name: int((np.abs(x) > 2**15).sum()) for name, x in samples.items()},
        "reading": reading(stacks["flow"], sound.test[: size["steps"]]),
    }
    files = {f"24_speech_{name}.wav": encode(s, sound.rate) for name, s in sounds.items()}
    return {"numbers": numbers, "sounds": sounds, "rate": sound.rate, "files": files}


# ---- the linear predictors -----------------------------------------------------------------------


def bits_of(log_prob: np.ndarray) -> float:
    """Return bits a sample from the log-densities of samples in quantisation steps, nats."""
    return float(bits_per_dim(np.sum(log_prob), len(log_prob)))


def linear_bits(sound: Clips, predictors: dict) -> dict:
    """Return bits of fixed predictors, and of the adaptive one that validation chose.

    Of the fixed ones also the order that validation chose, and that which is best on test, with
    hindsight.
    """

    def both(log_prob) -> dict:
        return {
            "val": bits_of(log_prob(sound.whole)[-len(sound.val) :]),
            "test": bits_of(log_prob(sound.test)),
        }

    fixed = {order: both(p.log_prob) for order, p in predictors.items()}
    chosen, best_after_all = (
        min(fixed, key=lambda order: fixed[order][split]) for split in ("val", "test")
    )
    grid = [
        (order, memory, floor)
        for order in (2, 8, 16, 32)
        for memory in MEMORIES
        for floor in FLOORS
    ]
    adapted = {
        key: bits_of(adapted_log_prob(predictors[key[0]], sound.val, *key[1:])) for key in grid
    }
    order, memory, floor = min(adapted, key=lambda key: adapted[key])
    rows = {f"LPC {k}": fixed[k] for k in sorted({16, 32, chosen, best_after_all})}
    best = {"memory": memory, "floor": floor, "order": order}
    best |= both(lambda x: adapted_log_prob(predictors[order], x, memory, floor))
    return {"independent Gaussian": fixed[0], **rows, f"LPC {order}, adaptive gain": best}


# ---- the flow ------------------------------------------------------------------------------------


class Stack(NamedTuple):
    """A linear predictor, then the network: parameters that fit any length."""

    first: LinearPredictor
    theta: np.ndarray
    size: dict

    def network(self, n: int, dtype=np.float64) -> afnp.Flow:
        """Return the network for n steps of what the predictor leaves."""
        flow = network(n, self.size, dtype)
        flow.theta = self.theta.astype(dtype)
        return flow

    def of_length(self, n: int) -> afnp.Flow:
        """Return the flow of n samples, in quantisation steps."""
        flow = self.network(n)
        whole = afnp.Flow([self.first.layer(n), *flow.layers], base=flow.base)
        whole.theta = flow.theta
        return whole


def network(n: int, size: dict, dtype) -> afnp.Flow:
    shape = {"channels": size["channels"], "layers": size["layers"], "transforms": 1}
    return wavenet_flow(n, **shape, base=Logistic(n), dtype=dtype)


def train(sound: Clips, first: LinearPredictor, size: dict, quick: bool) -> tuple[Stack, dict]:
    """Train the network on windows of the residual of the predictor, which is fixed."""
    left = first.layer(len(sound.whole)).normalize({}, sound.whole[None], None)[0][0]
    W = size["window"]
    cut = len(sound.train)
    x_train, x_val = (
        part[: len(part) // W * W].reshape(-1, W) for part in (left[:cut], left[cut:])
    )
    flow = network(W, size, np.float32)
    common.CACHE.mkdir(parents=True, exist_ok=True)
    checkpoint = common.CACHE / f"24_speech_{first.order}{'_quick' * quick}.checkpoint"
    _, history = trained(
        flow,
        x_train,
        x_val,
        epochs=size["epochs"],
        batch_size=size["batch"],
        learning_rate=size["rate"],
        clip=1e4,
        weight_decay=0,
        patience=30,
        checkpoint=str(checkpoint),
        resume=True,
    )
    checkpoint.unlink(missing_ok=True)
    found = {
        "epochs": len(history.train_loss),
        "best_epoch": history.best_epoch,
        "seconds": history.seconds,
    }
    return Stack(first, flow.theta.copy(), size), {**found, "parameters": flow.theta.size}


def flow_bits(sound: Clips, stack: Stack) -> dict:
    """Return bits a sample: of the test clip, and of its last second given all before it."""

    def log_prob(x: np.ndarray) -> float:
        return stack.of_length(len(x)).log_prob(x[None], backend="numba")[0]

    val = log_prob(sound.whole) - log_prob(sound.train)
    return {
        "val": float(bits_per_dim(val, len(sound.val))),
        "test": float(bits_per_dim(log_prob(sound.test), len(sound.test))),
    }


# ---- the other reading ---------------------------------------------------------------------------


def agreement(a: np.ndarray, b: np.ndarray) -> int:
    """Return for how many steps two paths (1, D) agree to a millionth of their size."""
    apart = np.abs(a - b)[0] > 1e-6 * np.abs(a).max()
    return int(np.argmax(apart)) if apart.any() else len(apart)


def inverse(flow: afnp.Flow, speech: np.ndarray, u: np.ndarray) -> dict:
    """Return how well the directions undo each other.

    ``u`` is the noise of ``speech`` (1, D). Walk, then pass: each step has its own inverse, and
    errors stay where they were made. Pass, then walk: all later steps receive each error, and it
    may grow, as recursions that are not linear do. So the error of the first is reported, and of
    the second how many steps it lasts.
    """
    noise = flow.base.sample({}, 1, np.random.default_rng(3), flow.dtype)
    walked, log_det = flow.generate(noise, backend="numba")
    again, log_det_again = flow.normalize(walked, backend="numpy")
    passed, _ = flow.normalize(noise, backend="numpy")
    return {
        "walk_then_pass": float(np.abs(again - noise).max() / np.abs(noise).max()),
        "log_det_sum": float(np.abs(log_det + log_det_again)[0] / np.abs(log_det)[0]),
        "steps_that_agree": {
            "of the walk's own path": agreement(walked, flow.generate(again, backend="numba")[0]),
            "of passed noise": agreement(noise, flow.generate(passed, backend="numba")[0]),
            "of speech": agreement(speech, flow.generate(u, backend="numba")[0]),
        },
    }


def reading(stack: Stack, x: np.ndarray) -> dict:
    """Time the network in both directions, and see how far they are inverse to each other."""
    left = stack.first.layer(len(x)).normalize({}, x[None], None)[0]
    flow = stack.network(len(x))
    u, _ = flow.normalize(left, backend="numpy")
    with one_thread():
        slow = {"walk, numpy": lambda: flow.generate(u, backend="numpy")}
        fast = {
            "pass, numpy": lambda: flow.normalize(left, backend="numpy"),
            "pass, numba": lambda: flow.normalize(left, backend="numba"),
            "walk, numba": lambda: flow.generate(u, backend="numba"),
        }
        seconds = median_seconds(fast, 5) | median_seconds(slow, 2, warm=False)
        computer = common.machine()
    total = flow.cost.total
    return {
        "steps": len(x),
        "milliseconds": {way: round(1e3 * time["minimum"], 2) for way, time in seconds.items()},
        "inverse": inverse(flow, left, u),
        "depth": {"pass": total.normalize.depth, "walk": total.generate.depth},
        "multiply_adds": total.normalize.multiply_adds,
        "naive_multiply_adds": total.naive.multiply_adds,
        "machine": computer,
    }


# ---- the picture ---------------------------------------------------------------------------------


def spectrogram(x: np.ndarray, window: int = 512, hop: int = 128) -> np.ndarray:
    """Return power in decibels over one quantisation step, (window/2 + 1 frequencies, F frames)."""
    frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), window)[
        ::hop
    ] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / np.sum(np.hanning(window) ** 2)
    return 10 * np.log10(power.T + 1e-2)


TITLES = {
    "test": "Unseen speech (another recording)",
    "flow": "Sample of the flow: loud and quiet",
    "lpc": "Sample of LPC 16: always as loud",
}


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 8.6))
    caption(figure, __doc__.split("\n")[0])
    above, below = figure.subfigures(2, 1, height_ratios=(1.3, 1))
    grid = above.subplots(2, 3, sharex=True, sharey="row", height_ratios=(1, 1.5))
    for (wave, picture), name in zip(grid.T, TITLES, strict=True):
        _draw_sound(wave, picture, data["sounds"][name], data["rate"], TITLES[name])
    grid[0, 0].set_ylabel("quantisation steps")
    grid[1, 0].set_ylabel("kHz")
    left, right = below.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_bits(left, numbers["bits_per_sample"])
    _draw_reading(right, numbers["reading"])
    cpu = numbers["reading"]["machine"]
    how = numbers["training"]["flow"]
    lasts = numbers["reading"]["inverse"]["steps_that_agree"]["of speech"]
    note(
        figure,
        f"Trained {how['seconds']:.0f} s ({how['epochs']} epochs, {how['parameters']:,} "
        f"parameters) on {numbers['seconds_of']['train']:.1f} s of speech. Times: float64, fastest "
        f"calls, one core: {cpu['cpu']}; {cpu['blas']}.\nSpectrograms: 32 ms windows, 10 to 90 dB "
        "over one quantisation step. The sounds lie beside this picture, as WAV files.\nInverse: "
        "noise, walk, pass, noise. From speech to noise and back, the walk receives its own "
        f"rounding errors: it stays within a millionth for {lasts:,} steps.",
    )
    return figure


def _draw_sound(wave, picture, signal: np.ndarray, rate: int, title: str) -> None:
    seconds = len(signal) / rate
    hop = max(1, len(signal) // 600)
    pieces = signal[: len(signal) // hop * hop].reshape(-1, hop)
    times = (np.arange(len(pieces)) + 0.5) * hop / rate
    wave.fill_between(
        times, pieces.min(axis=1), pieces.max(axis=1), color=COLORS["ink"], linewidth=0.4
    )
    wave.set_title(title)
    extent = (0, seconds, 0, rate / 2000)
    picture.imshow(
        spectrogram(signal), origin="lower", aspect="auto", extent=extent, vmin=10, vmax=90
    )
    picture.set(xlabel="seconds")


def _draw_bits(axes, bits: dict) -> None:
    for row, (name, found) in enumerate(bits.items()):
        color = COLORS["blue"] if "convolution" in name else COLORS["ink"]
        axes.plot(found["val"], row, "^", color=COLORS["yellow"], markersize=7)
        axes.plot(found["test"], row, "s", color=color, markersize=7)
        axes.text(found["test"] + 0.12, row, f"{found['test']:.2f}", va="center", color=color)
    first = next(iter(bits.values()))
    axes.text(first["test"], -0.6, "test", ha="left", fontsize=9)
    axes.text(first["val"], -0.6, "validation ", ha="right", fontsize=9)
    fixed = {name: found for name, found in bits.items() if name[4:].isdigit()}
    chosen, best = (min(fixed, key=lambda name: fixed[name][split]) for split in ("val", "test"))
    remarks = {chosen: "best on validation", best: "best on test"}
    axes.set_yticks(
        range(len(bits)),
        [f"{name} ({remarks[name]})" if name in remarks else name for name in bits],
    )
    axes.set(ylim=(len(bits) - 0.5, -1.1), xlabel="bits a sample (a raw file: 16); left is better")
    adaptive = next(found["test"] for name, found in bits.items() if "adaptive" in name)
    flow = bits["LPC 16, then convolution"]["test"]
    axes.set_title(
        f"{fixed[best]['test'] - flow:.1f} bits below any fixed predictor, {adaptive - flow:.2f} "
        "below the adaptive"
    )


def _draw_reading(axes, reading: dict) -> None:
    times = reading["milliseconds"]
    rows = {
        "one pass:\ndensity, or\nIAF's sampling": "pass",
        "queues:\nsampling, or\nIAF's density": "walk",
    }
    for row, way in enumerate(rows.values()):
        for shift, backend, color in ((-0.2, "numpy", "red"), (0.2, "numba", "green")):
            value = times[f"{way}, {backend}"]
            axes.barh(row + shift, value, 0.36, color=COLORS[color])
            label = {"numpy": "NumPy", "numba": "compiled"}[backend]
            axes.text(
                value * 1.06, row + shift, f"{label}: {value:,.0f} ms", va="center", fontsize=9
            )
    axes.set_yticks(range(2), list(rows))
    axes.set_xscale("log")
    low = min(times.values())
    high = max(times.values())
    axes.set(
        ylim=(1.5, -0.5),
        xlim=(low / 4, high * 6),
        xlabel=f"milliseconds for {reading['steps']:,} samples",
    )
    axes.set_title(
        "The same network read both ways, inverse within "
        f"{reading['inverse']['walk_then_pass']:.0e}:\n"
        f"equal arithmetic, in {reading['depth']['pass']} step or {reading['depth']['walk']:,} "
        "after one another"
    )
