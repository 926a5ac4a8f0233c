import json
import os

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.replay import check_out, load_table, replay, write_trace
from agenttts.search import create
from agenttts.space import Allocation, Model, SearchSpace, Stage
from agenttts.tables.schema import TrialRow, TrialState, trials_frame

SPACE = SearchSpace(
    (
        Stage("a", (Model("s", 3e9), Model("l", 70e9)), 256, 64, tuple(range(1, 21))),
        Stage("b", (Model("s", 3e9), Model("l", 70e9)), 256, 64, tuple(range(1, 21))),
    ),
    260,
)


def grid():
    rows = [
        {
            "a.model": m, "a.samples": i, "b.model": n, "b.samples": j,
            "score": (0.2 if m == "s" else 0.3) + 0.01 * i + (0.1 if n == "s" else 0.2) + 0.02 * j,
            "a.f1": 0.1 * i,
        }
        for m in "sl" for n in "sl" for i in (1, 5, 10) for j in (1, 4)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "table.csv"
    grid().write_csv(path)
    return path


def score(table, first, second):
    return table.trial(SPACE, SPACE.allocation(first, second)).score


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_nearest_recorded_counts_ties_to_the_lower(tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    if ending == "csv":
        grid().write_csv(path)
    else:
        grid().write_parquet(path)
    table = load_table(path, SPACE)
    exact = score(table, ("s", 5), ("s", 4))
    assert exact == pytest.approx(0.2 + 0.05 + 0.1 + 0.08)
    assert score(table, ("s", 7), ("s", 20)) == exact
    assert score(table, ("s", 8), ("s", 4)) == pytest.approx(exact + 0.05)
    assert score(table, ("s", 3), ("s", 4)) == pytest.approx(exact - 0.04)  # 1 and 5 tie
    trial = table.trial(SPACE, SPACE.allocation(("s", 7), ("s", 3)), "random")
    assert trial.metrics == {"a.f1": 0.5}
    assert trial.cost == SPACE.cost(trial.allocation)
    assert trial.source == "random"


def test_nearest_is_per_combination_and_holes_have_a_neighbour(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "a.model,a.samples,b.model,b.samples,score\ns,1,s,1,0.1\ns,9,s,8,0.2\ns,9,s,8,0.4\nl,3,s,2,\n"
    )
    table = load_table(path, SPACE)
    assert score(table, ("s", 9), ("s", 9)) == pytest.approx(0.3)  # repeated rows are averaged
    assert score(table, ("s", 9), ("s", 1)) == pytest.approx(0.3)  # 7 away; (1, 1) is 8 away
    assert score(table, ("l", 1), ("s", 1)) is None  # recorded failure
    assert score(table, ("l", 1), ("l", 1)) is None  # nothing recorded


@pytest.mark.parametrize(
    ("column", "row", "value", "says"),
    [
        ("a.model", 3, "x", "row 3: column 'a.model' is 'x'; valid: s, l"),
        ("b.samples", 2, "two", "row 2: column 'b.samples' is 'two'; valid: whole numbers from 1"),
        ("b.samples", 2, "0", "row 2: column 'b.samples' is '0'"),
        ("b.samples", 1, "1.5", "row 1: column 'b.samples' is '1.5'"),
        ("a.samples", 4, None, "row 4: column 'a.samples' is 'None'"),
        ("score", 5, "high", "row 5: column 'score' is 'high'"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, column, row, value, says):
    cells = grid()[column].cast(pl.String).to_list()
    cells[row - 1] = value
    path = tmp_path / "bad.csv"
    grid().with_columns(pl.Series(column, cells)).write_csv(path)
    with pytest.raises(UserError) as error:
        load_table(path, SPACE)
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_missing_column_file_or_row_is_named(tmp_path, csv):
    grid().drop("b.model").write_csv(csv)
    with pytest.raises(UserError, match=r"no column 'b\.model'.*the file has: a\.model"):
        load_table(csv, SPACE)
    with pytest.raises(UserError, match="no such file"):
        load_table(tmp_path / "none.csv", SPACE)
    grid().clear().write_csv(csv)
    with pytest.raises(UserError, match="no rows"):
        load_table(csv, SPACE)
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    with pytest.raises(UserError, match="not a readable table"):
        load_table(broken, SPACE)


@pytest.mark.parametrize("method", ["agenttts", "random"])
def test_the_trace(csv, method):
    trace = replay(load_table(csv, SPACE), SPACE, create(method, SPACE, 1), trials=17, batch=5)
    assert trace.columns == [
        "step", "allocation", "budget", "score", "best_so_far", "recommended", "source",
    ]  # fmt: skip
    assert trace["step"].to_list() == list(range(1, 18))
    assert trace["best_so_far"].to_list() == trace["score"].cum_max().to_list()
    assert trace["budget"].max() <= 260
    assert trace["allocation"].n_unique() == 17
    recommended = [Allocation.from_records(r) for r in trace["recommended"].to_list()]
    assert all(allocation in SPACE for allocation in recommended)


def test_failed_trials_and_an_exhausted_space(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a.model,a.samples,b.model,b.samples,score\nl,1,l,1,0.5\n")
    small = SearchSpace(SPACE.stages, 8.2)  # only s and s fit; nothing of theirs is recorded
    trace = replay(load_table(path, small), small, create("agenttts", small), 50, 4)
    assert len(trace) == small.count()
    assert trace["score"].null_count() == len(trace)
    assert trace["recommended"].null_count() == len(trace)
    write_trace(trace, tmp_path / "out.csv")


def test_traces_are_written_as_parquet_or_csv(csv, tmp_path):
    trace = replay(load_table(csv, SPACE), SPACE, create("random", SPACE), trials=4, batch=2)
    write_trace(trace, tmp_path / "deep" / "trace.parquet")
    assert pl.read_parquet(tmp_path / "deep" / "trace.parquet").equals(trace)
    write_trace(trace, tmp_path / "trace.csv")
    read = pl.read_csv(tmp_path / "trace.csv")
    assert read.columns == trace.columns
    assert [json.loads(text) for text in read["allocation"]] == trace["allocation"].to_list()
    assert [json.loads(text) for text in read["recommended"]] == trace["recommended"].to_list()


def test_an_impossible_place_for_the_trace_is_named(csv, tmp_path):
    trace = replay(load_table(csv, SPACE), SPACE, create("random", SPACE), trials=1, batch=1)
    (tmp_path / "file").write_text("")
    for path, says in ((tmp_path, "is a directory"), (tmp_path / "file" / "t.csv", "no directory")):
        with pytest.raises(UserError, match=says):
            check_out(path)
        with pytest.raises(UserError, match="cannot be written"):
            write_trace(trace, path)
    check_out(tmp_path / "new" / "trace.csv")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_parent_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="locked is not writable"):
        check_out(tmp_path / "locked" / "deep" / "trace.csv")


def test_a_column_that_is_there_twice_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a.model,a.samples,b.model,b.samples,score,score\ns,1,s,1,0.1,0.9\n")
    with pytest.raises(UserError, match="column 'score' is there 2 times"):
        load_table(path, SPACE)


def trial_row(name, first, second, score, **changes):
    values = {
        "run": "r", "trial": name, "iteration": 0, "source": "random", "state": TrialState.COMPLETED,
        "budget": 1.0, "metrics": {"a.f1": 0.5}, "allocation": SPACE.allocation(first, second),
    }  # fmt: skip
    return TrialRow(**(values | {"score": score} | changes))


def test_a_runs_own_table_of_trials_is_read(tmp_path):
    path = tmp_path / "trials.parquet"
    rows = [
        trial_row("t1", ("s", 1), ("s", 2), 0.25),
        trial_row("t2", ("l", 1), ("s", 2), None, state=TrialState.OOM),
        trial_row("t3", ("s", 1), ("s", 2), 0.75, source="test"),
        trial_row("t4", ("s", 1), ("l", 2), 0.75, source="finalist"),
    ]
    trials_frame(rows, ["a.f1"]).write_parquet(path)
    table = load_table(path, SPACE)
    found = table.trial(SPACE, SPACE.allocation(("s", 1), ("s", 2)))
    assert (found.score, found.metrics) == (0.25, {"a.f1": 0.5})
    assert score(table, ("l", 1), ("s", 2)) is None
    assert score(table, ("s", 1), ("l", 2)) is None
    other = SearchSpace((Stage("a", SPACE.stages[0].models, 256, 64, (1, 2)),), 260)
    with pytest.raises(UserError, match="row 1: the trial's stages are a, b; the spec's are a"):
        load_table(path, other)


def test_standard_errors_reach_the_searcher(tmp_path):
    path = tmp_path / "t.csv"
    head = "a.model,a.samples,b.model,b.samples,score,stderr\n"
    path.write_text(f"{head}s,1,s,1,0.1,0.03\ns,1,s,1,0.3,0.04\nl,1,s,1,0.5,0.02\nl,1,l,1,0.5,\n")
    table = load_table(path, SPACE)

    def told(first, second):
        return table.trial(SPACE, SPACE.allocation(first, second))

    assert told(("l", 1), ("s", 1)).stderr == 0.02
    assert told(("l", 1), ("s", 1)).metrics == {}
    assert told(("s", 1), ("s", 1)).stderr == pytest.approx(0.025)
    assert told(("l", 1), ("l", 1)).stderr is None
    path.write_text(f"{head}s,1,s,1,0.1,-1\n")
    with pytest.raises(UserError, match="row 1: column 'stderr' is '-1'"):
        load_table(path, SPACE)
