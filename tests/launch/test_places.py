"""A launch names file, line and key of what is wrong, wherever it was found."""

from __future__ import annotations

import pytest

from agenttts.errors import AgentTTSError
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec

WRONG = {
    "task.name": ({"task__name": "chatdv"}, "unknown task 'chatdv'; valid: .*did you mean 'chatdev'"),
    "task.data": ({"task__data": "builtin:tohop"}, "no built-in data set 'tohop'; .*did you mean 'twohop'"),
    "task.split": ({"task__split": "serch"}, "unknown split 'serch'; .*did you mean 'search'"),
    "task.examples": ({"task__examples": 10**6}, "1000000 examples asked for, .*at most"),
    "task.options.hub_split": ({"task__options": {"hub_split": "dev"}}, "are not a hub data set; remove hub_split"),
    "task.options.max_candidates": ({"task__options": {"max_candidates": 0}}, "0 is not valid; valid: a whole number of 1 or more"),
    "search.method": ({"search__method": "agentts"}, "unknown method 'agentts'; .*did you mean 'agenttts'"),
    "search.budget": ({"search__budget": 1}, "too small for any allocation"),
    "search.options.population": ({"search__method": "genetic", "search__options": {"population": 1}}, "1 is not valid; valid: 2 or more trials"),
    "search.options.knowledge[0]": ({"search__method": "mlcopilot", "search__options": {"knowledge": ["./none"]}}, "neither a finished run nor a table"),
    "models.weak.options.max_model_len": ({"models__weak__options": {"max_model_len": "8k"}}, "'8k' is not valid; valid: a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_with_a_value_is_told_at_its_place(scripted_spec, tmp_path, key):
    change, problem = WRONG[key]
    path = scripted_spec(**change)
    with pytest.raises(AgentTTSError, match=problem) as caught:
        make_plan(load_spec(path), [], tmp_path / "results")
    error = caught.value
    lines = path.read_text().splitlines()
    assert str(error).startswith(f"{path}:{error.line}: {key}: ")
    last = next(part for part in reversed(error.at) if isinstance(part, str))
    written = lines[error.line - 1]
    assert last in written or written.lstrip().startswith("- "), "the line is that of the value"


def test_a_missing_data_file_is_listed_by_a_dry_run_with_its_key(scripted_spec, tmp_path):
    spec = load_spec(scripted_spec(task__data="./none.jsonl"))
    [problem] = make_plan(spec, [], tmp_path / "results", dry_run=True).problems
    assert problem.what.startswith("task.data: data file ")
    assert problem.fix.startswith("name one that does")
