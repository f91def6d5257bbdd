# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real throwaway PostgreSQL clusters for tests; they are stopped and removed again, also when a test fails."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ansible_collections.splitmirror.backup.tests.support.blockdev import run

OS_USER = "postgres"
PORT = 5433


def bin_dir() -> str:
    """The folder of the newest installed server's programs."""
    folders = glob.glob("/usr/lib/postgresql/*/bin")
    if not folders:
        raise RuntimeError("no PostgreSQL server is installed; ./run installs one")
    return max(folders, key=lambda folder: int(folder.split("/")[-2]))


def own(folder: Path) -> Path:
    """Make a folder that belongs to the server's user, 0700."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = pwd.getpwnam(OS_USER)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def passable_folder() -> Iterator[Path]:
    """An empty folder that the server's user can reach, unlike pytest's; its path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="smpg-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@dataclass
class Cluster:
    """One cluster. :param data: its data folder. :param sockets: folder of its socket, reached by root and its user."""

    data: Path
    sockets: Path
    settings: dict[str, str] = field(default_factory=dict)

    def options(self, **more: Any) -> dict[str, Any]:
        """Options of the driver that reach it."""
        return {"unix_socket": str(self.sockets), "port": PORT, **more}

    def description(self, **more: Any) -> dict[str, Any]:
        """A database for modules and the holder."""
        return {"name": "main", "driver": "postgresql", "postgresql": self.options(**more)}

    def start(self, data: Optional[Path] = None) -> None:
        """Start it and wait until it answers. :param data: another data folder, a restored one for instance."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "port": str(PORT),
            "logging_collector": "off",
            **self.settings,
        }
        words = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        log = self.sockets / "server.log"
        try:
            _as_owner("pg_ctl", "--pgdata", data or self.data, "--log", log, "--wait", "-o", words, "start")
        except RuntimeError as exc:
            said = log.read_text(encoding="utf-8") if log.exists() else ""
            raise RuntimeError(f"{exc}\n{said}") from exc

    def stop(self, mode: str = "fast", data: Optional[Path] = None) -> None:
        """Stop it, if it runs."""
        folder = data or self.data
        if (folder / "postmaster.pid").exists():
            _as_owner("pg_ctl", "--pgdata", folder, "--mode", mode, "--wait", "stop")

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run statements as the superuser; return the rows, unaligned."""
        return _as_owner(
            "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.sockets,
            "-p",
            str(PORT),
            "-d",
            database,
            "-c",
            statement,
        ).strip()


@contextlib.contextmanager
def cluster(
    data: Path,
    *,
    hba: str = "local all postgres peer\nlocal all all trust\n",
    wal: Optional[Path] = None,
    initdb: Sequence[str] = (),
    checksums: bool = True,
    settings: Optional[Mapping[str, str]] = None,
) -> Iterator[Cluster]:
    """A running cluster.

    :param data: where its data folder is made; the server's user must get there, see passable_folder.
    :param hba: its pg_hba.conf. By default the superuser is known by peer authentication, and others are let in.
    :param initdb: more words for initdb.
    :param checksums: of its pages; False leaves it to initdb, which makes none before PostgreSQL 18.
    :param wal: where its pg_wal goes, else into the data folder.
    :param settings: server settings.
    """
    with passable_folder() as folder:
        sockets = own(folder / "s")
        command: list[str | os.PathLike[str]] = []
        command += ["--pgdata", data, *initdb, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if checksums:
            command.append("--data-checksums")
        if wal is not None:
            command += ["--waldir", own(wal)]
        own(data)
        _as_owner("initdb", *command)
        (data / "pg_hba.conf").write_text(hba, encoding="utf-8")
        made = Cluster(data, sockets, dict(settings or {}))
        try:
            made.start()
            yield made
        finally:
            made.stop("immediate")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with owners, as a mirror would show it."""
    shutil.rmtree(target, ignore_errors=True)
    run("cp", "--archive", source, target)


def _as_owner(program: str, *words: str | os.PathLike[str]) -> str:
    command = ["setpriv", "--reuid", OS_USER, "--regid", OS_USER, "--init-groups", os.path.join(bin_dir(), program)]
    done = subprocess.run(
        [*command, *(os.fspath(word) for word in words)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    if done.returncode:
        raise RuntimeError(f"{program}: exit {done.returncode}: {done.stderr.strip()}\n{done.stdout.strip()}")
    return done.stdout
