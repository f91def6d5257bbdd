# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GNU tar, which writes the restored files. It gets only members whose names were checked."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Optional, cast

from ..archive.model import BLOCK_BYTES
from ..errors import SplitMirrorError
from ..host.tools import start_program

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
    "--quoting-style=literal",
    "--warning=no-unknown-keyword",
    # A time in the future is right, and a name with ": Cannot " in it would make an error of that warning.
    "--warning=no-timestamp",
)
_MOST_SAID = 1 << 20


class ExtractError(SplitMirrorError):
    """tar cannot be started, or has given up."""

    code = "target_unusable"


class Said:
    """How tar ended. :ivar status: of its exit. :ivar lines: what it could not do, its first words."""

    def __init__(self, status: int, lines: list[str]) -> None:
        self.status = status
        self.lines = lines
        # "tar: NAME: Cannot mknod: Operation not permitted"
        told = [line[5:].rsplit(": Cannot ", 1) for line in lines if line.startswith("tar: ")]
        self._of = {os.fsencode(parts[0]): f"Cannot {parts[1]}" for parts in told if len(parts) == 2}

    def of(self, name: bytes) -> Optional[str]:
        """What it says of a member."""
        return self._of.get(name)

    def shown(self) -> str:
        """Its first words, as messages show them."""
        first = self.lines[0] if self.lines else f"exit status {self.status}"
        return first.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class TarExtractor:
    """A tar that unpacks the members it is given. Use it as a context manager, and call finish() at the end.

    :param folder: where to, an empty folder.
    :param numeric_owner: go by the numbers of owners, not by their names.
    """

    def __init__(self, folder: str, *, numeric_owner: bool) -> None:
        command = [*_COMMAND, f"--directory={folder}"]
        if numeric_owner:
            command.append("--numeric-owner")
        self._said = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  closed in __exit__
        try:
            self._tar = start_program(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                bufsize=1 << 20,
                umask=0o022,
            )
        except OSError as exc:
            self._said.close()
            raise ExtractError(
                f"GNU tar cannot be started ({exc.strerror}); install it on the media server.", code="host_program"
            ) from exc

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
            raise ExtractError(
                "target: tar ended before all members were written; see what it reported.", option="target"
            ) from None

    def finish(self) -> Said:
        """End the archive and wait until all is written."""
        stdin = cast(BinaryIO, self._tar.stdin)
        try:
            stdin.write(bytes(2 * BLOCK_BYTES))
            stdin.close()
        except OSError:
            # it has given up, and said why
            pass
        return Said(self._tar.wait(), self._lines())

    def _lines(self) -> list[str]:
        """Its error messages, without warnings."""
        self._said.seek(0)
        text = self._said.read(_MOST_SAID).decode("utf-8", "surrogateescape")
        lines = [line for line in text.splitlines() if line]
        return lines if self._tar.returncode else [line for line in lines if ": Cannot " in line]
