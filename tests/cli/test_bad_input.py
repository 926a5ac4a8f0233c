"""Bad input: exit code 2 or 3, one clear paragraph on stderr, nothing created or submitted."""

from __future__ import annotations

import json
import os

import pytest


def refused(done, tmp_path, code, *parts):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("agenttts-hpc: ")
    assert len(done.stderr.strip().splitlines()) == 1, "one paragraph"
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    assert not (tmp_path / "results").exists()


def test_misspelt_key(cli, scripted_spec, tmp_path):
    spec = scripted_spec(task__exmples=3)
    refused(
        cli("launch", spec), tmp_path, 2, "small.yaml:", "task.exmples", "did you mean 'examples'"
    )


def test_misspelt_override(cli, scripted_spec, tmp_path):
    done = cli("launch", scripted_spec(), "--set", "search.budgt=3")
    refused(done, tmp_path, 2, "search.budgt", "did you mean 'budget'")


def test_unknown_model(cli, scripted_spec, tmp_path):
    spec = scripted_spec(stages__answer__models=["weak", "stron"])
    refused(cli("launch", spec), tmp_path, 2, "stages.answer.models[1]", "'stron'", "did you mean 'strong'")  # fmt: skip


def test_a_model_that_is_not_there(cli, scripted_spec, tmp_path):
    spec = scripted_spec(models__weak__path="./nowhere.json")
    refused(cli("launch", spec), tmp_path, 2, "models.weak.path", "nowhere.json")


def test_unknown_stage(cli, scripted_spec, tmp_path):
    stage = {"models": ["weak"], "prompt_tokens": 9, "decode_tokens": 9}
    refused(cli("launch", scripted_spec(stages__retreival=stage)), tmp_path, 2, "stages.retreival", "did you mean 'retrieval'")  # fmt: skip


def test_unknown_task_and_method(cli, scripted_spec, tmp_path):
    refused(cli("launch", scripted_spec(task__name="retrieval_q")), tmp_path, 2, "retrieval_q", "retrieval_qa")  # fmt: skip
    refused(cli("launch", scripted_spec(search__method="agentts")), tmp_path, 2, "agentts", "did you mean 'agenttts'")  # fmt: skip
    refused(cli("launch", scripted_spec(search__options={"nosuch": 1})), tmp_path, 2, "nosuch")


def test_unknown_engine_option(cli, scripted_spec, tmp_path):
    model = {"path": "org/model", "params": 7e9, "engine": "vllm", "options": {"max_modl_len": 1}}
    refused(cli("launch", scripted_spec(models__weak=model)), tmp_path, 2, "models.weak.options", "max_modl_len", "max_model_len")  # fmt: skip


def test_a_budget_for_nothing_says_the_least_feasible_one(cli, scripted_spec, tmp_path):
    done = cli("launch", scripted_spec(search__budget=1))
    refused(done, tmp_path, 2, "search.budget: ", "too small for any allocation", "set it to")
    least = done.stderr.split("set it to ")[1].split()[0]
    assert cli("launch", scripted_spec(search__budget=float(least)), "--dry-run").returncode == 0


def test_missing_data_file(cli, scripted_spec, tmp_path):
    (tmp_path / "questions.json").write_text("[]")
    refused(cli("launch", scripted_spec(task__data="./question.json")), tmp_path, 2, "question.json", "questions.json")  # fmt: skip


def test_a_malformed_data_line_is_named(cli, scripted_spec, tmp_path):
    good = {"question": "q?", "answers": ["a"], "ctxs_candidate": ["a is a"], "ctxs_gt": ["a is a"]}
    lines = [json.dumps(good), json.dumps(good | {"answers": {"a": 1}}), json.dumps(good)]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    refused(cli("launch", scripted_spec(task__data="./bad.jsonl")), tmp_path, 2, "bad.jsonl:2", "answers")  # fmt: skip
    (tmp_path / "bad.jsonl").write_text(lines[0] + "\n{not json\n")
    refused(cli("launch", scripted_spec(task__data="./bad.jsonl")), tmp_path, 2, "bad.jsonl:2")


def test_missing_image(cli, scripted_spec, tmp_path):
    (tmp_path / "bin").mkdir()
    runtime = tmp_path / "bin" / "apptainer"
    runtime.write_text("#!/bin/sh\nexit 1\n")
    runtime.chmod(0o755)
    done = cli(
        "launch", scripted_spec(container__image="./none.sif"),
        env={"PATH": f"{runtime.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    refused(done, tmp_path, 3, "none.sif", "agenttts-hpc image build")


def test_unknown_profile(cli, scripted_spec, tmp_path):
    refused(cli("launch", scripted_spec(), "--cluster", "lcal"), tmp_path, 2, "unknown profile 'lcal'", "did you mean 'local'")  # fmt: skip
    refused(cli("launch", scripted_spec(), "--cluster", "./lcal.yaml"), tmp_path, 2, "lcal.yaml")


def test_unwritable_results(cli, scripted_spec, tmp_path):
    (tmp_path / "file").write_text("")
    refused(cli("launch", scripted_spec(), "--results", tmp_path / "file" / "x"), tmp_path, 2, "is a file")  # fmt: skip
    refused(cli("launch", scripted_spec(), "--results", "/proc/agenttts"), tmp_path, 3, "/proc", "--results DIR")  # fmt: skip


def test_a_sample_store_that_cannot_be_written(cli, scripted_spec, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("launch", scripted_spec(samples="./file/samples"))
    refused(done, tmp_path, 2, "samples", "is a file")


def test_an_existing_run_with_another_spec(cli, scripted_spec, tmp_path):
    spec = scripted_spec(search__iterations=0)
    assert cli("launch", spec, "--wait").returncode == 0

    def tree():
        files = [p for p in (tmp_path / "results").rglob("*") if p.is_file()]
        return {p: p.read_bytes() for p in files}

    before = tree()
    for change, said in (
        ("search.budget=70", "search.budget was 80.0, is 70.0"),
        ("search.seed=2", "search.seed was 1, is 2"),
        ("stages.answer.decode_tokens=16", "stages.answer.decode_tokens was 32, is 16"),
        ("cluster=./local.yaml", "cluster"),
    ):
        (tmp_path / "local.yaml").write_text("kind: local\n")
        done = cli("launch", spec, "--set", change)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
        unchanged = f"'agenttts-hpc resume {tmp_path}/results/small'\n"
        for part in ("a run named 'small' exists with another spec", said, "--name", unchanged):
            assert part in done.stderr
    assert tree() == before


def test_two_mistakes_are_both_told(cli, scripted_spec, tmp_path):
    spec = scripted_spec(search__budgt=1, task__exmples=2)
    refused(cli("launch", spec), tmp_path, 2, "search.budgt", "task.exmples")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping of keys is expected"),
        ("- a\n- b\n", "a mapping of keys is expected"),
        ("name: [x\n", "bad.yaml:2: not valid YAML"),
        ("name: a\nname: b\n", "bad.yaml:2: name is given twice"),
    ],
)
def test_a_file_that_is_no_spec(cli, tmp_path, text, said):
    (tmp_path / "bad.yaml").write_text(text)
    refused(cli("launch", "bad.yaml"), tmp_path, 2, "bad.yaml", said)


def test_a_missing_spec_is_told_the_near_one(cli, scripted_spec, tmp_path):
    scripted_spec("search")
    refused(cli("launch", "serch.yaml"), tmp_path, 2, "serch.yaml: no such job spec", "did you mean 'search.yaml'")  # fmt: skip


def test_a_wrong_profile_is_named_with_its_key(cli, scripted_spec, tmp_path):
    for text, said in (
        ("kind: slurm\ntrial: {partion: gpu}\n", "did you mean 'partition'"),
        ("kind: local\ntrial: {time: soon}\n", "'soon' is not a valid time limit"),
        ("kind: local\ntrial: {time: '1'}\n", "lower grace_seconds or raise trial.time"),
    ):
        (tmp_path / "odd.yaml").write_text(text)
        refused(cli("launch", scripted_spec(), "--cluster", "./odd.yaml"), tmp_path, 2, "odd.yaml", said)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "Slurm refuses the request of the controller"),
        ("--test-only", "sbatch refused the job"),
    ],
)
def test_a_job_that_sbatch_refuses_leaves_nothing(cli, scripted_spec, tmp_path, asked, said):
    """A fake sbatch, for a fault that a real cluster is not needed to show: it refuses the job when
    it is asked whether it would take it, or only when it gets it.
    """
    (tmp_path / "bin").mkdir()
    refusal = "echo 'sbatch: error: invalid partition specified: nosuch' >&2; exit 1"
    if asked:
        refusal = f'case "$*" in *{asked}*) exit 0;; esac; {refusal}'
    for name, script in (("sbatch", refusal), ("srun", "exit 1"), ("squeue", "exit 0"), ("scontrol", "echo MaxArraySize = 1001")):  # fmt: skip
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "far.yaml").write_text("kind: slurm\ncontroller: {partition: nosuch}\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = cli("launch", scripted_spec(), "--cluster", "./far.yaml", env={"PATH": path})
    refused(done, tmp_path, 3, said, "invalid partition specified: nosuch")


def test_no_slurm_here(cli, scripted_spec, tmp_path):
    (tmp_path / "far.yaml").write_text("kind: slurm\n")
    done = cli("launch", scripted_spec(), "--cluster", "./far.yaml", env={"PATH": "/nonexistent"})
    refused(done, tmp_path, 3, "scontrol", "login node")


@pytest.mark.parametrize("command", ["status", "resume", "cancel", "report"])
def test_unknown_run(cli, tmp_path, command):
    refused(cli(command, "nosuch"), tmp_path, 2, "run 'nosuch' does not exist")


def test_what_the_operating_system_refuses_is_one_paragraph(cli, scripted_spec, tmp_path):
    """A journal that is a directory stands for any file the system will not read."""
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    journal = tmp_path / "results" / "small" / "journal.jsonl"
    journal.unlink()
    journal.mkdir()
    done = cli("status", "small")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert str(journal) in done.stderr
    assert "Is a directory" in done.stderr


def test_a_run_that_is_looked_for_in_the_wrong_directory(cli, tmp_path):
    for there in ("does not exist", "has no runs"):
        done = cli("status", "mine")
        assert done.returncode == 2
        assert f"the results directory {tmp_path / 'results'} {there}; change to the" in done.stderr
        assert "--results DIR" in done.stderr
        (tmp_path / "results").mkdir(exist_ok=True)


def test_options_of_the_command_line_are_named_as_given(cli, scripted_spec):
    done = cli("launch", scripted_spec(), "--cluster", "nowhere")
    assert done.stderr.startswith('agenttts-hpc: --cluster "nowhere": cluster: unknown profile')
