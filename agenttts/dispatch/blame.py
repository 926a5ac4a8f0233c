"""Decide what a failed attempt means: its state, and whether and where to retry.

One table gives the `Verdict` for what is known of an attempt's end. The job on the node asks it
first, without the queue's state. The controller asks again with the queue's state, after the job
has ended.

An allocation is blamed (FAILED, OOM, TIMEOUT) only where there is evidence that it was the cause.
An end without an explanation is INFRA_FAILED, and the trial is tried again.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from agenttts.dispatch.messages import (
    CONSEQUENCES,
    CONTAINER_MESSAGES,
    MACHINE_MESSAGES,
    NEEDS_GPU,
    FoundMessage,
    KnownMessage,
    find_in_log,
    find_message,
    memory_held_by_others,
    memory_ran_out,
)
from agenttts.dispatch.node.preflight import TRIAL_DIRECTORY
from agenttts.dispatch.tracebacks import exceptions_behind
from agenttts.tables.schema import TrialState
from agenttts.trial.result import Fault

Stop = Literal["preflight", "preemption", "time limit", "signal", "start limit", "stall limit"]
"""Why the job itself ended the trial, or did not start it."""
STOPS: tuple[Stop, ...] = get_args(Stop)


@dataclass(frozen=True)
class Verdict:
    """What the end of an attempt means.

    Attributes:
        state: The state of the attempt.
        retry: Whether another attempt may succeed.
        exclude_node: Whether another attempt must run on another node.
        explanation: One sentence.
    """

    state: TrialState
    retry: bool
    exclude_node: bool
    explanation: str


@dataclass(frozen=True)
class AttemptEnd:
    """What is known of the end of an attempt that left no valid result.

    Args:
        exit_code: Exit code of the trial's command, negative for a signal as in `subprocess`. None
            if the end was not observed.
        fault: The fault that the trial itself recorded for this attempt.
        log: The end of this attempt's log.
        queue_state: The queue's state of the job, in upper case; empty if the queue was not asked.
        node: The node's name; empty if it is not known.
        began: Whether the trial's program had begun, inside its container.
        stopped: Why the job stopped the trial; None if the trial ended by itself.
        problem: What a preflight found, or why the command could not be started.
        stops_before: Number of earlier attempts of the trial that a start or stall limit ended.
        oom_killed: Whether the kernel counted a kill for memory among the job's processes.
        gpus: GPUs of the job; None if that is not known.
        recorded: The verdict of the job on the node, which did not know the queue's state. Of the
            fields above, only `queue_state` and `node` are then used.
    """

    exit_code: int | None = None
    fault: Fault | None = None
    log: str = ""
    queue_state: str = ""
    node: str = ""
    began: bool = False
    stopped: Stop | None = None
    problem: str = ""
    stops_before: int = 0
    oom_killed: bool = False
    gpus: int | None = None
    recorded: Verdict | None = None


def blame(end: AttemptEnd) -> Verdict:
    """Return the verdict on an attempt's end, from the first row that has one.

    It never raises.
    """
    for row in _ROWS:
        verdict = row(end)
        if verdict is not None:
            return verdict
    return _infra(f"the trial's command ended with {_how(end.exit_code)} and wrote no result")


# The rows of the table. Each returns None if it does not apply.


def _taken_by_the_queue(end: AttemptEnd) -> Verdict | None:
    """Return the verdict if Slurm preempted or lost the job.

    It outranks the job's own record: with PreemptMode=CANCEL Slurm sends SIGTERM first, and the
    record then says CANCELLED.
    """
    if end.queue_state == "PREEMPTED":
        return Verdict(
            TrialState.PREEMPTED,
            True,
            False,
            "the scheduler stopped the job to free its resources for another one (preemption)",
        )
    if end.queue_state in ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED"):
        return _infra(
            f"the scheduler lost the job{_on(end)} ({end.queue_state})", exclude_node=True
        )
    return None


def _recorded(end: AttemptEnd) -> Verdict | None:
    """Return the job's own verdict, unless the queue knows more."""
    known = end.recorded
    if known is None:
        return None
    if known.state is TrialState.COMPLETED:
        return _infra("the attempt completed, but its result files are missing or damaged")
    unexplained = (
        known.state in (TrialState.CANCELLED, TrialState.INFRA_FAILED, TrialState.PREEMPTED)
        and not known.exclude_node
    )
    if unexplained and end.queue_state == "OUT_OF_MEMORY":
        return _memory_of_the_job()
    if unexplained and end.queue_state in ("TIMEOUT", "DEADLINE"):
        return _time_limit()
    if unexplained and end.queue_state == "CANCELLED":
        return _cancelled()
    if known.state is TrialState.CANCELLED and end.queue_state in ("COMPLETED", "FAILED"):
        return _infra("SIGTERM ended the trial, but its job was not cancelled")
    return known


def _stopped_by_the_job(end: AttemptEnd) -> Verdict | None:
    if end.stopped == "preflight":
        # Trials are on a file system that all nodes share. A scratch directory is the node's own.
        shared = end.problem.startswith(TRIAL_DIRECTORY)
        found = find_message(end.problem, MACHINE_MESSAGES) if shared else None
        return _infra(
            f"before the trial began{_on(end)}: {end.problem or 'the node is not usable'}",
            exclude_node=found is None or found.node,
        )
    if end.stopped == "preemption":
        text = "the job was stopped to free its resources for another job (preemption)"
        return Verdict(TrialState.PREEMPTED, True, False, end.problem or text)
    if end.stopped == "time limit":
        return _time_limit()
    if end.stopped == "signal":
        return _cancelled()
    return None


def _limit_of_the_job(end: AttemptEnd) -> Verdict | None:
    """Return the verdict on an engine that did not start or a call without progress.

    The first time, the node may be the cause, and the trial is tried again. The second time, the
    trial counts as the cause: its TIMEOUT tells the searcher that this allocation does not end in
    time. Otherwise each similar allocation would cost the same hours. A known fault of the machine
    in the log is the cause at any time.
    """
    if end.stopped not in ("start limit", "stall limit"):
        return None
    key = "start_minutes" if end.stopped == "start limit" else "stall_minutes"
    what = end.problem or f"the time limit {key} of the profile passed"
    found = _found(end, _machine_messages(end))
    if found is not None:
        return _by_message(found)
    if end.stops_before == 0:
        return _infra(what)
    text = f"{what}, as in an earlier attempt; raise the profile's {key} if the model needs longer"
    return Verdict(TrialState.TIMEOUT, False, False, text)


def _not_of_the_allocation(end: AttemptEnd) -> Verdict | None:
    """Return the verdict if the trial reports an outside failure, e.g. of a server."""
    fault = end.fault
    if fault is None or fault.kind != TrialState.INFRA_FAILED:
        return None
    # What a server answers says nothing about this node; what a system call answers may.
    of_this_node = fault.source != "engine" or "[Errno " in fault.message
    said = find_message(_own_words(fault), (*_machine_messages(end), *CONSEQUENCES))
    return _by_message(said) if said and of_this_node else _infra(fault.message)


def _memory_of_somebody_else(end: AttemptEnd) -> Verdict | None:
    found = memory_held_by_others(_text(end))
    return _by_message(found) if found else None


def _machine_s_message(end: AttemptEnd) -> Verdict | None:
    """Return the verdict on a known message in the fault or in the log."""
    fault = end.fault
    messages = _machine_messages(end)
    said = find_message(_own_words(fault), messages) if fault is not None else None
    if said is not None:
        return _by_message(said)
    if fault is not None and fault.kind == TrialState.OOM and _names_a_cause(fault):
        return None
    found = _found(end, messages if end.began else (*messages, *CONTAINER_MESSAGES))
    return _by_message(found) if found else None


def _memory(end: AttemptEnd) -> Verdict | None:
    """Return OOM if there is evidence that memory ran out.

    A SIGKILL alone is not evidence, because any process of the user or of root can send one.
    """
    fault = end.fault
    if fault is not None and fault.kind != TrialState.OOM and not _may_hide_a_cause(fault):
        return None
    # If the fault's message says only that the engine was killed, its kind is not evidence.
    engine_killed = fault is not None and bool(_MAY_BE_SIGKILL.search(_own_words(fault)))
    killed = (
        engine_killed
        or end.exit_code in _exits(signal.SIGKILL)
        or (fault is not None and _refers_to_another(fault))
    )
    if end.queue_state == "OUT_OF_MEMORY" or (killed and end.oom_killed):
        return _memory_of_the_job()
    if fault is not None and fault.kind == TrialState.OOM:
        if engine_killed and not memory_ran_out(_unhandled(end)):
            return None
        return Verdict(TrialState.OOM, False, False, fault.message)
    if (fault is not None or end.exit_code is not None) and memory_ran_out(_text(end)):
        text = fault.message if fault else f"memory ran out ({_how(end.exit_code)})"
        return Verdict(TrialState.OOM, False, False, text)
    return None


def _consequence_s_message(end: AttemptEnd) -> Verdict | None:
    found = _found(end, CONSEQUENCES)
    return _by_message(found) if found else None


def _engine_killed(end: AttemptEnd) -> Verdict | None:
    """Return the verdict on an engine that a signal from outside ended.

    A signal that a program sends to itself after an error, such as SIGABRT, does not count.
    """
    said = _own_words(end.fault) if end.fault else ""
    match = _ENGINE_SIGNAL.search(said) or _MAY_BE_SIGKILL.search(said)
    return _infra(end.fault.message) if match and end.fault else None


def _own_fault(end: AttemptEnd) -> Verdict | None:
    if end.fault is None:
        return None
    text = end.fault.message
    if end.gpus == 0 and find_message(text, NEEDS_GPU):
        text += (
            "; the job has no GPU, and the engine is not built for the CPU: set gpus_per_node in "
            "the profile (and no gpus: 0 for the model), or install the engine's build for the CPU"
        )
    return Verdict(TrialState.FAILED, False, False, text)


def _could_not_start(end: AttemptEnd) -> Verdict | None:
    if not end.problem or end.exit_code is not None:
        return None
    found = find_message(end.problem, (*MACHINE_MESSAGES, *CONSEQUENCES))
    return _infra(end.problem, exclude_node=found is not None and found.node)


def _ended_by_the_queue(end: AttemptEnd) -> Verdict | None:
    """Return the verdict on an attempt that was cut off, from the queue's state alone."""
    if end.queue_state in ("TIMEOUT", "DEADLINE"):
        return _time_limit()
    if end.queue_state == "CANCELLED":
        return _cancelled()
    if end.exit_code is None:
        word = f" (state in the queue: {end.queue_state})" if end.queue_state else ""
        return _infra(f"the job ended{_on(end)} and left no record{word}")
    return None


def _ended_by_a_signal(end: AttemptEnd) -> Verdict | None:
    if end.exit_code in _exits(signal.SIGTERM):
        # Slurm signals every process of a job that is cancelled. Without the queue's state this is
        # the most likely cause.
        return Verdict(TrialState.CANCELLED, False, False, "the trial was ended by SIGTERM")
    if end.exit_code in _exits(signal.SIGKILL):
        return _infra(
            "the trial was killed (SIGKILL), and there is no evidence that memory ran out"
        )
    if end.exit_code in _exits(signal.SIGILL):
        return _infra(f"SIGILL ended the trial{_on(end)}", exclude_node=True)
    for number, option in _ULIMITS.items():
        if end.exit_code in _exits(number):
            return _infra(
                f"{number.name} ended the trial{_on(end)}: it reached a limit (ulimit {option}) "
                "that its job got from your login shell or the node; raise it there, or set "
                "'sbatch: {propagate: NONE}' in the profile"
            )
    return None


def _never_began(end: AttemptEnd) -> Verdict | None:
    if end.began or end.exit_code is None:
        return None
    return _infra(f"the command ended with {_how(end.exit_code)} before the trial began{_on(end)}")


_ROWS: tuple[Callable[[AttemptEnd], Verdict | None], ...] = (
    _taken_by_the_queue,
    _recorded,
    _stopped_by_the_job,
    _limit_of_the_job,
    _not_of_the_allocation,
    _memory_of_somebody_else,
    _machine_s_message,
    _memory,
    _consequence_s_message,
    _engine_killed,
    _own_fault,
    _could_not_start,
    _ended_by_the_queue,
    _ended_by_a_signal,
    _never_began,
)

_SIGNALS = frozenset(int(number) for number in signal.Signals)
# Words of vLLM's messages about an error that another of its processes has logged.
_REFERS_TO_THE_LOG = re.compile(
    r"root cause|stack trace|engine ?core|engine ?dead|background process", re.IGNORECASE
)
# Words of `agenttts.inference.engine_process` about an engine that was killed from outside.
_ENGINE_SIGNAL = re.compile(
    r"was killed by SIG(KILL|TERM|BUS|ILL|HUP|INT|QUIT|USR1|USR2|PWR|XCPU|XFSZ)\b"
)
# Its words about an engine, or a process of it, that SIGKILL ended or may have ended.
_MAY_BE_SIGKILL = re.compile(r"was killed by SIGKILL|ended without saying why")
# The options of ulimit for the limits that are kept by signals. Slurm takes over the limits of the
# shell that submits a job (PropagateResourceLimits in slurm.conf(5)).
_ULIMITS = {signal.SIGXCPU: "-t", signal.SIGXFSZ: "-f"}
# Its words about an engine that ended without an answer. Neither they nor the last line that the
# engine printed name a cause.
_ENGINE_ENDED = re.compile(r"(was killed by SIG\w+|ended) \(exit code -?\d+\)")
_WORKER_S_WORD = "; the cause, printed by a process of the engine: "
_LAST_LINE = "; its last line: "
# Words of `agenttts.inference.engine_pool`.
_LOADED_AGAIN = "the other engines are closed, and it is loaded again"
# Errors of the GPU's libraries. The GPU or the program may have caused them.
_GPU_ERROR = re.compile(
    r"\b(CUDA|HIP|CUBLAS|CUDNN|NVML|cuBLAS|cuDNN)[ _](error|failure|status)"
    r"|\bcudaError|\bcublasStatus",
    re.IGNORECASE,
)


def _infra(explanation: str, *, exclude_node: bool = False) -> Verdict:
    return Verdict(TrialState.INFRA_FAILED, True, exclude_node, explanation)


def _by_message(found: FoundMessage) -> Verdict:
    return _infra(f"{found.meaning}: {found.line}", exclude_node=found.node)


def _time_limit() -> Verdict:
    text = "the job reached its time limit; raise the profile's trial.time"
    return Verdict(TrialState.TIMEOUT, False, False, text)


def _cancelled() -> Verdict:
    return Verdict(TrialState.CANCELLED, False, False, "the job was cancelled")


def _memory_of_the_job() -> Verdict:
    text = (
        "a process of the job was killed because the job's memory ran out; "
        "raise the profile's trial.mem"
    )
    return Verdict(TrialState.OOM, False, False, text)


def _may_hide_a_cause(fault: Fault) -> bool:
    """Return whether the log may have a cause that the fault does not name.

    This is so for faults of an engine, because its workers are other processes.
    """
    return fault.source in ("", "engine")


def _names_a_cause(fault: Fault) -> bool:
    """Return whether a fault's message itself says what happened.

    It does not if it only refers to something else, such as the end of another process.
    """
    if _refers_to_another(fault):
        return False
    if fault.kind == TrialState.OOM:
        return True
    words = _own_words(fault)
    words = words.partition(_WORKER_S_WORD)[2] or words
    return _GPU_ERROR.search(words) is None and find_message(words, CONSEQUENCES) is None


def _refers_to_another(fault: Fault) -> bool:
    """Return whether a fault only says that another process ended, and not why."""
    words, _, worker_s = _own_words(fault).partition(_WORKER_S_WORD)
    if _ENGINE_SIGNAL.search(words) or _MAY_BE_SIGKILL.search(words):
        return True
    if worker_s:
        return bool(_REFERS_TO_THE_LOG.search(worker_s))
    return bool(_ENGINE_ENDED.search(words) or _REFERS_TO_THE_LOG.search(words))


def _machine_messages(end: AttemptEnd) -> tuple[KnownMessage, ...]:
    """Return the messages that show a failure of the machine in this attempt's job."""
    return tuple(known for known in MACHINE_MESSAGES if end.gpus != 0 or known not in NEEDS_GPU)


def _own_words(fault: Fault) -> str:
    """Return a fault's message without the log line that it quotes.

    The line is quoted if no cause is known.
    """
    return fault.message.partition(_LAST_LINE)[0]


def _found(end: AttemptEnd, known: tuple[KnownMessage, ...]) -> FoundMessage | None:
    """Return the first of the known messages in the fault or in the log.

    The fault's own words are searched first, then the part of the log from `_log`.
    """
    said = find_message(_own_words(end.fault), known) if end.fault is not None else None
    return said or find_in_log(_log(end), known)


def _text(end: AttemptEnd) -> str:
    """Return all the text in which messages are looked for."""
    return _log(end) if end.fault is None else f"{end.fault.message}\n{_log(end)}"


def _log(end: AttemptEnd) -> str:
    """Return the part of the log that tells why an attempt ended.

    - The fault is the task's own: nothing, because the task's programs may print anything.
    - The trial named the cause itself: only the exceptions that led to the fault. Other messages in
      the log are harmless.
    - Otherwise: the whole log, without what was handled (`_unhandled`).
    """
    fault = end.fault
    log = _unhandled(end)
    if fault is None:
        return log
    if not _may_hide_a_cause(fault):
        return ""
    return exceptions_behind(_own_words(fault), log) if _names_a_cause(fault) else log


def _unhandled(end: AttemptEnd) -> str:
    """Return the log after the last start that failed beside other engines.

    Memory ran out there because of these engines, and the model was loaded again without them.
    """
    return end.log.rpartition(_LOADED_AGAIN)[2]


def _exits(number: signal.Signals) -> tuple[int, int]:
    """Return the exit codes of an end by a signal.

    The first is what the parent process sees. The second is what a shell or a container runtime
    passes on.
    """
    return -number, 128 + number


def _how(code: int | None) -> str:
    """Return an exit code in words."""
    if code is None:
        return "an unknown exit code"
    number = -code if code < 0 else code - 128
    if number in _SIGNALS:
        return f"{signal.Signals(number).name} (exit code {code})"
    return f"exit code {code}"


def _on(end: AttemptEnd) -> str:
    return f" on {end.node}" if end.node else ""
