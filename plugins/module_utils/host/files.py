# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of ours: replaced whole or not at all, and locks between processes (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import BinaryIO


def partial(path: str) -> str:
    """The file that replacing writes before it takes the place of ``path``."""
    return path + ".new"


@contextlib.contextmanager
def replacing(path: str, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Write a file, mode 0600, that takes the place of ``path`` at the end; after an error ``path`` is as before.

    One process at a time may do this for a path.

    :param durable: whether a power cut after the end leaves the new file.
    :raises OSError: it cannot be written.
    """
    handle = os.open(partial(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        yield stream
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(partial(path), path)
    if durable:
        sync_folder(os.path.dirname(path))


def replace_file(path: str, text: str, *, durable: bool = False) -> None:
    """Write a text file in one step, see replacing."""
    with replacing(path, durable=durable) as stream:
        stream.write(text.encode())


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
