"""A controller that was stopped between propose and told: the next one's searcher knows what is
pending.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from agenttts.loop import controller_job
from agenttts.run.journal import Journal, read_state
from agenttts.space import Allocation
from tests.support.killing import Killed
from tests.support.runs import journal_events


@pytest.fixture
def run(unstarted_run):
    return unstarted_run(search__iterations=1)


def killed_in(controller, iteration):
    """Have the controller die when it is to evaluate the trials of an iteration."""
    evaluate = controller._evaluation.evaluate

    def evaluated(trials, **options):
        if trials[0].planned.iteration == iteration:
            raise Killed
        evaluate(trials, **options)

    controller._evaluation.evaluate = evaluated


@pytest.mark.parametrize("iteration", [0, 1])
def test_what_was_proposed_and_not_told_is_pending_after_a_restart(run, iteration):
    first = controller_job.make_controller(run.read())
    killed_in(first, iteration)
    with pytest.raises(Killed):
        first.run()
    proposed = journal_events(run.path, "proposed")[-1]["trials"]
    assert len(journal_events(run.path, "told")) == iteration
    second = controller_job.make_controller(run.read())
    killed_in(second, iteration)
    with pytest.raises(Killed):
        second.run()
    pending = second._searcher.archive.pending
    assert pending == first._searcher.archive.pending
    planned = [Allocation.from_records(trial["allocation"]) for trial in proposed]
    assert pending == tuple(sorted(planned))
    assert len(journal_events(run.path, "proposed")) == iteration + 1
    # Asked now, as an asynchronous loop would ask, it proposes what is new.
    assert not set(second._searcher.ask(3)) & set(pending)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_better_result_of_a_second_try_is_recommended_after_a_restart(
    unstarted_run, asynchronous
):
    """The controller was killed between the end of the trial and what it concludes from it."""
    run = unstarted_run(
        search__asynchronous=asynchronous,
        search__iterations=1,
        search__method="random",
        search__stored=False,
    )
    controller_job.make_controller(run.read()).run()
    state = read_state(run.journal_file)
    trial = min(state.trials.values(), key=lambda t: t.row["score"])
    better, allocation = trial.row | {"score": 1.0}, trial.planned.allocation.to_records()
    assert state.recommended != allocation
    with closing(Journal(run.journal_file)) as journal:
        journal.append("retried", earlier={trial.planned.trial: 0})  # as --retry-failed does
        journal.append("finished", trial=trial.planned.trial, row=better)
        assert journal.state.scored_since() == 1
    for _ in range(2):
        controller_job.make_controller(run.read()).run()
        after = read_state(run.journal_file)
        assert after.recommended == allocation
        assert after.scored_since() == 0
        assert len(journal_events(run.path, "told")) == len(state.tells) * (not asynchronous) + 1
        assert len(after.trials) == len(state.trials)


def test_a_second_try_that_failed_again_is_over_at_the_next_start(run):
    """The run failed once for it. Each plain ``resume`` failed for it too, and tried nothing."""
    first = controller_job.make_controller(run.read())
    killed_in(first, 1)
    with pytest.raises(Killed):
        first.run()
    with closing(Journal(run.journal_file)) as journal:
        ended = {name: t.row for name, t in journal.state.trials.items() if t.row}
        journal.append("retried", earlier=dict.fromkeys(ended, 0))
        for name, row in ended.items():
            failed = row | {"state": "INFRA_FAILED", "score": None, "error": "no node"}
            journal.append("finished", trial=name, row=failed)
    controller_job.make_controller(run.read()).run()
    after = read_state(run.journal_file)
    assert after.finished == "done"
    assert not after.tell_again
    later = [t.row["state"] for name, t in after.trials.items() if name not in ended]
    assert later
    assert set(later) == {"COMPLETED"}
