# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Group the pairs of a database host into mirror sets: what one array splits as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible.parsing.dataloader import DataLoader
from ansible.utils.vars import load_extra_vars

from ansible_collections.splitmirror.backup.plugins.filter.array_files import array_files
from ansible_collections.splitmirror.backup.plugins.module_utils.mirror.registry import PAIR_OVERRIDES
from ansible_collections.splitmirror.backup.plugins.module_utils.session import DEFAULT_STATE_DIR
from ansible_collections.splitmirror.backup.plugins.module_utils.transport.registry import ATTACHERS, EXPORTING

Set = dict[str, Any]


def mirror_sets(
    pairs: Any,
    host: Mapping[str, Any],
    hostvars: Mapping[str, Any],
    *,
    ours: str,
    steps: Sequence[str],
    folders: Sequence[Optional[str]] = (),
) -> list[Set]:
    """The mirror sets of a database host, in the order of their first pairs.

    What a pair does not say itself is that of its host. ``array_tasks`` of the host is for its own provider only,
    ``provider_options`` for the same provider, task files and ``array_options``. ``array_state_dir`` and
    ``array_options`` are for the host's own array; another array has its own ``splitmirror_state_dir`` and
    ``splitmirror_array_options``.

    :param pairs: the variable ``splitmirror_pairs``. What is not a pair is left out; others report that.
    :param host: the variables of the host by the keys of PAIR_OVERRIDES.
    :param hostvars: the variables of all hosts.
    :param ours: see the filter array_files; ``steps`` and ``folders`` likewise.
    :returns: for each set the keys of PAIR_OVERRIDES, ``provider_options`` None for what a recipe has or nothing;
        ``pairs`` without them; ``files``, ``ours`` and ``faults`` of
        array_files; ``exports`` and ``attaches``, what its transport does on the array and on the media server;
        ``runs_in``, the task file around each of its steps; and ``title``, a name for messages that no other set has.
    """
    sets: list[Set] = []
    for pair in pairs if isinstance(pairs, list) else []:
        if not isinstance(pair, Mapping):
            continue
        whole = _of(pair, host, hostvars)
        known = next((one for one in sets if all(one[key] == whole[key] for key in PAIR_OVERRIDES)), None)
        if known is None:
            known = {**whole, "pairs": []}
            sets.append(known)
        known["pairs"].append({key: value for key, value in pair.items() if key not in PAIR_OVERRIDES})
    arrays = [one["array"] for one in sets]
    for one in sets:
        one.update(
            **array_files(str(one["array_tasks"]), ours, str(one["provider"]), steps, folders),
            exports=one["transport"] in EXPORTING,
            attaches=one["transport"] in ATTACHERS,
            runs_in="in_set.yml" if one["array"] == host["array"] else "in_set_of_other_array.yml",
            title=one["array"] if arrays.count(one["array"]) == 1 else f"{one['array']} ({_names(one)})",
        )
    return sets


def _of(pair: Mapping[str, Any], host: Mapping[str, Any], hostvars: Mapping[str, Any]) -> Set:
    """What holds for a pair."""
    given = {
        key: pair[key] if rules["type"] == "dict" else str(pair[key])
        for key, rules in PAIR_OVERRIDES.items()
        if pair.get(key) is not None
    }
    whole = {**host, **given}
    if whole["array"] != host["array"]:
        theirs = hostvars[whole["array"]] if whole["array"] in hostvars else {}  # noqa: SIM401 - get would give undefined
        for key, variable, default in (
            ("array_state_dir", "splitmirror_state_dir", DEFAULT_STATE_DIR),
            ("array_options", "splitmirror_array_options", {}),
        ):
            whole[key] = given.get(key, theirs.get(variable, default))
    if whole["provider"] != host["provider"]:
        whole["array_tasks"] = given.get("array_tasks", "")
    if any(whole[key] != host[key] for key in ("provider", "array_tasks", "array_options")):
        whole["provider_options"] = given.get("provider_options")
    return whole


def _names(one: Set) -> str:
    return ", ".join(str(pair.get("name")) for pair in one["pairs"])


def mirror_set_faults(
    sets: Sequence[Set],
    host: Mapping[str, Any],
    hosts: Sequence[str],
    recipes: Optional[Mapping[str, Mapping[str, Sequence[str]]]] = None,
) -> list[str]:
    """All that is wrong with the mirror sets of a database host, one sentence each.

    :param sets: as mirror_sets gives them. :param host: likewise. :param hosts: all hosts of the inventory.
    :param recipes: what each recipe ``needs`` and ``takes`` of ``array_options``.
    """
    if not sets:
        return ["splitmirror_pairs: there is no pair; describe the LUNs of the host, and their mirrors."]
    faults = list(dict.fromkeys(fault for one in sets for fault in [*one["faults"], *_of_recipe(one, recipes or {})]))
    names = [pair.get("name") for one in sets for pair in one["pairs"]]
    faults += [
        f"splitmirror_pairs: there are two pairs named {name}; each needs its own name."
        for name in dict.fromkeys(names)
        if names.count(name) > 1 and name is not None
    ]
    for number, one in enumerate(sets):
        if one["array"] not in hosts and one["array"] != host["array"]:
            faults.append(
                f"splitmirror_pairs: {_names(one)}: array is {one['array']}, which is not a host of the inventory; "
                "name one."
            )
        faults += [
            f"splitmirror_pairs: {_names(other)} and {_names(one)} are two mirror sets on {one['array']}, and both "
            f"keep their records in {one['array_state_dir']}; give one of them an array_state_dir of its own."
            for other in sets[:number]
            if (other["array"], other["array_state_dir"]) == (one["array"], one["array_state_dir"])
        ]
    faults += [
        f"splitmirror_{key}: on the command line this would replace what pairs say otherwise; write it into the "
        "inventory."
        for key in sorted(_hidden(sets, host) & {name.partition("_")[2] for name in load_extra_vars(DataLoader())})
    ]
    return faults


def _of_recipe(one: Set, recipes: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """What is wrong with what a recipe is given."""
    name, given = one["array_tasks"], one["array_options"]
    if name not in recipes or not isinstance(given, Mapping):
        return []
    needs, known = recipes[name]["needs"], [*recipes[name]["needs"], *recipes[name]["takes"]]
    faults = [
        f"splitmirror_array_options: recipe {name} needs {key}; docs/recipes/{name}.md says what it means."
        for key in needs
        if key not in given
    ]
    faults += [
        f"splitmirror_array_options: recipe {name} does not have {key}; it has {', '.join(known)}."
        for key in given
        if key not in known
    ]
    if one["provider"] != "external":
        faults.append(f"splitmirror_provider is {one['provider']}; recipe {name} needs external.")
    return faults


def _hidden(sets: Sequence[Set], host: Mapping[str, Any]) -> set[str]:
    """The variables by which the files of an array get what differs from that of the host: an extra variable wins."""
    differ = {key for key in PAIR_OVERRIDES for one in sets if one[key] != host[key]}
    return differ | ({"pairs"} if differ else set())


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Their names and functions."""
        return {"mirror_sets": mirror_sets, "mirror_set_faults": mirror_set_faults}
