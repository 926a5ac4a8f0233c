# Part of test-cluster.sh: the programs it needs.

slurm_commands=(slurmctld slurmd sbatch munged)
accounting_commands=(slurmdbd sacct mariadbd mariadb-install-db)

# missing_commands NAME...: those that are not on PATH, in one line.
missing_commands() {
  local name missing=()
  for name in "$@"; do
    command -v "$name" > /dev/null || missing+=("$name")
  done
  echo "${missing[*]}"
}

# require_commands yes|no: exit 3 unless the cluster (yes: with accounting) can be started.
require_commands() {
  local wanted=("${slurm_commands[@]}") missing
  [[ $1 == yes ]] && wanted+=("${accounting_commands[@]}")
  missing=$(missing_commands "${wanted[@]}")
  [[ -z $missing ]] || fail 3 "not installed: $missing. Run: $here/test-cluster.sh install"
}

install_packages() {
  local missing log
  missing=$(missing_commands "${slurm_commands[@]}" "${accounting_commands[@]}")
  if [[ -z $missing ]]; then
    say "all there: $(slurmctld -V)"
    return
  fi
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    fail 3 "not installed: $missing. Installing needs root and apt (Debian, Ubuntu);\
 elsewhere, install Slurm, munge, slurmdbd and MariaDB with the system's own package manager"
  fi

  log=$(mktemp)
  # shellcheck disable=SC2064  # now: the variable is gone when the shell exits
  trap "rm -f '$log'; allow_services" EXIT
  forbid_services
  say "installing: $missing"
  apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >> "$log" 2>&1; }
  apt update || say "apt-get update did not succeed; going on with the lists that are there"
  if ! apt install --no-install-recommends slurmctld slurmd slurm-client munge slurmdbd mariadb-server; then
    tail -n 15 "$log" >&2
    fail 3 "apt-get could not install Slurm (its last lines are above)"
  fi
  missing=$(missing_commands "${slurm_commands[@]}" "${accounting_commands[@]}")
  [[ -z $missing ]] || fail 3 "the packages are installed, but these are not on PATH: $missing"
  say "installed: $(slurmctld -V)"
}

# Packages start their services when they are installed, unless /usr/sbin/policy-rc.d (the way that
# invoke-rc.d(8) documents) says no. The test cluster starts its own daemons, on its own ports.
forbid_services() {
  [[ -e /usr/sbin/policy-rc.d ]] && return
  printf '#!/bin/sh\n# made by agenttts-hpc for one installation\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
}

allow_services() {
  grep -qs 'made by agenttts-hpc' /usr/sbin/policy-rc.d && rm -f /usr/sbin/policy-rc.d
  return 0
}
