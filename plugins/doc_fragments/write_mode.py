# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Where on its volume a session is written."""

    DOCUMENTATION = r"""
options:
  mode:
    description:
      - V(append) writes after the sessions that are on the volume.
      - V(overwrite) starts at the beginning of the volume, under a new label. It is refused unless all sessions on the
        volume have expired.
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
