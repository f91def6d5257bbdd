# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for Ceph's ``rbd`` and its Python bindings: images and snapshots are files, devices are loop devices.

It keeps what the provider depends on: exit codes, that a protected snapshot cannot be removed, that a mapped one can.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: Image: ROOT/POOL/NAME/data. Snapshot: ROOT/POOL/NAME/snaps/SNAPSHOT/data, and ``protected`` beside it.
SCRIPT = r"""#!/bin/sh
set -eu
root=@ROOT@
exec 9>"$root/.lock"
flock 9
fail() { echo "rbd: error: $2" >&2; exit "$1"; }
words= ro= size=
while [ $# -gt 0 ]; do
    case $1 in
        --size) size=$2; shift ;;
        --read-only) ro=--read-only ;;
        --conf | --id | --format | --device-type | --options) shift ;;
        --*) ;;
        *) words="$words $1" ;;
    esac
    shift
done
set -- $words
case $1 in
    device | snap) verb="$1 $2"; shift 2 ;;
    *) verb=$1; shift ;;
esac
spec=${1-}
image=$root/${spec%@*}
snap=$image/snaps/${spec#*@}
case $verb in
    "device list" | "device unmap" | ls | create) ;;
    *) [ -d "$image" ] || fail 2 "opening image ${spec%@*}: (2) No such file or directory" ;;
esac
case $verb in
    "snap protect" | "snap unprotect" | "snap rm") [ -d "$snap" ] || fail 2 "snapshot does not exist" ;;
esac
comma=
case $verb in
    create) mkdir -p "$image/snaps"; truncate -s "$size" "$image/data" ;;
    ls)
        printf '['
        for path in "$image"/*/data; do
            [ -e "$path" ] || continue
            path=${path%/data}
            printf '%s"%s"' "$comma" "${path##*/}"; comma=,
        done
        printf ']' ;;
    info) printf '{"name": "%s", "size": %s}' "${spec#*/}" "$(stat -c %s "$image/data")" ;;
    rename) mv "$image" "$root/$2" ;;
    rm) rm -r "$image" ;;
    "snap create")
        [ ! -e "$snap" ] || fail 17 "failed to create snapshot: (17) File exists"
        mkdir "$snap"; cp --reflink=auto "$image/data" "$snap/data" ;;
    "snap ls")
        printf '['
        for path in "$image"/snaps/*; do
            [ -e "$path" ] || continue
            protected=false; [ ! -e "$path/protected" ] || protected=true
            printf '%s{"id": 1, "name": "%s", "protected": "%s"}' "$comma" "${path##*/}" "$protected"; comma=,
        done
        printf ']' ;;
    "snap protect") [ ! -e "$snap/protected" ] || fail 16 "already protected"; : >"$snap/protected" ;;
    "snap unprotect") [ -e "$snap/protected" ] || fail 22 "not protected"; rm "$snap/protected" ;;
    "snap rm") [ ! -e "$snap/protected" ] || fail 16 "snapshot is protected from removal"; rm -r "$snap" ;;
    "device map")
        data=$image/data
        case $spec in *@*) [ -e "$root/maps-images-for-snapshots" ] || data=$snap/data ;; esac
        device=$(losetup --find --show $ro "$data")
        # A flag that somebody set on the device outlives what was attached to it.
        [ -n "$ro" ] || blockdev --setrw "$device"
        echo "$device" ;;
    "device unmap") losetup --detach "$1" ;;
    "device list")
        printf '['
        for path in /sys/block/loop*/loop/backing_file; do
            data=$(cat "$path" 2>/dev/null) || continue # it is somebody else's, who detached it
            data=${data%" (deleted)"}
            case $data in "$root"/*/data) ;; *) continue ;; esac
            data=${data#"$root"/}; data=${data%/data}
            loop=${path#/sys/block/}; loop=${loop%%/*}; name=-
            case $data in */snaps/*) name=${data##*/}; data=${data%/snaps/*} ;; esac
            data=${data%.aside}
            printf '%s{"id": "%s", "pool": "%s", "namespace": "", "name": "%s", "snap": "%s", "device": "/dev/%s"}' \
                "$comma" "${loop#loop}" "${data%/*}" "${data##*/}" "$name" "$loop"; comma=,
        done
        printf ']' ;;
    *) fail 22 "the stand-in knows no $verb" ;;
esac
"""

#: The modules ``rados`` and ``rbd``, as far as the provider needs them.
RADOS = """
class Rados:
    def __init__(self, conffile, rados_id):
        if conffile:
            open(conffile).close()

    def connect(self):
        pass

    def open_ioctx(self, pool):
        return Pool(pool)

    def shutdown(self):
        pass

class Pool:
    def __init__(self, name):
        self.name = name

    def close(self):
        pass
"""
RBD = """
import os, subprocess

RBD_SNAP_CREATE_SKIP_QUIESCE = 1

def _run(*words):
    done = subprocess.run(["@ROOT@/../bin/rbd", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.returncode, done.stderr)

class Image:
    def __init__(self, pool, name):
        self.name = pool.name + "/" + name
        _run("info", self.name)
        open("@ROOT@/.opened", "w").close()

    def create_snap(self, name, flags):
        if self.name.endswith("t0") and os.path.exists("@ROOT@/hold"):
            open("@ROOT@/hold").read()
        _run("snap", "create", self.name + "@" + name)
        if os.path.exists("@ROOT@/dies-when-it-has-split"):
            os._exit(1)

    def close(self):
        if self.name.endswith("t0") and os.path.exists("@ROOT@/cannot-be-closed"):
            raise OSError("close")
        os.rename("@ROOT@/.opened", "@ROOT@/.closed") if os.path.exists("@ROOT@/.opened") else None
"""


def make_rbd(folder: Path) -> Path:
    """Write the stand-in, and return the folder that belongs on the PATH; its images lie in ``folder``/ceph."""
    (folder / "ceph" / "rbd").mkdir(parents=True)
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "rbd"
    program.write_text(SCRIPT.replace("@ROOT@", str(folder / "ceph")))
    program.chmod(0o755)
    bindings = folder / "bindings"
    bindings.mkdir()
    (bindings / "rados.py").write_text(RADOS)
    (bindings / "rbd.py").write_text(RBD.replace("@ROOT@", str(folder / "ceph")))
    python = programs / "ceph-python"
    # Isolated (-I), Python would not look there.
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={bindings} exec {sys.executable} -s "$@"\n')
    python.chmod(0o755)
    return programs
