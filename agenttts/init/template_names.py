"""Which names prompt templates can use for fields and stages."""

from __future__ import annotations

import keyword

from agenttts.tasks.declarative.document import CANDIDATES, variables

# Jinja and fusing templates set these themselves.
_SET_ELSEWHERE = {CANDIDATES, "loop", "self", "super", "caller", "varargs", "kwargs"}


def usable(name: str) -> bool:
    """Return whether ``{{ name }}`` in a prompt is a field or stage of that name."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in _SET_ELSEWHERE:
        return False
    # Jinja's constants and globals are no variables for it.
    return variables(f"{{{{ {name} }}}}") == {name}
