# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Read a session back from tape and compare it with the catalog."""

from __future__ import annotations

import os
import time
from typing import Any

from ..catalog.lookup import complete_parts
from ..catalog.records import Session
from ..catalog.store import Catalog
from .base import TapeDrive
from .scan import Differences, VerifyError, compare, compare_index, scan
from .volumes import load_known


def needed_volume(session: Session, catalog: Catalog) -> str:
    """The volume that verify_session reads. :raises CatalogError: the session has no complete archive."""
    return complete_parts(catalog, session)[0].volume


def verify_session(session: Session, catalog: Catalog, drive: TapeDrive) -> dict[str, Any]:
    """Read a session from tape and compare every member with the catalog and with the index on the tape.

    :returns: session, host, members, files, bytes, records_read, volumes, seconds, bytes_per_s.
    :raises SplitMirrorError: something differs; the message says what.
    """
    begun = time.monotonic()
    found = Differences()
    (part,) = complete_parts(catalog, session).values()
    load_known(drive, catalog, part.volume)
    with scan(drive, part.file_number, part.block, part.record_bytes, os.path.dirname(catalog.path)) as read:
        expected = (member for _part, member in catalog.members(session.number))
        compare("the catalog", expected, read.all_members(), found)
        compare_index(read, session.id, found)
        if read.records != part.records:
            found.add(f"{read.records} records were read and the catalog has {part.records}")
        if read.headers_sha256 != session.write.get("headers_sha256"):
            found.add("the checksum of all headers differs")
        if found.count:
            raise VerifyError(
                f"session: {session.id} on volume {part.volume} is not what was written, with {found.count} "
                f"differences ({'; '.join(found.shown)}).",
                option="session",
            )
        seconds = time.monotonic() - begun
        return {
            "session": session.id,
            "host": session.host,
            "members": read.members,
            "files": read.files,
            "bytes": read.size_bytes,
            "records_read": read.records,
            "volumes": [part.volume],
            "seconds": round(seconds, 3),
            "bytes_per_s": round(read.records * part.record_bytes / seconds),
        }
