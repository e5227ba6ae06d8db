"""safetensors: whole flows there and back, and nothing built from what is no flow."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

import afnp

pytest.importorskip("safetensors", reason="SAFETENSORS IS MISSING: pip install '.[safetensors]'")

from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from afnp import cli as command
from afnp import files
from afnp.files import ModelFileError
from afnp.interop import safetensors as door
from afnp.transforms import Permutation

FLOWS = {
    "maf": lambda: afnp.maf(3, hidden=(8,), transforms=2, order="random"),
    "float32": lambda: afnp.realnvp(4, hidden=(8,), transforms=2, dtype="float32"),
    "spline": lambda: afnp.nsf(3, hidden=(8,), transforms=2, context=2, between="lu"),
    "standardised": lambda: afnp.made(2, hidden=(4,), preprocess=afnp.preprocessing(ROWS)),
    "attention": lambda: afnp.tarflow(4, width=8, heads=2, blocks=1, transforms=1),
}
ROWS = np.random.default_rng(0).standard_normal((50, 2)) + 7


@pytest.fixture(params=FLOWS)
def flow(request):
    flow = FLOWS[request.param]()
    flow.theta = np.random.default_rng(1).standard_normal(flow.theta.size) / 4
    return flow


def test_there_and_back_to_the_last_bit(flow, tmp_path):
    path = tmp_path / "f.safetensors"
    door.save(flow, path)
    again = door.load(path)
    assert again.config() == flow.config() and again.dtype == flow.dtype
    assert (again.theta == flow.theta).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_flow_without_parameters_comes_back(dtype, tmp_path):
    door.save(afnp.Flow([Permutation([1, 0])], dtype=dtype), tmp_path / "f.safetensors")
    assert door.load(tmp_path / "f.safetensors").dtype == dtype


def test_others_read_the_arrays_by_name(flow, tmp_path):
    door.save(flow, tmp_path / "f.safetensors")
    arrays = load_file(tmp_path / "f.safetensors")
    parts = flow.split(flow.theta)
    expected = {f"{k}.{name}": a for k, p in enumerate(parts) for name, a in p.items()}
    assert set(arrays) == set(expected)
    assert all((arrays[name] == a).all() for name, a in expected.items())


def test_any_bit_that_changes_is_seen(tmp_path):
    flow, path = afnp.made(2, hidden=(4,)), tmp_path / "f.safetensors"
    door.save(flow, path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            same = door.load(path)
        except afnp.ModelFileError:
            continue
        assert (same.theta == flow.theta).all() and same.config() == flow.config()


def foreign(metadata=None, **arrays):
    return serialize(arrays, metadata)


FLOW = json.dumps(afnp.made(2, hidden=(4,)).config())
BROKEN = {
    "nothing": b"",
    "no safetensors": b"{}" * 40,
    "no metadata": foreign(a=np.zeros(3)),
    "another's": foreign({"format": "pt"}, a=np.zeros(3)),
    "too few numbers": foreign({"afnp": FLOW, "sha256": ""}, a=np.zeros(3)),
    "no configuration": foreign({"afnp": "[1]", "sha256": ""}, a=np.zeros(3)),
    "twice": (26).to_bytes(8, "little") + b'{"a":1,"a":1,"__metadata_}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_flow_is_refused(case, tmp_path):
    path = tmp_path / "f.safetensors"
    path.write_bytes(BROKEN[case])
    said = r"^\S*f\.safetensors: not a flow that afnp wrote: "
    if case in ("no metadata", "another's"):
        said += "expected its configuration in the metadata 'afnp', there is none"
    with pytest.raises(afnp.ModelFileError, match=said):
        door.load(path)


def test_an_altered_file_is_refused_by_its_name(tmp_path):
    path = tmp_path / "f.safetensors"
    door.save(FLOWS["maf"](), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(afnp.ModelFileError, match=r"^\S*f\.safetensors: .* the checksum does not"):
        door.load(path)


def test_arrays_of_other_names_are_refused(tmp_path):
    flow = afnp.made(2, hidden=(4,))
    door.save(flow, tmp_path / "f.safetensors")
    arrays = load_file(tmp_path / "f.safetensors")
    renamed = {f"x{name}": a for name, a in arrays.items()}
    (tmp_path / "g").write_bytes(foreign({"afnp": FLOW, "sha256": ""}, **renamed))
    with pytest.raises(afnp.ModelFileError, match="expected the arrays 0.W"):
        door.load(tmp_path / "g")


def test_nothing_is_written_of_what_could_not_be_read(tmp_path):
    flow = afnp.made(2, hidden=(4,))
    flow.theta[3] = np.nan
    with pytest.raises(ValueError, match="entry 3 is not finite"):
        door.save(flow, tmp_path / "f.safetensors")
    assert not list(tmp_path.iterdir())


def test_arrays_in_fortrans_order_are_written_as_they_are(tmp_path, monkeypatch):
    """Their writer takes the bytes as they lie in memory."""
    flow = FLOWS["maf"]()
    turned = {name: np.asfortranarray(a) for name, a in flow.parameters.items()}
    assert any(not a.flags.c_contiguous for a in turned.values())
    monkeypatch.setattr(type(flow), "parameters", turned)
    door.save(flow, tmp_path / "f.safetensors")
    monkeypatch.undo()
    assert (door.load(tmp_path / "f.safetensors").theta == flow.theta).all()


def test_the_name_says_the_format(tmp_path):
    flow, path = FLOWS["maf"](), tmp_path / "f.safetensors"
    afnp.save(flow, path)
    assert set(load_file(path)) == set(flow.parameters)
    assert (afnp.load(bytes(path)).theta == flow.theta).all()
    with pytest.raises(ValueError, match=r"afnp\.interop\.safetensors\.save writes such files"):
        files.save(flow, path)
    with pytest.raises(ModelFileError, match=r"afnp\.interop\.safetensors\.load reads such files"):
        files.load(path)


def ensemble():
    return afnp.FlowEnsemble(
        [afnp.maf(2, hidden=(4,), seed=0), afnp.nsf(2, hidden=(5,), transforms=1, seed=1)]
    )


def test_ensembles_have_their_members_arrays_by_name(tmp_path):
    several, path = ensemble(), tmp_path / "f.safetensors"
    several.flows[1].columns = several.flows[0].columns = ["a", "b"]
    several = afnp.FlowEnsemble(several.flows)
    afnp.save(several, path)
    arrays = load_file(path)
    for m, flow in enumerate(several.flows):
        for name, a in flow.parameters.items():
            assert (arrays.pop(f"flows.{m}.{name}") == a).all()
    assert not arrays
    again = afnp.load(path)
    assert type(again) is afnp.FlowEnsemble and again.config() == several.config()
    assert (again.theta == several.theta).all() and again.columns == ("a", "b")


def test_members_that_changed_places_are_refused(tmp_path):
    several, path = ensemble(), tmp_path / "f.safetensors"
    afnp.save(several, path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    turned = {f"flows.{1 - int(name[6])}{name[7:]}": a for name, a in load_file(path).items()}
    path.write_bytes(serialize(turned, metadata))
    with pytest.raises(ModelFileError, match="not a flow that afnp wrote: expected the arrays"):
        afnp.load(path)
    several.flows[1].theta[2] = np.inf
    with pytest.raises(ValueError, match="entry 2 is not finite"):
        afnp.save(several, path)


def test_flows_alone_come_in_it_and_from_files_alone(tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(ValueError, match="flow: expected a Flow or FlowEnsemble, got DiscreteMADE"):
        afnp.save(afnp.DiscreteMADE(2, hidden=(4,)), path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="f.safetensors"):
        afnp.load(path)
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="expected a regular file"):
        afnp.load(path)


def test_the_command_line_takes_it(tmp_path):
    path = tmp_path / "f.safetensors"
    assert command.main(["fit", "two_moons", "-o", str(path), "--epochs", "1"]) == 0
    assert command.main(["sample", str(path), "-n", "3", "-o", str(tmp_path / "s.csv")]) == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) >= 3


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.delitem(sys.modules, "afnp.interop.safetensors")
    with pytest.raises(ImportError, match=r"pip install 'afnp\[safetensors\]'"):
        afnp.save(FLOWS["maf"](), tmp_path / "f.safetensors")
