"""The server on the CPU gets vLLM's own flags, with the model's classes imported before it runs, and
before its engine core does.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from agenttts.serving import cpu_server


def test_the_classes_of_the_model_are_imported_and_then_vllm_has_the_command_line(monkeypatch):
    flags = [
        "--served-model-name",
        "agent",
        "--model",
        "/models/m",
        "--no-enforce-eager",
        "--m",
        "3",
    ]
    done: list[object] = []
    monkeypatch.setattr(sys, "argv", ["cpu_server.py", *flags])
    monkeypatch.setattr(
        cpu_server, "import_module", lambda name: done.append((name, gc.isenabled()))
    )
    monkeypatch.setattr(cpu_server, "load_model_classes", lambda config: done.append(config.path))
    run = lambda name, **how: done.append((name, how, sys.argv[1:], gc.isenabled()))  # noqa: E731
    monkeypatch.setattr(cpu_server, "runpy", SimpleNamespace(run_module=run))
    try:
        cpu_server.main()
    finally:
        gc.unfreeze()
    assert done == [
        ("vllm.v1.engine.async_llm", False),
        "/models/m",
        ("vllm.entrypoints.openai.api_server", {"run_name": "__main__"}, flags, True),
    ]


# A package in vLLM's place whose server spawns a process, as vLLM's does for its engine core.
FAKE = {
    "__init__": "class ModelRegistry:\n    models = {}\n",
    "v1/__init__": "",
    "v1/engine/__init__": "",
    "v1/engine/async_llm": "print('async_llm', flush=True)\n",
    "v1/worker/__init__": "",
    "v1/worker/cpu_worker": "print('cpu_worker', flush=True)\n",
    "entrypoints/__init__": "",
    "entrypoints/openai/__init__": "",
    "entrypoints/openai/api_server": "import multiprocessing, sys\n"
    "from vllm.core import core\n"
    "print('server', __name__, *sys.argv[1:], flush=True)\n"
    "process = multiprocessing.get_context('spawn').Process(target=core)\n"
    "process.start()\n"
    "process.join()\n",
    "core": "import sys\n"
    "def core():\n"
    "    print('core', 'vllm.entrypoints.openai.api_server' in sys.modules, flush=True)\n",
}


@pytest.mark.processes
def test_the_process_of_the_engine_core_imports_its_libraries_and_no_server(tmp_path, monkeypatch):
    for name, text in FAKE.items():
        path = tmp_path / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    command = [sys.executable, "-m", "agenttts.serving.cpu_server", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == [
        "async_llm",
        f"server __main__ --model {tmp_path}",
        "cpu_worker",
        "core False",
    ], done.stderr


def test_a_command_line_without_a_model_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpu_server.py", "--port", "1"])
    with pytest.raises(SystemExit):
        cpu_server.main()
    assert "--model" in capsys.readouterr().err
