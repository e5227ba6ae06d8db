r"""Training from an energy, without data: reverse Kullback-Leibler by pathwise gradients.

.. math:: F(\theta) = \mathbb E_u \Big[ \tfrac1T E(x) + \log p(u)
          - \log\left|\det \frac{\partial x}{\partial u}\right| \Big]
          = \mathrm{KL}\Big( p_\theta \;\Big|\; \frac{e^{-E/T}}{Z} \Big) - \log Z,
          \qquad x = \mathrm{generate}_\theta(u)

The noise does not depend on θ, so the gradient goes through the samples: that of the energy by x
comes with the energy, and the rest is the backward pass of sampling. Inverse autoregressive flows
and couplings sample in one pass, and go back in one; the former run compiled. A masked
autoregressive flow samples by substitution, and goes back by substitution from the last feature to
the first, each unit once: the transposed triangular solve of
:meth:`afnp.transforms.Transform.generate_backward`.

**What is exact**: the gradient of the mean over the samples that were drawn, to rounding, and hence
without bias that of F; the density of each sample; the bound F ≥ -log Z. What is an estimate, with
the noise of N samples: F itself, log Z (too low on average) and the effective sample size.

With a context c, E and Z are those of c, and F is the mean over the contexts that were given: one
flow learns a family of densities, exp(-E(x; c)) / Z(c).

F is the variational free energy: never below -log Z, and equal to it where the flow is the target.
How far above it is, it does not say. Importance weights do, in part:

.. math:: w_n = \frac{e^{-E(x_n)}}{p_\theta(x_n)}, \qquad
          \mathrm{ESS} = \frac{(\sum_n w_n)^2}{\sum_n w_n^2}, \qquad
          \log Z \approx \log \frac1N \sum_n w_n

N samples of the flow tell about expectations of the target as much as ESS samples of the target
would (Kish 1965; about, and for functions that know nothing of the weights). **What the flow never
samples it cannot weigh**: a flow that sits in one of two wells reports a good ESS and half of Z.
The reverse divergence likes to do that; a temperature that falls to 1 makes it less likely, and
samples of the target from elsewhere are the only proof (arXiv 2208.01893 does much with both).

Letters: N rows, B rows a step, D features, C context inputs, M contexts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from afnp import progress as bars
from afnp.advice import warn_of_shape
from afnp.flow import Flow
from afnp.inputs import (
    TOO_MANY,
    check_rows,
    flag,
    generator,
    integer,
    plain_array,
    real,
    refuse_masked,
    too_many_rows,
)
from afnp.model import check_context
from afnp.train.adam import Adam
from afnp.train.checkpoint import History
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
from afnp.transforms import Inverse
from afnp.univariate.stable import logsumexp

__all__ = ["ImportanceSample", "effective_sample_size", "fit_energy", "importance_sample"]

Energy = Callable[..., tuple[np.ndarray, np.ndarray]]
"""Maps x (N, D), float64, to energies (N,) and their gradients by x (N, D); of a conditional flow,
x and contexts (N, C)."""


def fit_energy(
    flow: Flow,
    energy_and_gradient: Energy,
    *,
    context=None,
    epochs: int = 100,
    steps: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    schedule: str | Callable[[float], float] = "cosine",
    temperature: Callable[[float], float] | None = None,
    weight_decay: float = 0.0,
    clip: float = 5.0,
    seed: int = 0,
    progress: bool = True,
    callbacks: Sequence[Callable[[Epoch], object]] = (),
) -> History:
    r"""Fit a flow to the density of an energy, exp(-E(x)) / Z; ``flow.theta`` changes in place.

    .. math:: \min_\theta\; \mathbb E_u \Big[ E(x) + \log p(u)
              - \log\left|\det \frac{\partial x}{\partial u}\right| \Big] \ge -\log Z,
              \qquad x = \mathrm{generate}_\theta(u)

    Reverse Kullback-Leibler divergence, by pathwise gradients; see :mod:`afnp.train.energy` for the
    derivation, what is exact, and what it does not see. Inverse autoregressive flows of some size
    train compiled, others in NumPy.

    Parameters
    ----------
    flow : Flow
        With a base that has no parameters.
    energy_and_gradient : callable
        Maps x (B, D), float64, to energies (B,) in units of kT and their gradients (B, D). Given a
        context it is called with x and the contexts (B, C) of the rows, and answers for each row
        given its own.
    context : (M, C) array, optional
        For a conditional flow: what it is to be right for. Each sample takes one of these rows, at
        random.
    epochs, steps, batch_size : int
        Steps an epoch, and fresh samples a step. What the history and callbacks say is of epochs.
    learning_rate, schedule, weight_decay, clip, progress, callbacks
        As for :func:`afnp.fit`.
    temperature : callable, optional
        T when a part of all steps has been taken, in [0, 1]: annealing begins above 1 and should
        end there. Losses are those of the temperature then. Always 1 if left out.
    seed : int
        For the noise.

    Returns
    -------
    History
        ``train_loss``: the mean of F over the samples of an epoch, nats.

    Raises
    ------
    ValueError
        If an option makes no sense; if the energy returns another shape.
    FloatingPointError
        If an energy, its gradient, or the flow's is not finite: names epoch, step and sample; the
        last good parameters stay.
    KeyboardInterrupt
        If interrupted before the first epoch ended.

    Examples
    --------
    A Gaussian with mean 3 and standard deviation 0.5 has log Z = log(0.5) + log(2 π) / 2 = 0.226:

    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
    >>> energy = lambda x: (2 * ((x - 3) ** 2).sum(axis=1), 4 * (x - 3))
    >>> history = fit_energy(flow, energy, learning_rate=0.1, epochs=30, progress=False)
    >>> print(f"{history.train_loss[-1]:.3f}")
    -0.452
    >>> print(f"{importance_sample(flow, energy, 1000).fraction:.2f}")
    1.00
    """
    _check_flow(flow)
    contexts = _checked_contexts(flow, context)
    epochs = integer("epochs", epochs, least=1)
    steps = integer("steps", steps, least=1)
    batch_size = integer("batch_size", batch_size, least=1)
    learning_rate = real("learning_rate", learning_rate, 0.0)
    weight_decay = real("weight_decay", weight_decay, 0.0, math.inf, "[)")
    clip = real("clip", clip, 0.0, math.inf, "(]")
    rng = np.random.default_rng(integer("seed", seed, least=0))
    callbacks = checked_callbacks(callbacks)
    schedule_name(schedule)
    shape = schedule if callable(schedule) else SCHEDULES[schedule]
    warn_of_shape(flow)
    if temperature is not None and not callable(temperature):
        raise ValueError(f"temperature: expected a callable, got {temperature!r}")
    flag("progress", progress)

    engine = _engine_of(flow, contexts, batch_size)
    step = _Step(flow, energy_and_gradient, contexts, batch_size, engine, rng)
    history, clock = History(), Clock(0.0)
    adam = Adam(flow.theta.size, flow.dtype, backend=engine)
    good = flow.theta.copy()
    stopped, total = "", epochs * steps
    bar = bars.steps_bar("fit_energy", "epoch", epochs, 0, show=progress)
    with Interruption() as interruption, bar:
        try:
            while not stopped:
                losses: list[float] = []
                while len(losses) < steps and not interruption.asked:
                    done = adam.t / total
                    T = 1.0 if temperature is None else real("temperature", temperature(done), 0.0)
                    loss, grad = step(T, f"epoch {adam.t // steps}, step {adam.t % steps}")
                    norm = math.sqrt(float(np.square(grad, dtype=np.float64).sum()))
                    rate = learning_rate * factor(shape, done)
                    scale = clip / norm if norm > clip else 1.0
                    good[:] = flow.theta
                    adam.step(flow.theta, grad, rate, weight_decay, scale)
                    losses.append(loss)
                history.seconds = clock.seconds()
                if len(losses) < steps:
                    stopped = "interrupted"
                    break
                history.train_loss.append(math.fsum(losses) / steps)
                history.learning_rate.append(learning_rate * factor(shape, adam.t / total))
                bar.set_postfix_str(line_of(history))
                bar.update()
                if len(history.train_loss) == epochs:
                    stopped = "epochs"
                record = record_of(history, epochs)
                if any([callback(record) for callback in callbacks]):
                    stopped = "callback"
        except FloatingPointError:
            flow.theta = good
            raise
    if not history.train_loss:
        raise KeyboardInterrupt("interrupted before the first epoch ended; no result")
    history.stopped = stopped
    return history


def _check_flow(flow) -> None:
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: expected a Flow, got {type(flow).__name__}")
    if flow.base.layout.size:
        raise ValueError("flow: expected a base without parameters: its noise must not move")


def _checked_contexts(flow: Flow, context) -> np.ndarray:
    """Return contexts (M, C), one of them without a column where the flow takes none."""
    if context is not None and flow.context:
        context = check_rows(context, flow.context, np.float64, "context", flow.context_columns)
        if not len(context):
            raise ValueError("context: expected at least one row, got none")
        return context
    return check_context(context, flow.context, 1, np.float64)


def _engine_of(flow: Flow, contexts: np.ndarray, batch: int) -> str:
    """Return who takes the steps: compiled code where it pays, and has proved to work here."""
    if not any(isinstance(layer, Inverse) for layer in flow.layers):
        return "numpy"
    u = np.zeros((batch, flow.features), flow.dtype)
    _, given = flow.check(u, np.repeat(contexts[:1], batch, axis=0) if flow.context else None, "u")

    def trial(rows: slice, engine: str) -> None:
        x, log_det, caches = flow.generate_keeping(flow.own, u, given, engine)
        g = flow.split(np.zeros_like(flow.theta))
        flow.generate_backward(flow.own, caches, x, np.ones_like(log_det), g, engine)

    plan = flow.plan("auto", batch, gradient=True)
    return flow.attempt(plan, batch, "", trial, gradient=True)[0].engine


@dataclass
class _Step:
    """What a step takes: the mean of F over fresh samples, and its gradient (P,)."""

    flow: Flow
    energy: Energy
    contexts: np.ndarray
    batch: int
    engine: str
    rng: np.random.Generator

    def __call__(self, T: float, when: str) -> tuple[float, np.ndarray]:
        flow = self.flow
        g = flow.split(np.zeros_like(flow.theta))
        u = flow.base.sample(flow.own.base, self.batch, self.rng, flow.dtype)
        context = None
        if flow.context:
            context = self.contexts[self.rng.integers(0, len(self.contexts), self.batch)]
        u, given = flow.check(u, context, "u")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            x, log_det, caches = flow.generate_keeping(flow.own, u, given, self.engine)
            _refuse(np.isfinite(x).all(axis=1), "a sample", when)
            energy, d_x = _evaluated(self.energy, x, context)
            free = energy / T + flow.base.log_prob(flow.own.base, u) - log_det
            _refuse(np.isfinite(free), "the energy", when)
            _refuse(np.isfinite(d_x).all(axis=1), "the energy's gradient", when)
            d_x = (d_x / (T * self.batch)).astype(x.dtype)
            d_log_det = np.full(self.batch, -1 / self.batch, dtype=flow.dtype)
            flow.generate_backward(flow.own, caches, d_x, d_log_det, g, self.engine)
        if not np.isfinite(g.flat).all():
            raise _unsound("the flow's gradient", when)
        return float(free.mean(dtype=np.float64)), g.flat


def _evaluated(
    energy_and_gradient: Energy, x: np.ndarray, context: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return energies (N,) and gradients (N, D) as float64, or say what shape they should have."""
    if not callable(energy_and_gradient):
        raise ValueError(f"energy_and_gradient: expected a callable, got {energy_and_gradient!r}")
    given = () if context is None else (context,)
    answer = energy_and_gradient(x.astype(np.float64), *given)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise ValueError("energy_and_gradient: expected energies and gradients, a pair")
    for part, name in zip(answer, ("energies", "gradients"), strict=True):
        refuse_masked(part, f"energy_and_gradient: {name}")
    energy, gradient = (np.asarray(part, np.float64) for part in answer)
    if (energy.shape, gradient.shape) != ((len(x),), x.shape):
        raise ValueError(
            f"energy_and_gradient: expected shapes ({len(x)},) and {x.shape}, got {energy.shape} "
            f"and {gradient.shape}"
        )
    return energy, gradient


def _refuse(sound: np.ndarray, what: str, when: str) -> None:
    """Raise a FloatingPointError that names the row, unless every one is sound."""
    if not sound.all():
        raise _unsound(what, f"{when}, row {int(np.argmin(sound))}")


def _unsound(what: str, when: str) -> FloatingPointError:
    return FloatingPointError(
        f"{what} is not finite at {when}; the last good parameters were kept (a lower "
        "learning_rate or clip, or a temperature above 1 to begin with, may help)"
    )


# ---- how good it is ------------------------------------------------------------------------------


def effective_sample_size(log_weights) -> float:
    r"""Return how many equal weights say as much as these, from their logarithms (N,).

    .. math:: \mathrm{ESS} = \frac{(\sum_n w_n)^2}{\sum_n w_n^2} \in [1, N]

    Kish's; the weights may have any common factor. It is itself an estimate, and too high where
    large weights are rare: a sample that has not met them does not know of them.

    Examples
    --------
    >>> effective_sample_size(np.log([1.0, 1.0, 2.0]))
    2.6666666666666665
    """
    log_w = plain_array(log_weights, "log_weights").astype(np.float64)
    if log_w.ndim != 1 or not len(log_w) or np.isnan(log_w).any() or not (log_w > -math.inf).any():
        raise ValueError(
            f"log_weights: expected a vector of numbers, one above -inf, got shape {log_w.shape}"
        )
    w = np.exp(log_w - log_w.max())
    return float(w.sum() ** 2 / (w * w).sum())


@dataclass(frozen=True)
class ImportanceSample:
    """Samples of a flow, and what each says about the density of an energy."""

    x: np.ndarray
    """(N, D), drawn from the flow."""
    log_weights: np.ndarray
    """(N,) -E(x) - log p(x), nats."""

    @property
    def effective_sample_size(self) -> float:
        """Kish's; see :func:`effective_sample_size`. It knows nothing of what was never sampled."""
        return effective_sample_size(self.log_weights)

    @property
    def fraction(self) -> float:
        """The effective sample size in units of N, in (0, 1]."""
        return self.effective_sample_size / len(self.log_weights)

    @property
    def largest_share(self) -> float:
        """The largest weight in units of their sum: where it is not small, nothing else counts."""
        log_w = self.log_weights
        return float(np.exp(log_w.max() - logsumexp(log_w, axis=0)))

    @property
    def log_normaliser(self) -> float:
        """The estimate of log Z, nats: too low on average, by what was never sampled above all."""
        return float(logsumexp(self.log_weights, axis=0)) - math.log(len(self.log_weights))

    @property
    def standard_error(self) -> float:
        r"""Of ``log_normaliser``, to first order: :math:`\sqrt{(N / \mathrm{ESS} - 1) / N}`."""
        n = len(self.log_weights)
        return math.sqrt(max(0.0, n / self.effective_sample_size - 1) / n)


def importance_sample(
    flow: Flow, energy_and_gradient: Energy, n: int, rng=0, context=None
) -> ImportanceSample:
    """Draw n samples of a flow and weigh them for the density of an energy.

    Parameters
    ----------
    flow, energy_and_gradient
        As for :func:`fit_energy`.
    n : int
    rng : seed or Generator
    context : (1, C) array, optional
        Of a conditional flow: the one whose density the weights are for.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.iaf(2, hidden=(4,), transforms=1)
    >>> found = importance_sample(flow, lambda x: (x[:, 0] ** 2, 2 * x * [1, 0]), 1000)
    >>> found.x.shape, found.log_weights.shape
    ((1000, 2), (1000,))
    """
    _check_flow(flow)
    n, rng = integer("n", n, least=1), generator("rng", rng)
    contexts = _checked_contexts(flow, context)
    if len(contexts) > 1:
        raise ValueError(f"context: expected one row, for which weights are, got {len(contexts)}")
    given = contexts if flow.context else None
    try:
        u = flow.base.sample(flow.own.base, n, rng, flow.dtype)
    except TOO_MANY:
        raise too_many_rows(n, flow.features) from None
    x, log_det = flow.generate(u, given)
    log_p = flow.base.log_prob(flow.own.base, u).astype(np.float64) - log_det
    repeated = None if given is None else np.repeat(given, n, axis=0)
    energy, _ = _evaluated(energy_and_gradient, x, repeated)
    if np.isnan(energy).any():
        raise FloatingPointError(
            f"energy_and_gradient: row {int(np.argmax(np.isnan(energy)))} has an energy that is "
            "not a number"
        )
    return ImportanceSample(x, -energy - log_p)
