# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The keys of encrypted sessions."""

    # For modules that read.
    DOCUMENTATION = r"""
options:
  identity_file:
    description:
      - A file on the media server with the secret keys that open encrypted sessions, as C(age-keygen) writes it. It
        must belong to root or to the user who runs the module, with mode 0600.
      - Sessions that are not encrypted need none.
    type: path
    version_added: 0.2.0
  identity:
    description:
      - The secret keys as text, one a line, instead of O(identity_file). Take it from a vault.
      - It is in no result and in no log. Without pipelining, Ansible keeps it with the other options in a file of its
        own on the media server while the task runs.
    type: str
    version_added: 0.2.0
"""

    # For modules that write, and for those that read.
    DRIVE_KEY = r"""
options:
  drive_key_file:
    description:
      - A file on the media server with the key with which the drive itself encrypts and decrypts (LTO-4 and newer), 64
        hexadecimal digits. It must belong to root or to the user who runs the module, with mode 0600.
      - A module that writes takes one key. A module that reads takes several, one a line, and gives the drive the one
        that a session needs.
      - It needs O(drive_type=st), and cannot be combined with encryption in software.
      - The key is taken out of the drive at the end.
    type: path
    version_added: 0.2.0
  drive_key:
    description:
      - The key as text, instead of O(drive_key_file). Take it from a vault.
      - It is in no result and in no log. Without pipelining, Ansible keeps it with the other options in a file of its
        own on the media server while the task runs.
    type: str
    version_added: 0.2.0
"""

    # For modules that write.
    RECIPIENTS = r"""
options:
  recipients:
    description:
      - Encrypt the session to these recipients of C(age), public keys that begin with C(age1). Each of their secret
        keys opens it, and nothing else does.
      - If it is empty, the session is written in the clear.
    type: list
    elements: str
    default: []
    version_added: 0.2.0
"""
