r"""Trained flows as safetensors files: named arrays that every framework reads, and no pickle.

.. math:: \theta \to \{\, \texttt{layer.name} \mapsto \text{array} \,\}, \qquad
          \text{metadata} = \{\text{configuration}, \text{SHA-256 of it and } \theta\}

Arrays have the names of ``flow.parameters``: ``0.W1`` is W1 of the first layer, from the data, and
``flows.2.0.W1`` that of the third member of a :class:`afnp.FlowEnsemble`. The metadata say what to
build around them. afnp's own format (:func:`afnp.save`) keeps more: it is
checked before anything is read whole.
"""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize

from afnp.atomic import named_errors, path_of, write_bytes
from afnp.ensemble import FlowEnsemble
from afnp.files import MOST_FREE, ModelFileError, build, opened, refuse_another
from afnp.flow import Flow

__all__ = ["load", "save"]


def save(flow: Flow | FlowEnsemble, path: str | os.PathLike) -> None:
    """Write a flow, or several as an ensemble, to a safetensors file, atomically.

    Raises
    ------
    ValueError
        If it is neither, or could not be loaded again.

    Examples
    --------
    >>> import tempfile, afnp
    >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(flow, folder + "/flow.safetensors")
    ...     again = load(folder + "/flow.safetensors")
    >>> bool((again.theta == flow.theta).all())
    True
    """
    if not isinstance(flow, (Flow, FlowEnsemble)):
        raise ValueError(f"flow: expected a Flow or FlowEnsemble, got {type(flow).__name__}")
    refuse_another(flow, build(flow.config(), flow.theta, MOST_FREE), path_of(path))
    named = {name: np.ascontiguousarray(a) for name, a in _parameters(flow).items()}
    text = json.dumps(flow.config(), allow_nan=False)
    metadata = {"afnp": text, "sha256": _digest(text, flow.theta)}
    write_bytes(path, serialize(named, metadata))


def load(path: str | os.PathLike) -> Flow | FlowEnsemble:
    """Read a flow or an ensemble that :func:`save` wrote.

    Raises
    ------
    ModelFileError
        If the file is not one: no safetensors, not of an afnp flow, altered, or no regular file.
    """
    path = path_of(path)
    with named_errors(path), opened(path) as (file, _):
        content = file.read()
    try:
        metadata, names = _header(content)
        arrays = parse(content)
        if "afnp" not in metadata:
            raise ValueError("expected its configuration in the metadata 'afnp', there is none")
        config = json.loads(metadata["afnp"])
        none = np.empty(0, config.get("dtype", "float64"))
        theta = np.concatenate([arrays[name].ravel() for name in names] or [none])
        flow = build(config, theta, MOST_FREE)
        parameters = _parameters(flow)
        expected = {name: a.shape for name, a in parameters.items()}
        if {name: a.shape for name, a in arrays.items()} != expected:
            raise ValueError(f"expected the arrays {', '.join(expected)}, got {', '.join(names)}")
        for name, a in parameters.items():
            a[...] = arrays[name]
        if _digest(metadata["afnp"], flow.theta) != metadata["sha256"]:
            raise ValueError("the checksum does not match the contents")
    except Exception as error:  # whatever a header provokes is a fault of the file
        raise ModelFileError(f"{path}: not a flow that afnp wrote: {error}") from error
    return flow


def _parameters(model: Flow | FlowEnsemble) -> dict[str, np.ndarray]:
    """Return views of all parameters by name; those of members begin with ``flows.m``."""
    if isinstance(model, Flow):
        return dict(model.parameters)
    return {
        f"flows.{m}.{name}": a
        for m, flow in enumerate(model.flows)
        for name, a in flow.parameters.items()
    }


def _digest(text: str, theta: np.ndarray) -> str:
    return hashlib.sha256(text.encode() + theta.tobytes()).hexdigest()


def _header(content: bytes) -> tuple[dict, list[str]]:
    """Return the metadata and the arrays' names; refuse names that stand there twice."""
    length = int.from_bytes(content[:8], "little")
    pairs = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_once)
    return pairs.pop("__metadata__", {}), list(pairs)


def _once(pairs: list[tuple]) -> dict:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name stands twice in the header")
    return dict(pairs)
