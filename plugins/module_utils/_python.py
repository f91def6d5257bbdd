# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuses a Python that is too old, before anything is imported that such a Python cannot read.

Ansible itself lets modules run under 3.8 (ansible-core 2.19). So each module imports ``_module`` first, ``_module``
imports this first, and none of the three has syntax that is newer than that.
"""

from __future__ import annotations

import json
import sys

MINIMUM = (3, 9)

# As ansible.module_utils.basic does it: there is no AnsibleModule yet that could tell.
if sys.version_info < MINIMUM:
    sys.stdout.write(
        json.dumps(
            {
                "failed": True,
                "msg": f"ansible_python_interpreter: {sys.executable} is Python {sys.version_info[0]}."
                f"{sys.version_info[1]}, and splitmirror.backup needs {MINIMUM[0]}.{MINIMUM[1]} or newer on each host; "
                "install one beside it, and name it there.",
            }
        )
        + "\n"
    )
    raise SystemExit(1)
