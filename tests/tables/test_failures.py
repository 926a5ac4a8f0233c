"""Trials without a result, by their error."""

from __future__ import annotations

from agenttts.tables.failures import failure_groups
from agenttts.tables.schema import TrialState

FAILED, OOM = TrialState.FAILED, TrialState.OOM


def test_errors_that_differ_in_the_trial_s_name_are_one():
    groups = failure_groups(
        [
            ("t0000", FAILED, "no file\n  m.json; see trials/t0000"),
            ("t0001", OOM, "see trials/t0001"),
            ("t0002", FAILED, "no file m.json; see trials/t0002"),
            ("t0003", FAILED, "no file m.json; see trials/t0002"),
            ("t0004", FAILED, None),
            ("t0005", FAILED, None),
        ]
    )
    assert [(group.state, group.error, group.trials) for group in groups] == [
        (FAILED, "no file m.json; see trials/TRIAL", ("t0000", "t0002")),
        (OOM, "see trials/t0001", ("t0001",)),
        (FAILED, "no file m.json; see trials/t0002", ("t0003",)),
        (FAILED, None, ("t0004", "t0005")),
    ]
