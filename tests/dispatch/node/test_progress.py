"""What the job sees of a trial: of the sample store, which trials share, only what this one
adds.
"""

from __future__ import annotations

import os

import pytest

from agenttts.dispatch.node.progress import TrialSight
from agenttts.inference.shard_names import trial_writer
from agenttts.inference.store import SampleStore, StoredSample
from tests.support.trials import trial_writer as spec_writer


@pytest.fixture
def look(tmp_path):
    """When a shard was last added, as the job of trial t1 of the run 'a run' sees it; and a way
    to add one as another.
    """
    spec = spec_writer(tmp_path)("t1", ("weak", 1), ("weak", 1), run="a run")
    samples = tmp_path / "samples"
    trial = samples.parent / "trials" / "t1"
    sight = TrialSight(trial, os.getpid(), on_gpu=True, first_trial=trial)
    moments = iter(range(1, 1000))

    def add(run: str, trial: str, name: str | None = None) -> None:
        samples.mkdir(exist_ok=True)
        if name is not None:
            (samples / name).touch()
        else:
            store = SampleStore(samples, f"{trial_writer(run, trial)}{os.getpid()}")
            store.add(StoredSample("key", 0, "text", 1, "stop", 1, False, "m"))
            store.flush()
        # The clock of a file system may be coarse.
        moment = next(moments) * 10**9
        os.utime(samples, ns=(moment, moment))

    assert spec.samples == str(samples)
    return (lambda: sight.take().store_changed_ns), add


def test_a_shard_of_the_trial_s_own_is_progress(look):
    changed, add = look
    assert changed() == 0, "no store yet"
    add("a run", "t1")
    first = changed()
    assert first > 0
    assert changed() == first
    add("a run", "t1")
    assert changed() > first


def test_shards_of_others_are_none(look):
    changed, add = look
    add("a run", "t1")
    first = changed()
    for run, trial in [("a run", "t10"), ("a run", "t2"), ("a run-t1", "t2"), ("run", "t1")]:
        add(run, trial)
        assert changed() == first, (run, trial)
    for name in (
        ".a_run-t1-7-x-00001.parquet.tmp",
        "a_run-t1-7-00000.damaged",
        "compacted.parquet",
    ):
        add("", "", name)
        assert changed() == first, name
    add("a run", "t1")
    assert changed() > first
