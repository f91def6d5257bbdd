# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The makers' collections whose modules the recipes call, as the ``ansible`` package has them.

They lie in .cache/vendor, beside the virtual environment and not in it: ``ansible`` would bring another ansible-core.
Only the modules are unpacked. Called by ``./run``, and by the tests that need them::

    python tests/support/vendor_collections.py
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

#: The release of the ``ansible`` package against which the recipes are checked. docs/recipes.md says it too.
RELEASE = "14.5.0"
COLLECTIONS = (
    "amazon.aws",
    "dellemc.unity",
    "hitachivantara.vspone_block",
    "ibm.storage_virtualize",
    "infinidat.infinibox",
    "netapp.ontap",
    "netapp_eseries.santricity",
    "openstack.cloud",
    "purestorage.flasharray",
)
CACHE = Path(__file__).resolve().parents[2] / ".cache/vendor"


def collections() -> Path:
    """Fetch and unpack them unless that is done, and return the folder that holds ``ansible_collections``."""
    folder = CACHE / f"{RELEASE}-{zlib.crc32(repr(COLLECTIONS).encode()):08x}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = os.open(CACHE, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
    try:
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                unpacked = Path(scratch) / "unpacked"
                unpack(download(scratch), unpacked)
                unpacked.rename(folder)
    finally:
        os.close(lock)
    return folder


def download(folder: str) -> Path:
    """Download the package from the index that pip is set to."""
    # It asks for a newer Python and ansible-core than may be here. Its modules run on targets with older ones.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    words = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, f"ansible=={RELEASE}"]
    subprocess.run(words, check=True)
    (package,) = Path(folder).glob("ansible-*.whl")
    return package


def unpack(package: Path, folder: Path) -> None:
    """Unpack what the modules of the collections consist of."""
    wanted = tuple(
        f"ansible_collections/{name.replace('.', '/')}/plugins/{part}/"
        for name in COLLECTIONS
        for part in ("modules", "module_utils")
    )
    with zipfile.ZipFile(package) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(wanted)])


if __name__ == "__main__":
    collections()
