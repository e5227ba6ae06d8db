"""Files of data that lie: a ValueError with the file's name, or numbers that are all there."""

from __future__ import annotations

import gzip
import io
import random
import struct
import wave
import zipfile
from collections import Counter

import numpy as np
import pytest

from afnp import data
from afnp.data.idx import read_idx
from afnp.data.shipped import wav

TABLE = np.array([[1.0, 2.5], [-3.0, 4e-3], [5.0, 6.0]])


def npy():
    stream = io.BytesIO()
    np.save(stream, TABLE)
    return stream.getvalue()


def in_an_archive(content, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def sound():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(range(40)))
    return stream.getvalue()


def idx():
    return bytes([0, 0, 8, 2]) + struct.pack(">II", 2, 3) + bytes(range(6))


CSV = "a,b\n1,2.5\n-3,4e-3\n5,6\n"
FILES = {
    "t.npy": (npy, data.read_table),
    "t.npz": (lambda: in_an_archive(npy()), data.read_table),
    "t.csv": (CSV.encode, data.read_table),
    "t.wav": (sound, lambda path: wav(path)[0]),
    "t.idx": (idx, read_idx),
    "t.idx.gz": (lambda: gzip.compress(idx(), mtime=0), read_idx),
}
"""How a sound file is made, and what reads it."""

PIECES = [
    *(bytes([b]) for b in b"(){}[]'\"\\\n\r\t,;:#%+-.eE_0123456789 \0\xff\x1a"),
    *(b"True", b"None", b"nan", b"-inf", b"1e999", b"1_0", b"<f8", b"|O", b"'''", b"(" * 5000),
    *("\ufeff".encode(), "１".encode(), b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 16),
]


def mutated(content, rng):
    """One to four edits: a piece put in, in the place of some bytes or of none."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice([0, 0, 1, 1, 4, 30]))
        content = content[:start] + rng.choice(PIECES) + content[end:]
    return content


def spoiled(name, rng):
    """Return an altered file; of a compressed one, often what is inside is altered."""
    content = FILES[name][0]()
    if name == "t.npz":
        inside, method = npy(), rng.choice(METHODS)
        if rng.random() < 0.5:
            return in_an_archive(mutated(inside, rng), method)
        content = in_an_archive(inside, method)
    if name == "t.idx.gz" and rng.random() < 0.5:
        return gzip.compress(mutated(idx(), rng), mtime=0)
    return mutated(content, rng)


def tried(name, count, tmp_path):
    path, read, rng, counts = tmp_path / name, FILES[name][1], random.Random(0), Counter()
    for k in range(count):
        path.write_bytes(spoiled(name, rng))
        try:
            x = read(path)
        except ValueError as error:
            assert str(path) in str(error), (k, error)
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"number {k}: {type(error).__name__}: {error}") from error
        else:
            assert np.isfinite(x).all(), k
            counts["read"] += 1
    print(f"\n{name}: {count} files, {dict(counts)}")
    return counts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_some_altered_files(name, tmp_path):
    assert tried(name, 300, tmp_path)["refused"] > 30


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_many_altered_files(name, tmp_path):
    assert tried(name, 20_000, tmp_path)["refused"] > 2000
