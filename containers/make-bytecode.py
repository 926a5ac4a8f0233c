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
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
)
# What only the start of an engine imports. Of the models' classes, a fifth of all code, it is those of few models.
COMPILED = ("compressed_tensors", "vllm/model_executor", "vllm/distributed", "vllm/lora", "vllm/v1")
MODELS = re.compile("/model_executor/models/")

if __name__ == "__main__":
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    sys.dont_write_bytecode = False  # set by PYTHONDONTWRITEBYTECODE
    for module in IMPORTED:
        importlib.import_module(module)
    packages = Path(sysconfig.get_path("purelib"))
    done = [compileall.compile_dir(packages / folder, rx=MODELS, quiet=2) for folder in COMPILED]
    sys.exit(not all(done))
