#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage run: exit status, signals and environment pass through.
. "$(dirname "$0")/lib.bash"

try "$KAGE" run -- sh -c 'exit 5'
is "$status" 5 "the exit status"
try "$KAGE" run echo one two
is "$out" "one two" "output"
is "$(echo in | "$KAGE" run cat)" "in" "input"
try "$KAGE" run nosuchprogram
is "$status" 127 "a program that is not there"
like "$err" "^kage run: cannot start nosuchprogram: No such file" "is named"
try "$KAGE" run /etc/passwd
is "$status" 126 "a file that is no program"
try "$KAGE" run --json nosuchprogram
is "$(json 'd["error"]["code"], d["error"]["errno"]' <<<"$out")" "('notfound', 2)" "as JSON"

try sh -c '"$1" run sh -c "kill -TERM \$\$"; exit $?' - "$KAGE"
is "$status" 143 "a signal that ends the program ends kage, too"
/usr/bin/python3 - "$KAGE" >"$tmp/out" <<'END'
import os, signal, subprocess, sys
run = lambda c: subprocess.run([sys.argv[1], "run", "sh", "-c", c]).returncode
print(run("kill -KILL $$"), run("ulimit -c 0; kill -SEGV $$"))
END
is "$(cat "$tmp/out")" "-9 -11" "by the same signal"

# signalled SIGNAL: sends it to kage alone, while the program waits for it.
signalled() {
	rm -f "$tmp/out" # or the last one's "ready" would be found
	"$KAGE" run sh -c "trap 'echo got $1; exit 9' $1; echo ready; while :; do sleep 0.05; done" \
		>"$tmp/out" &
	local pid=$!
	until grep -qs ready "$tmp/out"; do sleep 0.02; done
	kill -"$1" $pid
	wait $pid
	status=$?
}
for signal in TERM HUP USR1 USR2 WINCH; do
	signalled $signal
	is "$status $(tail -n 1 "$tmp/out")" "9 got $signal" "SIG$signal goes on to the program"
done

# Without a terminal nobody does job control: kage waits for a stopped program.
rm -f "$tmp/out"
"$KAGE" run sh -c 'echo $$; kill -STOP $$; exit 4' >"$tmp/out" &
pid=$!
until [ -s "$tmp/out" ] && grep -q '^State:.T' "/proc/$(cat "$tmp/out")/status"; do sleep 0.02; done
kill -CONT "$(cat "$tmp/out")"
wait $pid
is $? 4 "a program that was stopped and continued by others"

try "$KAGE" run --name shop printenv KAGE_NAME
is "$out" "shop" "--name is in the environment"
try env -u KAGE_NAME "$KAGE" run sh -c 'echo "${KAGE_NAME-none}"'
is "$out" none "and without it nothing is"

# Nothing of kage's own reaches the program.
inside='grep -E "^Sig(Blk|Ign|Cgt)|^NoNewPrivs" /proc/self/status; ls /proc/self/fd | wc -l'
is "$("$KAGE" run sh -c "$inside" </dev/null)" "$(sh -c "$inside" </dev/null)" \
	"signal mask, dispositions and descriptors are those that kage was given"
is "$(nohup "$KAGE" run sh -c "$inside" 2>&1 </dev/null)" "$(nohup sh -c "$inside" 2>&1 </dev/null)" \
	"also under nohup"

is "$(echo hello | "$KAGE" run --tty sh -c 'tty >/dev/null && cat' | tr -d '\r' | tail -n 1)" hello \
	"--tty: a pipe's bytes and its end arrive"
is "$("$KAGE" run --tty sh -c 'test -t 0 && test -t 1 && exec sh -c "exit 6"' </dev/null; echo $?)" 6 \
	"--tty: the exit status"
is "$("$KAGE" run --tty seq 100000 </dev/null | tr -d '\r' | cksum)" "$(seq 100000 | cksum)" \
	"--tty: all of a long output arrives"
try "$KAGE" run --tty nosuchprogram
is "$status" 127 "--tty: a program that is not there"
finish
