# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stand-ins for the makers' modules, so that the tasks of recipes run: what each answers, in the shape of its answers.

An action plugin for each module calls ``answer``. Every call is validated against what the module takes, and kept.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

SESSION, SHORT = "20260131T020000Z-db1-9f3c", "sm6n5v2mcxxmj2nc22"
#: The marks of a session that has died, and of one of another host.
DEAD, FOREIGN = "smaaaaaaaaaaaaaaaa", "smbbbbbbbbbbbbbbbb"
#: The file of an action plugin. Its module stands in the name of its folder.
PLUGIN = """
import sys
from ansible.plugins.action import ActionBase
sys.path.insert(0, {folder!r})
import makers

class ActionModule(ActionBase):
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        return makers.called({module!r}, dict(self._task.args), task_vars)
"""
MIB = 1 << 20
Json = dict[str, Any]


def called(module: str, arguments: Json, variables: Json) -> Json:
    """A task calls a module: refuse it as the module would, write the call down, and answer."""
    folder = Path(os.environ["SPLITMIRROR_MAKERS"])
    specification = json.loads((folder / "specifications.json").read_text()).get(module)
    if specification:
        rules = {rule: value for rule, value in specification.items() if rule != "options"}
        refused = ArgumentSpecValidator(specification["options"], **rules).validate(arguments).error_messages
        if refused:
            return {"failed": True, "msg": f"{module}: {refused}"}
    line = {
        "host": variables["inventory_hostname"],
        "step": variables["step"],
        "module": module,
        "arguments": arguments,
    }
    with (folder / "calls.json").open("a") as calls:
        calls.write(json.dumps(line, default=str) + "\n")
    return {"changed": False, **answer(module.rpartition(".")[2], arguments, variables)}


def answer(module: str, arguments: Json, variables: Json) -> Json:
    """What a module of an array answers on which the session and two others have left everything."""
    pairs = variables["splitmirror_pairs"]
    marks = (SHORT, DEAD, FOREIGN)
    clones = {f"{pair['mirror']}{join}{mark}": pair["name"] for pair in pairs for mark in marks for join in "_-"}
    name = str(arguments.get("name") or arguments.get("vol_name") or "")
    if module == "na_ontap_rest_info" and "storage/luns" in arguments["gather_subset"]:
        luns = [f"/vol/{clone}/lun0" for clone in clones]
        records = [
            {"name": lun, "serial_number": f"S{clones[lun.split('/')[2]]}", "space": {"size": MIB}} for lun in luns
        ]
        return {"ontap_info": {"storage/luns": {"records": records}}}
    if module == "na_ontap_rest_info":
        group = {"luns": [{"name": pair["primary"]} for pair in pairs]}
        return {"ontap_info": {"application/consistency-groups": {"records": [group]}}}
    if module == "purefa_info":
        volumes = {clone: {"page83_naa": f"N{clones[clone]}", "size": MIB} for clone in clones}
        groups = {"pg-db1": {"volumes": [pair["primary"] for pair in pairs]}}
        return {"purefa_info": {"volumes": volumes, "pgroups": groups}}
    if module == "hv_shadow_image_group_facts":
        copies = [
            {"pvol_ldev_id": int(p["primary"]), "svol_ldev_id": int(p["mirror"]), "pvol_status": "PAIR"} for p in pairs
        ]
        return {"ansible_facts": {"shadow_image_groups": {"copy_pairs": copies}}}
    if module == "hv_ldev_facts":
        ldevs = [{"ldev_id": int(pair["mirror"]), "canonical_name": f"naa.N{pair['name']}"} for pair in pairs]
        return {"ansible_facts": {"volumes": ldevs}}
    if module == "ibm_svc_info" and "vol" in arguments["gather_subset"]:
        return {"Volume": [{"name": pair["mirror"], "vdisk_UID": f"N{pair['name']}"} for pair in pairs]}
    if module == "ibm_svc_info" and "fcmap" in arguments["gather_subset"]:
        return {"FCMap": [{"source_vdisk_name": p["primary"], "target_vdisk_name": p["mirror"]} for p in pairs]}
    if module == "ibm_svc_info":
        return {"FCConsistgrp": {"status": "prepared"}}
    if module == "infini_vol":
        return {"serial": f"S{clones[name]}", "write_protected": True}
    if module == "snapshot" and "volume_group" in arguments:
        members = [{"id": f"member-{pair['primary']}", "name": pair["primary"]} for pair in pairs]
        return {"snap_details": {"volumes": members}}
    if module == "volume" and "vol_id" in arguments:
        parent = str(arguments["vol_id"]).removeprefix("member-")
        details = {"id": arguments["vol_id"], "protection_data": {"parent_id": f"id-{parent}"}}
        return {"volume_details": details}
    if module == "volume" and "vol_name" in arguments:
        return {"volume_details": {"id": f"id-{name}", "wwn": f"naa.N{clones.get(name)}", "size": MIB}}
    if module == "volume":
        return {"volume": {"id": f"{name:24}", "size": 1}}
    if module == "info" and "filters" in arguments:
        wanted = arguments["filters"][0]["filter_value"]
        return {"Volumes": [{"name": wanted}] if wanted in clones else []}
    if module == "info":
        return {"Snapshots": [{"name": mark} for mark in marks]}
    if module == "snapshot":
        return {"snapshot_details": {"id": "snap-of-group"}}
    if module == "uri" and "snap/instances" in arguments["url"]:
        snaps = [{"lun": {"name": p["primary"]}, "attachedWWN": f"N:{p['name']}", "size": MIB} for p in pairs]
        of_group = [{"content": {**snap, "snapGroup": {"id": "snap-of-group"}}} for snap in snaps]
        return {"json": {"entries": [{"content": {"lun": {"name": pairs[0]["primary"]}}}, *of_group]}}
    if module == "uri" and arguments["url"].endswith("/views"):
        return {"json": [{"name": mark, "cgViewRef": f"view-{mark}"} for mark in marks]}
    if module == "uri" and arguments["url"].endswith("/snapshot-volumes"):
        member = {"cgViewRef": f"view-{SHORT}"}
        made = [{"baseVol": f"id-{p['primary']}", "wwn": f"N{p['name']}", "membership": member} for p in pairs]
        return {"json": [{"baseVol": f"id-{pairs[0]['primary']}", "wwn": "no", "membership": None}, *made]}
    if module == "uri":
        return {"json": [{"name": pair["primary"], "id": f"id-{pair['primary']}"} for pair in pairs]}
    if module == "volume_snapshot_info":
        return {"volume_snapshots": [{"id": f"s-{p['name']}", "volume_id": p["primary"], "size": 1} for p in pairs]}
    if module == "volume_info":
        return {"volumes": [{"id": f"id-{clone}", "name": clone, "attachments": [{}]} for clone in clones]}
    if module == "ec2_snapshot_info":
        them = [{"snapshot_id": f"s-{p['name']}", "volume_id": p["primary"], "state": "completed"} for p in pairs]
        return {"snapshots": them}
    if module == "ec2_vol_info":
        asked = arguments["filters"]["tag:splitmirror"]
        return {"volumes": [{"id": f"vol-{mark}", "attachment_set": [{}]} for mark in marks if mark in asked]}
    if module == "ec2_vol":
        return {"changed": True, "volume_id": f"vol-{arguments.get('device_name')}"}
    if module == "command":
        return {"stdout": json.dumps(_midclt(arguments["argv"][-1], clones))}
    return {}


def _midclt(line: str, clones: dict[str, str]) -> Any:
    """What ``midclt`` prints."""
    if ".query" not in line:
        known = next((clone for clone in clones if clone.rpartition("/")[2] in line), "")
        return {"id": 7, "naa": f"0xN{clones.get(known)}"}
    if "target" in line:
        return [{"id": 3}]
    wanted = [clone for clone in clones if f'"{clone}"' in line or f'"{clone.rpartition("/")[2]}"' in line]
    return [{"id": clone if "dataset" in line else 7, "name": clone.rpartition("/")[2]} for clone in wanted]
