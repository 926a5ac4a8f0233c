"""Software development: what the stages ask, what becomes of a program, and whole runs with a
scripted model.
"""

from __future__ import annotations

import json

import polars as pl
import pytest
import yaml

from agenttts.errors import UserError
from agenttts.inference.base import PROMPT_STYLES, render
from agenttts.tasks import create
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.chatdev.programs import read_files, show_files
from agenttts.trial.toolbox import TrialToolbox
from tests.support.executing import perfect_chatdev
from tests.support.scripted import at_fixed_path

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")

GOOD = "print('How many words, letters and sentences does the line of text have?')\nline = input()\nprint(len(line.split()))\n"
BROKEN = "print('word counter')\nprint(wrod)\n"
# Ends by itself: one that waits for input is watched for a while before it counts as started.
QUICK = "print('How many words, letters and sentences does the line of text have?')\n"


def reply(code: str) -> str:
    return f"main.py\n```python\n{code}```"


def perfect_outputs(example) -> dict[str, object]:
    """What each stage hands on when all has gone well."""
    program = {"files": {"main.py": GOOD}, "run": {"started": True, "report": ""}, "consistency": 1.0}  # fmt: skip
    return {"coding": program, "static_testing": program, "dynamic_testing": program}


@pytest.fixture(scope="module")
def task():
    return create("chatdev")


@pytest.fixture(scope="module")
def word_counter(task):
    return next(e for e in task.load(TaskConfig(data="")) if e.id == "Word_Counter")


@pytest.fixture(scope="module")
def toolbox(task):
    # A program that is slow to fail on a busy machine must not pass for one that runs.
    return TrialToolbox(task.toolbox_settings({"run_seconds": 30}), on_host=True)


def test_every_stage_asks_for_what_it_needs(task, word_counter):
    outputs = perfect_outputs(word_counter)
    outputs["static_testing"] = {
        "files": {"main.py": BROKEN},
        "run": {"started": False, "report": "NameError: name 'wrod'"},
    }
    for style in PROMPT_STYLES:
        texts = {}
        for stage in task.stages:
            content, stop = render(stage.prompt(word_counter, outputs), style)
            texts[stage.name] = content if isinstance(content, str) else content[-1]["content"]
            assert word_counter.data["requirement"] in texts[stage.name]
            assert "\n\n" not in stop, "programs have empty lines"
        assert "line.split()" in texts["static_testing"]
        assert "wrod" in texts["dynamic_testing"]
        assert "NameError" in texts["dynamic_testing"]


def test_the_shots_are_programs_as_replies_are_read(task, word_counter):
    for stage in task.stages:
        for _, answer in stage.prompt(word_counter, perfect_outputs(word_counter)).shots:
            assert set(read_files(answer)) == {"main.py"}
            assert show_files(read_files(answer)) == answer


@pytest.mark.processes
def test_executing_runs_the_program(task, word_counter, toolbox):
    coding = task.stage("coding")
    ran = {
        name: coding.execute(coding.parse(reply(code), word_counter), word_counter, {}, toolbox)
        for name, code in (("good", GOOD), ("broken", BROKEN), ("cut", "def f(:"), ("none", ""))
    }
    assert ran["good"]["run"] == {"started": True, "report": "It started without an error and waits for input."}  # fmt: skip
    assert not ran["broken"]["run"]["started"]
    assert "NameError" in ran["broken"]["run"]["report"]
    assert "line 1" in ran["cut"]["run"]["report"]
    assert ran["none"] == {"files": {}, "run": {"started": False, "report": "There is no program."}}
    again = coding.execute({"files": {"main.py": BROKEN}}, word_counter, {}, toolbox)
    assert again == ran["broken"], "the same program gives the same report"
    metrics = coding.metrics(ran["broken"], word_counter)
    assert metrics == {"completeness": 1.0, "executability": 0.0, "consistency": 0.0}


@pytest.mark.processes
def test_a_reply_without_code_keeps_the_program_and_a_file_replaces_its_own(task, word_counter, toolbox):  # fmt: skip
    outputs = {"coding": {"files": {"main.py": GOOD, "extra.py": "x = 1\n"}}}
    stage = task.stage("static_testing")
    kept = stage.execute(stage.parse("Looks fine.", word_counter), word_counter, outputs, toolbox)
    assert kept["files"] == outputs["coding"]["files"]
    changed = stage.execute(
        stage.parse(reply(BROKEN), word_counter), word_counter, outputs, toolbox
    )
    assert changed["files"] == {"main.py": BROKEN, "extra.py": "x = 1\n"}


def test_the_best_of_k_goes_on(task, word_counter):
    stage = task.stage("coding")
    none = {"files": {}, "run": {"started": False}}
    cut = {"files": {"main.py": "def f(:"}, "run": {"started": False}}
    broken = {"files": {"main.py": BROKEN}, "run": {"started": False}}
    stub = {"files": {"main.py": "def f():\n    pass"}, "run": {"started": True}}
    good = {"files": {"main.py": GOOD}, "run": {"started": True}}
    other = {"files": {"main.py": "print(1)"}, "run": {"started": True}}
    order = [none, cut, broken, stub, good]
    for position, best in enumerate(order, 1):
        assert stage.fuse(order[:position], word_counter) == best
        assert stage.fuse([best], word_counter) == best
    assert stage.fuse([good, other], word_counter) == good, "of equals, the first"
    assert stage.fuse([], word_counter) == {"files": {}}


def test_consistency_prefers_the_program_that_was_asked_for(task, word_counter, toolbox):
    stage = task.stage("dynamic_testing")

    def score(code: str) -> float:
        output = stage.postprocess_fused({"files": {"main.py": code}}, word_counter, toolbox)
        return stage.metrics(output, word_counter)["consistency"]

    counter = "def count_words(text):\n    return len(text.split())\n\nline = input('line of text: ')\nprint('words:', count_words(line), 'letters:', sum(c.isalpha() for c in line))"
    asked = score(counter)
    assert asked > 0.4
    assert asked > score("def draw_board(board):\n    print('X' if board else 'O')") + 0.15
    # A comment that repeats the requirement must not pay.
    assert score(f"# {word_counter.data['requirement']}\n{counter}") == pytest.approx(asked)
    assert score("") == 0
    assert score("# nothing") == 0


def test_a_program_that_was_not_looked_at_scores_what_can_be_told(task, word_counter):
    for stage in task.stages:
        sample = stage.parse(perfect_chatdev(word_counter)[stage.name], word_counter)
        assert stage.metrics(sample, word_counter) == {"completeness": 1.0, "executability": 0.0, "consistency": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"run_second": 3}, "did you mean 'run_seconds'"),
        ({"run_seconds": 0}, "at most 60"),
        ({"run_memory_mb": 1}, "128"),
        ({"embedding_model": "/nowhere/x"}, "embedding_model"),
    ],
)
def test_options_are_checked(task, options, word):
    with pytest.raises(UserError, match=word):
        task.load(TaskConfig(data="", options=options))


@pytest.fixture
def chatdev_spec(tmp_path):
    """Two scripted programmers: one writes programs that start half of the time, one seldom."""
    words = ("sentences", "letters", "game", "average", "table")
    paths = {}
    for model, right in (("weak", 0.2), ("strong", 0.6)):
        rules = [{"contains": ["Requirement"], "replies": [
            # Several good ones of different worth.
            *({"text": reply(QUICK + f"print({' '.join(words[:n])!r})\n"), "weight": right / 6} for n in range(6)),
            {"text": reply(BROKEN), "weight": 0.5 - right / 2},
            {"text": "I would write a program.", "weight": 0.5 - right / 2},
        ]}]  # fmt: skip
        script = tmp_path / f"{model}.json"
        script.write_text(json.dumps({"rules": rules, "default": ""}))
        paths[model] = str(at_fixed_path(script))
    stage = {"models": ["weak", "strong"], "prompt_tokens": 256, "decode_tokens": 64, "samples": [1, 4]}  # fmt: skip
    spec = {
        "name": "dev",
        "task": {"name": "chatdev", "examples": 2, "run_code_on_host": True, "options": {"run_seconds": 30}},
        "stages": dict.fromkeys(("coding", "static_testing", "dynamic_testing"), stage),
        "models": {m: {"path": paths[m], "params": p, "engine": "scripted"} for m, p in (("weak", 3e9), ("strong", 8e9))},
        "search": {"budget": 80, "iterations": 0},
        "cluster": "in_process",
    }  # fmt: skip
    path = tmp_path / "dev.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


@pytest.mark.processes
def test_a_whole_run(cli, chatdev_spec, tmp_path):
    done = cli("launch", chatdev_spec, "--wait")
    assert done.returncode == 0, done.stderr
    frame = pl.read_parquet(tmp_path / "results/dev/trials.parquet")
    assert set(frame["state"]) == {"COMPLETED"}
    assert frame["score"].is_between(0, 1).all()
    assert frame["score"].n_unique() > 1
    rows = pl.read_parquet(tmp_path / "results/dev/trials/t0000/examples.parquet")
    assert rows["stage"].unique().sort().to_list() == ["coding", "dynamic_testing", "static_testing"]  # fmt: skip
    outputs = [json.loads(text) for text in rows["output"]]
    assert all(o["run"]["report"] for o in outputs)


def test_without_a_container_it_takes_an_opt_in_by_name(cli, chatdev_spec, tmp_path):
    done = cli("launch", chatdev_spec, "--set", "task.run_code_on_host=false")
    assert done.returncode == 2
    assert "task.run_code_on_host: this task runs programs" in done.stderr
    assert "set run_code_on_host: true" in done.stderr
    assert "name an image in the section container" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("image", ["", "container:\n  image: some.sif\n"])
def test_a_profile_without_a_runtime_takes_the_opt_in_too(cli, chatdev_spec, tmp_path, image):
    (tmp_path / "host.yaml").write_text("kind: local\ncontainer: {runtime: none}\n")
    with chatdev_spec.open("a") as file:
        file.write(image)
    settings = ["--set", "task.run_code_on_host=false", "--cluster", str(tmp_path / "host.yaml")]
    done = cli("launch", chatdev_spec, *settings)
    assert done.returncode == 2
    assert "task.run_code_on_host: this task runs programs" in done.stderr
    assert not (tmp_path / "results").exists()
