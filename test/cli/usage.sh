#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is wrong with a command line is told in one line with the way out, and status 2.
. "$(dirname "$0")/lib.bash"

# wrong PATTERN ARGUMENTS…
wrong() {
	local pattern=$1
	shift
	try "$KAGE" "$@"
	is "$status" 2 "kage $*: status 2"
	like "$err" "$pattern" "kage $*: the message"
	is "$(wc -l <"$tmp/err")" 1 "kage $*: one line"
	is "$out" "" "kage $*: nothing on standard output"
}

wrong "^kage: which command\? 'kage --help' lists all$"
wrong "^kage: unknown command 'snp'; did you mean 'kage snap'\?" snp
wrong "did you mean 'kage restore'" retsore x
wrong "did you mean 'kage log'" lgo
wrong "^kage: unknown command 'frobnicate'; 'kage --help' lists" frobnicate
wrong "^kage: unknown command 'nosuch'" help nosuch
wrong "^kage: unknown option '--frob'" --frob
wrong "^kage: option '--store' needs a value: --store DIR$" --store
wrong "^kage snap: something is missing: kage snap \[OPTION…\] PID\|TWIN$" snap
wrong "^kage snap: '2' is too much: kage snap \[OPTION…\] PID\|TWIN$" snap 1 2
wrong "^kage snap: unknown option '--nmae'; did you mean '--name'\?" snap --nmae 1
wrong "^kage snap: unknown option '--zzz'; 'kage snap --help'" snap --zzz 1
wrong "^kage snap: unknown option '-x'" snap -x 1
wrong "^kage snap: option '--name' needs a value: --name NAME$" snap 1 --name
wrong "^kage snap: option '--message' needs a value" snap 1 -m
wrong "^kage snap: option '--kill' takes no value" snap --kill=yes 1
wrong "^kage snap: --level takes a number from 1 to 19, not '20'" snap --level 20 1
wrong "^kage snap: --level takes a number from 1 to 19, not '3x'" snap --level 3x 1
wrong "^kage snap: 'redis' is not a PID; 'pgrep redis'" snap redis
wrong "^kage snap: '0' is not a PID" snap 0
wrong "^kage snap: '-1' is not a PID" snap -- -1
wrong "^kage snap: '99999999999999999999' is not a PID" snap 99999999999999999999
wrong "^kage restore: --pid takes one of same\|new, not 'old'" restore --pid old x
wrong "^kage restore: --copies takes a number from 1 to" restore --copies 0 x
wrong "^kage restore: 3 copies cannot all have the same PID" restore --copies 3 --pid same x
wrong "^kage restore: --tty new lasts only" restore --tty new --detach x
wrong "^kage core: where to\? kage core x -o FILE$" core x
wrong "^kage run: something is missing" run
wrong "^kage run: something is missing" run --
wrong "^kage rm: something is missing" rm

try "$KAGE" snap redis --json
is "$status" 2 "--json: status 2"
is "$(json 'd["error"]["code"]' <<<"$out")" usage "--json: the code of wrong usage"
like "$err" "is not a PID" "--json: the line on standard error as well"
try "$KAGE" --json frobnicate
is "$(json 'd["error"]["code"]' <<<"$out")" usage "--json before an unknown command"

for option in "snap --tree $$"; do
	# shellcheck disable=SC2086
	try "$KAGE" $option
	is "$status" 1 "kage $option: not supported yet"
	like "$err" "version" "kage $option: says so"
done

try "$KAGE" restore --lazy --copies 2 x
is "$status" 2 "--lazy with --copies: status 2"

is "$("$KAGE" --json help snap | json 'd["command"], "level" in [o["name"] for o in d["options"]]')" \
	"('snap', True)" "help as JSON"
is "$("$KAGE" snap --help --json | json 'd["command"]')" snap "--help as JSON"
is "$("$KAGE" help --json | json '"restore" in [c["command"] for c in d["commands"]]')" True "all help as JSON"

# What follows the program of `run` is the program's.
try "$KAGE" run echo --json --name x -h
is "$out" "--json --name x -h" "options behind the program are not kage's"

try env -u HOME "$KAGE" --version
like "$out" "^kage [0-9]+\.[0-9]+\.[0-9]+$" "--version"
try "$KAGE" --version --json
like "$(json 'd["version"]' <<<"$out")" "^[0-9]+\." "--version --json"
try sh -c '"$1" --help >/dev/full' - "$KAGE"
is "$status" 1 "a full disk behind standard output is a failure"
like "$err" "write standard output: No space left" "and is told"
finish
