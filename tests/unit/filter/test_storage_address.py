# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter storage_address: the one address inside, or one clear sentence."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.splitmirror.backup.plugins.filter.storage_address import FilterModule

storage_address = FilterModule().filters()["storage_address"]


@pytest.mark.parametrize(
    ("addresses", "network", "chosen"),
    [
        (["192.0.2.5", "10.20.0.7"], "10.20.0.0/24", "10.20.0.7"),
        (["192.0.2.5", "10.20.0.7", "10.20.0.7"], "10.20.0.0/24", "10.20.0.7"),
        (["10.20.0.7", "10.20.1.7"], "10.20.1.7/32", "10.20.1.7"),
        (["10.20.0.7", "fd00::7"], "fd00::/64", "fd00::7"),
        (["fe80::1%eth0", "fd00::7"], "fd00::/64", "fd00::7"),
        ({"ansible_facts": {"all_ipv4_addresses": ["10.20.0.7"], "all_ipv6_addresses": []}}, "10.0.0.0/8", "10.20.0.7"),
        ({"all_ipv4_addresses": [], "lo": {"ipv4": {"address": "127.0.0.1"}}}, "127.0.0.1/32", "127.0.0.1"),
        ({"all_ipv4_addresses": ["192.0.2.1"], "lo": {"ipv4": {"address": "127.0.0.1"}}}, "0.0.0.0/0", "192.0.2.1"),
        ({"all_ipv4_addresses": ["192.0.2.1"], "all_ipv6_addresses": ["fd00::7"]}, "fd00::/8", "fd00::7"),
    ],
)
def test_chooses_the_address_inside(addresses: Any, network: str, chosen: str) -> None:
    assert storage_address(addresses, network) == chosen


@pytest.mark.parametrize(
    ("addresses", "network", "sentence"),
    [
        (["192.0.2.5"], "10.20.0.0/24", r"no address in 10\.20\.0\.0/24 \(it has 192\.0\.2\.5\)"),
        ([], "10.20.0.0/24", r"no address in .* \(it has none\)"),
        ({}, "10.20.0.0/24", r"\(it has none\)"),
        (["10.20.0.7", "10.20.0.8"], "10.20.0.0/24", r"several addresses in .* \(10\.20\.0\.7, 10\.20\.0\.8\)"),
        (["10.20.0.7"], "storage", r"'storage' is not a network; write it as a CIDR"),
        (["10.20.0.7"], None, r"None is not a network"),
        (["10.20.0.300"], "10.20.0.0/24", r"'10\.20\.0\.300' is not an IP address"),
        ("10.20.0.7", "10.20.0.0/24", r"needs a list of addresses"),
    ],
)
def test_refuses_in_one_sentence(addresses: Any, network: Any, sentence: str) -> None:
    with pytest.raises(AnsibleFilterError, match=sentence):
        storage_address(addresses, network)
