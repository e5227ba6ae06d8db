"""Measure the checks: ``python -m afnp.verify.mutants``.

``--matrix`` runs the levels on every mutant, ``--false-alarms 1000`` on as many random clean flows,
``--peers`` on released flows of other libraries (extra ``bench``); all take up where they were
interrupted. Without any of them, what was measured is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from afnp.progress import until_unread
from afnp.verify.levels import LEVELS
from afnp.verify.mutants import matrix
from afnp.verify.mutants.registry import MUTANTS

__all__ = ["main"]

ALARMS = {"false_alarms": "clean flows", "plain_alarms": "clean plain functions"}
"""Counts of false alarms in the record, and of what."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a mutant survives ``full`` unexcused, or a clean flow fails."""
    options = _parser().parse_args(arguments)
    if options.matrix:
        kept = Path(f"{options.path}.part")
        found = matrix.kill_matrix(options.levels, kept)
        matrix.write(_merged(matrix.read(options.path), found), options.path)
        kept.unlink(missing_ok=True)
    if options.false_alarms:
        ways = {"path": options.path, "plain": options.plain}
        matrix.alarms(options.false_alarms, options.seed, options.level, **ways)
    if options.peers is not None:
        from afnp.verify import peers

        peers.run(options.peers)
    return show(matrix.read(options.path))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m afnp.verify.mutants", description="Measure the checks."
    )
    parser.add_argument("--matrix", action="store_true", help="run the levels on every mutant")
    parser.add_argument(
        "--levels", nargs="+", choices=LEVELS, default=list(LEVELS), help="levels of the matrix"
    )
    parser.add_argument(
        "--false-alarms", type=int, metavar="N", default=0, help="check N random clean flows"
    )
    parser.add_argument(
        "--plain", action="store_true", help="count on plain functions, in units of their own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first clean flow")
    parser.add_argument(
        "--level", choices=LEVELS, default="full", help="of the clean flows' checks"
    )
    parser.add_argument(
        "--peers",
        nargs="?",
        const="",
        metavar="AGAIN",
        help="check other libraries' flows that the record lacks, or whose name contains AGAIN",
    )
    parser.add_argument("--path", default=matrix.PATH, help="of the record")
    return parser


def _merged(record: dict, found: dict) -> dict:
    """Put new measurements beside those of the levels that were not run again."""
    levels = {
        level: score for level, score in record["levels"].items() if score["of"] == _killable()
    }
    mutants = {
        name: {**{level: record["mutants"].get(name, {}).get(level) for level in levels}, **entry}
        for name, entry in found["mutants"].items()
    }
    ordered = {level: {**levels, **found["levels"]}.get(level) for level in LEVELS}
    levels = {level: score for level, score in ordered.items() if score}
    return {**record, "levels": levels, "styles": found["styles"], "mutants": mutants}


def _killable() -> int:
    return sum(not mutant.equivalent for mutant in MUTANTS.values())


def show(record: dict) -> int:
    """Print scores, survivors and false alarms."""
    status = False
    for name, score in {**record["styles"], **record["levels"]}.items():
        print(f"{name:24s} kills {score['killed']} of {score['of']} mutants")
    for level in record["levels"]:
        for name, reason in matrix.survivors(record, level).items():
            print(f"  {name} survives {level}: {reason or MUTANTS[name].what}")
            status |= level == "full" and not reason
    for kind, what in ALARMS.items():
        count = record.get(kind)
        if count:
            print(
                f"{count['alarms']} false alarms on {count['flows']} {what} "
                f"at level {count['level']}, {count['seconds']:.1f} s a flow"
            )
            for seed, failed in count["failed"].items():
                print(f"  seed {seed}: {', '.join(failed)}")
            status |= bool(count["alarms"])
    return int(status)


if __name__ == "__main__":
    raise SystemExit(until_unread(main))
