# Copyright: (c) 2026, splitmirror.backup contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A writer that goes on committing, and knows what the database has acknowledged.

``start SOCKET_DIR BIN_DIR SECONDS RATE`` starts it in the background: pgbench at RATE transactions a second, and one
connection that commits the numbers 1, 2, 3, … to demo_marks, no faster than that, and, after each acknowledged commit,
notes the number and the server's WAL position in the journal. ``stop SOCKET_DIR`` ends it.
``acknowledged SOCKET_DIR LSN`` prints the highest number whose commit was acknowledged at or before that WAL position.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psycopg2


def parse_lsn(text: str) -> int:
    """A WAL position as a number."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def acknowledged(folder: str, lsn: str) -> int:
    """The highest mark that was acknowledged at or before a WAL position."""
    highest = 0
    with open(f"{folder}/journal", encoding="utf-8") as journal:
        for line in journal:
            mark, place = line.split()
            if parse_lsn(place) <= parse_lsn(lsn):
                highest = int(mark)
    return highest


def write(folder: str, bin_dir: str, seconds: int, rate: int) -> None:
    """Commit until the time is over or SIGTERM comes."""
    going = True

    def leave(_number: int, _frame: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, leave)
    end = time.monotonic() + seconds
    pgbench = subprocess.Popen(
        [
            f"{bin_dir}/pgbench",
            f"--host={folder}",
            "--port=5432",
            "--no-vacuum",
            "--client=2",
            f"--rate={rate}",
            f"--time={seconds}",
            "postgres",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    connection = psycopg2.connect(host=folder, port=5432, dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor, open(f"{folder}/journal", "a", encoding="utf-8") as journal:
        cursor.execute("SELECT coalesce(max(n), 0) FROM demo_marks")
        mark = cursor.fetchone()[0]
        while going and time.monotonic() < end:
            mark += 1
            cursor.execute("INSERT INTO demo_marks VALUES (%s)", (mark,))
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            journal.write(f"{mark} {cursor.fetchone()[0]}\n")
            journal.flush()
            time.sleep(1 / rate)
    pgbench.terminate()
    pgbench.wait()


def start(folder: str, bin_dir: str, seconds: int, rate: int) -> None:
    """Run write() in the background, unless it runs."""
    stop(folder)
    if os.fork():
        return
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    with open(f"{folder}/writer.pid", "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    try:
        write(folder, bin_dir, seconds, rate)
    finally:
        os.unlink(f"{folder}/writer.pid")


def stop(folder: str) -> None:
    """End the writer and wait until it is gone."""
    try:
        with open(f"{folder}/writer.pid", encoding="utf-8") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            ours = b"demo_writer.py" in file.read()
    except (OSError, ValueError):
        return
    if ours:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while os.path.exists(f"{folder}/writer.pid") and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> None:
    """Do what the command line says."""
    command, folder = sys.argv[1:3]
    if command == "start":
        start(folder, sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    elif command == "stop":
        stop(folder)
    else:
        print(acknowledged(folder, sys.argv[3]))


if __name__ == "__main__":
    main()
