r"""Exercises that answer back: *not yet*, what differs, a hint, or *right*.

.. math:: |y_k - \hat y_k| \le \epsilon \, \bigl(|\hat y_k| + \max_l |\hat y_l|\bigr)
          \quad \text{for all } k

y is the reader's answer, the other the expected one, epsilon 1e-9 unless an exercise says
otherwise: rounding stays far below it, and no mistake does. A wrong answer raises `Different`, so
that it cannot be overlooked, but what the notebook shows is the explanation alone. An answer of the
wrong form, a set or three numbers where two are asked for, is explained and costs no try. The
exercises of lesson NN live in ``exercises/lesson_NN.py``.
"""

from __future__ import annotations

import copy
import importlib
import json
import linecache
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from afnp.atomic import write_bytes

__all__ = ["Different", "Exercise", "Lesson", "Malformed", "same"]

WIDTH = 100
"""Characters a line of an answer."""

TRIES: dict[tuple[int, str], int] = {}
"""Wrong answers so far; kept here, so that running the first cell again does not forget them."""


PASSED = Path(__file__).with_name(".passed")
"""Where the exercises that were right are kept, if it is there: ``afnp lessons`` makes it."""


class Different(Exception):
    """An answer that is not right; the message explains."""

    def _render_traceback_(self) -> list[str]:
        """Show the message alone: IPython asks for this instead of a traceback."""
        return str(self).splitlines()


class _NotYet(Exception):
    """The answer is still the stub."""


class Malformed(Exception):
    """The answer has a form that no right answer has; the message says which form is asked for."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is expected, on which cases, and what to say when something else comes.

    Parameters
    ----------
    name : str
        The exercise's cell id, and the first argument of ``check``.
    answer : object
        A function, compared on every case; or a value.
    cases : sequence of tuples
        Arguments.
    hints : two strings
        For the second and the third wrong try.
    mistakes : dict
        Plausible wrong answers by what makes them, as in "That is what one gets by ...".
    because : str
        Said when the answer is right.
    judge : callable, optional
        Where several answers are right: takes the reader's, returns what is wrong with it, or None;
        may raise `Malformed`.
    any_length : bool
        Judge a tuple of any length, in any order; a set and a single entry will do as well.
    prediction : bool
        Keep the right answer to ourselves: the next cell will show it.
    tolerance : float
    """

    name: str
    answer: object
    cases: Sequence[tuple] = ((),)
    hints: tuple[str, str] = ("", "")
    mistakes: Mapping[str, object] = field(default_factory=dict)
    because: str = ""
    judge: Callable[[object], str | None] | None = None
    any_length: bool = False
    prediction: bool = False
    tolerance: float = 1e-9

    def examine(self, yours: object) -> str | None:
        """Return what is wrong, or None; raise `_NotYet` for a stub, `Malformed` for a form."""
        _stop_at_stub(yours)
        if callable(self.answer):
            return self._examine_function(yours)
        yours = self._value(yours)
        wrong = self._wrong_value(yours)
        return wrong and _paragraph(wrong, self._recognise(yours, None))

    def _value(self, yours: object) -> object:
        """Return a value in the form that is asked for, or raise `Malformed`."""
        if self.judge and not isinstance(self.answer, (tuple, str, int, float, np.ndarray)):
            return yours  # a thing of the reader's own making: its judge says what it must have
        if not self.any_length:
            _check_form(yours, self.answer, "")
            if np.ndim(self.answer) == 0 and np.ndim(yours):
                raise Malformed(f"expected one value, got {_described(yours)}")
            return yours
        entries = yours.tolist() if isinstance(yours, np.ndarray) else yours
        if not isinstance(entries, (tuple, list, set, frozenset)):
            entries = (entries,)
        for entry in entries:
            _check_form(entry, self.answer[0], "each entry: ")  # type: ignore[index]
            if np.ndim(entry):
                raise Malformed(f"each entry: expected one value, got {_described(entry)}")
        return tuple(sorted(set(entries)))

    def _examine_function(self, yours: object) -> str | None:
        if not callable(yours):
            raise Malformed(f"expected a function, got {_described(yours)}")
        for k, case in enumerate(self.cases):
            got = _call(yours, self.name, case)
            if got is None:
                call = f"{self.name}({_arguments(case)})"
                raise Malformed(f"{call} returned None: is the word return missing?")
            _stop_at_stub(got)
            expected = self.answer(*copy.deepcopy(case))  # type: ignore[operator]
            _check_form(got, expected, f"{self.name}({_arguments(case)}): ")
            wrong = difference(got, expected, self.tolerance)
            if wrong:
                where = f"case {k + 1} of {len(self.cases)}: {self.name}({_arguments(case)})"
                return _paragraph(where, wrong, self._recognise(got, case))
        return None

    def _wrong_value(self, yours: object) -> str | None:
        if self.judge is not None:
            return self.judge(yours)
        wrong = difference(yours, self.answer, self.tolerance)
        return f"not {_described(yours)}" if wrong and self.prediction else wrong

    def _recognise(self, got: object, case: tuple | None) -> str:
        """Say which of the known mistakes gives this answer, if one does."""
        for name, mistake in self.mistakes.items():
            try:
                made: Any = mistake
                if case is not None:
                    made = made(*copy.deepcopy(case))
                if self.any_length:
                    made = tuple(sorted(made))
                if made is got or difference(got, made, self.tolerance) is None:
                    return f"That is what one gets by {name}."
            except Exception:
                continue  # a mistake that fails on this case is not the one that was made
        return ""


class Lesson:
    """The checker of a lesson.

    ``check("name", answer)`` after an exercise, ``check.summary()`` last.

    Parameters
    ----------
    number : int
    """

    def __init__(self, number: int):
        self.number = number
        module = importlib.import_module(f"exercises.lesson_{number:02d}")
        self.exercises = {exercise.name: exercise for exercise in module.EXERCISES}
        self.state = dict.fromkeys(self.exercises, "open")

    def __call__(self, name: str, yours: object) -> None:
        """Examine an answer; print *not yet* or *right*, or raise `Different`, which explains."""
        if name not in self.exercises:
            raise Different(
                f"no exercise is called {name!r}; there are {', '.join(self.exercises)}"
            )
        exercise = self.exercises[name]
        try:
            with np.errstate(all="ignore"):  # what comes of it is explained below
                wrong = exercise.examine(yours)
        except _NotYet:
            return print(f"... not yet: {name}")
        except Malformed as error:
            self.state[name] = "open"
            explained = _paragraph(f"✗ not an answer yet: {name}", str(error), NO_TRY)
            raise Different(explained) from None
        except Different as error:
            wrong = str(error)
        except Exception as error:  # an answer that breaks when it is looked at
            wrong = f"your answer cannot be examined: {type(error).__name__}: {error}"
        if wrong:
            self.state[name] = "open"
            raise Different(self._explanation(exercise, wrong)) from None
        self.state[name] = "right"
        self._keep(name)
        print(_wrapped(f"✓ right: {name}. {exercise.because}"))

    def _keep(self, name: str) -> None:
        """Write down that an exercise was right once, in a folder that keeps such things."""
        if not PASSED.is_dir():
            return
        path = PASSED / f"{self.number:02d}.json"
        before = json.loads(path.read_text(encoding="utf-8"))["right"] if path.exists() else []
        right = [known for known in self.exercises if known in (*before, name)]
        write_bytes(path, json.dumps({"right": right, "all": list(self.exercises)}).encode())

    def _explanation(self, exercise: Exercise, wrong: str) -> str:
        key = self.number, exercise.name
        TRIES[key] = TRIES.get(key, 0) + 1
        hints = [f"Hint: {hint}" for hint in exercise.hints[: TRIES[key] - 1] if hint]
        if TRIES[key] >= 3:
            hints.append(f"A solution is in solutions/{self.number:02d}.py, under {exercise.name}.")
        return _paragraph(f"✗ not right: {exercise.name}", wrong, *hints)

    def summary(self) -> None:
        """Print which exercises are right and which are open."""
        still = [name for name, state in self.state.items() if state == "open"]
        print(f"{len(self.state) - len(still)} of {len(self.state)} exercises are right.")
        if still:
            print(_wrapped(f"Still open: {', '.join(still)}."))


def same(mine: object, theirs: object, tolerance: float = 1e-12) -> None:
    """Print how well two results agree, or raise `Different` with the first entry that differs."""
    wrong = difference(mine, theirs, tolerance)
    if wrong:
        raise Different(_paragraph("these should be the same", wrong))
    a, b = np.asarray(mine, dtype=complex), np.asarray(theirs, dtype=complex)
    with np.errstate(invalid="ignore"):
        largest = np.max(np.where(a == b, 0, abs(a - b)), initial=0)
    how_well = "exactly" if largest == 0 else f"to {largest:.1g}"
    print(f"✓ the same: {how_well}, {b.size} number{'s' if b.size > 1 else ''}")


# ---- the form of an answer -----------------------------------------------------------------------


NO_TRY = "This cost no try: only the form is wrong."


def _check_form(yours: object, expected: object, where: str) -> None:
    """Raise `Malformed` unless an answer has the kind and the number of results asked for."""
    if isinstance(yours, (set, frozenset, dict)):
        kind = "set" if isinstance(yours, (set, frozenset)) else "dict"
        remedy = "put (round brackets) around several values, none around one"
        raise Malformed(f"{where}a {kind} has no order or no plain values: {remedy}")
    if isinstance(expected, tuple):
        return _check_tuple(yours, expected, where)
    if isinstance(expected, str):
        if not isinstance(yours, str):
            raise Malformed(f"{where}expected a string such as 'x', got {_described(yours)}")
        return
    try:
        kind = np.asarray(yours).dtype.kind
    except ValueError:
        raise Malformed(f"{where}expected an array, got lists of unequal lengths") from None
    if kind not in "biufc":
        asked = _kind(np.asarray(expected))
        raise Malformed(f"{where}expected {asked}, got {_described(yours)}")


def _check_tuple(yours: object, expected: tuple, where: str) -> None:
    n = len(expected)
    entries = list(yours) if isinstance(yours, (np.ndarray, range)) and np.ndim(yours) else yours
    if not isinstance(entries, (tuple, list)):
        raise Malformed(f"{where}expected {n} results, in a tuple, got {_described(yours)}")
    if len(entries) != n:
        got = f"{len(entries)} result{'s' if len(entries) != 1 else ''}"
        raise Malformed(f"{where}expected {n} results, separated by commas, got {got}")
    for k, (a, b) in enumerate(zip(entries, expected, strict=True)):
        _check_form(a, b, f"{where}result {k + 1} of {n}: ")


# ---- what differs --------------------------------------------------------------------------------


def difference(yours: object, expected: object, tolerance: float) -> str | None:
    """Return the first difference between an answer and the expected one, in words, or None."""
    if isinstance(expected, tuple):
        return _difference_of_tuples(yours, expected, tolerance)
    if isinstance(expected, str):
        if not isinstance(yours, str):
            return f"expected a string such as {expected!r}, got {_described(yours)}"
        return (
            None
            if yours.strip().lower() == expected.lower()
            else f"yours {yours!r}, expected {expected!r}"
        )
    return _difference_of_numbers(yours, np.asarray(expected), tolerance)


def _difference_of_tuples(yours: object, expected: tuple, tolerance: float) -> str | None:
    n = len(expected)
    if not isinstance(yours, (tuple, list, np.ndarray, range)) or len(yours) != n:
        return f"expected {n} results, got {_described(yours)}"
    for k, (a, b) in enumerate(zip(yours, expected, strict=True)):
        wrong = difference(a, b, tolerance)
        if wrong:
            return f"result {k + 1} of {n}: {wrong}"
    return None


def _difference_of_numbers(yours: object, expected: np.ndarray, tolerance: float) -> str | None:
    try:
        a = np.asarray(yours)
    except ValueError:
        return "expected an array, got lists of unequal lengths"
    if a.dtype.kind not in "biufc":
        return f"expected {_kind(expected)}, got {_described(yours)}"
    if a.shape != expected.shape:
        return f"shape: yours {a.shape}, expected {expected.shape}"
    if a.dtype.kind == "c" and expected.dtype.kind != "c":
        return "expected real numbers, got complex ones"
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0) or 1
    wrong = ~np.isclose(a, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"first difference at index {list(at)}: " if at else ""
    count = f" ({wrong.sum()} of {a.size} entries differ)" if a.size > 1 else ""
    return f"{place}yours {_number(a[at])}, expected {_number(expected[at])}{count}"


def _number(value: np.generic) -> str:
    return f"{value:.10g}" if value.dtype.kind in "fc" else str(value)


def _kind(expected: np.ndarray) -> str:
    return f"numbers in an array of shape {expected.shape}" if expected.ndim else "a number"


# ---- the reader's code ---------------------------------------------------------------------------


def _stop_at_stub(value: object) -> None:
    """Raise `_NotYet` for a stub: ``...``, nothing, or a tuple or list of such."""
    if value is None or value is ...:
        raise _NotYet
    if (
        isinstance(value, (tuple, list))
        and len(value)
        and all(item is None or item is ... for item in value)
    ):
        raise _NotYet


def _call(function: Callable, name: str, case: tuple) -> object:
    """Call the reader's function on copies; explain exceptions, and arguments that were changed."""
    copies = copy.deepcopy(case)
    try:
        result = function(*copies)
    except NotImplementedError:
        raise _NotYet from None
    except (Exception, SystemExit) as error:
        place = _line_in(function, error)
        raise Different(
            _paragraph(f"{name}({_arguments(case)})", f"raised {_raised(error)}", place)
        ) from None
    for k, (before, after) in enumerate(zip(case, copies, strict=True)):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=True):
            raise Different(f"{name} changed its argument number {k + 1} in place: work on a copy")
    return result


def _raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _line_in(function: Callable, error: BaseException) -> str:
    """Return the last line of the reader's own cell that the exception went through."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
    ]
    if not frames:
        return ""
    line = frames[-1].lineno or 0
    return f"in line {line} of your cell: {linecache.getline(str(file), line).strip()}"


def _arguments(case: tuple) -> str:
    return ", ".join(_described(argument) for argument in case)


def _described(value: object) -> str:
    """Return a value in a few words, whatever it is."""
    if isinstance(value, np.ndarray) and value.size > 9:
        return f"array of shape {value.shape}"
    if isinstance(value, np.ndarray):
        with np.printoptions(precision=4):
            return (
                " ".join(repr(value).split())
                .replace("array(", "")
                .removesuffix(")")
                .split(", dtype")[0]
            )
    if isinstance(value, (bool, int, float, complex, str, np.generic)):
        return textwrap.shorten(repr(value), 60)
    if isinstance(value, tuple) and all(isinstance(v, (bool, int, float, str)) for v in value):
        return textwrap.shorten(repr(value), 60)
    if callable(value):
        return f"the function {getattr(value, '__name__', '?')}"
    return f"a {type(value).__name__}"


def _paragraph(first: str, *rest: str) -> str:
    """Join what is said: the first as it is, what follows indented, nothing wider than `WIDTH`."""
    return "\n".join(
        [
            _wrapped(first),
            *(_wrapped(line, "  ") for text in rest if text for line in text.splitlines()),
        ]
    )


def _wrapped(text: str, indent: str = "") -> str:
    lines = [
        textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=indent)
        for line in text.splitlines()
    ]
    return "\n".join(lines).rstrip()
