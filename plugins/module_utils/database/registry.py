# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drivers that exist, and how a description of a database becomes one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

from ..errors import cut, shorten
from ..options import as_expanded, check_options, did_you_mean, option_faults, union_of
from .base import DatabaseDriver, DatabaseError, Restored
from .commands import CommandsDriver
from .postgresql import PostgresqlDriver
from .relocation import Move
from .sqlite import SqliteDriver

DRIVERS: dict[str, type[DatabaseDriver]] = {
    driver.name: driver for driver in (CommandsDriver, PostgresqlDriver, SqliteDriver)
}
QUIESCE = ("auto", "hot_backup", "freeze")


def databases_spec() -> dict[str, Any]:
    """The option ``databases`` in the form of Ansible's argument specs; each driver has its options below its name."""
    # no_log is said of every option, because Ansible warns of names that sound like secrets otherwise.
    options = {
        name: {
            "type": "dict",
            "options": {key: {"no_log": False, **rules} for key, rules in driver.argument_spec.items()},
        }
        for name, driver in DRIVERS.items()
    }
    return {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            # Without choices: make_driver refuses an unknown one, so that preflight reports it beside all else.
            "driver": {"type": "str", "required": True},
            "quiesce": {"type": "str", "choices": list(QUIESCE), "default": "auto"},
            **options,
        },
    }


def driver_class(where: str, kind: Any) -> type[DatabaseDriver]:
    """The driver of this name. :param where: for messages. :raises DatabaseError: there is none."""
    if not isinstance(kind, str) or kind not in DRIVERS:
        raise DatabaseError(
            f"{where} {shorten(kind)} is not known; use one of {', '.join(sorted(DRIVERS))}.",
            option=where.partition(":")[0],
            code="option_invalid",
        )
    return DRIVERS[kind]


def make_driver(description: Mapping[str, Any]) -> DatabaseDriver:
    """Make the driver of one database.

    :param description: ``driver``; ``name`` (default: the driver's name); ``quiesce`` (``auto``, the default: hot
        backup where the driver can; ``hot_backup``; ``freeze``); below the driver's name its options. A key whose
        value is None counts as not given.
    :raises DatabaseError: unknown driver, unknown or bad option, or a way to quiesce that it does not have.
    """
    kind = description.get("driver")
    name = description.get("name") or kind
    where = f"databases: {name}"
    driver = driver_class(f"{where}: driver", kind)
    for key, value in description.items():
        if value is not None and key not in ("name", "driver", "quiesce", kind):
            raise DatabaseError(
                f"{where}: driver {kind} takes its options from the key {kind!r}, not from {key!r}; move or remove "
                "them.",
                option="databases",
                code="option_invalid",
            )
    options = check_options(
        where, f"driver {kind}", driver.argument_spec, description.get(driver.name) or {}, DatabaseError
    )
    can = driver.capabilities(options)
    quiesce = description.get("quiesce") or "auto"
    if quiesce not in QUIESCE:
        raise DatabaseError(
            f"{where}: quiesce is {shorten(quiesce)}; it must be auto, hot_backup or freeze.",
            "databases",
            code="option_invalid",
        )
    if quiesce == "auto":
        quiesce = "hot_backup" if can.hot_backup else "freeze"
    if not (can.hot_backup if quiesce == "hot_backup" else can.freeze):
        raise DatabaseError(
            f"{where}: driver {kind} cannot do quiesce {quiesce} with these options; use another or auto.",
            "databases",
            code="option_invalid",
        )
    return driver(str(name), options, quiesce)


def make_drivers(descriptions: Sequence[Mapping[str, Any]]) -> list[DatabaseDriver]:
    """Make the drivers of all databases of a host, in their order.

    :raises DatabaseError: as make_driver, or when two have the same name.
    """
    drivers = [make_driver(description) for description in descriptions]
    names = [driver.title for driver in drivers]
    for name in names:
        if names.count(name) > 1:
            raise DatabaseError(
                f"databases: two databases are named {name!r}; give each its own name.",
                option="databases",
                code="option_invalid",
            )
    return drivers


def database_faults(descriptions: Any) -> list[str]:
    """All that is wrong with the descriptions of databases themselves, one sentence each. Looks at no database.

    :param descriptions: as make_drivers takes them, as the user gave them.
    """
    if not isinstance(descriptions, (list, tuple)):
        return ["databases: this must be a list of dictionaries with name and driver."]
    faults = []
    for number, description in enumerate(descriptions, 1):
        if not isinstance(description, Mapping):
            faults.append(f"databases: entry {number} must be a dictionary with name and driver.")
            continue
        faults += _description_faults(number, description)
    if not faults:
        try:
            make_drivers(
                [
                    {**entry, kind: as_expanded(DRIVERS[kind].argument_spec, entry.get(kind))}
                    for entry in descriptions
                    for kind in (entry["driver"],)
                ]
            )
        except DatabaseError as exc:
            faults.append(exc.message)
    return faults


def _description_faults(number: int, description: Mapping[str, Any]) -> list[str]:
    kind = description.get("driver")
    name = description.get("name")
    named = bool(name) and isinstance(name, (str, int, float))
    where = f"databases: {cut(str(name)) if named else f'entry {number}'}"
    faults = [] if named else [f"{where}: it has no name; give it one in 'name'."]
    if not isinstance(kind, str) or kind not in DRIVERS:
        known = ", ".join(sorted(DRIVERS))
        said = f"driver {shorten(kind)} is not known{did_you_mean(kind, DRIVERS)}" if kind else "it has no driver"
        return [*faults, f"{where}: {said}; use one of {known}."]
    keys = {"name", "driver", "quiesce", kind}
    for key, value in description.items():
        if key in keys or value is None:
            continue
        if key == "options":
            faults.append(f"{where}: rename the key 'options' to {kind!r}, the name of the driver.")
        elif key in DRIVERS:
            faults.append(
                f"{where}: driver {kind} takes its options from the key {kind!r}; move or remove {shorten(key)}."
            )
        else:
            hint = f"; put it below {kind!r}" if key in DRIVERS[kind].argument_spec else did_you_mean(key, keys)
            faults.append(f"{where}: {shorten(key)} is not a key of a database{hint}.")
    return faults + option_faults(where, f"driver {kind}", DRIVERS[kind].argument_spec, description.get(kind) or {})


def restored_options_spec() -> dict[str, Any]:
    """The option ``driver_options`` of a drill in the form of Ansible's argument specs."""
    return {"type": "dict", "options": union_of({name: driver.restored_spec for name, driver in DRIVERS.items()})}


def hold_drill(
    kind: str,
    restored: Restored,
    queries: Mapping[str, str],
    timeout_s: float,
    dry_run: bool = False,
) -> tuple[dict[str, str], list[str]]:
    """Check a restored database, open it, ask it, close it, and check its files.

    :param kind: the driver. :param restored: its options as the user gave them.
    :param timeout_s: how long recovery may take. :param dry_run: do no more than what changes nothing.
    :returns: the answers by name of the query, and what else was checked, in words.
    :raises SplitMirrorError: the database is not what it should be.
    """
    driver = driver_class("driver:", kind)
    options = check_options(
        "driver_options", f"driver {kind} in a drill", driver.restored_spec, restored.options, DatabaseError
    )
    restored = replace(restored, options=options)
    facts = driver.check_restored(restored)
    if dry_run:
        return {}, []
    with driver.open_restored(restored, facts, timeout_s) as ask:
        answers = {name: ask(query) for name, query in queries.items()}
    return answers, driver.verify_restored(restored, facts)


def relocate_restored(
    target: str, kind: Optional[str] = None, data_directory: Optional[str] = None, dry_run: bool = False
) -> tuple[list[str], list[Move]]:
    """Let nothing of the databases among restored files lead to where the originals are, or were.

    What cannot be relocated is refused before anything is changed.

    :param target: the folder that was restored to. :param kind: the driver to look with; by default all of them.
    :param data_directory: the only one to relocate; it needs the driver. :param dry_run: change nothing.
    :returns: data directories, and what was changed or would be.
    :raises SplitMirrorError: one of them cannot be made safe.
    """
    drivers = list(DRIVERS.values()) if kind is None else [driver_class("driver:", kind)]
    found = [
        (driver, folder)
        for driver in drivers
        for folder in ([data_directory] if data_directory else driver.find_restored(target))
    ]
    moves = [move for driver, folder in found for move in driver.relocate(target, folder, dry_run=True)]
    if not dry_run:
        for driver, folder in found:
            driver.relocate(target, folder)
    return [folder for _driver, folder in found], moves
