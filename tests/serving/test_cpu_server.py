"""The server on the CPU gets vLLM's own flags, with the model's classes imported before it runs."""

from __future__ import annotations

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
    monkeypatch.setattr(cpu_server, "load_model_classes", lambda config: done.append(config.path))
    run = lambda name, **how: done.append((name, how, sys.argv[1:]))  # noqa: E731
    monkeypatch.setattr(cpu_server, "runpy", SimpleNamespace(run_module=run))
    cpu_server.main()
    assert done == [
        "/models/m",
        (
            "vllm.entrypoints.openai.api_server",
            {"run_name": "__main__", "alter_sys": True},
            flags,
        ),
    ]


def test_a_command_line_without_a_model_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpu_server.py", "--port", "1"])
    with pytest.raises(SystemExit):
        cpu_server.main()
    assert "--model" in capsys.readouterr().err
