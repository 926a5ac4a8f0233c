"""The batch file: its options, its shell, and what it says when the job cannot start."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agenttts.dispatch.slurm.batch_script import BatchScript, check_folder, log_message
from agenttts.errors import UserError

HELLO = f"{shlex.quote(sys.executable)} -c 'print(\"started\")'"


def run(
    tmp_path: Path, *setup: str, command: str = HELLO, login: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a batch file as slurmd does: its own file, by its first line.

    The error output is the job's log.
    """
    script = BatchScript({}, tmp_path, setup, login)
    path = tmp_path / "slurm_script"
    path.write_text(script.text(command, shlex.split(command)[0]))
    path.chmod(0o700)
    environment = {**os.environ, "SLURMD_NODENAME": "n7", **env}
    done = subprocess.run([path], capture_output=True, text=True, env=environment, check=False)
    (tmp_path / "12_0_log.err").write_text(done.stderr)
    return done


def test_options_are_sorted_quoted_and_one_a_line():
    options = {
        "comment": "a b",
        "exclusive": "true",
        "requeue": "false",
        "nice": "false",
        "mem": "4G",
    }
    text = BatchScript(options, Path("/r")).text("true", "true", None)
    lines = [line for line in text.splitlines() if line.startswith("#")]
    assert lines == [
        "#!/bin/bash",
        "#SBATCH --comment='a b'",
        "#SBATCH --error=/r/%j_0_log.err",
        "#SBATCH --exclusive",
        "#SBATCH --mem=4G",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/r/%j_0_log.out",
        "#SBATCH --no-requeue",
    ]


def test_nobody_s_wckey_is_written():
    assert "wckey" not in BatchScript({}, Path("/r")).text("true", "true")


@pytest.mark.parametrize(("elements", "running", "array"), [(3, 2, "0-2%2"), (3, 9, "0-2%3")])
def test_an_array_has_its_logs_by_element(elements, running, array):
    text = BatchScript({}, Path("/r")).text("true", "true", (elements, running))
    assert f"#SBATCH --array={array}\n" in text
    assert "#SBATCH --output=/r/%A_%a_0_log.out\n" in text


def test_a_login_shell_is_one(tmp_path):
    assert BatchScript({}, Path("/r"), login_shell=True).text("a", "a").startswith("#!/bin/bash -l\n")  # fmt: skip
    (tmp_path / ".bash_profile").write_text("module() { echo loaded $2; }\n")
    done = run(tmp_path, "module load apptainer", login=True, HOME=str(tmp_path))
    assert done.stdout.splitlines() == ["loaded apptainer", "started"]
    assert run(tmp_path, "module load apptainer", HOME=str(tmp_path)).returncode == 127


@pytest.mark.parametrize(
    "setup",
    [
        [],
        ["true", "export X=1"],
        ["if false; then", "  false", "else", "  export X=1", "fi"],
        ["false || true", "! true", "if ! false; then true; fi", "while false; do :; done"],
        ["f() {", "  false", "  true", "}", "f"],
        ["case x in", "  y) false ;;", "esac"],
        ["cat > $TMPDIR/f <<EOF", "false", "EOF"],
        ["source $TMPDIR/inner.sh"],
        ["set -u", "set +e"],
        ["[ -n '' ] && echo never"],
        ["trap 'true' USR1"],
    ],
)
def test_setup_lines_that_work_are_let_be(tmp_path, setup):
    (tmp_path / "inner.sh").write_text("false\ngrep -q nothing /dev/null\ntrue\n")
    done = run(tmp_path, *setup, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


@pytest.mark.parametrize(
    ("setup", "status", "named"),
    [
        (["true", "module load apptainer"], 127, "setup line failed: module load apptainer"),
        (["source /nowhere/activate"], 1, "setup line failed: source /nowhere/activate"),
        (["cd /nowhere"], 1, "setup line failed: cd /nowhere"),
        (["false"], 1, "setup line failed: false"),
        (["(exit 3)"], 3, "setup line failed: (exit 3)"),
        (["true | false"], 1, "setup line failed: true | false"),
        (["x=$(false)"], 1, "setup line failed: x=$(false)"),
        (["f() { return 4; }", "f"], 4, "setup line failed: f"),
        (["if true; then", "  false", "fi"], 1, "setup line failed: false"),
        (
            ["module() {", "  false", "  return 4", "}", "  module load x"],
            4,
            "setup line failed: module load x",
        ),
        (
            ["module() { return 4; }", "if true; then", "  module load y", "fi"],
            4,
            "setup line failed: module load y",
        ),
        (["set -e", "false"], 1, "setup line failed: false"),
        (["exit 5"], 5, "the setup lines did not come to their end"),
        (["exit 0"], 0, "the setup lines did not come to their end"),
        (["set -u", "echo $NOWHERE_SET"], 1, "the setup lines did not come to their end"),
        (["if true; then"], 2, "the setup lines did not come to their end"),
    ],
)
def test_a_setup_line_that_fails_ends_the_job_and_is_named(tmp_path, setup, status, named):
    done = run(tmp_path, *setup)
    assert done.returncode == status
    assert "started" not in done.stdout
    message = log_message(tmp_path, "12")
    assert f"{named} on node n7 (exit status {status})" in message
    assert message.partition("Fix 'setup' in the profile")[1], (
        "which names the command that gives it"
    )


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (["true"], ""),
        (["module load x"], "setup line failed: module load x on node n7"),
        (["exit 3"], "the setup lines did not come to their end on node n7 (exit status 3)."),
    ],
)
def test_a_requeued_job_is_judged_by_its_last_start(tmp_path, setup, said):
    first = run(tmp_path, "kill $$").stderr
    assert log_message(tmp_path, "12").startswith("the setup lines did not come to their end")
    again = run(tmp_path, *setup, SLURM_RESTART_COUNT="1").stderr
    (tmp_path / "12_0_log.err").write_text(first + again)
    assert log_message(tmp_path, "12").startswith(said)
    assert bool(log_message(tmp_path, "12")) == bool(said)


def test_a_program_that_the_node_does_not_have_is_named(tmp_path):
    done = run(tmp_path, command="/nowhere/bin/python -m x")
    assert done.returncode == 127
    message = log_message(tmp_path, "12")
    assert message.startswith("/nowhere/bin/python could not be started on node n7; is it on a file system that the nodes share?")  # fmt: skip
    assert "No such file or directory" in message
    assert "install agenttts-hpc on one that they share" in message


def test_a_job_that_is_cancelled_in_its_setup_blames_no_line(tmp_path):
    done = run(tmp_path, "kill -TERM $$; sleep 5")
    assert done.returncode == -15
    assert log_message(tmp_path, "12").startswith("the setup lines did not come to their end on node n7")  # fmt: skip


def test_a_log_that_says_nothing_of_it(tmp_path):
    assert log_message(tmp_path, "99") == ""
    (tmp_path / "13_0_log.err").write_bytes(b"\xff\xfe noise\nTraceback\n")
    assert log_message(tmp_path, "13") == ""


@pytest.mark.parametrize("name", ["plain", "it's", 'a "b"', "50% off", "ünïcode", "a b", "$HOME", "#x"])  # fmt: skip
def test_ordinary_folders_are_taken(name):
    check_folder(Path("/results") / name)


def test_a_per_cent_sign_is_escaped_as_slurm_does():
    text = BatchScript({}, Path("/50% off")).text("true", "true")
    assert "#SBATCH --output='/50%% off/%j_0_log.out'" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a%j", "%j"), ("%A", "%A"), ("x%tx", "%t"), ("%a", "%a"), ("a\\b", "\\"), ("a\nb", "\\n"), ("a\x07", "\\x07"), ("a\udcff", "\\udcff")],
)  # fmt: skip
def test_folders_that_slurm_would_rename_are_refused(name, shown):
    with pytest.raises(UserError) as caught:
        check_folder(Path("/results") / name)
    message = str(caught.value)
    assert f"contains '{shown}'" in message
    assert "--results DIR" in message
    assert "\n" not in message
