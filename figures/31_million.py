r"""A million dimensions are sampled exactly in seconds: queues remember, and time grows like D.

.. math:: T_{\text{loop}} \approx D \cdot T_{\text{pass}}(D) \propto D^2, \qquad
          T_{\text{queues}} \propto D

A flow of ten gated causal convolutions of 16 channels with dilations 1, 2, ..., 512 (WaveNet, arXiv
1609.03499): its parameters do not know D. To draw x_t, the textbook loop runs the network over the
whole series; a queue a layer (arXiv 1611.09482) keeps each activation until it is read for the
last time, so that each is computed once. The density takes the same walk, or one pass cut into
chunks; neither keeps activations, and memory is what x takes.

One series, float64, one core. Slopes are those of log time over log D, from a thousand steps on.
Memory is the peak of a fresh process, Python and compiled code included, that draws a sample and
evaluates its density.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from afnp.flow import Flow
from afnp.transforms import convolutional
from figures.common import COLORS, caption, machine, median_seconds, note, one_thread, slope

CHANNELS, LAYERS = 16, 10
WAYS = {
    "loop": ("textbook loop", "grey", "D-"),
    "numpy_queues": ("queues, NumPy", "blue", "o-"),
    "queues": ("queues, compiled", "blue", "o--"),
    "density": ("density, compiled", "green", "^--"),
}
GATE = 2_048
"""Up to here the textbook loop is timed too."""
MOST = {"loop": GATE, "numpy_queues": 10_000}


def flow_of(D: int) -> Flow:
    """Return the flow of D steps, moved well away from the identity."""
    flow = Flow([convolutional(D, CHANNELS, [2**l for l in range(LAYERS)])])
    flow.split(flow.theta)[0]["H"] *= 30
    return flow


def data(quick: bool = False) -> dict:
    D = [64, 256] if quick else [256, 1_000, GATE, 10_000, 100_000, 1_000_000]
    with one_thread():
        times = [measure(d, 5 if d < 100_000 else 2) for d in D]
    measured = D if quick else [256, 10_000, 100_000, 1_000_000]
    found = {
        name: [(d, row[name]) for d, row in zip(D, times, strict=True) if name in row]
        for name in WAYS
    }
    numbers = {
        "parameters": flow_of(1).theta.size,
        "receptive_field": flow_of(1).layers[0].conditioner.receptive_field,
        "seconds": {
            name: {"D": [d for d, _ in rows], "minimum": [s for _, s in rows]}
            for name, rows in found.items()
        },
        "slopes": {name: _slope(rows) for name, rows in found.items()},
        "loop_over_queues": {
            str(d): row["loop"] / row["queues"]
            for d, row in zip(D, times, strict=True)
            if d <= GATE
        },
        "difference": max(row["difference"] for row in times),
        "megabytes": {"D": measured, "peak": [megabytes(d) for d in measured]},
    }
    return {"numbers": numbers, "machine": machine()}


def measure(D: int, repeats: int) -> dict:
    """Return the seconds of each way, and the samples' difference over the largest entry."""
    flow = flow_of(D)
    u = np.random.default_rng(0).standard_normal((1, D))
    samples = {}

    def generate(name, method, backend):
        samples[name] = flow.generate(u, method=method, backend=backend)[0]

    calls = {
        "queues": lambda: generate("queues", "substitution", "numba"),
        "density": lambda: flow.normalize(u, backend="numba"),
    }
    slow = {
        "numpy_queues": lambda: generate("numpy_queues", "substitution", "numpy"),
        "loop": lambda: generate("loop", "naive", "numpy"),
    }
    slow = {name: call for name, call in slow.items() if D <= MOST[name]}
    seconds = median_seconds(calls, repeats, warm=D < 1_000_000)
    if slow:
        seconds |= median_seconds(slow, 3 if D < 1_000 else 1, warm=False)
    apart = max((np.abs(x - samples["queues"]).max() for x in samples.values()), default=0.0)
    difference = float(apart / np.abs(samples["queues"]).max())
    return {"difference": difference, **{name: s["minimum"] for name, s in seconds.items()}}


def _slope(rows: list[tuple[int, float]]) -> float | None:
    rows = [row for row in rows if row[0] >= 1_000]
    return slope(*zip(*rows, strict=True)) if len(rows) > 1 else None


MEMORY = """
import importlib, re, resource, sys
from pathlib import Path
D, root = int(sys.argv[1]), sys.argv[2]
sys.path.insert(0, root)
flow = importlib.import_module("figures.31_million").flow_of(D)
flow.log_prob(flow.sample(1, rng=0, backend="numba"), backend="numba")
try:
    status = Path("/proc/self/status").read_text().replace(chr(9), " ")
    print(re.search("VmHWM: *([0-9]+) kB", status)[1])
except OSError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
"""Linux's own ru_maxrss remembers the parent's peak through fork and exec; elsewhere it must do."""


def megabytes(D: int) -> float:
    """Return the peak memory, MiB, of a process that samples D steps and takes their density."""
    command = [sys.executable, "-c", MEMORY, str(D), str(Path(__file__).resolve().parents[1])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(printed) / (2**20 if sys.platform == "darwin" else 2**10)


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(11.5, 4.8))
    time, memory = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for name, (label, color, line) in WAYS.items():
        D, seconds = (np.array(numbers["seconds"][name][key]) for key in ("D", "minimum"))
        grows = numbers["slopes"][name]
        time.loglog(
            D,
            seconds,
            line,
            color=COLORS[color],
            label=label + (f": slope {grows:.2f}" if grows else ""),
        )
    time.set(
        xlabel="dimensions D (steps of one series)",
        ylabel="seconds",
        title="one sample, or one density",
    )
    time.legend(loc="lower right")
    found = numbers["megabytes"]
    memory.semilogx(found["D"], found["peak"], "s-", color=COLORS["red"])
    memory.set(xlabel="dimensions D", ylabel="MiB", title="peak memory of the whole process")
    memory.set_ylim(0, 1.1 * max(found["peak"]))
    last = found["D"][-1]
    seconds = numbers["seconds"]["queues"]["minimum"][-1]
    gate = list(numbers["loop_over_queues"].items())[-1]
    caption(
        figure,
        f"{last:,} dimensions sampled exactly in {seconds:.1f} s: queues compute each unit once, "
        f"{gate[1]:,.0f} times faster than the textbook loop at D = {int(gate[0]):,}",
    )
    note(
        figure,
        f"{LAYERS} gated layers of {CHANNELS} channels, {numbers['parameters']:,} parameters, "
        f"receptive field {numbers['receptive_field']:,} steps. Samples agree within "
        f"{numbers['difference']:.0e}.\n"
        f"Fastest calls, float64, one core: {data['machine']['cpu']}",
    )
    return figure
