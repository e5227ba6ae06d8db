r"""A plugin of pytest: one test a check of a flow that is named on the command line.

.. code-block:: console

    pytest --afnp-flow package.module:object --afnp-level full

The object is anything that :func:`afnp.verify.check_flow` takes, or a function without arguments
that makes it. One that is no flow is refused once, before any test runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["pytest_addoption", "pytest_collection_modifyitems"]

LEVELS = ("quick", "full", "paranoid")
"""Names that :data:`afnp.verify.LEVELS` has, which is imported only where a flow is checked."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("afnp", "is it a normalizing flow? (afnp.verify)")
    group.addoption(
        "--afnp-flow",
        action="append",
        default=[],
        metavar="MODULE:OBJECT",
        help="a flow, functions, or what makes one; one test a check; may be repeated",
    )
    group.addoption("--afnp-level", choices=LEVELS, default="quick", help="how long to look")
    group.addoption("--afnp-seed", type=int, default=0, help="for everything that is random")


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add one test a check of every flow that was named."""
    for target in config.getoption("--afnp-flow"):
        items.extend(Flow.from_parent(session, name=target).collect())


class Flow(pytest.Collector):
    """A flow by its name, whose tests are the checks."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one test a check; refuse what is no flow."""
        from afnp.flow import Flow as OwnFlow
        from afnp.verify.adapters.targets import build, found_object, functions_of_target
        from afnp.verify.cases import cases

        try:
            flow = build(found_object(self.name))
            if not isinstance(flow, OwnFlow):
                functions_of_target(flow)
        except ValueError as error:
            said = str(error).removeprefix(f"{self.name}: ")
            raise pytest.UsageError(f"--afnp-flow {self.name}: {said}") from None
        level, seed = self.config.getoption("--afnp-level"), self.config.getoption("--afnp-seed")
        for case in cases({self.name: lambda: flow}, level=level, seed=seed):
            yield Check.from_parent(self, name=case.check, case=case)


class Check(pytest.Item):
    """One check of a flow."""

    def __init__(self, *, case: Any, **options: Any):
        super().__init__(**options)
        self.case = case

    def runtest(self) -> None:
        """Run the check; skip it where it cannot run, fail with what it found."""
        self.case()

    def repr_failure(self, excinfo, style=None) -> Any:
        """Show what the check says, and no traceback of the checker."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value).strip()
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple:
        """Name the test."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: {self.name}"
