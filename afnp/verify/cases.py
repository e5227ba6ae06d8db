r"""Checks as tests: one case of pytest a flow and check.

.. math:: \text{cases} = \text{flows} \times \text{checks}

.. code-block:: python

    @afnp.verify.parametrize({"ours": make_flow, "functions": {"normalize": f, "generate": g,
    "features": 3}}) def test_flow(check):
        check()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from afnp.verify.adapters.targets import build
from afnp.verify.checks import CHECKS
from afnp.verify.functions import FUNCTIONS
from afnp.verify.results import NOT_RUN, Result
from afnp.verify.runner import check_flow

__all__ = ["Case", "cases", "parametrize"]


class Case:
    """One check of one flow, to be called by a test.

    Parameters
    ----------
    name : str
    flow : callable
        Returns the flow.
    check : str
    **options
        Of :func:`afnp.verify.check_flow`.
    """

    def __init__(self, name: str, flow: Callable[[], Any], check: str, **options: Any):
        self.flow, self.check, self.options, self.id = flow, check, options, f"{name}-{check}"

    def __repr__(self) -> str:
        """Print what names the case."""
        return self.id

    def result(self) -> Result:
        """Run the check."""
        expected = set(self.options.get("expected_failures", ())) & {self.check}
        options = {**self.options, "expected_failures": expected}
        return check_flow(self.flow(), checks=[self.check], **options)[self.check]

    def __call__(self) -> Result:
        """Run the check; skip the test where it cannot run.

        Raises
        ------
        AssertionError
            If it fails, with what it found.
        """
        result = self.result()
        if result.status == NOT_RUN:
            import pytest

            pytest.skip(result.reason)
        if result.status == "failed":
            raise AssertionError(f"\n{result}\n{result.explanation()}")
        return result


class _Once:
    """Makes a flow when it is first asked for, and keeps it."""

    def __init__(self, flow: Any):
        self.flow, self.ready = flow, False

    def __call__(self) -> Any:
        if not self.ready:
            self.flow, self.ready = build(self.flow), True
        return self.flow


def cases(
    flows: Any, checks: Sequence[str] | None = None, level: str = "quick", **options: Any
) -> list[Case]:
    """Return one case a flow and check.

    Parameters
    ----------
    flows : flow, or sequence or mapping of flows
        Each an afnp flow, a dictionary of functions, a flow of another library, or a factory: a
        function without arguments, which is called when its first case runs.
    checks : sequence of str, optional
        All, if left out.
    level : {"quick", "full", "paranoid"}
    **options
        Of :func:`afnp.verify.check_flow`: seed, expected_failures, parameters ...

    Examples
    --------
    >>> from afnp import maf
    >>> cases({"ours": lambda: maf(2, hidden=(4,))}, checks=["pure", "log_det"])
    [ours-pure, ours-log_det]
    """
    found = []
    for name, flow in _named(flows).items():
        make = _Once(flow)
        found += [Case(name, make, check, level=level, **options) for check in checks or CHECKS]
    return found


def _named(flows: Any) -> dict[str, Any]:
    """Return the flows by name."""
    if isinstance(flows, Mapping) and not set(flows) & set(FUNCTIONS):
        return dict(flows)
    listed = list(flows) if isinstance(flows, Sequence) else [flows]
    names = [getattr(flow, "__name__", type(flow).__name__) for flow in listed]
    numbered = [f"{name}{k}" if names.count(name) > 1 else name for k, name in enumerate(names)]
    return dict(zip(numbered, listed, strict=True))


def parametrize(
    flows: Any, checks: Sequence[str] | None = None, level: str = "quick", **options: Any
) -> Any:
    """Return a decorator of pytest that gives a test every case in turn, as its argument ``check``.

    Parameters are those of :func:`afnp.verify.cases`. A check that fails raises an AssertionError
    that says what it found; one that cannot run skips its test; one in ``expected_failures`` must
    fail.

    Examples
    --------
    >>> from afnp import maf
    >>> @parametrize({"ours": maf(2, hidden=(4,))}, checks=["pure"])
    ... def test_flow(check):
    ...     check()
    """
    import pytest

    found = cases(flows, checks, level, **options)
    return pytest.mark.parametrize("check", [pytest.param(case, id=case.id) for case in found])
