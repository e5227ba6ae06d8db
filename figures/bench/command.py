r"""The benchmark as a whole: prove, then time, configuration by configuration.

.. math:: \text{useful work of } N \text{ rows} =
          2 N \sum_{\text{rows of all masks}} \mathrm{prefix}

A multiplication and an addition for every one in the masks: what afnp's triangular products do, and
what is left of the others' dense products when zeros do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from tqdm import tqdm

from afnp.messages import for_bars
from figures.bench import proof
from figures.bench.asking import (
    Failure,
    Missing,
    Worker,
    clean_environment,
    dropped_variables,
    measure,
)
from figures.bench.configurations import CONFIGURATIONS, FULL, MACHINE, QUICK, Configuration, Effort
from figures.bench.libraries import PEERS
from figures.bench.report import markdown

__all__ = ["Benchmark", "main"]

SLOW = 0.5
"""Seconds: where a few samples take longer than this, many are not asked for."""


class Benchmark:
    """One run.

    Parameters
    ----------
    libraries : list of str
    effort : Effort
    threads : int
        Cores that each worker may use; 0 for all.
    say : callable
        Told what is being done.
    """

    def __init__(
        self, libraries: list[str], effort: Effort, threads: int, say: Callable[[str], None]
    ):
        self.libraries, self.effort, self.threads, self.say = libraries, effort, threads, say
        self.started = time.perf_counter()
        self.result: dict = {
            "machine": {**_machine(), "threads": threads or len(_cores())},
            "dropped_variables": dropped_variables(),
            "libraries": {},
            "missing": {},
            "configurations": {},
        }

    def run(self, configuration: Configuration) -> None:
        """Prove and time one configuration; what fails is noted; Ctrl-C keeps what is there."""
        self.say(f"{configuration.name}: proof")
        found: dict = {
            "features": configuration.features,
            "hidden": configuration.hidden,
            "transforms": configuration.transforms,
            "bins": configuration.bins,
            "parameters": configuration.parameters,
            "operations": [operation.name for operation in configuration.operations],
            "proofs": {},
            "start": {},
            "seconds": {},
            "peak_memory": {},
            "failed": {},
            "others": None,
        }
        self.result["configurations"][configuration.name] = found
        for name in self.libraries:
            if name not in self.result["missing"]:
                self._prove(name, configuration, found)
        self._time(configuration, found)

    def _worker(
        self, name: str, configuration: Configuration, **environment: str
    ) -> tuple[Worker, dict]:
        worker = Worker(name, clean_environment(**environment))
        return worker, worker.ask("setup", threads=self.threads, **configuration.request())

    def _prove(self, name: str, configuration: Configuration, found: dict) -> None:
        try:
            worker, setup = self._worker(name, configuration)
            with closing(worker), tempfile.TemporaryDirectory() as folder:
                path = worker.ask("prove", path=str(Path(folder) / "shown.npz"), rows=proof.ROWS)[
                    "path"
                ]
                found["proofs"][name] = proof.prove(
                    name, configuration, setup["parameters"], path
                )._asdict()
                self.result["libraries"].setdefault(name, worker.ask("about"))
        except Missing as missing:
            self.result["missing"][name] = str(missing)
        except proof.NotTheSame as difference:
            found["failed"][name] = f"not the same flow: {difference}"
        except Failure as failure:
            found["failed"][name] = str(failure)

    def _time(self, configuration: Configuration, found: dict) -> None:
        workers: dict[str, Worker] = {}
        others, self.processor = Others(), 0.0  # processor time of the workers that have ended

        def failed(name: str, reason: str) -> None:
            found["failed"][name] = reason

        try:
            for name in [*found["proofs"], "machine"]:
                if name in found["failed"]:
                    continue
                self.say(f"{configuration.name}: start {name}")
                try:
                    workers[name], found["start"][name] = self._worker(name, configuration)
                except Failure as failure:
                    failed(name, str(failure))
            self._time_machine(workers, found, failed)
            for operation in configuration.operations:
                self.say(f"{configuration.name}: {operation.name}")
                times = found["seconds"]
                slow = [
                    name
                    for name, of in times.items()
                    if of.get(operation.cheaper, {"minimum": 0.0})["minimum"] > SLOW
                ]
                for name, summary in measure(workers, operation, self.effort, failed, slow).items():
                    times.setdefault(name, {})[operation.name] = summary
            for name in list(workers):
                self._end(name, workers, found)
            found["others"] = others.cores(self.processor)
        finally:
            for worker in workers.values():
                worker.close()

    def _time_machine(self, workers: dict[str, Worker], found: dict, failed: Callable) -> None:
        """Measure what the machine can do, in the same run, and let its worker go."""
        alone = {"machine": workers["machine"]} if "machine" in workers else {}
        for operation in MACHINE:
            self.say(f"machine: {operation.kind}")
            quick = self.effort._replace(rounds=min(10, self.effort.rounds))
            for summary in measure(alone, operation, quick, failed).values():
                each = operation.rows / summary["minimum"] / 1e9
                if operation.kind == "matmul":
                    found["machine_gflops"] = 2 * operation.rows**2 * each
                elif operation.kind == "copy":
                    found["machine_gbytes"] = 2 * 4 * each
                else:
                    found["machine_read_gbytes"] = 4 * each
        found["start"].pop("machine", None)
        if "machine" in workers:
            self._end("machine", workers, found)
            found["peak_memory"].pop("machine", None)

    def _end(self, name: str, workers: dict[str, Worker], found: dict) -> None:
        """Note a worker's peak memory and its processor time, and let it go."""
        try:
            used = workers[name].ask("memory")
            found["peak_memory"][name] = used["peak"]
            self.processor += used["processor"]
        except Failure as failure:
            found["failed"][name] = str(failure)
        workers.pop(name).close()

    def compilation(self, configuration: Configuration) -> None:
        """Measure what a fresh installation compiles, once, before the kernels lie on the disk."""
        self.say("afnp: compilation of a fresh installation")
        with tempfile.TemporaryDirectory() as folder:
            try:
                worker, _ = self._worker("afnp", configuration, NUMBA_CACHE_DIR=folder)
                calls = {
                    kind: worker.ask("time", kind=kind, rows=1000, calls=2)["seconds"]
                    for kind in ("log_prob", "sample", "train")
                }
                worker.close()
            except Failure as failure:
                self.result["compilation_failed"] = str(failure)
                return
        self.result["compilation"] = {
            kind: first - second for kind, (first, second) in calls.items()
        }


def _first_results(found: dict) -> dict[str, float]:
    """Return the seconds from the start of the import to the first log-densities."""
    times = found["seconds"]
    needed = "log_prob 1000"
    return {
        name: start["import"] + start["build"] + times[name][needed]["first"]
        for name, start in found["start"].items()
        if needed in times.get(name, {})
    }


def _useful_gflops(found: dict) -> dict[str, dict[str, float]]:
    """Return 2 N · (ones in the masks) / median seconds of densities and samples."""
    rates: dict[str, dict[str, float]] = {}
    for name, times in found["seconds"].items():
        for operation, summary in times.items():
            kind, rows = operation.split()
            if kind in ("log_prob", "sample") and int(rows) > 1:
                work = 2 * int(rows) * found["proofs"][name]["connections"]
                rates.setdefault(name, {})[operation] = work / summary["median"] / 1e9
    return rates


# ---- the machine ---------------------------------------------------------------------------------


def _cores() -> list[int]:
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


class Others:
    """How busy other programs keep the machine, from now on."""

    def __init__(self) -> None:
        self.ticks = _ticks()
        self.own = time.process_time()
        self.start = time.perf_counter()

    def cores(self, workers: float) -> float | None:
        """Return how many cores others kept busy on average, or None."""
        ticks = _ticks()
        if ticks is None or self.ticks is None:
            return None
        busy = (ticks - self.ticks) / os.sysconf("SC_CLK_TCK")
        ours = time.process_time() - self.own + workers
        return max(0.0, busy - ours) / (time.perf_counter() - self.start)


def _ticks() -> int | None:
    """Return the busy time of all cores since the start, in ticks, or None if not known."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, *interrupts = (int(n) for n in first.split()[1:9])
    return user + nice + system + sum(interrupts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _machine() -> dict:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


# ---- the command ---------------------------------------------------------------------------------


def _names(known: dict | list) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        wrong = [name for name in names if name not in known]
        if wrong or not names:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {text!r}")
        return names

    return parse


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the command's arguments."""
    p = argparse.ArgumentParser(
        prog or "python -m figures.bench", description=(main.__doc__ or "").splitlines()[0]
    )
    p.add_argument("--quick", action="store_true", help="few repeats: a look, not a result")
    p.add_argument(
        "--configs",
        type=_names(list(CONFIGURATIONS)),
        default=list(CONFIGURATIONS),
        metavar="NAME,...",
        help=f"some of {','.join(CONFIGURATIONS)} (default all)",
    )
    p.add_argument(
        "--libraries",
        type=_names(["afnp", *PEERS]),
        default=["afnp", *PEERS],
        metavar="NAME,...",
        help=f"some of {','.join(['afnp', *PEERS])} (default all)",
    )
    p.add_argument(
        "--threads", type=int, default=0, metavar="N", help="cores for each library (default all)"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="write bench.md and bench.json there")
    p.add_argument("--force", action="store_true", help="overwrite files of an earlier run")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Time afnp beside other flow libraries; print tables, and write them with their numbers.

    Returns
    -------
    int
        0; 1 if a library failed or computes something else; 2 for arguments that make no sense; 130
        after Ctrl-C, with what was measured until then.
    """
    p = parser(prog)
    args = p.parse_args(argv)
    if args.threads and not 0 < args.threads <= len(_cores()):
        p.error(f"--threads: expected 1 to {len(_cores())}, got {args.threads}")
    if args.threads and not hasattr(os, "sched_setaffinity"):
        p.error("--threads: this system cannot bind a process to cores")
    files = [] if args.out is None else [args.out / "bench.md", args.out / "bench.json"]
    for path in files:
        if path.exists() and not args.force:
            p.error(f"{path} exists; --force overwrites it")
    configurations = [CONFIGURATIONS[name] for name in args.configs]
    effort = QUICK if args.quick else FULL
    with tqdm(total=len(configurations), desc="bench", disable=args.quiet, file=for_bars()) as bar:
        benchmark = Benchmark(args.libraries, effort, args.threads, bar.set_postfix_str)
        interrupted = _run(benchmark, configurations, bar)
    result = benchmark.result
    for found in result["configurations"].values():
        found["useful_gflops"], found["first_result"] = _useful_gflops(found), _first_results(found)
    result["total_seconds"] = time.perf_counter() - benchmark.started
    text = markdown(result)
    print(text)
    if files:
        args.out.mkdir(parents=True, exist_ok=True)
        files[0].write_text(text, encoding="utf-8")
        files[1].write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if interrupted:
        print("afnp: interrupted", file=sys.stderr)
        return 130
    return 1 if any(found["failed"] for found in result["configurations"].values()) else 0


def _run(benchmark: Benchmark, configurations: list[Configuration], bar: tqdm) -> bool:
    """Run all configurations; return whether Ctrl-C ended it."""
    try:
        if benchmark.effort.cold and "afnp" in benchmark.libraries:
            benchmark.compilation(configurations[0])
        for configuration in configurations:
            benchmark.run(configuration)
            bar.update()
    except KeyboardInterrupt:
        return True
    return False
