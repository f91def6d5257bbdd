# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make restored PostgreSQL data directories ready to start where they now are.

A data directory names other places by absolute links: its tablespaces (``pg_tblspc/<oid>``), perhaps its WAL
(``pg_wal``). In a restored copy these still lead to the original server, which may be alive. Recovery makes the
tablespace links anew from ``tablespace_map`` (PostgreSQL documentation, "Making a Base Backup Using the Low Level
API"), so that file has to tell the new places as well.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass

from ..errors import SplitMirrorError

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"([\\\n\r])")
_LINE = re.compile(rb"(\d+) ((?:[^\\\n]|\\.)*)\n?", re.DOTALL)


class RelocationError(SplitMirrorError):
    """A restored data directory that cannot be made safe to start."""


@dataclass(frozen=True)
class Move:
    """One link or line that leads elsewhere now. All three are paths; ``where`` is the link, or the map's line."""

    where: str
    before: str
    after: str


def find_data_directories(target: str) -> list[str]:
    """All PostgreSQL data directories below ``target``, sorted; links are not followed."""
    found = []
    for folder, folders, files in os.walk(target):
        if "PG_VERSION" in files and "global" in folders:
            found.append(folder)
            folders.clear()
        folders.sort()
    return found


def relocate(target: str, data_directory: str, dry_run: bool = False) -> list[Move]:
    """Point the links of one restored data directory to their places below ``target``.

    :param target: the folder of the restore; what was at ``/a/b`` is now at ``target/a/b``.
    :param data_directory: a folder below it, from find_data_directories.
    :param dry_run: only tell what would move.
    :returns: what was moved; empty when all was in place already.
    :raises RelocationError: a link leads to a place that was not restored.
    """
    moves: list[Move] = []
    links = [os.path.join(data_directory, "pg_wal")]
    spaces = os.path.join(data_directory, "pg_tblspc")
    if os.path.isdir(spaces) and not os.path.islink(spaces):
        links += [entry.path for entry in sorted(os.scandir(spaces), key=lambda entry: entry.name)]
    for link in links:
        if os.path.islink(link):
            before = os.readlink(link)
            after = _moved(target, before, link)
            if after != before:
                moves.append(Move(link, before, after))
                if not dry_run:
                    _replace_link(link, after)
    return moves + _relocate_map(target, os.path.join(data_directory, "tablespace_map"), dry_run)


def _relocate_map(target: str, path: str, dry_run: bool) -> list[Move]:
    if not os.path.isfile(path) or os.path.islink(path):
        return []
    with open(path, "rb") as file:
        old = file.read()
    moves: list[Move] = []
    lines = []
    for match in _LINE.finditer(old):
        before = os.fsdecode(_ESCAPED.sub(rb"\1", match[2]))
        after = _moved(target, before, path)
        if after != before:
            moves.append(Move(f"{path}: {match[1].decode()}", before, after))
        lines.append(match[1] + b" " + _TO_ESCAPE.sub(rb"\\\1", os.fsencode(after)) + b"\n")
    if moves and not dry_run:
        _replace_file(path, b"".join(lines))
    return moves


def _moved(target: str, before: str, where: str) -> str:
    """Where ``before`` is now."""
    root = os.path.join(os.path.abspath(target), "")
    stays = before.startswith(root) or not os.path.isabs(before)
    after = before if stays else os.path.join(root, before.lstrip("/"))
    inside = os.path.realpath(os.path.join(os.path.dirname(where), after))
    if not os.path.join(inside, "").startswith(os.path.join(os.path.realpath(root), "")) or not os.path.isdir(inside):
        raise RelocationError(
            f"target: {where} leads to {before}, which is not among the restored files; restore that folder with it.",
            option="target",
        )
    return after


def _replace_link(link: str, after: str) -> None:
    fresh = link + ".new"
    os.symlink(after, fresh)
    os.replace(fresh, link)


def _replace_file(path: str, content: bytes) -> None:
    known = os.stat(path)
    fd, fresh = tempfile.mkstemp(dir=os.path.dirname(path))
    with open(fd, "wb") as file:
        file.write(content)
        os.fchown(fd, known.st_uid, known.st_gid)
        os.fchmod(fd, known.st_mode & 0o7777)
    os.replace(fresh, path)
