# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Print the argument specs of modules as JSON, without the libraries that the modules need.

Runs as a program of its own, with the folder of the collections on PYTHONPATH::

    python vendor_specs.py netapp.ontap.na_ontap_volume ...

A module hands its specification to AnsibleModule before it does anything else. Here AnsibleModule keeps it and ends the
module.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from typing import Any

from ansible.module_utils.basic import AnsibleModule

#: What a specification holds beside the options.
RULES = ("mutually_exclusive", "required_together", "required_one_of", "required_if", "required_by")


class Taken(BaseException):
    """The specification is known. Not an Exception: modules catch those."""


def _have_paramiko() -> None:
    """ansible-core 2.21 does not have this file any more, and a maker's collection still imports it."""
    name = "ansible.module_utils.compat.paramiko"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name])["paramiko"] = None


def specification(fqcn: str) -> dict[str, Any]:
    """The options of a module and the rules about them, as AnsibleModule takes them."""
    namespace, name, module = fqcn.split(".", 2)
    _have_paramiko()
    loaded = importlib.import_module(f"ansible_collections.{namespace}.{name}.plugins.modules.{module}")
    given: dict[str, Any] = {}
    try:
        loaded.main()
    except Taken as taken:
        given = taken.args[0]
    if not given:
        raise RuntimeError(f"{fqcn}: main() made no AnsibleModule.")
    return {
        "options": plain(given["argument_spec"]),
        **{rule: given[rule] for rule in RULES if given.get(rule)},
    }


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options without what is no data: functions that check or look up a value. Such an option takes any value."""
    known = {}
    for name, option in options.items():
        kept = {key: value for key, value in option.items() if key not in ("fallback", "removed_in_version")}
        if callable(kept.get("type")):
            kept["type"] = "raw"
        if kept.get("choices") is not None:
            kept["choices"] = list(kept["choices"])
        if kept.get("options") is not None:
            kept["options"] = plain(kept["options"])
        known[name] = kept
    return known


def take(module: AnsibleModule, *words: Any, **options: Any) -> None:
    """Stands in for AnsibleModule.__init__."""
    raise Taken(inspect.signature(_init).bind(module, *words, **options).arguments)


_init = AnsibleModule.__init__

if __name__ == "__main__":
    AnsibleModule.__init__ = take
    json.dump({name: specification(name) for name in sys.argv[1:]}, sys.stdout)
