r"""Imported flows: how long zuko takes to sample, and the same flow here.

.. math:: \text{ratio} = \frac{\text{median seconds of zuko}}{\text{median seconds of afnp}},
          \qquad \text{goal} = D / 2

zuko's masked flows are inverted by D passes of their networks; imported, they sample by
substitution. Both map the same noise to data, in turn, in one process and on one thread each.
Seconds are those of the processor, not of the clock: what else runs on the machine does not count,
though it still shares caches and memory.

Letters: N rows, D features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from figures.bench.command import Others
from figures.common import machine, one_thread

__all__ = ["main", "markdown", "measured"]

RECORD = Path(__file__).parents[1] / "imported.json"
FEATURES = (6, 43, 64, 784)
KINDS = ("MAF", "NSF")
ROWS = {6: 100, 43: 100, 64: 100, 784: 10}
"""N: at D = 784 zuko's splines take too long for many."""
TRANSFORMS, HIDDEN = 3, (256, 256)
PATIENCE = 20.0
"""Seconds of zuko's sampling in one configuration; but always two rounds, and at most nine."""


def measured(kind: str, features: int, patience: float = PATIENCE) -> dict:
    """Return medians and minima of both, and their largest difference, of one configuration."""
    import torch
    import zuko

    from afnp.interop.zuko import from_zuko

    torch.manual_seed(0)
    make = {"MAF": zuko.flows.MAF, "NSF": zuko.flows.NSF}[kind]
    theirs = make(features, transforms=TRANSFORMS, hidden_features=HIDDEN)
    ours = from_zuko(theirs, prove=False)  # the rows that are timed are compared, below
    u = np.random.default_rng(0).standard_normal((ROWS[features], features), dtype=np.float32)
    noise = torch.from_numpy(u)

    @torch.no_grad()
    def their_samples() -> Any:
        return theirs().transform.inv(noise)

    with one_thread():
        x = ours.generate(u, backend="numba")[0]  # compiled now, not beside what is timed
        torch.set_num_threads(1)  # after Numba's first call, which sets OpenMP's threads
        start = time.process_time()
        expected = their_samples()
        rounds = int(np.clip(patience / (time.process_time() - start), 2, 9))
        rivals: dict[str, Callable] = {
            "zuko": their_samples,
            "afnp": lambda: ours.generate(u, backend="numba"),
        }
        seconds = processor_seconds(rivals, rounds)
    with torch.no_grad():
        density = theirs().log_prob(expected).numpy()
    return {
        "kind": kind,
        "features": features,
        "rows": ROWS[features],
        "rounds": rounds,
        "seconds": seconds,
        "ratio": seconds["zuko"]["median"] / seconds["afnp"]["median"],
        "difference": {
            "samples": float(np.abs(x - expected.numpy()).max()),
            "log_prob": float(np.abs(ours.log_prob(expected.numpy()) - density).max()),
        },
    }


def processor_seconds(rivals: dict[str, Callable], rounds: int) -> dict[str, dict[str, float]]:
    """Call rivals in turn; return medians and minima of the processor's time, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, rival in rivals.items():
            start = time.process_time()
            rival()
            times[name].append(time.process_time() - start)
    return {name: {"median": float(np.median(t)), "minimum": min(t)} for name, t in times.items()}


def markdown(record: dict) -> str:
    """Return the table of a record."""
    heads = ("flow", "D", "N", "zuko, ms", "afnp, ms", "ratio", "D / 2", "differences")
    rows = [heads, ("---",) * len(heads)]
    rows += [_row(found) for found in record["flows"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(found: dict) -> tuple[str, ...]:
    """Return one flow's cells: medians and least of the seconds, the largest differences."""
    apart = found["difference"]
    return (
        found["kind"],
        str(found["features"]),
        str(found["rows"]),
        *(_ms(found["seconds"][name]) for name in ("zuko", "afnp")),
        f"{found['ratio']:,.0f}",
        f"{found['features'] / 2:g}",
        f"{apart['samples']:.0e}, {apart['log_prob']:.0e} nats",
    )


def _ms(seconds: dict) -> str:
    return f"{_three(1e3 * seconds['median'])} ({_three(1e3 * seconds['minimum'])})"


def _three(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(argv: list[str] | None = None) -> int:
    """Time zuko's flows and the same flows imported; print the table, or keep its numbers."""
    p = argparse.ArgumentParser("python -m figures.bench imported", description=main.__doc__)
    p.add_argument("--quick", action="store_true", help="D = 6 and 43, two rounds")
    p.add_argument("--keep", action="store_true", help=f"write {RECORD.name} beside the figures")
    args = p.parse_args(argv)
    try:
        import torch
        import zuko
    except ImportError as missing:
        p.exit(2, f"{p.prog}: {missing}; pip install '.[zuko]' brings what is timed here\n")
    others, flows = Others(), []
    for features in FEATURES[: 2 if args.quick else None]:
        for kind in KINDS:
            flows.append(measured(kind, features, 0.0 if args.quick else PATIENCE))
            print(f"{kind}, D = {features}: {flows[-1]['ratio']:,.0f} times as fast", flush=True)
    record = {
        "transforms": TRANSFORMS,
        "hidden": HIDDEN,
        "threads": 1,
        "dtype": "float32",
        "versions": {"torch": torch.__version__, "zuko": zuko.__version__},
        "machine": machine(),
        "cores_others_kept_busy": others.cores(0.0),
        "flows": flows,
    }
    print(markdown(record))
    if args.keep:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0
