# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify a session that is encrypted, without a key: that its records are there, as many and as long as they were."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any, Optional

from ..catalog.records import Part, Session
from ..catalog.store import Catalog
from ..host.status import StatusWriter
from ..tape.base import TapeDrive, TapeError
from .part import tape_stream
from .scan import VerifyError
from .sealed import prove_records
from .volume_source import Drives
from .volumes import load_known


def verify_records(
    session: Session,
    catalog: Catalog,
    drives: Drives,
    parts: Sequence[Part],
    status: Optional[StatusWriter] = None,
) -> dict[str, Any]:
    """Read all records of a session. Of the content nothing is proved but what the drive proves of each record;
    of a part that was ever copied, all of it is compared with what was copied.

    :param status: reports how far the reading has come, in bytes.
    :returns: what verify_session returns; ``proved`` is ``records``, and no member is counted.
    :raises SplitMirrorError: a volume cannot be had or is not what was written; the first of these.
    """
    begun = time.monotonic()
    faults = []
    if status is not None:
        status.set(0, sum(part.records * part.record_bytes for part in parts))
    for part in parts:
        drive = drives.exchange(part.volume)
        load_known(drive, catalog, part.volume)
        try:
            fault = _fault(drive, part, status)
        except TapeError as exc:
            fault = exc.message.rstrip(".")
        if fault is not None:
            faults.append(f"part {part.part + 1} on volume {part.volume}: {fault}")
    seconds = time.monotonic() - begun
    result = {
        "session": session.id,
        "host": session.host,
        "members": 0,
        "files": 0,
        "bytes": 0,
        "records_read": sum(part.records for part in parts),
        "volumes": list(dict.fromkeys(part.volume for part in parts)),
        "proved": "records",
        "seconds": round(seconds, 3),
        "bytes_per_s": round(sum(part.records * part.record_bytes for part in parts) / seconds),
        "missing": [],
        "missing_count": 0,
        "doubtful": [],
        "doubtful_count": 0,
        "report": None,
        "unreached": [],
    }
    if faults:
        error = VerifyError(
            f"session: {session.id} is not what was written ({'; '.join(faults)}); give identity_file, so that "
            "tape_verify says which members are damaged.",
            option="session",
        )
        error.facts = result
        raise error
    return result


def _fault(drive: TapeDrive, part: Part, status: Optional[StatusWriter]) -> Optional[str]:
    """What is wrong with a part; None if nothing can be seen. :raises TapeError: a record cannot be read."""
    seen = hashlib.sha256()
    tape = tape_stream(drive, part, status, taken=lambda _number, record: seen.update(record))
    fault = prove_records(tape, part)
    if fault is None and part.sha256 and seen.digest() != part.sha256:
        return "its content is not what was copied"
    return fault
