# Part of test-cluster.sh: what is written into $dir/etc. Ports: base = slurmctld, +1 = slurmdbd,
# +2 = MariaDB, +11 and on = slurmd of n1 and on.

# What every node claims to have. SlurmdParameters=config_overrides makes Slurm believe it.
node_cpus=16
node_memory_mb=65536
default_memory_per_cpu_mb=256

# write_config NODES GPUS BASE_PORT ACCOUNTING ENFORCE_MEMORY
write_config() {
  local nodes=$1 gpus=$2 base_port=$3 accounting=$4 enforce_memory=$5
  mkdir -p "$dir"/{etc,log,run,spool,state,dev,munge}
  chmod 755 "$dir" "$dir"/{etc,log,run,spool,state,dev,munge}
  if [[ ! -s $dir/munge/munge.key ]]; then
    (umask 077; head -c 1024 /dev/urandom > "$dir/munge/munge.key")
  fi
  : > "$dir/etc/plugstack.conf" # or Slurm reads the system's
  write_gres_conf "$nodes" "$gpus"
  write_slurm_conf "$@"
  if [[ $accounting == yes ]]; then
    write_slurmdbd_conf "$base_port"
  fi
}

# A GPU is a symbolic link to /dev/null: any device file will do for Slurm to set CUDA_VISIBLE_DEVICES.
# (With ordinary files it sets nothing, and with `Count=` alone the node becomes INVALID.)
write_gres_conf() {
  local nodes=$1 gpus=$2 i
  : > "$dir/etc/gres.conf"
  ((gpus > 0)) || return 0
  for ((i = 0; i < gpus; i++)); do
    ln -sfn /dev/null "$dir/dev/nvidia$i"
  done
  echo "NodeName=n[1-$nodes] Name=gpu File=$dir/dev/nvidia[0-$((gpus - 1))]" > "$dir/etc/gres.conf"
}

write_slurm_conf() {
  local nodes=$1 gpus=$2 base_port=$3 accounting=$4 enforce_memory=$5
  local gres='' gather=JobAcctGatherType=jobacct_gather/none preempt_signal storage
  ((gpus > 0)) && gres="Gres=gpu:$gpus"
  if [[ $enforce_memory == yes ]]; then
    gather=$'JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill'
  fi
  if [[ $accounting == yes ]]; then
    storage="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((base_port + 1))
AccountingStoragePass=$dir/munge/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment,job_script"
  else
    storage=AccountingStorageType=accounting_storage/none
  fi
  # A preempted job gets its --signal too; the setting moved in 23.02.
  if (($(slurm_major) >= 23)); then
    preempt_signal=PreemptParameters=send_user_signal
  else
    preempt_signal=SlurmctldParameters=preempt_send_user_signal
  fi

  # cred_expire: without it a requeued job waits 120 s before it can start again.
  # MinJobAge: how long finished jobs stay visible in squeue -t all, which is how they are watched
  # where there is no accounting.
  cat > "$dir/etc/slurm.conf" <<CONF
ClusterName=agenttts-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$base_port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)

AuthType=auth/munge
AuthInfo=socket=$dir/munge/munge.socket,cred_expire=5
CredType=cred/munge

StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
PlugStackConfig=$dir/etc/plugstack.conf

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
LaunchParameters=disable_send_gids
$gather

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$default_memory_per_cpu_mb
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$preempt_signal

JobRequeue=1
MinJobAge=600
MaxArraySize=10001
MaxJobCount=20000
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=5
UnkillableStepTimeout=60
ReturnToService=2

$storage

GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n[1-$nodes] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((base_port + 11))-$((base_port + 10 + nodes))] CPUs=$node_cpus RealMemory=$node_memory_mb $gres State=UNKNOWN

PartitionName=cpu Nodes=n[1-$nodes] Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=gpu Nodes=n[1-$nodes] PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=n[1-$nodes] PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=urgent Nodes=n[1-$nodes] PriorityTier=100 PreemptMode=OFF
CONF
}

# change_config KEY=VALUE...: lines of slurm.conf in place of those above; partitions are added.
change_config() {
  local line key
  for line in "$@"; do
    key=${line%%=*}
    [[ $key == PartitionName ]] || sed -i "/^$key=/d" "$dir/etc/slurm.conf"
    echo "$line" >> "$dir/etc/slurm.conf"
    # The database has to be told too whether there are workload keys.
    if [[ $key == TrackWCKey && -s $dir/etc/slurmdbd.conf ]]; then
      echo "$line" >> "$dir/etc/slurmdbd.conf"
    fi
  done
}

# The database listens on loopback and holds nothing but this test cluster's job records.
write_slurmdbd_conf() {
  local base_port=$1
  (
    umask 077 # slurmdbd refuses a file that others can read
    cat > "$dir/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/munge/munge.socket,cred_expire=5
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((base_port + 1))
SlurmUser=$(id -un)
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((base_port + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
  )
}

# free_port_block NODES: the first of 17000, 17100, ... on which nothing of a cluster would collide.
free_port_block() {
  local base
  for ((base = 17000; base < 30000; base += 100)); do
    if ports_are_free "$base" "$1"; then
      echo "$base"
      return
    fi
  done
  fail 1 "no free block of ports between 17000 and 30000; give one with --base-port"
}

# ports_are_free BASE NODES
ports_are_free() {
  local port
  for port in "$1" $(($1 + 1)) $(($1 + 2)) $(seq $(($1 + 11)) $(($1 + 10 + $2))); do
    if (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
      return 1
    fi
  done
}

slurm_major() { slurmctld -V | sed -E 's/^[^0-9]*([0-9]+)\..*/\1/'; }

configured_base_port() { sed -n 's/^SlurmctldPort=//p' "$dir/etc/slurm.conf"; }

# node_names: n1, n2, ... as configured, one a line.
node_names() {
  sed -nE 's/^NodeName=n\[1-([0-9]+)\].*/\1/p' "$dir/etc/slurm.conf" | xargs -r seq -f 'n%.0f'
}
