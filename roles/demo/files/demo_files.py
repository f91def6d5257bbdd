# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make a folder of files of all kinds: many small ones, a sparse one, links, odd names, attributes, an ACL."""

from __future__ import annotations

import os
import random
import sys


def main() -> None:
    """Fill the folder named on the command line."""
    root = sys.argv[1]
    os.makedirs(root, exist_ok=True)
    chance = random.Random(1)  # noqa: S311
    for folder in range(20):
        os.makedirs(f"{root}/small/{folder:02}", exist_ok=True)
        for number in range(100):
            with open(f"{root}/small/{folder:02}/{number:03}.dat", "wb") as file:
                file.write(chance.randbytes(chance.randrange(0, 16384)))
    with open(f"{root}/big.dat", "wb") as file:
        for _mib in range(64):
            file.write(chance.randbytes(1 << 20))
    with open(f"{root}/sparse.dat", "wb") as file:
        file.truncate(256 << 20)
        for place in (0, 77 << 20, (256 << 20) - 4096):
            file.seek(place)
            file.write(chance.randbytes(4096))
    with open(f"{root}/preallocated.dat", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
        file.write(b"only the beginning was written")
    odd = os.path.join(os.fsencode(root), b"odd name \n \xff \xc3\xa4")
    with open(odd, "wb") as file:
        file.write(b"a name that is not UTF-8")
    for link, target in (("hard.dat", "big.dat"),):
        if not os.path.exists(f"{root}/{link}"):
            os.link(f"{root}/{target}", f"{root}/{link}")
    if not os.path.lexists(f"{root}/link"):
        os.symlink("small/00/000.dat", f"{root}/link")
        os.mkfifo(f"{root}/fifo")
    os.setxattr(f"{root}/big.dat", "user.note", b"kept with the file")
    # An ACL that also gives uid 65534 read access (acl(5); the kernel's posix_acl_xattr.h tells the form).
    entries = ((1, 6, -1), (2, 4, 65534), (4, 4, -1), (16, 4, -1), (32, 0, -1))
    acl = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + access.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, access, who in entries
    )
    os.setxattr(f"{root}/sparse.dat", "system.posix_acl_access", acl)
    os.utime(f"{root}/sparse.dat", ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    with open(f"{root}/done", "w", encoding="utf-8"):
        pass


if __name__ == "__main__":
    main()
