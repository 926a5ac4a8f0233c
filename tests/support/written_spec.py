"""A job spec written out, without a file."""

from __future__ import annotations

from pathlib import Path

from agenttts.spec import JobSpec, parse_spec

GOOD = """\
name: two-stage
task: {name: retrieval_qa, examples: 50}
stages:
  retrieval: {models: [small, large], prompt_tokens: 2048, decode_tokens: 128, samples: [1, 100]}
  answer: {models: [small, large], prompt_tokens: 256, decode_tokens: 64, samples: {values: [1, 2, 8]}}
models:
  small: {path: ./models/small, params: 7e9, gpus: 1}
  large: {path: org/large, params: 72e9}
search: {budget: 1000, seed: 3}
"""


def parse(text: str, *overrides: str) -> JobSpec:
    """The spec in a text, as if it were in job.yaml."""
    return parse_spec(text, "job.yaml", Path("/base"), overrides)
