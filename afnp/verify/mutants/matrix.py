r"""The kill matrix and the false alarms: how good the checks are, measured.

.. math:: K_{mk} = [\,\text{check } k \text{ fails on mutant } m\,], \qquad
          \text{score}
          = \frac{|\{m : \max_k K_{mk} = 1\}|}{|\{m : m \text{ not equivalent}\}|}, \qquad
          \text{alarms} = |\{\text{clean flows on which any check fails}\}|

Everything goes into one JSON file beside the checks, from which every report takes the score of its
level.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from afnp.atomic import write_bytes
from afnp.progress import bar
from afnp.verify.levels import LEVELS
from afnp.verify.mutants.clean import random_flow, random_functions
from afnp.verify.mutants.registry import MUTANTS, Mutant, check_planted
from afnp.verify.mutants.styles import STYLES, caught_by
from afnp.verify.runner import check_flow

__all__ = ["PATH", "alarms", "failed_checks", "kill_matrix", "read", "survivors", "write"]

PATH = Path(__file__).parents[1] / "kill_matrix.json"
"""Where the measurements are kept."""


def read(path: str | os.PathLike = PATH) -> dict[str, Any]:
    """Return what was measured; an empty record where nothing was."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"levels": {}, "styles": {}, "false_alarms": {}, "mutants": {}}


def write(record: dict[str, Any], path: str | os.PathLike = PATH) -> None:
    """Write a record in one act, so that a reader finds the old one or the new one."""
    write_bytes(Path(path), _text(record).encode())


def _text(record: dict[str, Any]) -> str:
    """Return JSON with one line a mutant."""
    parts = [f' "{key}": {json.dumps(value)}' for key, value in record.items() if key != "mutants"]
    mutants = [f'  "{name}": {json.dumps(entry)}' for name, entry in record["mutants"].items()]
    return "{\n" + ",\n".join([*parts, ' "mutants": {\n' + ",\n".join(mutants) + "\n }"]) + "\n}\n"


# ---- mutants -------------------------------------------------------------------------------------


def failed_checks(
    mutant: Mutant, level: str, seed: int = 0, checks: Sequence[str] | None = None
) -> list[str]:
    """Plant a mutant in a fresh flow, and return the checks that fail on it.

    Examples
    --------
    >>> failed_checks(MUTANTS["log_det_halved"], "quick", checks=["log_det", "round_trip"])
    ['log_det']
    """
    return check_planted(
        mutant.planted(), mutant.backends, level=level, seed=seed, checks=checks
    ).failed


def kill_matrix(
    levels: Iterable[str] = tuple(LEVELS),
    kept: str | os.PathLike | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Return levels, styles and mutants of the record.

    Which checks, and which usual tests, fail on what.

    Parameters
    ----------
    levels : iterable of str
    kept : path, optional
        A file that keeps every answer at once: an interrupted run takes up where it ended.
    progress : bool
        Whether to show a bar for each level.
    """
    levels = list(levels)
    known = read(kept)["mutants"] if kept else {}
    mutants = {name: {**known.get(name, {}), **_entry(mutant)} for name, mutant in MUTANTS.items()}
    for level in levels:
        for name, mutant in bar(MUTANTS.items(), desc=level, unit="mutant", show=progress):
            if level not in mutants[name]:
                mutants[name][level] = failed_checks(mutant, level)
                if kept:
                    write({**_scored(mutants, []), "false_alarms": {}}, kept)
    return _scored(mutants, levels)


def _scored(mutants: dict[str, dict], levels: list[str]) -> dict[str, Any]:
    """Count kills, among the mutants that can be killed."""
    killable = [mutants[name] for name, mutant in MUTANTS.items() if not mutant.equivalent]
    return {
        "levels": {
            k: {"killed": sum(bool(row[k]) for row in killable), "of": len(killable)}
            for k in levels
        },
        "styles": {
            k: {"killed": sum(k in row["styles"] for row in killable), "of": len(killable)}
            for k in STYLES
        },
        "mutants": mutants,
    }


def _entry(mutant: Mutant) -> dict[str, Any]:
    """Return what is known of a mutant before any check: and which usual tests catch it."""
    caught = [style for style in STYLES if caught_by(style, mutant.planted(), mutant.backends[-1])]
    entry = {
        "theme": mutant.theme,
        "family": mutant.family,
        "kind": mutant.kind,
        "kills": mutant.kills,
        "styles": caught,
    }
    return entry | ({"equivalent": mutant.equivalent} if mutant.equivalent else {})


def survivors(record: dict[str, Any], level: str) -> dict[str, str]:
    """Return the mutants that no check of a level fails on, each with its reason if equivalent."""
    return {
        name: entry.get("equivalent", "")
        for name, entry in record["mutants"].items()
        if level in entry and not entry[level]
    }


# ---- false alarms --------------------------------------------------------------------------------


def alarms(
    flows: int,
    seed: int = 0,
    level: str = "full",
    path: str | os.PathLike = PATH,
    progress: bool = True,
    plain: bool = False,
) -> dict[str, Any]:
    """Check random clean flows, of seeds ``seed`` to ``seed + flows - 1``, and record the count.

    Even seeds at the random parameters that a check draws, odd ones at those that the flow was
    drawn with. What was counted before at the same level from the same seed is not counted again:
    an interrupted count goes on, and a longer one takes up where a shorter one ended. Flows that
    raised an alarm then are looked at again. With ``plain``, flows are plain functions, and
    counted apart.

    Returns
    -------
    dict
        ``flows``, ``alarms``, ``level``, ``seed``, ``seconds`` a flow, and ``failed``: checks by
        seed.
    """
    kind = "plain_alarms" if plain else "false_alarms"
    count = read(path).get(kind) or {}
    if (count.get("level"), count.get("seed")) != (level, seed):
        count = {
            "flows": 0,
            "alarms": 0,
            "level": level,
            "seed": seed,
            "seconds": 0.0,
            "failed": {},
        }
    again, new = [int(s) - seed for s in count["failed"]], range(count["flows"], flows)
    for k in bar([*again, *new], desc="clean flows", unit="flow", show=progress):
        start = time.perf_counter()
        failed = _alarms_of(seed + k, level, plain)
        if k in new:
            count["seconds"] = (k * count["seconds"] + time.perf_counter() - start) / (k + 1)
            count["flows"] = k + 1
        count["failed"] = {s: of for s, of in count["failed"].items() if s != str(seed + k)}
        count["failed"] |= {str(seed + k): failed} if failed else {}
        count["alarms"] = len(count["failed"])
        write({**read(path), kind: count}, path)
    return count


def _alarms_of(seed: int, level: str, plain: bool) -> list[str]:
    """Return the checks that fail on one random clean flow."""
    options: dict[str, Any] = {"level": level, "seed": seed, "time_limit": None}
    if plain:
        return check_flow(**random_functions(seed), **options).failed
    own = ("random", "own")[seed % 2]
    return check_flow(random_flow(seed), parameters=own, **options).failed
