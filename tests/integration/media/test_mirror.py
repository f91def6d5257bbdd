# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A session from a real mirror: proved, written, restored, and compared with a read-only mount of the same mirror."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.splitmirror.backup.plugins.module_utils.catalog.closing import verdict_of
from ansible_collections.splitmirror.backup.plugins.module_utils.errors import SplitMirrorError
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import MapFile
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapper import map_scopes
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.maprows import SOURCE_MOUNT, SegmentRow
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.scope import Scope
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.stack import LunSpec
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import ReadOnlyMounts, check_devices
from ansible_collections.splitmirror.backup.plugins.module_utils.media.write import write_session
from ansible_collections.splitmirror.backup.tests.support.blockdev import loop_device, make_image, mounted, run
from ansible_collections.splitmirror.backup.tests.support.faultytape import Faults
from ansible_collections.splitmirror.backup.tests.support.fsload import (
    file_system,
    frozen,
    make_all_sorts,
    mirror,
    split,
)
from ansible_collections.splitmirror.backup.tests.support.restoring import tree
from ansible_collections.splitmirror.backup.tests.support.tape import Held, InTurn, Library, window_evidence

pytestmark = pytest.mark.root

SESSION = "s1"


class Case:
    """A mapped and split file system, and a library to write it to."""

    def __init__(self, folder: Path, kind: str, library: Library) -> None:
        self.folder = folder
        self.kind = kind
        self.library = library
        self.map_path = folder / "map.sqlite"
        self.data = folder / f"mnt-{kind}" / "data"

    def job(self, device: str, **options: Any) -> Any:
        told = {
            "map_path": str(self.map_path),
            "devices": {"data": device},
            "mounts_dir": str(self.folder / "mounts"),
            "proof": "full",
            **options,
        }
        return self.library.job(SESSION, [], **told)

    def write(self, device: str, *, faults: Faults | None = None, **options: Any) -> dict[str, Any]:
        with self.library.drive(faults=faults) as drive:
            return write_session(self.job(device, **options), self.library.on(drive))

    def span(self, device: str, faults: Faults) -> dict[str, Any]:
        """Write over several small volumes."""
        names = [f"S{number}" for number in range(8)]
        for name in names:
            self.library.make(name, 3 << 20)
            self.library.label(name, record_bytes=16 << 10)
        with self.library.drive(faults=faults) as drive:
            done = write_session(self.job(device), lambda catalog: InTurn(catalog, Held(drive), names))
        assert len(done["volumes"]) > 1
        return done

    def close(self, done: dict[str, Any]) -> None:
        evidence = {**window_evidence(), "session": SESSION, "write": done["evidence"]}
        verdict = verdict_of(self.library.catalog, SESSION, evidence)
        assert verdict.good, verdict.reason
        self.library.catalog.close_session(SESSION, verdict, evidence)

    def clean(self) -> None:
        """Nothing of ours is mounted, and the folder for it is gone."""
        assert str(self.folder / "mounts") not in Path("/proc/self/mounts").read_text()
        assert not (self.folder / "mounts" / SESSION).exists()


@pytest.fixture(params=["xfs", "ext4", "ext4-inline"])
def case(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Case]:
    kind: str = request.param
    library = Library(scratch)
    library.make(capacity_bytes=256 << 20)
    library.label(record_bytes=64 << 10)
    made = Case(scratch, kind, library)
    with file_system(scratch, kind) as (mount, device):
        make_all_sorts(made.data)
        with MapFile.create(str(made.map_path), SESSION, "db1") as map_file:
            map_scopes(map_file, [Scope(str(mount / "data"))], [LunSpec("data", device)])
            map_file.set_state("checked")
        with frozen(mount):
            split(scratch, kind)
        yield made
    library.catalog.close()


def same_as_mirror(case: Case, mount: Path, target: Path) -> None:
    expected = tree(mount / "data")
    found = tree(target / str(case.data)[1:])
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert found[name] == row, name


def test_a_restore_is_the_mirror(case: Case, tmp_path: Path) -> None:
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        done = case.write(device)
    case.clean()
    assert done["proof"]["complete"]
    assert done["proof"]["examined"] > 20
    assert done["proof"]["remapped"] == 0
    case.close(done)
    case.library.restore(SESSION, tmp_path / "t", numeric_owner=True)
    with mirror(case.folder, case.kind) as (mount, _device):
        same_as_mirror(case, mount, tmp_path / "t")


@pytest.mark.parametrize("full_at", [None, 7])
def test_what_the_map_got_wrong_is_corrected_and_counted(case: Case, tmp_path: Path, full_at: int | None) -> None:
    """The map is older than the mirror and says that it was checked: the proof must not believe it.

    :param full_at: at this record the first of several volumes is full, so that a part is proved and written again.
    """
    (case.data / "size-70000").write_bytes(b"rewritten" * 9000)
    (case.data / "size-1").unlink()
    (case.data / "appeared").write_bytes(b"new" * 5000)
    os.chmod(case.data / "owned", 0o600)
    with frozen(case.data.parent):
        split(case.folder, case.kind)
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        done = case.write(device) if full_at is None else case.span(device, Faults(full_at=full_at))
    proof = done["proof"]
    with MapFile.open(str(case.map_path), read_only=True) as map_file:
        changed = map_file.changes("proof")
    assert (
        len(changed) == len(set(changed)) == sum(proof[key] for key in ("added", "removed", "remapped", "attributes"))
    )
    assert (proof["added"], proof["removed"]) == (1, 1)
    assert proof["remapped"] >= 1
    assert proof["attributes"] >= 1
    case.close(done)
    case.library.restore(SESSION, tmp_path / "t", numeric_owner=True)
    with mirror(case.folder, case.kind) as (mount, _device):
        same_as_mirror(case, mount, tmp_path / "t")


@pytest.mark.parametrize("proof", ["none", "full"])
def test_what_cannot_be_read_by_extents_comes_through_the_mount(case: Case, tmp_path: Path, proof: str) -> None:
    if proof == "none":
        with MapFile.open(str(case.map_path)) as map_file:
            for entry, _extents in list(map_file.entries()):
                if entry.kind == "f" and entry.size > 4000:
                    map_file.put_file(entry._replace(source=SOURCE_MOUNT, reason="test", content=None), [])
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        done = case.write(device, proof=proof)
    case.clean()
    assert (done["fallback"] > 5) == (proof == "none")
    case.close(done)
    case.library.restore(SESSION, tmp_path / "t", numeric_owner=True)
    with mirror(case.folder, case.kind) as (mount, _device):
        same_as_mirror(case, mount, tmp_path / "t")


def test_wrong_luns_are_refused_before_anything_is_written(case: Case) -> None:
    before = case.library.content()
    size = (case.folder / "mirror.img").stat().st_size

    def refused(image: Path) -> str:
        with loop_device(image, read_only=True) as device, pytest.raises(SplitMirrorError) as caught:
            case.write(device)
        assert caught.value.option == "devices"
        return caught.value.message

    assert "wrong LUN" in refused(make_image(case.folder / "other.img", size >> 20, case.kind.partition("-")[0]))
    assert "no file system" in refused(make_image(case.folder / "empty.img", size >> 20))
    assert "bytes" in refused(make_image(case.folder / "small.img", (size >> 20) - 1))
    with pytest.raises(SplitMirrorError, match="pair data"):
        case.write("/dev/null", devices={"another": "/dev/null"})
    with pytest.raises(SplitMirrorError, match="cannot be opened"):
        case.write("/dev/missing")
    assert case.library.content() == before
    assert case.library.catalog.sessions() == []
    case.clean()


def test_a_failure_leaves_no_mount_and_no_session_on_the_volume(case: Case) -> None:
    before = case.library.content()
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        with pytest.raises(SplitMirrorError, match="cannot be written"):
            case.write(device, faults=Faults(write_error_at=3))
        case.clean()
        assert case.library.content() == before
        case.write(device)
    case.clean()


def test_the_mirror_is_not_written(case: Case) -> None:
    before = (case.folder / "mirror.img").read_bytes()
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        case.write(device)
    assert (case.folder / "mirror.img").read_bytes() == before


def test_a_file_system_inside_the_lun_is_mounted_at_its_place(scratch: Path) -> None:
    """As with a partition: the LUN begins before the file system."""
    offset = 3 << 20
    inner = make_image(scratch / "inner.img", 64, "ext4")
    with loop_device(inner) as device, mounted(device, scratch / "mnt") as mount:
        (mount / "file").write_text("inside")
    whole = make_image(scratch / "whole.img", 70)
    run("dd", f"if={inner}", f"of={whole}", "bs=1M", "seek=3", "conv=notrunc,sparse")
    uuid = run("blkid", "-p", "-s", "UUID", "-o", "value", inner).stdout.strip()
    with MapFile.create(str(scratch / "map"), SESSION, "db1") as map_file:
        lun = map_file.add_lun("data", 70 << 20)
        map_file.add_filesystem(
            mount_point=b"/srv",
            fs_type="ext4",
            fs_uuid=uuid,
            block_bytes=4096,
            dev=1,
            segments=[SegmentRow(0, lun, offset, 64 << 20)],
        )
        map_file.commit()
        with loop_device(whole, read_only=True) as device:
            with ReadOnlyMounts(str(scratch / "mounts"), map_file, check_devices(map_file, {"data": device})) as mounts:
                folder = next(iter(mounts.folders.values()))
                assert (Path(folder) / "file").read_text() == "inside"
            assert not (scratch / "mounts").exists()


_MOUNTER = """
import sys
from ansible_collections.splitmirror.backup.plugins.module_utils.extents.mapfile import (MapFile)
from ansible_collections.splitmirror.backup.plugins.module_utils.media.mirror_view import (
    ReadOnlyMounts, check_devices, leave_mount_namespace)
leave_mount_namespace()
with MapFile.open(sys.argv[1], read_only=True) as map_file:
    with ReadOnlyMounts(sys.argv[2], map_file, check_devices(map_file, {"data": sys.argv[3]})):
        print(open("/proc/self/mounts").read().count(sys.argv[2]), flush=True)
        sys.stdin.read()
"""


def test_the_mounts_of_a_killed_writer_go_with_it(case: Case) -> None:
    with loop_device(case.folder / "mirror.img", read_only=True) as device:
        mounts = str(case.folder / "mounts")
        with subprocess.Popen(
            [sys.executable, "-c", _MOUNTER, str(case.map_path), mounts, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) == 1
            assert mounts not in Path("/proc/self/mounts").read_text()
            with pytest.raises(OSError, match="busy"):
                os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
            child.send_signal(signal.SIGKILL)
            pidfd = os.pidfd_open(child.pid)
            assert select.select([pidfd], [], [], 10)[0]
            os.close(pidfd)
        until_free(lambda: os.close(os.open(device, os.O_RDONLY | os.O_EXCL)))


def until_free(call: Callable[[], None]) -> None:
    """The kernel drops the mounts of a dead process a moment after its end."""
    for _dummy in range(500):
        with contextlib.suppress(OSError):
            call()
            return
        select.select([], [], [], 0.01)
    call()


HOSTILE = ["link over the host's root", "link up", "link to a file", "root of the file system", "dots in the root"]


@pytest.mark.parametrize("proof", ["none", "changed", "full"])
@pytest.mark.parametrize("how", HOSTILE)
def test_no_map_brings_a_file_of_the_media_server_into_the_archive(
    case: Case, tmp_path: Path, how: str, proof: str
) -> None:
    """The database host's root makes the map and the mirror; the secret lies outside of what is mounted."""
    if case.kind == "ext4-inline":
        pytest.skip("it differs from ext4 in where small contents lie")
    secret = tmp_path / "secret"
    secret.write_bytes(b"only the media server's root may read this")
    up = "../" * 20
    links = {"absolute": "/", "up": up, "file": str(secret)}
    for name, target in links.items():
        os.symlink(target, case.data / name)
    with frozen(case.data.parent):
        split(case.folder, case.kind)
    below = str(secret).lstrip("/")
    path, root = {
        "link over the host's root": (case.data / "absolute" / below, None),
        "link up": (case.data / "up" / below, None),
        "link to a file": (case.data / "file", None),
        "root of the file system": (case.data.parent / below, "/data/absolute"),
        "dots in the root": (case.data.parent / below, f"/{up}"),
    }[how]
    with MapFile.open(str(case.map_path)) as map_file:
        model = next(entry for entry, _extents in map_file.entries() if entry.kind == "f" and entry.size)
        size = secret.stat().st_size
        told = model._replace(path=os.fsencode(path), size=size, source=SOURCE_MOUNT, content=None, nlink=1)
        map_file.put_file(told, [])
        map_file.add_changes("window", [(told.path, "added")])
        if root is not None:
            map_file._write("UPDATE filesystems SET root = ?", (root.encode(),))
    with (
        loop_device(case.folder / "mirror.img", read_only=True) as device,
        contextlib.suppress(SplitMirrorError),
    ):
        case.write(device, proof=proof)
    case.clean()
    for archive in (case.folder / "library" / "V1").glob("*.tar"):
        assert secret.read_bytes() not in archive.read_bytes()
