"""Programs in the sandbox: ordinary ones run, hostile ones are contained, and nothing outlives
the call.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement
from agenttts.files.trouble import is_outside_trouble
from agenttts.sandbox import Limits, check_sandbox, filesystem, run_program, watch
from agenttts.sandbox.scratch import remove_stale, remove_tree, scratch_directory
from agenttts.sandbox.seccomp import build
from tests.support.full_disk import full_disk
from tests.support.hostile_programs import PROGRAMS, how
from tests.support.processes import processes_with
from tests.support.waiting import until

pytestmark = pytest.mark.processes


# Of time, more than a program needs on a busy machine: one that gets no turn for long looks idle.
PATIENT = Limits(seconds=60, idle_seconds=20)


def run(code: str, limits: Limits = PATIENT):
    return run_program({"main.py": code}, limits=limits)


def test_a_program_runs_and_its_output_comes_back():
    outcome = run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)")
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == ("out\n", "err\n", 3)
    assert not outcome.started
    assert outcome.stopped is None


def test_the_error_after_a_long_output_is_shown():
    """Of functions that call each other without end, only calls were shown."""
    outcome = run("def a(): b()\ndef b(): a()\nprint('x' * 40_000, 'end')\na()")
    assert outcome.stderr.rstrip().rpartition("\n")[2].startswith("RecursionError: ")
    assert outcome.stderr.startswith("Traceback")
    assert "x\n[...]\nx" in outcome.stdout
    assert outcome.stdout.endswith("x end\n")
    assert len(outcome.stdout) < 17_000


def test_several_files_and_folders():
    files = {
        "main.py": "from shop.stock import count\nprint(count())",
        "shop/__init__.py": "",
        "shop/stock.py": "def count(): return 7",
    }
    assert run_program(files, limits=PATIENT).stdout == "7\n"
    assert run_program({"app.py": "print(1)"}, "app.py", PATIENT).stdout == "1\n"


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py", ""])
def test_no_file_is_written_outside(name):
    with pytest.raises(ValueError, match="not a path inside"):
        run_program({name: ""})


def test_waiting_for_input_is_a_start():
    began = time.monotonic()
    outcome = run("input('name? ')", Limits(seconds=60, idle_seconds=2))
    assert outcome.started
    assert outcome.stopped == "idle"
    assert outcome.stdout == "name? "
    assert time.monotonic() - began < 50, "it is stopped once it does nothing"


def test_an_event_loop_and_a_subprocess_work():
    assert run("import asyncio\nasync def f(): print('x')\nasyncio.run(f())").stdout == "x\n"
    code = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout)"
    assert "5" in run(code).stdout


PROCESSES = """
import getpass, multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory

def square(x): return x * x

if __name__ == "__main__":
    memory = SharedMemory(create=True, size=1000)
    memory.buf[0] = 7
    same = SharedMemory(memory.name)
    print(same.buf[0])
    same.close()
    memory.close()
    memory.unlink()
    with multiprocessing.Pool() as pool: print(pool.map(square, range(3)))
    with multiprocessing.get_context("spawn").Pool(1) as pool: print(pool.map(square, range(3)))
    with ProcessPoolExecutor() as pool: print(list(pool.map(square, range(3))))
    with multiprocessing.Lock(): print(multiprocessing.Value("i", 5).value)
    print(os.cpu_count(), getpass.getuser())
"""


def test_processes_that_share_memory_work():
    """Without /dev/shm no lock could be made, and a user that no file names has no name."""
    outcome = run(PROCESSES)
    assert outcome.exit_code == 0, outcome
    squares = "[0, 1, 4]\n"
    # A pool of all cores of a large node would pass the limit of processes.
    assert outcome.stdout == f"7\n{squares * 3}5\n4 user\n"


def test_shared_memory_is_the_programs_own(no_file_systems_in_memory, monkeypatch):
    name = f"agenttts-test-{os.getpid()}-{time.monotonic_ns()}"
    outside = Path("/dev/shm") / name
    code = f"import os\nprint(os.listdir('/dev/shm'))\nopen('/dev/shm/{name}', 'w').write('x')"
    for _ in range(2):
        assert run(code).stdout == "[]\n"
        assert not outside.exists()
    monkeypatch.setattr("agenttts.sandbox.run._PACKAGE_ROOT", str(no_file_systems_in_memory))
    for _ in range(2):
        assert run(code).stdout == "[]\n"
        assert not outside.exists()
    assert "[0, 1, 4]" in run(PROCESSES).stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_programs_are_contained(name):
    hostile = PROGRAMS[name]
    before = time.monotonic()
    outcome = run_program({"main.py": hostile.code}, limits=hostile.limits)
    assert how(outcome) in hostile.ends, outcome
    assert hostile.stderr in outcome.stderr
    assert outcome.seconds < hostile.limits.seconds + 2
    assert time.monotonic() - before < hostile.limits.seconds + 10


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


DISK_PROGRAMS = [
    name
    for name in PROGRAMS
    if any(w in name for w in ("files", "deep", "settings", "big file", "shared"))
]


@pytest.mark.parametrize("name", DISK_PROGRAMS)
def test_nothing_is_left_behind(name, temporary):
    run_program({"main.py": PROGRAMS[name].code}, limits=PROGRAMS[name].limits)
    assert list(temporary.iterdir()) == []


@pytest.fixture
def no_file_systems_in_memory(tmp_path):
    """The package as on a kernel that refuses them: the launcher is a process of its own,
    started from a copy.
    """
    package = tmp_path / "refused"
    shutil.copytree(Path(filesystem.__file__).parents[1], package / "agenttts")
    system_file = package / "agenttts" / "sandbox" / "system.py"
    text = system_file.read_text()
    refused = text.replace(
        "    words = [",
        "    if kind == 'tmpfs': raise PermissionError(1, 'refused')\n    words = [",
        1,
    )
    assert refused != text
    system_file.write_text(refused)
    return package


@pytest.mark.parametrize("name", DISK_PROGRAMS)
def test_disk_is_bounded_without_file_systems_in_memory(
    name, no_file_systems_in_memory, monkeypatch, temporary
):
    monkeypatch.setattr("agenttts.sandbox.run._PACKAGE_ROOT", str(no_file_systems_in_memory))
    outcome = run_program({"main.py": PROGRAMS[name].code}, limits=PROGRAMS[name].limits)
    assert how(outcome) in PROGRAMS[name].ends, outcome
    assert [p.name for p in temporary.iterdir()] == ["refused"]


def test_a_disk_that_the_files_alone_fill():
    outcome = run_program({"main.py": "#" * (3 << 20)}, limits=Limits(disk_mb=1))
    assert outcome.stopped == "disk"
    assert not outcome.started


def test_its_files_may_be_read_changed_and_deleted():
    code = (
        "import os, pathlib\nprint(pathlib.Path('a/b.txt').read_text())\n"
        "pathlib.Path('a/b.txt').write_text('new')\nos.unlink('main.py')\nprint(sorted(os.listdir('.')))"
    )
    outcome = run_program({"main.py": code, "a/b.txt": "old"}, limits=PATIENT)
    assert outcome.stdout == "old\n['a']\n", outcome


def test_trees_of_any_depth_and_mode_are_removed(tmp_path):
    top = tmp_path / "tree"
    for branch in ("a", "b"):
        (top / branch).mkdir(parents=True)
        here = os.open(top / branch, os.O_RDONLY)
        for level in range(1500):
            os.mkdir("d" * 20, dir_fd=here)
            os.close(os.open(f"file{level}", os.O_CREAT, dir_fd=here))
            inner = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
    (top / "kept").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (top / "a").chmod(0o000)
    remove_tree(top)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_directories_of_killed_callers_are_removed(temporary):
    old = time.time() - 7200
    with scratch_directory() as used:
        stale, young = temporary / "agenttts-run-stale", temporary / "agenttts-run-young"
        for folder in (stale / "program", young, temporary / "mine"):
            folder.mkdir(parents=True)
        for folder in (used, stale, temporary / "mine"):
            os.utime(folder, (old, old))
        remove_stale(temporary)
        left = {p.name for p in temporary.iterdir()}
    assert left == {used.name, young.name, "mine"}
    assert not used.exists()


def test_nothing_it_started_outlives_it():
    mark = f"survivor-{os.getpid()}-{time.monotonic_ns()}"
    code = (
        "import os, subprocess, sys, time\n"
        "for number in range(3):\n"
        "  if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    begun = 'import sys, time; open(sys.argv[2], \"w\"); time.sleep(600)'\n"
        f"    subprocess.Popen([sys.executable, '-c', begun, '{mark}', f'begun-{{number}}'])\n"
        "    time.sleep(600)\n"
        "while not all(os.path.exists(f'begun-{number}') for number in range(3)): time.sleep(0.05)\n"
        "time.sleep(2)\nprint('left them behind')"
    )
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, code)
        seen = 0
        while not running.done():
            seen = max(seen, len(processes_with(mark)))
            time.sleep(0.05)
        assert running.result().stdout == "left them behind\n"
    assert seen >= 2, "they did run"
    assert processes_with(mark) == []


def test_it_writes_nowhere_but_into_its_directory(tmp_path):
    outside = tmp_path / "outside.txt"
    places = [
        str(outside),
        "/x",
        "/etc/x",
        "/usr/x",
        "/dev/x",
        "/sys/devices/system/cpu/online",
        str(Path.home() / "x"),
        sys.executable,
    ]
    code = (
        f"for place in {places!r}:\n"
        "  try: open(place, 'a'); print('WRITTEN', place)\n"
        "  except OSError: pass\n"
        "open('mine.txt', 'w').write('x'); print('mine')"
    )  # fmt: skip
    assert run(code).stdout == "mine\n"
    assert not outside.exists()


def test_it_sees_neither_home_nor_the_callers_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTTTS_TEST_TOKEN", "tell-nobody-8841")
    secret = tmp_path / "secret.txt"
    secret.write_text("tell-nobody-8841")
    code = f"""
import os, pathlib
print(dict(os.environ))
for place in [{str(secret)!r}, os.path.expanduser('~root/.ssh'), {str(Path.home())!r} + '/.bashrc']:
    try: print(pathlib.Path(place).read_text())
    except OSError as error: print(type(error).__name__)
pids = [p for p in os.listdir('/proc') if p.isdigit()] if os.path.isdir('/proc') else []
for pid in pids + ['{os.getpid()}', '{os.getppid()}']:
    for what in ('environ', 'cmdline', 'mem'):
        try: print(pid, open(f'/proc/{{pid}}/{{what}}', 'rb').read(100_000))
        except OSError: pass
print('pids', sorted(map(int, pids)))
"""
    outcome = run(code)
    assert outcome.exit_code == 0, outcome
    assert "tell-nobody-8841" not in outcome.stdout
    assert "pids [1, 2]" in outcome.stdout, "its own process tree alone"


def test_a_dead_caller_takes_the_program_with_it(tmp_path):
    mark = f"orphan-{os.getpid()}-{time.monotonic_ns()}"
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass', '{mark}'])"
    code = f"from agenttts.sandbox import *; run_program({{'main.py': {inner!r}}}, limits=Limits(seconds=60))"
    caller = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        # The caller has the mark on its command line too.
        until(lambda: len(processes_with(mark)) >= 2)
    finally:
        caller.kill()
        caller.wait()
    until(lambda: not processes_with(mark))
    left = list(tmp_path.glob("agenttts-run-*"))
    assert len(left) == 1
    remove_stale(tmp_path)
    assert left[0].exists(), "it may be one that is being made"
    os.utime(left[0], (0, 0))
    remove_stale(tmp_path)
    assert not left[0].exists()


def test_many_at_once():
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda i: run(f"print({i})"), range(12)))
    assert [o.stdout for o in outcomes] == [f"{i}\n" for i in range(12)]


def test_the_filter_of_both_architectures_is_well_formed():
    for machine in ("x86_64", "aarch64"):
        program = build(machine)
        assert len(program) % 8 == 0
        count = len(program) // 8
        for index in range(count):
            code, if_true, if_false = (
                program[index * 8],
                program[index * 8 + 2],
                program[index * 8 + 3],
            )
            if code in (0x15, 0x35, 0x45):
                assert index + 1 + max(if_true, if_false) < count, "every jump lands inside"
        assert program[-8] == 0x06, "it ends with a verdict"


def test_an_interpreter_behind_a_link_and_one_that_is_not_shown(tmp_path, monkeypatch):
    check_sandbox.cache_clear()
    check_sandbox()
    # As when a virtual environment's python leads through a folder that no prefix names.
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    check_sandbox.cache_clear()
    with pytest.raises(MissingRequirement, match="an empty program failed in it"):
        check_sandbox()
    check_sandbox.cache_clear()


def test_processes_are_counted_without_the_kernels_list_of_children(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        usual = watch.usage(os.getpid(), 10_000)
        monkeypatch.setattr(watch, "_HAS_CHILDREN_FILE", False)
        searched = watch.usage(os.getpid(), 10_000)
        child.kill()
    assert searched.processes == usual.processes >= 2


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_a_machine_that_hides_processes_is_refused(hidepid):
    """Nothing could be counted there: a program at work looked idle, and no limit held."""
    mount = f"mount -t proc -o hidepid={hidepid},gid=4242 proc /proc"
    apart = ["unshare", "--map-root-user", "--pid", "--fork", "--mount", "sh", "-c"]
    if subprocess.run([*apart, mount], capture_output=True, check=False).returncode:
        pytest.skip("needs a user namespace that may mount /proc")
    code = "from agenttts.sandbox import check_sandbox; check_sandbox()"
    done = subprocess.run(
        [*apart, f'{mount} && exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "/proc hides processes (hidepid)" in done.stderr
    assert "Fix: run the trials in a container" in done.stderr
    assert "user_namespaces" not in done.stderr


def test_a_full_disk_is_no_machine_without_sandboxes(tmp_path):
    """Whichever file of the sandbox it has no place for; users were told to allow namespaces."""
    code = f"""
import tempfile
from agenttts.sandbox import run_program, system
tempfile.tempdir = {str(tmp_path)!r}
for entries in range(3, 100):
    system.mount("tmpfs", tempfile.tempdir, "tmpfs", 0, f"size=1m,nr_inodes={{entries}}")
    try:
        run_program({{"main.py": "print(1)"}})
        print("enough")
        break
    except OSError as error:
        print(error.errno, error.filename)
    system.unmount(tempfile.tempdir)
"""
    apart = ["unshare", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if subprocess.run([*apart, *mount], capture_output=True, check=False).returncode:
        pytest.skip("needs a user namespace that may mount a file system")
    done = subprocess.run(
        [*apart, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    *failed, last = done.stdout.splitlines()
    assert (last, done.returncode) == ("enough", 0), done
    assert {line.split()[0] for line in failed} == {str(errno.ENOSPC)}
    assert any(line.endswith("/root/dev") for line in failed), "in the launcher"
    assert any(line.endswith("/stdout") for line in failed), "in process 1"


def test_a_launcher_that_does_not_start_is_no_machine_without_sandboxes(tmp_path, monkeypatch):
    """As a Python whose libraries LD_LIBRARY_PATH alone names."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho libpython.so: not found >&2\nexit 127\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MissingRequirement, match="launcher failed: libpython.so: not fo") as caught:
        run("")
    assert caught.value.fix.startswith(f"see that 'env -i {python} -I -S -c pass' works here")


def test_a_launcher_that_does_not_end_is_the_machines_fault(monkeypatch):
    """As one whose interpreter is on a file system that hangs: the allocation was blamed."""
    monkeypatch.setattr("agenttts.sandbox.run._PATIENCE_SECONDS", -PATIENT.seconds)
    with pytest.raises(OSError, match="did not end within 0 s") as caught:
        run("")
    assert is_outside_trouble(caught.value)


def test_programs_get_no_files_in_the_working_directory(tmp_path, monkeypatch):
    """Python takes it if no directory for temporary files can be written: the shared file system."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        full_disk(0),
        pytest.raises(OSError, match="no directory for temporary files can be written"),
    ):
        run("print(1)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nicer", [0, 6, 10, 19])
def test_a_program_yields_to_the_process_that_watches_it(nicer):
    """At equal priority a fork bomb of root's outran the watcher where the kernel groups no
    sessions.

    Root's watcher runs in real time. What such a process starts has the niceness 0: in a job with
    the niceness 19 the program ran before the job's own processes.
    """
    program = "import os; print(*(os.getpriority(os.PRIO_PROCESS, pid) for pid in (1, 0)))"
    code = (
        "from agenttts.sandbox import Limits, run_program\n"
        f"print(run_program({{'main.py': {program!r}}}, limits={PATIENT!r}).stdout)"
    )
    done = subprocess.run(
        ["nice", "-n", str(nicer), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    first, own = map(int, done.stdout.split())
    ours = min(19, os.getpriority(os.PRIO_PROCESS, 0) + nicer)
    assert (first, own) == (ours, min(19, ours + 15))
