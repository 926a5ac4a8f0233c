#!/bin/bash
# Makes the command `apptainer` available on this machine (see --help).
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: containers/install-apptainer.sh

Installs Apptainer with what it needs to run images (squashfuse, fuse3), as root, with apt:
  - where `apptainer` is on PATH: nothing;
  - where the distribution has a package: that package;
  - on Debian 12, which has none: Debian's own package of its development branch, adapted to
    Debian 12's C library (elf_unversion.py says how).
Elsewhere use your distribution's package (EPEL, the Ubuntu PPA) or the packages that the
Apptainer project publishes.

It also adapts two settings, and only where they are needed: access to /dev/fuse, and the
capabilities that root asks for on machines whose root lacks CAP_SYS_RESOURCE.

Exit status: 0 done or nothing to do; 2 wrong usage; 3 not possible here (one sentence on stderr).
USAGE
}

say() { printf 'install-apptainer: %s\n' "$*" >&2; }
fail() { say "$2"; exit "$1"; }

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
old_libc=2.36 # Debian 12's
cap_sys_resource=24

main() {
  case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '') ;;
    *) fail 2 "takes no arguments; --help says more" ;;
  esac
  if command -v apptainer > /dev/null; then
    say "already there: $(apptainer --version)"
    [[ $(id -u) == 0 ]] && adapt_settings
    exit 0
  fi
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    fail 3 "apptainer is not on PATH, and installing it from here needs root and apt: load the cluster's own module or install your distribution's package"
  fi
  command -v python3 > /dev/null || fail 3 "python3 is needed to install Apptainer: apt-get install python3"

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  log=$work/log
  quietly apt update || say "apt-get update did not succeed; going on with the lists that are there"
  if [[ -n $(apt-cache madison apptainer 2> /dev/null) ]]; then
    install_packages apptainer
  else
    [[ $(debian_release) == bookworm && $(dpkg --print-architecture) == amd64 ]] ||
      fail 3 "this distribution has no package of Apptainer; install one that the Apptainer project publishes for it"
    repack_for_bookworm "$work/apptainer.deb"
    install_packages "$work/apptainer.deb"
  fi
  adapt_settings
  say "installed: $(apptainer --version)"
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }
quietly() { "$@" >> "$log" 2>&1; }
# shellcheck source=/dev/null
debian_release() { (. /etc/os-release && echo "${VERSION_CODENAME:-}"); }

install_packages() {
  if ! quietly apt install --no-install-recommends "$@" squashfuse fuse3; then
    tail -n 15 "$log" >&2
    fail 3 "apt-get could not install Apptainer (its last lines are above)"
  fi
}

# repack_for_bookworm OUT.deb. Debian's Apptainer is built against glibc 2.38, but needs of it only
# __isoc23_strtol and __isoc23_strtoul. The package comes from the mirror that this machine is
# configured for, with the signature checked, through package lists of its own: the machine's own
# sources do not change.
repack_for_bookworm() {
  local out=$1 tree=$work/tree mirror
  # shellcheck disable=SC2016  # apt's own $(FIELD)
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
    awk '$2 == "bookworm" { print $1; exit }')
  [[ -n $mirror ]] || fail 3 "apt on this machine names no Debian mirror to fetch Apptainer from"
  mkdir -p "$work"/{lists/partial,cache/archives/partial,download}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" > "$work/sources.list"
  local options=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none)
  if ! quietly apt "${options[@]}" update || ! (cd "$work/download" && quietly apt "${options[@]}" download apptainer); then
    tail -n 15 "$log" >&2
    fail 3 "could not fetch Debian's package of Apptainer (apt's last lines are above)"
  fi

  dpkg-deb --raw-extract "$work"/download/apptainer_*.deb "$tree"
  elf_files "$tree" | quietly xargs -d '\n' python3 "$here/elf_unversion.py" ||
    { tail -n 5 "$log" >&2; fail 3 "Debian's present package of Apptainer needs more of glibc than can be adapted to Debian 12"; }
  # containernetworking-plugins: only for --net with a bridge, which nothing here uses.
  sed -i -E -e "s/libc6 \(>= 2\.[0-9]+\)/libc6 (>= $old_libc)/" \
    -e 's/containernetworking-plugins[^,]*, //' -e 's/^(Version: .*)$/\1~bookworm1/' "$tree/DEBIAN/control"
  rm -f "$tree/DEBIAN/md5sums" # no longer true
  quietly dpkg-deb -Zgzip -z1 --root-owner-group --build "$tree" "$out"
}

# elf_files DIR: the ELF files below it, one a line.
elf_files() {
  find "$1" -type f -size +1k -print0 | xargs -0 grep -lsaP '\A\x7fELF' --
}

adapt_settings() {
  local conf
  # Without access to it no ordinary user can mount an image. It holds no data: it is the way to
  # ask the kernel for a mount in one's own name space.
  if [[ -c /dev/fuse && $(stat -c %a /dev/fuse) != *6 ]]; then
    chmod 666 /dev/fuse && say "/dev/fuse is open to all users now"
  fi
  # Root in a container gets all capabilities by default, and an attempt to get one that the machine's
  # own root does not have is fatal.
  conf=$(apptainer buildcfg 2> /dev/null | sed -n 's/^APPTAINER_CONF_FILE=//p')
  if ! root_has_capability "$cap_sys_resource" && [[ -w $conf ]] &&
    ! grep -q '^root default capabilities = no' "$conf"; then
    sed -i 's/^root default capabilities = .*/root default capabilities = no/' "$conf"
    say "root lacks CAP_SYS_RESOURCE here: 'root default capabilities = no' in $conf"
  fi
  return 0
}

# root_has_capability NUMBER: is that bit set in this process' permitted capabilities?
root_has_capability() {
  local permitted
  permitted=$(awk '$1 == "CapPrm:" { print $2 }' /proc/self/status)
  ((16#$permitted >> $1 & 1))
}

main "$@"
