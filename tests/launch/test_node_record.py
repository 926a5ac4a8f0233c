"""What a launch shows of the last ``doctor --submit`` of its profile."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agenttts.dispatch.profile import Profile
from agenttts.launch.node_record import PROBE_FOLDER, last_look, write_record

PROFILE = Profile(kind="slurm")


def after(results: Path, **ago: float) -> datetime:
    """So much later than the record of 'mine'."""
    written = json.loads((results / PROBE_FOLDER / "mine.json").read_text())["time"]
    return datetime.fromisoformat(written) + timedelta(**ago)


def test_a_profile_that_nobody_looked_at_names_the_command(tmp_path):
    said = last_look(tmp_path, "mine", PROFILE)
    assert said == "not checked yet ('agenttts-hpc doctor --cluster mine --submit' checks them)"
    assert last_look(tmp_path, "local", Profile(kind="local")) is None


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        ({}, "0 seconds ago"),
        ({"seconds": 119}, "119 seconds ago"),
        ({"minutes": 90}, "90 minutes ago"),
        ({"hours": 30}, "30 hours ago"),
        ({"days": 3.1}, "3 days ago"),
        ({"days": -1}, "0 seconds ago"),  # the clock of another login node
    ],
)
def test_how_long_ago(tmp_path, ago, text):
    write_record(tmp_path, "slurm/mine.yaml", PROFILE, True)
    assert (
        last_look(tmp_path, "mine", PROFILE, after(tmp_path, **ago)) == f"all checks passed {text}"
    )


def test_what_was_missing_and_what_has_changed(tmp_path):
    write_record(tmp_path, "mine", PROFILE, False)
    said = last_look(tmp_path, "./mine.yml", PROFILE, after(tmp_path))
    assert said is not None
    assert said.startswith("some checks failed 0 seconds ago ('agenttts-hpc doctor --cluster ./mine.yml")  # fmt: skip
    changed = last_look(tmp_path, "mine", Profile(kind="slurm", max_running=3))
    assert "with another version of the profile" in str(changed)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ok": true, "time": "soon", "profile": "x"}', "\x00"])  # fmt: skip
def test_a_damaged_record_is_none(tmp_path, content):
    write_record(tmp_path, "mine", PROFILE, True)
    (tmp_path / PROBE_FOLDER / "mine.json").write_text(content)
    assert "not checked yet" in str(last_look(tmp_path, "mine", PROFILE))
