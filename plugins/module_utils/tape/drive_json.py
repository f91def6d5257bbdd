# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``drive.json`` in the folder of a virtual drive: how fast the drive is, and what it says of itself.

Without the file the drive is as fast as the disk, and says nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional

from ..host.strict_json import number, read_json
from .base import TapeError
from .drive_facts import DriveFacts
from .motion import Motion

DRIVE_JSON = "drive.json"
_FORMAT = 1
_LEAST_BYTES_PER_S = 1 << 20
_MOST_STOP_S = 600


@dataclass(frozen=True)
class DriveSettings:
    """What the file says. :param motion: the tape of a drive with a speed; None without one."""

    motion: Optional[Motion] = None
    facts: DriveFacts = DriveFacts()  # noqa: RUF009  it is frozen


def read_settings(folder: str) -> DriveSettings:
    """The settings of a virtual drive. :raises TapeError: there is a file that holds none."""
    path = os.path.join(folder, DRIVE_JSON)
    try:
        told = read_json(path)
        if told["format_version"] != _FORMAT:
            raise ValueError(f"format_version is not {_FORMAT}")
        speed, stop_s = told.get("bytes_per_s"), number(told.get("stop_s", 0), most=_MOST_STOP_S)
        motion = None if speed is None else Motion(number(speed, _LEAST_BYTES_PER_S), stop_s)
        return DriveSettings(motion, DriveFacts.of(told.get("facts", {})))
    except FileNotFoundError:
        return DriveSettings()
    except KeyError as exc:
        reason = f"{exc.args[0]} is missing"
    except (AttributeError, TypeError):
        reason = "it is not an object of such values"
    except OSError as exc:
        reason = str(exc.strerror)
    except ValueError as exc:
        reason = str(exc)
    raise TapeError(
        f"drive: {path} cannot be used ({reason}); remove it, or write it as docs/formats.md has it.",
        option="drive",
        code="option_invalid",
    )
