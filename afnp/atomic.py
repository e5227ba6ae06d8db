"""Writing a file so that readers and crashes find the old one or the new one, never half.

The new contents go to a temporary file in the same folder, to the disk, and then, in one step, to
the place of the old one. The temporary file is locked while its writer lives; one that nobody holds
was left by a writer that was killed, and the next write into the folder removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows, where an open file cannot be removed, or a system without locks
    flock = None  # type: ignore[assignment]

__all__ = ["check_regular", "kind_of", "locked", "named_errors", "path_of", "write_bytes"]

TEMPORARY = re.compile(r"\.afnp-[0-9a-f]{16}\.(tmp|lock)")

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
PEEK = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def path_of(path: str | bytes | os.PathLike, what: str = "path") -> str:
    """Return a path as text; raise ValueError for what is none.

    >>> path_of(b"flow.afnp")
    'flow.afnp'
    """
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise ValueError(
            f"{what}: expected a str, bytes or os.PathLike, got {type(path).__name__}"
        ) from None
    if "\0" in name:
        raise ValueError(f"{what}: expected no null character, got {name!r}")
    return name


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Let every OSError inside carry the file's name, also those of a write or an fsync."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), name) from error


def kind_of(mode: int) -> str:
    """Return what a file of this ``st_mode`` is, in words; "" for a regular file."""
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


def check_regular(path: str | bytes | os.PathLike) -> os.stat_result | None:
    """Refuse to write over a folder, a pipe, a socket or a device; return what is there, or None.

    A symbolic link stands for what it points to.

    Raises
    ------
    IsADirectoryError
        For a folder.
    ValueError
        For anything else that is no regular file.
    """
    name = path_of(path)
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if kind := kind_of(found.st_mode):
        raise ValueError(f"{name}: {kind}; expected a regular file or a name that is free")
    return found


def write_bytes(path: str | bytes | os.PathLike, *parts: bytes | memoryview) -> None:
    """Replace a file's contents, or make the file; a link stays a link, a mode stays a mode.

    Parameters
    ----------
    path : path
    parts : bytes-like
        Written one after another.

    Raises
    ------
    OSError
        If it cannot be written; the old file is then as it was. Carries the file's name.
    ValueError
        If a device, a pipe or a socket is there.
    """
    name = path_of(path)
    with named_errors(name):
        old = check_regular(name)
        target = os.path.realpath(name)
        link = old is not None and os.path.islink(name)
        if link and not os.path.samefile(name, target):
            raise ValueError(f"{name}: a link that leads to no path; expected a file")
        folder = os.path.dirname(target)
        _remove_abandoned(folder)
        descriptor, temporary = _create(folder, 0o666 if old is None else old.st_mode & 0o777)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
                if old is not None:
                    _copy_owner_and_mode(temporary, old)
                if os.name == "posix":  # replaced while it is still locked
                    os.replace(temporary, target)
            if os.name != "posix":
                os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _flush_folder(folder)


@contextmanager
def locked(path: str | bytes | os.PathLike) -> Iterator[None]:
    """Be the only one who writes a file for a while; where the system has no locks, do nothing.

    Raises
    ------
    ValueError
        If somebody else, in this process or in another, is at it.
    """
    name = path_of(path)
    target = os.path.realpath(name)
    short = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    lock = os.path.join(os.path.dirname(target), f".afnp-{short}.lock")
    if flock is None:
        yield
        return
    with named_errors(name):
        descriptor = _open_lock(lock)
    if descriptor is None:
        raise ValueError(f"{name}: another run is writing it; expected a file of its own for each")
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock)  # while it is held, so that nobody takes a lock that goes
        os.close(descriptor)


def _open_lock(path: str) -> int | None:
    """Open and lock a file that is there to be locked; None if somebody holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(descriptor) is False:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # its holder has just removed it


def _copy_owner_and_mode(temporary: str, old: os.stat_result) -> None:
    """Give the new file the owner and the mode of the old one, as far as that is allowed."""
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(temporary, old.st_uid, old.st_gid)
    with suppress(OSError):
        os.chmod(temporary, old.st_mode & 0o777)


def _flush_folder(folder: str) -> None:
    """Ask the disk to keep the new entry; where it refuses, the file is in place all the same."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create(folder: str, mode: int) -> tuple[int, str]:
    """Create and lock a temporary file; its short name fits wherever the file's own name fits."""
    while True:
        path = os.path.join(folder, f".afnp-{secrets.token_hex(8)}.tmp")
        descriptor = os.open(path, CREATE, mode)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # somebody else took it for abandoned before it was locked


def _lock(descriptor: int) -> bool | None:
    """Return whether the lock is ours; None where there are no locks."""
    if flock is None:
        return None
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(folder: str) -> None:
    """Remove the temporary files of writers that are dead; a living one holds its lock."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    if os.name != "posix":
        os.unlink(path)  # refused as long as somebody has it open
        return
    descriptor = os.open(path, PEEK)
    try:
        if _lock(descriptor):
            os.unlink(path)
    finally:
        os.close(descriptor)
