"""File system trouble that may pass, and how long to wait for that.

Examples are a server that is restarted, a Lustre target that fails over, a soft mount that times
out, an expired ticket, and a full disk or quota. The operation may succeed later, and nothing that
runs elsewhere is affected.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable

from agenttts.errors import AgentTTSError, MissingRequirement

log = logging.getLogger(__name__)

PATIENCE_S = 6 * 3600.0
"""Seconds to wait, as for a queue that does not answer."""
# Failures further apart than this are separate troubles.
_APART_S = 3600.0
# errno(3); names that other systems than Linux lack are left out.
PASSING = frozenset(
    number
    for name in (
        # A file server, or the network to it: NFS, Lustre, GPFS, BeeGFS.
        "ESTALE EIO EREMOTEIO ENOTCONN ESHUTDOWN ETIMEDOUT ETIME EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH ENETRESET "
        "ECONNREFUSED ECONNRESET ECONNABORTED ENOLINK ECOMM EPROTO ENODEV ENXIO EBUSY EAGAIN "
        "EINTR ENOLCK EROFS "
        # Tickets: AFS and NFS with Kerberos.
        "EACCES EKEYEXPIRED EKEYREVOKED EKEYREJECTED ENOKEY "
        # Space, memory and handles, on this machine or the server.
        "ENOSPC EDQUOT ENOMEM ENOBUFS EMFILE ENFILE"
    ).split()
    if (number := getattr(errno, name, None)) is not None
)

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class FilesUnavailable(MissingRequirement):
    """The file system has been in trouble for too long.

    Nothing is lost: the work can be resumed later.
    """


def passing_trouble(error: BaseException) -> OSError | None:
    """Return the file system trouble behind an error, if it may pass.

    It is the error itself, or an error that caused it. None also for `FilesUnavailable`, because
    the wait for it is over.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while isinstance(found, (AgentTTSError, OSError)) and found not in seen:
        if isinstance(found, FilesUnavailable):
            return None
        if isinstance(found, OSError) and _number(found) in PASSING:
            return found
        seen.append(found)
        found = found.__cause__ or found.__context__
    return None


def is_outside_trouble(error: BaseException) -> bool:
    """Return whether passing trouble other than a lack of memory is behind an error.

    Work that runs into it would succeed elsewhere or later. Memory may run out because of the work.
    """
    trouble = passing_trouble(error)
    return trouble is not None and _number(trouble) != errno.ENOMEM


def _number(error: OSError) -> int | None:
    """Return an error's number in errno(3); Polars has it only in its text."""
    if error.errno is not None:
        return error.errno
    said = _OS_ERROR.search(str(error))
    return int(said[1]) if said else None


class FilePatience:
    """Measures how long a file system has been in trouble, and when to give up.

    It logs each kind of trouble once.

    Args:
        subject: The work that waits, for the log and the error.
        fix: What to do when the trouble has lasted for too long.
        seconds: How long it may last.
    """

    def __init__(
        self,
        subject: str,
        fix: str,
        seconds: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject = subject
        self._fix = fix
        self._seconds = seconds
        self._clock = clock
        self._since = self._last = 0.0
        self._said: int | None = None

    def failed(self, error: AgentTTSError | OSError) -> None:
        """Record a failure.

        Raises:
            FilesUnavailable: The trouble has lasted for too long.
            Exception: ``error`` itself, if it is not a trouble that may pass.
        """
        trouble = passing_trouble(error)
        if trouble is None:
            raise error
        now = self._clock()
        if self._said is None or now - self._last > _APART_S:
            self._since, self._said = now, None
        self._last = now
        where = f"{trouble.filename}: " if trouble.filename else ""
        what = f"{where}{trouble.strerror or trouble}"
        if now - self._since >= self._seconds:
            raise FilesUnavailable(
                f"{self._subject} cannot continue because of a file system error: {what}",
                fix=self._fix,
            ) from error
        if self._said != trouble.errno:
            self._said = trouble.errno
            log.warning(
                "%s is paused by a file system error: %s; it tries again for at most %.1f h, "
                "and jobs keep running",
                self._subject, what, self._seconds / 3600,
            )  # fmt: skip

    def passed(self) -> None:
        """Record that an operation succeeded."""
        if self._said is not None:
            log.warning(
                "%s continues: the file system works again after %.0f s",
                self._subject,
                self._clock() - self._since,
            )
            self._said = None
