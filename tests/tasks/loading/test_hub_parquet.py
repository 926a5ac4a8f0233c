"""Data sets that are scripts, and the conversion to Parquet that the hub keeps of them, from a
directory and the cache.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agenttts import tasks
from agenttts.errors import MissingRequirement, UserError
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.loading.hub import HubId, hub_id
from agenttts.tasks.loading.report import LoadReport

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="the Python package 'datasets' (extra 'hub') is not installed",
)
REVISION = "refs/convert/parquet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def row(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"r{n}",
        "question": f"Who is {n}?",
        "answer": "Ann",
        "supporting_facts": {"title": ["A"], "sent_id": [0]},
        "context": {"title": ["A", "B"], "sentences": [[f"One {n}."], ["Two."]]},
        **changes,
    }


def write(root: Path, split: str, numbers: range, shards: int = 1, **changes: Any) -> None:
    """A split of the converted revision: ``CONFIG/SPLIT/NUMBER.parquet``."""
    (root / split).mkdir(parents=True)
    for shard in range(shards):
        rows = [row(n, **changes) for n in numbers[shard::shards]]
        pl.DataFrame(rows).write_parquet(root / split / f"{shard:04}.parquet")


def load(data: str, report: LoadReport | None = None, split: str = "search", **options: Any) -> list[Example]:  # fmt: skip
    config = TaskConfig(data, split=split, options=options, report=report or LoadReport())
    return tasks.create("retrieval_qa").load(config)


def ids(examples: list[Example]) -> list[str]:
    return sorted(e.id for e in examples)


@pytest.fixture
def converted(tmp_path):
    """A directory of the revision's layout with two configurations."""
    folder = tmp_path / "hotpot"
    write(folder, "distractor/train", range(6), shards=2)
    write(folder, "distractor/validation", range(10, 13))
    write(folder, "fullwiki/validation", range(20, 22))
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's cache on this machine, which is asked for nothing else: ``put`` brings a folder
    into it.
    """
    import datasets
    import huggingface_hub.constants as constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def put(name: str, folder: Path) -> None:
        root = cache / f"datasets--{name.replace('/', '--')}"
        (root / "refs" / REVISION).parent.mkdir(parents=True)
        (root / "refs" / REVISION).write_text(COMMIT)
        for number, file in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
            blob = root / "blobs" / f"{number:040}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(file.read_bytes())
            link = root / "snapshots" / COMMIT / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)

    return put


def test_the_revision_is_part_of_an_id():
    assert hub_id(f"hotpotqa/hotpot_qa:distractor@{REVISION}") == HubId("hotpotqa/hotpot_qa", "distractor", REVISION)  # fmt: skip
    assert hub_id(f"hf:hotpot_qa@{REVISION}") == HubId("hotpot_qa", None, REVISION)


def test_a_script_is_refused_with_the_name_of_its_conversion(tmp_path, hub_cache):
    folder = tmp_path / "hotpot_qa"
    folder.mkdir()
    (folder / "hotpot_qa.py").write_text("raise SystemExit('nobody runs this')")
    with pytest.raises(UserError) as caught:
        load(f"hf:{folder}:distractor")
    assert "is a script" in str(caught.value)
    assert f"hf:{folder}:distractor@{REVISION}" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load(f"hf:{folder}")
    assert f"hf:{folder}[:CONFIG]@{REVISION}" in str(caught.value)


@pytest.mark.parametrize("place", ["directory", "cache"])
def test_the_conversion_is_read_when_it_is_named(converted, hub_cache, place):
    name = str(converted)
    if place == "cache":
        name = "hotpotqa/hotpot_qa"
        hub_cache(name, converted)
    report = LoadReport()
    found = load(f"hf:{name}:distractor@{REVISION}", report)
    assert ids(found) == ["r10", "r11", "r12"], "validation is what search draws from"
    assert found[0].data["candidates"] == [f"A: One {found[0].id[1:]}.", "B: Two."]
    [source] = report.sources.values()
    assert (source.records, source.source) == (3, f"hub data set '{name}' ({REVISION}, distractor), split 'validation'")  # fmt: skip
    assert ids(load(f"hf:{name}:distractor@{REVISION}", split="train")) == [f"r{n}" for n in range(6)]  # fmt: skip
    assert ids(load(f"hf:{name}:distractor@{REVISION}", hub_split="train")) == [f"r{n}" for n in range(6)]  # fmt: skip
    assert ids(load(f"hf:{name}:fullwiki@{REVISION}")) == ["r20", "r21"]
    # What the cache lacks the hub may have; of a directory all is known.
    wrong = UserError if place == "directory" else MissingRequirement
    with pytest.raises(wrong, match="has 2 configurations; name one: hf:.*:CONFIG@refs/convert/parquet; valid: distractor, fullwiki"):  # fmt: skip
        load(f"hf:{name}@{REVISION}")
    with pytest.raises(wrong, match="no configuration 'distracter' .*did you mean 'distractor'"):
        load(f"hf:{name}:distracter@{REVISION}")
    with pytest.raises(wrong, match="no split 'trian'.*did you mean 'train'"):
        load(f"hf:{name}:distractor@{REVISION}", split="trian")


@pytest.mark.parametrize("config", ["default", "plain_text"])
def test_a_sole_or_default_configuration_need_not_be_named(tmp_path, hub_cache, config):
    write(tmp_path / "set", f"{config}/partial-train", range(3))
    if config == "default":
        write(tmp_path / "set", "other/train", range(9))
    assert ids(load(f"hf:{tmp_path / 'set'}@{REVISION}")) == ["r0", "r1", "r2"]


def test_a_bad_record_of_the_conversion_names_its_place(tmp_path, hub_cache):
    write(tmp_path / "set", "default/train", range(4), shards=2)
    pl.DataFrame([row(4), row(5, answer="")]).write_parquet(tmp_path / "set" / "default" / "train" / "0002.parquet")  # fmt: skip
    with pytest.raises(UserError, match=r"\(refs/convert/parquet, default\), split 'train', record 6: field 'answer'"):  # fmt: skip
        load(f"hf:{tmp_path / 'set'}@{REVISION}")
    report = LoadReport(1)
    assert len(load(f"hf:{tmp_path / 'set'}@{REVISION}", report)) == 5
    (tmp_path / "set" / "default" / "train" / "0001.parquet").write_bytes(b"PAR1PAR1")
    with pytest.raises(UserError, match=r"0001.parquet: not a whole Parquet file"):
        load(f"hf:{tmp_path / 'set'}@{REVISION}", report)


def test_a_conversion_that_is_not_here(tmp_path, hub_cache):
    with pytest.raises(MissingRequirement) as caught:
        load(f"owner/set:distractor@{REVISION}")
    assert "conversion to Parquet of hub data set 'owner/set'" in str(caught.value)
    [code] = [p for p in str(caught.value).split('"') if p.startswith("import huggingface_hub")]
    compile(code, "the fix", "exec")
    assert "allow_patterns='distractor/*'" in code
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no files CONFIG/SPLIT/NUMBER.parquet"):
        load(f"hf:{tmp_path / 'empty'}@{REVISION}")


def test_lists_that_a_table_of_the_hub_holds_as_texts(tmp_path, hub_cache):
    """2WikiMultiHopQA on the hub: context and supporting facts are JSON texts."""
    pairs = {"context": [["A", ["One."]], ["B", ["Two."]]], "supporting_facts": [["B", 0]]}
    (tmp_path / "set" / "default" / "dev").mkdir(parents=True)
    texts = row(1) | {name: json.dumps(value) for name, value in pairs.items()}
    pl.DataFrame([texts]).write_parquet(tmp_path / "set" / "default" / "dev" / "0000.parquet")
    [found] = load(f"hf:{tmp_path / 'set'}@{REVISION}")
    assert (found.data["candidates"], found.data["gold_ids"]) == (["A: One.", "B: Two."], [2])
