"""A service that is a child process of its caller.

The command is ``python -m agenttts.dispatch.child_service PICKLE``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agenttts.dispatch.pickled import load_quickly

if __name__ == "__main__":
    sys.exit(load_quickly(Path(sys.argv[1]).read_bytes())())
