"""Models downloaded from the hub are found in its cache; one that is not there is refused where
trials are offline.
"""

from __future__ import annotations

import json

import pytest

from agenttts.inference.hub_snapshots import find_snapshot, hub_cache

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
