# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the catalog knows: volumes, sessions, and the parts of sessions that lie on volumes."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from ..errors import SplitMirrorError

OPEN = "open"
GOOD = "good"
FAILED = "failed"
#: It cannot be restored, but what is on the volume is kept as if it were good.
DAMAGED = "damaged"
#: A use of a cleaning cartridge.
CLEAN = "clean"
#: Levels of a session: a whole one; what changed since the session before; what changed since the last full one.
FULL = "full"
INCREMENTAL = "incremental"
DIFFERENTIAL = "differential"
LEVELS = (FULL, INCREMENTAL, DIFFERENTIAL)
#: The largest integer in SQLite. Two large sparse files together can exceed it.
MOST_BYTES = 2**63 - 1


class CatalogError(SplitMirrorError):
    """The catalog does not know what was asked for, or cannot be used."""

    code = "catalog_unusable"


class PartUnknown(CatalogError):
    """The catalog does not have a part, or its session, that a writer began; nothing was changed."""

    code = "session_unknown"


class CatalogChanged(CatalogError):
    """Another process wrote to the catalog while it was read without a lock. Read it again."""

    code = "catalog_busy"


class Volume(NamedTuple):
    """One volume.

    :param uuid: of its label; a volume whose label has another one is another volume.
    :param files: complete tape files on it, the label included: the next archive becomes tape file ``files``.
    :param blocks: records and filemarks in these, as the drive counts.
    :param out_of_use: why nothing is written to it any more, a sentence; empty for a volume in use.
    :param capacity_bytes: how much goes on it, the label included, as it was seen last; None when nobody knows.
    :param place: where people keep it, in their words; empty when it is where the drives are.
    :param place_s: since when it is there, or is back; seconds since 1970, None if it never was elsewhere.
    """

    name: str
    uuid: str
    pool: str
    record_bytes: int
    created: str
    files: int
    blocks: int
    out_of_use: str = ""
    capacity_bytes: Optional[int] = None
    place: str = ""
    place_s: Optional[float] = None


class Session(NamedTuple):
    """One session. Times are seconds since 1970; ``expires_s`` is None when it is kept for ever.

    :param files: regular files in it; :param members: all members.
    :param bytes: the length of the contents of files, up to MOST_BYTES.
    :param write: what tape_write found proved.
    :param evidence: what it was judged by.
    :param level: FULL, INCREMENTAL or DIFFERENTIAL.
    :param base: id of the session that it builds on, of which it has only what changed since; empty for a full one.
    """

    number: int
    id: str
    host: str
    state: str
    reason: str
    created_s: float
    closed_s: Optional[float]
    expires_s: Optional[float]
    files: int
    bytes: int
    members: int
    write: dict[str, Any]
    evidence: dict[str, Any]
    level: str = FULL
    base: str = ""


class VolumeUse(NamedTuple):
    """One use of a volume in a drive, and what the drive said at its end of itself and of the volume.

    :param volume: its name; of a use as CLEAN, that of a cleaning cartridge.
    :param what: ``write``, ``verify``, ``restore``, ``copy`` or CLEAN. :param session: id of the session.
    :param used_s: seconds since 1970.
    :param facts: as DriveFacts.told (tape/drive_facts.py).
    """

    volume: str
    drive: str
    what: str
    session: str
    used_s: float
    facts: dict[str, Any]


class Copy(NamedTuple):
    """A further place of a part: the same tape file, byte for byte, in the same records, on another volume.

    Its filemark is on the volume. All copies of parts of a session in one pool are one copy of the session.

    :param session: number of the session. :param part: number of the part in it.
    :param copied_s: when it was made or found; seconds since 1970. :param expires_s: until when it is kept, whatever
        becomes of the session elsewhere; None for ever.
    :param drive_key: as in Part; each copy may have another one, or none.
    """

    session: int
    part: int
    volume: str
    file_number: int
    block: int
    copied_s: float
    expires_s: Optional[float]
    drive_key: str = ""


class Part(NamedTuple):
    """What of a session is on one volume: a whole archive with its own index, in one tape file.

    :param part: its number in the session, from 0.
    :param block: where its first record is, as the drive counts.
    :param offset_bytes: where it begins when the archives of all parts are put one behind another. The catalog counts
        the offsets of members from the beginning of the session, an index from the beginning of its part.
    :param complete: the filemark behind it is on the volume.
    :param archive_bytes: length of the plain archive in it, ``lead_bytes`` included.
    :param lead_bytes: length of the headers with which it goes on with a member that began in a part before it, as
        ``tar -M`` needs them; they belong to no member. 0 for a part that begins with a member of its own.
    :param age_head: header and nonce of the age file that the archive is in; empty when it is not encrypted.
    :param age_keys: fingerprints of the keys that it is encrypted to, with spaces between them.
    :param drive_key: fingerprint of the key with which the drive encrypted it; empty when it did not.
    :param sha256: of the whole tape file, which is the same wherever it was copied to; empty as long as it was not.
    """

    session: int
    part: int
    volume: str
    file_number: int
    block: int
    record_bytes: int
    offset_bytes: int
    records: int
    complete: bool
    archive_bytes: int = 0
    lead_bytes: int = 0
    age_head: bytes = b""
    age_keys: str = ""
    drive_key: str = ""
    sha256: bytes = b""

    @property
    def end_bytes(self) -> int:
        """Where the next part begins."""
        return self.offset_bytes + self.archive_bytes - self.lead_bytes

    def at(self, copy: Copy) -> Part:
        """The same part where a copy of it is."""
        return self._replace(
            volume=copy.volume, file_number=copy.file_number, block=copy.block, drive_key=copy.drive_key
        )

    def place_of(self, offset_bytes: int) -> int:
        """Where in the tape file of this part the place is that is counted from the beginning of the session."""
        return offset_bytes - self.offset_bytes + self.lead_bytes
