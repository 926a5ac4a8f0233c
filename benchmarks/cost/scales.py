"""The searches that are simulated: spaces of the project's own specs, synthetic scores."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agenttts.dispatch.sizing.model_size import ModelSize
from agenttts.search import create
from agenttts.space import Allocation, SearchSpace
from agenttts.spec import load_spec
from benchmarks.search.problems.surfaces import Curve, Surface

JOBS = Path(__file__).parents[2] / "jobs"

SIZES: Mapping[str, ModelSize] = {
    "qwen-7b": ModelSize(7.6e9, 5.6e9, 1, 28, 28 * 4 * 128 * 4),
    "qwen-32b": ModelSize(32.8e9, 19.3e9, 1, 64, 64 * 8 * 128 * 4),
    "qwen-72b": ModelSize(72.7e9, 41.3e9, 1, 80, 80 * 8 * 128 * 4),
    "llama-3b": ModelSize(3.2e9, 6.4e9, 1, 28, 28 * 8 * 128 * 4),
    "llama-8b": ModelSize(8.0e9, 16.1e9, 1, 32, 32 * 8 * 128 * 4),
    "llama-70b": ModelSize(70.6e9, 141e9, 4, 80, 80 * 8 * 128 * 4),
}
"""Parameters, bytes of weights (Qwen's: AWQ), GPUs of 80 GB, layers and KV bytes for one token.

Source: the models' public configurations."""


@dataclass(frozen=True)
class Scale:
    """A spec's search: its iterations of allocations, in order."""

    name: str
    space: SearchSpace
    examples: int
    fused: Mapping[str, float]
    iterations: tuple[tuple[Allocation, ...], ...]

    @property
    def tokens(self) -> dict[str, tuple[float, float]]:
        """Tokens of a prompt and of a sample, by stage."""
        return {s.name: (s.prompt_tokens, s.decode_tokens) for s in self.space.stages}

    @property
    def models(self) -> dict[str, ModelSize]:
        """The sizes of the models."""
        names = {model.name for stage in self.space.stages for model in stage.models}
        return {name: SIZES[name] for name in sorted(names)}

    @property
    def trials(self) -> int:
        """Number of trials."""
        return sum(map(len, self.iterations))


# Stages whose samples a further call of the model fuses; retrieval fuses by a vote.
FUSED = {
    "2wiki": ("answer",),
    "cwq": ("answer",),
    "taskbench-dailylife": ("decomposition", "tool_selection", "parameter_prediction"),
    "chatdev": (),
}


def searched(name: str, seed: int) -> Scale:
    """Run the spec's own searcher, without a language model, on a synthetic surface."""
    spec = load_spec(JOBS / f"{name}.yaml")
    space = spec.space()
    surface = surface_of(space, seed)
    examples = spec.task.examples or 50
    searcher = create("agenttts", space, seed)
    sizes = [searcher.initial_batch] if searcher.initial_batch else []
    sizes += [spec.search.batch_size] * spec.search.iterations
    iterations = []
    for size in sizes:
        asked = searcher.ask(size)
        searcher.tell([surface.trial(allocation, examples, 0) for allocation in asked])
        iterations.append(tuple(asked))
    fused = {
        stage.name: float(stage.decode_tokens)
        for stage in space.stages
        if stage.name in FUSED[name]
    }
    return Scale(name, space, examples, fused, tuple(iterations))


def surface_of(space: SearchSpace, seed: int) -> Surface:
    """Curves for the space's models, as in `benchmarks.search.problems.surfaces`."""
    rng = random.Random(f"cost/{seed}")
    curves = {}
    for stage in space.stages:
        hard = rng.random()
        sizes = [math.log(model.params) for model in stage.models]
        for model in stage.models:
            low, high = min(sizes), max(sizes)
            size = (math.log(model.params) - low) / max(high - low, 1e-9)
            floor = 0.15 + 0.45 * (1.0 - hard * (1.0 - size)) * rng.uniform(0.7, 1.1)
            top = floor + rng.uniform(0.05, 0.45) * (1.0 - 0.6 * size)
            fall = rng.choice((0.0, 0.0, rng.uniform(0.005, 0.04)))
            curves[stage.name, model.name] = Curve(
                floor, min(0.98, top), rng.uniform(0.4, 1.4), rng.uniform(4.0, 40.0), fall
            )
    needs = tuple(rng.uniform(0.3, 0.9) if index else 0.0 for index in range(len(space.stages)))
    return Surface(space, curves, needs, seed)
