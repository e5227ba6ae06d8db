r"""Model files by their names: safetensors where a name ends so, else afnp's own format.

.. math:: \texttt{f.safetensors} \mapsto \texttt{afnp.interop.safetensors}, \qquad
          \text{any other name} \mapsto \texttt{afnp.files}
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from afnp import files
from afnp.atomic import path_of

__all__ = ["format_of", "load", "save"]


def save(model, path: str | bytes | os.PathLike) -> None:
    """Write a flow, a discrete model or an ensemble to a file, atomically.

    A name that ends in ``.safetensors`` takes that format, which holds flows and their ensembles
    and needs the extra ``safetensors``; any other name takes :func:`afnp.files.save`.

    Raises
    ------
    ValueError
        If a parameter is not finite; if the model could not be loaded again; if a device, a pipe or
        a socket is there.
    ImportError
        If the format needs an extra that is not installed.
    OSError
        If the file cannot be written; an old one is then as it was.

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
    format_of(path).save(model, path)


def load(path: str | bytes | os.PathLike):
    """Read a model that :func:`save` wrote, in the format that its name says.

    Raises
    ------
    afnp.ModelFileError
        If the file is foreign, altered or truncated, or no regular file.
    ImportError
        If the format needs an extra that is not installed.
    OSError
        If it cannot be opened or read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     load(file.name)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    afnp.files.ModelFileError: ...: not an afnp file (it does not begin with the afnp magic bytes)
    """
    return format_of(path).load(path)


def format_of(path: str | bytes | os.PathLike) -> ModuleType:
    """Return the module that writes and reads files of this name.

    Raises
    ------
    ImportError
        If the format needs an extra that is not installed.

    Examples
    --------
    >>> format_of("flow.afnp").__name__
    'afnp.files'
    """
    name = path_of(path)
    if not name.endswith(".safetensors"):
        return files
    try:
        return importlib.import_module("afnp.interop.safetensors")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"{name}: the format needs the extra: pip install 'afnp[safetensors]'"
        ) from missing
