"""The command line: what it writes can be read back, and what it refuses,
it refuses in one line."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import afnp
from afnp import constructors, data, rows
from afnp.cli import FAMILIES, command_line, main
from afnp.transforms.preprocess import mean_and_std
from afnp.verify import Report, Result

linux = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is Linux's")
FAST = ["--transforms", "2", "--hidden", "8", "--epochs", "3", "--quiet"]


def gaussian(n=200, seed=0):
    """Rows (n, 2) of a tilted Gaussian, far from the origin."""
    z = np.random.default_rng(seed).standard_normal((n, 2))
    return z @ np.array([[2.0, 0.0], [1.0, 0.5]]).T + np.array([10.0, -3.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with rows in each format, and a model fitted to them."""
    path = tmp_path_factory.mktemp("cli")
    x = gaussian()
    np.save(path / "x.npy", x)
    np.savez(path / "x.npz", x=x)
    np.savez(path / "two.npz", first=x, second=x[:20])
    np.savetxt(path / "x.csv", x, delimiter=",", fmt="%.17g", header="a,b", comments="")
    np.save(path / "wide.npy", np.ones((20, 3)))
    assert main(["fit", str(path / "x.npy"), "-o", str(path / "m.afnp"), *FAST]) == 0
    afnp.save(afnp.made(2, hidden=(4,), context=3), path / "conditional.afnp")
    return path


@pytest.fixture
def cli(folder, tmp_path, capsys, monkeypatch):
    """Run a command in a fresh folder, with {} standing for the shared one; return code, stdout,
    stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        capsys.readouterr()
        try:
            code = main([str(a).replace("{}", str(folder)) for a in args])
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return run


def process(*args, **options):
    """The same as a process of its own."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, "-m", "afnp", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


# ---- fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv"])
def test_fit_reads_every_format_alike(cli, folder, name):
    code, out, err = cli("fit", f"{{}}/{name}", "-o", "again.afnp", *FAST)
    assert (code, err) == (0, "")
    assert "160 + 20 + 20 rows" in out
    assert np.array_equal(afnp.load("again.afnp").theta, afnp.load(folder / "m.afnp").theta)


def test_fit_is_what_the_api_does(cli, folder):
    """The split is a permutation by the seed, and the rest is preprocessing, maf and fit."""
    x, rows = gaussian(), np.random.default_rng(4).permutation(200)
    flow = afnp.maf(2, (8,), 2, "random", seed=4, preprocess=afnp.preprocessing(x[rows[:160]]))
    afnp.fit(
        flow,
        x[rows[:160]],
        x[rows[160:180]],
        epochs=3,
        batch_size=32,
        learning_rate=0.01,
        seed=4,
        progress=False,
    )
    options = ["--seed", 4, "--order", "random", "--batch-size", 32, "--learning-rate", "1e-2"]
    _, out, _ = cli("fit", "{}/x.npy", "-o", "m.afnp", *FAST, *options)
    loaded = afnp.load("m.afnp")
    assert np.array_equal(loaded.theta, flow.theta) and loaded.config() == flow.config()
    log_prob = flow.log_prob(x[rows[180:]])
    error = log_prob.std(ddof=1) / np.sqrt(20)
    assert f"test log-likelihood: {log_prob.mean():.4f} +/- {error:.4f} nats\n" in out


def test_fit_a_set_uses_its_own_split(cli):
    code, out, _ = cli("fit", "old_faithful", "-o", "m.afnp", *FAST, "--seed", 3)
    test = data.load("old_faithful").test
    assert code == 0 and "192 + 40 + 40 rows" in out
    assert f"{afnp.load('m.afnp').log_prob(test).mean():.4f} +/-" in out
    _, score, _ = cli("score", "m.afnp", "old_faithful")
    assert (
        re.search("test log-likelihood: (.*)", out)[1]
        == re.search("log-likelihood: (.*)", score)[1]
    )


def test_fit_images_reports_bits_per_dimension(cli):
    pytest.importorskip("sklearn", reason="NOT TESTED: pip install scikit-learn")
    code, out, err = cli(
        "fit",
        "digits",
        "-o",
        "m.afnp",
        *FAST,
        "--epochs",
        1,
        "--dtype",
        "float32",
        "--hidden",
        "16,16",
    )
    flow = afnp.load("m.afnp")
    assert code == 0 and flow.dtype == np.float32
    assert [type(layer).__name__ for layer in flow.layers[:3]] == [
        "Dequantize",
        "Logit",
        "Standardize",
    ]
    nats = flow.log_prob(data.load("digits").test).mean(dtype=np.float64)
    assert f"{-nats / 64 / np.log(2):.4f} bits/dim" in out
    warned = [line for line in err.splitlines() if line.startswith("afnp: warning: hidden")]
    assert len(warned) == 1 and "hidden widths (16, 16) make" in warned[0]


def test_fit_shows_progress_unless_quiet(cli):
    arguments = [a for a in FAST if a != "--quiet"]
    assert "3/3" in cli("fit", "{}/x.npy", "-o", "m.afnp", *arguments)[2]


def test_fit_linear_and_with_patience(cli):
    code, out, _ = cli(
        "fit",
        "{}/x.npy",
        "-o",
        "m.afnp",
        "--hidden",
        "",
        "--epochs",
        500,
        "--batch-size",
        160,
        "--learning-rate",
        0.5,
        "--patience",
        1,
        "--quiet",
    )
    epochs, best = map(int, re.search(r"(\d+) epochs, best (\d+)", out).groups())
    assert code == 0 and epochs == best + 1 < 500
    assert afnp.load("m.afnp").layers[-1].conditioner.hidden == ()


def test_fit_overwrites_only_when_forced(cli):
    Path("m.afnp").write_text("mine")
    assert cli("fit", "{}/x.npy", "-o", "m.afnp", *FAST)[0] == 2
    assert Path("m.afnp").read_text() == "mine"
    assert cli("fit", "{}/x.npy", "-o", "m.afnp", *FAST, "--force")[0] == 0
    assert afnp.load("m.afnp").features == 2


def test_fit_resumes_to_the_same_bits(cli, folder, monkeypatch):
    """Ctrl-C at a step saves the model and says so; --resume ends where an uninterrupted fit
    ends."""
    fit = ["fit", "{}/x.npy", "-o", "m.afnp", "--checkpoint", "c.ckpt", *FAST]
    step = afnp.train.Adam.step

    def interrupted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        if self.t == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(afnp.train.Adam, "step", interrupted)
        code, _, err = cli(*fit)
    assert code == 130
    assert (
        err == "afnp: interrupted after 1 epoch: saved the model so far to m.afnp; "
        "--resume --force goes on from the checkpoint\n"
    )
    assert not np.array_equal(afnp.load("m.afnp").theta, afnp.load(folder / "m.afnp").theta)
    assert cli(*fit, "--force")[0] == 2
    assert cli(*fit, "--resume", "--force")[0] == 0
    assert np.array_equal(afnp.load("m.afnp").theta, afnp.load(folder / "m.afnp").theta)


@pytest.mark.parametrize("checkpoint", [[], ["--checkpoint", "c.ckpt"]])
def test_fit_interrupted_before_the_first_epoch_ends_writes_no_model(cli, monkeypatch, checkpoint):
    step = afnp.train.Adam.step

    def interrupted(self, *args, **kwargs):
        step(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(afnp.train.Adam, "step", interrupted)
    code, out, err = cli("fit", "{}/x.npy", "-o", "m.afnp", *FAST, *checkpoint)
    assert code == 130 and "wrote" not in out
    assert err.startswith("afnp: interrupted before the first epoch ended; no result")
    assert err.count("\n") == 1 and os.listdir() == checkpoint[1:]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fit_saves_on_a_real_ctrl_c(folder, tmp_path, number):
    running = process(
        "fit",
        folder / "x.npy",
        "-o",
        tmp_path / "m.afnp",
        "--epochs",
        10**6,
        "--hidden",
        8,
        "--checkpoint",
        tmp_path / "c.ckpt",
        "--quiet",
    )
    deadline = time.monotonic() + 60
    try:
        while not (tmp_path / "c.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert "saved the model so far" in err and err.count("\n") == 1
    assert np.isfinite(afnp.load(tmp_path / "m.afnp").log_prob(gaussian())).all()


# ---- what is read is not written over ------------------------------------------------------------

SAME = {
    "fit over its rows": ["fit", "x.npy", "-o", "x.npy"],
    "fit over its rows, by another path": ["fit", "x.npy", "-o", "../{here}/x.npy"],
    "fit over its rows, by a link": ["fit", "x.npy", "-o", "link.npy"],
    "fit over its rows, by a hard link": ["fit", "x.npy", "-o", "hard.npy"],
    "checkpoint as output": ["fit", "x.npy", "-o", "c", "--checkpoint", "c"],
    "checkpoint as output, resumed": ["fit", "x.npy", "-o", "c", "--checkpoint", "c", "--resume"],
    "checkpoint over the rows": ["fit", "x.npy", "-o", "m", "--checkpoint", "x.npy", "--resume"],
    "output in the data folder": ["fit", "mnist", "--data-folder", ".", "-o", "x.npy"],
    "score over its rows": ["score", "m.afnp", "x.npy", "-o", "x.npy"],
    "score over its model": ["score", "model.npy", "x.npy", "-o", "model.npy"],
    "sample over its model": ["sample", "model.npy", "-n", "3", "-o", "model.npy"],
    "report over its model": ["verify", "m.afnp", "--json", "m.afnp"],
    "two reports in one": ["verify", "m.afnp", "--json", "r", "--markdown", "r"],
}


@pytest.mark.skipif(os.name != "posix", reason="makes links")
@pytest.mark.parametrize("case", SAME)
def test_no_output_is_an_input_even_when_forced(cli, folder, tmp_path, case):
    for source, name in (("x.npy", "x.npy"), ("m.afnp", "m.afnp"), ("m.afnp", "model.npy")):
        Path(name).write_bytes((folder / source).read_bytes())
    Path("link.npy").symlink_to("x.npy")
    Path("hard.npy").hardlink_to("x.npy")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    arguments = [argument.replace("{here}", tmp_path.name) for argument in SAME[case]]
    code, _, err = cli(*arguments, "--force")
    assert code == 2 and "expected another name to write to" in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
@pytest.mark.parametrize("target", ["pipe.npy", "null.npy"])
def test_no_output_is_a_device_or_a_pipe(cli, target):
    os.mkfifo("pipe.npy")
    Path("null.npy").symlink_to(os.devnull)
    for arguments in (["fit", "{}/x.npy"], ["sample", "{}/m.afnp", "-n", 3]):
        code, _, err = cli(*arguments, "-o", target, "--force")
        assert code == 2 and "expected a regular file" in err
    code, _, err = cli("score", "pipe.npy", "{}/x.npy")
    assert code == 2 and "pipe.npy: a pipe; expected a regular file" in err


WRITES = {
    "a model": ("fit {}/x.npy -o", "m.afnp"),
    "a checkpoint": ("fit {}/x.npy -o m.afnp --checkpoint", "c.ckpt"),
    "an import": ("import theirs.pt --maker mine:flow -o", "m.afnp"),
    "values": ("score {}/m.afnp {}/x.npy -o", "s.npy"),
    "samples": ("sample {}/m.afnp -n 3 -o", "s.csv"),
    "a picture": ("plot {}/m.afnp -o", "p.png"),
    "a report": ("verify {}/m.afnp --json", "r.json"),
    "a report to read": ("verify {}/m.afnp --markdown", "r.md"),
}


@pytest.fixture
def idle(monkeypatch):
    """Whoever begins to work fails."""

    def work(*_, **__):
        pytest.fail("began to work")

    monkeypatch.setattr("afnp.interop.formats.load", work)
    monkeypatch.setattr("afnp.interop.torch_file.import_file", work)
    monkeypatch.setattr(rows, "read", work)


@linux
@pytest.mark.parametrize("place", ["a folder", "a link into it", "a link into no folder"])
@pytest.mark.parametrize("case", WRITES)
def test_a_place_that_takes_no_file_is_refused_before_any_work(cli, idle, case, place):
    """Training once ran to its end, and the model was lost; /proc takes no file, not from root."""
    command, name = WRITES[case]
    target = Path("/proc" if "no" not in place else "nowhere", name)
    if place != "a folder":
        Path(name).symlink_to(target)
        target = Path(name)
    before = os.listdir()
    code, _, err = cli(*command.split(), target)
    assert code == 2 and err.startswith(f"afnp: error: {target}: ") and err.count("\n") == 1
    assert os.listdir() == before


@pytest.mark.parametrize(
    ("case", "suffix", "module", "remedy"),
    [
        ("a model", ".safetensors", "safetensors.numpy", "pip install 'afnp[safetensors]'"),
        ("an import", ".safetensors", "safetensors.numpy", "pip install 'afnp[safetensors]'"),
        ("values", ".parquet", "pandas", "pandas"),
        ("samples", ".parquet", "pandas", "pandas"),
    ],
)
def test_an_ending_that_needs_an_extra_says_so_before_any_work(
    cli, idle, monkeypatch, case, suffix, module, remedy
):
    monkeypatch.delitem(sys.modules, "afnp.interop.safetensors", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = cli(*WRITES[case][0].split(), f"q{suffix}")
    assert code == 2 and remedy in err and err.count("\n") == 1


# ---- score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_score_equals_log_prob(cli, folder, suffix):
    log_prob = afnp.load(folder / "m.afnp").log_prob(gaussian())
    code, out, err = cli("score", "{}/m.afnp", "{}/x.csv", "-o", f"s{suffix}")
    assert (code, err) == (0, "")
    read = {
        ".npy": np.load,
        ".npz": lambda p: np.load(p)["x"],
        ".csv": lambda p: np.loadtxt(p, skiprows=1),
    }
    assert np.array_equal(read[suffix](f"s{suffix}"), log_prob)
    error = log_prob.std(ddof=1) / np.sqrt(200)
    assert f"200 rows, log-likelihood: {log_prob.mean():.4f} +/- {error:.4f} nats\n" in out


def test_score_one_row_has_no_error(cli):
    np.save("one.npy", gaussian(1))
    assert re.search(
        r"1 rows, log-likelihood: -?\d+\.\d{4} nats\n", cli("score", "{}/m.afnp", "one.npy")[1]
    )


def test_score_chooses_an_array_by_key(cli):
    assert "20 rows" in cli("score", "{}/m.afnp", "{}/two.npz", "--key", "second")[1]


def test_score_counts_rows_without_density(cli):
    x = np.random.default_rng(0).uniform(0, 4, (30, 2))
    afnp.save(afnp.made(2, hidden=(4,), preprocess=afnp.preprocessing(x, levels=4)), "m.afnp")
    x[[3, 7]] = 9
    np.save("x.npy", x)
    code, out, _ = cli("score", "m.afnp", "x.npy")
    assert code == 0 and "-inf nats: 2 of 30 rows have density zero" in out


def test_score_refuses_to_overwrite(cli):
    assert cli("score", "{}/m.afnp", "{}/x.npy", "-o", "s.npy")[0] == 0
    assert cli("score", "{}/m.afnp", "{}/x.npy", "-o", "s.npy")[0] == 2
    assert cli("score", "{}/m.afnp", "{}/x.npy", "-o", "s.npy", "--force")[0] == 0


# ---- sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_sample_equals_the_api_and_reads_back(cli, folder, suffix):
    code, out, err = cli("sample", "{}/m.afnp", "-n", 50, "-o", f"s{suffix}", "--seed", 7)
    assert (code, out, err) == (0, f"wrote 50 x 2 to s{suffix}\n", "")
    assert np.array_equal(
        data.read_table(f"s{suffix}"), afnp.load(folder / "m.afnp").sample(50, rng=7)
    )


def test_sample_is_reproducible_by_seed(cli):
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2)):
        cli("sample", "{}/m.afnp", "-n", 20, "-o", name, "--seed", seed)
    a, b, c = (Path(name).read_text() for name in ("a.csv", "b.csv", "c.csv"))
    assert a == b != c


def test_sample_of_a_float32_model_keeps_every_digit(cli):
    flow = afnp.made(2, hidden=(4,), dtype=np.float32)
    afnp.save(flow, "m.afnp")
    cli("sample", "m.afnp", "-n", 20, "-o", "s.csv")
    assert np.array_equal(data.read_table("s.csv").astype(np.float32), flow.sample(20))


def test_sample_leaves_the_old_file_when_writing_fails(cli, monkeypatch):
    cli("sample", "{}/m.afnp", "-n", 5, "-o", "s.npy")
    before = Path("s.npy").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = cli("sample", "{}/m.afnp", "-n", 5, "-o", "s.npy", "--seed", 9, "--force")
    assert code == 2 and "No space left" in err
    assert Path("s.npy").read_bytes() == before and os.listdir() == ["s.npy"]


# ---- verify and data -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["m.afnp", "conditional.afnp"])
def test_verify_passes(cli, model):
    code, out, err = cli("verify", f"{{}}/{model}", "--parameters", "own", "--level", "quick")
    assert (code, err) == (0, "")
    assert "round_trip          passed" in out and " 0 failed" in out and "(level quick," in out


def test_verify_fails_with_code_1_and_writes_valid_json_and_markdown(cli, monkeypatch):
    seen = {}

    def fake(flow, **options):
        seen.update(options)
        return Report(
            [Result("log_det", "C3", "failed", "sign", float("inf"), 1e-9, worst={"row": 3})]
        )

    monkeypatch.setattr("afnp.cli.check_flow", fake)
    code, out, _ = cli("verify", "{}/m.afnp", "--json", "r.json", "--markdown", "r.md", "--seed", 5)
    assert code == 1 and seen == {"seed": 5, "parameters": "random", "level": "full"}
    assert "C3  log_det             failed" in out
    report = json.loads(
        Path("r.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON")
    )
    assert report["ok"] is False
    assert report["results"][0]["measured"] == "inf" and report["results"][0]["worst"] == {"row": 3}
    assert "| C3 | log_det | failed |" in Path("r.md").read_text()
    assert cli("verify", "{}/m.afnp", "--json", "r.json")[0] == 2  # it exists
    assert cli("verify", "{}/m.afnp", "--json", "r.json", "--force")[0] == 1


STRANGER = """
import numpy as np

def normalize(x):
    return 2 * x, np.full(len(x), x.shape[1] * np.log(2))

def wrong():
    return {"normalize": lambda x: (normalize(x)[0], 0 * normalize(x)[1]), "features": 2}

def flow():
    import afnp
    return afnp.made(2, hidden=(4,))
"""


def test_verify_checks_what_python_can_import(cli, monkeypatch):
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    Path("stranger.py").write_text(STRANGER)
    options = ["--level", "quick"]
    code, out, _ = cli("verify", "stranger:", "--features", 3, *options)
    assert (
        code == 0
        and out.startswith("module: 3 features, context 0")
        and "log_det             passed" in out
    )
    code, out, _ = cli("verify", "stranger:wrong", *options)
    assert code == 1 and "log_det             failed" in out
    code, out, _ = cli("verify", "stranger:flow", *options)
    assert code == 0 and out.startswith("Flow: 2 features") and "gradients           passed" in out
    code, _, err = cli("verify", "json:loads", *options)
    assert code == 2 and "loads: expected a function without arguments" in err


def test_data_lists_every_set_on_its_line(cli):
    code, out, _ = cli("data")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == list(data.names())


def test_data_says_all_about_a_set(cli):
    code, out, _ = cli("data", "galaxies")
    found = data.load("galaxies")
    assert code == 0
    for text in (
        found.description,
        found.license,
        found.source,
        "16,000 rows",
        "7 (redshift, u, g, r, i, z, y)",
    ):
        assert text in out


def test_data_reads_a_set_from_its_folder(cli, tmp_path):
    (tmp_path / "miniboone").mkdir()
    np.save(tmp_path / "miniboone/data.npy", np.random.default_rng(0).normal(size=(200, 43)))
    code, out, _ = cli("data", "miniboone", "--data-folder", tmp_path)
    assert code == 0 and "test:    20 rows" in out
    code, out, _ = cli(
        "fit", "miniboone", "--data-folder", tmp_path, "-o", "m.afnp", *FAST, "--hidden", 42
    )
    assert code == 0 and "162 + 18 + 20 rows to train, validate, test; 43 features" in out


# ---- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "no command": ([], "COMMAND"),
    "unknown command": (["train"], "invalid choice: 'train'"),
    "no output": (["fit", "two_moons"], "-o/--output"),
    "unknown option": (["data", "--frobnicate"], "--frobnicate"),
    "unknown set": (
        ["fit", "moons", "-o", "m.afnp"],
        "moons: expected a .npy, .npz, .csv or .parquet file, or a set that 'afnp data' lists; did "
        "you",
    ),
    "unknown set to describe": (["data", "moons"], "moons: expected"),
    "set without its folder": (["fit", "mnist", "-o", "m.afnp"], "--data-folder"),
    "folder that is not there": (["data", "mnist", "--data-folder", "nowhere"], "nowhere"),
    "folder for a set without": (
        ["data", "galaxies", "--data-folder", "."],
        "not read from a folder",
    ),
    "missing file": (["fit", "nothing.npy", "-o", "m.afnp"], "nothing.npy: no such file"),
    "broken file": (
        ["fit", "broken.csv", "-o", "m.afnp"],
        "broken.csv: line 2, column 2: expected a number",
    ),
    "several arrays": (["fit", "{}/two.npz", "-o", "m.afnp"], "first, second"),
    "too few rows": (["fit", "few.npy", "-o", "m.afnp"], "expected at least 10 rows"),
    "output exists": (
        ["fit", "{}/x.npy", "-o", "broken.csv"],
        "broken.csv exists; --force overwrites it",
    ),
    "output in no folder": (
        ["fit", "{}/x.npy", "-o", "nowhere/m.afnp"],
        "nowhere/m.afnp: expected a file in",
    ),
    "output is a folder": (
        ["fit", "{}/x.npy", "-o", "{}", "--force"],
        "expected a file in a folder that exists",
    ),
    "checkpoint exists": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--checkpoint", "few.npy"],
        "few.npy exists",
    ),
    "checkpoint in no folder": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--checkpoint", "nowhere/c"],
        "nowhere/c:",
    ),
    "not a checkpoint": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--checkpoint", "{}/m.afnp", "--resume"],
        "expected a checkpoint, got a model",
    ),
    "resume what": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--resume"],
        "--resume needs the --checkpoint",
    ),
    "no epochs": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--epochs", 0],
        "epochs: expected an integer of at least 1, got 0",
    ),
    "no transforms": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--transforms", 0],
        "transforms: expected",
    ),
    "bad rate": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--learning-rate", "nan"],
        "learning_rate: expected",
    ),
    "bad widths": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--hidden", "8;8"],
        "--hidden: expected a whole number",
    ),
    "zero width": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--hidden", "8,0"],
        "hidden: expected an integer",
    ),
    "bad seed": (["fit", "{}/x.npy", "-o", "m.afnp", "--seed", -1], "--seed"),
    "bad order": (["fit", "{}/x.npy", "-o", "m.afnp", "--order", "up"], "--order"),
    "missing model": (
        ["score", "nothing.afnp", "{}/x.npy"],
        "nothing.afnp: No such file or directory",
    ),
    "not a model": (["verify", "broken.csv"], "broken.csv: not an afnp file"),
    "other columns": (["score", "{}/m.afnp", "{}/wide.npy"], "expected 2 columns, as"),
    "context to score": (
        ["score", "{}/conditional.afnp", "{}/x.npy"],
        "x.npy: expected 2 columns and 3 of the context, in this order, as the model has, got 2",
    ),
    "context to sample": (
        ["sample", "{}/conditional.afnp", "-n", 1, "-o", "s.npy"],
        "the model needs a context: --context 0=...,1=...,2=...",
    ),
    "unknown suffix": (
        ["sample", "{}/m.afnp", "-n", 1, "-o", "s.txt"],
        "s.txt: expected a name that ends in",
    ),
    "unknown suffix to score": (
        ["score", "{}/m.afnp", "{}/x.npy", "-o", "s"],
        "s: expected a name that ends in",
    ),
    "no such module": (["verify", "no_such.module:flow"], "no module named 'no_such'"),
    "no module's name": (["verify", "../../x:y"], "../../x:y: expected package.module:object"),
    "no such column": (
        ["fit", "{}/x.csv", "-o", "m.afnp", "--context", "c"],
        "x.csv has the columns a, b, got 'c'",
    ),
    "no such column of an array": (
        ["fit", "{}/x.npy", "-o", "m.afnp", "--context", "2"],
        "x.npy has the columns, counted from 0, 0, 1, got '2'",
    ),
    "nothing but context": (
        ["fit", "{}/x.csv", "-o", "m.afnp", "--context", "a,b"],
        "expected at least one column besides",
    ),
    "no such object": (["verify", "json:flow"], "json has no 'flow'"),
    "functions of unknown width": (["verify", "json:"], "functions: expected at"),
    "width of a model": (["verify", "{}/m.afnp", "--features", 3], "knows its features"),
    "unknown level": (["verify", "{}/m.afnp", "--level", "slow"], "invalid choice: 'slow'"),
    "report in no folder": (
        ["verify", "{}/m.afnp", "--json", "nowhere/r.json"],
        "nowhere/r.json: expected a file",
    ),
    "negative rows": (["sample", "{}/m.afnp", "-n", -1, "-o", "s.npy"], "-n/--rows"),
    "too many rows": (
        ["sample", "{}/m.afnp", "-n", 10**15, "-o", "s.npy"],
        "do not fit into memory",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(cli, tmp_path, case):
    arguments, expected = REFUSED[case]
    (tmp_path / "broken.csv").write_text("1,2\n3,four\n")
    np.save(tmp_path / "few.npy", gaussian(9))
    before = sorted(os.listdir())
    code, _, err = cli(*arguments)
    assert code == 2
    assert err.startswith("afnp: error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert expected in err
    assert sorted(os.listdir()) == before


def test_missing_extra_says_what_to_install(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, err = cli("fit", "digits", "-o", "m.afnp")
    assert code == 2 and "pip install 'afnp[data]'" in err and err.count("\n") == 1


def test_diverging_fit_is_one_line_and_writes_no_model(cli):
    np.save("x.npy", gaussian())
    fast = [*FAST, "--dtype", "float32", "--learning-rate", 1e30]
    code, _, err = cli("fit", "x.npy", "-o", "m.afnp", *fast)
    assert code == 2 and err.count("\n") == 1 and os.listdir() == ["x.npy"]


def test_a_value_far_out_is_told(cli):
    x = gaussian()
    x[x[:, 0].argmax(), 0] = 1e200
    np.save("x.npy", x)
    code, _, err = cli("fit", "x.npy", "-o", "m.afnp", *FAST, "--dtype", "float32")
    assert code == 0 and "feature 0 has a few values far out, such as 1e+200" in err


def test_another_recipe_is_refused(cli):
    fit = ["fit", "{}/x.npy", "-o", "m.afnp", "--checkpoint", "c.ckpt", *FAST]
    assert cli(*fit)[0] == 0
    code, _, err = cli(*fit, "--batch-size", 50, "--resume", "--force")
    assert code == 2 and "batch_size differs: 100 there, 50 here" in err


def test_ctrl_c_elsewhere_is_no_traceback(cli, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("afnp.cli.check_flow", interrupt)
    assert cli("verify", "{}/m.afnp") == (130, "", "afnp: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_sigterm_elsewhere_is_ctrl_c(folder, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(
        "import time\nprint('begin', flush=True)\nwhile True:\n    time.sleep(0.01)\n"
    )
    running = process("verify", "endless:flow", cwd=tmp_path)
    try:
        assert running.stdout.readline() == "begin\n"
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, err) == (130, "afnp: interrupted\n")


# ---- the program ---------------------------------------------------------------------------------


COMMANDS = (
    *("fit", "score", "sample", "plot", "verify", "import", "data"),
    *("lessons", "figures"),
)


def test_help_shows_examples_that_parse(cli):
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    examples = [
        line.split("   ")[0].split()[1:] for line in out.splitlines() if line.startswith("  afnp ")
    ]
    assert {example[0] for example in examples} == set(COMMANDS)
    for example in examples:
        command_line().parse_args(example)


def test_an_option_that_is_none_leads_to_the_help_of_its_command(cli):
    code, _, err = cli("fit", "two_moons", "-o", "m.afnp", "--epoch", "1", "--verbose")
    assert (code, err.count("\n")) == (2, 1)
    assert "--verbose" in err and "'afnp fit --help'" in err


@pytest.mark.parametrize("command", COMMANDS[:7])
def test_every_command_has_help(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0 and out.startswith(f"usage: afnp {command}")


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0 and out.startswith("afnp ")


def test_as_a_process(folder, tmp_path):
    run = process("sample", folder / "m.afnp", "-n", 3, "-o", tmp_path / "s.csv")
    out, err = run.communicate(timeout=20)
    assert (run.returncode, err) == (0, "") and "wrote 3 x 2" in out
    run = process("score", folder / "m.afnp", tmp_path / "missing.csv")
    out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (2, "")
    assert err == f"afnp: error: {tmp_path}/missing.csv: no such file\n"


# ---- names of columns ----------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path):
    """A table with names: two features and the context that they depend on, a year."""
    rng = np.random.default_rng(0)
    year = rng.uniform(1990, 2020, 400)
    a = rng.standard_normal(400) + (year - 2005) / 5
    b = 3 * rng.standard_normal(400) + 100
    path, values = tmp_path / "named.csv", np.column_stack([b, year, a])
    np.savetxt(path, values, delimiter=",", header="b,year,a", comments="")
    return path


def test_names_stay_with_the_model_and_come_back_in_samples(cli, folder):
    assert cli("fit", "{}/x.csv", "-o", "m.afnp", *FAST)[0] == 0
    assert afnp.load("m.afnp").columns == ("a", "b")
    assert cli("sample", "m.afnp", "-n", 5, "-o", "s.csv")[0] == 0
    x, columns = data.read_named("s.csv")
    assert columns == ("a", "b") and np.array_equal(x, afnp.load("m.afnp").sample(5, rng=0))
    code, out, err = cli("sample", "m.afnp", "-n", 2, "-o", "-")
    assert code == 0 and out.startswith("a,b\n") and len(out.splitlines()) == 3
    assert err == "wrote 2 x 2 to -\n"


def test_columns_of_whole_numbers_are_named(cli):
    """What is drawn for them is no whole number, and the command says so."""
    rng = np.random.default_rng(0)
    prices = rng.permutation(100_000)[:400]
    x = np.column_stack([prices, rng.standard_normal(400)])
    np.savetxt("p.csv", x, delimiter=",", header="price,z", comments="")
    code, out, err = cli("fit", "p.csv", "-o", "p.afnp", *FAST)
    assert (code, err) == (0, "")
    assert "columns of whole numbers: price; samples of them are real numbers, to round\n" in out
    assert "whole" not in cli("fit", "{}/x.csv", "-o", "m.afnp", *FAST)[1]


def test_swapped_columns_are_put_in_order_and_others_are_refused(cli, folder):
    cli("fit", "{}/x.csv", "-o", "m.afnp", *FAST)
    x = np.loadtxt(folder / "x.csv", delimiter=",", skiprows=1)
    tables = {
        "swapped.csv": ("b,a", x[:, ::-1]),
        "more.csv": ("id,b,a", np.column_stack([np.arange(len(x)) + 0.5, x[:, ::-1]])),
        "other.csv": ("a,c", x),
    }
    for name, (header, values) in tables.items():
        np.savetxt(name, values, delimiter=",", fmt="%.17g", header=header, comments="")
    _, first, _ = cli("score", "m.afnp", "{}/x.csv", "-o", "1.csv")
    assert Path("1.csv").read_text().startswith("log_prob\n")
    code, second, _ = cli("score", "m.afnp", "swapped.csv")
    assert code == 0 and first.split("rows,")[1] == second.split("rows,")[1]
    code, third, err = cli("score", "m.afnp", "more.csv")
    assert code == 0 and first.split("rows,")[1] == third.split("rows,")[1]
    assert err == "afnp: warning: more.csv: not in the model, left out: 'id'\n"
    code, _, err = cli("score", "m.afnp", "other.csv")
    assert code == 2 and "expected the columns a, b, as the model has; it lacks b" in err
    code, out, _ = cli("score", "m.afnp", "{}/x.csv", "-o", "-")
    assert code == 0 and out.startswith("log_prob\n") and len(out.splitlines()) == len(x) + 1


def test_parquet_from_table_to_samples(cli, named):
    """Names, context, weights and bounds, in and out; another order of columns is put in order."""
    pd = pytest.importorskip("pandas", reason="PARQUET WAS NOT TESTED: pip install pandas")
    pytest.importorskip("pyarrow", reason="PARQUET WAS NOT TESTED: pip install pyarrow")
    table = pd.read_csv(named).assign(weight=1.0)
    table.to_parquet("t.parquet")
    options = ["--context", "year", "--weights", "weight", "--bounds", "b:0:", *FAST]
    assert cli("fit", "t.parquet", "-o", "m.afnp", *options)[0] == 0
    assert cli("fit", named, "-o", "n.afnp", "--context", "year", "--bounds", "b:0:", *FAST)[0] == 0
    one, same = afnp.load("m.afnp"), afnp.load("n.afnp")
    assert one.columns == ("b", "a") and one.context_columns == ("year",)
    assert one.theta == pytest.approx(same.theta, abs=1e-12)
    given = ["--context", "year=2000"]
    assert cli("sample", "m.afnp", "-n", 50, "-o", "s.parquet", *given)[0] == 0
    drawn = pd.read_parquet("s.parquet")
    assert list(drawn) == ["b", "a"] and (drawn["b"] > 0).all()
    drawn[["a", "b"]].assign(year=2000.0).to_parquet("other_order.parquet")
    assert cli("score", "m.afnp", "other_order.parquet", "-o", "l.parquet")[0] == 0
    expected = one.log_prob(drawn, [[2000.0]])
    assert pd.read_parquet("l.parquet")["log_prob"].to_numpy() == pytest.approx(expected)
    drawn.to_parquet("without.parquet")
    code, _, err = cli("score", "m.afnp", "without.parquet")
    assert code == 2 and "expected the columns b, a, year, as the model has; it lacks year" in err


def test_without_pyarrow_parquet_says_what_to_install(cli, folder, monkeypatch):
    pd = pytest.importorskip("pandas", reason="PARQUET WAS NOT TESTED: pip install pandas")

    def missing(*_, **__):
        raise ImportError("no engine")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    monkeypatch.setattr(pd, "read_parquet", missing)
    Path("t.parquet").write_bytes(b"PAR1")
    for command in (
        ["sample", "{}/m.afnp", "-n", 2, "-o", "s.parquet"],
        ["score", "{}/m.afnp", "t.parquet"],
    ):
        code, _, err = cli(*command)
        assert code == 2 and ".parquet with pyarrow: pip install pyarrow" in err


def test_a_conditional_flow_from_a_table_with_names(cli, named):
    code, out, err = cli(
        *("fit", named, "-o", "m.afnp", "--context", "year", *FAST[:4], "--quiet"),
        *("--epochs", 30, "--learning-rate", 0.03),
    )
    assert code == 0 and "2 features, 1 of context" in out and not err
    flow = afnp.load("m.afnp")
    assert flow.columns == ("b", "a") and flow.context_columns == ("year",)
    code, out, _ = cli("score", "m.afnp", named)
    assert code == 0 and "400 rows" in out
    for year, mean in ((1993, -2.4), (2017, 2.4)):
        code, out, _ = cli(
            "sample", "m.afnp", "-n", 2000, "--context", f"year={year}", "-o", "s.npy", "--force"
        )
        assert code == 0 and abs(np.load("s.npy")[:, 1].mean() - mean) < 0.5
    code, _, err = cli("sample", "m.afnp", "-n", 2, "-o", "-")
    assert code == 2 and "the model needs a context: --context year=..." in err
    for wrong in ("age=3", "year=x", "year=1,year=2", "1,2", ""):
        code, _, err = cli("sample", "m.afnp", "-n", 2, "-o", "-", "--context", wrong)
        assert code == 2 and "--context: expected year=..., got" in err
    code, _, err = cli("sample", "m.afnp", "-n", 2, "-o", "-", "--context", "2000")
    assert code == 0


def test_weights_of_rows_count(cli, folder):
    """Rows of weight 0 are none: the same flow as from the table without them."""
    x = np.loadtxt(folder / "x.csv", delimiter=",", skiprows=1)
    w = np.random.default_rng(0).integers(0, 3, len(x)).astype(float)
    np.savetxt(
        "w.csv",
        np.column_stack([x, w]),
        delimiter=",",
        header="a,b,weight",
        comments="",
        fmt="%.17g",
    )
    code, out, err = cli("fit", "w.csv", "-o", "m.afnp", "--weights", "weight", *FAST)
    assert code == 0 and not err and "2 features" in out and "Gaussian" not in out
    flow = afnp.load("m.afnp")
    assert flow.columns == ("a", "b")
    rows_of_set = rows.read("w.csv", None, None, 0, (), "weight")
    again = afnp.maf(2, (8,), 2, preprocess=flow.layers[:1])
    train, val, test = rows_of_set[:3]
    options = {"weights": train.weights, "weights_val": val.weights, "epochs": 3, "progress": False}
    afnp.fit(again, train.x, val.x, **options)
    np.testing.assert_array_equal(again.theta, flow.theta)
    mean = np.average(flow.log_prob(test.x), weights=test.weights)
    assert f"test log-likelihood: {mean:.4f} +/- " in out
    np.savetxt("w.csv", np.column_stack([x, -w]), delimiter=",", header="a,b,weight", comments="")
    w[17] = -3
    np.savetxt("w.csv", np.column_stack([x, w]), delimiter=",", header="a,b,weight", comments="")
    code, _, err = cli("fit", "w.csv", "-o", "n.afnp", "--weights", "weight", *FAST)
    assert code == 2 and "w.csv: column 'weight', rows counted from 0: row 17: expected a f" in err


def test_weights_count_in_the_scales(cli, folder):
    x = np.loadtxt(folder / "x.csv", delimiter=",", skiprows=1)
    w = 1 + np.arange(len(x)) % 9.0
    table = np.column_stack([x, 2000 + x[:, 0], w])
    np.savetxt("w.csv", table, delimiter=",", header="a,b,year,w", comments="", fmt="%.17g")
    cli("fit", "w.csv", "-o", "m.afnp", "--weights", "w", "--context", "year", *FAST)
    flow = afnp.load("m.afnp")
    part = rows.read("w.csv", None, None, 0, ("year",), "w").train
    expected = mean_and_std(part.x, part.weights)
    np.testing.assert_allclose((flow.layers[0].mean, flow.layers[0].std), expected, rtol=1e-12)
    expected = mean_and_std(part.context, part.weights)
    np.testing.assert_allclose(flow.config()["context_scale"], expected, rtol=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_of_text_are_left_out(cli, suffix, tmp_path):
    """The error names the option; score takes from the same file what the model knows."""
    pd = pytest.importorskip("pandas", reason="NOT TESTED: pip install pandas")
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.standard_normal((60, 3)), columns=["mass", "age", "flag"])
    table.insert(0, "id", [f"n{i}" for i in range(60)])
    write = table.to_csv if suffix == ".csv" else table.to_parquet
    write(f"t{suffix}", index=False)
    code, _, err = cli("fit", f"t{suffix}", "-o", "m.afnp", *FAST)
    assert code == 2 and err.endswith("; --exclude id leaves it out\n")
    code, _, err = cli("fit", f"t{suffix}", "-o", "m.afnp", "--exclude", "name", *FAST)
    assert code == 2 and "--exclude: t" in err and "columns id, mass, age, flag, got 'name'" in err
    code, _, err = cli("fit", f"t{suffix}", "-o", "m.afnp", "--exclude", "id,flag", *FAST)
    assert code == 0 and afnp.load("m.afnp").columns == ("mass", "age")
    code, out, err = cli("score", "m.afnp", f"t{suffix}")
    assert code == 0 and "60 rows" in out and "not in the model, left out: 'id', 'flag'" in err
    code, _, err = cli("score", "m.afnp", f"t{suffix}", "--exclude", "id,flag")
    assert code == 0 and not err
    code, _, err = cli("score", "m.afnp", f"t{suffix}", "--exclude", "mass")
    assert code == 2 and "expected the columns mass, age, as the model has; it lacks mass" in err
    code, _, err = cli("fit", f"t{suffix}", "-o", "n.afnp", "--exclude", "id,mass,age,flag", *FAST)
    assert code == 2 and "--exclude: expected at least one column of t" in err


def test_columns_without_names_keep_their_numbers(cli, tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 3))
    lines = [f"n{i},{a},{b},{c}" for i, (a, b, c) in enumerate(x.tolist())]
    Path("t.csv").write_text("\n".join(lines))
    code, _, err = cli("fit", "t.csv", "-o", "m.afnp", *FAST)
    assert code == 2 and "expected a number, got 'n0'" in err and "--exclude 0 leaves it out" in err
    found = rows.read("t.csv", None, None, 0, ("2",), None, ("0",))
    np.testing.assert_array_equal(found.train.context[:, 0], x[found.train.numbers, 1])
    np.testing.assert_array_equal(found.val.x, x[found.val.numbers][:, [0, 2]])
    np.save("t.npy", x)
    code, _, err = cli("fit", "t.npy", "-o", "m.afnp", "--exclude", "1", *FAST)
    assert code == 0 and afnp.load("m.afnp").features == 2
    code, _, err = cli("score", "m.afnp", "t.csv")
    assert code == 2 and "--exclude 0 leaves it out" in err
    code, _, err = cli("score", "m.afnp", "t.csv", "--exclude", "0")
    assert code == 2 and "t.csv: expected 2 columns, as the model has, got 3" in err
    assert cli("score", "m.afnp", "t.csv", "--exclude", "0,2", "-o", "csv.npy")[0] == 0
    assert cli("score", "m.afnp", "t.npy", "--exclude", "1", "-o", "npy.npy")[0] == 0
    for scored in ("csv.npy", "npy.npy"):
        expected = afnp.load("m.afnp").log_prob(x[:, [0, 2]])
        np.testing.assert_array_equal(np.load(scored), expected)
    assert cli("plot", "m.afnp", "t.csv", "--exclude", "0,2", "-o", "p.png", "-n", 50)[0] == 0
    code, _, err = cli("fit", "t.npy", "-o", "n.afnp", "--exclude", "3", *FAST)
    assert code == 2 and "--exclude: t.npy has the columns, counted from 0, 0, 1, 2, got '3'" in err


def test_one_wrong_cell_is_no_column_of_text(cli, tmp_path):
    Path("t.csv").write_text("a,b\n" + "1.5,2\n" * 20 + "2.5,x\n")
    code, _, err = cli("fit", "t.csv", "-o", "m.afnp", *FAST)
    assert code == 2 and "line 22, column 2: expected a number, got 'x'" in err
    assert "--exclude" not in err


def test_bounds_hold_for_every_sample(cli, tmp_path):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.exponential(size=300), rng.uniform(-1, 1, 300), rng.normal(size=300)])
    np.savetxt("t.csv", x, delimiter=",", header="flux,cosine,z", comments="")
    options = ["--bounds", "flux:0:,cosine:-1:1", "--family", "nsf", *FAST]
    assert cli("fit", "t.csv", "-o", "m.afnp", *options)[0] == 0
    assert cli("sample", "m.afnp", "-n", 3000, "-o", "s.npy")[0] == 0
    s = np.load("s.npy")
    assert (s[:, 0] > 0).all() and (np.abs(s[:, 1]) < 1).all() and np.abs(s[:, 2]).max() > 2
    assert np.isfinite(afnp.load("m.afnp").log_prob(s)).all()
    assert (afnp.load("m.afnp").log_prob([[-0.1, 0, 0], [1, 1.5, 0]]) == -np.inf).all()
    for bounds in ("size:0:", "flux:", "flux:x:1", "flux::", "flux:1:0"):
        code, _, err = cli("fit", "t.csv", "-o", "n.afnp", "--bounds", bounds, *FAST)
        assert code == 2 and "bounds" in err
    code, _, err = cli("fit", "t.csv", "-o", "n.afnp", "--bounds", "flux:0.1:", *FAST)
    first = np.flatnonzero(x[:, 0] <= 0.1)[0]
    said = f"not inside (0.1, inf), such as {x[first, 0]} in row {first} (counted from 0)"
    assert code == 2 and "rows of flux are " + said in err


@pytest.mark.parametrize("part", ["train", "val"])
def test_rows_without_a_density_are_named_as_the_file_has_them(cli, part, tmp_path):
    """Training counts the rows that were dealt to it; the reader of the file does not."""
    x = np.column_stack([gaussian(), np.ones(200)])
    np.save("t.npy", x)
    numbers = getattr(rows.read("t.npy", None, None), part).numbers
    x[numbers[7]] = [1e25, 0, 1e-70]  # too little weight to count in the scales
    np.save("t.npy", x)
    options = ["--weights", "2", "--dtype", "float32", *FAST]
    code, _, err = cli("fit", "t.npy", "-o", "m.afnp", *options)
    where = {"train": "training rows [7]", "val": "row 7 of x_val has density zero"}
    assert code == 2 and where[part] in err and numbers[7] != 7
    assert f"; in t.npy: row {numbers[7]}, counted from 0; no result was written" in err
    assert not Path("m.afnp").exists()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_can_be_fitted(cli, family):
    assert set(FAMILIES) == set(constructors.__all__) - {"BETWEEN"}
    size = [] if family in ("tarflow", "wavenet_flow") else ["--hidden", 8]
    code, _, err = cli(
        "fit", "{}/x.csv", "-o", "m.afnp", "--family", family, *size, "--epochs", 1, "--quiet"
    )
    assert code == 0 and not err
    assert cli("score", "m.afnp", "{}/x.csv")[0] == 0
    if not size:
        code, _, err = cli("fit", "{}/x.csv", "-o", "n.afnp", "--family", family, "--hidden", 8)
        assert code == 2 and f"--hidden: {family} has no such option" in err


def test_plot_writes_a_picture(cli, folder):
    assert cli("plot", "{}/m.afnp", "{}/x.npy", "-o", "corner.png", "-n", 200)[0] == 0
    assert Path("corner.png").read_bytes().startswith(b"\x89PNG")
    assert cli("plot", "{}/m.afnp", "{}/x.npy", "--pit", "-o", "pit.svg")[0] == 0
    assert "<svg" in Path("pit.svg").read_text()
    code, _, err = cli("plot", "{}/m.afnp", "--pit", "-o", "other.svg")
    assert code == 2 and "--pit needs DATA" in err
    code, _, err = cli("plot", "{}/m.afnp", "-o", "other.txt")
    assert code == 2 and "expected a name that ends in .png" in err


def test_warnings_are_lines_and_hints_name_what_was_meant(cli):
    np.savetxt("t.csv", np.column_stack([gaussian(), np.ones(200)]), delimiter=",")
    code, _, err = cli("fit", "t.csv", "-o", "m.afnp", *FAST)
    assert code == 0 and err.startswith("afnp: warning: x_train: feature 2 never changes")
    assert err.count("\n") == 1
    code, _, err = cli("fit", "galaxie", "-o", "n.afnp")
    assert code == 2 and "did you mean galaxies?" in err


def test_a_closed_pipe_is_no_error(folder):
    command = f"{sys.executable} -m afnp sample {folder}/m.afnp -n 100000 -o - | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1 and "Error" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    "end, code",
    [
        ("2>&1 | head -n 1", 141),
        (">&- 2>&-", 0),
        pytest.param("2> /dev/full", 0, marks=linux),
        pytest.param("> /dev/full", 2, marks=linux),
    ],
)
def test_a_model_is_written_whoever_reads_along(end, code, folder, tmp_path):
    """Training once ended at the first line that nobody took, be it a warning."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    np.save(tmp_path / "x.npy", np.column_stack([x, np.arange(200) % 3]))  # whole: a warning
    command = f"{sys.executable} -m afnp fit {tmp_path}/x.npy -o {tmp_path}/m {' '.join(FAST[:-1])}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        f"({command}; echo $? > {tmp_path}/code) {end}", shell=True, check=False, env=env
    )
    assert done.returncode == 0 and (tmp_path / "m").exists()
    assert (tmp_path / "code").read_text() == f"{code}\n"


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("end", "code"), [("2>&-", 0), pytest.param("2> /dev/full", 0, marks=linux)]
)
def test_rows_are_alone_on_standard_output_where_messages_have_no_place(end, code, folder):
    command = f"{sys.executable} -m afnp sample {folder}/m.afnp -n 3 -o - {end}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    rows = np.loadtxt(done.stdout.splitlines(), delimiter=",")
    assert rows.shape == (3, 2) and done.returncode == code


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
def test_unbuffered_output_is_written_to_its_end(folder):
    """A stream that takes a part of it is given the rest, and says when nobody reads any more."""
    command = f"{sys.executable} -u -m afnp sample {folder}/m.afnp -n 100000 -o -"
    done = subprocess.run(
        f"({command}; echo code $? >&2) | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "code 141" in done.stderr and "wrote" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("command", "code"),
    [("data", 0), ("score {}/m.afnp {}/x.npy", 0), ("sample {}/m.afnp -n 3 -o -", 2)],
)
def test_a_standard_output_that_is_closed_is_no_traceback(folder, command, code):
    """Rows that were to be written there are refused."""
    command = f"{sys.executable} -m afnp {command.replace('{}', str(folder))} >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert ("standard output is closed" in done.stderr) == (code == 2)


@linux
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command", ["data", "score {}/m.afnp {}/x.npy", "sample {}/m.afnp -n 3 -o -"]
)
def test_a_standard_output_that_is_full_is_named(folder, command, unbuffered):
    command = f"{sys.executable} -m afnp {command.replace('{}', str(folder))} > /dev/full"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr == "afnp: error: standard output: No space left on device\n"


class Full:
    """A standard output that takes nothing."""

    def write(self, text):
        raise OSError(28, f"No space left on device for {len(text)} signs")


def test_reports_are_written_before_one_is_printed(folder, tmp_path, monkeypatch):
    names = [str(tmp_path / name) for name in ("r.json", "r.md")]
    monkeypatch.setattr("afnp.cli.check_flow", lambda *_, **__: Report([]))
    monkeypatch.setattr(sys, "stdout", Full())
    options = ["--json", names[0], "--markdown", names[1]]
    assert main(["verify", str(folder / "m.afnp"), *options]) == 2
    assert all(Path(name).read_text() for name in names)


@pytest.mark.parametrize("command", ["score {}/m.afnp dä.csv", "fit dä.csv -o m.afnp"])
def test_signs_that_standard_output_lacks_are_spelt_out(folder, tmp_path, monkeypatch, command):
    """Its encoding once ended the command after the work."""
    monkeypatch.chdir(tmp_path)
    Path("dä.csv").write_bytes((folder / "x.csv").read_bytes())
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    fast = FAST if command.startswith("fit") else []
    assert main([*command.replace("{}", str(folder)).split(), *fast]) == 0
    assert sys.stdout.buffer.getvalue().startswith(b"d\\xe4.csv: ")
    assert sys.stdout.errors == "strict"


class Written:
    """A stream of somebody's own, which can be written to and nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


STREAMS = {
    "of somebody's own": Written,
    "of bytes": io.BytesIO,
    "of a strict encoding": lambda: io.TextIOWrapper(io.BytesIO(), encoding="cp1252"),
}


@pytest.mark.parametrize("name", ["stderr", "stdout"])
@pytest.mark.parametrize("kind", ["of somebody's own", "of a strict encoding"])
def test_results_do_not_depend_on_the_kind_of_stream(monkeypatch, name, kind):
    monkeypatch.setattr(sys, name, STREAMS[kind]())
    assert main(["data", "two_moons"]) == 0


@pytest.mark.parametrize("kind", STREAMS)
def test_errors_end_with_code_2_whatever_stderr_is(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stderr", STREAMS[kind]())
    assert main(["score", str(folder / "m.afnp"), "λ.csv"]) == 2
    if kind == "of somebody's own":
        assert sys.stderr.text == "afnp: error: λ.csv: no such file\n"
    if kind == "of a strict encoding":
        assert (
            sys.stderr.buffer.getvalue()
            == b"afnp: error: \\u03bb.csv: no such file" + os.linesep.encode()
        )
    with pytest.raises(SystemExit) as exit:
        main(["score", "--λ"])
    assert exit.value.code == 2
