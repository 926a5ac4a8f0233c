"""Replay of tables with scores by example: parts of the examples, extensions, stored trials."""

import json
import logging

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.replay import replay, replay_fidelity
from agenttts.replay.table import Recorded, RecordedTable, load_table
from agenttts.search import create
from agenttts.search.fidelity import Fidelity
from agenttts.space import Allocation, SearchSpace
from agenttts.tables.stored_results import StoredResult
from tests.support.recorded import SPACE, by_example, grid

METHODS = ("agenttts", "gp", "random", "genetic", "grid", "optuna_tpe")


@pytest.fixture
def table(tmp_path) -> RecordedTable:
    path = tmp_path / "table.parquet"
    by_example().write_parquet(path)
    return load_table(path, SPACE)


@pytest.fixture
def space(table) -> SearchSpace:
    return table.within(SPACE)


def lists(frame: pl.DataFrame) -> dict[tuple[object, ...], list[float]]:
    keys = ("a.model", "a.samples", "b.model", "b.samples")
    return {tuple(row[k] for k in keys): row["examples"] for row in frame.iter_rows(named=True)}


def point(allocation: Allocation) -> tuple[object, ...]:
    return tuple(value for c in allocation.choices for value in (c.model, c.samples))


def test_csv_and_parquet_say_the_same(tmp_path, table):
    frame = by_example()
    as_text = [json.dumps(scores) for scores in frame["examples"].to_list()]
    path = tmp_path / "table.csv"
    frame.with_columns(pl.Series("examples", as_text)).write_csv(path)
    read = load_table(path, SPACE)
    allocation = SPACE.allocation(("s", 5), ("l", 4))
    assert read.trial(SPACE, allocation) == table.trial(SPACE, allocation)
    assert read.example_count == 40


def test_a_part_of_the_examples_is_scored_by_its_mean_without_metrics(table):
    allocation = SPACE.allocation(("s", 5), ("l", 4))
    scores = lists(by_example())[point(allocation)]
    whole, part = table.trial(SPACE, allocation), table.trial(SPACE, allocation, examples=[3, 30])
    assert whole.score == pytest.approx(sum(scores) / 40)
    assert whole.metrics == {"a.f1": 0.5}
    assert part.examples == {3: scores[3], 30: scores[30]}
    assert part.score == (scores[3] + scores[30]) / 2
    assert part.metrics == {}, "they are of all examples"


def test_a_score_that_is_given_stays(tmp_path):
    path = tmp_path / "table.parquet"
    by_example().with_columns(score=pl.lit(0.25)).write_parquet(path)
    allocation = SPACE.allocation(("s", 5), ("l", 4))
    assert load_table(path, SPACE).trial(SPACE, allocation).score == 0.25


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted_and_end_the_replay(table, space, method):
    searcher = create(method, space, 1)
    searcher.fidelity = Fidelity(10, 40, 40)
    trace = replay(table, space, searcher, None, 4, evaluations=95)
    assert trace["examples"].to_list() == [10] * 10
    assert trace["evaluations"].to_list() == [10 * n for n in range(1, 11)]


def test_blocks_have_the_same_size_and_cover_all_examples():
    for total, first in ((101, 50), (40, 10), (7, 7), (5, 3)):
        blocks = Fidelity(first, total, total).blocks
        assert {len(set(block)) for block in blocks} == {first}
        assert {e for block in blocks for e in block} == set(range(total))


def test_failed_trials_count_too(tmp_path):
    frame = by_example().with_columns(
        examples=pl.when(pl.col("a.model") == "s").then(pl.col("examples"))
    )
    path = tmp_path / "table.parquet"
    frame.write_parquet(path)
    table = load_table(path, SPACE)
    space = table.within(SPACE)
    trace = replay(table, space, create("random", space, 1), None, 2, evaluations=400)
    assert trace["score"].null_count() > 0
    assert trace["evaluations"].to_list() == [40 * n for n in range(1, 11)]
    searcher = create("random", space, 1)
    searcher.fidelity = Fidelity(10, 40, 40)
    trace = replay(table, space, searcher, None, 2, evaluations=100)
    assert trace["evaluations"].to_list() == [10 * n for n in range(1, 11)]


def test_nothing_is_evaluated_that_stored_samples_of_the_batch_gave(table, space):
    searcher = create("grid", space)
    searcher.fidelity = Fidelity(40, 40, 40)
    trace = replay(table, space, searcher, None, space.count(), stored=True)
    told = {result.allocation for result in searcher.archive.results}
    assert told == set(space.feasible())
    asked = {Allocation.from_records(records) for records in trace["allocation"].to_list()}
    sources = {result.allocation: result.source for result in searcher.archive.results}
    assert trace["allocation"].n_unique() == trace.height
    assert all(sources[a] == "stored" for a in told - asked)
    later = create("random", space, 3)
    trace = replay(table, space, later, None, space.count(), stored=True)
    assert trace.height < space.count()
    assert {result.allocation for result in later.archive.results} == told


def test_a_search_goes_on_while_trials_can_be_extended(table):
    small = SearchSpace(table.within(SPACE).stages, 30)
    searcher = create("agenttts", small, 1)
    searcher.fidelity = Fidelity(10, 40, 40)
    trace = replay(table, small, searcher, None, 1, evaluations=10**6, stored=True)
    known = searcher.archive.results
    assert {result.allocation for result in known} == set(small.feasible())
    assert all(len(result.examples) == 40 for result in known)
    assert trace["evaluations"][-1] <= 40 * len(known)


def test_all_examples_at_once_have_their_metrics(table):
    allocation = SPACE.allocation(("s", 5), ("l", 4))
    whole = table.trial(SPACE, allocation)
    assert table.trial(SPACE, allocation, examples=range(40)) == whole
    assert whole.metrics


def test_without_fidelity_a_trial_counts_all_examples(table, space):
    trace = replay(table, space, create("random", space), None, 2, evaluations=100)
    assert trace["evaluations"].to_list() == [40, 80, 120]


def test_new_trials_use_all_examples_before_any_twice(table, space):
    searcher = create("random", space, 1)
    searcher.fidelity = Fidelity(10, 40, 40)
    replay(table, space, searcher, 8, 3)
    used = [tuple(sorted(result.examples or {})) for result in searcher.archive.results]
    assert sorted(e for block in used[:4] for e in block) == list(range(40))
    assert sorted(e for block in used[4:] for e in block) == list(range(40))


def test_the_best_trials_are_extended_and_their_scores_joined(table, space):
    searcher = create("agenttts", space, 1)
    searcher.fidelity = Fidelity(10, 30, 40)
    trace = replay(table, space, searcher, None, 4, evaluations=2000)
    results = {result.allocation: result for result in searcher.archive.results}
    scores = lists(by_example())
    for allocation, result in results.items():
        expected = {e: scores[point(allocation)][e] for e in result.examples}
        assert result.examples == expected
        assert result.score == pytest.approx(sum(expected.values()) / len(expected))
        assert len(expected) <= 30
    asked = [Allocation.from_records(records) for records in trace["allocation"].to_list()]
    assert len(set(asked)) < len(asked), "some were extended"
    assert trace["evaluations"][-1] == sum(len(result.examples) for result in results.values())


def test_stored_trials_are_told_on_the_same_examples_and_not_counted(table, space):
    searcher = create("agenttts", space, 1)
    searcher.fidelity = Fidelity(10, 10, 40)
    trace = replay(table, space, searcher, None, 4, evaluations=60, stored=True)
    stored = [result for result in searcher.archive.results if result.source == "stored"]
    told = {result.allocation: result for result in searcher.archive.results}
    assert stored
    assert trace.height == 6
    for result in stored:
        first, last = result.allocation.choices
        assert last.samples == 1
        parent = told[SPACE.allocation((first.model, first.samples), (last.model, 4))]
        assert parent.examples.keys() <= result.examples.keys()


def test_stored_results_of_a_run_are_told_on_the_same_examples():
    large, small = SPACE.allocation(("s", 5), ("l", 4)), SPACE.allocation(("s", 5), ("l", 2))
    scores = (1.0, None, 0.0, 1.0)
    stored = [StoredResult((5, 2), 0.66, 0.2, {"a.f1": 0.5}, scores)]
    table = RecordedTable(
        {("s", "l"): {(5, 4): Recorded(0.5, {"a.f1": 0.5}, 0.1, examples=(1.0, 0.0, 0.0, 1.0))}},
        of_run=True,
        stored={(("s", "l"), (5, 4)): stored},
    )

    def told(examples):
        result = table.trial(SPACE, large, examples=examples)
        found = table.stored(SPACE, result, of_grid=False)
        assert all(one.allocation == small and one.source == "stored" for one in found)
        return [(one.score, one.stderr, one.metrics, one.examples) for one in found]

    assert told(None) == [(0.66, 0.2, {"a.f1": 0.5}, {0: 1.0, 2: 0.0, 3: 1.0})]
    assert told((0, 1, 2, 3)) == told(None)
    assert told((3, 2)) == [(0.5, None, {}, {2: 0.0, 3: 1.0})]
    assert told((3, 1)) == [(1.0, None, {}, {3: 1.0})]
    assert told((1,)) == [], "it has no score there"


def test_recorded_points_without_a_score_are_not_told_as_stored_results(tmp_path):
    frame = by_example().with_columns(
        examples=pl.when(pl.col("b.samples") == 4).then(pl.col("examples"))
    )
    path = tmp_path / "table.parquet"
    frame.write_parquet(path)
    table = load_table(path, SPACE)
    result = table.trial(SPACE, SPACE.allocation(("s", 5), ("l", 4)))
    assert not result.failed
    assert table.stored(SPACE, result, of_grid=True) == []


def test_the_search_stays_on_recorded_counts(table):
    counts = [stage.samples for stage in table.within(SPACE).stages]
    assert counts == [(1, 5, 10), (1, 4)]
    narrow = SearchSpace(SPACE.stages, 8.2)
    assert table.within(narrow).budget == 8.2
    far = [SPACE.stages[0], SPACE.stages[1].__class__("b", SPACE.stages[1].models, 256, 64, (2, 3))]
    assert table.within(SearchSpace(tuple(far), 260)).stages == tuple(far)


def test_rows_of_other_models_are_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "wide.parquet"
    other = grid().filter(pl.col("b.model") == "l").with_columns(pl.lit("xl").alias("b.model"))
    pl.concat([grid(), other]).write_parquet(path)
    with caplog.at_level(logging.WARNING):
        table = load_table(path, SPACE)
    assert "12 of 36 rows are left out" in caplog.text
    assert "(xl)" in caplog.text
    allocation = SPACE.allocation(("s", 5), ("l", 4))
    assert table.trial(SPACE, allocation).score == pytest.approx(0.2 + 0.05 + 0.2 + 0.08)


def test_a_table_of_other_models_only_is_refused(tmp_path):
    path = tmp_path / "other.parquet"
    grid().with_columns(pl.lit("ss").alias("a.model")).write_parquet(path)
    with pytest.raises(UserError, match=r"row 1: column 'a.model' is 'ss'.*every row has a model"):
        load_table(path, SPACE)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ([1.0, None], "row 2: column 'examples' is not a list of finite numbers"),
        ([1.0, float("nan")], "row 2: column 'examples' is not a list of finite numbers"),
        ([1.0] * 39, "column 'examples' has 40 scores in row 1 and 39 in row 2"),
    ],
)
def test_a_bad_list_is_named(tmp_path, cell, says):
    frame = by_example()
    cells = frame["examples"].to_list()
    cells[1] = cell
    path = tmp_path / "bad.parquet"
    frame.with_columns(pl.Series("examples", cells)).write_parquet(path)
    with pytest.raises(UserError) as error:
        load_table(path, SPACE)
    assert says in str(error.value)


def test_numbers_of_examples_that_do_not_fit_are_named(tmp_path, table):
    for first, most in ((50, None), (None, 50), (30, 20)):
        with pytest.raises(UserError, match=r"--examples-first, --examples-most: .* <= 40"):
            replay_fidelity(tmp_path, table, first, most, needed=False)
    assert replay_fidelity(tmp_path, table, None, None, needed=True) is None
    assert replay_fidelity(tmp_path, table, 10, None, needed=True) == Fidelity(10, 40, 40)
    assert replay_fidelity(tmp_path, table, None, 20, needed=True) == Fidelity(20, 20, 40)


def test_options_that_need_scores_by_example_say_so(cli, scripted_spec, tmp_path):
    head = "retrieval.model,retrieval.samples,answer.model,answer.samples,score"
    (tmp_path / "table.csv").write_text(f"{head}\nweak,1,weak,1,0.5\n")
    command = ("replay", "table.csv", "--space", scripted_spec(), "--searcher", "random")
    for options in (
        ["--evaluations", 9],
        ["--examples-first", 2],
        ["--examples-most", 2],
        ["--stored"],
    ):
        done = cli(*command, *options)
        assert done.returncode == 2
        assert "the table has no scores by example" in done.stderr
