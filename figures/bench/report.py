r"""Tables of a run, in Markdown.

.. math:: \text{ratio} =
          \frac{\min_{\text{others}} \text{median seconds}}{\text{median seconds of afnp}}

A ratio above 1 says how many times as fast afnp is as the fastest of the others; below 1, that one
is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from figures.bench.configurations import SMALL
from figures.bench.libraries import LIBRARIES
from figures.bench.proof import SCALES, SPLINE_TOLERANCE, TOLERANCE
from figures.bench.splines import BOUND, SPLINES

__all__ = ["markdown", "ratios", "sampling_ratio", "training_floor"]

BUSY = 0.2
"""Cores: where other programs take more, times are marked."""


def markdown(result: dict) -> str:
    """Return the whole report.

    Parameters
    ----------
    result : dict
        What ``Benchmark.result`` holds; plain JSON values.
    """
    parts = ["# afnp beside other flow libraries", _preface(result)]
    for name, found in result["configurations"].items():
        parts += [_title(name, found), _times(found), _small(found), _floors(found)]
        parts += [_beside(found), _failures(found)]
    parts += ["## The same flow, proved before timing", _proofs(result), _setups(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


# ---- numbers -------------------------------------------------------------------------------------


def ratios(found: dict) -> dict[str, tuple[float, str]]:
    """Return, for each operation, the fastest other library's median over afnp's, and its name.

    Examples
    --------
    >>> seconds = {"afnp": {"sample 1": {"median": 1.0}}, "zuko": {"sample 1": {"median": 3.0}}}
    >>> ratios({"seconds": seconds})
    {'sample 1': (3.0, 'zuko')}
    """
    times = found["seconds"]
    result = {}
    for operation, mine in times.get("afnp", {}).items():
        others = [
            (of[operation]["median"], name)
            for name, of in times.items()
            if name != "afnp" and operation in of
        ]
        if others:
            seconds, name = min(others)
            result[operation] = (seconds / mine["median"], name)
    return result


def sampling_ratio(times: dict) -> dict[int, float]:
    """Return how many times as long sampling takes as the log-density of as many rows.

    Examples
    --------
    >>> sampling_ratio({"log_prob 9": {"median": 2.0}, "sample 9": {"median": 3.0}})
    {9: 1.5}
    """
    rows = [int(operation.split()[1]) for operation in times if operation.startswith("sample ")]
    return {
        n: times[f"sample {n}"]["median"] / times[f"log_prob {n}"]["median"]
        for n in rows
        if n > 1 and f"log_prob {n}" in times
    }


def alternating_ratio(times: dict) -> float | None:
    """Return the time of density, training and sampling in turn, over the sum of each alone."""
    for operation, summary in times.items():
        kind, rows = operation.split()
        parts = ["log_prob 1000", "train 100", f"sample {rows}"]
        if kind == "alternating" and all(part in times for part in parts):
            return summary["median"] / sum(times[part]["median"] for part in parts)
    return None


def training_floor(found: dict, rows: int) -> tuple[float, float] | None:
    r"""Return the least seconds of a training step: its products, and Adam's pass over memory.

    .. math:: \frac{3 \cdot 2 N \Sigma}{\text{product rate}}, \qquad
              \frac{28 P}{\text{copy rate}}

    Three products with every weight that the masks let through, Σ of them: forward, and backward to
    inputs and to weights. Adam reads weight, gradient and two moments of each of P parameters, and
    writes three of them, four bytes each. Both rates are measured in the same run; None without.

    Examples
    --------
    >>> rates = {"machine_gflops": 60.0, "machine_gbytes": 28.0}
    >>> size = {"proofs": {"afnp": {"connections": 10**6}}, "parameters": 10**6}
    >>> training_floor({**size, **rates}, rows=10)
    (0.001, 0.001)
    """
    flops = found.get("machine_gflops")
    bytes_ = found.get("machine_gbytes")
    ones = _connections(found)
    if not (flops and bytes_ and ones):
        return None
    return 3 * 2 * rows * ones / flops / 1e9, 28 * found["parameters"] / bytes_ / 1e9


def three_digits(value: float | None) -> str:
    """Return a number to three digits, and a dash for none.

    Examples
    --------
    >>> [three_digits(v) for v in (None, 0.01234, 12.34, 1234.5)]
    ['-', '0.0123', '12.3', '1234']
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


# ---- tables --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right.

    Examples
    --------
    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    | :-- | --: |
    | x | 1 |
    """
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _preface(result: dict) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores ({machine['threads']} for each "
        f"library), {machine['system']}, Python {machine['python']}; {machine['date']}; "
        f"{result['total_seconds']:.0f} seconds in all. float32; each library in a process of its "
        "own, asked in turn; milliseconds: median (minimum). Variables of the environment that the "
        "workers did not get: " + (", ".join(result["dropped_variables"]) or "none set") + ".",
        "",
    ]
    for name, about in result["libraries"].items():
        threads = ", ".join(f"{pool} {n}" for pool, n in about["threads"].items())
        lines.append(
            f"- {name} {about['version']}: threads {threads}; {'; '.join(about['products'])}"
        )
    for name, module in result["missing"].items():
        lines.append(f"- {name}: not measured, module {module} is not installed")
    if "compilation" in result:
        compiled = ", ".join(
            f"{kind} {seconds:.1f} s" for kind, seconds in result["compilation"].items()
        )
        lines.append(f"- afnp compiles once per installation, then reads from the disk: {compiled}")
    if "compilation_failed" in result:
        lines.append(f"- afnp's compilation was not measured: {result['compilation_failed']}")
    return "\n".join(lines)


def _title(name: str, found: dict) -> str:
    others = found["others"]
    text = (
        f"## {name}: {_kind(found)}, D = {found['features']}, H = {found['hidden']}, T = "
        f"{found['transforms']}, {found['parameters']:,} parameters\n\n"
        f"The machine in the same run: matrix product {three_digits(found.get('machine_gflops'))} "
        f"GFLOP/s, copy {three_digits(found.get('machine_gbytes'))} GB/s. Cores that other "
        f"programs kept busy meanwhile: {'not known' if others is None else f'{others:.2f}'}."
    )
    if others is not None and others > BUSY:
        text += " **The machine was not quiet: these times are no result.**"
    return text


def _kind(found: dict) -> str:
    return (
        f"splines of {found['bins']} bins on [-{BOUND:g}, {BOUND:g}]" if found["bins"] else "affine"
    )


def _times(found: dict) -> str:
    return _milliseconds(found, [name for name in found["operations"] if not _is_small(name)])


def _small(found: dict) -> str:
    """Tell the times of small calls, and that in which a core reads the weights of one sample."""
    names = [name for name in found["operations"] if _is_small(name)]
    if not names:
        return ""
    text = "Small calls:\n\n" + _milliseconds(found, names)
    rate = found.get("machine_read_gbytes")
    ones = _connections(found)
    if rate and ones:
        text += (
            f"\n\nOne core reads the {ones:,} weights that the masks let through in "
            f"{three_digits(4 * ones / rate / 1e6)} ms ({three_digits(rate)} GB/s)."
        )
    return text


def _is_small(operation: str) -> bool:
    kind, rows = operation.split()
    return kind in ("log_prob", "sample") and int(rows) in SMALL


def _floors(found: dict) -> str:
    """Tell how near afnp's training step comes to what the machine needs at least."""
    times = found["seconds"].get("afnp", {})
    rows = []
    for operation in found["operations"]:
        kind, n = operation.split()
        parts = training_floor(found, int(n)) if kind == "train" else None
        if parts is None or operation not in times:
            continue
        median = times[operation]["median"]
        floor = sum(parts)
        words = " + ".join(three_digits(1e3 * part) for part in parts)
        rows.append(
            [
                operation,
                f"{words} = {three_digits(1e3 * floor)}",
                three_digits(1e3 * median),
                f"{floor / median:.0%}",
            ]
        )
    if not rows:
        return ""
    return table(["", "floor, ms: products + Adam", "afnp, ms", "share of the floor"], rows)


def _connections(found: dict) -> int | None:
    """Return how many ones afnp's masks have."""
    return found["proofs"].get("afnp", {}).get("connections")


def _milliseconds(found: dict, names: list[str]) -> str:
    best = ratios(found)

    def cell(of: dict, operation: str) -> str:
        if operation not in of:
            return "-"
        times = of[operation]
        return f"{three_digits(1e3 * times['median'])} ({three_digits(1e3 * times['minimum'])})"

    rows = [
        [library, *(cell(of, name) for name in names)] for library, of in found["seconds"].items()
    ]
    if best:
        shown = [f"{best[n][0]:.2f} ({best[n][1]})" if n in best else "-" for n in names]
        rows.append(["**fastest other / afnp**", *shown])
    return table(["ms", *names], rows)


def _beside(found: dict) -> str:
    """Tell what follows from the times, and what was measured once."""
    head = [
        "",
        "sample / log_prob",
        "in turn / apart",
        "useful GFLOP/s",
        "peak MiB",
        "import to first result, s",
        "first calls, s",
    ]
    rows = []
    for name, times in found["seconds"].items():
        sampling = ", ".join(
            f"{three_digits(ratio)} (N = {n})" for n, ratio in sampling_ratio(times).items()
        )
        rates = found["useful_gflops"].get(name, {})
        first = sum(max(0.0, summary["first"] - summary["median"]) for summary in times.values())
        rows.append(
            [
                name,
                sampling or "-",
                three_digits(alternating_ratio(times)),
                ", ".join(f"{operation}: {three_digits(rate)}" for operation, rate in rates.items())
                or "-",
                three_digits(found["peak_memory"].get(name)),
                three_digits(found["first_result"].get(name)),
                three_digits(first),
            ]
        )
    return table(head, rows)


def _failures(found: dict) -> str:
    return "\n".join(f"- {name} failed: {reason}" for name, reason in found["failed"].items())


def _proofs(result: dict) -> str:
    head = [
        "",
        "parameters",
        "ones in masks",
        "raw outputs, NumPy",
        "log_prob, NumPy",
        "raw outputs, afnp",
    ]
    rows = []
    for configuration, found in result["configurations"].items():
        for name, proof in found["proofs"].items():
            degrees = "" if proof["own_degrees"] else " *"
            errors = [f"{proof[key]:.0e}" for key in ("raw_error", "log_prob_error", "afnp_error")]
            errors[-1] += degrees
            rows.append(
                [
                    f"{configuration}, {name}",
                    f"{proof['parameters']:,}",
                    f"{proof['connections']:,}",
                    *errors,
                ]
            )
    return table(head, rows) + (
        "\n\nLargest differences in units of the largest number, to the same weights in plain "
        f"NumPy and in afnp; more than {TOLERANCE:g} is refused (log_prob of splines: "
        f"{SPLINE_TOLERANCE:g}). *: afnp spreads the degrees of hidden units a little differently "
        "(the ones in the masks tell how little), and was given the library's for this comparison."
    )


def _setups(result: dict) -> str:
    lines = ["## How each was set up", ""]
    splines = any(c["bins"] for c in result["configurations"].values())
    for name in result["libraries"]:
        lines.append(f"- {name}: {LIBRARIES[name].setup}. Scale: {SCALES[name][1]}.")
        if splines:
            lines.append(
                f"  Splines: {LIBRARIES[name].spline}; shares of widths and heights: "
                f"{SPLINES[name].words}."
            )
    lines += [
        "",
        '"in turn / apart": log_prob 1000, train 100 and sample called in turn (the column '
        '"alternating"), over the sum of their times alone. "useful GFLOP/s": 2 N for every one '
        'in the masks, over the median. "first calls": what the first call of every operation '
        "took beyond the median, compilation included, added up. Memory is the process's peak "
        "over everything, imports included. Floor of a training step: three products with every "
        "weight that the masks let through, at the product's rate, and one pass of Adam over 28 "
        "bytes a parameter, at the copy's rate.",
    ]
    return "\n".join(lines)
