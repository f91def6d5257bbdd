# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole order, by the collection's own playbooks, over a live PostgreSQL and a real array of loop devices."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.splitmirror.backup.plugins.module_utils.host.daemon import is_alive
from ansible_collections.splitmirror.backup.plugins.module_utils.session import short_session
from ansible_collections.splitmirror.backup.plugins.module_utils.transport import nbd
from ansible_collections.splitmirror.backup.tests.support import toyoptions
from ansible_collections.splitmirror.backup.tests.support.agekeys import PUBLIC, SECRET
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, mounted
from ansible_collections.splitmirror.backup.tests.support.demo import (
    Demo,
    playbook_command,
    run_playbook,
)
from ansible_collections.splitmirror.backup.tests.support.restoring import restore, tree
from ansible_collections.splitmirror.backup.tests.support.toyarray import PASSWORD, ToyArray

from .pausing import kill_after, let_go, paused_after
from .ways import Ways, ways_to_root

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOOKS = Path(__file__).parent
PHASES = [
    "preflight",
    "recover",
    "sync",
    "map",
    "begin_hot_backup",
    "discover",
    "prepare",
    "window",
    "end_hot_backup",
    "present",
    "write",
    "cleanup",
    "catalog",
]
#: The volume is chosen by its pool, and sessions are kept by a rule.
BY_POOL = {"splitmirror_volume": "", "splitmirror_pool": "default", "splitmirror_retention": {"keep_last": 50}}
#: A session is copied from the library on disk to another one, which stands for one of tapes.
COPIES = {"splitmirror_copies": [{"pool": "offsite", "retention_days": 90}]}
WINDOW = ["freeze_acknowledged", "split_sent", "split_returned", "check_done", "thaw_sent", "thaw_acknowledged"]
#: What a PostgreSQL backup leaves out (docs/databases.md), and what it adds.
LEFT_OUT = (
    "pg_wal/*", "pg_replslot/*", "pg_dynshmem/*", "pg_notify/*", "pg_serial/*", "pg_snapshots/*", "pg_stat_tmp/*",
    "pg_subtrans/*", "postmaster.pid", "postmaster.opts", "*pgsql_tmp*", "*pg_internal.init*",
)  # fmt: skip
ADDED = ("backup_label", "tablespace_map", "pg_wal/*")


def catalog(bench: Demo, query: str) -> list[tuple[Any, ...]]:
    """Ask the media server's catalog."""
    with contextlib.closing(sqlite3.connect(bench.folder / "state/media1/catalog.sqlite")) as connection:
        return connection.execute(query).fetchall()


def nothing_is_left(bench: Demo) -> None:
    """No session folder, clone or loop device of a session, and the file systems take writes."""
    assert not any(bench.sessions(host) for host in ("db1", "array1", "array2", "media1"))
    assert bench.clones() == []
    assert list(bench.folder.glob("array/luns/snaps/*")) == []
    assert list(Path(nbd.RUN).glob("*/*-db1-*")) == []
    images = [path.read_text(encoding="utf-8") for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    mirrors = (f"{bench.folder}/array/mirrors", f"{bench.folder}/array/luns/snaps", f"{nbd.RUN}/")
    assert not [image for image in images if image.startswith(mirrors)]
    takes_writes(bench)


def takes_writes(bench: Demo) -> None:
    """Write to both file systems; on a frozen one this would block."""
    for lun in ("data", "space"):
        probe = bench.folder / "host" / lun / "probe"
        writer = threading.Thread(target=probe.write_bytes, args=(b"x",), daemon=True)
        writer.start()
        writer.join(60)
        assert not writer.is_alive(), f"{lun} is frozen"
        probe.unlink()


@contextlib.contextmanager
def kept_mirror(bench: Demo, lun: str, folder: Path) -> Iterator[Path]:
    """The kept clone of a mirror, mounted read-only."""
    image = bench.folder / "array" / f"{lun}.img.kept"
    options = ("ro", "norecovery", "nouuid")
    with loop_device(image, read_only=True) as device, mounted(device, folder, *options) as mount:
        yield mount
    image.unlink()


def matches(name: bytes, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(os.fsdecode(name), pattern) for pattern in patterns)


def without_time(entries: dict[bytes, tuple[Any, ...]], *names: bytes) -> dict[bytes, tuple[Any, ...]]:
    """Entries with the mtime left out for folders that label files or logs were added to."""
    return {name: (*entry[:4], None, *entry[5:]) if name in names else entry for name, entry in entries.items()}


def forget_the_restore(bench: Demo) -> None:
    """Empty the folder of the restore."""
    folder = bench.folder / "restore"
    shutil.rmtree(folder)
    folder.mkdir(mode=0o755)


@dataclass
class TwoArrays:
    """The demo's second pair on an array of its own: another provider, and where it can be another transport."""

    toy: ToyArray
    inventory: Path

    @property
    def word(self) -> str:
        """The word that tells a playbook of it."""
        return f"--inventory={self.inventory}"


@pytest.fixture(scope="module")
def two(bench: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoArrays]:
    """The second array is that of the tests of provider external, on this machine, and has a login of its own."""
    made = TwoArrays(ToyArray(bench.folder / "array/luns"), tmp_path_factory.mktemp("two") / "two.json")
    made.toy.snaps.mkdir()
    inventory = yaml.safe_load(bench.inventory.read_text(encoding="utf-8"))["all"]["children"]
    first, second = inventory["splitmirror_database_hosts"]["hosts"]["db1"]["splitmirror_pairs"]
    external = {
        "array": "array2", "provider": "external", "provider_options": toyoptions.of_program(made.toy.folder),
        "primary": "space.img", "mirror": "space.snap", "array_tasks": str(HOOKS / "own_array"),
    }  # fmt: skip
    host: dict[str, Any] = {"splitmirror_provider_secrets": {"TOY_PASSWORD": "of another array"}}
    array = {
        "splitmirror_state_dir": str(bench.folder / "state/array2"),
        "splitmirror_array_login": toyoptions.SECRETS,
    }
    if shutil.which("qemu-storage-daemon"):
        host |= {"splitmirror_storage_network": "127.0.0.1/32", "splitmirror_portal_port": free_port()}
        external["transport"] = "nbd"
    else:
        warnings.warn("needs qemu-storage-daemon: both arrays are read by transport local", stacklevel=1)
    pairs = [{**first, "array_tasks": str(HOOKS / "own_array")}, {**second, **external}]
    hosts = {"db1": {**host, "splitmirror_pairs": pairs}, "array2": array}
    made.inventory.write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    made.inventory.chmod(0o600)
    yield made
    made.toy.snaps.rmdir()


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ways(bench: Demo) -> Iterator[Ways]:
    """Ways to root over ssh to the hosts of the demo. They keep its file systems busy, so they end before it does."""
    with ways_to_root(bench) as made:
        yield made


def libraries(bench: Demo) -> dict[str, Any]:
    """The variable that tells of the other library."""
    offsite = {"pools": ["offsite"], "drive_type": "virtual", "drive": str(bench.folder / "tapes")}
    return {"splitmirror_libraries": [offsite]}


@pytest.fixture(scope="module")
def night(bench: Demo, ways: Ways) -> tuple[dict[str, Any], str]:
    """A backup is taken by a user with sudo, copied, and clones of its mirrors are kept; its report, and what was
    printed.
    """
    more = libraries(bench)
    bench.must("label", splitmirror_volumes=["OFF1"], splitmirror_label_pool="offsite", **more)
    hook = str(HOOKS / "keep_mirror.yml")
    with ways.taken("sudo") as words:
        printed = bench.must("backup", *words, splitmirror_after_phase_tasks=hook, **BY_POOL, **COPIES, **more)
    return bench.report(), printed


@pytest.fixture(scope="module")
def report(night: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """The report of that backup."""
    return night[0]


def test_a_good_run_prints_at_most_40_tasks_and_no_warning(night: tuple[dict[str, Any], str]) -> None:
    lines = night[1].splitlines()
    # The test's own hook is there for the next test, and the copy for the one after it.
    hook = ("Keep a clone of each mirror", "Run the user's tasks", "Copy the sessions of this host")
    tasks = [line for line in lines if line.startswith("TASK ") and not any(name in line for name in hook)]
    assert 20 < len(tasks) <= 40, "\n".join(tasks)
    assert [line for line in lines if "WARNING" in line] == []


def test_a_backup_is_the_mirror_at_the_split(bench: Demo, report: dict[str, Any], tmp_path: Path) -> None:
    assert report["state"] == "good"
    assert [phase["name"] for phase in report["phases"]] == PHASES
    told = [event["name"] for event in report["window"]["events"]]
    assert [name for name in told if name in WINDOW] == WINDOW
    assert report["window"]["window_s"] >= report["window"]["split_s"] > 0
    # The database goes on reading; the tape's bytes come from the mirror.
    assert report["primary_read_bytes_during_write"] < report["write"]["bytes_archive"] / 20
    assert catalog(bench, "SELECT id, state FROM sessions ORDER BY rowid")[-1] == (report["session"], "good")

    archive = Path(report["write"]["archive"])
    with (
        kept_mirror(bench, "data", tmp_path / "data") as data,
        kept_mirror(bench, "space", tmp_path / "space") as space,
    ):
        mirrored = {
            "data/pg": without_time(tree(data / "pg", lambda name: matches(name, LEFT_OUT)), b".", b"pg_wal"),
            "space/files": tree(space / "files"),
            "space/tablespace": tree(space / "tablespace"),
        }
    for tar in ("tar", "bsdtar"):
        restore(tar, archive, tmp_path / tar)
        host = tmp_path / tar / bench.folder.relative_to("/") / "host"
        restored = {
            "data/pg": without_time(tree(host / "data/pg", lambda name: matches(name, ADDED)), b".", b"pg_wal"),
            "space/files": tree(host / "space/files"),
            "space/tablespace": tree(host / "space/tablespace"),
        }
        assert restored == mirrored, tar
        assert (host / "data/pg/backup_label").read_text(encoding="ascii").startswith("START WAL LOCATION")
        assert list((host / "data/pg/pg_wal").iterdir())
    nothing_is_left(bench)


def test_a_restored_database_has_every_acknowledged_commit(bench: Demo, report: dict[str, Any]) -> None:
    assert report["state"] == "good"
    more = libraries(bench)
    assert report["session"] not in bench.must("copy", **BY_POOL, **COPIES, **more), "it was copied after the backup"
    bench.must("verify", splitmirror_verify_host="db1", splitmirror_verify_pool="offsite", **more)
    volume = bench.folder / "state/media1/library" / report["write"]["volume"]
    volume.rename(bench.folder / "lost")
    try:
        # The copy is all that is left.
        bench.must("restore", **more)
    finally:
        (bench.folder / "lost").rename(volume)
    bench.bring("verified")
    result = bench.reports / "result.json"
    assert '"restore_verified": true' in result.read_text(encoding="utf-8")
    bench.bring("present")


def test_a_target_that_is_not_empty_is_refused(bench: Demo) -> None:
    occupied = bench.folder / "restore/something"
    occupied.write_text("kept", encoding="utf-8")
    done = bench.play("restore")
    assert done.returncode != 0
    assert occupied.read_text(encoding="utf-8") == "kept"
    occupied.unlink()


def fingerprint(bench: Demo) -> dict[bytes, tuple[Any, ...]]:
    """The state folders of all three hosts, the virtual library, the mirrors, and where a restore goes."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for part in ("state", "array/mirrors", "restore"):
        folder = bench.folder / part
        if folder.exists():
            found.update({part.encode() + b"/" + name: entry for name, entry in tree(folder).items()})
    return found


@pytest.mark.parametrize("playbook", ["preflight", "backup", "label", "verify", "restore"])
def test_check_mode_changes_nothing(bench: Demo, report: dict[str, Any], playbook: str) -> None:
    assert report["state"] == "good"
    before = fingerprint(bench)
    target = bench.folder / "restore" / "dry"
    bench.must(playbook, "--check", splitmirror_restore_target=str(target), splitmirror_verify_host="db1")
    assert fingerprint(bench) == before
    nothing_is_left(bench)


def test_preflight_tells_all_that_is_wrong_at_once_and_changes_nothing(
    bench: Demo, report: dict[str, Any], tmp_path: Path
) -> None:
    assert report["state"] == "good"
    before = fingerprint(bench)
    assert "WRONG" not in bench.must("preflight", splitmirror_report_dir="")
    wrong = {
        "splitmirror_databases": [
            {"name": "demo", "driver": "postgresql", "postgresql": {"unix_socket": str(tmp_path)}}
        ],
        "splitmirror_paths": ["/usr/share/doc"],
        "splitmirror_provider": "magic",
        "splitmirror_volume": "OTHER1",
        "splitmirror_transport": "tgt",
        "splitmirror_report_dir": "/proc/version/reports",
    }
    done = bench.play("preflight", **wrong)
    assert done.returncode != 0
    table = [line for line in done.stdout.splitlines() if "WRONG" in line]
    for question in ("report folder", "LUNs", "database demo", "input", "volume", "transport"):
        assert any(f" {question} " in line for line in table), done.stdout
    assert fingerprint(bench) == before

    del wrong["splitmirror_provider"]
    done = bench.play("backup", **{**wrong, "splitmirror_report_dir": str(bench.reports)})
    assert done.returncode != 0
    assert bench.report()["reason"].startswith("preflight: ")
    for sentence in ("/usr/share/doc", "OTHER1", "database demo"):
        assert sentence in bench.report()["reason"]
    nothing_is_left(bench)


def test_an_array_that_dies_before_the_split_fails_the_session_and_thaws(bench: Demo) -> None:
    done = bench.play("backup", splitmirror_after_phase_tasks=str(HOOKS / "kill_splitter.yml"))
    assert done.returncode != 0
    report = bench.report()
    assert report["state"] == "failed"
    assert report["reason"].startswith("window: ")
    assert catalog(bench, "SELECT state FROM sessions ORDER BY rowid")[-1] == ("failed",)
    nothing_is_left(bench)


def test_of_two_arrays_one_that_is_lost_keeps_no_other_split(bench: Demo, two: TwoArrays) -> None:
    """The second array is lost after its split; in the next run it is there again, and its split fails."""
    hook = str(HOOKS / "lose_array.yml")
    assert bench.play("backup", two.word, splitmirror_after_phase_tasks=hook).returncode != 0
    report = bench.report()
    assert (report["state"], report["reason"].partition(":")[0]) == ("failed", "present")
    assert [split["splitter"] for split in report["splits"]] == ["array1", "array2"]
    assert "The clean-up of the array array2 failed as well: array2" in report["reason"]
    assert bench.clones() == []
    assert not bench.sessions("db1") + bench.sessions("array1") + bench.sessions("media1")
    assert sorted(path.name for path in two.toy.snaps.iterdir()) == ["space.snap", "space.snap.mark"]
    takes_writes(bench)

    with two.toy.faulty(split="refuse space.img"):
        assert bench.play("backup", two.word).returncode != 0
    report = bench.report()
    assert (report["state"], report["reason"].partition(":")[0]) == ("failed", "window")
    assert report["window"]["intact"] is False
    assert [split["splitter"] for split in report["splits"]] == ["array1"]
    assert "failed as well" not in report["reason"]
    nothing_is_left(bench)


def told_by_the_hook(bench: Demo) -> dict[str, Any]:
    """What tell_phase.yml has written down."""
    path = bench.folder / "state/db1/told.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found


def test_a_backup_that_fails_leaves_nothing_to_the_next_one_of_its_play(
    bench: Demo, ways: Ways, two: TwoArrays
) -> None:
    """Both split on two arrays, and reach them through a folder of the user's, which wraps one step of the role's."""
    # The name of another host may end like this one's.
    other = bench.folder / "state/db1/sessions/20260101T000000Z-prod-db1-0a1b"
    other.mkdir(parents=True)
    with ways.taken("su") as words:
        output = bench.must(HOOKS / "again.yml", "-vvv", two.word, *words)
    report = bench.report()
    left = [path for path in (bench.folder / "state").rglob("*") if path.is_file()]
    assert [path for path in left if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in output + json.dumps(report)
    session = report["session"]
    for array in ("array1", "array2"):
        synchronized = bench.folder / "state" / array / "synchronized"
        assert synchronized.read_text(encoding="ascii") == f"{session} {short_session(session)}"
        synchronized.unlink()
    splits = [(split["splitter"], split["provider"], list(split["devices"])) for split in report["splits"]]
    assert splits == [("array1", "image", ["data"]), ("array2", "external", ["space"])]
    names = subprocess.run(["tar", "-tf", report["write"]["archive"]], capture_output=True, text=True, check=True)
    assert {name.split("/host/")[1].split("/")[0] for name in names.stdout.splitlines() if "/host/" in name} == {
        "data",
        "space",
    }
    assert (report["state"], report["reason"]) == ("good", "")
    assert [phase["name"] for phase in report["phases"]] == PHASES
    assert told_by_the_hook(bench) == {"told": [*PHASES, "end"], "state": "good"}
    (failed, good) = catalog(bench, "SELECT id, state FROM sessions ORDER BY rowid")[-2:]
    assert failed[1] == "failed"
    assert good == (report["session"], "good")
    assert bench.sessions("db1") == [other]
    other.rmdir()
    nothing_is_left(bench)


def lost(bench: Demo, phase: str, **variables: Any) -> tuple[int, dict[str, Any]]:
    """Lose the database host after a phase of a backup, and see that its mirror is free; exit code and report."""
    hook = HOOKS / "lose_host.yml"
    done = bench.play("backup", splitmirror_after_phase_tasks=str(hook), order_lost_after=phase, **variables)
    report = bench.report()
    assert catalog(bench, "SELECT id, state FROM sessions ORDER BY rowid")[-1] == (report["session"], report["state"])
    # Nobody could take away what the session left on the host that is gone.
    assert [folder.name for folder in bench.sessions("db1")] == [report["session"]]
    assert bench.clones() == []
    assert not bench.sessions("array1") + bench.sessions("media1"), report["reason"]
    return done.returncode, report


@pytest.mark.parametrize(("phase", "fails_in"), [("window", "end_hot_backup"), ("end_hot_backup", "present")])
def test_a_database_host_that_is_lost_leaves_its_mirror_free(bench: Demo, phase: str, fails_in: str) -> None:
    code, report = lost(bench, phase)
    assert code != 0
    assert (report["state"], report["reason"].partition(":")[0]) == ("failed", fails_in)
    takes_writes(bench)


def test_a_database_that_only_freezes_is_whole_though_its_host_is_lost_at_the_end(bench: Demo) -> None:
    """The session is encrypted, so roles and playbooks pass the keys on."""
    path = bench.files / "ledger.db"
    # Every transaction moves an amount from one account to the other, so the sum shows a torn copy.
    script = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=60,isolation_level=None);"
        "c.execute('PRAGMA journal_mode=WAL');"
        "c.execute('CREATE TABLE IF NOT EXISTS a(n INTEGER PRIMARY KEY, v INTEGER)');"
        "c.execute('INSERT OR IGNORE INTO a VALUES (1,0),(2,0)'); print('ready',flush=True)\n"
        "while True:\n"
        " c.execute('BEGIN IMMEDIATE'); c.execute('UPDATE a SET v=v+1 WHERE n=1');"
        " c.execute('UPDATE a SET v=v-1 WHERE n=2'); c.execute('COMMIT')"
    )
    with subprocess.Popen(["/usr/bin/python3", "-c", script, path], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            ledger = {"name": "ledger", "driver": "sqlite", "sqlite": {"path": str(path)}}
            # The rest of the session does without the host, once the mirror is presented.
            what = {"splitmirror_databases": [ledger], "splitmirror_paths": [], "splitmirror_recipients": [PUBLIC]}
            code, report = lost(bench, "present", **what)
        finally:
            writer.kill()
    assert (code, report["state"], report["reason"]) == (0, "good", "")
    assert report["hot_backup"]["evidence"]["required"] is False
    assert Path(report["write"]["archive"]).read_bytes().startswith(b"age-encryption.org/v1\n")
    restored = Path(f"{bench.folder}/restore{path}")
    assert SECRET not in bench.must("restore", "-vvv", splitmirror_identity=SECRET)
    verified = bench.must("verify", "-v", splitmirror_verify_host="db1", splitmirror_identity=SECRET)
    assert '"proved": "content"' in verified
    with contextlib.closing(sqlite3.connect(restored)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (first, second) = copy.execute("SELECT v FROM a ORDER BY n").fetchall()
    assert first[0] == -second[0] > 0
    forget_the_restore(bench)


@pytest.fixture(scope="module")
def killed(bench: Demo, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Runs are killed, each in a later phase and after it has finished what the one before it left; their sessions."""
    sessions: list[str] = []
    for phase in ("prepare", "window", "present"):
        kill_after(bench, phase, tmp_path_factory.mktemp("killed"))
        states = dict(catalog(bench, "SELECT id, state FROM sessions ORDER BY rowid"))
        assert [states[session] for session in sessions] == ["failed"] * len(sessions)
        (session, state) = list(states.items())[-1]
        assert state == "open"
        assert [folder.name for folder in bench.sessions("db1")] == [session]
        assert {folder.name for host in ("array1", "media1") for folder in bench.sessions(host)} == {session}
        sessions.append(session)
        takes_writes(bench)

        if (
            phase == "prepare"
        ):  # as after a failure while the array was gone: the database host names the session no more
            bench.must(HOOKS / "clean_up_without_array.yml", order_session=session)
            assert bench.daemon("array1", "splitter")
            assert not bench.sessions("db1")
            bench.must("backup", "--check")
    return sessions


def test_what_a_killed_run_leaves_is_finished_by_one_that_is_killed_later(bench: Demo, killed: list[str]) -> None:
    states = dict(catalog(bench, "SELECT id, state FROM sessions"))
    assert [states[session] for session in killed[:2]] == ["failed", "failed"]
    assert len(set(killed)) == 3


def test_a_second_run_of_a_host_and_another_name_of_it_leave_the_first_alone(
    bench: Demo, ways: Ways, killed: list[str], tmp_path: Path
) -> None:
    alias = tmp_path / "alias.yml"
    alias.write_text(
        bench.inventory.read_text(encoding="utf-8").replace("        db1:\n", "        db2:\n"), encoding="utf-8"
    )
    with ways.taken("root") as words, paused_after(bench, "prepare", tmp_path, *words) as run:
        # Those that were killed are not open any more.
        ((first, _state),) = catalog(bench, "SELECT id, state FROM sessions WHERE state = 'open'")
        assert first not in killed
        processes = [bench.daemon("db1", "holder"), bench.daemon("array1", "splitter")]
        for more in (["--check"], []):
            done = bench.play("backup", *more)
            assert done.returncode != 0
            assert f"session {first} of db1 is at work since" in done.stdout
        assert f"session {first} of db1 is at work since" in bench.report()["reason"]
        second = catalog(bench, "SELECT id, state, reason FROM sessions ORDER BY rowid")[-1]
        assert second[1:] == ("failed", bench.report()["reason"])
        assert second[0] == bench.report()["session"] != first
        done = run_playbook(playbook_command(alias, "backup"), bench.folder)
        assert done.returncode != 0
        assert (
            f"{first}, which does not belong to db2" in json.loads((bench.reports / "db2.json").read_text())["reason"]
        )
        assert [bench.daemon("db1", "holder"), bench.daemon("array1", "splitter")] == processes
        assert all(record is not None and is_alive(record) for record in processes)
        let_go(tmp_path / "waits")
        assert run.wait(300) == 0
    assert catalog(bench, "SELECT state FROM sessions WHERE id = '" + first + "'") == [("good",)]
    nothing_is_left(bench)


def test_what_killed_runs_leave_is_finished_by_the_next(bench: Demo, killed: list[str]) -> None:
    """The test before this one is their next run, which was taken as root."""
    (last, _state) = catalog(bench, "SELECT id, state FROM sessions ORDER BY rowid")[-1]
    if last == killed[-1]:  # this test is run alone
        bench.must("backup")
    for session in killed:
        assert catalog(bench, f"SELECT state FROM sessions WHERE id = '{session}'") == [("failed",)]
    nothing_is_left(bench)


@pytest.mark.parametrize(
    ("variables", "sentences"),
    [
        (
            # What hosts have to be asked for is told together. (Of another volume below.)
            {
                "splitmirror_volume_mode": "overwrite",
                "splitmirror_paths": ["/usr/share/doc"],
            },
            ["DEMO01 holds unexpired data", "/usr/share/doc"],
        ),
        (
            {
                "splitmirror_provider": "magic",
                "splitmirror_databases": [{"name": "demo", "driver": "dbase"}],
                "splitmirror_pairs": [{"name": "data", "sereal": "1"}],
                "splitmirror_retention_days": -1,
            },
            [
                "splitmirror_provider: 'magic' is not known",
                "splitmirror_databases: demo: driver 'dbase' is not known",
                "splitmirror_pairs: data: 'sereal' is not an option of a pair (did you mean 'serial'?)",
                "0 to 365000",
            ],
        ),
        (
            {"splitmirror_databases": [], "splitmirror_paths": [], "splitmirror_array_tasks": "nowhere"},
            [
                "neither splitmirror_databases nor splitmirror_paths",
                "splitmirror_array_tasks: there is no folder nowhere",
            ],
        ),
        ({"splitmirror_array": "nowhere"}, ["nowhere"]),
        ({"splitmirror_transport": "tgt"}, ["splitmirror_storage_network"]),
        (
            {
                "splitmirror_retention_days": -1,
                "splitmirror_chap_secret": "guessed",
                "splitmirror_array_tasks": str(HOOKS),
            },
            ["0 to 365000", f"{HOOKS} has none of the files preflight.yml, recover.yml, sync.yml"],
        ),
    ],
    ids=["answers", "options", "nothing", "nowhere", "network", "retention"],
)
def test_bad_input_is_refused_before_anything_is_frozen(
    bench: Demo, report: dict[str, Any], variables: dict[str, Any], sentences: list[str]
) -> None:
    assert report["state"] == "good"  # so that there is unexpired data
    assert bench.play("backup", **variables).returncode != 0
    refused = bench.report()
    assert refused["state"] == "failed"
    assert refused["window"] == {}
    assert [sentence for sentence in sentences if sentence not in refused["reason"]] == [], refused["reason"]
    is_a_night_without_a_backup(bench, refused)


def is_a_night_without_a_backup(bench: Demo, refused: dict[str, Any]) -> None:
    """It is in the catalog, with its reason and phase, and nothing is left of it."""
    recorded = catalog(bench, "SELECT id, state, reason, evidence FROM sessions ORDER BY rowid")[-1]
    phase = refused["reason"].partition(":")[0]
    assert recorded == (refused["session"], "failed", refused["reason"], json.dumps({"phase": phase}))
    nothing_is_left(bench)


def test_a_failure_is_told_once_and_to_hooks_beside_the_users_playbook_and_the_report_folder_is_made(
    bench: Demo, report: dict[str, Any], tmp_path: Path
) -> None:
    assert report["state"] == "good"  # it has made the state folder, into which the hook writes
    # That hooks are told of all phases of a good backup is proved with again.yml.
    folder = tmp_path / "new/reports"
    done = bench.play(HOOKS / "hooked.yml", splitmirror_volume="OTHER1", splitmirror_report_dir=str(folder))
    assert done.returncode != 0
    assert told_by_the_hook(bench) == {"told": ["failed", "end"], "state": "failed"}
    refused = json.loads((folder / "db1.json").read_text(encoding="utf-8"))
    (phase, _colon, reason) = refused["reason"].partition(": ")
    assert (refused["state"], phase, refused["window"]) == ("failed", "preflight", {})
    assert "OTHER1" in reason
    told = [line for line in done.stdout.splitlines() if line.startswith("fatal: ") and reason in line]
    assert len(told) == 1, done.stdout
    is_a_night_without_a_backup(bench, refused)


def test_a_hook_that_is_not_there_is_refused_before_anything_begins(bench: Demo) -> None:
    assert bench.play("backup", splitmirror_after_phase_tasks="nowhere.yml").returncode != 0
    assert "splitmirror_after_phase_tasks: there is no file nowhere.yml" in bench.report()["reason"]
