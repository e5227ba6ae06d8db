"""Figures: each states a claim, its numbers bear it out,
and the command that builds them is dependable."""

import ast
import doctest
import functools
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from figures import __main__ as command  # noqa: E402
from figures import building, common, thumbnails  # noqa: E402

EPS = np.finfo(np.float64).eps
NAMES = sorted(path.stem for path in (ROOT / "figures").glob("[0-9][0-9]_*.py"))
NEEDS_SKLEARN = {"03_jacobian", "07_digits", "10_training", "22_attention"}
LONG = {
    "16_gallery",
    "17_round_trip",
    "20_redshift",
    "22_attention",
    "24_speech",
    "26_molecules",
    "33_inexact",
    "35_energies",
}
"""Several seconds each, and each with tests of its own elsewhere."""
each_figure = pytest.mark.parametrize("name", NAMES)
each_drawn = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES]
)


@pytest.fixture(scope="module", autouse=True)
def cache(trained_flows):
    """Train for all tests once, whatever the figures' own cache holds."""


def module(name):
    if name in NEEDS_SKLEARN:
        pytest.importorskip("sklearn")
    return import_module(f"figures.{name}")


@functools.cache
def quick(name):
    return module(name).data(quick=True)


def numbers(name):
    return quick(name)["numbers"]


# Every figure


@each_figure
def test_states_its_claim_first_and_does_nothing_on_import(name):
    tree = ast.parse((ROOT / "figures" / f"{name}.py").read_text(encoding="utf-8"))
    claim, _, explanation = ast.get_docstring(tree).partition("\n")
    assert claim.endswith(".") and len(claim.split()) > 5
    assert explanation.strip()
    allowed = (
        ast.Expr,
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.FunctionDef,
        ast.ClassDef,
    )
    assert all(isinstance(node, allowed) for node in tree.body)
    calls = [
        node
        for node in tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ]
    assert not calls


@each_drawn
def test_numbers_are_plain_and_finite_and_the_picture_is_a_figure(name):
    data = quick(name)
    again = json.loads(common.as_json(data["numbers"]))
    assert again.keys() == data["numbers"].keys() and again
    before = dict(matplotlib.rcParams)
    with common.style():
        figure = module(name).draw(data)
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before


# The claims, as numbers


def test_any_order_multiplies_to_the_joint_table():
    found = numbers("01_chain_rule")
    assert found["orders"] == 24 and found["arrows"] == 6
    assert found["largest_relative_error"] <= 8 * EPS  # two roundings a factor
    assert found["products"] == pytest.approx([found["p_state"]] * 2, rel=8 * EPS)


@pytest.mark.parametrize("net", ["wide", "narrow", "context"])
def test_masks_are_staircases_and_their_product_is_strictly_triangular(net):
    network = quick("02_masks")[net]
    for mask in network["masks"]:
        assert (np.diff(mask, axis=1) <= 0).all() and (np.diff(mask.sum(axis=1)) >= 0).all()
    inputs = network["degrees"][0]
    outputs = network["degrees"][3]
    assert not network["paths"][inputs[None, :] >= outputs[:, None]].any()


@pytest.mark.parametrize(
    ("net", "legal", "lost"),
    [
        ("wide", "legal", "lost_wide"),
        ("narrow", "legal", "lost_narrow"),
        ("context", "legal_context", "lost_context"),
    ],
)
def test_lost_dependencies_are_the_legal_pairs_without_a_path(net, legal, lost):
    network = quick("02_masks")[net]
    found = numbers("02_masks")
    pairs = network["degrees"][0][None, :] < network["degrees"][3][:, None]
    assert found[legal] == pairs.sum()
    assert found[lost] == (pairs & (network["paths"] == 0)).sum()
    assert (found[lost] > 0) == (net == "narrow")


def test_forbidden_entries_of_a_trained_jacobian_are_exactly_zero():
    found = numbers("03_jacobian")
    assert found["forbidden_entries"] == found["forbidden_that_are_exactly_zero"] == 64 * 63 // 2
    assert found["allowed_that_are_not_zero"] > 1900  # some ReLUs are off at this image
    assert max(found["error_of_diagonal"], found["error_of_slogdet"]) < 1e-11


def test_a_whole_flow_is_not_triangular_but_a_product_of_triangular_layers():
    found = numbers("03_jacobian")
    assert found["maf_entries_that_are_not_zero"] > 4000
    assert found["maf_error_of_slogdet"] < 1e-11
    assert found["maf_error_of_product"] < 1e-13


def test_both_determinants_are_the_same_number():
    assert numbers("04_determinant_cost")["largest_difference"] < 1e-14


def test_both_samplers_give_the_same_samples():
    found = numbers("05_sampling_cost")
    assert 0 < found["largest_difference"] < 1e-5  # float32; two algorithms, so not bitwise


def test_errors_of_numerical_gradients_have_the_powers_of_theory():
    found = numbers("09_gradient_check")
    for name, power in (
        ("left_forward", -1),
        ("left_central", -1),
        ("right_forward", 1),
        ("right_central", 2),
        ("right_complex", 2),
    ):
        assert found[f"slope_{name}"] == pytest.approx(power, abs=0.15), name


def test_only_the_complex_step_confirms_the_gradient_to_rounding():
    found = numbers("09_gradient_check")
    assert found["best_error_complex"] < 20 * EPS and found["complex_error_at_1e-20"] < 20 * EPS
    assert 1e-12 < found["best_error_central"] < 1e-8 < found["best_error_forward"] < 1e-5


# Trained flows


@pytest.fixture
def recipe(tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 3))

    def run(x_train=x, hidden=6, seed=0, **options):
        flow = afnp.maf(3, hidden=(hidden,), transforms=1, seed=seed)
        return common.trained(
            flow, x_train, **{"epochs": 2, "x_val": x[:20], **options}, cache=tmp_path
        )

    return SimpleNamespace(run=run, x=x, files=lambda: sorted(tmp_path.glob("*.afnp")))


def test_trained_does_what_fit_does(recipe):
    flow, history = recipe.run()
    other = afnp.maf(3, hidden=(6,), transforms=1)
    expected = afnp.fit(other, recipe.x, recipe.x[:20], epochs=2, progress=False)
    assert np.array_equal(flow.theta, other.theta)
    assert history.train_loss == expected.train_loss and history.val_loss == expected.val_loss


def test_trained_flows_come_back_from_the_cache_bit_by_bit(recipe, monkeypatch):
    flow, history = recipe.run()
    monkeypatch.setattr(afnp, "fit", lambda *a, **k: pytest.fail("trained again"))
    again, history_again = recipe.run()
    assert np.array_equal(flow.theta, again.theta)
    assert history == history_again
    assert np.array_equal(afnp.load(recipe.files()[0]).theta, flow.theta)


@pytest.mark.parametrize(
    "change", [{"hidden": 7}, {"seed": 1}, {"epochs": 3}, {"x_val": None}, {"learning_rate": 1e-2}]
)
def test_another_recipe_is_another_file(recipe, change):
    recipe.run()
    recipe.run(**change)
    assert len(recipe.files()) == 2


def test_other_data_are_another_file(recipe):
    recipe.run()
    recipe.run(x_train=recipe.x + 1e-12)
    recipe.run(x_train=recipe.x.reshape(-1)[:120].reshape(40, 3))
    assert len(recipe.files()) == 3


def test_contexts_count_with_their_contents(tmp_path):
    rng = np.random.default_rng(0)
    for context in (rng.standard_normal((30, 1)), rng.standard_normal((30, 1))):
        flow = afnp.maf(2, hidden=(4,), transforms=1, context=1)
        x = np.random.default_rng(1).standard_normal((30, 2))
        common.trained(flow, x, cache=tmp_path, epochs=1, context=context)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-40], lambda b: b[:200] + b"?" + b[201:], lambda b: b""]
)
def test_a_damaged_cache_file_is_rebuilt(recipe, damage):
    flow, _ = recipe.run()
    (path,) = recipe.files()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    again, _ = recipe.run()
    assert np.array_equal(flow.theta, again.theta)
    assert np.array_equal(afnp.load(path).theta, flow.theta)


def test_an_interrupted_training_is_not_cached(recipe, monkeypatch):
    monkeypatch.setattr(afnp, "fit", lambda *a, **k: SimpleNamespace(stopped="interrupted"))
    with pytest.raises(KeyboardInterrupt):
        recipe.run()
    assert not recipe.files()


# What figures share


def test_examples_in_docstrings():
    assert doctest.testmod(common).failed == 0


def test_rivals_take_turns():
    calls = []
    times = common.median_seconds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3
    )
    assert "".join(calls) == "ab" * 4
    assert times.keys() == {"a", "b"} and all(t["minimum"] <= t["median"] for t in times.values())


def test_timings_on_one_thread_leave_no_trace():
    import numba

    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        blas = [
            pool["num_threads"]
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        ]
        return {numba.get_num_threads(), *blas}

    before = threads()
    with pytest.raises(ZeroDivisionError), common.one_thread():
        assert threads() == {1}
        _ = 1 / 0
    assert threads() == before


@pytest.mark.parametrize("width", [4, 9, 13])
def test_captions_keep_the_claim_and_fit(width):
    claim = (
        "Every joint distribution is a product of conditionals, and any order gives the same "
        "product."
    )
    with common.style():
        figure = Figure(figsize=(width, 3))
        common.caption(figure, claim)
        extent = figure._suptitle.get_window_extent()
    assert figure.get_suptitle().replace("\n", " ") == claim
    assert extent.x1 <= figure.bbox.x1


def test_the_machine_is_described():
    found = common.machine()
    assert {"cpu", "cores", "python", "numpy", "blas"} <= found.keys() and all(found.values())


def test_colours_differ_in_grey_or_are_told_apart_by_lines():
    with common.style():
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()
    assert len(set(zip(cycle["linestyle"], cycle["marker"], strict=True))) == len(cycle["color"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, [1.0, np.nan]])
def test_numbers_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="JSON"):
        common.as_json({"bad": np.array(bad)})


# The command


@pytest.mark.parametrize(
    "command", [["figures", "--list"], ["figures.papers", "power"], ["afnp.verify.mutants"]]
)
def test_who_reads_no_further_is_no_error(command):
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141


def test_list_names_every_figure_and_its_claim(capsys):
    assert command.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(line.endswith(".") for line in lines)


def test_an_unknown_name_is_answered_in_one_line(capsys, tmp_path):
    assert command.main(["no_such_figure", "1", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "no_such_figure" in error
        and all(name in error for name in NAMES)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", ["05_sampling_cost", "sampling_cost", "05", "5"])
def test_figures_have_three_names(wanted):
    assert building.find(wanted) == "05_sampling_cost"


def test_writes_pictures_and_numbers_and_the_same_bytes_again(tmp_path, capsys):
    for folder in ("first", "second"):
        assert command.main(["chain_rule", "1", "--quick", "--out", str(tmp_path / folder)]) == 0
    assert "01_chain_rule: " in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == [f"01_chain_rule.{kind}" for kind in ("json", "png", "svg")]
    for kind in ("png", "svg"):
        first, second = (
            (tmp_path / folder / f"01_chain_rule.{kind}").read_bytes()
            for folder in ("first", "second")
        )
        assert first == second
    assert b"dc:date" not in first
    record = json.loads((tmp_path / "first" / "01_chain_rule.json").read_text(encoding="utf-8"))
    assert record["quick"] is True and record["seconds"] > 0 and record["claim"].endswith(".")
    assert {"python", "numpy", "matplotlib"} <= record["versions"].keys()
    assert record["numbers"]["orders"] == 24


def test_a_figure_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def bad(quick):
        raise RuntimeError("a planted failure")

    monkeypatch.setitem(sys.modules, "figures.00_bad", SimpleNamespace(data=bad))
    monkeypatch.setattr(building, "names", lambda: ["00_bad", "01_chain_rule"])
    assert command.main(["--quick", "--jobs", "1", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "a planted failure" in error and "Traceback" in error and "failed: 00_bad" in error
    assert len(list(tmp_path.glob("01_chain_rule.*"))) == 3


def test_builds_side_by_side_from_any_directory(tmp_path):
    """Two processes for what needs none alone; the list ends with where the pictures lie."""
    chosen = ["chain_rule", "kill_matrix", "--quick", "--jobs", "2", "--out", "here"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "figures"), *chosen],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(line.split(":")[0] for line in run.stdout.splitlines()[:2]) == [
        "01_chain_rule",
        "11_kill_matrix",
    ]
    assert run.stdout.splitlines()[-1].endswith(" s: here")
    assert len(list((tmp_path / "here").iterdir())) == 6


def test_each_figure_has_a_number_of_its_own():
    numbers = [name[:2] for name in NAMES]
    assert len(set(numbers)) == len(numbers)


def test_what_measures_time_is_built_alone():
    def timed(name):
        source = (ROOT / "figures" / f"{name}.py").read_text(encoding="utf-8")
        return "median_seconds(" in source

    assert {name for name in NAMES if timed(name)} == {*building.TIMED, *building.ASIDE}
    assert set(building.LONG) <= set(NAMES)
    assert not set(building.TIMED) & set(building.LONG)


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_a_number_of_jobs_that_makes_no_sense_is_answered_in_one_line(jobs, capsys):
    assert command.main(["chain_rule", "--jobs", jobs]) == 2
    error = capsys.readouterr().err
    assert error == f"--jobs: expected a positive number, got {jobs}\n"


# 32: density and samples


def test_samples_fill_the_cells_as_their_own_density_says():
    numbers = quick("32_density_and_samples")["numbers"]
    assert abs(numbers["chi_square_in_standard_deviations"]) < 4 and numbers["cells"] > 100


def test_samples_of_another_density_do_not():
    """A tenth wider, and the chi-square is far away."""
    compared = module("32_density_and_samples")._compared
    flow = afnp.made(2, hidden=(4,))
    wider = SimpleNamespace(
        log_prob=flow.log_prob, sample=lambda n, rng: 1.1 * flow.sample(n, rng=rng)
    )
    right, wrong = (compared(one, 20_000) for one in (flow, wider))
    assert right[0] < right[1] + 4 * (2 * right[1]) ** 0.5
    assert wrong[0] > wrong[1] + 10 * (2 * wrong[1]) ** 0.5


# The gallery in git


def test_every_figure_has_a_small_picture_in_git():
    """``python -m figures && python -m figures --gallery`` makes them."""
    pictures = {path.stem: path for path in thumbnails.GALLERY.glob("*.png")}
    assert sorted(pictures) == NAMES
    for name, path in pictures.items():
        most = thumbnails.FRONT_MOST if name == thumbnails.FRONT else thumbnails.MOST
        assert path.stat().st_size <= most, name


def test_small_pictures_are_made_of_whole_figures_alone(tmp_path, capsys):
    out = tmp_path / "out"
    assert command.main(["chain_rule", "--out", str(out), "--quick"]) == 0
    assert thumbnails.keep(["01_chain_rule", "02_masks"], out, tmp_path) == [
        "01_chain_rule",
        "02_masks",
    ]
    record = out / "01_chain_rule.json"
    record.write_text(record.read_text().replace('"quick": true', '"quick": false'))
    assert thumbnails.keep(["01_chain_rule"], out, tmp_path) == []
    picture = (tmp_path / "01_chain_rule.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) <= thumbnails.MOST
