"""Checkpoints: where a run stands, written after every epoch, verified before it is resumed.

A right checksum says that a file is what somebody wrote, not that it is sound. So every field is
held against what the run itself knows: types, ranges, lengths, shapes, and whether it is finite.
What fails is a :class:`afnp.files.ModelFileError`.

Letters: N rows, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from afnp import files

__all__ = ["History", "Run", "load", "save"]


@dataclass
class History:
    """What training saw, one entry an epoch; losses are mean negative log-likelihoods in nats."""

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    """Index of the epoch whose parameters were kept (the lowest validation loss)."""
    seconds: float = 0.0
    stopped: str = ""
    """Why training ended: "epochs", "patience", "callback" or "interrupted"."""


@dataclass
class Run:
    """Where a run stands: with theta and Adam's vectors, enough to go on to the same bits."""

    epoch: int = 0
    step: int = 0
    """Steps taken in the present epoch."""
    adam_t: int = 0
    """Steps taken in all."""
    loss_sum: float = 0.0
    """Of the rows of those steps, nats."""
    rng_state: Mapping = field(default_factory=dict)
    """The generator's state at the start of the epoch, from which its order of rows follows."""
    history: History = field(default_factory=History)

    def out_of_patience(self, patience: int | None) -> bool:
        """Return whether validation has not improved for so many epochs."""
        best = self.history.best_epoch
        return patience is not None and best is not None and self.epoch - 1 - best >= patience


def save(path: str, run: Run, recipe: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a checkpoint; ``arrays`` are theta, best, m and v."""
    files.write(path, "checkpoint", {"run": asdict(run), "recipe": recipe}, arrays)


def load(
    path: str, recipe: dict, arrays: dict[str, np.ndarray], steps: int, validated: bool
) -> Run:
    """Read a checkpoint into ``arrays``, which have the right shapes and types; return the run.

    Parameters
    ----------
    path : str
    recipe : dict
        What the checkpoint's own must be equal to; but ``epochs`` may be more.
    arrays : dict of str to array
        Written only after all has been verified.
    steps : int
        An epoch.
    validated : bool
        Whether there are validation rows.

    Raises
    ------
    ModelFileError
        If the file is not sound, or was made with another recipe.
    """
    header, found = files.read(path, "checkpoint")
    if set(header) != {"kind", "arrays", "run", "recipe"} or type(header["recipe"]) is not dict:
        raise files.ModelFileError(
            f"{path}: expected a run, a recipe and arrays, as fit writes them"
        )
    _compare(path, header["recipe"], recipe)
    try:
        run = _run(header["run"])
    except (TypeError, KeyError) as error:
        raise files.ModelFileError(f"{path}: expected a run, as fit writes it: {error}") from error
    limits = {"epochs": header["recipe"]["epochs"], "steps": steps, "validated": validated}
    for fault in (
        *_faults_of_run(run, recipe["seed"], **limits),
        *_faults_of_arrays(found, arrays),
    ):
        raise files.ModelFileError(f"{path}: {fault}; not a checkpoint that fit has written")
    for name, a in arrays.items():
        a[:] = found[name]
    return run


def _compare(path: str, saved: dict, mine: dict) -> None:
    """Raise an error that names what differs between two recipes."""
    for name in (*mine, *saved):
        if name in saved and name in mine and saved[name] == mine[name]:
            continue
        if name == "epochs" and _is_count(saved.get(name)) and saved[name] < mine[name]:
            continue  # a run may go on for longer
        got = f": {saved.get(name)} there, {mine.get(name)} here"
        raise files.ModelFileError(
            f"checkpoint: {path} was made with another recipe; {name} differs"
            + ("" if name in ("flow", "data") else got)
        )


def _run(values: dict) -> Run:
    """Build the record from plain values; raise where a name is missing, or one too many."""
    run, history = Run(**values), values["history"]
    names = {f.name for f in fields(Run)}, {f.name for f in fields(History)}
    if (set(values), set(history)) != names:
        raise TypeError(f"expected the fields {sorted(names[0])} and {sorted(names[1])}")
    run.history = History(**history)
    return run


def _faults_of_run(run: Run, seed: int, epochs: int, steps: int, validated: bool) -> Iterator[str]:
    """Say what no run of this recipe can have come to."""
    if type(run.epoch) is not int or not 0 <= run.epoch <= epochs:
        yield f"epoch: expected 0 to {epochs}, got {run.epoch!r}"
        return
    most = steps - 1 if run.epoch < epochs else 0
    if type(run.step) is not int or not 0 <= run.step <= most:
        yield f"step: expected 0 to {most}, got {run.step!r}"
    elif type(run.adam_t) is not int or run.adam_t != run.epoch * steps + run.step:
        yield f"adam_t: expected {run.epoch} x {steps} + {run.step}, got {run.adam_t!r}"
    if not _finite(run.loss_sum) or (run.step == 0 and run.loss_sum != 0):
        yield f"loss_sum: expected a finite sum over {run.step} steps, got {run.loss_sum!r}"
    if not _is_state(run.rng_state, seed):
        yield f"rng_state: expected one of the seed {seed}, got {run.rng_state!r}"
    yield from _faults_of_history(run.history, run.epoch, validated)


def _faults_of_history(history: History, epochs: int, validated: bool) -> Iterator[str]:
    expected = {
        "train_loss": (history.train_loss, epochs),
        "learning_rate": (history.learning_rate, epochs),
        "val_loss": (history.val_loss, validated * epochs),
    }
    for name, (values, length) in expected.items():
        if type(values) is not list or len(values) != length or not all(map(_finite, values)):
            yield f"{name}: expected {length} finite numbers"
            return
    if any(rate < 0 for rate in history.learning_rate):
        yield "learning_rate: expected no number below 0"
    best = history.val_loss.index(min(history.val_loss)) if history.val_loss else None
    if type(history.best_epoch) is not type(best) or history.best_epoch != best:
        yield f"best_epoch: expected {best}, of the lowest val_loss, got {history.best_epoch!r}"
    if not _finite(history.seconds) or history.seconds < 0:
        yield f"seconds: expected a number of at least 0, got {history.seconds!r}"
    if history.stopped != "":
        yield f"stopped: expected nothing, got {history.stopped!r}"


def _faults_of_arrays(found: dict, arrays: dict) -> Iterator[str]:
    if set(found) != set(arrays):
        yield f"arrays: expected {sorted(arrays)}, got {sorted(found)}"
        return
    for name, a in arrays.items():
        got = found[name]
        if got.shape != a.shape or got.dtype != a.dtype:
            yield f"{name}: expected shape {a.shape} of {a.dtype}, got {got.shape} of {got.dtype}"
        elif not np.isfinite(got).all():
            yield f"{name}: entry {int(np.argmin(np.isfinite(got)))} is not finite"
        elif name == "v" and (got < 0).any():
            yield f"v: entry {int(np.argmax(got < 0))}, a mean of squares, is below 0"


def _finite(value) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_count(value) -> bool:
    return type(value) is int and value >= 1


def _is_state(state, seed: int) -> bool:
    """Return whether this may be the state of the generator of a seed, whose increment stays."""
    fresh = np.random.default_rng(seed).bit_generator.state
    if type(state) is not dict or set(state) != set(fresh) or type(state["state"]) is not dict:
        return False
    return (
        state["bit_generator"] == fresh["bit_generator"]
        and set(state["state"]) == set(fresh["state"])
        and _is_unsigned(state["state"]["state"], 128)
        and _is_unsigned(state["state"]["inc"], 128)
        and state["state"]["inc"] == fresh["state"]["inc"]
        and _is_unsigned(state["has_uint32"], 1)
        and _is_unsigned(state["uinteger"], 32)
    )


def _is_unsigned(value, bits: int) -> bool:
    return type(value) is int and 0 <= value < 2**bits
