"""Checkpoints that lie: a ModelFileError, or the result of the true one."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest
from corruption import alterations, packed, unpacked

import afnp
from afnp.files import ModelFileError
from afnp.train import Adam

ONLY_THE_FILE_KNOWS = {"loss_sum", "rng_state", "train_loss", "val_loss", "learning_rate"}
"""Fields of which another sound value gives another sound run: still nothing that is not finite."""

RUN = dict(epochs=3, batch_size=20, learning_rate=0.02, seed=5, progress=False)

RUNS = {
    "in the middle of the second epoch": (5, dict(patience=2), True),
    "after the first epoch, without validation": (3, dict(schedule="constant"), False),
    "at the end": (9, {}, True),
    "in the first epoch": (1, dict(clip=math.inf), True),
}
"""The step in which it is interrupted, further options, and whether there are validation rows."""


def rows(seed=0):
    z = np.random.default_rng(seed).standard_normal((60, 2))
    return np.stack([z[:, 0], z[:, 0] ** 2 / 2 + 0.3 * z[:, 1]], axis=1)


def go_on(path, name):
    """Start, or go on from the checkpoint if it is there."""
    _, options, validated = RUNS[name]
    flow = afnp.made(2, hidden=(3,))
    x_val = rows(1) if validated else None
    history = afnp.fit(flow, rows(), x_val, checkpoint=path, resume=True, **RUN, **options)
    return flow, history


def result(flow, history):
    losses = history.train_loss, history.val_loss, history.learning_rate, history.best_epoch
    return flow.theta.tobytes(), *losses


@pytest.fixture(scope="module", params=RUNS)
def sound(tmp_path_factory, request):
    """The name of a run, its checkpoint, and what comes of it."""
    name = request.param
    path = tmp_path_factory.mktemp("checkpoint") / "c"
    step = Adam.step

    def interrupted(self, *args):
        step(self, *args)
        if self.t == RUNS[name][0]:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Adam, "step", interrupted)
        go_on(path, name)
    signal.signal(signal.SIGINT, before)
    content = path.read_bytes()
    return name, content, result(*go_on(path, name))


def outcome(path, name, field, content, expected):
    """Go on from a file; return how it ended, and fail where that is none of the right ends."""
    path.write_bytes(content)
    try:
        flow, history = go_on(path, name)
    except ModelFileError as error:
        assert str(path) in str(error)
        assert path.read_bytes() == content
        return "refused"
    if result(flow, history) == expected:
        return "equal"
    assert ONLY_THE_FILE_KNOWS & set(field), field
    assert np.isfinite(flow.theta).all()
    assert all(map(math.isfinite, history.train_loss + history.val_loss + history.learning_rate))
    return "another run"


def tried(sound, tmp_path, every):
    name, content, expected = sound
    header, payload = unpacked(content)
    counts, paths = Counter(), set()
    for k, (path, change, text) in enumerate(alterations(header)):
        if k % every:
            continue
        altered = packed(text, payload)
        try:
            end = outcome(tmp_path / "c", name, path, altered, expected)
        except (Exception, KeyboardInterrupt) as error:
            raise AssertionError(f"{path} {change}: {type(error).__name__}: {error}") from error
        counts[end] += 1
        paths.add(path)
    print(f"\n{name}: {sum(counts.values())} altered headers, {len(paths)} fields: {dict(counts)}")
    assert counts["another run"] < 0.05 * counts["refused"]
    return counts


def test_some_altered_headers(sound, tmp_path):
    assert sum(tried(sound, tmp_path, every=53).values()) > 40


@pytest.mark.slow
def test_every_altered_header(sound, tmp_path):
    assert sum(tried(sound, tmp_path, every=1).values()) > 2000


ARRAYS = ("theta", "best", "m", "v")


def spoiled(arrays):
    """Yield what was done to arrays, and the arrays."""
    for name in ARRAYS:
        values = arrays[name]
        for value in (np.nan, np.inf, -np.inf):
            for k in (0, len(values) - 1):
                new = values.copy()
                new[k] = value
                yield f"{name}[{k}] = {value}", {**arrays, name: new}
        for new in (
            values[:-1],
            np.append(values, 0),
            values[None],
            values[:, None],
            np.float32(values),
            values.astype(np.int64),
            np.zeros(0),
            np.zeros((0, 7)),
        ):
            yield f"{name} as {new.shape} {new.dtype}", {**arrays, name: new}
        yield f"{name} left out", {key: a for key, a in arrays.items() if key != name}
        yield f"{name} renamed", {key.replace(name, name * 2): a for key, a in arrays.items()}
    yield "one too many", {**arrays, "w": arrays["m"]}
    yield "v below 0", {**arrays, "v": -arrays["v"] - 1}


def test_spoiled_arrays(sound, tmp_path):
    name, content, expected = sound
    header, payload = unpacked(content)
    size = len(payload) // (8 * len(ARRAYS))
    values = np.frombuffer(payload).reshape(len(ARRAYS), size)
    count = 0
    names = [entry[0] for entry in header["arrays"]]
    for change, arrays in spoiled(dict(zip(names, values, strict=True))):
        listing = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
        altered = packed(
            {**header, "arrays": listing}, b"".join(a.tobytes() for a in arrays.values())
        )
        assert outcome(tmp_path / "c", name, (), altered, expected) == "refused", change
        count += 1
    print(f"\n{count} checkpoints with spoiled arrays, all refused")
