#!/usr/bin/python
# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: session_transfer
short_description: Copy a file of a session from one host to another through the controller
version_added: 0.1.0
author:
  - splitmirror.backup contributors (@splitmirror)
description:
  - Relays one file from the host of the task to O(to_host), in pieces of 16 MiB over the connections that Ansible has
    to both. The hosts need not trust each other, and the controller never stores the whole file.
  - The file appears as O(dest) only after all of it has arrived and its SHA-256 has been compared. It has mode 0600;
    folders that are made for it have mode 0700.
  - Works with C(become) for an unprivileged user on both hosts. Both need GNU coreutils.
options:
  src:
    description: The file on the host of the task.
    type: path
    required: true
  dest:
    description: The path on O(to_host). A file with the same content is left as it is.
    type: path
    required: true
  to_host:
    description: The inventory name of the host that receives the file.
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
- name: Copy the extent map to the media server
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
