# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Choose the address of a host that lies in the storage network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    import netaddr
except ImportError:
    netaddr = None


def storage_address(addresses: Any, network: str) -> str:
    """The one address of a host that lies inside a network.

    :param addresses: a list of IP addresses, or a host's variables with its facts.
    :param network: the storage network as a CIDR.
    :raises AnsibleFilterError: there is none, or more than one, or something is not an address or not a network.
    """
    if netaddr is None:
        raise AnsibleFilterError("storage_address: the controller lacks the Python package netaddr; install it.")
    try:
        wanted = netaddr.IPNetwork(network)
    except (netaddr.AddrFormatError, ValueError, TypeError) as exc:
        raise AnsibleFilterError(
            f"splitmirror_storage_network: {network!r} is not a network; write it as a CIDR such as 10.20.0.0/24."
        ) from exc
    # By it one machine is array and media server of a trial.
    known = _addresses(addresses, loopback=wanted in netaddr.IPNetwork("127.0.0.0/8"))
    inside = [address for address in known if _parse(address) in wanted]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise AnsibleFilterError(
            f"splitmirror_storage_network: the host has several addresses in {network} ({', '.join(inside)}); "
            "narrow the network down to one of them."
        )
    raise AnsibleFilterError(
        f"splitmirror_storage_network: the host has no address in {network} (it has {', '.join(known) or 'none'}); "
        "name the network that leads to the array, or give the host an address in it."
    )


def _addresses(given: Any, loopback: bool) -> list[str]:
    if isinstance(given, Mapping):
        facts = given.get("ansible_facts", given)
        given = [*facts.get("all_ipv4_addresses", []), *facts.get("all_ipv6_addresses", [])]
        if loopback:  # the lists leave it out
            given += [one["address"] for one in [facts.get("lo", {}).get("ipv4", {})] if "address" in one]
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise AnsibleFilterError("storage_address: it needs a list of addresses or a host's variables with its facts.")
    return list(dict.fromkeys(str(address) for address in given))


def _parse(address: str) -> Any:
    try:
        return netaddr.IPAddress(address.partition("%")[0])  # a link-local address may name its interface
    except (netaddr.AddrFormatError, ValueError) as exc:
        raise AnsibleFilterError(f"storage_address: {address!r} is not an IP address.") from exc


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Its name and its function."""
        return {"storage_address": storage_address}
