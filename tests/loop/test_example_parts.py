"""Runs whose trials are scored on parts of the examples (``search.examples``)."""

from __future__ import annotations

import json
from collections import Counter
from itertools import count

import polars as pl
import pytest

from agenttts.loop import controller_job
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.recorded_search import RecordedSearch
from agenttts.loop.search_end import ranked
from agenttts.replay.table import load_table
from agenttts.search.base import TrialResult
from agenttts.search.fidelity import Fidelity
from agenttts.space import Allocation
from agenttts.tables.schema import read_examples
from agenttts.trial.spec import TrialSpec
from tests.support.killing import killed_at
from tests.support.runs import journal_events, outcome, table

PARTS = {"first": 3, "most": 8}
SIZES = {"search__iterations": 3, "search__batch_size": 3}
LONGER = {"search__iterations": 8, "search__batch_size": 4}


def numbers(run, trial):
    """The examples of a trial by its spec; its table of examples has just these."""
    spec = TrialSpec.read(run.trial(trial) / "trial.json")
    every = [json.loads(line)["id"] for line in run.examples_file.read_text().splitlines()]
    rows = read_examples(run.trial(trial) / "examples.parquet").filter(stage="answer")
    assert rows["example"].to_list() == [every[n] for n in spec.example_numbers]
    return spec.example_numbers


@pytest.mark.parametrize("method", ["agenttts", "gp", "random"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_new_trials_are_scored_on_few_examples_and_the_best_on_common_ones(
    unstarted_run, method, asynchronous
):
    run = unstarted_run(
        search__examples=PARTS, search__method=method, search__asynchronous=asynchronous, **SIZES
    )
    controller_job.make_controller(run.read()).run()
    rows = table(run.path)
    assert set(rows["state"]) == {"COMPLETED"}
    used = Counter()
    blocks = Fidelity(PARTS["first"], PARTS["most"], 8).blocks
    known: dict[str, set[int]] = {}
    for row in rows.iter_rows(named=True):
        found = numbers(run, row["trial"])
        assert row["examples"] == len(found) <= 8
        earlier = known.get(str(row["allocation"]), set())
        assert set(found) - earlier, "an allocation is scored again on further examples"
        if row["source"] != "recommended":
            assert earlier < set(found)
            # More where the first are those of a stored result. The last block of three has one
            # of the first block.
            new = set(found) - earlier
            assert any(new >= set(block) - earlier != set() for block in blocks)
        known[str(row["allocation"])] = earlier | set(found)
        used.update(set(found) - earlier)
    assert len(used) == 8, "not always the same examples"
    # The recommended allocation and its rivals are known on the same examples.
    told = journal_events(run.path)
    [*_, best] = [e["recommended"] for e in told if e["event"] in ("told", "told_results")]
    assert sum(examples >= known[str(best)] for examples in known.values()) >= 3


def test_rivals_are_compared_on_common_examples_where_a_trial_may_have_no_more(unstarted_run):
    """With as many examples at first as at most, they have different ones until the end."""
    run = unstarted_run(search__examples=3, search__method="random", **SIZES)
    controller_job.make_controller(run.read()).run()
    rows = table(run.path)
    assert set(rows["examples"]) == {3}
    last = rows.filter(source="recommended")
    assert last.height in (1, 2, 3)
    [common] = {tuple(numbers(run, trial)) for trial in last["trial"]}
    [*_, told] = journal_events(run.path, "told")
    on_common = {
        str(row["allocation"]): row["score"]
        for row in rows.iter_rows(named=True)
        if tuple(numbers(run, row["trial"])) == common
    }
    rivals = {str(allocation) for allocation in last["allocation"]}
    chosen = on_common[str(told["recommended"])]
    assert all(chosen >= score for name, score in on_common.items() if name in rivals)


@pytest.mark.parametrize(
    ("part", "dying"),
    [(RecordedSearch, "plan"), (RecordedSearch, "tell"), (Evaluation, "evaluate")],
)
def test_a_killed_controller_goes_on_as_if_it_had_not_been(unstarted_run, part, dying):
    calm = unstarted_run(search__examples=PARTS, name="calm", **SIZES)
    controller_job.make_controller(calm.read()).run()
    run = unstarted_run(search__examples=PARTS, name="killed", **SIZES)
    for _ in range(6):
        calls = count(1)
        with killed_at(part, dying, when=lambda *_, calls=calls, **__: next(calls) == 2):
            controller_job.make_controller(run.read()).run()
            break
    controller_job.make_controller(run.read()).run()
    assert outcome(run.path) == outcome(calm.path)
    examples = [journal_events(one.path, "proposed") for one in (calm, run)]
    of = [[[t["examples"] for t in e["trials"]] for e in events] for events in examples]
    assert of[0] == of[1]


def test_an_allocation_scored_again_draws_only_new_samples(unstarted_run):
    run = unstarted_run(search__examples=PARTS, **LONGER)
    controller_job.make_controller(run.read()).run()
    rows = table(run.path)
    again = rows.filter(pl.col("allocation").is_duplicated())
    assert again.height >= 2
    later = again.filter(again["examples"] > 3)
    assert later.height
    for row in later.iter_rows(named=True):
        spent = row["prompt_tokens"] + row["decode_tokens"]
        assert row["reused_tokens"] >= spent * 0.9 * 3 / row["examples"]


def test_reports_compare_scores_on_the_most_examples(unstarted_run, cli):
    run = unstarted_run(search__examples=PARTS, **LONGER)
    controller_job.make_controller(run.read()).run()
    rows = table(run.path)
    most = rows.filter(rows["examples"] == rows["examples"].max())
    assert 0 < most.height < rows.height
    document = json.loads(cli("report", "small", "--format", "json").stdout)
    assert document["best"]["score"] == most["score"].max()
    assert document["best"]["trial"] in most["trial"].to_list()
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["best"]["trial"] == document["best"]["trial"]
    [recommended] = [run["recommended"] for run in document["runs"]]
    own = rows.filter(
        pl.col("allocation") == pl.lit(recommended["allocation"], rows.schema["allocation"])
    )
    assert own.filter(trial=recommended["trial"])["examples"].to_list() == [own["examples"].max()]


def test_a_replay_of_its_table_takes_the_scores_on_the_most_examples(unstarted_run, caplog):
    run = unstarted_run(search__examples=PARTS, **SIZES)
    controller_job.make_controller(run.read()).run()
    space = run.spec().space()
    found = load_table(run.trials_file, space)
    assert "on different parts of the examples" in caplog.text
    assert found.example_count is None
    widest = {}
    for row in table(run.path).sort("examples").iter_rows(named=True):
        widest[str(row["allocation"])] = row
    for row in widest.values():
        result = found.trial(space, Allocation.from_records(row["allocation"]))
        assert (result.score, result.stderr) == (row["score"], row["score_stderr"])


def test_a_rebuilt_journal_has_the_examples_of_the_trials(unstarted_run, cli):
    run = unstarted_run(search__examples=PARTS, search__iterations=1)
    controller_job.make_controller(run.read()).run()
    before = controller_job.make_controller(run.read())._journal.state.trials
    known = {name: progress.planned.examples for name, progress in before.items()}
    run.journal_file.unlink()
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    after = controller_job.make_controller(run.read())._journal.state.trials
    assert {name: progress.planned.examples for name, progress in after.items()} == known


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"first": 9}, "search.examples.first: 9 is above the 8 examples"),
        ({"first": 3, "most": 9}, "search.examples.most: 9 is above the 8 examples"),
        ({"first": 5, "most": 3}, "first (5) is above most (3)"),
        ({"most": 3}, "search.examples.first"),
        ({"first": 0}, "search.examples.first"),
        ("all", "search.examples"),
        (0, "search.examples"),
        (2.5, "search.examples"),
    ],
)
def test_a_wrong_part_is_one_sentence(cli, scripted_spec, given, said):
    done = cli("launch", scripted_spec(search__examples=given), "--dry-run")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert "small.yaml:" in done.stderr


def test_the_plan_says_on_how_many_examples_trials_are_scored(cli, scripted_spec):
    done = cli("launch", scripted_spec(search__examples=4), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "scored on 4 of the examples" in " ".join(done.stdout.split())
    cost = {}
    for given in (4, None):
        path = scripted_spec(**({} if given is None else {"search__examples": given}))
        plan = json.loads(cli("launch", path, "--dry-run", "--json").stdout)
        assert plan["search"]["examples"] == (given and {"first": given, "most": given})
        cost[given] = plan["forecast"]["wall_seconds"]
    assert cost[4] != cost[None]


def test_finalists_are_not_those_with_lucky_scores_on_few_examples(unstarted_run):
    run = unstarted_run(
        search__examples={"first": 4, "most": 40},
        search__finalists={"examples": 50, "top": 3},
        task__examples=40,
    )
    controller = controller_job.make_controller(run.read())
    searcher = controller._searcher
    known = [p.allocation for p in searcher.propose(searcher.initial_batch)]
    known += [p.allocation for p in searcher.propose(6)]
    lucky, steady = known[-1], known[:-1]
    for allocation in known:
        right, count = (4, 4) if allocation == lucky else (28, 40)
        examples = {n: float(n < right) for n in range(count)}
        searcher.tell([TrialResult(allocation, right / count, examples=examples)])
    recommended = searcher.best(tried=True)
    assert recommended in steady
    order = ranked(searcher, recommended)
    assert order[0] == recommended
    assert sorted(order) == sorted(set(known))
    assert lucky not in order[:3]
