"""``python -m agenttts.cli``: the same as the ``agenttts-hpc`` script."""

from agenttts.cli.app import main

main()
