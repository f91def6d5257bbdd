# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the modules of the collection that have no action plugin of their own.

``plugin_routing`` in ``meta/runtime.yml`` sends them here. An action plugin must have the name of a documented module,
so this file has the name of one of them.
"""

from __future__ import annotations

from ansible_collections.splitmirror.backup.plugins.plugin_utils.host_action import HostAction


class ActionModule(HostAction):
    """Run the module of the task on its host."""
