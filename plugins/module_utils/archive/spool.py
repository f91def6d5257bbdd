# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file without a name: an index while it grows, or what was read of one. It ends with its process."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Optional, cast

from ..errors import SplitMirrorError


class Spool:
    """Grows by ``write``, and is read after ``rewind``. Use it as a context manager.

    :param name: what is in it, one word.
    :param folder: a folder on a disk; None for the usual one for temporary files.
    :param error: makes the error for a disk that is full or broken, from the folder and the reason.
    """

    def __init__(self, name: str, folder: Optional[str], error: Callable[[str, str], SplitMirrorError]) -> None:
        self._folder = folder or "the folder for temporary files"
        self._error = error
        try:
            self._file = cast(BinaryIO, tempfile.TemporaryFile(prefix=f"splitmirror-{name}-", dir=folder))  # noqa: SIM115
        except OSError as exc:
            raise self._failed(exc) from exc

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_error: object) -> None:
        # What a full disk did not take is tried once more here; the error was raised already.
        with contextlib.suppress(OSError):
            self._file.close()

    def write(self, data: bytes) -> None:
        """Append. :raises SplitMirrorError: the disk is full."""
        try:
            self._file.write(data)
        except OSError as exc:
            raise self._failed(exc) from exc

    def truncate(self, size: int = 0) -> None:
        """Keep the first bytes only; writing goes on behind them."""
        try:
            self._file.truncate(size)
            self._file.seek(size)
        except OSError as exc:
            raise self._failed(exc) from exc

    def rewind(self) -> tuple[int, int]:
        """Go to the beginning, when all is written; return the length in bytes and the time of the last write in ns."""
        try:
            size = self._file.tell()
            self._file.seek(0)
            return size, os.fstat(self._file.fileno()).st_mtime_ns
        except OSError as exc:
            raise self._failed(exc) from exc

    def readinto(self, view: memoryview) -> int:
        """Read into memory; return how many bytes came."""
        try:
            return int(cast(Any, self._file).readinto(view))
        except OSError as exc:
            raise self._failed(exc) from exc

    def lines(self) -> Iterator[bytes]:
        """All lines from the beginning on."""
        self.rewind()
        try:
            # Not the file itself: a caller that stops early would close it.
            yield from iter(self._file.readline, b"")
        except OSError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: OSError) -> SplitMirrorError:
        return self._error(self._folder, exc.strerror or str(exc))
