"""``python -m agenttts.controller RUN``: start the controller of a run here, as a process that outlives its caller."""

import sys
from pathlib import Path

from agenttts.controller.launch import submit_local
from agenttts.controller.run import RunDirectory

submit_local(RunDirectory(Path(sys.argv[1])))
