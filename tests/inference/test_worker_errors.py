"""The cause of an engine's failure among what vLLM's own processes print: lines as an H100 with
vLLM 0.26 gave them.
"""

from __future__ import annotations

import pytest

from agenttts.inference.engine_process import worker_error

CORE = "(EngineCore pid=5494) "
LOGGED = "ERROR 11-26 16:31:40 [core.py:1330] "
GENERIC = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
CAUSES = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (3.5 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (1.66 GiB).",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    "ValueError: Free memory on device cuda:0 (38.15/79.18 GiB) on startup is less than desired GPU memory utilization",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 32.00 MiB.",
)


@pytest.mark.parametrize("prefix", [CORE, CORE + LOGGED, "(Worker_TP1 pid=77) ", "(VllmWorker rank=1 pid=9) "])  # fmt: skip
@pytest.mark.parametrize("cause", CAUSES)
def test_the_error_of_the_process_that_failed_is_found(prefix, cause):
    lines = [
        "(EngineCore pid=5494) INFO 11-26 16:31:40 [gpu_worker.py:378] Using V2 Model Runner",
        f"{CORE}{LOGGED}Traceback (most recent call last):",
        f"{CORE}{LOGGED}    raise ValueError(",
        prefix + cause,
        "Traceback (most recent call last):",
        GENERIC,
    ]
    assert worker_error(lines) == cause


def test_the_first_of_several_is_the_cause():
    first, later = f"(Worker_TP0 pid=1) {CAUSES[3]}", f"{CORE}{CAUSES[1]}"
    assert worker_error([first, later]) == CAUSES[3]


@pytest.mark.parametrize(
    "line",
    [
        GENERIC,
        CORE + GENERIC,
        CORE
        + LOGGED
        + "Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.",
        CORE + LOGGED + "RuntimeError: Executor failed.",
        "ValueError: of the engine's own process, which its exception names already",
        CORE + "    raise ValueError(",
        "(Worker pid=685) RuntimeError: cancelled",
        CORE + "WARNING 11-26 16:33:03 [x.py:1] an Error: was tolerated",
        CORE + "INFO 11-26 16:33:03 [x.py:1] ValueError: none of it",
        "",
    ],
)
def test_what_tells_no_cause(line):
    assert worker_error([line]) is None


def test_a_long_error_is_cut():
    assert len(worker_error([f"{CORE}ValueError: {'x' * 5000}"]) or "") == 300
