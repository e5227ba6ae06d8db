r"""Compiled, the sampler comes nearly as close to the matrix-product rate as the density does.

.. math:: \text{rate} = \frac{2 N \Sigma}{\text{seconds}}, \qquad
          \text{intensity} =
          \frac{2 N \Sigma}{4\, [\, \lceil N / T \rceil\, \Sigma + N (2 D + 1)\, ]},
          \qquad \Sigma = \sum_{\text{rows of all masks}} \mathrm{prefix}

Only what the masks allow counts as work: a multiplication and an addition for each of Σ weights and
each row. Tiles of T rows read the weights once each, up to ``FEW`` rows share one reading, and
every row brings D numbers in and takes D + 1 out, of four bytes. Density (normalize) and sampler
(generate, from noise drawn before) thus have the same work and the same traffic, and differ in
their rates alone. The roofs come from the same run: NumPy's float32 product of two matrices, and a
copy in memory, whose slope weights that fit a cache may pass.

The register tile takes four rows of one degree at a time. Where hidden layers are about as wide as
D, a degree has a single row, and the sampler falls behind most; as D grows, the products between
its blocks outgrow what is inside them. The ratio is one of processor time on one core, which a busy
machine disturbs little.

Letters: N rows, D features, T rows a tile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.compiled.simd.register_tile import lanes
from afnp.compiled.small_batch import FEW
from afnp.compiled.threads import workers
from figures.bench.configurations import CONFIGURATIONS
from figures.bench.library_numpy import Machine
from figures.common import COLORS, caption, machine, median_seconds, note, one_thread

ROWS = {"power": (1, 8, 64, 1000), "bsds": (1, 8, 64, 1000), "mnist": (1, 8, 64, 100)}
LOOKS = {"power": ("green", "^"), "bsds": ("blue", "o"), "mnist": ("red", "s")}
PASSES = ("density", "sampler")
SIDE, COPIED = 2048, 2**25
"""Rows of the matrices that are multiplied; numbers that are copied, 128 MiB of them."""
LEFT, RIGHT = 0.3, 80
"""Ends of the axis of intensities."""


def data(quick: bool = False) -> dict:
    """Time both passes and the roofs in turn for each configuration, then the ratio over D."""
    computer = Roofs()
    repeats = 3 if quick else 40
    found = {}
    for name, rows in ROWS.items():
        computer.measure(2 if quick else 5)
        c = CONFIGURATIONS[name]
        found[name] = measure(maf(c.features, c.hidden, c.transforms), rows, repeats)
    with one_thread():
        over_D = [
            measure(maf(D, hidden), (n,), repeats, processor_seconds)
            for D, hidden, n in sizes(quick)
        ]
    computer.measure(2 if quick else 5)
    roofs = computer.numbers()
    for name, one in found.items():
        one["hidden"], one["transforms"] = (
            CONFIGURATIONS[name].hidden,
            CONFIGURATIONS[name].transforms,
        )
        for of in PASSES:
            one[f"{of}_fraction"] = [rate / roofs["product_gflops"] for rate in one[f"{of}_gflops"]]
    numbers = {
        "threads": workers(),
        "rows_a_tile": lanes(np.dtype(np.float32)),
        **roofs,
        "configurations": found,
        "ratio_D": [one["D"] for one in over_D],
        "ratio_N": [one["N"][0] for one in over_D],
        "ratio": [one["sampler_ms"][0] / one["density_ms"][0] for one in over_D],
        "ratio_median": [
            one["sampler_median_ms"][0] / one["density_median_ms"][0] for one in over_D
        ],
    }
    return {"numbers": numbers, "machine": machine()}


def sizes(quick: bool) -> list[tuple[int, int, int]]:
    """Return D, hidden units and rows of each ratio; the last has the size of an MNIST model."""
    D = (8, 16, 32, 64) if quick else (8, 16, 32, 64, 128, 256, 512)
    return [*((d, max(64, d), 1000) for d in D), (784, 1024, 100)]


def maf(D: int, hidden: int, transforms: int = 1) -> afnp.Flow:
    """Return a flow in float32 with random weights."""
    return afnp.maf(D, hidden=(hidden, hidden), transforms=transforms, dtype=np.float32, seed=1)


def weights(flow: afnp.Flow) -> int:
    """Return Σ: how many weights the masks let through."""
    return sum(
        int(linear.prefix.sum()) for layer in flow.layers for linear in layer.conditioner.linears
    )


def traffic(weights: int, D: int, rows: int) -> int:
    """Return the bytes that a pass must move.

    Examples
    --------
    >>> traffic(100, 2, 1) == traffic(100, 2, 8) - 7 * 4 * 5 == 4 * (100 + 5)
    True
    """
    readings = 1 if rows <= FEW else math.ceil(rows / lanes(np.dtype(np.float32)))
    return 4 * (readings * weights + rows * (2 * D + 1))


def processor_seconds(functions: Mapping, repeats: int) -> dict[tuple, dict[str, float]]:
    """Time as ``median_seconds`` does, by processor time, which stands still while others work."""
    times: dict = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            function()
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: {"median": float(np.median(t)), "minimum": min(t)} for name, t in times.items()}


def measure(
    flow: afnp.Flow, rows: tuple[int, ...], repeats: int, clock: Callable = median_seconds
) -> dict:
    """Return work, intensity, milliseconds and rates of both passes for every number of rows."""
    D = flow.features
    every = weights(flow)
    rivals = {}
    for n in rows:
        u = np.random.default_rng(0).standard_normal((n, D), dtype=np.float32)
        x = flow.generate(u, backend="numba")[0]
        rivals["density", n] = lambda x=x: flow.normalize(x, backend="numba")
        rivals["sampler", n] = lambda u=u: flow.generate(u, backend="numba")
    seconds = clock(rivals, repeats)
    flops = [2 * n * every for n in rows]
    found = {"D": D, "N": list(rows), "weights": every, "flops": flops}
    found["cores"] = [min(workers(), len(flow.plan("numba", n).blocks)) for n in rows]
    found["intensity"] = [f / traffic(every, D, n) for f, n in zip(flops, rows, strict=True)]
    for of in PASSES:
        fastest = [seconds[of, n]["minimum"] for n in rows]
        found[f"{of}_ms"] = [1e3 * s for s in fastest]
        found[f"{of}_median_ms"] = [1e3 * seconds[of, n]["median"] for n in rows]
        found[f"{of}_gflops"] = [f / s / 1e9 for f, s in zip(flops, fastest, strict=True)]
    return found


class Roofs:
    """What the machine can do at best, asked again between the passes."""

    def __init__(self):
        best = Machine()
        best.load()
        best.build(0, 0, 0, seed=0)
        self.calls = {"product": best.matmul(SIDE), "copy": best.copy(COPIED)}
        self.seconds: dict[str, list[dict]] = {
            name: [] for name in ("product", "product_one_core", "copy")
        }

    def measure(self, repeats: int) -> None:
        """Time product and copy, then wait until the threads of NumPy's product stop spinning."""
        times = median_seconds(self.calls, repeats)
        with one_thread():
            times["product_one_core"] = median_seconds({"": self.calls["product"]}, repeats)[""]
        for name, found in times.items():
            self.seconds[name].append(found)
        time.sleep(0.2)

    def numbers(self) -> dict[str, float]:
        """Return the rates of the fastest calls, and those of the median of all rounds' medians."""
        product = 2 * SIDE**3 / 1e9
        copied = 2 * 4 * COPIED / 1e9
        work = {
            "product_gflops": product,
            "product_one_core_gflops": product,
            "copy_gbytes": copied,
        }
        rates = {}
        for (name, amount), times in zip(work.items(), self.seconds.values(), strict=True):
            rates[name] = amount / min(t["minimum"] for t in times)
            rates[f"{name}_median"] = amount / float(np.median([t["median"] for t in times]))
        return rates


# ---- drawing -------------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    """Draw the passes under the roofs, and beside them the ratio of their times over D."""
    figure = Figure(figsize=(12.4, 5.6))
    caption(figure, __doc__.split("\n")[0])
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    numbers = data["numbers"]
    cpu = data["machine"]
    _roofs(left, numbers)
    for name, one in numbers["configurations"].items():
        _passes(left, name, one)
    _rows_and_names(left, numbers)
    _ratio(right, numbers)
    shared = [one["intensity"][-1] for one in numbers["configurations"].values()]
    note(
        figure,
        "Open marks: density pass; filled: sampler; percentages: of the matrix product's rate on "
        f"all cores. Up to N = {numbers['rows_a_tile']} one core works.\n"
        "Marks stand beside their intensities (dotted: ½ for N = 1, 4 for N = 8, "
        f"{min(shared):.0f} to {numbers['rows_a_tile'] / 2:.0f} for more), so that none hides "
        "another.\n"
        f"Fastest calls, float32, compiled, {numbers['threads']} threads: {cpu['cpu']}, "
        f"{cpu['cores']} cores; matrix product: {cpu['blas']}",
    )
    return figure


def _roofs(axes, numbers: dict) -> None:
    """Draw what the machine's matrix product and memory allow."""
    top, one, slope = (
        numbers[name] for name in ("product_gflops", "product_one_core_gflops", "copy_gbytes")
    )
    x = np.array([LEFT, top / slope, RIGHT])
    axes.loglog(
        x, np.minimum(top, slope * x), color=COLORS["ink"], linestyle="-", marker="", zorder=1
    )
    if numbers["threads"] > 1:
        axes.plot(
            [one / slope, RIGHT],
            [one, one],
            color=COLORS["grey"],
            linestyle="--",
            marker="",
            linewidth=1.2,
        )
        axes.text(
            1.06 * RIGHT,
            min(one, top / 1.3),
            f"on one core: {one:.0f}",
            va="center",
            fontsize=9,
            color=COLORS["grey"],
        )
    axes.text(1.06 * RIGHT, top, f"matrix product: {top:.0f} GFLOP/s", va="center", fontsize=9)
    axes.text(1.2, 1.3 * 1.2 * slope, f"copy: {slope:.0f} GB/s", ha="right", va="bottom")
    axes.set(
        xlabel="intensity: useful FLOPs a byte of weights and rows",
        ylabel="useful GFLOP/s",
        title="Under the machine's roofs",
        xlim=(LEFT, RIGHT),
    )
    axes.set_xticks([0.5, 1, 2, 4, 8, 16, 32, 64], ["½", "1", "2", "4", "8", "16", "32", "64"])
    axes.minorticks_off()


def _passes(axes, name: str, one: dict) -> None:
    """Mark the rates of one configuration beside their intensities."""
    color, marker = LOOKS[name]
    x = _aside(one) * 1.17 ** (list(ROWS).index(name) - 1)
    for of, filled, shift, size in (
        ("density", "white", 1.03, 8),
        ("sampler", COLORS[color], 1 / 1.03, 6),
    ):
        axes.plot(
            x * shift,
            one[f"{of}_gflops"],
            marker,
            color=COLORS[color],
            markersize=size,
            markerfacecolor=filled,
            markeredgewidth=1.4,
            linestyle="",
        )


def _aside(one: dict) -> np.ndarray:
    """Return where the marks of each N stand; whole tiles stand around their intensity."""
    aside = np.array([1, 1, 0.7, 1.42])
    return np.array(one["intensity"][:2] + [one["intensity"][2]] * 2) * aside


def _rows_and_names(axes, numbers: dict) -> None:
    """Write N under each group of marks, and beside the last whose they are, and how far."""
    configurations = numbers["configurations"]
    rates = [
        rate for one in configurations.values() for of in PASSES for rate in one[f"{of}_gflops"]
    ]
    low = min(rates) / 2.6
    high = 1.8 * max(*rates, numbers["product_gflops"])
    axes.set_ylim(low, high)
    middle = configurations["bsds"]
    for x in middle["intensity"][:3]:
        axes.axvline(x, color=COLORS["light"], linestyle=":", marker="", linewidth=1.2, zorder=0)
    for n, x in zip(("1", "8", "64", "100\nor 1000"), _aside(middle), strict=True):
        axes.text(
            x, 1.2 * low, f"N = {n}", ha="center", va="bottom", fontsize=9, backgroundcolor="white"
        )
    fastest_first = sorted(configurations.items(), key=lambda item: -item[1]["sampler_gflops"][-1])
    for (name, one), y in zip(fastest_first, (0.62, 0.43, 0.24), strict=True):
        color, marker = LOOKS[name]
        density, sampler = (100 * one[f"{of}_fraction"][-1] for of in PASSES)
        axes.plot(1.04, y, marker, color=COLORS[color], transform=axes.transAxes, clip_on=False)
        axes.text(
            1.07,
            y,
            f"{name}: D = {one['D']}, 2 × {one['hidden']}\n"
            f"N = {one['N'][-1]} on {one['cores'][-1]} core{'s' * (one['cores'][-1] > 1)}:\n"
            f"density {density:.0f} %, sampler {sampler:.0f} %",
            transform=axes.transAxes,
            va="center",
            color=COLORS[color],
            fontsize=9,
        )


def _ratio(axes, numbers: dict) -> None:
    """Draw the sampler's time over the density pass's."""
    D = numbers["ratio_D"]
    ratio = numbers["ratio"]
    n = numbers["ratio_N"]
    axes.axhline(1, color=COLORS["ink"], linewidth=1, linestyle="-", marker="", zorder=0)
    axes.semilogx(D, ratio, "o-", color=COLORS["blue"])
    for k, (d, r) in enumerate(zip(D, ratio, strict=True)):
        valley = r < min([*ratio[:k][-1:], *ratio[k + 1 :][:1]])
        above = -1 if valley and abs(r - 1.1) > 0.1 else 1  # below it, but not on the line at 1
        axes.annotate(
            f"{r:.2f}",
            (d, r),
            xytext=(0, 9 * above),
            textcoords="offset points",
            ha="center",
            va="bottom" if above > 0 else "top",
            fontsize=9,
        )
    axes.set(
        xlabel=f"features D (one transform, 2 × max(64, D) units;\n2 × 1024 at D = {D[-1]})",
        ylabel="sampler / density pass",
        title=f"Processor time, N = {n[0]} ({n[-1]} at {D[-1]})",
        ylim=(0, max(2.0, 1.2 * max(ratio))),
        xlim=(D[0] / 1.4, D[-1] * 1.4),
    )
    axes.set_xticks(D, [f"{d}" for d in D], fontsize=8)
    axes.minorticks_off()
