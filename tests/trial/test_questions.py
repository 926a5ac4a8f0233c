"""Questions of the search to the program that evaluates trials, as files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.inference.base import Request, SamplingParams
from agenttts.inference.engine_process import create_engine
from agenttts.trial.command import AskedQuestion, DueTrial, TrialCommand
from agenttts.trial.questions import OpenQuestions, Question, QuestionAnswer, QuestionBox
from agenttts.trial.result import read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE
from agenttts.trial.usage import read_usages

MESSAGES = ({"role": "system", "content": "You search."}, {"role": "user", "content": "Propose."})


@pytest.fixture
def worker(tmp_path):
    directory = tmp_path / "worker"
    directory.mkdir()
    return directory


@pytest.fixture
def question(make_trial):
    """A question to the strong model."""
    model = make_trial("t0000", ("weak", 2), ("strong", 1)).models["strong"]
    return Question(model, MESSAGES, max_tokens=9, temperature=0.7, seed=4)


def answer_all(worker: Path, spec, started=None) -> int:
    """Run a trial, then answer the open questions to the worker, in one program."""

    def engine(model):
        if started is not None:
            started.append(model.name)
        return create_engine(model)

    def questions():
        asked = OpenQuestions(worker)
        while (found := asked.take()) is not None:
            yield found

    command = TrialCommand((DueTrial(Path(spec.directory) / SPEC_FILE),), worker, stays=True)
    return run_trials(command, engine, more=questions(), out=io.StringIO(), err=io.StringIO())


def test_an_earlier_image_reads_a_question_that_needs_nothing_new(worker, question):
    name = QuestionBox(worker).ask("abcd", question)
    [file] = worker.rglob(f"{name}.json")
    assert not {"sampling", "chat_form"} & json.loads(file.read_text())["model"].keys()
    assert Question.read(file) == question


def test_an_answer_is_what_the_engine_says_and_not_a_sample(worker, question, make_trial, tmp_path):
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    box, started = QuestionBox(worker), []
    name = box.ask("abcd", question)
    assert (box.answer(name), box.is_taken(name), box.open("abcd")) == (None, False, [name])
    assert answer_all(worker, spec, started) == 0
    assert started == ["weak", "strong"], "the engine of the trial answers"
    request = Request(MESSAGES, SamplingParams(0.7, 9), (4,))
    [completion] = create_engine(question.model).generate([request])
    [sample] = completion.samples
    assert box.answer(name) == QuestionAnswer(
        sample.text, completion.prompt_tokens, sample.decode_tokens, sample.finish_reason
    )
    assert box.is_taken(name)
    assert box.is_ready(name)
    assert (box.open("abcd"), box.answered("abcd")) == ([], box.answer(name))
    [usage] = read_usages(worker)
    result = read_result(Path(spec.directory))
    computed = sum(draw.prompt_tokens + draw.decode_tokens for draw in usage.draws)
    assert computed == result.prompt_tokens + result.decode_tokens, "only what trials drew"
    store = b"".join(file.read_bytes() for file in (tmp_path / "samples").rglob("*.parquet"))
    assert store
    assert sample.text.encode() not in store


def test_a_question_crosses_as_plain_json(worker, question):
    full = replace(question, template_args={"enable_thinking": False}, keep_special=True, schema={"type": "object"})  # fmt: skip
    name = QuestionBox(worker).ask("abcd", full)
    assert Question.read(worker / "questions" / f"{name}.json") == full
    assert full.request == Request(
        MESSAGES, SamplingParams(0.7, 9), (4,), (), {"enable_thinking": False}, True, {"type": "object"}
    )  # fmt: skip


def test_a_prompt_that_exceeds_the_context_says_so(worker, question, make_trial):
    short = replace(question, model=replace(question.model, options={"max_model_len": 10}))
    name = QuestionBox(worker).ask("abcd", short)
    answer_all(worker, make_trial("t0000", ("weak", 2), ("strong", 1)))
    assert QuestionBox(worker).answer(name).truncated


def test_an_engine_that_fails_is_an_answer_and_the_program_goes_on(worker, question, make_trial):
    box = QuestionBox(worker)
    broken = replace(question, model=replace(question.model, options={"fail": "OOM"}))
    odd = replace(question, messages=({"role": "user"},))
    names = [box.ask(key, asked) for key, asked in (("a", broken), ("b", odd), ("c", question))]
    assert answer_all(worker, make_trial("t0000", ("weak", 2), ("strong", 1))) == 0
    first, second, third = map(box.answer, names)
    assert "failed to load" in first.error
    assert "KeyError" in second.error
    assert third.error == ""
    assert box.answered("a") is None, "an error is no reply"
    assert box.open("a") == []


def test_a_question_that_was_given_up_is_not_answered(worker, question, make_trial):
    box, asked = QuestionBox(worker), OpenQuestions(worker)
    first = box.ask("abcd", question)
    handed = asked.take()
    box.give_up(first)
    second = box.ask("abcd", question)
    assert handed == AskedQuestion(worker / "questions" / f"{first}.json")
    spec = make_trial("t0000", ("weak", 2), ("strong", 1))
    command = TrialCommand((DueTrial(Path(spec.directory) / SPEC_FILE),), worker, stays=True)
    box.give_up(second)
    err = io.StringIO()
    run_trials(command, create_engine, more=[handed], out=io.StringIO(), err=err)
    assert f"question {first} was given up" in err.getvalue()
    assert not (worker / "answers").exists()
    assert asked.take() is None


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"from_a_later_version": 1, '])
def test_a_question_that_cannot_be_read_has_an_error_for_an_answer(
    worker, question, make_trial, damage
):
    """The controller asks elsewhere; it waited, and the job took the question for work."""
    box, asked = QuestionBox(worker), OpenQuestions(worker)
    name = box.ask("abcd", question)
    file = worker / "questions" / f"{name}.json"
    file.write_text(damage + file.read_text()[1:] if damage.endswith(" ") else damage)
    assert asked.take() == AskedQuestion(file)
    assert answer_all(worker, make_trial("t0000", ("weak", 2), ("strong", 1))) == 0
    assert box.is_taken(name)
    assert "cannot be read by this image" in box.answer(name).error
    assert not asked.any_in_work()


def test_each_question_is_handed_over_once_and_an_answered_one_never(worker, question):
    box, asked = QuestionBox(worker), OpenQuestions(worker)
    names = [box.ask("abcd", question), box.ask("abcd", question)]
    assert names == ["abcd-1", "abcd-2"]
    (worker / "answers").mkdir()
    (worker / "answers" / "abcd-1.json").write_text("{}")
    assert asked.take().file.stem == "abcd-2"
    assert asked.take() is None
    (worker / "questions" / "abcd-1.json").unlink()
    (worker / "questions" / "abcd-2.json").unlink()
    assert box.ask("abcd", question) == "abcd-2", "no name that has an answer"


def test_a_question_is_in_work_until_it_is_answered(worker, question, make_trial):
    box, asked = QuestionBox(worker), OpenQuestions(worker)
    assert not asked.any_in_work()
    box.ask("abcd", question)
    assert not asked.any_in_work(), "nobody has taken it"
    asked.take()
    assert asked.any_in_work()
    answer_all(worker, make_trial("t0000", ("weak", 2), ("strong", 1)))
    assert not asked.any_in_work()


def test_a_question_that_was_given_up_is_in_work_if_the_program_has_read_it(worker, question):
    box, asked = QuestionBox(worker), OpenQuestions(worker)
    (worker / "answers").mkdir()
    for key, read in (("a", True), ("b", False)):
        name = box.ask(key, question)
        asked.take()
        if read:
            (worker / "answers" / f"{name}.taken").touch()
        box.give_up(name)
        assert asked.any_in_work() is read
        if read:
            (worker / "answers" / f"{name}.json").write_text("{}")


def test_an_answer_that_cannot_be_read_is_an_error(worker, question):
    box = QuestionBox(worker)
    name = box.ask("abcd", question)
    (worker / "answers").mkdir()
    (worker / "answers" / f"{name}.json").write_text('{"text": 3}')
    assert "cannot be read" in box.answer(name).error


def test_nothing_is_asked_in_a_directory_that_was_removed(tmp_path, question):
    with pytest.raises(OSError, match="gone"):
        QuestionBox(tmp_path / "gone").ask("abcd", question)
    assert not (tmp_path / "gone").exists()


def test_a_line_names_a_question_or_trials(tmp_path):
    question, spec = AskedQuestion(tmp_path / "q.json"), tmp_path / "a:1" / "trial.json"
    trials = (DueTrial(spec), DueTrial(spec, 2))
    assert TrialCommand.read_line(TrialCommand.question_line(question)) == question
    assert TrialCommand.read_line(TrialCommand.line(trials)) == trials
    assert TrialCommand.parse(TrialCommand(trials).arguments()).trials == trials
