r"""A flow of zuko, imported, samples more than D / 2 times as fast as it did there.

.. math:: \text{ratio} = \frac{\text{median seconds of zuko}}{\text{median seconds of afnp}}

The record ``imported.json`` was written by ``python -m figures.bench imported --keep``: flows of
zuko, and the same flows imported, map the same noise to data, in turn, on one thread, and give the
same rows. zuko inverts each of its transforms by D passes of a network, here its hidden units are
evaluated once. The figure only draws the record; seconds are those of the processor.

Letters: N rows, D features.
"""

from __future__ import annotations

import json

from matplotlib.figure import Figure

from figures.bench.imported import RECORD
from figures.common import COLORS, caption, note

LOOKS = {"MAF": ("blue", "o", "-"), "NSF": ("red", "s", "--")}
NAMES = {"MAF": "affine maps", "NSF": "splines"}


def data(quick: bool = False) -> dict:
    """Read the record; quick or not, it is the same."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    numbers = {
        "ratio": {kind: _over(record, kind, "ratio") for kind in LOOKS},
        "largest_difference_of_samples": max(
            found["difference"]["samples"] for found in record["flows"]
        ),
        "largest_difference_in_nats": max(
            found["difference"]["log_prob"] for found in record["flows"]
        ),
        "cores_others_kept_busy": record["cores_others_kept_busy"],
    }
    return {"numbers": numbers, "record": record}


def _over(record: dict, kind: str, key: str) -> dict[str, float]:
    """Return a number of each of a kind's flows, by D."""
    flows = [found for found in record["flows"] if found["kind"] == kind]
    return {str(found["features"]): found[key] for found in flows}


def draw(data: dict) -> Figure:
    """Draw milliseconds a row of both over D, and their ratio beside D / 2."""
    record = data["record"]
    figure = Figure(figsize=(11, 4.8))
    caption(figure, __doc__.split("\n")[0])
    left, right = figure.subplots(1, 2)
    for kind, (color, marker, line) in LOOKS.items():
        flows = [found for found in record["flows"] if found["kind"] == kind]
        D = [found["features"] for found in flows]
        look = {"color": COLORS[color], "marker": marker, "linestyle": line}
        for name, face in (("zuko", COLORS[color]), ("afnp", "white")):
            ms = [1e3 * found["seconds"][name]["median"] / found["rows"] for found in flows]
            left.plot(D, ms, **look, markerfacecolor=face)
            _label(left, f"{name}, {NAMES[kind]}", D, ms, look["color"])
        ratios = [found["ratio"] for found in flows]
        right.plot(D, ratios, **look)
        _label(right, NAMES[kind], D, ratios, look["color"])
    goal = [d / 2 for d in D]
    right.plot(D, goal, color=COLORS["grey"], linestyle=":", marker="")
    _label(right, "D / 2", D, goal, COLORS["grey"])
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="features D")
        axes.set_xticks(D, [f"{d}" for d in D])
        axes.minorticks_off()
    left.set(ylabel="time a sample (ms)", title="Sampling, there and imported")
    right.set(ylabel="ratio of the medians", title="How many times as fast")
    note(figure, _facts(record, data["numbers"]))
    return figure


def _label(axes, text: str, x: list, y: list, color: str) -> None:
    """Write a line's name at its end; at the lower of two that end together, a little below."""
    below = 8 if text == "afnp, affine maps" else 0
    axes.annotate(
        text,
        (x[-1], y[-1]),
        xytext=(8, -below),
        textcoords="offset points",
        va="center",
        color=color,
        fontsize=9,
        annotation_clip=False,
    )


def _facts(record: dict, numbers: dict) -> str:
    """Say what was measured, and where."""
    widths, machine = " and ".join(map(str, record["hidden"])), record["machine"]
    rows = {found["features"]: found["rows"] for found in record["flows"]}
    most = max(rows.values())
    few = ", ".join(f"{n} at D = {D}" for D, n in rows.items() if n != most)
    return (
        f"float32, {record['transforms']} transforms of {widths} hidden units, {most} "
        f"rows at once, {few}; one thread, seconds of the processor.\n{machine['cpu']}, "
        f"{machine['cores']} cores, shared: others kept {record['cores_others_kept_busy']:.1f} of "
        f"them busy; zuko {record['versions']['zuko']}, torch {record['versions']['torch']}.\n"
        f"Samples differ by at most {numbers['largest_difference_of_samples']:.0e}, log-densities "
        f"by {numbers['largest_difference_in_nats']:.0e} nats."
    )
