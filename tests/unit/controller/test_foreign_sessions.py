# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Session ids that a host returns are used for its own sessions alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROLE = Path(__file__).resolve().parents[3] / "roles/mirrored_backup"
OWN = "20260131T020000Z-db1-9f3c"
OTHERS: list[Any] = [
    "20260131T020000Z-db2-9f3c",
    "20260131T020000Z-db1-9f3c-x",
    "../../etc",
    "",
    7,
    None,
    ["x"],
    {"a": 1},
]


def test_sessions_of_other_hosts_are_never_taken_over_or_removed(tmp_path: Path) -> None:
    told = {
        "splitmirror_recovered_database_host": {"recovered": [{"session": one} for one in (OWN, *OTHERS)] + [{}]},
        "splitmirror_first_lease": {"sessions": [OWN, *OTHERS]},
        "splitmirror_lease": {"results": [{"sessions": [OWN, *OTHERS]}, {"sessions": [*OTHERS, OWN]}]},
        "splitmirror_session": "20260201T020000Z-db1-0001",
        "splitmirror_array": "array1",
        "splitmirror_sets": [{"title": "array1", "array": "array1", "array_state_dir": "/x"}],
        "splitmirror_media_server": "media1",
        **dict.fromkeys(("splitmirror_state_dir", "splitmirror_array_state_dir", "splitmirror_media_state_dir"), "/x"),
        "asked": "{{ [splitmirror_dead_sessions] + splitmirror_hosts | map(attribute='sessions') }}",
    }
    (tmp_path / "told.json").write_text(json.dumps(told))
    words = ["--module-name=debug", "--args=msg=<{{ asked | to_json | b64encode }}>"]
    more = [f"--extra-vars=@{ROLE / 'vars/main.yml'}", f"--extra-vars=@{tmp_path / 'told.json'}"]
    ansible = Path(sys.executable).with_name("ansible")
    done = subprocess.run(
        [ansible, "db1", "--inventory=db1,", *words, *more], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search("<(.*)>", done.stdout)
    assert found is not None
    taken = subprocess.run(["base64", "-d"], input=found[1], text=True, capture_output=True, check=True).stdout
    own = "20260201T020000Z-db1-0001"
    assert json.loads(taken) == [[own, OWN], *3 * [[OWN, own]]]
