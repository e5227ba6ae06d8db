"""afnp import: another library's torch file becomes a model, or one line says why it does not."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import afnp
from afnp.cli import command_line, main
from afnp.interop.torch_file import DOORS


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    """Run a command in a fresh folder; return code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        capsys.readouterr()
        try:
            code = main([str(a) for a in args])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return run


def test_every_door_can_be_named(capsys):
    for library in DOORS:
        chosen = ["import", "f.pt", "--maker", "a:b", "-o", "m.afnp", "--from", library]
        assert command_line().parse_args(chosen).library == library
    with pytest.raises(SystemExit):
        command_line().parse_args([*chosen[:-1], "pyro"])
    assert "invalid choice: 'pyro'" in capsys.readouterr().err


def test_without_torch_it_says_so(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "f.pt").write_bytes(b"")
    code, out, err = cli("import", "f.pt", "--maker", "a:b", "-o", "m.afnp")
    assert (code, out) == (2, "") and err.startswith("afnp: error: torch is not installed; pip")


# ---- with torch ----------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module with makers, and the parameters of what the first makes."""
    torch = pytest.importorskip("torch", reason="IMPORT WAS NOT TESTED: pip install torch zuko")
    zuko = pytest.importorskip("zuko", reason="IMPORT WAS NOT TESTED: pip install '.[zuko]'")
    torch.manual_seed(0)

    class Mine(zuko.flows.MAF):
        """A class of one's own, which says nothing of the library."""

    def make(kind=Mine, **options):
        return kind(3, 2, transforms=2, hidden_features=(8,), **options)

    module = SimpleNamespace(
        make=make,
        wider=lambda: zuko.flows.MAF(5),
        line=lambda: torch.nn.Linear(2, 2),
        array=lambda: np.ones(2),
        softly=lambda: make(activation=torch.nn.SiLU),
        needy=lambda width: make(),
        number=3,
    )
    monkeypatch.setitem(sys.modules, "mine", module)
    flow = make()
    torch.save(flow.state_dict(), tmp_path / "f.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "line.pt")
    torch.save({"epoch": 3}, tmp_path / "number.pt")
    (tmp_path / "text.pt").write_text("no torch file")
    (tmp_path / "table.pt").write_text("e,f\n1,2\n")
    spoiled = flow.state_dict() | {
        name: v * np.nan for name, v in list(flow.state_dict().items())[-1:]
    }
    torch.save(spoiled, tmp_path / "nan.pt")
    return flow


def test_a_model_is_written_that_scores_as_theirs(cli, mine, tmp_path):
    import torch

    command = ("import", "f.pt", "--maker", "mine:make", "-o", "m.afnp")
    code, out, err = cli(*command)
    assert (code, err) == (0, "")
    assert out == "f.pt: 3 features, context of 2, float32\nwrote m.afnp\n"
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    ours = afnp.load(tmp_path / "m.afnp").log_prob(x.numpy(), c.numpy())
    np.testing.assert_allclose(ours, mine(c).log_prob(x).detach().numpy(), rtol=1e-4, atol=1e-4)
    assert cli(*command)[0] == 2 and "--force overwrites it" in cli(*command)[2]
    assert cli(*command, "--force", "--from", "zuko")[0] == 0


OTHERS = {
    "nflows": lambda nflows: nflows.flows.MaskedAutoregressiveFlow(3, 8, 2, 1),
    "normflows": lambda normflows: normflows.NormalizingFlow(
        normflows.distributions.DiagGaussian(3, trainable=False),
        [normflows.flows.MaskedAffineAutoregressive(3, 8, num_blocks=1)],
    ),
}


@pytest.mark.parametrize("library", OTHERS)
def test_other_libraries_are_known_by_their_classes(cli, tmp_path, monkeypatch, library):
    torch = pytest.importorskip("torch", reason="IMPORT WAS NOT TESTED: pip install torch")
    theirs = pytest.importorskip(library, reason=f"IMPORT WAS NOT TESTED: pip install {library}")
    import_module(f"{library}.flows")
    torch.manual_seed(0)
    flow = OTHERS[library](theirs)
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(make=lambda: flow))
    torch.save(flow.state_dict(), tmp_path / "f.pt")
    code, out, err = cli("import", "f.pt", "--maker", "mine:make", "-o", "m.afnp")
    assert (code, err) == (0, ""), err
    assert afnp.load(tmp_path / "m.afnp").features == 3 and "3 features" in out


REFUSED = {
    "other parameters": ("f.pt", "mine:wider", "f.pt: does not fit what mine:wider makes;"),
    "no parameters": ("number.pt", "mine:make", "number.pt: expected tensors by name, as"),
    "no torch file": ("text.pt", "mine:make", "text.pt: expected tensors by name, as"),
    "a table": ("table.pt", "mine:make", "table.pt: expected tensors by name, as"),
    "gaps": ("nan.pt", "mine:make", "nan.pt: "),
    "a maker that wants more": ("f.pt", "mine:needy", "mine:needy: expected a function without"),
    "no file": ("missing.pt", "mine:make", "missing.pt: No such file"),
    "no maker": ("f.pt", "mine:nobody", "mine:nobody: mine has no 'nobody'"),
    "no function": ("f.pt", "mine:number", "mine:number: expected a function that makes"),
    "no module": ("f.pt", "mine:array", "mine:array: expected a torch module, got a ndarray"),
    "no library": (
        "line.pt",
        "mine:line",
        "--from: expected one of zuko, sbi, nflows, normflows, f",
    ),
    "no known part": ("f.pt", "mine:softly", "transform 0: cannot import a network with SiLU"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_said_in_one_line(cli, mine, tmp_path, case):
    path, maker, message = REFUSED[case]
    code, out, err = cli("import", path, "--maker", maker, "-o", "m.afnp")
    assert (code, out) == (2, "") and err.startswith(f"afnp: error: {message}"), err
    assert err.count("\n") == 1 and not (tmp_path / "m.afnp").exists()


def test_code_in_a_torch_file_is_not_run(cli, mine, tmp_path):
    import torch

    class Trap:
        def __reduce__(self):
            return (print, ("opened",))

    torch.save({"W": Trap()}, tmp_path / "trap.pt")
    code, out, err = cli("import", "trap.pt", "--maker", "mine:make", "-o", "m.afnp")
    assert (code, out) == (2, "") and "trap.pt: expected tensors by name" in err
    assert "Weights only load failed" in err and "trust" not in err and "\x1b" not in err


def test_one_that_differs_is_not_written(cli, mine, tmp_path, monkeypatch):
    wrong = afnp.univariate.ClippedAffine.generate
    monkeypatch.setattr(
        afnp.univariate.ClippedAffine, "generate", lambda *args: (wrong(*args)[0] + 1, 0)
    )
    code, out, err = cli("import", "f.pt", "--maker", "mine:make", "-o", "m.afnp")
    assert (code, out) == (2, "") and "they part by" in err
    assert not (tmp_path / "m.afnp").exists()


def test_the_wrong_library_is_told(cli, mine, tmp_path):
    pytest.importorskip("nflows", reason="IMPORT WAS NOT TESTED: pip install nflows")
    command = ("import", "f.pt", "--maker", "mine:make", "-o", "m.afnp", "--from", "nflows")
    code, out, err = cli(*command)
    assert (code, out) == (2, "") and "flow: expected a Flow of nflows, got Mine" in err


def test_gaps_are_found_by_name(cli, mine, tmp_path):
    err = cli("import", "nan.pt", "--maker", "mine:make", "-o", "m.afnp")[2]
    assert f"{list(mine.state_dict())[-1]} has values that are not finite" in err
