# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Single steps of presenting a mirror, for test_presenting.py. Runs on a host of the lab, as root, till its input ends.

Each line that it reads is JSON and says which step (``do``), how (``mirror``: lvm or md; ``transport``: tgt or lio),
and what else the step needs. It answers with a line: what the step returned, or ``{"refused": SENTENCE}``. Every step
begins with what it finds on the host, as a module does. The LUNs are those of on_array.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror import presenting
from ansible_collections.splitmirror.backup.plugins.module_utils.transport import attach, initiator, names, secret
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.base import (
    Attacher,
    AttachOptions,
    Device,
    Exporter,
    Wanted,
)
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.names import Portal
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import (
    all_exporters,
    make_attacher,
    make_exporter,
)
from ansible_collections.splitmirror.backup.tests.integration.lab import on_array
from ansible_collections.splitmirror.backup.tests.seams.exporters import ExporterContract

STATE_DIR = "/var/tmp/san"
Step = dict[str, Any]


class Bench(on_array.Bench):
    """The LUNs of on_array.py, with records that stay between two steps."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state_dir = STATE_DIR
        if not os.path.exists(self.primary()):
            self.make()


def route(step: Step) -> presenting.Route:
    """As the module mirror_present gets it."""
    return presenting.Route.of(step["transport"], step["initiator"], step["address"], step["portal"], step["secret"])


# ---- on the array ----


def split(step: Step) -> object:
    bench = Bench(step["mirror"])
    on_array.write(bench.primary(), step["byte"])
    return bench.provider().split(step["session"]).session


def write(step: Step) -> object:
    on_array.write(Bench(step["mirror"]).primary(), step["byte"])
    return None


def dry_run(step: Step) -> object:
    return presenting.present(Bench(step["mirror"]).provider(), step["session"], route(step), dry_run=True).changed


def present(step: Step) -> object:
    provider = Bench(step["mirror"]).provider()
    presented = presenting.present(provider, step["session"], route(step))
    sizes = {state.name: state.size_bytes for state in provider.state()}
    luns = {name: {**lun.as_dict(), "size_bytes": sizes[name]} for name, lun in sorted(presented.export.luns.items())}
    return {"changed": presented.changed, "target": presented.export.target, "luns": luns}


def present_half(step: Step) -> object:
    """The second device of the export is gone when its turn comes, and whoever does it dies of that."""
    devices = Bench(step["mirror"]).provider().present(step["session"]).devices
    shown = presenting.devices_of(step["session"], devices)
    shown[1] = Device(shown[1].name, "/dev/null", shown[1].serial)
    how = route(step)
    assert how.initiator is not None
    assert how.portal is not None
    target = names.target_of(step["session"], [device.name for device in shown])
    how.exporter.make(target, shown, how.initiator, how.portal, how.chap(target))
    return None


def exports(_step: Step) -> object:
    found = [export for exporter in all_exporters() for export in exporter.find_exports()]
    return [[export.session, len(export.devices), list(export.initiators)] for export in found]


def withdraw(step: Step) -> object:
    withdrawn = presenting.withdraw(Bench(step["mirror"]).provider(), step["session"])
    return [len(withdrawn.devices), len(withdrawn.targets)]


def resync(step: Step) -> object:
    return presenting.resync(Bench(step["mirror"]).provider(), step["session"], wait=True, timeout_s=60)


def recover(step: Step) -> object:
    provider = Bench(step["mirror"]).provider()
    recovered, targets = presenting.recover(provider)
    return [[one.session for one in recovered], len(targets)]


def check_whole(step: Step) -> object:
    Bench(step["mirror"]).check_whole()
    return exports(step)


def preflight(step: Step) -> object:
    return make_exporter(step["transport"]).preflight(Portal.parse(step["portal"]))


class Contract(ExporterContract):
    """The contract of an exporter, on two loop devices of the array. :param step: says which exporter, and where."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._loops: list[str] = []

    def __enter__(self) -> Contract:
        for number in range(2):
            path = f"/var/tmp/contract{number}"
            with open(path, "wb") as image:
                image.truncate(4 << 20)
            words = ["losetup", "--find", "--show", "--read-only", path]
            self._loops.append(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
        return self

    def __exit__(self, *_dummy: object) -> None:
        self.remove_all()
        for loop in self._loops:
            on_array.run("losetup", "--detach", loop)

    @property
    def exporter(self) -> Exporter:
        return make_exporter(self._step["transport"])

    @property
    def portal(self) -> Portal:
        return Portal.parse(self._step["portal"])

    @property
    def paths(self) -> tuple[str, str]:
        return self._loops[0], self._loops[1]


#: The exporters that keep it; test_presenting.py has a test of each.
CONTRACTS = ["tgt", "lio"]
CONTRACT_TESTS = [name for name in dir(Contract) if name.startswith("test_")]


def contract(step: Step) -> object:
    with Contract(step) as case:
        getattr(case, step["test"])()
    return "kept"


# ---- on the media server ----


def attacher(step: Step) -> tuple[Attacher, list[Wanted]]:
    luns = [
        Wanted(name, lun["serial"], lun["lun"], lun["wwn"], lun["size_bytes"]) for name, lun in step["luns"].items()
    ]
    options = AttachOptions(
        step["transport"], step["session"], portal=step["portal"], secret=step["secret"], luns=step["luns"]
    )
    return make_attacher(options), luns


def look(step: Step) -> object:
    found, luns = attacher(step)
    return found.look(luns)


def attached(step: Step) -> object:
    found, luns = attacher(step)
    result = found.attach(luns)
    return {"devices": result.devices, "changed": result.changed}


def read(step: Step) -> object:
    return on_array.read(step["device"])


def try_to_write(step: Step) -> object:
    """Past all flags of this host's kernel: a SCSI command of its own. What the disk holds is the answer."""
    name = os.path.basename(os.path.realpath(step["device"]))
    (generic,) = os.listdir(f"/sys/class/block/{name}/device/scsi_generic")
    words = ["sg_dd", "if=/dev/zero", f"of=/dev/{generic}", "bs=512", "count=8"]
    done = subprocess.run(words, capture_output=True, check=False)
    return [done.returncode != 0, on_array.read(step["device"])]


def detach(step: Step) -> object:
    targets = attach.attached_targets(step.get("session"), step.get("host"))
    for target in targets:
        attach.detach_target(target)
    return len(targets)


def detach_while_it_is_read(step: Step) -> object:
    with open(step["device"], "rb") as stream:
        reader = subprocess.Popen(["sleep", "60"], stdin=stream)
    try:
        return detach(step)
    finally:
        reader.kill()
        reader.wait()


def sessions(_step: Step) -> object:
    """The sessions with targets of ours, and the records of them."""
    names = attach.attached_targets(host="db1")
    return [[one.state for one in initiator.sessions() if one.target in names], len(names)]


def attach_static(step: Step) -> object:
    static = make_attacher(AttachOptions("static", pairs=[{"name": "t0", "mirror_serial": step["serial"]}]))
    result = static.attach(static.wanted())
    return {"devices": result.devices, "changed": result.changed}


def attach_static_under_multipath(step: Step) -> object:
    """Lay a multipath device over a path, and find the LUN then; what is found, and what is read through it."""
    path = os.path.realpath(step["device"])
    for module in ("dm-multipath", "dm-service-time"):
        on_array.run("modprobe", module)
    with open("/etc/multipath.conf", "w", encoding="ascii") as stream:
        stream.write("defaults {\n find_multipaths no\n user_friendly_names no\n}\n")
    try:
        on_array.run("multipath", "-v0", path)
        found = attach_static(step)
        assert isinstance(found, dict)
        (device,) = found["devices"].values()
        answer = [os.path.basename(device), on_array.read(device)]
        on_array.run("udevadm", "settle")
        on_array.run("multipath", "-F")
        return answer
    finally:
        # Or udev's record of the path says for ever that a multipath device is to come.
        on_array.run("multipath", "-w", path)
        os.unlink("/etc/multipath.conf")
        on_array.run("udevadm", "trigger", "--settle", "--action=change", "--name-match", path)


def left_alone(step: Step) -> object:
    """Whether udev has hidden what is on a device from LVM, mdadm and systemd."""
    words = ["udevadm", "info", "--query=property", f"--name={step['device']}"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    hidden = {"SYSTEMD_READY=0", "UDISKS_IGNORE=1"} <= set(told) and not any(
        one.startswith("ID_FS_TYPE=") and one != "ID_FS_TYPE=" for one in told
    )
    return hidden


def attach_masked(step: Step) -> object:
    masked = make_attacher(AttachOptions("masked", session="s1", luns=step["luns"], state_dir=STATE_DIR))
    result = masked.attach(masked.wanted())
    return {"devices": result.devices, "changed": result.changed}


def detach_masked(_step: Step) -> object:
    """What is let go of, and which disks of iSCSI are there then."""
    named = make_attacher(AttachOptions("masked", session="s1", state_dir=STATE_DIR)).detach()
    return [named, sorted(name for one in initiator.sessions() for name in initiator.disks_of(one).values())]


def discover(step: Step) -> object:
    """The targets of ours that an array shows to whoever asks."""
    words = ["iscsiadm", "-m", "discoverydb", "-t", "st", "-p", step["portal"], "--discover", "-o", "nonpersistent"]
    return names.TARGET_PREFIX in subprocess.run(words, capture_output=True, text=True, check=False).stdout


def find_secret(step: Step) -> object:
    """Where on this host the secret can be read: records of iscsiadm, and modes that are open to others."""
    found = subprocess.run(
        ["grep", "-rlF", step["secret"], "/etc", "/var/lib", "/run", STATE_DIR],
        capture_output=True,
        text=True,
        check=False,
    )
    return [[path, os.stat(path).st_mode & 0o077] for path in found.stdout.splitlines()]


def watch_arguments(step: Step) -> object:
    """Do a step, and say whether any program that it started had the secret in its arguments."""
    seen: list[str] = []
    before = subprocess.Popen.__init__

    def started(self: Any, words: Any, *args: Any, **more: Any) -> None:
        seen.append(repr(words) + repr(more.get("env")))
        before(self, words, *args, **more)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign, assignment]
    try:
        STEPS[step["inner"]](step)
    finally:
        subprocess.Popen.__init__ = before  # type: ignore[method-assign]
    return [len(seen) > 0, any(step["secret"] in words for words in seen)]


def log_in_as(step: Step) -> object:
    """Log in to the target under a name, and with a secret, that need not be this host's own; whether that worked.

    With ``asked_secret`` the target has to prove that it knows that one.
    """
    face, where = ["iscsiadm", "-m", "iface", "-I", "test"], ["-T", step["target"], "-p", step["portal"]]
    on_array.run(*face, "-o", "new")
    on_array.run(*face, "-o", "update", "-n", "iface.initiatorname", "-v", step["initiator"])
    try:
        on_array.run("iscsiadm", "-m", "node", *where, "-I", "test", "-o", "new")
        settings = {"node.session.initial_login_retry_max": "1", "node.startup": "manual"}
        if step.get("known_secret"):
            chap = secret.chap_of(step["target"], step["secret"])
            words = {"authmethod": "CHAP", "username": chap.user, "password": step["known_secret"]}
            if step.get("asked_secret"):
                words.update({"username_in": chap.target_user, "password_in": step["asked_secret"]})
            settings.update({f"node.session.auth.{name}": value for name, value in words.items()})
        for name, value in settings.items():
            on_array.run("iscsiadm", "-m", "node", *where, "-I", "test", "-o", "update", "-n", name, "-v", value)
        login = ["iscsiadm", "-m", "node", *where, "-I", "test"]
        done = subprocess.run([*login, "--login"], capture_output=True, check=False)
        if done.returncode == 0:
            on_array.run(*login, "--logout")
        return done.returncode == 0
    finally:
        subprocess.run(
            ["iscsiadm", "-m", "node", *where, "-I", "test", "-o", "delete"], capture_output=True, check=False
        )
        on_array.run(*face, "-o", "delete")


STEPS: dict[str, Callable[[Step], object]] = {
    step.__name__: step
    for step in (
        split,
        write,
        dry_run,
        present,
        present_half,
        exports,
        withdraw,
        resync,
        recover,
        check_whole,
        preflight,
        contract,
        look,
        attached,
        read,
        try_to_write,
        detach,
        detach_while_it_is_read,
        sessions,
        attach_masked,
        attach_static,
        attach_static_under_multipath,
        detach_masked,
        left_alone,
        log_in_as,
        discover,
        find_secret,
        watch_arguments,
    )
}


if __name__ == "__main__":
    for line in sys.stdin:
        the_step = json.loads(line)
        try:
            answer = STEPS[the_step["do"]](the_step)
        except SplitMirrorError as exc:
            answer = {"refused": exc.message}
        print(json.dumps(answer), flush=True)
