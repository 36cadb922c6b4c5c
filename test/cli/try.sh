#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage try: inputs, variables, environment, timeouts, judges; nothing is left of any life.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"

subject
"$KAGE" snap $pid --name s >"$tmp/out"
end_subject
printf 'count 5\nexit 3\n' >"$tmp/three"
printf 'env HOME\nhang\n' >"$tmp/hang"
printf 'abort\n' >"$tmp/abort"
printf 'check\n' >"$tmp/check"

try "$KAGE" try s -i "$tmp/three" -i "$tmp/hang" -i "$tmp/abort" -i "$tmp/check" -t 300ms -n 8 -j 4 --json
is "$status" 0 "inputs take turns"
is "$(json '[r["end"] for r in d["runs"]]' <<<"$out")" \
	"['exit 3', 'timeout', 'SIGABRT', 'exit 0', 'exit 3', 'timeout', 'SIGABRT', 'exit 0']" "each ends in its own way"
is "$(json '[r["status"] for r in d["runs"]][:4]' <<<"$out")" "[3, 124, 134, 0]" "statuses as in a shell"
is "$(json '[(g["end"], g["runs"]) for g in d["groups"]]' <<<"$out")" \
	"[('exit 3', [1, 5]), ('timeout', [2, 6]), ('SIGABRT', [3, 7]), ('exit 0', [4, 8])]" "grouped"
is "$(json 'all(r["total_ns"] >= 300e6 for r in d["runs"] if r["end"] == "timeout")' <<<"$out")" True "a timeout takes its time"
try "$KAGE" try s -i "$tmp/three" -i "$tmp/check" -n 5
like "$out" "^RUN +END +TIME +OUTPUT +JUDGED +INPUT" "as a table"
like "$out" "3 of 5: exit 3  \(runs 1, 3, 5\)" "with its sum"

# Variables: `check` aborts unless counter < limit.
ends() { "$KAGE" try s --stdin "$tmp/check" --json "$@" | json '[r["end"] for r in d["runs"]]'; }
is "$(ends --set counter=99)" "['exit 0']" "a variable below the limit"
is "$(ends --set counter=100)" "['SIGABRT']" "at the limit"
is "$(ends --set limit=41)" "['SIGABRT']" "another variable"
is "$(ends --set 'counter={run}' --set limit=3 -n 4)" "['exit 0', 'exit 0', 'SIGABRT', 'SIGABRT']" "by the number of the life"
address=$("$KAGE" cat s --symbol counter --json | json 'hex(d["address"])')
is "$(ends --set "$address=200:u32")" "['SIGABRT']" "by address"
is "$(ends --set counter=-1)" "['SIGABRT']" "a negative number"
is "$("$KAGE" cat s --symbol counter --as u32)" 41 "the image stays as it was"

printf 'env HOME\nenv KAGE_STORE\n' >"$tmp/env"
"$KAGE" try s -i "$tmp/env" -e HOME=/x -o "$tmp/kept" >"$tmp/out"
like "$(cat "$tmp/kept/1")" "^HOME=/x"$'\n'"ok"$'\n'"KAGE_STORE=$KAGE_STORE" "the environment, one variable changed"
"$KAGE" try s -i "$tmp/env" -e "HOME=/{run}" -n 3 -o "$tmp/kept" >"$tmp/out"
is "$(head -qn 1 "$tmp/kept/"* | paste -sd' ')" "HOME=/1 HOME=/2 HOME=/3" "by number"
try "$KAGE" try s -i "$tmp/env" -e "HOME=/much/longer/than/before/$(printf %0200d 0)"
is "$status" 1 "a value that does not fit"
like "$err" "HOME does not fit: there is room for" "is refused"
try "$KAGE" try s -i "$tmp/env" -e NOSUCH=1
like "$err" "has no NOSUCH, and there is no room" "so is a new one"

try "$KAGE" try s -i "$tmp/three" -i "$tmp/check" -- \
	sh -c 'echo "$KAGE_RUN $KAGE_STATUS $KAGE_END $(basename $KAGE_INPUT) $(wc -l <{output})"; test {status} = 0'
is "$status" 1 "a judge that finds one bad"
like "$out" "1 3 exit 3 three 1"$'\n'"2 0 exit 0 check 1"$'\n'"RUN" "what it is told"
like "$out" "1 of 2: exit 3, bad \(1\)  \(run 1\)" "its word is in the sum"
is "$("$KAGE" try s -i "$tmp/check" --json -- sh -c 'echo noise' 2>"$tmp/err" | json 'd["runs"][0]["judged"]')" 0 "as JSON"
try "$KAGE" try s -i "$tmp/check" -- "$tmp/nosuch"
is "$status" 1 "a judge that is not there"

for bad in "--set counter" "--set counter=x" "--set counter=4294967296" "--set text=5" "--set text=$(printf %040d 0):str" \
	"--set ratio=x:f64" "--timeout x" "--runs 0"; do
	# shellcheck disable=SC2086
	try "$KAGE" try s -i "$tmp/check" $bad
	is "$status" 2 "$bad"
done
try "$KAGE" try s -i "$tmp/check" --set nosuch=1
is "$status" 1 "a variable that is not there"
try "$KAGE" try s -i "$tmp/check" --set 0x1000=1:u8
is "$status" 1 "an address where nothing is"
try "$KAGE" try s -i "$tmp/nosuch"
is "$status" 1 "an input that is not there"

# Interrupted, all are ended. They show under our own session's child.
"$KAGE" try s -i "$tmp/hang" -n 3 -j 3 >"$tmp/out" 2>"$tmp/err" &
kage=$!
lives() { pgrep -P $kage -x subject | wc -l; }
for ((i = 0; i < 500; i++)); do [ "$(lives)" = 3 ] && break; sleep 0.01; done
is "$(lives)" 3 "three at a time"
mapfile -t pids < <(pgrep -P $kage)
kill -TERM $kage
wait $kage
is $? 143 "a signal ends it"
like "$(cat "$tmp/err")" "interrupted in run 3 of 3" "which it tells"
left=0
for p in "${pids[@]}"; do [ -e "/proc/$p" ] && left=$((left + 1)); done
is "${#pids[@]} $left" "6 0" "and every life, and every namespace"
is "$(find "${TMPDIR:-/var/tmp}" -maxdepth 1 -name 'kage-try.*' -newer "$tmp/check")" "" "no folder is left"

"$KAGE" try s -i "$tmp/check" -n 50 | head -n 1 >"$tmp/out"
is "$(find "${TMPDIR:-/var/tmp}" -maxdepth 1 -name 'kage-try.*' -newer "$tmp/check")" "" "nor is one if nobody reads on"

# What only one program can have at a time is waited for.
cat >"$tmp/server.py" <<'END'
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", 0))
s.listen()
print("up", flush=True)
sys.stdin.readline()
time.sleep(0.1)
sys.exit(5)
END
mkfifo "$tmp/pipe"
/usr/bin/python3 "$tmp/server.py" <>"$tmp/pipe" >"$tmp/up" 2>&1 &
pid=$!
for ((i = 0; i < 500; i++)); do [ -s "$tmp/up" ] && break; sleep 0.01; done
"$KAGE" snap $pid --name server >"$tmp/out"
end_subject
is "$("$KAGE" try server -i "$tmp/check" -n 3 -j 3 --json | json '[r["end"] for r in d["runs"]]')" "['exit 5', 'exit 5', 'exit 5']" 	"a port that the lives would share"

# An interpreter, warmed up once.
cat >"$tmp/warm.py" <<'END'
import sys, json, os
table = {i: i * i for i in range(1000)}
print("up", flush=True)
for line in sys.stdin:
    n = int(line)
    print(table[n])
    sys.exit(0 if n % 2 else 7)
END
mkfifo "$tmp/fifo"
/usr/bin/python3 "$tmp/warm.py" <>"$tmp/fifo" >"$tmp/up" 2>&1 &
pid=$!
for ((i = 0; i < 500; i++)); do [ -s "$tmp/up" ] && break; sleep 0.01; done
sleeping() { grep -q 'State:.S' "/proc/$pid/status"; }
for ((i = 0; i < 500; i++)); do sleeping && break; sleep 0.01; done
"$KAGE" snap $pid --name warm >"$tmp/out"
end_subject
for key in 3 4 77 5000; do echo $key >"$tmp/n$key"; done
is "$("$KAGE" try warm -i "$tmp/n3" -i "$tmp/n4" -i "$tmp/n77" -i "$tmp/n5000" -j 2 -o "$tmp/py" --json | json '[r["status"] for r in d["runs"]]')" \
	"[0, 7, 0, 1]" "python3 with four inputs"
is "$(cat "$tmp/py/1" "$tmp/py/2" "$tmp/py/3" | paste -sd' ')" "9 16 5929" "answers each"
like "$(cat "$tmp/py/4")" "KeyError: 5000" "or complains"
finish
