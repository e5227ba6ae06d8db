"""Model files and checkpoints under a coverage-guided fuzzer (atheris).

``python fuzz.py MODE FOLDER [libFuzzer's options]`` with MODE model or checkpoint, and FOLDER for
the corpus, which is made of sound files of every kind, always the same. A mutation changes header
or arrays, and the checksum is set right again, so that it reaches what lies behind. The only ends
are a ModelFileError, or something that is what its file says.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np

try:
    import atheris
except ImportError:  # pytest looks into this file for doctests
    atheris = None

PARTS = ["afnp.files", "afnp.train.checkpoint", "afnp.inputs"]

with atheris.instrument_imports(include=PARTS) if atheris else nullcontext():
    from corruption import CONSTANTS, RAW, Raw, at, packed, paths, replaced, unpacked
    from models import MODELS

    from afnp import files
    from afnp.train import checkpoint


LONGEST = 2**14
"""Bytes of an input: libFuzzer cuts longer ones, and their checksum with them."""

RECIPE = {"epochs": 3, "seed": 5}
STEPS = 3


def models(folder):
    """Write a sound model of every kind."""
    for k, build in enumerate(MODELS.values()):
        files.save(build(), folder / f"model{k}")


def states():
    return {name: np.zeros(7) for name in ("theta", "best", "m", "v")}


def checkpoints(folder):
    """Write sound checkpoints: at the start, in an epoch, after it, and at the end."""
    for k, (epoch, step) in enumerate([(0, 1), (1, 2), (2, 0), (3, 0)]):
        history = checkpoint.History([1.5] * epoch, [2.5] * epoch, [1e-3] * epoch)
        history.best_epoch = 0 if epoch else None
        run = checkpoint.Run(epoch, step, epoch * STEPS + step, 0.5 * step, {}, history)
        run.rng_state = np.random.default_rng(RECIPE["seed"]).bit_generator.state
        checkpoint.save(str(folder / f"checkpoint{k}"), run, RECIPE, states())


def mutated(content, most, seed):
    """Change the header's text or its fields, or the arrays; set the checksum right."""
    rng = random.Random(seed)
    try:
        header, payload = unpacked(content)
    except Exception:
        return atheris.Mutate(content, most)
    choice = rng.random()
    if choice < 0.2:
        text = atheris.Mutate(json.dumps(header).encode(), most)
        return packed(text, payload)[:most]
    if choice < 0.3 and payload:
        return packed(header, atheris.Mutate(payload, len(payload)))[:most]
    for _ in range(rng.randint(1, 3)):
        header = one_field(header, rng)
    try:
        return packed(header, payload)[:most]
    except (TypeError, ValueError):
        return content


def one_field(header, rng):
    places = list(paths(header))
    path = rng.choice(places)
    value = at(header, path)
    if not path or isinstance(value, Raw):
        return header
    kind = rng.random()
    if kind < 0.1:
        return replaced(header, path)
    if kind < 0.3:
        other = at(header, rng.choice(places))
        return replaced(header, path, other)
    if kind < 0.6 and isinstance(value, int | float) and not isinstance(value, bool):
        factor = rng.choice([2, -1, 2**31, 10**9, 0.5 if abs(value) < 1e300 else 2])
        return replaced(header, path, value * factor + rng.choice([-1, 0, 1]))
    if kind < 0.7 and isinstance(value, list) and value:
        return replaced(header, path, value * rng.randint(2, 50))
    return replaced(header, path, rng.choice([*CONSTANTS, *map(Raw, RAW)]))


def try_model(path):
    try:
        model = files.load(path)
    except files.ModelFileError:
        return
    header, payload = unpacked(path.read_bytes())
    assert model.config() == header["flow"] and np.isfinite(model.theta).all()
    assert model.theta.tobytes() == payload


def try_checkpoint(path):
    arrays = states()
    try:
        run = checkpoint.load(str(path), RECIPE, arrays, STEPS, True)
    except files.ModelFileError:
        return
    assert run.adam_t == run.epoch * STEPS + run.step <= RECIPE["epochs"] * STEPS
    assert all(np.isfinite(a).all() for a in arrays.values())


def main():
    mode, folder = sys.argv.pop(1), Path(sys.argv.pop(1))
    {"model": models, "checkpoint": checkpoints}[mode](folder)
    for path in folder.iterdir():
        if path.stat().st_size > LONGEST:
            raise RuntimeError(f"{path}: would be cut to {LONGEST} bytes, and never be tried")
    attempt = {"model": try_model, "checkpoint": try_checkpoint}[mode]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as place:
        path = Path(place) / "m"

        def one(content):
            path.write_bytes(content)
            attempt(path)

        atheris.Setup([*sys.argv, f"-max_len={LONGEST}", str(folder)], one, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
