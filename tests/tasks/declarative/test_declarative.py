"""Tasks in YAML: what they do, and what is said about wrong ones."""

from __future__ import annotations

import json
import unicodedata

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import UserError
from agenttts.tasks import create
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.declarative import parts
from agenttts.tasks.declarative.task import DeclarativeStage

GOOD = """\
name: sums
main_metric: add.number
stages:
  read:
    prompt: "Numbers in: {{ text }}"
    parse: list
    fuse: union
    metrics: {set_f1: numbers}
  add:
    system: Add.
    prompt: |
      {% for number in read %}
      - {{ number }}
      {% endfor %}
      Sum?
    parse: number
    fuse: median
    metrics: {number: total}
  say:
    prompt: "Say {{ add }} of {{ text }}"
    fuse: {model: {prompt: "Merge: {{ candidates | join('; ') }}", temperature: 0.1}}
    metrics: {rouge_l: words}
"""
RECORDS = [
    {"id": "a", "text": "one and two", "numbers": [1, 2], "total": 3, "words": "the sum is three"},
    {"text": "two and five", "numbers": ["2", "5"], "total": "7", "words": ["seven", "it is seven"]},
]  # fmt: skip


@pytest.fixture
def make(tmp_path):
    def write(text: str = GOOD, records: list[dict] = RECORDS) -> tuple[str, str]:
        (tmp_path / "task.yaml").write_text(text)
        (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(r) for r in records))
        return str(tmp_path / "task.yaml"), str(tmp_path / "data.jsonl")

    return write


def test_prompts_fusions_and_scores(make):
    task_file, data = make()
    task = create(task_file)
    assert [s.name for s in task.stages] == ["read", "add", "say"]
    examples = {e.id: e for e in task.load(TaskConfig(data=data))}
    assert set(examples) == {"a", "1"}
    a = examples["a"]
    read, add, say = task.stages
    assert read.prompt(a, {}).user == "Numbers in: one and two"
    assert add.prompt(a, {"read": [1, 2]}).user == "- 1\n- 2\nSum?"
    assert read.fuse([read.parse("1, 2", a), read.parse("2\n3", a)], a) == ["1", "2", "3"]
    assert add.fuse([5, 1, 3], a) == 3
    assert add.metrics(3, a) == {"number": 1.0}
    assert add.metrics(7, examples["1"]) == {"number": 1.0}, "a right answer may be text"
    outputs = {"read": [1, 2], "add": 3}
    assert say.fusion(["x"], a, outputs) is None
    assert say.fusion(["", ""], a, outputs) is None
    fusion = say.fusion(["three", "", "it is three"], a, outputs)
    assert fusion.prompt.user == "Merge: three; it is three"
    assert fusion.temperature == 0.1
    assert say.metrics("it is seven", examples["1"]) == {"rouge_l": 1.0}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fuse: union", "fuse: unoin", ["task.yaml:7", "stages.read.fuse"]),
        ("parse: list", "pars: list", ["task.yaml:6", "stages.read.pars", "did you mean 'parse'"]),
        ("main_metric: add.number", "main_metric: add.numbre", ["task.yaml:2", "main_metric", "did you mean 'add.number'"]),
        ("metrics: {set_f1: numbers}", "metrics: {setf1: numbers}", ["task.yaml:8", "stages.read.metrics", "did you mean 'set_f1'"]),
        ("{{ text }}", "{{ text }", ["task.yaml:5", "stages.read.prompt", "not a Jinja2 template"]),
        ("Numbers in: {{ text }}", "{{ add }}", ["task.yaml:5", "stages.read.prompt", "not an earlier stage"]),
        ("parse: list", "parse: json", ["task.yaml:4", "stages.read", "'parse: list' or 'parse: lines'"]),
        ("fuse: union", "fuse: median", ["task.yaml:4", "stages.read", "parse: number"]),
        ("parse: number", "parse: choice", ["stages.add", "choices"]),
        ("temperature: 0.1", "temperature: 9", ["stages.say.fuse.model.temperature"]),
        ("parse: number", "stop: ['.', '']", ["task.yaml:16", "stages.add.stop[1]", "at least 1 character"]),
        ("parse: number", "parse: choice\n    choices: [a, ' ']", ["stages.add.choices", "a choice is blank"]),
        ("parse: number", "parse: choice\n    choices: ' '", ["stages.add.choices", "a choice is blank"]),
        ("name: sums", "name: [", ["task.yaml:", "not valid YAML"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_line_and_key(make, old, new, words):
    assert old in GOOD
    task_file, _ = make(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        create(task_file)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, ["data.jsonl:2", "field 'text' is missing", "stages.read.prompt"]),
        ({"numbers": None}, ["data.jsonl:2", "field 'numbers'", "stages.read.metrics.set_f1"]),
        ({"numbers": "2"}, ["data.jsonl:2", "numbers", "a list of one or more"]),
        ({"total": "seven"}, ["data.jsonl:2", "total", "must be a number"]),
        ({"words": ""}, ["data.jsonl:2", "words", "rouge_l"]),
        (
            {"add": 1},
            [
                "task.yaml: the stage 'add' and a field of the data have one name",
                "e.g. to 'add_stage'",
            ],
        ),
        ({"add": 1, "add_stage": 2}, ["rename the stage", "e.g. to 'add_stage_stage'"]),
        (
            {"candidates": 1},
            ["task.yaml: a field of the data is called 'candidates'", "rename the field"],
        ),
        ({"id": "a"}, ["data.jsonl:2", "id 'a'", "data.jsonl:1"]),
    ],
)
def test_a_wrong_record_is_named_with_its_line_and_who_needs_it(make, change, words):
    record = {k: v for k, v in {**RECORDS[1], **change}.items() if v is not None}
    task_file, data = make(records=[RECORDS[0], record])
    with pytest.raises(UserError) as caught:
        create(task_file).load(TaskConfig(data=data))
    for word in words:
        assert word in str(caught.value)


def test_data_and_options_are_asked_for(make):
    task_file, data = make()
    with pytest.raises(UserError, match=r"^data: .* name a file"):
        create(task_file).load(TaskConfig(data=""))
    with pytest.raises(UserError, match="did you mean 'search_examples'"):
        create(task_file).load(TaskConfig(data=data, options={"search_example": 1}))
    with pytest.raises(UserError, match=r"did you mean '.*task\.yaml'"):
        create(task_file.replace("task.yaml", "tas.yaml"))


def test_templates_are_parsed_once_and_not_for_every_record(make, monkeypatch):
    own = GOOD.replace("{{ ", "{{  ")  # templates that no other test has had parsed
    task_file, data = make(own, [{**RECORDS[0], "id": str(i)} for i in range(50)])
    parsed = []
    parse = jinja2.Environment.parse

    def counted(self, source, *args):
        parsed.append(source)
        return parse(self, source, *args)

    asked = []
    for name in ("fields", "structures"):
        of_stage = getattr(DeclarativeStage, name)
        monkeypatch.setattr(DeclarativeStage, name, lambda self, *args, of_stage=of_stage: asked.append(self) or of_stage(self, *args))  # fmt: skip
    monkeypatch.setattr(jinja2.Environment, "parse", counted)
    assert len(create(task_file).load(TaskConfig(data=data))) == 50
    assert len(asked) == 2 * len(set(asked))
    assert len(set(parsed)) == 4
    assert len(parsed) == 4


@pytest.mark.parametrize(
    "template",
    ["{{ text.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ text.nothing.more }}", "{{ text | nosuch }}"],
)  # fmt: skip
def test_templates_see_data_alone_and_fail_as_user_errors(make, template):
    text = GOOD.replace('prompt: "Numbers in: {{ text }}"', f'prompt: "{template}"')
    task_file, data = make(text)

    def create_and_load():
        create(task_file).load(TaskConfig(data=data))

    with pytest.raises(UserError, match=r"stages\.read\.prompt"):
        create_and_load()


EARLIER = """\
name: t
main_metric: b.exact_match
stages:
  a: {{prompt: "{{{{ text }}}}", parse: {parse}}}
  b:
    prompt: "{prompt}"
    fuse: {{model: {{prompt: "{fusing}"}}}}
    metrics: {{exact_match: words}}
"""


@pytest.mark.parametrize(
    ("parse", "template", "words"),
    [
        ("json", "City: {{ a.city }}", ["'None' has no attribute 'city'", "a is None", "(a or {}).KEY"]),
        ("json", "{% for x in a %}{{ x }}{% endfor %}", ["a is None", "for item in a or []"]),
        ("list", "{{ a[0] }}", ["a is []", "{{ a[0] | default('') }}"]),
        ("lines", "{{ a[0] }}", ["a is []", "{{ a[0] | default('') }}"]),
        ("number", "{{ '%.2f' % a }}", ["a is None", "{% if a is not none %}"]),
        ("first_line", "{{ 'abc'[a] + 1 }}", ["a is ''", "{{ a or 'unknown' }}"]),
        ("text", "{% include 'x' %}", ["no loader"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["prompt", "fuse.model.prompt"])
def test_a_template_that_cannot_take_empty_outputs_is_refused(make, parse, template, words, where):
    texts = {"prompt": "{{ text }}", "fusing": "{{ text }}"}
    texts["fusing" if where.startswith("fuse") else "prompt"] = template
    task_file, data = make(EARLIER.format(parse=parse, **texts))
    with pytest.raises(UserError) as caught:
        create(task_file).load(TaskConfig(data=data))
    for word in ["data.jsonl:1", f"task.yaml: stages.b.{where}", *words]:
        assert word in str(caught.value)


def test_the_forms_that_are_advised_take_empty_outputs_and_others(make):
    outputs = {"list": ["x"], "json": {"KEY": 1}, "number": 2, "text": "x"}
    for parse, output in outputs.items():
        form = parts.EMPTY_FORMS[parse].format("a").replace(" or {% for item in a or [] %}", "")
        task_file, data = make(EARLIER.format(parse=parse, prompt=form, fusing=form))
        task = create(task_file)
        [example] = task.load(TaskConfig(data=data, examples=1))
        said = {task.stages[1].prompt(example, {"a": value}).user for value in (output, None)}
        assert len(said) == 2


def test_samples_that_a_fusing_template_cannot_take_are_fused_by_vote(make):
    text = GOOD.replace("candidates | join('; ')", "candidates[0].city + '!'")
    task_file, data = make(text)
    task = create(task_file)
    with pytest.raises(UserError, match=r"stages\.say\.fuse\.model\.prompt.*'city'"):
        task.load(TaskConfig(data=data))
    task_file, data = make(text.replace("    fuse: {model", "    parse: json\n    fuse: {model"))
    task = create(task_file)
    [example] = task.load(TaskConfig(data=data, examples=1))
    say = task.stages[2]
    fusion = say.fusion([{"city": "Rome"}, {"city": "Oslo"}], example, {"read": [], "add": None})
    assert fusion.prompt.user == "Merge: Rome!"
    assert say.fusion([{"town": 1}, {"town": 2}], example, {"read": [], "add": None}) is None


def test_a_null_is_no_word_in_a_prompt(make):
    records = [{**RECORDS[0], "text": None}]
    task_file, data = make(records=records)
    task = create(task_file)
    [example] = task.load(TaskConfig(data=data))
    assert task.stages[0].prompt(example, {}).user == "Numbers in: "
    assert task.stages[2].prompt(example, {"read": [], "add": None}).user == "Say  of "
    assert task.stages[2].prompt(example, {"read": [], "add": 0}).user == "Say 0 of "


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{% for part in x %}{{ part }};{% endfor %}", "a;b;"),
        ("{{ x[0] }}", "a"),
        ("{% for part in y['text'] %}{{ part }};{% endfor %}", "c;"),
        ("{{ x }}", '["a", "b"]'),
        ("{{ x[:3] }}", '["a'),
        ("{{ x | upper }}", '["A", "B"]'),
        ("{% for part in z %}{{ part }};{% endfor %}", "[;d;"),
    ],
)
def test_json_texts_are_read_where_a_template_uses_their_items(make, template, prompt):
    """Anywhere else they stay as they are written."""
    task = f"name: x\nmain_metric: a.exact_match\nstages: {{a: {{prompt: {json.dumps(template)}, metrics: {{exact_match: x}}}}}}"  # fmt: skip
    task_file, data = make(task, [{"x": '["a", "b"]', "y": '{"text": ["c"]}', "z": "[d"}])
    [example] = (task := create(task_file)).load(TaskConfig(data=data))
    assert task.stages[0].prompt(example, {}).user == prompt


def test_json_in_a_prompt_is_as_people_write_it(make):
    value = {"b": "l'été <b> & 中文", "a": [None, True]}
    task_file, data = make(GOOD.replace("Numbers in: {{ text }}", "{{ text | tojson }} {{ text | tojson(1) }}"), [{**RECORDS[0], "text": value}])  # fmt: skip
    task = create(task_file)
    [example] = task.load(TaskConfig(data=data))
    flat = """{"b": "l'été <b> & 中文", "a": [null, true]}"""
    nested = """{\n "b": "l'été <b> & 中文",\n "a": [\n  null,\n  true\n ]\n}"""
    assert task.stages[0].prompt(example, {}).user == f"{flat} {nested}"


def test_what_templates_know_is_no_field(make):
    task_file, data = make(GOOD.replace("Numbers in: {{ text }}", "{% for i in range(2) %}{{ loop.index }}{% endfor %} {{ text }}"))  # fmt: skip
    task = create(task_file)
    [example] = task.load(TaskConfig(data=data, examples=1))
    assert task.stages[0].prompt(example, {}).user == f"12 {example.data['text']}"
    task_file, data = make(GOOD.replace("Say {{ add }}", "Say {{ candidates }}"))
    with pytest.raises(UserError, match=r"field 'candidates' is missing.*stages\.say\.prompt"):
        create(task_file).load(TaskConfig(data=data))


@pytest.mark.parametrize(
    ("how", "text", "value"),
    [
        ("text", "  a\nb ", "a\nb"),
        ("first_line", "\n\n a \nb", "a"),
        ("number", "12 apples and 1,250.5 pears", 1250.5),
        ("number", "so it is -3.", -3),
        ("number", ".5", 0.5),
        ("number", "-.25 of it", -0.25),
        ("number", "between 3-5", 5),
        ("number", "in 2019-2020", 2020),
        ("number", "(3)-5 or 5%-7", 7),
        ("number", "x=-4", -4),
        ("number", "1e5", 100_000),
        ("number", "2.5E-3 m", 0.0025),
        ("number", "1e50", 1e50),
        ("number", "version 1.2.3", 3),
        ("number", "the end.5", 5),
        ("number", "$1,234.50", 1234.5),
        ("number", "none", None),
        ("number", "the answer is \u22125", -5),
        ("number", "5\u22123", 3),
        ("number", "1e\uff0d5 m", 1e-5),
        ("number", "1234567890123456789012", None),
        ("number", "7 of -1234567890123456789", 7),
        ("number", "3.14159265358979323846264", 3.141592653589793),
        ("number", "10,20,300", 300),
        ("number", "1,234,567", 1_234_567),
        ("number", r"\boxed{10{,}000}", 10_000),
        ("number", r"-1{,}234{,}567.5", -1_234_567.5),
        ("number", r"= 10,\!000", 10_000),
        ("number", r"10\,000 m", 10_000),
        ("number", "12\u202f345\u202f678", 12_345_678),
        ("number", r"1,\,200", 200),
        ("number", r"1.5 \times 10^6", 1_500_000),
        ("number", r"-2.5 \cdot 10^{-3}\text{ m}", -0.0025),
        ("number", "3\u00d710\u2076", 3_000_000),
        ("number", "4\u00b710\u207b\u00b2", 0.04),
        ("number", "2*10**6m", 2_000_000),
        ("number", "10^6", 1_000_000),
        ("number", "2^{10}", 10),
        ("number", "110^2", 2),
        ("number", "so 7/2", 3.5),
        ("number", "-1/2.", -0.5),
        ("number", "x = 7 / 2", 3.5),
        ("number", "2 1/2 cups", 2.5),
        ("number", "-2 1/2", -2.5),
        ("number", "3 7/2", 3.5),
        ("number", r"\boxed{-\frac{7}{2}}", -3.5),
        ("number", r"\dfrac{-1}{4}", -0.25),
        ("number", r"2\frac12", 2.5),
        ("number", "-2\u00bd", -2.5),
        ("number", r"\frac{1}{2}\frac{3}{4}", 0.75),
        ("number", r"\frac{1}{2}3", 3),
        ("number", "6/3", 2),
        ("number", "3\u20444", 0.75),
        ("number", "12/25/2023", 2023),
        ("number", "2023/12/05", 5),
        ("number", "1/0", 0),
        ("number", "1/2.5", 2.5),
        ("number", "-$3.50 of -\u20ac5", -5),
        ("number", r"it is -\$1,250", -1250),
        ("number", "$5-$10", 10),
        ("number", "\u20135", -5),
        ("number", "999999999999999999", 999_999_999_999_999_999),
        ("number", "1" + ",000" * 120, None),
        ("choice", "I think No, not yes", "no"),
        ("choice", "unknown", ""),
        ("choice", "yes, but slowly", "yes, but"),
        ("list", "- a\n- b\n\n3. c", ["a", "b", "c"]),
        ("list", "a, b", ["a", "b"]),
        ("lines", "In 1990, he moved to Paris, France.", ["In 1990, he moved to Paris, France."]),
        ("lines", "- It rains, then.\n\n2. It is blue.", ["It rains, then.", "It is blue."]),
        ("lines", '```json\n["It rains, then."]\n```', ["It rains, then."]),
        ("lines", "", []),
        ("list", 'It is ["a", 2].', ["a", 2]),
        ("list", "", []),
        ("list", "[1] It is blue.\n[2] It rains.", ["[1] It is blue.", "[2] It rains."]),
        ("list", "It is blue.[1]\nIt rains.[2, 3]", ["It is blue.[1]", "It rains.[2, 3]"]),
        ("list", "f on [0, 1].\n- g", ["f on [0, 1].", "g"]),
        ("list", "Facts: [1] It rains.", ["Facts: [1] It rains."]),
        ("list", 'see [1]:\n[\'a\']\n["a", "b"]', ["a", "b"]),
        ("list", "I choose [1, 3].", [1, 3]),
        ("list", "So:\n```json\n[1]\n```", [1]),
        ("list", "**Needed:** [1, 3]\nThat is all.", [1, 3]),
        ("list", "The numbers are [2]\n(two)", [2]),
        ("list", "1. [4]", [4]),
        ("json", 'By [1] it is {"a": 2}', {"a": 2}),
        ("json", "By [1] it is so, see [2]", [1]),
        ("json", 'Here: {"a": [1]} done', {"a": [1]}),
        ("json", "{broken [1, 2]", [1, 2]),
        ("json", "none", None),
    ],
)
def test_parsers(how, text, value):
    found = parts.parse(how, text, ["yes", "no", "yes, but"])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("before", "found"),
    [
        (r"\frac{1}{2} in [0, 1) " * 500, {"a": 1}),
        ('As in {"x", "y"} or ["z]: ' * 500, {"a": 1}),
        ("[[1, 2]" * 40, {"a": 1}),
        ("[" * 5000, None),
        ('{"b": [1, ' * 5000, None),
    ],
)
def test_json_after_much_text_is_found_and_not_among_brackets_without_end(before, found):
    assert parts.parse("json", f'{before}\n{{"a": 1}}') == found


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("I'd say B", "ABCD", "B"),
        ("I\u2019d say B, it\u2019s clear", "ABSD", "B"),
        ("This is a question about history. The answer is B.", "ABCD", "B"),
        ("D's wrong, C is right", "ABCD", "C"),
        ("It is 'B'.", "ABCD", "B"),
        ("\u2018c\u2019", "ABCD", "C"),
        ("the answer is (c)", "ABCD", "C"),
        ("so b, or B", "abc", "b"),
        ("Yes, A", ["A", "yes"], "yes"),
        ("it's New\nYork", ["new york ", " Oslo"], "new york"),
        ("Oslo", ["new  york", " Oslo"], "Oslo"),
        ("don't know", ["t", "don"], ""),
    ],
)
def test_a_choice_is_no_part_of_a_word_and_a_letter_has_its_case(text, choices, named):
    assert parts.parse("choice", text, list(choices)) == named


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("not entailment", ["entailment", "not_entailment"], "not_entailment"),
        ("Not-equivalent.", ["equivalent", "not equivalent"], "not equivalent"),
        ("It is non\u2011entailment", ["entailment", "non-entailment"], "non-entailment"),
        ("non \u2013 entailment", ["entailment", "non-entailment"], "non-entailment"),
        ("I don\u2019t know", ["know", "don't know"], "don't know"),
        ("I don't know", ["know", "don\u2019t know"], "don\u2019t know"),
        ("cafe\u0301", ["caf\u00e9"], "caf\u00e9"),
        ("he went home", ["He stayed.", "He went home."], "He went home."),
        ("He went home?", ["He went home.", "He went home?"], "He went home?"),
        ("yes", ["yes!", "yes"], "yes"),
        ("yes!", ["yes", "yes!"], "yes!"),
        ("a question, B", ["A.", "B."], "B."),
        ("A-", ["A", "A-", "A+"], "A-"),
        ("A- mark", ["A mark", "A- mark"], "A- mark"),
        ("A mark", ["A- mark", "A mark"], "A mark"),
        ("x \u2014 y", ["y", "\u2014x", "\u200b"], "y"),
        ("x\u2014y", ["x - y", "x"], "x - y"),
        ("it is \u22121", ["1", "0", "-1"], "-1"),
        ("?", ["?", "!"], "?"),
        ("这条评论是正面的。", ["正面", "负面"], "正面"),
        ("レビューは否定的です", ["肯定", "否定"], "否定"),
        ("รีวิวนี้เป็นบวกครับ", ["เป็นลบ", "เป็นบวก"], "เป็นบวก"),
        ("它不是正面", ["正面", "不是正面"], "不是正面"),
        ("我认为答案是否", ["是", "否"], ""),
        ("答案：否", ["是", "否"], "否"),
        ("答案是B。", "ABCD", "B"),
        ("选B对", "ABCD", "B"),
        ("答案是ABBA", "ABCD", ""),
        ("Überall", ["all"], ""),
    ],
)
def test_a_choice_is_found_as_people_write_it(text, choices, named):
    assert parts.parse("choice", text, list(choices)) == named


@pytest.mark.parametrize(
    ("how", "candidates", "fused"),
    [
        ("vote", ["b", "a", "", "a", ""], "a"),
        ("vote", ["b", "a"], "b"),
        ("vote", [{"x": 1}, {"x": 2}, {"x": 2}], {"x": 2}),
        ("first", ["", "b", "a"], "b"),
        ("longest", ["a", "ccc", "bb"], "ccc"),
        ("median", [9, 1, None, 5], 5),
        ("median", [1, 2, 3, 4], 2),
        ("union", [["a"], [], ["b", "a"]], ["a", "b"]),
        ("vote", ["", ""], "EMPTY"),
    ],
)
def test_fusions(how, candidates, fused):
    assert parts.fuse(how, candidates, "EMPTY", "json") == fused
    for candidate in candidates:
        assert parts.fuse(how, [candidate], "EMPTY", "json") == candidate


@pytest.mark.parametrize(
    ("candidates", "fused"),
    [
        (["Lyon", "Lyon", "Paris.", "Paris", "paris"], "Paris."),
        (["b", "b", "**New  York**", '"new york."', "\u201cNew York\u201d.", "*New York!*"], "**New  York**"),
        (["x", "Yes!", "yes?"], "Yes!"),
        (["x", "caf\u00e9", "cafe\u0301\u3002"], "caf\u00e9"),
        (["C++", "C", "C#", "C", "C++", "C++"], "C++"),
        (["A*", "A", "A"], "A"),
        (["120", "5!", "5", "120."], "120"),
        (["-5", "5", "5"], "5"),
        (["*", "**", ".", ".", "**"], "**"),
        (["the the", "the", "the"], "the"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("parser", ["text", "first_line"])
def test_texts_that_mean_the_same_vote_as_one(parser, candidates, fused):
    assert parts.fuse("vote", candidates, "", parser) == fused


def test_letters_of_one_and_two_characters_vote_as_one():
    """An accent may be a character of its own, as in names of files on macOS."""
    two, one = unicodedata.normalize("NFD", "Orléans"), unicodedata.normalize("NFC", "Orléans")
    for parser, wrap in (("list", lambda x: [x]), ("json", lambda x: {"city": x})):
        given = [wrap("Rome"), wrap(two), wrap("Rome"), wrap(one), wrap(one)]
        assert parts.fuse("vote", given, [], parser) == wrap(two)
    assert parts.fuse("vote", ["Rome", two, "Rome", one, one], "", "text") == two
    assert parts.fuse("union", [[two], ["Rome", one]], [], "list") == [two, "Rome"]
    assert parts.score("set_f1", [{"city": two}], [{"city": one}]) == 1


def test_choices_vote_with_all_their_marks(make):
    text = RATINGS.replace("choices: [AA+,", "choices: [no., No, AA+,")
    task_file, data = make(text, [{"text": "x", "rating": "C"}])
    [example] = (task := create(task_file)).load(TaskConfig(data=data))
    assert task.stages[0].fuse(["no.", "No", "No"], example) == "No"
    assert task.stages[0].fuse(["", "No", "no."], example) == "No"


@pytest.mark.parametrize(
    ("metric", "output", "gold", "score"),
    [
        ("exact_match", "The Danube!", "danube", 1),
        ("exact_match", 7, "7", 1),
        ("exact_match", "Rhine", ["Danube", "rhine"], 1),
        ("exact_match", "", "x", 0),
        ("exact_match", "-5", "5", 0),
        ("exact_match", "**-5.**", "5", 0),
        ("exact_match", "**-5.**", ["5", "\u22125"], 1),
        ("exact_match", "-1/2", "1/2", 0),
        ("exact_match", "17", "1/7", 0),
        ("exact_match", "2/4", "1/2", 0),  # perhaps dates
        ("exact_match", "-$5", "$5", 0),
        ("exact_match", "15 million", "1.5 million", 0),
        ("exact_match", "The 3.5 kg!", "3.5 kg", 1),
        ("exact_match", "35 kg", "3.5 kg", 0),
        ("exact_match", "5 degrees", ["6 degrees", "-5 degrees"], 0),
        ("exact_match", r"-\frac{1}{2}", r"\frac{1}{2}", 0),
        ("exact_match", "2:30", "23:0", 0),
        ("exact_match", "1,000 km", "1000 km", 1),
        ("exact_match", "10/12/2020", "10.12.2020", 1),
        ("exact_match", "$3.50", "3.5", 1),
        ("exact_match", "12.0", 12, 1),
        ("exact_match", "- 5", "5", 1),
        ("exact_match", "the 5.", "5", 1),
        ("exact_match", ".5", "0.5", 1),
        ("exact_match", "007", "7", 0),
        ("exact_match", "007.", "007", 1),
        ("exact_match", "12345678901234567", "12345678901234568", 0),
        ("exact_match", " ", "?", 0),
        ("contains", "It is 15 m", "1.5", 0),
        ("contains", "It is 1.5 m", "1.5", 1),
        ("contains", "the price is -5", "5", 0),
        ("contains", "from -5 to 5", "5", 1),
        ("contains", "between 3-5", "35", 0),
        ("contains", "between 3-5", "3-5", 1),
        ("contains", "of 1,000 km", ["2 km", "1000 km"], 1),
        ("contains", "in May 2020, on 5.12.2020.", "5.12.2020", 1),
        ("exact_match", 3.14, "314", 0),
        ("exact_match", "-$3.50", "-3.50", 1),
        ("exact_match", "1,000", 1000, 1),
        ("exact_match", "(1990)", "1990", 1),
        ("exact_match", "50%", "50", 1),
        ("exact_match", "u-2", "U2", 1),
        ("exact_match", "Rhine", {"text": ["Danube", "the Rhine"], "answer_start": [1, 9]}, 1),
        ("exact_match", "Rhine", [{"text": "Danube", "answer_start": 1}, {"text": "Rhine", "answer_start": 9}], 1),
        ("exact_match", {"a": 1}, {"a": 1}, 1),
        ("contains", "it is the Danube, I think", "danube", 1),
        ("contains", "bluedanube", "danube", 0),
        ("token_f1", "red small boat", "red boat", 0.8),  # P 2/3, R 1
        ("rouge_l", "red small boat", "small red boat", 2 / 3),  # common: red boat
        ("set_f1", ["B", "c"], ["a", "b"], 0.5),
        ("set_f1", [], ["a"], 0),
        ("set_f1", ["?"], ["A"], 0),
        ("set_f1", ["(A)", "the"], ["A", "B"], 0.5),
        ("set_f1", ["-5", "3.5"], [-5, 3.5], 1),
        ("set_f1", [-5, 3.5], ["-5", "3.5"], 1),
        ("set_f1", ["5", "35"], ["-5", "3.5"], 0),
        ("set_f1", ["1", "2"], [1.0, 2.0], 1),
        ("set_f1", ["1.0", "$2,000"], [1, 2000], 1),
        ("set_f1", ["3.5 kg", "35 kg"], ["3.5 kg"], 2 / 3),
        ("set_f1", [True, None], ["true", None], 1),
        ("set_f1", [{"b": 1, "a": 2}], [{"a": 2, "b": 1}], 1),
        ("contains", "It is (A)", ["A"], 1),
        ("contains", "答案是北京", "北京", 1),
        ("number", 0.1 + 0.2, 0.3, 1),
        ("number", "about 1,000", 1000, 1),
        ("number", None, 0, 0),
        ("number", 2, 3, 0),
        ("number", "7/2", "1/2", 0),
        ("number", r"\frac{3}{2}", "1/2", 0),
        ("number", 0.5, r"\frac{1}{2}", 1),
        ("number", "-$5.00", -5, 1),
        ("number", 0, 6.6e-34, 0),
        ("number", "9.1e-31", "1.67e-27", 0),
        ("number", r"1.6021766 \times 10^{-19}", 1.602176634e-19, 1),
        ("number", -5e-9, 5e-9, 0),
        ("number", 1e-9, 0, 1),
        ("number", 1e-3, 0, 0),
        ("contains", "of the Rhine", {"text": ["Danube", "Rhine"], "answer_start": [1, 9]}, 1),
        ("token_f1", "small boat", {"text": ["red boat", "small boat"], "answer_start": [0, 0]}, 1),
    ],
)  # fmt: skip
def test_metrics(metric, output, gold, score):
    assert parts.METRICS[metric](output, gold) == pytest.approx(score)


RATINGS = """\
name: ratings
main_metric: rate.exact_match
stages:
  rate:
    prompt: "{{ text }}"
    parse: choice
    choices: [AA+, AA, AA-, C++, C, The US, not sure]
    metrics: {exact_match: rating, contains: rating}
"""


@pytest.mark.parametrize(
    ("output", "gold", "equal"),
    [
        ("AA", "AA", 1),
        ("AA", "AA+", 0),
        ("AA-", "AA+", 0),
        ("C++", ["C", "AA"], 0),
        ("C++", ["AA", " c++ "], 1),
        ("The US", "the  us", 1),
        ("AA", "AA.", 1),  # none of the choices: compared as texts are
        ("The US", "U.S.", 1),
        ("", "AA", 0),
        ("not sure", "not_sure", 1),
        ("not sure", "Not\u2011Sure", 1),
    ],
)
def test_a_choice_is_right_only_if_it_is_the_choice_of_the_right_answer(make, output, gold, equal):
    task_file, data = make(RATINGS, [{"text": "x", "rating": gold}])
    [example] = (task := create(task_file)).load(TaskConfig(data=data))
    found = task.stages[0].metrics(output, example)
    assert found == {"exact_match": equal, "contains": equal}


SQUAD = {"text": ["Rhine"], "answer_start": [3]}


@pytest.mark.parametrize(
    ("metric", "gold", "parser", "problem"),
    [
        ("exact_match", SQUAD, "text", None),
        ("rouge_l", [SQUAD, "Rhine", 7, True], "first_line", None),
        ("exact_match", {"value": "Rhine", "aliases": []}, "text", None),
        ("exact_match", {"text": [], "answer_start": []}, "text", "{text, answer_start}"),
        ("token_f1", {"text": "Rhine", "start": 3}, "text", "alone"),
        ("token_f1", {"steps": ["Rhine"]}, "text", None),
        ("exact_match", {"answer": "Rhine"}, "choice", "'parse: json'"),
        ("exact_match", {"text": [["Rhine"]], "answer_start": [3]}, "text", "'parse: json'"),
        ("contains", ["Rhine", {"value": "Danube"}], "text", "alone"),
        ("exact_match", {"answer": "Rhine"}, "json", None),
        ("exact_match", [["Rhine", "Danube"]], "list", None),
        ("exact_match", json.dumps(SQUAD), "text", "no JSON text"),
        ("exact_match", '{"a": 1}', "text", None),
        ("set_f1", [SQUAD], "list", "'set_f1': of objects with several texts"),
        ("set_f1", [{"call": "f"}, "Rhine"], "list", None),
        ("number", {"text": ["7"], "answer_start": [3]}, "number", "a number"),
        ("number", "1/2", "number", None),
        ("number", "It is 2 1/2", "number", None),
        ("number", r"\boxed{\frac{1}{2}}", "number", None),
        ("number", "12 - 5 = <<12-5=7>>7\n#### 7", "number", None),
        ("number", r"\boxed{-1{,}250}", "number", None),
        ("number", r"1.6 \times 10^{-19}", "number", None),
        ("number", "3,0", "number", "the 0 at its end alone"),
        ("number", "1.234,56", "number", "the 56 at its end"),
        ("number", "2023-12-05", "number", "the 5 at its end"),
        ("number", "5/12/2023", "number", "the 2023 at its end"),
        ("number", "12:30", "number", "the 30 at its end"),
        ("number", "1.2.3", "number", "write it as"),
        ("number", "3-5", "number", "write it as"),
        ("number", "3 - 5", "number", "write it as"),
        ("number", "Day 3: 12 apples", "number", None),
        ("number", "3\u20135", "number", "write it as"),
        ("number", "1 250", "number", "write it as"),
        ("number", "2^{10}", "number", "write it as"),
        ("number", r"\frac{\sqrt{3}}{2}", "number", "write it as"),
        ("number", r"\sqrt{2}", "number", "write it as"),
        ("number", "$5-$10", "number", "write it as"),
        ("number", "5%-10%", "number", "write it as"),
        ("number", r"\boxed{\text{5}}", "number", None),
        ("number", r"\mathbf{72}", "number", None),
        ("number", r"\boxed {5}", "number", None),
    ],
)
def test_right_answers_that_a_metric_can_use(metric, gold, parser, problem):
    found = parts.gold_problem(metric, gold, parser)
    assert found is None if problem is None else problem in found


def test_objects_that_no_metric_reads_are_refused_with_their_record(make):
    task_file, data = make(records=[RECORDS[0], RECORDS[1] | {"words": {"answer": "seven"}}])
    with pytest.raises(UserError, match=r"data\.jsonl:2.*'words' must be a text, .*'rouge_l'"):
        create(task_file).load(TaskConfig(data=data))


@given(st.text() | st.text(alphabet='[]{}",: 0123456789.-\n'), st.sampled_from(["text", "first_line", "number", "choice", "list", "lines", "json"]))  # fmt: skip
def test_parsers_never_raise_and_give_json(text, how):
    value = parts.parse(how, text, ["a", "b("])
    json.dumps(value)
    for metric in parts.METRICS.values():
        assert 0 <= metric(value, ["a", 1]) <= 1


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("json", r'{"a\udc00": ["\ud83d", "\ud83d\ude00"]}', {"a?": ["?", "\U0001f600"]}),
        ("list", r'["\ud83d", 1]', ["?", 1]),
        ("text", "\ud83d", "?"),
        ("first_line", "a\udc00\nb", "a?"),
    ],
)
def test_no_value_holds_half_a_character(how, text, expected):
    value = parts.parse(how, text)
    assert value == expected
    json.dumps(value, ensure_ascii=False).encode()


def test_json_nested_deeper_than_can_be_walked_is_no_value():
    for depth in (200, 900, 3000, 6000):
        value = parts.parse("json", "[" * depth + "]" * depth)
        assert value is None or isinstance(value, list)


@pytest.mark.parametrize(
    ("output", "gold", "same"),
    [
        ("1,23,456", "123456", True),
        ("12,34,567.50", "1234567.5", True),
        ("1,23,456.", 123456, True),
        ("1,23,456", "123457", False),
        ("555-123-4567", "5551234567", True),
        ("555\u2011123\u20114567", "555-123-4567", True),
        ("030-12-34567", "0301234567", True),
        ("555-123-4567", "555-123-4568", False),
        ("0", "1e-27", False),
        ("7/2", "1/2", False),
        ("7/2", "72", False),
        ("3-5", "35", False),
        ("2019-2020", "20192020", False),
        ("1-2-3", "123", False),
    ],
)
def test_numbers_in_groups_of_digits_are_compared_without_their_marks(output, gold, same):
    assert parts.score("exact_match", output, gold) == same
