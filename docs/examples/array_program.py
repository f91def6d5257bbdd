# Copyright: (c) 2026, splitmirror.backup contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program for provider external. Its array is a folder of image files; your array's SDK takes their place."""

import json
import os
import shutil
import subprocess
import sys


def losetup(*words):
    return subprocess.run(["losetup", *words], check=True, text=True, capture_output=True).stdout.split()


def answer(op, short, pairs):
    said = {}
    for pair in pairs:
        primary, snapshot = pair["primary"], f"{pair['mirror']}.{short}"  # the short id is the mark
        devices = losetup("-nO", "NAME", "-j", snapshot)
        if op == "look":
            there = os.path.exists(primary)
            said[pair["name"]] = {"problem": None if there else "the LUN is gone", "mark": None}
        elif op == "split":
            shutil.copyfile(primary, snapshot)
            said[pair["name"]] = {}
        elif op == "present":
            devices = devices or losetup("--find", "--show", "--read-only", snapshot)
            said[pair["name"]] = {"device": devices[0]}
        elif op == "withdraw":
            for device in devices:
                losetup("--detach", device)
        elif op == "undo" and os.path.exists(snapshot):
            os.unlink(snapshot)
    return {"ok": True, "pairs": list(said) if op == "split" else said}


def main():
    hello = json.loads(sys.stdin.readline())
    # Log in here, with hello["secrets"]. If that fails: {"ready": false, "error": "one sentence"}.
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:  # it ends when the splitter ends
        op = json.loads(line)["op"]
        if op == "stop":
            break
        try:
            said = answer(op, hello["short"], hello["pairs"])
        except (OSError, subprocess.SubprocessError) as exc:
            said = {"ok": False, "error": f"{op}: {exc}"}
        print(json.dumps(said), flush=True)


main()
