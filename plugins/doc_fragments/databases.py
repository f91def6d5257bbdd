# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options that name the databases of a host, and what it backs up besides them."""

    DOCUMENTATION = r"""
options:
  databases:
    description:
      - The databases of this host. Leave it out for a host that backs up plain folders only.
      - Each driver has its own options, below a key of the driver's name. Only the key of the chosen driver may be
        given.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name of the database in messages and reports.
        type: str
        required: true
      driver:
        description:
          - V(commands) is any other database, by commands of your own.
          - V(postgresql) is a PostgreSQL cluster, 11 or later. It does hot backup. It needs C(psycopg2) on this host.
          - V(sqlite) is one SQLite database file. It can only freeze.
        type: str
        required: true
      quiesce:
        description:
          - V(hot_backup) uses the database's own backup mode, in which it goes on writing. The logs of that time belong
            to the backup.
          - V(freeze) stops writes inside the window, for as long as the split takes. For driver V(postgresql) this is
            the freeze of the file systems alone, and the copy recovers as after a power cut.
          - V(auto) is hot backup where the driver can do it.
        type: str
        choices: [auto, hot_backup, freeze]
        default: auto
      commands:
        description:
          - Options of driver V(commands).
          - Each command is a list of its arguments and is never run by a shell. The first is the absolute path of the
            program. Exit code 0 is success.
          - E(SPLITMIRROR_DATABASE) gives every command the name of the database.
        type: dict
        version_added: 0.2.0
        suboptions:
          begin:
            description:
              - The command that begins hot backup.
              - E(SPLITMIRROR_BACKUP_NAME) gives it the name of the backup.
            type: list
            elements: str
          end:
            description: The command that ends hot backup.
            type: list
            elements: str
          freeze:
            description:
              - The command that stops writes, inside the window.
              - When the holder dies meanwhile, the command is killed with all that it started, before O(ignore:thaw) is
                run.
            type: list
            elements: str
          thaw:
            description:
              - The command that lets writes go on.
              - It is also run when the holder is dead, and run again when it fails. It must do no harm, and succeed,
                when nothing was stopped.
            type: list
            elements: str
          ping:
            description: A command that fails when the hot backup is lost.
            type: list
            elements: str
          recover:
            description: The command that ends what a crash has left behind.
            type: list
            elements: str
          files:
            description: A command that prints the paths of folders and files, one a line.
            type: list
            elements: str
          incremental:
            description:
              - Whether an incremental session leaves out those of the files that the command C(files) names which are
                proved to be unchanged. Otherwise it writes all of them.
              - It needs a database that writes its files with system calls, not through memory that a file is mapped
                to.
            type: bool
            default: false
            version_added: 0.2.0
          timeout_s:
            description: How many seconds each command may take.
            type: int
            default: 60
      postgresql:
        description: Options of driver V(postgresql).
        type: dict
        version_added: 0.2.0
        suboptions:
          unix_socket:
            description: The folder of the server's socket.
            type: path
            default: /var/run/postgresql
          login_host:
            description: The address of the server, to reach it by TCP instead of the socket.
            type: str
          port:
            description: The port of the server.
            type: int
            default: 5432
          login_user:
            description:
              - The role that begins and ends the backup.
              - It is a superuser, or may execute the backup functions and is a member of C(pg_read_all_settings). With
                C(REPLICATION) it can keep the WAL of a long backup from being removed.
            type: str
            default: postgres
          login_password:
            description: The password of the role.
            type: str
          login_password_file:
            description: A file on this host whose first line is the password. It is used instead of
              O(ignore:login_password).
            type: path
          login_db:
            description: The database to connect to.
            type: str
            default: postgres
          os_user:
            description: The user of this host who connects to the socket, so that peer authentication works.
            type: str
            default: postgres
          pgdata:
            description: The data folder; the server is asked for it when it is left out.
            type: path
          fast:
            description:
              - Whether the checkpoint at the beginning is done at once. Otherwise it is spread over time, and the
                beginning may take minutes.
            type: bool
            default: true
          end_timeout_s:
            description: How many seconds the end of hot backup may take.
            type: int
            default: 300
      sqlite:
        description: Options of driver V(sqlite).
        type: dict
        version_added: 0.2.0
        suboptions:
          path:
            description: The database file.
            type: path
            required: true
"""

    # For modules that look for files.
    PATHS = r"""
options:
  paths:
    description:
      - Folders and files to back up besides what the databases name. Links in them are resolved.
      - Each must lie, wholly, on LUNs in O(pairs), on a file system that can be mapped.
    type: list
    elements: path
    default: []
  exclude:
    description:
      - Glob patterns of what to leave out of O(paths).
      - One without a slash is compared with the name at every depth, one with a slash with the whole path below the
        path that is backed up. Names are compared by characters, as UTF-8.
    type: list
    elements: str
    default: []
  on_unreadable:
    description:
      - What to do about what is there and cannot be backed up, such as a file system of a kind that cannot be mapped,
        a FUSE mount of a user that keeps even root out, a file that its file system encrypts, or a path of more than
        16384 bytes.
      - With V(fail) the backup fails and names it. With V(leave_out) it is left out with all that is below it, and
        named in the result, in the report and in the catalog. A path that is itself asked for is never left out.
    type: str
    choices: [fail, leave_out]
    default: fail
    version_added: 0.2.0
"""
