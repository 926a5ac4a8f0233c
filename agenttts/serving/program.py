"""The OpenAI-compatible server of a model, inside the container: vLLM's.

Command: ``python -m agenttts.serving.program SERVE.json --host H --port P``.

Turns engine options into the server's flags, adds what vLLM's CPU build needs where that is what is
installed, and becomes the server. The API key comes in the environment (``VLLM_API_KEY``), which
vLLM reads itself: it is on no command line and in no log. A scripted model has a small server of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenttts.inference.base import ModelConfig
from agenttts.inference.placement import over_gpus
from agenttts.inference.startup_plan import without_plan
from agenttts.inference.vllm import cpu_profile, is_cpu_build
from agenttts.serving import cpu_server
from agenttts.serving.job import KEY_VARIABLE
from agenttts.serving.scripted_server import scripted_server

_WITHOUT_NO = (
    "aggregate_engine_logging",
    "data_parallel_multi_port_external_lb",
    "disable_log_stats",
)
"""Switches that are off by default, and whose flags have no form --no-X (vLLM 0.32)."""
# Settings of the CPU profile for an engine inside this process; a server's engine fails with them.
_NOT_SERVED = ("VLLM_ENABLE_V1_MULTIPROCESSING",)


def server_command(
    model: ModelConfig, name: str, host: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """The server's command, and its environment."""
    program = cpu_server.VLLM_SERVER
    options: dict[str, Any] = {"revision": model.revision, **model.options}
    environment = dict(os.environ)
    if is_cpu_build():
        program = cpu_server.__name__
        profile = cpu_profile(model)
        options = {**profile.options, **options}
        unset = {k: v for k, v in profile.environment.items() if k not in _NOT_SERVED}
        # The server's own processes need a core besides those that compute.
        unset["OMP_NUM_THREADS"] = str(max(1, int(unset["OMP_NUM_THREADS"]) - 1))
        environment = {**unset, **environment}
    else:
        options = over_gpus(options, model.gpus)
        environment |= without_plan(options)
    command = [sys.executable, "-P", "-m", program, "--model", model.path]
    command += ["--served-model-name", name, "--host", host, "--port", str(port)]
    return [*command, *_flags(options)], environment


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Return engine options as flags.

    True and false become --X and --no-X, mappings JSON, and lists several values; None is left out.
    """
    flags: list[str] = []
    for option, value in options.items():
        flag = option.replace("_", "-")
        if value is None or (value is False and option in _WITHOUT_NO):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, dict):
            flags += [f"--{flag}", json.dumps(value)]
        elif option == "device_ids" and isinstance(value, list):
            flags += [f"--{flag}", ",".join(map(str, value))]
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)] if value else []
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def main() -> None:
    """Read the model from the file and become its server."""
    parser = argparse.ArgumentParser(prog="agenttts.serving.program")
    parser.add_argument("file", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    document = json.loads(given.file.read_text(encoding="utf-8"))
    model = ModelConfig.from_record(document["model"])
    if model.engine == "scripted":
        model = replace(model, name=document["name"])
        key = os.environ.get(KEY_VARIABLE, "")
        scripted_server(model, given.host, given.port, key).serve_forever()
        return
    command, environment = server_command(model, document["name"], given.host, given.port)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
