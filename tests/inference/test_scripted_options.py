"""The scripted engine's options are checked where a spec is: at launch."""

from __future__ import annotations

import pytest

from agenttts.errors import UserError
from agenttts.inference.engine_options import check_options


@pytest.mark.parametrize("value", ["2024-01-01", "0.1", -1, True, None, float("inf"), float("nan")])
def test_seconds_per_sample_that_are_no_number_are_refused(value):
    with pytest.raises(
        UserError, match="^seconds_per_sample: .* is not valid; valid: a number of 0 or more"
    ):
        check_options("scripted", {"seconds_per_sample": value})


def test_valid_options_pass():
    check_options("scripted", {"seconds_per_sample": 0.5, "fail": "OOM", "max_model_len": 100})
