"""Replies as models write them."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttts.search.llm.reading import RawChoice, json_values, read_allocations, read_guidelines
from tests.support.llm import SPACE, allocation
from tests.support.repeatable import max_examples

GOOD = allocation("qwen-7b", 4, "llama-3b", 16)
EXPECTED = {"retrieval": RawChoice("qwen-7b", 4), "answer": RawChoice("llama-3b", 16)}
TEXT = json.dumps({"allocations": [GOOD]})


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        json.dumps([GOOD]),
        json.dumps(GOOD),
        json.dumps({"proposals": [{"allocation": GOOD, "reason": "x"}]}),
        f"Sure! Here they are:\n```json\n{TEXT}\n```\nGood luck.",
        f"Here: {TEXT} Is that right?",
        f"<think>maybe {{'allocations': []}}</think>{TEXT}",
        TEXT.replace("}]", ",}, ]"),
        TEXT.replace('"', "'"),
        TEXT.replace("allocations", "Allocations").replace('"retrieval"', '"Retrieval"'),
        TEXT[: TEXT.rindex("}}]")],
        '{"allocations": [{"retrieval": "qwen-7b×4", "answer": "llama-3b x 16"}]}',
        '{"allocations": [{"retrieval": ["qwen-7b", 4], "answer": ["llama-3b", "16 samples"]}]}',
        '{"allocations": [{"retrieval_model": "qwen-7b", "retrieval_samples": 4, "answer.model": "llama-3b", "answer.samples": 16}]}',
        '{"allocations": [[{"stage": "retrieval", "model": "qwen-7b", "samples": 4}, {"stage": "answer", "model": "llama-3b", "samples": 16}]]}',
        '{"allocations": [{"allocation": [{"stage": "retrieval", "model": "qwen-7b", "samples": 4}, {"stage": "answer", "model": "llama-3b", "samples": 16.0}]}]}',
    ],
)  # fmt: skip
def test_every_way_to_write_one_allocation(text):
    [found] = read_allocations(text, SPACE)
    assert found.choices == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "{first}\n{second}",
        "1. {first}\n2. {second}\n3. {cut",
        '{{"analysis": "so"}}\n{{"allocations": [{first}, {second}]}}',
        '<tool_call>{{"name": "propose", "arguments": {quoted}}}</tool_call>',
    ],
)
def test_values_that_follow_each_other_and_arguments_of_a_tool(text):
    other = allocation("qwen-72b", 1, "llama-3b", 2)
    quoted = json.dumps(json.dumps({"allocations": [GOOD, other]}))
    first, second = json.dumps(GOOD), json.dumps(other)
    text = text.replace("{cut", first[:40].replace("{", "{{"))
    text = text.format(first=first, second=second, quoted=quoted)
    found = read_allocations(text, SPACE)
    assert [f.choices["answer"].samples for f in found] == [16, 2]


@pytest.mark.parametrize("damage", [lambda text: text, lambda text: text.replace("}]", ",}, ]")])
def test_a_final_answer_counts_and_not_the_draft_before_it(damage):
    draft = damage(json.dumps({"allocations": [allocation("qwen-72b", 1, "llama-3b", 2)]}))
    text = f"A draft:\n```json\n{draft}\n```\nIt is too dear. So:\n```json\n{damage(TEXT)}\n```"
    [found] = read_allocations(text, SPACE)
    assert found.choices == EXPECTED
    text += '\n```json\n{"guidelines": ["retrieval: more"]}\n```\n```python\nprint([1])\n```'
    assert read_allocations(text, SPACE) == [found]
    assert read_guidelines(text, named=True) == ["retrieval: more"]


@pytest.mark.parametrize("fence", ["", "```json\n"])
def test_only_so_much_of_a_reply_is_repaired(fence):
    """The time of the repair grows by the square of the quotes in a list."""
    repeated = 'x"y ' * 4000
    text = f'{fence}{{"allocations": [{json.dumps(GOOD)}, "{repeated}'
    assert read_allocations(text, SPACE)[0].choices == EXPECTED
    values = [*json_values(text)]
    assert values
    assert max(json.dumps(value).count("x") for value in values) < 2000


@pytest.mark.parametrize("noise", ["{ ", "[", "{ ] ", "{ ] } ", "{ [ } ", '{"a": [} ', "[ { ] "])
def test_allocations_before_brackets_that_repeat_without_end_are_read(noise):
    """The repair of all of them takes minutes, and gives up."""
    text = f'{{"allocations": [{json.dumps(GOOD)}, {noise * 600}'
    assert read_allocations(text, SPACE)[0].choices == EXPECTED
    assert all(json.dumps(value).count("{") < 120 for value in json_values(text))


def test_many_reasons_with_an_unmatched_bracket_are_read():
    items = [{**GOOD, "reason": "its F1 is in [0, 1)"} for _ in range(40)]
    text = json.dumps({"allocations": items}).replace("}]", ",}, ]")
    assert len(read_allocations(text, SPACE)) == 40


def test_guidelines_in_a_value_before_the_allocations():
    text = f'{{"guidelines": ["retrieval: more"]}}\n{json.dumps({"allocations": [GOOD]})}'
    assert read_guidelines(text, named=True) == ["retrieval: more"]


def test_several_with_reasons_in_their_order():
    items = [{**GOOD, "reason": "first\nline"}, {**allocation("qwen-72b", 1, "llama-3b", 2)}]
    found = read_allocations(json.dumps({"allocations": items}), SPACE)
    assert [f.choices["retrieval"].model for f in found] == ["qwen-7b", "qwen-72b"]
    assert [f.reason for f in found] == ["first line", ""]


@pytest.mark.parametrize("text", ["", "I cannot help with that.", "{}", "[]", "null", '{"allocations": []}', '{"allocations": "none"}', '{"a": {"model": "qwen-7b"}}', "```json\n```"])  # fmt: skip
def test_nothing_in_it(text):
    assert read_allocations(text, SPACE) == []


@pytest.mark.parametrize(
    ("said", "predicted"),
    [
        ('"predicted_score": 0.62', 0.62),
        ('"predicted_score": "0.62"', 0.62),
        ('"predicted_score": "about 62 %"', 0.62),
        ('"Predicted Score": ".62 ± 0.05"', 0.62),
        ('"predicted_score": "F1 0.62"', 0.62),
        ('"predicted_score": "acc@1: 62 %"', 0.62),
        ('"predicted_score": "top-1 .62"', 0.62),
        ('"expected": 1e-3', 0.001),
        ('"predicted_score": null', None),
        ('"predicted_score": true', None),
        ('"predicted_score": "high"', None),
        ('"predicted_score": NaN', None),
        ('"reason": "x"', None),
    ],
)
def test_predicted_scores(said, predicted):
    [found] = read_allocations(f'{{"allocations": [{{{json.dumps(GOOD)[1:-1]}, {said}}}]}}', SPACE)
    assert found.choices == EXPECTED
    assert found.predicted == predicted


def test_what_the_analysis_and_the_guidelines_say_is_no_proposal():
    reply = {
        "analysis": {"retrieval": "qwen-72b x 3 is best", "answer": "llama-70b"},
        "guidelines": [{"retrieval": "qwen-72b x 1"}],
        "allocations": [GOOD],
    }
    text = f"<think>{{</think> Here:\n```json\n{json.dumps(reply)}\n```"
    [found] = read_allocations(text, SPACE)
    assert found.choices == EXPECTED
    assert read_guidelines(text, named=True) == ["qwen-72b x 1"]
    assert read_guidelines('{"analysis": "- many samples"}\n- more', named=True) == []
    assert read_allocations(json.dumps(reply)[:60], SPACE) == [], "cut off in the analysis"


def test_a_flood_is_bounded():
    assert len(read_allocations(json.dumps({"allocations": [GOOD] * 500}), SPACE)) <= 200


fragments = st.lists(
    st.sampled_from(["{", "}", "[", "]", ",", ":", '"', "retrieval", '"answer":', "model", "samples", "1e999", "NaN", "-5", "true", "```json", "<think>", "\\ud800", "\x00", "é", "\n", TEXT, TEXT[:40]])
    | st.text(string.printable, max_size=8),
    max_size=60,
).map("".join)  # fmt: skip


@settings(max_examples=max_examples(4))  # cheap, and replies come in any shape
@given(st.one_of(st.text(max_size=300), fragments))
def test_reading_never_raises(text):
    for raw in read_allocations(text, SPACE):
        assert raw.choices
    for line in read_guidelines(text):
        assert line
        assert "\n" not in line
        assert len(line) <= 300


@pytest.mark.parametrize("noise", ["[" * 20000, '{"a":' * 20000, '{"allocations": [' + "[" * 900, "9" * 50000, '"' * 50000])  # fmt: skip
def test_deep_and_long_noise_is_read_in_no_time(noise):
    assert read_allocations(noise, SPACE) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"guidelines": ["use qwen", "more samples"]}',
        '["use qwen", "more samples"]',
        '```json\n{"guidelines": ["use qwen", "more samples",]}\n```',
        "Guidelines:\n- use qwen\n- **more samples**",
        "1. use qwen\n2) more samples",
        '{"guidelines": [{"guideline": "use qwen"}, {"text": "more samples"}]}',
    ],
)
def test_guidelines(text):
    assert read_guidelines(text) == ["use qwen", "more samples"]


def test_guidelines_are_few_and_short():
    lines = read_guidelines(json.dumps({"guidelines": ["word " * 500] * 50}))
    assert len(lines) == 8
    assert max(map(len, lines)) <= 300
    assert all(line.endswith("word [...]") for line in lines), "the cut is marked"
    [whole] = read_guidelines(json.dumps({"guidelines": ["x" * 300]}))
    assert whole == "x" * 300
    assert read_guidelines("No idea, sorry.") == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize("blank", ["\n", " \n", "\t", "\r\n"])
def test_a_reply_of_blank_lines_is_read_at_once(blank):
    """With 60,000 of them the search for a list took 48 s."""
    assert read_guidelines(blank * 60_000) == []
    text = f"{blank * 1000}\n1. few samples\n{blank * 1000}\n- qwen\n"
    assert read_guidelines(text) == ["few samples", "qwen"]


@pytest.mark.parametrize(
    "escape", ["\\ud83d", "\\ude00", "\\u0000", "\\u001b", "\\u007f", "\\u009b"]
)
def test_texts_have_no_half_characters_and_no_control_characters(escape):
    asked = {name: {"model": "m!x", "samples": 3} for name in ("retrieval", "answer")}
    reply = {"allocations": [{**asked, "reason": "why! not"}], "guidelines": ["more! samples"]}
    text = json.dumps(reply).replace("!", escape)
    for said in (text, f"{text[:-1]},}}"):  # the second is repaired
        [found] = read_allocations(said, SPACE)
        assert found.choices["retrieval"].model == "m x"
        assert found.reason == "why not"
        assert read_guidelines(said, named=True) == ["more samples"]
    pair = json.dumps({"retrieval": "m!x × 4", "answer": "n × 2"}, ensure_ascii=False)
    [found] = read_allocations(pair.replace("!", escape), SPACE)
    assert found.choices["retrieval"] == RawChoice("m x", 4)


def test_an_escaped_emoji_stays():
    assert read_guidelines('["more \\ud83d\\ude00 samples"]') == ["more \U0001f600 samples"]


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("16", 16), ("16 samples", 16), ("up to 12", 12), ("n=4", 4), ("x8", 8), ("16.0", 16),
        ("1,000", 1000), ("12,345,678", 12345678), ("1_000", 1000), ("1'000", 1000),
        ("1\u202f000 samples", 1000), ("1e3", 1000), ("2.5", 2.5), ("-1,000", -1000),
        ("12345678901", 1e9), ("1.000", None), ("1 000", None), ("1,0000", None), ("4,8", None),
        ("1,000.5", None), ("1.234.567", None), ("2k", None), ("1.5 k", None), ("many", None),
    ],
)  # fmt: skip
def test_counts_are_read_whole_or_not_at_all(said, count):
    entry = {"retrieval": {"model": "qwen-7b", "samples": said}}
    [found] = read_allocations(json.dumps({"allocations": [entry]}), SPACE)
    assert found.choices["retrieval"].samples == count


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("qwen-7b x 1,000", RawChoice("qwen-7b", 1000)),
        ("qwen-7b×1'000", RawChoice("qwen-7b", 1000)),
        ("qwen-7b, 12", RawChoice("qwen-7b", 12)),
        ("qwen:8, 128", RawChoice("qwen:8", 128)),
        ("qwen-7b x 12345678901", RawChoice("qwen-7b", 1e9)),
    ],
)
def test_counts_beside_a_model_are_read_whole(said, choice):
    [found] = read_allocations(json.dumps({"allocations": [{"retrieval": said}]}), SPACE)
    assert found.choices["retrieval"] == choice
