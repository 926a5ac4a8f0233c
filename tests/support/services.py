"""A service that runs until it is stopped, and a program that starts one and is killed.

``python -m tests.support.services PROFILE FOLDER START``: start the service of the profile (a file)
in the folder and die at once; where the service runs in the starting process, run it instead.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agenttts.dispatch.profile import load_profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.files.locks import is_locked

NAME = "run-1234-service"


def function(folder: Path) -> Callable[[], None]:
    """What the service's job calls.

    It writes ``pid``, holds ``lock``, and leaves ``ended`` when it ends in order.
    """

    def serve() -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                (folder / "pid").write_text(str(os.getpid()))
                while True:
                    time.sleep(0.05)
            finally:
                (folder / "ended").touch()

    return serve


def request(
    folder: Path,
    start: str,
    *,
    ends_with_caller: bool,
    name: str = NAME,
    exclude: tuple[str, ...] = (),
) -> ServiceRequest:
    """The request for the service."""
    return ServiceRequest(
        name=name,
        start=start,
        function=function(folder),
        title=f"svc-{name}",
        comment="agenttts run=run service",
        section="trial",
        exclude=exclude,
        ends_with_caller=ends_with_caller,
    )


def record(folder: Path, service: Service) -> Service:
    """What an owner that can look at the service's lock knows of it."""
    known = {**vars(service), "is_locked": lambda: is_locked(folder / "lock")}
    return Service(**known)


if __name__ == "__main__":
    place, token = Path(sys.argv[2]), sys.argv[3]
    starter = create_scheduler(load_profile(sys.argv[1], []), place / "service")
    asked = request(place, token, ends_with_caller=False)
    starter.start_service(asked)
    if starter.runs_in_this_process:
        asked.function()
    os.kill(os.getpid(), signal.SIGKILL)
