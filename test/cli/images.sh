#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What commands about images print, as text and as JSON, on real images of a small program.
. "$(dirname "$0")/lib.bash"

program() {
	sleep 1000 &
	pid=$!
}
gone() { ! [ -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"; }
# Waits up to five seconds for a command to succeed.
until_true() {
	local i
	for ((i = 0; i < 250; i++)); do
		"$@" && return 0
		sleep 0.02
	done
	return 1
}
trap '[ -z "${pid-}" ] || kill -KILL $pid 2>/dev/null; rm -rf "$tmp"' EXIT

try "$KAGE" log
is "$status" 0 "log of a store that nobody made"
like "$err" "no images yet; 'kage snap PID' takes one" "says how to begin"
is "$("$KAGE" log --json 2>/dev/null | json 'd["images"]')" "[]" "log --json of it"
try "$KAGE" --store "$tmp/nosuch" log
is "$status" 1 "log of a store that was named and is not there"

try "$KAGE" fsck
is "$status" 0 "fsck of a store that nobody made"
try "$KAGE" fsck nosuch
is "$status" 1 "fsck of a history in it"
try "$KAGE" snap 4194999 --store "$tmp/new/store"
[ $status = 1 ] && ! [ -e "$tmp/new" ]
ok $? "a snap that fails leaves no store behind"

program
try "$KAGE" snap $pid
is "$status" 0 "snap"
like "$out" "^sleep@1  [0-9.]+ (KiB|MiB) in [0-9.]+ (KiB|MiB|B), (not stopped|paused [0-9.]+ (µs|ms)), [0-9.]+ ms in all$" \
	"snap prints one line"
is "$err" "" "and nothing else"
try "$KAGE" snap $pid --json -m "the second"
is "$(json 'd["image"], d["number"], d["threads"], d["killed"], d["pid"]' <<<"$out")" \
	"('sleep@2', 2, 1, False, $pid)" "snap --json"
is "$(json 'all(d[k] > 0 for k in ("total_ns", "memory_bytes", "stored_bytes")) and d["pause_ns"] >= 0' <<<"$out")" \
	True "with its figures"
kill -0 $pid
ok $? "the program goes on"

try "$KAGE" log sleep
is "$(wc -l <"$tmp/out")" 3 "log lists both"
like "$out" "sleep@1 .*sleep 1000" "with the command line"
like "$out" "sleep@2 .*the second" "or the message"
is "$("$KAGE" log --json | json 'len(d["images"]), d["images"][0]["image"], d["images"][0]["message"]')" \
	"(1, 'sleep@2', 'the second')" "log --json without a name: the newest of each"
try "$KAGE" log nosuch
is "$status" 1 "log of a history that is not there"
is "$("$KAGE" --json log nosuch 2>/dev/null | json 'd["error"]["code"]')" notfound "as JSON"

try "$KAGE" show sleep
is "$status" 0 "show"
like "$out" "sleep" "tells about the program"
[[ $out != *$'\033'* ]]
ok $? "without colours in a pipe"
short=${#out}
like "$out" "in clock_nanosleep" "with the names of system calls"
like "$("$KAGE" show sleep --full)" "open files +soft [0-9]+" "and of limits"
is "$("$KAGE" show sleep | awk '/^[a-z]+$/ { if (title) n++; title = 1; next } { title = 0 } END { print n + title }')" 0 "and no heading without lines"
try "$KAGE" show sleep --full
[ ${#out} -gt "$short" ]
ok $? "show --full says more"
is "$("$KAGE" show sleep@1 --json | json 'd["processes"][0]["pid"]')" $pid "show --json"
try "$KAGE" show sleep@7
is "$status" 1 "show of an image that is not there"

try "$KAGE" show sleep@x
like "$err" "^kage show: 'sleep@x' names no image: behind the @ stands a number" "what stands behind the @"
try "$KAGE" check $pid
is "$status" 0 "check of a process"
try "$KAGE" check $pid --json
is "$(json 'd["possible"], d["fatal"]' <<<"$out")" "(True, 0)" "check --json"
try "$KAGE" check sleep
is "$status" 1 "check of an image whose PID is taken"
like "$out" "✗.*$pid" "names the PID"
is "$("$KAGE" check sleep --json | json 'd["possible"], d["obstacles"][0]["fatal"]')" "(False, True)" \
	"as JSON"
try "$KAGE" restore sleep --detach
is "$status" 1 "restore is refused then"

try "$KAGE" core sleep -o "$tmp/core"
is "$status" 0 "core"
is "$(stat -c %a "$tmp/core")" 600 "for its owner only"
is "$("$KAGE" core sleep -o - | head -c 4 | od -An -c | tr -d ' ')" '177ELF' "core to standard output"
try "$KAGE" core sleep -o "$tmp/nosuch/core"
is "$status" 1 "core where nothing can be written"
is "$(find "$tmp" -name 'core.*')" "" "leaves nothing behind"
try "$KAGE" gdb sleep -batch -ex bt -ex "info inferiors"
is "$status" 0 "gdb"
like "$out" "nanosleep" "finds where the program was"
like "$out" "/sleep" "and the executable"

try "$KAGE" fsck
is "$status" 0 "fsck"
like "$out" "^2 packs of [0-9.]+ .* read, none damaged$" "says what it read"
pack=$(find "$KAGE_STORE" -type f -size +1k | sort | head -n 1)
cp "$pack" "$tmp/pack"
printf 'X' | dd of="$pack" bs=1 seek=700 conv=notrunc status=none
try "$KAGE" fsck
is "$status" 1 "fsck of a damaged store"
is "$("$KAGE" fsck --json | json 'd["packs"], d["bad"], len(d["findings"]) > 0')" "(2, 1, True)" "as JSON"
like "$("$KAGE" fsck)" "^$pack: damaged at offset" "which names the pack once"
try "$KAGE" fsck --repair
is "$status" 0 "fsck --repair makes whole what is left"
like "$out" "1 damaged, 1 image lost; 0 written anew, 1 moved away$" "and says what it did"
try "$KAGE" fsck
is "$status $(ls "$(dirname "$pack")/.damaged")" "0 $(basename "$pack")" "so that nothing is damaged any more"
cp "$tmp/pack" "$pack"

# A pack that may not be read is not damaged. The store is where another user can get to it.
open=$(mktemp -d /tmp/kage-open.XXXXXX)
trap '[ -z "${pid-}" ] || kill -KILL $pid 2>/dev/null; rm -rf "$tmp" "$open"' EXIT
chmod 755 "$open"
cp -r "$KAGE_STORE" "$open/store"
chmod 755 "$open/store" "$open"/store/*
cp "$KAGE" "$open/kage"
other() { try setpriv --reuid 65534 --clear-groups env "LD_LIBRARY_PATH=$B" "$open/kage" --store "$open/store" "$@"; }
if [ $EUID = 0 ] && setpriv --reuid 65534 --clear-groups test -r "$B/libkage.so.0"; then
	other log
	like "$out" "NOT READABLE: Permission denied; it belongs to root" "log of a pack without the right to read it"
	other log --json
	is "$(json 'd["images"][0]["damage"], "denied" in d["images"][0]["unreadable"]' <<<"$out")" \
		"(None, True)" "as JSON"
	other fsck
	is "$status" 1 "fsck of it"
	like "$out" "2 could not be read, none damaged$" "does not say that it is damaged"
	is "$("$KAGE" --store "$open/store" fsck sleep --json | json 'd["unreadable"], d["bad"]')" "(0, 0)" \
		"and root reads it"
fi

# Others could write to the store: told when the image is taken.
if [ $EUID = 0 ]; then
	chmod 777 "$open"
	try "$KAGE" snap $pid --store "$open/store"
	like "$err" "^kage snap: note: .* is not trusted: .*--trust" "snap into a store that root would not trust"
	try "$KAGE" restore sleep --store "$open/store" --pid new --detach
	is "$status $(grep -o -- --trust <<<"$err" | wc -l)" "1 1" "restore from there names --trust once"
fi

try "$KAGE" snap $pid --kill --name nap
like "$out" "^nap@1 .*, killed$" "snap --kill"
until_true gone $pid
ok $? "ended the program"
wait $pid 2>/dev/null
try "$KAGE" restore nap --detach
is "$status $out" "0 $pid" "restore --detach prints the PID"
is "$(cat /proc/$pid/comm)" sleep "and the program lives"
kill -KILL "$pid"
# Its number is free when it has been reaped, by whoever inherited it.
reaped() { ! [ -e "/proc/$pid" ]; }
until_true reaped

"$KAGE" restore nap &
kage=$!
alive() { [ -e /proc/$pid ] && ! gone $pid; }
until_true alive
ok $? "restore in the foreground"
kill -TERM $kage
wait $kage
is $? 143 "a signal goes to the program, and kage ends like it"
gone $pid
ok $? "which is gone"
is "$("$KAGE" restore nap --detach --copies 2 | tee "$tmp/copies" | wc -l)" 2 "restore --copies 2"
while read -r copy; do
	is "$(cat "/proc/$copy/comm")" sleep "a copy lives"
	kill -KILL "$copy"
done <"$tmp/copies"

sleep 1000 </dev/null >/dev/null 2>&1 &
lines=$!
"$KAGE" snap $lines --name lines -m $'one\ntwo' >/dev/null
like "$("$KAGE" log lines)" "one↵two" "line feeds in a table"
is "$("$KAGE" log lines --json | json 'd["images"][0]["message"] == "one\ntwo"')" True "and as they are in JSON"
kill $lines
"$KAGE" rm lines --yes >/dev/null

# A name that goes with the program.
"$KAGE" run --name shop sleep 1000 &
kage=$!
until_true pgrep -P $kage -x sleep >/dev/null
like "$("$KAGE" snap "$(pgrep -P $kage -x sleep)")" "^shop@1 " "the history of run --name"
kill -TERM $kage
wait $kage

try "$KAGE" rm sleep@1 nosuch --json
is "$status $(json 'd["error"]["code"]' <<<"$out")" "1 notfound" "rm of several, one of which is not there"
is "$("$KAGE" log sleep --json | json 'len(d["images"])')" 2 "removes none of them"
try "$KAGE" rm sleep@9 --yes
is "$status" 1 "rm of what is not there"
try "$KAGE" rm sleep@0..0 --yes
is "$status" 1 "rm of a range that begins before the first image"
like "$err" "no image sleep@0; its 2 images are from 1 to 2" "says which there are"
is "$("$KAGE" rm sleep@1..2 --json)" '{"removed":2}' "rm of a range"
is "$("$KAGE" rm nap@latest)" "1 image removed" "rm of one"
try "$KAGE" log
is "$(wc -l <"$tmp/out")" 2 "the others are there"
try "$KAGE" rm shop
is "$("$KAGE" log --json | json 'd["images"]')" "[]" "rm of a history"

try "$KAGE" snap 4194999
is "$status" 1 "snap of a process that is not there"
is "$(wc -l <"$tmp/err")" 1 "is one line"
finish
