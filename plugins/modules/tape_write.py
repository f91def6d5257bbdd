#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tape_write
short_description: Write a session from the split mirror to tape
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Reads the files of a session directly from the split mirror, by the extent map, and writes them to a tape volume, in
    the logical order of the database host, as a POSIX pax archive with checksums.
  - Runs on a media server that sees the mirrors, and does not contact the database host.
  - Before it writes anything, it checks that the map was checked in the window of this session, that the devices are
    the mirrors of the map, and that the volume is the requested one, ends where the catalog has its end, and has room.
  - With O(pool), the session goes on over as many volumes as it needs. A file crosses volumes only if it is larger than
    one. A volume that cannot be written is taken out of use, and the session goes on with the next.
  - If something else fails later, the session fails, and the part that was being written is cut off its volume.
  - The session is V(open) in the catalog until M(splitmirror.backup.catalog_session) judges it. An open session cannot
    be restored.
options:
  host:
    description:
      - The name of the database host in the catalog. If it is left out, the name in the map is used.
    type: str
  map:
    description:
      - The extent map, as M(splitmirror.backup.extent_map) checked it in the window.
      - If it is left out, C(map.sqlite) in the session's folder on this host is used.
    type: path
  devices:
    description:
      - The device of each mirror on this host, by the name of its pair, as M(splitmirror.backup.mirror_present)
        returns it.
      - Devices are opened for reading only, and read with direct I/O.
    type: dict
    required: true
  mounts_dir:
    description:
      - A folder below which the file systems of the mirror are mounted read-only while this task runs, for O(proof)
        and for files that cannot be read by their extents.
      - If it is left out, C(mounts) in O(state_dir) is used.
    type: path
  extras:
    description:
      - A tar archive with the label files and logs of hot backup. Its members are written after the files. Leave it
        empty if there is none.
    type: path
  proof:
    description:
      - How much of the map is proved against the metadata of the mirror, while the files are written. What differs is
        corrected and counted.
      - V(full) proves every file. V(changed) proves what the check changed in the window. V(none) trusts the map.
    type: str
    choices: [full, changed, none]
    default: full
  retention_days:
    description:
      - For how many days the session is kept, from 0 to 365000. Its volume cannot be overwritten before.
      - If it is left out, the session is kept forever.
    type: float
  level:
    description:
      - What of the host is written. V(full) writes everything.
      - V(incremental) writes what changed since the last good session of O(host), V(differential) what changed since
        the last good full one. What is not proved to be unchanged is written. The session lists what was removed.
      - V(auto) is V(full) if the last good full session is O(full_every_days) old, else V(incremental).
      - A session becomes V(full) if there is nothing that it can build on (RV(level_reason)).
    type: str
    choices: [full, incremental, differential, auto]
    default: full
    version_added: 0.2.0
  full_every_days:
    description:
      - With O(level=auto), after how many days there is a full session again. A run that begins up to two hours earlier
        in the day counts as if it did not.
    type: float
    default: 7
    version_added: 0.2.0
  queue_depth:
    description:
      - How many reads of the mirror are in flight at the same time, from 1 to 256.
      - More reads help where files are scattered on the disk. Where they are not, they are read in a few large pieces
        anyway.
    type: int
    default: 64
  buffer_bytes:
    description:
      - Memory for data in flight. Within this amount of data, the mirror is read in physical order.
      - A larger buffer is faster where files are scattered on the disk.
      - A tape drive is written to at full speed until the buffer is empty, and then rests until half of it is filled.
        So it stops less often with a larger buffer (RV(drive_stops)). A virtual drive without a
        speed is written to as the data come.
    type: int
    default: 268435456
  part_bytes:
    description:
      - The largest part of the session, in bytes on the tape, with O(pool). A volume then has several parts of a
        session. A file that is larger goes on in the next part.
      - Use it if sessions are copied (M(splitmirror.backup.session_copy)) to volumes that are smaller than those of
        O(pool), because each part must fit on one of these.
      - V(0) for parts as large as the volumes.
    type: int
    default: 0
    version_added: 0.2.0
  evidence:
    description:
      - The results of the tasks before this one, with the keys C(window), C(check) and C(hot_backup), as for
        M(splitmirror.backup.catalog_session).
      - It is kept in the index on the tape, so that M(splitmirror.backup.catalog_rebuild) can judge the session.
        Without it, a session that is found on a volume never becomes V(good).
    type: dict
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.attributes.media_server
  - splitmirror.backup.session
  - splitmirror.backup.drive
  - splitmirror.backup.drive.cleaning
  - splitmirror.backup.write_mode
  - splitmirror.backup.keys.recipients
  - splitmirror.backup.keys.drive_key
attributes:
  check_mode:
    support: full
    details:
      - The end of the volume is checked if the volume is in a free drive. Nothing is written. A missing map is not an
        error.
  diff_mode:
    support: none
    details: An archive has no former state to compare with.
notes:
  - C(status.json) in the session's folder on this host shows how far the work has come. It is replaced twice a second.
    Its keys are C(phase), C(done), C(total), C(unit), C(rate) (units per second), C(eta_s), C(since_s) and
    C(updated_s) (seconds since 1970). While the task waits for a drive or a volume, C(waiting_for) names it, and who
    has it.
  - GNU tar reads the archive when its blocking factor is at least C(record_bytes / 512).
seealso:
  - module: splitmirror.backup.tape_label
  - module: splitmirror.backup.tape_read
  - module: splitmirror.backup.catalog_session
"""

EXAMPLES = r"""
- name: Write the files to tape, in logical order
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices: "{{ mirror.devices }}"
    extras: /var/lib/splitmirror/sessions/{{ session }}/extras.tar
    drive_type: virtual
    drive: /var/lib/splitmirror/library
    volume: SMB001
    retention_days: 30
    evidence:
      window: "{{ window.window }}"
      check: "{{ window.check }}"
      hot_backup: "{{ hot_backup.evidence }}"
  register: written

- name: Write a session that only the holders of two keys can read
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices: "{{ mirror.devices }}"
    drive_type: virtual
    drive: /var/lib/splitmirror/library
    volume: SMB001
    recipients:
      - age1w3tyke4gev25vaxxsvcgqu4484rf6ejpmavs57p6yz6lhy2sfs5example
      - age1f0qgmed3gvk9qeympvraqur2lhw3f67cayjyqfnd8hn40zzs75fexample

- name: Let the drive encrypt the session
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices: "{{ mirror.devices }}"
    drive_type: st
    drive: /dev/tape/by-id/scsi-DRIVE001-nst
    volume: WEEK01L9
    drive_key_file: /etc/splitmirror/drive.key

- name: Trust the map and use an expired volume again
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices:
      data: /dev/disk/by-id/wwn-0x60000000000000001
    drive_type: virtual
    drive: /srv/library
    volume: SMB002
    mode: overwrite
    proof: none

- name: Write to the volumes of a pool
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices: "{{ mirror.devices }}"
    drive_type: virtual
    drive: /srv/library
    pool: daily

- name: Write with whichever drive of the library is free, after at most an hour
  splitmirror.backup.tape_write:
    session: "{{ session }}"
    devices: "{{ mirror.devices }}"
    drive_type: st
    drives:
      - device: /dev/tape/by-id/scsi-DRIVE001-nst
        element: 0
      - device: /dev/tape/by-id/scsi-DRIVE002-nst
        element: 1
    changer: /dev/tape/by-id/scsi-LIBRARY001
    drive_timeout_s: 3600
    volume: WEEK01L9
"""

RETURN = r"""
volume:
  description: The volume on which the session begins.
  returned: success
  type: str
  sample: SMB001
volumes:
  description: All volumes of the session, in order.
  returned: success, not in check mode
  type: list
  elements: str
  sample: [SMB001, SMB002]
  version_added: 0.2.0
file_number:
  description: The tape file that the archive is; the label is 0.
  returned: success
  type: int
  sample: 1
block:
  description: Where it begins on the volume, as drives count.
  returned: success
  type: int
  sample: 2
record_bytes:
  description: The size of its records.
  returned: success
  type: int
  sample: 1048576
host:
  description: The database host.
  returned: success
  type: str
  sample: db1
level:
  description: What was written, V(full), V(incremental) or V(differential).
  returned: success
  type: str
  sample: incremental
  version_added: 0.2.0
level_reason:
  description: Why RV(level) is V(full) although O(level) is something else; empty if it is not, or if it was due.
  returned: success
  type: str
  version_added: 0.2.0
base:
  description: The session on which it builds. It is kept as long as this one. Empty for a full session.
  returned: success
  type: str
  sample: 20260131T120000Z-db1-3f2a
  version_added: 0.2.0
unchanged:
  description: Number of paths that are unchanged since the base, folders and links included, and so are not written.
  returned: success, not in check mode
  type: int
  version_added: 0.2.0
removed:
  description: Number of paths that the base has and the host has not any more.
  returned: success, not in check mode
  type: int
  version_added: 0.2.0
files:
  description: Number of regular files, hard links counted once. In check mode the number in the map.
  returned: success
  type: int
bytes:
  description: Length of their contents.
  returned: success
  type: int
bytes_archive:
  description: Length of the archive. In check mode what it may be at most.
  returned: success
  type: int
members:
  description: Number of all members, that is folders, links, extras and the index too.
  returned: success, not in check mode
  type: int
records:
  description: Number of records written.
  returned: success, not in check mode
  type: int
fallback:
  description: Files that could not be read by their extents and were read through the mounted mirror.
  returned: success, not in check mode
  type: int
inline:
  description: Files whose content came with the map.
  returned: success, not in check mode
  type: int
sockets:
  description: Sockets that were left out, which a tar archive cannot hold.
  returned: success, not in check mode
  type: int
proof:
  description: What the proof found.
  returned: success, not in check mode
  type: dict
  contains:
    mode:
      description: The value of O(proof).
      type: str
    complete:
      description: Whether it came to its end.
      type: bool
    examined:
      description: Paths looked at on the mirror.
      type: int
    remapped:
      description: Files whose extents or content differed from the map.
      type: int
    added:
      description: Paths that were missing in the map.
      type: int
    removed:
      description: Paths that were in the map only.
      type: int
    attributes:
      description: Paths of which only attributes differed.
      type: int
seconds:
  description: How long it took.
  returned: success, not in check mode
  type: float
bytes_per_s:
  description: Throughput of the archive.
  returned: success, not in check mode
  type: int
drive_stops:
  description:
    - How often the drive had to stop, because the buffer (O(buffer_bytes)) was empty. It was then filled to half before
      the drive went on.
    - None for a virtual drive without a speed, which need not be written to without a pause.
  returned: success, not in check mode
  type: int
  sample: 0
drive_bytes_per_s:
  description:
    - Throughput of the drive while it was written to, without the time of waiting for data. None if that took no time
      that could be measured.
    - If it is far above RV(bytes_per_s), the drive waited for the mirror.
  returned: success, not in check mode
  type: int
  sample: 400000000
drive_key:
  description: The fingerprint of the key with which the drive encrypted the session. None if it did not.
  returned: success, not in check mode
  type: str
  sample: cca0e26b70b7ed5a
  version_added: 0.2.0
archive:
  description:
    - The plain file that is the archive, which C(tar -tf) lists. None when the drive is a real one, or the session has
      several parts.
  returned: success, not in check mode
  type: str
  sample: /var/lib/splitmirror/library/SMB001/00001.tar
evidence:
  description: What is proved of the writing, for M(splitmirror.backup.catalog_session).
  returned: success, not in check mode
  type: dict
  contains:
    complete:
      description: Every record was written.
      type: bool
    filemark:
      description: The filemark behind the archive was written synchronously and is where it must be.
      type: bool
    checksums:
      description: The checksums of all files are in the catalog and in the index on the tape.
      type: bool
    members:
      description: Number of members.
      type: int
    files:
      description: Number of files.
      type: int
    bytes:
      description: Length of their contents.
      type: int
    records:
      description: Number of records.
      type: int
    fallback:
      description: Files read through the mount.
      type: int
    writing_s:
      description: Seconds in which the drive was written to.
      type: float
    stops:
      description: As RV(drive_stops). It is left out where that is none.
      type: int
    parts:
      description:
        - The parts of the session, one for each volume. Each has the values above for itself, and these.
      type: list
      elements: dict
      contains:
        part:
          description: Its number, from 0.
          type: int
        volume:
          description: The volume that it is on.
          type: str
        file_number:
          description: The tape file.
          type: int
        last:
          description: Whether it is the last one.
          type: bool
    proof:
      description: What the proof found.
      type: dict
    level:
      description: As RV(level). Left out for a full session, as are C(base), C(unchanged) and C(removed).
      type: str
    base:
      description: As RV(base).
      type: str
    unchanged:
      description: As RV(unchanged).
      type: int
    removed:
      description: As RV(removed).
      type: int
"""

import functools
from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import (
    RECIPIENTS_SPEC,
    SESSION_SPEC,
    WRITE_MODE_SPEC,
    run_module,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.crypt.keys import parse_recipients
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.host.status import StatusWriter
from ansible_collections.splitmirror.backup.plugins.module_utils.media.bases import check_full_every_days
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import leave_mount_namespace
from ansible_collections.splitmirror.backup.plugins.module_utils.media.pools import Wanted
from ansible_collections.splitmirror.backup.plugins.module_utils.media.uses import noting_uses
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import (
    WriteJob,
    dry_run,
    write_session,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_key import (
    DRIVE_KEY_SPEC,
    clearing_on_signals,
    writing_key_of,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.drive_lease import DriveOptions, queue_for_drive
from ansible_collections.splitmirror.backup.plugins.module_utils.tape.registry import (
    CLEANING_SPEC,
    DRIVE_SPEC,
    WRITE_RULES,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

#: A thousand years; behind the year 9999 no calendar goes on.
_MAX_RETENTION_DAYS = 365000


def work(module: AnsibleModule) -> dict[str, Any]:
    """Write the session, or tell where it would go."""
    params = module.params
    kept = params["retention_days"]
    if kept is not None and not 0 <= kept <= _MAX_RETENTION_DAYS:
        raise SplitMirrorError(
            f"retention_days: a session cannot be kept for {kept} days; give 0 to {_MAX_RETENTION_DAYS}, or leave it "
            "out to keep it for ever.",
            option="retention_days",
            code="option_invalid",
        )
    key = writing_key_of(params)
    state_dir = StateDir(params["state_dir"])
    job = WriteJob(
        session=params["session"],
        state_dir=state_dir.root,
        map_path=params["map"] or state_dir.map_file(params["session"]),
        devices=params["devices"],
        mounts_dir=params["mounts_dir"] or state_dir.mounts_dir,
        extras=params["extras"] or "",
        host=params["host"],
        proof=params["proof"],
        queue_depth=params["queue_depth"],
        buffer_bytes=params["buffer_bytes"],
        retention_days=kept,
        evidence=params["evidence"],
        recipients=parse_recipients(params["recipients"], "recipients"),
        level=params["level"],
        full_every_days=params["full_every_days"],
    )
    check_full_every_days(job.full_every_days)
    wanted = Wanted.of(params)
    options = DriveOptions.of(params, dry_run=module.check_mode, key=key)
    who = f"tape_write of session {job.session}"
    if module.check_mode:
        with queue_for_drive(options, wanted.volume or "", who=f"{who} in check mode") as lease:
            return {"changed": True, **dry_run(job, wanted.choice(lease, timeout_s=options.timeout_s))}
    leave_mount_namespace()
    state_dir.make_session_dir(job.session)
    status = StatusWriter(state_dir.status_file(job.session), "write", "bytes")
    tell = status.wait_for
    queue = functools.partial(queue_for_drive, options, wanted.volume or "", who=who, writable=True, tell=tell)
    noting = noting_uses(state_dir, "write", job.session, module.warn, auto_clean=params["auto_clean"])
    with clearing_on_signals(key is not None), noting as left, queue(left=left) as lease:
        choice = wanted.choice(lease, timeout_s=options.timeout_s, tell=tell, warn=module.warn)
        done = write_session(job, choice, status)
    if done["level_reason"]:
        module.warn(f"session {job.session} is a full one: {done['level_reason']}")
    return {"changed": True, **done}


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "host": {"type": "str"},
            "map": {"type": "path"},
            "devices": {"type": "dict", "required": True},
            "mounts_dir": {"type": "path"},
            "extras": {"type": "path"},
            **WRITE_MODE_SPEC,
            **RECIPIENTS_SPEC,
            **DRIVE_KEY_SPEC,
            "proof": {"type": "str", "choices": ["full", "changed", "none"], "default": "full"},
            "retention_days": {"type": "float"},
            "level": {"type": "str", "choices": ["full", "incremental", "differential", "auto"], "default": "full"},
            "full_every_days": {"type": "float", "default": 7},
            "queue_depth": {"type": "int", "default": 64},
            "buffer_bytes": {"type": "int", "default": 256 << 20},
            "part_bytes": {"type": "int", "default": 0},
            "evidence": {"type": "dict"},
            **SESSION_SPEC,
            **DRIVE_SPEC,
            **CLEANING_SPEC,
        },
        for_session=True,
        **WRITE_RULES,
    )


if __name__ == "__main__":
    main()
