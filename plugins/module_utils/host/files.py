# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of ours: replaced whole or not at all, and locks between processes (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
from collections.abc import Iterator
from typing import BinaryIO, Optional

#: The name of a partial file; version 0.1 had no number in it.
_PARTIAL = re.compile(r"(.+?)(?:\.[0-9]+)?\.new", re.DOTALL)


def partial(path: str) -> str:
    """The file that replacing writes in this thread before it takes the place of ``path``."""
    return f"{path}.{threading.get_native_id()}.new"


def partials(folder: str) -> Iterator[tuple[str, str]]:
    """The partial files in a folder: the path of each, and of the file whose place it was to take."""
    for name in os.listdir(folder):
        found = _PARTIAL.fullmatch(name)
        if found is not None:
            yield os.path.join(folder, name), os.path.join(folder, found[1])


def remove_partials(path: str) -> None:
    """Remove the partial files of ``path`` that killed processes left; no living one may be writing it now."""
    for part, whole in partials(os.path.dirname(path)):
        if whole == path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)


@contextlib.contextmanager
def replacing(path: str, *, durable: bool = False, alone: bool = False) -> Iterator[BinaryIO]:
    """Write a file, mode 0600, that takes the place of ``path`` at the end; after an error ``path`` is as before.

    Several threads and processes may do this for a path; the last one wins.

    :param durable: whether a power cut after the end leaves the new file.
    :param alone: nobody else is writing ``path`` now, so what killed processes left of it is removed.
    :raises OSError: it cannot be written.
    """
    if alone:
        remove_partials(path)
    fresh = partial(path)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def replace_file(path: str, text: str, *, durable: bool = False, alone: bool = False) -> None:
    """Write a text file in one step, see replacing."""
    with replacing(path, durable=durable, alone=alone) as stream:
        stream.write(text.encode())


def read_private(path: str, most_bytes: int) -> Optional[bytes]:
    """The content of a file with a secret in it; None if others may read it, or it is not a file of root or ourselves.

    :param most_bytes: of more than that, the beginning. :raises OSError: it cannot be read.
    """
    # Nobody may ever write into a FIFO.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as stream:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
            return None
        return stream.read(most_bytes)


def sync_folder(folder: str) -> None:
    """Let the names in a folder survive a power cut."""
    handle = open_folder(folder)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_folder(path: str) -> int:
    """Open a folder: to lock it, or to sync it. :raises OSError: as open(2)."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_lock(path: str) -> int:
    """Open a file that is there for its lock alone, and make it if it is missing. :raises OSError: as open(2)."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(handle: int) -> bool:
    """Take the lock of an open file unless another process has it; return whether it is ours.

    :raises OSError: this file system knows no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(handle: int) -> Iterator[None]:
    """Wait for the lock of an open file and hold it; the file is closed at the end."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
