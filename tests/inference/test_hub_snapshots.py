"""Models downloaded from the hub are found in its cache; one that is not there is refused where
trials are offline.
"""

from __future__ import annotations

import json

import pytest

from agenttts.inference.hub_snapshots import find_snapshot, hub_cache, with_places
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec

COMMIT = "0123456789012345678901234567890123456789"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one model, as huggingface_hub lays it out."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model = tmp_path / "hf" / "hub" / "models--org--small"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    (model / "blobs" / "c").write_text(json.dumps({"num_attention_heads": 8}))
    (snapshot / "config.json").symlink_to("../../blobs/c")
    return snapshot


def test_a_snapshot_is_found_by_branch_and_commit(cache, tmp_path, monkeypatch):
    assert hub_cache() == tmp_path / "hf" / "hub"
    assert find_snapshot("org/small", None) == find_snapshot("org/small", "main") == cache
    assert find_snapshot("org/small", COMMIT) == cache
    assert find_snapshot("org/small", "v2") is None
    assert find_snapshot("org/other", None) is None
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert find_snapshot("org/small", None) is None


@pytest.mark.parametrize(
    ("name", "there"),
    [("params.json", True), ("m-Q4.gguf", True), ("model.safetensors", True), ("README.md", False)],
)
def test_a_snapshot_without_config_json(cache, name, there):
    (cache / "config.json").unlink()
    assert find_snapshot("org/small", None) is None
    (cache / name).write_text("{}")
    assert find_snapshot("org/small", None) == (cache if there else None)
    (cache / name).unlink()
    (cache / name).symlink_to("../../blobs/not-downloaded")
    assert find_snapshot("org/small", None) is None


def test_where_the_environment_puts_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert hub_cache() == tmp_path / "xdg" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hub_cache() == tmp_path / "hf" / "hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "$HOME/old")
    assert hub_cache() == tmp_path / "old"
    monkeypatch.setenv("HF_HUB_CACHE", "~/new")
    assert hub_cache() == tmp_path / "new"


def test_a_launch_freezes_the_snapshot_or_says_how_to_download(cache, cli, scripted_spec, tmp_path):
    for name in ("model.safetensors", "tokenizer.json"):
        (cache / name).write_text("x")
    image = tmp_path / "image.sif"
    image.write_text("")
    model = {"params": 1e9, "gpus": 0}
    spec = scripted_spec(container__image=str(image), models__weak={"path": "org/small", **model})
    plan = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)
    assert not [p for p in plan["problems"] if "hub" in p["what"]]
    missing = {"path": "org/absent", "revision": "v2", **model}
    spec = scripted_spec(container__image=str(image), models__weak=missing)
    plan = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)
    [problem] = [p for p in plan["problems"] if "hub" in p["what"]]
    assert "models.weak.path" in problem["what"]
    assert "hf download org/absent --revision v2" in problem["fix"]
    done = cli("launch", spec)
    assert done.returncode == 2
    assert "hf download org/absent --revision v2" in done.stderr


def snapshot_of(cache, name, *files):
    """Another downloaded repository beside the one of `cache`."""
    place = cache.parents[2] / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
    place.mkdir(parents=True)
    (place.parents[1] / "refs").mkdir()
    (place.parents[1] / "refs" / "main").write_text(COMMIT)
    for file in files:
        (place / file).write_text("{}")
    return place


IDS = {
    "tokenizer": ({"tokenizer": "org/tok"}, "org/tok"),
    "hf_config_path": ({"hf_config_path": "org/tok"}, "org/tok"),
    "generation_config": ({"generation_config": "org/tok"}, "org/tok"),
    "spec_model": ({"spec_model": "org/draft"}, "org/draft"),
    "speculative_config.model": (
        {"speculative_config": {"model": "org/draft", "num_speculative_tokens": 3}},
        "org/draft",
    ),
}


@pytest.mark.parametrize("serves", [False, True])
@pytest.mark.parametrize("option", IDS)
def test_ids_among_engine_options_are_frozen_as_directories_too(
    cache, scripted_spec, tmp_path, option, serves
):
    for name in ("model.safetensors", "tokenizer.json"):
        (cache / name).write_text("x")
    image = tmp_path / "image.sif"
    image.write_text("")
    options, name = IDS[option]
    model = {"path": "org/small", "params": 1e9, "gpus": 0, "engine": "vllm"}
    changes = {"container__image": str(image), "models__weak": model}
    if serves:
        changes["agent"] = {"kind": "serve", "model": "weak", "gpus": 1, "options": options}
    else:
        changes["models__weak"] = {**model, "options": options}
    key = "agent.options" if serves else "models.weak.options"

    def plan():
        return make_plan(load_spec(scripted_spec(**changes)), [], tmp_path / "r", dry_run=True)

    [problem] = [p for p in plan().problems if "hub's cache" in p.what]
    assert problem.what.startswith(f"{key}.{option}: the ")
    assert f"hf download {name}'" in problem.fix
    if name == "org/tok":
        place = snapshot_of(cache, "org/tok", "tokenizer.json")
    else:
        place = snapshot_of(cache, "org/draft", "config.json", "model.safetensors")
    found = plan()
    assert not [p for p in found.problems if key in p.what]
    frozen = found.experiment.spec.agent.options if serves else found.models["weak"].options
    for part in option.split("."):
        frozen = frozen[part]
    assert frozen == str(place)


def test_a_tokenizer_comes_from_the_models_revision_if_it_has_none_of_its_own():
    asked = []

    def place(name, revision, key):
        asked.append((name, revision, key))
        return f"/there/{name}"

    options = {"tokenizer": "org/tok", "tokenizer_revision": "v3"}
    assert with_places(options, "v2", place)["tokenizer"] == "/there/org/tok"
    with_places({"tokenizer": "org/tok"}, "v2", place)
    with_places({"speculative_config": {"model": "a/b", "revision": "v9"}}, "v2", place)
    assert asked == [
        ("org/tok", "v3", ("tokenizer",)),
        ("org/tok", "v2", ("tokenizer",)),
        ("a/b", "v9", ("speculative_config", "model")),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokenizer": None, "generation_config": "auto", "hf_config_path": ""},
        {"generation_config": "vllm", "tokenizer": 3},
        {"speculative_config": None},
        {"speculative_config": "org/draft"},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"speculative_config": {"model": "[ngram]"}},
        {"speculative_config": {"model": "my.package.Proposer", "method": "custom_class"}},
        {"spec_model": "x", "spec_method": "suffix"},
        {"speculative_config": {"model": "x"}, "spec_method": "ngram"},
    ],
)
def test_options_that_name_no_repository(options):
    assert with_places(options, None, lambda *_: "replaced") == options
