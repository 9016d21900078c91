#!/bin/sh
# Installs the programs that the interop tests run, on Debian and its kin.
# Running it again changes nothing. Needs root; starts no service.
set -eu

missing=
need() { # need PACKAGE FILE...: PACKAGE is there when one of the files is
	package=$1
	shift
	for file in "$@"; do
		[ -x "$file" ] && return
	done
	missing="$missing $package"
}

need postgresql /usr/lib/postgresql/*/bin/postgres
need nginx-light /usr/sbin/nginx
need iproute2 /usr/sbin/ip /sbin/ip
need curl /usr/bin/curl
need nodejs /usr/bin/node /usr/local/bin/node
need npm /usr/bin/npm /usr/local/bin/npm
need zsh /usr/bin/zsh /bin/zsh
need fish /usr/bin/fish

if [ -z "$missing" ]; then
	echo "interop: everything is installed"
	exit 0
fi
echo "interop: installing$missing"
export DEBIAN_FRONTEND=noninteractive

# The tests start servers of their own; the packages' must not start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	trap 'rm -f "$policy"' EXIT
fi

apt-get update -q
# shellcheck disable=SC2086 # one word a package
apt-get install -q -y --no-install-recommends $missing
