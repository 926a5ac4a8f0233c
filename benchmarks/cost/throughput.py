"""Tokens per second of a trial, against `vllm.LLM.generate` alone on the same prompts.

    python benchmarks/cost/throughput.py [MODEL] [--examples 20] [--samples 16] [--rounds 5]

MODEL is a model's directory (default: .cache/models/smollm2-135m-instruct, which `make models`
makes). A trial of the built-in two-hop questions is evaluated by the code of the trial's program
(`agenttts.trial.run`): task, sampler, sample store, and the engine in a process of its own. The
engine's calls are recorded. Another process gives the same prompts, as tokens, and the same
sampling parameters to `LLM.generate`, call by call.

Both engines are loaded with the same options, those that a launch would choose, and stay loaded.
Each way runs once before it is measured. Then both run in every round, in alternating order.
Loading is not part of the times. The samples are removed before each trial, so that each draws all
of them. It writes a table to standard output. The CPU time, of a trial that of both its processes,
says more than the wall time on a machine that others use too.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from agenttts import tasks
from agenttts.dispatch.sizing.cpu_dtype import cpu_dtype
from agenttts.files.atomic import atomic_write_json
from agenttts.inference.base import (
    Completion,
    Engine,
    ModelConfig,
    OnFinished,
    Request,
    WrappedEngine,
)
from agenttts.inference.engine_process import EngineProcess, create_engine
from agenttts.inference.tokenization import encode_request
from agenttts.inference.vllm import cpu_profile, is_cpu_build
from agenttts.space import Allocation, Choice
from agenttts.tasks.base import TaskConfig
from agenttts.trial.command import DueTrial
from agenttts.trial.result import read_result
from agenttts.trial.run import TrialRunner
from agenttts.trial.spec import SPEC_FILE, TrialSpec

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "models" / "smollm2-135m-instruct"
CONTEXT = 2048
TARGET = 0.90
# On a GPU both engines are loaded at once.
GPU_SHARE = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, default=MODEL)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--samples", type=int, default=16, help="of each of the two stages")
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    options: dict[str, object] = {"max_model_len": CONTEXT}
    path = str(arguments.model.resolve())
    if is_cpu_build():
        options["dtype"] = cpu_dtype(path, "vllm", {}, gpus=0, gpus_per_node=0) or "auto"
    else:
        options["gpu_memory_utilization"] = GPU_SHARE
    model = ModelConfig(
        "model",
        path,
        prompt_style="few_shot_completion",
        gpus=0 if is_cpu_build() else 1,
        options=options,
    )
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), model, arguments)
        trial.run()
        bare = Bare(model, trial.calls)
        bare.run()
        print("| round | LLM.generate, tokens/s | trial, tokens/s | ratio | by CPU time |")
        print("|--:|--:|--:|--:|--:|")
        ratios, cpu_ratios = [], []
        for number in range(1, arguments.rounds + 1):
            if number % 2:
                alone, whole = bare.run(), trial.run()
            else:
                whole, alone = trial.run(), bare.run()
            ratios.append(whole.speed / alone.speed)
            cpu_ratios.append(alone.cpu_seconds / whole.cpu_seconds * whole.tokens / alone.tokens)
            print(
                f"| {number} | {alone.speed:.0f} | {whole.speed:.0f} | {ratios[-1]:.3f} "
                f"| {cpu_ratios[-1]:.3f} |",
                flush=True,
            )
        trial.close()
        bare.close()
    ratio = statistics.median(ratios)
    samples = sum(len(request.seeds) for call in trial.calls for request in call)
    print(
        f"\nmedian ratio {ratio:.3f} (target: {TARGET}, {'met' if ratio >= TARGET else 'missed'}), "
        f"by CPU time {statistics.median(cpu_ratios):.3f}; "
        f"{len(trial.calls)} calls, {samples} samples, {whole.tokens} tokens each time"
    )


@dataclass(frozen=True)
class Run:
    """What one way took once."""

    tokens: int
    seconds: float
    cpu_seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second of wall time."""
        return self.tokens / self.seconds


class Trial:
    """The same trial, evaluated again and again."""

    def __init__(self, folder: Path, model: ModelConfig, arguments: argparse.Namespace) -> None:
        self.calls: list[list[Request]] = []
        """The calls of one evaluation."""
        self._folder = folder
        self._number = 0
        self._engine_pid: int | None = None
        examples = tasks.create("retrieval_qa").load(
            TaskConfig("builtin:twohop", "search", arguments.examples, seed=0)
        )
        frozen = folder / "examples.jsonl"
        frozen.write_text(
            "".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in examples),
            encoding="utf-8",
        )
        stages = ("retrieval", "answer")
        self._spec: dict[str, Any] = {
            "run": "throughput",
            "allocation": Allocation(
                tuple(Choice(stage, "model", arguments.samples) for stage in stages)
            ),
            "task": "retrieval_qa",
            "examples": str(frozen),
            "seed": 0,
            "decode_tokens": dict.fromkeys(stages, arguments.decode_tokens),
            "models": {"model": model},
            "samples": str(folder / "samples"),
        }
        self._runner = TrialRunner(
            self._load, notes=folder, out=io.StringIO(), err=sys.stderr, stays=True
        )

    def run(self) -> Run:
        """Evaluate the trial with an empty sample store."""
        for shard in (self._folder / "samples").glob("*.parquet"):
            shard.unlink()
        directory = self._folder / f"trial-{self._number}"
        directory.mkdir()
        self._number += 1
        spec = TrialSpec(trial=directory.name, directory=str(directory), **self._spec)
        atomic_write_json(directory / SPEC_FILE, spec.to_json())
        self.calls.clear()
        started, cpu = time.monotonic(), self._cpu_seconds()
        self._runner.run([DueTrial(directory / SPEC_FILE)])
        seconds, cpu = time.monotonic() - started, self._cpu_seconds() - cpu
        result = read_result(directory)
        if result is None:
            sys.exit(f"the trial failed: {(directory / 'fault.json').read_text()}")
        tokens = sum(sample.decode_tokens for c in self._completions() for sample in c.samples)
        return Run(tokens, seconds - result.seconds["load"], cpu)

    def close(self) -> None:
        """End the engine."""
        self._runner.close()

    def _load(self, model: ModelConfig) -> Engine:
        engine = create_engine(model)
        assert isinstance(engine, EngineProcess)
        self._engine_pid = engine.pid
        self._engine = _Recorded(engine, self.calls)
        return self._engine

    def _cpu_seconds(self) -> float:
        """Return the CPU time of this process and of the engine's."""
        engine = psutil.Process(self._engine_pid).cpu_times() if self._engine_pid else None
        return time.process_time() + (engine.user + engine.system if engine else 0.0)

    def _completions(self) -> list[Completion]:
        found = self._engine.completions[-len(self.calls) :]
        return [completion for call in found for completion in call]


class _Recorded(WrappedEngine):
    """An engine whose calls and results are kept."""

    def __init__(self, engine: Engine, calls: list[list[Request]]) -> None:
        super().__init__(engine)
        self._calls = calls
        self.completions: list[list[Completion]] = []

    def generate(
        self, requests: Sequence[Request], on_finished: OnFinished | None = None
    ) -> list[Completion]:
        completions = super().generate(requests, on_finished)
        self._calls.append(list(requests))
        self.completions.append(completions)
        return completions


class Bare:
    """`LLM.generate` in a process of its own, which gets the calls of a trial."""

    def __init__(self, model: ModelConfig, calls: Sequence[Sequence[Request]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_generate, args=(model, calls, theirs))
        self._process.start()

    def run(self) -> Run:
        """Generate all calls."""
        self._connection.send("run")
        return Run(*self._connection.recv())

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


def _generate(
    model: ModelConfig, calls: Sequence[Sequence[Request]], connection: Connection[Any, Any]
) -> None:
    """Load the model as the engine does, and generate the calls as often as asked."""
    options = dict(model.options)
    if is_cpu_build():
        profile = cpu_profile(model)
        os.environ |= {**profile.environment, **os.environ}
        options = {**profile.options, **options}
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(model=model.path, seed=0, enable_prefix_caching=True, **options)
    prepared: list[tuple[list[Any], list[Any]]] = []
    for requests in calls:
        prompts, params = [], []
        for request in requests:
            prompt = encode_request(engine.get_tokenizer(), model, request, CONTEXT)
            for seed in request.seeds:
                prompts.append(TokensPrompt(prompt_token_ids=prompt.tokens))
                params.append(
                    SamplingParams(
                        temperature=request.params.temperature,
                        top_p=request.params.top_p,
                        max_tokens=request.params.max_tokens,
                        seed=seed,
                        stop=list(request.stop) or None,
                    )
                )
        prepared.append((prompts, params))
    while connection.recv() is not None:
        started, cpu = time.monotonic(), time.process_time()
        outputs = [engine.generate(*call, use_tqdm=False) for call in prepared]
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        tokens = sum(len(o.outputs[0].token_ids) for call in outputs for o in call)
        connection.send((tokens, seconds, cpu))
    connection.close()


if __name__ == "__main__":
    main()
