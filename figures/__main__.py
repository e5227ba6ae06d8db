"""Build figures: ``python -m figures`` all of them, ``python -m figures NAME ...`` some.

Each becomes NAME.png, NAME.svg, and NAME.json with its numbers; sounds, if it makes any, lie beside
them. From another directory: ``python path/to/figures``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import io
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

if (
    not __package__
):  # run by its path: only this folder is known to Python, its parent is what it needs
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from afnp.files import write_bytes  # noqa: E402
from figures import common  # noqa: E402

__all__ = ["build", "main", "names"]


def names() -> list[str]:
    """Return the figures' names, in order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[0-9][0-9]_*.py"))


def claim(name: str) -> str:
    """Return the first line of a figure's docstring, without running the script."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def find(wanted: str) -> str | None:
    """Return the figure that is called by its name, by its name without the number, or by the number."""
    for name in names():
        number, short = name.split("_", 1)
        if wanted in (name, short, number, number.lstrip("0")):
            return name
    return None


def takes_folder(name: str) -> bool:
    """Return whether a figure reads a data set that the user brings."""
    return "folder" in inspect.signature(importlib.import_module(f"figures.{name}").data).parameters


def build(name: str, out: str | Path = common.OUT, quick: bool = False, **given: Path) -> float:
    """Compute and draw one figure; write its picture twice, its numbers once, and whatever ``data`` calls files.

    Returns
    -------
    float
        Seconds taken.
    """
    start = time.perf_counter()
    module = importlib.import_module(f"figures.{name}")
    with common.style():
        data = module.data(quick=quick, **given)
        pictures = {kind: _render(module.draw(data), kind) for kind in ("png", "svg")}
    seconds = time.perf_counter() - start
    record = {
        "figure": name,
        "claim": claim(name),
        "quick": quick,
        "seconds": round(seconds, 2),
        "numbers": data["numbers"],
        "versions": common.versions(),
        "machine": data.get("machine") or common.machine(),
    }
    pictures["json"] = common.as_json(record).encode()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{name}.{kind}": content for kind, content in pictures.items()}
    for file, content in {**written, **data.get("files", {})}.items():
        write_bytes(folder / file, content)
    return seconds


def _render(figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def build_all(chosen: Sequence[str], out: Path, quick: bool, **given: Path) -> list[str]:
    """Build figure after figure; return the names of those that failed."""
    failed = []
    with tqdm(chosen, unit="figure") as bar:
        for name in bar:
            bar.set_description(name)
            try:
                seconds = build(name, out, quick, **given)
            except Exception:
                failed.append(name)
                tqdm.write(f"{name}: FAILED\n{traceback.format_exc()}", file=sys.stderr)
            else:
                tqdm.write(f"{name}: {seconds:.1f} s")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="05_sampling_cost, or sampling_cost, or 5"
    )
    parser.add_argument("--list", action="store_true", help="name the figures and their claims")
    parser.add_argument(
        "--quick", action="store_true", help="small settings, to see that everything runs"
    )
    parser.add_argument(
        "--out", type=Path, default=common.OUT, help="folder to write to (figures/out)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of full data sets, for the figures mnist and outliers",
    )
    options = parser.parse_args(arguments)
    if options.list:
        for name in names():
            print(f"{name:24s} {claim(name)}")
        return 0
    chosen = {wanted: find(wanted) for wanted in options.names}
    unknown = [wanted for wanted, name in chosen.items() if name is None]
    if unknown:
        print(
            f"unknown figure {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr
        )
        return 2
    wanted = sorted({name for name in chosen.values() if name}) or names()
    if options.data is not None and not (len(wanted) == 1 and takes_folder(wanted[0])):
        print(
            "--data: expected one figure that reads a folder: python -m figures mnist --data DIR",
            file=sys.stderr,
        )
        return 2
    given = {} if options.data is None else {"folder": options.data}
    failed = build_all(wanted, options.out, options.quick, **given)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
