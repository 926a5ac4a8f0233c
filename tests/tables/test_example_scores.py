"""A trial's scores by example."""

from __future__ import annotations

import pytest

from agenttts.tables.example_scores import example_scores
from agenttts.tables.schema import ExampleRow, examples_frame


@pytest.mark.parametrize("stage", ["answer", "answer.long"])
def test_scores_by_example_are_those_of_the_main_metric(tmp_path, stage):
    path = tmp_path / "examples.parquet"
    rows = [
        ExampleRow("t0", f"e{n}", name, "m", 1, '""', metrics={"em": score, "f1": 0.5})
        for n, score in enumerate((1.0, None, 0.0))
        for name in ("first", stage)
    ]
    examples_frame(rows, ["em", "f1"]).write_parquet(path)
    assert example_scores(path, f"{stage}.em") == {0: 1.0, 2: 0.0}
    assert example_scores(path, f"{stage}.other") is None
    assert example_scores(path, "other.em") is None
