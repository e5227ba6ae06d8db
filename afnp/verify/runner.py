r"""Run the checks: on an afnp flow, or on anybody's functions.

.. math:: \text{report}(f) = \{\, \text{check}_k(\text{subject}(f), \text{seed}) \,\}_k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from afnp.flows import Flow
from afnp.verify.behaviour import batch_independence, deterministic, pure, shapes, staleness
from afnp.verify.gradient import gradients
from afnp.verify.parameters import randomize, restored
from afnp.verify.quadrature import normalisation
from afnp.verify.results import Check, Report
from afnp.verify.structure import connectivity, dependency, triangular
from afnp.verify.subject import BACKENDS, Subject
from afnp.verify.values import antisymmetry, log_det, round_trip

__all__ = ["CHECKS", "check_flow"]

CHECKS: dict[str, Check] = {
    function.__name__: function
    for function in (
        shapes,
        dependency,
        connectivity,
        triangular,
        log_det,
        round_trip,
        antisymmetry,
        deterministic,
        pure,
        batch_independence,
        normalisation,
        gradients,
        staleness,
    )
}
"""Every check by its name, in the order of the report."""


def check_flow(
    flow: Flow | None = None,
    *,
    normalize: Callable | None = None,
    generate: Callable | None = None,
    log_prob: Callable | None = None,
    sample: Callable | None = None,
    features: int | None = None,
    context: int = 0,
    allowed: Sequence | np.ndarray | None = None,
    complex_step: bool = False,
    dtype=np.float64,
    data: np.ndarray | None = None,
    seed: int = 0,
    checks: Sequence[str] | None = None,
    parameters: str = "random",
    backends: Sequence[str] = BACKENDS,
) -> Report:
    r"""Check a flow: structure, log-determinants, inverses, gradients, behaviour.

    .. math:: \text{ok} \iff \text{nothing failed and something passed}

    Parameters
    ----------
    flow : Flow, optional
        An afnp flow; or else the functions below.
    normalize : callable, optional
        ``normalize(x[, context])`` gives u (N, D) and log|det du/dx| (N,).
    generate : callable, optional
        ``generate(u[, context])`` gives x (N, D) and log|det dx/du| (N,), for standard normal u.
    log_prob : callable, optional
        ``log_prob(x[, context])`` gives nats (N,).
    sample : callable, optional
        ``sample(n, seed[, context])`` gives rows (n, D).
    features, context : int
        D (for functions), and C; the context is an argument only where C > 0, as (N, C).
    allowed : (D, D) bool array, optional
        Which u_i may depend on which x_j. For a flow its layers say so.
    complex_step : bool
        Whether ``normalize`` takes complex x, and stays analytic: derivatives are then good to rounding.
    dtype : float64 or float32
        Of the functions.
    data : (M, D) array, optional
        Rows inside the support of the functions, if that is not everything.
    seed : int
        For everything that is random here.
    checks : sequence of str, optional
        Names in ``CHECKS``; all, if left out.
    parameters : {"random", "own"}
        A flow is checked at random parameters, because fresh ones hide defects, or at its own. It has its own
        again afterwards, but nobody else should use it meanwhile.
    backends : sequence of str
        Renderings of a flow to check; one that does not run here fails.

    Raises
    ------
    ValueError
        If neither or both of flow and functions are given, or an argument makes no sense.

    Examples
    --------
    >>> from afnp import maf
    >>> report = check_flow(maf(2, hidden=(4,), transforms=2), checks=["log_det", "round_trip"])
    >>> report.ok, report.passed
    (True, ['log_det', 'round_trip'])
    >>> report = check_flow(normalize=lambda x: (2 * x, np.zeros(len(x))), features=3)
    >>> report.failed
    ['log_det']
    """
    names = list(CHECKS) if checks is None else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f"checks: expected names among {', '.join(CHECKS)}, got {unknown}")
    if parameters not in ("random", "own"):
        raise ValueError(f"parameters: expected 'random' or 'own', got {parameters!r}")
    functions = (normalize, generate, log_prob, sample)
    if (flow is None) == all(function is None for function in functions):
        raise ValueError("expected either a flow, or functions (normalize, generate, log_prob, sample)")
    if flow is not None:
        with restored(flow):
            if parameters == "random":
                randomize(flow, seed)
            return _run(Subject.of_flow(flow, backends), names, seed)
    if features is None or features < 1:
        raise ValueError(f"features: functions need their number of features, at least 1, got {features}")
    subject = Subject.of_callables(
        features, context, *functions, allowed=allowed, complex_step=complex_step, dtype=dtype, data=data
    )
    return _run(subject, names, seed)


def _run(subject: Subject, names: list[str], seed: int) -> Report:
    """Run the checks in a random order, each with a generator of its own; report them in the usual order."""
    own = {name: np.random.default_rng([seed, k]) for k, name in enumerate(CHECKS)}
    shuffled = np.random.default_rng([seed, 3]).permutation(names)
    results = {name: CHECKS[name](subject, own[name]) for name in shuffled.tolist()}
    return Report([results[name] for name in names])
