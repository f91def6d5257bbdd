# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""State folders are for root alone, from the first level on, whoever makes them first and whatever they were before."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader, init_plugin_loader

from ansible_collections.splitmirror.backup.plugins.module_utils.session import SessionError, StateDir
from ansible_collections.splitmirror.backup.plugins.plugin_utils.channel import Channel
from ansible_collections.splitmirror.backup.plugins.plugin_utils.relay import relay_file
from ansible_collections.splitmirror.backup.tests.support.mirrors import run_module

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SESSION = "20260131T020000Z-db1-9f3c"
MODULES = "ansible_collections.splitmirror.backup.plugins.modules"
#: How each module that has a state folder comes as far as making it, without root.
WAYS: dict[str, dict[str, Any]] = {
    "backup_discovery": {},
    "backup_prepare": {},
    "catalog_info": {},
    "catalog_rebuild": {},
    "catalog_retention": {"keep_last": 1},
    "catalog_volume": {"volume": "V1", "state": "in_use"},
    "catalog_session": {"state": "failed", "reason": "r", "host": "db1"},
    "extent_map": {},
    "library_label": {"pattern": "*", "pool": "p"},
    "library_mail": {"state": "noted", "place": "a safe", "volumes": ["V1"]},
    "mirror_attach": {"state": "checked", "transport": "static"},
    "hot_backup": {"state": "recovered"},
    "mirror_info": {},
    "mirror_present": {"state": "withdrawn"},
    "mirror_split": {"state": "armed"},
    "mirror_sync": {"state": "recovered"},
    "preflight_info": {"ask": "media_server", "host": "db1"},
    "session_lease": {"state": "held", "host": "db1"},
    "session_copy": {},
    "tape_label": {"pool": "p", "capacity": "8M"},
    "tape_read": {},
    "tape_verify": {},
    "tape_write": {"devices": {}},
    "volume_info": {},
    "write_freeze": {"state": "frozen"},
}


@pytest.fixture(autouse=True)
def open_to_all() -> Iterator[None]:
    """Make what nobody thinks of open to all."""
    before = os.umask(0)
    yield
    os.umask(before)


def arguments(module: str, base: Path) -> dict[str, Any]:
    """What a module is told: of all options that it has, those that lead into the folder."""
    image = base.parent.parent / "primary.img"
    image.write_bytes(bytes(1 << 20))
    told: dict[str, Any] = {
        "state_dir": str(base / "state"),
        "session": SESSION,
        "provider": "image",
        "pairs": [{"name": "data", "device": str(image), "primary": str(image), "mirror": f"{image}.mirror"}],
        "paths": [str(base.parent.parent)],
        "databases": [],
        "mounts": ["/"],
        "drive_type": "virtual",
        "drive": str(base / "state/library"),
        "volume": "V1",
        "target": str(base.parent.parent / "target"),
        **WAYS[module],
    }
    spec = spec_of(module)
    return {name: value for name, value in told.items() if name in spec}


def spec_of(module: str) -> dict[str, Any]:
    """The argument spec that a module gives to Ansible."""
    found: dict[str, Any] = {}

    def keep(_self: AnsibleModule, argument_spec: dict[str, Any], **_options: Any) -> None:
        found.update(argument_spec)
        raise SystemExit

    main = importlib.import_module(f"{MODULES}.{module}").main
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AnsibleModule, "__init__", keep)
        with pytest.raises(SystemExit):
            main()
    return found


def modes(base: Path) -> dict[str, int]:
    return {folder: stat.S_IMODE(os.stat(folder).st_mode) for folder, _folders, _files in os.walk(base)}


def test_all_modules_with_a_state_folder_are_tried() -> None:
    names = {path.stem for path in (PLUGINS / "modules").glob("*.py")}
    known = {name for name in names if "state_dir" in (PLUGINS / f"modules/{name}.py").read_text()}
    fragments = {name for name in names if "splitmirror.backup.session" in (PLUGINS / f"modules/{name}.py").read_text()}
    assert set(WAYS) >= (known | fragments) - {
        "session_transfer",
        "backup_window",
    }  # what these do is in action plugins


@pytest.mark.parametrize("module", sorted(WAYS))
@pytest.mark.parametrize("old", [False, True], ids=["fresh", "old"])
def test_whatever_a_module_makes_is_private(tmp_path: Path, module: str, old: bool) -> None:
    base = tmp_path / "var" / "lib"
    if old:
        for folder in ("", "state", "state/sessions", f"state/sessions/{SESSION}", "state/mirrors", "state/drives"):
            (base / folder).mkdir(parents=True, exist_ok=True)
            (base / folder).chmod(0o755)
    main = importlib.import_module(f"{MODULES}.{module}").main
    run_module(main, arguments(module, base))
    if not old:
        assert set(modes(tmp_path / "var").values()) <= {0o700}
        return
    found = modes(base)
    assert found.pop(str(base)) == 0o755, "what lies above belongs to others"
    if any(mode == 0o700 for mode in found.values()):
        assert found[str(base / "state")] == 0o700


def contents(base: Path) -> dict[str, tuple[int, int, int]]:
    """Every name below a folder, with its mode, its size and its time of change."""
    found = {}
    for folder, folders, files in os.walk(base):
        for name in (".", *folders, *files):
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("module", sorted(WAYS))
@pytest.mark.parametrize("old", [False, True], ids=["fresh", "old"])
def test_check_mode_makes_and_mends_nothing(tmp_path: Path, module: str, old: bool) -> None:
    base = tmp_path / "var" / "lib"
    if old:
        for folder in ("", "state", "state/sessions", f"state/sessions/{SESSION}", "state/mirrors", "state/drives"):
            (base / folder).mkdir(parents=True, exist_ok=True)
            (base / folder).chmod(0o755)
    main = importlib.import_module(f"{MODULES}.{module}").main
    told = arguments(module, base)
    before = contents(tmp_path)
    run_module(main, told, check=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("module", sorted(WAYS))
def test_a_state_folder_that_cannot_be_one_is_refused_before_anything_is_done(tmp_path: Path, module: str) -> None:
    main = importlib.import_module(f"{MODULES}.{module}").main
    told = arguments(module, tmp_path / "var" / "lib")
    (tmp_path / "file").write_text("x")
    (tmp_path / "lost").symlink_to("nowhere")
    before = contents(tmp_path)
    for state_dir, code in (
        ("state", "option_invalid"),
        ("./state", "option_invalid"),
        (f"{tmp_path}/file", "state_dir_unusable"),
        (f"{tmp_path}/file/state", "state_dir_unusable"),
        (f"{tmp_path}/lost", "state_dir_unusable"),
    ):
        for check in (False, True):
            result = run_module(main, {**told, "state_dir": state_dir}, check=check)
            assert (result.get("option"), result.get("code")) == ("state_dir", code), result
            assert result["msg"].startswith("state_dir: ")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("check", [False, True])
def test_a_library_is_made_in_no_other_place_than_a_folder_that_is_there(tmp_path: Path, check: bool) -> None:
    main = importlib.import_module(f"{MODULES}.tape_label").main
    told = arguments("tape_label", tmp_path / "var" / "lib")
    (tmp_path / "file").write_text("x")
    for drive in ("not/there", "file/library", "var/lib/state/../other/library"):
        refused = run_module(main, {**told, "drive": f"{tmp_path}/{drive}"}, check=check)
        assert (refused["option"], refused["code"]) == ("drive", "option_invalid"), refused
    assert not (tmp_path / "not").exists()
    assert not (tmp_path / "var").exists()
    for number, drive in enumerate(("library", "var/lib/state/deep/library")):
        assert run_module(main, {**told, "volume": f"V{number}", "drive": f"{tmp_path}/{drive}"}, check=check)[
            "changed"
        ]
        assert (tmp_path / drive / f"V{number}").exists() is not check
    assert set(modes(tmp_path / "var").values()) <= {0o700}


def test_what_an_old_version_left_open_is_mended(tmp_path: Path) -> None:
    state = StateDir(str(tmp_path / "state"))
    path = Path(state.make_session_dir(SESSION))
    for folder in (path, path.parent, path.parent.parent):
        folder.chmod(0o755)
    state.make_session_dir(SESSION)
    assert set(modes(Path(state.root)).values()) == {0o700}


def test_a_folder_that_is_not_ours_alone_is_never_closed_to_others(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(0o755)
    (shared / "of-others").mkdir()
    with pytest.raises(SessionError, match="open to other users and holds other things"):
        StateDir(str(shared)).make_session_dir(SESSION)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    shared.chmod(0o700)
    StateDir(str(shared)).make_session_dir(SESSION)


def test_a_transfer_makes_private_folders_too(tmp_path: Path) -> None:
    init_plugin_loader()
    connection = connection_loader.get("local", PlayContext(), new_stdin=None)
    connection.set_options()
    here = Channel("here", connection)
    (tmp_path / "map").write_bytes(b"map")
    relay_file(here, str(tmp_path / "map"), here, str(tmp_path / "var/lib/state/sessions/s1/map"))
    assert set(modes(tmp_path / "var").values()) == {0o700}
