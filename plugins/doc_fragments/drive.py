# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

_DRIVE = r"""
options:
  drive_type:
    description:
      - The type of the drive.
      - V(virtual) is a folder that behaves like a tape library, to try everything without hardware, or to keep archives
        on a disk.
      - V(st) is a tape drive behind the kernel's C(st) driver, alone or in a library.
    type: str
    choices: [st, virtual]
    required: {required}
  drive:
    description:
      - The drive. For O(drive_type=virtual) the path of the folder that holds the volumes.
      - For O(drive_type=st) the device that does not rewind, such as V(/dev/nst0). Use a path that survives a
        reboot, such as one below C(/dev/tape/by-id).
      - A drive serves one task at a time. Others wait for it, first come, first served, up to O(drive_timeout_s).
      - Exactly one of O(drive) and O(drives) is needed.
    type: path
  drives:
    description:
      - Several drives of one library, instead of O(drive). A task takes a free one, preferably the one that has
        the volume already. Needs O(changer).
    type: list
    elements: dict
    suboptions:
      device:
        description: The drive, as O(drive).
        type: path
        required: true
      element:
        description: Its number in the library, as O(drive_element).
        type: int
  changer:
    description:
      - The device of the library that brings volumes to the drives, such as V(/dev/tape/by-id/scsi-LIB01) or
        V(/dev/sg3). The program C(mtx) must be installed.
      - Volumes are found by their barcodes, which are their names. A volume stays in the drive until another one is
        wanted there, and then goes back to its slot.
      - Import and export slots are left alone, and cleaning cartridges (V(CLN...)) are never loaded.
      - Without it, people put volumes into the drive.
    type: path
  drive_element:
    description:
      - The number of the drive in the library, as C(mtx status) calls its data transfer element.
      - It is found by the drive's serial number if the library reports that, or when there is only one drive.
    type: int
  drive_timeout_s:
    description:
      - How long to wait for a drive, and for a volume that another task uses.
      - A task that waited so long fails and says who has them.
    type: int
    default: 14400
"""


class ModuleDocFragment:
    """Options that name a tape drive."""

    DOCUMENTATION: str = _DRIVE.format(required="true")

    # For modules that need a drive in some of their states only.
    OPTIONAL: str = _DRIVE.format(required="false")

    # For modules that use volumes of several libraries.
    LIBRARIES: str = r"""
options:
  libraries:
    description:
      - Further drives and libraries of this host, with the pools whose volumes are used in them. The volumes of all
        other pools are used in O(drive) or O(drives).
      - So a virtual library on a disk and a tape library can be used together.
    type: list
    elements: dict
    default: []
    version_added: 0.2.0
    suboptions:
      pools:
        description: The pools.
        type: list
        elements: str
        required: true
      drive_type:
        description: As O(drive_type).
        type: str
        choices: [st, virtual]
        required: true
      drive:
        description: As O(drive). Exactly one of this and C(drives) is needed.
        type: path
      drives:
        description: As O(drives).
        type: list
        elements: dict
        suboptions:
          device:
            description: The drive, as O(drive).
            type: path
            required: true
          element:
            description: Its number in the library, as O(drive_element).
            type: int
      drive_element:
        description: As O(drive_element).
        type: int
      changer:
        description: As O(changer).
        type: path
"""

    # For modules that ask the drive for its health.
    CLEANING: str = r"""
options:
  auto_clean:
    description:
      - Have the library clean a drive that asks for it (TapeAlert 20 or 21) when the task is done with a volume. The
        volume goes back to its slot, a cartridge whose barcode begins with V(CLN) is loaded, and goes back to its slot
        when the drive has let go of it.
      - Cartridges that are used up are not taken again. If no cartridge can be used, the task warns, and does not fail.
      - Needs O(changer).
    type: bool
    default: false
    version_added: 0.2.0
"""
