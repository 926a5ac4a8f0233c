"""``python -m agenttts.controller RUN``: start the controller of a run here, as a process that outlives its caller."""

import signal
import sys
from pathlib import Path

from agenttts.controller.launch import submit_local
from agenttts.controller.run import RunDirectory

# Local jobs are cancelled by an interrupt. Started behind a script's "&" they would inherit that it is ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)
submit_local(RunDirectory(Path(sys.argv[1])))
