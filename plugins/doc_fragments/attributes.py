# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Attributes that every module of the collection has; a module adds C(support) of check_mode and diff_mode."""

    DOCUMENTATION = r"""
options: {}
notes:
  - On failure the result holds C(code) beside C(msg). It names the kind of failure, and stays the same when the wording
    of the message changes. The page C(docs/errors.md) of the collection lists all codes.
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Returns in diff mode what has changed, or in C(check_mode) what would change.
  platform:
    description: Target operating system.
    support: full
    platforms: linux
"""

    DATABASE_HOST = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/splitmirror.backup.database_host) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - splitmirror.backup.database_host
"""

    ARRAY = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/splitmirror.backup.array) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - splitmirror.backup.array
"""

    MEDIA_SERVER = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/splitmirror.backup.media_server) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - splitmirror.backup.media_server
"""
