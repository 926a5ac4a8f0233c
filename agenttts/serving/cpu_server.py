"""vLLM's server on its CPU build, started with less work.

Command: ``python -m agenttts.serving.cpu_server``, with the flags of vLLM's server. It becomes that
server once the model's classes are imported (`load_model_classes`). vLLM spawns the process of its
engine core, which imports this module first (as ``__mp_main__``), and so has them too.
"""

from __future__ import annotations

import argparse
import runpy
from importlib import import_module

from agenttts.files.garbage import without_searches
from agenttts.inference.base import ModelConfig
from agenttts.inference.vllm import load_model_classes

VLLM_SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Import the classes of the model of ``--model`` and run vLLM's server."""
    import_libraries("vllm.v1.engine.async_llm")
    # Not as the module `sys.modules["__main__"]`, which the engine core's process would import.
    runpy.run_module(VLLM_SERVER, run_name="__main__")


def import_libraries(module: str) -> None:
    """Import the classes of the model of ``--model`` and a module of vLLM."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    given, _ = parser.parse_known_args()
    with without_searches(freeze=True):
        import_module(module)
        load_model_classes(ModelConfig("served", given.model))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    import_libraries("vllm.v1.worker.cpu_worker")
