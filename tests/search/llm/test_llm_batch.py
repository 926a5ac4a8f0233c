"""The one question of a batch: what it says, and how many places its model earns."""

import json
import random
import re
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.search import TrialResult, create
from agenttts.search.archive import Archive
from agenttts.search.llm.agent import LLMAgent
from agenttts.search.llm.overview import overview, standard_errors
from agenttts.search.llm.prompts import Prompts
from agenttts.search.llm.transcript import Transcript
from agenttts.search.llm.weight import PRIOR_WEIGHT, model_weight, places
from agenttts.space import Model, SearchSpace, Stage
from tests.support.llm import (
    SPACE,
    TASK_DESCRIPTION,
    allocation,
    batch_reply,
    run,
    score,
    scripted,
    scripted_session,
    surrogate_of,
)


def tried(*picks, scored=score):
    """Results of (model, samples, model, samples), with stage metrics and standard errors."""
    found = []
    for first, few, second, many in picks:
        one = SPACE.allocation((first, few), (second, many))
        metrics = {"retrieval.f1": 0.5 + few / 500, "answer.em": scored(one)}
        found.append(TrialResult(one, scored(one), metrics, stderr=0.05))
    return found


FIRST = tried(
    ("qwen-7b", 60, "llama-70b", 1), ("qwen-72b", 1, "llama-70b", 1), ("qwen-72b", 1, "llama-3b", 32),
    ("qwen-7b", 4, "llama-3b", 8), ("qwen-7b", 30, "llama-3b", 64),
)  # fmt: skip


@pytest.fixture(scope="module")
def asked():
    """Two batches of ten: the questions, the offers, the transcript and the archive."""
    replies = [
        batch_reply(
            [allocation("qwen-72b", 4, "llama-3b", 1), allocation("qwen-7b", 1, "llama-3b", 1)],
            ["answer: llama-3b is flat"],
            "61 %",
        ),
        batch_reply([allocation("qwen-72b", 3, "llama-3b", 2)], []),
    ]
    session = scripted_session(replies)
    archive, agent = Archive(SPACE), LLMAgent(SPACE, 0, session)
    archive.add(FIRST)
    offers = [agent.propose(10, archive, surrogate_of(archive))]
    archive.add(tried(("qwen-72b", 4, "llama-3b", 1)))
    archive.add_pending([SPACE.allocation(("qwen-7b", 9), ("llama-3b", 2))])
    offers.append(agent.propose(10, archive, surrogate_of(archive)))
    events = session.caller.transcript.events
    questions = [e["messages"][1]["content"] for e in events if e["event"] == "reply"]
    return questions, offers, session.caller.transcript, archive


def test_it_says_noise_results_by_combination_and_the_surrogates_estimates(asked):
    first, _ = asked[0]
    assert "The standard error of a score is about 0.05 at 50 examples" in first
    groups = re.findall(r"^## (.*) \(most ([\d, ]+)(?:; mean ([\d.]+) of n = (\d+) trials)?\)$", first, re.M)  # fmt: skip
    assert [(models, most, n) for models, most, _, n in groups] == [
        ("qwen-7b → llama-3b", "100, 64", "2"),
        ("qwen-7b → llama-70b", "100, 32", "1"),
        ("qwen-72b → llama-3b", "4, 64", "1"),
        ("qwen-72b → llama-70b", "2, 4", "1"),
    ]
    assert re.search(r"^60 → 1: 0\.4\d+, retrieval.f1 0.62, expected 0\.\d+ ± 0\.\d+, cost 467$", first, re.M)  # fmt: skip
    untried = re.findall(r"^untried (\d+) → (\d+): expected [\d.]+ ± [\d.]+, cost (\d+)$", first, re.M)  # fmt: skip
    assert len(untried) >= 4, "one of each combination at least"
    assert all(int(cost) <= 1000 for _, _, cost in untried)
    assert first.index("analysis") < first.index('"guidelines"') < first.index('"reason"')
    assert first.index('"reason"') < first.index('"predicted_score"')


def test_the_next_one_says_what_became_of_the_proposals_and_what_is_under_way(asked):
    (first, second), offers, transcript, archive = asked
    assert "last proposals" not in first
    assert re.search(r"qwen-72b×4 → llama-3b×1: tried, score 0\.\d+ \(you predicted 0.61, the surrogate then 0\.\d+ ± 0\.\d+\)", second)  # fmt: skip
    assert re.search(r"qwen-7b×1 → llama-3b×1: passed over as worth less .*; now expected 0\.\d+ ± 0\.\d+, the best tried 0\.\d+\)", second)  # fmt: skip
    assert "Of your 1 predictions that were tried, the typical error is" in second
    assert "They do not bind" in second
    assert "- answer: llama-3b is flat" in second
    assert 'Being tried already: {"retrieval": {"model": "qwen-7b", "samples": 9}' in second
    assert [len(offer.proposals) for offer in offers] == [2, 1]
    assert offers[0].own == 1
    assert not offers[0].preferred, "its say has to be earned"
    assert archive.guidelines == ["answer: llama-3b is flat"]
    [decision, _] = next(e for e in transcript.events if e["event"] == "proposals")["decisions"]
    assert decision["predicted"] == pytest.approx(0.61)
    assert 0 < decision["expected"][0] < 1
    assert decision["expected"][1] > 0


@pytest.mark.parametrize("scale", [(1000.0, 300.0), (0.999, 0.001), (-1e4, 2000.0)])
def test_scores_are_shown_as_finely_as_they_are_known(scale):
    """Scores of all sizes, each with a standard error of a thousandth of their range."""
    archive = Archive(SPACE)
    for result in FIRST:
        value = scale[0] + scale[1] * result.score
        archive.add([replace(result, score=value, stderr=2e-4 * scale[1], metrics={})])
    groups = overview(archive, surrogate_of(archive), 100)["groups"]
    text = "\n".join(row for group in groups for row in group["rows"])
    shown = re.findall(r"^\d+ → \d+: ([-\d.]+), ", text, re.M)
    assert sorted(map(float, shown)) == pytest.approx(
        sorted(r.score for r in archive.scored), abs=1e-3 * scale[1]
    )
    assert "e+" not in text
    assert "e-" not in text


@pytest.mark.parametrize("method", ["agenttts", "agenttts_paper", "agenthpo", "mlcopilot", "llm_zs"])  # fmt: skip
def test_a_question_after_hundreds_of_trials_has_some_of_them(method):
    session = scripted_session([], then=batch_reply([allocation("qwen-72b", 3, "llama-3b", 2)], []))
    searcher = create(method, SPACE, 0, llm=session)
    picks = [("qwen-7b", 1 + n % 60, "llama-3b", 2 ** (n // 60)) for n in range(420)]
    searcher.tell(tried(*picks))
    searcher.propose(4)
    [*_, last] = [e for e in session.caller.transcript.events if e["event"] == "reply"]
    question = last["messages"][1]["content"]
    assert 100 <= question.count("\n") < 300
    if method not in ("agenttts", "llm_zs"):  # by expected scores, and without scores
        assert f"{max(r.score for r in searcher.archive.results):.3g}" in question


def test_the_overview_of_many_stages_has_some_of_their_combinations():
    models = tuple(Model(f"m{size}", size * 1e9) for size in (1, 3, 8, 20))
    space = SearchSpace(tuple(Stage(f"s{i}", models, 64, 32, (1, 2, 4)) for i in range(10)), 2000)
    rng, archive = random.Random(0), Archive(space)
    for _ in range(40):
        choices = [(rng.choice(models).name, rng.choice((1, 2, 4))) for _ in space.stages]
        archive.add([TrialResult(space.allocation(*choices), rng.random(), stderr=0.05)])
    found = overview(archive, surrogate_of(archive), 40)
    assert len(found["groups"]) == 40 + 8
    assert "4952 or more further combinations have no trial" in found["left_out"]
    fewer = overview(archive, surrogate_of(archive), 10)
    assert len(fewer["groups"]) == 10 + 8
    assert "30 combinations with worse trials are not shown" in fewer["left_out"]


def test_a_model_is_not_sent_an_empty_message():
    session = scripted_session(["", batch_reply([allocation("qwen-72b", 4, "llama-3b", 1)], [])])
    archive = Archive(SPACE)
    archive.add(FIRST)
    offer = LLMAgent(SPACE, 0, session).propose(4, archive, surrogate_of(archive))
    assert len(offer.proposals) == 1
    asked = [e for e in session.caller.transcript.events if e["event"] == "reply"]
    assert all(message["content"] for event in asked for message in event["messages"])


@pytest.mark.parametrize(("said", "predicted"), [("61 %", 61.0), (0.61, 61.0), (61, 61.0)])
def test_predictions_are_read_in_percent_if_the_scores_are(said, predicted):
    archive = Archive(SPACE)
    archive.add([replace(r, score=100 * r.score, stderr=5.0, metrics={}) for r in FIRST])
    one = allocation("qwen-72b", 4, "llama-3b", 1)
    session = scripted_session([batch_reply([one], [], said)])
    LLMAgent(SPACE, 0, session).propose(4, archive, surrogate_of(archive))
    [event] = [e for e in session.caller.transcript.events if e["event"] == "proposals"]
    assert event["decisions"][0]["predicted"] == pytest.approx(predicted)
    assert event["decisions"][0]["mean"] == pytest.approx(100 * fmean(r.score for r in FIRST))


@given(st.floats(0, 1), st.integers(0, 500), st.integers(1, 20))
def test_places_are_at_most_half_and_in_proportion_to_the_weight(weight, known, n):
    found = places(weight, known, n)
    assert 0 <= found <= (n + 1) // 2
    assert found == 0 if weight < 0.1 else abs(found - 0.5 * weight * n) < 1 + 1e-6
    assert places(0.0, known, n) == 0
    assert sum(places(weight, k, 1) for k in range(known, known + n)) == places(weight, known, n)


def test_one_place_in_ten_to_begin_with_and_half_of_them_at_most():
    assert places(PRIOR_WEIGHT, 6, 10) == 1
    assert places(1.0, 6, 10) == 5


def event(predictions, expected):
    """A `proposals` event of so many predictions, each of another allocation."""
    decisions = []
    for number, predicted in enumerate(predictions):
        one = SPACE.allocation(("qwen-7b", number + 1), ("llama-3b", 2))
        decisions.append(
            {"outcome": "valid", "allocation": one.to_records(), "notes": [], "predicted": predicted,
             "expected": [expected(number), 0.05], "best": 0.9}
        )  # fmt: skip
    return {"event": "proposals", "decisions": decisions}


def truth(number):
    return 0.3 + 0.02 * number


@pytest.fixture(scope="module")
def scored():
    archive = Archive(SPACE)
    picks = [("qwen-7b", number + 1, "llama-3b", 2) for number in range(8)]
    archive.add(tried(*picks, scored=lambda one: truth(one.choices[0].samples - 1)))
    return archive, surrogate_of(archive)


@pytest.mark.parametrize(
    ("predicted", "expected", "low", "high"),
    [
        (truth, lambda n: truth(n) + 0.25, 0.9, 1.0),  # sees what the surrogate does not
        (lambda n: 0.9 - 0.1 * n, truth, 0.0, 0.02),
        (lambda n: None, truth, 0.0, PRIOR_WEIGHT),  # says nothing
    ],
)
def test_the_weight_goes_to_who_predicts_better(scored, predicted, expected, low, high):
    archive, model = scored
    told = [event([predicted(n) for n in range(8)], expected)]
    assert low <= model_weight(told, archive, model) <= high
    assert model_weight([], archive, model) == PRIOR_WEIGHT


def test_picks_that_become_the_best_count(scored):
    archive, model = scored
    plain = event([truth(n) for n in range(8)], truth)
    hits = event([truth(n) for n in range(8)], truth)
    for decision in hits["decisions"][-2:]:
        decision["best"] = 0.2
    assert model_weight([hits], archive, model) > model_weight([plain], archive, model)


@pytest.mark.parametrize("seed", range(20))
def test_a_model_of_random_predictions_has_no_places_after_three_trials(scored, seed):
    archive, model = scored
    drawn = random.Random(seed)
    told = [event([drawn.random() for _ in range(3)], lambda n: truth(n) + drawn.gauss(0.0, 0.05))]
    weight = model_weight(told, archive, model)
    assert [places(weight, known, 10) for known in range(200)] == [0] * 200


@pytest.mark.parametrize("judged", [1, 3, 8])
@pytest.mark.parametrize("off", [0.0, 0.05, 0.25])
def test_a_model_as_good_as_the_surrogate_or_better_keeps_its_places(scored, judged, off):
    archive, model = scored
    alike = [event([truth(n) + off for n in range(judged)], lambda n: truth(n) + off)]
    assert model_weight(alike, archive, model) == pytest.approx(PRIOR_WEIGHT)
    better = [event([truth(n) for n in range(judged)], lambda n: truth(n) + off)]
    assert model_weight(better, archive, model) >= PRIOR_WEIGHT * (1 - 1e-9)


def test_a_model_whose_trials_fail_or_score_below_the_mean_has_no_places(scored):
    archive, model = scored
    after = Archive(SPACE)
    failing = [SPACE.allocation(("qwen-72b", 4), ("llama-3b", count)) for count in (1, 2, 4)]
    after.add([*archive.evaluated, *(TrialResult(one, None) for one in failing)])
    said = {"outcome": "valid", "notes": [], "predicted": 0.6, "expected": [0.6, 0.05], "best": 0.6}
    picks = [{**said, "allocation": one.to_records()} for one in failing]
    for count in (1, 2, 3):
        told = [{"event": "proposals", "decisions": picks[:count]}]
        assert places(model_weight(told, after, model), 20, 10) == 0
    lost = Archive(SPACE)
    lost.add([*archive.evaluated, TrialResult(failing[0], None, blamed=False)])
    told = [{"event": "proposals", "decisions": picks[:1]}]
    assert model_weight(told, lost, model) == PRIOR_WEIGHT
    bad = event([truth(0)], truth)
    bad["decisions"][0]["mean"] = truth(0) + 0.2
    assert places(model_weight([bad], archive, model), 20, 10) == 0


def test_a_proposal_made_in_several_batches_counts_once_as_said_last(scored):
    archive, model = scored
    first = event([0.9], lambda n: 0.9)
    last = event([truth(0)], lambda n: truth(n) + 0.1)
    for one in (first, last):
        one["decisions"][0]["best"] = 0.1
    once = model_weight([last], archive, model)
    assert once > PRIOR_WEIGHT
    assert model_weight([first, last, last, last], archive, model) == once


def test_luck_of_long_ago_expires(scored):
    archive, model = scored
    lucky = event([truth(n) for n in range(3)], truth)
    for decision in lucky["decisions"]:
        decision["best"] = 0.1
    later = TrialResult(SPACE.allocation(("qwen-72b", 1), ("llama-3b", 1)), 0.4, stderr=0.05)
    many = Archive(SPACE)
    many.add([*archive.evaluated, later])
    picks = [("qwen-7b", number + 1, "llama-3b", 4) for number in range(20)]
    many.add(tried(*picks, scored=lambda one: 0.4))
    decisions = [
        {"outcome": "valid", "allocation": SPACE.allocation(("qwen-7b", number + 1), ("llama-3b", 4)).to_records(),
         "notes": [], "predicted": 0.4, "expected": [0.4, 0.05], "best": 0.9}
        for number in range(20)
    ]  # fmt: skip
    dull = {"event": "proposals", "decisions": decisions}
    plain = event([truth(n) for n in range(3)], truth)
    assert model_weight([lucky, dull], many, model) == model_weight([plain, dull], many, model)


def test_a_score_of_examples_all_alike_is_not_exact():
    archive = Archive(SPACE)
    picks = [("qwen-7b", number + 1, "llama-3b", 2) for number in range(4)]
    archive.add([replace(result, stderr=0.06) for result in tried(*picks, scored=lambda one: 0.2)])
    none_right = SPACE.allocation(("qwen-7b", 9), ("llama-3b", 2))
    archive.add([TrialResult(none_right, 0.0, stderr=0.0)])
    model = surrogate_of(archive)
    assert standard_errors(model)[none_right] == pytest.approx(0.027, abs=0.001)
    decision = {"outcome": "valid", "allocation": none_right.to_records(), "notes": [], "predicted": 0.0,
                "expected": [0.1, 0.03], "best": 0.2}  # fmt: skip
    weight = model_weight([{"event": "proposals", "decisions": [decision]}], archive, model)
    assert weight < 0.9, "one score is little evidence"


def test_a_model_that_predicts_badly_is_asked_less_often():
    class Wrong:
        model = "wrong"
        asked = 0

        def complete(self, chat):
            from agenttts.search.llm.base import Reply

            self.asked += 1
            bad = allocation("qwen-7b", 1 + self.asked, "llama-3b", 1)
            return Reply(batch_reply([bad], [], 0.99))

        def close(self):
            return

    session = scripted_session([])
    session.caller.llm = Wrong()
    done, _ = run(session, trials=47, batch=4)
    own = [number for number, p in enumerate(done) if p.source == "agent"]
    assert len(own) <= 4
    assert all(number < 20 for number in own)
    assert session.caller.llm.asked <= 7, "of eleven batches"


def test_after_a_lost_line_a_restart_goes_on(tmp_path):
    """Of the lines before the last question only a lost decision changes it."""
    path = tmp_path / "agent.jsonl"
    told, searcher = run(scripted(path), trials=9)
    proposed = searcher.propose(6)
    lines = path.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["event"] for line in lines]
    for lost in (None, kinds.index("sketch"), len(kinds) - 1):
        kept = b"".join(line for number, line in enumerate(lines) if number != lost)
        again = tmp_path / f"{lost}.jsonl"
        again.write_bytes(kept)
        session = scripted(again)
        before = session.caller.transcript.calls
        resumed = create("agenttts", SPACE, 3, llm=session)
        resumed.tell([TrialResult(p.allocation, score(p.allocation)) for p in told])
        assert resumed.propose(6) == proposed
        assert session.caller.transcript.calls == before
    assert Transcript(path).events[-1]["event"] == "proposals"


def test_the_schema_takes_a_reply_in_the_order_of_thought():
    jsonschema = pytest.importorskip("jsonschema")
    schema = Prompts(SPACE, TASK_DESCRIPTION).batch_schema(2, 5)
    assert list(schema["properties"]) == ["analysis", "guidelines", "allocations"]
    item = schema["properties"]["allocations"]["items"]
    assert list(item["properties"]) == ["reason", "retrieval", "answer", "predicted_score"]
    reply = json.loads(batch_reply([allocation("qwen-7b", 1, "llama-3b", 64)], ["g"]))
    jsonschema.validate(reply, schema)
    del reply["allocations"][0]["predicted_score"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(reply, schema)


def test_half_a_character_in_a_reply_does_not_end_the_search():
    reply = batch_reply(
        [allocation("qwen-72b", 4, "llama-3b", 1), allocation("opus?", 1, "llama-3b", 1)],
        ["More ? samples."],
        "61 %",
    ).replace("?", "\\ud83d")
    session = scripted_session([reply, batch_reply([allocation("qwen-72b", 3, "llama-3b", 2)], [])])
    archive, agent = Archive(SPACE), LLMAgent(SPACE, 0, session)
    archive.add(FIRST)
    agent.propose(10, archive, surrogate_of(archive))
    archive.add(tried(("qwen-72b", 4, "llama-3b", 1)))
    agent.propose(10, archive, surrogate_of(archive))
    replies = [e for e in session.caller.transcript.events if e["event"] == "reply"]
    second = replies[1]["messages"][1]["content"]
    assert "- More samples." in second
    assert "1 more could not be used" in second
    assert archive.guidelines == ["More samples."]


def test_what_an_earlier_version_kept_of_half_a_character_can_be_asked():
    prompts, problem = Prompts(SPACE, TASK_DESCRIPTION), "'x\ud83d' is not a model"
    chat = prompts.chat("propose", "again", problem=problem, n=1, form="_format")
    assert "'x?' is not a model" in chat.messages[1]["content"]
    assert len(chat.key) == 16
