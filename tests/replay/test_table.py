import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.replay import check_out
from agenttts.replay.table import load_table
from agenttts.report.export import flat_table
from agenttts.search import TrialResult
from agenttts.search.llm.knowledge import load_experience
from agenttts.space import Model, SearchSpace, Stage
from agenttts.tables.schema import TrialRow, TrialState, trials_frame
from tests.support.recorded import SPACE, grid


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


@pytest.mark.parametrize("unknown", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_metric_that_is_no_number_is_not_known(tmp_path, unknown, ending):
    """Not the metric of the point either, if another row of it has a number."""
    path = tmp_path / f"table.{ending}"
    first = grid().head(1).with_columns(pl.lit(unknown, pl.Float64).alias("a.f1"))
    other = grid().slice(1, 1).with_columns(pl.lit(unknown, pl.Float64).alias("a.f1"))
    table = pl.concat([grid().head(1), first, other])
    table.write_csv(path) if ending == "csv" else table.write_parquet(path)
    recorded = load_table(path, SPACE)
    point, alone = (
        recorded.trial(SPACE, SPACE.allocation(*((row[f"{s}.model"], row[f"{s}.samples"]) for s in "ab")))
        for row in grid().head(2).iter_rows(named=True)
    )  # fmt: skip
    assert point.metrics == {"a.f1": pytest.approx(0.1)}
    assert (alone.metrics, alone.score is None) == ({}, False)


def test_a_missing_column_file_or_row_is_named(tmp_path, csv):
    grid().drop("b.model").write_csv(csv)
    with pytest.raises(UserError, match=r"column 'b\.model' is missing.*the file has: a\.model"):
        load_table(csv, SPACE)
    with pytest.raises(UserError, match="the file does not exist"):
        load_table(tmp_path / "none.csv", SPACE)
    grid().clear().write_csv(csv)
    with pytest.raises(UserError, match="no rows"):
        load_table(csv, SPACE)
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    with pytest.raises(UserError, match="the table cannot be read"):
        load_table(broken, SPACE)


def test_a_column_that_is_there_twice_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a.model,a.samples,b.model,b.samples,score,score\ns,1,s,1,0.1,0.9\n")
    with pytest.raises(UserError, match="column 'score' occurs 2 times"):
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
    with pytest.raises(
        UserError, match="row 1: the stages of the trial are a, b, but the stages of the spec are a"
    ):
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


def lost_rows():
    """Trials as a run leaves them: one scored, each kind of failure, one scored after it was
    lost.
    """
    failed = [state for state in TrialState if state != TrialState.COMPLETED]
    return [
        trial_row("t0", ("s", 1), ("s", 2), 0.25, score_stderr=0.125, metrics={"a.f1": 0.5, "b.samples": 3.0}, metrics_stderr={"a.f1": 0.0625}),
        *(trial_row(f"t{n}", ("s", n + 1), ("s", 2), None, state=s, metrics={}) for n, s in enumerate(failed, 1)),
        trial_row("t8", ("s", 9), ("s", 2), None, state=TrialState.INFRA_FAILED, metrics={}),
        trial_row("t9", ("s", 9), ("s", 2), 0.5, score_stderr=0.25, seconds={"queue": 7.0}),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["trials.parquet", "export.csv", "export.parquet"])
def test_a_runs_own_trials_are_told_as_the_run_told_them(tmp_path, form):
    frame = trials_frame(lost_rows(), ["a.f1", "b.samples"])
    path = tmp_path / form
    if form == "trials.parquet":
        frame.write_parquet(path)
    elif form == "export.parquet":
        flat_table(frame).write_parquet(path)
    else:
        flat_table(frame).write_csv(path)
    table = load_table(path, SPACE)

    def told(count):
        return table.trial(SPACE, SPACE.allocation(("s", count), ("s", 2)), "random")

    def result(count, score, metrics=(), **fields):
        allocation = SPACE.allocation(("s", count), ("s", 2))
        cost = SPACE.cost(allocation)
        return TrialResult(allocation, score, dict(metrics), cost, "random", **fields)

    assert told(1) == result(1, 0.25, {"a.f1": 0.5, "b.samples": 3.0}, stderr=0.125, metrics_stderr={"a.f1": 0.0625})  # fmt: skip
    failed = [state for state in TrialState if state != TrialState.COMPLETED]
    for count, state in enumerate(failed, 2):
        own = state in (TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT)
        assert told(count) == result(count, None, blamed=own), state
    assert told(9) == result(9, 0.5, {"a.f1": 0.5}, stderr=0.25)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_name_with_brackets_or_stars_is_no_pattern(tmp_path, ending):
    path, other = tmp_path / f"t[1]*.{ending}", tmp_path / f"t1.{ending}"
    for file, value in ((path, 0.25), (other, 0.75)):
        frame = flat_table(trials_frame([trial_row("t1", ("s", 1), ("s", 2), value)], ["a.f1"]))
        frame.write_csv(file) if ending == "csv" else frame.write_parquet(file)
    assert score(load_table(path, SPACE), ("s", 1), ("s", 2)) == 0.25


def test_errors_of_metrics_are_those_of_the_mean_of_several_trials(tmp_path):
    path = tmp_path / "trials.parquet"
    rows = [
        trial_row(f"t{n}", ("s", 1), ("s", 2), 0.25, metrics={"a.f1": value}, metrics_stderr={"a.f1": error})
        for n, (value, error) in enumerate([(0.2, 0.03), (0.4, 0.04)])
    ]  # fmt: skip
    trials_frame(rows, ["a.f1"]).write_parquet(path)
    told = load_table(path, SPACE).trial(SPACE, SPACE.allocation(("s", 1), ("s", 2)))
    assert told.metrics == pytest.approx({"a.f1": 0.3})
    assert told.metrics_stderr == pytest.approx({"a.f1": 0.025})


def test_a_trial_lost_to_the_machine_is_lost_once_and_stands_for_no_other(tmp_path):
    path = tmp_path / "trials.parquet"
    lost = trial_row("t1", ("s", 5), ("s", 2), None, state=TrialState.PREEMPTED, metrics={})
    alone = trial_row("t2", ("l", 1), ("l", 1), None, state=TrialState.CANCELLED, metrics={})
    rows = [trial_row("t0", ("s", 1), ("s", 2), 0.25), lost, alone]
    trials_frame(rows, ["a.f1"]).write_parquet(path)
    table = load_table(path, SPACE)

    def told(first, second, **options):
        found = table.trial(SPACE, SPACE.allocation(first, second), **options)
        return found.score, found.blamed

    assert told(("s", 5), ("s", 2)) == (None, False)
    assert told(("s", 5), ("s", 2), again=True) == (0.25, True)
    assert told(("s", 6), ("s", 2)) == (0.25, True)
    assert told(("l", 1), ("l", 1)) == (None, False)
    assert told(("l", 1), ("l", 1), again=True) == (None, False), "nothing else is known of l, l"
    assert told(("l", 2), ("l", 1)) == (None, False)
    assert told(("l", 1), ("s", 1)) == (None, True), "no row has these models"


@pytest.mark.parametrize("form", ["trials.parquet", "export.csv"])
def test_the_score_on_the_most_examples_counts_without_the_trials_directories(
    tmp_path, form, caplog
):
    rows = [
        trial_row("t0", ("s", 1), ("s", 2), 0.75, examples=4),
        trial_row("t1", ("s", 1), ("s", 2), 0.25, examples=40),
        trial_row("t2", ("s", 1), ("s", 2), 0.5, examples=8),
        trial_row("t3", ("l", 1), ("s", 2), 0.5, examples=4),
    ]
    frame = trials_frame(rows, ["a.f1"])
    if form == "trials.parquet":
        frame.write_parquet(tmp_path / form)
    else:
        flat_table(frame).write_csv(tmp_path / form)
    table = load_table(tmp_path / form, SPACE)
    assert score(table, ("s", 1), ("s", 2)) == 0.25
    assert score(table, ("l", 1), ("s", 2)) == 0.5
    assert "on different parts of the examples" in caplog.text


def test_columns_named_like_those_of_a_run_are_metrics_of_other_tables(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a.model,a.samples,b.model,b.samples,score,state,iteration\ns,1,s,1,0.5,CA,3\n")
    table = load_table(path, SPACE)
    found = table.trial(SPACE, SPACE.allocation(("s", 1), ("s", 1)))
    assert (found.score, found.metrics) == (0.5, {"iteration": 3.0})


def test_names_of_models_that_look_like_numbers_stay_as_they_are(tmp_path):
    space = SearchSpace((Stage("a", (Model("7", 7e9), Model("1.50", 1.5e9)), 64, 64, (1, 2)),), 99)
    path = tmp_path / "t.csv"
    path.write_text("a.model,a.samples,score\n7,1,0.25\n1.50,1,0.5\n")
    table = load_table(path, space)
    scores = [table.trial(space, space.allocation((m, 1))).score for m in ("7", "1.50")]
    assert scores == [0.25, 0.5]


REPORT = """run,trial,iteration,source,state,retrieval.model,retrieval.samples,answer.model,answer.samples,check.model,check.samples,score
one,t0000,0,initial,COMPLETED,weak,1,weak,1,,,0.25
one,t0001,0,initial,COMPLETED,weak,2,weak,1,,,0.5
two,t0000,0,initial,COMPLETED,weak,1,weak,1,weak,1,0.75
three,t0000,0,initial,COMPLETED,,,weak,2,,,0.875
"""


def test_runs_with_other_stages_in_one_table_of_a_report_are_left_out(tmp_path, caplog):
    path = tmp_path / "runs.csv"
    path.write_text(REPORT)
    models = (Model("weak", 3e9),)
    stages = [Stage(name, models, 64, 64, (1, 2)) for name in ("retrieval", "answer")]
    table = load_table(path, SearchSpace(tuple(stages), 100))
    assert [table.has(("weak", "weak"), counts) for counts in ((1, 1), (2, 1), (1, 2))] == [True, True, False]  # fmt: skip
    assert "2 of 4 rows are left out: the stages of their runs are retrieval, answer, check or answer, not those of the spec (retrieval, answer)" in caplog.text  # fmt: skip
    [known] = load_experience([str(path)])
    assert [len(allocation.choices) for allocation, _, _ in known.points] == [1, 3, 2, 2]


def test_a_table_of_other_stages_alone_says_which_it_has(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(REPORT)
    models = (Model("weak", 3e9),)
    stages = [Stage(name, models, 64, 64, (1, 2)) for name in ("answer", "check")]
    with pytest.raises(UserError) as caught:
        load_table(path, SearchSpace(tuple(stages), 100))
    assert str(caught.value) == (
        f"{path}: every row is of a run with the stages retrieval, answer or "
        "retrieval, answer, check or answer, but the stages of the spec are answer, check; give "
        "--space a spec with the stages of one of these runs"
    )


def test_a_table_of_closing_trials_alone_says_so(tmp_path):
    path = tmp_path / "runs.csv"
    header, *rows = REPORT.splitlines()[:3]
    path.write_text("\n".join([header, *(row.replace("initial", "test") for row in rows)]))
    models = (Model("weak", 3e9),)
    stages = [Stage(name, models, 64, 64, (1, 2)) for name in ("retrieval", "answer")]
    with pytest.raises(UserError, match="no rows, only finalists and final tests, which are left"):
        load_table(path, SearchSpace(tuple(stages), 100))


@pytest.mark.parametrize("ending", [".html", ".xls", ".JSONL", ".gz"])
def test_other_formats_are_neither_read_nor_written(tmp_path, ending):
    path = tmp_path / f"t{ending}"
    with pytest.raises(UserError, match="a trace is not written as"):
        check_out(path)
    path.write_text(REPORT)
    with pytest.raises(UserError, match="is not a format of recorded results"):
        load_table(path, SPACE)
