"""Kill training at random moments, go on, and compare with the run that was never killed.

``python kills.py FAMILY ENGINE KILLS SEED FOLDER`` prints what it counted, as JSON. A process
of its own, because it forks: each run is a child of a parent that has never entered compiled code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import afnp
from afnp import files
from afnp import model as models

SMALL = {"hidden": (6,), "transforms": 2}

FAMILIES = {
    "made": lambda: afnp.made(4, hidden=(6,)),
    "maf": lambda: afnp.maf(4, **SMALL),
    "maf float32": lambda: afnp.maf(4, dtype=np.float32, **SMALL),
    "maf with batch normalisation": lambda: afnp.maf(4, between="batchnorm", **SMALL),
    "maf with activation normalisation": lambda: afnp.maf(4, between=("actnorm", "lu"), **SMALL),
    "maf with a context": lambda: afnp.maf(4, context=2, **SMALL),
    "iaf": lambda: afnp.iaf(4, **SMALL),
    "realnvp": lambda: afnp.realnvp(4, **SMALL),
    "nice": lambda: afnp.nice(4, **SMALL),
    "nsf": lambda: afnp.nsf(4, **SMALL),
    "nsf of couplings": lambda: afnp.nsf(4, coupling=True, **SMALL),
    "maf_mog": lambda: afnp.maf_mog(4, components=2, **SMALL),
    "tarflow": lambda: afnp.tarflow(4, width=4, heads=1, blocks=1, transforms=2),
    "wavenet": lambda: afnp.wavenet_flow(4, channels=3, layers=2, transforms=2),
    "discrete made": lambda: afnp.DiscreteMADE(4, levels=3, hidden=(6,)),
    "ensemble of orders": lambda: afnp.OrderEnsemble(4, levels=3, hidden=(6,)),
}
"""Every kind of model that fit knows."""

NUMPY_ALONE = {"tarflow", "discrete made", "ensemble of orders"}
"""Without compiled code."""

RUN = {"epochs": 40, "batch_size": 20, "learning_rate": 0.01, "progress": False}


def rows(model, seed):
    rng = np.random.default_rng(seed)
    levels = getattr(model, "levels", None)
    x = rng.integers(levels, size=(100, 4)) if levels else rng.standard_normal((100, 4))
    return x, rng.standard_normal((100, model.context)) if model.context else None


def check_engine(family, model):
    """Raise where training runs by another engine than was asked for, which would be silent."""
    compiled = models.COMPILED_FROM == 0 and family not in NUMPY_ALONE
    engine = model.plan("auto", RUN["batch_size"]).engine
    if engine != ("numba" if compiled else "numpy"):
        raise RuntimeError(f"{family} is trained by {engine}")


def train(family, path):
    model = FAMILIES[family]()
    (x, context), (x_val, context_val) = rows(model, 0), rows(model, 1)
    afnp.fit(
        model,
        x,
        x_val,
        context=context,
        context_val=context_val,
        checkpoint=path,
        resume=True,
        **RUN,
    )
    check_engine(family, model)  # afterwards: what does not compile falls back


def start(family, path):
    """Train in a child; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(family, path)
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def contents(path):
    """All that a checkpoint holds, but for seconds; a file that is not whole raises."""
    header, arrays = files.read(path, "checkpoint")
    header["run"]["history"].pop("seconds")
    return header, {name: a.tobytes() for name, a in arrays.items()}


def written(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_at_random(family, path, rng, longest):
    """Start, kill after a random time or a write; return the child's exit code."""
    before, child = written(path), start(family, path)
    if rng.random() < 0.5:
        deadline = time.monotonic() + longest
        while written(path) == before and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.01))
    else:
        time.sleep(rng.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(family, engine, kills, seed, folder):
    models.COMPILED_FROM = 0 if engine == "numba" else sys.maxsize
    folder, rng = Path(folder), np.random.default_rng(int(seed))
    whole, path = folder / "whole", folder / "c"
    for _ in range(2):  # the first may compile
        whole.unlink(missing_ok=True)
        began = time.monotonic()
        if os.waitstatus_to_exitcode(os.waitpid(start(family, whole), 0)[1]):
            raise RuntimeError("the run that nobody killed has failed")
        longest = time.monotonic() - began
    expected = contents(whole)
    counts = {
        "kills": 0,
        "too late": 0,
        "unreadable": 0,
        "left behind": 0,
        "resumed": 0,
        "equal": 0,
    }
    while counts["kills"] < int(kills):
        for _ in range(4):
            code = kill_at_random(family, path, rng, longest)
            counts["kills" if code < 0 else "too late"] += 1
            try:
                if path.exists():
                    contents(path)
            except files.ModelFileError:
                counts["unreadable"] += 1
            if code == 0:
                break
        counts["resumed"] += 1
        if os.waitstatus_to_exitcode(os.waitpid(start(family, path), 0)[1]):
            raise RuntimeError(f"going on has failed after {counts}")
        counts["equal"] += contents(path) == expected
        path.unlink()
        afnp.save(afnp.made(1, hidden=()), folder / "another")
        counts["left behind"] += len({p.name for p in folder.iterdir()} - {"whole", "another"})
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
