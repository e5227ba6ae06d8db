r"""Maximum likelihood by Adam, interruptible and resumable to the last bit.

.. math:: \min_\theta\; \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n \mid c_n)

Letters: N rows, B rows a batch, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np

from afnp import progress as bars
from afnp.advice import warn_of
from afnp.atomic import check_regular, locked, path_of
from afnp.ensemble import FlowEnsemble
from afnp.flow import Flow
from afnp.inputs import check_weights, flag, integer, integers, real
from afnp.model import BatchGradient
from afnp.train import checkpoint as checkpoints
from afnp.train.adam import Adam
from afnp.train.checkpoint import History, Run
from afnp.train.interruption import Interruption
from afnp.train.loop import (
    SCHEDULES,
    Clock,
    Epoch,
    RowsNotFinite,
    checked_callbacks,
    factor,
    line_of,
    record_of,
    schedule_name,
)
from afnp.train.ranks import Ranks

__all__ = ["Epoch", "fit"]


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
    comm=None,
    shards: int | None = None,
) -> History:
    r"""Fit a flow by maximum likelihood; ``flow.theta`` changes in place.

    .. math:: \min_\theta\; -\frac{\sum_n w_n \log p_\theta(x_n \mid c_n)}{\sum_n w_n}

    With validation rows, the parameters of the best epoch are kept. Ctrl-C or SIGTERM ends training
    after the step it finds under way, as if that had been the last one: the history so far is
    returned. Before the first epoch ends there is no result, and KeyboardInterrupt is raised.

    Training goes on from the parameters that the flow has: fit it again for more epochs or with new
    rows. Layers that start from statistics of the rows, by their weights, do so only while they are
    untouched.

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
    comm : communicator, optional
        mpi4py's ``MPI.COMM_WORLD``, say: every rank calls ``fit`` with the same flow and options,
        and with rows of its own. All of them get the flow and the history of a fit to the rows of
        all; the first one writes the checkpoint, and shows progress. An error, a signal or a
        callback that ends one rank ends all. See :mod:`afnp.train.ranks`.
    shards : int, optional
        Into how many sums a gradient is cut: a power of two that the number of ranks divides, 8 if
        left out, and 1 without a ``comm``. The result depends on it in its last bits, and on the
        number of ranks in none: a checkpoint can be resumed by another number of them.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If rows or options make no sense, or differ between ranks; if a row that counts lies outside
        the flow's bounds (names row and feature); if the checkpoint exists and ``resume`` is false,
        or is of another recipe.
    FloatingPointError
        If the loss or its gradient is not finite: names epoch, step and rows, which a
        :class:`afnp.train.RowsNotFinite` also holds; the last good parameters stay.
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
    with Ranks(comm, shards) as ranks:
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
            "shards": ranks.shards,
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
        optional = {"weights": weights, "x_val": x_val, "weights_val": weights_val}
        if comm is not None:
            _check_alike(ranks, flow, recipe, {**optional, "checkpoint": checkpoint})
        train, val = _Rows(flow, ranks, "x_train", x_train, context, weights), None
        if x_val is not None:
            val = _Rows(flow, ranks, "x_val", x_val, context_val, weights_val)
        if isinstance(flow, Flow):
            c = train.c if flow.context else None
            flow.take_scales(train.x, c, train.w, "x_train", ranks.moments)
        data = _Data(ranks, train, val)
        _check_statistics(flow, ranks)
        path = None if checkpoint is None else path_of(checkpoint, "checkpoint")
        if ranks.first:
            _check_checkpoint(path, resume)
        else:
            path = None
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
    train, ranks = data.train, data.ranks
    batch = min(recipe["batch_size"], len(train))
    steps = math.ceil(len(train) / batch)
    rng = np.random.default_rng(recipe["seed"])
    frozen = _slices(flow, recipe["freeze"])
    gradient = _Gradient(flow, train, batch, frozen)
    adam = Adam(flow.theta.size, flow.dtype, backend=gradient.engine)
    best = flow.theta.copy()
    state = {"theta": flow.theta, "best": best, "m": adam.m, "v": adam.v}
    largest = recipe["clip"] if math.isfinite(recipe["clip"]) else "inf"  # JSON knows no infinity
    full_recipe = {**recipe, "clip": largest, **data.recipe(flow)}

    run = Run()
    resumed = path is not None and os.path.exists(path)
    if ranks.any(resumed):
        if path is not None:
            validated = data.val is not None
            run = checkpoints.load(path, full_recipe, state, steps, validated)
        run, saved = ranks.from_first((run, state))
        for name, values in state.items():
            values[:] = saved[name]
        rng.bit_generator.state = run.rng_state
        adam.t = run.adam_t
    else:
        average = functools.partial(ranks.average, axis=0, weights=train.w)
        flow.start_from_data(train.x, train.c, average, train.pieces(flow))
        if ranks.first:
            warn_of(flow, train.x, train.c)
        best[:] = flow.theta
    history = run.history
    good = flow.theta.copy()
    clock = Clock(history.seconds)

    def rate() -> float:
        return recipe["learning_rate"] * factor(shape, adam.t / (steps * epochs))

    stopped = ""
    bar = bars.steps_bar("fit", "epoch", epochs, run.epoch, show=progress and ranks.first)
    with Interruption() as interruption, bar:
        try:
            while not (stopped := _reason_to_stop(run, recipe)):
                run.rng_state = rng.bit_generator.state
                order = rng.permutation(len(train))
                while run.step < steps and not ranks.any(interruption.asked):
                    rows = order[run.step * batch : (run.step + 1) * batch]
                    loss_sum, grad, norm = gradient(rows)
                    if not (math.isfinite(loss_sum) and math.isfinite(norm)):
                        raise _not_finite(flow, train, run, gradient)
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
                ranks.agree({"flow.theta": zlib.crc32(flow.theta.tobytes())})
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
                if ranks.any(any([callback(record) for callback in callbacks])):
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
    numbers = integers("freeze", freeze, least=-sys.maxsize)
    count = len(flow.layers) if isinstance(flow, Flow) else 0
    for k in numbers:
        if not -count <= k < count:
            raise ValueError(f"freeze: expected numbers of {count} layers, got {k}")
    layers = sorted({k % count for k in numbers})
    kept = sum(flow.layers[k].layout.size for k in layers)
    if kept and kept == flow.theta.size:
        raise ValueError(f"freeze: expected at least one parameter to train, got none of {kept}")
    return layers


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
    """Checked rows x, contexts c, weights w of mean 1, none of them 0; and where shards lie.

    They are those that this rank holds after they were dealt; their number, N, is that of all
    ranks.
    """

    def __init__(self, flow: Flow, ranks: Ranks, name: str, x, context, weights):
        self.name, self.ranks = name, ranks
        x, c = flow.check(x, context, name)
        if ranks.size == 1 and not len(x):
            hint = "" if name == "x_train" else "; without validation, leave it out"
            raise ValueError(f"{name}: expected at least one row, got none{hint}")
        start, _ = ranks.start_and_count(len(x))
        arrays = [x, c, start + np.arange(len(x))]
        if weights is not None:
            said = "weights" if name == "x_train" else "weights_val"
            w = check_weights(weights, len(x), said)
            largest = ranks.largest(w, axis=0)
            if not largest:
                raise ValueError(f"{said}: expected at least one above 0, got {len(x)} zeros")
            arrays = [a[w > 0] for a in (*arrays, w / largest)]  # so that no sum overflows
        self.x, self.c, self.numbers, *others = ranks.deal(arrays)
        if isinstance(flow, Flow):
            flow.check_inside(self.x, name, self.numbers)
        self.start, self.total = ranks.start_and_count(len(self.x))
        if self.total < ranks.shards:
            raise ValueError(
                f"{name}: expected at least {ranks.shards} rows, one a shard, got {self.total}"
            )
        self.blocks = ranks.blocks(len(self.x))
        self.w = None
        if weights is not None:
            total = ranks.total([others[0][block].sum() for block in self.blocks])
            self.w = others[0] / (total / self.total)

    def __len__(self) -> int:
        return self.total

    def weighted(self, values: np.ndarray, rows) -> float:
        """Return the sum of w times the values of some rows."""
        if self.w is not None:
            values = values * self.w[rows]
        return float(values.sum(dtype=np.float64))

    def in_shards(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return, for each shard of this rank, where it holds some of all ranks' rows."""
        own = rows - self.start
        return [own[(own >= block.start) & (own < block.stop)] for block in self.blocks]

    def batch(self, rows: np.ndarray, n: int) -> tuple:
        """Return x, c and w of some rows, w in units of their share of n rows."""
        w = None if self.w is None else self.w[rows]
        share = len(rows) / n
        if share != 1:
            w = share * (np.ones(len(rows)) if w is None else w)
        return self.x[rows], self.c[rows], w

    def pieces(self, flow: Flow) -> list[slice]:
        """Return the shards of this rank, cut so that what layers hold stays in bounds."""
        return [
            slice(block.start + part.start, min(block.start + part.stop, block.stop))
            for block in self.blocks
            for part in flow.cut(block.stop - block.start, "numpy")
        ]

    def loss(self, flow: Flow, epoch: int) -> float:
        """Return the mean negative log-likelihood after an epoch, nats."""
        rows = -(-self.total // self.ranks.shards)
        engine = flow.plan("auto", rows).engine  # by size alone: repeatable
        parts = [self._loss_of(block, flow, engine, epoch) for block in self.blocks]
        nowhere = [row for rank in self.ranks.gather([rows for _, rows in parts]) for row in rank]
        for row in itertools.chain(*nowhere):
            said = f"row {row} of {self.name} has density zero after epoch {epoch}"
            raise RowsNotFinite(said, self.name, [row])
        return float(self.ranks.total([part for part, _ in parts])) / self.total

    def _loss_of(
        self, block: slice, flow: Flow, engine: str, epoch: int
    ) -> tuple[float, list[int]]:
        """Return the loss of a shard, and the first of its rows without a density."""
        x, c = self.x[block], self.c[block]
        try:
            log_prob = flow.log_prob(x, c if flow.context else None, engine)
        except FloatingPointError as error:
            raise FloatingPointError(f"after epoch {epoch}, in {self.name}: {error}") from error
        nowhere = self.numbers[block][~np.isfinite(log_prob)]
        return -self.weighted(log_prob, block), nowhere[:1].tolist()

    def fingerprint(self) -> list:
        """Return what tells these rows from others, whatever the number of ranks."""
        arrays = [self.x, self.c] if self.w is None else [self.x, self.c, self.w]
        mine = [[_fingerprint(a[block]) for a in arrays] for block in self.blocks]
        every = [shard for part in self.ranks.gather(mine) for shard in part]
        return every if len(every) > 1 else every[0]


def _fingerprint(a: np.ndarray) -> list[int]:
    return [*a.shape, zlib.crc32(np.ascontiguousarray(a).tobytes())]


def _check_alike(ranks: Ranks, flow: Flow, recipe: dict, optional: dict) -> None:
    """Raise a ValueError on all ranks unless they do the same thing with different rows."""
    ranks.agree(
        {
            "flow": flow.config(),
            "flow.theta": zlib.crc32(flow.theta.tobytes()),
            **recipe,
            **{name: "None" if value is None else "some" for name, value in optional.items()},
        }
    )


def _check_statistics(flow: Flow, ranks: Ranks) -> None:
    for layer in flow.layers if isinstance(flow, Flow) else []:
        if ranks.shards > 1 and layer.takes_statistics:
            raise ValueError(
                f"shards: {type(layer).__name__} takes statistics of a whole batch, and here it is "
                f"cut into {ranks.shards}; expected a flow without it"
            )


class _Data:
    """Rows to train, and rows to validate or None."""

    def __init__(self, ranks: Ranks, train: _Rows, val: _Rows | None):
        self.ranks, self.train, self.val = ranks, train, val

    def recipe(self, flow: Flow) -> dict:
        """Return what, with the options, must be the same for a resumed run to be the same run."""
        val = [] if self.val is None else self.val.fingerprint()
        return {"flow": flow.config(), "data": [self.train.fingerprint(), val]}


class _Gradient:
    """The gradient of the mean loss of a batch, a sum over shards; zeros where frozen."""

    def __init__(self, flow: Flow, train: _Rows, batch: int, frozen: list[slice]):
        self.train, self.ranks, self.frozen = train, train.ranks, frozen
        self.size = flow.theta.size
        self.parts = self.ranks.room(self.size, flow.dtype)
        rows = -(-batch // self.ranks.shards)
        self.leaves = [BatchGradient(flow, rows, out=part[: self.size]) for part in self.parts]
        self.engine = self.leaves[0].plan.engine
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, rows: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Return the sum of the losses of rows of all ranks, the gradient (P,), and its length.

        ``seen`` are then rows and log p of each shard of this rank.
        """
        norm, losses = 0.0, [0.0] * len(self.parts)
        self.seen = []
        for k, own in enumerate(self.train.in_shards(rows)):
            if not len(own):
                self.parts[k] = 0
                continue
            log_prob, _, norm = self.leaves[k](*self.train.batch(own, len(rows)))
            losses[k] = -self.train.weighted(log_prob, own)
            self.seen.append((own, log_prob))
        loss_sum = float(self.ranks.total(losses))
        grad = self.ranks.add_up(self.parts)[: self.size]
        for part in self.frozen:
            grad[part] = 0
        if self.frozen or self.ranks.shards > 1:
            with np.errstate(over="ignore", invalid="ignore"):
                norm = math.sqrt(float(np.square(grad, dtype=np.float64).sum()))
        return loss_sum, grad, norm

    def update_statistics(self) -> None:
        """Move the running statistics of layers that take them by those of the last batch."""
        for leaf in self.leaves:
            leaf.update_statistics()


def _not_finite(flow: Flow, train: _Rows, run: Run, gradient: _Gradient) -> RowsNotFinite:
    bad, numbers, row = [], [], None
    for rows, log_prob in gradient.seen:
        numbers += train.numbers[rows].tolist()
        bad += train.numbers[rows][~np.isfinite(log_prob)].tolist()
    for rows, _ in gradient.seen if not bad else []:
        found = flow.row_without_gradient(train.x[rows], train.c[rows])
        if found is not None and row is None:
            row = int(train.numbers[rows][found])
    said = train.ranks.gather((bad, numbers, row))
    bad = [number for part, _, _ in said for number in part]
    numbers = [number for _, part, _ in said for number in part]
    rows_without = [number for _, _, number in said if number is not None]
    if bad:
        where = f"training rows {bad[:5]}"
    elif rows_without:
        where = f"its gradient, training row {rows_without[0]}"
    else:
        where = f"its gradient, rows {numbers[:5]}, ..."
    return RowsNotFinite(
        f"the loss is not finite at epoch {run.epoch}, step {run.step}: {where}; "
        "the last good parameters were kept (a lower learning_rate or clip may help)",
        train.name,
        (bad or rows_without or numbers)[:5],
    )
