# SPDX-License-Identifier: Apache-2.0
# TAP for tests in bash: source it, call the functions below, end with `finish`.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
B=$(realpath "${B:-build}")
KAGE=${KAGE:-$B/kage}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export KAGE_STORE=${KAGE_STORE:-$tmp/store}
n=0
failed=0

# ok STATUS NAME: one result; with status 0 it passed.
ok() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		failed=$((failed + 1))
		echo "not ok $n - $2"
	fi
}

# is GOT EXPECTED NAME
is() {
	[ "$1" = "$2" ]
	local status=$?
	ok $status "$3"
	[ $status = 0 ] || printf '# got:      %s\n# expected: %s\n' "$1" "$2"
}

# like TEXT PATTERN NAME: PATTERN is an extended regular expression.
like() {
	[[ $1 =~ $2 ]]
	local status=$?
	ok $status "$3"
	[ $status = 0 ] || printf '# got:      %s\n# expected: %s\n' "$1" "$2"
}

# try COMMAND…: runs it; leaves $out, $err and $status.
try() {
	"$@" >"$tmp/out" 2>"$tmp/err" </dev/null
	status=$?
	out=$(cat "$tmp/out")
	err=$(cat "$tmp/err")
}

# One JSON value, by Python: json EXPRESSION <TEXT, where d is the document.
json() { /usr/bin/python3 -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }

skip_all() {
	echo "1..0 # SKIP $1"
	exit 0
}

finish() {
	echo "1..$n"
	[ $failed = 0 ]
	exit
}

commands() { "$KAGE" --help | awk '/^Commands/ { on = 1; next } /^$/ { on = 0 } on { print $1 }'; }
