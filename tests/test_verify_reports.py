"""Reports explain themselves; flows may be given in many forms; what was once missed or wrongly
told is not again."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import afnp
from afnp.transforms.preprocess import Standardize
from afnp.verify import CHECKS, Functions, cases, check_flow
from afnp.verify.explain import cause_of, named_constant, region_of
from afnp.verify.mutants import MUTANTS, check_planted
from afnp.verify.results import CLAIMS, READ

ROOT = Path(__file__).parents[1]
LOG_2PI = np.log(2 * np.pi)


def half(x, *context):
    return x / 2, np.full(len(x), -x.shape[1] * np.log(2))


def double(u, *context):
    return 2 * u, np.full(len(u), u.shape[1] * np.log(2))


def density(x):
    return -np.square(x / 2).sum(axis=1) / 2 - x.shape[1] * (np.log(2) + LOG_2PI / 2)


def draw(D, temperature=1.0):
    return lambda n, rng: 2 * temperature * rng.standard_normal((n, D))


def honest(D=3, **changes):
    given = {"normalize": half, "generate": double, "log_prob": density, "sample": draw(D)}
    return {**given, "features": D, **changes}


# ---- what was missed -----------------------------------------------------------------------------


@pytest.mark.parametrize("D", [3, 4, 8])
def test_a_density_that_forgets_its_constants_is_caught_in_any_dimension(D):
    wrong = honest(D, log_prob=lambda x: -np.square(x / 2).sum(axis=1) / 2)
    report = check_flow(wrong, checks=["normalisation", "identities"], level="quick")
    assert report.failed == ["normalisation", "identities"], f"\n{report}"
    expected = np.exp(D * (np.log(2) + LOG_2PI / 2))
    assert report["normalisation"].values["the integral is"] == pytest.approx(expected, rel=1e-3)
    assert "off by the constant" in report["identities"].cause
    assert check_flow(honest(D), level="quick").ok


@pytest.mark.parametrize("temperature", [1.03, 1.05, 0.96])
def test_a_temperature_of_three_hundredths_is_caught(temperature):
    report = check_flow(honest(sample=draw(3, temperature)), checks=["noise"])
    assert report.failed == ["noise"] and "temperature of" in report["noise"].cause
    assert check_flow(honest(), checks=["noise"]).passed == ["noise"]
    assert "a scale off by 2.9%" in check_flow(honest(), checks=["noise"])["noise"].why


def test_a_log_det_that_is_off_beyond_a_bound_only_is_caught_and_named():
    report = check_planted(MUTANTS["log_det_off_beyond_the_bound"].planted(), checks=["log_det"])
    assert report.failed == ["log_det"] and "in the tails" in report["log_det"].reason


# ---- what was wrongly told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        ([5.4e6, 0, 5.4e6], [100, 1, 100]),
        ([2.46e6] * 3, [30.0] * 3),
        ([1.7e9] * 3, [60, 1e3, 1e5]),
        ([0.0] * 3, [1e-6] * 3),
    ],
    ids=["offset", "julian days", "unix seconds", "micro"],
)
def test_flows_in_real_units_pass(mean, scale):
    front = [Standardize(mean, scale)]
    spline = {"hidden": (8, 8), "transforms": 2, "options": {"bins": 4}}
    for seed in range(2):
        flow = afnp.nsf(3, preprocess=front, seed=seed, **spline)
        checks = ["edges", "log_det", "identities", "noise"]
        report = check_flow(flow, checks=checks, seed=seed, backends=["numpy"])
        assert not report.failed, f"\n{report}"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_contexts_in_real_units_pass(dtype):
    """Years are 2,000 of the flow's units away from 0, where networks are saturated."""
    years = np.random.default_rng(0).uniform(2000, 2026, size=(100, 1))
    for make in (afnp.maf, afnp.nsf):
        flow = make(2, hidden=(16, 16), transforms=3, context=1, dtype=dtype)
        flow.standardize_context(years)
        report = check_flow(flow, level="quick")
        assert not report.failed, f"\n{report}"


def test_correct_functions_on_positive_data_pass():
    data = np.exp(np.random.default_rng(0).standard_normal((500, 2)))
    report = check_flow(
        normalize=lambda x: (np.log(x), -np.log(x).sum(axis=1)),
        generate=lambda u: (np.exp(u), u.sum(axis=1)),
        log_prob=lambda x: -np.square(np.log(x)).sum(axis=1) / 2 - LOG_2PI - np.log(x).sum(axis=1),
        sample=lambda n, rng: np.exp(rng.standard_normal((n, 2))),
        features=2,
        data=data,
        level="quick",
    )
    assert report.ok and "edges" in report.passed, f"\n{report}"


def saturating(x, context):
    return x - np.tanh(context), np.zeros(len(x))


def test_a_saturating_context_is_noted_and_a_feature_of_its_own_context_passes():
    given = {"normalize": saturating, "features": 2, "context": 2, "level": "quick"}
    report = check_flow(checks=["odd_input", "connectivity"], **given)
    assert report.ok, f"\n{report}"
    assert any("finite numbers for inf in context" in note for note in report["odd_input"].notes)
    assert "2 of 4 pairs" in report["connectivity"].notes[0]
    every = check_flow(checks=["connectivity"], allowed=np.ones((2, 4)), **given)
    assert every.failed == ["connectivity"]
    own = np.hstack([np.eye(2), np.eye(2)])
    assert check_flow(checks=["connectivity", "dependency"], allowed=own, **given).ok


def test_a_flow_of_the_default_kind_raises_no_alarm_about_its_samples():
    flow = afnp.maf(2, hidden=(128, 128), transforms=5)
    report = check_flow(flow, checks=["agreement", "noise"], backends=["auto"], level="quick")
    assert not report.failed, f"\n{report}"


# ---- explanations --------------------------------------------------------------------------------


def test_a_failed_check_says_what_should_hold_what_was_found_where_why_and_where_to_read():
    wrong = honest(2, normalize=lambda x: (x / 2, np.full(len(x), 2 * np.log(2))))
    report = check_flow(wrong, checks=["log_det", "antisymmetry", "pure"], level="quick", seed=7)
    said = str(report)
    for part in (
        "should hold   log_det of normalize = log|det du/dx|",
        "found         normalize gives 1.38629, its Jacobian -1.38629; row ",
        "x = [",
        "seed 7",
        "likely cause  opposite sign",
        "read          lesson 03 of 'afnp lessons'; replayed in tests/test_museum.py: flowjax",
    ):
        assert part in said, said
    assert report["log_det"].x and report["log_det"].values["normalize gives"] > 0
    assert "opposite sign" in report.to_markdown() and "opposite sign" in report._repr_html_()
    assert any("right on the line" in ax.get_title() for ax in report.plot().axes)


class Theirs:
    """Somebody's flow of three features, and what may be wrong with it."""

    features, allowed = 3, "triangular"

    def __init__(self, fault=""):
        rng = np.random.default_rng(0)
        self.A, self.B = np.tril(rng.standard_normal((2, 3, 3)), -1)
        self.fault, self.own = fault, np.random.default_rng(1)

    def shift_and_scale(self, x):
        mu, alpha = np.tanh(x) @ self.A.T + 0.5, np.tanh(x @ self.B.T / 2 + 0.2)
        if self.fault == "leak":
            mu[:, 0] += 1e-4 * x[:, 2]
        if self.fault == "dropout":
            mu = mu * (self.own.random(mu.shape) > 0.1)
        return mu, alpha

    def normalize(self, x):
        mu, alpha = self.shift_and_scale(x)
        if self.fault == "in place":
            x -= mu
            return x * np.exp(-alpha), -alpha.sum(axis=1)
        log_det = -alpha.sum(axis=1)
        wrong = {
            "sign": -log_det,
            "batch": np.full(len(x), log_det.mean() if len(x) else 0.0),
            "log10": log_det / np.log(10),
            "mean": log_det / 3,
            "one feature": log_det + alpha[:, 2],
            "far out": log_det + 0.3 * (np.abs(x) > 3).any(axis=1),
        }
        return (x - mu) * np.exp(-alpha), wrong.get(self.fault, log_det)

    def generate(self, u):
        x = np.zeros_like(u)
        for i in range(3):
            mu, alpha = self.shift_and_scale(x)
            x[:, i] = mu[:, i] + np.exp(alpha[:, i]) * u[:, i]
        return x, self.shift_and_scale(x)[1].sum(axis=1)

    def log_prob(self, x):
        u, log_det = self.normalize(x)
        constant = 0.0 if self.fault == "constant" else 1.5 * LOG_2PI
        score = log_det - np.square(u).sum(axis=1) / 2 - constant
        return score[:, None] if self.fault == "shape" else score

    def sample(self, n, rng):
        rng = np.random.default_rng(0) if self.fault == "seed" else rng
        width = 0.9 if self.fault == "cold" else 1.0
        return self.generate(width * rng.standard_normal((n, 3)))[0]


TOLD = {
    "sign": ("log_det", "likely cause  opposite sign"),
    "constant": ("identities", "off by D/2 log 2π = 2.76: the constant of a normal density"),
    "cold": ("noise", "a temperature of 0.9"),
    "leak": ("dependency", "u_0 moves with x_2, and must not"),
    "batch": ("log_det", "the same for every row: a sum or a mean over the batch?"),
    "log10": ("log_det", "log10 instead of log"),
    "mean": ("log_det", "1/3 of what it should be: a mean over the features instead of their sum"),
    "one feature": ("log_det", "the term of feature 2 is missing"),
    "far out": ("identities", "only beyond ±"),
    "dropout": ("deterministic", "often dropout or noise that is on"),
    "in place": ("pure", "often an operation in place"),
    "shape": ("deterministic", "log_prob gives shape (43, 1) where (43,) is expected"),
    "seed": ("randomness", "often a generator of its own, or a fixed seed"),
}
"""What is told of each fault, and by which check."""


@pytest.mark.parametrize("fault", TOLD)
def test_a_stranger_is_told_what_is_wrong(fault):
    check, said = TOLD[fault]
    report = check_flow(Theirs(fault), level="quick")
    text = report.explanations()
    parts = dict(zip(report.failed, text.split("\n  should hold")[1:], strict=False))
    assert check in report.failed and said in text, f"\n{report}"
    assert all("found " in part and "read " in part for part in parts.values())
    for jargon in ("claim 0", "trip 0", "pair 0", "layer -1"):
        assert jargon not in text


def test_a_picture_shows_the_claim_that_failed_however_small_the_difference():
    report = check_flow(Theirs("leak"), checks=["dependency", "log_det"], level="quick")
    panels = {ax.get_title(): ax for ax in report.plot().axes}
    assert "1 wrong dependency of u" in panels
    panel = panels["log_det: right on the line"]
    assert panel.get_ylabel() == "is, less what it should be"
    drawn = np.abs(panel.lines[-1].get_ydata())
    assert report["log_det"].measured in drawn and drawn.max() > 1e-5
    total = check_flow(Theirs("constant"), checks=["normalisation"], level="quick")
    (panel,) = total.plot().axes
    heights = [bar.get_height() for bar in panel.patches]
    assert heights == [1.0, total["normalisation"].values["the integral is"]]
    assert "integrates to 15.75" in panel.get_title()
    total["normalisation"].evidence["integral"] = np.inf
    total.plot().canvas.draw()
    large = check_flow(Theirs("sign"), checks=["log_det"], level="quick").plot()
    assert large.axes[0].get_ylabel() == "is"


def test_a_sound_flow_of_somebody_else_passes():
    assert check_flow(Theirs(), level="quick").ok


def test_what_breaks_in_the_same_way_is_explained_once():
    text = check_flow(Theirs("shape"), level="quick").explanations()
    assert text.count("should hold") == 2 and "the same in    pure, batch_independence" in text


def test_an_integral_names_a_constant_only_if_it_is_one():
    report = check_flow(Theirs("far out"), checks=["normalisation"], level="quick")
    assert report.failed == ["normalisation"] and report["normalisation"].cause == ""


def test_what_a_report_says_to_read_is_there():
    """Every check has a claim and a lesson, and cases of the museum by their number."""
    assert set(READ) == set(CLAIMS) == set(CHECKS)
    museum = (ROOT / "tests" / "test_museum.py").read_text(encoding="utf-8")
    for said in READ.values():
        lesson = re.match(r"lesson (\d\d)", said)[1]
        assert list((ROOT / "lessons").glob(f"{lesson}_*.ipynb"))
        for number in re.findall(r"#(\d+)", said):
            assert re.search(rf"^def test_\w+_{number}_", museum, flags=re.MULTILINE), said


SPOKEN_OF = {
    "dependency": "peek",
    "connectivity": "lose",
    "triangular": "triangular",
    "log_det": "slogdet",
    "monotone": "must rise",
    "round_trip": "there and back",
    "antisymmetry": "the one-dimensional formula",
    "identities": "log p(u)",
    "normalisation": "A density sums to one",
    "agreement": "samples follow the density",
    "noise": "noise half as wide",
    "gradients": "complex step",
    "edges": "divides by something positive",
    "staleness": "cached values",
    "batch_independence": "rows not hear each other",
}
"""What of a check's subject stands in the lesson that its report names."""


@pytest.mark.parametrize("check", SPOKEN_OF)
def test_the_lesson_that_a_report_names_speaks_of_it(check):
    (lesson,) = (ROOT / "lessons").glob(f"{READ[check].split(';')[0][-2:]}_*.ipynb")
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    assert SPOKEN_OF[check] in "".join("".join(cell["source"]) for cell in cells), lesson.name


@pytest.mark.parametrize(
    ("given", "D", "said"),
    [
        (lambda e: -e, 2, "opposite sign"),
        (lambda e: 0 * e, 2, "it was forgotten"),
        (lambda e: e / 2, 2, "a term is missing"),
        (lambda e: 2 * e, 2, "counted twice"),
        (lambda e: e + LOG_2PI, 2, "D/2 log 2π"),
        (lambda e: e - LOG_2PI / 2, 3, "1/2 log 2π"),
        (lambda e: e + 0.7, 3, "off by the constant 0.7"),
        (lambda e: e + np.sin(9 * e), 3, ""),
    ],
)
def test_patterns_are_recognised(given, D, said):
    expected = np.random.default_rng(0).standard_normal(20)
    found = cause_of(given(expected), expected, np.full(20, 1e-9), D)
    assert said in found and bool(said) == bool(found)


def test_a_region_is_recognised():
    x = np.random.default_rng(0).uniform(-6, 6, (60, 2))
    beyond = (np.abs(x) > 3).any(axis=1)
    expected = np.zeros(60)
    found = cause_of(np.where(beyond, 0.05, 0.0), expected, np.full(60, 1e-9), 2, x)
    assert found.startswith("only beyond ±2.81 (the first at 3.09): off by the constant 0.05")
    assert region_of(x[:, 1] < 0, x) == "only where feature 1 is negative"
    assert region_of(np.ones(60, dtype=bool), x) == ""
    assert "√(2π)" in named_constant(3 * np.log(2 * np.sqrt(2 * np.pi)), 3)


# ---- forms ---------------------------------------------------------------------------------------


class Object:
    """Somebody's flow, with a sampler that takes a seed."""

    features = 2

    def normalize(self, x):
        return half(x)

    def generate(self, u):
        return double(u)

    def log_prob(self, x):
        return density(x)

    def sample(self, n, seed=None):
        return 2 * np.random.default_rng(seed).standard_normal((n, 2))


def test_an_object_with_the_methods_of_a_flow_is_one():
    report = check_flow(Object(), level="quick")
    assert report.ok and "noise" in report.passed, f"\n{report}"
    assert report.subject.startswith("Object: 2 features")
    with pytest.raises(ValueError, match="an object with some of the methods.*check_flow"):
        check_flow(object())


def test_a_torch_module_with_the_methods_of_a_flow_is_one():
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        features = 2

        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.tensor(2.0))

        def normalize(self, x):
            return x / self.a, -2 * torch.log(self.a) * torch.ones(len(x), dtype=x.dtype)

    module = Module()
    report = check_flow(module, level="quick", base="normal")
    assert report.ok and "identities" in report.passed, f"\n{report}"
    assert module.a.dtype == torch.float32


def test_a_normal_base_gives_density_and_sampler():
    report = check_flow(normalize=half, generate=double, features=3, base="normal", level="quick")
    assert report.ok, f"\n{report}"
    assert {"identities", "noise", "agreement", "normalisation"} <= set(report.passed)


def test_allowed_may_be_a_word_an_order_or_a_matrix_with_columns_for_the_context():
    def chain(x):
        return np.stack([x[:, 0] + np.sin(x[:, 1]), x[:, 1]], axis=1), np.zeros(len(x))

    given = {"normalize": chain, "features": 2, "checks": ["dependency"], "level": "quick"}
    assert check_flow(allowed=[1, 0], **given).ok
    assert check_flow(allowed="triangular", **given).failed == ["dependency"]
    assert Functions(normalize=chain, features=3, allowed=[2, 0, 1]).allowed.tolist() == [
        [True, False, True],
        [True, True, True],
        [False, False, True],
    ]
    for wrong in ("square", [0, 0], np.ones((3, 3))):
        with pytest.raises(ValueError, match="allowed: expected"):
            check_flow(allowed=wrong, **given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": 0}, "features: expected the number"),
        ({"context": -1}, "context: expected"),
        ({"normalize": 3}, "normalize: expected a function, got int"),
        ({"base": "uniform"}, "base: expected 'normal' or a function"),
        ({"data": np.ones(3)}, "data: expected rows"),
        ({"data": "x"}, "data: expected real numbers"),
        ({"dtype": "f2"}, "dtype: expected float32 or float64, got 'f2'"),
        ({"dtype": "x"}, "dtype: expected float32 or float64, got 'x'"),
        ({"support": 3}, r"support: expected \(low, high\), got 3"),
        ({"support": (1, 0)}, r"support: expected \(low, high\), got \(1, 0\)"),
        ({"level": ["full"]}, "level: expected one of"),
        ({"seed": -1}, "seed: expected an integer of at least 0"),
        ({"seed": 1.5}, "seed: expected an integer"),
        ({"checks": "log_det"}, "checks: expected names among"),
        ({"checks": 5}, "checks: expected names among"),
        ({"expected_failures": 5}, "expected_failures: expected names among"),
        (
            {"backends": ["gpu"]},
            r"backends: expected names among auto, numpy, numba, got \['gpu'\]",
        ),
        ({"backends": "numpy"}, "backends: expected names among"),
        ({"time_limit": -1}, "time_limit: expected a number"),
        ({"time_limit": "x"}, "time_limit: expected a number"),
        ({"data": [[1.0, np.nan, 2.0]]}, "in row 0, feature 1"),
        ({"inverse": half}, "functions: expected names among .*'inverse'"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        check_flow(**honest(3, **changes))


def test_an_afnp_flow_says_itself_what_it_is():
    flow = afnp.maf(2, hidden=(4,), transforms=1)
    with pytest.raises(ValueError, match="allowed: an afnp flow says this itself"):
        check_flow(flow, allowed="triangular")
    assert check_flow(flow, features=2, checks=["pure"], level="quick").ok


# ---- over-claims, and the plugin -----------------------------------------------------------------


def test_the_closing_line_counts_what_the_checks_that_ran_catch():
    few = check_flow(afnp.maf(2, hidden=(4,)), checks=["pure"], level="quick").summary()
    assert "the checks that ran catch" in few and "planted in flows" in few
    plain = check_flow(honest(), level="quick").summary()
    assert "planted in plain functions" in plain


def test_a_check_is_found_by_its_file(monkeypatch):
    from afnp.verify.results import CHECKS as FOUND
    from afnp.verify.results import Result, check

    @check("C99")
    def always(subject, rng):
        return Result()

    monkeypatch.setitem(CHECKS, "always", FOUND.pop("always"))
    assert check_flow(honest(), checks=["always"], level="quick").passed == ["always"]


def test_every_check_has_a_file_of_its_name():
    import importlib

    for name in CHECKS:
        module = importlib.import_module(f"afnp.verify.checks.{name}")
        assert name in module.__all__


PLUGIN = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def run_plugin(folder, *options):
    """By its entry point where afnp is installed with one, by its name elsewhere."""
    found = any(entry.name == "afnp" for entry in metadata.entry_points(group="pytest11"))
    command = [*PLUGIN, *([] if found else ["-p", "afnp.verify.pytest_plugin"]), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_plugin_makes_a_test_of_every_check(tmp_path):
    (tmp_path / "ours.py").write_text(
        "import numpy as np\n"
        "def normalize(x):\n    return 2 * x, np.zeros(len(x))\n"
        "flow = {'normalize': normalize, 'features': 2}\n"
        "nothing = [1, 2]\n"
    )
    done = run_plugin(tmp_path, "--afnp-flow", "ours:flow", "--afnp-level", "quick", "-rA")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout and "ours:flow::log_det" in done.stdout
    assert "it was forgotten" in done.stdout and "needs generate" in done.stdout
    refused = run_plugin(tmp_path, "--afnp-flow", "ours:nothing")
    assert refused.returncode == 4
    assert (refused.stdout + refused.stderr).count("an object with some of the methods") == 1


def test_a_case_that_fails_explains_itself():
    wrong = honest(2, normalize=lambda x: (x / 2, np.zeros(len(x))))
    with pytest.raises(AssertionError, match="likely cause  always 0: it was forgotten"):
        cases(wrong, checks=["log_det"])[0]()
