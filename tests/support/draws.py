"""Drawing the samples of one model, as most tests of the sampler do."""

from __future__ import annotations

from collections.abc import Sequence

from agenttts.inference.base import Prompt, SamplingParams
from agenttts.inference.draws import DrawRequest, DrawResult
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.sampler import Sampler


def draw_one(
    sampler: Sampler,
    model: str,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    k: int,
    partition: SamplePartition = ALONE,
) -> list[DrawResult]:
    """Return what one `DrawRequest` of these values asks for."""
    [drawn] = sampler.draw_together([DrawRequest(model, prompts, params, k, partition)])
    return drawn.results
