"""Runs under bad luck: a second run in the same checkpoint, and clocks that jump."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import afnp

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX locks and signals")

RUN = dict(batch_size=20, progress=False)

ENDLESS = """
import sys, numpy as np, afnp
x = np.random.default_rng(0).standard_normal((60, 2))
flow = afnp.made(2, hidden=(3,))
afnp.fit(flow, x, epochs=10**7, batch_size=20, progress=False, checkpoint=sys.argv[1], resume=True)
"""


def rows():
    return np.random.default_rng(0).standard_normal((60, 2))


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


@posix
def test_a_second_run_in_one_checkpoint_is_refused(tmp_path):
    """Also by another path; the first goes on; when it is killed, nothing is in the way."""
    path = tmp_path / "c"
    (tmp_path / "link").symlink_to("c")
    first = subprocess.Popen([sys.executable, "-c", ENDLESS, path])
    try:
        wait_for(path)
        for name in ("c", "link"):
            with pytest.raises(ValueError, match=f"{name}: another run is writing it"):
                afnp.fit(
                    afnp.made(2, hidden=(3,)),
                    rows(),
                    epochs=1,
                    checkpoint=tmp_path / name,
                    resume=True,
                    **RUN,
                )
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    flow = afnp.made(2, hidden=(3,))
    other = dict(epochs=1, checkpoint=tmp_path / "other", **RUN)
    afnp.fit(flow, rows(), **other)
    assert {p.name for p in tmp_path.iterdir()} == {"c", "link", "other"}
    with pytest.raises(ValueError, match="epochs differs"):
        afnp.fit(flow, rows(), resume=True, **{**other, "checkpoint": path})


@posix
def test_a_second_run_in_the_same_process_is_refused(tmp_path, monkeypatch):
    flow, step, refused = afnp.made(2, hidden=(3,)), afnp.train.Adam.step, []
    run = dict(epochs=2, checkpoint=tmp_path / "c", **RUN)

    def stepping(self, *args):
        if not refused:
            refused.append(None)
            with pytest.raises(ValueError, match="another run is writing it"):
                afnp.fit(afnp.made(2, hidden=(3,)), rows(), **run)
        step(self, *args)

    monkeypatch.setattr(afnp.train.Adam, "step", stepping)
    afnp.fit(flow, rows(), **run)
    assert refused and os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("clock", ["perf_counter", "time", "monotonic"])
@pytest.mark.parametrize("jump", [-1e9, -1e-3, 1e9, 0.0])
def test_clocks_that_jump(tmp_path, monkeypatch, clock, jump):
    """Time set back or forward changes no number of the run, and no checkpoint is lost."""
    true, offset = getattr(time, clock), [0.0]

    def jumping():
        offset[0] += jump
        return true() + offset[0]

    plain = afnp.made(2, hidden=(3,))
    expected = afnp.fit(plain, rows(), epochs=4, **RUN)
    flow = afnp.made(2, hidden=(3,))
    with monkeypatch.context() as patch:
        patch.setattr(time, clock, jumping)
        history = afnp.fit(flow, rows(), epochs=4, checkpoint=tmp_path / "c", **RUN)
    assert np.array_equal(flow.theta, plain.theta) and history.train_loss == expected.train_loss
    assert 0 <= history.seconds and math.isfinite(history.seconds)
    again = afnp.made(2, hidden=(3,))
    resumed = afnp.fit(again, rows(), epochs=4, checkpoint=tmp_path / "c", resume=True, **RUN)
    assert np.array_equal(again.theta, plain.theta) and resumed.seconds == history.seconds


@posix
@pytest.mark.parametrize("stamp", [0, 2**33, -(2**31)])
def test_files_from_the_past_and_the_future(tmp_path, stamp):
    """What counts is what a file holds, not when it says that it was written."""
    path = tmp_path / "c"
    run = dict(epochs=2, checkpoint=path, **RUN)
    flow, again = afnp.made(2, hidden=(3,)), afnp.made(2, hidden=(3,), seed=1)
    afnp.fit(flow, rows(), **run)
    os.utime(path, (stamp, stamp))
    (tmp_path / f".afnp-{'0' * 16}.tmp").write_bytes(b"")
    os.utime(tmp_path / f".afnp-{'0' * 16}.tmp", (stamp, stamp))
    afnp.fit(again, rows(), resume=True, **run)
    assert np.array_equal(flow.theta, again.theta)
    afnp.save(flow, path)
    assert os.listdir(tmp_path) == ["c"]
