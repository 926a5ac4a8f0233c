"""Programs that try to do harm, and how to tell that they could not.

Run by the tests, here and inside a container.

As a program (``python hostile_programs.py``) it runs them all in the sandbox and prints one JSON
line each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace

from agenttts.sandbox import Limits, Outcome, run_program

# Of time, more than they need on a busy machine: but for those that are to meet them.
LIMITS = Limits(seconds=20, idle_seconds=5, memory_mb=300, processes=24, disk_mb=16, file_mb=4)


@dataclass(frozen=True)
class Hostile:
    """``ends`` are the ways in which it may end: a limit's name, ``error`` (it got an
    exception), ``0``.
    """

    code: str
    ends: tuple[str, ...]
    stderr: str = ""
    limits: Limits = LIMITS


PROGRAMS = {
    # Which limit is met first depends on how busy the machine is.
    "fork bomb": Hostile("import os\nwhile True: os.fork()", ("processes", "error")),
    "many threads": Hostile(
        "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(60,)).start()",
        ("processes", "idle", "error"),
        limits=replace(LIMITS, idle_seconds=1),
    ),
    "one big allocation": Hostile("bytearray(2 << 30)", ("error",), "MemoryError"),
    "memory hog": Hostile(
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))", ("memory", "error")
    ),
    "memory hog of many processes": Hostile(
        "import os, time\nfor _ in range(4): os.fork()\nx = bytearray(b'1' * (100 << 20))\ntime.sleep(60)",
        ("memory", "error"),
    ),
    "endless loop": Hostile("while True: pass", ("time",), limits=Limits(seconds=1)),
    "CPU time over": Hostile(
        "while True: pass", ("error",), limits=Limits(seconds=20, cpu_seconds=1)
    ),
    "endless wait": Hostile("import time\ntime.sleep(1000)", ("idle",), limits=Limits(seconds=20)),
    "endless output": Hostile("while True: print('x' * 1000)", ("error",), "File too large"),
    "one big file": Hostile(
        "with open('f', 'wb') as f:\n  while True: f.write(bytes(1 << 20))", ("error",), "too large"
    ),
    "many files": Hostile(
        "i = 0\nwhile True:\n  i += 1\n  open(f'f{i}', 'wb').write(bytes(1 << 20))", ("disk",)
    ),
    "many files that nobody can see": Hostile(
        "import os, time\nkept = []\nfor i in range(200):\n"
        "  f = os.open('f', os.O_CREAT | os.O_RDWR); os.unlink('f'); kept.append(f); os.write(f, bytes(1 << 20))\n"
        "time.sleep(9)",
        ("disk", "error"),
    ),
    "many files below a long path": Hostile(
        "import os\nfor _ in range(30):\n  os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "i = 0\nwhile True:\n  i += 1\n  open(f'f{i}', 'wb').write(bytes(1 << 20))",
        ("disk",),
    ),
    "many files in shared memory": Hostile(
        "i = 0\nwhile True:\n  i += 1\n  open(f'/dev/shm/f{i}', 'wb').write(bytes(1 << 20))", ("disk",)
    ),
    "many blocks of shared memory": Hostile(
        "from multiprocessing.shared_memory import SharedMemory\nkept = []\n"
        "while True:\n  kept.append(SharedMemory(create=True, size=1 << 20)); kept[-1].buf[:] = bytes(1 << 20)",
        ("disk", "memory", "error"),
    ),
    "one big block of shared memory": Hostile(
        "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=1 << 30)",
        ("error",), "File too large",
    ),
    "many empty files": Hostile(
        "i = 0\nwhile True:\n  i += 1\n  open(f'f{i}', 'w')", ("disk", "time")
    ),
    "deep directories": Hostile(
        "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')", ("0", "disk")
    ),
    "the machine's settings": Hostile(
        "for place in ('sys/kernel/core_pattern', 'sys/vm/overcommit_memory', 'self/oom_score_adj', 'self/comm'):\n"
        "  try: open('/proc/' + place, 'r+b', 0)\n"
        "  except OSError: pass\n"
        "  else: raise SystemExit('opened ' + place)",
        ("0",),
    ),
    "socket": Hostile(
        "import socket\nsocket.socket()", ("error",), "PermissionError"
    ),
    "connection": Hostile(
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1/')", ("error",), "not permitted"
    ),
    "new namespaces": Hostile(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())",
        ("error",), "not permitted",
    ),
    "kill everything": Hostile("import os, signal\nos.kill(-1, signal.SIGKILL)\nos.kill(1, 9)", ("0", "error")),
}  # fmt: skip


def how(outcome: Outcome) -> str:
    """How a run ended, in the words of `Hostile.ends`."""
    return outcome.stopped or ("0" if outcome.exit_code == 0 else "error")


def main() -> None:
    for name, hostile in PROGRAMS.items():
        outcome = run_program({"main.py": hostile.code}, limits=hostile.limits)
        print(json.dumps({"name": name, "how": how(outcome), **asdict(outcome)}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
