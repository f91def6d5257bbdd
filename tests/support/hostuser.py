# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""This machine as a host that is reached by ssh, with an ordinary user of its own, and passwords.

The ssh server runs in a mount namespace with files of its own for users, passwords and sudo; nothing of this machine's
is changed. Both end with the context.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .blockdev import run

USER = "splitalice"
_ID = 61234
PASSWORD = "of alice, with a ' and a \" and $HOME"
ROOT_PASSWORD = "of root on this host"
#: What the user's shell says whenever it starts. (Ansible's own modules survive all but lines that begin like JSON.)
GREETING = "Welcome to this host!\n\nPassword changes are due: today\n"
#: An example of a shell that reads other quotes than sh. The name matters: ssh lets in only what /etc/shells lists.
CSH = "/usr/bin/tcsh"
TOOLS = ("dropbear", "dropbearkey", "sudo", "ssh", "unshare", "perl")


@dataclass
class SshHost:
    """What leads to it. :ivar variables: of the connection, for an inventory."""

    folder: Path
    port: int
    variables: dict[str, Any] = field(default_factory=dict)

    def login_of(self, user: str) -> dict[str, Any]:
        """The variables for a login as ``user``."""
        return {**self.variables, "ansible_user": user}

    def login_shell(self, shell: str) -> None:
        """Give the user another login shell."""
        path = self.folder / "etc/passwd"
        lines = path.read_text(encoding="utf-8").splitlines()
        new = [f"{line.rpartition(':')[0]}:{shell}" if line.startswith(f"{USER}:") else line for line in lines]
        path.write_text("\n".join(new) + "\n", encoding="utf-8")  # the same file, for it is mounted


@contextlib.contextmanager
def ssh_host(sudoers: str) -> Iterator[SshHost]:
    """Serve ssh on this machine until the end of the context.

    :param sudoers: all that sudo is told; ``USER`` is the user.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="splitmirror-ssh-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "sockets").mkdir(mode=0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        _make_files(folder, sudoers)
        server = subprocess.Popen(
            ["unshare", "--mount", "--propagation=slave", "sh", "-ec", _SERVE, "sh", str(folder), str(port)],
            stdin=subprocess.DEVNULL,
            stderr=(folder / "log").open("w"),
        )
        stack.callback(_end, server, folder)
        _wait_until_open(port, server)
        key = run("ssh-keyscan", "-p", str(port), "127.0.0.1").stdout
        (folder / "known_hosts").write_text(key, encoding="ascii")
        yield SshHost(
            folder,
            port,
            {
                "ansible_connection": "ssh",
                "ansible_host": "127.0.0.1",
                "ansible_port": port,
                "ansible_ssh_private_key_file": str(folder / "key"),
                "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={folder}/known_hosts"
                " -o IdentitiesOnly=yes -o LogLevel=ERROR",
                "ansible_control_path_dir": str(folder / "sockets"),
                "ansible_python_interpreter": "/usr/bin/python3",
                # There is no sftp behind this server.
                "ansible_ssh_transfer_method": "piped",
            },
        )


_SERVE = """\
for name in passwd group shadow sudoers; do
    mount --bind "$1/etc/$name" "/etc/$name"
done
[ ! -d /etc/sudoers.d ] || mount --bind "$1/etc/sudoers.d" /etc/sudoers.d
exec dropbear -F -E -s -r "$1/host_key" -p "127.0.0.1:$2" -P "$1/pid"
"""


def _make_files(folder: Path, sudoers: str) -> None:
    etc, home, root_home = folder / "etc", folder / "home", folder / "root"
    for made in (etc, etc / "sudoers.d", home, root_home):
        made.mkdir(mode=0o755)
    _replace(
        "passwd", etc, {USER: f"{USER}:x:{_ID}:{_ID}::{home}:/bin/bash", "root": f"root:x:0:0::{root_home}:/bin/bash"}
    )
    _replace("group", etc, {USER: f"{USER}:x:{_ID}:"})
    days = "19000:0:99999:7:::"
    passwords = {USER: PASSWORD, "root": ROOT_PASSWORD}
    _replace("shadow", etc, {user: f"{user}:{_hash(password)}:{days}" for user, password in passwords.items()})
    (etc / "sudoers").write_text(sudoers, encoding="utf-8")
    (etc / "sudoers").chmod(0o440)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    run("dropbearkey", "-t", "ed25519", "-f", folder / "host_key")
    for place in (home, root_home):
        (place / ".ssh").mkdir(mode=0o700)
        shutil.copy(folder / "key.pub", place / ".ssh/authorized_keys")
    for name in (".bashrc", ".tcshrc"):
        (home / name).write_text("".join(f"echo '{line}'\n" for line in GREETING.splitlines()), encoding="ascii")
    for path in (home, *home.rglob("*")):
        os.chown(path, _ID, _ID)


def _replace(name: str, etc: Path, lines: dict[str, str]) -> None:
    """Copy a file of users, with these lines in the place of those for the same users."""
    old = Path("/etc", name).read_text(encoding="utf-8").splitlines()
    new = [line for line in old if line.partition(":")[0] not in lines]
    shutil.copy2(f"/etc/{name}", etc / name)
    (etc / name).write_text("\n".join([*lines.values(), *new]) + "\n", encoding="utf-8")


def _hash(password: str) -> str:
    return run("perl", "-e", "print crypt(shift, q($6$splitmirror$))", password).stdout


def _wait_until_open(port: int, server: subprocess.Popen[bytes]) -> None:
    for _attempt in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            raise AssertionError(f"the ssh server ended with {server.wait(0.1)}")
        except subprocess.TimeoutExpired:
            pass
    raise AssertionError("the ssh server did not come up")


def _end(server: subprocess.Popen[bytes], folder: Path) -> None:
    """End the server, and the connections that ssh keeps."""
    for path in (folder / "sockets").iterdir():
        subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "any"], check=False, capture_output=True)
    server.terminate()
    server.wait(30)
