"""Whole runs of models that think: what table, status and report say of cut samples, and what a launch freezes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

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
        assert "raise stages.answer.decode_tokens" in text
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
        changes = {f"models__{name}__options": options for name in scripts}
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
