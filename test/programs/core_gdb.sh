#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What gdb sees in the core file of an image is what it saw in the live process: every thread, its
# backtrace, its registers. The oracle is gdb itself, attached to the process before the image is
# taken; for vector registers, which older versions of gdb misread in live processes on some
# processors, it is the values that the program put into them.
set -u
B=${B:-build}
KAGE=${KAGE:-$B/kage}
PROGRAM=$B/test/programs/core_gdb
folder=$(mktemp -d)
export KAGE_STORE=$folder/store
pids=()
number=0

cleanup() {
	[ ${#pids[@]} -gt 0 ] && kill -9 "${pids[@]}" 2>/dev/null
	rm -rf "$folder"
}
trap cleanup EXIT

if ! command -v gdb >/dev/null; then
	echo "1..0 # skip gdb is not installed"
	exit 0
fi

# result STATUS DESCRIPTION: one line of TAP
result() {
	number=$((number + 1))
	if [ "$1" = 0 ]; then echo "ok $number - $2"; else echo "not ok $number - $2"; fi
}

comment() { sed 's/^/# /'; }

# same A B DESCRIPTION: whether both files are equal and not empty
same() {
	diff -u "$1" "$2" >"$folder/diff" && [ -s "$1" ]
	local status=$?
	[ $status = 0 ] || head -60 "$folder/diff" | comment
	result $status "$3"
}

debug() { LC_ALL=C gdb -nx -batch -iex 'set debuginfod enabled off' "$@" 2>&1 </dev/null; }

# start SETTLED COMMAND…: runs it until "ready" stands in $folder/out and all but SETTLED of its
# threads sleep
start() {
	local spinning=$1 awake
	shift
	"$@" </dev/null >"$folder/out" 2>/dev/null &
	pid=$!
	pids+=("$pid")
	disown "$pid"
	for _ in $(seq 200); do
		sleep 0.05
		grep -q ready "$folder/out" || continue
		awake=$(cat "/proc/$pid/task/"*/stat | grep -vc ') S ')
		[ "$awake" = "$spinning" ] && return
	done
	echo "Bail out! $1 does not become ready"
	exit 1
}

# snap NAME: an image of $pid, and its core
snap() {
	"$KAGE" snap "$pid" --name "$1" 2>&1 >/dev/null | comment
	"$KAGE" core "$1" -o "$folder/$1.core" 2>&1 >/dev/null | comment
	[ -s "$folder/$1.core" ]
	result $? "$1: there is a core"
}

# From 'thread apply all bt': the threads, and what each of their frames is called.
functions() {
	sed -nE -e 's/^Thread ([0-9]+) .*LWP ([0-9]+).*/thread \2/p' \
		-e 's/^#([0-9]+) +(0x[0-9a-f]+ in )?(<signal handler called>|[^ ]+).*/  \1 \3/p'
}

# From 'thread apply all info registers': threads and registers. What an interrupted call would
# return (-512 to -516) is seen only by debuggers, and which of these it is not in the image. Mask
# registers belong to the vectors.
registers() {
	sed -nE -e 's/^Thread ([0-9]+) .*LWP ([0-9]+).*/thread \2/p' \
		-e '/^k[0-7] /d' \
		-e 's/^([a-z_0-9]+) +(0x[0-9a-f]+) .*/  \1 \2/p' \
		-e 's/^\$[0-9]+ = /  orig_rax /p' |
		sed -E 's/^  rax 0xfffffffffffff(e00|dff|dfe|dfc)$/  rax restarts/'
}

commands=(-ex 'set print repeats unlimited' -ex 'echo FRAMES\n' -ex 'thread apply all bt'
	-ex 'echo REGISTERS\n' -ex 'thread apply all info registers'
	-ex 'thread apply all -- print $orig_rax' -ex 'echo END\n')

# between A B: the lines from the one that is A to the one that is B
between() { sed -n "/^$1\$/,/^$2\$/p"; }

# --- threads in system calls ---------------------------------------------------------------------
echo 1..17
start 1 "$PROGRAM"
vectors=$(sed -n 's/^ready //p' "$folder/out")
debug -p "$pid" "${commands[@]}" >"$folder/live"
snap threads
debug "$PROGRAM" "$folder/threads.core" "${commands[@]}" >"$folder/core"

for side in live core; do
	between FRAMES REGISTERS <"$folder/$side" | functions >"$folder/$side.frames"
	between REGISTERS END <"$folder/$side" | registers >"$folder/$side.registers"
done
same "$folder/live.frames" "$folder/core.frames" "threads: the same functions in every backtrace"
same "$folder/live.registers" "$folder/core.registers" "threads: the same general registers"
missing=0
for function in wait_nanosleep wait_futex wait_poll wait_epoll wait_read wait_handler \
	pause_in_handler hold_vectors main; do
	grep -qE " $function\$" "$folder/core.frames" ||
		{ echo "# $function is in no backtrace"; missing=1; }
done
result $missing "threads: every function is found in a backtrace"
! grep -E 'warning|Cannot access|\?\?' "$folder/core" | comment | grep .
result $? "threads: gdb has nothing to complain about"

# --- vector registers ----------------------------------------------------------------------------
case $vectors in
zmm) count=32 lanes=8 ;;
ymm) count=16 lanes=4 ;;
*) count=16 lanes=2 ;;
esac
expected_vectors() {
	local r q line
	for ((r = 0; r < count; r++)); do
		line="$vectors$r {"
		for ((q = 0; q < lanes; q++)); do
			printf -v line '%s0x%x%s' "$line" $(((r + 1) << 32 | (q + 1))) \
				"$([ $q = $((lanes - 1)) ] && echo '}' || echo ', ')"
		done
		echo "$line"
	done
	[ "$vectors" = zmm ] || return
	for ((r = 1; r < 8; r++)); do printf 'k%d 0x%x\n' $r $((0x101 * r)); done
}
member=v${lanes}_int64
show=()
for ((r = 0; r < count; r++)); do
	show+=(-ex "echo $vectors$r\\040" -ex "output/x \$$vectors$r.$member" -ex 'echo \n')
done
if [ "$vectors" = zmm ]; then
	for ((r = 1; r < 8; r++)); do
		show+=(-ex "echo k$r\\040" -ex "output/x \$k$r" -ex 'echo \n')
	done
fi
# The thread that spins was made last.
spinner=$(grep -o '^thread .*' "$folder/core.frames" | sort -k2n | tail -1 | cut -d' ' -f2)
debug "$PROGRAM" "$folder/threads.core" -ex 'info threads' >"$folder/list"
spinner=$(sed -nE "s/^[* ] +([0-9]+) .*LWP $spinner\).*/\1/p" "$folder/list")
expected_vectors >"$folder/vectors.expected"
debug "$PROGRAM" "$folder/threads.core" -ex "thread $spinner" -ex 'echo VECTORS\n' "${show[@]}" \
	-ex 'echo END\n' | between VECTORS END | sed '1d;$d' >"$folder/vectors.core"
same "$folder/vectors.expected" "$folder/vectors.core" "threads: known values in every $vectors"

# --- memory --------------------------------------------------------------------------------------
debug "$PROGRAM" "$folder/threads.core" -ex 'x/s shared + 0x5000' -ex 'output/x values[31][7]' \
	-ex 'echo \n' -ex 'x/8xb shared + 0xff000' >"$folder/memory"
grep -q 'written to shared memory' "$folder/memory"
result $? "threads: shared memory"
grep -q '^0x2000000008$' "$folder/memory"
result $? "threads: data of the program"
grep -qE '(0x00\s*){8}$' "$folder/memory"
result $? "threads: memory that was never touched is zero"
debug "$PROGRAM" "$folder/threads.core" -ex 'info address __vdso_clock_gettime' \
	-ex 'x/2i __vdso_clock_gettime' >"$folder/vdso"
grep -q 'is at 0x' "$folder/vdso" && ! grep -q 'Cannot access' "$folder/vdso"
status=$?
[ $status = 0 ] || comment <"$folder/vdso"
result $status "threads: the vDSO has its symbols and its code"
debug --core "$folder/threads.core" -ex 'info proc mappings' -ex 'info auxv' >"$folder/proc"
grep -q "$(readlink -f "$PROGRAM")" "$folder/proc" && grep -q 'AT_PHDR' "$folder/proc"
result $? "threads: mapped files and the auxiliary vector"
grep -q 'Core was generated by' "$folder/proc" && ! grep -q 'terminated with signal' "$folder/proc"
result $? "threads: gdb tells the command, and of no signal"

# --- ways of writing -----------------------------------------------------------------------------
"$KAGE" core threads -o - | cat >"$folder/piped.core"
cmp "$folder/threads.core" "$folder/piped.core" 2>&1 | comment
cmp -s "$folder/threads.core" "$folder/piped.core"
result $? "threads: the same through a pipe"
apparent=$(stat -c %s "$folder/threads.core")
used=$(($(stat -c %b "$folder/threads.core") * 512))
[ $used -lt $((apparent / 4)) ]
result $? "threads: the file has holes"
kill -9 "${pids[@]}"
pids=()

# --- python ---------------------------------------------------------------------------------------
if [ -x /usr/bin/python3 ]; then
	cat >"$folder/threads.py" <<-'END'
		import select, threading, time
		def sleeper():
		    time.sleep(3600)
		def waiter():
		    threading.Event().wait()
		def poller():
		    select.select([], [], [], 3600)
		for f in (sleeper, waiter, poller):
		    threading.Thread(target=f).start()
		print("ready", flush=True)
		threading.Event().wait()
	END
	start 0 /usr/bin/python3 "$folder/threads.py"
	debug -p "$pid" "${commands[@]}" >"$folder/live"
	snap python
	debug /usr/bin/python3 "$folder/python.core" "${commands[@]}" >"$folder/core"
	for side in live core; do
		between FRAMES REGISTERS <"$folder/$side" | functions >"$folder/$side.frames"
	done
	same "$folder/live.frames" "$folder/core.frames" "python: the same functions in every backtrace"
	[ "$(grep -c '^thread' "$folder/core.frames")" = 4 ]
	result $? "python: all threads are there"
else
	for what in "a core" backtraces threads; do
		number=$((number + 1))
		echo "ok $number - python: $what # skip /usr/bin/python3 is not installed"
	done
fi
[ "$number" = 17 ]
