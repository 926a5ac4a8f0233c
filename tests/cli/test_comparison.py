"""What ``compare`` says where it gives no verdict."""

from __future__ import annotations

import pytest

from agenttts.cli.comparison import _more


@pytest.mark.parametrize(("low", "told"), [(0.2, True), (-0.2, False), (None, False)])
def test_an_interval_without_zero_that_tells_nothing_is_explained(low, told):
    score = {"verdict": "not to be told", "more_examples": 2, "low": low, "high": 0.6}
    lines = _more(score)
    assert any("too few examples differ" in line for line in lines) == told
    assert lines[-1].startswith("about 2 more examples would tell")
