"""Mutants: every planted defect is killed by the check that is there for it,
and clean flows are left alone."""

import json

import numpy as np
import pytest

import afnp
from afnp.transforms import Standardize
from afnp.verify import CHECKS, check_flow
from afnp.verify.mutants import MUTANTS, check_planted, matrix, mutant, replace
from afnp.verify.mutants import __main__ as command
from afnp.verify.mutants.clean import FLOWS, PLAIN, random_flow, random_functions
from afnp.verify.mutants.styles import STYLES, caught_by

RECORD = matrix.read()
MEASURED = list(RECORD["levels"])
DRAWN, ROUNDED = 2, 1 / 70
"""Mutants that draw at every call, and the part of others that another processor's rounding may let
other checks notice: 1 of 211 did."""
KILLABLE = [name for name, m in MUTANTS.items() if not m.equivalent]


def least_level(planted):
    """The lowest level at which, as the record says, the check that is there for a mutant kills
    it."""
    row = RECORD["mutants"].get(planted.name, {})
    return next((level for level in MEASURED if planted.kills in row.get(level, ())), "full")


# ---- the mutants ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KILLABLE)
def test_the_check_that_is_there_for_it_kills_it(name):
    """Alone too, at the level at which it does among the others."""
    planted = MUTANTS[name]
    options = {"level": least_level(planted), "checks": [planted.kills]}
    result = check_planted(planted.planted(), planted.backends, **options)[planted.kills]
    assert result.status == "failed" and not result.reason.startswith("raised"), result


def test_there_are_enough_of_every_kind():
    assert len(MUTANTS) >= 60
    assert {m.family for m in MUTANTS.values()} == set(FLOWS)
    assert {m.kills for m in MUTANTS.values()} == set(CHECKS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_say_what_is_wrong(name):
    what = MUTANTS[name].what
    assert what.endswith(".") and len(what.split()) > 5
    assert MUTANTS[name].backends in [("numpy",), ("numpy", "numba")]


@pytest.mark.parametrize("family", FLOWS)
def test_the_flows_they_are_planted_in_are_clean(family):
    uncompiled = family in ("attention", *PLAIN)
    backends = ("numpy",) if uncompiled else ("numpy", "numba")
    report = check_planted(FLOWS[family](), backends, level="quick")
    assert report.ok, f"\n{report}"
    assert not any(caught_by(style, FLOWS[family]()) for style in STYLES)


def test_planting_leaves_no_trace_in_the_next_flow():
    x = np.random.default_rng(0).standard_normal((4, 2))
    clean = FLOWS["spline"]().log_prob(x)
    for name, m in MUTANTS.items():
        if m.family == "spline":
            m.planted()
            assert np.array_equal(FLOWS["spline"]().log_prob(x), clean), name


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="one_pass_short"):
        mutant("affine", kills="round_trip")(MUTANTS["one_pass_short"].apply)


def test_replacing_hands_the_original_on():
    flow = FLOWS["affine"]()
    layer, x = flow.layers[0], np.ones((2, 3))
    before = flow.log_prob(x, np.zeros((2, 1)))
    replace(layer, "normalize")(lambda normalize, *arguments: normalize(*arguments))
    assert np.array_equal(flow.log_prob(x, np.zeros((2, 1))), before)


# ---- the stored measurements ---------------------------------------------------------------------


def test_the_record_is_of_these_mutants_and_its_scores_are_its_rows():
    assert list(RECORD["mutants"]) == list(MUTANTS)
    assert MEASURED == ["quick", "full"]
    for kind, names in (("levels", MEASURED), ("styles", STYLES)):
        assert list(RECORD[kind]) == list(names)
        for name, score in RECORD[kind].items():
            rows = [RECORD["mutants"][m] for m in KILLABLE]
            hits = [row[name] if kind == "levels" else name in row["styles"] for row in rows]
            assert (score["killed"], score["of"]) == (sum(map(bool, hits)), len(KILLABLE))


@pytest.mark.parametrize("level", MEASURED[1:])
def test_the_record_has_no_survivor_without_a_reason(level):
    assert all(matrix.survivors(RECORD, level).values()), matrix.survivors(RECORD, level)


def test_the_check_that_is_there_for_it_is_in_the_record():
    assert [
        name for name in KILLABLE if MUTANTS[name].kills not in RECORD["mutants"][name]["full"]
    ] == []


def test_a_higher_level_kills_what_a_lower_one_kills():
    for name, row in RECORD["mutants"].items():
        killed = [bool(row[level]) for level in MEASURED]
        assert killed == sorted(killed), name


def test_equivalent_mutants_are_killed_by_nothing():
    for name, m in MUTANTS.items():
        if m.equivalent:
            assert not any(RECORD["mutants"][name][level] for level in MEASURED), name


def test_usual_tests_kill_fewer():
    killed = [RECORD["styles"][style]["killed"] for style in STYLES]
    assert (
        killed[0]
        < killed[1]
        < RECORD["levels"]["quick"]["killed"]
        <= RECORD["levels"]["full"]["killed"]
    )


def test_clean_flows_raise_no_alarm_at_the_full_level():
    count = RECORD["false_alarms"]
    assert count["flows"] >= 200 and count["level"] == "full"
    assert len(count["failed"]) == count["alarms"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("level", "every"), [("quick", 1), ("full", 5)])
def test_the_record_is_what_a_run_gives(level, every):
    """All mutants at the lowest level, every fifth at the next: ``--matrix`` runs all at all.

    The check that is there for a mutant answers as recorded. Few may be noticed by more or fewer
    others: those that draw at every call, and those at which another processor rounds otherwise.
    """
    looked_at, others = list(MUTANTS.items())[::every], []
    for name, planted in looked_at:
        failed, row = matrix.failed_checks(planted, level), RECORD["mutants"][name]
        assert (planted.kills in failed) == (planted.kills in row[level]), name
        styles = [s for s in STYLES if caught_by(s, planted.planted(), planted.backends[-1])]
        if sorted(failed) != sorted(row[level]) or styles != row["styles"]:
            others.append(name)
    assert len(others) <= DRAWN + ROUNDED * len(looked_at), others


# ---- false alarms --------------------------------------------------------------------------------


def test_random_clean_flows_are_of_every_kind_and_repeatable():
    flows = [random_flow(seed) for seed in range(60)]
    assert {flow.features for flow in flows} == set(range(1, 9))
    assert {flow.dtype.name for flow in flows} == {"float32", "float64"}
    assert {flow.context > 0 for flow in flows} == {True, False}
    layers = [layer for flow in flows for layer in flow.layers]
    assert {type(layer).__name__ for layer in layers} >= {"Autoregressive", "Inverse", "Coupling"}
    networks = {type(layer.conditioner).__name__ for layer in layers}
    assert networks >= {"MaskedMLP", "MLP", "CausalTransformer", "CausalConv"}
    assert len({type(layer) for layer in layers}) >= 7
    assert max(layer.mean.max() for layer in layers if isinstance(layer, Standardize)) > 1e6
    assert max(flow.context_scale[0].max() for flow in flows if flow.context_scale) > 1e6
    again = random_flow(7)
    assert again.config() == flows[7].config() and np.array_equal(again.theta, flows[7].theta)


@pytest.mark.parametrize("seed", range(3))
def test_random_clean_functions_pass(seed):
    """Context, none, and data in units of their own: each in its turn."""
    functions = random_functions(seed)
    report = check_flow(**functions, level="quick", seed=seed)
    assert report.ok, f"\n{report}"
    assert set(report.not_run) <= {
        *("dependency", "connectivity", "triangular", "gradients", "staleness", "agreement"),
        *("noise", "normalisation", "monotone"),
    }


def test_derivatives_by_differences_are_taken_in_the_units_of_the_data():
    """A flow of data of width 1e-6: steps of 6e-6 would see nothing of it."""
    functions = random_functions(3)
    x = functions["generate"](np.random.default_rng(0).standard_normal((64, 2)))[0]
    assert x.std() < 1e-5
    assert check_flow(**functions, level="quick", seed=3, checks=["log_det"]).ok


def test_a_flow_whose_jacobian_is_singular_but_for_rounding_is_no_alarm():
    """Far out, two products of slopes agree to 16 digits, and their difference is rounding's."""
    flow, options = random_flow(30278), {"level": "full", "seed": 30278, "checks": ["log_det"]}
    flow.standardize_context([[-1.0, -1.0], [1.0, 1.0]])  # mean 0, std 1: as it was found
    assert check_flow(flow, parameters="random", **options).ok


@pytest.mark.parametrize("seed", range(3))
def test_a_random_clean_flow_passes(seed):
    report = check_flow(random_flow(seed), level="quick", seed=seed)
    assert report.ok, f"\n{report}"


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Count alarms in a record of our own, on flows of which seed 2 is wrong."""
    asked = []

    def flow_of(seed):
        asked.append(seed)
        flow = afnp.maf(2, hidden=(4,), transforms=1)
        if seed == 2:
            MUTANTS["inverse_log_det_of_the_wrong_sign"].apply(flow)
        return flow

    monkeypatch.setattr(matrix, "random_flow", flow_of)
    path = tmp_path / "record.json"
    return (
        lambda flows, **more: matrix.alarms(
            flows, level="quick", path=path, progress=False, **more
        ),
        asked,
        path,
    )


def test_false_alarms_are_counted_and_named(counted):
    count, _, path = counted
    found = count(4)
    assert (found["flows"], found["alarms"], list(found["failed"])) == (4, 1, ["2"])
    assert "antisymmetry" in found["failed"]["2"]
    assert matrix.read(path)["false_alarms"] == found


def test_plain_functions_are_counted_apart(counted):
    count, asked, path = counted
    found = count(1, plain=True)
    assert (found["flows"], found["alarms"]) == (1, 0) and asked == []
    assert matrix.read(path)["plain_alarms"] == found and not matrix.read(path)["false_alarms"]


def test_a_longer_count_takes_up_where_a_shorter_one_ended(counted):
    count, asked, _ = counted
    count(2)
    assert count(3)["flows"] == 3 and asked == [0, 1, 2]
    assert count(4)["alarms"] == 1 and asked == [0, 1, 2, 2, 3]  # what was wrong is looked at again
    assert count(2, seed=1)["alarms"] == 1 and asked == [0, 1, 2, 2, 3, 1, 2]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_measures_and_prints(tmp_path, monkeypatch, capsys):
    two = {name: MUTANTS[name] for name in ("log_det_halved", "log_prob_changes_parameters")}
    for module in (matrix, command):
        monkeypatch.setattr(module, "MUTANTS", two)
    path = tmp_path / "record.json"
    assert command.main(["--matrix", "--levels", "quick", "--path", str(path)]) == 0
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["levels"]["quick"]["killed"] == record["levels"]["quick"]["of"] == 2
    assert "log_det" in record["mutants"]["log_det_halved"]["quick"]
    assert "kills 2 of 2 mutants" in capsys.readouterr().out


def test_the_command_keeps_other_levels_and_the_alarms(tmp_path, monkeypatch):
    one = {"log_det_halved": MUTANTS["log_det_halved"]}
    for module in (matrix, command):
        monkeypatch.setattr(module, "MUTANTS", one)
    path, kept = (
        tmp_path / "record.json",
        {"flows": 5, "alarms": 0, "level": "full", "seconds": 1.0, "failed": {}},
    )
    row = {"theme": "log_dets", "styles": [], "full": ["log_det"]}
    old = {
        "levels": {"full": {"killed": 1, "of": 1}},
        "styles": {},
        "mutants": {"log_det_halved": row},
    }
    matrix.write({**old, "false_alarms": kept}, path)
    command.main(["--matrix", "--levels", "quick", "--path", str(path)])
    record = matrix.read(path)
    assert list(record["levels"]) == ["quick", "full"] and record["false_alarms"] == kept
    assert record["mutants"]["log_det_halved"]["full"] == ["log_det"]


def test_a_survivor_and_a_false_alarm_make_the_command_fail(capsys):
    survivor = {"levels": {"full": {"killed": 0, "of": 1}}, "styles": {}, "false_alarms": {}}
    assert command.show({**survivor, "mutants": {"log_det_halved": {"full": []}}}) == 1
    assert "log_det_halved survives full" in capsys.readouterr().out
    alarm = {
        "flows": 2,
        "alarms": 1,
        "level": "full",
        "seconds": 1.0,
        "failed": {"1": ["round_trip"]},
    }
    assert command.show({"levels": {}, "styles": {}, "mutants": {}, "false_alarms": alarm}) == 1
    assert "seed 1: round_trip" in capsys.readouterr().out


def test_a_failed_write_leaves_the_old_record(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    matrix.write(matrix.read(path), path)
    before = path.read_bytes()

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(matrix.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        matrix.write({"mutants": {}}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
