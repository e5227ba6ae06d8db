"""The record of the checks on flows of other libraries, and the table that is made of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from afnp.verify import peers
from afnp.verify.peers import PEERS, Peer


def test_the_table_is_that_of_the_record_with_the_findings_below():
    written = peers.PATH.read_text(encoding="utf-8")
    table, mark, findings = written.partition(peers.FILED)
    assert table == peers.table(peers.read())
    assert mark and findings.count("\n- ") > 5


def test_the_record_is_of_these_flows_and_names_those_that_it_lacks():
    names, found = [peer.name for peer in PEERS], list(peers.read())
    assert len(set(names)) == len(names)
    assert found == [name for name in names if name in found] and len(found) > 40
    table = peers.table(peers.read())
    assert all(name in table for name in names if name not in found)


def doubling(D, C, H, T):
    return {"normalize": lambda x: (2 * x, np.full(len(x), T * np.log(2.0))), "features": D}


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Two flows, one of them with a wrong log-determinant; what runs leave, and how many checks."""
    pytest.importorskip("torch", reason="NO FLOW OF OTHERS WAS CHECKED: extra 'bench'")
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
