# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole order over ssh: as root without sudo, as a user with sudo and a password, and with su."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.tests.support.demo import Demo
from ansible_collections.splitmirror.backup.tests.support.hostuser import (
    PASSWORD,
    ROOT_PASSWORD,
    TOOLS,
    USER,
    SshHost,
    ssh_host,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}; ./run test installs them"),
]

ASKS = f"Defaults requiretty\n{USER} ALL=(root) PASSWD: ALL\n"


def watched(host: SshHost, program: str) -> dict[str, Any]:
    """A privilege escalation by ``program``, which leaves a trace when it is called on the controller."""
    path = host.folder / f"watched-{program}"
    trace = host.folder / "escalated-on-the-controller"
    path.write_text(
        f'#!/bin/sh\ngrep -q "^{USER}:" /etc/passwd || touch "{trace}"\nexec {program} "$@"\n', encoding="utf-8"
    )
    path.chmod(0o755)
    password = PASSWORD if program == "sudo" else ROOT_PASSWORD
    return {"ansible_become_method": program, "ansible_become_exe": str(path), "ansible_become_password": password}


@pytest.mark.parametrize("way", ["root", "sudo", "su"])
def test_a_backup_by_each_way_to_root(bench: Demo, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_host(ASKS) as host:
        if way == "root":
            variables = {**host.login_of("root"), "ansible_become_exe": "/no/such/sudo"}
        else:
            variables = {**host.login_of(USER), **watched(host, way)}
            # So that only what the tasks themselves say keeps the controller, which is root here, from escalating.
            monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "true")
        inventory = tmp_path / "ways.json"
        inventory.write_text(json.dumps({"all": {"vars": {**variables, "ansible_become": True}}}), encoding="utf-8")
        before = bench.report()["session"] if (bench.reports / "db1.json").exists() else None
        bench.must("backup", f"--inventory={inventory}", splitmirror_databases=[])
        report = bench.report()
        assert report["session"] != before
        assert report["state"] == "good"
        assert not (host.folder / "escalated-on-the-controller").exists()
    assert not any(bench.sessions(name) for name in ("db1", "array1", "media1"))
