#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: session_transfer
short_description: Bring a file of a session from one host to another through the controller
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Relays one file from the host of the task to O(to_host), in pieces of 16 MiB over the connections that Ansible has
    to both. No host has to trust the other, and the file is never held whole on the controller.
  - The file appears as O(dest) (mode 0600, a folder that is made for it 0700) only when all of it has arrived and its
    SHA-256 agrees.
  - Works with C(become) for an unprivileged user on both hosts. Both need GNU coreutils.
options:
  src:
    description: The file on the host of the task.
    type: path
    required: true
  dest:
    description: Its path on O(to_host). An equal file is left as it is.
    type: path
    required: true
  to_host:
    description: Inventory name of the host to bring it to.
    type: str
    required: true
extends_documentation_fragment:
  - splitmirror.backup.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Bring the extent map to the media server
  splitmirror.backup.session_transfer:
    src: /var/lib/splitmirror/sessions/{{ session }}/map.sqlite
    dest: /var/lib/splitmirror/sessions/{{ session }}/map.sqlite
    to_host: media1
"""

RETURN = r"""
dest:
  description: Path of the file on the other host.
  returned: success
  type: str
size_bytes:
  description: Size of the file.
  returned: success
  type: int
sha256:
  description: SHA-256 of the file, in hex.
  returned: success
  type: str
"""
