# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands on the hosts of the lab, for tests."""

from __future__ import annotations

import shlex

from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab


def on(lab: RunningLab, host: str, script: str) -> str:
    """Run a shell script of three minutes at most on a host as root and return its output; a failure fails the test."""
    answer = lab.ssh(host, f"sudo timeout 180 bash -eu -o pipefail -c {shlex.quote(script)}")
    assert answer.returncode == 0, f"{host}: {script}: {answer.stdout}{answer.stderr}"
    return answer.stdout.strip()
