# Part of test-cluster.sh: starting, finding and stopping a cluster's processes.

# wait_until SECONDS COMMAND...: poll until the command succeeds; fails after that many seconds.
wait_until() {
  local deadline=$((SECONDS + $1 + 1))
  shift
  until "$@" > /dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

controller_answers() { timeout 5 scontrol ping 2> /dev/null | grep -q 'is UP'; }
database_answers() { mariadb --no-defaults --user=root --socket="$dir/run/mariadb.sock" --execute='select 1'; }
accounting_answers() { timeout 5 sacctmgr --noheader show cluster; }
queue_is_empty() { [[ -z $(timeout 5 squeue --noheader) ]]; }

# usable_nodes COUNT: do that many nodes accept jobs?
usable_nodes() {
  (($(sinfo --noheader --Node --partition=cpu --states=idle,mixed,allocated --format=%N | wc -l) >= $1))
}
# usable_node NAME
usable_node() {
  sinfo --noheader --Node --partition=cpu --nodes="$1" --states=idle,mixed,allocated --format=%T | grep -qvE '\*$'
}

# daemon NAME COMMAND...: run something that detaches itself, with its chatter in $dir/log/NAME.out
# and without this script's lock (descriptor 9) or its caller's pipes.
daemon() {
  local name=$1
  shift
  "$@" < /dev/null >> "$dir/log/$name.out" 2>&1 9<&-
}

# explain_failure NAME: say why a daemon did not start, and fail.
explain_failure() {
  say "test-cluster: $1 did not start; the end of its logs in $dir/log:"
  tail -qn 5 "$dir/log/$1".{out,log} 2> /dev/null | sed 's/^/  /' >&2
  return 1
}

# start_everything NODES ACCOUNTING
start_everything() {
  local nodes=$1 accounting=$2 node
  # --force: do not insist that DIR's parents belong to root.
  daemon munged munged --force --num-threads=4 --key-file="$dir/munge/munge.key" \
    --socket="$dir/munge/munge.socket" --pid-file="$dir/munge/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge/munged.seed" ||
    explain_failure munged || return 1
  if [[ $accounting == yes ]]; then
    start_accounting || return 1
  fi
  # -i: state that an earlier, different cluster left in DIR must not stop this one.
  daemon slurmctld slurmctld -i || explain_failure slurmctld || return 1
  wait_until 60 controller_answers || explain_failure slurmctld || return 1
  for node in $(node_names); do
    daemon "slurmd-$node" slurmd -N "$node" || explain_failure "slurmd-$node" || return 1
  done
  wait_until 60 usable_nodes "$nodes" || explain_failure slurmd-n1
}

start_accounting() {
  local data=$dir/mariadb base_port
  base_port=$(configured_base_port)
  if [[ ! -d $data/mysql ]]; then
    daemon mariadb-install mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$data" \
      --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve ||
      explain_failure mariadb-install || return 1
  fi
  # Small buffers, no waiting for the disk: these records need not survive a power cut.
  # The lock time-out is what slurmdbd asks for.
  setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$data" --socket="$dir/run/mariadb.sock" \
    --bind-address=127.0.0.1 --port=$((base_port + 2)) --pid-file="$dir/run/mariadbd.pid" \
    --skip-name-resolve --performance-schema=OFF --innodb-buffer-pool-size=64M \
    --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
    --innodb-doublewrite=0 --sync-binlog=0 < /dev/null > "$dir/log/mariadbd.out" 2>&1 9<&- &
  wait_until 60 database_answers || explain_failure mariadbd || return 1
  mariadb --no-defaults --user=root --socket="$dir/run/mariadb.sock" --execute="
    create database if not exists slurm_acct_db;
    create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm';
    grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1'" || return 1
  daemon slurmdbd slurmdbd || explain_failure slurmdbd || return 1
  wait_until 60 accounting_answers || explain_failure slurmdbd || return 1
  # Fails when the cluster is known already, from an earlier `up` in this directory.
  daemon sacctmgr sacctmgr --immediate add cluster agenttts-test || true
}

# pid_of NAME: the daemon's process id, if that process lives and still is that daemon (a process id
# in an old file may belong to somebody else by now).
pid_of() {
  local name=$1 file=$dir/run/$1.pid pid
  [[ $name == munged ]] && file=$dir/munge/munged.pid
  pid=$(cat "$file" 2> /dev/null) && [[ -n $pid ]] && ! process_is_gone "$pid" &&
    [[ $(cat "/proc/$pid/comm" 2> /dev/null) == "${name%%-*}"* ]] && echo "$pid"
}

# node_processes NODE: ids of the node's slurmd, its slurmstepds and all processes of its jobs.
# - slurmd and slurmstepd hold the node's log open (slurmstepd overwrites its own environment);
# - a job's processes carry SLURMD_NODENAME and SLURM_CONF in their environment, also when their
#   slurmstepd is gone;
# - what clears its environment (apptainer --cleanenv) is a descendant of one of these.
node_processes() {
  {
    find /proc/[0-9]*/fd -lname "$dir/log/slurmd-$1.log" 2> /dev/null | cut -d / -f 3
    { grep -lzsx "SLURMD_NODENAME=$1" /proc/[0-9]*/environ || true; } |
      { xargs -r grep -lzsxF "SLURM_CONF=$dir/etc/slurm.conf" || true; } | cut -d / -f 3
    pid_of "slurmd-$1" || true
  } | sort -un | with_descendants
}

# with_descendants: the process ids on stdin and those of all their children's children.
with_descendants() {
  awk 'NR == FNR { wanted[$1] = 1; next }
       { parent[$1] = $2 }
       END {
         for (pid in parent)
           for (p = pid; p > 1; p = parent[p])
             if (p in wanted) { print pid; break }
       }' - <(ps -eo pid=,ppid=)
}

# kill_node NODE. Everything is stopped before anything is killed: a slurmstepd that outlives its
# job by a moment would report an orderly failure, which is not what a crash looks like.
kill_node() {
  local pids
  pids=$(node_processes "$1")
  if [[ -n $pids ]]; then
    # shellcheck disable=SC2086  # a list of numbers
    { kill -STOP $pids || true; kill -KILL $pids $(node_processes "$1") || true; } 2> /dev/null
  fi
  say "$1: killed $(wc -w <<< "$pids") processes"
}

# restart_node NODE. Slurm needs SlurmdTimeout to find a crash by itself, and a job that is younger than
# about 20 s when its slurmd comes back is taken to be alive for minutes. So it is told here what a
# machine's reboot would show: the node was down, and its jobs are to be requeued.
restart_node() {
  if pid_of "slurmd-$1" > /dev/null; then
    say "$1: runs already"
  else
    scontrol update nodename="$1" state=down reason='crashed (test-cluster.sh)' 2> /dev/null || true
    daemon "slurmd-$1" slurmd -N "$1" || explain_failure "slurmd-$1" || exit 1
  fi
  wait_until 30 usable_node "$1" || fail 1 "$1 runs, but Slurm does not use it: $(sinfo -h -n "$1" -p cpu -o '%T %E')"
  say "$1: $(sinfo -h -n "$1" -p cpu -o %T)"
}

# stop_everything: nodes with their jobs first, what they report to after them, munged last.
stop_everything() {
  local node name pid
  for node in $(node_names); do
    kill_node "$node" 2> /dev/null
    rm -f "$dir/run/slurmd-$node.pid"
  done
  for name in slurmctld slurmdbd mariadbd munged; do
    pid=$(pid_of "$name") || continue
    kill "$pid" 2> /dev/null || true
    wait_until 15 process_is_gone "$pid" || kill -KILL "$pid" 2> /dev/null || true
  done
}

# A zombie that init has not collected yet is gone too.
process_is_gone() { ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }
