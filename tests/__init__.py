"""The test suite. Shared code is in `tests.support`, fixtures in the ``conftest.py`` files.

Native code computes on one thread a process (OMP_NUM_THREADS, POLARS_MAX_THREADS, unless they are
set): the tests run beside each other, and threads that wait for a busy core made vLLM twelve times
slower (2 cores, 2026-11). The order of sums is then fixed, too.
"""

import os

import pytest

# Read when numpy, torch and Polars are first imported; `tests.conftest` imports numpy before any
# plugin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")

# So that a failed assertion in a shared function shows its values.
pytest.register_assert_rewrite("tests.support")
