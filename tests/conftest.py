# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tests share: who may run, where images lie, and that nothing stays behind."""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ansible_collections.splitmirror.backup.tests.support.blockdev import run

# Before any test: some let Ansible find collections by itself from then on (init_plugin_loader), and then a namespace
# package that Python has found already gives no further module. The product imports some of its code when it is used.
_PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
for _path in sorted([*_PLUGINS.glob("module_utils/**/*.py"), *_PLUGINS.glob("modules/*.py")]):
    if _path.stem != "__init__":
        _name = ".".join(_path.relative_to(_PLUGINS).with_suffix("").parts)
        importlib.import_module(f"ansible_collections.splitmirror.backup.plugins.{_name}")

# New examples in every run; a failure prints what reproduces it. How fast they come says how busy the machine is.
hypothesis.settings.register_profile(
    "splitmirror",
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("splitmirror")

INTEGRATION = "tests/integration/"
#: Where the integration tests lie that have no need of this machine's loop devices and mounts.
BESIDE_OTHERS = (f"{INTEGRATION}lab/", f"{INTEGRATION}database/", f"{INTEGRATION}become/")
#: The scopes of integration tests, see pytest_xdist_make_scheduler.
LONGEST_FIRST = (
    f"{INTEGRATION}order/",
    f"{INTEGRATION}lab/",
    f"{INTEGRATION}database/",
    f"{INTEGRATION}become/",
    INTEGRATION,
)

# sched.h and sys/mount.h
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000

#: File systems in memory: no extents, and no direct I/O that means anything.
IN_MEMORY = {"tmpfs", "ramfs"}


def pytest_configure(config: pytest.Config) -> None:
    """End like Ctrl-C when asked to end, as by a limit on CI's time: tests take away what they made.

    Each process of pytest-xdist gets mounts of its own: a mount namespace that a test of one makes (``unshare``) would
    keep what another one has mounted, and its loop devices busy.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(config, "workerinput") and os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for code in (libc.unshare(_CLONE_NEWNS), libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)):
            if code:
                raise OSError(ctypes.get_errno(), "this process can have no mounts of its own")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say which tests stay together where several processes share them (pytest-xdist).

    Those of the lab have machines of their own, those of databases and of become need folders only. The tests of the
    order share one demo. What takes longest comes first, and the many short unit tests fill up what is left.
    """
    from xdist.scheduler import LoadScopeScheduling  # it need not be there

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = nodeid.partition("::")[0]
            return next((folder for folder in LONGEST_FIRST if folder in file), file)

    config.option.loadscopereorder = False  # by the number of tests
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let tests of this machine have it alone; skip what needs root where there is none, and say why in the summary."""
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)
    for item in items:
        beside_others = any(folder in item.nodeid for folder in BESIDE_OTHERS)
        if INTEGRATION in item.nodeid and not beside_others and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "this_machine")
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root, loop devices and mounts: call ./run test"))


def _turn(item: pytest.Item) -> int:
    return next((turn for turn, folder in enumerate(LONGEST_FIRST) if folder in item.nodeid), len(LONGEST_FIRST))


@pytest.fixture(scope="session")
def this_machine() -> Iterator[None]:
    """Wait until Molecule's scenario ``default`` is over: its mount namespaces would keep our loop devices busy.

    It takes the same lock, for itself alone (noxfile.py).
    """
    lock = os.open("/var/tmp", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    yield
    os.close(lock)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty folder on a disk, where images for loop devices with direct I/O may lie."""
    if run("stat", "--file-system", "--format=%T", tmp_path).stdout.strip() not in IN_MEMORY:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="splitmirror-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run when a test leaves a mount or a loop device of its own behind."""
    yield
    base = os.fspath(tmp_path_factory.getbasetemp())
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    images = [name.read_text(encoding="utf-8").strip() for name in Path("/sys/block").glob("loop*/loop/backing_file")]
    left = [name for name in mounts + images if name.startswith(f"{base}/")]
    assert not left, f"tests left these mounted or attached: {left}"
