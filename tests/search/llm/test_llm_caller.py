"""Retries, caps, and the transcript as memory."""

import json

import pytest

from agenttts.errors import UserError
from agenttts.search.llm.base import Chat, LLMError
from agenttts.search.llm.caller import Caller, RetryPolicy
from agenttts.search.llm.scripted import ScriptedLLM, load_script
from agenttts.search.llm.transcript import Transcript, summarise
from tests.support.llm import TASK_DESCRIPTION, scripted_session

CHAT = Chat("propose", ({"role": "user", "content": "x" * 400},))


def caller(replies, transcript=None, waits=None, then="", **policy):
    llm = ScriptedLLM({"replies": replies, "then": then}, sleep=lambda s: None)
    sleep = (waits if waits is not None else []).append
    return Caller(llm, transcript or Transcript(), RetryPolicy(**policy), sleep=sleep)


def test_waits_grow_and_a_reply_ends_them():
    waits = []
    asking = caller([{"error": 500}, {"timeout": True}, {"error": 503}, "hi"], waits=waits)
    assert asking.ask(CHAT).text == "hi"
    assert [round(w) for w in waits] == pytest.approx([1, 2, 4], rel=0.3)
    kinds = [(e["event"], e.get("fault")) for e in asking.transcript.events]
    assert kinds == [("failed", "http"), ("failed", "timeout"), ("failed", "http"), ("reply", None)]


def test_the_server_says_how_long_to_wait():
    waits = []
    asking = caller([{"error": 429, "retry_after": 17}, "hi"], waits=waits)
    assert asking.ask(CHAT).text == "hi"
    assert waits == [17]


def test_a_server_that_asks_for_no_wait_gets_growing_waits():
    waits = []
    asking = caller([{"error": 503, "retry_after": 0}] * 3 + ["hi"], waits=waits)
    assert asking.ask(CHAT).text == "hi"
    assert [round(w) for w in waits] == pytest.approx([1, 2, 4], rel=0.3)


def test_not_for_hours():
    waits = []
    asking = caller([{"error": 429, "retry_after": 7200}, "hi"], waits=waits)
    with pytest.raises(LLMError, match="429"):
        asking.ask(CHAT)
    assert waits == []


def test_patience_ends():
    with pytest.raises(LLMError, match="HTTP 500"):
        caller([], then={"error": 500}, retries=2).ask(CHAT)


def test_what_is_refused_is_not_repeated():
    asking = caller([{"error": 401}, "hi"])
    with pytest.raises(LLMError, match="401"):
        asking.ask(CHAT)
    assert asking.transcript.calls == 1


def test_the_cap_on_calls_counts_failed_ones():
    asking = caller([{"error": 500}], then="hi", max_calls=2)
    assert asking.ask(CHAT).text == "hi"
    with pytest.raises(LLMError, match="^the limit max_calls \\(2\\)") as caught:
        asking.ask(Chat("propose", ({"role": "user", "content": "other"},)))
    assert caught.value.fault == "cap"


def test_the_cap_on_tokens_is_never_passed():
    asking = caller([], then="word " * 80, max_tokens=100, max_total_tokens=700)
    asked = 0
    while asking.transcript.tokens <= 500:
        asking.ask(Chat("propose", CHAT.messages, seed=asked))
        asked += 1
    with pytest.raises(LLMError, match="max_total_tokens \\(700\\)"):
        asking.ask(Chat("propose", CHAT.messages, seed=asked))
    assert asked > 1
    assert asking.transcript.tokens <= 700


def test_a_reply_on_record_is_used_again_and_caps_go_on(tmp_path):
    path = tmp_path / "agent.jsonl"
    first = caller(["one"], Transcript(path), max_calls=2)
    assert first.ask(CHAT).text == "one"
    again = caller(["two"], Transcript(path), max_calls=2)
    assert again.ask(CHAT).text == "one"
    assert again.ask(Chat("propose", CHAT.messages, seed=1)).text == "two"
    with pytest.raises(LLMError, match="max_calls"):
        caller(["three"], Transcript(path), max_calls=2).ask(Chat("x", CHAT.messages))


def test_a_line_cut_short_by_a_crash_never_happened(tmp_path):
    path = tmp_path / "agent.jsonl"
    caller(["one"], Transcript(path)).ask(CHAT)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "reply", "key": "abc", "repl')
    again = caller(["two"], Transcript(path))
    assert again.ask(CHAT).text == "one"
    assert again.ask(Chat("propose", CHAT.messages, seed=1)).text == "two"
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["reply"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_the_transcript_holds_prompt_and_reply_in_any_script(tmp_path):
    path = tmp_path / "agent.jsonl"
    odd = "né \u2028 \ud800 \x00 " + "漢"
    asking = caller([odd], Transcript(path))
    asking.ask(Chat("propose", ({"role": "user", "content": "früh"},)))
    [event] = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    assert event["messages"][0]["content"] == "früh"
    assert event["reply"] == odd.replace("\ud800", "?")


def test_the_summary_counts_what_happened(tmp_path):
    path = tmp_path / "agent.jsonl"
    assert summarise(path) is None
    asking = caller([{"error": 500}, "one"], Transcript(path))
    asking.ask(CHAT)
    asking.transcript.add("fallback", key="k", reason="because")
    summary = summarise(path)
    assert (summary["calls"], summary["replies"], summary["failed"]) == (2, 1, {"http": 1})
    assert summary["prompt_tokens"] == 100
    assert summary["fallbacks"] == ["because"]


def test_sessions_share_their_task_description():
    assert scripted_session(["x"]).task_description == TASK_DESCRIPTION


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("no json", "not a valid script of replies"),
        ("[]", "not a valid script; valid: "),
        ('{"replies": [1]}', "replies\\[0\\] is neither"),
        ('{"replies": [], "than": ""}', "unknown key 'than'.*did you mean 'then'"),
        ('{"replies": [{"txt": "x"}]}', "replies\\[0\\]: unknown key 'txt'.*did you mean 'text'"),
        ('{"replies": ["x", {"error": "overloaded"}]}', 'replies\\[1\\].error: "overloaded" is not valid; valid: an HTTP'),
        ('{"replies": [{"error": true}]}', "replies\\[0\\].error: true is not valid; valid: an HTTP"),
        ('{"replies": [{"error": 200}]}', "replies\\[0\\].error: 200 is not valid; valid: an HTTP"),
        ('{"replies": [{"delay": -1}]}', "replies\\[0\\].delay: -1 is not valid; valid: seconds, 0 or"),
        ('{"replies": [{"delay": NaN}]}', "replies\\[0\\].delay: NaN is not valid; valid: seconds"),
        ('{"replies": [{"error": 429, "retry_after": "2"}]}', 'retry_after: "2" is not valid; valid: seconds'),
        ('{"replies": [{"error": 429, "message": 7}]}', "message: 7 is not valid; valid: a text"),
        ('{"replies": [{"timeout": "yes"}]}', 'timeout: "yes" is not valid; valid: true or false'),
        ('{"replies": [{"allocations": {}}]}', "allocations: {} is not valid; valid: a list"),
        ('{"replies": [], "then": {"text": null}}', "then.text: null is not valid; valid: a text"),
        ('{"replies": [], "then": 3}', "then is neither a text nor a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_script_is_refused(tmp_path, content, problem):
    path = tmp_path / "replies.json"
    path.write_text(content)
    with pytest.raises(UserError, match=problem):
        load_script(path)
    with pytest.raises(UserError, match="the script of replies does not exist"):
        load_script(tmp_path / "nowhere.json")


def test_a_script_may_have_a_byte_order_mark(tmp_path):
    script = {"replies": ["x", {"error": 429, "retry_after": 0.5}, {"delay": 0, "text": "y"}]}
    path = tmp_path / "replies.json"
    path.write_text(json.dumps(script), encoding="utf-8-sig")
    assert load_script(path) == script
