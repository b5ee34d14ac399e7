#!/usr/bin/env bash
# Takes the agent off one machine. Keys, configuration and state stay unless --purge says otherwise: a node whose key
# is gone is another node.
set -euo pipefail

usage() {
  cat <<'END'
usage: uninstall.sh [--prefix DIR] [--purge] [--dry-run]

  --prefix DIR   where install.sh put the program; default /opt/shoal
  --purge        also remove /etc/shoal, /var/lib/shoal and the user: the node's identity and its models are gone
  --dry-run      print what would be done, do nothing
END
}

prefix=/opt/shoal purge=false dry_run=false
while (($#)); do
  case $1 in
    --prefix) prefix=$2; shift 2 ;;
    --purge) purge=true; shift ;;
    --dry-run) dry_run=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

fail() {
  echo "uninstall.sh: $*" >&2
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

[[ $EUID -eq 0 ]] || $dry_run || fail 'must run as root (or with --dry-run)'
# Only what looks like our own virtual environment is removed, whatever --prefix says.
[[ ! -e $prefix || -x $prefix/bin/shoal ]] || fail "$prefix does not hold a shoal installation"

if [[ -e /etc/systemd/system/shoal-agent.service ]]; then
  run systemctl disable --now shoal-agent.service
fi
run rm -f /etc/systemd/system/shoal-agent.service /etc/systemd/system/shoal.slice
run rm -f /etc/sysusers.d/shoal.conf /etc/tmpfiles.d/shoal.conf /usr/local/bin/shoal
run rm -rf "${prefix:?}"
run systemctl daemon-reload
if $purge; then
  run rm -rf /etc/shoal /var/lib/shoal
  if getent passwd shoal >/dev/null; then
    run userdel shoal
  fi
else
  echo 'kept: /etc/shoal, /var/lib/shoal and the user shoal (--purge removes them)'
fi
