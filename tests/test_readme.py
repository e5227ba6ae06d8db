"""What the README and the pages beside the code show runs as it stands, and is so."""

import ast
import json
import re
from pathlib import Path

import pytest

import afnp

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "afnp/README.md", "afnp/verify/README.md", "figures/README.md")
PAGES += ("lessons/README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def examples(name):
    return re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL)


README = page("README.md")
FIRST_SCREEN, _, REST = README.partition("\n## ")


def test_the_first_screen_has_what_a_newcomer_needs():
    """One sentence, a picture, an installation, six lines, two commands, four doors."""
    assert "A **normalizing flow** turns" in FIRST_SCREEN and "pip install" in FIRST_SCREEN
    assert re.search(r"!\[[^]]+\]\(figures/gallery/\S+\)", FIRST_SCREEN)
    program = ast.parse(examples("README.md")[0])
    assert len([line for line in program.body if not isinstance(line, ast.Import)]) == 6
    assert len(re.findall(r"^python3 -m venv .*$", FIRST_SCREEN, flags=re.MULTILINE)) == 2
    for door in ("Course", "Gallery", "Reference", "Verify your flow"):
        assert re.search(rf"\[{door}[^]]*\]\(", FIRST_SCREEN), door


def test_the_rest_is_read_in_five_minutes():
    prose = re.sub(r"```.*?```", "", REST, flags=re.DOTALL)
    assert len(prose.split()) <= 900


@pytest.mark.slow
def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    """Fewer epochs and samples, everything else to the letter."""
    monkeypatch.chdir(tmp_path)
    program = (
        examples("README.md")[0]
        .replace("epochs=60", "epochs=2, progress=False")
        .replace("1_000_000", "10_000")
    )
    assert program.count("epochs=2") == program.count("10_000") == 1
    exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "nats" in printed and " 0 failed" in printed


def test_the_family_takes_what_is_said():
    """Contexts by all of the table, and by flows what else there is."""
    names = re.findall(r"^\| (`.+?`) \|", README.partition("## The family")[2], flags=re.MULTILINE)
    family = re.findall(r"`(\w+)`", " ".join(names))
    assert len(family) == 11
    for name in family:
        make, flow = getattr(afnp, name), name.islower()
        options = {"hidden": (6,)} if name not in ("tarflow", "wavenet_flow") else {}
        options |= {"between": "lu", "base": afnp.bases.StudentT(4, df=5)} if flow else {}
        options |= (
            {"univariate": "spline"} if flow and name not in ("nsf", "nice", "maf_mog") else {}
        )
        assert make(4, context=2, **options).context == 2
    assert all(call in dir(afnp.Flow) for call in ("cost", "score"))


def test_the_checks_of_an_external_flow_run():
    shift = afnp.made(3, hidden=(8,))
    names = {"afnp": afnp, "f": shift.normalize, "g": shift.generate, "their_flow": shift}
    exec(
        compile(examples("afnp/verify/README.md")[0], "README.md", "exec"),
        names,
    )
    assert names["report"].ok


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_named_exists(name):
    for target in re.findall(r"\]\(([^):#]+)[^):]*\)", page(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


def test_every_module_that_a_lesson_names_exists():
    for names in re.findall(
        r"^\| \[\d\d\].*?\?.*?\| (.*?) \|", page("lessons/README.md"), re.MULTILINE
    ):
        for name in re.findall(r"`([^`]+)`", names):
            assert (ROOT / "afnp" / name).exists(), name


def test_every_figure_that_is_named_exists():
    known = {path.stem[3:] for path in (ROOT / "figures").glob("[0-9][0-9]_*.py")}
    named = {name for page_ in map(page, PAGES) for name in re.findall(r"-m figures (\w+)", page_)}
    assert named and named - known <= {"NAME", "NN"}


# ---- the map -------------------------------------------------------------------------------------


def floors():
    """The table that ``tests/test_house.py`` enforces."""
    for node in ast.parse(page("tests/test_house.py")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            return ast.literal_eval(node.value)
    raise AssertionError("no FLOORS")


def test_the_map_is_the_house():
    rows = re.findall(r"^\| (\d+) \| (`.*?`) \|", page("afnp/README.md"), flags=re.MULTILINE)
    shown = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert shown == floors()
    assert [int(floor) for floor, _ in rows] == sorted(int(floor) for floor, _ in rows)


def test_the_reading_order_is_a_path_down_from_two_pages():
    order = re.findall(r"^\d\. \[`([^`]+)`\]", page("afnp/README.md"), flags=re.MULTILINE)
    names = [Path(path).stem for path in order]
    assert names == "chain_rule minimal flow autoregressive masked_mlp masks layers affine".split()


# ---- numbers -------------------------------------------------------------------------------------


def test_the_speed_table_is_what_the_benchmark_recorded():
    """Median milliseconds, and the fastest other library's over them, to three digits."""
    record = json.loads(page("figures/benchmark.json"))
    low, high = re.search(r"reached (\d+) to (\d+) GFLOP/s", page("figures/README.md")).groups()
    rates = [one["machine_gflops"] for one in record["configurations"].values()]
    assert (int(low), int(high)) == (round(min(rates)), round(max(rates)))
    for name, one in record["configurations"].items():
        row = re.search(
            rf"^\| {name}: D = {one['features']}\b.*|^\| {name}: splines.*",
            page("figures/README.md"),
            flags=re.MULTILINE,
        )
        cells = [cell.replace(",", "") for cell in row[0].split("|")[2:-1]]
        few = dict(map(str.split, one["operations"]))["alternating"]
        operations = (f"log_prob {few}", f"sample {few}", "train 100", "train 1000", "sample 1")
        for cell, operation in zip(cells, operations, strict=True):
            mine, *others = (
                of[operation]["median"] for of in one["seconds"].values() if operation in of
            )
            milliseconds, ratio = map(float, re.fullmatch(r" (\S+) \((\S+)\) ", cell).groups())
            assert milliseconds == pytest.approx(1e3 * mine, rel=5e-3)
            assert ratio == pytest.approx(min(others) / mine, rel=5e-3)
