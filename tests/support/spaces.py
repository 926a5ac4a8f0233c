"""Hypothesis strategies for search spaces with a feasible allocation at least."""

from __future__ import annotations

from hypothesis import strategies as st

from agenttts.space import Model, SearchSpace, Stage

SIZES = (1e9, 3e9, 8e9, 70e9)
# In no order of size.
THREE_MODELS = (Model("l", 70e9), Model("s", 3e9), Model("m", 8e9))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """1 to 3 stages, each with its own 1 to 3 models, sample counts (also repeated ones) and
    tokens.
    """
    stages = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3, unique=True))
        counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
        models = tuple(Model(f"m{size / 1e9:.0f}", size) for size in sizes)
        prompt, decode = draw(st.sampled_from([(128, 64), (2048, 128), (1024, 512), (16, 8)]))
        stages.append(Stage(name, models, prompt, decode, tuple(counts)))
    return _within_reach(draw, stages, 2000)


@st.composite
def equal_stage_spaces(draw: st.DrawFn) -> SearchSpace:
    """1 to 3 stages with the same three models and the same sample counts."""
    counts = tuple(draw(st.lists(st.integers(1, 60), min_size=1, max_size=6)))
    number = draw(st.integers(1, 3))
    stages = [Stage(name, THREE_MODELS, 256, 64, counts) for name in "abc"[:number]]
    return _within_reach(draw, stages, 900)


@st.composite
def small_medium_large_spaces(draw: st.DrawFn) -> SearchSpace:
    """1 to 3 stages, each with some of the models ``s``, ``m`` and ``l`` and any tokens and
    counts.
    """
    models = (Model("s", 1e9), Model("m", 8e9), Model("l", 70e9))
    stages = [
        Stage(
            f"stage{i}",
            tuple(m for m in models if draw(st.booleans())) or models[:1],
            draw(st.integers(1, 3000)),
            draw(st.integers(1, 2000)),
            tuple(draw(st.sets(st.integers(1, 200), min_size=1, max_size=8))),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    return _within_reach(draw, stages, 2000)


def _within_reach(draw: st.DrawFn, stages: list[Stage], most: float) -> SearchSpace:
    """The space of these stages with the least budget that any allocation takes, plus up to
    ``most`` units.
    """
    cheapest = [(stage, stage.cheapest) for stage in stages]
    least = sum(stage.budget(choice.model, choice.samples) for stage, choice in cheapest)
    return SearchSpace(tuple(stages), least + draw(st.floats(0, most)))
