# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ways to root over ssh: as root without sudo, as a user with sudo and a password, and with su.

A whole backup takes long, so that none is taken for a way alone: tests of the order that need one take it by a way.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
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

ASKS = f"Defaults requiretty\n{USER} ALL=(root) PASSWD: ALL\n"


class Ways:
    """The ways to root of one ssh server. It sees what of the demo was mounted when it began."""

    def __init__(self, bench: Demo, host: SshHost | None) -> None:
        self._bench = bench
        self._host = host

    @contextlib.contextmanager
    def taken(self, way: str) -> Iterator[list[str]]:
        """Yield the words that lead a playbook to all hosts by a way, for a backup that has to be good."""
        if self._host is None:
            warnings.warn(f"needs {', '.join(TOOLS)}: the backup by {way} is taken without ssh", stacklevel=3)
            yield []
            return
        host, user = self._host, "root" if way == "root" else USER
        escalation = {"ansible_become_exe": "/no/such/sudo"} if way == "root" else _watched(host, way)
        inventory = host.folder / f"{way}.json"
        variables = {**host.login_of(user), **escalation, "ansible_become": True}
        inventory.write_text(json.dumps({"all": {"vars": variables}}), encoding="utf-8")
        inventory.chmod(0o600)
        reports = self._bench.reports / "db1.json"
        before = reports.read_bytes() if reports.exists() else b""
        with pytest.MonkeyPatch.context() as patch:
            if way != "root":
                # So that only what the tasks themselves say keeps the controller, which is root here, from escalating.
                patch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "true")
            yield [f"--inventory={inventory}"]
        assert reports.read_bytes() != before
        assert self._bench.report()["state"] == "good"
        assert f"auth succeeded for '{user}'" in (host.folder / "log").read_text(encoding="utf-8")
        assert not (host.folder / "escalated-on-the-controller").exists()


def _watched(host: SshHost, program: str) -> dict[str, Any]:
    """A privilege escalation by ``program``, which leaves a trace when it is called on the controller."""
    path = host.folder / f"watched-{program}"
    trace = host.folder / "escalated-on-the-controller"
    path.write_text(
        f'#!/bin/sh\ngrep -q "^{USER}:" /etc/passwd || touch "{trace}"\nexec {program} "$@"\n', encoding="utf-8"
    )
    path.chmod(0o755)
    password = PASSWORD if program == "sudo" else ROOT_PASSWORD
    return {"ansible_become_method": program, "ansible_become_exe": str(path), "ansible_become_password": password}


@contextlib.contextmanager
def ways_to_root(bench: Demo) -> Iterator[Ways]:
    """Serve ssh on this machine, where it has the tools for that."""
    with contextlib.ExitStack() as stack:
        yield Ways(bench, stack.enter_context(ssh_host(ASKS)) if all(map(shutil.which, TOOLS)) else None)
