r"""Ranks share the rows of a step to the same bits; how many are worth it is up to the batch.

.. math:: T(K) = c \Big( \frac BK + \sqrt{2 \tfrac BK \ln K} \Big) + h \frac SK + t
          + 4 \lambda \log_2 K + \frac{2 b P}{\beta} \frac{K - 1}K

K processes fit one flow (``afnp.fit(..., comm=comm)``). A batch of B rows falls on them as chance
has it, and the fullest rank sets the pace; c is a row's gradient, h a shard's part that does not
depend on rows, t Adam's step, which every rank takes for itself. Then come two meetings and
two exchanges, of latency λ a level, and the sum of the gradient, P parameters of b bytes, once out
and once back at a bandwidth β.

c, h and t are measured in one process, on one core. The cluster is **on paper**: λ and β are those
of one link. Beside it stands what the busiest of K ranks, started by mpirun, does for a step, its
waiting left out: all in processor time, for the cores may be shared. Where mpi4py or mpirun is
missing, the figure says so and shows the rest. All is compared with one process that cuts no
batch into shards, T(1) with S = 1.

Letters: K ranks, S shards, B rows a batch, P parameters.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.train import Adam
from afnp.train.ranks import CALLS
from figures.common import COLORS, caption, machine, note, one_thread

LATENCY, BANDWIDTH = 5e-6, 10e9
"""Seconds a message, and bytes a second: one link of 100 Gb/s, software included, on paper."""

STEPS = 2
"""An epoch."""

BATCH, EACH = 2048, 512
"""Rows of a batch, and of a batch a rank where it grows with their number."""
LARGE = 32 * BATCH
"""A batch on paper that is worth a cluster."""
PAPER = [2**k for k in range(11)]


def flow_of(quick: bool) -> afnp.Flow:
    """Return the flow of 16 features that is fitted, float64."""
    return afnp.maf(16, hidden=(32, 32) if quick else (256, 256), transforms=5)


def rows_of(n: int) -> np.ndarray:
    """Return n rows (n, 16) with something to learn in them."""
    return np.sinh(np.random.default_rng(0).standard_normal((n, 16)) @ np.tri(16) / 8)


def data(quick: bool = False) -> dict:
    batch, each = (256, 64) if quick else (BATCH, EACH)
    with one_thread():
        costs = costs_of(quick, batch)
    K = [1, 2, 4]
    missing = what_is_missing()
    measured = None
    if not missing:
        strong = [by_ranks(k, batch, quick) for k in K]
        weak = [by_ranks(k, each * k, quick) for k in K]
        measured = {
            "K": K,
            "strong": [run["work"] for run in strong],
            "weak": [run["work"] for run in weak],
            "clock": {"strong": [r["clock"] for r in strong], "weak": [r["clock"] for r in weak]},
            "checksums": [run["theta"] for run in strong],
        }
    size = flow_of(quick).theta.nbytes
    numbers = {
        "parameters": size // 8,
        "batch": batch,
        "each": each,
        "large": LARGE,
        "costs": costs,
        "assumed": {"latency": LATENCY, "bandwidth": BANDWIDTH},
        "missing": missing,
        "measured": measured,
        "paper": {
            "K": PAPER,
            "strong": [seconds_on_paper(k, batch, size, costs) for k in PAPER],
            "large": [seconds_on_paper(k, LARGE, size, costs) for k in PAPER],
            "weak": [seconds_on_paper(k, each * k, size, costs) for k in PAPER],
        },
        "one_process": {
            name: seconds_on_paper(1, rows, size, costs, shards=1)
            for name, rows in (("strong", batch), ("large", LARGE), ("weak", each))
        },
    }
    return {"numbers": numbers, "machine": machine()}


# ---- on paper ------------------------------------------------------------------------------------


def seconds_on_paper(K: int, batch: int, size: int, costs: dict, shards: int = 8) -> float:
    """Return T(K) for a gradient of so many bytes; as many shards as ranks, where these are more.

    Examples
    --------
    >>> costs = {"row": 1.0, "shard": 0.0, "step": 0.0}
    >>> seconds_on_paper(1, 64, 0, costs)
    64.0
    """
    mean = batch / K
    fullest = min(mean + math.sqrt(2 * mean * math.log(K)), batch)
    alone = costs["row"] * fullest + costs["shard"] * max(shards, K) / K + costs["step"]
    messages = 4 * LATENCY * math.log2(K) + 2 * size / BANDWIDTH * (K - 1) / K
    return alone + messages


# ---- measured in one process ---------------------------------------------------------------------


def costs_of(quick: bool, batch: int) -> dict:
    """Return the seconds of a row, of a shard and of a step, from three runs in turn."""
    settings = {"half": (batch // 2, 1), "whole": (batch, 1), "cut": (batch, 8)}
    times = {name: math.inf for name in settings}
    for _ in range(2 if quick else 6):
        for name, (rows, shards) in settings.items():
            times[name] = min(times[name], processor_seconds(quick, rows, shards))
    row = max(times["whole"] - times["half"], 0.0) / (batch - batch // 2)
    shard = max(times["cut"] - times["whole"], 0.0) / 7
    return {"row": row, "shard": shard, "step": adam_seconds(quick)}


def adam_seconds(quick: bool) -> float:
    """Return the processor's least seconds of a step of Adam, compiled as in a fit of many rows."""
    flow = flow_of(quick)
    adam = Adam(flow.theta.size, flow.dtype, backend="numba")
    grad, marks = np.ones_like(flow.theta), []
    for _ in range(30):
        adam.step(flow.theta, grad, rate=1e-3)
        marks.append(time.process_time())
    return float(np.diff(marks).min())


def processor_seconds(quick: bool, batch: int, shards: int) -> float:
    """Return the processor's least seconds of a step, over some epochs."""
    marks: list[float] = []
    x = rows_of(STEPS * batch)
    fit_noting(flow_of(quick), x, batch, lambda: marks.append(time.process_time()), shards=shards)
    return float(np.diff(marks).min()) / STEPS


def fit_noting(flow, x, batch: int, noted, **options) -> None:
    """Fit for a few epochs, with a call after each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        afnp.fit(
            flow,
            x,
            epochs=5,
            batch_size=batch,
            progress=False,
            callbacks=[lambda record: noted()],
            **options,
        )


# ---- measured by ranks ---------------------------------------------------------------------------


class Timed:
    """A communicator that adds up the processor's seconds that are spent in it."""

    def __init__(self, comm):
        self.seconds = 0.0
        for name in CALLS:
            setattr(self, name, self.timed(getattr(comm, name)))

    def timed(self, call):
        """Return the call with a clock around it."""

        def around(*arguments):
            start = time.process_time()
            result = call(*arguments)
            self.seconds += time.process_time() - start
            return result

        return around


def as_a_rank(world, batch: int, quick: bool) -> dict:
    """Fit as one of the ranks; return the least seconds of a step, the busiest rank's, and theta.

    Once without its waiting, in processor time, and once by the clock.
    """
    comm, flow, x = Timed(world), flow_of(quick), rows_of(STEPS * batch)
    size, rank = comm.Get_size(), comm.Get_rank()
    own = x[len(x) * rank // size : len(x) * (rank + 1) // size]
    work: list[float] = []
    clock: list[float] = []

    def noted() -> None:
        work.append(time.process_time() - comm.seconds)
        clock.append(time.perf_counter())

    fit_noting(flow, own, batch, noted, comm=comm)
    busiest = np.max(comm.allgather(np.diff(work)), axis=0)
    return {
        "work": float(busiest.min()) / STEPS,
        "clock": float(np.diff(clock).min()) / STEPS,
        "theta": zlib.crc32(flow.theta.tobytes()),
    }


RANK = """
import importlib, json, sys
batch, quick, root = int(sys.argv[1]), sys.argv[2] == "True", sys.argv[3]
sys.path.insert(0, root)
from mpi4py import MPI
found = importlib.import_module("figures.37_ranks").as_a_rank(MPI.COMM_WORLD, batch, quick)
if MPI.COMM_WORLD.Get_rank() == 0:
    print(json.dumps(found))
"""


def mpirun() -> str | None:
    """Return where mpirun is: beside Python, as the extra's is, or on the path."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return shutil.which("mpirun", path=os.pathsep.join(folders))


def what_is_missing() -> str:
    """Return what ranks would need and is not here; nothing if all is."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py"
    return "" if mpirun() else "mpirun"


def by_ranks(K: int, batch: int, quick: bool) -> dict:
    """Return what ``as_a_rank`` measures, by K ranks of one thread each."""
    root = str(Path(__file__).resolve().parents[1])
    command = [str(mpirun()), "-n", str(K), "--oversubscribe", "--allow-run-as-root"]
    command += [sys.executable, "-c", RANK, str(batch), str(quick), root]
    one = {name: "1" for name in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    env = {**os.environ, **one, "OMPI_MCA_mpi_yield_when_idle": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{K} ranks ended with code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(11.5, 4.9))
    strong, weak = figure.subplots(1, 2)
    paper, measured, one = numbers["paper"], numbers["measured"], numbers["one_process"]
    K, cores = np.array(paper["K"]), data["machine"]["cores"]
    strong.loglog(K, K, ":", color=COLORS["grey"], marker="", label="ideal")
    for name, rows, color, line in (
        ("large", numbers["large"], "green", "--"),
        ("strong", numbers["batch"], "blue", "-"),
    ):
        gain = one[name] / np.array(paper[name])
        label = f"batches of {rows:,}, on paper"
        strong.loglog(K, gain, line, color=COLORS[color], marker="", label=label)
    weak.semilogx(K, np.ones(len(K)), ":", color=COLORS["grey"], marker="", label="ideal")
    label = f"{numbers['each']:,} rows a rank, on paper"
    gain = one["weak"] / np.array(paper["weak"])
    weak.semilogx(K, gain, "-", color=COLORS["blue"], marker="", label=label)
    for axes, name in ((strong, "strong"), (weak, "weak")):
        if measured is not None:
            gain = one[name] / np.array(measured[name])
            label = f"measured on {cores} cores: work alone"
            axes.plot(measured["K"], gain, "o", ls="", color=COLORS["red"], label=label)
        axes.set(xlabel="ranks K", ylabel="one process's time / T(K)")
        axes.legend(loc="best")
    strong.set_title("the same batch for all: speed-up")
    weak.set_title("a batch that grows with K: efficiency")
    weak.set_ylim(0, 1.25)
    caption(figure, claim(numbers))
    note(figure, small_print(data))
    return figure


def worth(numbers: dict, name: str) -> int:
    """Return the largest number of ranks, on paper, of which each is at least half as good as one.

    Examples
    --------
    >>> paper = {"K": [1, 2, 4], "large": [1.0, 0.6, 0.6]}
    >>> worth({"paper": paper, "one_process": {"large": 1.0}}, "large")
    2
    """
    K = np.array(numbers["paper"]["K"])
    gain = numbers["one_process"][name] / np.array(numbers["paper"][name])
    return int(K[gain >= K / 2].max(initial=1))


def claim(numbers: dict) -> str:
    """Return the claim with its numbers."""
    few, many = worth(numbers, "strong"), worth(numbers, "large")
    return (
        f"Ranks share a step to the same bits; on paper, each of {few} still does at least half of "
        f"what one process does on batches of {numbers['batch']:,} rows, and each of {many} on "
        f"batches of {numbers['large']:,}"
    )


def small_print(data: dict) -> str:
    """Return what was measured, and what was assumed."""
    numbers, measured = data["numbers"], data["numbers"]["measured"]
    costs, assumed = numbers["costs"], numbers["assumed"]
    if measured is None:
        said = f"No ranks were measured: {numbers['missing']} is missing here (extra mpi)."
    else:
        alike = len(set(measured["checksums"])) == 1
        ranks = ", ".join(map(str, measured["K"]))
        said = f"{ranks} ranks came to " + ("the same bits." if alike else "DIFFERENT parameters.")
        said += f" By the clock, on {data['machine']['cores']} cores that others use too, a step"
        said += " took " + ", ".join(f"{1e3 * s:.0f}" for s in measured["clock"]["strong"]) + " ms."
    return (
        f"MAF, {numbers['parameters']:,} parameters, float64, one thread a rank. {said}\n"
        f"One core: {1e6 * costs['row']:.1f} µs a row, {1e3 * costs['shard']:.2f} ms a shard, "
        f"{1e3 * costs['step']:.2f} ms a step of Adam. On paper: "
        f"{1e6 * assumed['latency']:.0f} µs a message, {assumed['bandwidth'] / 1e9:.0f} GB/s.\n"
        f"{data['machine']['cpu']}"
    )
