"""Thinking: which markers a model's files show, and what is left of a reply without it."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.replies import (
    COMMON_THINKING,
    Thinking,
    detect_thinking,
    named_thinking,
    opened_thinking,
    remove_thinking,
    repair_json,
    with_kept_apart,
)

THINK = Thinking(("<think>",), ("</think>",))
HARMONY = Thinking(
    ("<|channel|>analysis<|message|>", "<|channel|>commentary<|message|>"),
    ("<|channel|>final<|message|>",),
    ("<|start|>assistant", "<|end|>", "<|return|>"),
    special=True,
)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Ann Lee", "Ann Lee"),
        ("  spaces stay where there is no thinking \n", "  spaces stay where there is no thinking \n"),
        ("<think>or Bo [3]?</think>Ann Lee", "Ann Lee"),
        ("<think>\n\n</think>\n\nAnn Lee\n", "Ann Lee"),
        ("<think>a</think>one <think>b</think>two", "one two"),
        ("Ann Lee <think>or Bo?</think>\nBo", "Ann Lee \nBo"),
        # Opened by the prompt: only its end is in the reply.
        ("or Bo?\n</think>\nAnn Lee", "Ann Lee"),
        ("a</think>one <think>b</think>two", "one two"),
        # A model that writes about its markers.
        ("<think>I am in <think>, am I?</think>Ann", "Ann"),
        ("<think>a</think>still thinking</think>Ann", "Ann"),
        # A block that does not end is no answer.
        ("<think>or Bo", ""),
        ("Ann Lee <think>or Bo", ""),
        ("<think>a</think>Ann Lee<think>", ""),
        ("<think>", ""),
        ("</think>", ""),
        ("<think></think>", ""),
        # Pieces that make a marker where they meet.
        ("<thi<think>a</think>nk>Ann", "<thi\nnk>Ann"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_left_of_a_reply(reply, answer):
    assert remove_thinking(reply, THINK) == answer
    assert remove_thinking(reply, None) == reply


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<|channel|>analysis<|message|>Bo?<|end|><|start|>assistant<|channel|>final<|message|>Ann", "Ann"),
        ("<|channel|>final<|message|>Ann<|return|>", "Ann"),
        ("<|channel|>final<|message|>Ann<|end|>", "Ann"),
        ("<|channel|>analysis<|message|>Bo?<|end|><|start|>assistant<|channel|>commentary<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Ann", "Ann"),
        ("<|channel|>analysis<|message|>Bo?", ""),
        ("<|channel|>analysis<|message|>Bo?<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{\"a\": 1}<|return|>", '{"a": 1}'),
        ("<|channel|>final <|constrain|>JSON<|message|>[1]", "[1]"),
        ("<|channel|>final json<|message|>[1]", "[1]"),
        ("<|channel|>analysis to=python code<|message|>print(1)", ""),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>Ann", "Ann"),
        ("<|channel|>analysis code<|message|>f(x<|y)<|end|><|start|>assistant<|channel|>final<|message|>a <b> c", "a <b> c"),
        ("<|channel|>analysis<|message|>Bo?<|end|>", ""),
    ],
)  # fmt: skip
def test_channels(reply, answer):
    assert remove_thinking(reply, HARMONY) == answer


MARKERS = st.sampled_from(["<think>", "</think>", "<think", "think>", "<", "a", "a</", "aa"])
TEXTS = st.lists(st.text(max_size=8) | MARKERS, max_size=12).map("".join)
WORDS = st.text(st.characters(exclude_characters="<>/[]|◁▷"), max_size=20)
THINKINGS = st.sampled_from(
    [
        THINK,
        HARMONY,
        COMMON_THINKING,
        Thinking(("a",), ("aa",)),
        Thinking(("<<",), ("<<<",), ("<",)),
        Thinking(("a", "ba"), ("ab", "b"), ("bab",)),
    ]
)


def all_markers(thinking: Thinking) -> tuple[str, ...]:
    return (*thinking.starts, *thinking.ends, *thinking.wrappers)


@given(THINKINGS.flatmap(lambda t: st.tuples(st.just(t), st.lists(st.sampled_from(all_markers(t)) | MARKERS | st.text(max_size=4), max_size=14).map("".join))))  # fmt: skip
def test_any_reply_is_left_without_a_marker_and_doing_it_again_changes_nothing(drawn):
    thinking, reply = drawn
    answer = remove_thinking(reply, thinking)
    assert not any(marker in answer for marker in all_markers(thinking))
    assert remove_thinking(answer, thinking) == answer
    if not any(marker in reply for marker in all_markers(thinking)):
        assert answer == reply


@given(st.lists(WORDS, min_size=1, max_size=5), st.lists(TEXTS, min_size=4, max_size=4))
def test_text_outside_of_blocks_is_not_touched(outside, thoughts):
    closed = [thought.replace("/", "") for thought in thoughts]  # so that no end is among them
    reply = outside[0]
    for text, thought in zip(outside[1:], closed, strict=False):
        reply += f"<think>{thought}</think>{text}"
    expected = "".join(outside)
    assert remove_thinking(reply, THINK) == (expected.strip() if len(outside) > 1 else expected)
    assert remove_thinking(reply + "<think>x" + closed[0], THINK) == ""
    assert remove_thinking(reply + "\n<think>" + closed[0], THINK) == ""


QWEN, SPECIAL = THINK, Thinking(("<think>",), ("</think>",), special=True)
MENTIONS = [
    # A model that is not known to think begins a block at the beginning, after another one, or on a
    # line of its own.
    (COMMON_THINKING, "x = '<thinking>'; print(42)", "x = ''; print(42)"),
    (COMMON_THINKING, "The tag <think> opens thinking. Answer: 42", "The tag  opens thinking. Answer: 42"),
    (COMMON_THINKING, "Answer: 42 <think>", "Answer: 42"),
    (COMMON_THINKING, "Tags:\n<think> opens, [THINK] too\n42", "Tags:\n opens,  too\n42"),
    (COMMON_THINKING, "```python\ns = \"<think>\"\n```\n42", '```python\ns = ""\n```\n42'),
    (COMMON_THINKING, "<think>or Bo", ""),
    (COMMON_THINKING, " \n<think>\nor Bo", ""),
    (COMMON_THINKING, "Sure!\n<think>\nor Bo", ""),
    (COMMON_THINKING, "<think>a</think>\n<think>or Bo", ""),
    (COMMON_THINKING, "<think>a</think>Ann\n<think>or Bo", ""),
    (COMMON_THINKING, "<think>a</think>Ann <think>or Bo", "Ann or Bo"),
    (COMMON_THINKING, "Ann <think>or Bo?</think>Lee", "Ann Lee"),
    # The chat template opened the block: the reply begins inside of it, or with its start where it
    # is stored.
    (COMMON_THINKING, "<think>\nor '<think>'?</think>Ann", "Ann"),
    (COMMON_THINKING, "or Bo?</think>the tag <think> opens: 42", "the tag  opens: 42"),
    (COMMON_THINKING, "<think>\nor Bo, he says <think>", ""),
    (QWEN, "<think>a</think>\ns='<think>'", "s=''"),
    (QWEN, "<think>a</think>\n```python\ns='<think>'\n```", "```python\ns=''\n```"),
    (QWEN, "<think>a</think>\nUse the <think> tag in HTML: 42", "Use the  tag in HTML: 42"),
    (QWEN, "x = `<think>`; 42", "x = ``; 42"),
    (QWEN, "the tag <think> opens: 42", ""),
    (QWEN, "<think>a</think>Ann <think>or Bo", ""),
    (QWEN, "<think>a</think>Ann <think> ", ""),
    (QWEN, "<think>a</think>Ann\n<think> or Bo", ""),
    (QWEN, "<think>a</think>say '<think>' now\n<think>or Bo", ""),
    (SPECIAL, "<think>a</think>Ann <think> or Bo", ""),
    (SPECIAL, "<think>a</think>s = '<think>' # 42", "s = '' # 42"),
]  # fmt: skip


@pytest.mark.parametrize(("thinking", "reply", "answer"), MENTIONS)
def test_a_marker_that_is_only_mentioned_takes_no_answer_away(thinking, reply, answer):
    assert remove_thinking(reply, thinking) == answer


SAID = WORDS.filter(lambda text: text.strip() and "\n" not in text and "\r" not in text)
START = st.sampled_from(COMMON_THINKING.starts)


@given(SAID, START, WORDS, st.sampled_from(["''", '""', "``", "  "]))
def test_a_model_that_never_thinks_loses_no_answer_to_a_marker_in_a_line(before, start, after, marks):  # fmt: skip
    reply = f"{before}{marks[0]}{start}{marks[1]}{after}"
    assert remove_thinking(reply, COMMON_THINKING) == f"{before}{marks}{after}".strip()


@given(WORDS, START, WORDS, st.sampled_from(["", " ", "\n"]))
def test_a_block_at_the_beginning_or_after_another_is_thinking_for_every_model(thought, start, answer, space):  # fmt: skip
    end = COMMON_THINKING.ends[COMMON_THINKING.starts.index(start)]
    for thinking in (COMMON_THINKING, Thinking((start,), (end,))):
        assert remove_thinking(f"{space}{start}{thought}", thinking) == ""
        assert remove_thinking(f"{start}{thought}{end}{space}{start}{answer}", thinking) == ""
        assert remove_thinking(f"{start}{thought}{end}{answer}", thinking) == answer.strip()


@given(WORDS, WORDS)
def test_a_block_that_the_prompt_opened_ends_where_its_marker_is(thought, answer):
    assert remove_thinking(f"{thought}</think>{answer}", THINK) == answer.strip()
    assert remove_thinking(f"<think>{thought}</think>{answer}", THINK) == answer.strip()


@pytest.mark.parametrize(
    ("end", "opening"),
    [
        ("<|Assistant|><think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("", ""),
    ],
)
def test_a_prompt_that_opens_a_block(end, opening):
    assert opened_thinking(end, THINK) == opening
    assert opened_thinking(end, None) == ""


def model(
    folder: Path,
    *,
    template: str | None = None,
    tokens: dict[str, bool] | None = None,
    where: str = "tokenizer_config.json",
) -> Path:
    """A model's directory with a template and added tokens, each of which is special or not."""
    records = [{"content": token, "special": special} for token, special in (tokens or {}).items()]
    if where == "tokenizer.json":
        (folder / where).write_text(json.dumps({"added_tokens": records}))
    elif where == "tekken.json":
        tekken = [{"rank": n, "token_str": r["content"]} for n, r in enumerate(records)]
        (folder / where).write_text(json.dumps({"special_tokens": tekken}))
    else:
        document = {"added_tokens_decoder": {str(n): r for n, r in enumerate(records)}}
        if template is not None:
            document["chat_template"] = template
        (folder / where).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("template", "tokens", "thought", "special"),
    [
        ("{{'<|Assistant|><think>\\n'}}", {}, "<think>{}</think>", False),
        ("{% if '</think>' in content %}", {"<think>": False, "</think>": False}, "<think>{}</think>", False),
        ("", {"<think>": True, "</think>": True}, "<think>{}</think>", True),
        ("plain", {"<|begin_of_thought|>": False}, "<|begin_of_thought|>{}<|end_of_thought|>", False),
        ("plain", {"[THINK]": True, "[/THINK]": True}, "[THINK]{}[/THINK]", True),
        ("{{ '<seed:think>' }}", {"<seed:think>": True}, "<seed:think>{}</seed:think>", True),
        ("<|channel|>analysis<|message|>", {"<|channel|>": True, "<|message|>": True},
         "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>", True),
        ("<|START_THINKING|>", {}, "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>", False),
        ("<|channel>thought", {"<|channel>": False}, "<|channel>thought\n{}<channel|>", False),
        ("Here is my thought process:", {}, "Here is my thought process:{}Here is my response:", False),
        ("<longcat_think>", {}, "<longcat_think>{}</longcat_think>", False),
        ("<thought>", {}, "<thought>{}</thought>", False),
        ("<think> <answer>", {}, "<think>{}</think><answer>", False),
        ("<mm:think>", {}, "<mm:think>{}</mm:think>", False),
        ("plain", {"<think:later>": False}, "<think:later>{}</think:later>", False),
        ("plain", {"</think:opensource>": True}, "<think:opensource>{}</think:opensource>", True),
        ("<think_fast>", {}, "<think_faster>{}</think_faster>", False),
        ("<ifm|think_fast>", {}, "<ifm|think_fast>{}</ifm|think_fast>", False),
        ("plain", {"<|plamo:begin_think:plamo|>": True}, "<|plamo:begin_think:plamo|>{}<|plamo:end_think:plamo|>", True),
        ("<|open|>think<|sep|>", {"<|open|>": True}, "<|open|>think<|sep|>{}<|close|>think<|sep|><|open|>response<|sep|>", True),
        ("<reasoning>", {}, "<reasoning>{}</reasoning>", False),
        ("<Thought>", {}, "<Thought>{}</Thought><Output>", False),
        ("<|think|>", {"<|think|>": True, "<|end|>": True}, "<|think|>{}<|end|><|begin|>assistant<|content|>", True),
        ("plain", {"<|content_thinking|>": True}, "<|message_model|><|content_thinking|>{}<|end_message|><|message_model|><|content_text|>", True),
        ("to=self<|message|>", {}, "to=self<|message|>{}<|eom|><|start|>assistant to=user<|message|>", False),
        ("<think> <|begin_of_box|>", {}, "<think>{}</think><|begin_of_box|>", False),
    ],
)  # fmt: skip
def test_markers_are_told_by_template_and_tokens(tmp_path, template, tokens, thought, special):
    found = detect_thinking(model(tmp_path, template=template, tokens=tokens))
    assert found is not None
    assert found.special is special
    assert remove_thinking(f"{thought.format('Bo [3]')}\nAnn", found) == "Ann"
    assert remove_thinking(thought.partition("{}")[0] + "Bo", found) == ""


@pytest.mark.parametrize("where", ["tokenizer_config.json", "tokenizer.json", "tekken.json"])
def test_added_tokens_are_found_in_each_of_the_files_that_hold_them(tmp_path, where):
    found = detect_thinking(model(tmp_path, tokens={"[THINK]": True}, where=where))
    assert found == Thinking(("[THINK]",), ("[/THINK]",), special=True)


@pytest.mark.parametrize(
    "file",
    ["chat_template.jinja", "chat_template.json", "additional_chat_templates/reasoning.jinja", "list"],
)  # fmt: skip
def test_templates_are_found_in_each_of_the_files_that_hold_them(tmp_path, file):
    template = "{{ '<seed:think>' }}"
    if file == "list":
        named = {"chat_template": [{"name": "default", "template": template}]}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    else:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"chat_template": template}) if path.suffix == ".json" else template
        path.write_text(text)
    assert detect_thinking(tmp_path) == Thinking(("<seed:think>",), ("</seed:think>",))


def test_a_model_that_shows_no_markers_and_one_that_is_not_here(tmp_path):
    assert detect_thinking(model(tmp_path, template="{{ messages }}")) is None
    assert detect_thinking(tmp_path / "owner" / "name") is None
    assert detect_thinking(None) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"chat_template": 3, "added_tokens_decoder": [1]}', '{"added_tokens_decoder": {"1": 2, "2": {"content": 5}}}'])  # fmt: skip
def test_files_that_cannot_be_read_show_nothing(tmp_path, content):
    for name in ("tokenizer_config.json", "tokenizer.json", "added_tokens.json", "chat_template.json", "tekken.json"):  # fmt: skip
        (tmp_path / name).write_text(content)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe<think>")
    assert detect_thinking(tmp_path) is None


def test_markers_that_the_user_names_are_special_where_the_tokenizer_says_so(tmp_path):
    model(tmp_path, tokens={"<hmm>": True, "</hmm>": True})
    assert named_thinking("<hmm>", "</hmm>", tmp_path).special
    assert not named_thinking("<umm>", "</umm>", tmp_path).special
    assert not named_thinking("<hmm>", "</hmm>", None).special


def test_an_answer_is_taken_out_of_its_box():
    assert remove_thinking("<think>Bo?</think>It is <|begin_of_box|>Ann<|end_of_box|>.", COMMON_THINKING) == "It is Ann."  # fmt: skip


def test_the_end_of_a_message_loses_no_answer(tmp_path):
    solar = detect_thinking(model(tmp_path, template="<|think|>", tokens={"<|end|>": True}))
    reply = "<|think|>Bo?<|end|><|begin|>assistant<|content|>Ann<|end|>"
    assert remove_thinking(reply, solar) == "Ann"


_MARKER = re.compile(r"[<\[◁](?=\S*(?:think|reason|thought))[^\s(]+[>\]▷]", re.I)


def test_every_marker_of_the_installed_vllm_s_parsers_is_known(tmp_path):
    """Read from their source: importing them takes most of a minute."""
    package = importlib.util.find_spec("vllm")
    if package is None or package.origin is None:
        pytest.skip("vLLM is not installed")
    sources = [file for folder in ("reasoning", "parser") for file in (Path(package.origin).parent / folder).glob("*.py")]  # fmt: skip
    found = {
        node.value
        for file in sources
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _MARKER.fullmatch(node.value)
    }  # fmt: skip
    assert "<think>" in found
    for marker in sorted(found):
        (tmp_path / "chat_template.jinja").write_text(marker)
        known = detect_thinking(tmp_path)
        assert known is not None, marker
        assert marker in all_markers(known)


def test_a_damaged_reply_with_many_unmatched_brackets_in_its_texts_is_read_whole():
    text = f'{{"note": "{"in [0, 1) " * 45}", "allocations": [{{"samples": 1,}}]}}'
    assert repair_json(text)["allocations"] == [{"samples": 1}]
    calls = ", ".join(f'{{"value": "in (0, 1]", "number": {n},}}' for n in range(60))
    assert [call["number"] for call in repair_json(f"[{calls}]")] == list(range(60))


def test_many_values_side_by_side_are_repaired_quickly():
    """10 kB of these took 18 s."""
    began = time.process_time()
    for text in (
        *("[x]{y}" * 10_000, "[x]{y}\n" * 1600, '{"a": [x], } [y] ' * 4000),
        *("{y: z}" * 10_000, "[" + "[x], {y}, " * 6000, "{name: a b, tool: c}\n" * 3000),
    ):
        repair_json(text)
    assert time.process_time() - began < 60, "minutes, if the time grows with the square"


@pytest.mark.parametrize("around", ["{}", "[{}]", '{{"all": [{}]}}'])
@pytest.mark.parametrize("value", ['{{"n": {},}}', "{{'n': {},}}", "[{}, ]"])
def test_many_damaged_values_are_all_read(around, value):
    values = repair_json(around.format(",\n".join(value.format(n) for n in range(900))))
    values = values["all"] if isinstance(values, dict) else values
    assert [v["n"] if isinstance(v, dict) else v[0] for v in values] == list(range(900))


@pytest.mark.parametrize("markers", [None, THINK, Thinking(("[T]",), ("[/T]",)), COMMON_THINKING])
@pytest.mark.parametrize(
    ("thought", "reply", "cut", "left"),
    [
        ("Bo? </think> [/T] no", "Ann Lee", False, "Ann Lee"),
        ("Bo?", "", True, ""),
        ("Bo?", "", False, ""),
        (" \n", "Ann Lee", False, "Ann Lee"),
        ("Bo?", "the tag in <b> is a word", False, "the tag in <b> is a word"),
    ],
)
def test_thinking_of_a_field_of_its_own_is_removed_with_any_markers(
    markers, thought, reply, cut, left
):
    text = with_kept_apart(thought, reply, cut=cut)
    assert remove_thinking(text, markers) == left
    assert (thought in text) == bool(thought.strip())


def test_what_a_model_writes_itself_is_not_taken_for_the_server_s():
    own = "<think>\nBo?\n</think>\n\nAnn Lee"
    assert remove_thinking(own, None) == own
    assert remove_thinking(own, THINK) == "Ann Lee"  # as earlier versions stored a server's
    said = with_kept_apart("Bo?", own, cut=False)
    assert remove_thinking(said, None) == own
    mentioned = with_kept_apart("Bo?", "the tag <think> opens it", cut=False)
    assert remove_thinking(mentioned, THINK) == "the tag  opens it"
