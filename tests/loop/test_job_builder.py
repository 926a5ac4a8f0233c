"""Which trials of an iteration draw from the same prompts, and the part of them each is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts.inference.base import ModelConfig
from agenttts.inference.partition import SamplePartition
from agenttts.loop.job_builder import JobBuilder, sample_partitions
from agenttts.run.directory import Run
from agenttts.run.progress import PlannedTrial
from agenttts.space import Allocation, Choice


def planned(number: int, *choices: tuple[str, int]) -> PlannedTrial:
    stages = ("retrieval", "answer")
    pairs = zip(stages, choices, strict=True)
    allocation = Allocation(tuple(Choice(stage, model, k) for stage, (model, k) in pairs))
    return PlannedTrial(f"t{number:04}", 1, allocation, "insight", "", 1.0)


TOGETHER = [
    planned(0, ("small", 5), ("large", 1)),
    planned(1, ("small", 20), ("large", 1)),
    planned(2, ("large", 5), ("large", 1)),
    planned(3, ("small", 5), ("large", 9)),
    planned(4, ("small", 5), ("small", 9)),
]


def jobs(*numbers: tuple[int, ...]) -> list[list[PlannedTrial]]:
    return [[TOGETHER[number] for number in job] for job in numbers]


ONE_EACH = jobs((0,), (1,), (2,), (3,), (4,))


def test_a_stage_is_shared_by_those_that_begin_alike_and_have_its_model():
    found = [sample_partitions(trial, ONE_EACH, at_once=8) for trial in TOGETHER]
    assert [f.get("retrieval") for f in found] == [
        SamplePartition(0, 4),
        SamplePartition(1, 4),
        None,
        SamplePartition(2, 4),
        SamplePartition(3, 4),
    ]
    assert [f.get("answer") for f in found] == [
        SamplePartition(0, 2),
        None,
        None,
        SamplePartition(1, 2),
        None,
    ]


def test_no_more_parts_than_trials_run_at_once():
    found = [sample_partitions(trial, ONE_EACH, at_once=2).get("retrieval") for trial in TOGETHER]
    assert found == [
        SamplePartition(0, 2),
        SamplePartition(1, 2),
        None,
        SamplePartition(0, 2),
        SamplePartition(1, 2),
    ]
    assert all(sample_partitions(trial, ONE_EACH, at_once=1) == {} for trial in TOGETHER)


def test_the_trials_of_one_job_have_one_part():
    together = jobs((0, 3), (1, 2), (4,))
    found = [sample_partitions(trial, together, at_once=8) for trial in TOGETHER]
    assert [f.get("retrieval") for f in found] == [
        SamplePartition(0, 3),
        SamplePartition(1, 3),
        None,
        SamplePartition(0, 3),
        SamplePartition(2, 3),
    ]
    assert [f.get("answer") for f in found] == [None] * 5, "both that share it are in one job"


def test_a_node_must_see_the_places_that_engine_options_name(unstarted_run):
    """Also one that is not there now: it is the node that has to say so."""
    run = unstarted_run()
    draft = {"model": "/nowhere/draft", "num_speculative_tokens": 2}
    options = {"tokenizer": "/nowhere/tokenizer", "speculative_config": draft, "dtype": "auto"}
    models = {
        "small": ModelConfig("small", "/nowhere/small", options=options),
        "large": ModelConfig("large", "org/large"),
    }
    record = run.record().model_copy(update={"models": models})
    whole = Run(run, run.spec(), run.profile(), record)
    needs = JobBuilder(whole).request(TOGETHER[:1], ONE_EACH, [0], "w0-0").needs
    nowhere = [path for path in needs if path.is_relative_to("/nowhere")]
    assert nowhere == [
        Path("/nowhere/small"),
        Path("/nowhere/tokenizer"),
        Path("/nowhere/draft"),
    ]


@pytest.mark.parametrize(
    ("engines", "stays", "compiles"),
    [
        (("transformers", "transformers"), True, False),
        (("vllm", "transformers"), False, True),
        (("transformers", "vllm"), True, True),
        (("transformers", "scripted"), False, False),
    ],
)
def test_a_job_compiles_if_an_engine_that_it_may_load_does(unstarted_run, engines, stays, compiles):
    run = unstarted_run()
    small, large = engines
    models = {
        "small": ModelConfig("small", "/nowhere/small", engine=small),
        "large": ModelConfig("large", "/nowhere/large", engine=large),
    }
    record = run.record().model_copy(update={"models": models})
    builder = JobBuilder(Run(run, run.spec(), run.profile(), record))
    builder.stays = stays
    job = [TOGETHER[4]]  # its own models are small ones
    assert builder.request(job, [job], [0], "w0-0").compiles is compiles
