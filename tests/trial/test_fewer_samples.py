"""Results that a trial's samples give with fewer of them are those of trials with fewer samples."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from agenttts.inference.engine_process import create_engine
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
from agenttts.tables.stored_results import STORED_FILE, read_stored, stored_frame
from agenttts.tasks.base import ExecutingStage, Fusion, StageDefinition
from agenttts.trial.fewer_samples import FewerSamples, StageValues
from agenttts.trial.result import EXAMPLES_FILE, read_result
from agenttts.trial.run import evaluate_alone


def run(spec):
    sampler = Sampler(
        SampleStore(Path(spec.samples), spec.trial), spec.models, spec.seed, create_engine
    )
    output = evaluate_alone(spec, sampler)
    sampler.close()
    return output, read_stored(Path(spec.directory) / STORED_FILE)


def answers(spec):
    table = pl.read_parquet(Path(spec.directory) / EXAMPLES_FILE).filter(stage="answer")
    return tuple(table["metrics"].struct.field("em"))


@pytest.mark.parametrize("first", ["weak", "strong"])
@pytest.mark.parametrize("last", ["weak", "strong"])
def test_stored_results_are_those_of_trials(make_trial, first, last):
    """A model fuses the answers of more than one sample; it does so for two smaller counts."""
    fewer = {"retrieval": (1, 2, 3), "answer": (1, 2, 4, 17)}
    _, stored = run(make_trial("t0000", (first, 4), (last, 33), fewer_samples=fewer))
    found = {s.samples for s in stored}
    assert {count for lead, count in found if lead == 4} == {1, 4, 17}
    assert {count for lead, count in found if lead != 4} <= {1, 4, 17, 33}
    for number, result in enumerate(stored, start=1):
        choices = zip((first, last), result.samples, strict=True)
        spec = make_trial(f"t{number:04}", *choices)
        output, _ = run(spec)
        assert output.reused_tokens == output.prompt_tokens + output.decode_tokens
        assert (result.score, result.score_stderr) == (output.score, output.score_stderr)
        assert result.metrics == output.metrics
        assert result.examples == answers(spec)


def test_fewer_samples_of_an_earlier_stage_count_where_its_outputs_are_the_same(make_trial):
    """The strong model's first stage gives the same outputs with 3 samples as with 4."""
    fewer = {"retrieval": (1, 2, 3)}
    _, stored = run(make_trial("t0000", ("strong", 9), ("weak", 1), fewer_samples=fewer))
    outputs = {}
    for count in (1, 2, 3, 9):
        spec = make_trial(f"t1{count:03}", ("strong", count), ("weak", 1))
        run(spec)
        table = pl.read_parquet(Path(spec.directory) / EXAMPLES_FILE)
        outputs[count] = table.filter(stage="retrieval")["output"].to_list()
    same = [count for count in (1, 2, 3) if outputs[count] == outputs[9]]
    assert [s.samples for s in stored] == [(count, 1) for count in same]


def test_a_trial_that_is_asked_for_none_writes_none(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("weak", 3))
    assert run(spec)[1] == []
    assert not (Path(spec.directory) / STORED_FILE).exists()


class Stage(StageDefinition):
    name = "answer"

    def prompt(self, example, outputs):
        raise NotImplementedError

    def parse(self, text, example):
        raise NotImplementedError

    def fuse(self, candidates, example):
        return max(set(candidates), key=candidates.count)

    def metrics(self, output, example):
        return {"em": float(output == "a")}


def vote(stage):
    """The fusion of a trial for a stage whose samples no model fuses."""

    def fuse(first):
        return [stage.fuse(c, None) for c in first]
        yield

    return fuse


def found(stage, fewer, last="answer", *, candidates=("b", "a", "a"), toolbox=None):
    samples = FewerSamples({"answer": fewer}, last)
    fused = [stage.fuse(list(candidates), None)]
    values = StageValues([None], [{}], [list(candidates)], fused, fused)

    assert not list(samples.add_stage(stage, len(candidates), values, toolbox, vote(stage)))
    return [(s.samples, s.score) for s in samples.results("answer.em")]


def test_values_that_are_whole_numbers_are_stored_too(tmp_path):
    class Whole(Stage):
        def metrics(self, output, example):
            return {"em": 0 if output == "a" else 0.5, "right": output == "a"}

    samples = FewerSamples({"answer": (1, 2)}, "answer")
    fused = ["a", "b"]
    values = StageValues([None] * 2, [{}] * 2, [["a", "a", "b"], ["b", "b", "a"]], fused, fused)
    list(samples.add_stage(Whole(), 3, values, None, vote(Whole())))
    stored = samples.results("answer.em")
    assert [s.examples for s in stored] == [(0.0, 0.5)] * 2
    stored_frame(stored).write_parquet(tmp_path / STORED_FILE)
    assert read_stored(tmp_path / STORED_FILE) == stored


def test_a_trial_without_its_stored_results_is_not_complete(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("weak", 3), fewer_samples={"answer": (1,)})
    output, stored = run(spec)
    assert stored
    directory = Path(spec.directory)
    assert read_result(directory) == output
    (directory / STORED_FILE).write_bytes(b"PAR1")
    assert read_result(directory) is None
    (directory / STORED_FILE).unlink()
    assert read_result(directory) is None
    # One that has none, as of an older image, is complete without the file.
    spec = make_trial("t0001", ("weak", 2), ("weak", 3))
    output, _ = run(spec)
    assert read_result(Path(spec.directory)) == output


def test_only_smaller_counts_are_found():
    assert found(Stage(), (1, 3, 5)) == [((1,), 0.0)]


def test_a_count_that_a_model_would_fuse_is_left_out():
    class ByModel(Stage):
        def fusion(self, candidates, example, outputs):
            return Fusion("which one?", 0.0) if len(candidates) > 1 else None

    assert found(ByModel(), (1, 2)) == [((1,), 0.0)]


def test_a_task_that_fails_with_a_count_loses_only_that_count(caplog):
    class Picky(Stage):
        def fuse(self, candidates, example):
            if len(candidates) == 2:
                raise ValueError("two are no vote")
            return super().fuse(candidates, example)

    assert found(Picky(), (1, 2)) == [((1,), 0.0)]
    assert "first 2 of 3 samples give no result (ValueError: two are no vote)" in caplog.text


def test_fused_outputs_are_postprocessed_unless_the_trial_has_done_so():
    asked = []

    class Executing(Stage, ExecutingStage):
        def execute(self, value, example, outputs, toolbox):
            raise NotImplementedError

        def postprocess_fused(self, output, example, toolbox):
            asked.append(output)
            return output

    given = ("b", "a", "a", "a")
    assert found(Executing(), (1, 3), candidates=given, toolbox=object()) == [
        ((3,), 1.0),
        ((1,), 0.0),
    ]
    assert asked == ["b"]
