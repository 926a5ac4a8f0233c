"""A model's directory is refused at launch for what an engine would fail without, and for
nothing else.
"""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenttts.errors import Unavailable, located
from agenttts.inference.fingerprint import fingerprint
from agenttts.inference.model_files import (
    check_model_files,
    language_part,
    stated_context,
    weight_files,
    with_language_part,
)
from agenttts.launch.plan import make_plan
from agenttts.replies import detect_thinking
from agenttts.spec import load_spec

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
PLAIN = ["config.json", "tokenizer.json"]


def fill(place: Path, files: list[str], index: dict[str, list[str]] | None = None) -> Path:
    """A directory with files of some bytes, and indices that name files."""
    for name in files:
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'{"some": "values"}' if file.suffix == ".json" else b"some bytes")
    place.mkdir(parents=True, exist_ok=True)
    for name, named in (index or {}).items():
        (place / name).write_text(json.dumps({"weight_map": {f"w{n}": file for n, file in enumerate(named)}}))  # fmt: skip
    return place


def problem(place: Path, options: dict[str, object] | None = None, what: str = "model") -> str | None:  # fmt: skip
    caught: Unavailable | None = None
    try:
        with located("models", "m", "path"):
            check_model_files(place, options or {}, what)
    except Unavailable as error:
        caught = error
    if caught is None:
        return None
    assert caught.what.startswith("models.m.path: ")
    assert caught.fix
    return f"{caught.what}; {caught.fix}"


# Whole directories as vLLM and transformers load them: files, indices, options.
WHOLE = [
    ([*PLAIN, "model.safetensors"], {}, {}),
    ([*PLAIN, *SHARDS], {INDEX: SHARDS}, {}),
    ([*PLAIN, *SHARDS], {}, {}),
    ([*PLAIN, *SHARDS, "model-old.safetensors"], {INDEX: SHARDS}, {}),
    ([*PLAIN, "model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"], {}, {}),
    ([*PLAIN, *SHARDS, "model-00001-of-00003.safetensors"], {}, {}),
    ([*PLAIN, "pytorch_model.bin"], {}, {}),
    ([*PLAIN, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], {}, {}),
    ([*PLAIN, "pytorch_model-1.bin", "pytorch_model-2.bin"], {"pytorch_model.bin.index.json": ["pytorch_model-1.bin", "pytorch_model-2.bin"]}, {}),
    # Only .bin files of a repository whose index of .safetensors came with the small files.
    ([*PLAIN, "pytorch_model.bin"], {INDEX: SHARDS}, {}),
    ([*PLAIN, "model.pt"], {}, {"load_format": "pt"}),
    ([*PLAIN, "weights.pt"], {}, {}),
    (["params.json", "tekken.json", "consolidated.safetensors"], {}, {}),
    (["params.json", "tokenizer.model.v3", "consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"], {"consolidated.safetensors.index.json": ["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"]}, {"load_format": "mistral"}),
    # Mistral's own copy alone, downloaded beside the index of the other one; and both, the other
    # one in part.
    (["config.json", "params.json", "tekken.json", "consolidated.safetensors"], {INDEX: SHARDS}, {}),
    (["config.json", "params.json", "tekken.json", "consolidated.safetensors", SHARDS[0]], {INDEX: SHARDS}, {}),
    (["adapter_config.json", "adapter_model.safetensors"], {}, {}),
    ([*PLAIN, "adapter_config.json", "adapter_model.bin"], {}, {}),
    (["m-Q4_K_M.gguf"], {}, {}),
    (["config.json", "m-Q4_K_M.gguf"], {}, {}),
    (["config.json", "tokenizer_config.json", "vocab.json", "merges.txt", "model.safetensors"], {}, {}),
    (["config.json", "spiece.model", "model.safetensors"], {}, {}),
    (["config.json", "qwen.tiktoken", "model.safetensors"], {}, {}),
    (["config.json", "vocab.txt", "model.safetensors"], {}, {}),
    (["config.json", "tokenization_own.py", "modeling_own.py", "model.safetensors"], {}, {}),
    (["config.json", "model.safetensors"], {}, {"tokenizer": "org/other"}),
    (["config.json", "model.safetensors"], {}, {"skip_tokenizer_init": True}),
    (["tokenizer.json", "model.safetensors"], {}, {"hf_config_path": "org/other"}),
    (["own.yaml", "tokenizer.json", "model.safetensors"], {}, {"config_format": "own"}),
    (PLAIN, {}, {"load_format": "dummy"}),
    ([*PLAIN, "model.tensors"], {}, {"load_format": "tensorizer"}),
    ([*PLAIN, "model-rank-0-part-0.safetensors"], {}, {"load_format": "sharded_state"}),
    ([*PLAIN, "model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"], {}, {}),
    (PLAIN, {}, {"load_format": "runai_streamer", "model_weights": "s3://bucket"}),
    (PLAIN, {}, {"load_format": "of_a_plugin"}),
    ([*PLAIN, "tf_model.h5"], {}, {}),
    ([*PLAIN, "part/model.safetensors"], {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "index", "options"), WHOLE)
def test_a_model_that_an_engine_loads_is_taken(tmp_path, files, index, options):
    assert problem(fill(tmp_path / "m", files, index), options) is None


@pytest.mark.parametrize(("files", "index", "options"), WHOLE)
def test_so_is_a_snapshot_of_the_hub_s_cache(tmp_path, files, index, options):
    """The same as links to blobs."""
    folder = tmp_path / "models--org--m"
    place = fill(folder / "snapshots" / "0f", files, index)
    (folder / "blobs").mkdir()
    for number, file in enumerate(sorted(f for f in place.rglob("*") if f.is_file())):
        file.rename(folder / "blobs" / str(number))
        file.symlink_to(folder / "blobs" / str(number))
    assert problem(place, options) is None


LACKING = [
    ([], {}, {}, "has no weights"),
    (PLAIN, {}, {}, "has no weights"),
    (["README.md", *PLAIN, "training_args.bin", "optimizer.bin"], {}, {}, "has no weights"),
    (PLAIN, {INDEX: SHARDS}, {}, f"has none of the 2 files that {INDEX} names"),
    ([*PLAIN, "original/consolidated.00.pth"], {INDEX: SHARDS}, {}, "has none of the 2 files"),
    ([*PLAIN, SHARDS[0]], {INDEX: SHARDS}, {}, f"has 1 of its 2 weight files; missing: {SHARDS[1]}"),
    ([*PLAIN, SHARDS[1]], {}, {}, f"has 1 of its 2 weight files; missing: {SHARDS[0]}"),
    ([*PLAIN, SHARDS[0], "pytorch_model.bin"], {INDEX: SHARDS}, {}, f"missing: {SHARDS[1]}"),
    ([*PLAIN, SHARDS[0], "model-00001-of-00009.safetensors"], {}, {}, "has 2 of its 11 weight files; missing: "),
    ([*PLAIN, "pytorch_model-00002-of-00003.bin"], {}, {}, "pytorch_model-00001-of-00003.bin"),
    (["params.json", "tekken.json", "consolidated-1.safetensors"], {"consolidated.safetensors.index.json": ["consolidated-1.safetensors", "consolidated-2.safetensors"]}, {}, "missing: consolidated-2.safetensors"),
    (["tokenizer.json", "model.safetensors"], {}, {}, "has no config.json"),
    (["config.json", "model.safetensors"], {}, {}, "has no tokenizer"),
    ([*PLAIN, "model.pt"], {}, {"load_format": "npcache"}, None),
]  # fmt: skip


@pytest.mark.parametrize(("files", "index", "options", "part"), LACKING)
def test_what_an_engine_would_fail_without_is_named(tmp_path, files, index, options, part):
    found = problem(fill(tmp_path / "m", files, index), options)
    if part is None:
        assert found is None, "weights that this format does not read are not judged"
    else:
        assert part in (found or "")
        assert f"hf download ORG/NAME --local-dir {tmp_path}/m" in (found or "")


def test_a_snapshot_in_part_is_fetched_by_its_name(tmp_path):
    place = fill(tmp_path / "models--a--b-c" / "snapshots" / "0f", [*PLAIN, SHARDS[0]], {INDEX: SHARDS})  # fmt: skip
    assert "hf download a/b-c --revision 0f" in (problem(place) or "")
    (place / SHARDS[1]).symlink_to("../../blobs/abc")
    found = problem(place) or ""
    assert f"has {SHARDS[1]}, a link to ../../blobs/abc, which does not exist" in found
    assert "hf download a/b-c --revision 0f" in found


def test_a_link_to_nothing_that_no_engine_reads_does_no_harm(tmp_path):
    place = fill(tmp_path / "m", [*PLAIN, "model.safetensors"])
    (place / "pytorch_model.bin").symlink_to("../../blobs/deleted")
    (place / "README.md").symlink_to("../../blobs/deleted")
    assert problem(place) is None


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "which is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
    ],
)
def test_weights_that_hold_no_weights(tmp_path, content, part):
    place = fill(tmp_path / "m", [*PLAIN, *SHARDS], {INDEX: SHARDS})
    (place / SHARDS[1]).write_bytes(content)
    assert part in (problem(place) or "")


def test_a_folder_of_the_hub_s_cache_names_its_snapshot(tmp_path):
    root = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B-Instruct"
    snapshot = fill(root / "snapshots" / "abc", [*PLAIN, "model.safetensors"])
    found = problem(root) or ""
    assert "is a folder of the hub's cache, not a model" in found
    assert f"give {snapshot}, or the hub id Qwen/Qwen2.5-7B-Instruct" in found
    assert problem(snapshot) is None
    found = problem(tmp_path / "hub") or ""
    assert "is a cache of the hub" in found
    assert "Qwen/Qwen2.5-7B-Instruct" in found
    (tmp_path / "models--a--b" / "snapshots").mkdir(parents=True)
    found = problem(tmp_path / "models--a--b") or ""
    assert "has no snapshot" in found
    assert "hf download a/b" in found
    # A model that keeps snapshots of its training in it is one.
    mine = fill(tmp_path / "mine", [*PLAIN, "model.safetensors", "snapshots/step-1/x"])
    assert problem(mine) is None


def test_files(tmp_path):
    place = fill(tmp_path, ["m.gguf", "n-00001-of-00002.gguf", "o-00001-of-00001.gguf", "script.json"])  # fmt: skip
    assert problem(place / "m.gguf") is problem(place / "script.json") is problem(place / "o-00001-of-00001.gguf") is None  # fmt: skip
    assert "lacks n-00002-of-00002.gguf, parts of n-00001" in (problem(place / "n-00001-of-00002.gguf") or "")  # fmt: skip
    assert "absent does not exist" in (problem(place / "absent") or "")


def test_what_a_draft_and_a_tokenizer_need(tmp_path):
    draft = fill(tmp_path / "draft", ["config.json", "model.safetensors"])
    assert problem(draft, what="draft") is None
    assert "has no tokenizer" in (problem(draft, what="tokenizer") or "")
    assert problem(fill(tmp_path / "t", ["tokenizer.json"]), what="tokenizer") is None
    assert "has no weights" in (problem(fill(tmp_path / "u", ["config.json"]), what="draft") or "")


COUNTS = st.integers(1, 12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(total=COUNTS, dropped=st.sets(st.integers(1, 12)), indexed=st.booleans(), suffix=st.sampled_from(["safetensors", "bin"]), numbered=st.booleans())  # fmt: skip
def test_any_shard_that_is_gone_is_missed(tmp_path_factory, total, dropped, indexed, suffix, numbered):  # fmt: skip
    names = {n: f"part-{n:05}-of-{total:05}.{suffix}" if numbered else f"part{n}.{suffix}" for n in range(1, total + 1)}  # fmt: skip
    index = {f"x.{suffix}.index.json": list(names.values())} if indexed else {}
    here = [name for n, name in names.items() if n not in dropped]
    place = fill(tmp_path_factory.mktemp("m"), [*PLAIN, *here], index)
    gone = [name for n, name in names.items() if n in dropped]
    found = problem(place)
    if not here or (gone and (indexed or numbered)):
        assert found is not None
    else:
        assert found is None
    if found is not None and here:
        assert gone[0] in found
        assert [file.name for file in weight_files(place).absent] == gone


NAMES = st.sampled_from([*SHARDS, "model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "a-1-of-2.gguf", "config.json", "tokenizer.json", "adapter_config.json", "x.pt", "snapshots", "models--a--b"])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(NAMES, unique=True),
    st.none() | st.text() | st.dictionaries(st.sampled_from(["weight_map", "metadata"]), st.none() | st.text() | st.dictionaries(st.text(), st.text())),
    st.dictionaries(st.sampled_from(["load_format", "tokenizer", "config_format"]), st.none() | st.text(max_size=5) | st.integers()),
)  # fmt: skip
def test_any_directory_has_a_verdict(tmp_path_factory, names, index, options):
    place = fill(tmp_path_factory.mktemp("m"), names)
    if index is not None:
        (place / INDEX).write_text(json.dumps(index))
    problem(place, options)
    weight_files(place)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", codecs.BOM_UTF8 + b'{"a": 1}', b"[" * 100_000, '{"a": 1}'.encode("utf-16")],
)  # fmt: skip
def test_a_configuration_that_no_engine_reads(tmp_path, content):
    fill(tmp_path, [*PLAIN, "model.safetensors"])
    (tmp_path / "config.json").write_bytes(content)
    assert "has a config.json that holds no JSON object" in (problem(tmp_path) or "")
    assert problem(tmp_path, {"hf_config_path": "/elsewhere"}) is None


def test_a_directory_and_a_pipe_are_no_tokenizer_and_are_not_waited_for(tmp_path):
    fill(tmp_path, ["config.json", "model.safetensors"])
    (tmp_path / "tokenizer.json").mkdir()
    os.mkfifo(tmp_path / "tokenizer_config.json")
    os.mkfifo(tmp_path / "chat_template.jinja")
    assert "has no tokenizer" in (problem(tmp_path) or "")
    assert detect_thinking(tmp_path) is None
    assert fingerprint(tmp_path) == fingerprint(tmp_path)


# Of a whole launch.


def problems(spec: Path, tmp_path: Path) -> str:
    plan = make_plan(load_spec(spec), [], tmp_path / "results", dry_run=True)
    return "\n".join(f"{found.what}; {found.fix}" for found in plan.problems)


@pytest.fixture
def in_part(tmp_path):
    return fill(tmp_path / "in-part", [*PLAIN, SHARDS[0]], {INDEX: SHARDS})


@pytest.fixture
def whole(tmp_path):
    return fill(tmp_path / "whole", [*PLAIN, "model.safetensors"])


def test_every_place_that_a_spec_names_is_looked_at(scripted_spec, tmp_path, in_part, whole):
    def model(path: object, **options: object) -> dict[str, object]:
        return {"path": str(path), "params": 1e9, "gpus": 0, "engine": "vllm", "options": options}

    assert problems(scripted_spec(models__weak=model(whole)), tmp_path) == ""
    assert "models.weak.path: " in problems(scripted_spec(models__weak=model(in_part)), tmp_path)
    draft = {"model": str(in_part), "num_speculative_tokens": 3}
    found = problems(scripted_spec(models__weak=model(whole, speculative_config=draft)), tmp_path)
    assert (
        f"models.weak.options.speculative_config.model: {in_part} has 1 of its 2 weight files; missing: "
        in found
    )
    empty = fill(tmp_path / "empty", [])
    found = problems(scripted_spec(models__weak=model(whole, tokenizer=str(empty))), tmp_path)
    assert f"models.weak.options.tokenizer: {empty} has no tokenizer" in found
    found = problems(scripted_spec(models__weak=model(whole, hf_config_path="/nowhere/x")), tmp_path)  # fmt: skip
    assert "models.weak.options.hf_config_path: /nowhere/x does not exist" in found
    serve = {"kind": "serve", "model": str(in_part), "gpus": 1}
    found = problems(scripted_spec(agent=serve, search__method="agenttts"), tmp_path)
    assert f"agent.model: {in_part} has 1 of its 2 weight files; missing: " in found


def test_a_hub_id_whose_snapshot_is_in_part(scripted_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--m"
    fill(folder / "snapshots" / "abc", ["config.json"])
    fill(folder / "refs", [])
    (folder / "refs" / "main").write_text("abc")
    model = {"path": "org/m", "params": 1e9, "gpus": 0, "engine": "vllm"}
    # Here the engine fetches the rest itself.
    assert problems(scripted_spec(models__weak=model), tmp_path) == ""
    image = tmp_path / "image.sif"
    image.write_text("")
    found = problems(scripted_spec(models__weak=model, container__image=str(image)), tmp_path)
    assert "has no weights" in found
    assert "hf download org/m --revision abc" in found


@pytest.mark.parametrize(
    ("kind", "context"), [("Llama", 2048), ("GPT2", 1024), ("Gemma3", 131072), ("Dbrx", 2048)]
)
def test_the_context_is_found_that_transformers_finds(kind, context):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")()
    assert config.get_text_config().max_position_embeddings == context
    assert stated_context(config.to_dict()) == context


PARTS = st.sampled_from(["thinker_config", "text_config", "llm_config", "language_config"])
VALUES = st.dictionaries(st.sampled_from(["hidden_size", "dtype"]), st.none() | st.integers())
CONFIGS = st.recursive(
    VALUES, lambda inner: st.builds(dict.__or__, VALUES, st.dictionaries(PARTS, inner))
)


@given(CONFIGS)
def test_what_the_language_part_states_counts_with_the_rest_of_the_config_too(config):
    part, whole = language_part(config), with_language_part(config)
    stated = {name: value for name, value in part.items() if value is not None}
    assert whole | stated == whole
