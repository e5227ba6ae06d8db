r"""Posterior estimation: how long sbi takes to train and sample a network, and the same one here.

.. math:: \text{ratio} = \frac{\text{seconds of sbi}}{\text{seconds of afnp}}

sbi builds a density estimator q(theta | x), and trains it as ``NPE(...).train`` does; the same
network, imported by ``afnp.interop.sbi.from_sbi``, is trained by ``afnp.fit`` on the same
simulations, in batches of the same size, for as many epochs. Then both draw samples for one
observation. One process, one thread each; seconds are those of the processor, so that what else
runs on the machine does not count, though it still shares caches and memory.

Letters: N simulations, E epochs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import afnp
from figures.bench.command import Others
from figures.common import machine, one_thread
from figures.simulators import TASKS

__all__ = ["main", "markdown", "measured"]

NAMES = ("two_moons", "slcp")
KINDS = {"maf": "affine maps", "nsf": "splines"}
N, EPOCHS, BATCH, SAMPLES = 10_000, 4, 200, 10_000
NETWORK = {"hidden_features": 50, "num_transforms": 5}


def measured(name: str, kind: str, simulations: int = N, epochs: int = EPOCHS) -> dict:
    """Train and sample both, and return their processor seconds."""
    import torch

    from afnp.interop.sbi import from_sbi

    rng = np.random.default_rng(0)
    theta = TASKS[name].prior(simulations, rng)
    x = TASKS[name].simulate(theta, rng)
    with one_thread():
        small = from_sbi(_trained(kind, theta[:500], x[:500], 1)[0])
        _fitted(small, theta[:500], x[:500], 1)  # compiled now, not beside what is timed
        torch.set_num_threads(1)
        estimator, theirs = _trained(kind, theta, x, epochs)
        flow = from_sbi(estimator)
        ours = _fitted(flow, theta, x, epochs)
        condition = torch.as_tensor(x[:1], dtype=torch.float32)
        with torch.no_grad():
            draws = _seconds(lambda: estimator.sample((SAMPLES,), condition=condition))
        mine = _seconds(lambda: flow.sample(SAMPLES, rng=0, context=x[:1]))
    return {
        "task": name,
        "kind": kind,
        "epoch": {"sbi": theirs / epochs, "afnp": ours / epochs},
        "samples": {"sbi": draws, "afnp": mine},
    }


def _trained(kind: str, theta: np.ndarray, x: np.ndarray, epochs: int) -> tuple[Any, float]:
    """Return sbi's estimator, and the processor seconds of its training."""
    import torch
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn
    from sbi.utils.tracking import TensorBoardTracker
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(0)
    options = {**NETWORK, "num_bins": 10} if kind == "nsf" else NETWORK
    rows = [torch.as_tensor(part, dtype=torch.float32) for part in (theta, x)]
    with TemporaryDirectory() as folder, SummaryWriter(folder) as writer:  # not where we are
        inference = NPE(
            density_estimator=posterior_nn(kind, **options),
            show_progress_bars=False,
            tracker=TensorBoardTracker(writer),
        )
        inference.append_simulations(*rows)
        start = time.process_time()
        estimator = inference.train(
            training_batch_size=BATCH, max_num_epochs=epochs, stop_after_epochs=epochs + 1
        )
        seconds = time.process_time() - start
    return estimator.eval(), seconds


def _fitted(flow: afnp.Flow, theta: np.ndarray, x: np.ndarray, epochs: int) -> float:
    """Train a flow, a tenth of the rows held out as sbi does; return processor seconds."""
    held = len(theta) // 10
    start = time.process_time()
    afnp.fit(
        flow,
        theta[held:],
        theta[:held],
        context=x[held:],
        context_val=x[:held],
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=5e-4,
        progress=False,
    )
    return time.process_time() - start


def _seconds(draw: Callable[[], Any], rounds: int = 3) -> float:
    """Return the median of the processor seconds of a few calls, after one that is not counted."""
    draw()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        draw()
        times.append(time.process_time() - start)
    return float(np.median(times))


def markdown(rows: list[dict]) -> str:
    """Return the table of what was measured."""
    heads = ["task", "flow", "an epoch: sbi, afnp, s", "ratio"]
    heads += [f"{SAMPLES:,} samples: sbi, afnp, s", "ratio"]
    lines = [heads, ["---"] * len(heads)]
    for found in rows:
        cells = [found["task"], KINDS[found["kind"]]]
        for what in ("epoch", "samples"):
            theirs, ours = found[what]["sbi"], found[what]["afnp"]
            cells += [f"{theirs:.3g}, {ours:.3g}", f"{theirs / ours:.1f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Time sbi's estimators and the same ones imported; print the table."""
    p = argparse.ArgumentParser("python -m figures.bench posteriors", description=main.__doc__)
    p.add_argument("--quick", action="store_true", help="500 simulations, one epoch")
    args = p.parse_args(argv)
    size = {"simulations": 500, "epochs": 1} if args.quick else {}
    try:
        versions = {name: metadata.version(name) for name in ("sbi", "torch")}
    except metadata.PackageNotFoundError as missing:
        p.exit(2, f"{p.prog}: {missing}; pip install '.[sbi]' brings what is timed here\n")
    others = Others()
    rows = [measured(name, kind, **size) for name in NAMES for kind in KINDS]
    print(f"{versions}, {machine()}, cores that others kept busy: {others.cores(0.0)}")
    print(markdown(rows))
    return 0
