"""A disk that is full at any byte: the old file stays as it was, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager

import numpy as np
import pytest

import afnp

resource = pytest.importorskip("resource", reason="NO FULL DISK WAS TRIED: limits are POSIX's")


def flow_of(seed):
    flow = afnp.made(2, hidden=(3,))
    flow.theta = np.random.default_rng(seed).standard_normal(flow.theta.size)
    return flow


@contextmanager
def room_for(size):
    """The kernel cuts every file of this process at so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def saved_with_room(path, size, flow):
    """Save; return the error that it raised."""
    error = None
    with room_for(size):
        try:
            afnp.save(flow, path)
        except OSError as caught:
            error = caught
    return error


def tried(tmp_path, every, old):
    path, new = tmp_path / "m", flow_of(1)
    afnp.save(new, path)
    size = path.stat().st_size
    counts = {"refused": 0, "saved": 0}
    for room in sorted({*range(0, size + 2, every), size - 1, size, size + 1}):
        path.unlink(missing_ok=True)
        if old:
            afnp.save(flow_of(0), path)
        error = saved_with_room(path, room, new)
        if error is None:
            assert room >= size and np.array_equal(afnp.load(path).theta, new.theta)
        else:
            assert room < size
            assert (error.errno, error.filename) == (errno.EFBIG, str(path))
            assert path.exists() == old
            if old:
                assert np.array_equal(afnp.load(path).theta, flow_of(0).theta)
        assert os.listdir(tmp_path) == ["m"] * path.exists()
        counts["refused" if error else "saved"] += 1
    print(f"\na disk full at {sum(counts.values())} places of {size} bytes: {counts}")
    assert counts["saved"] == 2


@pytest.mark.parametrize("old", [False, True])
def test_full_at_some_bytes(tmp_path, old):
    tried(tmp_path, 61, old)


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_full_at_every_byte(tmp_path, old):
    tried(tmp_path, 1, old)


@pytest.mark.parametrize("room", [0, 100, 1000])
def test_a_checkpoint_that_finds_no_room_loses_no_old_one(tmp_path, room):
    """Training ends with an error that names the file; when there is room again, it goes on."""
    x = np.random.default_rng(0).standard_normal((60, 2))
    run = dict(batch_size=20, schedule="constant", progress=False)
    whole, flow, path = flow_of(0), flow_of(0), tmp_path / "c"
    afnp.fit(whole, x, epochs=4, **run)
    afnp.fit(flow, x, epochs=2, checkpoint=path, **run)
    before = path.read_bytes()
    assert len(before) > room
    with room_for(room), pytest.raises(OSError, match=str(path)):
        afnp.fit(flow, x, epochs=4, checkpoint=path, resume=True, **run)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["c"]
    again = flow_of(2)
    afnp.fit(again, x, epochs=4, checkpoint=path, resume=True, **run)
    assert np.array_equal(again.theta, whole.theta)
