r"""Eight posteriors from simulations, and how well the best classifier tells them from exact ones.

.. math:: \max_\phi \frac1N \sum_n \log q_\phi(\theta_n \mid x_n), \quad
          \theta_n \sim p(\theta), \; x_n \sim p(x \mid \theta_n); \qquad
          \text{best accuracy at } x_o = \tfrac12 + \tfrac12\,
          \mathrm{TV}\big(q_\phi(\theta \mid x_o), p(\theta \mid x_o)\big)

Neural posterior estimation on the benchmark of simulation-based inference (arXiv 2101.04653):
conditional spline flows, trained once a task and number of simulations, are asked for ten
posteriors each. The benchmark published how often a network (C2ST) tells 10,000 samples of each
from 10,000 of the exact posterior, and those numbers of the same method, with one flow, stand
beside ours. Here a few flows are mixed (``afnp.FlowEnsemble``), each with another tenth of the
simulations held out.

The exact posteriors are known up to a constant, and so is the best possible classifier
(:func:`afnp.verify.best_accuracy`): no network comes above it, but for chance. Where it is at or
below a published accuracy, so is any C2ST, and no network has to be trained; for some observations
one was (:func:`afnp.verify.c2st`), which takes minutes each. Nothing saw an observation of the
benchmark, or a sample of its posteriors, before the end: the recipe of 1,000 simulations was chosen
by the log-density of fresh ones, those of 10,000 and 100,000 follow it and were compared with none.
Rows of 100,000 mix two flows, where that was enough, or five; what is run anew mixes five.

``python -m figures posteriors --data DIR`` measures what the record ``posteriors.json`` lacks and
writes it there, observation by observation; DIR holds PyPI's ``sbibm`` 1.1.0, as a wheel or
unpacked. First come all best accuracies, then the networks, which take hours. It may be
interrupted at any time. Without ``--data`` the record is drawn.

Letters: N simulations, D parameters theta, C numbers x of a simulation, M members of an ensemble.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import afnp
from afnp.atomic import write_bytes
from afnp.messages import for_bars
from afnp.verify import best_accuracy, c2st, calibration
from figures import common
from figures.common import COLORS, caption, note
from figures.simulators import OBSERVATIONS, TASKS, References, Task, open_references

RECORD = Path(__file__).with_name("posteriors.json")

PAPER = {
    "two_moons": (0.725, 0.606, 0.542),
    "gaussian_linear": (0.694, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "gaussian_mixture": (0.731, 0.661, 0.555),
    "slcp": (0.975, 0.901, 0.831),
    "bernoulli_glm": (0.863, 0.678, 0.559),
    "bernoulli_glm_raw": (0.900, 0.765, 0.607),
    "sir": (0.815, 0.680, 0.585),
}
"""Mean C2ST of NPE over the ten observations, as published with the benchmark."""

SIMULATIONS = (1_000, 10_000, 100_000)
SAMPLES = 10_000
"""Of each posterior, as many as there are of the exact one."""
FRESH = 1_000
"""Simulations on which an ensemble's calibration is checked."""
SLACK = 0.01
"""What is at most so far above the published number counts as reached."""


class Recipe(NamedTuple):
    """How an ensemble is trained."""

    members: int
    epochs: int
    batch: int
    rate: float
    decay: float
    patience: int = 20
    hidden: tuple[int, ...] = (128, 128)
    transforms: int = 5
    bins: int = 10


RECIPES = {  # of new rows: each keeps the one it was measured with
    1_000: Recipe(5, 100, 50, 1e-3, 1e-2),
    10_000: Recipe(3, 60, 100, 1e-3, 1e-3),
    100_000: Recipe(5, 30, 250, 1e-3, 1e-4),
}


def data(
    quick: bool = False,
    folder: str | os.PathLike | None = None,
    tasks=tuple(TASKS),
    simulations=SIMULATIONS,
    networks: int = OBSERVATIONS,
) -> dict:
    """Measure what is missing, if a folder is given; and read the record."""
    record = known()
    if folder is not None:
        few_first = sorted(tasks, key=lambda name: TASKS[name].parameters)
        rows = [row_of(record, name, N) for N in simulations for name in few_first]
        for wanted in (0, networks):
            for row in tqdm(rows, unit="row", file=for_bars()):
                if "best" not in row or len(row["c2st"]) < wanted:
                    measure(row, open_references(folder, row["task"]), wanted, quick, record)
                    tqdm.write(sentence(row))
    record["rows"] = [row for row in record["rows"] if "best" in row]
    return {"numbers": summary(record), "record": record}


# ---- the record ----------------------------------------------------------------------------------


def known() -> dict:
    """Read the record, or begin one."""
    if RECORD.is_file():
        return json.loads(RECORD.read_text(encoding="utf-8"))
    return {"rows": []}


def keep(record: dict) -> None:
    """Write the record, with its rows in order."""
    order = [(name, N) for name in TASKS for N in SIMULATIONS]
    rows = [row for row in record["rows"] if "best" in row]
    rows.sort(key=lambda row: order.index((row["task"], row["simulations"])))
    write_bytes(RECORD, common.as_json({"rows": rows}).encode())


def row_of(record: dict, name: str, N: int) -> dict:
    """Return the record's row of a task with N simulations; a new one if there is none."""
    for row in record["rows"]:
        if (row["task"], row["simulations"]) == (name, N):
            return row
    row = {"task": name, "simulations": N, "c2st": []}
    record["rows"].append(row)
    return row


def recipe_of(row: dict) -> Recipe:
    """Return the recipe with which a row was measured, or will be."""
    if "recipe" not in row:
        return RECIPES[row["simulations"]]
    return Recipe(**row["recipe"] | {"hidden": tuple(row["recipe"]["hidden"])})


def published(row: dict) -> float:
    """Return the published number that belongs to a row."""
    return PAPER[row["task"]][SIMULATIONS.index(row["simulations"])]


def reached(row: dict) -> bool:
    """Return whether what was published is reached, but for the slack: by any C2ST, or by ours."""
    whole = len(row["c2st"]) == OBSERVATIONS
    found = [np.mean(row["best"]), *([np.mean(row["c2st"])] if whole else [])]
    return bool(min(found) <= published(row) + SLACK)


def summary(record: dict) -> dict:
    """Return means, and what was reached, by the number of simulations."""
    found: dict[str, dict] = {"best": {}, "c2st": {}, "reached": {}, "measured": {}}
    for N in SIMULATIONS:
        rows = [row for row in record["rows"] if row["simulations"] == N]
        found["best"][str(N)] = {row["task"]: float(np.mean(row["best"])) for row in rows}
        found["c2st"][str(N)] = {row["task"]: row["c2st"] for row in rows if row["c2st"]}
        found["measured"][str(N)] = len(rows)
        found["reached"][str(N)] = sum(map(reached, rows))
    return found


def counted(record: dict) -> dict[str, str]:
    """Return what the page counts: rows that reach what was published, with defects, not run."""
    reach, defects, missing = [], [], []
    for N in SIMULATIONS:
        rows = [row for row in record["rows"] if row["simulations"] == N]
        lacking = len(TASKS) - len(rows)
        if rows:
            failed = sum(bool(row["fresh"]["failed"]) for row in rows)
            reach.append(f"{N:,}: {sum(map(reached, rows))} of {len(rows)}")
            defects.append(f"{failed} of {len(rows)} at {N:,}")
        if lacking:
            missing.append(f"{lacking} {'task' if lacking == 1 else 'tasks'} at {N:,}")
    return {
        "reached": f"by simulations: {'; '.join(reach)}",
        "defects": f"found defects of {'; '.join(defects)} simulations",
        "missing": f"Not run yet: {', '.join(missing)} simulations." if missing else "",
    }


def sentence(row: dict) -> str:
    """Say in a line what a row found."""
    said = (
        f"{row['task']}, {row['simulations']:,} simulations: published {published(row):.3f}, "
        f"no classifier above {spread(row['best'])}"
    )
    return said + (f"; C2ST {_network(row)}" if row["c2st"] else "")


def spread(found: list[float]) -> str:
    """Return a mean with two standard errors over observations, or a single number."""
    if len(found) < 2:
        return f"{np.mean(found):.3f}"
    return f"{np.mean(found):.3f} ± {2 * np.std(found, ddof=1) / np.sqrt(len(found)):.3f}"


def markdown(record: dict) -> str:
    """Return the table of a record: a row a task and number of simulations."""
    heads = ["task", "simulations", "published C2ST"]
    heads += ["flows", "ours: no classifier above", "a network", ""]
    lines = [heads, ["---"] * len(heads)]
    for row in record["rows"]:
        cells = [row["task"], f"{row['simulations']:,}", f"{published(row):.3f}"]
        cells += [str(recipe_of(row).members)]
        cells += [spread(row["best"]), _network(row), "" if reached(row) else "missed"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _network(row: dict) -> str:
    """Return what a network reached, and at how many of the observations it was asked."""
    found = row["c2st"]
    if not found:
        return "not run"
    asked = "" if len(found) == OBSERVATIONS else f" ({len(found)} of {OBSERVATIONS})"
    return spread(found) + asked


# ---- a row ---------------------------------------------------------------------------------------


def measure(row: dict, references: References, networks: int, quick: bool, record: dict) -> None:
    """Train an ensemble, and compare its posteriors with exact ones; keep what was found."""
    name, N = row["task"], row["simulations"]
    task, recipe, M = TASKS[name], recipe_of(row), SAMPLES
    seed = zlib.crc32(f"{name} {N}".encode())
    if quick:
        N, M = 200, 200
        recipe = recipe._replace(members=1, epochs=2, hidden=(8,), transforms=1)
    theta, x = simulated(task, N, np.random.default_rng([seed, 0]))
    ensemble, seconds = trained(task, theta, x, recipe)
    exact, observed = references.samples[:, :M], references.x

    def drawn(k: int) -> np.ndarray:
        return ensemble.sample(M, np.random.default_rng([seed, 2, k]), observed[k : k + 1])

    if "best" not in row:
        fresh = simulated(task, FRESH, np.random.default_rng([seed, 1]))
        start = time.process_time()
        samples = [drawn(k) for k in range(OBSERVATIONS)]
        sampling = (time.process_time() - start) / OBSERVATIONS
        row["seconds"] = {"training": seconds, "sampling": sampling}
        row["recipe"] = recipe._asdict()
        row["fresh"] = checked(ensemble, *fresh)
        row["versions"], row["machine"] = common.versions(), common.machine()
        pairs = zip(exact, samples, observed[:, None], strict=True)
        row["best"] = [best(task, ensemble, *pair) for pair in pairs]
    for k in range(len(row["c2st"]), networks):
        row["c2st"].append(c2st(exact[k], drawn(k)))
        if not quick:
            keep(record)
    if not quick:
        keep(record)


def best(task: Task, ensemble: afnp.FlowEnsemble, exact, samples, x: np.ndarray) -> float:
    """Return the best classifier's accuracy between exact samples (M, D) and ours, at x (1, C)."""

    def ratio(theta: np.ndarray) -> np.ndarray:
        log_p = task.log_prior(theta) + task.log_likelihood(theta, x)
        return log_p - ensemble.log_prob(theta, np.repeat(x, len(theta), axis=0))

    return best_accuracy(ratio(exact), ratio(samples.astype(np.float64)))


def checked(ensemble: afnp.FlowEnsemble, theta: np.ndarray, x: np.ndarray) -> dict:
    """Check an ensemble on fresh simulations: mean log-density, and calibration."""
    report = calibration(ensemble, theta, x, rng=0)
    return {
        "nats": float(ensemble.log_prob(theta, x).astype(np.float64).mean()),
        "p_value": report.p_value,
        "failed": report.failed,
        "coverage": {str(level): report.coverage(level) for level in (0.5, 0.9)},
        "sees": report.sees,
    }


def simulated(task: Task, N: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw N parameters from the prior, and simulate: theta (N, D), x (N, C)."""
    theta = task.prior(N, rng)
    if task.bounds is not None and task.bounds[1] is not None:
        inside = (1 - 1e-6) * task.bounds[1]  # no float32 lies on a side of the box
        theta = np.clip(theta, -inside, inside)
    return theta, task.simulate(theta, rng)


def flow_of(task: Task, theta: np.ndarray, x: np.ndarray, recipe: Recipe, seed: int) -> afnp.Flow:
    """Build a spline flow of theta given x, whose samples keep to the prior's box."""
    bounds = None if task.bounds is None else [task.bounds] * task.parameters
    flow = afnp.nsf(
        task.parameters,
        hidden=recipe.hidden,
        transforms=recipe.transforms,
        bins=recipe.bins,
        context=task.outputs,
        preprocess=afnp.preprocessing(theta, bounds=bounds),
        dtype="float32",
        seed=seed,
    )
    flow.standardize_context(x)
    return flow


def trained(task: Task, theta, x, recipe: Recipe) -> tuple[afnp.FlowEnsemble, float]:
    """Train the members, each with another tenth held out; say how many seconds it took."""
    flows, seconds = [], 0.0
    for seed in range(recipe.members):
        rows = np.random.default_rng(seed).permutation(len(theta))
        held, others = np.split(rows, [len(rows) // 10])
        flow = flow_of(task, theta[others], x[others], recipe, seed)
        _, history = common.trained(
            flow,
            theta[others],
            theta[held],
            context=x[others],
            context_val=x[held],
            epochs=recipe.epochs,
            batch_size=recipe.batch,
            learning_rate=recipe.rate,
            weight_decay=recipe.decay,
            patience=recipe.patience,
            seed=seed,
        )
        seconds += history.seconds
        flows.append(flow)
    return afnp.FlowEnsemble(flows), seconds


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    """Draw C2ST over the number of simulations, a panel a task: published beside ours."""
    record = data["record"]
    figure = Figure(figsize=(11, 6.2))
    caption(figure, __doc__.split("\n")[0])
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for ax, name in zip(axes.ravel(), TASKS, strict=True):
        _panel(ax, name, [row for row in record["rows"] if row["task"] == name])
    axes[0, 0].set(ylim=(0.48, 1.0), xlim=(700, 200_000))
    for ax in axes[1]:
        ax.set_xlabel("simulations")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy: 1/2 is exact")
    note(figure, _facts(record))
    return figure


def _panel(ax, name: str, rows: list[dict]) -> None:
    """Draw one task: the published line; ours with each observation, and the networks' points."""
    ax.axhline(0.5, color=COLORS["light"], linewidth=1)
    grey, blue, red = COLORS["grey"], COLORS["blue"], COLORS["red"]
    ax.plot(SIMULATIONS, PAPER[name], color=grey, linestyle="--", marker="s")
    N = [row["simulations"] for row in rows]
    for row in rows:
        at = row["simulations"]
        ax.plot([at] * len(row["best"]), row["best"], "_", color=COLORS["sky"], markersize=7)
        ax.plot([1.25 * at] * len(row["c2st"]), row["c2st"], "x", color=red, markersize=4)
    ax.plot(N, [np.mean(row["best"]) for row in rows], color=blue, linestyle="-", marker="o")
    ax.set(title=name, xscale="log")


def _facts(record: dict) -> str:
    """Say what was measured."""
    if not record["rows"]:
        return "nothing was measured yet"
    members: dict[int, set[int]] = {}
    for row in record["rows"]:
        members.setdefault(row["simulations"], set()).add(recipe_of(row).members)
    flows = ", ".join(
        f"{' or '.join(map(str, sorted(found)))} flows at {N:,}"
        for N, found in sorted(members.items())
    )
    networks = sum(len(row["c2st"]) for row in record["rows"])
    crosses = f"Red crosses: {networks} networks trained on samples. " if networks else ""
    return (
        "Grey squares: published C2ST of NPE with one flow (arXiv 2101.04653). Blue circles: what "
        "no classifier comes above for ours, mean of ten observations (strokes).\n"
        f"{crosses}Mixtures of spline flows: {flows}."
    )
