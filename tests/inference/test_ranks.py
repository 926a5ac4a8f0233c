"""Which variables of a distributed program an engine does not inherit."""

from __future__ import annotations

import pytest

from agenttts.files.processes import environment
from agenttts.inference.engine_child import EngineChild
from agenttts.inference.ranks import is_of_a_rank, without_rank

OF_A_RANK = {
    # torchrun (torch 2.13, torch/distributed/elastic/agent/server/local_elastic_agent.py)
    "LOCAL_RANK": "1",
    "RANK": "3",
    "GROUP_RANK": "1",
    "ROLE_RANK": "3",
    "ROLE_NAME": "default",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "4",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_WORLD_SIZE": "4",
    "MASTER_ADDR": "node9",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_ERROR_FILE": "/tmp/error.json",
    "NODE_RANK": "1",
    # what accelerate (1.15) reads of mpirun and srun
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_SIZE": "2",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMI_FD": "7",
    "PMIX_RANK": "1",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
KEPT = {
    # CPUs, memory and GPUs of the job
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_CPUS_ON_NODE": "8",
    "SLURM_MEM_PER_NODE": "1000",
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "2",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "OMP_NUM_THREADS": "4",
    # settings of the machine
    "NCCL_SOCKET_IFNAME": "ib0",
    "GLOO_SOCKET_IFNAME": "ib0",
    "OMPI_MCA_btl": "self",
    "VLLM_HOST_IP": "10.0.0.1",
    "TORCH_HOME": "/models",
    "HF_HOME": "/models",
    "RANKING": "x",
    "MY_RANK": "x",
}


@pytest.mark.parametrize("name", OF_A_RANK)
def test_a_variable_of_a_rank(name):
    assert is_of_a_rank(name)


@pytest.mark.parametrize("name", KEPT)
def test_any_other_variable_is_kept(name):
    assert not is_of_a_rank(name)


def test_an_environment_without_a_rank():
    assert without_rank({**OF_A_RANK, **KEPT}) == KEPT


@pytest.mark.processes
def test_the_process_of_an_engine_is_no_rank(monkeypatch):
    for name, value in (OF_A_RANK | {"SLURM_CPUS_PER_TASK": "4"}).items():
        monkeypatch.setenv(name, value)
    child = EngineChild()
    try:
        found = environment(str(child.process.pid))
    finally:
        child.discard()
    assert found["SLURM_CPUS_PER_TASK"] == "4"
    assert not OF_A_RANK.keys() & found.keys()
