"""How the profile of a run is corrected, for messages that ask for that.

Messages of schedulers say what to correct in the profile. They do not know the run, which keeps the
profile of its launch until it is given another one.
"""

from __future__ import annotations

import re
from contextlib import suppress

from agenttts.dispatch.profile import is_profile_file
from agenttts.errors import UserError
from agenttts.run.directory import RunDirectory

_ASKS = re.compile(r"\bprofile\b")
RESUMES = "agenttts-hpc resume"
"""The command in a text that says how a run goes on."""


def profile_fix(run: RunDirectory, *, retry: bool = False) -> str:
    """Return the steps that give a run a corrected profile.

    Args:
        run: The run.
        retry: Also try trials without a score again.
    """
    cluster = run.spec().cluster
    file = cluster if is_profile_file(cluster) else f"slurm/{cluster}.yaml"
    more = " --retry-failed" if retry else ""
    return f"edit {file}, then '{RESUMES} {run.path} --cluster {cluster}{more}'"


def with_profile_fix(text: str, run: RunDirectory, *, retry: bool = False) -> str:
    """Return a message, with `profile_fix` at its end if it asks for that.

    A message that names ``--cluster`` says already how to choose another profile.
    """
    if _ASKS.search(text) and "--cluster" not in text:
        with suppress(UserError):  # a damaged spec: the message itself is what matters
            return f"{text.rstrip('.')}. To correct the profile: {profile_fix(run, retry=retry)}"
    return text
