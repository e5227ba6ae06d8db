"""The record of the checks on flows of other libraries, and the table that is made of it."""

from __future__ import annotations

import doctest
import json
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

from afnp.verify import peers
from afnp.verify.peers import PEERS, Peer
from afnp.verify.results import Result

PARTS = dict(
    part.split("\n", 1)
    for part in peers.PATH.read_text(encoding="utf-8").partition(peers.FILED)[2].split("\n### ")[1:]
)
"""What is to be filed, by library and release."""


def test_the_table_is_that_of_the_record_with_the_findings_below():
    written = peers.PATH.read_text(encoding="utf-8")
    table, mark, findings = written.partition(peers.FILED)
    assert table == peers.table(peers.read())
    assert mark and findings.count("\n**") > 20
    releases = dict(pair for entry in peers.read().values() for pair in entry["releases"].items())
    told = dict(heading.split() for heading in PARTS)
    assert {name: told[name] for name in told.keys() & releases} == {
        name: releases[name] for name in told.keys() & releases
    }


@pytest.fixture
def as_it_was():
    """Put back what snippets set for a whole process."""
    torch, jax = (sys.modules.get(name) for name in ("torch", "jax"))
    dtype, wide = torch and torch.get_default_dtype(), jax and jax.config.jax_enable_x64
    yield
    if torch := sys.modules.get("torch"):
        torch.set_default_dtype(dtype or torch.float32)
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_enable_x64", bool(wide))


@pytest.mark.parametrize("release", PARTS)
def test_findings_are_what_their_snippets_print(release, as_it_was):
    package, number = release.split()
    try:
        found = version(package)
    except PackageNotFoundError:
        pytest.skip(f"NOT TESTED: pip install {package}=={number}")
    if found != number:
        pytest.skip(f"NOT TESTED: {package} {found} is installed, the findings are of {number}")
    told = doctest.DocTestParser().get_doctest(
        PARTS[release].replace("```", "\n"), {}, release, str(peers.PATH), 0
    )
    tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(told)
    assert tried.attempted > 3 and not tried.failed


def test_the_record_is_of_these_flows_and_names_those_that_it_lacks():
    names, found = [peer.name for peer in PEERS], list(peers.read())
    assert len(set(names)) == len(names)
    assert found == [name for name in names if name in found] and len(found) > 40
    table = peers.table(peers.read())
    assert all(name in table for name in names if name not in found)


def test_what_is_told_of_an_exception_has_no_paths():
    trace = 'Traceback (most recent call last):\n  File "/home/me/f.py", line 1, in f\n    g()\n'
    reason = f"raised ValueError: in a callback: {trace}lib.DeepError: 5000 steps. Try more."
    said = peers._said(Result("edges", "C14", "failed", reason))
    assert said == "raised ValueError: in a callback: lib.DeepError: 5000 steps"


def doubling(D, C, H, T):
    return {"normalize": lambda x: (2 * x, np.full(len(x), T * np.log(2.0))), "features": D}


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Two flows, one of them with a wrong log-determinant; what runs leave, and how many checks."""
    monkeypatch.setitem(peers.PACKAGES, "house", ("numpy",))
    flows = [Peer("house", "double", doubling, transforms=T) for T in (4, 1)]
    asked = []
    check = peers.check_peer
    monkeypatch.setattr(
        peers, "check_peer", lambda peer: asked.append(peer.transforms) or check(peer)
    )

    def run(again=""):
        asked.clear()
        path = tmp_path / "peers.json"
        peers.run(again, path, flows, progress=False)
        return json.loads(path.read_text()), (tmp_path / "PEERS.md").read_text(), list(asked)

    return run


def test_a_run_takes_up_where_it_ended(checked):
    record, table, asked = checked()
    assert asked == [4, 1]
    right, wrong = record.values()
    assert right["failed"] == {} and set(wrong["failed"]) == {"log_det"}
    assert "**log_det**: the log-determinant is not that of the Jacobian: error" in table
    assert f"numpy {np.__version__}" in table
    assert checked() == (record, table, [])
    assert checked("T = 1")[2] == [1]
