r"""One library in a process of its own: requests on stdin, answers on stdout, in lines of JSON.

.. math:: \{\text{"do"}: \text{setup, about, prove, time, memory, quit}, \dots\} \to \{\dots\}

An answer is a dict; ``{"missing": NAME}`` when a module is not installed, ``{"error": TEXT}`` when
something fails.

The file runs by its path, not as a module: a peer's process must import nothing before its library,
neither NumPy nor afnp. What libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["Session", "main"]


class Session:
    """A library, its flow, and what can be asked of them.

    Parameters
    ----------
    library : object
        One of ``LIBRARIES``.
    """

    def __init__(self, library):
        self.library = library
        self.calls = {}
        self.seed = 0
        self.bins = 0

    def setup(
        self,
        features: int,
        hidden: int,
        transforms: int,
        bins: int = 0,
        seed: int = 0,
        threads: int = 0,
    ) -> dict:
        """Import the library and build the flow; return the seconds of both."""
        if threads:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        start = time.perf_counter()
        self.library.load()
        loaded = time.perf_counter()
        self.library.build(features, hidden, transforms, seed, bins)
        built = time.perf_counter()
        self.features, self.seed, self.bins = features, seed, bins
        return {
            "import": loaded - start,
            "build": built - loaded,
            "parameters": self.library.parameters,
        }

    def about(self) -> dict:
        """Return versions, threads, and the matrix products in use."""
        from importlib import metadata

        try:
            version = metadata.version(self.library.package)
        except metadata.PackageNotFoundError:
            version = "(source tree)"
        products = getattr(self.library, "products", _numpy_products)()
        return {"version": version, "threads": self.library.threads(), "products": products}

    def prove(self, path: str, rows: int) -> dict:
        """Write the networks, some rows, and what the library makes of them to an .npz file."""
        import numpy as np

        x = self._normal(rows)
        if self.bins:
            x *= 3  # one number in ten then lies beyond the splines' bound
        arrays: dict = {}
        for k, network in enumerate(self.library.networks()):
            arrays[f"{k}_before"], arrays[f"{k}_after"] = network["before"], network["after"]
            for l, triple in enumerate(
                zip(network["W"], network["mask"], network["b"], strict=True)
            ):
                arrays.update(zip((f"{k}_W{l}", f"{k}_mask{l}", f"{k}_b{l}"), triple, strict=True))
            arrays[f"{k}_raw"] = self.library.raw(k, x)
        log_prob = self.library.log_prob(self.library.data(x))
        arrays = {"x": x, "log_prob": log_prob, **arrays}
        np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})
        return {"path": path}

    def time(
        self, kind: str, rows: int, calls: int = 1, warm: bool = False, check: bool = False
    ) -> dict:
        """Call an operation; return the seconds of each call.

        Parameters
        ----------
        kind : {"log_prob", "sample", "train", "alternating", "matmul", "copy", "read"}
        rows, calls : int
        warm : bool
            Call once before, untimed: others have had the caches and the cores meanwhile.
        check : bool
            Refuse a result that is not finite.
        """
        call = self._call(kind, rows)
        if warm:
            call()
        seconds = []
        result = None
        # but not switched off: what a library leaves lying about in a long call is its own affair
        gc.collect()
        for _ in range(calls):
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
        if check:
            _check_finite(result, kind)
        return {"seconds": seconds}

    def memory(self) -> dict:
        """Return the peak memory so far, MiB or None if not known, and processor time, seconds."""
        return {"peak": _peak_memory(), "processor": time.process_time()}

    def _normal(self, rows: int):
        import numpy as np

        rng = np.random.default_rng([self.seed, rows])
        return rng.standard_normal((rows, self.features), dtype=np.float32)

    def _call(self, kind: str, rows: int) -> Callable:
        """Return the operation as a function without arguments; its data are made once."""
        if (kind, rows) not in self.calls:
            self.calls[kind, rows] = self._made(kind, rows)
        return self.calls[kind, rows]

    def _made(self, kind: str, rows: int) -> Callable:
        library = self.library
        if kind in ("matmul", "copy", "read"):
            return getattr(library, kind)(rows)
        if kind == "sample":
            return lambda: library.sample(rows)
        if kind in ("log_prob", "train"):
            function = getattr(library, kind)
            x = library.data(self._normal(rows))
            return lambda: function(x)
        if kind == "alternating":
            parts = [
                self._call("log_prob", 1000),
                self._call("train", 100),
                self._call("sample", rows),
            ]
            return lambda: [part() for part in parts][-1]
        raise ValueError(f"kind: expected an operation, got {kind!r}")


def _check_finite(result, kind: str) -> None:
    import numpy as np

    if (
        result is not None
        and not isinstance(result, list)
        and not np.isfinite(np.asarray(result)).all()
    ):
        raise FloatingPointError(f"{kind}: a result is not finite")


def _numpy_products() -> list[str]:
    """Return what threadpoolctl says of NumPy's matrix product in this process."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return ["NumPy's BLAS not known: threadpoolctl is not installed"]
    return [
        f"NumPy's {info['internal_api']} {info['version'] or ''}, kernel "
        f"{info.get('architecture', 'not known')}, {info['num_threads']} threads"
        for info in threadpool_info()
        if info["user_api"] == "blas" and "scipy." not in info["filepath"]
    ]


def _peak_memory() -> float | None:
    """Return the peak memory of this program alone, MiB, unlike getrusage after a fork."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


COMMANDS = ("setup", "about", "prove", "time", "memory")


def answer(session: Session, request: dict) -> dict:
    """Carry out one request; failures are answers too.

    Examples
    --------
    >>> answer(Session(None), {"do": "dance"})
    {'error': "ValueError: do: expected one of setup, about, prove, time, memory, got 'dance'"}
    """
    arguments = dict(request)
    do = arguments.pop("do", None)
    try:
        if do not in COMMANDS:
            raise ValueError(f"do: expected one of {', '.join(COMMANDS)}, got {do!r}")
        return getattr(session, do)(**arguments)
    except ModuleNotFoundError as error:
        return {"missing": error.name or str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def main(name: str) -> None:
    """Answer requests until told to quit, or until nobody asks any more."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    session = Session(_libraries()[name]())
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("do") == "quit":
            break
        print(json.dumps(answer(session, request)), file=channel, flush=True)


def _libraries() -> dict:
    """Load the files beside this one by their paths: by name, they would bring afnp along."""
    found: dict = {}
    for path in sorted(Path(__file__).parent.glob("library_*.py")):
        spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.update(module.LIBRARIES)
    return found


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # this folder's files are not modules of their own
    main(sys.argv[1])
