r"""Files: one safe container for models and checkpoints, without pickle, written atomically.

The container, all integers little-endian:

================  ================================================================================
bytes             what
================  ================================================================================
0..7              magic ``b"afnp\r\n\x1a\n"``: a foreign file, or one translated, is seen at once
8..11             format version, uint32
12..15            header length n, uint32, at most 16 MiB
16..16+n-1        header: a JSON object in UTF-8, with ``kind``, ``arrays`` (a list of
                  [name, dtype, shape], dtype one of ``<f4 <f8 <i8``) and whatever the kind adds;
                  at most 2^20 commas, 2^17 brackets and braces that open, and 2^16 keys
then              the arrays, one after another, in C order
last 32           SHA-256 of everything before
================  ================================================================================

The file's size follows from the header, and is compared before anything is read into memory. A
model's header carries the flow's configuration; masks are recomputed from it, never loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice
from typing import Any

import numpy as np

from afnp.atomic import kind_of, named_errors, path_of, write_bytes
from afnp.discrete import MODELS
from afnp.ensemble import FlowEnsemble
from afnp.flow import Flow
from afnp.inputs import integer

__all__ = [
    "MOST_FREE",
    "ModelFileError",
    "build",
    "load",
    "opened",
    "read",
    "refuse_another",
    "save",
    "write",
]

MAGIC = b"afnp\r\n\x1a\n"
VERSION = 2
MAX_HEADER = 2**24
DIGEST = 32
DTYPES = ("<f4", "<f8", "<i8")
MAX_AXES = 32
MOST_ARRAYS = 64
MOST_COMMAS, MOST_OPENED, MOST_KEYS = 2**20, 2**17, 2**16
"""What the text of a header may hold: 16 MiB of empty lists would take 600 MB and five seconds."""
MOST_DIGITS = 640
KEY = re.compile(rb'"\s*:')
LONGEST_MESSAGE = 1000
MOST_LAYERS = 4096
MOST_MEMBERS = 4096
MOST_FREE = 2**23
"""Features of layers with fewer parameters than features, together: nothing in a file limits
them."""


class ModelFileError(ValueError):
    """A model file or checkpoint that cannot be used; the message says what is wrong."""

    def __init__(self, message: str):
        cut = message[:LONGEST_MESSAGE] + " ..." if len(message) > LONGEST_MESSAGE else message
        super().__init__(cut)


def write(
    path: str | bytes | os.PathLike, kind: str, header: dict, arrays: dict[str, np.ndarray]
) -> None:
    """Write a container; see :func:`afnp.atomic.write_bytes`.

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
        above 16 MiB. If a device, a pipe or a socket is there.
    OSError
        If it cannot be written.
    """
    name = path_of(path)
    plain = {
        key: np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C") for key, a in arrays.items()
    }
    listing = [[key, a.dtype.str, list(a.shape)] for key, a in plain.items()]
    try:
        for entry in listing:
            _bytes(entry)
        text = json.dumps({**header, "kind": kind, "arrays": listing}, allow_nan=False).encode()
        if len(text) > MAX_HEADER:
            raise ValueError(f"header: expected at most {MAX_HEADER} bytes, got {len(text)}")
        _refuse_many(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}; nothing was saved") from error
    parts: list[bytes | memoryview] = [
        MAGIC + struct.pack("<II", VERSION, len(text)) + text,
        *(a.reshape(-1).view(np.uint8).data for a in plain.values()),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    write_bytes(name, *parts, digest.digest())


def read(path: str | bytes | os.PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read a container that ``write`` made; return its header and arrays.

    Raises
    ------
    ModelFileError
        If the file is foreign, of another version or kind, truncated, oversized or altered, or no
        regular file.
    OSError
        If it cannot be opened or read.
    """
    name = path_of(path)
    with named_errors(name), opened(name) as (file, size):
        start = file.read(16)
        if len(start) < 16 or start[:8] != MAGIC:
            other = name.endswith(".safetensors")
            hint = "; afnp.interop.safetensors.load reads such files" if other else ""
            raise ModelFileError(
                f"{name}: not an afnp file (it does not begin with the afnp magic bytes){hint}"
            )
        version, length = struct.unpack("<II", start[8:])
        if version != VERSION:
            raise ModelFileError(
                f"{name}: format version {version}; this afnp reads version {VERSION}: "
                "fit the model again, or load it with the afnp that wrote it"
            )
        if length > min(MAX_HEADER, size):
            raise ModelFileError(
                f"{name}: header of {length} bytes in a file of {size}; truncated or altered"
            )
        text = file.read(length)
        header = _header(name, text)
        expected = 16 + length + sum(_bytes(entry) for entry in header["arrays"]) + DIGEST
        if size != expected:
            fault = "truncated" if size < expected else "oversized"
            raise ModelFileError(f"{name}: {fault}: expected {expected} bytes, got {size}")
        arrays = {key: np.empty(shape, dtype) for key, dtype, shape in header["arrays"]}
        digest = hashlib.sha256(start + text)
        for a in arrays.values():
            raw = a.reshape(-1).view(np.uint8)
            file.readinto(raw.data)
            digest.update(raw.data)
        if digest.digest() != file.read(DIGEST):
            raise ModelFileError(f"{name}: altered: the checksum does not match the contents")
    if header.get("kind") != kind:
        raise ModelFileError(f"{name}: expected a {kind}, got a {header.get('kind')}")
    return header, {
        key: a.astype(a.dtype.newbyteorder("="), copy=False) for key, a in arrays.items()
    }


@contextmanager
def opened(name: str) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file, and only that: a pipe would wait for a writer, for ever."""
    _refuse_special(name, os.stat(name).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(name, flags), "rb") as file:
        found = os.fstat(file.fileno())
        _refuse_special(name, found.st_mode)
        yield file, found.st_size


def _refuse_special(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if kind := kind_of(mode):
        raise ModelFileError(f"{name}: {kind}; expected a regular file")


def _header(name: str, text: bytes) -> dict:
    try:
        _refuse_many(text)
    except ValueError as error:
        raise ModelFileError(f"{name}: {error}") from error
    try:
        header = json.loads(
            text.decode(),  # given bytes, it would read UTF-16 too, in which nothing is counted
            object_pairs_hook=_once,
            parse_constant=_no_number,
            parse_int=_integer,
        )
        names = [entry[0] for entry in header["arrays"][:MOST_ARRAYS]]
        sound = len(set(names)) == len(header["arrays"]) and all(
            isinstance(entry[0], str) and _bytes(entry) >= 0 for entry in header["arrays"]
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        sound = False
    if not sound:
        raise ModelFileError(f"{name}: the header is not readable; truncated or altered")
    return header


def _refuse_many(text: bytes) -> None:
    """Raise where a header holds so much that reading it takes far more memory than its bytes."""
    counts = {
        "commas": (text.count(b","), MOST_COMMAS),
        "brackets and braces": (text.count(b"[") + text.count(b"{"), MOST_OPENED),
        "keys": (sum(1 for _ in islice(KEY.finditer(text), MOST_KEYS + 1)), MOST_KEYS),
    }
    for name, (count, most) in counts.items():
        if count > most:
            raise ValueError(f"header: expected at most {most} {name}, got more")


def _once(pairs: list[tuple[str, object]]) -> dict:
    """Build an object of a header; a key that stands twice would say two things."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _integer(text: str) -> int:
    """Return an integer; thousands with thousands of digits take seconds."""
    if len(text) > MOST_DIGITS:
        raise ValueError(f"expected at most {MOST_DIGITS} digits, got {len(text)}")
    return int(text)


def _no_number(text: str):
    """Refuse what JSON does not know, NaN and Infinity."""
    raise ValueError(f"{text} is no number")


def _bytes(entry: list) -> int:
    """Return how many bytes a listed array takes; raise where the entry makes no sense."""
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


def save(flow, path: str | bytes | os.PathLike) -> None:
    """Write a flow, a discrete model or an ensemble to a model file, atomically.

    Raises
    ------
    ValueError
        If a parameter is not finite; if :func:`load` could not build the flow again, or would build
        one of another density or other samples; if a device, a pipe or a socket is there; if the
        name ends in ``.safetensors``, another format.
    OSError
        If the file cannot be written; an old one is then as it was.

    Notes
    -----
    A flow of a transform, a base or a univariate of your own is saved if its class can be found by
    its name: subclasses of :class:`afnp.transforms.Transform` and :class:`afnp.bases.Base` register
    themselves, and state their parameter count in ``count``; a univariate stands in
    :data:`afnp.univariate.UNIVARIATES`. A program that loads the flow imports the module that
    defines them before.

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
    name = path_of(path)
    if name.endswith(".safetensors"):
        raise ValueError(f"{name}: afnp.interop.safetensors.save writes such files")
    config = flow.config()
    try:
        again = build(config, flow.theta, MOST_FREE)
    except Exception as error:  # whatever a class of the user's own provokes
        raise ValueError(
            f"{name}: the model could not be loaded again: {_said(error)}; nothing was saved"
        ) from error
    refuse_another(flow, again, name)
    write(name, "model", {"flow": config}, {"theta": flow.theta})


def refuse_another(model, again, name: str) -> None:
    """Raise ValueError if a model that was built from another's config is not the same density.

    That can happen only with classes that are not afnp's. Some rows are compared, and samples.
    """
    for one, other in zip(_flows(model), _flows(again), strict=True):
        if _has_classes_of_others(one) and not _agree(one, other):
            raise ValueError(
                f"{name}: the model would be loaded as one of another density, or with other "
                "samples: config() of a class in it says less than its __init__ takes, or a "
                "subclass of Flow changes what a Flow does; nothing was saved"
            )


def _flows(model) -> list[Flow]:
    """Return the flows that a model consists of."""
    members = model.flows if isinstance(model, FlowEnsemble) else [model]
    return [flow for flow in members if isinstance(flow, Flow)]


def _has_classes_of_others(flow: Flow) -> bool:
    """Return whether the flow, its noise, or a part of a layer is of a class that is not afnp's."""
    layers = flow.layers
    inside = [part for layer in layers for part in (layer.conditioner, layer.univariate)]
    parts = [flow, flow.base, *layers, *inside]
    return any(type(part).__module__.split(".")[0] not in ("afnp", "builtins") for part in parts)


def _agree(flow: Flow, again: Flow) -> bool:
    """Return whether two flows have the same samples and density, where the first has an answer.

    The density is asked at samples, inside a circle and most bounds, and further out, where splines
    and clipped maps end.
    """
    rng, D = np.random.default_rng(0), flow.features
    context = rng.standard_normal((8, flow.context)) if flow.context else None
    tables = [rng.uniform(0.1, 0.9, (8, D))]
    tables += [scale * rng.standard_normal((8, D)) for scale in (1, 5, 50)]
    with np.errstate(all="ignore"):
        x, other = _samples(flow, context), _samples(again, context)
        if x is not None:
            tables.append(x)
            if other is None or not np.array_equal(x, other, equal_nan=True):
                return False
        return all(_agree_at(x, context, flow, again) for x in tables)


def _samples(flow: Flow, context) -> np.ndarray | None:
    """Return eight samples, or None where there are none, or the same seed gives others."""
    try:
        x, again = (flow.sample(8, 0, context) for _ in range(2))
    except Exception:  # a map of one way, say
        return None
    return x if np.array_equal(x, again, equal_nan=True) else None


def _agree_at(x: np.ndarray, context, flow: Flow, again: Flow) -> bool:
    try:
        before = flow.log_prob(x, context)
    except Exception:  # rows outside its support, say
        return True
    try:
        return np.array_equal(before, again.log_prob(x, context), equal_nan=True)
    except Exception:
        return False


def load(path: str | bytes | os.PathLike) -> Any:
    """Read a flow, a discrete model or an ensemble from a model file.

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
        if not set(header) <= {"kind", "arrays", "flow", "notes"} or set(arrays) != {"theta"}:
            raise ValueError(f"expected a flow and theta, got {[*header, *arrays]}")
        return build(header["flow"], arrays["theta"], MOST_FREE)
    except Exception as error:  # whatever a configuration provokes is a fault of the file
        raise ModelFileError(
            f"{path_of(path)}: the configuration does not describe a flow: {_said(error)}"
        ) from error


def build(config: dict, theta: np.ndarray, free: int) -> Any:
    """Build a flow around parameters; refuse a configuration that is not exactly its own.

    First come integers: nothing is built that has another number of parameters than there are, or
    that has fewer than features and is very wide (``free`` features in all).
    """
    if config.get("type") == FlowEnsemble.__name__:
        return _ensemble(config, theta, free)
    model: Any = MODELS[config["type"]] if "type" in config else Flow
    if len(config.get("layers", ())) > MOST_LAYERS:
        raise ValueError(f"expected at most {MOST_LAYERS} layers, got {len(config['layers'])}")
    if integer("context", config.get("context", 0), least=0) > MOST_FREE:  # a layer may not take it
        raise ValueError(f"context: expected at most {MOST_FREE} columns, got {config['context']}")
    counts = model.counts(config)
    if theta.shape != (sum(counts),):
        raise ValueError(f"{sum(counts)} parameters do not go with theta of {theta.shape}")
    widths = map(_width, config.get("layers", ()))
    wide = sum(D for D, count in zip(widths, counts, strict=False) if count < D)
    if wide > free:
        raise ValueError(
            f"{wide} features in layers with fewer parameters; expected at most {free}"
        )
    if not np.isfinite(theta).all():
        raise ValueError(f"theta: entry {int(np.argmin(np.isfinite(theta)))} is not finite")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        flow = model.from_config(config, theta)
    if _text(flow.config()) != _text(config):
        raise ValueError("a flow built from it has another configuration")
    return flow


def _ensemble(config: dict, theta: np.ndarray, free: int) -> FlowEnsemble:
    """Build the members of an ensemble, each as if it were alone, and put them together."""
    members = config["flows"]
    if not 1 <= len(members) <= MOST_MEMBERS or any("type" in member for member in members):
        raise ValueError(f"flows: expected 1 to {MOST_MEMBERS} flows, got {len(members)} entries")
    sizes = [sum(Flow.counts(member)) for member in members]
    if theta.shape != (sum(sizes),):
        raise ValueError(f"{sum(sizes)} parameters do not go with theta of {theta.shape}")
    parts = np.split(theta, np.cumsum(sizes)[:-1])
    share = free // len(members)
    ensemble = FlowEnsemble(
        [build(member, part, share) for member, part in zip(members, parts, strict=True)]
    )
    if _text(ensemble.config()) != _text(config):
        raise ValueError("an ensemble built from it has another configuration")
    return ensemble


def _width(layer: dict) -> int:
    """Return how many features a layer says that it has, itself or in its network.

    0 if it lists them.
    """
    return integer("features", layer.get("conditioner", layer).get("features", 0), least=0)


def _text(config: dict) -> str:
    return json.dumps(config, sort_keys=True, allow_nan=False)


def _said(error: Exception) -> str:
    """Return what an error says; a KeyError says the key alone."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
