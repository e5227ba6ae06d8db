r"""What training loops share: the rate over time, callbacks and what they are told, the clock.

.. math:: \eta_t = \eta\, s(t / T), \qquad s_{\mathrm{cosine}}(q) = \tfrac12 (1 + \cos \pi q)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

from afnp.inputs import choose, real
from afnp.train.checkpoint import History

__all__ = [
    "SCHEDULES",
    "Clock",
    "Epoch",
    "RowsNotFinite",
    "checked_callbacks",
    "factor",
    "line_of",
    "record_of",
    "schedule_name",
]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}
"""The learning rate, in units of the first, when a part ``done`` of all steps has been taken."""


class RowsNotFinite(FloatingPointError):
    """A density or its gradient that is not finite: in which ``rows`` of which ``table``."""

    def __init__(self, message: str, table: str, rows: list[int]):
        super().__init__(message)
        self.table, self.rows = table, rows


@dataclass(frozen=True)
class Epoch:
    """What a callback of :func:`afnp.fit` is told after each epoch; losses in nats."""

    epoch: int
    """Counted from 0, as ``History.best_epoch`` is."""
    epochs: int
    """How many there shall be."""
    train_loss: float
    val_loss: float | None
    """None without validation rows."""
    learning_rate: float
    best: bool
    """Whether this epoch's parameters are the ones to be kept, so far."""
    seconds: float
    """Of training so far."""


def schedule_name(schedule) -> str:
    """Return what stands in the recipe for a schedule."""
    if isinstance(schedule, str) or not callable(schedule):
        choose("schedule", schedule, tuple(SCHEDULES))
        return schedule
    kind = schedule if isinstance(schedule, FunctionType) else type(schedule)
    return f"{kind.__module__}.{kind.__qualname__}"


def factor(shape: Callable[[float], float], done: float, name: str = "schedule") -> float:
    """Return what a schedule says when a part ``done`` of all steps has been taken, checked."""
    value = shape(done)
    try:
        return real(name, value, 0.0, math.inf, "[)")
    except ValueError:
        raise ValueError(
            f"{name}: expected a finite number of at least 0 for {done}, got {value!r}"
        ) from None


def checked_callbacks(callbacks) -> tuple:
    """Return callbacks as a tuple, or raise a ValueError."""
    try:
        found = tuple(callbacks)
    except TypeError:
        found = (None,)
    if not all(map(callable, found)):
        raise ValueError(f"callbacks: expected a sequence of callables, got {callbacks!r}")
    return found


def record_of(history: History, epochs: int) -> Epoch:
    """Return what a callback is told of the last epoch."""
    epoch = len(history.train_loss) - 1
    return Epoch(
        epoch,
        epochs,
        history.train_loss[-1],
        history.val_loss[-1] if history.val_loss else None,
        history.learning_rate[-1],
        history.best_epoch == epoch,
        history.seconds,
    )


def line_of(history: History) -> str:
    """Return what a bar says of the last epoch."""
    losses = f"train {history.train_loss[-1]:.3f}"
    if history.val_loss:
        losses += f", val {history.val_loss[-1]:.3f}"
    return f"{losses}, rate {history.learning_rate[-1]:.1e}"


class Clock:
    """Seconds of training, over all resumptions; a clock that is set back takes none away."""

    def __init__(self, before: float):
        self.total = before
        self.last = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds so far."""
        now = time.perf_counter()
        self.total += max(0.0, now - self.last)
        self.last = now
        return self.total
