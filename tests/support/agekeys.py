# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys of age, and Debian's ``age``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

#: The pair of keys in the published tests of the format (C2SP/CCTV).
SECRET = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6"
PUBLIC = "age1w3tyke4gev25vaxxsvcgqu4484rf6ejpmavs57p6yz6lhy2sfs5swrvwyn"
FINGERPRINT = "2c7f1ab2e38e5028"
#: Two more.
SECRET_2 = "AGE-SECRET-KEY-1L9YL77PTEHW4AZ99733FWFKA9TADAAFYXRWG9NP7Y0N08QFZ24FQ2SULCJ"
PUBLIC_2 = "age1f0qgmed3gvk9qeympvraqur2lhw3f67cayjyqfnd8hn40zzs75fqf3z6xn"

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="needs the program age (Debian package age)")


def key_file(folder: Path, secret: str = SECRET) -> Path:
    """A file of a secret key, as age-keygen writes it."""
    path = folder / "key.txt"
    path.write_text(f"# created: today\n# public key: x\n{secret}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def decrypt(key: Path, data: bytes) -> bytes:
    """What ``age --decrypt`` makes of an age file."""
    return subprocess.run(["age", "--decrypt", "-i", key], input=data, capture_output=True, check=True).stdout


def encrypt(data: bytes, *recipients: str) -> bytes:
    """An age file, by ``age``."""
    words = [word for recipient in recipients for word in ("-r", recipient)]
    return subprocess.run(["age", *words], input=data, capture_output=True, check=True).stdout
