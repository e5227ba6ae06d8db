r"""What all checks say of one flow: the Report, as text, HTML, Markdown, JSON or a picture.

.. math:: \text{ok} \iff \text{nothing failed and something passed}
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afnp.verify.results import EXPECTED, FAILED, NOT_RUN, PASSED, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KILL_MATRIX", "Report", "mutation_score"]

KILL_MATRIX = Path(__file__).with_name("kill_matrix.json")
"""What ``python -m afnp.verify.mutants`` measured: how many planted defects each level catches."""

COLOURS = {PASSED: "#dff0e4", FAILED: "#f7d4d0", NOT_RUN: "#eeeeee", EXPECTED: "#fdf0cf"}
"""Of a row in a notebook; the word stands in it too."""


def mutation_score(
    level: str, path: Path = KILL_MATRIX, kind: str = "flow", ran: Collection[str] | None = None
) -> str:
    """Return what is known of the sharpness of the checks that ran, in a line.

    Nothing where nothing was measured.

    Counted are the defects that were planted in this kind of subject and that one of the checks
    that ran catches at this level; false alarms, where they were counted on this kind of subject at
    this level.

    Parameters
    ----------
    level : str
    path : Path
    kind : {"flow", "functions"}
    ran : collection of str, optional
        Names of checks; all, if left out.
    """
    if not path.exists():
        return ""
    measured = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        row
        for row in measured.get("mutants", {}).values()
        if row.get("kind", "flow") == kind and level in row and not row.get("equivalent")
    ]
    parts = []
    if rows:
        caught = sum(
            bool(row[level] if ran is None else set(row[level]) & set(ran)) for row in rows
        )
        into = "flows" if kind == "flow" else "plain functions"
        parts.append(
            f"the checks that ran catch {caught} of {len(rows)} defects planted in {into} "
            "at this level"
        )
    alarms = measured.get("false_alarms" if kind == "flow" else "plain_alarms", {})
    if alarms.get("level") == level:
        clean = "clean flows" if kind == "flow" else "clean plain functions"
        parts.append(f"{alarms['alarms']} false alarms in {alarms['flows']:,} {clean}")
    return "; ".join(parts)


@dataclass(frozen=True)
class Report:
    """The results of all checks on one flow; print it.

    Attributes
    ----------
    results : list of Result
    level : str
        At which they were found.
    subject : str
        What was checked.
    kind : {"flow", "functions"}
        One of afnp's flows, whose layers are known, or anything else.

    Examples
    --------
    >>> report = Report([Result("round_trip"), Result("log_det", status="failed", reason="sign")])
    >>> report.ok, report.passed, report.failed
    (False, ['round_trip'], ['log_det'])
    """

    results: list[Result]
    level: str = ""
    subject: str = ""
    kind: str = "flow"

    def _names(self, status: str) -> list[str]:
        return [result.name for result in self.results if result.status == status]

    @property
    def passed(self) -> list[str]:
        """Names of the checks that passed."""
        return self._names(PASSED)

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed, and of those that were expected to and did not."""
        return self._names(FAILED)

    @property
    def not_run(self) -> list[str]:
        """Names of the checks that could not run; they have not passed."""
        return self._names(NOT_RUN)

    @property
    def expected(self) -> list[str]:
        """Names of the checks that failed as announced by ``expected_failures``."""
        return self._names(EXPECTED)

    @property
    def ok(self) -> bool:
        """Whether something passed, or failed as it had to, and nothing failed."""
        return bool(self.passed or self.expected) and not self.failed

    @property
    def seconds(self) -> float:
        """How long all checks took."""
        return sum(result.seconds for result in self.results)

    def __getitem__(self, name: str) -> Result:
        """Return the result of one check by name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(
            f"no check {name!r} in this report; it has {', '.join(r.name for r in self.results)}"
        )

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that shows the table, unless ``ok``."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    # ---- how it is shown -------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the counts in a line, and what the checks that ran are known to catch."""
        count = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_run)} not run"
        if self.expected:
            count += f", {len(self.expected)} failed as expected"
        where = f" (level {self.level}, {self.seconds:.1f} s)" if self.level else ""
        return "\n".join(filter(None, [count + where, self._score()]))

    def _score(self) -> str:
        """Return what is known of the checks that ran on this kind of subject at this level."""
        if not self.level:
            return ""
        ran = [result.name for result in self.results if result.status != NOT_RUN]
        return mutation_score(self.level, KILL_MATRIX, self.kind, ran)

    def explanations(self) -> str:
        """Return what should hold, what was found, why, where to read, for each failed check.

        Checks that broke in the same way are explained once.
        """
        broken: dict[str, list[str]] = {}
        said = []
        for result in self.results:
            how = re.sub(r"\d+", "0", result.reason) if result.measured is None else ""
            if result.status == FAILED and not (how and how in broken):
                said.append((how, result.explanation()))
            if result.status == FAILED and how:
                broken.setdefault(how, []).append(result.name)
        return "\n".join(text + _and_others(broken.get(how, [])) for how, text in said)

    def __str__(self) -> str:
        """Print the table, a row a check; then what failed, explained; then the count."""
        head = f"{'':4s}{'check':20s}{'status':9s}{'error':>9s}{'allowed':>9s}{'time':>10s}  note"
        return "\n".join(
            filter(
                None,
                [self.subject, head, *map(str, self.results), self.explanations(), self.summary()],
            )
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the cells of the table."""
        return [
            (
                r.code,
                r.name,
                r.status,
                _number(r.measured),
                _number(r.tolerance),
                f"{r.seconds:.2f} s",
                r.note,
            )
            for r in self.results
        ]

    def to_markdown(self) -> str:
        """Return the table in Markdown.

        Examples
        --------
        >>> result = Result("log_det", "C3", measured=1e-16, tolerance=1e-12, why="rounding")
        >>> print(Report([result]).to_markdown())
        | | check | status | error | allowed | time | note |
        |---|---|---|---:|---:|---:|---|
        | C3 | log_det | passed | 1.0e-16 | 1.0e-12 | 0.00 s | rounding |
        <BLANKLINE>
        1 passed, 0 failed, 0 not run
        """
        head = (
            "| | check | status | error | allowed | time | note |\n|---|---|---|---:|---:|---:|---|"
        )
        rows = ["| " + " | ".join(map(_escaped, row)) + " |" for row in self._rows()]
        title = [f"**{self.subject}**", ""] if self.subject else []
        explained = [f"- {line}" for line in _escaped(self.explanations()).splitlines()]
        return "\n".join(
            [*title, head, *rows, "", *explained, *([""] if explained else []), self.summary()]
        )

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        titles = ("", "check", "status", "error", "allowed", "time", "note")
        head = "".join(f"<th>{title}</th>" for title in titles)
        body = ""
        for result, row in zip(self.results, self._rows(), strict=True):
            cells = [f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in row]
            colour = f"background:{COLOURS[result.status]};color:black"
            body += f'<tr style="{colour}">{"".join(cells)}</tr>'
        caption = html.escape(
            " | ".join(filter(None, [self.subject, *self.summary().splitlines()]))
        )
        head, body = f"<thead><tr>{head}</tr></thead>", f"<tbody>{body}</tbody>"
        table = f"<table><caption>{caption}</caption>{head}{body}</table>"
        said = self.explanations()
        return table + (f"<pre>{html.escape(said)}</pre>" if said else "")

    def to_json(self) -> str:
        """Return everything but the evidence as JSON; numbers that are not finite become strings.

        Examples
        --------
        >>> json.loads(Report([Result("pure")]).to_json())["ok"]
        True
        """
        results = [
            {name: _plain(value) for name, value in vars(result).items() if name != "evidence"}
            for result in self.results
        ]
        known = {
            "ok": self.ok,
            "subject": self.subject,
            "level": self.level,
            "kind": self.kind,
            "score": self._score(),
        }
        return json.dumps({**known, "results": results}, indent=2, allow_nan=False)

    def plot(self) -> Figure:
        """Draw the claims that failed.

        Or else the Jacobian, round trip and PIT, as far as they are known.

        Raises
        ------
        ValueError
            If no check with a picture ran.
        """
        from afnp.verify.picture import draw

        return draw(self)


def _and_others(names: list[str]) -> str:
    """Say which further checks broke in the same way."""
    return f"\n  the same in    {', '.join(names[1:])}" if len(names) > 1 else ""


def _escaped(text: str) -> str:
    """Return text that Markdown does not take for a table or for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None) -> str:
    return "-" if value is None else format(value, ".1e")


def _plain(value: Any) -> Any:
    """Return what JSON can say."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
