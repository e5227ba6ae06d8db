"""The reference: one page for each module or package of afnp, made of its docstrings.

A name is described where a user imports it from: ``afnp.maf``, though it lives in
``afnp.constructors``. Every module whose ``__all__`` has it lists it, with a link to that place.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
import textwrap
from pathlib import Path
from types import ModuleType

import afnp

__all__ = ["page", "units", "write"]

COMMANDS = ("figures.bench", "afnp.verify.mutants", "afnp.cli")
"""Used by their commands: of these the docstring is enough, without what is below them."""


GROUPS = {
    "Read": ["chain_rule", "minimal"],
    "Build and use": [
        "constructors",
        "flow",
        "model",
        "ensemble",
        "marginals",
        "discrete",
        "bases",
        "files",
        "data",
    ],
    "Learn": ["train", "advice"],
    "Trust": ["verify"],
    "Apply and connect": ["applications", "interop", "plot", "cli"],
    "Inside": ["transforms", "univariate", "networks", "sampling", "params", "inputs", "compiled"],
}
"""What the index lists under which heading; whatever is new stands at the end of the last."""


def units() -> list[str]:
    """Return the modules and packages that get a page, in the order of their groups."""
    there = {f"afnp.{m.name}" for m in pkgutil.iter_modules(afnp.__path__) if m.name[0] != "_"}
    return ["afnp", *(unit for units in grouped(there).values() for unit in units)]


def grouped(there: set[str]) -> dict[str, list[str]]:
    """Return the units of each group that exist."""
    groups = {
        heading: [f"afnp.{name}" for name in names if f"afnp.{name}" in there]
        for heading, names in GROUPS.items()
    }
    named = {unit for units in groups.values() for unit in units}
    groups["Inside"] += sorted(there - named)
    return groups


def modules(unit: str) -> list[str]:
    """Return a unit and, if it is a package, the modules below it; not those of afnp itself."""
    path = getattr(importlib.import_module(unit), "__path__", None)
    if path is None or unit == "afnp" or unit in COMMANDS:
        return [unit]
    below = [
        name
        for _, name, _ in pkgutil.walk_packages(path, f"{unit}.")
        if not any(part.startswith("_") for part in name.split("."))
        and not any(name.startswith(f"{command}.") for command in COMMANDS)
        and missing(name) is None
    ]
    return [unit, *below]


def missing(module: str) -> str | None:
    """Return the package that a module needs and that is not installed here, or None."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "afnp").partition(".")[0] == "afnp":
            raise
        return error.name
    return None


def homes() -> dict[str, str]:
    """Return, for the full name of all that is public, the module that describes it."""
    described: dict[str, str] = {}
    for unit in units():
        for module in modules(unit):
            for name in public(module):
                described.setdefault(f"{definer(module, name)}.{name}", module)
    return described


def public(module: str) -> list[str]:
    """Return the names in a module's ``__all__`` that are there and are not modules themselves."""
    loaded = importlib.import_module(module)
    names = [] if module in COMMANDS else getattr(loaded, "__all__", [])
    return [name for name in names if is_described(loaded, name)]


def is_described(loaded: ModuleType, name: str) -> bool:
    """Return whether a name is no module, and needs nothing that is not installed here."""
    try:
        return not isinstance(getattr(loaded, name), ModuleType)
    except ImportError:
        return False


@functools.cache
def body(module: str) -> list[ast.stmt]:
    """Return a module's statements; it is asked for each of its names, and read once."""
    return ast.parse(inspect.getsource(importlib.import_module(module))).body


def definer(module: str, name: str) -> str:
    """Return the module that a public name was imported from, through however many packages."""
    loaded = importlib.import_module(module)
    for node in body(module):
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            above = module if hasattr(loaded, "__path__") else module.rpartition(".")[0]
            start = above.split(".")[: len(above.split(".")) - node.level + 1]
            source = ".".join([*(start if node.level else []), *filter(None, [node.module])])
            return definer(source, name)
    # a module that finds a name elsewhere when it is asked has none in itself
    return module if name in vars(loaded) else getattr(loaded, name).__module__


def write(folder: Path) -> list[str]:
    """Write all pages and their index; return the units."""
    folder.mkdir(parents=True)
    described = homes()
    for unit in units():
        (folder / f"{unit}.rst").write_text(page(unit, described), encoding="utf-8")
    toctree = "\n".join(f"   {unit}" for unit in units())
    names = "".join(_row("afnp", name, f"afnp.{name}") for name in public("afnp"))
    first = f".. list-table::\n   :class: names\n\n{names}"
    groups = "\n".join(
        _title(heading, "-") + "\n" + "\n".join(f":doc:`{u}`\n   {first_line(u)}\n" for u in inside)
        for heading, inside in grouped(set(units()) - {"afnp"}).items()
        if inside
    )
    contents = f".. toctree::\n   :hidden:\n\n{toctree}\n"
    text = f"{_title('Reference', '=')}{INTRODUCTION}\n{first}\n{groups}\n{contents}"
    (folder / "index.rst").write_text(text, encoding="utf-8")
    return units()


INTRODUCTION = """
Every public name, as its docstring says it; **[source]** shows the code. What most users need comes
after ``import afnp``:
"""


def page(unit: str, described: dict[str, str]) -> str:
    """Return the page of a module or package."""
    parts = [
        _section(module, described, "=" if module == unit else "-") for module in modules(unit)
    ]
    path = getattr(importlib.import_module(unit), "__path__", [])
    below = [m.name for m in pkgutil.iter_modules(path, f"{unit}.")] if unit != "afnp" else []
    for name in below:
        if missing(name):
            parts.append(f"``{name}`` is not described here: it needs ``{missing(name)}``.\n")
    return "\n".join(parts)


def _section(module: str, described: dict[str, str], line: str) -> str:
    names = public(module)
    where = {name: described[f"{definer(module, name)}.{name}"] for name in names}
    named_twice = module in described_names(described)  # afnp.verify.cases, a function too
    index = "   :no-index:\n" if named_twice else ""
    head = f"{_title(module, line)}\n.. automodule:: {module}\n   :no-members:\n{index}"
    rows = "".join(_row(module, name, f"{where[name]}.{name}") for name in names)
    table = f".. list-table::\n   :class: names\n\n{rows}" if rows else ""
    entries = [_entry(module, name) for name in names if where[name] == module]
    return "\n".join([head, table, f".. currentmodule:: {module}\n", *entries])


def described_names(described: dict[str, str]) -> set[str]:
    """Return the full names under which things are described."""
    return {f"{module}.{name.rpartition('.')[2]}" for name, module in described.items()}


def _row(module: str, name: str, address: str) -> str:
    return f"   * - :py:obj:`{name} <{address}>`\n     - {summary(module, name)}\n"


def _entry(module: str, name: str) -> str:
    thing = getattr(importlib.import_module(module), name)
    if not callable(thing) or assigned(module, name) is not None:
        text = textwrap.indent(documentation(module, name), "   ")
        return f".. py:data:: {name}\n\n{text}\n"
    kind, options = "function", ""
    if inspect.isclass(thing):
        exception = issubclass(thing, BaseException)
        kind, options = ("exception", "") if exception else ("class", "   :members:\n")
        fields = ", ".join(getattr(thing, "_fields", ()))
        options += f"   :exclude-members: {fields}\n" if fields else ""
    return f".. auto{kind}:: {module}.{name}\n{options}"


def summary(module: str, name: str) -> str:
    """Return the first paragraph of what is said of a name, in one line."""
    return " ".join(documentation(module, name).strip().split("\n\n")[0].split())


def documentation(module: str, name: str) -> str:
    """Return a docstring; that of what a module assigns is the string below it."""
    said = assigned(module, name)
    thing = getattr(importlib.import_module(module), name)
    return (inspect.getdoc(thing) or "" if callable(thing) else "") if said is None else said


def assigned(module: str, name: str) -> str | None:
    """Return the string below the line that assigns a name, whatever it is; None without one."""
    for node, below in itertools.pairwise(body(definer(module, name))):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names = [one for target in targets if target for one in getattr(target, "elts", [target])]
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(text, ast.Constant) and name in [getattr(one, "id", "") for one in names]:
            return inspect.cleandoc(str(text.value))
    return None


def first_line(module: str) -> str:
    """Return the first line of a module's docstring, without the name that it may begin with."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return text.split("\n")[0].removeprefix(f"{module}: ")


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"
