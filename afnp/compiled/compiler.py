"""Numba as this package uses it: what is compiled, where it is kept, and what is said meanwhile.

A *kernel* is what Python calls: it is compiled at its first call for each precision, and kept on
disk. Everything that a kernel calls is compiled with it, without an entry for Python. What differs
from flow to flow, the univariate, is compiled apart, as a C function (:func:`address_of`) that
kernels call by its address: one kernel serves all univariates.

What is kept is filed under a hash of all sources of this folder, so that it is never stale, and a
damaged file is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, extending, njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.typing import Signature

from afnp.messages import say

__all__ = ["EXACT", "FAST", "address_of", "folder", "intrinsic", "jit", "kernel", "silence"]

FAST = {"contract", "reassoc", "nsz", "arcp", "afn"}
"""Not "nnan" and "ninf": with them isnan would lie."""
EXACT = FAST - {"reassoc"}
"""(x - a) - b stays what it says, or the large parts of what ``exp`` subtracts would cancel no
more."""
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": FAST, "nogil": True}

INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Without entries for Python and C, which had taken a tenth to a quarter of compilation."""
ENTERED: dict[str, Any] = {"no_cfunc_wrapper": True}
"""With the one for Python alone."""
jit = njit(**OPTIONS, **INNER)
"""For what kernels call. A call from Python would crash: it has no entry."""
intrinsic: Any = extending.intrinsic
"""For LLVM's own language; type checkers would count the typing context among the arguments."""
PATIENCE = 1.0
"""Seconds of compilation after which the user is told."""


def kernel(function: Callable) -> Callable:
    """Compile a function at its first call for each precision, and keep it on disk."""
    dispatcher = njit(**OPTIONS, **ENTERED)(function)
    dispatcher._cache = _Kept(function)
    return dispatcher


@cache
def address_of(function: Callable, signature: Signature) -> int:
    """Compile a C function of this signature, keep it on disk, and return its address."""
    options = {"error_model": "numpy", "fastmath": EXACT}
    compiled = CFunc(function, (signature.args, signature.return_type), {}, options)
    compiled._cache = _Kept(function)  # type: ignore[attr-defined]
    compiled.compile()
    _ALIVE.append(compiled)
    return int(compiled.address)  # type: ignore[arg-type]


_ALIVE: list = []
"""Who lets go of compiled code frees it."""


# ---- what is kept on disk ------------------------------------------------------------------------


@cache
def sources() -> str:
    """Return a hash of every source file of this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def folder() -> Path | None:
    """Return the folder for compiled code: NUMBA_CACHE_DIR, beside the sources, or the user's own.

    Without any that can be written, it is None, and a warning says so.
    """
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    beside = Path(__file__).parent / "__pycache__"
    own = Path(user).expanduser() / "afnp"
    asked: str = config.CACHE_DIR  # type: ignore[attr-defined]
    for path in [Path(asked)] if asked else [beside, own]:
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        except (OSError, RuntimeError):
            continue
        return path
    warnings.warn(
        "compiled code cannot be kept, and is compiled anew in every process: "
        "let NUMBA_CACHE_DIR name a folder that can be written",
        stacklevel=2,
    )
    return None


class _Place:
    """Where a function's compiled code lies, and what it depends on, as Numba asks for it."""

    def __init__(self, line: int):
        self.line = line

    def ensure_cache_path(self) -> None:
        """Do nothing: ``folder`` has made it, and written to it."""

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return sources()

    def get_disambiguator(self) -> str:
        return str(self.line)

    @classmethod
    def from_function(cls, py_func, py_file):
        return cls(py_func.__code__.co_firstlineno)


class _KeptResult(CompileResultCacheImpl):
    _locator_classes: list[Any] = [_Place]

    def get_filename_base(self, fullname, abiflags):
        return f"afnp-{sources()[:8]}-{super().get_filename_base(fullname, abiflags)}"


class _Files(FunctionCache):
    _impl_class = _KeptResult

    def _index_key(self, sig, codegen):
        """Return what tells the versions of a function apart; its file has the sources' hash."""
        return sig, codegen.magic_tuple()


class _Kept:
    """A function's compiled code on disk, as Numba's dispatchers ask for it."""

    cache_path = property(lambda self: str(folder()))

    def __init__(self, function: Callable):
        self.function = function
        self.files: _Files | None = None
        self.timer: threading.Timer | None = None

    def load_overload(self, signature, target_context):
        """Return what is kept, or None, whereupon it is compiled."""
        if folder() is not None:
            try:
                self.files = self.files or _Files(self.function)
                if kept := self.files.load_overload(signature, target_context):
                    return kept
            except Exception:  # whatever a damaged file leads to; it is written anew
                self._try(lambda files: files.flush())
        self.timer = threading.Timer(PATIENCE, _say, [self.function])
        self.timer.daemon = True
        self.timer.start()
        return None

    def save_overload(self, signature, compiled) -> None:
        """Keep what was compiled."""
        if self.timer:
            self.timer.cancel()
        self._try(lambda files: files.save_overload(signature, compiled))

    def _try(self, action: Callable) -> None:
        try:
            if self.files is not None:
                action(self.files)
        except OSError as error:
            warnings.warn(
                f"compiled code cannot be kept in {folder()} ({error.strerror}): "
                "let NUMBA_CACHE_DIR name a folder that can be written",
                stacklevel=2,
            )
            folder.cache_clear()


_said = False


def _say(function: Callable) -> None:
    """Tell the user, once a process, why nothing happens."""
    global _said
    if _said:
        return
    _said = True
    kept = f"kept in {folder()}" if folder() else "not kept"
    say(
        f"afnp: compiling {function.__qualname__} for this machine, some seconds; it is {kept} "
        "('afnp compile' does all of it ahead of time)"
    )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Say nothing meanwhile: somebody shows a bar."""
    global _said
    before, _said = _said, True
    try:
        yield
    finally:
        _said = before
