"""The lessons: well kept, run top to bottom as shipped and solved,
with checkers that can tell right from wrong."""

import ast
import importlib
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

LESSONS = Path(__file__).parents[1] / "lessons"
sys.path.insert(0, str(LESSONS))  # where a notebook runs
checker, easel = importlib.import_module("checker"), importlib.import_module("easel")

NOTEBOOKS = sorted(LESSONS.glob("[0-9][0-9]_*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if not path.name.startswith("00")]
BY_NUMBER = {int(path.name[:2]): path for path in NUMBERED}
SECONDS = 60
"""What a lesson may take, on two cores."""
LONGER = {15: 240}
"""What runs the strictest checks takes longer."""

KNOWN = {"afnp", "numpy", "matplotlib", "ipywidgets", "checker", "easel", *sys.stdlib_module_names}
"""What a lesson may import."""


def name(path):
    return path.stem


def cells(path, kind="code"):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == kind]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def tags_of(cell):
    return set(cell["metadata"].get("tags", []))


def tagged(path, tag):
    return [cell for cell in cells(path) if tag in tags_of(cell)]


def solutions(number):
    """Return the code before the first section, and the sections of a solutions file by cell id."""
    preamble, *sections = re.split(
        r"^# %% ", (LESSONS / f"solutions/{number:02d}.py").read_text(), flags=re.M
    )
    return preamble, dict(section.split("\n", 1) for section in sections)


def lesson(number):
    checker.TRIES.clear()
    return checker.Lesson(number)


EXERCISES = [
    (number, exercise) for number in BY_NUMBER for exercise in lesson(number).exercises.values()
]


@pytest.fixture(params=EXERCISES, ids=lambda pair: f"{pair[0]:02d}-{pair[1].name}")
def case(request):
    """An exercise with its lesson's checker, and what is in the reader's notebook when he comes to
    it."""
    number, exercise = request.param
    path = BY_NUMBER[number]
    stub = next(cell for cell in cells(path) if cell["id"] == exercise.name)
    call = next(cell for cell in cells(path) if cell["id"] == f"check-{exercise.name}")
    preamble, sections = solutions(number)
    before = list(sections)[: list(sections).index(exercise.name)]  # exercises may build on these
    preamble += "".join(sections[name] for name in before)
    return SimpleNamespace(
        check=lesson(number),
        exercise=exercise,
        stub=source(stub),
        call=source(call),
        preamble=preamble,
        solution=sections[exercise.name],
    )


def run(case, code):
    """Put code where the stub is, and run the cell below it."""
    namespace = {"np": np, "check": case.check}
    exec(case.preamble, namespace)
    exec(code, namespace)
    exec(case.call, namespace)


def refusal(check, exercise, answer):
    """Return what the checker says to a wrong answer; it must say so,
    and show no traceback of its own."""
    with pytest.raises(checker.Different) as caught:
        check(exercise.name, answer)
    said = "\n".join(caught.value._render_traceback_())
    assert said.startswith(
        (f"✗ not right: {exercise.name}", f"✗ not an answer yet: {exercise.name}")
    )
    assert "Traceback" not in said and "checker.py" not in said
    assert max(map(len, said.splitlines())) <= checker.WIDTH
    return said


# ---- the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_kept_without_outputs_and_diffs_well(path):
    notebook = read(path)
    assert (
        path.read_text(encoding="utf-8")
        == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    )
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        folded = (
            {"jupyter": {"source_hidden": True}}
            if "picture" in cell["metadata"].get("tags", [])
            else {}
        )
        assert {k: v for k, v in cell["metadata"].items() if k != "tags"} == folded
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", id) and not re.fullmatch(r"[0-9a-f]{8}", id)
        for id in ids
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_imports_the_package_and_its_own_tools_only(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= KNOWN
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in KNOWN


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_what_a_notebook_imports_from_the_package_is_there(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "afnp":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or importlib.util.find_spec(full), full


@pytest.mark.parametrize("path", NUMBERED, ids=name)
def test_files_that_a_lesson_points_to_are_there(path):
    for cell in cells(path, "markdown"):
        for file in re.findall(r"`((?:afnp|figures|tests|lessons)/[\w/.]+)`", source(cell)):
            assert (LESSONS.parent / file).exists(), file
        for figures in re.findall(r"`python -m figures ([\w ]+)`", source(cell)):
            for figure in figures.split():
                assert list((LESSONS.parent / "figures").glob(f"[0-9][0-9]_{figure}.py")), figure


@pytest.mark.parametrize("path", NUMBERED, ids=name)
def test_long_code_is_folded(path):
    visible = [c for c in cells(path) if not {"picture", "exercise"} & tags_of(c)]
    lengths = {cell["id"]: len(source(cell).splitlines()) for cell in visible}
    assert max(lengths.values()) <= 56, lengths
    assert sum(lengths.values()) <= 200, lengths


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_randomness_in_a_notebook_is_seeded(path):
    for cell in cells(path):
        assert "default_rng()" not in source(cell)
        assert set(re.findall(r"np\.random\.(\w+)", source(cell))) <= {"default_rng", "Generator"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_links_between_lessons_lead_somewhere(path):
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", source(cell)):
            assert target.startswith("http") or (LESSONS / target).exists(), target


def test_the_contents_list_every_lesson():
    listed = re.findall(
        r"\(([0-9]{2}_\w+\.ipynb)\)", "".join(source(c) for c in cells(NOTEBOOKS[0], "markdown"))
    )
    assert listed == [path.name for path in NUMBERED]


@pytest.mark.parametrize("path", NUMBERED, ids=name)
def test_a_lesson_opens_with_a_question_and_ends_with_the_next(path):
    prose = [source(cell) for cell in cells(path, "markdown")]
    assert prose[0].startswith(f"# {int(path.name[:2])} · ")
    assert re.search(r"^\*\*[^*]+\?\*\*$", prose[0], flags=re.M) and "*You need:*" in prose[0]
    for heading in (
        "## What was verified",
        "**To read.**",
        "**In the package:**",
        "**Next question.**",
    ):
        assert heading in prose[-1], heading
    assert re.search(r"arXiv \d{4}\.\d{4,5}", prose[-1])
    opening = "".join(source(cell) for cell in cells(path)[:3])
    assert "plt.show()" in opening or "easel.play(" in opening
    assert source(cells(path)[-1]) == "check.summary()"
    assert re.search(r"About (60|75|90) minutes, exercises included", prose[0])
    wrap_up = prose[-2]
    assert wrap_up.startswith("## Three questions, and a hard one")
    assert re.findall(r"^(\d)\. .+[?.]$", wrap_up, flags=re.M) == ["1", "2", "3"]
    assert re.search(r"^\*\*[^*]+\.\*\* \w", wrap_up, flags=re.M)


def test_the_teachers_page_speaks_of_every_lesson():
    page = (LESSONS / "TEACHERS.md").read_text(encoding="utf-8")
    titles = [
        source(read(path)["cells"][0]).splitlines()[0].removeprefix("# ") for path in NUMBERED
    ]
    assert re.findall(r"^## (.+)$", page, flags=re.M) == titles
    for section in page.split("\n## ")[1:]:
        assert re.findall(r"^(\d)\. ", section, flags=re.M) == ["1", "2", "3"]
        for heading in ("**Answers.**", "**The open exercise.**", "**Common errors.**"):
            assert heading in section
        title = section.split("\n")[0]
        path = NUMBERED[titles.index(title)]
        minutes = re.search(r"^(\d+) minutes\.$", section, flags=re.M)[1]
        assert f"About {minutes} minutes" in source(read(path)["cells"][0])


HOW = next(cell for cell in cells(NOTEBOOKS[0], "markdown") if cell["id"] == "how")
GREEK = (
    "alpha beta gamma delta Delta epsilon varepsilon zeta eta theta kappa ell lambda mu nu xi pi "
    "rho sigma Sigma tau phi varphi Phi chi psi omega"
).split()
SPELT = {name: f"\\{name}" for name in GREEK} | {"eps": r"\varepsilon", "lam": r"\lambda"}
"""What code calls Greek letters."""


def letters_of(formula):
    """Return the letters in a formula, Greek ones by their names; words are none, dx is d and x."""
    formula = re.sub(r"\\(?:text|operatorname|texttt|mathrm|begin|end)\{[^}]*\}", " ", formula)
    styled = r"\\math(?:cal|bb) ?[A-Z]"
    found = {letter.replace(" ", "") for letter in re.findall(styled, formula)}
    formula = re.sub(r"(?<![\\a-zA-Z])d([a-z])(?![a-zA-Z])", r"d \1", re.sub(styled, " ", formula))
    greek = rf"\\(?:{'|'.join(GREEK)})(?![a-zA-Z])"
    single = r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])"
    return found | {*re.findall(greek, formula), *re.findall(single, formula)}


def formulas(text):
    return ["".join(pair) for pair in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, flags=re.S)]


def letter_of(name):
    """Return what a name begins with, if that is a letter: x of x, x1 and x_test; else None."""
    first = re.fullmatch(r"_?([A-Za-z]+?)\d*(?:_\w*)?", name)
    first = first[1] if first else ""
    return SPELT.get(first, first if len(first) == 1 else None)


def bound(code):
    """Return the letters with which names begin that code gives to something."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names += [n.arg for n in nodes if isinstance(n, ast.arg)]
    return {letter_of(name) for name in names} - {None}


def documented(code):
    """Return the letters in docstrings, sizes of arrays mostly; A, I and a may be words."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    said = [ast.get_docstring(n) or "" for n in ast.walk(ast.parse(code)) if isinstance(n, kinds)]
    return set(re.findall(r"(?<![\w.'])[B-HJ-Zb-z](?![\w'])", " ".join(said)))


def labels(code):
    """Return the letters of formulas in strings, which pictures show."""
    nodes = ast.walk(ast.parse(code))
    strings = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return {
        letter for text in strings for formula in formulas(text) for letter in letters_of(formula)
    }


def spans(text):
    """Return the letters of code in prose."""
    found = set()
    for span in re.findall(r"`([^`\n]+)`", text):
        try:
            nodes = ast.walk(ast.parse(span))
        except SyntaxError:
            continue
        found |= {letter_of(n.id) for n in nodes if isinstance(n, ast.Name) and len(n.id) == 1}
    return found


def used(number):
    """Return the letters of a lesson: in formulas, in code, in pictures, in what prose quotes."""
    found = set()
    for cell in cells(BY_NUMBER[number], "markdown"):
        found |= {letter for formula in formulas(source(cell)) for letter in letters_of(formula)}
        found |= spans(source(cell))
    for cell in cells(BY_NUMBER[number]):
        found |= bound(source(cell)) | documented(source(cell)) | labels(source(cell))
    return found


def index():
    """Return the rows of the contents' index: a letter, what it is, and its lessons."""
    text = source(HOW).split("## Letters")[1].split("## Words")[0]
    rows = re.findall(r"^\| (\$.+?\$) \| (.+) \| ([\d–, ]+) \|$", text, flags=re.M)
    return [
        (letter[1:-1].replace(" ", ""), what, lessons_of(where)) for letter, what, where in rows
    ]


def lessons_of(where):
    """Return the numbers in "1, 3–5".

    >>> sorted(lessons_of("1, 3–5"))
    [1, 3, 4, 5]
    """
    ends = [list(map(int, part.split("–"))) for part in where.split(", ")]
    return {number for first, *last in ends for number in range(first, (last or [first])[0] + 1)}


def test_a_letter_has_one_row_in_the_index():
    letters = [letter for letter, *_ in index()]
    assert len(set(letters)) == len(letters) > 50
    meanings = [what for _, what, _ in index()]
    assert len(set(meanings)) == len(meanings)


@pytest.mark.parametrize("number", BY_NUMBER)
def test_the_index_has_every_letter_with_every_lesson(number):
    listed = {letter for letter, _, where in index() if number in where}
    assert used(number) == listed


def test_letters_are_found_wherever_they_stand():
    assert letters_of(r"\mathcal L = \mathbb E\, \log p(x_i) + \tfrac{du}{dx} e^{\bar\delta}") == {
        *("\\mathcalL", "\\mathbbE", "p", "x", "i", "d", "u", "e", "\\delta")
    }
    assert bound("x1, W_now = f(2)\nfor k in x1: mu = lambda q: z") == {"x", "W", "k", "\\mu", "q"}
    assert spans("`p[1, 0]` of `(N, D)`, `python -m figures x`, `words`") - {None} == {
        "p",
        "N",
        "D",
    }
    assert labels('ax.set(xlabel="$x_1$", title="the weight")') == {"x"}
    assert documented('def f(a):\n    """Map x (N, K) to S > 1."""') == {*"xNKS"}


@pytest.mark.parametrize("number", BY_NUMBER)
def test_running_numbers_run_and_are_nothing_else(number):
    """They are bound by loops, or received, but never assigned."""
    for cell in cells(BY_NUMBER[number]):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.NamedExpr)):
                targets = getattr(node, "targets", None) or [node.target]
                names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)
                         and isinstance(n.ctx, ast.Store)}  # fmt: skip
                assert not names & {"i", "j", "k", "n"}, (cell["id"], ast.unparse(node))


def answers_and_the_page():
    folders = [LESSONS / "exercises", LESSONS / "solutions"]
    return [path for folder in folders for path in sorted(folder.glob("*.py"))] + [
        LESSONS.parent / "afnp" / "minimal.py"
    ]


def test_the_teachers_page_has_no_other_letters():
    page = (LESSONS / "TEACHERS.md").read_text(encoding="utf-8")
    found = {letter for formula in formulas(page) for letter in letters_of(formula)} | spans(page)
    assert found - {None} <= {letter for letter, *_ in index()}


@pytest.mark.parametrize("path", answers_and_the_page(), ids=name)
def test_answers_and_the_one_page_flow_have_no_other_letters(path):
    code = path.read_text(encoding="utf-8")
    known = {letter for letter, *_ in index()}
    assert bound(code) | documented(code) <= known
    for formula in re.findall(r"\.\. math::(.+?)\n\s*\n|:math:`(.+?)`", code, flags=re.S):
        assert letters_of("".join(formula)) <= known


def test_words_of_the_contents_point_to_lessons():
    words = source(HOW).split("## Words")[1]
    rows = re.findall(r"^\| (.+) \| (.+) \| (\d+) \|$", words, flags=re.M)
    assert len(rows) > 10 and {int(number) for *_, number in rows} <= set(BY_NUMBER)
    for word, _, number in rows:
        said = " ".join(source(cell) for cell in read(BY_NUMBER[int(number)])["cells"])
        stem = word.split("*")[1].split()[-1][:4]
        assert stem in said, f"lesson {number} has no {word}"


def test_modules_that_the_contents_name_are_there():
    text = source(next(cell for cell in cells(NOTEBOOKS[0], "markdown")))
    rows = re.findall(r"^\| \d+ \| .+ \| .+ \| (.+) \|$", text, flags=re.M)
    assert len(rows) == len(NUMBERED)
    for file in re.findall(r"`([^`]+)`", " ".join(rows)):
        assert (LESSONS.parent / "afnp" / file).exists(), file


@pytest.mark.parametrize("path", NUMBERED, ids=name)
def test_docstrings_of_a_lesson_begin_with_a_whole_sentence(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                first = (ast.get_docstring(node) or ".").split("\n")[0]
                assert first.endswith("."), first


@pytest.mark.parametrize("number", BY_NUMBER)
def test_every_exercise_has_a_stub_a_check_an_answer_and_a_solution(number):
    path, exercises = BY_NUMBER[number], lesson(number).exercises
    stubs = [cell["id"] for cell in tagged(path, "exercise")]
    assert len(stubs) >= 4 and any(exercise.prediction for exercise in exercises.values())
    assert set(stubs) == set(exercises) == set(solutions(number)[1])
    ids = [cell["id"] for cell in read(path)["cells"]]
    for stub in stubs:
        assert ids[ids.index(stub) + 1] == f"check-{stub}"
        assert re.search(
            rf'^check\("{stub}", \w+\)$', source(read(path)["cells"][ids.index(stub) + 1])
        )
        assert (
            len(exercises[stub].mistakes) >= 1
            and all(exercises[stub].hints)
            and exercises[stub].because
        )


# ---- the checkers --------------------------------------------------------------------------------


def test_the_stub_is_not_yet_an_answer(case, capsys):
    run(case, case.stub)
    assert capsys.readouterr().out == f"... not yet: {case.exercise.name}\n"
    assert case.check.state[case.exercise.name] == "open"


def test_the_solution_is_right(case, capsys):
    run(case, case.solution)
    assert capsys.readouterr().out.startswith(f"✓ right: {case.exercise.name}")
    assert case.check.state[case.exercise.name] == "right"


def test_every_plausible_mistake_is_refused(case):
    for mistake in case.exercise.mistakes.values():
        refusal(case.check, case.exercise, mistake)
        assert case.check.state[case.exercise.name] == "open"


def test_a_known_mistake_is_named(case):
    for made, mistake in case.exercise.mistakes.items():
        said = " ".join(refusal(case.check, case.exercise, mistake).split())
        assert f"That is what one gets by {made}." in said or len(case.exercise.cases) > 1, said
    named = [made for made, m in case.exercise.mistakes.items() if made in refused(case, m)]
    assert named, "no mistake of this exercise is recognised"


def refused(case, answer):
    return " ".join(refusal(case.check, case.exercise, answer).split())


def test_answers_of_the_wrong_kind_are_explained(case):
    for strange in (float("nan"), 3 + 4j, np.zeros((3, 1, 2))):
        refusal(case.check, case.exercise, strange)


class Breaks:
    """Something that cannot even be turned into an array."""

    def __len__(self):
        raise RuntimeError("no length")


def test_a_malformed_answer_is_explained_and_costs_no_try(case):
    first, second = case.exercise.hints
    malformed = [object(), {"a": 1}, [[1, 2], [3]], np.array([["x"]]), Breaks(), ("x", 1, 2, 3, 4)]
    malformed += [(np.zeros(2), {1, 2})]
    if not callable(case.exercise.answer):
        malformed += [len, print]
    if not case.exercise.any_length:
        malformed += [[], {1, 2}, frozenset({"W0"})]
    if isinstance(case.exercise.answer, tuple) and not case.exercise.any_length:
        malformed += [(*case.exercise.answer, case.exercise.answer[0]), case.exercise.answer[:1]]
    for answer in malformed:
        said = refused(case, answer)
        assert f"not an answer yet: {case.exercise.name}" in said, (answer, said)
        assert "cost no try" in said and first not in said
    assert not checker.TRIES


def test_what_a_function_returns_may_be_malformed_too():
    check, exercise = toy(lambda: (np.zeros(2), 1.0))
    for answer in ({1.0, 2.0}, {"a": 1}, (np.zeros(2), 1.0, 2.0), 5.0, (np.zeros(2), "one")):
        assert "cost no try" in refusal(check, exercise, lambda answer=answer: answer)
    assert "cost no try" not in refusal(check, exercise, lambda: (np.zeros(2), 2.0))
    assert checker.TRIES == {(1, "toy"): 1}


def test_an_answer_of_any_length_may_come_in_any_order():
    check, exercise = toy((4, 5), any_length=True, prediction=True)
    for answer in ((5, 4), {4, 5}, [4, 5, 5], np.array([4, 5])):
        check("toy", answer)
    for answer in (4, (3, 4, 5), ()):
        assert "not right" in refusal(check, exercise, answer)
    assert "cost no try" in refusal(check, exercise, ("4", "5"))


def test_hints_come_with_the_second_and_the_third_try(case):
    first, second = case.exercise.hints
    wrong = next(m for m in case.exercise.mistakes.values() if "not right" in refused(case, m))
    checker.TRIES.clear()
    told = [refused(case, wrong) for _ in range(3)]
    first, second = (" ".join(hint.split()) for hint in (first, second))
    assert [first in said for said in told] == [False, True, True]
    assert [second in said for said in told] == [False, False, True]
    assert ["solutions/" in said for said in told] == [False, False, True]


def without_spaces(code):
    return re.sub(r"\s+", "", code)


def answer_lines(code):
    """Return what a solution comes to: what it returns or assigns last, whole and part by part."""
    last = list(ast.walk(ast.parse(code)))
    values = [node.value for node in last if isinstance(node, ast.Return)]
    values = values or [node.value for node in last if isinstance(node, ast.Assign)]
    values += [
        n.value for n in last if isinstance(n, ast.Assign) and "[" in ast.unparse(n.targets[0])
    ]
    parts = [part for value in values for part in [value, *getattr(value, "elts", ())]]
    return {without_spaces(ast.unparse(part)) for part in parts}


def test_no_hint_gives_the_line_of_the_answer_away(case):
    for hint in case.exercise.hints:
        for line in answer_lines(case.solution):
            assert len(line) < 8 or line not in without_spaces(hint), hint


@pytest.mark.parametrize("number", BY_NUMBER)
def test_no_code_above_an_exercise_is_its_answer(number):
    shown = read(BY_NUMBER[number])["cells"]
    ids = [cell["id"] for cell in shown]
    for exercise, solution in solutions(number)[1].items():
        above = [c for c in shown[: ids.index(exercise)] if c["cell_type"] == "code"]
        text = without_spaces("".join(map(source, above)))
        for line in answer_lines(solution):
            assert len(line) < 12 or line not in text, (exercise, line)


class Nameless(ast.NodeTransformer):
    """Put what a name stands for in its place, or _, to compare programs but for their names."""

    def __init__(self, known):
        self.known = known

    def visit_Name(self, node):
        if node.id in self.known:
            return Nameless({}).visit(ast.parse(self.known[node.id], mode="eval").body)
        return node if node.id in ("np", "len", "range", "sum") else ast.Name("_", node.ctx)


def nameless(node, known):
    """Return an expression without its names, and without int() around it."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "int":
        (node,) = node.args
    tree = ast.parse(ast.unparse(node), mode="eval").body
    return without_spaces(ast.unparse(Nameless(known).visit(tree)))


def stands_for(tree):
    """Return the code that names are assigned, numbers left out."""
    known = {}
    for node in [n for n in ast.walk(tree) if isinstance(n, ast.Assign)]:
        target, value = node.targets[0], node.value
        pairs = zip(
            getattr(target, "elts", [target]), getattr(value, "elts", [value]), strict=False
        )
        known |= {
            a.id: ast.unparse(b)
            for a, b in pairs
            if isinstance(a, ast.Name) and not isinstance(b, ast.Constant)
        }
    return known


def expressions(code):
    """Return all expressions in code, without names, as they are and with assignments put in."""
    tree = ast.parse(code)
    kinds = (ast.BinOp, ast.Call, ast.Compare, ast.List, ast.Subscript, ast.UnaryOp)
    found = [n for n in ast.walk(tree) if isinstance(n, kinds)]
    return {nameless(n, known) for n in found for known in ({}, stands_for(tree))}


def spoilers(above, solution):
    """Return what of a solution stands in the code above: all that it returns, or a long part."""
    shown = set().union(*map(expressions, above))
    tree = ast.parse(solution)
    own = [n.value for n in ast.walk(tree) if isinstance(n, (ast.Assign, ast.Return)) and n.value]
    own = [part for value in own for part in getattr(value, "elts", [value])]
    found = [n for n in (nameless(part, {}) for part in own) if len(n) >= 30 and n in shown]
    for node in [n for n in ast.walk(tree) if isinstance(n, ast.Return)]:
        parts = [nameless(p, stands_for(tree)) for p in getattr(node.value, "elts", [node.value])]
        if sum(map(len, parts)) >= 16 and shown >= set(parts):
            found += parts
    return found


@pytest.mark.parametrize("number", BY_NUMBER)
def test_no_code_above_an_exercise_is_its_answer_in_other_letters(number):
    shown = read(BY_NUMBER[number])["cells"]
    ids = [cell["id"] for cell in shown]
    for exercise, solution in solutions(number)[1].items():
        above = [c for c in shown[: ids.index(exercise)] if c["cell_type"] == "code"]
        assert not spoilers([source(c) for c in above if "..." not in source(c)], solution), (
            exercise
        )


def test_a_spoiler_is_found_whatever_its_letters():
    """Two that once stood in folded code of lessons 1 and 9."""
    level = "def level(p, v):\n    return int((np.cumsum(p) <= v).sum())"
    assert spoilers(["ends, v = np.cumsum(row), 0.62\nprint((ends <= v).sum())"], level)
    assert not spoilers(["ends = np.cumsum(row)\nprint((ends <= v).mean())"], level)
    slope = "def f(t, a, b):\n    e = a * t**2 + 2 * b * t * (1 - t) + (1 - t) ** 2\n    return e"
    assert spoilers(["y = d1 * xi**2 + 2 * s * xi * (1 - xi) + (1 - xi) ** 2"], slope)


GIVEN_AWAY = {"a", "b", "c", "d"}


@pytest.mark.parametrize("number", BY_NUMBER)
def test_the_name_of_a_prediction_is_no_hint(number):
    """It stands in the call below; no word of the options may be in it."""
    shown = {cell["id"]: source(cell) for cell in read(BY_NUMBER[number])["cells"]}
    ids = list(shown)
    for exercise in lesson(number).exercises.values():
        if exercise.prediction and exercise.answer in GIVEN_AWAY:
            text = shown[ids[ids.index(exercise.name) - 1]]
            options = re.search(r"^\*\*a\*\* .+$", text, flags=re.M)[0].lower()
            words = set(re.findall(r"[a-z]{4,}", options))
            assert not words & set(exercise.name.split("_")), exercise.name


FUNCTIONS = [(number, exercise) for number, exercise in EXERCISES if callable(exercise.answer)]


@pytest.mark.parametrize(
    "number, exercise", FUNCTIONS, ids=lambda value: getattr(value, "name", value)
)
def test_functions_that_fail_are_explained(number, exercise):
    check = lesson(number)

    def divides(*_):
        return 1 / 0

    def nothing_but_nan(*case):
        expected = exercise.answer(*case)
        if isinstance(expected, tuple):
            return tuple(np.full(np.shape(part), np.nan) for part in expected)
        return np.full(np.shape(expected), np.nan)

    def leaves(*_):
        raise SystemExit

    assert "raised ZeroDivisionError: division by zero" in refusal(check, exercise, divides)
    assert "return 1 / 0" in refusal(check, exercise, divides)
    assert "yours nan" in refusal(check, exercise, nothing_but_nan)
    assert "SystemExit" in refusal(check, exercise, leaves)
    assert "raised TypeError" in refusal(check, exercise, lambda: 0)
    assert "expected a function" in refusal(check, exercise, 7)


def toy(answer, **options):
    check = lesson(1)
    check.exercises = {"toy": checker.Exercise("toy", answer, **options)}
    check.state = {"toy": "open"}
    return check, check.exercises["toy"]


def test_a_difference_is_located():
    check, exercise = toy(np.array([[1.0, 2.0], [3.0, 4.0]]))
    said = refusal(check, exercise, np.array([[1.0, 2.0], [3.5, 4.5]]))
    assert "first difference at index [1, 0]: yours 3.5, expected 3 (2 of 4 entries differ)" in said
    assert "shape: yours (4,), expected (2, 2)" in refusal(check, exercise, np.arange(1.0, 5.0))
    assert "expected real numbers" in refusal(check, exercise, np.array([[1.0, 2.0], [3.0, 4.0j]]))
    assert "unequal lengths" in refusal(check, exercise, [[1.0], [2.0, 3.0]])
    assert "got 'text'" in refusal(check, exercise, "text")
    assert checker.TRIES == {(1, "toy"): 3}


def test_rounding_passes_and_a_millionth_does_not():
    check, exercise = toy(np.array([1.0, 1e6, np.inf]))
    check("toy", np.array([1.0 + 1e-12, 1e6 + 1e-7, np.inf]))
    assert "index [1]" in refusal(check, exercise, np.array([1.0, 1e6 + 1, np.inf]))
    assert "index [2]" in refusal(check, exercise, np.array([1.0, 1e6, 1e300]))


def test_a_prediction_is_not_given_away():
    check, exercise = toy("b", prediction=True, hints=("think", "think again"))
    assert "expected" not in refusal(check, exercise, "a")
    check("toy", " B ")
    assert check.state["toy"] == "right"


def test_results_in_the_wrong_number_are_counted():
    check, exercise = toy(lambda: (np.zeros(2), 1.0))
    assert "expected 2 results, separated by commas, got 3 results" in refusal(
        check, exercise, lambda: (1, 2, 3)
    )
    assert "result 2 of 2: yours 5, expected 1" in refusal(
        check, exercise, lambda: (np.zeros(2), 5)
    )


def test_changing_an_argument_in_place_is_noticed():
    def in_place(x):
        x += 1
        return x

    check, exercise = toy(lambda x: x + 1, cases=[(np.zeros(2),), (np.ones(2),)])
    assert "changed its argument number 1 in place" in refusal(check, exercise, in_place)
    check("toy", lambda x: x + 1)  # the cases are as they were


def test_an_answer_that_breaks_when_looked_at_is_explained():
    class Mine:
        def __array__(self, *_, **__):
            raise RuntimeError("do not look")

        def __repr__(self):
            raise RuntimeError("do not print")

    check, exercise = toy(1.0)
    assert "do not look" in refusal(check, exercise, Mine())


def test_an_unknown_exercise_is_named():
    with pytest.raises(
        checker.Different, match="no exercise is called 'conditionel'; there are conditional, "
    ):
        lesson(1)("conditionel", 1)


def test_the_summary_counts(capsys):
    check = lesson(1)
    check("thousand", "b")
    check.summary()
    said = capsys.readouterr().out
    assert "1 of 6 exercises are right." in said and "thousand" not in said.split("Still open:")[1]


def test_same_says_how_well_and_refuses(capsys):
    checker.same(np.ones(3), np.ones(3))
    checker.same(1.0 + 1e-15, 1.0)
    assert (
        capsys.readouterr().out
        == "✓ the same: exactly, 3 numbers\n✓ the same: to 1e-15, 1 number\n"
    )
    with pytest.raises(checker.Different, match="these should be the same"):
        checker.same(np.ones(3), np.array([1.0, 1.0, 1.0 + 1e-9]))
    with pytest.raises(checker.Different, match="yours nan"):
        checker.same(np.nan, 1.0)


# ---- pictures ------------------------------------------------------------------------------------


@pytest.fixture
def agg(monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    easel.style()


def line(height, name="a", thick=False):
    figure, ax = easel.plt.subplots(figsize=(2, 1))
    ax.plot([0, height], linewidth=5 if thick else 1, label=name)
    return figure


def test_a_control_changes_the_picture_at_once(agg):
    widgets = pytest.importorskip("ipywidgets")
    forms = easel.play(
        line, height=(0.0, 2.0, 0.5, 1.0), name=["a", "b"], thick=False
    )._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in forms and forms["image/png"].startswith(
        "iVBORw0KGgo"
    )
    box = widgets.widget_serialization["from_json"](
        "IPY_MODEL_" + forms["application/vnd.jupyter.widget-view+json"]["model_id"], None
    )
    image, height, menu, tick, waits = box.children
    assert "busy" in waits.value or "wait" in waits.value
    assert (height.min, height.max, height.step, height.value) == (0.0, 2.0, 0.5, 1.0)
    assert menu.options == ("a", "b") and tick.value is False
    before = image.value
    tick.value = True
    assert image.value != before
    tick.value = False
    assert image.value == before
    assert not easel.plt.get_fignums()


def test_without_widgets_the_picture_stands_still(agg, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    forms = easel.play(line, height=(0.0, 2.0, 0.5, 1.0))._repr_mimebundle_()
    assert list(forms) == ["image/png"] and forms["image/png"].startswith("iVBORw0KGgo")


def test_the_course_has_things_to_move():
    moving = [
        path for path in NUMBERED if any("easel.play(" in source(cell) for cell in cells(path))
    ]
    assert len(moving) >= 3


# ---- opening -------------------------------------------------------------------------------------


def test_the_command_opens_the_contents_on_this_machine_alone():
    main = importlib.import_module(".__main__", "lessons")
    command = main.command(arguments=["--no-browser"])
    assert command[:3] == [sys.executable, "-m", "jupyterlab"] and command[-1] == "--no-browser"
    assert (LESSONS / main.CONTENTS).exists() and any(
        main.CONTENTS in argument for argument in command
    )
    assert not [argument for argument in command if "token" in argument or "ip=" in argument]


def test_without_jupyter_the_command_says_what_to_install(monkeypatch, capsys):
    main = importlib.import_module(".__main__", "lessons")
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    assert main.main([]) == 1
    assert "pip install 'afnp[lessons]'" in capsys.readouterr().err


# ---- a reader's own folder -----------------------------------------------------------------------

copies = importlib.import_module("lessons.folder")


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A small course to copy, and the folder that it goes to."""
    source = tmp_path / "source"
    for name in ("01_one.ipynb", "checker.py", "folder.py", "exercises/lesson_01.py"):
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_text("as shipped")
    monkeypatch.setattr(copies, "LESSONS", source)
    return source, tmp_path / "mine"


def test_the_whole_course_is_copied_and_nothing_else(tmp_path):
    assert copies.copy(tmp_path / "mine") == []
    found = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*.*")}
    code = (path for name in ("exercises", "solutions") for path in (LESSONS / name).glob("*.py"))
    wanted = {path.relative_to(LESSONS) for path in (*NOTEBOOKS, *code)}
    wanted |= {Path(name) for name in ("checker.py", "easel.py", ".shipped.json", ".passed")}
    assert found == wanted


def test_answers_are_never_overwritten(course):
    source, mine = course
    copies.copy(mine)
    (mine / "01_one.ipynb").write_text("an answer")
    assert copies.copy(mine) == []
    (source / "01_one.ipynb").write_text("a newer one")
    (source / "checker.py").write_text("a newer one")
    for _ in range(2):
        assert copies.copy(mine) == ["01_one.ipynb"]
        assert (mine / "01_one.ipynb").read_text() == "an answer"
        assert (mine / "checker.py").read_text() == "a newer one"


def test_a_notebook_that_was_there_before_is_kept(course):
    _, mine = course
    mine.mkdir()
    (mine / "01_one.ipynb").write_text("somebody's")
    assert copies.copy(mine) == ["01_one.ipynb"]
    assert (mine / "01_one.ipynb").read_text() == "somebody's"


def test_what_was_right_is_kept_in_a_folder_that_keeps_it(tmp_path, monkeypatch, capsys):
    copies.copy(tmp_path)
    monkeypatch.setattr(checker, "PASSED", tmp_path / ".passed")
    for name in ("second", "first", "second"):
        lesson_of_two().__call__(name, 7)
    table = copies.progress(tmp_path).splitlines()
    assert len(table) == len(NUMBERED)
    assert table[0].split() == "01 the chain rule 2 of 3; open: third".split()
    assert table[1].endswith(" -")
    with pytest.raises(FileNotFoundError, match="no lessons were copied"):
        copies.progress(tmp_path / "nowhere")


def lesson_of_two():
    check = lesson(1)
    check.exercises = {name: checker.Exercise(name, 7) for name in ("first", "second", "third")}
    check.state = dict.fromkeys(check.exercises, "open")
    return check


# ---- execution -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return a function that executes a lesson in a fresh kernel, once,
    as shipped or with answers put in."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kept = {}

    def execute(path, answers=(), key="shipped"):
        if (path, key) not in kept:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                cell.source = dict(answers).get(cell.id, cell.source)
            client = nbclient.NotebookClient(
                notebook,
                timeout=LONGER.get(int(path.name[:2]), SECONDS),
                allow_errors=True,
                resources={"metadata": {"path": str(LESSONS)}},
            )
            start = time.perf_counter()
            client.execute(env=kernel_environment())
            notebook.metadata["seconds"] = time.perf_counter() - start
            kept[path, key] = notebook
        return kept[path, key]

    return execute


def kernel_environment():
    import os

    above = [str(LESSONS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    inline = "module://matplotlib_inline.backend_inline"
    return {**os.environ, "PYTHONPATH": os.pathsep.join(above), "MPLBACKEND": inline}


def printed(cell):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def went_well(notebook, seconds=SECONDS):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", f"{cell.id}: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":  # compiling is announced, once on a machine
                said = [line for line in output.text.splitlines() if "afnp: compiling" not in line]
                assert not said, f"{cell.id}: {said}"
    assert notebook.metadata["seconds"] < seconds


@pytest.mark.lessons
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_lesson_runs_as_shipped(path, executed):
    notebook = executed(path)
    went_well(notebook)
    for cell in notebook.cells:
        if cell.id.startswith("check-"):
            assert printed(cell) == f"... not yet: {cell.id.removeprefix('check-')}\n"


@pytest.mark.lessons
@pytest.mark.parametrize("number", BY_NUMBER)
def test_a_lesson_runs_with_its_solutions(number, executed):
    preamble, sections = solutions(number)
    imports = "\n".join(
        line for line in preamble.splitlines() if line.startswith(("import", "from"))
    )
    notebook = executed(
        BY_NUMBER[number], {k: f"{imports}\n{v}" for k, v in sections.items()}, key="solved"
    )
    went_well(notebook, LONGER.get(number, SECONDS))
    for cell in notebook.cells:
        if cell.id.startswith("check-"):
            assert printed(cell).startswith("✓ right: ")
    assert (
        printed(notebook.cells[-1]) == f"{len(sections)} of {len(sections)} exercises are right.\n"
    )


@pytest.mark.lessons
@pytest.mark.parametrize("number", BY_NUMBER)
def test_a_lesson_says_the_same_every_time(number, executed):
    """The two runs differ in the exercises, their checks, and what measures the machine,
    and in nothing else."""
    preamble, sections = solutions(number)
    runs = [executed(BY_NUMBER[number]), executed(BY_NUMBER[number], key="solved")]
    for first, second in zip(*(run.cells for run in runs), strict=True):
        moving = {"exercise", "timed"} & set(first.metadata.get("tags", []))
        if (
            first.cell_type == "code"
            and not moving
            and first.id != "summary"
            and "check-" not in first.id
        ):
            assert printed(first) == printed(second), first.id
            assert pictures(first) == pictures(second), first.id


def pictures(cell):
    return [
        output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})
    ]


@pytest.mark.lessons
def test_a_wrong_answer_in_a_notebook_shows_the_explanation_and_no_traceback(executed):
    wrong = "def conditional(p):\n    return p / p.sum(axis=0)"
    notebook = executed(BY_NUMBER[1], {"conditional": wrong}, key="wrong")
    check = next(cell for cell in notebook.cells if cell.id == "check-conditional")
    (error,) = [output for output in check.outputs if output.output_type == "error"]
    shown = "\n".join(error.traceback)
    assert "✗ not right: conditional" in shown and "dividing by p(x_2) instead of p(x_1)" in shown
    assert "Traceback" not in shown and "checker.py" not in shown and "---" not in shown
