# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

# Each text has a form for modules that always need the option, and one for those that need it in some states only.
_PROVIDER = r"""
options:
  provider:
    description:
      - The mirror provider, that is, the kind of array.
      - V(external) is any array for which a program, commands or HTTP requests of the user do the work.
      - V(image) is an array whose LUNs are image files on a file system with reflinks (XFS, Btrfs), as on a hypervisor.
      - V(lvm) is an array whose LUNs are LVM raid1 volumes, V(md) one whose LUNs are raid1 arrays of mdadm.
      - V(qemu) is a host whose LUNs are the disks of a running QEMU (a guest) or qemu-storage-daemon, of any format.
      - V(lvm_thin) is an array whose LUNs are thin volumes of LVM, V(zfs) one whose LUNs are volumes of ZFS.
      - V(rbd) is a client of Ceph; the LUNs are RBD images, and their mirrors are mapped on that host.
      - V(drbd) is the host of a Secondary of DRBD.
    type: str
    choices: [drbd, external, image, lvm, lvm_thin, md, qemu, rbd, zfs]
    required: {required}
  provider_options:
    description:
      - Options of the provider. An option of another provider is refused.
      - Providers V(lvm) and V(md) have none.
    type: dict
    version_added: 0.2.0
    suboptions:
      allow_copy:
        description:
          - Provider V(image). Whether the split may copy an image whose blocks the file system cannot share. V(false)
            when it is left out.
          - The copy is made while writes are stopped, so the window lasts as long as the copy.
        type: bool
      ceph_conf:
        description: Provider V(rbd). Path of the configuration of the cluster, if it is not the usual one.
        type: path
      ceph_python:
        description:
          - Provider V(rbd). The Python that has the modules C(rados) and C(rbd), V(/usr/bin/python3) when it is left
            out.
          - Without the modules each split starts a process of C(rbd) for each pair, which takes longer.
        type: path
      ceph_user:
        description: Provider V(rbd). The name of the Ceph user, without C(client.), if it is not C(admin).
        type: str
      map_options:
        description: Provider V(rbd). What C(rbd device map) gets as its option C(--options), such as V(ms_mode=secure).
        type: str
      map_type:
        description:
          - Provider V(rbd). How a snapshot becomes a device, by the kernel (V(krbd), which is used when the option is
            left out) or by the program rbd-nbd (V(nbd)).
        type: str
      pool_limit_percent:
        description:
          - Provider V(lvm_thin). A thin pool whose data or metadata is filled to this percentage is not split, because
            a snapshot makes it fill faster. V(90) when it is left out.
        type: int
      qmp_socket:
        description:
          - Provider V(qemu), which needs it. The unix socket of a QMP monitor of the QEMU that has the disks.
          - A monitor talks to one client at a time, so give the collection one of its own.
        type: path
      scratch_percent:
        description:
          - Provider V(qemu). For how much of each disk room is reserved in its scratch image, V(100) when it is left
            out.
          - If the guest overwrites more than that while the mirror is read, and the file system is full, QEMU fails the
            guest's writes.
        type: int
      kind:
        description: Provider V(external), which needs it. How the array is asked; V(program), V(command) or V(http).
        type: str
      atomic_set:
        description:
          - Provider V(external). Whether the array splits all pairs at one instant. V(false) when it is left out.
        type: bool
      timeout_s:
        description:
          - Provider V(external). How many seconds the split may take, its polls included. V(10) when it is left out.
        type: float
      ready_timeout_s:
        description:
          - Provider V(external). How many seconds everything else may take, such as the login. V(60) when it is left
            out.
        type: float
      secrets_file:
        description:
          - Provider V(external). A file on this host with secrets, a JSON object of names and texts, with mode 0600.
          - A secret of O(provider_secrets) comes before one of this file.
        type: path
      program:
        description:
          - Provider V(external), kind V(program), which needs it. The program that stands ready, and its arguments.
        type: list
        elements: str
      program_answers:
        description:
          - Provider V(external), kind V(program). Which lines the program answers besides; V(look), V(present),
            V(withdraw).
        type: list
        elements: str
      address:
        description:
          - Provider V(external), kind V(http), which needs it. The base address of the array's API, which begins with
            https.
        type: str
      ca_file:
        description:
          - Provider V(external), kind V(http). The CA of the array's certificate, if it is not one of the system's.
        type: path
      client_cert:
        description: Provider V(external), kind V(http). A certificate of the client.
        type: path
      client_key:
        description: Provider V(external), kind V(http). The key of O(provider_options.client_cert).
        type: path
      allow_plain:
        description:
          - Provider V(external), kind V(http). Whether O(provider_options.address) may be one without TLS. V(false)
            when it is left out.
        type: bool
      headers:
        description: Provider V(external), kind V(http). Headers of every request but the login.
        type: dict
      basic_auth:
        description:
          - Provider V(external), kind V(http). User and password, as V(user:{{secret.NAME}}), for HTTP basic
            authentication.
        type: str
      keep_alive:
        description:
          - Provider V(external), kind V(http). The C(path) of a GET that keeps connection and login, and perhaps
            C(interval_s).
        type: dict
      login:
        description: Provider V(external), kind V(http). The request, or the list of requests, that logs in.
        type: raw
      logout:
        description: Provider V(external), kind V(http). The request that logs out.
        type: raw
      arm:
        description:
          - Provider V(external), kinds V(command) and V(http). What is done when the split is armed, before anything is
            frozen.
          - Like all further steps a list of a program and its arguments, or a request or a list of requests. The page
            of provider external has their keys and placeholders.
        type: raw
      look:
        description: Provider V(external), kinds V(command) and V(http). What reports on a pair.
        type: raw
      split:
        description: Provider V(external), kinds V(command) and V(http), which need it. What splits.
        type: raw
      present:
        description:
          - Provider V(external), kinds V(command) and V(http). What shows the mirror to the media server, or to this
            host.
        type: raw
      withdraw:
        description: Provider V(external), kinds V(command) and V(http). What takes that back.
        type: raw
      undo:
        description:
          - Provider V(external), kinds V(command) and V(http), which need it. What makes a pair as it was before the
            split.
        type: raw
  provider_secrets:
    description:
      - Secrets of the provider by name, such as the password of the array, from a vault. Only provider V(external)
        takes any.
      - They are kept in the memory of the process that stands ready to split, never in a file, a log, or an argument.
    type: dict
    version_added: 0.2.0
"""

_PAIRS = r"""
options:
  pairs:
    description:
      - The mirror set of one database host. All of its pairs are split, or none.
      - Use the same list on all hosts; each host uses the keys that it needs.
    type: list
    elements: dict
    required: {required}
    suboptions:
      name:
        description: The name of the pair, the same on all hosts.
        type: str
        required: true
      device:
        description: The block device of the primary on the database host.
        type: path
      serial:
        description: Serial number or WWN of the primary as the database host sees it. Any other device is refused.
        type: str
      primary:
        description:
          - The name of the primary on the array.
          - Provider V(drbd), the resource or V(RESOURCE/VOLUME).
          - Provider V(external), what the array needs to find it.
          - Provider V(image), the path of its image file.
          - Providers V(lvm) and V(lvm_thin), V(VG/LV).
          - Provider V(md), the path of the array.
          - Provider V(qemu), the id of the guest's device or the name of a node.
          - Provider V(rbd), V(POOL/IMAGE) or V(POOL/NAMESPACE/IMAGE).
          - Provider V(zfs), the volume V(POOL/NAME).
        type: str
      mirror:
        description:
          - The name of the mirror on the array.
          - Provider V(drbd), the path of the lower device.
          - Provider V(external), what the array needs to find it.
          - Provider V(image), the path of the image file that the split makes.
          - Provider V(lvm), the image V(VG/LV_rimage_N).
          - Provider V(lvm_thin), the snapshot V(VG/LV) that the split makes.
          - Provider V(md), the path of the leg.
          - Provider V(qemu), a path to which the session's id is added for its scratch image.
          - Provider V(rbd), the primary with V(@splitmirror), to which the session's id is added for its snapshot.
          - Provider V(zfs), the clone V(POOL/NAME) that presents the snapshot.
        type: str
      mirror_serial:
        description:
          - Serial number or WWN of the mirror's LUN as the media server sees it. Transport V(static) needs it to
            find the LUN.
        type: str
        version_added: 0.2.0
      options:
        description:
          - Options of the provider for this pair. The array refuses those that its provider does not have.
          - Provider V(qemu) has C(sector_bytes), the sector size of a disk that is named by its node and is not 512.
          - They are kept in records, so a secret does not belong here.
        type: dict
        version_added: 0.2.0
"""


class ModuleDocFragment:
    """Options that name the mirror set of a database host."""

    DOCUMENTATION: str = _PROVIDER.format(required="true")

    OPTIONAL_PROVIDER: str = _PROVIDER.format(required="false")

    PAIRS: str = _PAIRS.format(required="true")

    OPTIONAL_PAIRS: str = _PAIRS.format(required="false")
