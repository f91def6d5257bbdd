# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an incremental session holds together with the sessions that it builds on.

Each of them has rows only for the members in its own archive and for the paths that were removed. A path is what the
newest session says that names it: a member of that session, or nothing if that session removed it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from ..archive.model import MemberRecord
from .members import COLUMNS, MemberTable, below
from .records import Part
from .rowcheck import member_of

_INSIDE = "(path = ? OR (path >= ? AND path < ?))"
_SHOWN = "NOT EXISTS (SELECT 1 FROM temp.hidden WHERE hidden.path = m.path AND hidden.rank > ?)"


class ChainTable(MemberTable):
    """What the catalog has of removed paths, and chains of sessions; Catalog is what others use.

    A chain is given as the numbers of its sessions, the full one first. One chain at a time can be read from a catalog.
    """

    def set_removed(self, number: int, paths: Iterable[bytes]) -> None:
        """Enter which members of its bases a session removed, by name, in place of what was entered before."""
        with self._transaction():
            self._replace_removed(number, paths)

    def removed(self, number: int) -> Iterator[bytes]:
        """What a session removed, by name."""
        for (path,) in self._rows("SELECT path FROM removed WHERE session = ? ORDER BY path", number):
            yield path

    def removed_count(self, number: int) -> int:
        """How many members of its bases a session removed."""
        return int(self._one("SELECT count(*) FROM removed WHERE session = ?", number)[0])

    def chain_has(self, chain: Sequence[int], path: bytes) -> bool:
        """Whether the last session of a chain holds this member, or members below it, itself or in its bases."""
        with self._in_words():
            self._hide(chain, [path])
        query = f"SELECT 1 FROM members m WHERE session = ? AND {_INSIDE} AND {_SHOWN} LIMIT 1"  # noqa: S608
        return any(self._one(query, number, path, *below(path), rank) is not None for rank, number in enumerate(chain))

    def choose(self, chain: Sequence[int], wanted: Optional[Sequence[bytes]] = None) -> None:
        """Say what chosen() yields.

        :param wanted: only these paths (names of members) and what is below them, and what their hard links point to;
            None for all.
        """
        with self._in_words():
            self._hide(chain, wanted)
            self._db.execute("DROP TABLE IF EXISTS temp.chosen")
            self._db.execute(
                "CREATE TEMP TABLE chosen(session INTEGER, offset_bytes INTEGER, PRIMARY KEY(session, offset_bytes)) "
                "WITHOUT ROWID"
            )
            for rank, number in enumerate(chain):
                self._choose(number, rank, wanted or ())

    def chosen(
        self, chain: Sequence[int], part: Part, after: Optional[Part], *, all_of_it: bool
    ) -> Iterator[tuple[int, MemberRecord]]:
        """(number of the part that lists it, member) of what begins in a part and was chosen, in order.

        :param after: the next part of the session; None for the last one.
        :param all_of_it: what was chosen is all.
        """
        rank = chain.index(part.session)
        columns = "m." + COLUMNS.replace(", ", ", m.")
        # No member is passed over, wherever the catalog has it.
        query = f"SELECT m.part, {columns} FROM members m WHERE m.session = ? "  # noqa: S608
        values: list[object] = [part.session]
        if part.part:
            query += "AND m.offset_bytes >= ? "
            values.append(part.offset_bytes)
        if after is not None:
            query += "AND m.offset_bytes < ? "
            values.append(after.offset_bytes)
        if rank < len(chain) - 1 and all_of_it:
            query += f"AND {_SHOWN} "
            values.append(rank)
        if not all_of_it:
            query += (
                "AND EXISTS (SELECT 1 FROM temp.chosen c WHERE c.session = m.session "
                "AND c.offset_bytes = m.offset_bytes) "
            )
        yield from map(member_of, self._rows(query + "ORDER BY m.offset_bytes", *values))

    # -- inside --------------------------------------------------------------------------------------------------

    def _hide(self, chain: Sequence[int], wanted: Optional[Sequence[bytes]]) -> None:
        """Note which session of a chain is the newest to name a path, for all paths that one behind the first names."""
        self._db.execute("DROP TABLE IF EXISTS temp.hidden")
        self._db.execute("CREATE TEMP TABLE hidden(path BLOB PRIMARY KEY, rank INTEGER) WITHOUT ROWID")
        inside: list[tuple[str, tuple[bytes, ...]]] = [("1", ())]
        if wanted is not None:
            inside = [(_INSIDE, (path, *below(path))) for path in wanted]
        for rank, number in enumerate(chain):
            for table in ("removed", "members") if rank else ():
                for condition, values in inside:
                    self._db.execute(
                        f"INSERT OR REPLACE INTO temp.hidden SELECT path, ? FROM {table} "  # noqa: S608
                        f"WHERE session = ? AND {condition}",
                        (rank, number, *values),
                    )

    def _choose(self, number: int, rank: int, wanted: Sequence[bytes]) -> None:
        for path in wanted:
            self._db.execute(
                "INSERT OR IGNORE INTO temp.chosen SELECT m.session, m.offset_bytes FROM members m "  # noqa: S608
                f"WHERE m.session = ? AND {_INSIDE} AND {_SHOWN}",
                (number, path, *below(path), rank),
            )
        # A hard link is never in another session than what it leads to.
        self._db.execute(
            "INSERT OR IGNORE INTO temp.chosen SELECT ?1, target.offset_bytes FROM temp.chosen c "
            "JOIN members link ON link.session = ?1 AND link.offset_bytes = c.offset_bytes AND link.kind = 'h' "
            "JOIN members target ON target.session = ?1 AND target.path = link.linkname "
            "AND target.offset_bytes < link.offset_bytes WHERE c.session = ?1",
            (number,),
        )

    def _replace_removed(self, number: int, paths: Iterable[bytes]) -> None:
        self._db.execute("DELETE FROM removed WHERE session = ?", (number,))
        rows = ((number, path) for path in paths)
        self._db.executemany("INSERT OR IGNORE INTO removed VALUES(?, ?)", rows)
