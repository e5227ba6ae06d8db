"""Build figures: ``python -m figures`` all of them, ``python -m figures NAME ...`` some.

Each becomes NAME.png, NAME.svg, and NAME.json with its numbers; sounds, if it makes any, lie beside
them. From another directory: ``python path/to/figures``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

if not __package__:  # run by its path: Python knows this folder alone, and needs its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from afnp.messages import for_bars  # noqa: E402
from afnp.progress import until_unread  # noqa: E402
from figures import building, common, thumbnails  # noqa: E402

__all__ = ["build_all", "main"]


def build_all(
    chosen: Sequence[str], out: Path, quick: bool, jobs: int = 1, **given: Path
) -> list[str]:
    """Build figures, and say when each is done; return the names of those that failed."""
    failed = []
    with tqdm(total=len(chosen), unit="figure", file=for_bars()) as bar:

        def say(running: Sequence[str]) -> None:
            bar.set_postfix_str(", ".join(running))

        if min(jobs, len(chosen)) > 1:
            results = building.side_by_side(chosen, out, quick, say, jobs)
        else:
            results = building.in_turn(chosen, out, quick, say, **given)
        for name, seconds, trouble in results:
            bar.update()
            if trouble:
                failed.append(name)
                tqdm.write(f"{name}: FAILED\n{trouble}", file=for_bars())
            else:
                tqdm.write(f"{name}: {seconds:.1f} s")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name in building.names():
            print(f"{name:24s} {building.claim(name)}")
        return 0
    chosen = {wanted: building.find(wanted) for wanted in options.names}
    unknown = [wanted for wanted, name in chosen.items() if name is None]
    if unknown:
        known = ", ".join(building.names())
        print(f"unknown figure {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    if options.jobs < 1:
        print(f"--jobs: expected a positive number, got {options.jobs}", file=sys.stderr)
        return 2
    wanted = sorted({name for name in chosen.values() if name}) or building.names()
    if options.gallery:
        return _keep(wanted, options.out)
    given = {} if options.data is None else {"folder": options.data}
    if given and not (len(wanted) == 1 and building.takes_folder(wanted[0])):
        print(
            "--data: expected a figure that reads a folder: python -m figures outliers --data DIR; "
            "the papers' tables: python -m figures.papers",
            file=sys.stderr,
        )
        return 2
    return _build(wanted, options, given)


def _build(wanted: list[str], options: argparse.Namespace, given: dict[str, Path]) -> int:
    start = time.perf_counter()
    failed = build_all(wanted, options.out, options.quick, options.jobs, **given)
    seconds = time.perf_counter() - start
    print(f"{len(wanted) - len(failed)} of {len(wanted)} figures in {seconds:.0f} s: {options.out}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _keep(wanted: list[str], out: Path) -> int:
    missing = thumbnails.keep(wanted, out)
    if missing:
        print(f"not drawn in {out}, or only --quick: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="05_sampling_cost, or sampling_cost, or 5")
    add("--list", action="store_true", help="name the figures and their claims")
    add("--quick", action="store_true", help="small settings, to see that everything runs")
    add("--out", type=Path, default=common.OUT, help="folder to write to (figures/out)")
    add(
        "--jobs",
        type=int,
        default=building.cores(),
        metavar="N",
        help="figures side by side (as many as there are cores)",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of a full data set, for the figures outliers and posteriors",
    )
    add(
        "--gallery",
        action="store_true",
        help="make the small pictures in figures/gallery of what has been drawn",
    )
    return parser


if __name__ == "__main__":
    sys.exit(until_unread(main))
