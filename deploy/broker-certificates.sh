#!/usr/bin/env bash
# Certificates for the brokers of one cluster: an authority of its own, one certificate per broker, one per node and
# operator. They open the broker's door and nothing else: envelopes are signed with node keys, peers know each other by
# the roster. Run it on the operator's machine; ca.key never leaves it.
set -euo pipefail
umask 077

readonly CA_DAYS=3650 LEAF_DAYS=730

usage() {
  cat <<'END'
usage: broker-certificates.sh ca DIR                  make the authority: DIR/ca.key, DIR/ca.crt
       broker-certificates.sh server DIR HOST...      DIR/HOST.key, DIR/HOST.crt for the first HOST, valid for all
                                                      (names or addresses)
       broker-certificates.sh client DIR NODE_ID      DIR/NODE_ID.key, DIR/NODE_ID.crt for a node or an operator
END
}

fail() {
  echo "broker-certificates.sh: $*" >&2
  exit 1
}

new_key() {
  [[ ! -e $1 ]] || fail "$1 is there already; move it away to make a new one"
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" || fail "openssl could not make $1"
}

make_ca() {
  mkdir -p "$1"
  new_key "$1/ca.key"
  openssl req -x509 -new -key "$1/ca.key" -sha256 -days "$CA_DAYS" -subj '/CN=Shoal broker authority' \
    -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
    -out "$1/ca.crt"
  chmod 0644 "$1/ca.crt"
}

# sign DIR NAME USAGE SAN: a key of its own and a certificate for NAME; SAN may be empty.
sign() {
  local dir=$1 name=$2 usage=$3 san=$4
  [[ -f $dir/ca.key ]] || fail "$dir has no authority; first: broker-certificates.sh ca $dir"
  new_key "$dir/$name.key"
  {
    echo 'basicConstraints=critical,CA:FALSE'
    echo 'keyUsage=critical,digitalSignature'
    echo "extendedKeyUsage=$usage"
    [[ -z $san ]] || echo "subjectAltName=$san"
  } >"$dir/$name.ext"
  openssl req -new -key "$dir/$name.key" -subj "/CN=$name" -out "$dir/$name.csr"
  openssl x509 -req -in "$dir/$name.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -sha256 -days "$LEAF_DAYS" \
    -set_serial "0x$(openssl rand -hex 16)" -extfile "$dir/$name.ext" -out "$dir/$name.crt" 2>/dev/null
  chmod 0644 "$dir/$name.crt"
  rm -f "$dir/$name.csr" "$dir/$name.ext"
}

make_server() {
  local dir=$1 host san=''
  shift
  for host in "$@"; do
    [[ $host =~ ^[A-Za-z0-9.:-]+$ ]] || fail "not a host name or address: $host"
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then san+=",IP:$host"; else san+=",DNS:$host"; fi
  done
  sign "$dir" "$1" serverAuth "${san#,}"
}

make_client() {
  # The name becomes part of the ACL's topics, so nothing but a node id is let in.
  [[ $2 =~ ^[a-z2-7]{32}$ ]] || fail "not a node id (32 base32 characters): $2"
  sign "$1" "$2" clientAuth ''
}

case ${1:-} in
  ca) (($# == 2)) || { usage >&2; exit 2; }; make_ca "$2" ;;
  server) (($# >= 3)) || { usage >&2; exit 2; }; make_server "${@:2}" ;;
  client) (($# == 3)) || { usage >&2; exit 2; }; make_client "$2" "$3" ;;
  -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
