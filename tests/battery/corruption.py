"""Files that lie under a right checksum: every field of a header, altered in many ways."""

from __future__ import annotations

import copy
import hashlib
import json
import struct

from afnp import files

RAW = ["NaN", "Infinity", "-Infinity", "1e400", "1" * 5000]
"""Tokens that JSON's reader takes for numbers, or should not."""

CONSTANTS = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    2**31,
    2**63,
    2**64,
    10**30,
    -(2**31),
    -0.0,
    0.5,
    -1.5,
    1e-320,
    1e308,
    -1e308,
    "",
    "text",
    "0",
    [],
    [[]],
    {},
    {"a": 1},
]


class Raw:
    """A token to be written as it is."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text[:12]


def unpacked(content):
    """Return header and payload of a container."""
    (length,) = struct.unpack("<I", content[12:16])
    return json.loads(content[16 : 16 + length]), content[16 + length : -files.DIGEST]


def packed(header, payload):
    """Return a container with a right checksum around any header, JSON or bytes."""
    text = header if isinstance(header, bytes) else dumped(header)
    body = files.MAGIC + struct.pack("<II", files.VERSION, len(text)) + text + payload
    return body + hashlib.sha256(body).digest()


def dumped(header):
    raws = []

    def write(value):
        raws.append(value.text)
        return f"@raw{len(raws) - 1}@"

    text = json.dumps(header, default=write)
    for k, raw in enumerate(raws):
        text = text.replace(f'"@raw{k}@"', raw)
    return text.encode()


def paths(value, path=()):
    """Yield the path of every value in nested lists and dictionaries, from the top down."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for k in range(len(value)):
            yield from paths(value[k], (*path, k))


def at(header, path):
    for key in path:
        header = header[key]
    return header


def altered_values(value):
    """Yield what may stand in a value's place."""
    yield from CONSTANTS
    yield from map(Raw, RAW)
    yield [value]
    yield {"value": value}
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, -value, float(value) * 2, str(value), value * 2**20)
    elif isinstance(value, str):
        yield from (value + "x", value.upper(), value[:-1])
    elif isinstance(value, list):
        yield from (value + value, value[:-1], value[::-1], value[1:], [*value, None])
        yield dict(enumerate(map(str, value)))
    elif isinstance(value, dict):
        yield {**value, "unknown": 1}
        yield list(value)


def alterations(header):
    """Yield (path, what was done, the text of an altered header), always in one order."""
    for path in paths(header):
        value = at(header, path)
        for new in altered_values(value):
            if type(new) is type(value) and new == value and str(new) == str(value):
                continue
            yield path, f"= {str(new)[:40]}", dumped(replaced(header, path, new))
        if path:
            yield path, "left out", dumped(replaced(header, path))
            if isinstance(path[-1], str):
                yield path, "twice", dumped(replaced(header, path, Raw(twice(path[-1], value))))


def twice(key, value):
    """A value, and then the same key with the same value once more."""
    return f"{json.dumps(value)}, {json.dumps(key)}: {json.dumps(value)}"


GONE = object()


def replaced(header, path, new=GONE):
    """A copy of the header with one value replaced, or left out."""
    if not path:
        return new
    header = copy.deepcopy(header)
    parent = at(header, path[:-1])
    if new is GONE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return header
