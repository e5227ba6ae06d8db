r"""Training: Adam on the exact negative log-likelihood, interruptible and resumable to the last bit.

.. math:: \min_\theta\; \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n \mid c_n)

All state lies in two records, :class:`afnp.adam.Adam` and :class:`_Run`, and a checkpoint is both
of them.
"""

from __future__ import annotations

import math
import operator
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from afnp import files
from afnp import progress as bars
from afnp.adam import Adam
from afnp.atomic import check_regular, path_of
from afnp.flow import Flow

__all__ = ["History", "fit"]

FIRST_LOOK = 1024
"""Rows from which layers that start from statistics take them."""


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
    """Why training ended: "epochs", "patience" or "interrupted"."""


@dataclass
class _Run:
    """Where a run stands: enough, with Adam's vectors, to go on as if nothing had happened."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rng_state: Mapping = field(default_factory=dict)
    """The generator's state at the start of the epoch."""
    adam_t: int = 0
    history: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)


def fit(
    flow: Flow,
    x_train,
    x_val=None,
    *,
    context=None,
    context_val=None,
    epochs: int = 100,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    weight_decay: float = 1e-5,
    clip: float = 5.0,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | bytes | os.PathLike | None = None,
    resume: bool = False,
) -> History:
    r"""Fit a flow by maximum likelihood; ``flow.theta`` changes in place.

    .. math:: \min_\theta\; -\frac1N \sum_n \log p_\theta(x_n \mid c_n)

    With validation rows, the parameters of the best epoch are kept. Ctrl-C or SIGTERM ends training
    after the step it finds under way, as if that had been the last one: the history so far is
    returned. Before the first epoch ends there is no result, and KeyboardInterrupt is raised.

    Parameters
    ----------
    x_train, x_val : (N, D) arrays
    context, context_val : (N, C) arrays, optional
    epochs, batch_size : int
    learning_rate : float
    schedule : {"cosine", "constant"}
        The rate at step t of T: half a cosine wave down to zero, or always the same.
    weight_decay : float
        λ, decoupled.
    clip : float
        Gradients longer than this are shortened to it.
    patience : int, optional
        Stop when validation has not improved for so many epochs.
    seed : int
        For the order of the rows.
    progress : bool
        Show a bar with losses and rate.
    checkpoint : path, optional
        Written atomically after every epoch and at an interruption.
    resume : bool
        Go on from the checkpoint if it exists; the result equals that of an uninterrupted run, bit
        for bit (with as many threads: compiled gradients are summed thread by thread).

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If rows or options make no sense; if the checkpoint exists and ``resume`` is false, or is of
        another recipe.
    FloatingPointError
        If the loss or its gradient is not finite: names epoch, step and rows; the last good
        parameters stay.
    KeyboardInterrupt
        If interrupted before the first epoch ended, when the checkpoint has been written; so that
        no caller takes an untrained flow for a result.

    Examples
    --------
    >>> import afnp
    >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(200, 2))
    >>> flow = afnp.made(2, hidden=(8,))
    >>> history = fit(flow, x, epochs=20, learning_rate=0.03, progress=False)
    >>> history.train_loss[-1] < history.train_loss[0]
    True
    """
    options = {
        "batch_size": operator.index(batch_size),
        "learning_rate": float(learning_rate),
        "schedule": schedule,
        "clip": float(clip),
        "weight_decay": float(weight_decay),
        "seed": operator.index(seed),
        "epochs": operator.index(epochs),
        "patience": None if patience is None else operator.index(patience),
    }
    _check_options(options, x_val, context_val)
    x, c = flow._check(x_train, context, "x_train")
    if not len(x):
        raise ValueError("x_train: expected at least one row, got none")
    validation = None if x_val is None else flow._check(x_val, context_val, "x_val")
    if validation is not None and not len(validation[0]):
        raise ValueError(
            "x_val: expected at least one row, got none; without validation, leave it out"
        )
    trainer = _Trainer(flow, x, c, validation, options, checkpoint)
    trainer.begin(resume)
    with _Interruption() as interruption:
        trainer.run(interruption, progress)
    if not trainer.history.train_loss:
        kept = "" if checkpoint is None else f"; {trainer.checkpoint} can be resumed"
        raise KeyboardInterrupt(f"interrupted before the first epoch ended; no result{kept}")
    return trainer.history


def _check_options(options: dict, x_val, context_val) -> None:
    for name in ("epochs", "batch_size", "patience"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"{name}: expected at least 1, got {options[name]}")
    for name, largest in (("learning_rate", sys.float_info.max), ("clip", math.inf)):
        if not 0 < options[name] <= largest:
            raise ValueError(f"{name}: expected a positive number, got {options[name]}")
    if not 0 <= options["weight_decay"] < math.inf:
        raise ValueError(
            f"weight_decay: expected a number of at least 0, got {options['weight_decay']}"
        )
    if options["schedule"] not in ("cosine", "constant"):
        raise ValueError(f"schedule: expected 'cosine' or 'constant', got {options['schedule']!r}")
    for name, given in (("patience", options["patience"]), ("context_val", context_val)):
        if given is not None and x_val is None:
            raise ValueError(f"{name}: needs validation rows, got x_val=None")


class _Trainer:
    """One training run: its data, its state, and its loop."""

    def __init__(self, flow: Flow, x, c, validation, options: dict, checkpoint):
        self.flow, self.x, self.c, self.validation, self.options = flow, x, c, validation, options
        self.checkpoint = None if checkpoint is None else Path(path_of(checkpoint))
        self.backend = flow._backend("auto", min(options["batch_size"], len(x)))
        self.adam = Adam(flow.theta.size, flow.dtype, backend=self.backend)
        self.rng = np.random.default_rng(options["seed"])
        self.history = History()
        self.run_state = _Run()
        self.best, self.good = flow.theta.copy(), flow.theta.copy()
        threads = flow._gradient_blocks(min(options["batch_size"], len(x)), self.backend)
        self.grads = [flow._split(np.zeros_like(flow.theta)) for _ in threads]
        self.grads[0].updates = []
        self.steps = math.ceil(len(x) / options["batch_size"])

    # ---- the loop --------------------------------------------------------------------------------

    def run(self, interruption: _Interruption, progress: bool) -> None:
        start, before = time.perf_counter(), self.history.seconds
        epochs, history, state = self.options["epochs"], self.history, self.run_state
        bar = bars.bar(
            total=epochs,
            initial=state.epoch,
            desc="fit",
            unit="epoch",
            leave=None,
            show=progress,
        )
        try:
            with bar:
                while state.epoch < epochs and not self._out_of_patience():
                    finished = self._epoch(interruption)
                    history.seconds = before + time.perf_counter() - start
                    self._save()
                    if not finished:
                        break
                    bar.set_postfix_str(self._line())
                    bar.update()
        finally:
            if self.validation is not None and history.best_epoch is not None:
                self.flow.theta = self.best
        if state.epoch == epochs:
            history.stopped = "epochs"
        else:
            history.stopped = "patience" if self._out_of_patience() else "interrupted"

    def _epoch(self, interruption: _Interruption) -> bool:
        """Take the steps that the epoch still needs; return whether it was finished."""
        state = self.run_state
        state.rng_state = self.rng.bit_generator.state
        rows = self.rng.permutation(len(self.x))
        size = self.options["batch_size"]
        while state.step < self.steps:
            if interruption.asked:
                return False
            self._step(rows[state.step * size : (state.step + 1) * size])
        self.history.train_loss.append(state.loss_sum / len(self.x))
        self.history.learning_rate.append(self._rate())
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.rng_state = self.rng.bit_generator.state
        self._validate()
        return True

    def _step(self, rows: np.ndarray) -> None:
        log_prob, square = self.flow._gradient_in_blocks(
            self.x[rows], self.c[rows], self.grads, self.backend
        )
        norm, grad = math.sqrt(square), self.grads[0].flat
        loss_sum = -float(log_prob.sum(dtype=np.float64))
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            self._fail(log_prob, rows)
        if norm > self.options["clip"]:
            grad *= self.options["clip"] / norm
        np.copyto(self.good, self.flow.theta)
        self.adam.step(self.flow.theta, grad, self._rate(), self.options["weight_decay"])
        while self.grads[0].updates:
            layer, p, cache = self.grads[0].updates.pop()
            layer.update(p, cache)
        self.run_state.loss_sum += loss_sum
        self.run_state.step += 1

    def _rate(self) -> float:
        fraction = self.adam.t / (self.steps * self.options["epochs"])
        wave = (
            0.5 * (1 + math.cos(math.pi * fraction))
            if self.options["schedule"] == "cosine"
            else 1.0
        )
        return self.options["learning_rate"] * wave

    def _validate(self) -> None:
        if self.validation is None:
            return
        x, c = self.validation
        try:
            log_prob = self.flow.log_prob(x, c if self.flow.context else None)
        except FloatingPointError as error:
            self.flow.theta = self.good
            raise FloatingPointError(
                f"after epoch {self.run_state.epoch - 1}, in x_val: {error}"
            ) from error
        if not np.isfinite(log_prob).all():
            self.flow.theta = self.good
            row = int(np.argmin(np.isfinite(log_prob)))
            raise FloatingPointError(
                f"row {row} of x_val has density zero after epoch {self.run_state.epoch - 1}"
            )
        loss = -float(log_prob.mean(dtype=np.float64))
        self.history.val_loss.append(loss)
        best = self.history.best_epoch
        if best is None or loss < self.history.val_loss[best]:
            self.history.best_epoch = len(self.history.val_loss) - 1
            np.copyto(self.best, self.flow.theta)

    def _out_of_patience(self) -> bool:
        patience, best = self.options["patience"], self.history.best_epoch
        return (
            patience is not None
            and best is not None
            and self.run_state.epoch - 1 - best >= patience
        )

    def _fail(self, log_prob: np.ndarray, rows: np.ndarray) -> None:
        self.flow.theta = self.good
        bad = rows[~np.isfinite(log_prob)]
        where = (
            f"training rows {bad[:5].tolist()}"
            if len(bad)
            else f"its gradient, rows {rows[:5].tolist()}, ..."
        )
        raise FloatingPointError(
            f"the loss is not finite at epoch {self.run_state.epoch}, step {self.run_state.step}: {where}; "
            "the last good parameters were kept (a lower learning_rate or clip may help)"
        )

    def _line(self) -> str:
        losses = f"train {self.history.train_loss[-1]:.3f}"
        if self.history.val_loss:
            losses += f", val {self.history.val_loss[-1]:.3f}"
        return f"{losses}, rate {self.history.learning_rate[-1]:.1e}"

    # ---- checkpoints -----------------------------------------------------------------------------

    def _recipe(self) -> dict:
        """Return what must be the same for a resumed run to equal an uninterrupted one."""
        data = [self.x, self.c, *(self.validation or ())]
        return {**self.options, "flow": self.flow.config(), "data": [_fingerprint(a) for a in data]}

    def begin(self, resume: bool) -> None:
        """Go on from the checkpoint, or start anew, and make sure that this overwrites nothing."""
        if not self._resumed(resume):
            self._start_from_data()

    def _resumed(self, resume: bool) -> bool:
        if self.checkpoint is None:
            if resume:
                raise ValueError(
                    "resume: expected a checkpoint to resume from, got checkpoint=None"
                )
            return False
        self.run_state.recipe = self._recipe()
        check_regular(self.checkpoint)
        if self.checkpoint.exists():
            if not resume:
                raise ValueError(
                    f"checkpoint: {self.checkpoint} exists; pass resume=True, or delete it first"
                )
            self._load(self.checkpoint)
            return True
        if not self.checkpoint.parent.is_dir():
            raise ValueError(
                f"checkpoint: expected a file in a folder that exists, got {self.checkpoint}"
            )
        return False

    def _start_from_data(self) -> None:
        """Show the flow some training rows, if it has layers that start from statistics."""
        rows = np.random.default_rng([self.options["seed"], 1]).permutation(len(self.x))[
            :FIRST_LOOK
        ]
        self.flow._begin(self.x[rows], self.c[rows])
        np.copyto(self.good, self.flow.theta)
        np.copyto(self.best, self.flow.theta)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self.run_state.adam_t, self.run_state.history = self.adam.t, asdict(self.history)
        arrays = {"theta": self.flow.theta, "best": self.best, "m": self.adam.m, "v": self.adam.v}
        files.write(self.checkpoint, "checkpoint", {"run": asdict(self.run_state)}, arrays)

    def _load(self, path: Path) -> None:
        header, arrays = files.read(path, "checkpoint")
        if not _is_checkpoint(header, arrays):
            raise files.ModelFileError(f"{path}: expected a run and its arrays, as fit writes them")
        saved, mine = header["run"]["recipe"], self.run_state.recipe
        differing = [name for name in mine if saved.get(name) != mine[name]]
        if differing:
            name = differing[0]
            got = (
                "" if name in ("flow", "data") else f": {saved.get(name)} there, {mine[name]} here"
            )
            raise ValueError(
                f"checkpoint: {path} was made with another recipe; {name} differs{got}"
            )
        self.run_state = _Run(**header["run"])
        self.history = History(**header["run"]["history"])
        self.rng.bit_generator.state = self.run_state.rng_state
        self.adam.t = self.run_state.adam_t
        self.flow.theta = arrays["theta"]
        self.good[:] = arrays["theta"]
        self.best[:], self.adam.m[:], self.adam.v[:] = arrays["best"], arrays["m"], arrays["v"]


def _is_checkpoint(header: dict, arrays: dict) -> bool:
    """Return whether a sound container holds what ``_Trainer._save`` writes."""
    try:
        names = {f.name for f in fields(_Run)}, {f.name for f in fields(History)}
        run = header["run"]
        if (set(run), set(run["history"])) != names or not isinstance(run["recipe"], dict):
            return False
    except (KeyError, TypeError):
        return False
    return set(arrays) == {"theta", "best", "m", "v"}


def _fingerprint(a: np.ndarray) -> list:
    return [*a.shape, zlib.crc32(np.ascontiguousarray(a).tobytes())]


class _Interruption:
    """Turn the first Ctrl-C or SIGTERM into a request, ``asked``, honoured between two steps.

    A second one acts as usual. Outside the main thread Python delivers none, and nothing is done.
    """

    asked = False

    def __enter__(self) -> _Interruption:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                # a handler set from C cannot be put back, and a job that ignores a signal shall go
                # on ignoring it
                if handler not in (None, signal.SIG_IGN):
                    self.before[number] = handler
                    signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame) -> None:
        self.asked = True
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *error) -> None:
        self._put_back()
