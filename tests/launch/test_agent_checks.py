"""Fields of a request to the search's language model that other keys would override."""

from __future__ import annotations

import pytest

from agenttts.errors import UserError
from agenttts.launch.agent_checks import check_extra_fields
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec

SERVER = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}


@pytest.mark.parametrize(
    ("extra", "more", "said"),
    [
        ({"max_tokens": 64}, {}, r"agent\.extra\.max_tokens: .*agent\.max_tokens \(2048\)"),
        ({"max_completion_tokens": 64}, {}, r"agent\.extra\.max_completion_tokens: "),
        ({"temperature": 0.2}, {}, r"agent\.extra\.temperature: .*agent\.temperature \(0\.7\)"),
        ({"temperature": 0.2}, {"temperature": None}, None),
        ({"seed": 3}, {}, r"agent\.extra\.seed: .*search\.seed"),
        ({"top_k": 20, "reasoning_effort": "low"}, {}, None),
    ],
)
def test_a_field_that_would_be_overridden_is_refused_at_launch(
    scripted_spec, tmp_path, extra, more, said
):
    agent = {**SERVER, "extra": extra, **more}
    spec = load_spec(scripted_spec(agent=agent))  # a stored spec is read
    if said is None:
        check_extra_fields(spec)
        return
    with pytest.raises(UserError, match=said):
        make_plan(spec, [], tmp_path / "results", dry_run=True)


def test_other_language_models_have_no_such_fields(scripted_spec):
    check_extra_fields(load_spec(scripted_spec(agent="none")))
