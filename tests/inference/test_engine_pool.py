"""Engines that are kept: which are loaded, put to sleep, woken and closed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.blame import AttemptEnd, blame
from agenttts.inference import engine_pool
from agenttts.inference.base import EngineError, ModelConfig
from agenttts.inference.engine_child import SpareEngine
from agenttts.inference.engine_pool import (
    CPUS_TO_LOAD_BESIDE,
    MOST_ASLEEP,
    PROCESS_BYTES,
    EnginePool,
    engine_bytes,
    host_bytes,
)
from agenttts.inference.engine_use import EngineObserver
from agenttts.inference.placement import GPU_SHARE
from agenttts.trial.result import Fault

GB = 10**9


class Machine:
    """A machine of so much host memory; engines take what `host_bytes` says of their models."""

    def __init__(self, memory: float = 1e12, sleeps: bool = True, no_room: tuple[str, ...] = ()):
        self.memory = memory
        self.sleeps = sleeps
        self.no_room = no_room
        self.events: list[str] = []
        self.awake: set[str] = set()
        self.asleep: set[str] = set()
        self.models: dict[str, ModelConfig] = {}

    def available(self) -> int:
        kept = [
            m
            for n, m in self.models.items()
            if n in self.asleep or (n in self.awake and not m.gpus)
        ]
        return int(self.memory - sum(host_bytes(model) for model in kept))

    def load(self, config: ModelConfig) -> MachineEngine:
        self.events.append(f"load {config.name}")
        if config.name in self.no_room and (self.awake or self.asleep):
            raise EngineError("no room", kind="OOM")
        if config.name == "broken":
            raise EngineError("broken", kind="OOM")
        return MachineEngine(self, config)

    def pool(self, keep: bool = True) -> EnginePool:
        return EnginePool(self.load, keep, self.available)


class MachineEngine:
    def __init__(self, machine: Machine, config: ModelConfig):
        on_gpus = [n for n in machine.awake if machine.models[n].gpus]
        assert not (config.gpus and on_gpus), f"{on_gpus} still hold the GPUs"
        self.machine, self.config = machine, config
        machine.models[config.name] = config
        machine.awake.add(config.name)

    def sleep(self) -> bool:
        if self.machine.sleeps and self.config.options.get("enable_sleep_mode"):
            self.machine.events.append(f"sleep {self.config.name}")
            self.machine.awake.remove(self.config.name)
            self.machine.asleep.add(self.config.name)
            return True
        return False

    def wake(self) -> None:
        self.machine.events.append(f"wake {self.config.name}")
        on_gpus = [n for n in self.machine.awake if self.machine.models[n].gpus]
        assert not on_gpus, f"{on_gpus} still hold the GPUs"
        self.machine.asleep.remove(self.config.name)
        self.machine.awake.add(self.config.name)

    def close(self) -> None:
        self.machine.events.append(f"close {self.config.name}")
        self.machine.awake.discard(self.config.name)
        self.machine.asleep.discard(self.config.name)


@pytest.fixture
def model(tmp_path):
    """A model with so many bytes of weights: ``model("a", gpus=1, size=100)``."""

    def make(name: str, gpus: int = 1, size: int = 100, **options: object) -> ModelConfig:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with (folder / "model.safetensors").open("wb") as weights:
            weights.truncate(size)
        return ModelConfig(name, str(folder), gpus=gpus, options=options)

    return make


def test_models_that_share_gpus_sleep_and_wake(model):
    machine = Machine()
    pool = machine.pool()
    a, b = model("a"), model("b")
    for one in (a, b, a, a, b):
        pool.get(one)
    assert machine.events == [
        "load a",
        "sleep a",
        "load b",
        "sleep b",
        "wake a",
        "sleep a",
        "wake b",
    ]
    assert pool.is_awake(b)
    assert pool.is_loaded(a)
    assert not pool.is_awake(a)
    pool.close()
    assert not machine.awake | machine.asleep
    pool.close()


def test_without_keeping_there_is_one_engine_at_a_time(model):
    machine = Machine()
    pool = machine.pool(keep=False)
    for name in "aba":
        pool.get(model(name))
    assert machine.events == ["load a", "close a", "load b", "close b", "load a"]


def test_an_engine_that_is_not_needed_any_more_is_closed(model):
    machine = Machine()
    pool = machine.pool()
    a, b = model("a"), model("b")
    pool.get(a)
    pool.expect([b])
    pool.get(b)
    assert machine.events == ["load a", "close a", "load b"]


def test_an_engine_that_cannot_sleep_is_closed(model):
    machine = Machine(sleeps=False)
    pool = machine.pool()
    pool.get(model("a"))
    pool.get(model("b"))
    assert machine.events == ["load a", "close a", "load b"]


def test_a_user_s_own_setting_of_the_sleep_mode_stays(model):
    machine = Machine()
    pool = machine.pool()
    pool.get(model("a", enable_sleep_mode=False))
    pool.get(model("b"))
    assert machine.events == ["load a", "close a", "load b"]


def test_weights_that_the_host_has_no_memory_for_are_not_kept(model):
    machine = Machine(memory=4 * GB)
    pool = machine.pool()
    pool.get(model("a", size=4 * GB))
    pool.get(model("b"))
    assert machine.events == ["load a", "close a", "load b"]


def test_few_engines_sleep_at_a_time(model):
    machine = Machine()
    pool = machine.pool()
    for name in "abcde":
        pool.get(model(name))
    assert len(machine.asleep) == MOST_ASLEEP
    assert machine.asleep == {"c", "d"}, "those used last"


class Gpu(Machine):
    """A machine with a GPU, with the check that vLLM makes of it when it starts.

    An engine takes its share of the GPU in all. Asleep it keeps ``held`` GiB of this.
    """

    def __init__(self, total: float, held: float = 1.5):
        super().__init__()
        self.total, self.held = total, held

    def share(self, config: ModelConfig) -> float:
        return self.total * config.options["gpu_memory_utilization"]

    def free(self) -> float:
        awake = sum(self.share(self.models[name]) for name in self.awake)
        return self.total - 0.1 - awake - self.held * len(self.asleep)

    def gpu_memory(self) -> list[tuple[int, int]]:
        return [(int(self.free() * 2**30), int(self.total * 2**30))]

    def load(self, config: ModelConfig) -> MachineEngine:
        if self.free() - 0.4 < self.share(config):
            self.events.append(f"refuse {config.name}")
            raise EngineError("Free memory on device cuda:0 is less than desired", kind="OOM")
        return super().load(config)

    def pool(self, keep: bool = True) -> EnginePool:
        return EnginePool(self.load, keep, self.available, gpu_memory=self.gpu_memory)


@pytest.mark.parametrize(
    ("total", "names", "share", "starts"),
    [
        (79.1, "abcabcabc", None, 3),
        (39.4, "abcabcabc", None, 3),
        (39.4, "abcabcabc", 0.92, 9),
        (22.0, "abababab", None, 2),
        (22.0, "abcabc", None, 6),
        (22.0, "abcabc", 0.8, 3),
        (22.0, "abab", 0.97, 4),
    ],
)
def test_an_engine_finds_its_share_of_the_gpu_free(model, total, names, share, starts):
    """vLLM refuses to start otherwise, and all engines were closed and loaded again."""
    machine = Gpu(total)
    pool = machine.pool()
    options = {} if share is None else {"gpu_memory_utilization": share}
    for name in names:
        pool.get(model(name, **options))
        assert machine.free() >= 0, "a woken engine takes its share, too"
    assert not [event for event in machine.events if event.startswith("refuse")]
    assert pool.starts == starts


class HeldGpu(Gpu):
    """A GPU of 80 GB of which another program holds some, until its memory was asked for often."""

    def __init__(self, held: float, looks: int) -> None:
        super().__init__(80.0)
        self.by_others, self.looks = held, looks

    def free(self) -> float:
        return super().free() - (self.by_others if self.looks > 0 else 0.0)

    def gpu_memory(self) -> list[tuple[int, int]]:
        self.looks -= 1
        return super().gpu_memory()


@pytest.fixture
def often(monkeypatch):
    """Have the memory of GPUs looked at often."""
    monkeypatch.setattr(engine_pool, "_LOOK_SECONDS", 0.01)


@pytest.mark.parametrize("share", [None, 0.5])
def test_memory_that_another_program_gives_back_is_waited_for(model, often, share):
    """An engine that was killed, or another job's; vLLM looks once, a minute into its start."""
    machine = HeldGpu(60.0, looks=4)
    options = {} if share is None else {"gpu_memory_utilization": share}
    machine.pool().get(model("a", **options))
    assert machine.events == ["load a"]
    assert machine.looks == 0


def test_memory_that_another_program_keeps_is_that_node_s_fault(model, often, monkeypatch):
    """It is said at once for the other trials of the list."""
    monkeypatch.setattr(engine_pool, "GPU_SECONDS", 0.2)
    machine = HeldGpu(60.0, looks=10**6)
    pool = machine.pool()
    with pytest.raises(EngineError, match=r"device cuda:0 \(19\.90/80\.00 GiB\) is less") as caught:
        pool.get(model("a"))
    assert (caught.value.kind, machine.events, pool.fails_alone(model("a"))) == ("OOM", [], True)
    looks = machine.looks
    with pytest.raises(EngineError):
        pool.get(model("a"))
    assert machine.looks == looks
    held = blame(AttemptEnd(exit_code=1, fault=Fault("OOM", str(caught.value), "engine")))
    assert (held.state, held.exclude_node) == ("INFRA_FAILED", True)


@pytest.mark.parametrize(
    ("share", "engine", "free"),
    [(0.2, "vllm", 19.9), (0.97, "vllm", 76.0), (0.9, "transformers", 9.0)],
)
def test_no_other_memory_is_waited_for(model, share, engine, free):
    """That which suffices, that of an unused GPU, and that of an engine that takes what there is."""
    machine = HeldGpu(79.9 - free, looks=10**6)
    pool = EnginePool(super(Gpu, machine).load, gpu_memory=machine.gpu_memory)
    began = time.monotonic()
    pool.get(dataclasses.replace(model("a", gpu_memory_utilization=share), engine=engine))
    assert time.monotonic() - began < engine_pool._LOOK_SECONDS


def test_an_engine_with_a_large_share_is_woken_alone(model):
    machine = Gpu(22.0)
    pool = machine.pool()
    large, small = (model(name, gpu_memory_utilization=u) for name, u in (("a", 0.97), ("b", 0.8)))
    for one in (large, small, large):
        pool.get(one)
        assert machine.free() >= 0
    assert machine.events[-3:] == ["sleep b", "close b", "wake a"]


def test_engines_stay_asleep_where_the_gpu_s_memory_is_not_known(model):
    machine = Machine()
    pool = EnginePool(machine.load, True, machine.available, gpu_memory=list)
    for name in "abca":
        pool.get(model(name))
    assert pool.starts == 3


@pytest.mark.parametrize(("total", "refused", "starts"), [(79.1, 0, 2), (9.5, 1, 6)])
def test_an_engine_is_refused_once_where_the_gpu_s_memory_is_not_known(model, total, refused, starts):  # fmt: skip
    """As on MIG devices: nvidia-smi does not tell their memory."""
    machine = Gpu(total)
    pool = EnginePool(machine.load, True, machine.available, gpu_memory=list)
    for name in "ababab":
        pool.get(model(name))
    assert sum(event.startswith("refuse") for event in machine.events) == refused
    assert pool.starts == starts


@pytest.mark.parametrize("own", [{}, {"gpu_memory_utilization": 0.5}])
@pytest.mark.parametrize(("gpus", "keep"), [(1, True), (0, True), (1, False)])
def test_the_share_of_a_gpu_is_given_where_others_may_sleep_beside(model, gpus, keep, own):
    """Elsewhere it is vLLM's own; on a CPU the option is a share of the host's memory."""
    machine = Machine()
    machine.pool(keep).get(model("a", gpus=gpus, **own))
    expected = own.get("gpu_memory_utilization", GPU_SHARE if gpus and keep else None)
    assert machine.models["a"].options.get("gpu_memory_utilization") == expected


def test_engines_without_gpus_stay_beside_each_other_while_memory_lasts(model):
    machine = Machine(memory=10 * GB)
    pool = machine.pool()
    a, b, c = (model(name, gpus=0, size=GB) for name in "abc")
    pool.get(a)
    pool.get(b)
    pool.get(a)
    assert machine.events == ["load a", "load b"]
    pool.get(c)
    assert machine.events == ["load a", "load b", "close b", "load c"], "the one used longest ago"


def test_an_engine_for_which_memory_does_not_suffice_beside_others_is_loaded_alone(model):
    machine = Machine(no_room=("b",))
    pool = machine.pool()
    pool.get(model("a"))
    pool.get(model("b"))
    assert machine.events == ["load a", "sleep a", "load b", "close a", "load b"]


def test_a_model_that_cannot_be_loaded_is_tried_no_more(model):
    machine = Machine()
    pool = machine.pool()
    for _ in range(3):
        with pytest.raises(EngineError, match="broken"):
            pool.get(model("broken"))
    assert machine.events == ["load broken"]


def test_two_names_for_one_model_are_one_engine(model):
    machine = Machine()
    pool = machine.pool()
    a = model("a")
    pool.get(a)
    pool.get(ModelConfig("other", a.path, prompt_style="few_shot_chat"))
    assert machine.events == ["load a"]


def test_an_engine_of_unknown_state_is_dropped(model):
    machine = Machine()
    pool = machine.pool()
    pool.get(model("a"))
    pool.drop(model("a"))
    pool.drop(model("b"))
    assert not pool.is_loaded(model("a"))
    assert machine.events == ["load a", "close a"]


def test_memory_follows_from_the_weights(model, tmp_path):
    assert host_bytes(model("a", size=10 * GB)) - host_bytes(model("b", size=0)) == 13 * GB
    script = ModelConfig("s", str(tmp_path / "script.json"), engine="scripted")
    assert host_bytes(script) == 0
    served = ModelConfig("e", "org/name", engine="endpoint", options={"base_url": "http://h/v1"})
    assert host_bytes(served) == 0


@pytest.mark.parametrize(
    ("files", "counted"),
    [
        (["consolidated.safetensors", "model.safetensors"], 1),  # Mistral's two copies
        (["consolidated.safetensors"], 1),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors", "pytorch_model.bin"], 2),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], 1),
        (["model-q4.gguf"], 1),
        (["README.md"], 0),
    ],
)
def test_weights_are_counted_once(tmp_path, files, counted):
    for name in files:
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(10 * GB)
    directory = ModelConfig("a", str(tmp_path), gpus=1)
    assert host_bytes(directory) == engine_bytes(counted * 10 * GB)


def test_the_weights_of_a_model_in_one_file_count(tmp_path):
    file = tmp_path / "model-q4.gguf"
    with file.open("wb") as stream:
        stream.truncate(10 * GB)
    assert host_bytes(ModelConfig("a", str(file), gpus=1)) == engine_bytes(10 * GB)
    assert host_bytes(ModelConfig("a", "org/name", gpus=1)) == engine_bytes(0)


def test_an_engine_that_fails_to_sleep_is_closed_and_the_next_is_loaded(model, monkeypatch):
    machine = Machine()
    pool = machine.pool()
    first = pool.get(model("a"))

    def fails():
        raise EngineError("no memory for the weights")

    first.sleep = fails
    pool.get(model("b"))
    assert machine.events == ["load a", "close a", "load b"]


def test_an_engine_that_fails_to_wake_is_loaded_anew(model):
    machine = Machine()
    pool = machine.pool()
    first = pool.get(model("a"))
    pool.get(model("b"))

    def fails():
        raise EngineError("it does not wake")

    first.wake = fails
    assert pool.get(model("a")) is not first
    assert machine.events[-3:] == ["sleep b", "close a", "load a"]


def test_failures_to_load_are_forgotten_when_told_and_those_of_a_server_at_once(model):
    machine = Machine()
    pool = machine.pool()
    with pytest.raises(EngineError):
        pool.get(model("broken"))
    pool.forget_failures()
    with pytest.raises(EngineError):
        pool.get(model("broken"))
    assert machine.events == ["load broken", "load broken"]


NAMES = st.sampled_from(["a", "b", "c", "cpu1", "cpu2"])


@given(st.lists(NAMES, max_size=20), st.integers(3, 60), st.booleans())
def test_no_sequence_overfills_the_machine(tmp_path_factory, names, memory, sleeps):
    machine = Machine(memory=memory * GB, sleeps=sleeps)
    pool = machine.pool()
    for name in names:
        folder = Path("/nonexistent") / name
        config = ModelConfig(name, str(folder), gpus=0 if name.startswith("cpu") else 1)
        engine = pool.get(config)
        assert engine.config.name == name
        assert pool.is_awake(config)
        assert name in machine.awake
        assert len(machine.asleep) <= MOST_ASLEEP
        on_gpus = [n for n in machine.awake if machine.models[n].gpus]
        assert len(on_gpus) <= 1
        assert machine.available() >= 0 or len(machine.awake) == 1
    pool.close()
    assert not machine.awake | machine.asleep


class Told(EngineObserver):
    def __init__(self):
        self.events: list[tuple] = []

    def started(self, model, seconds):
        self.events.append(("started", model))

    def woken(self, model, seconds):
        self.events.append(("woken", model))

    def kept(self, awake, others):
        self.events.append((awake, *others))


def test_an_observer_is_told_of_starts_wakes_and_what_is_loaded(model):
    told, machine = Told(), Machine()
    pool = EnginePool(machine.load, True, machine.available, told)
    a, b = model("a"), model("b")
    for config in (a, b, a):
        pool.get(config)
    assert told.events == [
        ("started", "a"), ("a",), ("started", "b"), ("b", "a"), ("woken", "a"), ("a", "b"),
    ]  # fmt: skip
    pool.close()
    assert told.events[-1] == (None,)
    with pytest.raises(EngineError):
        pool.get(model("broken"))
    assert ("started", "broken") not in told.events


class Spare(SpareEngine):
    """Takes note of starts; the machine's memory is less by what it takes."""

    def __init__(self, machine: Machine, size: int = 0):
        super().__init__()
        self.machine, self.size = machine, size

    @property
    def engine(self):
        return self._engine or None

    def resident(self):
        return self.size if self._engine else 0

    def start(self, engine):
        if self._engine == engine:
            return
        self.machine.events.append(f"ahead {engine}")
        self._engine = engine

    def take(self, engine):
        if self._engine == engine:
            self._engine = ""
        if self._following:
            self.start(self._following)
        self._following = ""

    def close(self):
        if self._engine:
            self.machine.events.append("end spare")
        self._engine = ""


def with_spare(machine, size=0, cpus=2):
    spare = Spare(machine, size)
    available = lambda: machine.available() - spare.resident()  # noqa: E731

    def load(config):
        spare.take(config.engine)
        return machine.load(config)

    return EnginePool(load, True, available, spare=spare, cpus=cpus), spare


def test_the_next_engine_is_begun_when_the_one_before_it_is_ready(model):
    machine = Machine()
    pool, _ = with_spare(machine)
    a, b, c = model("a"), model("b"), model("c")
    pool.start_ahead(b)
    pool.get(a)
    pool.get(a)
    assert machine.events == ["load a", "ahead vllm"], "once"
    pool.get(b)
    pool.start_ahead(a)
    pool.get(b)
    assert machine.events[2:] == ["sleep a", "load b"], "a is loaded"
    pool.start_ahead(c)
    pool.start_ahead(None)
    pool.get(b)
    assert machine.events[4:] == []
    pool.start_ahead(c)
    pool.get(b)
    pool.close()
    assert machine.events[4:] == ["ahead vllm", "end spare", "close b", "close a"]


def test_with_many_cores_it_is_begun_already_while_the_one_before_it_is_loaded(model):
    machine = Machine()
    pool, spare = with_spare(machine, cpus=CPUS_TO_LOAD_BESIDE)
    a, b, c = model("a"), model("b"), model("c")
    spare.start("vllm")
    pool.start_ahead(b)
    pool.get(a)
    assert machine.events == ["ahead vllm", "ahead vllm", "load a"], "one after the other"
    pool.start_ahead(c)
    machine.memory = 3 * PROCESS_BYTES
    pool.get(b)
    assert machine.events[3:] == ["sleep a", "load b", "ahead vllm"], "not beside it, but after it"


@pytest.mark.parametrize("gpus", [0, 1])
def test_nothing_is_begun_where_memory_is_short(model, gpus):
    """For a model without GPUs its whole engine has to fit, which is loaded beside the others."""
    machine = Machine()
    pool, _ = with_spare(machine)
    a, b = model("a"), model("b", gpus, size=10 * GB)
    pool.get(a)
    machine.memory = (PROCESS_BYTES if gpus else host_bytes(b)) - 1
    for _ in range(2):
        assert machine.events == ["load a"]
        pool.start_ahead(b)
        pool.get(a)
        machine.memory += 1
    assert machine.events == ["load a", "ahead vllm"]


@pytest.mark.parametrize("cpus", [1, 2, CPUS_TO_LOAD_BESIDE])
def test_nothing_is_begun_beside_an_engine_that_needs_the_cores(model, cpus):
    machine = Machine()
    pool, _ = with_spare(machine, cpus=cpus)
    pool.start_ahead(model("b"))
    pool.get(model("a", gpus=1 if cpus == 1 else 0))
    assert machine.events == ["load a"]


def test_what_the_spare_holds_is_a_part_of_what_its_engine_needs(model):
    machine = Machine()
    pool, spare = with_spare(machine, size=GB)
    a, b = model("a", 0, size=GB), model("b", 0, size=GB)
    machine.memory = host_bytes(a) + host_bytes(b)
    pool.get(a)
    spare.start("vllm")
    pool.get(b)
    assert machine.events == ["load a", "ahead vllm", "load b"], "a may stay"
    spare.start("transformers")
    c = model("c", 0, size=GB)
    machine.memory = host_bytes(a) * 3
    pool.get(c)
    assert machine.events[-2:] == ["end spare", "load c"], "the other engine's ends first"
