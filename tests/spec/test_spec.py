"""The job spec is strict: every mistake names file, line, key, what is valid, and the nearest
valid name.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agenttts.errors import UserError, WrongValues, located
from agenttts.spec import dump_spec, load_spec, parse_spec
from agenttts.spec.stage_names import REPLY_KEYS
from tests.support.scripted import small_spec
from tests.support.written_spec import GOOD, parse


def test_a_good_spec_loads_with_defaults_and_absolute_paths():
    spec = parse(GOOD)
    assert spec.search.method == "agenttts"
    assert spec.search.iterations == 5
    assert spec.search.batch_size == 10
    assert spec.cluster == "local"
    assert spec.models["small"].path == "/base/models/small"
    assert spec.models["large"].path == "org/large"  # a hub id stays one
    assert spec.models["small"].params == 7e9
    assert spec.stages["answer"].sample_counts == (1, 2, 8)
    assert spec.stages["retrieval"].sample_counts == tuple(range(1, 101))


def test_the_space_is_the_papers():
    space = parse(GOOD).space()
    assert space.stage("retrieval").budget("large", 1) == pytest.approx(814)


def test_the_frozen_spec_loads_to_the_same_spec():
    spec = parse(GOOD)
    assert parse_spec(dump_spec(spec), "spec.yaml", Path("/elsewhere")) == spec


@pytest.mark.parametrize(
    ("at", "place"),
    [
        (("search", "seed"), "job.yaml:9: search.seed: "),
        (("search", "budget"), "--set search.budget=7: search.budget: "),
        (("models", "large", "options", "dtype"), "job.yaml:8: models.large.options.dtype: "),
        (("container", "image"), "job.yaml: container.image: "),
    ],
)
def test_an_error_found_later_has_the_file_and_line_of_its_value(at, place):
    spec = parse(GOOD, "search.budget=7").model_copy(update={"cluster": "other"})
    with pytest.raises(UserError) as caught, spec.located(), located(*at[:1]):
        raise UserError("is wrong", at=at[1:])
    assert str(caught.value) == f"{place}is wrong"
    assert caught.value.at == at


def test_an_error_carries_file_line_key_and_value():
    with pytest.raises(UserError) as caught:
        parse(GOOD.replace("seed: 3", "seed: -3"))
    error = caught.value
    assert (error.file, error.line, error.at, error.value) == (
        "job.yaml",
        9,
        ("search", "seed"),
        -3,
    )
    with pytest.raises(WrongValues) as several:
        parse(GOOD.replace("seed: 3", "seed: -3, sed: 1"))
    assert [problem.at for problem in several.value.problems] == [
        ("search", "seed"),
        ("search", "sed"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("examples: 50", "exmples: 50", ["job.yaml:2", "task.exmples", "did you mean 'examples'"]),
        ("budget: 1000", "budgt: 1000", ["job.yaml:9", "search.budgt", "did you mean 'budget'"]),
        ("[small, large], prompt_tokens: 2048", "[small, lrge], prompt_tokens: 2048", ["job.yaml:4", "stages.retrieval.models[1]", "'lrge'", "did you mean 'large'"]),
        ("prompt_tokens: 256", "prompt_tokens: many", ["job.yaml:5", "stages.answer.prompt_tokens", "integer", "'many'"]),
        ("prompt_tokens: 256", "prompt_tokens: 0", ["stages.answer.prompt_tokens", "greater than or equal to 1", "not 0"]),
        ("samples: [1, 100]", "samples: [5, 2]", ["job.yaml:4", "stages.retrieval.samples", "low <= high"]),
        ("{values: [1, 2, 8]}", "{valus: [1]}", ["stages.answer.samples.valus", "did you mean 'values'"]),
        ("gpus: 1", "gpus: 1, engine: vlm", ["models.small.engine", "'vllm'", "'vlm'"]),
        ("name: two-stage", "name: a/b", ["job.yaml:1", "name", "'a/b'", "letters"]),
        ("name: two-stage\n", "", ["name", "required but missing"]),
        ("search: {budget: 1000, seed: 3}", "search: {budget: 1000}\nsearch: {budget: 2}", ["job.yaml:10", "search is given twice"]),
        ("search: {budget: 1000, seed: 3}", "search: [", ["job.yaml:", "not valid YAML"]),
        ("budget: 1000", "budget: .nan", ["search.budget", "finite"]),
    ],
)  # fmt: skip
def test_mistakes_name_place_value_and_what_is_valid(old, new, expected):
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        parse(GOOD.replace(old, new))
    for part in expected:
        assert part in str(caught.value)


def test_overrides_apply_and_are_checked_like_the_file():
    spec = parse(
        GOOD, "search.budget=500", "task.examples=7", "models.large.options.dtype=bfloat16"
    )
    assert (spec.search.budget, spec.task.examples) == (500, 7)
    assert spec.models["large"].options == {"dtype": "bfloat16"}
    with pytest.raises(UserError, match="search.methd: unknown key.*did you mean 'method'"):
        parse(GOOD, "search.methd=random")
    with pytest.raises(UserError, match="valid is KEY.PATH=VALUE"):
        parse(GOOD, "search.budget")


def test_an_override_of_a_section_drops_no_earlier_one():
    section = "search={budget: 500, iterations: 2}"
    assert parse(GOOD, section, "search.seed=5").search.seed == 5
    with pytest.raises(UserError, match=r"it replaces search\.seed, which another --set gives"):
        parse(GOOD, "search.seed=5", section)
    with pytest.raises(UserError, match=r"search\.seed is set twice"):
        parse(GOOD, section, "search.seed=5", "search.seed=6")


@pytest.mark.parametrize(
    ("value", "place", "what"),
    [
        ("{values: []}", "samples.values", "at least 1"),
        ("{values: [0]}", "samples.values[0]", "greater than or equal to 1"),
        ("{}", "samples.values", "required"),
        ("[many, 2]", "samples[0]", "valid integer"),
    ],
)
def test_only_the_form_that_was_written_is_spoken_of(value, place, what):
    with pytest.raises(UserError) as caught:
        parse(GOOD, f"stages.answer.samples={value}")
    message = str(caught.value)
    assert f"stages.answer.{place}: " in message
    assert what in message
    assert ";" not in message, "one problem, said once"


def test_a_budget_too_small_says_the_least_feasible():
    with pytest.raises(
        UserError,
        match=r"^--set search.budget=1: search.budget: .*too small for any allocation.*set it to \d+ or more",
    ):
        parse(GOOD, "search.budget=1").space()
    least = parse(GOOD).space().least_budget
    assert parse(GOOD, f"search.budget={least}").space().count() >= 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_num_batched_tokens", "8k", 8000),
        ("max_num_batched_tokens", "8K", 8192),
        ("max_model_len", "25.6k", 25_600),
        ("max_model_len", "auto", -1),
        ("max_num_seqs", "8k", "8k"),  # refused as by vLLM
        ("speculative_config", '{"method": "ngram", "num_speculative_tokens": 3}', {"method": "ngram", "num_speculative_tokens": 3}),
        ("generation_config", "vllm", "vllm"),
    ],
)  # fmt: skip
def test_options_in_the_forms_of_vllm_s_command_line_are_read(tmp_path, name, text, value):
    """A served model's vLLM reads them itself; an engine in a process failed in its job."""
    served = {"kind": "serve", "model": "weak", "options": {name: text}}
    vllm = {"path": "org/m", "params": 7e9, "options": {name: text}}
    spec = load_spec(small_spec(tmp_path, agent=served, models__strong=vllm))
    assert spec.models["strong"].options == {name: value}
    assert spec.agent.options == {name: value}


def test_an_option_that_is_almost_json_is_refused(tmp_path):
    vllm = {"path": "org/m", "params": 7e9, "options": {"hf_overrides": "{'a': 1}"}}
    with pytest.raises(UserError, match=r"models\.strong\.options: .*the text of hf_overrides is not JSON .* valid: a mapping, such as hf_overrides: {KEY: VALUE}"):  # fmt: skip
        load_spec(small_spec(tmp_path, models__strong=vllm))


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "demo.yaml").write_text(GOOD)
    with pytest.raises(UserError, match="no such job spec; did you mean .*demo.yaml"):
        load_spec(tmp_path / "dmo.yaml")
    with pytest.raises(UserError, match="directory"):
        load_spec(tmp_path)


def test_shipped_specs_and_profiles_load(monkeypatch):
    monkeypatch.setenv("AGENTTTS_CPU_IMAGE", "/images/cpu.sif")
    from agenttts.dispatch.profile import Profile, load_profile

    root = Path(__file__).parents[2]
    specs = sorted((root / "jobs").glob("*.yaml"))
    assert specs
    for path in specs:
        load_spec(path).space()
    for path in sorted((root / "slurm").glob("*.yaml")):
        assert isinstance(load_profile(str(path), []), Profile)
        assert yaml.safe_load(path.read_text())["kind"] in ("local", "slurm")


def test_paths_among_the_tasks_options_are_taken_from_the_specs_folder(tmp_path):
    (tmp_path / "validation").mkdir()
    (tmp_path / "tool_desc.json").write_text("{}")
    options = "{tools: ./tool_desc.json, more: tool_desc.json, hub_split: validation, n: 3}"
    text = GOOD.replace("examples: 50", f"examples: 50, options: {options}")
    assert text != GOOD
    spec = parse_spec(text, "job.yaml", tmp_path)
    assert spec.task.options == {
        "tools": str(tmp_path / "tool_desc.json"),
        "more": str(tmp_path / "tool_desc.json"),
        "hub_split": "validation",
        "n": 3,
    }


@pytest.mark.parametrize("extra", ["authorization: SK", "headers: {authorization: SK}"])
def test_a_key_among_the_agent_s_further_fields_is_refused_and_not_repeated(extra):
    agent = f"{{kind: endpoint, base_url: 'http://h/v1', model: m, extra: {{{extra}}}}}"
    with pytest.raises(UserError, match=r"agent\.extra: .*authorization' looks like") as caught:
        parse(GOOD + f"agent: {agent}\n")
    assert "SK" not in str(caught.value)


def renamed(name: str, agent: str = "none") -> str:
    return GOOD.replace("answer:", f"{name}:") + f"agent: {agent}\n"


def test_a_stage_is_not_called_like_the_mark_of_the_baseline():
    first = "first: [{baseline: small x2, retrieval: small x8}]"
    text = renamed("baseline").replace("seed: 3", f"seed: 3, {first}")
    for wrong in (text, renamed("baseline")):
        with pytest.raises(UserError, match=r"job.yaml:\d+: stages.baseline: .*search.first marks"):
            parse(wrong)


SCRIPTED = "{kind: scripted, replies: r.json}"


@pytest.mark.parametrize("name", [*REPLY_KEYS, "Analysis", "predicted-score"])
def test_a_stage_is_not_called_like_a_part_of_a_language_models_reply(name):
    assert name in parse(renamed(name)).stages, "no language model is asked"
    with pytest.raises(UserError, match=rf"job.yaml:\d+: stages.{name}: .*or set 'agent: none'"):
        parse(renamed(name, SCRIPTED))
    assert "reasoning" in parse(renamed("reasoning", SCRIPTED)).stages


@pytest.mark.parametrize("name", ["Retrieval", "retrieval_", "re-trieval", "re.trieval"])
def test_two_stages_that_replies_do_not_tell_apart_are_refused(name):
    assert name in parse(renamed(name)).stages, "no language model is asked"
    problem = rf"job.yaml:\d+: stages.{name}: .*'retrieval' and '{name}' .*or set 'agent: none'"
    with pytest.raises(UserError, match=problem):
        parse(renamed(name, SCRIPTED))


LONG = [[0, *range(999)], "x" * 3000, 10**400]


@pytest.mark.parametrize("value", LONG, ids=["list", "text", "number"])
@pytest.mark.parametrize(
    "key",
    [
        ("stages", "retrieval", "samples"),
        ("stages", "retrieval", "models", 0),
        ("search", "first", 0, "baseline"),
        ("search", "first", 0, "answer"),
        ("agent", "kind"),
        ("name",),
    ],
    ids=str,
)
def test_a_long_value_is_cut_in_its_error(tmp_path, key, value):
    spec = yaml.safe_load(small_spec(tmp_path).read_text())
    spec["search"]["first"] = [{"retrieval": "weak x1", "answer": "weak x1", "baseline": True}]
    spec["agent"] = {"kind": "scripted", "replies": "r.json"}
    place = spec
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = value
    with pytest.raises(UserError) as caught:
        parse_spec(yaml.safe_dump(spec), "s.yaml", tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "key", ["models.weak.params", "search.budget", "stages.answer.prompt_tokens", "search.seed"]
)
def test_a_number_of_any_size_is_one_error(tmp_path, key):
    path = small_spec(tmp_path)
    with pytest.raises(UserError, match=r"the number 10{56}\.\.\. is too large"):
        load_spec(path, [f"{key}=1{'0' * 400}"])
