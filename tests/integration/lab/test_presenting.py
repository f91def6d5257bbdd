# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mirror on its way from the array to the media server, over iSCSI, between kernels. Its steps are in on_san.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.transport.secret import chap_of
from ansible_collections.splitmirror.backup.tests.lab.description import DEFAULT_FILE, load
from ansible_collections.splitmirror.backup.tests.lab.lifecycle import RunningLab

from . import on_array, on_san

pytestmark = [pytest.mark.root, pytest.mark.slow]

COLLECTION = Path(__file__).resolve().parents[3]
HOME, SCRIPTS = "opt/ansible_collections/splitmirror/backup", "tests/integration/lab"
S1, S2 = "20260131T020000Z-db1-9f3c", "20260201T020000Z-db1-00aa"
#: tgtd of the lab's array has iSCSI's own port.
SECRET = "ThisOneIsOnlyForTheTestsOfTheLab"
PORTS = {"tgt": 3260, "lio": 3261}
#: Each mirror and each transport; that all four pairs work alike was seen, and takes twice the time.
EACH_ONCE = [("lvm", "tgt"), ("md", "lio")]
#: Where it is the transport that matters, the mirror that is split and in sync again sooner.
BOTH_TRANSPORTS = [("md", "tgt"), ("md", "lio")]

Do = Callable[..., Any]


def install(lab: RunningLab) -> None:
    """Bring the collection's code to all hosts of a lab."""
    for host in lab.lab().hosts:
        target = lab.machine(host).root / HOME
        shutil.copytree(COLLECTION / "plugins/module_utils", target / "plugins/module_utils", dirs_exist_ok=True)
        shutil.copytree(COLLECTION / "tests/seams", target / "tests/seams", dirs_exist_ok=True)
        scripts = target / SCRIPTS
        scripts.mkdir(parents=True, exist_ok=True)
        for script in (on_array, on_san):
            shutil.copy(str(script.__file__), scripts)
        shutil.copytree(COLLECTION / "tests/seams", target / "tests/seams", dirs_exist_ok=True)


class Hands:
    """A process on each host of a lab that does the steps of on_san.py: starting one for each step takes too long."""

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Hands:
        install(self.lab)
        return self

    def __exit__(self, *_dummy: object) -> None:
        for name in list(self._processes):
            self.let_go(name)

    def let_go(self, name: str) -> None:
        """End the process on a host."""
        process = self._processes.pop(name, None)
        if process is not None:
            with process:
                process.kill()

    def do(self, name: str, step: dict[str, Any]) -> Any:
        """Do one step on a host and return its answer; a failure that is no refusal fails the test."""
        if name not in self._processes:
            script = f"sudo env PYTHONPATH=/opt python3 /{HOME}/{SCRIPTS}/on_san.py"
            words = self.lab.ssh_command(name, ["--", script])
            self._processes[name] = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
            )
        process = self._processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(step) + "\n")
        answer = process.stdout.readline()
        if not answer:
            _output, words_of_it = self._processes.pop(name).communicate()
            pytest.fail(f"{name}: {step}: {words_of_it}")
        return json.loads(answer)


def steps(hands: Hands, mirror: str, transport: str) -> Do:
    """How to do a step of on_san.py on a host of the lab."""
    lab = hands.lab
    media, array = lab.lab().host("media1"), lab.lab().host("array1")
    common = {
        "mirror": mirror,
        "transport": transport,
        "session": S1,
        "initiator": media.initiator,
        "address": media.storage_address,
        "portal": f"{array.storage_address}:{PORTS[transport]}",
        "secret": SECRET,
    }

    def do(name: str, step: str, **more: Any) -> Any:
        answer = hands.do(name, {**common, "do": step, **more})
        assert step not in ("split", "write") or "refused" not in str(answer), answer
        return answer

    return do


@pytest.fixture(scope="module")
def hands(lab: RunningLab) -> Iterator[Hands]:
    """Give hands on the hosts of the lab."""
    with Hands(lab) as hands:
        yield hands


@pytest.fixture
def do(hands: Hands, request: pytest.FixtureRequest) -> Iterator[Do]:
    """Do steps with the mirror and the transport of the test; what it leaves goes away."""
    mirror, transport = request.param
    do = steps(hands, mirror, transport)
    try:
        yield do
    finally:
        do("media1", "detach", session=None, host="db1")
        do("array1", "recover")
    assert do("array1", "check_whole") == []
    assert do("media1", "sessions") == [[], 0]


@pytest.fixture(scope="module")
def small_lab(lab_tools: None) -> Iterator[RunningLab]:
    """Yield a lab of its own, whose array may lose power without harm to the tests of others."""
    running = RunningLab("pytest-power")
    running.up(load(DEFAULT_FILE, ("database_hosts.count=0", "media_servers.volume_mib=64", "media_servers.volumes=1")))
    try:
        yield running
    finally:
        running.down()


def ways(which: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """The mirrors and transports of a test."""
    return pytest.mark.parametrize("do", which, indirect=True, ids=["-".join(way) for way in which])


@pytest.mark.parametrize("transport", on_san.CONTRACTS)
@pytest.mark.parametrize("test", on_san.CONTRACT_TESTS)
def test_the_exporter_keeps_the_contract(hands: Hands, transport: str, test: str) -> None:
    assert steps(hands, "lvm", transport)("array1", "contract", test=test) == "kept"


@ways(EACH_ONCE)
def test_the_media_server_reads_the_mirror_and_cannot_write_it(do: Do) -> None:
    do("array1", "split", byte=0xA1)
    assert do("array1", "dry_run") is True
    presented = do("array1", "present")
    assert presented["changed"] is True
    assert do("array1", "dry_run") is False
    assert do("array1", "present") == {**presented, "changed": False}
    luns = presented["luns"]
    assert sorted(luns) == ["t0", "t1"]
    assert do("media1", "look", luns=luns) == {}
    attached = do("media1", "attached", luns=luns)
    assert attached["changed"] is True
    assert do("media1", "attached", luns=luns) == {**attached, "changed": False}
    assert do("media1", "look", luns=luns) == attached["devices"]
    device = attached["devices"]["t0"]
    assert device == f"/dev/disk/by-id/wwn-0x{luns['t0']['wwn']}"
    do("array1", "write", byte=0xA2)
    assert do("media1", "read", device=device) == 0xA1
    assert do("media1", "try_to_write", device=device) == [True, 0xA1]
    assert do("array1", "exports")[0][2] != []
    assert "still exported" in do("array1", "resync")["refused"]
    assert "in use on the media server by process" in do("media1", "detach_while_it_is_read", device=device)["refused"]
    assert do("media1", "detach") == 1
    assert do("media1", "detach") == 0
    assert do("array1", "withdraw") == [2, 1]
    assert do("array1", "withdraw") == [0, 0]
    assert do("array1", "resync") > 0
    # The next session's mirror has the same place, another name, and its own data.
    do("array1", "split", byte=0xA3, session=S2)
    again = do("array1", "present", session=S2)["luns"]
    assert not {lun["serial"] for lun in again.values()} & {lun["serial"] for lun in luns.values()}
    devices = do("media1", "attached", luns=again, session=S2)["devices"]
    assert do("media1", "read", device=devices["t0"]) == 0xA3
    assert "it is not this session's mirror" in do("media1", "look", luns=luns, session=S2)["refused"]


@ways(BOTH_TRANSPORTS)
def test_nobody_else_is_let_in(do: Do, lab: RunningLab) -> None:
    do("array1", "split", byte=0xB1)
    target = do("array1", "present")["target"]
    media, other = lab.lab().host("media1").initiator, lab.lab().host("db1").initiator
    assert do("media1", "log_in_as", target=target, initiator=media, known_secret=SECRET) is True
    for known in (SECRET, None):  # it has found out the secret; it does not even offer CHAP
        assert do("db1", "log_in_as", target=target, initiator=other, known_secret=known) is False, known
    assert do("db1", "log_in_as", target=target, initiator=media, known_secret=None) is False
    assert do("db1", "discover") is False


@ways(BOTH_TRANSPORTS)
def test_a_target_that_cannot_prove_who_it_is_gets_no_login(do: Do, lab: RunningLab) -> None:
    """As one that somebody else puts up at the array's address, in the hope of being read as a mirror."""
    do("array1", "split", byte=0xB5)
    target = do("array1", "present")["target"]
    media, right = lab.lab().host("media1").initiator, chap_of(target, SECRET).target_secret
    for asked, logs_in in ((right, True), (right[::-1], False), (SECRET, False)):
        answer = do("media1", "log_in_as", target=target, initiator=media, known_secret=SECRET, asked_secret=asked)
        assert answer is logs_in, asked


@ways(BOTH_TRANSPORTS)
def test_nobody_is_let_in_without_the_secret_of_the_session(do: Do, lab: RunningLab) -> None:
    """Any user of the media server may open a connection from its address, and say its name."""
    do("array1", "split", byte=0xB4)
    assert do("array1", "watch_arguments", inner="present")[1] is False
    presented = do("array1", "present")
    media = lab.lab().host("media1").initiator
    for known in (None, SECRET[::-1], SECRET[:-1]):
        answer = do("media1", "log_in_as", target=presented["target"], initiator=media, known_secret=known)
        assert answer is False, known
    luns = presented["luns"]
    assert do("media1", "watch_arguments", inner="attached", luns=luns) == [True, False]
    assert [mode for _path, mode in do("media1", "find_secret")] == [0]
    assert do("media1", "detach") == 1
    assert do("media1", "find_secret") == []
    # Another secret is another export.
    other = "AnotherSecretOfThisSessionIsUsed"
    assert do("array1", "present", secret=other)["changed"] is True
    assert "cannot log in" in do("media1", "attached", luns=luns)["refused"]
    assert do("media1", "find_secret") == []
    assert len(do("media1", "attached", luns=luns, secret=other)["devices"]) == 2
    do("media1", "detach")


@ways([("md", "tgt")])
def test_tgtd_lets_nobody_in_from_another_address(do: Do, lab: RunningLab) -> None:
    do("array1", "split", byte=0xB2)
    target = do("array1", "present")["target"]
    assert (
        do("db1", "log_in_as", target=target, initiator=lab.lab().host("media1").initiator, known_secret=SECRET)
        is False
    )


@ways([("md", "lio")])
def test_the_kernels_target_lets_nobody_in_under_another_name(do: Do, lab: RunningLab) -> None:
    do("array1", "split", byte=0xB2)
    target = do("array1", "present")["target"]
    assert (
        do("media1", "log_in_as", target=target, initiator=lab.lab().host("db1").initiator, known_secret=SECRET)
        is False
    )


@ways([("md", "lio")])
def test_the_kernels_target_answers_in_the_storage_network_only(do: Do, lab: RunningLab) -> None:
    do("array1", "split", byte=0xB3)
    target = do("array1", "present")["target"]
    media, array = lab.lab().host("media1"), lab.lab().host("array1")
    elsewhere = {"portal": f"{array.address}:{PORTS['lio']}", "target": target}
    assert do("media1", "log_in_as", initiator=media.initiator, known_secret=SECRET, **elsewhere) is False


@ways(EACH_ONCE)
def test_an_export_whose_controller_died_is_withdrawn_while_the_media_server_is_logged_in(do: Do) -> None:
    do("array1", "split", byte=0xC1)
    do("media1", "attached", luns=do("array1", "present")["luns"])
    assert do("array1", "recover") == [[S1], 1]
    assert do("array1", "check_whole") == []
    # The media server still has its dead session; it lets go of it by the name of the database host.
    assert do("media1", "sessions")[1] == 1
    assert do("media1", "detach", session=None, host="db2") == 0
    assert do("media1", "detach", session=None, host="db1") == 1


@ways([("md", "tgt")])
def test_an_export_that_is_half_made_is_finished_or_recovered(do: Do) -> None:
    for finish in ("present", "recover"):
        do("array1", "split", byte=0xC2)
        assert "refused" in do("array1", "present_half")
        assert [one[0] for one in do("array1", "exports")] == [S1]
        assert "still exported" in do("array1", "resync")["refused"]
        if finish == "present":
            luns = do("array1", "present")["luns"]
            assert len(do("media1", "attached", luns=luns)["devices"]) == 2
            do("media1", "detach")
        assert do("array1", "recover") == [[S1], 1]
        assert do("array1", "check_whole") == []


@ways(BOTH_TRANSPORTS)
def test_what_cannot_be_exported_is_refused(do: Do) -> None:
    assert do("array1", "preflight") is None
    do("array1", "split", byte=0xC3)
    for portal, words in (
        ("10.213.1.77:3260", "is not an address of the array"),
        ("10.213.1.11:22", "10.213.1.11:22"),
    ):
        for step in ("preflight", "dry_run", "present"):
            assert words in do("array1", step, portal=portal)["refused"]
    assert do("array1", "exports") == []


@ways([("md", "lio")])
def test_a_lun_that_is_always_shown_is_found_by_its_serial_number_or_wwn(do: Do) -> None:
    do("array1", "split", byte=0xC4)
    luns = do("array1", "present")["luns"]
    (device, _other) = do("media1", "attached", luns=luns)["devices"].values()
    for name in (luns["t0"]["serial"], "naa." + luns["t0"]["wwn"].upper(), "0x" + luns["t0"]["wwn"]):
        assert do("media1", "attach_static", serial=name) == {"devices": {"t0": device}, "changed": False}
    assert do("media1", "read", device=device) == 0xC4
    serial = luns["t0"]["serial"]
    name, byte = do("media1", "attach_static_under_multipath", serial=serial, device=device)
    assert (name, byte) == (f"dm-uuid-mpath-3{luns['t0']['wwn']}", 0xC4)
    assert do("media1", "attach_static", serial=serial) == {"devices": {"t0": device}, "changed": False}

    assert do("media1", "left_alone", device=device) is True
    # The same LUNs, as an array shows them that has masked them itself; then they are scanned for.
    wrong = {**luns, "t0": {**luns["t0"], "lun": 9}}
    assert "is LUN" in do("media1", "attach_masked", luns=wrong)["refused"]
    wrong = {**luns, "t0": {**luns["t0"], "size_bytes": 4096}}
    assert "and 4096 on the array" in do("media1", "attach_masked", luns=wrong)["refused"]
    found = do("media1", "attach_masked", luns=luns)["devices"]
    assert found["t0"] == device
    for again in (False, True):
        named = [lun["wwn" if again else "serial"] for lun in luns.values()]
        assert do("media1", "detach_masked") == [named, []]
        assert do("media1", "detach_masked") == [[], []]
        by_wwn = {name: {"wwn": lun["wwn"]} for name, lun in luns.items()}
        masked = do("media1", "attach_masked", luns=luns if again else by_wwn)
        assert (masked["devices"], masked["changed"]) == (found, True)
        assert do("media1", "left_alone", device=device) is True
        assert do("media1", "read", device=device) == 0xC4


@pytest.mark.parametrize("transport", ["tgt"])
def test_an_array_that_lost_power_while_it_exported_is_recovered(small_lab: RunningLab, transport: str) -> None:
    array = small_lab.machine(small_lab.lab().host("array1"))
    with Hands(small_lab) as hands:
        do = steps(hands, "lvm", transport)
        do("array1", "split", byte=0xD1)
        luns = do("array1", "present")["luns"]
        do("media1", "attached", luns=luns)
        array.kill()
        hands.let_go("array1")
        small_lab.start("array1")
        assert do("array1", "exports") == []
        assert do("array1", "recover") == [[S1], 0]
        assert do("array1", "check_whole") == []
        assert do("media1", "detach", session=None, host="db1") == 1
        assert do("media1", "sessions") == [[], 0]
        # All of it works again.
        do("array1", "split", byte=0xD2, session=S2)
        luns = do("array1", "present", session=S2)["luns"]
        devices = do("media1", "attached", luns=luns, session=S2)["devices"]
        assert do("media1", "read", device=devices["t0"]) == 0xD2
        do("media1", "detach", session=S2)
        do("array1", "recover")
