"""Faults of Xet, the Hub's storage, during a push: what the repository holds, what the message says, how long the
command is silent, and whether Ctrl-C ends it.

    python benchmarks/xet_faults.py

Every fault is one of the answers of the Hub for Xet's token, or of Xet's storage: statuses, junk, a closed port, a
name that does not exist, connections that are cut, and servers that never answer. Each push is a process of its own,
and is interrupted when it takes longer than `--limit`, as Xet repeats its requests for minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import positive, print_result


sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

TOKEN, STORAGE = "/xet-write-token/", "/(v1|v2)/"
SECRET = "xet_planted_secret"
STATUSES = (400, 401, 403, 404, 413, 429, 500, 503, 507)
# a fault, and one of the words that a true cause has
FAULTS = {
    **{f"token {status}": (str(status),) for status in STATUSES},
    "token junk": ("JSON", "json", "decod", "expected value", "headers"),
    **{f"storage {status}": (str(status),) for status in STATUSES if status != 429},
    "storage junk": ("JSON", "json", "decod", "deserial", "parse", "expected", "buffer"),
    "storage closed": ("connect", "sending request", "unreachable"),
    "storage unknown": ("connect", "sending request", "resolve", "dns", "unreachable"),
    "storage cut": ("connect", "sending request", "reset", "closed"),
    "storage silent": (),
}
NOTICE = 65.0  # seconds that a command may be silent: a minute, and what a notice takes
END = 10.0  # seconds that an interrupted command may take


def push(fault: str, scenario: str) -> None:
    """One push with a fault; prints what came of it."""
    from hub.faults import REPOSITORY, SCENARIOS, talking_to
    from hub.loopback import Hub, unused_port
    from huggingface_hub import constants

    wait, interrupted = time.sleep, False
    with tempfile.TemporaryDirectory() as home, Hub().serving() as hub, talking_to(hub, home):
        constants.HF_HUB_DISABLE_XET, time.sleep = False, wait
        SCENARIOS[scenario].prepare(hub)
        print("pushing", file=sys.stderr, flush=True)
        where, _, what = fault.partition(" ")
        storage = {"closed": f"http://127.0.0.1:{unused_port()}", "unknown": "http://nowhere.invalid"}.get(
            what, hub.url
        )
        storage = _deaf(cuts=what == "cut") if what in ("cut", "silent") else storage
        access = {"casUrl": storage, "exp": int(time.time()) + 3600, "accessToken": SECRET}
        answer = (200, b"<html>", {}) if what == "junk" else (int(what) if what.isdigit() else 200, b"{}", {})
        given = (200, json.dumps(access).encode(), {})
        hub.instead = {
            TOKEN: answer if where == "token" else given,
            **({STORAGE: answer} if where == "storage" else {}),
        }
        try:
            SCENARIOS[scenario].push()
            said = "pushed"
        except KeyboardInterrupt:
            said, interrupted = "interrupted", True
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        state = hub.state(REPOSITORY)
        old, new = SCENARIOS[scenario].states()
        kept = "new" if state == new else "old" if state in old else "a mixture"
    print(json.dumps({"said": said, "interrupted": interrupted, "state": kept}), flush=True)
    os._exit(0)  # threads of Xet may still wait


def _deaf(cuts: bool) -> str:
    """A server that never answers, or cuts each connection."""
    server = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        while True:
            client, _ = server.accept()
            if cuts:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                kept.append(client)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def trial(fault: str, scenario: str, limit: float) -> dict[str, Any]:
    """A push with a fault in a process, and what is wrong about it."""
    command = [sys.executable, __file__, "--one", fault, scenario]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    start = time.monotonic()
    last, silent, errors, ending = None, 0.0, bytearray(), 0.0

    def interrupt() -> None:
        nonlocal ending
        ending = time.monotonic()
        process.send_signal(signal.SIGINT)

    timer = threading.Timer(limit, interrupt)
    killer = threading.Timer(limit + 60, process.kill)
    assert process.stderr is not None and process.stdout is not None
    while part := os.read(process.stderr.fileno(), 65536):
        if last is None:  # it has been started, and pushes now
            timer.start(), killer.start()
        silent, last = max(silent, time.monotonic() - (last or time.monotonic())), time.monotonic()
        errors += part
    output = process.stdout.read().decode()
    process.wait()
    timer.cancel(), killer.cancel()
    took, end = time.monotonic() - start, time.monotonic() - ending if ending else 0.0
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        found = {"said": f"nothing (exit code {process.returncode})", "interrupted": False, "state": "not known"}
    wrong = []
    if found["state"] not in ("old", "new") or (found["said"] == "pushed") != (found["state"] == "new"):
        wrong.append(f"state: {found['state']}")
    cause = FAULTS[fault][:]
    if not found["interrupted"] and found["said"] != "pushed":
        if not found["said"].startswith("FlabError") or not any(word in found["said"] for word in cause):
            wrong.append(f"cause: {found['said']}")
    if SECRET in found["said"] or SECRET in errors.decode(errors="replace"):
        wrong.append("the token is shown")
    if silent > NOTICE:
        wrong.append(f"silent for {silent:.0f} s")
    if end > END:
        wrong.append(f"went on for {end:.0f} s after Ctrl-C")
    found.update(fault=fault, scenario=scenario, seconds=round(took), silent=round(silent), wrong=wrong)
    print(json.dumps(found), file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--limit", type=float, default=150.0, help="seconds until a push is interrupted (default: 150)"
    )
    parser.add_argument("--at-once", type=positive, default=8, help="pushes at the same time, most wait (default: 8)")
    parser.add_argument("--one", nargs=2, metavar=("FAULT", "SCENARIO"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        push(*args.one)
    from hub.faults import SCENARIOS

    with ThreadPoolExecutor(args.at_once) as pool:
        trials = [pool.submit(trial, fault, name, args.limit) for fault in FAULTS for name in SCENARIOS]
        found = [one.result() for one in trials]
    print_result(
        "xet_faults",
        pushes_with_a_fault=len(found),
        longest_silence=max(one["silent"] for one in found),
        interrupted=sum(one["interrupted"] for one in found),
        wrong={f"{one['fault']}, {one['scenario']}": one["wrong"] for one in found if one["wrong"]},
    )


if __name__ == "__main__":
    main()
