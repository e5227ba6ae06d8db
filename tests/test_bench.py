"""The benchmark: what it proves, how it asks, and what it says when something is missing,
breaks or hangs."""

import json
import os
import re
from contextlib import closing
from functools import partial

import numpy as np
import pytest

from afnp import constructors
from afnp.constructors import maf, nsf
from afnp.univariate.rational_quadratic import RationalQuadratic
from figures import bench
from figures.bench import command, proof, report, splines
from figures.bench.asking import (
    Failure,
    Missing,
    Worker,
    clean_environment,
    dropped_variables,
    measure,
)
from figures.bench.configurations import CONFIGURATIONS, QUICK, Configuration, Operation
from figures.bench.libraries import LIBRARIES, PEERS
from figures.bench.worker import COMMANDS, Session, answer

TINY = Configuration("tiny", features=2, hidden=8, samples=(10, 100))
"""Small enough for plain NumPy: nothing is compiled."""

BENT = Configuration("bent", features=3, hidden=8, transforms=2, bins=4)
"""Splines, small enough as well."""

BREAKS = 'import os, sys\nprint("out of luck", file=sys.stderr, flush=True)\nos._exit(7)\n'
HANGS = "import time\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def without_peers(tmp_path_factory):
    """A folder of modules that take the place of the peers: one breaks, one hangs,
    the others are missing."""
    folder = tmp_path_factory.mktemp("modules")
    for name in PEERS:
        (folder / f"{name}.py").write_text(
            f"raise ModuleNotFoundError('no {name}', name={name!r})\n"
        )
    (folder / "equinox.py").write_text("raise ModuleNotFoundError('no equinox', name='equinox')\n")
    (folder / "nflows.py").write_text(BREAKS)
    (folder / "normflows.py").write_text(HANGS)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, without_peers):
    """A quick run with afnp, a peer that is missing and one that breaks: exit code, Markdown,
    JSON."""
    out = tmp_path_factory.mktemp("out") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(without_peers))
        patch.setenv("OPENBLAS_CORETYPE", "Haswell")
        patch.setitem(CONFIGURATIONS, "tiny", TINY)
        machine = [Operation("matmul", 64), Operation("copy", 1000), Operation("read", 1000)]
        patch.setattr(command, "MACHINE", machine)
        arguments = [
            "--quick",
            "--quiet",
            "--configs",
            "tiny",
            "--libraries",
            "afnp,zuko,nflows",
            "--out",
            str(out),
        ]
        code = bench.main(arguments)
        with pytest.raises(SystemExit):
            bench.main(arguments)
    text = (out / "bench.md").read_text(encoding="utf-8")
    return code, text, json.loads((out / "bench.json").read_text(encoding="utf-8"))


# The whole


def test_everything_is_measured(run):
    _, _, result = run
    found = result["configurations"]["tiny"]
    assert list(found["seconds"]) == list(found["proofs"]) == list(found["peak_memory"]) == ["afnp"]
    assert (
        list(found["seconds"]["afnp"]) == found["operations"] == [o.name for o in TINY.operations]
    )
    for summary in found["seconds"]["afnp"].values():
        assert 0 < summary["minimum"] <= summary["median"] and summary["calls"] >= 1
    assert (
        found["first_result"]["afnp"] > found["start"]["afnp"]["import"] > 0
        and found["peak_memory"]["afnp"] > 20
    )
    assert found["others"] is None or found["others"] >= 0
    assert found["machine_gflops"] > 0 and found["machine_gbytes"] > 0
    assert found["machine_read_gbytes"] > 0
    assert set(found["useful_gflops"]["afnp"]) == {
        "log_prob 1000",
        "log_prob 10",
        "log_prob 100",
        "sample 10",
        "sample 100",
    }


def test_an_interruption_keeps_what_was_measured(monkeypatch, tmp_path, capsys):
    asked = []

    def interrupted(workers, operation, *others):
        asked.append(operation.name)
        if operation.name == "sample 10":
            raise KeyboardInterrupt
        return measure(workers, operation, *others)

    monkeypatch.setitem(CONFIGURATIONS, "tiny", TINY)
    monkeypatch.setattr(command, "MACHINE", [])
    monkeypatch.setattr(command, "measure", interrupted)
    assert (
        bench.main(
            [
                "--quick",
                "--quiet",
                "--configs",
                "tiny",
                "--libraries",
                "afnp",
                "--out",
                str(tmp_path),
            ]
        )
        == 130
    )
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["configurations"][
        "tiny"
    ]
    assert list(found["seconds"]["afnp"]) == asked[:-1] == ["log_prob 1000", "log_prob 10"]
    assert "interrupted" in capsys.readouterr().err


def test_useful_work_is_the_sum_of_prefixes(run):
    found = run[2]["configurations"]["tiny"]
    flow = maf(2, hidden=(8, 8), transforms=5)
    ones = sum(
        int(linear.prefix.sum()) for layer in flow.layers for linear in layer.conditioner.linears
    )
    assert found["proofs"]["afnp"]["connections"] == ones
    rate = 2 * ones * 10 / found["seconds"]["afnp"]["sample 10"]["median"] / 1e9
    assert found["useful_gflops"]["afnp"]["sample 10"] == pytest.approx(rate)


def test_what_is_missing_or_breaks_is_named(run):
    code, text, result = run
    assert result["missing"] == {"zuko": "zuko"}
    assert "zuko: not measured, module zuko is not installed" in text
    reason = result["configurations"]["tiny"]["failed"]["nflows"]
    assert reason == "setup: the process ended, exit code 7: out of luck"
    assert f"nflows failed: {reason}" in text
    assert code == 1


def test_the_environment_is_clean_and_stated(run, monkeypatch):
    assert "OPENBLAS_CORETYPE" in run[2]["dropped_variables"] and "OPENBLAS_CORETYPE" in run[1]
    products = run[2]["libraries"]["afnp"]["products"]
    assert "threadpoolctl" in products[0] or "kernel" in products[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" in dropped_variables() and "OMP_NUM_THREADS" not in clean_environment()


def test_markdown_tables_are_well_formed(run):
    for block in re.findall(r"(?:^\|.*\n)+", run[1], flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
        assert re.fullmatch(r"\| :-- (\| --: )+\|", block.splitlines()[1])
    assert run[1].count("\n## ") == 3


def test_json_holds_no_nan(run):
    json.dumps(run[2], allow_nan=False)


@pytest.mark.parametrize(
    "arguments",
    [["--configs", "huge"], ["--libraries", "pyro"], ["--configs", ","], ["--threads", "-1"]],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench.main(arguments)
    assert exit_.value.code == 2 and "expected" in capsys.readouterr().err


# Sizes


@pytest.mark.parametrize(
    "name", ["toy", "power", "miniboone", "galaxies-spline", "miniboone-spline"]
)
def test_parameters_are_counted_by_the_formula(name):
    c = CONFIGURATIONS[name]
    of, options = (nsf, {"bins": c.bins}) if c.bins else (maf, {})
    assert (
        of(c.features, (c.hidden,) * 2, c.transforms, dtype=np.float32, **options).theta.size
        == c.parameters
    )


@pytest.mark.parametrize("name", ["toy", "mnist"])
def test_small_calls_and_training_steps_are_among_the_operations_once(name):
    names = [operation.name for operation in CONFIGURATIONS[name].operations]
    assert len(names) == len(set(names))
    assert {f"{kind} {n}" for kind in ("log_prob", "sample") for n in (1, 10, 100)} <= set(names)
    assert {"train 32", "train 100", "train 1000"} <= set(names)


def test_a_floor_is_told_beside_each_training_step(run):
    """Three products at the measured rate, 28 bytes a parameter at the copy's, over the median."""
    _, text, result = run
    found = result["configurations"]["tiny"]
    ones = found["proofs"]["afnp"]["connections"]
    P = found["parameters"]
    for n in (32, 100, 1000):
        products = 6 * n * ones / found["machine_gflops"]
        floor = 1e-9 * (products + 28 * P / found["machine_gbytes"])
        share = floor / found["seconds"]["afnp"][f"train {n}"]["median"]
        assert re.search(rf"^\| train {n} \|.* \| {share:.0%} \|$", text, flags=re.MULTILINE)


def test_without_a_machine_there_is_no_floor():
    assert report.training_floor({"proofs": {}, "parameters": 1, "machine_gflops": 1.0}, 1) is None


def test_a_few_samples_come_before_many():
    names = [operation.name for operation in CONFIGURATIONS["mnist"].operations]
    assert names.index("sample 100") < names.index("sample 1000") and "log_prob 100" in names


# The worker


def test_requests_that_make_no_sense_are_answered(capfd):
    session = Session(LIBRARIES["afnp"]())
    assert "expected one of" in answer(session, {"do": "dance"})["error"]
    assert "TypeError" in answer(session, {"do": "setup", "colour": 1})["error"]
    assert "setup" not in answer(
        session, {"do": "setup", "features": 2, "hidden": 8, "transforms": 1}
    )
    assert (
        "ValueError: kind" in answer(session, {"do": "time", "kind": "dance", "rows": 1})["error"]
    )


def test_a_result_that_is_not_finite_is_an_error(capfd):
    session = Session(LIBRARIES["afnp"]())
    session.setup(2, 8, 1)
    session.library.log_prob = lambda x: np.full(len(x), np.nan)
    assert (
        "not finite"
        in answer(session, {"do": "time", "kind": "log_prob", "rows": 3, "check": True})["error"]
    )
    assert (
        len(answer(session, {"do": "time", "kind": "log_prob", "rows": 3, "calls": 2})["seconds"])
        == 2
    )


def test_a_worker_brings_nothing_along(tmp_path):
    """Before a peer is imported, its process knows neither NumPy nor afnp."""
    asks = (
        "import sys\nfound = [m for m in ('afnp', 'numpy', 'threadpoolctl') if m in sys.modules]\n"
    )
    (tmp_path / "zuko.py").write_text(
        asks + "raise ModuleNotFoundError('', name=f'with {found}')\n"
    )
    with pytest.raises(Missing, match=re.escape("with []")):
        Worker("zuko", environment_with(tmp_path)).ask("setup", **TINY.request())


def environment_with(folder):
    """A worker's environment in which the folder's modules come first."""
    return clean_environment(
        PYTHONPATH=os.pathsep.join([str(folder), clean_environment()["PYTHONPATH"]])
    )


def test_a_worker_that_hangs_is_given_up(without_peers):
    environment = environment_with(without_peers)
    worker = Worker("normflows", environment, timeout=1.0)
    with pytest.raises(Failure, match="setup: no answer within 1 seconds"):
        worker.ask("setup", **TINY.request())
    assert worker.process.returncode is not None
    with pytest.raises(Missing, match="equinox"):
        Worker("flowjax", environment).ask("setup", **TINY.request())


# Asking in turn


class Scripted:
    """A worker that says how long it took."""

    def __init__(self, name, seconds, log, fails_at=None):
        self.name, self.seconds, self.log, self.fails_at = name, seconds, log, fails_at

    def ask(self, do, calls=1, **arguments):
        self.log.append(self.name)
        if len([name for name in self.log if name == self.name]) == self.fails_at:
            raise Failure("broken")
        return {"seconds": [self.seconds] * calls}


HASTE = QUICK._replace(pause=0.0, rounds=3)


def test_libraries_are_asked_in_turn_and_short_calls_more_often():
    log = []
    workers = {"a": Scripted("a", 1.0, log), "b": Scripted("b", 0.002, log)}
    times = measure(workers, Operation("sample", 1), HASTE, failed=None)
    assert log == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert times["a"] == {"first": 1.0, "median": 1.0, "minimum": 1.0, "calls": 3}
    assert times["b"]["calls"] == 15


def test_the_slow_get_fewer_turns_and_the_broken_none():
    log = []
    reasons = {}
    workers = {
        "a": Scripted("a", 1.0, log),
        "b": Scripted("b", 1.0, log, fails_at=3),
        "c": Scripted("c", 1.0, log),
    }
    effort = HASTE._replace(seconds=-1.0)
    times = measure(workers, Operation("sample", 1), effort, reasons.__setitem__, unhurried=["c"])
    assert times["a"]["calls"] == 1 and "c" not in log
    measure(workers, Operation("sample", 1), HASTE, reasons.__setitem__)
    assert reasons == {"b": "broken"} and set(workers) == {"a", "c"}


# The proof


def shown(tmp_path, library, configuration):
    """What a library writes to be checked, as a dict of arrays; and its parameter count."""
    session = Session(LIBRARIES[library]())
    session.setup(**configuration.request())
    path = session.prove(str(tmp_path / "shown.npz"), rows=proof.ROWS)["path"]
    with np.load(path) as arrays:
        return dict(arrays), session.library.parameters


def check(tmp_path, arrays, parameters, name="afnp", configuration=TINY):
    np.savez(tmp_path / "changed.npz", **arrays)
    return proof.prove(name, configuration, parameters, tmp_path / "changed.npz")


def test_the_proof_accepts_afnp(tmp_path):
    found = check(tmp_path, *shown(tmp_path, "afnp", TINY))
    assert found.own_degrees and max(found.raw_error, found.log_prob_error, found.afnp_error) < 1e-6


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a["0_raw"].__iadd__(0.01), "raw_error"),
        (lambda a: a["0_W1"].__imul__(1.001), "raw_error"),
        (lambda a: a["4_b2"].__iadd__(0.01), "raw_error"),
        (lambda a: a["log_prob"].__iadd__(0.01), "log_prob_error"),
        (lambda a: a["1_before"].sort(), "log_prob_error"),
        (lambda a: a["2_mask2"].fill(True), "staircase|raw_error"),
        (lambda a: a.pop("4_raw"), "transforms: expected 5, got 4"),
        (lambda a: a.update({"3_W1": a["3_W1"][:4]}), "weights"),
        (lambda a: a["x"].fill(np.nan), "nan"),
    ],
)
def test_the_proof_refuses_what_differs(tmp_path, change, message):
    arrays, parameters = shown(tmp_path, "afnp", TINY)
    for k in range(5):
        arrays[f"{k}_W2"] += np.where(arrays[f"{k}_mask2"], 0.5, 0.0).astype(np.float32)
    arrays = consistent(arrays)
    check(tmp_path, arrays, parameters)
    change(arrays)
    with pytest.raises(proof.NotTheSame, match=message):
        check(tmp_path, arrays, parameters)


def consistent(arrays):
    """The same file after its weights were changed."""
    for k in range(5):
        W, mask, b = ([arrays[f"{k}_{part}{l}"] for l in range(3)] for part in ("W", "mask", "b"))
        network = proof.Network(
            arrays[f"{k}_before"], arrays[f"{k}_after"], W, mask, b, arrays[f"{k}_raw"]
        )
        arrays[f"{k}_raw"] = proof.plain_network(network, arrays["x"])
    return arrays | {"log_prob": log_prob_of(arrays)}


def log_prob_of(arrays):
    flow = maf(2, hidden=(8, 8), transforms=5)
    flow.theta = np.concatenate(
        [arrays[f"{k}_{n}{l}"].ravel() for k in range(5) for l in range(3) for n in "Wb"]
    )
    return flow.log_prob(arrays["x"])


def test_the_proof_refuses_another_count(tmp_path):
    arrays, parameters = shown(tmp_path, "afnp", TINY)
    with pytest.raises(proof.NotTheSame, match="parameters: expected 660, got 661"):
        check(tmp_path, arrays, parameters + 1)


def cyclic(rng, D, H, reverse):
    """A network with degrees dealt in turn, as the peers have them."""
    inputs = np.arange(D)[::-1] if reverse else np.arange(D)
    hidden = np.arange(H) % (D - 1)
    degrees = [inputs, hidden, hidden, np.repeat(inputs, 2)]
    mask = [
        rows[:, None] > columns if l == 2 else rows[:, None] >= columns
        for l, (columns, rows) in enumerate(zip(degrees[:-1], degrees[1:], strict=True))
    ]
    W = [rng.standard_normal(m.shape) for m in mask]
    b = [rng.standard_normal(len(m)) for m in mask]
    return proof.Network(np.arange(D), np.arange(D), W, mask, b, np.empty(0))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("D, H, own", [(2, 5, True), (4, 6, True), (5, 10, False), (7, 20, False)])
def test_cyclic_degrees_sort_into_afnp(D, H, own, reverse):
    rng = np.random.default_rng([D, reverse])
    network = cyclic(rng, D, H, reverse)
    x = rng.standard_normal((9, D))
    got, as_its_own = proof.afnp_raw(network, x)
    assert as_its_own == own
    np.testing.assert_allclose(got, proof.plain_network(network, x), rtol=1e-12, atol=1e-12)


def test_a_mask_that_is_no_staircase_is_refused():
    rng = np.random.default_rng(0)
    network = cyclic(rng, 5, 12, reverse=False)
    network.mask[1][3, np.flatnonzero(network.mask[1][3])[0]] = False
    with pytest.raises(proof.NotTheSame, match="layer 1"):
        proof.in_afnp(network)


# The proof of splines


def test_the_proof_accepts_afnps_splines(tmp_path):
    arrays, parameters = shown(tmp_path, "afnp", BENT)
    found = check(tmp_path, arrays, parameters, configuration=BENT)
    assert found.parameters == 2 * (4 * 8 + 9 * 8 + 9 * 11 * 3) and found.own_degrees
    assert max(found.raw_error, found.log_prob_error, found.afnp_error) < 1e-6
    assert 0.02 < (np.abs(arrays["x"]) > splines.BOUND).mean() < 0.3


@pytest.mark.parametrize(
    "options",
    [
        {"bound": 4.99},
        {"bound": 5.01},
        {"min_slope": 0.01},
        {"min_width": 0.01},
        {"min_height": 0.01},
    ],
    ids=str,
)
def test_the_proof_refuses_other_splines(options, tmp_path, monkeypatch):
    monkeypatch.setattr(constructors, "nsf", partial(nsf, options=options))
    with pytest.raises(proof.NotTheSame, match="log_prob_error"):
        check(tmp_path, *shown(tmp_path, "afnp", BENT), configuration=BENT)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a["1_raw"].__iadd__(0.01), "raw_error"),
        (lambda a: a["0_W1"].__imul__(1.01), "raw_error"),
        (lambda a: a["log_prob"].__iadd__(0.01), "log_prob_error"),
        (lambda a: a.update({"0_W2": a["0_W2"][3:]}), "weights"),
    ],
)
def test_the_proof_refuses_what_differs_in_splines(tmp_path, change, message):
    arrays, parameters = shown(tmp_path, "afnp", BENT)
    change(arrays)
    with pytest.raises(proof.NotTheSame, match=message):
        check(tmp_path, arrays, parameters, configuration=BENT)


@pytest.mark.parametrize("name", ["zuko", "nflows", "flowjax"])
def test_a_library_is_held_to_its_own_splines(name, tmp_path):
    """afnp's numbers under another library's name: knots, or their count, must be that one's."""
    arrays, parameters = shown(tmp_path, "afnp", BENT)
    with pytest.raises(
        proof.NotTheSame, match="parameters" if name == "flowjax" else "log_prob_error"
    ):
        check(tmp_path, arrays, parameters, name, BENT)


def test_the_plain_curve_is_monotone_and_has_its_slope():
    rng = np.random.default_rng(0)
    for name, reading in splines.SPLINES.items():
        univariate = proof.univariate_of(name, 5)
        h = rng.standard_normal((1, reading.numbers(5)))
        x = np.linspace(-5.5, 5.5, 1101) + 1e-3  # no point on a knot at the ends
        u, log_slope = univariate(np.repeat(h, len(x), axis=0), x)
        ahead, behind = (
            univariate(np.repeat(h, len(x), axis=0), x + step)[0] for step in (1e-5, -1e-5)
        )
        assert (np.diff(u) > 0).all()
        np.testing.assert_allclose((ahead - behind) / 2e-5, np.exp(log_slope), rtol=1e-3)
        outside = np.abs(x) > 5
        assert (u[outside] == x[outside]).all() and outside.sum() > 90


def test_the_plain_curve_is_afnps():
    rng = np.random.default_rng(1)
    x = 3 * rng.standard_normal(500)
    h = 2 * rng.standard_normal((500, 23))
    expected = RationalQuadratic(bins=8, bound=5.0).normalize(h, x)[:2]
    np.testing.assert_allclose(
        proof.univariate_of("afnp", 8)(h, x), expected, rtol=1e-10, atol=1e-10
    )


# The report


def test_the_report_names_splines(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CONFIGURATIONS, "bent", BENT)
    monkeypatch.setitem(CONFIGURATIONS, "tiny", TINY)
    monkeypatch.setattr(command, "MACHINE", [])
    monkeypatch.setattr(Configuration, "operations", [Operation("log_prob", 10)])
    assert bench.main(["--quick", "--quiet", "--configs", "bent,tiny", "--libraries", "afnp"]) == 0
    text = capsys.readouterr().out
    assert "## bent: splines of 4 bins on [-5, 5], D = 3, H = 8, T = 2, 802 parameters" in text
    assert "## tiny: affine, D = 2" in text and "Splines: nsf(bins=K, bound=5)" in text


def test_ratios_compare_with_the_fastest_other():
    def of(seconds):
        return {"log_prob 1000": {"median": seconds}}

    found = {"seconds": {"afnp": of(2.0), "zuko": of(9.0), "flowjax": of(3.0)}}
    assert report.ratios(found) == {"log_prob 1000": (1.5, "flowjax")}
    assert report.ratios({"seconds": {"zuko": of(9.0)}}) == {}


def test_alternating_is_compared_with_its_parts():
    times = {
        name: {"median": 1.0}
        for name in ("log_prob 1000", "train 100", "sample 10", "alternating 10")
    }
    assert report.alternating_ratio(times) == pytest.approx(1 / 3)
    del times["train 100"]
    assert report.alternating_ratio(times) is None


# The peers, where they are installed


@pytest.mark.slow
@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize(
    "configuration",
    [Configuration("d2", 2, 7), Configuration("d5", 5, 12), BENT._replace(features=5), BENT],
    ids=lambda c: f"{c.name}-{c.features}",
)
def test_a_peer_is_the_same_flow(library, configuration, tmp_path):
    pytest.importorskip(library)
    with closing(Worker(library, clean_environment())) as worker:
        parameters = worker.ask("setup", **configuration.request())["parameters"]
        path = worker.ask("prove", path=str(tmp_path / "shown.npz"), rows=proof.ROWS)["path"]
        found = proof.prove(library, configuration, parameters, path)
        assert max(found.raw_error, found.log_prob_error, found.afnp_error) < 1e-5
        for operation in configuration.operations:
            reply = worker.ask(
                "time", kind=operation.kind, rows=min(operation.rows, 50), check=True
            )
            assert reply["seconds"][0] > 0
        assert set(worker.ask("about")) == {"version", "threads", "products"}


@pytest.mark.slow
def test_normflows_needs_setting_right(monkeypatch, tmp_path):
    """As it comes, it lacks an activation: the proof must say so."""
    nn = pytest.importorskip("normflows") and pytest.importorskip("torch").nn
    configuration = Configuration("d3", 3, 8)
    monkeypatch.setattr(nn, "ReLU", nn.Identity)
    with pytest.raises(proof.NotTheSame, match="raw_error"):
        check(tmp_path, *shown(tmp_path, "normflows", configuration), "normflows", configuration)


def test_the_commands_of_a_worker_exist():
    assert all(callable(getattr(Session, name)) for name in COMMANDS)
