# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Promise 5: no tape is overwritten unless it is blank, scratch, or expired in the catalog and its label matches.

Nor is the last good session of a host, unless that is said in so many words.
Everything that decides whether a volume may be written, and where, is here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from ..catalog.records import Volume
from ..catalog.store import Catalog
from ..tape.base import (
    EndOfData,
    Position,
    TapeDrive,
    TapeError,
)
from ..tape.label import (
    Label,
    LabelReading,
    check_record_bytes,
    new_label,
    read_label,
    write_label,
)

APPEND = "append"
OVERWRITE = "overwrite"


@dataclass(frozen=True)
class WritePosition:
    """Where the next archive goes.

    :param label: the label of the volume in the drive.
    :param file_number: the tape file that it becomes.
    :param block: where that begins, as the drive counts.
    :param remaining_bytes: room behind it; None when the drive does not tell.
    """

    label: Label
    file_number: int
    block: int
    remaining_bytes: Optional[int]

    @property
    def position(self) -> Position:
        """The place as the drive takes it."""
        return Position(self.file_number, 0)


@dataclass(frozen=True)
class Labelling:
    """What labelling did, or would do. :param before: the label that was there, if one was."""

    changed: bool
    before: Optional[Label]
    after: Label
    in_catalog: bool


def load_labelled(drive: TapeDrive, volume: str) -> Label:
    """Load a volume and read its label.

    :raises TapeError: it is unlabelled, foreign, or not the one asked for.
    """
    drive.load(volume)
    return _checked(read_label(drive), volume)


def enter_label(catalog: Catalog, label: Label, *, allow_last: bool = False) -> None:
    """Enter a volume with nothing behind its label; what the catalog knew of its name is forgotten.

    :raises CatalogError: what is on the one it knew is still needed.
    """
    volume = Volume(label.volume, label.uuid, label.pool, label.record_bytes, label.created, 1, 2)
    catalog.replace_volume(volume, allow_last=allow_last)


def load_known(drive: TapeDrive, catalog: Catalog, volume: str) -> Label:
    """Load a volume for reading and prove that it is the one that the catalog means.

    :raises TapeError: it is not.
    """
    label = load_labelled(drive, volume)
    _known(catalog, label)
    return label


def place_for(drive: TapeDrive, catalog: Catalog, volume: str, mode: str, *, allow_last: bool = False) -> WritePosition:
    """Load a volume, prove that it may be written in this mode, and move to where; nothing is written.

    :param mode: ``append`` behind what is there, or ``overwrite`` all of it, which must have expired.
    :param allow_last: overwrite also the last good session of a host.
    :raises SplitMirrorError: it may not.
    """
    label = load_known(drive, catalog, volume)
    known = _known(catalog, label)
    check_record_bytes(drive, label.record_bytes)
    if drive.status().write_protected:
        raise TapeError(
            f"volume: {volume} is write-protected; remove the protection, or name another volume.",
            option="volume",
            code="volume_protected",
        )
    if mode == OVERWRITE:
        catalog.refuse_needed(volume, allow_last=allow_last)
    place = _known_end(drive, catalog, label, known)
    if mode == OVERWRITE:
        place = WritePosition(label, 1, 2, None)
        _move_to(drive, place)
    return replace(place, remaining_bytes=drive.status().remaining_bytes)


def position_by_catalog(catalog: Catalog, volume: str, mode: str, *, allow_last: bool = False) -> WritePosition:
    """Where the next archive would go by what the catalog has of a volume that cannot be looked at now.

    :raises SplitMirrorError: the catalog does not know it, or what is on it is needed.
    """
    known = catalog.volume(volume)
    if known is None:
        raise TapeError(
            f"volume: {volume} is not in the catalog; label it with tape_label, or enter it with catalog_rebuild.",
            option="volume",
            code="volume_wrong",
        )
    label = Label(known.name, known.pool, known.record_bytes, known.uuid, known.created)
    if mode == OVERWRITE:
        catalog.refuse_needed(volume, allow_last=allow_last)
        return WritePosition(label, 1, 2, None)
    return WritePosition(label, known.files, known.blocks, None)


def check_room(place: WritePosition, needed_bytes: int) -> None:
    """:raises TapeError: the volume is too small for so much."""
    if place.remaining_bytes is not None and needed_bytes > place.remaining_bytes:
        raise TapeError(
            f"volume: {place.label.volume} is too small: the session needs about {needed_bytes} bytes, and "
            f"{place.remaining_bytes} are left; name a volume with more room.",
            option="volume",
            code="volume_full",
        )


def begin_anew(drive: TapeDrive, catalog: Catalog, place: WritePosition, *, allow_last: bool = False) -> WritePosition:
    """Label an expired volume anew, so that everything on it is gone, and return the place behind the label.

    :raises SplitMirrorError: what is on it is needed after all.
    """
    catalog.refuse_needed(place.label.volume, allow_last=allow_last)
    label = new_label(place.label.volume, place.label.pool, place.label.record_bytes)
    _write(drive, catalog, label, allow_last)
    return WritePosition(label, 1, 2, drive.status().remaining_bytes)


def cut_back(drive: TapeDrive, place: WritePosition) -> None:
    """Make the volume end at a place again, after a session that failed behind it.

    The filemark before the place is written once more, which leaves nothing behind it.
    """
    _move_to(drive, place)
    drive.space_files(-1)
    block = drive.tell_block()
    if block is not None and block != place.block - 1:
        raise TapeError(
            f"drive: the drive reports block {block} instead of {place.block - 1}, so nothing was cut off "
            f"{place.label.volume}; enter the volume with catalog_rebuild.",
            option="drive",
        )
    drive.write_filemarks(1)


def label_volume(
    drive: TapeDrive,
    catalog: Catalog,
    volume: str,
    pool: str,
    record_bytes: int,
    *,
    allow_last: bool = False,
    dry_run: bool = False,
) -> Labelling:
    """Give the volume in the drive a label, unless it has it.

    :param allow_last: let the last good session of a host be lost.
    :param dry_run: tell what would be done and write nothing.
    :raises SplitMirrorError: there is something on it that must not be lost.
    """
    check_record_bytes(drive, record_bytes)
    reading = read_label(drive)
    asked = new_label(volume, pool, record_bytes)
    if reading.blank:
        catalog.refuse_needed(volume, allow_last=allow_last)
        if not dry_run:
            _write(drive, catalog, asked, allow_last)
        return Labelling(True, None, asked, True)
    label = _checked(reading, volume)
    known = catalog.volume(volume)
    same = known is not None and known.uuid == label.uuid
    if (label.pool, label.record_bytes) == (pool, record_bytes):
        if same or not _nothing_behind(drive):
            return Labelling(False, label, label, same)
        if not dry_run:
            enter_label(catalog, label, allow_last=allow_last)
        return Labelling(True, label, label, True)
    if known is None or not same:
        raise _unknown(label, known)
    catalog.refuse_needed(volume, allow_last=allow_last)
    _known_end(drive, catalog, label, known)
    if not dry_run:
        _write(drive, catalog, asked, allow_last)
    return Labelling(True, label, asked, True)


def _checked(reading: LabelReading, volume: str) -> Label:
    """The label of the volume asked for; everything else is refused."""
    if reading.blank:
        raise TapeError(
            f"volume: {volume} is unlabelled; label it with tape_label first.", option="volume", code="volume_wrong"
        )
    if reading.label is None:
        raise TapeError(
            f"volume: {volume} is foreign: it begins with {reading.foreign}, and is never overwritten; name another "
            "volume, or erase this one with mt if nobody needs it.",
            option="volume",
            code="volume_wrong",
        )
    if reading.label.volume != volume:
        raise TapeError(
            f"volume: the drive holds {reading.label.volume}, not {volume}; insert {volume}, or name "
            f"{reading.label.volume}.",
            option="volume",
            code="volume_wrong",
        )
    return reading.label


def _known(catalog: Catalog, label: Label) -> Volume:
    known = catalog.volume(label.volume)
    if known is None or known.uuid != label.uuid:
        raise _unknown(label, known)
    return known


def _unknown(label: Label, known: Optional[Volume]) -> TapeError:
    what = "is not in the catalog" if known is None else "has another label than the one in the catalog"
    return TapeError(
        f"volume: {label.volume} {what}, so it is not known which of its sessions are still needed; "
        "enter it with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _move_to(drive: TapeDrive, place: WritePosition) -> None:
    volume = place.label.volume
    try:
        drive.locate(place.position, place.block)
    except EndOfData as exc:
        raise TapeError(
            f"volume: {volume} ends before tape file {place.file_number}, where its end is in the catalog; enter it "
            "again with catalog_rebuild, or name another volume.",
            option="volume",
            code="volume_not_as_cataloged",
        ) from exc
    block = drive.tell_block()
    if block is not None and block != place.block:
        raise TapeError(
            f"volume: the drive stands at block {block} of {volume} and the catalog expects {place.block}; enter it "
            "again with catalog_rebuild, or name another volume.",
            option="volume",
            code="volume_not_as_cataloged",
        )


def _known_end(drive: TapeDrive, catalog: Catalog, label: Label, known: Volume) -> WritePosition:
    """Where the catalog has the end of a volume; the head stands there.

    What the catalog does not know of cannot have expired, so nothing may stand behind that. A catalog that was put back
    from an older copy knows less than there is, and so does one whose rebuild did not come to its end.

    :raises TapeError: the volume ends elsewhere.
    """
    place = WritePosition(label, known.files, known.blocks, None)
    _move_to(drive, place)
    if catalog.unfinished(known.name, known.files):
        _prove_last(drive, place)
    else:
        _prove_end(drive, place)
    return place


def _prove_end(drive: TapeDrive, place: WritePosition) -> None:
    """The filemark is before the place and nothing behind it; the head stands there again."""
    drive.space_files(-1)
    volume = place.label.volume
    before_mark = False
    try:
        before_mark = not drive.pass_record()
        drive.pass_record()
    except EndOfData:
        if before_mark:
            _move_to(drive, place)
            return
    except TapeError:
        # a record that cannot be read is there, too
        pass
    raise TapeError(
        f"volume: {volume} does not end after tape file {place.file_number - 1}, where its end is in the "
        "catalog; enter it again with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _prove_last(drive: TapeDrive, place: WritePosition) -> None:
    """No tape file stands behind the unfinished one at the place; the head stands there again."""
    try:
        # a dead writer's driver may have closed it with a filemark
        drive.space_files(1)
        drive.pass_record()
    except EndOfData:
        _move_to(drive, place)
        return
    except TapeError:
        # a record that cannot be read is there, too
        pass
    raise TapeError(
        f"volume: {place.label.volume} goes on after tape file {place.file_number}, where its end is in the catalog; "
        "enter it again with catalog_rebuild, or name another volume.",
        option="volume",
        code="volume_not_as_cataloged",
    )


def _nothing_behind(drive: TapeDrive) -> bool:
    """Nothing stands behind the label."""
    drive.rewind()
    drive.space_files(1)
    try:
        drive.pass_record()
    except EndOfData:
        return True
    return False


def _write(drive: TapeDrive, catalog: Catalog, label: Label, allow_last: bool) -> None:
    write_label(drive, label)
    enter_label(catalog, label, allow_last=allow_last)
