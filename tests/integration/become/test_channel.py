# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A channel over ssh becomes root by each configured way, passwords included, whatever the login shell says."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.relay import relay_file
from ansible_collections.splitmirror.backup.tests.support.channels import opened
from ansible_collections.splitmirror.backup.tests.support.hostuser import (
    CSH,
    PASSWORD,
    ROOT_PASSWORD,
    TOOLS,
    USER,
    SshHost,
    ssh_host,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}; ./run test installs them"),
]

ASKS = f"Defaults lecture=always\n{USER} ALL=(root) PASSWD: ALL\n"
ECHO = "print('there', flush=True)\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
ECHO = "print('there', flush=True)\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
SUDO = {"ansible_become": True, "ansible_become_password": PASSWORD}
SU = {"ansible_become": True, "ansible_become_method": "su", "ansible_become_password": ROOT_PASSWORD}


@pytest.fixture(
    scope="module",
    params=[
        f"{USER} ALL=(root) NOPASSWD: /bin/sh\n",
        ASKS,
        f"Defaults requiretty\n{ASKS}",
        f"Defaults use_pty\n{ASKS}",
    ],
    ids=["nopasswd", "password", "requiretty", "use_pty"],
)
def host(request: pytest.FixtureRequest) -> Iterator[SshHost]:
    with ssh_host(request.param) as made:
        yield made


@pytest.fixture(
    params=["bash", pytest.param("csh", marks=pytest.mark.skipif(not Path(CSH).exists(), reason="no tcsh"))]
)
def shell(request: pytest.FixtureRequest, host: SshHost) -> SshHost:
    """The host, with another login shell of the user."""
    host.login_shell({"bash": "/bin/bash", "csh": CSH}[request.param])
    return host


def serves(channel: Channel, folder: Path, without_terminal: bool = True) -> None:
    """Let it do all that channels are for, as root."""
    content = random.Random(1).randbytes(300_000)
    try:
        for run in (channel.run, channel.run_once) if without_terminal else (channel.run,):
            assert run(["id", "-u"]).out == b"0\n"
            assert run(["cat"], stdin=content).out == content
            assert run(["sh", "-c", "echo e >&2; exit 3"]).code == 3
        (folder / "source").write_bytes(content)
        relayed = relay_file(channel, str(folder / "source"), channel, str(folder / "a '$(b)'\nc"))
        assert relayed.sha256 == hashlib.sha256(content).hexdigest()
        line = channel.stand(
            "print('there', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)", [], "there"
        )
        assert line is not None
        assert [line.exchange(word, 20) for word in ("one", "two")] == [b"one", b"two"]
        line.close()
    finally:
        channel.close()


@pytest.mark.parametrize("raised", [SUDO, SU], ids=["sudo", "su"])
def test_a_user_becomes_root(shell: SshHost, tmp_path: Path, raised: dict[str, Any]) -> None:
    sudoers = (shell.folder / "etc/sudoers").read_text(encoding="utf-8")
    serves(opened(tmp_path, {**shell.login_of(USER), **raised}), tmp_path, without_terminal="requiretty" not in sudoers)


def test_root_needs_no_sudo(shell: SshHost, tmp_path: Path) -> None:
    nothing = {"ansible_become": True, "ansible_become_exe": "/no/such/sudo"}
    serves(opened(tmp_path, {**shell.login_of("root"), **nothing}), tmp_path)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ({**SUDO, "ansible_become_password": "wrong"}, "refuses the become password"),
        ({"ansible_become": True}, "password"),
        ({**SU, "ansible_become_password": "wrong"}, "refuses the become password|su failed"),
        ({**SUDO, "ansible_become_exe": "/no/such/sudo"}, "/no/such/sudo"),
        ({**SUDO, "ansible_python_interpreter": "/no/such/python"}, "/no/such/python"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, raised: dict[str, Any], said: str) -> None:
    with ssh_host(ASKS) as host:
        channel = opened(tmp_path, {**host.login_of(USER), **raised})
        with pytest.raises(AnsibleError, match=f"^array1: .*({said})") as failed:
            channel.run(["id"])
        channel.close()
        assert "\n" not in str(failed.value)


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with ssh_host(ASKS) as host:
        # The folder of the sockets would be made anew, for nobody to take away.
        login = {**host.login_of(USER), "ansible_control_path_dir": str(tmp_path)}
    channel = opened(tmp_path, {**login, **SUDO})
    with pytest.raises(AnsibleError, match=r"^array1: .*refused"):
        channel.run(["id"])
