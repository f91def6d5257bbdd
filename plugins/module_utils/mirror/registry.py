# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The list of mirror providers, and how the options of a module become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..errors import cut, shorten
from ..options import Spec, as_expanded, did_you_mean, option_faults
from ..seam import Classes
from ..session import StateDir
from ..transport.registry import EXPORTERS
from .base import MirrorError, MirrorProvider, Pair


def _drbd() -> type[MirrorProvider]:
    from .drbd import DrbdProvider

    return DrbdProvider


def _external() -> type[MirrorProvider]:
    from .external import ExternalProvider

    return ExternalProvider


def _image() -> type[MirrorProvider]:
    from .image import ImageProvider

    return ImageProvider


def _lvm() -> type[MirrorProvider]:
    from .lvm import LvmProvider

    return LvmProvider


def _lvm_thin() -> type[MirrorProvider]:
    from .lvm_thin import LvmThinProvider

    return LvmThinProvider


def _md() -> type[MirrorProvider]:
    from .md import MdProvider

    return MdProvider


def _qemu() -> type[MirrorProvider]:
    from .qemu import QemuProvider

    return QemuProvider


def _rbd() -> type[MirrorProvider]:
    from .rbd import RbdProvider

    return RbdProvider


def _zfs() -> type[MirrorProvider]:
    from .zfs import ZfsProvider

    return ZfsProvider


PROVIDERS: Classes[MirrorProvider] = Classes(
    {
        "drbd": _drbd,
        "external": _external,
        "image": _image,
        "lvm": _lvm,
        "lvm_thin": _lvm_thin,
        "md": _md,
        "qemu": _qemu,
        "rbd": _rbd,
        "zfs": _zfs,
    }
)
#: The options of all providers by their types, so that none is imported to know them; each checks its own. A test
#: compares them with what the providers declare.
_OPTIONS = {
    "bool": ("allow_copy", "allow_plain", "atomic_set"),
    "dict": ("headers", "keep_alive"),
    "float": ("ready_timeout_s", "timeout_s"),
    "int": ("pool_limit_percent", "scratch_percent"),
    "list": ("program", "program_answers"),
    "path": ("ca_file", "ceph_conf", "ceph_python", "client_cert", "client_key", "qmp_socket", "secrets_file"),
    "raw": ("arm", "login", "logout", "look", "present", "split", "undo", "withdraw"),
    "str": ("address", "basic_auth", "ceph_user", "kind", "map_options", "map_type"),
}

#: The options by which a module names a provider.
PROVIDER_SPEC: dict[str, dict[str, Any]] = {
    "provider": {"type": "str", "choices": sorted(PROVIDERS), "required": True},
    "provider_options": {
        "type": "dict",
        # Stated for every option, because Ansible warns otherwise of names that look like secrets.
        "options": {
            name: {"type": kind, **({"elements": "str"} if kind == "list" else {}), "no_log": False}
            for kind, names in _OPTIONS.items()
            for name in names
        },
    },
    "provider_secrets": {"type": "dict", "no_log": True},
}


#: What a pair of the role may say otherwise than its host. Modules are given one mirror set, and pairs without these.
PAIR_OVERRIDES: dict[str, dict[str, Any]] = {
    "array": {"type": "str"},
    "array_options": {"type": "dict"},
    "array_state_dir": {"type": "path"},
    "array_tasks": {"type": "str"},
    "provider": {"type": "str"},
    "provider_options": {"type": "dict"},
    "transport": {"type": "str", "choices": sorted(EXPORTERS)},
}


def make_provider(
    name: str,
    pairs: Iterable[Mapping[str, Any]],
    state_dir: str,
    options: Optional[Mapping[str, Any]] = None,
    secrets: Optional[Mapping[str, Any]] = None,
) -> MirrorProvider:
    """Make the provider ``name`` for a mirror set.

    :param pairs: as the modules' option ``pairs`` gives them.
    :param options: as the modules' option ``provider_options`` gives them.
    :param secrets: as the modules' option ``provider_secrets`` gives them.
    :raises MirrorError: there is no such provider, a pair lacks its primary or its mirror, or an option is not one of
        this provider.
    """
    if name not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise MirrorError(
            f"provider: {name!r} is not known; use one of {known}.", option="provider", code="option_invalid"
        )
    provider = PROVIDERS[name]([_pair(pair) for pair in pairs], StateDir(state_dir), options or {})
    provider.secrets = secrets or {}
    return provider


def provider_of(params: Mapping[str, Any]) -> MirrorProvider:
    """Make the provider that the options of a module name, see make_provider."""
    return make_provider(
        params["provider"],
        params["pairs"],
        params["state_dir"],
        params["provider_options"],
        params["provider_secrets"],
    )


def provider_faults(name: Any, options: Any, pairs: Any, pair_spec: Spec) -> list[str]:
    """All that is wrong with the description of mirror sets itself, one sentence each. Looks at no device.

    :param name: as make_provider takes it, as the user gave it; ``options`` and ``pairs`` likewise.
    :param pair_spec: the keys of a pair, as the modules' option ``pairs`` has them. A pair may have those of
        PAIR_OVERRIDES, too.
    """
    faults = _faults_of_provider("", name, options)
    if not isinstance(pairs, (list, tuple)):
        return [*faults, "pairs: this must be a list of dictionaries."]
    for number, pair in enumerate(pairs, 1):
        given = pair if isinstance(pair, Mapping) else {}
        called = given.get("name")
        where = f"pairs: {cut(called) if called and isinstance(called, str) else f'entry {number}'}"
        faults += option_faults(where, "a pair", {**pair_spec, **PAIR_OVERRIDES}, pair)
        own = given.get("provider") or name
        if own != name or given.get("provider_options") is not None:
            faults += _faults_of_provider(f"{where}: ", own, given.get("provider_options"))
        below = given.get("options")
        kind = _kind(own)
        if kind is not None and isinstance(below, Mapping):
            faults += option_faults(f"{where}: options", f"provider {own}", kind.pair_argument_spec, below)
    return faults


def _kind(name: Any) -> Optional[type[MirrorProvider]]:
    return PROVIDERS.get(name) if isinstance(name, str) else None


def _faults_of_provider(where: str, name: Any, options: Any) -> list[str]:
    """:param where: whose provider it is, for messages; empty for that of the host."""
    kind = _kind(name)
    if kind is None:
        hint, known = did_you_mean(name, PROVIDERS), ", ".join(sorted(PROVIDERS))
        return [f"{where}provider: {shorten(name)} is not known{hint}; use one of {known}."]
    found = option_faults(f"{where}provider_options", f"provider {name}", kind.argument_spec, options or {})
    return found or [f"{where}{fault}" for fault in kind.faults(as_expanded(kind.argument_spec, options or {}))]


def _pair(data: Mapping[str, Any]) -> Pair:
    if not data.get("primary"):
        raise MirrorError(
            f"pairs: pair {data['name']} has no primary; name the LUN on the array.",
            option="pairs",
            code="option_invalid",
        )
    if not data.get("mirror"):
        raise MirrorError(
            f"pairs: pair {data['name']} has no mirror; name it in 'mirror', or leave the pair out.",
            option="pairs",
            code="option_invalid",
        )
    for key in ("name", "primary", "mirror"):
        # No program can be given a NUL, and half a surrogate pair is not a text.
        if not data[key].isprintable():
            raise MirrorError(
                f"pairs: pair {data['name']!r}: its {key} is {data[key]!r}; write it without control characters.",
                option="pairs",
                code="option_invalid",
            )
    return Pair(data["name"], data["primary"], data["mirror"], data.get("options") or {})
