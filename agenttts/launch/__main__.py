"""``python -m agenttts.launch RUN``: start the controller of a run here, as a process that outlives its caller."""

import sys
from pathlib import Path

from agenttts.launch.launch import submit_local
from agenttts.run.directory import RunDirectory

submit_local(RunDirectory(Path(sys.argv[1])))
