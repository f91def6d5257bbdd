# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Members of sessions in the catalog: where every file lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from ..archive.model import MemberRecord
from .rowcheck import member_of, member_row
from .sqlite_file import CatalogDatabase

#: The columns of members that member_of takes, behind the number of the part.
COLUMNS = "path, kind, size, offset_bytes, header_bytes, sha256, mtime_ns, mode, uid, gid, linkname, header_digest"


class MemberTable(CatalogDatabase):
    """What the catalog has of the members of sessions; Catalog is what others use."""

    def members(
        self, number: int, wanted: Optional[Sequence[bytes]] = None, *, part: Optional[int] = None
    ) -> Iterator[tuple[int, MemberRecord]]:
        """(number of the part, member) of a session in the order of the archive; few are held in memory.

        The part is the one whose index lists the member: the one in which it ends, if it crosses.

        :param part: only the members of this part; not together with ``wanted``.
        :param wanted: only these paths (names of members) and what is below them, and what their hard links point
            to. One selection at a time can be read from a catalog.
        :raises CatalogError: the catalog cannot be read (any more).
        """
        columns = "m." + COLUMNS.replace(", ", ", m.")
        if wanted is None:
            query = f"SELECT m.part, {columns} FROM members m WHERE session = ?1 AND (?2 IS NULL OR part = ?2) "  # noqa: S608
            rows = self._rows(f"{query}ORDER BY offset_bytes", number, part)
        else:
            with self._in_words():
                self._select(number, wanted)
            rows = self._rows(
                f"SELECT m.part, {columns} FROM temp.wanted w JOIN members m "  # noqa: S608
                "ON m.session = ? AND m.offset_bytes = w.offset_bytes ORDER BY w.offset_bytes",
                number,
            )
        yield from map(member_of, rows)

    def has_path(self, number: int, path: bytes) -> bool:
        """The session holds this member, or members below it."""
        query = "SELECT 1 FROM members WHERE session = ? AND (path = ? OR (path >= ? AND path < ?)) LIMIT 1"
        return self._one(query, number, path, *below(path)) is not None

    def position(self, number: int, path: bytes) -> Optional[tuple[int, int]]:
        """(part that lists it, offset in the session) of a member; None if the session does not have it."""
        query = "SELECT part, offset_bytes FROM members WHERE session = ? AND path = ? ORDER BY offset_bytes LIMIT 1"
        row = self._one(query, number, path)
        return None if row is None else (int(row[0]), int(row[1]))

    def _select(self, number: int, wanted: Sequence[bytes]) -> None:
        self._db.execute("DROP TABLE IF EXISTS temp.wanted")
        self._db.execute("CREATE TEMP TABLE wanted(offset_bytes INTEGER PRIMARY KEY)")
        for path in wanted:
            self._db.execute(
                "INSERT OR IGNORE INTO temp.wanted SELECT offset_bytes FROM members "
                "WHERE session = ? AND (path = ? OR (path >= ? AND path < ?))",
                (number, path, *below(path)),
            )
        self._db.execute(
            "INSERT OR IGNORE INTO temp.wanted SELECT target.offset_bytes FROM temp.wanted w "
            "JOIN members link ON link.session = ?1 AND link.offset_bytes = w.offset_bytes AND link.kind = 'h' "
            "JOIN members target ON target.session = ?1 AND target.path = link.linkname "
            "AND target.offset_bytes < link.offset_bytes",
            (number,),
        )

    def add_members(self, number: int, part: int, members: Iterable[MemberRecord]) -> None:
        """Enter a batch of members of a session, lying in one part; finish_part makes sure that they are on disk."""
        # A power failure may take members of an open session: it is not good anyway. So do not wait for the disk here.
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            with self._transaction():
                self._insert_members(number, part, members)
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    def _insert_members(self, number: int, part: int, members: Iterable[MemberRecord]) -> None:
        rows = (member_row(number, part, member) for member in members)
        self._db.executemany("INSERT INTO members VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def below(path: bytes) -> tuple[bytes, bytes]:
    """Bounds of the names of members below a folder; all names for the root."""
    return (path + b"/", path + b"0") if path else (b"", b"\xff" * 4096)
