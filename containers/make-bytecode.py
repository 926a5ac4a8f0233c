"""Makes the bytecode of what trials and engines import, in the environment that runs this.

`cpu.def` and `install-cpu.sh` run it once: an environment has 20,000 modules, and a run imports 5,000.
"""

import compileall
import importlib
import os
import re
import sys
import sysconfig
from pathlib import Path

IMPORTED = (
    "polars",
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "vllm",
    "vllm.entrypoints.llm",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.models.gemma3",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
)
# What only the start of an engine imports.
COMPILED = (
    "compressed_tensors",
    "loguru",
    "vllm/distributed",
    "vllm/lora",
    "vllm/model_executor",
    "vllm/models/common",
    "vllm/models/deepseek_v4",
    "vllm/v1",
)
# The classes of models are a fifth of all code. These are those of small models and what any start imports (vLLM 0.32).
OTHER_MODELS = re.compile(
    r"/model_executor/models/(?!deepseek_|gemma|laguna|llama|module_|qwen[23])"
)

if __name__ == "__main__":
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    sys.dont_write_bytecode = False  # set by PYTHONDONTWRITEBYTECODE
    for module in IMPORTED:
        importlib.import_module(module)
    packages = Path(sysconfig.get_path("purelib"))
    done = [
        compileall.compile_dir(packages / folder, rx=OTHER_MODELS, quiet=2) for folder in COMPILED
    ]
    sys.exit(not all(done))
