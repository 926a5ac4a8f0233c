"""The controller killed (SIGKILL) at random moments and at random lines of its journal, and
started again each time.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.runs import attempts, journal_events, outcome, table

# A controller of the run argv[1] that dies with its argv[2]-th event: before it is written, with
# half of its line written, or after, before anything follows from it.
DRIVER = """
import json, os, signal, sys
from pathlib import Path
from agenttts.run import journal
from agenttts.loop.controller_job import ControllerJob

place, when = int(sys.argv[2]), sys.argv[3]
write, count = journal.Journal.append, 0

def append(self, event, **values):
    global count
    count += 1
    last = count == place
    if last and when == "half":
        with Path(sys.argv[1], "journal.jsonl").open("ab") as stream:
            stream.write(json.dumps({"event": event, **values}).encode()[:-5])
    if last and when in ("half", "before"):
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, event, **values)
    if last and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)

journal.Journal.append = append
ControllerJob(Path(sys.argv[1]))()
"""
NEVER = 10**9
PROFILE = "kind: {kind}\nmax_running: 3\ngpus_per_node: 0\npoll_seconds: 0.1\n"


def start(run: Path, event: int, when: str) -> subprocess.Popen[bytes]:
    log = (run / "driver.log").open("ab")
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(run), str(event), when], stdout=log, stderr=log)  # fmt: skip


def journal(run: Path) -> bytes:
    file = run / "journal.jsonl"
    return file.read_bytes() if file.exists() else b""


@pytest.fixture
def launched(cli, scripted_spec, unstarted_run, tmp_path):
    """An undisturbed run in this process, and one of the same spec and seed whose jobs have
    processes of their own. Its controller has not been started.
    """
    for kind in ("in_process", "local"):
        (tmp_path / f"{kind}.yaml").write_text(PROFILE.format(kind=kind))
    changes = {"search__iterations": 1, "search__batch_size": 4, "search__budget": 120}
    spec = scripted_spec("calm", cluster="./in_process.yaml", **changes)
    done = cli("launch", spec, "--wait")
    assert done.returncode == 0, done.stderr
    killed = unstarted_run(name="killed", cluster=str(tmp_path / "local.yaml"), **changes)
    return tmp_path / "results" / "calm", killed.path


def check(cli, calm: Path, killed: Path) -> None:
    """The killed run ends as the calm one did; nothing was lost, nothing done twice."""
    done = cli("resume", "killed", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(killed) == outcome(calm)
    trials, last = table(calm)["trial"].to_list(), table(calm)["iteration"].max()
    proposed = [trial["trial"] for e in journal_events(killed, "proposed") for trial in e["trials"]]
    assert proposed == trials, "each was proposed once"
    finished = Counter(e["trial"] for e in journal_events(killed, "finished"))
    assert finished == dict.fromkeys(trials, 1), "each ended once"
    iterations = [[e["iteration"] for e in journal_events(r, "told")] for r in (calm, killed)]
    assert iterations[1] == iterations[0] == [*range(last + 1)]
    assert [e["outcome"] for e in journal_events(killed, "ended")] == ["done"]
    assert sorted(path.name for path in (killed / "trials").iterdir()) == trials
    for trial in trials:
        states = [attempt["state"] for attempt in attempts(killed, trial)]
        assert states == ["COMPLETED"], f"{trial} ran more than once: {states}"


def killed_at_a_line(run: Path, dice: random.Random, last: int = 6) -> bool:
    """Run a controller until it has written a few events, ``last`` at most; whether that was
    its end.
    """
    event, when = dice.choice([1, 2, 2, 3, 3, last]), dice.choice(["before", "half", "after"])
    code = start(run, event, when).wait(120)
    assert code in (-signal.SIGKILL, 0), (run / "driver.log").read_text()
    return code != 0


def killed_at_a_moment(run: Path, dice: random.Random) -> bool:
    """Kill a controller a while after its first event, which comes when all its imports are
    done.
    """
    before = journal(run)
    process = start(run, NEVER, "never")
    while journal(run) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 0.8))
    process.kill()
    return process.wait() != 0


def test_a_controller_killed_anywhere_loses_and_repeats_nothing(cli, launched, dice):
    calm, killed = launched
    # The first event of a controller says that it started: four of these leave most of the run to
    # what follows.
    for _ in range(4):
        assert killed_at_a_line(killed, dice, last=3), "the run was over before it could be killed"
    kills = 4
    while kills < 7 and b'"ended"' not in journal(killed):
        kills += dice.choice([killed_at_a_line, killed_at_a_moment])(killed, dice)
    check(cli, calm, killed)
