# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demo's array, live PostgreSQL and inventory, and the collection's own playbooks run over them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import DaemonRecord, read_record

ROOT = Path(__file__).resolve().parents[2]


def playbook_command(inventory: str | Path, playbook: str | Path, *words: str, **variables: Any) -> list[str]:
    """The command line of one of the collection's playbooks, or of a file's."""
    return [
        str(Path(sys.executable).with_name("ansible-playbook")),
        f"--inventory={inventory}",
        f"splitmirror.backup.{playbook}" if isinstance(playbook, str) else str(playbook),
        f"--extra-vars={json.dumps(variables)}",
        *words,
    ]


def playbook_environment() -> dict[str, str]:
    """What Ansible needs to find the collection of this work tree."""
    return {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/tree"),
        "ANSIBLE_CONFIG": str(Path(__file__).with_name("ansible.cfg")),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }


def run_playbook(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook in a folder to its end; what it says of errors is in its output."""
    return subprocess.run(
        command,
        env=playbook_environment(),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=600,
    )


class Demo:
    """One demo in a folder of its own. :param folder: users other than root can reach it."""

    def __init__(self, folder: Path, reports: Path) -> None:
        self.folder = folder
        self.reports = reports
        self.inventory = folder / "inventory.yml"
        self.files = folder / "host/space/files"
        self.data = folder / "host/data/pg"

    def command(self, playbook: str | Path, *words: str, **variables: Any) -> list[str]:
        """The command line of one of the collection's playbooks, or of a file's, run over the demo's inventory."""
        return playbook_command(self.inventory, playbook, *words, **variables)

    def play(self, playbook: str | Path, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end."""
        return run_playbook(self.command(playbook, *words, **variables), self.folder)

    def must(self, playbook: str | Path, *words: str, **variables: Any) -> str:
        """Run a playbook that has to succeed, and return its output."""
        done = self.play(playbook, *words, **variables)
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def bring(self, state: str, **variables: Any) -> None:
        """Bring the demo into a state."""
        if not self.inventory.exists():
            self.inventory.write_text("localhost\n", encoding="utf-8")
        self.must(
            "demo",
            "--inventory=localhost,",
            demo_state=state,
            demo_dir=str(self.folder),
            demo_report_dir=str(self.reports),
            demo_pgbench_scale=1,
            demo_writer_rate=25,
            ansible_python_interpreter="/usr/bin/python3",
            **variables,
        )

    def report(self) -> dict[str, Any]:
        """The report of the last session."""
        found: dict[str, Any] = json.loads((self.reports / "db1.json").read_text(encoding="utf-8"))
        return found

    def sessions(self, host: str) -> list[Path]:
        """The session folders that a host still has."""
        folder = self.folder / "state" / host / "sessions"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def clones(self) -> list[str]:
        """The clones that the array still has."""
        return sorted(path.name for path in (self.folder / "array/mirrors").iterdir())

    def daemon(self, host: str, name: str) -> DaemonRecord | None:
        """The process of the only session of a host."""
        for folder in self.sessions(host):
            record = read_record(str(folder), name)
            if record is not None:
                return record
        return None


@contextlib.contextmanager
def demo() -> Iterator[Demo]:
    """A demo that is there, and is gone afterwards whatever happened."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="splitmirror-demo-"))
    folder.chmod(0o755)
    reports = Path(tempfile.mkdtemp(prefix="splitmirror-report-"))
    made = Demo(folder, reports)
    try:
        made.bring("present")
        yield made
    finally:
        made.bring("absent")
        shutil.rmtree(reports)
