import json
import os

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.replay import check_out, replay, write_trace
from agenttts.replay.table import load_table
from agenttts.search import create
from agenttts.space import Allocation, SearchSpace
from agenttts.tables.schema import TrialRow, TrialState, trials_frame
from tests.support.full_disk import full_disk
from tests.support.recorded import SPACE


@pytest.mark.parametrize("method", ["agenttts", "random"])
def test_the_trace(csv, method):
    trace = replay(load_table(csv, SPACE), SPACE, create(method, SPACE, 1), trials=17, batch=5)
    assert trace.columns == [
        "step", "allocation", "budget", "score", "best_so_far", "recommended", "source",
        "examples", "evaluations",
    ]  # fmt: skip
    assert trace["evaluations"].null_count() == 17, "the table has no scores by example"
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


def test_a_lost_trial_is_proposed_again_and_then_scores(tmp_path):
    """Else a searcher that goes through the space in order would propose it for ever."""
    small = SearchSpace(SPACE.stages, 8.2)
    everything = sorted(small.feasible())
    states = [TrialState.INFRA_FAILED, *[TrialState.COMPLETED] * (len(everything) - 1)]
    rows = [
        TrialRow("r", f"t{n}", 0, "grid", state, None if n == 0 else 0.5, 1.0, allocation)
        for n, (allocation, state) in enumerate(zip(everything, states, strict=True))
    ]
    trials_frame(rows, []).write_parquet(tmp_path / "trials.parquet")
    table = load_table(tmp_path / "trials.parquet", small)
    trace = replay(table, small, create("grid", small), 50, 1)
    assert len(trace) == small.count() + 1
    assert trace["score"].null_count() == 1
    assert trace["allocation"].n_unique() == small.count()


@pytest.mark.parametrize("method", ["grid", "random", "genetic", "agenttts"])
def test_allocations_that_only_the_machine_failed_are_not_blamed_and_end(tmp_path, method):
    """Neither the recorded allocation nor the others of its models; and not proposed for ever."""
    small = SearchSpace(SPACE.stages, 8.2)
    allocations = sorted(small.feasible())
    rows = [TrialRow("r", "t0", 0, "grid", TrialState.INFRA_FAILED, None, 1.0, allocations[0])]
    trials_frame(rows, []).write_parquet(tmp_path / "trials.parquet")
    table = load_table(tmp_path / "trials.parquet", small)
    searcher = create(method, small)
    trace = replay(table, small, searcher, 50, 2)
    assert searcher.archive.results == (), "a blamed failure would be kept"
    proposed = [Allocation.from_records(records) for records in trace["allocation"].to_list()]
    assert sorted(proposed) == sorted([*allocations, *allocations])


def test_traces_are_written_as_parquet_or_csv(csv, tmp_path):
    trace = replay(load_table(csv, SPACE), SPACE, create("random", SPACE), trials=4, batch=2)
    write_trace(trace, tmp_path / "deep" / "trace.parquet")
    assert pl.read_parquet(tmp_path / "deep" / "trace.parquet").equals(trace)
    write_trace(trace, tmp_path / "trace.csv")
    read = pl.read_csv(tmp_path / "trace.csv")
    assert read.columns == trace.columns
    assert [json.loads(text) for text in read["allocation"]] == trace["allocation"].to_list()
    assert [json.loads(text) for text in read["recommended"]] == trace["recommended"].to_list()


@pytest.mark.parametrize("name", ["trace.csv", "trace.parquet"])
def test_a_trace_is_replaced_as_a_whole(csv, tmp_path, name):
    trace = replay(load_table(csv, SPACE), SPACE, create("random", SPACE), trials=1, batch=1)
    (tmp_path / name).write_text("old")
    (tmp_path / "former").hardlink_to(tmp_path / name)
    write_trace(trace, tmp_path / name)
    assert (tmp_path / "former").read_text() == "old", "nothing is written over the former file"
    assert (tmp_path / name).read_bytes() != b"old"


def test_an_impossible_place_for_the_trace_is_named(csv, tmp_path):
    trace = replay(load_table(csv, SPACE), SPACE, create("random", SPACE), trials=1, batch=1)
    (tmp_path / "file").write_text("")
    for path, says in (
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "t.csv", "is not a directory"),
    ):
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


TABLE = """retrieval.model,retrieval.samples,answer.model,answer.samples,score
weak,1,weak,1,0.2
weak,4,strong,1,0.5
strong,1,weak,4,0.6
strong,2,strong,2,0.7
"""


@pytest.fixture
def asking(cli, scripted_spec, tmp_path):
    """Replay `TABLE` with a scripted language model; the result of the command."""
    (tmp_path / "replies.json").write_text('{"replies": [], "then": "{}"}')
    (tmp_path / "table.csv").write_text(TABLE)
    agent = {"kind": "scripted", "replies": str(tmp_path / "replies.json")}

    def call(*options, **changes):
        talk = {key[7:]: changes.pop(key) for key in list(changes) if key.startswith("agent__")}
        spec = scripted_spec(agent={**agent, **talk}, **changes)
        common = ["table.csv", "--space", spec, "--searcher", "llm_zs", "--out", "t.csv"]
        return cli("replay", *common, "--trials", 4, *options)

    return call


@pytest.mark.parametrize(
    ("options", "changes", "different"),
    [
        (["--seed", 1], {}, "--seed"),
        (["--batch", 4, "--seed", 1], {}, "--seed, --batch"),
        (["--searcher", "agenthpo"], {}, "--searcher"),
        (["--trials", 5], {}, "the smaller last batch (--trials)"),
        ([], {"search__budget": 90}, "the space or options in the spec"),
        ([], {"search__first": [{"retrieval": "weak x1", "answer": "weak x1"}]}, "search.first"),
        ([], {"agent__temperature": 0.1}, "agent.temperature"),
        ([], {"agent__bad_replies": 0}, "agent.bad_replies"),
        ([], {"task__examples": 2}, "the description of the task"),
    ],
)
def test_the_transcript_of_another_replay_is_refused(asking, tmp_path, options, changes, different):
    assert asking().returncode == 0
    asked = (tmp_path / "t.csv.agent.jsonl").read_bytes()
    done = asking(*options, **changes)
    assert done.returncode == 2
    assert "t.csv.agent.jsonl is the transcript of another replay" in done.stderr
    assert f"different: {different}; remove the file, or name another" in done.stderr
    assert (tmp_path / "t.csv.agent.jsonl").read_bytes() == asked
    assert asking(*options, "--out", "other.csv", **changes).returncode == 0


def test_the_transcript_of_the_same_replay_is_used_again(asking, tmp_path):
    assert asking("--batch", 2, "--trials", 2).returncode == 0
    first = (tmp_path / "t.csv.agent.jsonl").read_bytes()
    assert asking("--batch", 2, "--trials", 2).returncode == 0
    assert (tmp_path / "t.csv.agent.jsonl").read_bytes() == first, "nothing is asked again"
    assert asking("--batch", 2, "--trials", 4).returncode == 0
    assert (tmp_path / "t.csv.agent.jsonl").read_bytes().startswith(first), "it goes on"
    assert asking("--batch", 2, "--trials", 5).returncode == 0, "it had whole batches"
    assert "the smaller last batch" in asking("--batch", 2, "--trials", 6).stderr
    assert asking("--batch", 2, "--trials", 3).returncode == 0, "a part of it"


def test_a_transcript_of_another_version_is_compared_by_what_it_recorded(asking, tmp_path):
    assert asking().returncode == 0
    place = tmp_path / "t.csv.agent.jsonl"
    lines = place.read_text().replace('"the results of the table"', '"the table"')
    place.write_text(lines.replace('"agent.temperature"', '"agent.earlier"'))
    assert asking().returncode == 0
    assert "different: --seed;" in asking("--seed", 1).stderr


def test_the_transcript_of_another_table_is_refused(asking, tmp_path):
    assert asking().returncode == 0
    (tmp_path / "table.csv").write_text(TABLE.replace("0.7", "0.3"))
    done = asking()
    assert done.returncode == 2
    assert "different: the results of the table;" in done.stderr


def test_limits_of_the_calls_make_no_other_replay(asking, tmp_path):
    assert asking().returncode == 0
    first = (tmp_path / "t.csv.agent.jsonl").read_bytes()
    done = asking(agent__max_calls=300, agent__retries=1, agent__timeout_seconds=9)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.csv.agent.jsonl").read_bytes() == first, "nothing is asked again"


def test_another_script_and_other_knowledge_make_another_replay(asking, tmp_path):
    (tmp_path / "past.csv").write_text(TABLE)
    options = {"search__method": "mlcopilot", "search__options": {"knowledge": ["past.csv"]}}
    assert asking("--searcher", "mlcopilot", **options).returncode == 0
    (tmp_path / "past.csv").write_text(TABLE.replace("0.7", "0.3"))
    (tmp_path / "replies.json").write_text('{"replies": [], "then": "[]"}')
    done = asking("--searcher", "mlcopilot", **options)
    assert (
        "different: the content of agent.replies, the content of search.options.kn" in done.stderr
    )
    assert asking("--searcher", "mlcopilot", "--out", "u.csv").returncode == 0, "no knowledge"


def test_another_server_is_another_model(cli, scripted_spec, tmp_path):
    """The replies of one address say nothing about the model behind another one."""
    (tmp_path / "table.csv").write_text(TABLE)

    def call(port):
        url = f"http://127.0.0.1:{port}/v1"
        agent = {"kind": "endpoint", "base_url": url, "model": "m", "retries": 0}
        common = ["table.csv", "--space", scripted_spec(agent=agent), "--out", "t.csv"]
        return cli("replay", *common, "--searcher", "llm_zs", "--trials", 4)

    assert call(9).returncode == 0
    assert "different: agent.base_url;" in call(11).stderr


@pytest.mark.parametrize("out", ["t.csv", "new/t.csv"])
def test_a_transcript_that_cannot_be_opened_is_one_error(asking, tmp_path, out):
    (tmp_path / f"{out}.agent.jsonl").mkdir(parents=True)
    done = asking("--out", out)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "t.csv.agent.jsonl: the replay records its questions" in line
    assert "Is a directory; make it a writable file, or name another trace with --out" in line


def test_a_full_disk_names_the_same_replay(asking, tmp_path):
    assert asking("--batch", 2, "--trials", 2).returncode == 0
    transcript = tmp_path / "t.csv.agent.jsonl"
    with transcript.open("a") as file:  # longer than all other files
        file.write(json.dumps({"event": "fallback", "key": "k", "reason": "r" * 50_000}) + "\n")
    with full_disk(transcript.stat().st_size + 20):
        done = asking("--batch", 2, "--trials", 4)
    assert done.returncode == 3
    line = " ".join(done.stderr.split())
    assert "t.csv.agent.jsonl: the transcript cannot be written" in line
    assert "free space there, then run the same replay; recorded replies are used again" in line
    assert "resume" not in line


def test_a_transcript_without_questions_belongs_to_no_replay(asking, tmp_path):
    replies = tmp_path / "replies.json"
    replies.write_text("no JSON")
    assert asking().returncode == 2, "the search is recorded, and nothing is asked"
    replies.write_text('{"replies": [], "then": "{}"}')
    assert asking("--seed", 1).returncode == 0
    assert "different: --seed;" in asking().stderr


def test_the_transcript_may_be_in_a_new_directory(asking, tmp_path):
    done = asking("--out", "new/t.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "t.csv.agent.jsonl").exists()
