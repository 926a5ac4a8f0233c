"""A replay of a run's own table searches as the run did."""

import pytest

from agenttts.loop import controller_job
from agenttts.replay.table import load_table
from agenttts.search import create


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
    results = [result for batch in batches for result in batch]
    assert len(results) > 6
    assert all(result.stderr is not None for result in results)
    assert [table.trial(space, r.allocation, r.source) for r in results] == results
    # And so it proposes the same, batch by batch.
    searcher = create(spec.search.method, space, spec.search.seed, **spec.search.options)
    for batch in batches:
        if {result.source for result in batch} == {"recommended"}:
            assert searcher.best() == batch[0].allocation
            break
        proposals = searcher.propose(len(batch))
        assert [(p.allocation, p.source) for p in proposals] == [
            (result.allocation, result.source) for result in batch
        ]
        searcher.tell([table.trial(space, p.allocation, p.source) for p in proposals])
