"""The excerpts of the published files, which are not part of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

EXCERPTS = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def excerpt():
    """The path of an excerpt by name; skips where there are none."""

    def find(name: str) -> str:
        path = EXCERPTS / name
        if not path.exists():
            pytest.skip(f"the excerpt {name} of the published data is not on this machine")
        return str(path)

    return find
