"""The table of a run's trials, written again and again while they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agenttts.loop.trials_table import TrialsTable
from agenttts.run.progress import PlannedTrial, TrialProgress
from agenttts.run.rows import row_from_json, row_to_json
from agenttts.space import Allocation
from agenttts.tables.schema import TrialRow, TrialState, read_trials, trials_frame

ALLOCATION = Allocation.from_records([{"stage": "answer", "model": "weak", "samples": 2}])
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["em", "f1", "failed", "again"])), max_size=20
)


def row(number: int, what: str) -> dict:
    failed = what == "failed"
    return row_to_json(
        TrialRow(
            run="r", trial=f"t{number:04}", iteration=0, source="random",
            state=TrialState.FAILED if failed else TrialState.COMPLETED,
            score=None if failed else 0.5, budget=1.0, allocation=ALLOCATION,
            metrics={} if failed else {what: 0.5}, finished=BEGAN + timedelta(seconds=number),
            error="it failed" if failed else None,
        )
    )  # fmt: skip


@given(EVENTS)
def test_it_has_the_rows_of_all_trials_that_have_ended(tmp_path_factory, events):
    """In the order of the trials, whichever ends first; also if one is tried again."""
    path = tmp_path_factory.mktemp("table") / "trials.parquet"
    table = TrialsTable(path)
    trials = [
        TrialProgress(PlannedTrial(f"t{n:04}", 0, ALLOCATION, "random", "", 1.0)) for n in range(8)
    ]
    for number, what in events:
        trials[number].row = None if what == "again" else row(number, what)
        table.write(trials)
        rows = [row_from_json(trial.row) for trial in trials if trial.row]
        names = list(dict.fromkeys(name for one in rows for name in one.metrics))
        assert_frame_equal(read_trials(path), trials_frame(rows, names))
