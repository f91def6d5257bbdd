#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog_volume
short_description: Take a volume out of use, or into use again
version_added: 0.2.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Nothing is written to a volume that is out of use, and no pool chooses it. What is on it can be read and restored as
    before.
  - A volume that cannot be written goes out of use by itself while C(tape_write) writes to it. If the drive was at
    fault and not the volume, take it into use again.
options:
  volume:
    description: The volume.
    type: str
    required: true
  state:
    description:
      - V(out_of_use) takes the volume out of use, V(in_use) into use again.
    type: str
    choices: [in_use, out_of_use]
    required: true
  reason:
    description: Why it is out of use. Required for O(state=out_of_use).
    type: str
extends_documentation_fragment:
  - splitmirror.backup.attributes
  - splitmirror.backup.session.state_dir
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: splitmirror.backup.volume_info
"""

EXAMPLES = r"""
- name: Write no more to a tape that has been in use for ten years
  splitmirror.backup.catalog_volume:
    volume: WEEK01L9
    state: out_of_use
    reason: It is older than its maker allows.

- name: Use a tape again that failed in a dirty drive
  splitmirror.backup.catalog_volume:
    volume: WEEK02L9
    state: in_use
"""

RETURN = r"""
out_of_use:
  description: Why nothing is written to the volume any more; empty for a volume in use.
  returned: success
  type: str
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.splitmirror.backup.plugins.module_utils._module import STATE_DIR_SPEC, run_module
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.records import CatalogError
from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.store import Catalog
from ansible_collections.splitmirror.backup.plugins.module_utils.session import StateDir

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def work(module: AnsibleModule) -> dict[str, Any]:
    """Take the volume out of use or into use, or tell what would be done."""
    params, look = module.params, module.check_mode
    after = (params["reason"] or "").strip() if params["state"] == "out_of_use" else ""
    if params["state"] == "out_of_use" and not after:
        raise CatalogError("reason: it is empty; say why.", option="reason", code="option_invalid")
    with Catalog.open(StateDir(params["state_dir"]).catalog_file, writable=not look, no_trace=look) as catalog:
        known = catalog.volume(params["volume"])
        if known is None:
            raise CatalogError(
                f"volume: {params['volume']} is not in the catalog; name one that volume_info lists.",
                option="volume",
                code="volume_missing",
            )
        changed = known.out_of_use != after
        if changed and not look:
            catalog.take_out_of_use(known.name, after)
    return {
        "changed": changed,
        "out_of_use": after,
        "diff": {"before": {"out_of_use": known.out_of_use}, "after": {"out_of_use": after}},
    }


def main() -> None:
    """Run the module."""
    run_module(
        work,
        {
            "volume": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["in_use", "out_of_use"], "required": True},
            "reason": {"type": "str"},
            **STATE_DIR_SPEC,
        },
        required_if=[("state", "out_of_use", ["reason"])],
    )


if __name__ == "__main__":
    main()
