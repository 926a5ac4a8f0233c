"""A zero-trial start: water-filling by the model's sketch of utility curves.

The idea is that of ZEBRA (arXiv 2605.20485).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from typing_extensions import override

from agenttts.errors import nearest_name
from agenttts.search.base import Proposal
from agenttts.search.llm.base import LLMError
from agenttts.search.llm.baselines import LLMSearcher
from agenttts.search.llm.caller import Caller
from agenttts.search.llm.prompts import Prompts
from agenttts.search.llm.reading import json_values, read_count, read_score
from agenttts.search.water_filling import Option, water_fill
from agenttts.space import Allocation, Choice, SearchSpace, Stage
from agenttts.spec.stage_names import folded

T = TypeVar("T")

Sketch = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By stage, model and number of samples: the expected utility of the stage's output, 0 to 1."""

# A stage that does nothing right is not worthless: sketches are guesses.
_LEAST_UTILITY = 0.02
# After the whole budget these shares of it are split as well.
_SHARES = (1.0, 0.5, 0.25)
# The most combinations of models by which a share is split: 0.3 ms each.
_MOST_COMBINATIONS = 20_000
_REASON = "the budget split by the model's sketch of utility curves"


def ask_sketch(caller: Caller, prompts: Prompts, space: SearchSpace, seed: int) -> Sketch | None:
    """Return the model's sketch; None if it gives none.

    It is asked once, also if the call fails: the transcript has the event ``sketch``.
    """
    counts = {stage.name: asked_counts(stage) for stage in space.stages}
    schema = prompts.sketch_schema(counts)
    chat = prompts.chat("sketch", "sketch", schema=schema, seed=seed, counts=counts)
    asked = caller.transcript.find("sketch", chat.key)
    if asked is not None and not asked["usable"]:
        return None
    try:
        sketch = read_sketch(caller.ask(chat).text, space)
        problem = None if sketch else "the reply has no curve for each stage"
    except LLMError as error:
        sketch, problem = None, f"{error.fault}: {error}"
    if asked is None:
        caller.transcript.add("sketch", key=chat.key, usable=sketch is not None, problem=problem)
    return sketch


def asked_counts(stage: Stage) -> tuple[int, ...]:
    """Return the numbers of samples at which a stage is sketched."""
    return stage.spread_samples(number=4)


def read_sketch(text: str, space: SearchSpace) -> Sketch | None:
    """Return the curves of a reply; None unless every stage has one. Never raises.

    Curves of unknown models are left out; a model without a curve is not used.
    """
    for value in json_values(text):
        found = _stages(value, space)
        if found is not None:
            return found
    return None


def planned(space: SearchSpace, sketch: Sketch) -> Iterator[Allocation]:
    """Yield the allocations that a sketch suggests, the most promising first.

    The first splits the whole budget over all models. One for each combination of models follows,
    by their worth, then the same of a half and a quarter of the budget. There may be thousands of
    combinations, so they are computed only for a caller that takes more than the first.
    """
    options = [_options(space, stage, sketch[stage.name]) for stage in space.stages]
    found: set[Allocation] = set()
    for splits in _splits(options, space.budget):
        for split in splits:
            allocation = Allocation(tuple(option.choice for option in split))
            if allocation in space and allocation not in found:  # not in it by rounding
                found.add(allocation)
                yield allocation


def _splits(
    options: Sequence[Sequence[Option[Choice]]], whole: float
) -> Iterator[list[Sequence[Option[Choice]]]]:
    """Yield the split of the whole budget, then those of each share, best first."""
    best = water_fill(options, whole)
    yield [] if best is None else [best]
    by_model: list[list[list[Option[Choice]]]] = []
    for stage in options:
        models = dict.fromkeys(option.choice.model for option in stage)
        by_model.append([[o for o in stage if o.choice.model == model] for model in models])
    for share in _SHARES:
        budget = share * whole
        fillings = [water_fill(options, budget)]
        fillings += [water_fill(own, budget) for own in _some_combinations(by_model)]
        fitting = [split for split in fillings if split is not None]
        yield sorted(fitting, key=lambda split: -math.fsum(option.worth for option in split))


def _some_combinations(parts: Sequence[Sequence[T]]) -> Iterator[list[T]]:
    """Yield one of each part, in every combination, or in some drawn ones of many."""
    total = math.prod(map(len, parts))
    numbers: Sequence[int] = range(total)
    if total > _MOST_COMBINATIONS:
        numbers = sorted(random.Random(0).sample(numbers, _MOST_COMBINATIONS))
    for rest in numbers:
        left, chosen = rest, []
        for part in reversed(parts):
            left, place = divmod(left, len(part))
            chosen.append(part[place])
        yield chosen[::-1]


class SketchSearcher(LLMSearcher):
    """Tries what the model's sketch suggests; the scores of trials change nothing."""

    name = "llm_sketch"

    @override
    def _written(self, n: int) -> list[Proposal]:
        assert self._session is not None
        caller, known = self._session.caller, self.archive
        return sketched(caller, self._prompts, self.space, self.seed, n, self.name, known)


def _options(
    space: SearchSpace, stage: Stage, curves: Mapping[str, Mapping[int, float]]
) -> list[Option[Choice]]:
    """Return a stage's choices; the worth is the log of the utility.

    A pipeline is about as good as the product of its stages.
    """
    choices = [Choice(stage.name, model, count) for model in curves for count in stage.samples]
    return [
        Option(space.choice_budget(c), math.log(_at(curves[c.model], c.samples)), c)
        for c in choices
    ]


def _at(curve: Mapping[int, float], samples: int) -> float:
    """Return a curve at a number of samples, linear in log(samples)."""
    points = sorted(curve)
    below = max((p for p in points if p <= samples), default=points[0])
    above = min((p for p in points if p >= samples), default=points[-1])
    share = math.log(samples / below) / math.log(above / below) if above > below else 0.0
    return max(_LEAST_UTILITY, curve[below] + share * (curve[above] - curve[below]))


def _stages(value: Any, space: SearchSpace, level: int = 0) -> Sketch | None:
    if not isinstance(value, dict) or level > 3:
        return None
    by_name = {folded(key): part for key, part in value.items()}
    found = {s.name: _curves(s, by_name.get(folded(s.name))) for s in space.stages}
    if all(found.values()):
        return found
    inner = (_stages(part, space, level + 1) for part in value.values())
    return next((sketch for sketch in inner if sketch is not None), None)


def _curves(stage: Stage, value: Any) -> dict[str, dict[int, float]]:
    curves: dict[str, dict[int, float]] = {}
    names = [model.name for model in stage.models]
    for key, part in value.items() if isinstance(value, dict) else ():
        name = key if key in names else nearest_name(str(key)[:100], names)
        if isinstance(part, list):
            part = dict(zip(asked_counts(stage), part, strict=False))
        points = _points(part) if isinstance(part, dict) else {}
        if name is not None and points:
            curves.setdefault(name, points)
    return curves


def _points(value: Mapping[Any, Any]) -> dict[int, float]:
    points: dict[int, float] = {}
    for key, part in value.items():
        count, utility = read_count(key), read_score(part)
        if count is not None and 1 <= count < 1e9 and utility is not None:
            points[int(count)] = utility
    high = max(points.values(), default=0.0)
    unit = 1.0 if high <= 1.0 else 100.0 if high <= 100.0 else high
    return {count: max(0.0, utility / unit) for count, utility in points.items()}


def sketched(
    caller: Caller,
    prompts: Prompts,
    space: SearchSpace,
    seed: int,
    n: int,
    source: str,
    known: Container[Allocation],
) -> list[Proposal]:
    """Return up to ``n`` proposals from the model's sketch that are not ``known``."""
    sketch = ask_sketch(caller, prompts, space, seed)
    plan = planned(space, sketch) if sketch else ()
    new = (allocation for allocation in plan if allocation not in known)
    return [Proposal(allocation, source, _REASON) for allocation in itertools.islice(new, n)]
