r"""Files: one safe container for models and checkpoints, without pickle, written atomically.

The container, all integers little-endian:

====================  =====================================================================================
bytes                 what
====================  =====================================================================================
0..7                  magic ``b"afnp\r\n\x1a\n"`` (a text-mode transfer or a foreign file is seen at
once) 8..11                 format version, uint32 12..15                header length n, uint32, at
most 16 MiB 16..16+n-1            header: JSON object in UTF-8, with ``kind``, ``arrays`` (list of
[name, dtype, shape],
                      dtype one of ``<f4 <f8 <i8``) and whatever the kind adds
then                  the arrays, one after another, C order
last 32               SHA-256 of everything before
====================  =====================================================================================

The file's size follows from the header, and is compared before anything is read into memory. A
model's header carries the flow's configuration; masks are recomputed from it, never loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from afnp.discrete import MODELS
from afnp.flow import Flow

__all__ = ["ModelFileError", "load", "read", "save", "write", "write_bytes"]

MAGIC, VERSION, MAX_HEADER, DIGEST = b"afnp\r\n\x1a\n", 1, 2**24, 32
DTYPES, MAX_AXES = ("<f4", "<f8", "<i8"), 32


class ModelFileError(ValueError):
    """A model file or checkpoint that cannot be used; the message says what is wrong."""


def write(path: str | os.PathLike, kind: str, header: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a container: temporary file in the same folder, fsync, replace, fsync of the folder.

    A reader, or a crash at any moment, finds the old file or the new one, never half of one.

    Parameters
    ----------
    path : path
    kind : str
        "model" or "checkpoint".
    header : dict
        Plain JSON values; non-finite numbers are refused.
    arrays : dict of str to array
        float32, float64 or int64.

    Raises
    ------
    ValueError
        If ``read`` could not read it again: another dtype, a number that is not finite, a header
        above 16 MiB.
    """
    plain = {
        name: np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C")
        for name, a in arrays.items()
    }
    listing = [[name, a.dtype.str, list(a.shape)] for name, a in plain.items()]
    for entry in listing:
        _bytes(entry)
    text = json.dumps({**header, "kind": kind, "arrays": listing}, allow_nan=False).encode()
    if len(text) > MAX_HEADER:
        raise ValueError(f"header: expected at most {MAX_HEADER} bytes, got {len(text)}")
    content = b"".join(
        [
            MAGIC,
            struct.pack("<II", VERSION, len(text)),
            text,
            *(a.tobytes() for a in plain.values()),
        ]
    )
    write_bytes(Path(path), content + hashlib.sha256(content).digest())


def write_bytes(path: Path, content: bytes) -> None:
    """Put bytes in a file so that a reader finds the old ones or the new ones, never half; keep mode and link."""
    path = Path(os.path.realpath(path))
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def read(path: str | os.PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read a container that ``write`` made; return its header and arrays.

    Raises
    ------
    ModelFileError
        If the file is foreign, of another version or kind, truncated, oversized or altered.
    OSError
        If it cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(16)
        if len(start) < 16 or start[:8] != MAGIC:
            raise ModelFileError(
                f"{path}: not an afnp file (it does not begin with the afnp magic bytes)"
            )
        version, length = struct.unpack("<II", start[8:])
        if version != VERSION:
            raise ModelFileError(
                f"{path}: format version {version}; this afnp reads version {VERSION}"
            )
        if length > min(MAX_HEADER, size):
            raise ModelFileError(
                f"{path}: header of {length} bytes in a file of {size}; truncated or altered"
            )
        text = file.read(length)
        header = _header(path, text)
        expected = 16 + length + sum(_bytes(entry) for entry in header["arrays"]) + DIGEST
        if size != expected:
            fault = "truncated" if size < expected else "oversized"
            raise ModelFileError(f"{path}: {fault}: expected {expected} bytes, got {size}")
        payload = file.read(expected - 16 - length - DIGEST)
        digest = hashlib.sha256(start + text)
        digest.update(payload)
        if digest.digest() != file.read(DIGEST):
            raise ModelFileError(f"{path}: altered: the checksum does not match the contents")
    if header.get("kind") != kind:
        raise ModelFileError(f"{path}: expected a {kind}, got a {header.get('kind')}")
    return header, dict(_arrays(header["arrays"], payload))


def _header(path, text: bytes) -> dict:
    try:
        header = json.loads(text)
        names = [entry[0] for entry in header["arrays"]]
        sound = len(set(names)) == len(names) and all(
            _bytes(entry) >= 0 for entry in header["arrays"]
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        sound = False
    if not sound:
        raise ModelFileError(f"{path}: the header is not readable; truncated or altered")
    return header


def _bytes(entry: list) -> int:
    """Return how many bytes an array of the listing takes; raise ValueError where the entry makes no sense."""
    _, dtype, shape = entry
    sound = (
        isinstance(shape, list)
        and len(shape) <= MAX_AXES
        and all(type(n) is int and n >= 0 for n in shape)
    )
    if dtype not in DTYPES or not sound or math.prod(max(n, 1) for n in shape) > 2**48:
        raise ValueError(
            f"array entry {entry}: expected one of {DTYPES} and a shape of at most {MAX_AXES} axes"
        )
    return int(dtype[2]) * math.prod(shape)


def _arrays(listing: list, payload: bytes) -> Iterator[tuple[str, np.ndarray]]:
    start = 0
    for entry in listing:
        name, dtype, shape = entry
        stop = start + _bytes(entry)
        yield name, np.frombuffer(payload[start:stop], dtype=dtype).reshape(shape).astype(dtype[1:])
        start = stop


def save(flow: Flow, path: str | os.PathLike) -> None:
    """Write a flow to a model file, atomically.

    Raises
    ------
    ValueError
        If a parameter is not finite.

    Examples
    --------
    >>> import tempfile, afnp
    >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(flow, folder + "/flow.afnp")
    ...     again = load(folder + "/flow.afnp")
    >>> bool((again.theta == flow.theta).all())
    True
    """
    if not np.isfinite(flow.theta).all():
        raise ValueError(
            f"theta: entry {int(np.argmin(np.isfinite(flow.theta)))} is not finite; nothing was saved"
        )
    write(path, "model", {"flow": flow.config()}, {"theta": flow.theta})


def load(path: str | os.PathLike) -> Flow:
    """Read a flow from a model file.

    Raises
    ------
    ModelFileError
        If the file is not a sound model file; see :func:`read`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     load(file.name)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    afnp.files.ModelFileError: ...: not an afnp file (it does not begin with the afnp magic bytes)
    """
    header, arrays = read(path, "model")
    try:
        theta = arrays["theta"]
        # a header that asks for more weights than the file holds would allocate for nothing
        config = header["flow"]
        if (least := sum(map(_least_size, config.get("layers", [config])))) > theta.size + 2**20:
            raise ValueError(f"at least {least} numbers do not go with {theta.size} parameters")
        if not np.isfinite(theta).all():
            raise ValueError("a parameter is not finite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            flow = MODELS.get(config.get("type"), Flow).from_config(config)
        if theta.dtype != flow.dtype:
            raise ValueError(f"parameters of {theta.dtype} for a flow of {flow.dtype}")
        flow.theta = theta
    except Exception as error:  # whatever a configuration provokes is a fault of the file
        raise ModelFileError(
            f"{path}: the configuration does not describe a flow: {error}"
        ) from error
    return flow


def _least_size(layer: dict) -> int:
    """Return how many numbers a configured layer has at least: weights of a network, or constants."""
    features = operator.index(layer.get("features", 0))
    options = (n for n in (layer.get("options") or {}).values() if isinstance(n, int))
    outputs = features * max(1, *options, operator.index(layer.get("levels", 2)) - 1)
    inputs = features + operator.index(layer.get("context", 0))
    widths = [inputs, *map(operator.index, layer.get("hidden", ())), outputs]
    if min(widths) < 0:
        raise ValueError(f"expected widths of at least 0, got {widths}")
    return sum(a * b for a, b in pairwise(widths)) if "hidden" in layer else features
