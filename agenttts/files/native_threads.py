"""How many threads native libraries start in commands and the controller.

Without a limit they start as many as the machine has cores: OpenBLAS when numpy is imported, Polars
at its first query. On a login node with many cores and a limit on a user's processes, the first
query fails. Besides, threads that wait for each other take CPU time: the matrices here are small.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_POLARS_THREADS = 4
# The names of the variables that `limit_native_threads` has set, for the processes that inherit
# them.
_MARK = "AGENTTTS_THREAD_LIMITS"


def limit_native_threads() -> None:
    """Limit the threads of numpy and Polars in this process and its children.

    It has an effect only before numpy is imported and before Polars' first query. A variable that
    the user has set stays as it is.
    """
    wanted = {"POLARS_MAX_THREADS": min(_POLARS_THREADS, os.cpu_count() or 1)}
    if "OMP_NUM_THREADS" not in os.environ:  # OpenBLAS would take this number
        wanted["OPENBLAS_NUM_THREADS"] = 1
    new = {name: str(number) for name, number in wanted.items() if name not in os.environ}
    if new:
        os.environ.update(new, **{_MARK: ",".join(new)})


def without_thread_limits(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `limit_native_threads` has set in it.

    A trial's program has the cores of its job, and its task may compute with numpy.
    """
    ours = {_MARK, *environment.get(_MARK, "").split(",")}
    return {name: value for name, value in environment.items() if name not in ours}
