r"""The command line: fit, score, sample, verify, and a list of the data sets.

.. math:: \mathrm{DATA} \xrightarrow{\text{fit}} \mathrm{MODEL}, \qquad
          \mathrm{MODEL}, \mathrm{DATA} \xrightarrow{\text{score}} \log p(x_n), \qquad
          \mathrm{MODEL} \xrightarrow{\text{sample}} x_n \sim p

Results go to stdout, progress to stderr. Exit codes: 0, done; 1, a check of ``verify`` failed; 2,
one line on stderr says what to change; 130, interrupted by Ctrl-C or SIGTERM; 141, nobody reads
what is written any more. No command overwrites a file unless ``--force`` is given, and none writes
over what it reads, even then.
"""

from __future__ import annotations

import argparse
import inspect
import io
import itertools
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import metadata
from pathlib import Path

import numpy as np

from afnp import __version__, constructors, data, rows, train
from afnp.atomic import check_regular, named_errors, write_bytes
from afnp.data.tables import write_parquet
from afnp.ensemble import FlowEnsemble
from afnp.flow import Flow
from afnp.interop import formats
from afnp.messages import say
from afnp.progress import deliver, tell, until_unread
from afnp.train import ranks
from afnp.transforms.preprocess import Dequantize, preprocessing
from afnp.verify import LEVELS, Report, check_flow
from afnp.verify.adapters.targets import build, found_object

__all__ = ["command_line", "main"]

EXAMPLES = """\
examples:
  afnp data                                         list the data sets
  afnp fit two_moons -o moons.afnp                  fit a flow to one of them
  afnp fit rows.csv -o rows.afnp --epochs 300 --patience 30 --dtype float32
  afnp fit rows.csv -o rows.afnp --checkpoint rows.ckpt            Ctrl-C, and later go on:
  afnp fit rows.csv -o rows.afnp --checkpoint rows.ckpt --resume --force
  afnp score moons.afnp new.npy -o log_prob.csv     log-likelihood of each row, in nats
  afnp sample moons.afnp -n 1000 -o samples.csv --seed 7
  afnp plot moons.afnp two_moons -o moons.png       samples beside data, every pair of columns
  mpirun -n 4 afnp fit rows.csv -o rows.afnp        by four processes, which share the rows
  afnp fit stars.csv -o stars.afnp --family nsf --context age,mass --bounds flux:0: --exclude id
  afnp sample stars.afnp -n 1000 --context age=4.6,mass=1 -o -
  afnp verify moons.afnp                            is it really a normalizing flow?
  afnp verify mine.flows:make_flow --features 3     is yours?
  afnp import theirs.pt --maker mine.flows:make_flow -o theirs.afnp
  afnp lessons                                      the course; --progress says how far you are
  afnp figures two_moons --quick                    draw a figure, with its claim and its numbers

Speed beside other libraries is measured by 'python -m figures.bench', in a clone of the project.
DATA is a set that 'afnp data' lists, or a .npy, .npz, .csv or .parquet file, one sample a row. The
names of its columns stay with the model: score wants them, in any order, and sample writes them.
"""


class Parser(argparse.ArgumentParser):
    """Arguments, with errors of one line."""

    def error(self, message: str):
        """Print one line on stderr and exit with code 2."""
        say(f"afnp: error: {message} (see '{self.prog} --help')")
        self.exit(2)


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code.

    Examples
    --------
    >>> main(["data", "two_moons"])                                             # doctest: +ELLIPSIS
    two_moons: ...
    0
    """
    args, unknown = command_line().parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    with _only_the_first_rank_speaks():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run what was asked for; say errors in one line."""
    try:
        with _warnings_in_lines(), _terminated_like_ctrl_c():
            return until_unread(lambda: args.run(args))
    except OSError as error:
        message = str(error)
        if error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"
    except (ValueError, ImportError) as error:
        message = str(error)
    except FloatingPointError as error:
        message = f"{error}; no result was written"
    except ArithmeticError as error:
        message = str(error)
    except MemoryError:
        message = "not enough memory; try fewer rows, or a smaller flow"
    except KeyboardInterrupt as error:
        say(f"afnp: {str(error) or 'interrupted'}")
        return 130
    say(f"afnp: error: {' '.join(message.split())}")
    return 2


@contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Say each warning in one line of its own, once."""
    said = set()

    def line(message, category, *where) -> None:
        text = " ".join(str(message).split())
        if text not in said:
            said.add(text)
            say(f"afnp: warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = line  # type: ignore[assignment]
        yield


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt where nobody else has taken it."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _only_the_first_rank_speaks() -> Iterator[None]:
    """Keep all ranks but the first silent, where mpirun has started several."""
    place = ranks.launched()
    with ExitStack() as stack:
        if place is not None and place[0] > 0:
            nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nothing))
            stack.enter_context(redirect_stderr(nothing))
        yield


# ---- commands ------------------------------------------------------------------------------------


def fit(args: argparse.Namespace) -> int:
    """Fit a flow, write it, and print its test log-likelihood; under mpirun, by all ranks."""
    comm = ranks.world()
    with ranks.Ranks(comm) as all_ranks:
        if all_ranks.first:
            formats.format_of(args.output)
            _check_output(args.output, args.force)
            _check_checkpoint(args.checkpoint, args.resume)
            _refuse_same(args.output, args.checkpoint, args.data, folder=args.data_folder)
        found = rows.read(
            args.data,
            args.data_folder,
            args.key,
            args.seed,
            args.context,
            args.weights,
            args.exclude,
        )
        flow = _build(args, found)
    sizes = " + ".join(f"{len(part.x):,}" for part in found[:3])
    given = f", {flow.context} of context" if flow.context else ""
    shared = f"; {all_ranks.size} ranks" if all_ranks.size > 1 else ""
    tell(
        f"{args.data}: {sizes} rows to train, validate, test; "
        f"{flow.features} features{given}{shared}"
    )
    own = [part.taken(all_ranks.share(len(part.x))) for part in found[:2]]
    with _rows_of_the_file(args.data, found):
        history = train.fit(
            flow,
            own[0].x,
            own[1].x,
            context=own[0].context,
            context_val=own[1].context,
            weights=own[0].weights,
            weights_val=own[1].weights,
            epochs=args.epochs,
            batch_size=args.batch_size,
            patience=args.patience,
            learning_rate=args.learning_rate,
            seed=args.seed,
            progress=not args.quiet,
            checkpoint=args.checkpoint,
            resume=args.resume,
            comm=comm,
            shards=args.shards,
        )
    if not all_ranks.first:
        return 130 if history.stopped == "interrupted" else 0
    formats.save(flow, args.output)
    count = len(history.train_loss)
    epochs = f"{count} epoch" if count == 1 else f"{count} epochs"
    if history.stopped == "interrupted":
        hint = "; --resume --force goes on from the checkpoint" if args.checkpoint else ""
        say(f"afnp: interrupted after {epochs}: saved the model so far to {args.output}{hint}")
        return 130
    best = f", best {history.best_epoch + 1}" if history.best_epoch is not None else ""
    tell(f"{epochs}{best}, {history.seconds:.1f} seconds; wrote {args.output}")
    log_prob = flow.log_prob(found.test.x, found.test.context)
    tell(f"test log-likelihood: {_mean(flow, log_prob, found.test.weights)}")
    _print_gaussian(found)
    _tell_of_whole_numbers(found)
    return 0


@contextmanager
def _rows_of_the_file(name: str, found: rows.Rows) -> Iterator[None]:
    """Say which rows of the file they are that training stumbles over: it counts those dealt."""
    try:
        yield
    except train.RowsNotFinite as error:
        part = found.train if error.table == "x_train" else found.val
        said = ", ".join(map(str, part.numbers[error.rows]))  # type: ignore[index]
        raise FloatingPointError(f"{error}; in {name}: row {said}, counted from 0") from None


def _tell_of_whole_numbers(found: rows.Rows) -> None:
    """Say which columns held whole numbers: what is drawn from a density are none."""
    x = found.train.x
    if found.levels is None:
        names = found.columns or tuple(map(str, range(x.shape[1])))
        whole = [names[i] for i in np.flatnonzero((x == np.floor(x)).all(axis=0))]
        if whole:
            said = ", ".join(whole[:5]) + (", ..." if len(whole) > 5 else "")
            tell(f"columns of whole numbers: {said}; samples of them are real numbers, to round")


def _print_gaussian(found: rows.Rows) -> None:
    """Print what a Gaussian would reach, where there is one: a flow should do better."""
    if found.train.context is None and found.levels is None and found.train.weights is None:
        try:
            values = data.gaussian_log_prob(found.train.x, found.test.x)
        except ValueError:
            return
        tell(f"a Gaussian reaches:  {values.mean():.4f} nats")


def score(args: argparse.Namespace) -> int:
    """Print the mean log-likelihood of the rows of a file, or of the test rows of a set.

    Write it a row.
    """
    if args.output:
        _check_table(args.output, args.force)
        _refuse_same(args.output, args.model, args.data, folder=args.data_folder)
    flow = formats.load(args.model)
    part = rows.for_flow(flow, args.data, args.data_folder, args.key, args.exclude)
    log_prob = flow.log_prob(part.x, part.context)
    which = args.data if rows.is_table(args.data) else f"{args.data}, test rows"
    said = f"{which}: {len(part.x):,} rows, log-likelihood: {_mean(flow, log_prob)}"
    if args.output:
        _write_rows(args.output, log_prob, ("log_prob",), said)
    else:
        tell(said)
    return 0


def sample(args: argparse.Namespace) -> int:
    """Draw rows and write them to a file."""
    _check_table(args.output, args.force)
    _refuse_same(args.output, args.model)
    flow = formats.load(args.model)
    x = flow.sample(args.rows, args.seed, rows.context_of(flow, args.context))
    said = f"wrote {len(x):,} x {x.shape[1]} to {args.output}"
    _write_rows(args.output, x, flow.columns, said)
    return 0


def plot(args: argparse.Namespace) -> int:
    """Draw a model's samples beside data, every pair of columns; or --pit: is its density right."""
    from afnp import plot as plots

    _check_output(args.output, args.force, (".png", ".pdf", ".svg"))
    _refuse_same(args.output, args.model, args.data, folder=args.data_folder)
    flow = formats.load(args.model)
    part = None
    if args.data is not None:
        part = rows.for_flow(flow, args.data, args.data_folder, args.key, args.exclude)
    if args.pit:
        if part is None:
            raise ValueError("--pit needs DATA, to ask whether the density is that of the data")
        figure = plots.pit(flow, part.x, part.context)
    else:
        context = None if part is None else part.context
        if args.context is not None or context is None:
            context = rows.context_of(flow, args.context)
        else:  # as the data have it, so that samples can be compared with them
            rng = np.random.default_rng(args.seed)
            context = context[rng.integers(0, len(context), args.rows)]
        x = None if part is None else part.x
        chosen = args.features.split(",") if args.features else None
        figure = plots.corner(flow, x, args.rows, args.seed, context, chosen)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=args.output.suffix[1:], dpi=150)
    write_bytes(args.output, buffer.getvalue())
    tell(f"wrote {args.output}")
    return 0


def _write_rows(output: Path, x: np.ndarray, columns: Sequence[str] | None, said: str) -> None:
    """Write rows, then say what was done: not among them, if these go to standard output."""
    if output == rows.STDOUT:
        with named_errors("standard output"):
            rows.write(output, x, columns)
        deliver()
        say(said)
    else:
        rows.write(output, x, columns)
        tell(said)


def verify(args: argparse.Namespace) -> int:
    """Check a model, or what Python can import, print the report, and fail if a check failed."""
    for path in filter(None, (args.json, args.markdown)):
        _check_output(path, args.force)
    _refuse_same(args.json, args.markdown, args.target)
    report = _checked(args)
    try:  # whichever of file and standard output is full, the other has the report
        for path, text in ((args.json, report.to_json), (args.markdown, report.to_markdown)):
            if path:
                write_bytes(path, (text() + "\n").encode())
    finally:
        tell(report)
    return 0 if report.ok else 1


def _checked(args: argparse.Namespace) -> Report:
    """Check what the argument names: a model file, or package.module:object."""
    options = {"seed": args.seed, "parameters": args.parameters, "level": args.level}
    if ":" not in args.target or Path(args.target).exists():
        if args.features is not None or args.context is not None:
            raise ValueError(
                f"{args.target}: a model file knows its features and context; leave the options out"
            )
        return check_flow(formats.load(args.target), **options)
    known = {"features": args.features, "context": args.context}
    options |= {name: value for name, value in known.items() if value is not None}
    return check_flow(build(found_object(args.target)), **options)


def import_flow(args: argparse.Namespace) -> int:
    """Turn a trained flow of another library into a model, after a proof that it is the same."""
    from afnp.interop.torch_file import import_file

    formats.format_of(args.output)
    _check_output(args.output, args.force)
    _refuse_same(args.output, args.theirs)
    flow = import_file(args.theirs, args.maker, args.library)
    formats.save(flow, args.output)
    tell(f"{args.theirs}: {flow.features} features, context of {flow.context}, {flow.dtype}")
    tell(f"wrote {args.output}")
    return 0


def sets(args: argparse.Namespace) -> int:
    """List the data sets, or say all about one."""
    if args.name is None:
        names = data.names()
        width = max(map(len, names))
        tell("\n".join(f"{name:{width}s}  {line}" for name, line in names.items()))
        return 0
    found = rows.load_set(args.name, args.data_folder)
    tell(f"{found.name}: {found.description}")
    for part, x in found.parts().items():
        tell(f"{part + ':':9s}{len(x):,} rows")
    columns = ", ".join(found.columns[:8]) + (", ..." if len(found.columns) > 8 else "")
    tell(f"columns: {len(found.columns)} ({columns})")
    if found.levels:
        tell(f"levels:  {found.levels}, dequantised")
    tell(f"licence: {found.license}\nsource:  {found.source}")
    return 0


def compile_all(args: argparse.Namespace) -> int:
    """Compile all kernels ahead of time; they are kept, and nobody waits for them afterwards."""
    from afnp.compiled import ahead, compiler

    count, place = ahead.compile_ahead(), compiler.folder()
    tell(f"{count} compilations are ready; " + (f"kept in {place}" if place else "not kept"))
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


# ---- models --------------------------------------------------------------------------------------

FAMILIES = {
    "maf": {"hidden": (128, 128)},
    "made": {"hidden": (128, 128)},
    "iaf": {"hidden": (128, 128)},
    "realnvp": {"hidden": (128, 128)},
    "nice": {"hidden": (128, 128)},
    "nsf": {"hidden": (128, 128)},
    "maf_mog": {"hidden": (128, 128)},
    "tarflow": {},
    "wavenet_flow": {},
}
"""Every constructor by its name, and what is not its own default here."""


def _build(args: argparse.Namespace, found: rows.Rows) -> Flow:
    """Build a flow of the family for the rows, with data and context scaled inside it."""
    make = getattr(constructors, args.family)
    train_rows = found.train
    options: dict = dict(FAMILIES[args.family])
    for name in ("hidden", "transforms", "order"):
        value = vars(args)[name]
        if value is not None:
            if name not in _options_of(args.family):
                raise ValueError(f"--{name}: {args.family} has no such option")
            options[name] = value
    bounds = rows.bounds_of(args.bounds, found) if args.bounds else None
    flow = make(
        train_rows.x.shape[1],
        context=0 if train_rows.context is None else train_rows.context.shape[1],
        seed=args.seed,
        dtype=args.dtype,
        preprocess=preprocessing(
            train_rows.x, levels=found.levels, bounds=bounds, weights=train_rows.weights
        ),
        **options,
    )
    flow.columns, flow.context_columns = found.columns, found.context_columns
    if train_rows.context is not None:
        flow.standardize_context(train_rows.context, train_rows.weights)
    return flow


def _options_of(family: str) -> set[str]:
    """Return what a constructor can be told; made has one transform, couplings no order."""
    named = set(inspect.signature(getattr(constructors, family)).parameters)
    return named | ({"order"} if family == "nsf" else set())


def _mean(flow: Flow, log_prob: np.ndarray, weights: np.ndarray | None = None) -> str:
    r"""Return mean +/- standard error in nats, and for images the bits a dimension.

    .. math:: \bar l = \sum_n w_n l_n / W, \qquad
              \mathrm{SE}^2 = \tfrac{N}{N - 1} \sum_n w_n^2 (l_n - \bar l)^2 / W^2, \qquad
              W = \sum_n w_n
    """
    outside = int(np.isneginf(log_prob).sum())
    if outside:
        return f"-inf nats: {outside} of {len(log_prob)} rows have density zero"
    values, n = log_prob.astype(np.float64), len(log_prob)
    shares = np.full(n, 1 / n) if weights is None else weights / weights.sum()
    mean = float(shares @ values)
    text = f"{mean:.4f}"
    if n > 1:
        text += f" +/- {math.sqrt(n / (n - 1) * float(shares**2 @ (values - mean) ** 2)):.4f}"
    text += " nats"
    members = flow.flows if isinstance(flow, FlowEnsemble) else [flow]
    layers = [layer for member in members if isinstance(member, Flow) for layer in member.layers]
    if any(isinstance(layer, Dequantize) for layer in layers):
        text += f", {float(data.bits_per_dim(mean, flow.features)):.4f} bits/dim"
    return text


# ---- files ---------------------------------------------------------------------------------------


def _check_output(path: Path, force: bool, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse, before any work is done, a path that cannot or must not be written."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(suffixes)}")
    folder = Path(os.path.realpath(path)).parent  # a link's file is written where it lies
    if path.is_dir() or not path.parent.is_dir() or not folder.is_dir():
        raise ValueError(f"{path}: expected a file in a folder that exists")
    check_regular(path)
    if path.exists() and not force:
        raise ValueError(f"{path} exists; --force overwrites it")
    with named_errors(str(path)):
        tempfile.TemporaryFile(dir=folder).close()


def _check_table(path: Path, force: bool) -> None:
    """Refuse likewise a path for rows: standard output takes them, .parquet needs an extra."""
    if path != rows.STDOUT:
        _check_output(path, force, rows.WRITTEN)
        if path.suffix.lower() == ".parquet":
            write_parquet(io.BytesIO(), np.empty((0, 1)), None)


def _refuse_same(*paths: Path | str | None, folder: str | None = None) -> None:
    """Refuse two names of one file: no output may be an input, a checkpoint, or a set's file."""
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


# ---- arguments -----------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, not negative, got {text!r}")
    return int(text)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_count(width) for width in text.split(",")) if text else ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def command_line() -> Parser:
    """Return the parser of all commands."""
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
        added.set_defaults(run=run, parser=added)
        return added

    model, source, keyed, folder, forced, seeded, given, excluding = (
        Parser(add_help=False) for _ in range(8)
    )
    model.add_argument("model", metavar="MODEL", help="a file that 'afnp fit' or afnp.save wrote")
    source.add_argument(
        "data",
        metavar="DATA",
        help="a set that 'afnp data' lists, or a .npy, .npz, .csv or .parquet file",
    )
    keyed.add_argument("--key", metavar="NAME", help="which array of an .npz file")
    folder.add_argument(
        "--data-folder", metavar="FOLDER", help="where the files of MNIST or the UCI sets are"
    )
    excluding.add_argument(
        "--exclude",
        type=_names,
        default=(),
        metavar="A,B",
        help="columns of DATA to leave out, of text or numbers",
    )
    forced.add_argument("--force", action="store_true", help="overwrite the file that -o names")
    seeded.add_argument(
        "--seed", type=_count, default=0, help="the same seed gives the same numbers (default 0)"
    )

    given.add_argument(
        "--context",
        metavar="NAME=VALUE,...",
        help="what the rows of a conditional model depend on",
    )
    tables = ".npy, .npz, .csv or .parquet, or - for a .csv on standard output"

    _add_fit_options(command("fit", fit, source, keyed, folder, excluding, forced, seeded))
    command("score", score, model, source, keyed, folder, excluding, forced).add_argument(
        "-o", "--output", type=Path, metavar="FILE", help=f"write one value a row, {tables}"
    )
    p = command("sample", sample, model, forced, seeded, given)
    p.add_argument("-n", "--rows", type=_count, required=True, metavar="N", help="how many rows")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help=tables)
    _add_plot_options(command("plot", plot, model, keyed, folder, excluding, forced, seeded, given))
    _add_verify_options(command("verify", verify, forced, seeded))
    _add_import_options(command("import", import_flow, forced))
    command("data", sets, folder).add_argument(
        "name", nargs="?", metavar="NAME", help="say all about this set"
    )
    command("compile", compile_all)
    _add_visitor(commands, "lessons", lessons)
    _add_visitor(commands, "figures", figures)
    return parser


def _add_visitor(commands, name: str, run: Callable[[argparse.Namespace], int]) -> None:
    """Add a command that hands all its arguments on; none of them is an option here."""
    about = (run.__doc__ or "").strip()
    p = commands.add_parser(name, help=about, prefix_chars="\0", add_help=False)
    p.add_argument("arguments", nargs="*")
    p.set_defaults(run=run, parser=p)


def _add_fit_options(p: Parser) -> None:
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL", help="the model file to write"
    )
    p.add_argument(
        "--context",
        type=_names,
        default=(),
        metavar="A,B",
        help="columns that the others depend on",
    )
    p.add_argument("--weights", metavar="COLUMN", help="how much each row counts")
    p.add_argument(
        "--bounds",
        metavar="A:LOW:HIGH,...",
        help="where columns end; LOW or HIGH may be empty: mass:0:,angle:0:90",
    )
    p.add_argument(
        "--family", choices=tuple(FAMILIES), default="maf", help="the kind of flow (default maf)"
    )
    p.add_argument(
        "--transforms",
        type=_count,
        metavar="T",
        help="how many (default: the family's, 5 of a maf)",
    )
    p.add_argument(
        "--hidden", type=_widths, metavar="H,H", help='widths, "" for none (default 128,128)'
    )
    p.add_argument(
        "--order", choices=("reverse", "natural", "random"), help="default: the family's, reverse"
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
    p.add_argument(
        "--shards",
        type=_count,
        metavar="S",
        help="sums that a gradient is cut into; under mpirun a multiple of the ranks (default 8)",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_plot_options(p: Parser) -> None:
    p.add_argument("data", nargs="?", metavar="DATA", help="what to compare with, as for score")
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".png, .pdf or .svg"
    )
    p.add_argument(
        "-n", "--rows", type=_count, default=10_000, metavar="N", help="samples (default 10000)"
    )
    p.add_argument("--features", metavar="A,B", help="which columns (default: the first eight)")
    p.add_argument(
        "--pit", action="store_true", help="the probability integral transform of DATA instead"
    )


def _add_import_options(p: Parser) -> None:
    p.add_argument(
        "theirs", type=Path, metavar="FILE", help="written by torch.save(module.state_dict(), FILE)"
    )
    p.add_argument(
        "--maker",
        required=True,
        metavar="PACKAGE.MODULE:FUNCTION",
        help="what makes the module that the parameters are of",
    )
    p.add_argument(
        "--from",
        dest="library",
        choices=("zuko", "sbi", "nflows", "normflows"),
        help="the module's library (default: that of its class)",
    )
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="MODEL", help="the model file to write"
    )


def _add_verify_options(p: Parser) -> None:
    p.add_argument(
        "target",
        metavar="MODEL",
        help="a model file, or package.module:object: a flow of any library that "
        "afnp.verify.adapt knows, a dictionary of functions, a function that makes one of these, "
        "or a module",
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
