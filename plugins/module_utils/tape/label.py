# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The label: tape file 0 of every volume, a tar of one record with one member, ``splitmirror-volume.json``.

Plain tar lists it (``tar -tf /dev/nst0``), and the JSON in it says how to read the rest without this collection.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
import uuid
from dataclasses import asdict, dataclass, fields
from typing import Optional

from ..host.strict_json import parse_json
from .base import EndOfData, TapeDrive, TapeError

MEMBER = "splitmirror-volume.json"
FORMAT_VERSION = 1
#: tar's own blocking factor of 20, so that plain tar reads a label without being told a record size.
LABEL_RECORD_BYTES = tarfile.RECORDSIZE
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOW_TO_READ = (
    "Each tape file behind this one is a POSIX pax tar archive in records of record_bytes. "
    "Skip to one with 'mt -f DEVICE fsf N' and unpack it with "
    "'tar -x -b (record_bytes / 512) -f DEVICE'."
)


@dataclass(frozen=True)
class Label:
    """What a volume says of itself.

    :param volume: its name.
    :param pool: which pool of volumes it belongs to.
    :param record_bytes: size of all records behind the label.
    :param uuid: new at each labelling; the catalog knows the volume by it.
    :param created: UTC, ISO 8601, seconds.
    """

    volume: str
    pool: str
    record_bytes: int
    uuid: str
    created: str


@dataclass(frozen=True)
class LabelReading:
    """What stands at the beginning of a volume: a label, nothing at all, or something else.

    :param label: the label, if there is one.
    :param foreign: what else is there, in words; None on a labelled or a blank volume.
    """

    label: Optional[Label] = None
    foreign: Optional[str] = None

    @property
    def blank(self) -> bool:
        """Nothing was ever written, or nothing is left of it."""
        return self.label is None and self.foreign is None


def check_record_bytes(drive: TapeDrive, record_bytes: int) -> None:
    """:raises TapeError: the drive, or tar, does not take records of this size."""
    if record_bytes % 512 or not max(512, drive.min_record_bytes) <= record_bytes <= drive.max_record_bytes:
        raise TapeError(
            f"record_bytes: {record_bytes} is not a record size of this drive; give a multiple of 512 up to "
            f"{drive.max_record_bytes}.",
            option="record_bytes",
            code="option_invalid",
        )


def new_label(volume: str, pool: str, record_bytes: int) -> Label:
    """Make a label with a uuid of its own. :raises TapeError: the pool has no proper name."""
    if not _POOL.fullmatch(pool):
        raise TapeError(
            f"pool: {pool!r} is not a valid name of a pool; it needs 1 to 64 letters, digits, dots, dashes or "
            "underscores.",
            option="pool",
            code="option_invalid",
        )
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Label(volume, pool, record_bytes, str(uuid.uuid4()), created)


def pack_label(label: Label) -> bytes:
    """The label as the one record that stands on the tape."""
    data = {"splitmirror_volume": FORMAT_VERSION, **asdict(label), "how_to_read": _HOW_TO_READ}
    content = json.dumps(data, indent=2).encode() + b"\n"
    info = tarfile.TarInfo(MEMBER)
    info.size = len(content)
    info.mode = 0o644
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def unpack_label(record: bytes) -> LabelReading:
    """Tell what the first record of a volume is.

    :raises TapeError: it is a label of a later version of this collection.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(record), mode="r:") as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first is not None and first.name == MEMBER else None
            content = stream.read() if stream is not None else b""
    except (tarfile.TarError, OSError, EOFError):
        return LabelReading(foreign=f"a record of {len(record)} bytes that is not ours")
    if not content:
        return LabelReading(foreign="a tar archive that is not ours")
    try:
        data = parse_json(content)
        version = data["splitmirror_volume"]
        if version == FORMAT_VERSION and not isinstance(version, bool):
            label = Label(**{item.name: data[item.name] for item in fields(Label)})
            if all(isinstance(value, str) for value in (label.volume, label.pool, label.uuid, label.created)) and (
                isinstance(label.record_bytes, int) and label.record_bytes >= 512 and label.record_bytes % 512 == 0
            ):
                return LabelReading(label)
    except (ValueError, KeyError, TypeError):
        return LabelReading(foreign="a damaged label")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise TapeError(
            f"volume: the label is of format {version} and this collection knows up to {FORMAT_VERSION}; "
            "use the later version that wrote it.",
            option="volume",
            code="volume_wrong",
        )
    return LabelReading(foreign="a damaged label")


def read_label(drive: TapeDrive) -> LabelReading:
    """Rewind and read what the volume begins with; the head then stands in or behind tape file 0."""
    drive.rewind()
    try:
        # exactly the label's size: some drives damage a record that is read with a larger buffer
        record = drive.read_record(LABEL_RECORD_BYTES)
        if not record:
            # one filemark and no more is what `mt weof` leaves on a tape that is to be blank
            try:
                drive.pass_record()
            except EndOfData:
                return LabelReading()
            return LabelReading(foreign="data behind a filemark at its beginning")
    except EndOfData:
        return LabelReading()
    except TapeError as exc:
        return LabelReading(foreign=f"a beginning that cannot be read ({exc.message.rstrip('.')})")
    return unpack_label(record)


def write_label(drive: TapeDrive, label: Label) -> None:
    """Write a label at the beginning, in the clear, and read it back; everything else on the volume is gone.

    The head then stands behind the label's filemark. Whether that may be is the caller's to know. A record of the size
    that the label promises is tried first, for some adapters take less than others.

    :raises TapeError: the drive does not take such records, and nothing was written; or the volume is bad.
    """
    drive.set_key(None)
    drive.rewind()
    if not drive.status().worm:
        drive.write_record(bytes(label.record_bytes))
        drive.rewind()
    drive.write_record(pack_label(label))
    drive.write_filemarks(1)
    if read_label(drive).label != label:
        raise TapeError(
            f"volume: the label of {label.volume} does not read back as it was written; replace the volume.",
            option="volume",
            code="tape_damaged",
        )
    drive.space_files(1)
