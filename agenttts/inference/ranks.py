"""Variables that make a process a rank of a distributed program.

torchrun, srun, mpirun and accelerate set them for the processes that they start, and whatever these
start inherits them. An engine that reads them waits for ranks that do not exist: with
``TORCHELASTIC_USE_AGENT_STORE``, torch (2.13) waits for a store that nobody serves; with
``WORLD_SIZE``, transformers (5.19) divides a model with ``device_map="auto"`` among the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"),
        *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
        *("MASTER_ADDR", "MASTER_PORT"),
        *("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
        *("SLURM_PROCID", "SLURM_LOCALID"),
    }
)
_PREFIXES = ("TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "PMI_", "PMIX_")


def is_of_a_rank(name: str) -> bool:
    """Return whether a variable says which rank its process is, or where others are."""
    return name in _NAMES or name.startswith(_PREFIXES)


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of a rank.

    What says which CPUs, GPUs and memory the process has stays.
    """
    return {name: value for name, value in environment.items() if not is_of_a_rank(name)}
