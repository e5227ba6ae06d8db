r"""MAF waits when it samples, IAF when it scores, couplings never; waiting costs short steps.

.. math:: \text{MAF: } u_i = \tau^{-1}(x_i; h_i(x_{<i})), \qquad
          \text{IAF: } x_i = \tau(u_i; h_i(u_{<i})), \qquad
          \text{RealNVP: } u_B = \tau^{-1}(x_B; h(x_A)),\; u_A = x_A

Left: one transform of D = 8 features with random parameters, in both directions. A filled square
says that an output moves when an input does, bit by bit; the number is the step in which the output
becomes known. Whoever computes h from what is given is done in one step; whoever computes it from
what is being computed waits for the feature before. A coupling's network receives half of the
features and writes to the others, so nobody waits, and each transform can do less.

Right: six transforms of D = 64 features, timed in turn. By substitution the waiting direction
evaluates each hidden unit once, as the other does; the textbook loop evaluates all of them D times
over.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.verify import Subject, dependency_pattern, randomize
from figures.common import COLORS, caption, machine, median_seconds, note, one_thread

FAMILIES: dict[str, Callable] = {"MAF": afnp.maf, "IAF": afnp.iaf, "RealNVP": afnp.realnvp}
DIRECTIONS = {"density": "normalize", "sampling": "generate"}
BACKENDS = ("numpy", "numba")
SMALL, D, H, TRANSFORMS = 8, 64, 128, 6


def data(quick: bool = False) -> dict:
    """Observe who depends on whom in one transform of each, and time whole flows both ways."""
    patterns = {name: {way: pattern(name, way) for way in DIRECTIONS} for name in FAMILIES}
    N = 100 if quick else 1000
    flows = {
        name: make(D, hidden=(H, H), transforms=TRANSFORMS, dtype=np.float32, seed=1)
        for name, make in FAMILIES.items()
    }
    with one_thread():
        seconds = median_seconds(rivals(flows, N), 3 if quick else 25)
        seconds |= median_seconds(loops(flows, N), 1 if quick else 3, warm=False)
        computer = machine()
    milliseconds = {name: {k: 1e3 * t for k, t in of.items()} for name, of in seconds.items()}
    numbers = {
        "D": D,
        "hidden": H,
        "transforms": TRANSFORMS,
        "rows": N,
        "parameters": {name: flow.theta.size for name, flow in flows.items()},
        "passes": {name: passes(flow) for name, flow in flows.items()},
        "dependencies": {
            name: {way: int(moved.sum()) for way, (moved, _) in of.items()}
            for name, of in patterns.items()
        },
        "steps": {
            name: {way: int(steps.max()) for way, (_, steps) in of.items()}
            for name, of in patterns.items()
        },
        "milliseconds": milliseconds,
        "sampling_over_density": {
            f"{name}, {backend}": milliseconds[f"{name}, sampling, {backend}"]["minimum"]
            / milliseconds[f"{name}, density, {backend}"]["minimum"]
            for name in FAMILIES
            for backend in BACKENDS
        },
        "loop_over_compiled": {
            name: of["minimum"] / milliseconds[name.replace("loop", "numba")]["minimum"]
            for name, of in milliseconds.items()
            if name.endswith("loop")
        },
        "loop_is_the_same_map_within": difference(flows["IAF"]),
    }
    return {"numbers": numbers, "patterns": patterns, "machine": computer}


def pattern(name: str, way: str) -> tuple[np.ndarray, np.ndarray]:
    """Return who depends on whom (D, D), and the step in which each output is known (D,)."""
    order = {"split": "half"} if name == "RealNVP" else {"order": "natural"}
    flow = randomize(FAMILIES[name](SMALL, hidden=(32, 32), transforms=1, **order), seed=0)
    points = flow.sample(4, rng=1)  # a dependency can hide behind a ReLU at one point
    function = getattr(Subject.of_flow(flow), DIRECTIONS[way])
    moved = dependency_pattern(lambda z: function(z, np.empty((len(z), 0)))[0], points, rng=2)
    (layer,) = flow.layers
    depth = getattr(layer.cost, DIRECTIONS[way]).depth
    steps = np.arange(1, SMALL + 1) if depth > 1 else np.ones(SMALL, dtype=int)
    return moved, np.where(getattr(layer, "passing", False), 0, steps)


def passes(flow: afnp.Flow) -> dict[str, dict[str, int]]:
    """Return the flow's own account: network passes, steps in a chain, multiply-adds a row."""
    total = flow.cost.total
    return {way: getattr(total, direction)._asdict() for way, direction in DIRECTIONS.items()} | {
        "textbook loop": total.naive._asdict()
    }


def rivals(flows: dict[str, afnp.Flow], N: int) -> dict[str, Callable]:
    """Return what is timed: each family, direction and backend, on N rows of float32."""
    u = noise(N)
    found: dict[str, Callable] = {}
    for name, flow in flows.items():
        x = flow.generate(u)[0]
        for backend in BACKENDS:
            found[f"{name}, density, {backend}"] = lambda f=flow, x=x, b=backend: f.log_prob(
                x, backend=b
            )
            found[f"{name}, sampling, {backend}"] = lambda f=flow, b=backend: f.generate(
                u, backend=b
            )
    return found


def loops(flows: dict[str, afnp.Flow], N: int) -> dict[str, Callable]:
    """Return the textbook loop in the directions that wait."""
    u = noise(N)
    solved = {"MAF, sampling, loop": flows["MAF"], "IAF, density, loop": twin(flows["IAF"])}
    return {name: lambda f=flow: f.generate(u, method="naive") for name, flow in solved.items()}


def noise(N: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D), dtype=np.float32)


def twin(flow: afnp.Flow) -> afnp.Flow:
    """Return the MAF whose ``generate`` is this IAF's ``normalize``: its transforms, last first."""
    ends = np.cumsum([layer.layout.size for layer in flow.layers])
    maf = afnp.Flow([layer.transform for layer in reversed(flow.layers)], dtype=flow.dtype)
    maf.theta = np.concatenate(np.split(flow.theta, ends[:-1])[::-1])
    return maf


def difference(flow: afnp.Flow) -> float:
    """Return how far an IAF's ``normalize`` is from its twin's ``generate``."""
    x = noise(100)
    return float(
        np.abs(
            twin(flow).generate(x, backend="numpy")[0] - flow.normalize(x, backend="numba")[0]
        ).max()
    )


def draw(data: dict) -> Figure:
    """Draw the six patterns, and beside them the times."""
    figure = Figure(figsize=(13.8, 6.1))
    caption(figure, __doc__.split("\n")[0])
    left, right = figure.subfigures(1, 2, width_ratios=(1.12, 1))
    axes = left.subplots(2, 3)
    for column, (name, of) in enumerate(data["patterns"].items()):
        for row, (way, (moved, steps)) in enumerate(of.items()):
            draw_pattern(axes[row, column], moved, steps, way)
        axes[0, column].set_title(name, fontweight="bold")
    draw_times(right.subplots(), data["numbers"])
    numbers = data["numbers"]
    cpu = data["machine"]
    note(
        figure,
        "Left: one transform, D = 8. Filled: the output moves with the input. Number: the step in "
        "which the output is known; 0 passes through.\n"
        f"Right: {TRANSFORMS} transforms, D = {D}, two hidden layers of {H}, {numbers['rows']:,} "
        f"rows in float32, one core: {cpu['cpu']}; {cpu['blas']}",
    )
    return figure


def draw_pattern(axes, moved: np.ndarray, steps: np.ndarray, way: str) -> None:
    """Draw who depends on whom, a row an output, coloured and numbered by its step."""
    given, found = ("x", "u") if way == "density" else ("u", "x")
    shade = np.ma.array(np.broadcast_to(steps[:, None], moved.shape), mask=~moved)
    axes.pcolormesh(shade, cmap="cividis", vmin=-1, vmax=SMALL, edgecolors="white", linewidth=1.2)
    for i, step in enumerate(steps):
        color = "white" if step < SMALL / 2 else COLORS["ink"]
        axes.text(i + 0.5, i + 0.5, f"{step}", ha="center", va="center", fontsize=9, color=color)
    axes.set(xlim=(0, SMALL), ylim=(SMALL, 0), aspect="equal", xticks=(), yticks=())
    axes.spines[:].set_visible(True)
    axes.set_xlabel(f"input ${given}_j$")
    axes.set_ylabel(f"{way}: ${found}_i$")


def draw_times(axes, numbers: dict) -> None:
    """Draw a line for each family and direction: fastest and median time of each way to do it."""
    lines = [(name, way) for name in FAMILIES for way in DIRECTIONS]
    y = [line + 0.4 * (line // 2) for line in range(len(lines))]
    for at, (name, way) in zip(y, lines, strict=True):
        work = numbers["passes"][name][way]
        waits = work["depth"] > TRANSFORMS
        for how in (*BACKENDS, "loop") if waits else BACKENDS:
            times = numbers["milliseconds"][f"{name}, {way}, {how}"]
            draw_time(axes, at, times, how, COLORS["red" if waits else "blue"])
        text = (
            f"{name}, {way}: {work['passes']} passes, {work['depth']} steps, "
            f"{work['multiply_adds']:,} mul-adds"
        )
        axes.text(
            0.01, at - 0.42, text, transform=axes.get_yaxis_transform(), fontsize=9.5, va="center"
        )
    all_times = [t for of in numbers["milliseconds"].values() for t in of.values()]
    axes.set_xscale("log")
    axes.set(
        xlim=(min(all_times) / 1.7, max(all_times) * 1.9), ylim=(max(y) + 0.5, -0.8), yticks=()
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("time (ms): mark the fastest call, tick the median")
    axes.spines["left"].set_visible(False)
    axes.set_title(
        "dots: compiled; squares: NumPy; triangles: textbook loop; red: waits", fontsize=10
    )


def draw_time(axes, at: float, times: dict[str, float], how: str, color: str) -> None:
    """Draw one rival: a mark at its fastest call, which is written too, a tick at its median."""
    mark, face = {"numpy": ("s", "white"), "numba": ("o", color), "loop": ("^", "white")}[how]
    at += 0.1 if how == "numba" else -0.02
    axes.plot(
        (times["minimum"], times["median"]), (at, at), "-", color=color, linewidth=1.2, marker=""
    )
    axes.plot(times["median"], at, "|", color=color, markersize=9)
    axes.plot(times["minimum"], at, mark, color=color, markerfacecolor=face, markersize=7)
    left = how == "numba"
    place = times["minimum"] / 1.13 if left else times["median"] * 1.13
    digits = 0 if times["minimum"] > 100 else 1
    text = f"{times['minimum']:,.{digits}f}"
    axes.text(place, at, text, ha="right" if left else "left", va="center", fontsize=9, color=color)
