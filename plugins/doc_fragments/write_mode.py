# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """To which volumes a session is written, and where on them."""

    DOCUMENTATION = r"""
options:
  volume:
    description:
      - The volume to write to. It must have been labelled by M(splitmirror.backup.tape_label).
      - Without O(pool), the session goes to this volume alone. With O(pool), it begins here and goes on in the pool.
      - At least one of O(volume) and O(pool) is needed.
    type: str
  pool:
    description:
      - The pool whose volumes are written, as M(splitmirror.backup.tape_label) put them into it.
      - The fullest volume with room is appended to. If there is none, a volume without sessions is taken, and if there
        is none either, the one whose last session expired first is used again. In a library, only volumes that are in
        it count.
      - If there is none, or another one must be inserted, the task waits for it up to O(drive_timeout_s), and says
        which. In a drive without a library, whichever volume of these is in the drive is taken; any other is unloaded.
      - A volume that turns out to be write-protected, damaged or another one is passed over. A WORM volume is not used
        again.
    type: str
    version_added: 0.2.0
  mode:
    description:
      - V(append) writes after the sessions that are on the volume.
      - V(overwrite) starts at the beginning of the volume, under a new label. It is refused unless all sessions on the
        volume have expired.
      - With O(pool) and without O(volume), V(overwrite) begins on a volume without sessions, or uses one again.
    type: str
    choices: [append, overwrite]
    default: append
  allow_last:
    description:
      - Overwrite a volume even if it holds the last good session of a host. The host then has no backup until its next
        session is good.
    type: bool
    default: false
    version_added: 0.2.0
"""
