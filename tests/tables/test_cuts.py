"""Cut samples: shares by stage and model, when a run warns of them, and tables from before they
were counted.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.files.table_files import atomic_write_parquet
from agenttts.run.rows import row_from_json, row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.cuts import (
    CUT_SHARE_WARNED_OF,
    cut_by_model,
    cut_by_stage,
    cut_document,
    cut_warnings,
)
from agenttts.tables.schema import (
    ExampleRow,
    StageCuts,
    TrialRow,
    TrialState,
    examples_frame,
    read_examples,
    read_trials,
    trial_rows,
    trials_frame,
)


def row(model: str, retrieval: tuple[int, int], answer: tuple[int, int]) -> TrialRow:
    """A trial of ``model`` in both stages; (samples, cut) of each."""
    counts = {"retrieval": retrieval, "answer": answer}
    return TrialRow(
        run="r", trial="t0000", iteration=0, source="initial", state=TrialState.COMPLETED, score=0.5,
        budget=1.0, allocation=Allocation(tuple(Choice(stage, model, 1) for stage in counts)),
        metrics={"answer.em": 0.5},
        cut_samples=tuple(StageCuts(stage=s, samples=n, cut=c) for s, (n, c) in counts.items()),
    )  # fmt: skip


ROWS = [row("small", (10, 0), (10, 1)), row("small", (30, 0), (30, 1)), row("large", (10, 10), (20, 2))]  # fmt: skip
UNKNOWN = TrialRow("r", "t0009", 0, "initial", TrialState.FAILED, None, 1.0, ROWS[0].allocation)


def test_the_share_of_a_trial_is_that_of_all_its_samples():
    assert [r.cut_share for r in (*ROWS, UNKNOWN)] == [1 / 20, 1 / 60, 12 / 30, None]


def test_shares_are_summed_by_stage_and_model():
    parts = cut_by_model([*ROWS, UNKNOWN])
    assert {(p.stage, p.model): (p.samples, p.cut) for p in parts} == {
        ("retrieval", "small"): (40, 0),
        ("answer", "small"): (40, 2),
        ("retrieval", "large"): (10, 10),
        ("answer", "large"): (20, 2),
    }
    assert [(p.stage, p.samples, p.cut, p.share) for p in cut_by_stage(parts)] == [
        ("retrieval", 50, 10, 0.2),
        ("answer", 60, 4, pytest.approx(4 / 60)),
    ]
    assert cut_document(parts)["retrieval"] == {
        "samples": 50, "cut": 10, "share": 0.2, "models": {"small": 0.0, "large": 1.0},
    }  # fmt: skip
    assert cut_by_model([UNKNOWN]) == []
    assert cut_document([]) == {}


def test_a_warning_names_stage_limit_models_and_what_to_raise():
    [warning] = cut_warnings(cut_by_model(ROWS), {"retrieval": 128, "answer": 64})
    for words in ("stage 'retrieval': 20%", "decode_tokens 128", "large 100%", "stages.retrieval.decode_tokens"):  # fmt: skip
        assert words in warning
    assert "small" not in warning
    assert "\n" not in warning


@pytest.mark.parametrize("cut", [0, 9, 10, 11, 100])
def test_a_warning_comes_above_the_limit_and_not_at_it(cut):
    parts = cut_by_model([row("m", (100, cut), (100, 0))])
    assert bool(cut_warnings(parts, {})) == (cut / 100 > CUT_SHARE_WARNED_OF)


def test_a_model_that_the_search_left_early_is_warned_of_all_the_same():
    """Of all the stage's samples 1 % are cut; of the large model's, every one."""
    rows = [row("small", (990, 0), (1, 0)), row("large", (10, 10), (1, 0))]
    [warning] = cut_warnings(cut_by_model(rows), {"retrieval": 128})
    assert "1% of its samples" in warning
    assert "large 100%" in warning


def test_counts_survive_table_and_journal(tmp_path):
    frame = trials_frame([*ROWS, UNKNOWN], ["answer.em"])
    assert frame["cut_share"].to_list() == [1 / 20, 1 / 60, 12 / 30, None]
    path = tmp_path / "trials.parquet"
    atomic_write_parquet(path, frame)
    assert trial_rows(read_trials(path)) == [*ROWS, UNKNOWN]
    assert [row_from_json(row_to_json(r)) for r in (*ROWS, UNKNOWN)] == [*ROWS, UNKNOWN]


def test_tables_and_journals_without_them_are_read(tmp_path):
    trials, examples = tmp_path / "trials.parquet", tmp_path / "examples.parquet"
    atomic_write_parquet(trials, trials_frame(ROWS, ["answer.em"]).drop("cut_share", "cut_samples"))
    example = ExampleRow("t0000", "e", "answer", "m", 1, '"x"', ["x"], {"em": 1.0}, cut=1)
    atomic_write_parquet(examples, examples_frame([example], ["em"]).drop("cut"))
    read = read_trials(trials)
    assert read["cut_share"].to_list() == [None] * 3
    assert [r.cut_samples for r in trial_rows(read)] == [()] * 3
    assert read.schema == trials_frame(ROWS, ["answer.em"]).schema
    assert read_examples(examples)["cut"].to_list() == [None]
    record = {k: v for k, v in row_to_json(ROWS[0]).items() if k != "cut_samples"}
    assert row_from_json(record).cut_samples == ()


def test_other_columns_are_still_missed(tmp_path):
    path: Path = tmp_path / "trials.parquet"
    pl.DataFrame({"run": ["r"], "cut_share": [0.1]}).write_parquet(path)
    with pytest.raises(UserError, match="these columns are missing: trial, iteration"):
        read_trials(path)
