r"""Maximum likelihood by Adam, interruptible and resumable to the last bit.

.. math:: \min_\theta\; \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n \mid c_n)

Letters: N rows, B rows a batch, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import math
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import numpy as np

from afnp import progress as bars
from afnp.advice import warn_of
from afnp.atomic import check_regular, locked, path_of
from afnp.ensemble import FlowEnsemble
from afnp.flow import Flow
from afnp.inputs import flag, integer, plain_array, real
from afnp.model import BatchGradient
from afnp.train import checkpoint as checkpoints
from afnp.train.adam import Adam
from afnp.train.checkpoint import History, Run
from afnp.train.interruption import Interruption
from afnp.train.loop import (
    SCHEDULES,
    Clock,
    Epoch,
    checked_callbacks,
    factor,
    line_of,
    record_of,
    schedule_name,
)

__all__ = ["Epoch", "fit"]

FIRST_LOOK = 1024
"""Rows from which layers that start from statistics take them."""


def fit(
    flow: Flow,
    x_train,
    x_val=None,
    *,
    context=None,
    context_val=None,
    weights=None,
    weights_val=None,
    epochs: int = 100,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: str | Callable[[float], float] = "cosine",
    weight_decay: float = 1e-5,
    clip: float = 5.0,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | bytes | os.PathLike | None = None,
    resume: bool = False,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
    freeze: Sequence[int] = (),
) -> History:
    r"""Fit a flow by maximum likelihood; ``flow.theta`` changes in place.

    .. math:: \min_\theta\; -\frac{\sum_n w_n \log p_\theta(x_n \mid c_n)}{\sum_n w_n}

    With validation rows, the parameters of the best epoch are kept. Ctrl-C or SIGTERM ends training
    after the step it finds under way, as if that had been the last one: the history so far is
    returned. Before the first epoch ends there is no result, and KeyboardInterrupt is raised.

    Training goes on from the parameters that the flow has: fit it again for more epochs or with new
    rows. Layers that start from statistics of the rows do so only while they are untouched.

    Parameters
    ----------
    x_train, x_val : (N, D) arrays
    context, context_val : (N, C) arrays, optional
    weights, weights_val : (N,) arrays, optional
        w, at least 0; all equal if left out. A whole number counts as so many equal rows, and a row
        of weight 0 as none.
    epochs, batch_size : int
    learning_rate : float
    schedule : {"cosine", "constant"} or callable
        The rate at step t of T: half a cosine wave down to zero, or always the same, or
        ``learning_rate`` times what the callable returns for t / T.
    weight_decay : float
        λ, decoupled.
    clip : float
        Gradients longer than this are shortened to it.
    patience : int, optional
        Stop when validation has not improved for so many epochs.
    seed : int
        For the order of the rows.
    progress : bool
        Show a bar with losses and rate; where there is no terminal, a line an epoch.
    checkpoint : path, optional
        Written atomically after every epoch and at an interruption.
    resume : bool
        Go on from the checkpoint if it exists; the result equals that of an uninterrupted run, bit
        for bit, whatever the number of threads. ``epochs`` may be more than before; the rate then
        follows the longer schedule from where it stands.
    callbacks : sequence of callables
        Each is called after every epoch with an :class:`Epoch`; if one returns something true,
        training stops. What one raises ends training too, after the checkpoint has been written.
    freeze : sequence of int
        Which of ``flow.layers`` keep their parameters.

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
    if isinstance(flow, FlowEnsemble):
        raise ValueError("flow: expected one flow, got an ensemble: fit its members, .flows")
    recipe = {
        "batch_size": integer("batch_size", batch_size, least=1),
        "learning_rate": real("learning_rate", learning_rate, 0.0),
        "schedule": schedule_name(schedule),
        "clip": real("clip", clip, 0.0, math.inf, "(]"),
        "weight_decay": real("weight_decay", weight_decay, 0.0, math.inf, "[)"),
        "seed": integer("seed", seed, least=0),
        "epochs": integer("epochs", epochs, least=1),
        "patience": None if patience is None else integer("patience", patience, least=1),
        "freeze": _layers_to_freeze(flow, freeze),
    }
    shape = schedule if callable(schedule) else SCHEDULES[schedule]
    callbacks = checked_callbacks(callbacks)
    flag("progress", progress)
    flag("resume", resume)
    needy = {"patience": patience, "context_val": context_val, "weights_val": weights_val}
    for name, given in needy.items():
        if given is not None and x_val is None:
            raise ValueError(f"{name}: needs validation rows, got x_val=None")
    if isinstance(flow, Flow):
        flow.take_columns(x_train, context)
        checked = None if weights is None else _checked_weights("weights", weights, len(x_train))
        flow.take_scales(x_train, context, checked, "x_train")
    data = _Data(
        _Rows(flow, "x_train", x_train, context, "weights", weights),
        None
        if x_val is None
        else _Rows(flow, "x_val", x_val, context_val, "weights_val", weights_val),
    )
    _check_weighted_statistics(flow, weights)
    path = None if checkpoint is None else path_of(checkpoint, "checkpoint")
    _check_checkpoint(path, resume)
    with nullcontext() if path is None else locked(path):
        history = _train(flow, data, recipe, shape, callbacks, progress, path)
    if not history.train_loss:
        kept = "" if path is None else f"; {path} can be resumed"
        raise KeyboardInterrupt(f"interrupted before the first epoch ended; no result{kept}")
    return history


def _train(
    flow: Flow,
    data: _Data,
    recipe: dict,
    shape: Callable[[float], float],
    callbacks: Sequence[Callable[[Epoch], object]],
    progress: bool,
    path: str | None,
) -> History:
    """Take the steps that a recipe still needs, from the top to the bottom of this page."""
    epochs = recipe["epochs"]
    train = data.train
    batch = min(recipe["batch_size"], len(train))
    steps = math.ceil(len(train) / batch)
    rng = np.random.default_rng(recipe["seed"])
    frozen = _slices(flow, recipe["freeze"])
    gradient = _Gradient(flow, batch, frozen)
    adam = Adam(flow.theta.size, flow.dtype, backend=gradient.plan.engine)
    best = flow.theta.copy()
    state = {"theta": flow.theta, "best": best, "m": adam.m, "v": adam.v}
    largest = recipe["clip"] if math.isfinite(recipe["clip"]) else "inf"  # JSON knows no infinity
    full_recipe = {**recipe, "clip": largest, **data.recipe(flow)}

    if path is not None and os.path.exists(path):
        validated = data.val is not None
        run = checkpoints.load(path, full_recipe, state, steps, validated)
        rng.bit_generator.state = run.rng_state
        adam.t = run.adam_t
    else:
        run = Run()
        flow.start_from_data(*data.first_look(recipe["seed"]))
        warn_of(flow, train.x, train.c)
        best[:] = flow.theta
    history = run.history
    good = flow.theta.copy()
    clock = Clock(history.seconds)

    def rate() -> float:
        return recipe["learning_rate"] * factor(shape, adam.t / (steps * epochs))

    stopped = ""
    bar = bars.steps_bar("fit", "epoch", epochs, run.epoch, show=progress)
    with Interruption() as interruption, bar:
        try:
            while not (stopped := _reason_to_stop(run, recipe)):
                run.rng_state = rng.bit_generator.state
                order = rng.permutation(len(train))
                while run.step < steps and not interruption.asked:
                    rows = order[run.step * batch : (run.step + 1) * batch]
                    log_prob, grad, norm = gradient(*train.batch(rows))
                    loss_sum = -train.weighted(log_prob, rows)
                    if not (math.isfinite(loss_sum) and math.isfinite(norm)):
                        raise _not_finite(flow, train, run, log_prob, rows)
                    clip = min(1.0, recipe["clip"] / norm) if norm else 1.0
                    good[:] = flow.theta
                    adam.step(flow.theta, grad, rate(), recipe["weight_decay"], clip)
                    gradient.update_statistics()
                    for part in frozen:
                        flow.theta[part] = good[part]
                    run.loss_sum += loss_sum
                    run.step += 1
                    run.adam_t = adam.t

                finished = run.step == steps
                if finished:
                    history.train_loss.append(run.loss_sum / len(train))
                    history.learning_rate.append(rate())
                    if data.val is not None:
                        history.val_loss.append(data.val.loss(flow, run.epoch))
                        if history.best_epoch is None or (
                            history.val_loss[-1] < history.val_loss[history.best_epoch]
                        ):
                            history.best_epoch = run.epoch
                            best[:] = flow.theta
                    run.epoch += 1
                    run.step = 0
                    run.loss_sum = 0.0
                    run.rng_state = rng.bit_generator.state
                history.seconds = clock.seconds()
                if path is not None:
                    checkpoints.save(path, run, full_recipe, state)
                if not finished:
                    stopped = "interrupted"
                    break
                bar.set_postfix_str(line_of(history))
                bar.update()
                record = record_of(history, epochs)
                if any([callback(record) for callback in callbacks]):
                    stopped = "callback"
                    break
        except FloatingPointError:
            flow.theta = good
            raise
        finally:
            if history.best_epoch is not None:
                flow.theta = best

    history.stopped = stopped
    return history


def _reason_to_stop(run: Run, recipe: dict) -> str:
    """Return why a run has ended, "" where it has not."""
    if run.epoch == recipe["epochs"]:
        return "epochs"
    return "patience" if run.out_of_patience(recipe["patience"]) else ""


def _layers_to_freeze(flow: Flow, freeze) -> list[int]:
    """Return the numbers of the layers that shall keep their parameters, from 0, in order."""
    if isinstance(freeze, str) or not isinstance(freeze, Iterable):
        raise ValueError(f"freeze: expected a sequence of integers, got {freeze!r}")
    numbers = [integer("freeze", k, least=-sys.maxsize) for k in freeze]
    count = len(flow.layers) if isinstance(flow, Flow) else 0
    for k in numbers:
        if not -count <= k < count:
            raise ValueError(f"freeze: expected numbers of {count} layers, got {k}")
    return sorted({k % count for k in numbers})


def _slices(flow: Flow, layers: list[int]) -> list[slice]:
    """Return where the parameters of some layers lie in theta."""
    if not layers:
        return []
    ends = np.cumsum([layer.layout.size for layer in flow.layers]).tolist()
    return [slice(ends[k] - flow.layers[k].layout.size, ends[k]) for k in layers]


def _check_checkpoint(path: str | None, resume: bool) -> None:
    """Refuse, before any work is done, a checkpoint that cannot be read or must not be written."""
    if path is None:
        if resume:
            raise ValueError("resume: expected a checkpoint to resume from, got checkpoint=None")
        return
    if check_regular(path) is not None and not resume:
        raise ValueError(f"checkpoint: {path} exists; pass resume=True, or delete it first")
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise ValueError(f"checkpoint: expected a file in a folder that exists, got {path}")


class _Rows:
    """Checked rows x (N, D), contexts c (N, C), weights w (N,) of mean 1; none has weight 0."""

    def __init__(self, flow: Flow, name: str, x, context, weights_name: str, weights):
        self.name = name
        self.x, self.c = flow.check(x, context, name)
        if not len(self.x):
            hint = "" if name == "x_train" else "; without validation, leave it out"
            raise ValueError(f"{name}: expected at least one row, got none{hint}")
        self.numbers = np.arange(len(self.x))
        self.w = None
        if weights is not None:
            w = _checked_weights(weights_name, weights, len(self.x))
            self.numbers = np.flatnonzero(w)
            self.x, self.c, w = self.x[w > 0], self.c[w > 0], w[w > 0]
            self.w = (w / w.mean()).astype(flow.dtype)

    def __len__(self) -> int:
        return len(self.x)

    def weighted(self, values: np.ndarray, rows=slice(None)) -> float:
        """Return the sum of w times the values of some rows."""
        if self.w is not None:
            values = values * self.w[rows]
        return float(values.sum(dtype=np.float64))

    def batch(self, rows: np.ndarray) -> tuple:
        """Return x, c and w of some rows."""
        return self.x[rows], self.c[rows], None if self.w is None else self.w[rows]

    def loss(self, flow: Flow, epoch: int) -> float:
        """Return the mean negative log-likelihood after an epoch, nats."""
        try:
            engine = flow.plan("auto", len(self)).engine  # by size alone: repeatable
            log_prob = flow.log_prob(self.x, self.c if flow.context else None, engine)
        except FloatingPointError as error:
            raise FloatingPointError(f"after epoch {epoch}, in {self.name}: {error}") from error
        if not np.isfinite(log_prob).all():
            row = self.numbers[int(np.argmin(np.isfinite(log_prob)))]
            raise FloatingPointError(
                f"row {row} of {self.name} has density zero after epoch {epoch}"
            )
        return -self.weighted(log_prob) / len(self)

    def fingerprint(self) -> list:
        """Return what tells these rows from others."""
        arrays = [self.x, self.c] if self.w is None else [self.x, self.c, self.w]
        return [[*a.shape, zlib.crc32(np.ascontiguousarray(a).tobytes())] for a in arrays]


def _checked_weights(name: str, weights, n: int) -> np.ndarray:
    """Return weights as float64 (N,), or raise a ValueError that names the row."""
    w = plain_array(weights, name)
    if w.dtype.kind not in "fiub" or w.shape != (n,):
        raise ValueError(f"{name}: expected {n} numbers, got shape {w.shape} of {w.dtype}")
    w = w.astype(np.float64)
    bad = np.flatnonzero(~((w >= 0) & (w < math.inf)))
    if bad.size:
        raise ValueError(
            f"{name}: row {bad[0]}: expected a finite number of at least 0, got {w[bad[0]]}"
        )
    if not w.any():
        raise ValueError(f"{name}: expected at least one above 0, got {n} zeros")
    return w / w.max()  # so that no sum overflows


def _check_weighted_statistics(flow: Flow, weights) -> None:
    layers = flow.layers if isinstance(flow, Flow) else []
    for layer in layers:
        if weights is not None and layer.takes_statistics:
            raise ValueError(
                f"weights: {type(layer).__name__} takes statistics of rows as if all weighed the "
                "same; expected a flow without it"
            )


class _Data:
    """Rows to train, and rows to validate or None."""

    def __init__(self, train: _Rows, val: _Rows | None):
        self.train, self.val = train, val

    def recipe(self, flow: Flow) -> dict:
        """Return what, with the options, must be the same for a resumed run to be the same run."""
        val = [] if self.val is None else self.val.fingerprint()
        return {"flow": flow.config(), "data": [self.train.fingerprint(), val]}

    def first_look(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return some rows and contexts for statistics; weights count as chances."""
        rng, n, w = np.random.default_rng([seed, 1]), len(self.train), self.train.w
        rows = rng.permutation(n)[:FIRST_LOOK]
        if w is not None:
            chances = w.astype(np.float64)
            rows = rng.choice(n, FIRST_LOOK, p=chances / chances.sum())
        return self.train.x[rows], self.train.c[rows]


class _Gradient(BatchGradient):
    """The gradient of the mean loss of a batch, with zeros where parameters are frozen."""

    def __init__(self, flow: Flow, batch: int, frozen: list[slice]):
        super().__init__(flow, batch)
        self.frozen = frozen

    def __call__(self, x, context, weights=None) -> tuple[np.ndarray, np.ndarray, float]:
        """Return log p (B,), the gradient (P,), and its length."""
        log_prob, grad, norm = super().__call__(x, context, weights)
        if self.frozen:
            for part in self.frozen:
                grad[part] = 0
            norm = math.sqrt(float(grad @ grad))
        return log_prob, grad, norm


def _not_finite(flow: Flow, train: _Rows, run: Run, log_prob, rows) -> FloatingPointError:
    numbers = train.numbers[rows]
    bad = numbers[~np.isfinite(log_prob)]
    if len(bad):
        where = f"training rows {bad[:5].tolist()}"
    else:
        row = flow.row_without_gradient(train.x[rows], train.c[rows])
        which = f"rows {numbers[:5].tolist()}, ..."
        if row is not None:
            which = f"training row {numbers[row]}"
        where = f"its gradient, {which}"
    return FloatingPointError(
        f"the loss is not finite at epoch {run.epoch}, step {run.step}: {where}; "
        "the last good parameters were kept (a lower learning_rate or clip may help)"
    )
