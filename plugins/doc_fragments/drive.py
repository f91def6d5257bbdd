# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that name a tape drive."""

    DOCUMENTATION = r"""
options:
  drive_type:
    description:
      - The type of the drive.
      - V(virtual) is a folder that behaves like a tape library, to try everything without hardware, or to keep archives
        on a disk.
    type: str
    required: true
  drive:
    description:
      - The drive. For O(drive_type=virtual) the path of the folder that holds the volumes.
      - A drive serves one task at a time; a second one is refused, not kept waiting.
    type: path
    required: true
"""
