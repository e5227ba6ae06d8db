r"""Run the checks: on an afnp flow, or on anybody's functions.

.. math:: \text{report}(f) = \{\, \text{check}_k(\text{subject}(f), \text{seed}) \,\}_k
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.verify.behaviour import batch_independence, deterministic, pure, staleness
from afnp.verify.copying import independent_copy
from afnp.verify.draws import randomness
from afnp.verify.gradient import gradients
from afnp.verify.levels import Level, level_of
from afnp.verify.limits import edges
from afnp.verify.parameters import randomize
from afnp.verify.pit import agreement
from afnp.verify.quadrature import normalisation
from afnp.verify.questions import odd_input, shapes
from afnp.verify.report import Report
from afnp.verify.results import EXPECTED, FAILED, NOT_RUN, PASSED, Check, Result
from afnp.verify.structure import connectivity, dependency, triangular
from afnp.verify.subject import Subject
from afnp.verify.sweeps import monotone
from afnp.verify.targets import callables_of
from afnp.verify.values import antisymmetry, log_det, round_trip
from afnp.verify.worker import Worker

__all__ = ["CHECKS", "check_flow"]

CHECKS: dict[str, Check] = {
    function.__name__: function
    for function in (
        shapes,
        odd_input,
        dependency,
        connectivity,
        triangular,
        log_det,
        monotone,
        round_trip,
        antisymmetry,
        deterministic,
        pure,
        batch_independence,
        normalisation,
        agreement,
        randomness,
        gradients,
        edges,
        staleness,
    )
}
"""Every check by its name, in the order of the report."""

TIME_LIMIT = 300.0
"""Seconds that a check may take before it is given up."""


def check_flow(
    flow: Any = None,
    *,
    normalize: Callable | None = None,
    generate: Callable | None = None,
    log_prob: Callable | None = None,
    sample: Callable | None = None,
    jacobian: Callable | None = None,
    features: int | None = None,
    context: int = 0,
    allowed: Sequence | np.ndarray | None = None,
    complex_step: bool = False,
    dtype=np.float64,
    data: np.ndarray | None = None,
    noise: Callable | None = None,
    support: tuple[float, float] | None = None,
    periodic: bool = False,
    level: str = "full",
    seed: int = 0,
    checks: Sequence[str] | None = None,
    expected_failures: Collection[str] = (),
    parameters: str = "random",
    backends: Sequence[str] | None = None,
    time_limit: float | None = TIME_LIMIT,
) -> Report:
    r"""Check a flow: structure, log-determinants, inverses, densities, samples, gradients, behaviour.

    .. math:: \text{ok} \iff \text{nothing failed and something passed}

    Parameters
    ----------
    flow : Flow, dict, or any object that :func:`afnp.verify.adapt` knows; optional
        An afnp flow; a dictionary of the arguments below; a flow of another library. Or else the
        functions below.
    normalize : callable, optional
        ``normalize(x[, context])`` gives u (N, D) and log|det du/dx| (N,).
    generate : callable, optional
        ``generate(u[, context])`` gives x (N, D) and log|det dx/du| (N,).
    log_prob : callable, optional
        ``log_prob(x[, context])`` gives nats (N,).
    sample : callable, optional
        ``sample(n, rng[, context])`` gives rows (n, D), from a ``numpy.random.Generator``.
    jacobian : callable, optional
        ``jacobian(x[, context])`` gives du/dx (N, D, D): your own automatic differentiation.
    features, context : int
        D and C, of functions, or of a flow that does not say; the context, (N, C), is an argument
        only where C > 0.
    allowed : (D, D) bool array, optional
        Which u_i may depend on which x_j. For a flow its layers say so.
    complex_step : bool
        Whether ``normalize`` takes complex x, and stays analytic: derivatives are then good to
        rounding.
    dtype : float64 or float32
        Of the functions.
    data : (M, D) array, optional
        Rows inside the support of the functions, if that is not everything.
    noise : callable, optional
        ``noise(n, rng)`` draws u (n, D) from the base; standard normal if left out.
    support : (low, high), optional
        Between what numbers all data and all noise lie, if that is not everywhere.
    periodic : bool
        Whether the ends of the support are one point, as for angles.
    level : {"quick", "full", "paranoid"}
        How many points, parameters, samples and renderings are looked at:
        :mod:`afnp.verify.levels`.
    seed : int
        For everything that is random here.
    checks : sequence of str, optional
        Names in ``CHECKS``; all, if left out.
    expected_failures : collection of str
        Names of checks that must fail. One that passes all the same is a failure.
    parameters : {"random", "own"}
        A flow is checked at random parameters, because fresh ones hide defects, or at its own. What
        is checked is a copy: yours keeps its parameters, also after an interruption.
    backends : sequence of str, optional
        Renderings of a flow to check, instead of the level's; one that does not run here fails.
    time_limit : float or None
        Seconds that each check may take. One that takes longer fails, and ends after the call of a
        function that it is at; with None it may take as long as it likes.

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
    names = _names(checks, expected_failures)
    if parameters not in ("random", "own"):
        raise ValueError(f"parameters: expected 'random' or 'own', got {parameters!r}")
    chosen = level_of(level)
    given = {"normalize": normalize, "generate": generate, "log_prob": log_prob, "sample": sample}
    if (flow is None) == all(function is None for function in given.values()):
        raise ValueError(
            "expected either a flow, or functions (normalize, generate, log_prob, sample)"
        )
    if not isinstance(flow, Flow):
        options = {
            "jacobian": jacobian,
            "features": features,
            "context": context,
            "allowed": allowed,
            "data": data,
            "complex_step": complex_step,
            "dtype": dtype,
            "noise": noise,
            "support": support,
            "periodic": periodic,
        }
        arguments = {**given, **options} if flow is None else _known(flow, features, context)

    def subject() -> Subject:
        if isinstance(flow, Flow):
            return Subject.of_flow(independent_copy(flow), backends, chosen)
        return _stranger(arguments, chosen)

    run = _Run(subject, names, seed, parameters == "random", time_limit)
    results = _against_expectation(run.results(), expected_failures)
    return Report(results, level, _described(flow, run.subject))


def _names(checks: Sequence[str] | None, expected: Collection[str]) -> list[str]:
    """Return the names of the checks to run, all of them known."""
    names = list(CHECKS) if checks is None else list(checks)
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ValueError(f"checks: expected names among {', '.join(CHECKS)}, got {unknown}")
    never = sorted(set(expected) - set(names))
    if never:
        raise ValueError(f"expected_failures: expected names among {', '.join(names)}, got {never}")
    return names


def _known(flow: Any, features: int | None, context: int) -> dict:
    """Return the functions of a stranger's flow; D and C are what was said, or else what the flow says."""
    return callables_of(flow, features=features, context=context or None)


def _stranger(arguments: dict, level: Level) -> Subject:
    """Wrap functions."""
    features = arguments.get("features")
    if features is None or features < 1:
        raise ValueError(
            f"features: functions need their number of features, at least 1, got {features}"
        )
    return Subject.of_callables(**arguments, level=level)


def _described(flow: Any, subject: Subject) -> str:
    """Say in a line what was checked, and how it was differentiated."""
    name = type(flow).__name__ if flow is not None and not isinstance(flow, dict) else "functions"
    return f"{name}: {subject.features} features, context {subject.context}, {subject.dtype}; {subject.calculus}"


class _Run:
    """One subject, its checks, and what they have said so far."""

    def __init__(
        self,
        make: Callable[[], Subject],
        names: list[str],
        seed: int,
        random: bool,
        limit: float | None,
    ):
        self.make, self.names, self.seed, self.random = make, names, seed, random
        self.subject = make()
        self.limit = limit
        self.found: dict[str, list[Result]] = {name: [] for name in names}

    def results(self) -> list[Result]:
        """Run every check as often as the level says, in a random order each time; return them in the usual one."""
        with Worker(self.limit) as worker:
            for repeat in range(self.subject.level.repeats):
                self._once(repeat, worker)
        return [_worst(self.found[name]) for name in self.names]

    def _seed(self, repeat: int) -> int:
        return (
            int(np.random.default_rng([self.seed, repeat, 5]).integers(2**31))
            if repeat
            else self.seed
        )

    def _prepared(self, repeat: int) -> Subject:
        """Return a subject that nobody has touched, at the parameters of this repeat."""
        subject = self.make()
        if subject.flow is not None and self.random:
            randomize(subject.flow, self._seed(repeat))
        return subject

    def _once(self, repeat: int, worker: Worker) -> None:
        self.subject = self._prepared(repeat)
        order = np.random.default_rng([self.seed, repeat, 3]).permutation(self.names)
        numbers = {name: k for k, name in enumerate(CHECKS)}
        for name in order.tolist():
            if not any(result.status == FAILED for result in self.found[name]):
                rng = np.random.default_rng([self.seed, repeat, numbers[name]])
                self.found[name].append(self._asked(name, repeat, rng, worker))

    def _asked(self, name: str, repeat: int, rng: np.random.Generator, worker: Worker) -> Result:
        """Run a check; one that does not come back has failed, and keeps what it was working on."""
        subject = self.subject
        try:
            return worker.run(lambda: CHECKS[name](subject, rng))
        except TimeoutError as error:
            self.subject = self._prepared(repeat)
            code = getattr(CHECKS[name], "code", "")
            return Result(name, code, FAILED, str(error), seconds=self.limit or 0.0)


def _worst(results: list[Result]) -> Result:
    """Return what is worst of several runs of one check, with the time of all, and everything noted."""
    rank = {FAILED: 2, PASSED: 1, NOT_RUN: 0}
    worst = max(results, key=lambda result: (rank[result.status], result.ratio))
    notes = tuple(dict.fromkeys(note for result in results for note in result.notes))
    return dataclasses.replace(
        worst, seconds=sum(result.seconds for result in results), notes=notes
    )


def _against_expectation(results: list[Result], expected: Collection[str]) -> list[Result]:
    """Turn failures that were announced into expected ones, and their absence into a failure."""

    def judged(result: Result) -> Result:
        if result.name in expected and result.status == FAILED:
            return dataclasses.replace(result, status=EXPECTED)
        if result.name in expected and result.status == PASSED:
            return dataclasses.replace(
                result, status=FAILED, reason="was expected to fail, and passed"
            )
        return result

    return [judged(result) for result in results]
