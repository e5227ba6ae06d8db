r"""afnp samples in about the time of a log-density, other libraries in up to D times that.

.. math:: \text{speed-up} =
          \frac{\min_{\text{others}} \text{median seconds}}{\text{median seconds of afnp}}

The record ``benchmark.json`` was written by ``python -m figures.bench --out DIR``, which proves
that all libraries compute the same masked autoregressive flow before it times them in turn,
float32, each in a process of its own. The figure only draws it. Sampling is compared at an N that
every library can afford. The curves are those of affine flows; splines stand on the right only.

Letters: N rows, D features.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from figures.bench.report import BUSY, ratios
from figures.common import COLORS, caption, note

RECORD = Path(__file__).with_name("benchmark.json")
OPERATIONS = ("log_prob", "sample", "train 100", "train 1000", "sample 1")
NAMES = (
    "log-density",
    "sampling",
    "training step, 100 rows",
    "training step, 1000 rows",
    "one sample",
)
LOOKS = {
    "afnp": ("blue", "o", "-"),
    "zuko": ("red", "s", "--"),
    "nflows": ("yellow", "D", ":"),
    "normflows": ("pink", "v", "-."),
    "flowjax": ("green", "^", (0, (5, 1, 1, 1, 1, 1))),
}


def data(quick: bool = False) -> dict:
    """Read the record; quick or not, it is the same."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    machine = {key: value for key, value in record["machine"].items() if key != "date"}
    found = {name: one for name, one in record["configurations"].items() if one["seconds"]}
    busy = [one["others"] for one in found.values() if one["others"] is not None]
    numbers = {
        "libraries": {name: about["version"] for name, about in record["libraries"].items()},
        "missing": sorted(record["missing"]),
        "configurations": {name: configuration(one) for name, one in found.items()},
        "cores_others_kept_busy": max(busy, default=None),
    }
    return {"numbers": numbers, "machine": machine}


def configuration(found: dict) -> dict:
    """Return what is drawn of one configuration: microseconds a row, speed-ups, rivals."""
    times = found["seconds"]
    n = rows(found)
    named = {"log_prob": f"log_prob {n}", "sample": f"sample {n}"}
    best = ratios(found)
    return {
        **{key: found[key] for key in ("features", "hidden", "transforms")},
        "bins": found.get("bins", 0),
        "N": n,
        "us_a_row": {
            kind: {
                library: 1e6 * of[operation]["median"] / n
                for library, of in times.items()
                if operation in of
            }
            for kind, operation in named.items()
        },
        "speedup": {
            operation: list(best[named.get(operation, operation)])
            for operation in OPERATIONS
            if named.get(operation, operation) in best
        },
    }


def rows(found: dict) -> int:
    """Return the N that every library can afford to sample: that of the operation "alternating".

    Examples
    --------
    >>> rows({"operations": ["sample 100", "sample 1000", "sample 1", "alternating 100"]})
    100
    """
    kinds = dict(operation.split() for operation in found["operations"])
    return int(kinds["alternating"])


# ---- drawing -------------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    """Draw sampling times over D, and how many times as fast afnp is as the next best."""
    numbers = data["numbers"]
    cpu = data["machine"]
    found = sorted(numbers["configurations"].items(), key=lambda item: item[1]["features"])
    figure = Figure(
        figsize=(12.4, max(5.0, 1.9 + 0.2 * sum(len(one["speedup"]) + 1 for _, one in found)))
    )
    caption(figure, __doc__.split("\n")[0])
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _times(left, [(name, one) for name, one in found if not one["bins"]])
    _speedups(right, found)
    cores = cpu["cores"]
    threads = cpu["threads"]
    deep = " or ".join(map(str, sorted({one["transforms"] for _, one in found}, reverse=True)))
    text = (
        f"Medians, float32, {deep} transforms; {cpu['processor']}, {cores} cores, {threads} "
        f"threads for each; Python {cpu['python']}, NumPy {cpu['numpy']}\n"
        + ", ".join(
            f"{name} {version.strip('()')}" for name, version in numbers["libraries"].items()
        )
    )
    if (busy := numbers["cores_others_kept_busy"]) is not None and busy > BUSY:
        text += f". NOT A RESULT: other programs kept up to {busy:.1f} cores busy"
    note(figure, text)
    return figure


def _times(axes, found: list[tuple[str, dict]]) -> None:
    """Draw the sampling time of each library over D, and afnp's log-density."""
    lines = {}
    for library, (color, marker, line) in LOOKS.items():
        if curve := _curve(found, "sample", library):
            lines[library] = curve, {"color": COLORS[color], "marker": marker, "linestyle": line}
    if curve := _curve(found, "log_prob", "afnp"):
        open_marks = {
            "marker": "o",
            "markerfacecolor": "white",
            "linestyle": "--",
            "linewidth": 1.2,
        }
        lines["afnp, log-density"] = curve, {"color": COLORS["ink"], **open_marks}
    axes.set_xscale("log")
    axes.set_yscale("log")
    for (D, us), look in lines.values():
        axes.plot(D, us, **look)
    axes.margins(0.06)
    D = sorted({one["features"] for _, one in found})
    _label_ends(axes, lines)
    axes.set_xticks(D, [f"{d}" for d in D])
    axes.minorticks_off()
    few = [f"{one['N']} at D = {one['features']}" for _, one in found if one["N"] != 1000]
    axes.set(
        xlabel="features D",
        ylabel="time a sample (µs)",
        title="Sampling affine flows, " + "; ".join(["1000 rows at once", *few]),
    )


def _curve(found: list[tuple[str, dict]], kind: str, library: str) -> tuple[list, list] | None:
    """Return D and microseconds a row, where they are known."""
    points = [
        (one["features"], one["us_a_row"][kind][library])
        for _, one in found
        if library in one["us_a_row"][kind]
    ]
    return tuple(map(list, zip(*points, strict=True))) if points else None


def _label_ends(axes, lines: dict[str, tuple]) -> None:
    """Write each line's name at the height of its last point, apart enough to be read."""
    if not lines:
        return
    low, high = np.log(axes.get_ylim())
    heights = np.exp(spread(np.log([us[-1] for (_, us), _ in lines.values()]), 0.04 * (high - low)))
    right = max(D[-1] for (D, _), _ in lines.values())
    for (name, ((D, _), look)), y in zip(lines.items(), heights, strict=True):
        axes.annotate(
            name if D[-1] == right else f"{name}, to D = {D[-1]}",
            (right, y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=look["color"],
            fontsize=9,
            annotation_clip=False,
        )


def _speedups(axes, found: list[tuple[str, dict]]) -> None:
    """Draw a stem from 1 to each speed-up, by operation; mark the D-fold work of a loop."""
    y = 0.0
    ticks = []
    labels = []
    factors = [factor for _, one in found for factor, _ in one["speedup"].values()]
    for operation, title in zip(OPERATIONS, NAMES, strict=True):
        group = [
            (name, one, *one["speedup"][operation])
            for name, one in found
            if operation in one["speedup"]
        ]
        if not group:
            continue
        axes.text(
            0.0,
            y,
            title,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontweight="bold",
            fontsize=9,
        )
        for name, one, factor, peer in group:
            y += 1
            ticks.append(y)
            labels.append(f"{name}, D = {one['features']}")
            _stem(axes, y, factor, peer, one["features"] if operation.startswith("sample") else 1)
        axes.plot(
            [1, 1],
            [y - len(group) + 0.4, y + 0.6],
            color=COLORS["ink"],
            linestyle="-",
            marker="",
            linewidth=1,
        )
        y += 1.6
    axes.set_xscale("log")
    axes.set(
        xlabel="times as fast as the fastest other library, named\n(left of 1: slower; upright "
        "bars: D times)",
        title="afnp beside the fastest other library",
        ylim=(y - 0.9, -1),
        xlim=(
            0.7 * min([*factors, 0.4]),
            4 * max([*factors, *(one["features"] for _, one in found), 2]),
        ),
    )
    low, high = axes.get_xlim()
    marks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300, 1000) if low < x < high]
    axes.set_xticks(marks, [f"{x:g}" for x in marks])
    axes.minorticks_off()
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _stem(axes, y: float, factor: float, peer: str, mark: float) -> None:
    """Draw one speed-up, filled where afnp is faster, and who it is over; a bar at ``mark``."""
    faster = factor >= 1
    if mark > 1:
        axes.plot(mark, y, "|", color=COLORS["ink"], markersize=9, markeredgewidth=1.6)
    axes.plot([1, factor], [y, y], color=COLORS["blue"], linestyle="-", marker="", linewidth=1.4)
    axes.plot(
        factor, y, "o", color=COLORS["blue"], markerfacecolor=COLORS["blue"] if faster else "white"
    )
    axes.annotate(
        f"{factor:.{0 if factor > 20 else 1 if factor > 3 else 2}f}  {peer}",
        (max(factor, mark), y),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


def spread(at: np.ndarray, gap: float) -> np.ndarray:
    """Return the nearest places, in the same order, that are at least ``gap`` apart.

    Examples
    --------
    >>> spread(np.array([5.0, 1.0, 1.0]), 1.0).tolist()
    [5.0, 0.5, 1.5]
    """
    order = np.argsort(at, kind="stable")
    slots = gap * np.arange(len(at))
    groups: list[list[float]] = []  # places less their slots must not decrease: what does is pooled
    for value in at[order] - slots:
        groups.append([value])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    result = np.empty(len(at))
    result[order] = (
        np.concatenate([np.full(len(group), np.mean(group)) for group in groups]) + slots
    )
    return result
