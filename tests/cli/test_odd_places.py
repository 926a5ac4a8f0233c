"""Names and variables that are not UTF-8 text, as other locales and copied archives leave them."""

from __future__ import annotations

import os

import pytest

from agenttts.dispatch.profile import load_profile
from agenttts.errors import UserError
from tests.support.scripted import small_spec

ODD = os.fsdecode(b"b\xff")


def refused(done, *parts):
    assert done.returncode == 2, done
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("agenttts-hpc: ")
    for part in ("not UTF-8 text", *parts):
        assert part in line


@pytest.mark.parametrize("option", ["--wait", "--dry-run"])
def test_a_results_directory(cli, scripted_spec, tmp_path, option):
    (tmp_path / ODD).mkdir()
    refused(cli("launch", scripted_spec(), option, "--results", tmp_path / ODD), "results directory")  # fmt: skip
    assert not list((tmp_path / ODD).iterdir())


def test_a_folder_that_the_command_runs_in(cli, scripted_spec, tmp_path):
    (tmp_path / ODD).mkdir()
    refused(cli("launch", scripted_spec(), "--wait", cwd=tmp_path / ODD), "results directory")


def test_a_folder_of_a_spec_and_of_a_profile(cli, tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    spec = small_spec(folder, samples="./store")
    refused(cli("launch", spec, "--dry-run"), "samples: the path of './store'")
    (folder / "p.yaml").write_text("kind: local\ncache: ./cache\n")
    with pytest.raises(UserError, match=r"the profile's folder holds bytes that are not UTF-8"):
        load_profile(str(folder / "p.yaml"), [])


def test_a_variable(cli, scripted_spec):
    spec = scripted_spec(models__weak__path="$MODELS/weak.json")
    done = cli("launch", spec, "--dry-run", env={"MODELS": f"/{ODD}"})
    refused(done, "models.weak.path", "variable MODELS")


@pytest.mark.parametrize("command", ["status", "report", "resume", "cancel"])
def test_a_run_that_was_renamed(cli, scripted_spec, tmp_path, command):
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    (tmp_path / "results" / "small").rename(tmp_path / "results" / ODD)
    refused(cli(command, tmp_path / "results" / ODD), "its path")


def test_an_option(cli, scripted_spec):
    spec = scripted_spec()
    refused(cli("launch", spec, "--dry-run", "--cluster", f"./{ODD}.yaml"), "--cluster ")
    done = cli("launch", spec, "--dry-run", "--name", ODD)
    assert done.returncode == 2
    assert r"'b\udcff' is not a valid run name" in " ".join(done.stderr.split())


# With characters that YAML escapes in other ways than JSON, or folds.
PLACES = ["größe 🤖 100%", 'a"b\\n: #', "a\x85\u2028\x7f\ufeff\U000e0001\tb", "x" * 200 + " y" * 20]


@pytest.mark.parametrize("place", PLACES, ids=["emoji", "quotes", "controls", "long"])
def test_text_that_is_utf_8_is_taken_whatever_it_says(cli, tmp_path, place):
    folder = tmp_path / place
    folder.mkdir()
    spec = small_spec(folder, search__iterations=0, task__examples=2)
    profile = folder / "p.yaml"
    profile.write_text("kind: in_process\ngpus_per_node: 0\npoll_seconds: 0.02\nmax_running: 1\n")
    done = cli("launch", spec, "--wait", "--results", folder / "r", "--cluster", profile)
    assert done.returncode == 0, done.stderr
