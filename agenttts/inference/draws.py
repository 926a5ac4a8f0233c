"""What is asked of a sampler, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from agenttts.inference.base import Prompt, SamplingParams
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.store import StoredSample
from agenttts.replies import Thinking, remove_thinking


@dataclass(frozen=True)
class DrawRequest:
    """A request for samples 0..k-1 of each prompt, from one model.

    If other processes need the same samples, ``partition`` is the share that this process draws
    first. ``trial`` is the name of the trial; it is used only in reports of progress.
    """

    model: str
    prompts: Sequence[Prompt]
    params: SamplingParams
    k: int
    partition: SamplePartition = ALONE
    trial: str = ""

    @property
    def distinct(self) -> int:
        """How many samples of a prompt are drawn: one at temperature 0, else k."""
        return self.k if self.params.temperature > 0 else 1


@dataclass(frozen=True)
class DrawResult:
    """The k samples of one prompt.

    Attributes:
        texts: The samples without the model's thinking.
        prompt_tokens: Tokens of the prompt, counted once.
        decode_tokens: Tokens of the k samples. At temperature 0 they are those of one sample.
        reused_tokens: Tokens of the samples that were not drawn for this result, but found in the
            store or drawn for an equal prompt. The prompt's tokens are included if no sample was
            drawn, or if they count as computed for an equal prompt of the same call.
        truncated: Whether the prompt was shortened for the model's context.
        cut: Number of samples that ended at ``max_tokens``.
    """

    texts: tuple[str, ...]
    prompt_tokens: int
    decode_tokens: int
    reused_tokens: int
    truncated: bool
    cut: int = 0

    @property
    def new_tokens(self) -> int:
        """The tokens that were computed for this result."""
        return self.prompt_tokens + self.decode_tokens - self.reused_tokens


@dataclass(frozen=True)
class Drawn:
    """The result of a `DrawRequest`: one `DrawResult` per prompt, in order.

    The wall seconds of a call of `Sampler.draw_together` are divided among its requests by the
    tokens computed for each. ``load_seconds`` and ``generate_seconds`` are this request's share.
    Engine starts count for the first request for which tokens were computed.
    """

    results: list[DrawResult]
    load_seconds: float = 0.0
    generate_seconds: float = 0.0
    engine_starts: int = 0


def result_of(
    samples: Sequence[StoredSample],
    drawn: Set[int],
    thinking: Thinking | None,
    *,
    new_prompt: bool,
    repeats: int,
) -> DrawResult:
    """Return the result of one prompt.

    Args:
        samples: Its samples.
        drawn: The indices of the samples that were drawn for this result.
        thinking: The markers of the model's thinking.
        new_prompt: Whether the prompt's tokens count as computed for this result.
        repeats: How often the samples are repeated in the result.
    """
    prompt_tokens = samples[0].prompt_tokens
    reused = sum(sample.decode_tokens for sample in samples if sample.index not in drawn)
    return DrawResult(
        texts=tuple(remove_thinking(sample.text, thinking) for sample in samples) * repeats,
        prompt_tokens=prompt_tokens,
        decode_tokens=sum(sample.decode_tokens for sample in samples),
        reused_tokens=reused + (0 if new_prompt else prompt_tokens),
        truncated=any(sample.truncated for sample in samples),
        cut=sum(sample.finish_reason == "length" for sample in samples) * repeats,
    )
