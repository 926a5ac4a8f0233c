"""What a searcher is told of the results that stored samples give."""

from agenttts.search.archive import Archive, TrialResult
from agenttts.search.stored import stored_trials
from agenttts.tables.stored_results import StoredResult
from tests.support.llm import SPACE


def test_metrics_of_stored_results_have_the_errors_of_their_trial():
    trial = TrialResult(
        SPACE.allocation(("qwen-7b", 8), ("llama-3b", 2)),
        0.5,
        {"retrieval.f1": 0.5, "answer.em": 0.5},
        stderr=0.1,
        examples={4: 1.0, 7: 0.0},
        metrics_stderr={"retrieval.f1": 0.125, "answer.em": 0.1},
    )
    stored = StoredResult((4, 2), 0.25, 0.2, {"retrieval.f1": 0.5}, (0.5, None))
    [told] = stored_trials(trial, [stored], SPACE, numbers=[4, 7])
    assert told.metrics_stderr == {"retrieval.f1": 0.125}
    assert (told.score, told.stderr, told.examples) == (0.25, 0.2, {4: 0.5})
    archive = Archive(SPACE)
    archive.add([trial, told])
    assert [one.stage_stderr("retrieval") for one in archive.scored] == [0.125, 0.125]
