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
      - Each has its own set of options; an option of another driver is refused.
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
          - V(postgresql) is a PostgreSQL cluster, 11 or later. It does hot backup. It needs C(psycopg2) on this host.
          - V(sqlite) is one SQLite database file. It can only freeze.
          - V(commands) is any other database, by commands of your own.
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
      options:
        description: Options of the driver.
        type: dict
        suboptions:
          unix_socket:
            description:
              - Driver V(postgresql). The folder of the server's socket.
              - V(/var/run/postgresql) when it is left out.
            type: path
          login_host:
            description: Driver V(postgresql). The address of the server when it is to be reached by TCP.
            type: str
          port:
            description: Driver V(postgresql). The port of the server, V(5432) when it is left out.
            type: int
          login_user:
            description:
              - Driver V(postgresql). The role that begins and ends the backup, V(postgres) when it is left out.
              - It is a superuser, or may execute the backup functions and is a member of C(pg_read_all_settings). With
                C(REPLICATION) it can keep the WAL of a long backup from being removed.
            type: str
          login_password:
            description: Driver V(postgresql). Its password.
            type: str
          login_password_file:
            description: Driver V(postgresql). A file on this host whose first line is the password.
            type: path
          login_db:
            description: Driver V(postgresql). The database to connect to, V(postgres) when it is left out.
            type: str
          os_user:
            description:
              - Driver V(postgresql). The user of this host as whom the socket is connected to, so that peer
                authentication works. V(postgres) when it is left out.
            type: str
          pgdata:
            description: Driver V(postgresql). The data folder; the server is asked for it when it is left out.
            type: path
          fast:
            description:
              - Driver V(postgresql). Whether the checkpoint at the beginning is done at once. Otherwise it is spread,
                and the beginning may take minutes. V(true) when it is left out.
            type: bool
          end_timeout_s:
            description: Driver V(postgresql). How many seconds the end may take, V(300) when it is left out.
            type: int
          path:
            description: Driver V(sqlite). The database file.
            type: path
          begin:
            description:
              - Driver V(commands). The command that begins hot backup, as a list of its arguments; never through a
                shell. The first is the absolute path of the program. Exit code 0 is success.
              - E(SPLITMIRROR_DATABASE) tells it, as all commands here, the name of the database, and
                E(SPLITMIRROR_LABEL) that of the backup.
            type: list
            elements: str
          end:
            description: Driver V(commands). The command that ends hot backup.
            type: list
            elements: str
          freeze:
            description:
              - Driver V(commands). The command that stops writes, inside the window.
              - When the holder dies meanwhile, it is killed with all that it started, before O(ignore:thaw) is run.
            type: list
            elements: str
          thaw:
            description:
              - Driver V(commands). The command that lets writes go on. It is also run when the holder is dead, and run
                again when it fails; it must do no harm, and succeed, when nothing was stopped.
            type: list
            elements: str
          ping:
            description: Driver V(commands). A command that fails when the hot backup is lost.
            type: list
            elements: str
          recover:
            description: Driver V(commands). The command that ends what a crash has left behind.
            type: list
            elements: str
          files:
            description: Driver V(commands). A command that prints the paths of folders and files, one a line.
            type: list
            elements: str
          timeout_s:
            description: Driver V(commands). How many seconds each command may take, V(60) when it is left out.
            type: int
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
