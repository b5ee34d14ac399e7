#!/usr/bin/env bash
# Installs the agent on one machine: user, virtual environment, unit files, an example configuration. Run it again to
# upgrade: it replaces the program and the units, and never touches keys, configuration or state.
set -euo pipefail
# The agent runs as a user of its own and must be able to read the program, whatever root's own umask is.
umask 022

usage() {
  cat <<'END'
usage: install.sh [--wheel FILE] [--prefix DIR] [--python PROGRAM] [--root DIR] [--dry-run]

  --wheel FILE      the shoal wheel; default: the newest in dist/ (make one with: .venv/bin/python -m hatchling build -t wheel)
  --prefix DIR      where the program goes; default /opt/shoal (the unit file is adjusted)
  --python PROGRAM  Python 3.11 or newer; default python3
  --root DIR        install below DIR instead of /, for an image; nothing is started, no user is made
  --dry-run         print what would be done, do nothing
END
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wheel='' prefix=/opt/shoal python=python3 root='' dry_run=false
while (($#)); do
  case $1 in
    --wheel) wheel=$2; shift 2 ;;
    --prefix) prefix=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --root) root=${2%/}; shift 2 ;;
    --dry-run) dry_run=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

run() {
  if $dry_run; then
    printf 'would run:'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

newest_wheel() {
  local found=("$here"/dist/shoal-*.whl)
  [[ -e ${found[0]} ]] || fail "no wheel in $here/dist; build one, or name it with --wheel"
  printf '%s\n' "${found[@]}" | sort -V | tail -n 1
}

check() {
  [[ -n $wheel ]] || wheel=$(newest_wheel)
  [[ -f $wheel ]] || fail "$wheel is not there"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail "$python is not Python 3.11 or newer"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
  if [[ $EUID -ne 0 && -z $root ]] && ! $dry_run; then
    fail 'must run as root (or with --root, or --dry-run)'
  fi
}

install_account() {
  run install -D -m 0644 "$here/systemd/shoal.sysusers" "$root/etc/sysusers.d/shoal.conf"
  run install -D -m 0644 "$here/systemd/shoal.tmpfiles" "$root/etc/tmpfiles.d/shoal.conf"
  [[ -z $root ]] || return 0
  run systemd-sysusers /etc/sysusers.d/shoal.conf
  run systemd-tmpfiles --create /etc/tmpfiles.d/shoal.conf
}

install_program() {
  if [[ ! -x $root$prefix/bin/python ]]; then
    run "$python" -m venv "$root$prefix"
  fi
  # The lock decides about dependencies; the wheel itself is replaced even if its version did not change.
  run "$root$prefix/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$here/constraints.txt" "$wheel"
  run "$root$prefix/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheel"
  # Below another root the interpreter will be found where it stands once that root is booted.
  [[ -z $root ]] || run sed -i "1s|^#!$root|#!|" "$root$prefix/bin/shoal"
  run install -D -m 0644 "$here/deploy/README.md" "$root$prefix/share/doc/README.md"
  run install -d -m 0755 "$root/usr/local/bin"
  run ln -sfn "$prefix/bin/shoal" "$root/usr/local/bin/shoal"
}

install_configuration() {
  if [[ ! -e $root/etc/shoal/agent.toml ]]; then
    run install -D -m 0644 "$here/deploy/agent.example.toml" "$root/etc/shoal/agent.toml"
  fi
}

install_units() {
  local unit
  run install -d -m 0755 "$root/etc/systemd/system"
  for unit in shoal-agent.service shoal.slice; do
    run install -m 0644 "$here/systemd/$unit" "$root/etc/systemd/system/$unit"
    run sed -i "s|/opt/shoal|$prefix|g" "$root/etc/systemd/system/$unit"
  done
  [[ -z $root ]] || return 0
  run systemctl daemon-reload
  run systemctl try-restart shoal-agent.service
}

check
install_account
install_program
install_configuration
install_units
cat <<END

Installed. Before the first start (see $prefix/share/doc/README.md):
  1. put the keys into /etc/shoal/keys and the certificates into /etc/shoal
  2. edit /etc/shoal/agent.toml
  3. systemctl enable --now shoal-agent
END
