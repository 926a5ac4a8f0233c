"""A service that is a child process of its caller.

The command is ``python -m agenttts.dispatch.child_service PICKLE``.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.exit(pickle.loads(Path(sys.argv[1]).read_bytes())())
