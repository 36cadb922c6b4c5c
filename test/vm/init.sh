#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What runs in the guest (older_kernel.py), as its init: takes images by each rung of tracking and restores them. Each
# result is a line "TEST ok|not ok|skip NAME", with what went wrong behind it.
export PATH=/bin KAGE_STORE=/work/store HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm /tmp /work
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /work
exec </dev/null

kage=/bin/kage

say() { # RESULT NAME [FILE with what was said]
	echo "TEST $1 $2"
	[ "$1" != "not ok" ] || tail -n 20 "$3" | while IFS= read -r line; do echo "TEST # $line"; done
}

# Waits for a line with WORD in FILE, as long as PID lives.
await() { # WORD FILE PID
	local line
	while ! grep -q "$1" "$2"; do
		kill -0 "$3" 2>/dev/null || { grep -q "$1" "$2"; return; }
		sleep 0.1
	done
}

# A program of test/kind: its image, its end, its life from the image.
kind() { # NAME WORDS…
	local name=$1 dir=/work/kind.$1 pid status
	mkdir -p "$dir"
	cd "$dir" || return
	shift
	"/test/kind/$name" "$@" >log 2>&1 &
	pid=$!
	await ready log $pid || { say skip "$name: $(tail -n 1 log)"; cd /; return; }
	if ! "$kage" snap --kill -n "$name" "$pid" >told 2>&1; then
		kill -KILL $pid
		say "not ok" "image of $name" told
		cd /
		return
	fi
	wait $pid 2>/dev/null
	"$kage" restore "$name" >told 2>&1 &
	pid=$!
	: >go
	wait $pid
	status=$?
	cat told >>log
	if [ $status = 0 ] && grep -q PASS log; then say ok "$name lives again"; else say "not ok" "$name lives again, status $status" log; fi
	cd /
}

# PROGRAM of test/record recorded by the rung FORCED ("": the best one), which is to be RUNG, every image verified. With
# $cleared somebody else clears the soft-dirty bits meanwhile.
record() { # FORCED RUNG IMAGES PROGRAM WORDS…
	local forced=$1 rung=$2 images=$3 what="${*:4}, recorded by ${1:-the best rung}" pid status
	local dir="/work/record $what"
	shift 3
	mkdir -p "$dir"
	cd "$dir" || return
	"/test/record/$1" "${@:2}" >log 2>&1 &
	pid=$!
	await ready log $pid
	[ -z "$cleared" ] || while [ ! -e go ]; do echo 4 >/proc/$pid/clear_refs; sleep 0.05; done &
	KAGE_TRACK=$forced "$kage" record --json -n "$1-$rung-$pid" --every 10ms --verify -c "$images" $pid >told 2>&1
	status=$?
	: >go
	wait $pid || status="$status, the program's $?"
	cat log >>told
	if [ "$status" != 0 ] || ! grep -q PASS log; then
		say "not ok" "$what, status $status" told
	elif ! grep -q "\"tracking\":\"$rung\"" told; then
		say "not ok" "$what, not by another rung" told
	else
		say ok "$what: $(grep -o '"tracking":"[a-z]*"' told | sort -u | tr -d '\n')"
	fi
	cd /
}

# A program into whose memory others write, also in the stop: its life from the last image that can live has all of that.
written() { # RUNG IMAGES
	local what="written by others, recorded by $1" image=$2 pid status
	local dir="/work/$what"
	mkdir -p "$dir"
	cd "$dir" || return
	/test/record/mem_random 11 1 writers >log 2>&1 &
	pid=$!
	await ready log $pid
	KAGE_TRACK=$1 "$kage" record -n written --every 10ms -c "$2" $pid >told 2>&1
	status=$?
	kill -KILL $pid
	wait $pid 2>/dev/null
	while [ "$image" -gt 1 ] && ! "$kage" check "written@$image" >>told; do image=$((image - 1)); done
	"$kage" restore "written@$image" >>told 2>&1 &
	pid=$!
	: >go
	wait $pid || status="$status, the life's $?"
	cat log >>told
	if [ "$status" = 0 ] && grep -q PASS log; then say ok "$what"; else say "not ok" "$what, status $status" told; fi
	cd /
}

echo "TEST # $(cat /proc/sys/kernel/osrelease)"
for words in mem_anon mem_file mem_shared threads signals timers fd_files fd_pipe fd_event; do
	kind $words
done
if /test/unit/test_blind >/work/told 2>&1 && ! grep -q "cannot be loaded" /work/told; then say ok "ranges are noted"; else say "not ok" "ranges are noted" /work/told; fi
record copy copy 3 mem_random 7 1
record twin twin 3 mem_random 7 1 nofork
record "" softdirty 3 mem_random 7 1
record "" softdirty 8 mem_moves 7
cleared=1 record softdirty softdirty 8 mem_moves 8
written softdirty 3
if "$kage" fsck >/work/told 2>&1; then say ok "the store is sound"; else say "not ok" "the store is sound" /work/told; fi
echo "TEST done"
# A reset throws away what the serial port has not sent yet; changing its settings waits for that (tcsetattr(3), TCSADRAIN).
stty -F /dev/ttyS0 -echo
echo b >/proc/sysrq-trigger
