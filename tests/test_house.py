"""The house: who may import whom, who may know what, and how large a room may be."""

import ast
import doctest
import functools
import graphlib
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import afnp

ROOT = Path(__file__).parents[1]
parsed = functools.cache(ast.parse)  # the same sources are asked many things

FLOORS = {
    "atomic": 0,
    "chain_rule": 1,
    "inputs": 0,
    "minimal": 0,
    "messages": 0,
    "params": 0,
    "bases": 1,
    "univariate": 1,
    "sampling": 1,
    "networks": 2,
    "transforms": 3,
    "compiled": 4,
    "model": 5,
    "discrete": 6,
    "flow": 6,
    "ensemble": 7,
    "advice": 8,
    "data": 8,
    "files": 8,
    "marginals": 8,
    "progress": 8,
    "constructors": 8,
    "train": 9,
    "rows": 9,
    "verify": 9,
    "applications": 10,
    "interop": 10,
    "plot": 10,
    "__init__": 11,
    "cli": 12,
    "__main__": 13,
}
"""Imports go strictly downward. Modules of one package may import each other,
but never in a circle."""

FILES = sorted((ROOT / "afnp").rglob("*.py"))
MATHEMATICS = [
    f for f in FILES if FLOORS.get(f.relative_to(ROOT / "afnp").with_suffix("").parts[0], 9) <= 7
]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def nodes(tree):
    """All nodes that run: what only a type checker reads is no import."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from nodes(node)


def imports(source, package=()):
    """Absolute dotted names that the code imports; ``from a import b`` gives a.b, module or not."""
    names = []
    for node in nodes(parsed(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{start}.{alias.name}" for alias in node.names]
    return names


MODULES = {name_of(path): path for path in FILES}
PACKAGE = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}


def module_behind(imported):
    """The module of afnp that an imported name lies in, or None."""
    if imported.split(".")[0] != "afnp":
        return None
    parts = imported.split(".")
    known = [
        ".".join(parts[:k]) for k in range(len(parts), 1, -1) if ".".join(parts[:k]) in MODULES
    ]
    return known[0] if known else "afnp.__init__"


def imports_of(path):
    return imports(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parent.parts)


GRAPH = {
    name: {module_behind(i) for i in imports_of(path)} - {None} for name, path in MODULES.items()
}


def unit(module):
    return module.split(".")[1]


def test_the_import_walker_sees_every_kind_of_import():
    source = "import a.b\nfrom c import d\ndef f():\n    from .g import h\n    from .. import k\n"
    assert imports(source, ("afnp", "data")) == ["a.b", "c.d", "afnp.data.g.h", "afnp.k"]
    assert imports("if TYPE_CHECKING:\n    import a\nelse:\n    import b") == []
    assert module_behind("afnp.Flow") == module_behind("afnp") == "afnp.__init__"
    assert module_behind("afnp.univariate.affine.Affine") == "afnp.univariate.affine"
    assert (
        "afnp.networks.masks" in GRAPH["afnp.transforms.autoregressive"]
        and "afnp.data.dataset" in GRAPH["afnp.data.toy"]
    )


def test_every_module_has_a_floor():
    assert {unit(module) for module in MODULES} == set(FLOORS)


def test_imports_go_strictly_downward():
    for module, known in GRAPH.items():
        for imported in known:
            below = FLOORS[unit(imported)] < FLOORS[unit(module)]
            assert below or unit(imported) == unit(module), f"{module} imports {imported}"


def test_no_circle_of_imports():
    graphlib.TopologicalSorter(GRAPH).prepare()


def roots_of(path):
    """The first words of all imports of a file."""
    return {imported.split(".")[0] for imported in imports_of(path)}


def test_only_the_kernels_know_numba():
    engines = {"numba", "llvmlite", "numba_cuda"}
    assert not [f for f in FILES if "compiled" not in f.parts and roots_of(f) & engines]


def test_the_mathematics_needs_numpy_alone():
    allowed = {"afnp", "numpy", *sys.stdlib_module_names}
    assert not [f for f in MATHEMATICS if "compiled" not in f.parts and roots_of(f) - allowed]


def test_the_package_never_imports_its_visitors():
    visitors = {"figures", "lessons", "tests", "conftest"}
    assert not [f for f in FILES if roots_of(f) & visitors]


SHARED = tuple(
    f"figures.{room}"
    for room in "bench building common papers recipes simulators thumbnails".split()
)


def test_figures_import_no_other_figure():
    for path in (ROOT / "figures").glob("*.py"):
        for imported in imports_of(path):
            if imported.split(".")[0] == "figures":
                assert imported.startswith(SHARED), f"{path.name}: {imported}"
            assert imported.split(".")[0] not in ("lessons", "tests", "conftest"), (
                f"{path.name}: {imported}"
            )


def test_tests_do_not_import_each_other():
    for path in (ROOT / "tests").glob("*.py"):
        for imported in imports_of(path):
            assert not imported.startswith(("test_", "tests", "lessons")), (
                f"{path.name}: {imported}"
            )


def test_lessons_import_the_package_and_no_other_visitor():
    for path in (ROOT / "lessons").rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                lines = "".join(cell["source"]).splitlines()
                code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
                visitors = {i.split(".")[0] for i in imports(code)} & {
                    "figures",
                    "tests",
                    "conftest",
                }
                assert not visitors, f"{path.name} imports {visitors}"


# Randomness, validation, size


RANDOM = ("default_rng", "Generator", "Philox", "RandomState")
"""Legacy RandomState objects are explicit too: published splits need their bits."""


def global_randomness(source):
    """What a source uses that is no explicit generator."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and node.attr not in RANDOM:
            if ast.unparse(node.value) in ("np.random", "numpy.random"):
                yield f"line {node.lineno}: np.random.{node.attr}"
    for imported in imports(source):
        if imported == "random" or imported.startswith(("random.", "numpy.random")):
            yield f"import {imported}"


def test_randomness_comes_from_explicit_generators():
    for path in FILES:
        assert not list(global_randomness(path.read_text(encoding="utf-8"))), path
    source = "import random\nimport numpy as np\nnp.random.seed(1)\nnp.random.default_rng(1)\n"
    assert list(global_randomness(source)) == ["line 3: np.random.seed", "import random"]


def test_nothing_is_validated_by_assert():
    """python -O removes assert statements."""
    for path in FILES:
        tree = parsed(path.read_text(encoding="utf-8"))
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert not lines, f"{path}: {lines}"


# The public face


def test_the_public_names_are_listed_once_and_exist():
    assert len(set(afnp.__all__)) == len(afnp.__all__)
    assert all(hasattr(afnp, name) for name in afnp.__all__)


PUBLIC = [name for name in afnp.__all__ if not isinstance(getattr(afnp, name), type(ast))]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example(name):
    thing = getattr(afnp, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].endswith(".")
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        assert doctest.DocTestParser().get_examples(text)


# Names, probes, parameters


EVERYTHING = [
    path
    for room in ("afnp", "figures", "lessons", "tests")
    for path in sorted((ROOT / room).rglob("*.py"))
]


def private(name):
    return name.startswith("_") and not name.startswith("__")


def private_imports(paths):
    """Private names that files import from others."""
    for path in paths:
        for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield from (f"{path}: {alias.name}" for alias in node.names if private(alias.name))


def test_no_private_name_is_imported_from_another_file():
    assert not list(private_imports(EVERYTHING))


FOREIGN = (
    *("afnp/interop/", "afnp/verify/adapters/", "afnp/verify/cases.py", "afnp/verify/rows.py"),
    *("afnp/atomic.py", "afnp/files.py", "afnp/compiled/threads.py"),
)
"""Who meets objects of other libraries, or systems with other functions than this one."""


def probes(foreign):
    """Questions what an object can do, by ``hasattr`` or by ``getattr`` with a default."""
    for path in FILES:
        if path.relative_to(ROOT).as_posix().startswith(FOREIGN) == foreign:
            for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    if (node.func.id, len(node.args)) in (("hasattr", 2), ("getattr", 3)):
                        yield f"{path}, line {node.lineno}: {ast.unparse(node)}"


def test_nothing_asks_our_own_objects_what_they_can_do():
    assert not list(probes(foreign=False))


class Signature:
    """A function or method of a file, and which of its parameters its body never reads."""

    def __init__(self, function, owner, path):
        self.function, self.owner, self.path = function, owner, path
        a = function.args
        named = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
        self.parameters = [p.arg for p in named if p is not None and p.arg not in ("self", "cls")]
        names = [
            node.id
            for line in function.body
            for node in ast.walk(line)
            if isinstance(node, ast.Name)
        ]
        self.unread = {p for p in self.parameters if p not in names}

    def is_a_face(self):
        """Without a body of its own: a docstring, or an error that says what is missing."""
        return all(
            isinstance(line, ast.Raise | ast.Pass)
            or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            for line in self.function.body
        )

    def is_called_by_others(self):
        """By Python or by Numba, who say what is passed."""
        name = self.function.name
        decorators = {ast.unparse(d).split("(")[0] for d in self.function.decorator_list}
        return name.startswith("__") or bool(decorators & {"intrinsic", "overload"})


def signatures(path, source):
    """All functions of a file and methods of its classes; not what is defined inside of them."""
    for node in parsed(source).body:
        if isinstance(node, ast.FunctionDef):
            yield Signature(node, None, path)
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield Signature(method, node.name, path)


def never_read(sources):
    """What the code of files, by their names, receives and never reads.

    A parameter counts unless its signature is a contract: one without a body, a method that a base
    class or a subclass has too, what Python or Numba call, and what has a twin in its file that
    takes the same and reads it, as of functions in one table.
    """
    found = [s for path, source in sources.items() for s in signatures(path, source)]
    bases = {}
    for source in sources.values():
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.ClassDef):
                above = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
                bases[node.name] = bases.get(node.name, set()) | above

    def ancestors(name):
        above = bases.get(name, set()) - {name}
        return above.union(*(ancestors(base) for base in above))

    methods = {}
    for s in found:
        methods.setdefault(s.function.name, []).append(s)
    for s in found:
        if not s.unread or s.is_a_face() or s.is_called_by_others():
            continue
        kin = [other for other in methods[s.function.name] if other.owner and s.owner]
        if any(k.owner in ancestors(s.owner) or s.owner in ancestors(k.owner) for k in kin):
            continue
        twins = [t for t in found if t.path == s.path and t.parameters == s.parameters]
        unread = s.unread.intersection(*(twin.unread for twin in twins if not twin.is_a_face()))
        for name in sorted(unread):
            yield f"{s.path}: {s.owner or ''}.{s.function.name} never reads {name}"


def test_parameters_are_read():
    source = """
class Base:
    def face(self, p):
        raise NotImplementedError
    def usual(self, p):
        return 0
class Sub(Base):
    def face(self, p):
        return 1
    def own(self, q, r):
        return r
class Peculiar(Base):
    def usual(self, p):
        return p
def f(x, y):
    return y
def same(x, y):
    return x + y
def g(z):
    return 0
"""
    assert list(never_read({"a": source})) == ["a: Sub.own never reads q", "a: .g never reads z"]
    assert len(found := list(never_read(PACKAGE))) <= 10, "\n".join(found)


# The path of a student


def entered_by(work):
    """Files and functions of the package that a piece of work enters."""
    package, entered = str(ROOT / "afnp"), set()

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package):
            if "comp>" not in code.co_name and code.co_name != "<genexpr>":
                entered.add((code.co_filename, code.co_name, code.co_firstlineno))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len({file for file, _, _ in entered}), len(entered)


def student_path():
    """What a student reads: to build a MAF, for a density and a sample; and the arithmetic alone.

    That is what checks, blocks of rows, engines and parameters stand around.
    """
    maf, rng = afnp.maf, np.random.default_rng(0)
    flow = maf(3, hidden=(16,), transforms=2)
    x, none = np.zeros((4, 3)), np.zeros((4, 0))

    def arithmetic():
        flow.log_prob_with(p, x, none)
        flow.generate_with(p, x, none)

    def public():
        flow = maf(3, hidden=(16,), transforms=2)
        flow.log_prob(x, backend="numpy")
        flow.sample(5, rng, backend="numpy")

    p = flow.own
    return entered_by(public), entered_by(arithmetic)


def test_a_small_flow_in_numpy_is_a_short_read():
    (files, functions), (inner_files, inner_functions) = student_path()
    assert files <= 15 and 20 < functions <= 95
    assert inner_files <= 9 and 10 < inner_functions <= 30


# The house in numbers: python tests/test_house.py


def code_lines(source):
    """The lines of a source that run, without indentation, comments and docstrings."""
    tree, silent = parsed(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for line in node.body:
                if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                    silent.update(range(line.lineno, line.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    stripped = [line.strip() for number, line in lines if number not in silent]
    return [line for line in stripped if line and not line.startswith("#")]


def functions_with(test):
    """Functions of the package in which a node passes a test."""
    for path, source in PACKAGE.items():
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.FunctionDef) and any(test(part) for part in ast.walk(node)):
                yield f"{path}: {node.name}"


def chooses_numba(node):
    """Whether a function answers that compiled code shall work."""
    if not isinstance(node, ast.Return) or node.value is None:
        return False
    constants = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
    compares = any(isinstance(part, ast.Compare) for part in ast.walk(node.value))
    return not compares and "numba" in [constant.value for constant in constants]


def calls(name):
    """A test whether a node calls a method of that name."""
    return lambda node: (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
    )


def walks_forward(node):
    """Whether a loop over groups of features runs a whole network for each."""
    loops = isinstance(node, ast.For) and ast.unparse(node.iter).endswith(".groups")
    return loops and any(calls("forward")(part) for part in ast.walk(node))


def numbers():
    """The house in numbers, by what is counted."""
    lines = {path: len(source.splitlines()) for path, source in PACKAGE.items()}
    code = [line for source in PACKAGE.values() for line in code_lines(source)]
    core = [str(path.relative_to(ROOT)) for path in MATHEMATICS if "compiled" not in path.parts]
    between = {(unit(module), unit(known)) for module, those in GRAPH.items() for known in those}
    public, arithmetic = student_path()
    return {
        "lines of afnp/": sum(lines.values()),
        "lines of the NumPy core": sum(lines[path] for path in core),
        "rooms": len(FLOORS),
        "imports between rooms": sum(one != other for one, other in between),
        "functions that choose the engine": list(functions_with(chooses_numba)),
        "loops of substitution": list(functions_with(calls("advance"))),
        "loops of D passes": list(functions_with(walks_forward)),
        "parameters never read": len(list(never_read(PACKAGE))),
        "private names across files": len(list(private_imports(FILES))),
        "probes of our own objects": len(list(probes(foreign=False))),
        "probes of other people's objects and systems": len(list(probes(foreign=True))),
        "characters a code line": round(sum(map(len, code)) / len(code), 1),
        "lines over 100 columns": sum(
            len(line) > 100 for source in PACKAGE.values() for line in source.splitlines()
        ),
        "files and functions of a student's path": public,
        "those of its arithmetic": arithmetic,
    }


def test_the_house_in_numbers():
    found = numbers()
    assert found["functions that choose the engine"] == ["afnp/model.py: _best"]
    assert found["loops of substitution"] == ["afnp/sampling/substitution.py: substitution"]
    assert found["loops of D passes"] == ["afnp/sampling/substitution.py: naive"]
    assert found["lines over 100 columns"] == 0
    assert found["characters a code line"] < 40
    assert code_lines('"""A."""\n\n# b\ndef f():\n    """C."""\n    return 1\n') == [
        "def f():",
        "return 1",
    ]


if __name__ == "__main__":
    for what, value in numbers().items():
        print(f"{what:46s} {value}")
