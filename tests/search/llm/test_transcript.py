"""The transcript as memory: what a damaged line costs, and what a full disk does."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement
from agenttts.search import TrialResult, create
from agenttts.search.llm.base import Chat, Reply
from agenttts.search.llm.transcript import Transcript, summarise
from tests.support.full_disk import full_disk
from tests.support.llm import SPACE, run, score, scripted, scripted_session


def chat(text: str) -> Chat:
    return Chat("propose", ({"role": "user", "content": text},))


def replied(transcript: Transcript, *texts: str) -> None:
    for text in texts:
        transcript.add_reply(chat(text), "model", Reply(f"reply to {text}", 10, 1), 0.1)


DAMAGE = {
    "not json": b"%&/(",
    "cut in half": b'{"event": "reply", "key": "abc", "repl',
    "not text": b"\xff\xfe\x00",
    "no event": b'{"some": "thing"}',
    "a reply without a text": b'{"event": "reply", "key": "k", "purpose": "p", "model": "m", "seconds": 1}',
    "empty": b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_every_readable_line_after_a_damaged_one_is_kept(tmp_path, caplog, damage):
    path = tmp_path / "agent.jsonl"
    replied(Transcript(path), "one", "two", "three", "four")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    with caplog.at_level(logging.WARNING):
        again = Transcript(path)
    assert (again.calls, again.tokens) == (3, 33)
    assert again.recorded(chat("two")) is None
    for text in ("one", "three", "four"):
        assert again.recorded(chat(text)).text == f"reply to {text}"
    [warning] = caplog.messages
    assert f"{path}: line 2 is not an event of the transcript" in warning
    replied(again, "two")
    assert summarise(path)["replies"] == 4
    assert path.read_bytes().startswith(b"".join(lines)), "what is there is left as it is"


def test_damage_is_warned_of_once_and_named_in_the_summary(tmp_path, caplog):
    path = tmp_path / "agent.jsonl"
    replied(Transcript(path), "one", "two")
    assert summarise(path)["damaged_lines"] == []
    path.write_bytes(b"?\n" + path.read_bytes() + b"{}\n")
    with caplog.at_level(logging.WARNING):
        Transcript(path)
        for _ in range(3):  # status asks again and again
            assert summarise(path)["damaged_lines"] == [1, 4]
    assert [message.partition("line ")[2][:4] for message in caplog.messages] == ["1, 4"]


def test_an_event_of_a_later_version_is_kept_and_counts_for_nothing(tmp_path):
    path = tmp_path / "agent.jsonl"
    path.write_text('{"event": "news", "prompt_tokens": "many"}\n')
    transcript = Transcript(path)
    assert (len(transcript.events), transcript.calls, transcript.tokens) == (1, 0, 0)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A search that ends between the model's replies and the note of its proposals: what it was
    told, what it proposed last, and its transcript.
    """
    path = tmp_path_factory.mktemp("search") / "agent.jsonl"
    told, searcher = run(scripted(path), trials=17, method="agenttts_paper")
    return told, searcher.propose(6), path.read_bytes()


def test_no_reply_on_record_is_paid_for_again(interrupted, tmp_path):
    """Whichever line is damaged, a restart asks the same questions: a lost note of guidelines
    is read from the reply.
    """
    told, proposed, content = interrupted
    lines = content.splitlines(keepends=True)
    kinds = [(event["event"], event.get("purpose")) for event in map(json.loads, lines)]
    assert set(kinds) == {("reply", "guidelines"), ("guidelines", None), ("reply", "propose"), ("proposals", None)}  # fmt: skip
    last = len(kinds) - 1 - kinds[::-1].index(("reply", "propose"))
    for number in range(len(lines)):
        damaged = [b"damaged\n" if n == number else line for n, line in enumerate(lines)]
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"".join(damaged))
        again = scripted(path)
        before = again.caller.transcript.calls
        searcher = create("agenttts_paper", SPACE, 3, llm=again)
        size = searcher.initial_batch
        for begin, end in [(0, size), *((n, n + 6) for n in range(size, len(told), 6))]:
            searcher.add_pending(p.allocation for p in told[begin:end])
            searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in told[begin:end]])
        assert searcher.propose(6) == proposed, kinds[number]
        # Only the reply to the last question is needed, and is lost with its own line.
        assert again.caller.transcript.calls - before == (number == last), kinds[number]


@pytest.mark.parametrize(
    "method", ["agenttts", "agenttts_paper", "agenthpo", "mlcopilot", "llm_zs", "llm_sketch"]
)
def test_a_search_that_is_repeated_asks_nothing(method, tmp_path):
    """As a replay with the trace, and so the transcript, of an earlier one."""
    path = tmp_path / "agent.jsonl"
    first, _ = run(scripted(path), trials=40, method=method)
    events = Transcript(path).events
    silent = scripted_session([], then={"error": 401}, transcript=Transcript(path))
    assert run(silent, trials=40, method=method)[0] == first
    assert Transcript(path).events == events


def test_a_full_disk_takes_nothing_from_the_transcript(tmp_path: Path) -> None:
    path = tmp_path / "agent.jsonl"
    transcript = Transcript(path, go_on="go on like this")
    replied(transcript, "one")
    before = path.read_bytes()
    with (
        full_disk(len(before) + 20),
        pytest.raises(
            MissingRequirement, match=r"agent\.jsonl: the transcript cannot be written"
        ) as caught,
    ):
        replied(transcript, "two")
    assert "free space there, then go on like this; recorded" in str(caught.value)
    assert path.read_bytes() == before
    assert (transcript.recorded(chat("two")), len(transcript.events)) == (None, 1)
    replied(transcript, "two")
    assert Transcript(path).recorded(chat("two")).text == "reply to two"
