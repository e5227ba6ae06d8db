r"""Check of the hand-written gradient, by complex steps through the likelihood.

.. math:: \frac{\partial \mathcal L}{\partial \theta_k}
          = -\frac1{N h} \sum_n \operatorname{Im} \log p_{\theta + i h e_k}(x_n)

Letters: N rows, P parameters.
"""

from __future__ import annotations

import numpy as np

from afnp.flow import Flow
from afnp.verify.points import FAR
from afnp.verify.results import NotRun, Result, check, compare
from afnp.verify.subject import Subject
from afnp.verify.tolerance import perturbed_arrays
from afnp.verify.worker import safe_point

__all__ = ["gradients"]

PARTS = 25
"""Beyond the level's number of parameters, a PARTS-th of it is checked, and directions that involve
all."""

DIRECTIONS, FEWEST = 8, 4
"""Of a flow that costs much so few directions, and twice as many parameters."""

BATCHES = (1, 5)
"""Rows near the middle; as many as the last are far out."""

OUT, LEAST = 16, 2
"""Rows far out of which the mildest are taken; of a flow that costs much twice as many as these."""

STEP = 1e-30
NOTHING = 1e-270, 1e-30
"""What is never read has gradient 0; below this, in double or single precision, it may
underflow."""
EPS = float(np.finfo(np.float64).eps)
"""Of the arithmetic of complex steps."""


@check("C13")
def gradients(subject: Subject, rng: np.random.Generator) -> Result:
    r"""``loss_and_grad`` is the derivative of the mean negative log-likelihood, by each parameter.

    .. math:: g_k = -\operatorname{Im} \mathcal{\bar\ell}(\theta + i h e_k) / h, \qquad
              g \cdot v = -\operatorname{Im} \mathcal{\bar\ell}(\theta + i h v) / h

    For two batch sizes. Beyond a thousand parameters (paranoid: 20,000), for some of them and
    random directions v. A float32 flow is checked in float64 too. Masked entries have gradient
    exactly 0; so has what no row reads, but complex steps also round away shares of 1e-17, of what
    some row reads and others do not. Exactly on a kink (a ReLU of 0, as in a fresh network whose
    biases are 0) anything between the derivatives of both sides is right.
    """
    flow = subject.flow
    if flow is None:
        raise NotRun("needs the parameters of an afnp flow")
    if not flow.theta.size:
        raise NotRun("the flow has no parameters")
    errors, tolerances, limits = [], [], []
    directions = _directions(subject, rng)
    # of a flow that costs much: what lies far out is the other batch size
    sizes = BATCHES[-subject.worth(len(BATCHES), 1) :]
    batches = [*(_likely(subject, rows, rng) for rows in sizes), _far(subject, flow, rng)]
    batches = [(x, c) for x, c in batches if len(x)]
    derivatives = _expected(flow, batches, directions)
    never = np.all(np.equal(derivatives, 0), axis=0)
    for (x, c), expected in zip(batches, derivatives, strict=True):
        for gradient, eps in _claims(subject, flow, x, c):
            claimed = _along(gradient, directions)
            tolerance, nothing = _tolerance(subject, flow, x, c, eps, rng)
            tolerance = _length(tolerance, directions)
            of_zero = np.where(never, NOTHING[eps > 1e-10], nothing)
            tolerances.append(np.where(expected == 0, of_zero, tolerance))
            errors.append(np.abs(claimed - expected))
            if (errors[-1] > tolerances[-1]).any():
                other = _expected(flow, [(x, c)], directions, step=-STEP)[0]
                errors[-1] = _outside(claimed, expected, other, tolerances[-1], len(directions[0]))
            limits.append(
                np.full(
                    len(expected), np.sqrt(subject.tolerance.eps) * (1 + np.abs(expected).max())
                )
            )
    why = "eps x measured condition, and the layer's largest entry"
    return compare(errors, tolerances, why, ("case", "parameter"), limit=np.array(limits))


def _outside(claimed, one, other, tolerance, entries: int) -> np.ndarray:
    """Return the distance from what lies between both sides.

    A direction across a kink says nothing.
    """
    low, high = np.minimum(one, other), np.maximum(one, other)
    direction = np.arange(len(claimed)) >= entries
    return np.where(
        direction & (high - low > tolerance), 0.0, np.abs(claimed - np.clip(claimed, low, high))
    )


def _likely(subject: Subject, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of data near the middle of the noise.

    Far out, one huge gradient would hide all others.
    """
    x, u, c = subject.points.rows(rng, 16)
    middle = np.argsort(np.abs(u).max(axis=1), kind="stable")[:rows]
    return x[middle], c[middle]


def _far(subject: Subject, flow: Flow, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows of data far out, where splines have ended, and take the mildest.

    One huge gradient would hide them.
    """
    x, _, c = subject.points.rows(rng, subject.worth(OUT, 2 * LEAST), scales=FAR)
    steep = np.array(
        [np.abs(_gradient(flow, x[k : k + 1], c[k : k + 1])).max() for k in range(len(x))]
    )
    mild = np.argsort(steep, kind="stable")[: subject.worth(BATCHES[-1], LEAST)]
    mild = mild[steep[mild] <= 1 / np.sqrt(subject.tolerance.eps)]
    return x[mild], c[mild]


def _directions(subject: Subject, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the parameters to check, and directions (V, P) if those are not all."""
    size, most = subject.flow.theta.size, subject.level.parameters  # type: ignore[union-attr]
    if size <= most:
        return np.arange(size), np.empty((0, size))
    signs = rng.integers(0, 2, (subject.worth(DIRECTIONS, FEWEST), size), dtype=np.int8)
    entries = rng.choice(size, subject.worth(most // PARTS, 2 * FEWEST), replace=False)
    length = 1 / np.sqrt(size)
    return np.sort(entries), np.where(signs, length, -length)


def _along(gradient: np.ndarray, directions) -> np.ndarray:
    """Return the chosen entries, then the derivatives along the directions."""
    return np.concatenate([gradient[directions[0]], directions[1] @ gradient])


def _length(tolerance: np.ndarray, directions) -> np.ndarray:
    """Return the tolerances of the chosen entries, and of the directions of random signs."""
    entries, along = directions
    length = np.linalg.norm(tolerance) / np.sqrt(tolerance.size)
    return np.concatenate([tolerance[entries], np.full(len(along), length)])


def _expected(flow: Flow, batches: list, directions, step: float = STEP) -> list[np.ndarray]:
    """Return each batch's derivatives by complex step, each one likelihood of all rows."""
    x, c = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    x, c, theta = x.astype(np.complex128), c.astype(np.float64), flow.theta.astype(np.complex128)
    derivatives = np.empty((sum(map(len, directions)), len(x)))
    for row, k in zip(derivatives, directions[0], strict=False):
        safe_point()
        theta[k] += 1j * step
        row[:] = flow.log_prob_with(flow.split(theta), x, c).imag / -step
        theta[k] = theta[k].real
    for row, v in zip(derivatives[len(directions[0]) :], directions[1], strict=True):
        safe_point()
        np.multiply(v, step, out=theta.imag)
        row[:] = flow.log_prob_with(flow.split(theta), x, c).imag / -step
    cuts = np.cumsum([len(rows) for rows, _ in batches])[:-1]
    return [part.mean(axis=1) for part in np.split(derivatives, cuts, axis=1)]


def _gradient(
    flow: Flow, x: np.ndarray, c: np.ndarray, arithmetic: type = np.ndarray
) -> np.ndarray:
    """Return the hand-written gradient in float64, by the arithmetic of a kind of array."""

    def cast(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64, copy=False).view(arithmetic)

    safe_point()
    gradient = np.zeros(flow.theta.size)
    flow.add_gradient(flow.split(cast(flow.theta)), cast(x), cast(c), flow.split(gradient))
    return gradient


def _claims(subject: Subject, flow: Flow, x: np.ndarray, c: np.ndarray):
    """Yield the gradients to check, with the ε of the arithmetic that gave them."""
    context = c if flow.context else None
    usual = "auto" if "numba" in subject.backends else "numpy"
    yield flow.loss_and_grad(x, context, backend=usual)[1].astype(np.float64), subject.tolerance.eps
    if "numba" in subject.backends:
        yield (
            flow.loss_and_grad(x, context, backend="numba")[1].astype(np.float64),
            subject.tolerance.eps,
        )
    if subject.tolerance.precise != subject.dtype:
        yield _gradient(flow, x, c), float(np.finfo(np.float64).eps)


def _tolerance(
    subject: Subject, flow: Flow, x, c, eps: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return how far rounding may move each entry, and what may be left of one that is 0.

    By perturbed arithmetic, and by the layer's largest entry.
    """
    size, squares = np.zeros((2, flow.theta.size))
    for k in range(len(x)):  # rows may cancel, their rounding does not
        of_row = _gradient(flow, x[k : k + 1], c[k : k + 1])
        np.maximum(size, np.abs(of_row, out=of_row), out=size)
    size /= len(x)
    still, perturbed = _gradient(flow, x, c), perturbed_arrays(rng, subject.tolerance.delta)
    for _ in range(subject.tolerance.count):
        moved = _gradient(flow, x, c, perturbed)
        moved -= still
        squares += np.square(moved, out=moved)
    rounding = np.sqrt(squares / subject.tolerance.count) / subject.tolerance.delta
    largest = [size[a:b].max(initial=0.0) for a, b in _layers(flow)]
    floor = np.repeat(largest, [b - a for a, b in _layers(flow)])
    # it rounds in every layer, even if it cancels
    passed_on = subject.tolerance.safety * (1 + size.max())
    allowed = subject.tolerance.safety * eps * (rounding + floor) + eps * passed_on
    return allowed, EPS * passed_on


def _layers(flow: Flow) -> list[tuple[int, int]]:
    """Return where each layer's parameters begin and end."""
    cuts = np.cumsum([0, *(part.layout.size for part in (*flow.layers, flow.base))])
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
