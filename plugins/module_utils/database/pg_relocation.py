# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make restored PostgreSQL data directories ready to start where they now are.

A data directory names other places by links: its tablespaces (``pg_tblspc/<oid>``), perhaps its WAL (``pg_wal``), and
whatever its owner moved elsewhere. Recovery makes the tablespace links anew from ``tablespace_map`` (PostgreSQL
documentation, "Making a Base Backup Using the Low Level API"), so that file has to name the new places as well.
"""

from __future__ import annotations

import os
import re

from .relocation import Move, place_of, relocate_links, replace_keeping_owner

#: Folders of which a backup holds nothing but the folder (the same section, "Backing Up the Data Directory").
EMPTY_FOLDERS = ("pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE = re.compile(rb"([\\\n\r])")
_LINE = re.compile(rb"(\d+) ((?:[^\\\n]|\\.)*)\n?", re.DOTALL)


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
    """Point every link of one restored data directory, and its tablespace_map, to the places below ``target``.

    :param target: the folder of the restore; what was at ``/a/b`` is now at ``target/a/b``.
    :param data_directory: a folder below it, from find_data_directories.
    :param dry_run: only return what would move.
    :returns: what was moved; empty when all was in place already.
    :raises RelocationError: see relocate_links.
    """
    moves = relocate_links(target, data_directory, EMPTY_FOLDERS, dry_run)
    root, folder = os.path.realpath(target), os.path.realpath(data_directory)
    return moves + _relocate_map(root, os.path.join(folder, "tablespace_map"), dry_run)


def _relocate_map(root: str, path: str, dry_run: bool) -> list[Move]:
    if not os.path.isfile(path) or os.path.islink(path):
        return []
    with open(path, "rb") as file:
        old = file.read()
    moves: list[Move] = []
    lines = []
    for match in _LINE.finditer(old):
        before = os.fsdecode(_ESCAPED.sub(rb"\1", match[2]))
        after = place_of(root, path, before)
        if after != before:
            moves.append(Move(f"{path}: {match[1].decode()}", before, after))
        lines.append(match[1] + b" " + _TO_ESCAPE.sub(rb"\\\1", os.fsencode(after)) + b"\n")
    if moves and not dry_run:
        replace_keeping_owner(path, b"".join(lines))
    return moves
