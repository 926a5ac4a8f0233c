"""Variables and ``~`` in paths of spec and profile."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agenttts.dispatch.profile import load_profile
from agenttts.errors import UserError
from agenttts.spec import load_spec
from agenttts.spec.load import dump_spec
from agenttts.spec.paths import expanded


def test_variables_and_homes_are_replaced(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("$SCRATCH/a", "k") == "/scratch/me/a"
    assert expanded("${SCRATCH}_b:$SCRATCH:ro", "k") == "/scratch/me_b:/scratch/me:ro"
    assert expanded("~/a", "k") == "/home/me/a"
    for same in ("", "/a/b", "org/model", "a~b", "costs 5$", "./a//b"):
        assert expanded(same, "k") == same


@pytest.mark.parametrize(("path", "said"), [("$NO_SUCH/a", "NO_SUCH"), ("${NO_SUCH}", "NO_SUCH"), ("~nobody-here/a", "home")])  # fmt: skip
def test_what_is_not_set_is_named(monkeypatch, path, said):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(UserError, match=f"models.x.path: .*{said}"):
        expanded(path, "models.x.path")


PLACES = {
    "models.weak.path": {"models__weak__path": "$PLACE/weak.json"},
    "task.data": {"task__data": "$PLACE/data.jsonl"},
    "samples": {"samples": "$PLACE/samples"},
    "container.image": {"container__image": "$PLACE/image.sif"},
    "container.binds": {"container__binds": ["$PLACE/a:/a:ro"]},
    "task.options.tools": {"task__options": {"tools": "$PLACE/tools.json"}},
    "agent.model": {"agent": {"kind": "serve", "model": "$PLACE/model"}},
    "agent.replies": {"agent": {"kind": "scripted", "replies": "$PLACE/replies.json"}},
    "search.options.knowledge": {"search__options": {"knowledge": ["$PLACE/a.parquet"]}},
}


@pytest.mark.parametrize(("key", "change"), PLACES.items(), ids=PLACES)
def test_every_path_of_a_spec_is_expanded_and_frozen(scripted_spec, tmp_path, monkeypatch, key, change):  # fmt: skip
    path = scripted_spec(**change)
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    text = dump_spec(load_spec(path))
    assert str(tmp_path / "place") in text
    assert "$" not in text
    monkeypatch.delenv("PLACE")
    (tmp_path / "frozen.yaml").write_text(text)
    assert dump_spec(load_spec(tmp_path / "frozen.yaml")) == text
    with pytest.raises(UserError, match=rf"small.yaml: {key}: .*PLACE, which is not set"):
        load_spec(path)


def test_every_path_of_a_profile_is_expanded(tmp_path, monkeypatch):
    profile = {
        "kind": "slurm",
        "cache": "$PLACE/cache",
        "container": {"image": "${PLACE}/i.sif", "binds": ["$PLACE:/data"]},
    }
    path = tmp_path / "big.yaml"
    path.write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("PLACE", "/place")
    loaded = load_profile(str(path), [])
    assert (loaded.cache, loaded.container.image, loaded.container.binds) == ("/place/cache", "/place/i.sif", ["/place:/data"])  # fmt: skip
    monkeypatch.delenv("PLACE")
    with pytest.raises(UserError, match=r"big.yaml: container.image: .*PLACE, which is not set"):
        load_profile(str(path), [])
    assert isinstance(Path(loaded.cache), Path)
