"""How the tests load the real small model."""

from __future__ import annotations

# The model's own bfloat16 is emulated by processors without instructions for it (AVX2 alone).
# `test_the_main_job_with_real_vllm_and_a_real_model` has the project's own choice.
QUICK: dict[str, object] = {"dtype": "float32"}
