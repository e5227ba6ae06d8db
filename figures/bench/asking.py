r"""The parent's side: a process for each library, asked in turn.

.. math:: \text{round } r: \quad
          \text{library}_{r \bmod L},\ \text{library}_{(r + 1) \bmod L},\ \dots

Whatever disturbs the machine then disturbs all libraries alike, and none runs while another is
timed.

Letters: L libraries.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import IO, Any, cast

from figures.bench.configurations import Effort, Operation

__all__ = [
    "Failure",
    "Missing",
    "Worker",
    "clean_environment",
    "dropped_variables",
    "measure",
    "summary",
]

KEPT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NUMBA_CACHE_DIR",
    "PATH",
    "PYTHONPATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "USER",
    "USERPROFILE",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
)
"""Variables that a worker inherits. What sets threads or instruction sets is not among them."""

TUNING = (
    "OPENBLAS_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "NUMBA_",
    "NUMEXPR_",
    "XLA_",
    "JAX_",
    "TORCH_",
    "PYTORCH_",
)


class Failure(RuntimeError):
    """A worker failed, and why."""


class Missing(Failure):
    """A module is not installed."""


def clean_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a worker: nothing that tunes a library, and no accelerator.

    Examples
    --------
    >>> clean_environment(LANG="C")["LANG"]
    'C'
    """
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    package = str(Path(__file__).parents[2])
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [kept.get("PYTHONPATH"), package]))
    return {**kept, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", **changes}


def dropped_variables() -> list[str]:
    """Return the variables about threads and instruction sets that workers do not get."""
    return sorted(name for name in os.environ if name.startswith(TUNING) and name not in KEPT)


class Worker:
    """A library's process.

    Parameters
    ----------
    library : str
        A name in ``LIBRARIES``.
    environment : dict
        See :func:`clean_environment`.
    timeout : float
        Seconds to wait for an answer.
    """

    def __init__(self, library: str, environment: dict[str, str], timeout: float = 600.0):
        self.library, self.timeout = library, timeout
        self.stderr = tempfile.TemporaryFile()
        script = Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=environment,
            encoding="utf-8",
            start_new_session=True,
        )
        self.requests = cast(IO[str], self.process.stdin)
        self.replies = cast(IO[str], self.process.stdout)
        self.answers: queue.Queue[str | None] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.last_words = ""

    def _listen(self) -> None:
        for line in self.replies:
            self.answers.put(line)
        self.answers.put(None)

    def ask(self, do: str, **arguments: Any) -> dict:
        """Send a request, wait for the answer, and return it.

        Raises
        ------
        Missing
            If a module that the library needs is not installed.
        Failure
            If the worker reports an error, dies, or does not answer in time; it is closed then.
        """
        try:
            print(json.dumps({"do": do, **arguments}), file=self.requests, flush=True)
            line = self.answers.get(timeout=self.timeout)
        except BrokenPipeError:
            line = None
        except queue.Empty:
            self.close()
            raise Failure(f"{do}: no answer within {self.timeout:g} seconds") from None
        if line is None:
            self.close()
            raise Failure(
                f"{do}: the process ended, exit code {self.process.returncode}{self.last_words}"
            )
        reply = json.loads(line)
        if "missing" in reply:
            self.close()
            raise Missing(reply["missing"])
        if "error" in reply:
            self.close()
            raise Failure(f"{do}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process: by hanging up, and if it is busy, by force; keep its last line."""
        if self.stderr.closed:
            return
        with suppress(BrokenPipeError):
            self.requests.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join()
        self.replies.close()
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", errors="replace").strip().splitlines()
        self.last_words = f": {lines[-1]}" if lines else ""
        self.stderr.close()


# ---- timing --------------------------------------------------------------------------------------


def measure(
    workers: dict[str, Worker],
    operation: Operation,
    effort: Effort,
    failed: Callable[[str, str], None],
    unhurried: Iterable[str] = (),
) -> dict[str, dict]:
    """Time one operation, all libraries in turn; return a summary for each.

    Parameters
    ----------
    workers : dict
        Library: worker. A worker that fails is taken out.
    operation : Operation
    effort : Effort
    failed : callable
        Called with library and reason.
    unhurried : iterable of str
        Libraries that are not asked at all.
    """
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    spent: dict[str, float] = {}

    def turn(library: str, **how: Any) -> list[float]:
        start = time.perf_counter()
        try:
            return workers[library].ask("time", kind=operation.kind, rows=operation.rows, **how)[
                "seconds"
            ]
        except Failure as failure:
            del workers[library]
            failed(library, str(failure))
            return []
        finally:
            spent[library] = spent.get(library, 0.0) + time.perf_counter() - start
            time.sleep(effort.pause)

    for library in [name for name in workers if name not in set(unhurried)]:
        for time_of_first in turn(library, check=True):
            first[library], seconds[library], spent[library] = time_of_first, [], 0.0
    for r in range(effort.rounds):
        for library in _rotated(list(first), r):
            if library not in workers or _enough(seconds[library], spent[library], effort):
                continue
            quickest = min([first[library], *seconds[library]])
            calls = max(1, min(10, int(effort.turn / quickest)))
            seconds[library] += turn(library, calls=calls, warm=quickest < 0.2)
    return {name: summary(first[name], seconds[name]) for name in first if seconds[name]}


def _enough(seconds: list[float], spent: float, effort: Effort) -> bool:
    """Return whether the time is spent: three calls must be, unless a single one spends it.

    Examples
    --------
    >>> effort = Effort(rounds=9, seconds=2.0, turn=0, pause=0, cold=False)
    >>> [_enough([1.0] * calls, 5.0, effort) for calls in (0, 1, 3)]
    [False, False, True]
    >>> _enough([9.0], 9.0, effort)
    True
    """
    least = 1 if seconds and min(seconds) > effort.seconds else 3
    return spent > effort.seconds and len(seconds) >= least


def _rotated(names: list[str], r: int) -> list[str]:
    """Return the names, a different one first each time.

    Examples
    --------
    >>> _rotated(["a", "b", "c"], 4)
    ['b', 'c', 'a']
    """
    k = r % max(1, len(names))
    return names[k:] + names[:k]


def summary(first: float, seconds: list[float]) -> dict:
    """Return the first call apart, and median and minimum of the others, in seconds.

    Examples
    --------
    >>> summary(5.0, [3.0, 1.0, 2.0])
    {'first': 5.0, 'median': 2.0, 'minimum': 1.0, 'calls': 3}
    """
    return {
        "first": first,
        "median": median(seconds),
        "minimum": min(seconds),
        "calls": len(seconds),
    }
