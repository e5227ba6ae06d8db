r"""The command line: fit, score, sample, verify, and a list of the data sets.

.. math:: \mathrm{DATA} \xrightarrow{\text{fit}} \mathrm{MODEL}, \qquad
          \mathrm{MODEL}, \mathrm{DATA} \xrightarrow{\text{score}} \log p(x_n), \qquad
          \mathrm{MODEL} \xrightarrow{\text{sample}} x_n \sim p

Results go to stdout, progress to stderr. Exit codes: 0, done; 1, a check of ``verify`` failed; 2,
one line on stderr says what to change; 130, interrupted by Ctrl-C or SIGTERM. No command overwrites
a file unless ``--force`` is given, and none writes over what it reads, even then.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from afnp import __version__, data, files, train
from afnp.atomic import check_regular, write_bytes
from afnp.constructors import maf
from afnp.data.dataset import random_split
from afnp.flow import Flow
from afnp.transforms.preprocess import Dequantize, preprocessing
from afnp.verify import LEVELS, Report, check_flow
from afnp.verify.adapters.targets import build, found_object

__all__ = ["main"]

TABLES = (".npy", ".npz", ".csv")

EXAMPLES = """\
examples:
  afnp data                                         list the data sets
  afnp fit two_moons -o moons.afnp                  fit a flow to one of them
  afnp fit rows.csv -o rows.afnp --epochs 300 --patience 30 --dtype float32
  afnp fit rows.csv -o rows.afnp --checkpoint rows.ckpt            Ctrl-C, and later go on:
  afnp fit rows.csv -o rows.afnp --checkpoint rows.ckpt --resume --force
  afnp score moons.afnp new.npy -o log_prob.csv     log-likelihood of each row, in nats
  afnp sample moons.afnp -n 1000 -o samples.csv --seed 7
  afnp verify moons.afnp                            is it really a normalizing flow?
  afnp verify mine.flows:make_flow --features 3     is yours?
  afnp lessons                                      the course, in JupyterLab; --progress says how far you are
  afnp figures two_moons --quick                    draw a figure, with its claim and its numbers

Speed beside other flow libraries is measured by 'python -m figures.bench', in a clone of the project.
DATA is a set that 'afnp data' lists, or a .npy, .npz or .csv file of numbers, one sample a row.
Conditional flows (with a context) are for Python: afnp.fit(flow, x, context=c). Here they can only be verified.
"""


class Parser(argparse.ArgumentParser):
    """Arguments, with errors of one line."""

    def error(self, message: str):
        """Print one line on stderr and exit with code 2."""
        self.exit(2, f"afnp: error: {message} (see '{self.prog} --help')\n")


class Rows(NamedTuple):
    """What a DATA argument stands for."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    levels: int | None


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code.

    Examples
    --------
    >>> main(["data", "two_moons"])                                             # doctest: +ELLIPSIS
    two_moons: ...
    0
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except OSError as error:
        message = (
            f"{error.filename}: {error.strerror}"
            if error.filename and error.strerror
            else str(error)
        )
    except (ValueError, ImportError) as error:
        message = str(error)
    except FloatingPointError as error:
        message = f"{error}; no result was written"
    except MemoryError:
        message = "not enough memory; try fewer rows, or a smaller flow"
    except KeyboardInterrupt as error:
        print("afnp:", str(error) or "interrupted", file=sys.stderr)
        return 130
    print("afnp: error:", " ".join(message.split()), file=sys.stderr)
    return 2


# ---- commands ------------------------------------------------------------------------------------


def fit(args: argparse.Namespace) -> int:
    """Fit a flow, write it, and print its test log-likelihood."""
    _check_output(args.output, args.force)
    _check_checkpoint(args.checkpoint, args.resume)
    _refuse_same(args.output, args.checkpoint, args.data, folder=args.data_folder)
    rows = _rows(args.data, args.data_folder, args.key, args.seed)
    flow = _build(args, rows)
    sizes = " + ".join(f"{len(part):,}" for part in rows[:3])
    print(f"{args.data}: {sizes} rows to train, validate, test; {flow.features} features")
    history = train.fit(
        flow,
        rows.train,
        rows.val,
        epochs=args.epochs,
        batch_size=args.batch_size,
        patience=args.patience,
        learning_rate=args.learning_rate,
        seed=args.seed,
        progress=not args.quiet,
        checkpoint=args.checkpoint,
        resume=args.resume,
    )
    files.save(flow, args.output)
    epochs = f"{len(history.train_loss)} epochs"
    if history.stopped == "interrupted":
        hint = "; --resume --force goes on from the checkpoint" if args.checkpoint else ""
        print(
            f"afnp: interrupted after {epochs}: saved the model so far to {args.output}{hint}",
            file=sys.stderr,
        )
        return 130
    best = f", best {history.best_epoch + 1}" if history.best_epoch is not None else ""
    print(f"{epochs}{best}, {history.seconds:.1f} seconds; wrote {args.output}")
    print(f"test log-likelihood: {_mean(flow, flow.log_prob(rows.test))}")
    return 0


def score(args: argparse.Namespace) -> int:
    """Print the mean log-likelihood of the rows of a file, or of the test rows of a set; write it a row."""
    if args.output:
        _check_output(args.output, args.force, TABLES)
        _refuse_same(args.output, args.model, args.data, folder=args.data_folder)
    flow = _unconditional(args.model)
    if _is_table(args.data):
        x, which = data.read_table(args.data, args.key), f"{args.data}"
    else:
        x, which = _rows(args.data, args.data_folder, args.key).test, f"{args.data}, test rows"
    if x.shape[1] != flow.features:
        raise ValueError(
            f"{args.data}: expected {flow.features} columns, as {args.model} has, got {x.shape[1]}"
        )
    log_prob = flow.log_prob(x)
    if args.output:
        _write_table(args.output, log_prob)
    print(f"{which}: {len(x):,} rows, log-likelihood: {_mean(flow, log_prob)}")
    return 0


def sample(args: argparse.Namespace) -> int:
    """Draw rows and write them to a file."""
    _check_output(args.output, args.force, TABLES)
    _refuse_same(args.output, args.model)
    x = _unconditional(args.model).sample(args.rows, rng=args.seed)
    _write_table(args.output, x)
    print(f"wrote {len(x):,} x {x.shape[1]} to {args.output}")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check a model, or anything that Python can import, print the report, and fail if a check failed."""
    for path in filter(None, (args.json, args.markdown)):
        _check_output(path, args.force)
    _refuse_same(args.json, args.markdown, args.target)
    report = _checked(args)
    print(report)
    for path, text in ((args.json, report.to_json), (args.markdown, report.to_markdown)):
        if path:
            write_bytes(path, (text() + "\n").encode())
    return 0 if report.ok else 1


def _checked(args: argparse.Namespace) -> Report:
    """Check what the argument names: a model file, or package.module:object."""
    options = {"seed": args.seed, "parameters": args.parameters, "level": args.level}
    if ":" not in args.target or Path(args.target).exists():
        if args.features is not None or args.context is not None:
            raise ValueError(
                f"{args.target}: a model file knows its features and context; leave the options out"
            )
        return check_flow(files.load(args.target), **options)
    known = {"features": args.features, "context": args.context}
    options |= {name: value for name, value in known.items() if value is not None}
    return check_flow(build(found_object(args.target)), **options)


def sets(args: argparse.Namespace) -> int:
    """List the data sets, or say all about one."""
    if args.name is None:
        names = data.names()
        width = max(map(len, names))
        print("\n".join(f"{name:{width}s}  {line}" for name, line in names.items()))
        return 0
    found = _load_set(args.name, args.data_folder)
    print(f"{found.name}: {found.description}")
    for part in ("train", "val", "test"):
        print(f"{part + ':':9s}{len(getattr(found, part)):,} rows")
    columns = ", ".join(found.columns[:8]) + (", ..." if len(found.columns) > 8 else "")
    print(f"columns: {len(found.columns)} ({columns})")
    if found.levels:
        print(f"levels:  {found.levels}, dequantised")
    print(f"licence: {found.license}\nsource:  {found.source}")
    return 0


def lessons(args: argparse.Namespace) -> int:
    """Copy the course to ./afnp-lessons, where it keeps your answers, and open it in JupyterLab."""
    return _visit("lessons", ["--folder", "afnp-lessons", *args.arguments])


def figures(args: argparse.Namespace) -> int:
    """Draw figures, with their claims and numbers, into ./afnp-figures."""
    cache = str(Path("afnp-figures", "cache").absolute())
    arguments = ["--out", "afnp-figures", *args.arguments]
    return _visit("figures", arguments, AFNP_FIGURES_CACHE=cache)


VISITORS = {"lessons": "00_contents.ipynb", "figures": "01_chain_rule.py"}
"""What is no part of the package but comes with it, and a file that each can be known by."""


def _visit(name: str, arguments: list[str], **environment: str) -> int:
    """Run ``python -m name`` where it was installed, or from the clone; return its exit code."""
    paths = [str(_home_of(name)), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.call([sys.executable, "-m", name, *arguments], env=environment)


def _home_of(name: str) -> Path:
    """Return the folder that a visitor lies in: the clone's, or the installation's share/afnp."""
    known_by = (name, VISITORS[name])
    clone = Path(__file__).resolve().parents[1]
    if clone.joinpath(*known_by).is_file():
        return clone
    for path in metadata.files("afnp") or ():
        if path.parts[-2:] == known_by:
            return Path(str(path.locate())).resolve().parents[1]
    raise FileNotFoundError(f"the {name} were not installed with this afnp; a clone has them")


# ---- data and models -----------------------------------------------------------------------------


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in TABLES


def _load_set(name: str, folder: str | None) -> data.Dataset:
    if name not in data.names():
        raise ValueError(
            f"{name}: expected a .npy, .npz or .csv file, or a set that 'afnp data' lists"
        )
    if name in data.IN_FOLDER and folder is None:
        raise ValueError(
            f"{name} is read from files of your own; say where they are with --data-folder FOLDER"
        )
    return data.load(name, folder=folder)


def _rows(name: str, folder: str | None, key: str | None, seed: int = 0) -> Rows:
    """Return a set in its own split (always that of seed 0), or a file's rows, dealt 80/10/10 by the seed."""
    if not _is_table(name):
        found = _load_set(name, folder)
        return Rows(found.train, found.val, found.test, found.levels)
    x = data.read_table(name, key)
    if len(x) < 10:
        raise ValueError(
            f"{name}: expected at least 10 rows, to deal them to train, validate and test, got {len(x)}"
        )
    parts = [
        x[rows]
        for rows in random_split(len(x), len(x) // 10, len(x) // 10, np.random.default_rng(seed))
    ]
    return Rows(parts[0], parts[1], parts[2], levels=None)


def _build(args: argparse.Namespace, rows: Rows) -> Flow:
    """Build a MAF for the rows; warn in one line where its widths lose dependencies."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow = maf(
            rows.train.shape[1],
            args.hidden,
            args.transforms,
            args.order,
            seed=args.seed,
            dtype=args.dtype,
            preprocess=preprocessing(rows.train, levels=rows.levels),
        )
    for message in {str(warning.message) for warning in caught}:
        print(f"afnp: warning: {message}", file=sys.stderr)
    return flow


def _unconditional(path: str) -> Flow:
    flow = files.load(path)
    if flow.context:
        raise ValueError(
            f"{path}: needs a context of {flow.context} columns, which the command line does not handle; "
            "in Python: flow.log_prob(x, context), flow.sample(n, context=context)"
        )
    return flow


def _mean(flow: Flow, log_prob: np.ndarray) -> str:
    """Return mean +/- standard error in nats, and for images the bits a dimension."""
    outside = int(np.isneginf(log_prob).sum())
    if outside:
        return f"-inf nats: {outside} of {len(log_prob)} rows have density zero"
    values = log_prob.astype(np.float64)
    text = f"{values.mean():.4f}"
    if len(values) > 1:
        text += f" +/- {values.std(ddof=1) / math.sqrt(len(values)):.4f}"
    text += " nats"
    if any(isinstance(layer, Dequantize) for layer in flow.layers):
        text += f", {float(data.bits_per_dim(values.mean(), flow.features)):.4f} bits/dim"
    return text


# ---- files ---------------------------------------------------------------------------------------


def _check_output(path: Path, force: bool, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse, before any work is done, a path that cannot or must not be written."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(suffixes)}")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: expected a file in a folder that exists")
    check_regular(path)
    if path.exists() and not force:
        raise ValueError(f"{path} exists; --force overwrites it")


def _refuse_same(*paths: Path | str | None, folder: str | None = None) -> None:
    """Refuse two names of one file: no output may be an input, the checkpoint, or a file of a set."""
    named = [Path(path) for path in paths if path is not None]
    for one, other in itertools.combinations(named, 2):
        linked = one.exists() and other.exists() and one.samefile(other)
        if linked or os.path.realpath(one) == os.path.realpath(other):
            raise ValueError(f"{one}: the same file as {other}; expected another name to write to")
    inside = folder is not None and named[0].resolve().parent == Path(folder).resolve()
    if inside and named[0].exists():
        raise ValueError(
            f"{named[0]} is a file of --data-folder; expected another name to write to"
        )


def _check_checkpoint(path: Path | None, resume: bool) -> None:
    if path is None and resume:
        raise ValueError("--resume needs the --checkpoint to go on from")
    if path is not None:
        if path.exists() and not resume:
            raise ValueError(f"{path} exists; --resume goes on from it, or delete it first")
        _check_output(path, force=resume)


def _write_table(path: Path, x: np.ndarray) -> None:
    """Write .npy, .npz or .csv, atomically, with all digits."""
    buffer, suffix = io.BytesIO(), path.suffix.lower()
    if suffix == ".npy":
        np.save(buffer, x)
    elif suffix == ".npz":
        np.savez(buffer, x=x)
    else:
        np.savetxt(buffer, x, delimiter=",", fmt="%.17g" if x.dtype == np.float64 else "%.9g")
    write_bytes(path, buffer.getvalue())


# ---- arguments -----------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, not negative, got {text!r}")
    return int(text)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_count(width) for width in text.split(",")) if text else ()


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "afnp",
        description="Autoregressive normalizing flows.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"afnp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], *shared: Parser) -> Parser:
        about = (run.__doc__ or "").strip()
        added = commands.add_parser(name, help=about, description=about, parents=shared)
        added.set_defaults(run=run)
        return added

    model, source, folder, forced, seeded = (Parser(add_help=False) for _ in range(5))
    model.add_argument("model", metavar="MODEL", help="a file that 'afnp fit' or afnp.save wrote")
    source.add_argument(
        "data", metavar="DATA", help="a set that 'afnp data' lists, or a .npy, .npz or .csv file"
    )
    source.add_argument("--key", metavar="NAME", help="which array of an .npz file")
    folder.add_argument(
        "--data-folder", metavar="FOLDER", help="where the files of MNIST or the UCI sets are"
    )
    forced.add_argument("--force", action="store_true", help="overwrite the file that -o names")
    seeded.add_argument(
        "--seed", type=_count, default=0, help="the same seed gives the same numbers (default 0)"
    )

    _add_fit_options(command("fit", fit, source, folder, forced, seeded))
    command("score", score, model, source, folder, forced).add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write one value a row, .npy, .npz or .csv",
    )
    p = command("sample", sample, model, forced, seeded)
    p.add_argument("-n", "--rows", type=_count, required=True, metavar="N", help="how many rows")
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".npy, .npz or .csv"
    )
    _add_verify_options(command("verify", verify, forced, seeded))
    command("data", sets, folder).add_argument(
        "name", nargs="?", metavar="NAME", help="say all about this set"
    )
    _add_visitor(commands, "lessons", lessons)
    _add_visitor(commands, "figures", figures)
    return parser


def _add_visitor(commands, name: str, run: Callable[[argparse.Namespace], int]) -> None:
    """Add a command that hands all its arguments on; none of them is an option here."""
    about = (run.__doc__ or "").strip()
    p = commands.add_parser(name, help=about, prefix_chars="\0", add_help=False)
    p.add_argument("arguments", nargs="*")
    p.set_defaults(run=run)


def _add_fit_options(p: Parser) -> None:
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL", help="the model file to write"
    )
    p.add_argument(
        "--transforms",
        type=_count,
        default=5,
        metavar="T",
        help="autoregressive transforms (default 5)",
    )
    p.add_argument(
        "--hidden",
        type=_widths,
        default=(128, 128),
        metavar="H,H",
        help='widths, "" for none (default 128,128)',
    )
    p.add_argument(
        "--order",
        choices=("reverse", "natural", "random"),
        default="reverse",
        help="default reverse",
    )
    p.add_argument(
        "--dtype", choices=("float32", "float64"), default="float64", help="default float64"
    )
    p.add_argument("--epochs", type=_count, default=100, metavar="E", help="default 100")
    p.add_argument("--batch-size", type=_count, default=100, metavar="B", help="default 100")
    p.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        metavar="R",
        help="at the start (default 0.001)",
    )
    p.add_argument(
        "--patience", type=_count, metavar="E", help="stop after so many epochs without improvement"
    )
    p.add_argument("--checkpoint", type=Path, metavar="PATH", help="written after every epoch")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint, if it exists")
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_verify_options(p: Parser) -> None:
    p.add_argument(
        "target",
        metavar="MODEL",
        help="a model file, or package.module:object: a flow of any library that "
        "afnp.verify.adapt knows, a dictionary of functions, a function that makes one of these, or a module",
    )
    p.add_argument("--features", type=_count, metavar="D", help="of functions")
    p.add_argument("--context", type=_count, metavar="C", help="of functions (default 0)")
    p.add_argument(
        "--level", choices=tuple(LEVELS), default="full", help="how long to look (default full)"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="write the report as Markdown")
    p.add_argument(
        "--parameters",
        choices=("random", "own"),
        default="random",
        help="check at random parameters, which hide nothing (default), or at the model's own",
    )
