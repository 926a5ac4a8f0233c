"""Kernels that an engine compiles on a node whose directories are mounted noexec."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agenttts.inference import compiled_code, transformers
from agenttts.inference.base import EngineError, ModelConfig
from agenttts.inference.compiled_code import compiles_kernels, use_executable_caches

VARIABLES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """Call with directories to have them, and what is in them, mounted noexec."""
    for name in VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "cache" / name))

    def close(*places: Path) -> None:
        def is_noexec(place: Path) -> bool:
            return any(place == at or place.is_relative_to(at) for at in places)

        monkeypatch.setattr(compiled_code, "is_noexec", is_noexec)

    return close


def caches(monkeypatch) -> dict[str, str]:
    return {name: compiled_code.os.environ[name] for name in VARIABLES}


def test_a_cache_from_which_code_can_be_loaded_stays(closed, monkeypatch):
    closed()
    before = caches(monkeypatch)
    assert use_executable_caches() is None
    assert caches(monkeypatch) == before


def test_a_place_that_cannot_be_looked_at_is_left_to_the_compiler(closed, monkeypatch):
    """A home that the node does not show to the user, or a user without a home."""
    closed()

    def denied(place: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(place))

    with monkeypatch.context() as home:
        home.setattr(Path, "exists", denied)
        assert use_executable_caches() is None
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    assert use_executable_caches() is None


def test_another_directory_is_taken_if_there_is_one(closed, monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(compiled_code, "executable_directory", lambda needed: other)
    (tmp_path / "cache").mkdir()
    closed(tmp_path / "cache")
    assert use_executable_caches() is None
    assert all(Path(place).is_relative_to(other) for place in caches(monkeypatch).values())
    before = caches(monkeypatch)
    assert use_executable_caches() is None, "the next engine of the process"
    assert caches(monkeypatch) == before


@pytest.mark.parametrize(
    ("method", "packages", "needed"),
    [
        ("mxfp4", True, True),
        ("fp8", True, True),
        ("mxfp4", False, False),  # transformers takes the weights apart
        ("bitsandbytes", True, False),
        (None, True, False),
    ],
)
def test_a_model_that_needs_kernels_is_not_loaded_where_they_cannot_be(
    closed, monkeypatch, tmp_path, method, packages, needed
):
    monkeypatch.setattr(compiled_code, "find_spec", lambda name: name if packages else None)
    monkeypatch.setattr(compiled_code, "executable_directory", lambda needed: tmp_path)
    closed(tmp_path)
    config = {"quantization_config": {"quant_method": method}} if method else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert compiles_kernels(str(tmp_path)) == needed
    model = ModelConfig("m", str(tmp_path), engine="transformers")
    if not needed:
        transformers._check_compiled_code(model)
        return
    with pytest.raises(EngineError, match=r"mounted noexec.*TMPDIR") as error:
        transformers._check_compiled_code(model)
    assert error.value.kind == "INFRA_FAILED"
