# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GNU tar as the one that writes restored files: it gets only members whose names were checked."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Optional, cast

from ..archive.model import BLOCK_BYTES
from ..errors import SplitMirrorError
from ..tools import own_environment
from .base import TapeError

_COMMAND = (
    "tar",
    "--extract",
    "--file=-",
    "--acls",
    "--xattrs",
    "--xattrs-include=*",
    "--preserve-permissions",
    "--same-owner",
    "--delay-directory-restore",
    "--warning=no-unknown-keyword",
)
_ZEROS = bytes(1 << 20)


class ExtractError(SplitMirrorError):
    """tar could not write what it was given."""


class TarExtractor:
    """A tar that unpacks what is put into it; use it as a context manager, and call finish() before leaving.

    :param folder: where to, an empty folder.
    :param numeric_owner: go by the numbers of owners, not by their names.
    """

    def __init__(self, folder: str, *, numeric_owner: bool) -> None:
        command = [*_COMMAND, f"--directory={folder}"]
        if numeric_owner:
            command.append("--numeric-owner")
        self._said = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  closed in __exit__
        try:
            self._tar = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                bufsize=1 << 20,
                umask=0o022,
                env=own_environment(),
            )
        except OSError as exc:
            self._said.close()
            raise ExtractError(f"GNU tar cannot be started ({exc.strerror}); install it on the media server.") from exc

    def __enter__(self) -> TarExtractor:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._tar.returncode is None:
            self._tar.kill()
            self._tar.wait()
        stdin = cast(BinaryIO, self._tar.stdin)
        try:
            stdin.close()
        except OSError:
            # what it still held has no reader any more
            pass
        self._said.close()

    def put(self, pieces: Iterable[bytes]) -> None:
        """Hand on blocks of the archive. :raises ExtractError: tar has given up."""
        stdin = cast(BinaryIO, self._tar.stdin)
        try:
            for piece in pieces:
                stdin.write(piece)
        except OSError:
            self._tar.wait()
            raise self._failure() from None

    def put_member(self, header: bytes, data: Iterable[bytes], length: int) -> None:
        """Hand on one member: its headers, and all blocks behind them, ``length`` bytes.

        :raises TapeError: ``data`` ended with it; zeros stand for the rest, so that the next member can follow.
        :raises ExtractError: tar has given up.
        """
        self.put((header,))
        try:
            for piece in data:
                self.put((piece,))
                length -= len(piece)
        except TapeError:
            while length:
                part = min(length, len(_ZEROS))
                self.put((_ZEROS[:part],))
                length -= part
            raise

    def finish(self) -> list[str]:
        """End the archive and wait until all is written.

        :returns: what tar says that it could not set, extended attributes for example: that is no failure to it.
        :raises ExtractError: something could not be written.
        """
        stdin = cast(BinaryIO, self._tar.stdin)
        try:
            stdin.write(bytes(2 * BLOCK_BYTES))
            stdin.close()
        except OSError:
            pass
        if self._tar.wait():
            raise self._failure()
        return [line for line in self._lines() if ": Cannot " in line]

    def _lines(self) -> list[str]:
        self._said.seek(0)
        return [line for line in self._said.read().decode("utf-8", "backslashreplace").splitlines() if line]

    def _failure(self) -> ExtractError:
        lines = self._lines()
        first = lines[0] if lines else f"exit status {self._tar.returncode}"
        return ExtractError(f"target: tar could not restore everything ({first}).", option="target")
