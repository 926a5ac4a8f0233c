"""The library that draws figures in a browser is kept, where there is a place for it."""

from __future__ import annotations

import pytest

from agenttts.report.figures.drawing import library


@pytest.fixture(autouse=True)
def fresh():
    """Nothing is remembered of other tests, or for them."""
    library.cache_clear()
    yield
    library.cache_clear()


def test_it_is_made_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = library()
    assert "vegaEmbed" in made
    assert len(made) < 2_000_000
    [kept] = (tmp_path / "agenttts-hpc").iterdir()
    assert kept.read_text(encoding="utf-8") == made
    kept.write_text("kept", encoding="utf-8")
    library.cache_clear()
    assert library() == "kept"


def test_it_is_made_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "vegaEmbed" in library()
