"""A replay of a run's own table searches as the run did."""

import polars as pl
import pytest

from agenttts.loop import controller_job
from agenttts.replay.table import load_table
from agenttts.search import create
from agenttts.search.archive import STORED


@pytest.fixture
def told(unstarted_run):
    """A finished run: its directory, its spec, and what its searcher was told, batch by batch."""
    run = unstarted_run()
    spec = run.spec()
    controller = controller_job.make_controller(run.read())
    tell, batches = controller._searcher.tell, []

    def recorded(batch):
        batches.append(list(batch))
        tell(batch)

    controller._searcher.tell = recorded
    controller.run()
    return run, spec, batches


def test_a_replay_is_told_what_the_run_told(told):
    run, spec, batches = told
    space = spec.space()
    table = load_table(run.trials_file, space)
    results = [result for batch in batches for result in trials_of(batch)]
    assert len(results) > 6
    assert all(result.stderr is not None for result in results)
    assert [table.trial(space, r.allocation, r.source) for r in results] == results
    # And so it proposes the same, batch by batch.
    searcher = create(spec.search.method, space, spec.search.seed, **spec.search.options)
    for batch in batches:
        trials = trials_of(batch)
        if {result.source for result in trials} == {"recommended"}:
            assert searcher.best() == trials[0].allocation
            break
        proposals = searcher.propose(len(trials))
        assert [(p.allocation, p.source) for p in proposals] == [
            (result.allocation, result.source) for result in trials
        ]
        found = [table.trial(space, p.allocation, p.source) for p in proposals]
        told_too = [t for f in found for t in (f, *table.stored(space, f, of_grid=False))]
        assert told_too == batch
        searcher.tell(told_too)


def trials_of(batch):
    return [result for result in batch if result.source != STORED]


def lose_the_last_score(file):
    """Write a table of examples whose last example has no score."""
    table = pl.read_parquet(file)
    last = table.filter(stage="answer")["example"].to_list()[-1]
    lost = (pl.col("stage") == "answer") & (pl.col("example") == last)
    none = dict.fromkeys(table["metrics"].struct.fields)
    metrics = pl.when(lost).then(pl.lit(none, table.schema["metrics"])).otherwise("metrics")
    table.with_columns(metrics.alias("metrics")).write_parquet(file)


def cut(file):
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("damage", [lose_the_last_score, cut])
def test_a_trial_without_all_scores_by_example_is_replayed_by_its_score(told, damage):
    run, spec, batches = told
    space = spec.space()
    result, other, *_ = trials_of(batches[0])
    damage(run.trial("t0000") / "examples.parquet")
    table = load_table(run.trials_file, space)
    found = table.trial(space, result.allocation, result.source)
    assert found.examples is None
    assert found.score == result.score
    assert table.trial(space, other.allocation, other.source) == other
    assert table.example_count is None
