"""vLLM's server on its CPU build, started with less work.

Command: ``python -m agenttts.serving.cpu_server``, with the flags of vLLM's server. It becomes that
server once the model's classes are imported (`load_model_classes`). The processes that vLLM forks
have them too.
"""

from __future__ import annotations

import argparse
import runpy

from agenttts.inference.base import ModelConfig
from agenttts.inference.vllm import load_model_classes

VLLM_SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Import the classes of the model of ``--model`` and run vLLM's server."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", required=True)
    given, _ = parser.parse_known_args()
    load_model_classes(ModelConfig("served", given.model))
    runpy.run_module(VLLM_SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
