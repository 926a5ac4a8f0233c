"""Whole runs of models that think: what table, status and report say of cut samples, and what a
launch freezes.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from agenttts.inference.base import ModelConfig, Prompt, SamplingParams, render, sample_key
from agenttts.inference.fingerprint import fingerprint
from agenttts.loop.controller_job import make_controller, warn_of_changed_models
from agenttts.replies import COMMON_THINKING, Thinking
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.models import (
    ModelFacts,
    changed_models,
    find_facts,
    model_configs,
    resolve_thinking,
)
from agenttts.spec import load_spec
from tests.support.runs import journal_events

SMALL = {"task__examples": 4, "search__iterations": 1, "search__batch_size": 2}


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


def table(tmp_path: Path, run: str = "small") -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "results" / run / "trials.parquet").sort("trial")


def test_a_run_whose_samples_are_cut_says_so_everywhere(cli, scripted_spec, tmp_path):
    """The strong model thinks for longer than a sample may be; the weak one does not think."""
    spec = scripted_spec(**SMALL, models__strong__options={"thinking": {}})
    done = cli("launch", spec, "--wait")
    assert done.returncode == 0, done.stderr
    frame = table(tmp_path)
    for row in frame.iter_rows(named=True):
        thinks = {choice["stage"]: choice["model"] == "strong" for choice in row["allocation"]}
        shares = {part["stage"]: part["cut"] / part["samples"] for part in row["cut_samples"]}
        assert shares == {stage: float(cut) for stage, cut in thinks.items()}
        drawn = sum(part["samples"] for part in row["cut_samples"])
        assert row["cut_share"] == sum(part["cut"] for part in row["cut_samples"]) / drawn
        if thinks["answer"]:
            assert row["score"] == 0, "cut within its thinking is no answer"
    status = json.loads(cli("status", "small", "--json").stdout)
    [report] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert status["cut_share"] == report["cut_share"]
    assert status["cut_share"]["answer"]["models"] == {"weak": 0.0, "strong": 1.0}
    assert status["warnings"] == report["warnings"]
    assert [w.partition(":")[0] for w in status["warnings"]] == ["stage 'retrieval'", "stage 'answer'"]  # fmt: skip
    for command in (["status", "small"], ["report", "small"]):
        text = " ".join(cli(*command).stdout.split())
        assert "samples cut at decode_tokens: retrieval " in text
        assert "warning: stage 'answer':" in text
        assert "Raise stages.answer.decode_tokens" in text
    assert "warning: stage" in cli("report", "small", "--format", "html").stdout.replace("&#x27;", "'")  # fmt: skip
    csv = pl.read_csv(cli("report", "small", "--format", "csv").stdout.encode())
    assert csv["cut_share.answer"].max() == 1.0


def test_thinking_that_fits_changes_neither_scores_nor_warnings(cli, scripted_spec, tmp_path):
    """Replies by the prompt alone: other options draw by other seeds."""
    scripted_spec()  # writes the scripts
    for name in ("weak", "strong"):
        script = tmp_path / f"{name}.json"
        rules = json.loads(script.read_text())
        for number, rule in enumerate(rules["rules"]):
            right = number % 4 < (2 if name == "weak" else 4)
            rule["replies"] = [rule["replies"][0 if right else 1]]
        script.write_text(json.dumps(rules))
    scripts = {name: (tmp_path / f"{name}.json").read_text() for name in ("weak", "strong")}
    for run, options in (("plain", {}), ("thinks", {"thinking": {"blocks": 2}})):
        changes: dict[str, object] = {f"models__{name}__options": options for name in scripts}
        changes |= {f"models__{name}__path": str(tmp_path / f"{name}.json") for name in scripts}
        spec = scripted_spec(run, **SMALL, **changes)
        for name, text in scripts.items():
            (tmp_path / f"{name}.json").write_text(text)
        limits = settings(*(f"stages.{stage}.decode_tokens=400" for stage in ("retrieval", "answer")), "search.budget=500")  # fmt: skip
        done = cli("launch", spec, "--wait", *limits)
        assert done.returncode == 0, done.stderr
    same = ["trial", "source", "score", "metrics", "allocation", "cut_share"]
    assert table(tmp_path, "thinks").select(same).equals(table(tmp_path, "plain").select(same))
    assert table(tmp_path, "plain")["score"].max() > 0
    status = json.loads(cli("status", "thinks", "--json").stdout)
    assert status["warnings"] == []
    assert "samples cut at decode_tokens: retrieval 0%, answer 0%" in cli("status", "thinks").stdout


@pytest.fixture
def weights(tmp_path) -> Path:
    """A directory that looks like a model's."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}{% if enable_thinking %}<think>{% endif %}"})
    )
    return folder


def overwrite(folder: Path) -> None:
    """The weights of another checkpoint under the same name, of the same size."""
    file = folder / "model.safetensors"
    later = file.stat().st_mtime_ns + 1_000_000
    file.write_text("WEIGHTS")
    os.utime(file, ns=(later, later))


def configs(spec, facts) -> dict[str, ModelConfig]:
    return model_configs(spec, dict.fromkeys(spec.models, 0), facts)


def changed(models: dict[str, ModelConfig]) -> list[str]:
    """The models that have changed, by what a record without contents holds."""
    return list(changed_models(models, {}))


def address(spec, facts) -> str:
    model = configs(spec, facts)["strong"]
    content, stop = render(Prompt("", "Which river?"), model.prompt_style)
    return sample_key(model, content, SamplingParams(0.7, 9), 0, stop)


def test_weights_overwritten_in_place_have_other_samples_and_a_frozen_run_keeps_its_own(
    scripted_spec, weights
):
    path = scripted_spec(models__strong__path=str(weights), models__strong__engine="transformers")
    spec = load_spec(path)
    before = find_facts(spec, gpus_per_node=8)
    assert before["weak"].weights is None, "a script's text is in the address already"
    assert before["strong"].thinking == Thinking(("<think>",), ("</think>",))
    frozen = configs(spec, before)
    assert changed(frozen) == []
    overwrite(weights)
    after = find_facts(spec, gpus_per_node=8)
    assert address(spec, after) != address(spec, before)
    assert changed(frozen) == ["strong"]
    weights.rename(weights.with_name("moved"))
    assert changed(frozen) == [], "not seen from here"
    weights.with_name("moved").rename(weights)


def test_a_hub_id_and_a_directory_that_is_gone_have_no_fingerprint(scripted_spec, weights):
    for path in ("owner/name", str(weights / "none")):
        spec = load_spec(scripted_spec(models__strong__path=path, models__strong__engine="vllm"))
        assert find_facts(spec, gpus_per_node=8)["strong"] == ModelFacts(
            COMMON_THINKING, None, rules=2
        )


@pytest.mark.parametrize(
    ("config", "rules"),
    [({"max_position_embeddings": 8192}, 3), ({"rope_scaling": {"type": "longrope"}}, 2)],
)
def test_the_context_is_no_part_of_addresses_if_it_only_cuts_prompts(
    scripted_spec, weights, config, rules
):
    (weights / "config.json").write_text(json.dumps(config))
    given = {"models__strong__path": str(weights), "models__strong__engine": "vllm"}
    keys = set()
    for options in ({}, {"max_model_len": 4096}):
        spec = load_spec(scripted_spec(**given, models__strong__options=options))
        facts = find_facts(spec, gpus_per_node=8)
        assert (facts["strong"].rules, facts["weak"].rules) == (rules, 3)
        keys.add(address(spec, facts))
    assert len(keys) == (1 if rules == 3 else 2)


def test_a_run_keeps_the_rules_it_was_launched_by(scripted_spec, weights):
    spec = load_spec(
        scripted_spec(models__strong__path=str(weights), models__strong__engine="vllm")
    )
    strong = configs(spec, find_facts(spec, gpus_per_node=8))["strong"]
    earlier = {"strong": replace(strong, weights=fingerprint(weights, rules=1), rules=1)}
    assert changed(earlier) == []
    (weights / "eval_results.json").write_text("{}")
    assert changed(earlier) == ["strong"], "as it was told then"
    assert changed({"strong": strong}) == []


def test_the_tokenizer_option_s_files_count(scripted_spec, weights, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "chat_template.jinja").write_text("<seed:think>")
    (tokenizer / "vocab.bpe").write_text("a")
    path = scripted_spec(models__strong__path=str(weights), models__strong__engine="vllm", models__strong__options={"tokenizer": str(tokenizer)})  # fmt: skip
    spec = load_spec(path)
    before = find_facts(spec, gpus_per_node=8)["strong"]
    assert before.thinking == Thinking(("<seed:think>",), ("</seed:think>",))
    (tokenizer / "vocab.bpe").write_text("b")
    assert find_facts(spec, gpus_per_node=8)["strong"].weights != before.weights
    (weights / "m.gguf").write_text("")
    assert resolve_thinking("auto", str(weights / "m.gguf")) == Thinking(("<think>",), ("</think>",))  # fmt: skip
    assert resolve_thinking("auto", str(weights / "absent.gguf")) == COMMON_THINKING


def test_a_dry_run_shows_what_would_be_frozen(cli, scripted_spec, weights):
    spec = scripted_spec(
        models__strong__path=str(weights), models__strong__engine="transformers",
        models__strong__template_args={"enable_thinking": False}, models__weak__thinking="none",
    )  # fmt: skip
    shown = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)["models"]
    assert shown["weak"] == {"thinking": None, "template_args": {}, "weights": None}
    strong = shown["strong"]
    assert strong["thinking"] == {"starts": ["<think>"], "ends": ["</think>"], "known": True}
    assert strong["template_args"] == {"enable_thinking": False}
    text = cli("launch", spec, "--dry-run").stdout
    assert "strong: thinking is removed from its replies: <think> … </think>" in text
    assert "weak: thinking is not removed from its replies" in text
    overwrite(weights)
    again = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)["models"]
    assert again["strong"]["weights"] not in (None, strong["weights"])


def test_a_run_whose_trials_have_no_cut_samples_goes_on(cli, scripted_spec, tmp_path):
    """As in journals of earlier versions; its spec has none of the keys about thinking."""
    assert cli("launch", scripted_spec(**SMALL), "--wait").returncode == 0
    run = RunDirectory(tmp_path / "results" / "small")
    text = run.spec_file.read_text()
    kept = [line for line in text.splitlines() if not line.strip().startswith(("thinking:", "template_args:"))]  # fmt: skip
    assert len(kept) == len(text.splitlines()) - 4
    run.spec_file.write_text("\n".join(kept) + "\n")
    # As if its controller had been killed once the first trial had finished.
    events = journal_events(run.path)
    [first, *_] = [n for n, event in enumerate(events) if event["event"] == "finished"]
    del events[first + 1 :]
    events[first]["row"].pop("cut_samples")
    run.journal_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert make_controller(run.read())
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert read_state(run.journal_file).finished == "done"
    frame = table(tmp_path)
    assert set(frame["state"]) == {"COMPLETED"}
    assert frame["cut_share"].null_count() == 1, "of what had finished before"
    assert frame["cut_share"].drop_nulls().len() >= 1


def test_a_script_that_has_changed_since_the_launch_is_warned_of(unstarted_run, tmp_path, caplog):
    script = tmp_path / "own.json"
    script.write_text('{"default": "the Danube"}')
    run = unstarted_run(models__weak__path=str(script))
    warn_of_changed_models(run.read())
    assert caplog.text == ""
    script.write_text('{"default": "the Rhine"}')
    warn_of_changed_models(run.read())
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"models.weak: the files at {script} have changed since the launch, ")
    assert "so its later samples are of another model than the earlier ones" in warning
    record = json.loads(run.record_file.read_text())
    del record["contents"]
    run.record_file.write_text(json.dumps(record))
    caplog.clear()
    warn_of_changed_models(run.read())
    assert caplog.text == "", "an older version did not record what the script held"
