#!/bin/bash
# A minimal root file system from this machine's own Debian packages (see --help).
set -euo pipefail

# What the CPU image needs at run time: Python with venv and its libraries, and those that torch and
# vLLM link against. vLLM asks lscpu (util-linux) for the machine's cores. No compiler: the CPU engine
# runs without torch.compile.
packages=(
  python3 python3-venv ca-certificates openssl netbase tzdata media-types
  libstdc++6 libgomp1 libnuma1 zlib1g
  bash dash coreutils findutils grep sed gawk tar gzip hostname procps util-linux libc-bin base-files
)
# Documentation and translations are left out, as is what belongs to a running machine.
left_out='^/(usr/share/(man|doc|locale|info|lintian|bash-completion)|proc|sys|dev|tmp|run)(/|$)'

usage() {
  cat <<USAGE
Usage: containers/rootfs-from-host.sh DIR [PACKAGE...]

Copies the files of installed Debian packages, with all that they depend on, into the new
directory DIR: the base of containers/cpu.def where no image registry can be reached. Nothing is
downloaded, and nothing of the machine's own configuration is copied. The packages:
  ${packages[*]}
and those named as arguments. 'agenttts-hpc image build containers/cpu.def' calls this itself.

Exit status: 0 done; 2 wrong usage; 3 not a Debian system, or a package is not installed.
USAGE
}

say() { printf 'rootfs-from-host: %s\n' "$*" >&2; }
fail() { say "$2"; exit "$1"; }

main() {
  case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '' | -*) usage >&2; exit 2 ;;
  esac
  [[ ! -e $1 ]] || fail 2 "'$1' exists already"
  { command -v dpkg-query && command -v apt-cache; } > /dev/null || fail 3 "this is not a Debian system: build the image on one, or from a registry's image"
  local target
  target=$(mkdir -p "$1" && cd "$1" && pwd -P)
  shift
  packages+=("$@")

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  installed_packages > "$work/installed"
  require_installed
  with_dependencies > "$work/closure"
  make_skeleton "$target"
  copy_files "$target"
  configure "$target"
  say "$(wc -l < "$work/closure") packages, $(du -sm "$target" | cut -f 1) MB in $target"
}

# Package names without the architecture that dpkg adds for some.
installed_packages() {
  dpkg-query --show --showformat '${db:Status-Abbrev} ${binary:Package}\n' |
    awk '$1 == "ii" { sub(/:.*/, "", $2); print $2 }' | sort -u
}

require_installed() {
  local missing
  missing=$(printf '%s\n' "${packages[@]}" | sort -u | comm -23 - "$work/installed")
  [[ -z $missing ]] || fail 3 "not installed here: ${missing//$'\n'/ }. Run: apt-get install ${missing//$'\n'/ }"
}

with_dependencies() {
  apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "${packages[@]}" |
    sed -nE 's/^([a-z0-9][^:]*)(:.*)?$/\1/p' | sort -u | comm -12 - "$work/installed"
}

make_skeleton() {
  local name
  cd "$1"
  for name in bin sbin lib lib64; do # /usr is merged, as on every current Debian
    mkdir -p "usr/$name"
    ln -s "usr/$name" "$name"
  done
  mkdir -p dev proc sys run root home mnt opt srv tmp var/tmp var/lib etc/ssl/certs
  chmod 1777 tmp var/tmp
  chmod 700 root
}

copy_files() {
  local path
  # shellcheck disable=SC2046  # package names
  dpkg --listfiles $(cat "$work/closure") | grep '^/' | grep -vE "$left_out" |
    while read -r path; do
      if [[ -L $path || -f $path ]]; then
        echo "$path"
      fi
    done | sed -E -e 's#^/(bin|sbin|lib|lib64)/#/usr/\1/#' -e 's#^/##' | grep -vE '^(bin|sbin|lib|lib64)$' |
    sort -u > "$work/files"
  # What was a configuration file when it was installed may be gone since, or not be ours to read.
  tar --create --directory=/ --ignore-failed-read --files-from="$work/files" 2> /dev/null |
    tar --extract --directory="$1"
}

# What packages make when they are installed rather than bring along.
configure() {
  cd "$1"
  echo 'root:x:0:0:root:/root:/bin/bash' > etc/passwd
  echo 'root:x:0:' > etc/group
  : > etc/hosts
  : > etc/resolv.conf
  cp -a /etc/alternatives etc/
  find usr/share/ca-certificates -name '*.crt' -print0 | sort -z | xargs -0 cat > etc/ssl/certs/ca-certificates.crt
  # By the linker's own option rather than chroot, which ordinary users may not call.
  /sbin/ldconfig -r .
}

main "$@"
