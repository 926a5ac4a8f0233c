"""Whose fault an attempt's end was: a case a row of the table, and that every end has a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.blame import STOPS, AttemptEnd, Verdict, blame
from agenttts.dispatch.messages import CONSEQUENCES, MACHINE_MESSAGES, find_in_log, find_message
from agenttts.sandbox.run import missing as no_sandbox
from agenttts.tables.schema import TrialState
from agenttts.trial.result import Fault

# (state, retried, node excluded)
OWN, OOM, TIMEOUT = ("FAILED", False, False), ("OOM", False, False), ("TIMEOUT", False, False)
INFRA, NODE = ("INFRA_FAILED", True, False), ("INFRA_FAILED", True, True)
PREEMPTED, CANCELLED = ("PREEMPTED", True, False), ("CANCELLED", False, False)


def engine(message: str, kind: str = "FAILED") -> Fault:
    return Fault(kind, message, "engine")


LOADING = "model 'm' (/models/m) could not be loaded by vLLM: RuntimeError: Engine core initialization failed. See root cause above."
KILLED = "the engine process of model 'm' was killed by SIGKILL (exit code -9); the kernel and Slurm send SIGKILL when memory runs out; its last line: loading"
AGAIN = "WARNING agenttts.inference.engine_pool: model 'm': CUDA out of memory; the other engines are closed, and it is loaded again"
WORKER_KILLED = f"{LOADING}; its process VllmWorker-1 was killed by SIGKILL (exit code -9); the kernel and Slurm send SIGKILL when memory runs out"
SILENT = "model 'm' (/models/m) could not be run by vLLM: EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.; a process of the engine ended without saying why, as one does that is killed; the kernel and Slurm send SIGKILL when memory runs out"
WARNING = (
    "WARNING usage_lib.py: Failed to write usage stats: [Errno 30] Read-only file system: '/opt/x'"
)
FREE = "ValueError: Free memory on device cuda:0 ({} GiB) on startup is less than desired GPU memory utilization ({} GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
HELD, UNUSED = FREE.format("3.25/79.1", "0.9, 71.2"), FREE.format("78.5/79.1", "0.995, 78.7")

# Ends that nothing but the log tells of: what it says, and whether another node may do better.
LOGS = {
    "FATAL:   could not open image /images/agenttts.sif: failed to retrieve path for /images/agenttts.sif: lstat /images: no such file or directory": NODE,
    "FATAL:   container creation failed: mount hook function failure: mount /models->/models error: while mounting /models: mount source /models doesn't exist": NODE,
    "FATAL:   container creation failed: mount hook function failure: no loop devices available": NODE,
    'FATAL:   "python": executable file not found in $PATH': INFRA,
    "ABORT  : Retval = 255": INFRA,
    "RuntimeError: No CUDA GPUs are available": NODE,
    "torch.AcceleratorError: CUDA error: no CUDA-capable device is detected": NODE,
    "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable": NODE,
    "RuntimeError: CUDA error: device unavailable": NODE,
    "CUDA unknown error - this may be due to an incorrectly set up environment": NODE,
    "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from http://www.nvidia.com/Download/index.aspx": NODE,
    "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized": NODE,
    "vllm.third_party.pynvml.NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM version mismatch.": NODE,
    "vllm.third_party.pynvml.NVMLError_GpuIsLost: GPU is lost": NODE,
    "(EngineCore pid=7) ERROR 11-26 16:31:40 [core.py:1330] vllm.third_party.pynvml.NVMLError_Unknown: Unknown Error": NODE,
    "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.": NODE,
    "torch.AcceleratorError: CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error": NODE,
    "AssertionError: Error in memory profiling. Initial free memory 82.94 GiB, current free memory 90.17 GiB. This happens when other processes sharing the same container release GPU memory while vLLM is profiling during initialization.": INFRA,
    "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered": NODE,
    "[ 5281.2] NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.": NODE,
    "The NVIDIA driver on your system is too old (found version 12020).": NODE,
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": NODE,
    "OSError: [Errno 116] Stale file handle: '/models/m/model-00001-of-00004.safetensors'": NODE,
    "OSError: [Errno 5] Input/output error": NODE,
    "bash: /images/a.sif: Transport endpoint is not connected": NODE,
    "OSError: [Errno 28] No space left on device: '/tmp/cache/vllm'": INFRA,
    "OSError: [Errno 122] Disk quota exceeded": INFRA,
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error": INFRA,
    "(EngineCore pid=7) ERROR 11-26 16:31:40 [core.py:1330] TimeoutError: RPC call to execute_model timed out.": INFRA,
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 41235, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use": INFRA,
    "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.": INFRA,
    "zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:41235')": INFRA,
    "RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/gloo/transport/tcp/pair.cc:144] no error": INFRA,
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12)": INFRA,
    "Bus error (core dumped)": INFRA,
    "Illegal instruction (core dumped)": NODE,
    "RuntimeError: can't start new thread": NODE,
    "thread '<unnamed>' panicked at pool.rs:71: failed to spawn async executor thread: Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }": NODE,
    "OpenBLAS blas_thread_init: pthread_create failed for thread 3 of 64: Resource temporarily unavailable": NODE,
    "libgomp: Thread creation failed: Resource temporarily unavailable": NODE,
    "OMP: Error #34: System unable to allocate necessary resources for OMP thread:": NODE,
    "/bin/bash: fork: retry: Resource temporarily unavailable": NODE,
    "ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }": NODE,
    "ImportError: /tmp/cache/triton/A/cuda_utils.so: failed to map segment from shared object": NODE,
    "OSError: /tmp/cache/inductor/a.so: failed to map segment from shared object: Operation not permitted": NODE,
    "ImportError: /opt/a.so: failed to map segment from shared object: Cannot allocate memory": OOM,
    "zmq.error.Again: Resource temporarily unavailable": INFRA,
    HELD: NODE,
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": OOM,
}  # fmt: skip

CASES = [
    # An end that nothing explains is nobody's fault, and tried again.
    ("an unknown exit", AttemptEnd(exit_code=3, began=True), INFRA),
    ("an unknown exit before the trial began", AttemptEnd(exit_code=255), INFRA),
    ("an exit in order without a result", AttemptEnd(exit_code=0, began=True), INFRA),
    ("a crash of native code", AttemptEnd(exit_code=-11, began=True), INFRA),
    ("a crash seen through the container runtime", AttemptEnd(exit_code=139, began=True), INFRA),
    ("an illegal instruction", AttemptEnd(exit_code=132, began=True), NODE),
    ("a command that could not be started", AttemptEnd(problem="apptainer: No such file"), INFRA),
    # The trial's own word.
    ("the task's code failed", AttemptEnd(exit_code=1, fault=Fault("FAILED", "ZeroDivisionError: ...", "task")), OWN),
    ("an older image's word", AttemptEnd(exit_code=1, fault=Fault("FAILED", "no such stage")), OWN),
    ("a model does not load", AttemptEnd(exit_code=1, fault=engine("unknown architecture")), OWN),
    ("a kind that is not known", AttemptEnd(exit_code=1, fault=Fault("LATER", "?", "task")), OWN),
    ("an engine out of memory", AttemptEnd(exit_code=1, fault=engine("CUDA out of memory", "OOM")), OOM),
    ("a server that the model is on failed", AttemptEnd(exit_code=1, fault=engine("model 'm': HTTP 500: CUDA out of memory", "INFRA_FAILED")), INFRA),
    ("a server failed, beside a message of the node", AttemptEnd(exit_code=1, fault=engine("model 'm': no answer in 600 s", "INFRA_FAILED"), log="OSError: [Errno 5] Input/output error"), INFRA),
    ("a node makes no sandbox", AttemptEnd(exit_code=1, fault=Fault("FAILED", str(no_sandbox("the kernel does not allow user namespaces (Operation not permitted)")), "input")), NODE),
    # The trial's own word, and the cause in the log of the engine's workers.
    ("a GPU failed under the engine", AttemptEnd(exit_code=1, fault=engine(LOADING), log="CUDA error: uncorrectable ECC error encountered"), NODE),
    ("NCCL failed under the engine", AttemptEnd(exit_code=1, fault=engine(LOADING), log="ncclSystemError: System call failed"), INFRA),
    ("a worker hung", AttemptEnd(exit_code=1, fault=engine(f"{LOADING}; the cause, printed by a process of the engine: TimeoutError: RPC call to execute_model timed out.")), INFRA),
    ("a worker hung with its GPU", AttemptEnd(exit_code=1, fault=engine(f"{LOADING}; the cause, printed by a process of the engine: TimeoutError: RPC call to execute_model timed out."), log="NVRM: Xid (PCI:0000:3b:00): 79"), NODE),
    ("a task's program took a port that another one had", AttemptEnd(exit_code=1, fault=Fault("FAILED", "OSError: [Errno 98] Address already in use (mytask.py:3)", "task")), INFRA),
    ("memory ran out in a worker", AttemptEnd(exit_code=1, fault=engine(LOADING), log="torch.OutOfMemoryError: CUDA out of memory"), OOM),
    ("memory ran out in a worker, and NCCL failed with it", AttemptEnd(exit_code=1, fault=engine(LOADING), log="ncclUnhandledCudaError\ntorch.OutOfMemoryError: CUDA out of memory"), OOM),
    ("somebody else holds the GPU's memory", AttemptEnd(exit_code=1, fault=engine(HELD, "OOM"), log=HELD), NODE),
    ("the model asks for more than any GPU has", AttemptEnd(exit_code=1, fault=engine(UNUSED, "OOM"), log=UNUSED), OOM),
    ("the store's disk is full", AttemptEnd(exit_code=1, fault=Fault("FAILED", "OSError: [Errno 28] No space left on device (atomic.py:54)", "task")), INFRA),
    ("a program that a model wrote printed odd things", AttemptEnd(exit_code=1, fault=Fault("FAILED", "ValueError: odd (mytask.py:3)", "task"), log="NVRM: Xid (1): 79\nout of memory"), OWN),
    # A warning in the log does not outrank a cause that the trial itself named.
    ("memory ran out, beside a warning", AttemptEnd(exit_code=1, fault=engine("model 'a': CUDA out of memory. Tried to allocate 2 GiB", "OOM"), log=WARNING), OOM),
    ("memory ran out, without a driver for the front end", AttemptEnd(exit_code=1, fault=engine("CUDA out of memory", "OOM"), log="WARNING libcuda.so.1: cannot open shared object file"), OOM),
    ("a model that no engine knows, beside a warning", AttemptEnd(exit_code=1, fault=engine("ValueError: Model architectures ['Foo'] are not supported"), log=WARNING), OWN),
    ("the engine names a GPU error, and the log says why", AttemptEnd(exit_code=1, fault=engine("CUDA error: an illegal memory access was encountered"), log="NVRM: Xid (1): 79"), NODE),
    ("the engine names a GPU error, and nothing says why", AttemptEnd(exit_code=1, fault=engine("CUDA error: an illegal memory access was encountered")), OWN),
    ("the engine crashed beside a GPU that failed", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' was killed by SIGSEGV (exit code -11)"), log="NVRM: Xid (1): 79"), NODE),
    ("the engine ended, and its last line was a warning", AttemptEnd(exit_code=1, fault=engine(f"the engine process of model 'm' ended (exit code 1); its last line: {WARNING}"), log=WARNING), OWN),
    ("the engine ended, and a worker said why", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' ended (exit code 1); the cause, printed by a process of the engine: ValueError: 5 heads do not divide"), log="OSError: [Errno 5] Input/output error"), OWN),
    ("the engine ended, and a worker's file was lost", AttemptEnd(exit_code=1, fault=engine("Engine core initialization failed. See root cause above.; the cause, printed by a process of the engine: OSError: [Errno 116] Stale file handle")), NODE),
    ("a start limit twice, beside a warning", AttemptEnd(stopped="start limit", stops_before=1, began=True, log=WARNING), TIMEOUT),
    # A process limit that is used up is the node's, whoever says it.
    ("a file server went away", AttemptEnd(exit_code=1, fault=Fault("INFRA_FAILED", "OSError: [Errno 108] Cannot send after transport endpoint shutdown (atomic.py:70)", "task")), INFRA),
    ("the node's file handle is stale", AttemptEnd(exit_code=1, fault=Fault("INFRA_FAILED", "OSError: [Errno 116] Stale file handle (atomic.py:70)", "task")), NODE),
    ("the weights' file handle is stale", AttemptEnd(exit_code=1, fault=engine("model 'm' could not be loaded by vLLM: OSError: [Errno 116] Stale file handle", "INFRA_FAILED")), NODE),
    ("a server's own file system failed", AttemptEnd(exit_code=1, fault=engine("model 'm': the server says: Input/output error", "INFRA_FAILED")), INFRA),
    ("the task's code got no thread", AttemptEnd(exit_code=1, fault=Fault("FAILED", "RuntimeError: can't start new thread (threading.py:994)", "task")), NODE),
    ("the engine got no process", AttemptEnd(exit_code=1, fault=engine("no process could be started for model 'm': [Errno 11] Resource temporarily unavailable")), NODE),
    ("the command got no process", AttemptEnd(problem="apptainer: process: Resource temporarily unavailable"), NODE),
    ("the command's file system is gone", AttemptEnd(problem="apptainer: Stale file handle"), NODE),
    ("NCCL failed, and the log says why", AttemptEnd(exit_code=1, fault=engine("RuntimeError: NCCL error: unhandled system error"), log="NVRM: Xid (1): 79"), NODE),
    ("the engine says itself that a GPU failed", AttemptEnd(exit_code=1, fault=engine("CUDA error: uncorrectable ECC error encountered")), NODE),
    ("the engine could not load compiled code", AttemptEnd(exit_code=1, fault=engine("model 'm' could not be loaded by vLLM: ImportError: /tmp/cache/triton/A/cuda_utils.so: failed to map segment from shared object")), NODE),
    ("the engine was killed beside a GPU that failed", AttemptEnd(exit_code=1, fault=engine(KILLED, "OOM"), log="NVRM: Xid (1): 79"), NODE),
    # A SIGKILL is no evidence of exhausted memory.
    ("killed", AttemptEnd(exit_code=-9, began=True), INFRA),
    ("killed, seen through a shell", AttemptEnd(exit_code=137, began=True), INFRA),
    ("killed, and the kernel counted it", AttemptEnd(exit_code=137, began=True, oom_killed=True), OOM),
    ("killed, and the log says why", AttemptEnd(exit_code=137, began=True, log="slurmstepd: error: Detected 1 oom_kill event"), OOM),
    ("the engine was killed", AttemptEnd(exit_code=1, fault=engine(KILLED, "OOM")), INFRA),
    ("the engine was killed, and the kernel counted it", AttemptEnd(exit_code=1, fault=engine(KILLED, "OOM"), oom_killed=True), OOM),
    ("the engine was killed after it had said why", AttemptEnd(exit_code=1, fault=engine(KILLED, "OOM"), log="RuntimeError: Cannot allocate memory"), OOM),
    ("a worker of the engine was killed", AttemptEnd(exit_code=1, fault=engine(WORKER_KILLED, "OOM")), INFRA),
    ("a worker of the engine was killed, and the kernel counted it", AttemptEnd(exit_code=1, fault=engine(WORKER_KILLED, "OOM"), oom_killed=True), OOM),
    ("a worker of the engine was killed after a GPU failed", AttemptEnd(exit_code=1, fault=engine(WORKER_KILLED, "OOM"), log="NVRM: Xid (1): 79"), NODE),
    ("a worker of the engine crashed", AttemptEnd(exit_code=1, fault=engine(f"{LOADING}; its process VllmWorker-1 was killed by SIGSEGV (exit code -11)")), OWN),
    ("the engine's core ended silently", AttemptEnd(exit_code=1, fault=engine(SILENT, "OOM")), INFRA),
    ("the engine's core ended silently, and the kernel counted it", AttemptEnd(exit_code=1, fault=engine(SILENT, "OOM"), oom_killed=True), OOM),
    ("the engine's core ended silently after a GPU failed", AttemptEnd(exit_code=1, fault=engine(SILENT, "OOM"), log="NVRM: Xid (1): 79"), NODE),
    ("no process of the engine says why, and the kernel counted a kill", AttemptEnd(exit_code=1, fault=engine(LOADING), oom_killed=True), OOM),
    ("a worker says only that another one failed", AttemptEnd(exit_code=1, fault=engine(f"{LOADING}; the cause, printed by a process of the engine: Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause."), log="NVRM: Xid (1): 79"), NODE),
    ("a GPU error beside a kill of something else", AttemptEnd(exit_code=1, fault=engine("CUDA error: an illegal memory access was encountered"), oom_killed=True), OWN),
    ("the engine was killed after a start beside another one was refused", AttemptEnd(exit_code=1, fault=engine(KILLED, "OOM"), log=f"{HELD}\n{AGAIN}\nINFO loading"), INFRA),
    ("memory ran out beside another engine, and then without it", AttemptEnd(exit_code=1, fault=engine(LOADING), log=f"{HELD}\n{AGAIN}\ntorch.OutOfMemoryError: CUDA out of memory"), OOM),
    ("the engine crashed after memory had run out beside another one", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' was killed by SIGSEGV (exit code -11)"), log=f"torch.OutOfMemoryError: CUDA out of memory\n{AGAIN}"), OWN),
    ("the engine's file vanished under it", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' was killed by SIGBUS (exit code -7)")), INFRA),
    ("a limit on CPU time", AttemptEnd(exit_code=-24, began=True), INFRA),
    ("a limit on the size of files, seen through a shell", AttemptEnd(exit_code=153, began=True), INFRA),
    ("the engine reached a limit on CPU time", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' was killed by SIGXCPU (exit code -24)")), INFRA),
    ("the engine crashed by itself", AttemptEnd(exit_code=1, fault=engine("the engine process of model 'm' was killed by SIGSEGV (exit code -11)")), OWN),
    # What the job itself did.
    ("a node that is not usable", AttemptEnd(stopped="preflight", problem="/tmp is full", node="n1"), NODE),
    ("a full scratch directory", AttemptEnd(stopped="preflight", problem="the node's scratch directory /tmp/x cannot be written: No space left on device", node="n1"), NODE),
    ("a full file system of the run", AttemptEnd(stopped="preflight", problem="the trial's directory /r/t0001 cannot be written: No space left on device", node="n1"), INFRA),
    ("a used-up quota", AttemptEnd(stopped="preflight", problem="the trial's directory /r/t0001 cannot be written: Disk quota exceeded", node="n1"), INFRA),
    ("a run that the node cannot write", AttemptEnd(stopped="preflight", problem="the trial's directory /r/t0001 cannot be written: Read-only file system", node="n1"), NODE),
    ("stopped to free its resources", AttemptEnd(stopped="preemption", exit_code=143, began=True), PREEMPTED),
    ("told that time is up", AttemptEnd(stopped="time limit", exit_code=143, began=True), TIMEOUT),
    ("interrupted", AttemptEnd(stopped="signal", exit_code=143, began=True), CANCELLED),
    ("an engine that did not start", AttemptEnd(stopped="start limit", exit_code=143, began=True), INFRA),
    ("an engine that did not start twice", AttemptEnd(stopped="start limit", stops_before=1, began=True), TIMEOUT),
    ("a call without progress", AttemptEnd(stopped="stall limit", exit_code=-9, began=True), INFRA),
    ("a call without progress twice", AttemptEnd(stopped="stall limit", stops_before=1, began=True), TIMEOUT),
    ("a call without progress twice, and a reason", AttemptEnd(stopped="stall limit", stops_before=1, log="NVRM: Xid (PCI:0000:3b:00): 79"), NODE),
    ("ended by SIGTERM", AttemptEnd(exit_code=143, began=True), CANCELLED),
    # The queue's word on an attempt that was cut off.
    ("cut off", AttemptEnd(), INFRA),
    ("cut off, the queue knows nothing", AttemptEnd(queue_state="UNKNOWN", node="n1"), INFRA),
    ("cut off, FAILED", AttemptEnd(queue_state="FAILED"), INFRA),
    ("cut off, NODE_FAIL", AttemptEnd(queue_state="NODE_FAIL", node="n1"), NODE),
    ("cut off, BOOT_FAIL", AttemptEnd(queue_state="BOOT_FAIL"), NODE),
    ("cut off, PREEMPTED", AttemptEnd(queue_state="PREEMPTED"), PREEMPTED),
    ("cut off, TIMEOUT", AttemptEnd(queue_state="TIMEOUT"), TIMEOUT),
    ("cut off, DEADLINE", AttemptEnd(queue_state="DEADLINE"), TIMEOUT),
    ("cut off, OUT_OF_MEMORY", AttemptEnd(queue_state="OUT_OF_MEMORY"), OOM),
    ("cut off, CANCELLED", AttemptEnd(queue_state="CANCELLED"), CANCELLED),
    ("cut off after a GPU failed", AttemptEnd(queue_state="FAILED", log="NVRM: Xid (PCI:0000:3b:00): 79"), NODE),
]  # fmt: skip


def in_short(verdict: Verdict) -> tuple[str, bool, bool]:
    return (verdict.state.value, verdict.retry, verdict.exclude_node)


@pytest.mark.parametrize(("end", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])  # fmt: skip
def test_a_row_of_the_table(end, expected):
    verdict = blame(end)
    assert in_short(verdict) == expected, verdict
    assert verdict.explanation


@pytest.mark.parametrize("line", LOGS)
@pytest.mark.parametrize("exit_code", [1, 255, 0])
def test_a_message_in_the_log_tells_whose_fault_it_was(line, exit_code):
    log = f"INFO loading\n{line}\nINFO shutting down\n"
    began = not line.startswith(("FATAL:", "ABORT"))
    verdict = blame(AttemptEnd(exit_code=exit_code, log=log, began=began))
    assert in_short(verdict) == LOGS[line], verdict
    if verdict.state is TrialState.INFRA_FAILED:
        assert " ".join(line.split())[:100] in verdict.explanation


@pytest.mark.parametrize("line", ["INFO the model's quantization is experimental", "WARNING 3 requests were retried", "FATALITY", "Xidane"])  # fmt: skip
def test_ordinary_lines_are_no_message(line):
    assert find_message(line, (*MACHINE_MESSAGES, *CONSEQUENCES)) is None


@pytest.mark.parametrize("said", ["RuntimeError: Failed to infer device type", "RuntimeError: Found no NVIDIA driver on your system."])  # fmt: skip
@pytest.mark.parametrize(("gpus", "verdict"), [(0, OWN), (1, NODE), (None, NODE)])
def test_an_engine_that_needs_a_gpu_is_no_fault_of_nodes_whose_jobs_have_none(said, gpus, verdict):
    """It would fail on all nodes one after the other, and each would be avoided."""
    end = AttemptEnd(exit_code=1, fault=engine(f"model 'm' could not be loaded by vLLM: {said}"), began=True, gpus=gpus)  # fmt: skip
    found = blame(end)
    assert in_short(found) == verdict
    assert ("set gpus_per_node in the profile" in found.explanation) is (gpus == 0)
    later = blame(replace(end, fault=engine(LOADING), log=f"{said}\n"))
    assert in_short(later) == verdict


# Causes that an engine names, and lines that do no harm in a log: whatever stands beside the cause,
# it is the cause.
NAMED = [
    "model 'm' (/x) could not be loaded by vLLM: ValueError: unknown option foo",
    "model 'm' (/x) could not be loaded by vLLM: ValidationError: Model architectures ['FooForCausalLM'] are not supported for now.",
    "decode_tokens is 4096, which leaves no tokens for a prompt in a context of 4096",
    "model 'm' (/x) could not be loaded by transformers: KeyError: 'lm_head.weight'",
]  # fmt: skip
HARMLESS = [
    "fatal: not a git repository (or any of the parent directories): .git",
    "fatal: detected dubious ownership in repository at '/opt/x'",
    "FATAL:   container creation failed: mount hook function failure: no loop devices available",
    "WARNING 11-26 [triton]: could not create cache: [Errno 30] Read-only file system: '/.triton'",
    "WARN: [Errno 5] Input/output error while reading hwloc",
    "OSError: [Errno 28] No space left on device: '/tmp/usage'",
    "OSError: [Errno 122] Disk quota exceeded: '/home/u/.config/vllm'",
    "OSError: [Errno 116] Stale file handle: '/home/u/.bashrc'",
    "NVRM: Xid (PCI:0000:3b:00): 43, pid=1, name=other",
    "failed to initialize NVML: Driver not loaded",
    "RuntimeError: can't start new thread",
    "NCCL error in: watchdog",
    "torch.OutOfMemoryError: CUDA out of memory",
    "Bus error (core dumped)",
]


@given(
    st.sampled_from(NAMED),
    st.lists(st.sampled_from([*HARMLESS, "INFO fine", ""]), max_size=5),
    st.booleans(),
)
def test_nothing_in_a_log_outranks_the_cause_that_an_engine_names(message, lines, first):
    own = ["Traceback (most recent call last):", '  File "vllm.py", line 1, in f', f"agenttts.inference.base.EngineError: {message}"]  # fmt: skip
    log = "\n".join([*own, *lines] if first else [*lines, *own])
    verdict = blame(AttemptEnd(exit_code=1, fault=engine(message), log=log, began=True))
    assert in_short(verdict) == OWN
    assert verdict.explanation == message


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ('time="2026-01-01T00:00:00" level=WARN msg="cache: read-only file system"', False),
        ('level=INFO msg=retry error="no space left on device"', False),
        ("NCCL_DEBUG=INFO is set: no space left on device", True),
        ("n1:1:1 [0] NCCL WARN uncorrectable ECC error", True),
    ],
)
def test_the_level_of_a_line_may_be_written_as_a_field(line, counts):
    """As programs in Go write it; the value of a variable of the environment is no level."""
    assert (find_in_log(line, MACHINE_MESSAGES) is not None) is counts


CAUSE = """\
INFO loading
{p}Traceback (most recent call last):
{p}  File "weight_utils.py", line 3, in load
{p}    return open(name)
{p}OSError: [Errno 116] Stale file handle: '/models/m/model-00001-of-00004.safetensors'
{p}
{p}The above exception was the direct cause of the following exception:
{p}
{p}Traceback (most recent call last):
{p}  File "vllm.py", line 9, in load
{p}agenttts.inference.base.EngineError: model 'm' (/x) could not be loaded by vLLM: ValueError: cannot load weights
"""
FOLLOWED = "model 'm' (/x) could not be loaded by vLLM: ValueError: cannot load weights"


@pytest.mark.parametrize(
    "prefix", ["", "(EngineCore_0 pid=12) ERROR 11-26 12:00:00 [core.py:700] "]
)
def test_what_an_engine_s_error_followed_from_is_its_cause(prefix):
    log = CAUSE.format(p=prefix)
    verdict = blame(AttemptEnd(exit_code=1, fault=engine(FOLLOWED), log=log, began=True))
    assert in_short(verdict) == NODE
    assert "Stale file handle" in verdict.explanation
    apart = log.replace("The above exception was the direct cause of the following exception:", "INFO going on without it")  # fmt: skip
    verdict = blame(AttemptEnd(exit_code=1, fault=engine(FOLLOWED), log=apart, began=True))
    assert in_short(verdict) == OWN


@pytest.mark.parametrize(("began", "part"), [(True, "exit code 1"), (False, "could not be started")])  # fmt: skip
def test_a_container_that_failed_is_told_from_a_program_in_it(began, part):
    log = 'FATAL:   "python": executable file not found in $PATH'
    assert part in blame(AttemptEnd(exit_code=1, log=log, began=began)).explanation
    git = blame(AttemptEnd(exit_code=1, log="fatal: not a git repository", began=began))
    assert "container" not in git.explanation


# The job's own record, then the queue's word: (recorded, the queue's state, what comes of it).
CANCELLED_RECORD = Verdict(TrialState.CANCELLED, False, False, "the trial was ended by SIGTERM")
KILLED_RECORD = Verdict(TrialState.INFRA_FAILED, True, False, "killed")
FAULTY_NODE = Verdict(TrialState.INFRA_FAILED, True, True, "a GPU has a hardware error")
OWN_RECORD = Verdict(TrialState.FAILED, False, False, "ZeroDivisionError")
PREEMPTED_RECORD = Verdict(TrialState.PREEMPTED, True, False, "made room")
COMPLETED_RECORD = Verdict(TrialState.COMPLETED, False, False, "")

RECORDS = [
    (CANCELLED_RECORD, "PREEMPTED", PREEMPTED),
    (CANCELLED_RECORD, "NODE_FAIL", NODE),
    (CANCELLED_RECORD, "CANCELLED", CANCELLED),
    (CANCELLED_RECORD, "TIMEOUT", TIMEOUT),
    (CANCELLED_RECORD, "OUT_OF_MEMORY", OOM),
    (CANCELLED_RECORD, "COMPLETED", INFRA),
    (CANCELLED_RECORD, "FAILED", INFRA),
    (CANCELLED_RECORD, "UNKNOWN", CANCELLED),
    (CANCELLED_RECORD, "ENDED", CANCELLED),
    (KILLED_RECORD, "OUT_OF_MEMORY", OOM),
    (KILLED_RECORD, "FAILED", INFRA),
    (KILLED_RECORD, "CANCELLED", CANCELLED),
    (KILLED_RECORD, "TIMEOUT", TIMEOUT),
    (FAULTY_NODE, "FAILED", NODE),
    (FAULTY_NODE, "OUT_OF_MEMORY", NODE),
    (OWN_RECORD, "FAILED", OWN),
    (OWN_RECORD, "COMPLETED", OWN),
    (OWN_RECORD, "TIMEOUT", OWN),
    (OWN_RECORD, "PREEMPTED", PREEMPTED),
    (PREEMPTED_RECORD, "CANCELLED", CANCELLED),
    (PREEMPTED_RECORD, "FAILED", PREEMPTED),
    (COMPLETED_RECORD, "COMPLETED", INFRA),
    (COMPLETED_RECORD, "", INFRA),
]


@pytest.mark.parametrize(("recorded", "word", "expected"), RECORDS)
def test_the_queue_s_word_on_what_the_job_wrote_down(recorded, word, expected):
    verdict = blame(AttemptEnd(recorded=recorded, queue_state=word, node="n1"))
    assert in_short(verdict) == expected, verdict


SAID = st.lists(st.sampled_from([*LOGS, KILLED, LOADING, "INFO fine", ""]), max_size=4).map("\n".join)  # fmt: skip
TEXT = st.one_of(st.text(max_size=200), SAID)
FAULTS = st.builds(Fault, st.sampled_from(["FAILED", "OOM", "", "else"]), TEXT, st.sampled_from(["", "engine", "task", "input"]))  # fmt: skip
VERDICTS = st.builds(Verdict, st.sampled_from(TrialState), st.booleans(), st.booleans(), st.text())
WORDS = st.one_of(
    st.sampled_from(["", "COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "PREEMPTED", "REVOKED", "CANCELLED", "UNKNOWN", "ENDED", "RUNNING"]),
    st.text(max_size=12),
)  # fmt: skip
ENDS = st.builds(
    AttemptEnd,
    exit_code=st.none() | st.integers(-70, 300),
    fault=st.none() | FAULTS,
    log=TEXT,
    queue_state=WORDS,
    node=st.sampled_from(["", "n1"]),
    began=st.booleans(),
    stopped=st.none() | st.sampled_from(STOPS),
    problem=TEXT,
    stops_before=st.integers(0, 3),
    oom_killed=st.booleans(),
    recorded=st.none() | VERDICTS,
)


@given(ENDS)
def test_every_end_has_a_verdict(end):
    verdict = blame(end)
    assert isinstance(verdict.state, TrialState)
    assert verdict.state is not TrialState.COMPLETED
    if end.recorded is None:
        own = verdict.state in (TrialState.FAILED, TrialState.OOM, TrialState.TIMEOUT)
        assert verdict.retry == (verdict.state in (TrialState.INFRA_FAILED, TrialState.PREEMPTED))
        assert not (own and verdict.exclude_node)
        if verdict.state is TrialState.FAILED:
            assert end.fault is not None, "an allocation is blamed by its own word alone"
    if end.queue_state == "PREEMPTED":
        assert verdict.state is TrialState.PREEMPTED
