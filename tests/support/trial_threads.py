"""A pytest plugin that ends the threads of trials with their test.

A test that kills a controller leaves the trials that it ran in threads (``kind: in_process``). They
write tables by Polars, whose native threads read variables of the environment. pytest adds one for
each test. glibc (2.36) may then free the list that such a thread is reading, and the process ends
with a segmentation fault.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agenttts.dispatch.in_process import JOBS

_PATIENCE_S = 60.0


def end_trials() -> None:
    """End the trials that run in threads, as the end of the controller's process would."""
    left = [job for jobs in JOBS.values() for job in jobs.values() if job.alive]
    for job in left:
        job.stop()
    for job in left:
        job.wait(_PATIENCE_S)
    assert not any(job.alive for job in left), "a trial runs on in a thread"


@pytest.fixture(autouse=True)
def _trials_end_with_their_test() -> Iterator[None]:
    yield
    end_trials()
