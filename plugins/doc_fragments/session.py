# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that tie a task to its session."""

    DOCUMENTATION = r"""
options:
  session:
    description:
      - The id of the backup session, the same on all its hosts and in all its tasks.
      - 1 to 80 letters, digits, dots, dashes or underscores; it begins with a letter or digit.
    type: str
    required: true
  state_dir:
    description:
      - The folder in which the sessions keep their files on this host. It is made with mode V(0700) when it is missing.
      - It must not lie on a file system that is frozen during a backup.
    type: path
    default: /var/lib/splitmirror
"""

    # For modules that work on all sessions of a host.
    STATE_DIR = r"""
options:
  state_dir:
    description:
      - The folder in which the sessions keep their files on this host. It is made with mode V(0700) when it is missing.
      - It must not lie on a file system that is frozen during a backup.
    type: path
    default: /var/lib/splitmirror
"""
