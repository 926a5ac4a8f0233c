"""Logs without the lines that say nothing of a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.inference.beats import MARK
from agenttts.status.folded_log import folded, log_lines

VLLM = "(EngineCore pid=7) INFO 11-20 10:11:12 [core.py:58] Initializing a V1 engine"


@pytest.mark.parametrize(
    "line",
    [
        VLLM,
        "INFO 11-20 10:11:12 [core.py:58] x",
        "(Worker_TP0 pid=9) (EngineCore pid=7) DEBUG 11-20 x",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2 |  50%|#####     | 1/2",
        f"{MARK}model 'm' is running: step 1,200",
    ],
)
def test_lines_of_an_engine_are_folded(line):
    assert list(folded(["before", line, line, line, "after"])) == [
        "before",
        "[... 3 lines of the engine; --all shows them]",
        "after",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "(EngineCore pid=7) ERROR 11-20 10:11:12 [core.py:58] out of memory",
        "WARNING 11-20 10:11:12 [core.py:58] x",
        "Traceback (most recent call last):",
        "INFORMATION about a task of the user",
        "t0003: score 0.5000",
    ],
)
def test_other_lines_are_kept(line):
    given_lines = [VLLM, VLLM, line, VLLM, VLLM]
    assert line in folded(given_lines)


def test_warnings_are_folded_only_where_they_did_no_harm():
    lines = [
        "W1128 10:03:33.747000 22 torch/_library/triton.py:53] Triton not available",
        "(MainProcess pid=22) WARNING 11-28 10:03:34 [cpu.py:224] Triton is not installed.",
        "/opt/vllm/triton_utils/dispatcher.py:138: FutureWarning: `torch.x` is deprecated",
        '  if hasattr(value, "__dict__"):',
        "[W1128 10:03:46.418040235 utils.cpp:68] Warning: NUMA binding",
        "Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.36s/it]",
        "",
        "(MainProcess pid=22) WARNING 11-28 10:03:58 [cpu_worker.py:140] skip it.",
    ]
    end = "t0000: score 0.0000"
    assert list(folded([*lines, end], warnings=True)) == [
        "[... 8 lines of the engine; --all shows them]",
        end,
    ]
    assert list(folded([*lines, end])) == [*lines, end]


def test_similar_lines_are_folded_to_the_first_and_the_last():
    lines = [f"retry {n} of 40 failed" for n in range(40)]
    assert list(folded(lines)) == [lines[0], "[... 38 similar lines; --all shows them]", lines[-1]]
    assert list(folded(lines[:5])) == lines[:5]


@given(st.lists(st.sampled_from([VLLM, "a", "b 1", "b 2", ""]), max_size=40))
def test_what_is_no_engine_s_line_is_not_lost(lines):
    shown = list(folded(lines))
    assert len(shown) <= len(lines)
    kinds = [line.rstrip("12 ") for line in lines if line != VLLM]
    for kind in set(kinds):
        assert any(line.rstrip("12 ") == kind for line in shown)


def test_a_progress_bar_is_one_line_and_escapes_are_removed():
    text = "start\n 10%|#   |\r 60%|##  |\r100%|####| done\r\n\x1b[31mred\x1b[0m\tend  "
    assert log_lines(text) == ["start", "100%|####| done", "red\tend"]
