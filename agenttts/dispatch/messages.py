"""Messages that libraries print when a machine fails.

They tell such a failure from a trial's own. They are looked for only at the end of the log of a
failed attempt, because most of them may appear as harmless warnings in a run that works.

Sources: the CUDA runtime's error list (cudaError_t), NVIDIA's Xid documentation, NCCL's
ncclResult_t, torch 2.13 (TCPStore, gloo), vLLM 0.32 and 0.33 (start-up checks and executors),
Apptainer's and Singularity's messages of level FATAL, errno(3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agenttts.inference.out_of_memory import is_out_of_memory
from agenttts.inference.placement import UNUSED_GPU


@dataclass(frozen=True)
class KnownMessage:
    """A message that shows a failure of the machine.

    ``node`` says whether another node may do better. ``any_level`` says that the message counts as
    a warning too. The others count only as errors, because programs print them as warnings and
    continue. ``of_gpus`` says that a job without GPUs gets the message on every node, because its
    engine needs one.
    """

    pattern: re.Pattern[str]
    meaning: str
    node: bool
    any_level: bool = False
    of_gpus: bool = False


@dataclass(frozen=True)
class FoundMessage:
    """A known message in a text: its meaning, and the line that holds it."""

    meaning: str
    node: bool
    line: str


def _known(
    pattern: str, meaning: str, *, node: bool, any_level: bool = False, of_gpus: bool = False
) -> KnownMessage:
    compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    return KnownMessage(compiled, meaning, node, any_level, of_gpus)


# A line of a level below error, as loggers and Python's warnings write it. NCCL's errors have the
# level WARN. A variable's value, as in VLLM_LOGGING_LEVEL=DEBUG, is not a level; level=WARN is one.
_NO_ERROR = re.compile(r"(?<!NCCL )(?<![A-Z]=)\b(?:WARN|WARNING|INFO|DEBUG|TRACE)\b|\b\w*Warning:")


MACHINE_MESSAGES = (
    _known(
        r"uncorrectable (ecc|nvlink) error|double[- ]bit ecc|\bxid\b[^\n]{0,20}[(:]"
        r"|has fallen off the bus|gpu is lost|unable to determine the device handle"
        r"|cuda error: hardware stack error|row remapping failure"
        r"|over nvlink or a hardware error",
        "a GPU has a hardware error",
        node=True,
        any_level=True,
    ),
    _known(
        r"no cuda-capable device|no cuda gpus are available"
        r"|cuda-capable device\(s\) is/are busy or unavailable"
        r"|cudaerrordevicesunavailable|cudaerrornodevice|cuda_error_no_device|cuda_error_system_not_ready"
        r"|cuda error: (invalid device ordinal|initialization error|system not yet initialized"
        r"|unknown error)|cuda unknown error|cuda error:[^\n]{0,60}unavailable"
        r"|failed to initialize nvml|nvidia-smi has failed"
        r"|couldn't communicate with the nvidia driver|libcuda\.so\.1: cannot open shared object"
        # of torch: "Unexpected error from cudaGetDeviceCount(). ... Error 802: system not yet
        # initialized"; of NVML
        r"|unexpected error from cudagetdevicecount"
        r"|cuda driver initialization failed"
        r"|nvmlerror_(?:drivernotloaded|gpuislost|libraryn|librm|timeout|unknown)"
        r"|nvml/rm version mismatch|driver/library version mismatch",
        "a GPU or its driver does not answer",
        node=True,
    ),
    _known(
        # of torch, and of vLLM, which finds a GPU by NVML and says nothing of its error
        r"found no nvidia driver|failed to infer device type",
        "a GPU or its driver does not answer",
        node=True,
        of_gpus=True,
    ),
    _known(
        r"driver (on your system )?is too old|driver version is insufficient for cuda runtime"
        r"|unsupported display driver|no kernel image is available for execution on the device"
        r"|forward compatibility was attempted on non supported hw"
        r"|provided ptx was compiled with an unsupported toolchain",
        "the image does not fit the node's GPU or driver (they are too old, or the GPU is too new)",
        node=True,
        any_level=True,
    ),
    _known(
        # of vLLM: "... This happens when other processes ... release GPU memory while vLLM is
        # profiling" (issue 56830 of vLLM)
        r"error in memory profiling\. initial free memory",
        "another process gave memory of the GPU back while the engine measured it",
        node=False,
    ),
    _known(
        r"stale file handle|\bestale\b",
        "a file handle of a network file system is stale",
        node=True,
    ),
    _known(
        r"transport endpoint is not connected|input/output error|remote i/o error"
        r"|read-only file system",
        "a file system of the node failed",
        node=True,
    ),
    _known(
        # of the dynamic loader, which adds the error number's text if there is one
        r"failed to map segment from shared object(?!: cannot allocate memory)",
        "compiled code cannot be loaded on the node (is its directory mounted noexec? TMPDIR "
        "chooses another place)",
        node=True,
    ),
    _known(r"no space left on device", "a disk is full", node=False),
    _known(r"disk quota exceeded", "your disk quota is used up", node=False),
    _known(r"illegal instruction", "the node's processor lacks an instruction", node=True),
    _known(
        # of `agenttts.sandbox.run`
        r"the sandbox for programs that models write does not work on this machine",
        "the node cannot run the programs of models",
        node=True,
    ),
)
"""Messages that name a cause.

A memory error beside one of them follows from it or has nothing to do with it.
"""

NEEDS_GPU = tuple(known for known in MACHINE_MESSAGES if known.of_gpus)
"""What engines say without a GPU. In a job that has none it is not the machine's failure."""

CONTAINER_MESSAGES = (
    KnownMessage(
        re.compile(
            r"^FATAL:[^\n]*(could not open image|image[^\n]*(not found|does not exist)"
            r"|mount source [^\n]* doesn't exist|loop device|squashfuse|fuse: |user namespace)"
            r"|failed to mount squash|no more loop devices",
            re.MULTILINE,
        ),
        "the container could not be started on this node",
        node=True,
    ),
    KnownMessage(
        re.compile(r"^FATAL:\s|^ABORT\s*:\s*Retval", re.MULTILINE),
        "the container could not be started",
        node=False,
    ),
)
"""Messages of Apptainer and Singularity.

They are looked for if the trial's program did not begin. They are matched in capitals, as the
runtimes write them. git's "fatal: not a git repository" is not one of them.
"""

CONSEQUENCES = (
    _known(
        r"nccl error|nccl(system|internal|remote|unhandledcuda)error|\bdistbackenderror\b"
        r"|watchdog caught collective operation timeout|nccl communicator was aborted",
        "the GPUs' communication (NCCL) failed",
        node=False,
    ),
    _known(
        # of vLLM's engine core, after VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS
        r"rpc call to \w+ timed out",
        "a worker of the engine did not answer; its GPU or the communication between GPUs may hang",
        node=False,
    ),
    _known(
        # of torch's TCPStore and of gloo. Engines that start at the same time may take one port.
        r"server socket has failed to listen on any local network address"
        r"|client socket has (?:timed out|failed to connect)|\d/\d+ clients joined"
        r"|gloo connectfullmesh failed|\baddress already in use\b|\beaddrinuse\b",
        "processes could not reach each other, or their port was in use",
        node=False,
    ),
    _known(
        r"\bbus error\b|\bsigbus\b|insufficient shared memory",
        "shared memory or a mapped file failed",
        node=False,
    ),
    _known(
        r"can't start new thread|pthread_create\b[^\n]{0,40}fail|blas_thread_init"
        r"|thread creation failed"
        r"|(?:fail\w*|unable) to (?:spawn|create|start)\b[^\n]{0,60}\bthread|threadpoolbuilderror"
        r"|necessary resources for omp thread|fork rejected by pids controller"
        r"|(?:\bv?fork\b|\bspawn|\bprocess\b|\bthread)[^\n]{0,80}resource temporarily unavailable",
        "the node's limit on threads and processes is reached ('ulimit -u', "
        "or the job's pids cgroup)",
        node=True,
    ),
    _known(
        r"resource temporarily unavailable|\bEAGAIN\b",
        "a resource of the node was temporarily unavailable",
        node=False,
    ),
)
"""Messages that also follow from exhausted memory.

They are looked for only if nothing says that memory ran out.
"""

# vLLM, at the start of an engine: "Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less
# than desired GPU memory utilization (0.9, 71.2 GiB)". Older versions name no device. Before the
# start, `agenttts.inference.engine_pool` says it in these words.
_MEMORY_HELD = re.compile(
    r"free memory on "
    r"device\s*(?P<device>[\w:]*)\s*\((?P<free>[\d.]+)\s*/\s*(?P<total>[\d.]+)\s*GiB\)[^\n]*?"
    r"is less than desired gpu memory utilization[^\n]*",
    re.IGNORECASE,
)
# slurmstepd and the kernel: "Detected 1 oom_kill event", "oom-kill".
_OOM_KILLED = re.compile(r"\boom[-_ ]kill", re.IGNORECASE)
_LINE_LENGTH = 200


def find_message(text: str, known: tuple[KnownMessage, ...]) -> FoundMessage | None:
    """Return the first of the known messages, in their order, that a text holds."""
    return _find(text, known, warnings=True)


def find_in_log(log: str, known: tuple[KnownMessage, ...]) -> FoundMessage | None:
    """Return the first of the known messages in a log, without mere warnings.

    A line that only warns counts for messages of ``any_level``.
    """
    return _find(log, known, warnings=False)


def _find(text: str, known: tuple[KnownMessage, ...], *, warnings: bool) -> FoundMessage | None:
    for message in known:
        for match in message.pattern.finditer(text):
            line = _whole_line(text, match.start())
            if warnings or message.any_level or not _NO_ERROR.search(line):
                return FoundMessage(message.meaning, message.node, _line_at(text, match.start()))
    return None


def memory_held_by_others(text: str) -> FoundMessage | None:
    """Return a message if an engine found its GPU's memory in use before it took any.

    The result is also None if nearly all of the memory was free. Then the model's own
    ``gpu_memory_utilization`` asks for more than any GPU of this kind has.
    """
    for match in _MEMORY_HELD.finditer(text):
        try:
            free = float(match["free"]) / float(match["total"])
        except (ValueError, ZeroDivisionError):
            continue
        if free < UNUSED_GPU:
            meaning = (
                f"another process uses memory of the GPU: {match['free']} of {match['total']} GiB "
                "were free before the model was loaded"
            )
            return FoundMessage(meaning, True, _line_at(text, match.start()))
    return None


def memory_ran_out(text: str) -> bool:
    """Return whether a text says that memory ran out, on a GPU or on the host."""
    return is_out_of_memory(text) or bool(_OOM_KILLED.search(text))


def _whole_line(text: str, position: int) -> str:
    end = text.find("\n", position)
    return text[text.rfind("\n", 0, position) + 1 : len(text) if end < 0 else end]


def _line_at(text: str, position: int) -> str:
    """Return the line around a position, cut to the length of a message."""
    start = text.rfind("\n", 0, position) + 1
    line = " ".join(_whole_line(text, position).split())
    if len(line) <= _LINE_LENGTH:
        return line
    shift = max(0, min(position - start - 40, len(line) - _LINE_LENGTH))
    return line[shift : shift + _LINE_LENGTH]
