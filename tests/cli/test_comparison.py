"""What ``compare`` says where it gives no verdict."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from agenttts.cli.comparison import _more
from agenttts.tables.difference import compare


@pytest.mark.parametrize(("low", "told"), [(0.2, True), (-0.2, False), (None, False)])
def test_an_interval_without_zero_that_tells_nothing_is_explained(low, told):
    score = {"verdict": "not to be told", "more_examples": 2, "low": low, "high": 0.6}
    lines = _more(score)
    assert any("too few examples differ" in line for line in lines) == told
    assert lines[-1].startswith("about 2 more examples would tell")


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ([1.0], [0.0], "one example cannot tell"),
        ([0.0, 1.0], [0.0, 1.0], "no difference was measured"),
    ],
)
def test_why_no_number_of_examples_would_tell_is_said(first, second, told):
    sides = [{str(n): score for n, score in enumerate(side)} for side in (first, second)]
    found = compare(*sides)
    assert found is not None
    [line] = _more(asdict(found))
    assert line.startswith(told)
