"""A served model's job, from both sides, with a small HTTP server in vLLM's place that dies or
hangs when told to.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agenttts.dispatch.job_starts import read_job_starts
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.schedulers import create_scheduler
from agenttts.errors import MissingRequirement
from agenttts.files.processes import children, environment
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_options import installed_vllm_options
from agenttts.search.llm.base import LLMError
from agenttts.serving import job, program
from agenttts.serving.job import (
    ADDRESS_FILE,
    KEY_FILE,
    KEY_VARIABLE,
    LOG_FILE,
    PORT,
    UNUSABLE_NODE,
    Serving,
    read_address,
    serve,
    service_request,
    write_serving,
)
from agenttts.serving.lifecycle import ServedLimits, ServedModel, idle_limit
from agenttts.serving.program import server_command
from tests.support.forks import signal_at_fork
from tests.support.full_disk import full_disk
from tests.support.processes import alive
from tests.support.waiting import until

pytestmark = pytest.mark.processes

SERVER = """
import http.server, os, sys, time

if os.path.exists("slow"): time.sleep(60)
if os.path.exists("broken"): sys.exit("no such model")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        right = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if right and self.path == "/v1/models" else 401)
        self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Bench:
    """A served model in a folder, what was noted about it, and switches for its server."""

    def __init__(self, folder: Path, **limits: float) -> None:
        (folder / "server.py").write_text(SERVER)
        self.folder = folder / "agent"
        self.notes: list[str] = []
        settings = {
            "start_seconds": 120.0,
            "idle_seconds": 600.0,
            "restarts": 1,
            "poll_seconds": 0.05,
        }
        self.limits = ServedLimits(**{**settings, **limits})  # type: ignore[arg-type]
        self.model = self.start_over()

    def start_over(self, lease_seconds: float = 60.0) -> ServedModel:
        command = (sys.executable, str(self.folder.parent / "server.py"), PORT)
        serving = Serving(command, {}, (KEY_VARIABLE,), "127.0.0.1", lease_seconds, "agent", {})
        scheduler = create_scheduler(Profile(kind="local"), self.folder.parent / "jobs")
        request = service_request(self.folder, run="r", token="r-1", gpus=0)
        self.model = ServedModel(
            self.folder, serving, scheduler, request, self.limits, self.notes.append
        )
        return self.model

    @property
    def pid(self) -> int:
        address = read_address(self.folder)
        assert address is not None
        return int(address.job)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made: list[Bench] = []

    def make(**limits: float) -> Bench:
        made.append(Bench(tmp_path, **limits))
        return made[-1]

    yield make
    for each in made:
        each.model.release()


def test_started_found_checked_and_released(bench):
    served = bench()
    address = served.model.locate()
    assert address.base_url.startswith("http://127.0.0.1:")
    assert served.model.locate() == address
    key = served.folder / KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(address.key) >= 32
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert address.key.encode() not in process.read_bytes(), "never on a command line"
        except OSError:
            continue
    pid = served.pid
    served.model.release()
    until(lambda: not alive(pid))
    assert not key.exists()
    assert not (served.folder / ADDRESS_FILE).exists()
    assert [note.split()[0] for note in served.notes] == ["started", "ready", "released"]
    assert all(address.key not in note for note in served.notes)


def test_what_its_jobs_use_is_recorded(bench):
    served = bench()
    served.model._serving = replace(served.model._serving, model={"gpus": 2})
    served.model.locate()
    pid = served.pid
    [running] = read_job_starts(served.folder)
    assert (running.job_id, running.gpus, running.finished) == (str(pid), 2, None)
    assert running.waited_since is not None
    assert running.waited_since <= running.started
    os.kill(pid, 9)
    until(lambda: not alive(pid))
    served.model.locate()
    second = served.pid
    served.model.release()
    until(lambda: not alive(second))
    killed, released = read_job_starts(served.folder)
    assert killed.finished is None
    assert released.job_id == str(second)
    assert released.finished is not None
    assert released.started < released.finished
    assert running.started < released.waited_since <= released.started, "each job is submitted anew"


def test_a_job_that_may_be_killed_records_from_time_to_time(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_RECORD_S", 0.0)
    recorded: list[int] = []

    def record() -> None:
        recorded.append(1)
        if len(recorded) == 3:
            child.terminate()

    child = subprocess.Popen(["sleep", "60"])
    job._watch(child, tmp_path / "lease", 60.0, record)
    assert len(recorded) >= 3
    child.wait()


class FullDisk(list[str]):
    """Notes that cannot be written."""

    def append(self, note: str) -> None:
        raise MissingRequirement(f"cannot write {note!r}", fix="free space")


def test_in_a_job_of_the_user_s_it_is_a_process_and_no_rank(bench, monkeypatch):
    """The job has run the launch with submitit, and torchrun or srun the ranks of a program."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("WORLD_SIZE", "2")
    served = bench()
    served.model.locate()
    [record] = read_job_starts(served.folder)
    assert f"started as job {record.job_id}" in served.notes
    [server] = children(record.job_id)
    variables = environment(server)
    assert variables["SLURM_JOB_ID"] == "77"
    assert "WORLD_SIZE" not in variables


def test_a_model_is_stopped_even_if_that_cannot_be_noted(bench):
    served = bench()
    served.model.locate()
    pid = served.pid
    served.notes = FullDisk()
    with pytest.raises(MissingRequirement):
        served.start_over().release()
    until(lambda: not alive(pid))
    assert not (served.folder / KEY_FILE).exists()


def test_an_empty_key_file_is_no_key(bench):
    served = bench()
    served.folder.mkdir()
    (served.folder / KEY_FILE).touch(0o644)  # a full disk, or a kill before the key was written
    address = served.model.locate()
    assert len(address.key) >= 32
    assert stat.S_IMODE((served.folder / KEY_FILE).stat().st_mode) == 0o600


def test_started_again_when_it_dies(bench):
    served = bench()
    first, pid = served.model.locate(), served.pid
    os.kill(pid, 9)
    until(lambda: not alive(pid))
    second = served.model.locate()
    assert served.pid != pid
    assert second.key == first.key
    assert any("ended by itself" in note for note in served.notes)


def test_one_that_never_runs_is_an_error_with_the_end_of_its_log(bench, tmp_path):
    (tmp_path / "broken").touch()
    served = bench(restarts=1)
    with pytest.raises(LLMError, match="2 times in a row.*no such model") as caught:
        served.model.locate()
    assert caught.value.fault == "unavailable"
    (tmp_path / "broken").unlink()
    assert served.model.locate().key, "the next batch may try again"


def test_one_that_takes_too_long_is_released(bench, tmp_path):
    (tmp_path / "slow").touch()
    served = bench(start_seconds=0.5)
    with pytest.raises(LLMError, match="not ready within start_seconds \\(0.5\\)"):
        served.model.locate()
    assert served.notes[-1] == "released"
    assert read_address(served.folder) is None


def test_released_while_trials_run_long_and_started_for_their_end(bench):
    served = bench()
    served.model.locate()
    pid = served.pid
    served.model.trials_run(9, 10, True)
    assert alive(pid), "not at once"
    served.model._used -= 601  # more than idle_seconds ago
    served.model.trials_run(8, 10, True)
    until(lambda: not alive(pid))
    served.model.trials_run(5, 10, True)
    assert read_address(served.folder) is None
    served.model.trials_run(2, 10, True)
    until(lambda: read_address(served.folder) is not None)


def test_not_started_for_the_end_of_the_trials_if_a_worker_is_expected_to_answer(bench):
    served = bench()
    expected = [True]
    served.model._needed = lambda: not expected[0]
    served.model.trials_run(1, 10, True)
    assert not served.folder.exists()
    served.model.locate()
    pid = served.pid
    served.model._used -= 601
    served.model.trials_run(1, 10, True)
    until(lambda: not alive(pid))
    expected[0] = False
    served.model.trials_run(1, 10, True)
    until(lambda: read_address(served.folder) is not None)


def test_on_gpus_it_idles_no_longer_than_its_start_took(bench):
    served = bench()
    served.model._request = replace(served.model._request, gpus=1)
    began = time.monotonic()
    served.model.locate()
    took = served.model._loads_for
    assert took is not None
    assert 0 < took <= time.monotonic() - began
    pid = served.pid
    served.model._used = time.monotonic() - took - 1
    served.model.trials_run(9, 10, True)
    until(lambda: not alive(pid))


def test_a_start_ahead_of_the_question_is_measured_too(bench):
    served, began = bench(), time.monotonic()

    def ready() -> bool:
        served.model.trials_run(1, 10, True)
        return any(note.startswith("ready at") for note in served.notes)

    until(ready, "the server")
    took = served.model._loads_for
    assert took is not None
    assert 0 < took <= time.monotonic() - began


@pytest.mark.parametrize(
    ("gpus", "start", "limit"),
    [(1, 90.0, 90.0), (2, 900.0, 600.0), (1, None, 600.0), (0, 90.0, 600.0)],
)
def test_how_long_a_model_may_idle(gpus, start, limit):
    assert idle_limit(600.0, gpus, start) == limit


def test_workers_make_room_for_a_model_that_shares_their_gpus(bench):
    made: list[str] = []
    served = bench()
    served.model._make_room = lambda: made.append("room")
    served.model.locate()
    assert made == [], "it has GPUs of its own"
    served = bench(alone=True)
    served.model._make_room = lambda: made.append("room")
    served.model.release()
    served.model.locate()
    assert made == ["room"]


def test_released_at_once_when_no_question_is_left_or_the_trials_need_its_gpus(bench):
    served = bench()
    served.model.locate()
    served.model.trials_run(3, 3, False)
    assert read_address(served.folder) is None
    served = bench(alone=True)
    served.model.locate()
    served.model.trials_run(3, 3, True)
    assert read_address(served.folder) is None
    served.model.trials_run(1, 3, True)
    assert read_address(served.folder) is None, "not before the trials are over"


def test_it_ends_by_itself_when_the_controller_is_gone(bench):
    served = bench()
    served.start_over(lease_seconds=2.0).locate()
    pid = served.pid
    until(lambda: not alive(pid))
    assert not (served.folder / ADDRESS_FILE).exists()


def test_a_server_that_its_controller_has_left_behind_is_ended(bench):
    served = bench()
    served.model.locate()
    served.start_over()  # another controller, whose child it is not
    pid = served.pid
    served.model.release()
    until(lambda: not alive(pid))
    assert served.notes[-1] == f"job {pid} of an earlier start was still there and is cancelled"


def test_its_job_says_when_the_server_answers_on_its_node(bench, tmp_path):
    (tmp_path / "slow").touch()
    served = bench(start_seconds=1.0)
    with pytest.raises(LLMError, match="runs and is still loading it"):
        served.model.locate()
    (tmp_path / "slow").unlink()
    served.model._limits = replace(served.limits, start_seconds=60.0)
    served.model.locate()
    address = until(lambda: (found := read_address(served.folder)) and found.ready and found)
    assert address.started <= address.ready
    assert address.job == str(served.pid)


def test_a_server_whose_address_could_not_be_written_is_found_when_there_is_room(bench):
    """The job goes on: a model that was loaded would have to be loaded again."""
    served = bench()
    served.model._start()
    first = served.model._job
    until(lambda: read_address(served.folder))
    (served.folder / ADDRESS_FILE).unlink()  # as if it had not been written
    address = served.model.locate()
    assert address.base_url.startswith("http://127.0.0.1:")
    assert served.model._job == first


def test_a_full_disk_takes_no_address_for_the_moment(tmp_path):
    address = job.ServerAddress(("n1",), "n1", 1, "7", "")
    with full_disk(3):
        assert not job._note_address(tmp_path, address)
    assert read_address(tmp_path) is None
    assert job._note_address(tmp_path, address)
    assert read_address(tmp_path) == address


def test_a_node_is_known_by_names_and_addresses_that_others_can_use(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n07")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu07")
    monkeypatch.setattr(
        socket, "gethostbyname_ex", lambda name: (name, [], ["127.0.1.1", "10.1.0.7"])
    )
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost.localdomain")
    assert job._hosts("0.0.0.0") == ("gpu07", "n07", "10.1.0.7")
    assert job._hosts("127.0.0.1") == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("bound", "added"), [("0.0.0.0", ("10.2.0.7", "172.17.0.1")), ("127.0.0.1", ())]
)
def test_the_addresses_of_interfaces_are_told_when_the_server_answers(
    tmp_path, monkeypatch, bound, added
):
    """Before, each look of the controller at all of them could take half a minute."""
    interfaces = {"lo": "127.0.0.1", "eth0": "10.1.0.7", "ib0": "10.2.0.7", "docker0": "172.17.0.1", "off": "10.3.0.7"}  # fmt: skip
    addresses = {name: [SimpleNamespace(family=socket.AF_INET, address=at), SimpleNamespace(family=socket.AF_INET6, address="fe80::1")] for name, at in interfaces.items()}  # fmt: skip
    states = {name: SimpleNamespace(isup=name != "off") for name in interfaces}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    up: list[bool] = []
    monkeypatch.setattr(job, "answers", lambda url, key: bool(up))
    known = job.ServerAddress(("gpu07", "10.1.0.7"), "gpu07", 1, "7", "2026-01-01T00:00:00+00:00")
    job._note_address(tmp_path, known)
    assert not job._note_ready(tmp_path, known, "key", bound)
    assert read_address(tmp_path) == known
    up.append(True)
    assert job._note_ready(tmp_path, known, "key", bound)
    told = read_address(tmp_path)
    assert told.hosts == (*known.hosts, *added)
    assert told.ready
    later = replace(known, started="2026-01-01T01:00:00+00:00")
    job._note_address(tmp_path, later)
    assert read_address(tmp_path) == later, "a killed job may leave its file"


def test_a_controller_of_an_older_version_reads_the_address(tmp_path):
    """It runs on while the package is upgraded, and takes no key that it does not know."""
    known = job.ServerAddress(("n1",), "n1", 1, "7", "2026-01-01T00:00:00+00:00")
    job._note_address(tmp_path, known)
    written = json.loads((tmp_path / ADDRESS_FILE).read_text())
    assert set(written) == {"hosts", "node", "port", "job", "started"}


def test_an_address_that_a_later_version_wrote_is_read(tmp_path):
    written = {"hosts": ["n1"], "node": "n1", "port": 1, "job": "7", "started": "", "tls": True}
    (tmp_path / job.ADDRESS_FILE).write_text(json.dumps(written))
    assert read_address(tmp_path).hosts == ("n1",)
    (tmp_path / job.ADDRESS_FILE).write_text("[]")
    assert read_address(tmp_path) is None


def test_another_server_at_the_port_is_not_taken_for_ours(bench):
    served = bench()
    served.model.locate()
    (served.folder / KEY_FILE).chmod(0o600)
    (served.folder / KEY_FILE).write_text("another key")
    served.limits = ServedLimits(0.5, 600, 0, poll_seconds=0.05)
    served.model._limits = served.limits
    with pytest.raises(LLMError, match="not ready"):
        served.model.locate()


def test_one_that_is_released_while_its_server_starts_ends(tmp_path):
    write_serving(
        tmp_path,
        Serving(("sleep", "60"), {}, (), "127.0.0.1", lease_seconds=30, name="m", model={}),
    )
    before = signal.getsignal(signal.SIGTERM)
    others = {*children(os.getpid())}  # of other tests
    began = time.monotonic()
    try:
        with signal_at_fork(signal.SIGTERM):
            assert serve(tmp_path) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - began < 20
    assert read_address(tmp_path) is None
    assert {*children(os.getpid())} <= others


@pytest.mark.parametrize("on_cpu", [True, False])
def test_engine_options_become_the_servers_flags(on_cpu, monkeypatch):
    monkeypatch.setattr(program, "is_cpu_build", lambda: on_cpu)
    config = ModelConfig(
        "agent", "/models/m", options={"max_model_len": 2048, "enforce_eager": False,
        "enable_prefix_caching": True, "hf_overrides": {"a": 1}, "quantization": None},
    )  # fmt: skip
    command, _ = server_command(config, "agent", "0.0.0.0", 8000)
    text = " ".join(command)
    server = "agenttts.serving.cpu_server" if on_cpu else "vllm.entrypoints.openai.api_server"
    assert f"-m {server} --model /models/m --served-model-name agent" in text
    assert "--host 0.0.0.0 --port 8000" in text
    assert "--max-model-len 2048" in text
    assert "--no-enforce-eager" in text
    assert "--enable-prefix-caching" in text
    assert '--hf-overrides {"a": 1}' in text
    assert "quantization" not in text
    assert "key" not in text


FLAGS = [
    ("cudagraph_capture_sizes", [1, 2, 4], "--cudagraph-capture-sizes 1 2 4"),
    ("logits_processors", ["m:C", "n:D"], "--logits-processors m:C n:D"),
    ("kv_cache_dtype_skip_layers", ["0", "5"], "--kv-cache-dtype-skip-layers 0 5"),
    ("sleep_preserve_parameter_names", [], ""),
    ("device_ids", [0, 1], "--device-ids 0,1"),
    ("disable_log_stats", True, "--disable-log-stats"),
    ("disable_log_stats", False, ""),
    ("aggregate_engine_logging", False, ""),
    ("async_scheduling", False, "--no-async-scheduling"),
    ("speculative_config", {"method": "ngram"}, '--speculative-config {"method": "ngram"}'),
]


@pytest.mark.parametrize(("option", "value", "flags"), FLAGS)
def test_lists_and_switches_become_flags_that_the_server_knows(option, value, flags, monkeypatch):
    monkeypatch.setattr(program, "is_cpu_build", lambda: False)
    config = ModelConfig("agent", "/models/m", options={option: value})
    command, _ = server_command(config, "agent", "0.0.0.0", 8000)
    assert " ".join(command).partition(" --port 8000")[2].strip() == flags


@pytest.mark.llm
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_the_installed_server_reads_the_flags_as_the_options():
    arg_utils = pytest.importorskip("vllm.engine.arg_utils")
    parser = arg_utils.EngineArgs.add_cli_args(arg_utils.FlexibleArgumentParser())
    switches = {
        name: parser.parse_known_args(program._flags({name: False}))
        for name, kind in installed_vllm_options().items()
        # The first has no flag; that of the second is the server's own.
        if kind == "bool" and name not in ("enable_mm_processor_stats", "tokens_only")
    }
    assert {name for name, (_, unknown) in switches.items() if unknown} == set()
    assert not any(getattr(found, name) for name, (found, _) in switches.items())
    for option, value, _ in FLAGS:
        found = getattr(parser.parse_args(program._flags({option: value})), option)
        assert found == value or (value == [] and not found)


SQUEUE = """cat <<'END'
JOBID|STATE|REASON|COMMENT
7|{state}|{reason}|agenttts run=r agent batch=r-1-agent
END"""


@pytest.fixture
def on_slurm(fake, tmp_path):
    """Make a model that a job of a cluster of fake commands serves; the notes on it, and what
    scancel was given.
    """
    folder, notes, record = tmp_path / "agent", [], tmp_path / "cancelled"
    record.touch()
    fake("sbatch", "echo Submitted batch job 7")
    fake("scancel", f'echo "$@" >> {record}')

    def make(patience_minutes: float, **limits: float) -> ServedModel:
        profile = Profile(
            kind="slurm", trial=JobResources(time="10"), never_patience_minutes=patience_minutes
        )
        scheduler = create_scheduler(profile, tmp_path / "jobs")
        request = service_request(folder, run="r", token="r-1", gpus=1)
        serving = Serving(("true",), {}, (KEY_VARIABLE,), "0.0.0.0", 60.0, "agent", {})
        settings = {
            "start_seconds": 0.3,
            "idle_seconds": 600.0,
            "restarts": 0,
            "poll_seconds": 0.05,
        }
        limited = ServedLimits(**settings | limits)
        return ServedModel(folder, serving, scheduler, request, limited, notes.append)

    return make, notes, record


def test_a_served_model_s_job_that_waits_says_why_in_the_error_and_once_in_the_notes(on_slurm, fake):  # fmt: skip
    make, notes, record = on_slurm
    fake("squeue", SQUEUE.format(state="PENDING", reason="JobHeldUser"))
    with pytest.raises(LLMError, match="not ready within .*; its job 7 is still pending: JobHeldUser: it is held by you; 'scontrol release 7'"):  # fmt: skip
        make(patience_minutes=30).locate()
    assert sum("waits" in note for note in notes) == 1
    assert "7" in record.read_text().split(), "released"
    notes.clear()
    fake("squeue", SQUEUE.format(state="PENDING", reason="Priority"))
    with pytest.raises(
        LLMError, match="its job 7 is still pending: Priority: jobs of higher priority"
    ):
        make(patience_minutes=30).locate()
    assert not any("waits" in note for note in notes), "that passes"


def test_a_served_model_s_job_that_would_never_start_is_given_up(on_slurm, fake):
    make, notes, record = on_slurm
    fake("squeue", SQUEUE.format(state="PENDING", reason="PartitionTimeLimit"))
    with pytest.raises(LLMError, match="failed 1 times in a row; job 7: it would not have started and was cancelled: PartitionTimeLimit"):  # fmt: skip
        make(patience_minutes=0, start_seconds=60.0).locate()
    assert record.read_text().splitlines()[0] == "--state=PENDING 7"
    assert any("lower the key time in the profile" in note for note in notes)


SBATCH = r"""
nodes=$(sed -n 's/^#SBATCH --exclude=//p' "$1")
echo "${{nodes:--}}" >> {0}/excluded
echo Submitted batch job $((7 + $(wc -l < {0}/excluded)))
"""
ENDED = r"""
echo 'JOBID NODELIST|STATE|REASON|COMMENT'
n=$(wc -l < {0}/excluded)
for i in $(seq 1 $n); do echo "$((7 + i)) gpu$i|{1}|None|x"; done
"""


@pytest.fixture
def dying(fake, tmp_path):
    """Make a model whose jobs end as soon as they are looked at, job number N on node gpuN.

    Also a function that says which nodes each of them avoided.
    """

    def make(state: str, avoided: tuple[str, ...] = (), **limits: object) -> ServedModel:
        (tmp_path / "excluded").touch()
        fake("sbatch", SBATCH.format(tmp_path))
        fake("squeue", ENDED.format(tmp_path, state))
        fake("scancel", "exit 0")
        profile = Profile(kind="slurm", trial=JobResources(time="10", exclude="bad"))
        scheduler = create_scheduler(profile, tmp_path / "jobs")
        request = service_request(tmp_path / "agent", run="r", token="r-1", gpus=1)
        serving = Serving(("true",), {}, (KEY_VARIABLE,), "0.0.0.0", 60.0, "agent", {})
        settings = {
            "start_seconds": 60.0,
            "idle_seconds": 600.0,
            "restarts": 2,
            "poll_seconds": 0.01,
        }
        made = ServedLimits(**settings | limits)  # type: ignore[arg-type]
        return ServedModel(
            tmp_path / "agent", serving, scheduler, request, made, print, lambda: avoided
        )

    return make, lambda: (tmp_path / "excluded").read_text().split()


@pytest.mark.parametrize("state", ["FAILED", "COMPLETED", "NODE_FAIL", "COMPLETING"])
def test_the_next_job_keeps_off_the_nodes_of_those_that_ended_and_of_failed_trials(dying, state):
    make, excluded = dying
    served = make(state, ("n9",))
    for _ in range(2):  # after it gave up it begins anew: so many nodes have a common cause
        with pytest.raises(LLMError, match="3 times in a row"):
            served.locate()
    first, second = excluded()[:3], excluded()[3:]
    assert first == ["bad,n9", "bad,gpu1,n9", "bad,gpu1,gpu2,n9"]
    assert second[0] == "bad,n9"


@pytest.mark.parametrize("state", ["CANCELLED", "PREEMPTED", "TIMEOUT"])
def test_a_job_that_others_ended_is_not_its_node_s_fault(dying, state):
    make, excluded = dying
    with pytest.raises(LLMError):
        make(state).locate()
    assert excluded() == ["bad"] * 3


def test_pauses_grow_between_starts_in_a_row(dying):
    make, excluded = dying
    served = make("FAILED", pauses=(0.0, 0.5), restarts=2)
    begun = time.monotonic()
    with pytest.raises(LLMError, match="3 times in a row"):
        served.locate()
    assert len(excluded()) == 3
    assert time.monotonic() - begun >= 0.5


def test_a_node_that_cannot_see_the_model_starts_no_server(bench, tmp_path):
    served = bench(restarts=0)
    missing = tmp_path / "models" / "gone"
    served.model._serving = replace(served.model._serving, needs=(str(missing),))
    with pytest.raises(LLMError, match=f"cannot serve the model: .*{missing}"):
        served.model.locate()
    assert read_address(served.folder) is None
    missing.mkdir(parents=True)
    assert served.model.locate().key


def test_a_server_on_the_host_keeps_what_it_compiles(tmp_path):
    folder, cache = tmp_path / "served", tmp_path / "cache"
    script = "mkdir -p $VLLM_CACHE_ROOT; echo x > $VLLM_CACHE_ROOT/x; echo $CUDA_CACHE_PATH"
    serving = Serving(("sh", "-c", script), {"CUDA_CACHE_PATH": "/mine"}, (), "127.0.0.1", 60, "m", {})  # fmt: skip
    write_serving(folder, replace(serving, cache={"directory": str(cache), "image": ""}))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert serve(folder) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (folder / LOG_FILE).read_text() == "/mine\n", "a variable of the profile wins"
    assert [path.name.startswith("cpu-host-") for path in cache.iterdir()] == [True]


@pytest.mark.parametrize(
    ("trap", "kept"), [("trap 'exit 0' TERM", True), ("trap 'exit 1' TERM", False), (":", False)]
)
def test_a_server_that_is_released_keeps_what_it_compiled_if_it_ends_well(tmp_path, trap, kept):
    folder, cache = tmp_path / "served", tmp_path / "cache"
    script = f"{trap}; mkdir -p $VLLM_CACHE_ROOT; echo x > $VLLM_CACHE_ROOT/x; touch {tmp_path}/ready; while :; do sleep 0.05; done"  # fmt: skip
    serving = Serving(("sh", "-c", script), {}, (), "127.0.0.1", 60, "m", {})
    write_serving(folder, replace(serving, cache={"directory": str(cache), "image": ""}))
    code = f"from pathlib import Path; from agenttts.serving.job import serve; import sys; sys.exit(serve(Path({str(folder)!r})))"  # fmt: skip
    job = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (tmp_path / "ready").exists())
    job.terminate()
    assert job.wait(60) == 0
    assert cache.exists() is kept
    assert read_address(folder) is None


def test_a_node_without_a_place_for_scratch_starts_no_server(tmp_path, monkeypatch):
    folder = tmp_path / "served"
    write_serving(
        folder, Serving(("touch", str(tmp_path / "ran")), {}, (), "127.0.0.1", 60, "m", {})
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert serve(folder) == UNUSABLE_NODE
    finally:
        signal.signal(signal.SIGTERM, before)
    [start] = read_job_starts(folder)
    assert start.finished is not None
    log = (folder / LOG_FILE).read_text()
    assert "cannot serve the model: no scratch directory can be made: " in log
    assert not (tmp_path / "ran").exists()
