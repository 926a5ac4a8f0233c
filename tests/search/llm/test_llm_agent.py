"""The agent within the search: with any model, however broken, a search completes and is no
worse than without.
"""

import pytest

from agenttts.search import TrialResult, create
from agenttts.search.archive import Archive
from agenttts.search.initial import initial_trials
from agenttts.search.llm.agent import LLMAgent
from agenttts.search.llm.prompts import allocation_text
from agenttts.search.llm.transcript import Transcript
from agenttts.space import SearchSpace
from tests.support.llm import (
    SPACE,
    allocation,
    batch_reply,
    run,
    score,
    scripted,
    scripted_session,
    surrogate_of,
)

GOOD = allocation("qwen-72b", 2, "llama-3b", 16)


@pytest.fixture(scope="module")
def plain():
    """The search without a language model: its proposals, and the searcher."""
    return run(None)


def best(done):
    return max(score(p.allocation) for p in done)


OVER = {"allocations": [allocation("qwen-72b", 100, "llama-70b", 64)] * 6}
FAULTS = {
    "garbage": "%&/( no json [",
    "empty": "",
    "prose": "I am sorry, I cannot do that.",
    "unknown models": {"allocations": [allocation("gpt-9", 1, "claude", 1)] * 6},
    "500": {"error": 500},
    "401": {"error": 401},
    "timeout": {"timeout": True},
    "empty list": '{"allocations": []}',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_model_changes_nothing_about_the_search(plain, fault):
    without, plain_searcher = plain
    connection = scripted_session([], then=FAULTS[fault])
    with_it, searcher = run(connection)
    assert [p.allocation for p in with_it] == [p.allocation for p in without]
    assert {p.source for p in with_it} == {p.source for p in without}
    assert searcher.best() == plain_searcher.best()
    events = connection.caller.transcript.events
    assert any(e["event"] == "fallback" for e in events), "the transcript says why"


def ask(connection, batches=1, n=4):
    """The agent alone, over so many batches after the initial trials: its proposals, batch by
    batch.
    """
    archive = Archive(SPACE)
    first = initial_trials(SPACE)
    archive.add([TrialResult(p.allocation, score(p.allocation)) for p in first])
    agent = LLMAgent(SPACE, 0, connection)
    asked = []
    for _ in range(batches):
        asked.append(agent.propose(n, archive, surrogate_of(archive)).proposals)
        assert all(p.allocation in SPACE and p.allocation not in archive for p in asked[-1])
        archive.add([TrialResult(p.allocation, score(p.allocation)) for p in asked[-1]])
    return asked, archive


def test_over_budget_proposals_are_repaired_and_repeats_dropped(plain):
    connection = scripted_session([], then=OVER)
    [first, second], _ = ask(connection, batches=2)
    assert [p.source for p in first] == ["agent-repaired"]
    assert "over 1000" in first[0].reason
    assert second == [], "the same again is a repeat"
    outcomes = [
        d["outcome"] for e in connection.caller.transcript.events for d in e.get("decisions", ())
    ]
    assert set(outcomes) == {"repaired", "duplicate"}
    without, _ = plain
    with_it, _ = run(scripted_session([], then=OVER))
    assert len(with_it) == len(without)
    assert best(with_it) >= best(without) - 0.01


def test_repeats_alone_leave_the_search_to_the_rules(plain):
    without, searcher = plain
    known = searcher.initial[0].allocation
    record = {c.stage: {"model": c.model, "samples": c.samples} for c in known.choices}
    with_it, _ = run(scripted_session([], then={"allocations": [record]}))
    assert [p.allocation for p in with_it] == [p.allocation for p in without]


def test_good_proposals_say_why_and_guidelines_are_kept():
    reply = batch_reply([GOOD], ["retrieval: pursue qwen-72b"], "58%")
    reply = reply.replace("why", "large retrieval, many small answers")
    connection = scripted_session([reply])
    [[proposal]], archive = ask(connection)
    assert proposal.allocation == SPACE.allocation(("qwen-72b", 2), ("llama-3b", 16))
    assert (proposal.source, proposal.reason) == ("agent", "large retrieval, many small answers")
    assert archive.guidelines == ["retrieval: pursue qwen-72b"]
    [decided] = [e for e in connection.caller.transcript.events if e["event"] == "proposals"]
    assert decided["decisions"][0]["predicted"] == pytest.approx(0.58)


def test_no_more_than_asked_for():
    many = [allocation("qwen-7b", number, "llama-3b", 4) for number in range(1, 9)]
    connection = scripted_session([], then={"allocations": many})
    [proposals], _ = ask(connection, n=6)
    assert [p.allocation["retrieval"].samples for p in proposals] == [1, 2, 3], "half of the batch"
    [decided] = [e for e in connection.caller.transcript.events if e["event"] == "proposals"]
    assert [d["outcome"] for d in decided["decisions"]] == ["valid"] * 3 + ["surplus"] * 5


def test_the_model_reads_what_is_pending():
    connection = scripted_session([], then={"allocations": [GOOD]})
    searcher = create("agenttts", SPACE, 3, llm=connection)
    first = searcher.propose(searcher.initial_batch)
    searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in first])
    out = searcher.ask(2)
    searcher.ask(2)
    asked = [e for e in connection.caller.transcript.events if e["event"] == "reply"]
    last = [e["messages"][1]["content"] for e in asked if e["purpose"] == "propose"][-1]
    _, _, waiting = last.partition("Being tried already: ")
    assert all(allocation_text(allocation) in waiting for allocation in out)


def test_a_bad_reply_is_sent_back_with_what_is_wrong_about_it():
    connection = scripted_session(["no idea", {"allocations": [GOOD]}])
    [[proposal]], _ = ask(connection)
    assert proposal.source == "agent"
    replies = [e for e in connection.caller.transcript.events if e["event"] == "reply"]
    last = replies[1]["messages"]
    assert last[-2] == {"role": "assistant", "content": "no idea"}
    assert "contains no allocation" in last[-1]["content"]
    assert '"predicted_score": 0.0' in last[-1]["content"]


def test_a_model_that_never_delivers_is_given_up():
    connection = scripted_session([], then="garbage")
    asked, _ = ask(connection, batches=10)
    assert asked == [[]] * 10
    calls = connection.caller.transcript.calls
    ask(connection, batches=10)  # another searcher of the same run
    assert 0 < connection.caller.transcript.calls == calls <= 3 * 4


def test_a_replay_gives_up_where_it_did_the_first_time(tmp_path):
    path = tmp_path / "agent.jsonl"
    script = [batch_reply([allocation("qwen-72b", 1, "llama-3b", count)], []) for count in (16, 8)]
    models = {}

    def offers(connection):
        archive, agent = Archive(SPACE), LLMAgent(SPACE, 3, connection)
        found = []
        for count in range(1, 6):
            one = SPACE.allocation(("qwen-7b", count), ("llama-3b", 1))
            archive.add([TrialResult(one, score(one), stderr=0.05)])
            models.setdefault(count, surrogate_of(archive))
            found.append(agent.propose(4, archive, models[count]).proposals)
        return found

    first = offers(scripted_session(script, then="garbage", transcript=Transcript(path)))
    assert [len(found) for found in first] == [1, 1, 0, 0, 0]
    kinds = [event["event"] for event in Transcript(path).events]
    assert kinds[-1] == "fallback"
    assert kinds.count("fallback") == 3
    again = scripted_session([], then={"error": 401}, transcript=Transcript(path))
    assert offers(again) == first
    assert len(Transcript(path).events) == len(kinds), "every reply was on record"


def test_out_of_calls_the_rules_go_on(plain):
    without, _ = plain
    connection = scripted_session([], then={"allocations": [GOOD]}, max_calls=1)
    done, _ = run(connection)
    assert [p.allocation for p in done] == [p.allocation for p in without]
    assert any("max_calls" in e.get("reason", "") for e in connection.caller.transcript.events)


@pytest.mark.parametrize("stop", [5, 11, 17])
def test_a_restart_goes_on_as_if_it_had_not_been_stopped(tmp_path, stop):
    """Stopped between the model's reply and the controller's note of the proposals: the worst
    moment.
    """
    whole, straight = run(scripted(tmp_path / "a.jsonl"))
    first, stopped = run(scripted(tmp_path / "b.jsonl"), trials=stop)
    lost = stopped.propose(6)
    calls = scripted(tmp_path / "b.jsonl").caller.transcript.calls
    again = scripted(tmp_path / "b.jsonl")
    searcher = create("agenttts", SPACE, 3, llm=again)
    for begin in (0, searcher.initial_batch, *range(searcher.initial_batch + 6, len(first), 6)):
        end = searcher.initial_batch if begin == 0 else begin + 6
        batch = first[begin:end]
        searcher.add_pending(p.allocation for p in batch)
        searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in batch])
    assert searcher.propose(6) == lost
    assert again.caller.transcript.calls == calls, "replies on record are used again"
    searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in lost])
    rest, _ = run(again, trials=len(whole) - len(first) - 6, searcher=searcher)
    assert [*first, *lost, *rest][: len(whole)] == whole
    assert set(searcher.guidelines()) >= {g for g in straight.guidelines() if g.startswith("rule")}


def test_without_its_transcript_a_restart_still_works(tmp_path):
    first, _ = run(scripted(tmp_path / "a.jsonl"), trials=11)
    searcher = create("agenttts", SPACE, 3, llm=scripted(tmp_path / "other.jsonl"))
    searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in first])
    known = {p.allocation for p in first}
    assert not known & {p.allocation for p in searcher.propose(6)}


def test_too_long_a_prompt_is_shortened():
    from agenttts.search.llm.base import LLMError, Reply

    class Small:
        """A model whose context holds so many characters."""

        model = "small"

        def __init__(self):
            self.longest = self.asked = 0

        def complete(self, chat):
            if chat.purpose == "sketch":
                return Reply("none")
            if chat.characters > 5600:
                raise LLMError("context", "maximum context length exceeded")
            self.longest = max(self.longest, chat.characters)
            self.asked += 1
            entry = allocation("qwen-7b", 20 + self.asked, "llama-3b", 4)
            # A model that predicts well is asked for every batch.
            known = score(SPACE.allocation(("qwen-7b", 20 + self.asked), ("llama-3b", 4)))
            return Reply(batch_reply([entry], [], known))

        def close(self):
            return

    connection = scripted_session([])
    connection.caller.llm = Small()
    done, _ = run(connection, trials=40)
    assert len(done) >= 40
    events = connection.caller.transcript.events
    assert any(e["event"] == "failed" and e["fault"] == "context" for e in events)
    assert all(e["usable"] for e in events if e["event"] == "proposals")
    assert not any(e["event"] == "fallback" for e in events)
    assert connection.caller.llm.longest > 2000
    late = [e for e in events if e["event"] == "reply"][-1]
    assert "# Results by combination of models" in late["messages"][1]["content"]


def test_when_everything_is_tried_it_stops():
    small = SearchSpace(SPACE.stages, SPACE.least_budget + 12)
    connection = scripted_session(
        [], then={"allocations": [allocation("qwen-7b", 1, "llama-3b", 1)]}
    )
    searcher = create("agenttts", small, 1, llm=connection)
    tried = []
    while batch := searcher.ask(5):
        tried += batch
        searcher.tell([TrialResult(a, score(a)) for a in batch])
        assert len(tried) <= small.count()
    assert set(tried) == set(small.feasible())


def test_no_question_is_asked_when_everything_is_tried():
    small = SearchSpace(SPACE.stages, SPACE.least_budget + 12)
    connection = scripted_session([], then="garbage")
    searcher = create("agenttts", small, 1, llm=connection)
    elsewhere = SPACE.allocation(("qwen-72b", 2), ("llama-3b", 1))  # of an earlier, larger budget
    known = [*small.feasible(), elsewhere]
    searcher.tell([TrialResult(a, score(a)) for a in known[1:]])
    searcher.add_pending(known[:1])
    assert searcher.ask(5) == []
    assert connection.caller.transcript.calls == 0
