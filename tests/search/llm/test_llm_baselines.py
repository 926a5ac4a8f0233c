"""The LLM baselines: what each asks, and what happens when the model fails."""

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.replay.table import load_table
from agenttts.search import TrialResult, create, create_for
from agenttts.search.llm.baselines import LLMSearcher
from agenttts.search.llm.knowledge import load_experience, most_similar
from agenttts.search.llm.prompts import allocation_text
from agenttts.search.llm.transcript import Transcript
from agenttts.space import SearchSpace, Stage
from agenttts.spec import load_spec
from tests.support.llm import SPACE, allocation, scripted_session

METHODS = ("llm_zs", "agenthpo", "mlcopilot")
REPLIES = [
    {"for": "propose", "allocations": [allocation("qwen-7b", n, "llama-3b", 4), allocation("qwen-72b", 90, "llama-3b", n)]}
    for n in range(1, 9)
]  # fmt: skip
every_method = pytest.mark.parametrize("method", METHODS)


def run(method, connection, batches=4, **options):
    searcher = create(method, SPACE, 1, llm=connection, **options)
    done = []
    for _ in range(batches):
        proposals = searcher.propose(3)
        done += proposals
        searcher.tell([TrialResult(p.allocation, 0.1 + 0.01 * len(done)) for p in proposals])
    return done, searcher


def questions(connection, purpose="propose"):
    events = connection.caller.transcript.events
    return [e["messages"][1]["content"] for e in events if e["event"] == "reply" and e["purpose"] == purpose]  # fmt: skip


@every_method
def test_proposals_carry_the_methods_name_and_gaps_are_random(method):
    done, _ = run(method, scripted_session(list(REPLIES)))
    assert [p.source for p in done[:3]] == [method, f"{method}-repaired", "random"]
    assert len({p.allocation for p in done}) == 12
    assert all(p.allocation in SPACE for p in done)


@every_method
@pytest.mark.parametrize("fault", ["garbage", {"error": 500}, {"timeout": True}, ""])
def test_a_broken_model_leaves_random_search(method, fault):
    connection = scripted_session([], then=fault)
    done, _ = run(method, connection)
    assert {p.source for p in done} == {"random"}
    assert len({p.allocation for p in done}) == 12
    assert any(e["event"] == "fallback" for e in connection.caller.transcript.events)


@every_method
def test_recorded_replies_give_the_same_proposals(method, tmp_path):
    path = tmp_path / "agent.jsonl"
    first, _ = run(method, scripted_session(list(REPLIES), transcript=Transcript(path)))
    again = scripted_session([], then="garbage", transcript=Transcript(path))
    second, _ = run(method, again)
    assert first == second
    assert again.caller.transcript.calls == 4


@every_method
def test_they_need_no_model_to_be_created(method):
    searcher = create(method, SPACE)
    assert isinstance(searcher, LLMSearcher)
    assert {p.source for p in searcher.propose(3)} == {"random"}


def test_zero_shot_never_hears_a_score():
    connection = scripted_session(list(REPLIES))
    run("llm_zs", connection)
    for text in questions(connection):
        assert "score 0." not in text
        assert "Trials so far" not in text
        assert "Guidelines" not in text
    assert "Already proposed" in questions(connection)[1]


@every_method
@pytest.mark.parametrize("told", [0, 3])
def test_the_model_reads_what_is_pending(method, told):
    """Also before any trial is told."""
    connection = scripted_session(list(REPLIES))
    searcher = create(method, SPACE, 1, llm=connection)
    done = searcher.ask(told)
    searcher.tell([TrialResult(allocation, 0.5) for allocation in done])
    out = searcher.ask(3)
    searcher.ask(3)
    last = questions(connection)[-1]
    _, _, waiting = last.partition(
        "Already proposed" if method == "llm_zs" else "Under way already: "
    )
    assert all(allocation_text(allocation) in waiting for allocation in out)


def test_agenthpo_sees_the_log_of_its_trials_and_no_insight():
    connection = scripted_session(list(REPLIES))
    run("agenthpo", connection)
    first, second = questions(connection)[:2]
    assert "first experiments" in first
    assert "Experiment 1: retrieval=qwen-7b x 1, answer=llama-3b x 4; result: answer.em 0.1300" in second  # fmt: skip
    for text in (first, second):
        assert "guideline" not in text.lower()
        assert "same cost" not in text


@pytest.fixture
def past(tmp_path):
    frame = pl.DataFrame(
        {
            "retrieval.model": ["qwen-7b", "qwen-72b", "qwen-72b"],
            "retrieval.samples": [5, 1, 2],
            "answer.model": ["llama-3b"] * 3,
            "answer.samples": [8, 40, 60],
            "score": [0.2, 0.7, 0.6],
        }
    )
    frame.write_csv(tmp_path / "near.csv")
    other = frame.rename({c: c.replace("retrieval", "coding").replace("answer", "testing") for c in frame.columns})  # fmt: skip
    other.write_parquet(tmp_path / "far.parquet")
    return tmp_path


def test_mlcopilot_puts_past_runs_and_what_it_learnt_from_them_into_the_prompt(past):
    knowledge = {"for": "knowledge", "text": '{"guidelines": ["use a large retriever once"]}'}
    connection = scripted_session([knowledge, *REPLIES])
    run("mlcopilot", connection, knowledge=[str(past / "far.parquet"), str(past / "near.csv")])
    [asked] = questions(connection, "knowledge")
    assert "retrieval=qwen-72b x 1, answer=llama-3b x 40: score 0.7000" in asked
    for text in questions(connection):
        assert "use a large retriever once" in text
        assert text.index("## near") < text.index("## far"), "the most similar first"
        assert "score 0.7000" in text


def test_the_most_similar_searches_first(past):
    loaded = load_experience([str(past / "far.parquet"), str(past / "near.csv")])
    assert [e.title for e in most_similar(loaded, SPACE)] == ["near", "far"]
    assert loaded[1].points[0][1] == 0.7, "best first"


def test_trials_after_a_search_are_neither_knowledge_nor_replayed(past):
    rows = pl.read_csv(past / "near.csv").with_columns(source=pl.lit("initial"))
    more = rows.with_columns(score=pl.lit(0.99), source=pl.lit("test"))
    pl.concat([rows, more]).write_csv(past / "both.csv")
    [loaded] = load_experience([str(past / "both.csv")])
    assert [score for _, score, _ in loaded.points] == [0.7, 0.6, 0.2]
    wide = SearchSpace(
        (SPACE.stages[0], Stage("answer", SPACE.stages[1].models, 256, 64, tuple(range(1, 65)))),
        1000,
    )
    best = wide.allocation(("qwen-72b", 1), ("llama-3b", 40))
    assert load_table(past / "both.csv", wide).trial(wide, best).score == 0.7


def test_knowledge_that_is_none_is_refused(tmp_path):
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    for sources, problem in (
        (["./nowhere"], "neither a finished run nor a table"),
        ([str(tmp_path / "odd.csv")], "not a replay table"),
        ("near.csv", "a list of runs"),
    ):
        with pytest.raises(UserError, match=problem):
            create("mlcopilot", SPACE, knowledge=sources)


def test_a_model_whose_name_looks_like_a_number_keeps_it_in_knowledge(tmp_path):
    head = "retrieval.model,retrieval.samples,answer.model,answer.samples,score"
    (tmp_path / "past.csv").write_text(f"{head}\n1.50,1,007,2,0.5\n")
    [loaded] = load_experience([str(tmp_path / "past.csv")])
    [(allocation, _, _)] = loaded.points
    assert [choice.model for choice in allocation.choices] == ["1.50", "007"]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ("qwen-7b,,llama-3b,8,0.9", r"row 2: column 'retrieval.samples' is 'None'; valid: whole"),
        ("qwen-7b,x,llama-3b,8,0.9", r"row 2: column 'retrieval.samples' is 'x'; valid: whole"),
        ("qwen-7b,0,llama-3b,8,0.9", r"row 2: column 'retrieval.samples' is '0'; valid: whole"),
        ("qwen-7b,3,llama-3b,2.5,0.9", r"row 2: column 'answer.samples' is '2.5'; valid: whole"),
        ("qwen-7b,3,llama-3b,8,NaN", r"row 2: column 'score' is 'nan'; valid: finite numbers"),
        ("qwen-7b,3,llama-3b,8,n/a", r"row 2: column 'score' is 'n/a'; valid: finite numbers"),
    ],
)
def test_a_row_of_knowledge_that_is_wrong_is_named(tmp_path, cells, problem):
    head = "retrieval.model,retrieval.samples,answer.model,answer.samples,score"
    table = tmp_path / "odd.csv"
    table.write_text(f"{head}\nqwen-7b,1,llama-3b,2,0.5\n{cells}\n")
    with pytest.raises(UserError, match=rf"odd.csv: {problem}"):
        create("mlcopilot", SPACE, knowledge=[str(table)])


def test_knowledge_without_scores_or_budgets_in_some_rows(past):
    rows = pl.read_csv(past / "near.csv").with_columns(pl.col("score").cast(pl.String))
    rows = rows.with_columns(score=pl.Series(["0.2", None, "0.6"]), budget=pl.Series(["n/a", "3", "41.2"]))  # fmt: skip
    rows.write_csv(past / "some.csv")
    [loaded] = load_experience([str(past / "some.csv")])
    assert [(score, budget) for _, score, budget in loaded.points] == [(0.6, 41.2), (0.2, None)]
    assert loaded.shown(9)["lines"][1] == "retrieval=qwen-7b x 5, answer=llama-3b x 8: score 0.2000"


@pytest.mark.parametrize("option", ["llm", "proposer", "seed", "space"])
def test_objects_are_no_options_of_a_spec(scripted_spec, option):
    for method in [*METHODS, "agenttts"]:
        spec = load_spec(scripted_spec(search__method=method, search__options={option: "x"}))
        with pytest.raises(
            UserError, match=rf":\d+: search.options.{option}: .* no option '{option}'"
        ):
            create_for(spec)
