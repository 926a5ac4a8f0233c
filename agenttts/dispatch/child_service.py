"""A service that is a child process of its caller.

The command is ``python -m agenttts.dispatch.child_service PICKLE``.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from agenttts.inference.engine_child import kept_for_good

if __name__ == "__main__":
    with kept_for_good():  # it imports all that the service needs
        function = pickle.loads(Path(sys.argv[1]).read_bytes())
    sys.exit(function())
