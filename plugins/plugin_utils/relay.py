# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy a file from host to host through the controller, in pieces. The controller never stores the whole file."""

from __future__ import annotations

import contextlib
import hashlib
import os.path
import re
from dataclasses import dataclass
from typing import Optional

from ansible.errors import AnsibleError

from .channel import Answer, Channel
from .errors import ActionError

#: How much the controller holds at once. Each piece costs a command on each side, about 0.1 s over ssh.
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class Relayed:
    """A file that was copied: its size in bytes, its SHA-256, and whether it had to be sent."""

    size_bytes: int
    sha256: str
    changed: bool


def relay_file(source: Channel, src: str, target: Channel, dest: str, dry_run: bool = False) -> Relayed:
    """Copy ``src`` on one host to ``dest`` on another one. A file with the same content is left as it is.

    The file gets mode 0600, and folders that are made for it 0700. It gets its name only after all of it has arrived
    and its checksum has been compared.

    :param dry_run: only find out whether the file would be sent.
    :raises AnsibleError: a command has failed, or the file that arrived is not the file that was sent.
    """
    told = _must(source, ["stat", "--format=%s", "--", src], "src", f"{src} cannot be read").out.strip()
    if not re.fullmatch(rb"[0-9]{1,18}", told):
        raise ActionError(f"{source.host}: src: the size of {src} cannot be read ({told[:40]!r}).", "src")
    size = int(told)
    sha256 = _sha256(source, src)
    if sha256 is None:
        raise ActionError(f"{source.host}: src: {src} disappeared while it was read.", "src")
    if sha256 == _sha256(target, dest):
        return Relayed(size, sha256, changed=False)
    if dry_run:
        return Relayed(size, sha256, changed=True)

    part = dest + ".part"
    cannot = "dest", f"{dest} cannot be written"
    # With --parents the mode is that of the last folder alone.
    missing = _missing_folders(target, os.path.dirname(dest))
    if missing:
        _must(target, ["mkdir", "--mode=0700", "--", *missing], *cannot)
    try:
        _must(target, ["install", "--mode=0600", "--", "/dev/null", part], *cannot)
        digest = hashlib.sha256()
        for number in range((size + PIECE_BYTES - 1) // PIECE_BYTES):
            piece = _must(source, _dd(number, f"if={src}", "count=1", skip=True), "src", f"{src} cannot be read").out
            if len(piece) != min(PIECE_BYTES, size - number * PIECE_BYTES):
                raise ActionError(f"{source.host}: src: {src} has changed its length; run the task again.", "src")
            digest.update(piece)
            _must(target, _dd(number, f"of={part}", "conv=notrunc", skip=False), *cannot, stdin=piece)
        if digest.hexdigest() != sha256 or _sha256(target, part) != sha256:
            raise ActionError(
                f"{target.host}: dest: {dest} differs from the file on {source.host}; run the task again.", "dest"
            )
    except AnsibleError:
        # A partial file must not take up space that others need.
        with contextlib.suppress(AnsibleError):
            target.run(["rm", "--force", "--", part])
        raise
    _must(target, ["mv", "--no-target-directory", "--", part, dest], *cannot)
    return Relayed(size, sha256, changed=True)


def _missing_folders(target: Channel, folder: str) -> list[str]:
    """The missing folders of a path, the uppermost first."""
    missing: list[str] = []
    while folder not in ("", "/") and target.run(["test", "-d", folder]).code:
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing


def _dd(number: int, file: str, extra: str, skip: bool) -> list[str]:
    place = "skip" if skip else "seek"
    return ["dd", file, f"bs={PIECE_BYTES}", f"{place}={number}", extra, "iflag=fullblock", "status=none"]


def _sha256(channel: Channel, path: str) -> Optional[str]:
    """SHA-256 of a file on a host, or None where there is no such file to read."""
    answer = channel.run(["sha256sum", "--", path])
    found = re.match(rb"\\?([0-9a-f]{64}) ", answer.out)
    return found[1].decode() if found and answer.code == 0 else None


def _must(channel: Channel, argv: list[str], option: str, trouble: str, stdin: Optional[bytes] = None) -> Answer:
    answer = channel.run(argv, stdin)
    if answer.code:
        raise ActionError(
            f"{channel.host}: {option}: {trouble}: {answer.err.strip() or f'exit code {answer.code}'}", option
        )
    return answer
