"""The contract of `agenttts.search.base.Searcher`, for every registered searcher."""

import random
from functools import cache

import pytest

from agenttts.errors import UserError
from agenttts.search import SEARCHERS, TrialResult, create, seed_role
from agenttts.search.agenttts import AgentTTSSearcher
from agenttts.search.feasible import FeasibleSet
from agenttts.search.llm.baselines import LLMSearcher
from agenttts.search.optuna_search import OptunaGPSearcher
from agenttts.space import Model, SearchSpace, Stage

SMALL, MIDDLE, LARGE = Model("s", 3e9), Model("m", 8e9), Model("l", 70e9)
RANGE = tuple(range(1, 41))


def stage(name, *models, samples=RANGE):
    return Stage(name, models, 256, 64, samples)


SPACES = {
    "two stages": SearchSpace((stage("a", SMALL, LARGE), stage("b", SMALL, MIDDLE, LARGE)), 300),
    # 23,802 allocations: more than the searchers that model scores take as they are.
    "three stages": SearchSpace(
        tuple(stage(name, SMALL, LARGE, samples=tuple(range(1, 21))) for name in "abc"), 400
    ),
    "one stage": SearchSpace((stage("a", SMALL, MIDDLE, LARGE),), 200),
    "single-model stages": SearchSpace((stage("a", SMALL), stage("b", SMALL)), 60),
    "explicit values": SearchSpace(
        (stage("a", SMALL, LARGE, samples=(1, 4, 16)), stage("b", SMALL, LARGE, samples=(2, 8))),
        350,
    ),
    "few feasible": SearchSpace((stage("a", SMALL, LARGE), stage("b", SMALL, LARGE)), 8.2),
    "one feasible": SearchSpace((stage("a", SMALL), stage("b", SMALL)), 6),
    "least count 4": SearchSpace(
        (stage("a", SMALL, LARGE, samples=(4, 90)), stage("b", SMALL, samples=(70, 80))), 200
    ),
}

SIZES = {name: len(FeasibleSet(space)) for name, space in SPACES.items()}

# Optuna's process takes a second a proposal, and five of them where few allocations are within the
# budget: two proposals after its five random trials, and one space; another, which is exhausted.
# What differs between spaces, `optuna_tpe` shares with it.
SLOW = {"optuna_gp"}
SPACE_OF_SLOW, EXHAUSTED_BY_SLOW = "explicit values", "few feasible"


@pytest.fixture(autouse=True, scope="module")
def _fewer_starts_of_optuna_gp():
    """Optuna's search for the best point under its model takes most of a proposal's time; two
    starts in place of ten.
    """
    made = OptunaGPSearcher._sampler

    def sampler(self, seed):
        made_one = made(self, seed)
        assert made_one._n_local_search == 10
        assert made_one._n_preliminary_samples == 2048
        made_one._n_local_search, made_one._n_preliminary_samples = 2, 128
        return made_one

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(OptunaGPSearcher, "_sampler", sampler)
        yield


def trials(method, usual):
    return min(usual, 7) if method in SLOW else usual


def group(method):
    """The tests of one searcher share its histories and what it imports, so one worker has them."""
    return pytest.mark.xdist_group(f"searcher-{method}")


def cases(most=None):
    """Every searcher on its spaces; with ``most``, on those of at most so many allocations."""
    return [
        pytest.param(method, space, id=f"{method}-{name}", marks=group(method))
        for method in sorted(SEARCHERS)
        for name, space in SPACES.items()
        if (method not in SLOW or name == (EXHAUSTED_BY_SLOW if most else SPACE_OF_SLOW))
        and (most is None or SIZES[name] <= most)
    ]


def make(method, space, seed=0):
    if method == "grid":
        return create(method, space, seed, most=200_000)
    return create(method, space, seed)


def usual(method):
    """The space of rules that hold in any: the small one for a slow searcher."""
    return SPACES[SPACE_OF_SLOW if method in SLOW else "two stages"]


def searchers(*methods):
    return [pytest.param(method, id=method, marks=group(method)) for method in methods]


every_searcher = pytest.mark.parametrize("method", searchers(*sorted(SEARCHERS)))
every_case = pytest.mark.parametrize(("method", "space"), cases())


def test_the_table_names_every_searcher_as_its_class_does():
    assert {name: kind.name for name, kind in SEARCHERS.items()} == {
        name: name for name in SEARCHERS
    }
    asking = {name for name, kind in SEARCHERS.items() if issubclass(kind, LLMSearcher)}
    assert asking == {name for name, kind in SEARCHERS.items() if kind.asks_llm == "needs"}
    agents = {name for name, kind in SEARCHERS.items() if issubclass(kind, AgentTTSSearcher)}
    assert agents == {name for name, kind in SEARCHERS.items() if kind.asks_llm == "takes"}


def score(allocation):
    value = 0.2
    for choice in allocation.choices:
        start = {"s": 0.2, "m": 0.3, "l": 0.45}[choice.model]
        value *= 1 + start + 0.4 * (1 - choice.samples**-0.8)
    return value


def result(allocation, failed=False):
    if failed:
        return TrialResult(allocation, None)
    metrics = {f"{c.stage}.f1": 1 - 1 / c.samples for c in allocation.choices}
    return TrialResult(allocation, score(allocation), metrics)


def run(searcher, trials, batch, fail=lambda allocation: False):
    asked = []
    while len(asked) < trials:
        batch_asked = searcher.ask(min(batch, trials - len(asked)))
        if not batch_asked:
            break
        asked += batch_asked
        searcher.tell([result(a, fail(a)) for a in batch_asked])
    return asked


@cache
def history(method, space, seed, trials, batch):
    """What a searcher asks for in this search, which several tests look at."""
    return run(make(method, space, seed), trials, batch)


@every_case
@pytest.mark.parametrize(("batch", "most"), [(1, 12), (7, 28)])
def test_feasible_new_and_full_batches(method, space, batch, most):
    size = len(FeasibleSet(space))
    most = trials(method, most)
    asked = history(method, space, 1, most, batch)
    assert len(asked) == min(most, size)
    assert len(set(asked)) == len(asked)
    assert all(space.violation(allocation) is None for allocation in asked)


@pytest.mark.parametrize(("method", "space"), cases(most=150))
def test_stops_cleanly_when_exhausted(method, space):
    size = len(FeasibleSet(space))
    searcher = make(method, space)
    assert set(run(searcher, size + 5, 4)) == set(space.feasible())
    assert searcher.ask(3) == []
    assert searcher.best() in space


@every_case
def test_deterministic_under_a_seed(method, space):
    most = trials(method, 28)
    assert run(make(method, space, 1), most, 7) == history(method, space, 1, most, 7)


@every_searcher
def test_the_seed_matters(method):
    space, most = usual(method), trials(method, 28)
    assert run(make(method, space, 2), most, 7) != history(method, space, 1, most, 7)


@every_searcher
def test_what_the_seed_decides_is_said(method):
    for space in SPACES.values():
        role = seed_role(make(method, space), llm=False)
        assert role
        assert "\n" not in role


@pytest.mark.parametrize("name", ["one stage", "explicit values"])
def test_agenttts_in_a_small_space_is_deterministic_and_says_so(name):
    space = SPACES[name]
    first, second = (make("agenttts", space, seed) for seed in (1, 2))
    assert "only ties and explorations" in seed_role(first, llm=False)
    assert run(first, 14, 4) == run(second, 14, 4)


def test_agenttts_in_a_large_space_draws_what_it_compares_by_the_seed():
    space = SPACES["two stages"]
    first, second = (make("agenttts", space, seed) for seed in (1, 2))
    assert "which 700 of the feasible allocations" in seed_role(first, llm=False)
    begin = first.initial_batch
    assert run(first, begin, begin) == run(second, begin, begin)
    assert run(first, 30, 5) != run(second, 30, 5)


def test_without_insight_1_the_seed_draws_the_initial_trials():
    space = SPACES["one stage"]
    first, second = (create("agenttts", space, seed, insights=[2, 3]) for seed in (1, 2))
    assert seed_role(first, llm=False).startswith("the initial trials")
    assert first.initial != second.initial


def test_with_a_language_model_the_seed_is_also_that_of_its_questions():
    searcher = make("agenttts", SPACES["one stage"])
    said = seed_role(searcher, llm=True)
    assert said.startswith("the seed of every call of the language model")
    assert said.endswith(seed_role(searcher, llm=False))
    assert seed_role(make("random", SPACES["one stage"]), llm=True) == "every allocation"


@every_case
def test_tells_may_come_out_of_order_and_partly_failed(method, space):
    rng = random.Random(3)
    searcher = make(method, space)
    asked, waiting = [], []
    rounds = trials(method, 24) // 4
    for _ in range(rounds):
        batch = searcher.ask(4)
        asked += batch
        waiting += batch
        rng.shuffle(waiting)
        told, waiting = waiting[:3], waiting[3:]
        searcher.tell([result(a, failed=rng.random() < 0.3) for a in told])
    assert len(asked) == len(set(asked)) == min(4 * rounds, len(FeasibleSet(space)))
    tried, best = searcher.best(tried=True), searcher.best()
    assert tried is None or tried in asked
    assert (best is None) == (tried is None)
    assert best is None or best in space


@every_searcher
def test_the_order_within_a_batch_does_not_matter(method):
    space = usual(method)
    ahead, behind = make(method, space, 2), make(method, space, 2)
    for _ in range(3):
        asked = ahead.ask(trials(method, 18) // 3)
        assert behind.ask(len(asked)) == asked
        ahead.tell([result(a) for a in asked])
        behind.tell([result(a) for a in reversed(asked)])
    assert ahead.best() == behind.best()


@every_case
@pytest.mark.parametrize("done", [2, 11])
def test_a_restart_from_the_archive_goes_on_as_before(method, space, done):
    old = make(method, space, 4)
    done = trials(method, done)
    asked = run(old, done, 3)
    out = old.ask(1 if method in SLOW else 3)
    new = make(method, space, 4)
    new.tell([result(a) for a in asked])
    new.add_pending(out)
    assert new.best() == old.best()
    more = 1 if method in SLOW else 5
    following = new.ask(more)
    assert following == old.ask(more)
    assert not set(following) & {*asked, *out}


@every_case
@pytest.mark.parametrize("done", [0, 6])
def test_asked_again_while_everything_is_pending(method, space, done):
    """Without a single result in between: all new, until the space is exhausted."""
    searcher = make(method, space, 2)
    asked = run(searcher, done, 3)
    most = min(len(FeasibleSet(space)), len(asked) + (3 if method in SLOW else 15))
    while len(asked) < most:
        more = searcher.ask(min(4, most - len(asked)))
        assert more
        assert not set(more) & set(asked)
        assert all(allocation in space for allocation in more)
        asked += more
    assert set(searcher.archive.pending) == set(asked[done:])
    if most == len(FeasibleSet(space)):
        assert searcher.ask(1) == []
    assert searcher.best(tried=True) in asked[:done] or (done == 0 and searcher.best() is None)


# Small enough for every searcher to compare all of it: what it draws of a larger one depends on the
# ask.
ALL_COMPARED = SearchSpace(
    (
        stage("a", SMALL, LARGE, samples=(1, 4, 16, 32)),
        stage("b", SMALL, LARGE, samples=(2, 8, 24)),
    ),
    1200,
)


@every_searcher
def test_pending_trials_are_valued_like_those_of_the_same_batch(method):
    """Asked in parts, without results in between, a searcher proposes what it would have
    proposed at once.
    """
    # Ten trials: past the initial ones of every searcher.
    tried = make("random", ALL_COMPARED, 1).ask(10)
    at_once, in_parts = make(method, ALL_COMPARED, 2), make(method, ALL_COMPARED, 2)
    for searcher in (at_once, in_parts):
        searcher.tell([result(allocation) for allocation in tried])
    parts = (1, 1) if method in SLOW else (1, 2, 3)
    asked = [allocation for size in parts for allocation in in_parts.ask(size)]
    assert asked == at_once.ask(sum(parts))


@pytest.mark.parametrize("method", ["agenttts", "gp"])
def test_a_model_of_the_scores_knows_what_is_pending(method):
    """What is out is not merely excluded: its neighbours are worth less than where nothing is
    out.
    """
    space = SPACES["two stages"]
    tried = make("random", space, 1).ask(12)

    def asked(pending):
        searcher = make(method, space, 2)
        searcher.tell([result(allocation) for allocation in tried])
        searcher.add_pending(pending)
        return searcher.ask(1)[0]

    first = asked([])
    counts = [choice.samples for choice in first.choices]
    models = [choice.model for choice in first.choices]
    beside = [
        allocation
        for allocation in space.feasible()
        if [choice.model for choice in allocation.choices] == models
        and 0
        < max(abs(c.samples - n) for c, n in zip(allocation.choices, counts, strict=True))
        <= 2
    ]
    assert beside
    assert asked(beside) != first


@every_searcher
def test_pending_trials_may_be_registered_in_any_order_and_told_late(method):
    space = usual(method)
    searcher = make(method, space, 4)
    done = run(searcher, 6, 3)
    out = searcher.ask(2 if method in SLOW else 5)
    again = make(method, space, 4)
    again.add_pending([*reversed(out), *done])
    again.tell([result(allocation) for allocation in done])
    assert again.archive.pending == searcher.archive.pending == tuple(sorted(out))
    size = 1 if method in SLOW else 4
    more = searcher.ask(size)
    assert again.ask(size) == more
    # A lost trial is not pending any more, and free to be proposed; one that was told stays told.
    for one in (searcher, again):
        one.tell([TrialResult(out[0], None, blamed=False), *(result(a) for a in more)])
        one.add_pending(more)
        assert one.archive.pending == tuple(sorted(out[1:]))
        assert out[0] not in one.archive
    assert searcher.ask(size) == again.ask(size)


@every_searcher
def test_all_failed(method):
    space = SPACES["two stages"]
    searcher = make(method, space)
    asked = run(searcher, 20, 5, fail=lambda allocation: True)
    assert len(set(asked)) == 20
    assert searcher.best() is None


# Searchers that model scores, and so could take what never scores for what is not known yet.
MODELS_SCORES = ("agenttts", "gp", "optuna_gp", "optuna_tpe")

# Where trials always fail: a combination no engine runs, a model that never fits, samples that run
# out of memory.
FAILING = {
    "a combination": lambda a: (a.choices[0].model, a.choices[1].model) == ("l", "s"),
    "a model": lambda a: a.choices[0].model == "l",
    "large samples": lambda a: a.choices[0].samples > 5,
}


@pytest.mark.parametrize("method", searchers(*(m for m in MODELS_SCORES if m not in SLOW)))
@pytest.mark.parametrize(
    ("batch", "fails"),
    [
        pytest.param(batch, FAILING[name], id=f"{batch}-{name}")
        for batch, name in [
            (1, "a combination"),
            (5, "a combination"),
            (5, "a model"),
            (1, "large samples"),
        ]
    ],
)
def test_what_keeps_failing_is_left_alone(method, batch, fails):
    asked = run(make(method, SPACES["two stages"], 1), 25, batch, fails)
    assert len(set(asked)) == 25
    assert sum(map(fails, asked[10:])) <= 5


@pytest.mark.parametrize("method", searchers(*sorted(SLOW)))
def test_what_keeps_failing_is_left_alone_after_trials_of_others(method):
    """The same of a slow searcher, told of ten trials instead of proposing them."""
    space, fails = SPACES["two stages"], FAILING["a model"]
    done = make("random", space, 1).ask(10)
    assert 2 <= sum(map(fails, done)) <= 8
    searcher = make(method, space, 1)
    searcher.tell([result(allocation, fails(allocation)) for allocation in done])
    asked = searcher.ask(4)
    assert len({*asked, *done}) == 14
    assert sum(map(fails, asked)) <= 1


@pytest.mark.parametrize("method", searchers(*(m for m in MODELS_SCORES if m not in SLOW)))
def test_one_failed_trial_closes_nothing(method):
    """Its combination is tried again."""
    searcher = make(method, SPACES["two stages"], 1)
    unlucky = searcher.ask(1)[0]
    searcher.tell([result(unlucky, failed=True)])
    asked = run(searcher, 25, 1)
    models = [choice.model for choice in unlucky.choices]
    assert any([c.model for c in a.choices] == models for a in asked)


@every_searcher
def test_zero_is_a_score(method):
    space = usual(method)
    searcher = make(method, space)
    asked = searcher.ask(1)
    searcher.tell([TrialResult(asked[0], 0.0)])
    assert searcher.best() == asked[0]
    for _ in range(trials(method, 25) // 5):
        batch = searcher.ask(5)
        searcher.tell([TrialResult(a, 0.0) for a in batch])
    assert searcher.best() in space


@every_searcher
def test_results_never_asked_for_and_outside_the_space(method):
    space = SPACES["two stages"]
    wide = SearchSpace(space.stages, 3000)
    dear = wide.allocation(("l", 20), ("l", 5))
    mine = space.allocation(("s", 3), ("m", 3))
    searcher = make(method, space)
    searcher.tell([TrialResult(dear, 0.9), TrialResult(mine, 0.1)])
    assert searcher.best() == mine
    assert mine not in run(searcher, trials(method, 30), 5)


@every_searcher
def test_asking_for_none(method):
    assert make(method, SPACES["two stages"]).ask(0) == []


@every_searcher
def test_proposals_say_where_they_come_from_and_why(method):
    searcher = make(method, usual(method))
    for _ in range(3):
        for proposal in searcher.propose(trials(method, 18) // 3):
            assert proposal.source in {
                *("initial", "insight", "explore", "random", "model", "genetic", "grid")
            }
            assert proposal.reason
            assert "\n" not in proposal.reason
            searcher.tell([result(proposal.allocation)])


def test_unknown_names_and_options_list_the_valid_ones():
    space = SPACES["two stages"]
    with pytest.raises(UserError, match="'agentts'; valid: agenttts, .*random.*did you mean"):
        create("agentts", space)
    with pytest.raises(UserError, match="no option 'insight'.*did you mean 'insights'"):
        create("agenttts", space, insight=[1])
    with pytest.raises(UserError, match="no option 'x'; valid: \\(none\\)"):
        create("random", space, x=1)
    with pytest.raises(
        UserError, match=r"^options.insights\[1\]: 4 is not valid; valid: a list of 1, 2, 3"
    ):
        create("agenttts", space, insights=[1, 4])


def test_options_out_of_range():
    space = SPACES["two stages"]
    with pytest.raises(UserError, match="options.population: 1 is not valid; valid: 2 or more"):
        create("genetic", space, population=1)
    with pytest.raises(UserError, match="options.mutation: 1.5 is not valid; valid: a chance"):
        create("genetic", space, mutation=1.5)
    with pytest.raises(UserError, match="options.initial: 0 is not valid; valid: 1 or more"):
        create("gp", space, initial=0)


@pytest.mark.parametrize("score", [0.0, 0.1, 0.3, 0.6, 70.1])
def test_of_equal_scores_gp_recommends_the_cheapest(score):
    space = SPACES["two stages"]
    searcher, tried = create("gp", space), create("random", space, 3).ask(13)
    searcher.tell([TrialResult(allocation, score) for allocation in tried])
    assert space.cost(searcher.best()) == min(map(space.cost, tried))


@every_searcher
def test_scores_too_large_to_be_squared_do_not_count(method):
    space = SPACES["two stages"]
    searcher, tried = make(method, space), create("random", space, 3).ask(8)
    scores = [1e200, -1e200, *(score(allocation) for allocation in tried[2:])]
    searcher.tell([TrialResult(*one, {"a.f1": one[1]}) for one in zip(tried, scores, strict=True)])
    assert len(searcher.ask(3)) == 3
    assert searcher.best() in tried[2:]


@pytest.mark.parametrize("method", ["agenttts", "gp"])
@pytest.mark.parametrize("outlier", [-1e6, -1e12])
def test_one_very_low_score_does_not_make_the_others_equal(method, outlier):
    space = SPACES["two stages"]
    searcher, tried = create(method, space), create("random", space, 3).ask(20)
    scores = [100.0 * score(allocation) - 80.0 for allocation in tried]
    best = scores.index(max(scores))
    scores[best - 1] = outlier
    searcher.tell([TrialResult(*one, stderr=0.5) for one in zip(tried, scores, strict=True)])
    assert searcher.archive.best().allocation == tried[best]
    second = sorted(scores)[-2]
    assert scores[tried.index(searcher.best())] >= second
    assert tried[best - 1] not in searcher.ask(10)


def test_grid_refuses_a_large_space():
    with pytest.raises(
        UserError, match=r"all [\d,]+ feasible allocations, .* at most 50; .*values:"
    ):
        create("grid", SPACES["two stages"], most=50)


@every_searcher
def test_a_failure_that_was_not_the_allocation_s_says_nothing(method):
    """A node died, say: the searcher goes on as if it had never asked, and may ask again."""
    space = SPACES["few feasible"]
    searcher = make(method, space, 2)
    first = searcher.ask(4)
    searcher.tell([TrialResult(a, None, blamed=False) for a in first])
    assert len(searcher.archive.known) == 0
    assert not searcher.archive.results
    assert searcher.ask(4) == first
    searcher.tell([result(a) for a in first])
    searcher.tell([TrialResult(a, None, blamed=False) for a in first])
    assert {r.allocation for r in searcher.archive.results if r.score is not None} == set(first)
    assert not set(searcher.ask(2)) & set(first)


@every_searcher
@pytest.mark.parametrize("batch", [1, 3])
def test_the_users_own_allocations_come_first_and_once(method, batch):
    space = SPACES["explicit values"]
    own = (space.allocation(("s", 16), ("s", 8)), space.allocation(("l", 1), ("s", 2)))
    plain, searcher = make(method, space), make(method, space)
    searcher.first = own
    initial = set(plain.ask(plain.initial_batch))
    assert searcher.initial_batch == len(initial.union(own))
    asked = []
    while len(asked) < 5:
        proposals = searcher.propose(batch)
        asked += proposals
        searcher.tell([result(p.allocation) for p in proposals])
    assert [p.allocation for p in asked[:2]] == list(own)
    assert [p.source == "first" for p in asked] == [True] * 2 + [False] * (len(asked) - 2)
    assert len({p.allocation for p in asked}) == len(asked)
    resumed = make(method, space)
    resumed.first = own
    resumed.add_pending(own[:1])
    assert resumed.ask(1) == [own[1]], "what is pending is not proposed again"


@every_searcher
def test_the_users_own_allocations_that_the_machine_lost_are_not_first_again(method):
    space = SPACES["explicit values"]
    own = (space.allocation(("s", 16), ("s", 8)), space.allocation(("l", 1), ("s", 2)))
    searcher = make(method, space)
    searcher.first = own
    assert [p.source for p in searcher.propose(2)] == ["first", "first"]
    searcher.tell([TrialResult(own[0], None, blamed=False), result(own[1])])
    assert "first" not in {p.source for p in searcher.propose(2)}
