"""agenttts-hpc: test-time compute-optimal scaling of multi-stage LLM tasks, searched on Slurm clusters."""

__version__ = "0.1.0"
