#!/bin/bash
# A real Slurm cluster of several nodes on one machine, for tests and for trying things out.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: slurm/test-cluster.sh COMMAND [ARGUMENTS]

A real Slurm cluster (not a simulation) of several nodes on this one machine, without systemd.
Its state lives in one directory; several clusters can run side by side, as root or as an
ordinary user. The nodes' CPUs, memory and GPUs are claims: nothing checks them against the machine.

Commands:
  install             Install what is missing: Slurm, munge, slurmdbd, MariaDB (apt, as root).
  up DIR [OPTIONS]    Start a cluster with its state in DIR. On a live cluster: just report it.
                      The last line of its output, the only one on stdout, can be eval'd:
                      export SLURM_CONF=DIR/etc/slurm.conf  (DIR/env.sh holds the same line)
    --nodes N           number of nodes, n1 to nN               (default 4)
    --gpus N            fake GPUs a node, as gres gpu:N         (default 4)
    --base-port P       first TCP port; P to P+10+nodes are used (default: a free block from 17000)
    --accounting        slurmdbd and MariaDB too, so that sacct works
    --enforce-memory    kill a job that uses more than its --mem (polled each second)
    --conf KEY=VALUE    a line of slurm.conf in place of the cluster's own, or after it for another
                        partition; may be given several times (MaxArraySize=1, TrackWCKey=yes)
  status DIR          Nodes, jobs and daemons. Exit status 0: it runs; 1: it does not.
  kill-node DIR NODE  Crash a node: its slurmd and all its jobs' processes die at once.
  restart-node DIR NODE
                      Start a dead node's slurmd again and wait until Slurm uses it.
  down DIR            Cancel the jobs and stop every process of this cluster, and no other.

Partitions: cpu (the default), gpu, scavenge (preempted and requeued), urgent (preempts).

Exit status: 0 done; 1 it did not work (the reason is on stderr); 2 wrong usage;
3 this machine lacks something (what, and the fix, are on stderr).
USAGE
}

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
PATH=$PATH:/usr/sbin:/sbin # an ordinary user's PATH often lacks the daemons

# shellcheck source=test-cluster/install.sh
source "$here/test-cluster/install.sh"
# shellcheck source=test-cluster/config.sh
source "$here/test-cluster/config.sh"
# shellcheck source=test-cluster/processes.sh
source "$here/test-cluster/processes.sh"

say() { printf '%s\n' "$*" >&2; }
fail() { say "test-cluster: $2"; exit "$1"; }

main() {
  local command=${1:-}
  [[ $# -gt 0 ]] && shift
  case $command in
    install) install_packages ;;
    up) cluster_up "$@" ;;
    down) with_cluster "$@" && cluster_down ;;
    status) with_cluster "$@" && cluster_status ;;
    kill-node) with_node "$@" && kill_node "$node" ;;
    restart-node) with_node "$@" && restart_node "$node" ;;
    -h | --help | help) usage ;;
    '') usage >&2; exit 2 ;;
    *) fail 2 "unknown command '$command'; one of: install, up, down, status, kill-node, restart-node" ;;
  esac
}

# with_cluster DIR: sets $dir and SLURM_CONF from a directory that `up` has made.
with_cluster() {
  [[ $# -ge 1 ]] || fail 2 "which cluster? Give the directory that was given to 'up'"
  [[ -s $1/etc/slurm.conf ]] || fail 2 "no cluster in '$1' (no etc/slurm.conf there)"
  dir=$(cd "$1" && pwd -P)
  export SLURM_CONF=$dir/etc/slurm.conf
}

# with_node DIR NODE: sets $node as well.
with_node() {
  [[ $# -eq 2 ]] || fail 2 "give a cluster's directory and a node's name, such as n1"
  with_cluster "$1"
  node=$2
  node_names | grep -qx "$node" || fail 2 "no node '$node'; the nodes are $(node_names | paste -sd ' ')"
}

cluster_up() {
  local nodes=4 gpus=4 base_port='' accounting=no enforce_memory=no target='' conf=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --nodes | --gpus | --base-port)
        [[ ${2:-} =~ ^[0-9]+$ ]] || fail 2 "$1 needs a number, not '${2:-}'"
        case $1 in --nodes) nodes=$2 ;; --gpus) gpus=$2 ;; *) base_port=$2 ;; esac
        shift ;;
      --accounting) accounting=yes ;;
      --enforce-memory) enforce_memory=yes ;;
      --conf)
        [[ ${2:-} =~ ^[A-Za-z]+=[^$'\n']*$ ]] || fail 2 "--conf needs KEY=VALUE, not '${2:-}'"
        conf+=("$2")
        shift ;;
      -*) fail 2 "unknown option '$1'; one of: --nodes, --gpus, --base-port, --accounting, --enforce-memory, --conf" ;;
      *) [[ -z $target ]] || fail 2 "two directories: '$target' and '$1'"; target=$1 ;;
    esac
    shift
  done
  [[ -n $target ]] || fail 2 "give a directory for the cluster's state"
  ((nodes >= 1 && nodes <= 64)) || fail 2 "--nodes must be 1 to 64, not $nodes"
  require_commands "$accounting"

  # One `up` at a time: two at once could choose the same ports, or start one cluster twice.
  exec 9< "$here/test-cluster.sh"
  flock 9

  dir=$(mkdir -p "$target" && cd "$target" && pwd -P)
  export SLURM_CONF=$dir/etc/slurm.conf
  if [[ -s $SLURM_CONF ]] && controller_answers; then
    say "already up: $(sinfo -h -p cpu -o '%D nodes, %G')"
  else
    [[ -s $SLURM_CONF ]] && stop_everything # leftovers of a cluster that died
    [[ -n $base_port ]] || base_port=$(free_port_block "$nodes")
    write_config "$nodes" "$gpus" "$base_port" "$accounting" "$enforce_memory"
    change_config "${conf[@]}"
    if ! start_everything "$nodes" "$accounting"; then
      stop_everything
      exit 1
    fi
    say "up: $nodes nodes with $gpus fake GPUs each, ports from $base_port, state in $dir"
  fi
  echo "export SLURM_CONF=$SLURM_CONF" | tee "$dir/env.sh"
}

cluster_down() {
  local state
  for state in PENDING RUNNING SUSPENDED; do
    timeout 5 scancel --quiet --state="$state" 2> /dev/null || true
  done
  wait_until 3 queue_is_empty || true # what is left then is killed with its node
  stop_everything
  say "down: $dir"
}

cluster_status() {
  local name pid
  for name in munged mariadbd slurmdbd slurmctld $(node_names | sed 's/^/slurmd-/'); do
    pid=$(pid_of "$name") && say "$name: process $pid"
  done
  controller_answers || { say "down: slurmctld does not answer"; exit 1; }
  sinfo -o '%.10P %.6D %.10T %.12G %N'
  echo
  squeue --array --format='%.12i %.10P %.24j %.10T %.8M %R'
}

main "$@"
