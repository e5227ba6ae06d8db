r"""Training: Adam on the exact negative log-likelihood, interruptible and resumable to the last bit.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2

    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
               + \lambda\, \theta \right)

Adam (arXiv 1412.6980) with bias correction and decoupled weight decay λ (arXiv 1711.05101), on the flat parameter
vector. All state lies in two records, :class:`Adam` and :class:`_Run`, and a checkpoint is both of them.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from afnp import files
from afnp.flows import Flow

__all__ = ["Adam", "History", "fit"]


class Adam:
    """Adam on one flat vector; see the module's formula.

    Examples
    --------
    >>> theta, adam = np.array([1.0]), Adam(1, np.float64)
    >>> for _ in range(300):
    ...     adam.step(theta, 2 * theta, rate=0.05)   # minimise theta²
    >>> bool(abs(theta[0]) < 1e-3)
    True
    """

    def __init__(
        self,
        size: int,
        dtype,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        backend: str = "numpy",
    ):
        self.m, self.v = np.zeros(size, dtype=dtype), np.zeros(size, dtype=dtype)
        self.scratch = np.empty(size, dtype=dtype)
        self.t = 0
        self.beta1, self.beta2, self.epsilon, self.backend = beta1, beta2, epsilon, backend

    def step(self, theta: np.ndarray, g: np.ndarray, rate: float, weight_decay: float = 0.0) -> None:
        """Move ``theta`` (P,) in place against the gradient ``g`` (P,)."""
        self.t += 1
        m, v, s = self.m, self.v, self.scratch
        # m̂ / (√v̂ + ε) = c m / (√v + ε √(1 - β₂ᵗ)),  c = √(1 - β₂ᵗ) / (1 - β₁ᵗ)
        root = math.sqrt(1 - self.beta2**self.t)
        rate_t, epsilon_t = rate * root / (1 - self.beta1**self.t), self.epsilon * root
        if self.backend == "numba":
            from afnp.kernels.adam import step

            step(theta, g, m, v, self.beta1, self.beta2, rate_t, epsilon_t, keep=1 - rate * weight_decay)
            return
        m += np.multiply(np.subtract(g, m, out=s), 1 - self.beta1, out=s)
        np.multiply(g, g, out=s)
        s -= v
        s *= 1 - self.beta2
        v += s
        np.sqrt(v, out=s)
        s += epsilon_t
        np.divide(m, s, out=s)
        s *= rate_t
        if weight_decay:
            theta *= 1 - rate * weight_decay
        theta -= s


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
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
) -> History:
    r"""Fit a flow by maximum likelihood; ``flow.theta`` changes in place.

    .. math:: \min_\theta\; -\frac1N \sum_n \log p_\theta(x_n \mid c_n)

    With validation rows, the parameters of the best epoch are kept. Ctrl-C ends training after the step it finds
    under way, as if that had been the last one: the history so far is returned.

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
        Go on from the checkpoint if it exists; the result equals that of an uninterrupted run, bit for bit.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        If rows or options make no sense; if the checkpoint exists and ``resume`` is false, or is of another recipe.
    FloatingPointError
        If the loss or its gradient is not finite: names epoch, step and rows; the last good parameters stay.

    Examples
    --------
    >>> import afnp
    >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(200, 2))
    >>> flow = afnp.made(2, hidden=(8,))
    >>> history = fit(flow, x, epochs=20, learning_rate=0.03, progress=False)
    >>> history.train_loss[-1] < history.train_loss[0]
    True
    """
    _check_options(epochs, batch_size, learning_rate, weight_decay, clip, patience, schedule, x_val)
    x, c = flow._check(x_train, context, "x_train")
    if not len(x):
        raise ValueError("x_train: expected at least one row, got none")
    validation = None if x_val is None else flow._check(x_val, context_val, "x_val")
    options = {
        "batch_size": batch_size, "learning_rate": learning_rate, "schedule": schedule, "clip": clip,
        "weight_decay": weight_decay, "seed": seed, "epochs": epochs, "patience": patience,
    }  # fmt: skip
    trainer = _Trainer(flow, x, c, validation, options, checkpoint)
    trainer.begin(resume)
    with _Interruption() as interruption:
        trainer.run(interruption, progress)
    return trainer.history


def _check_options(epochs, batch_size, learning_rate, weight_decay, clip, patience, schedule, x_val) -> None:
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience or 1)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    for name, value in (("learning_rate", learning_rate), ("clip", clip)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay: expected a number of at least 0, got {weight_decay}")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule: expected 'cosine' or 'constant', got {schedule!r}")
    if patience is not None and x_val is None:
        raise ValueError("patience: early stopping needs validation rows, got x_val=None")


class _Trainer:
    """One training run: its data, its state, and its loop."""

    def __init__(self, flow: Flow, x, c, validation, options: dict, checkpoint):
        self.flow, self.x, self.c, self.validation, self.options = flow, x, c, validation, options
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.backend = flow._backend("auto", min(options["batch_size"], len(x)))
        self.adam = Adam(flow.theta.size, flow.dtype, backend=self.backend)
        self.rng = np.random.default_rng(options["seed"])
        self.history = History()
        self.run_state = _Run()
        self.best, self.good = flow.theta.copy(), flow.theta.copy()
        threads = flow._gradient_blocks(min(options["batch_size"], len(x)), self.backend)
        self.grads = [np.zeros_like(flow.theta) for _ in threads]
        self.steps = math.ceil(len(x) / options["batch_size"])

    # ---- the loop ----------------------------------------------------------------------------------------

    def run(self, interruption: _Interruption, progress: bool) -> None:
        start, before = time.perf_counter(), self.history.seconds
        epochs, history, state = self.options["epochs"], self.history, self.run_state
        bar = tqdm(total=epochs, initial=state.epoch, desc="fit", unit="epoch", leave=None, disable=not progress)
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
                self.rng.bit_generator.state = state.rng_state
                return False
            self._step(rows[state.step * size : (state.step + 1) * size])
        self.history.train_loss.append(state.loss_sum / len(self.x))
        self.history.learning_rate.append(self._rate())
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        state.rng_state = self.rng.bit_generator.state
        self._validate()
        return True

    def _step(self, rows: np.ndarray) -> None:
        log_prob, square = self.flow._gradient_in_blocks(self.x[rows], self.c[rows], self.grads, self.backend)
        norm, grad = math.sqrt(square), self.grads[0]
        loss_sum = -float(log_prob.sum(dtype=np.float64))
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            self._fail(log_prob, rows)
        if norm > self.options["clip"]:
            grad *= self.options["clip"] / norm
        np.copyto(self.good, self.flow.theta)
        self.adam.step(self.flow.theta, grad, self._rate(), self.options["weight_decay"])
        self.run_state.loss_sum += loss_sum
        self.run_state.step += 1

    def _rate(self) -> float:
        fraction = self.adam.t / (self.steps * self.options["epochs"])
        wave = 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))) if self.options["schedule"] == "cosine" else 1.0
        return self.options["learning_rate"] * wave

    def _validate(self) -> None:
        if self.validation is None:
            return
        x, c = self.validation
        loss = -float(self.flow.log_prob(x, c if self.flow.context else None).mean(dtype=np.float64))
        self.history.val_loss.append(loss)
        best = self.history.best_epoch
        if best is None or loss < self.history.val_loss[best]:
            self.history.best_epoch = len(self.history.val_loss) - 1
            np.copyto(self.best, self.flow.theta)

    def _out_of_patience(self) -> bool:
        patience, best = self.options["patience"], self.history.best_epoch
        return patience is not None and best is not None and self.run_state.epoch - 1 - best >= patience

    def _fail(self, log_prob: np.ndarray, rows: np.ndarray) -> None:
        self.flow.theta = self.good
        bad = rows[~np.isfinite(log_prob)]
        where = f"training rows {bad[:5].tolist()}" if len(bad) else f"its gradient, rows {rows[:5].tolist()}, ..."
        raise FloatingPointError(
            f"the loss is not finite at epoch {self.run_state.epoch}, step {self.run_state.step}: {where}; "
            "the last good parameters were kept (a lower learning_rate or clip may help)"
        )

    def _line(self) -> str:
        losses = f"train {self.history.train_loss[-1]:.3f}"
        if self.history.val_loss:
            losses += f", val {self.history.val_loss[-1]:.3f}"
        return f"{losses}, rate {self.history.learning_rate[-1]:.1e}"

    # ---- checkpoints -------------------------------------------------------------------------------------

    def _recipe(self) -> dict:
        """Return what must be the same for a resumed run to equal an uninterrupted one."""
        data = [self.x, self.c, *(self.validation or ())]
        return {**self.options, "flow": self.flow.config(), "data": [_fingerprint(a) for a in data]}

    def begin(self, resume: bool) -> None:
        """Go on from the checkpoint, or make sure that starting anew overwrites nothing."""
        if self.checkpoint is None:
            if resume:
                raise ValueError("resume: expected a checkpoint to resume from, got checkpoint=None")
            return
        self.run_state.recipe = self._recipe()
        if self.checkpoint.exists():
            if not resume:
                raise ValueError(f"checkpoint: {self.checkpoint} exists; pass resume=True, or delete it first")
            self._load(self.checkpoint)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self.run_state.adam_t, self.run_state.history = self.adam.t, asdict(self.history)
        arrays = {"theta": self.flow.theta, "best": self.best, "m": self.adam.m, "v": self.adam.v}
        files.write(self.checkpoint, "checkpoint", {"run": asdict(self.run_state)}, arrays)

    def _load(self, path: Path) -> None:
        header, arrays = files.read(path, "checkpoint")
        saved, mine = header["run"]["recipe"], self.run_state.recipe
        differing = [name for name in mine if saved.get(name) != mine[name]]
        if differing:
            name = differing[0]
            got = "" if name in ("flow", "data") else f": {saved.get(name)} there, {mine[name]} here"
            raise ValueError(f"checkpoint: {path} was made with another recipe; {name} differs{got}")
        self.run_state = _Run(**header["run"])
        self.history = History(**header["run"]["history"])
        self.rng.bit_generator.state = self.run_state.rng_state
        self.adam.t = self.run_state.adam_t
        self.flow.theta = arrays["theta"]
        self.best[:], self.adam.m[:], self.adam.v[:] = arrays["best"], arrays["m"], arrays["v"]


def _fingerprint(a: np.ndarray) -> list:
    return [*a.shape, zlib.crc32(np.ascontiguousarray(a).tobytes())]


class _Interruption:
    """Turn the first Ctrl-C into a request, ``asked``, that the loop honours between two steps.

    A second Ctrl-C interrupts as usual. Outside the main thread Python delivers none, and nothing is done.
    """

    asked = False

    def __enter__(self) -> _Interruption:
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *error) -> None:
        if self.main:
            signal.signal(signal.SIGINT, self.before)
