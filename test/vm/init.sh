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

# The program that does to its memory all that can be done, recorded by rung $1, every image verified.
record() { # RUNG IMAGES WORDS…
	local rung=$1 images=$2 dir=/work/record.$1 pid status
	shift 2
	mkdir -p "$dir"
	cd "$dir" || return
	/test/record/mem_random 7 "$@" >log 2>&1 &
	pid=$!
	await ready log $pid
	KAGE_TRACK=$rung "$kage" record --json -n "r$rung" --every 100ms --verify -c "$images" $pid >told 2>&1
	status=$?
	: >go
	wait $pid || status="$status, the program's $?"
	cat log >>told
	if [ "$status" != 0 ] || ! grep -q PASS log; then
		say "not ok" "recorded by ${rung:-the best rung}, status $status" told
	elif [ "$rung" ] && ! grep -q "\"tracking\":\"$rung\"" told; then
		say "not ok" "recorded by $rung, not by another rung" told
	else
		say ok "recorded by ${rung:-the best rung}, $(grep -o '"tracking":"[a-z]*"' told | sort -u | tr -d '\n')"
	fi
	cd /
}

echo "TEST # $(cat /proc/sys/kernel/osrelease)"
for words in mem_anon mem_file mem_shared threads signals timers fd_files fd_pipe fd_event; do
	kind $words
done
record copy 3 1
record twin 3 1 nofork
record "" 3 2 nofork
if "$kage" fsck >/work/told 2>&1; then say ok "the store is sound"; else say "not ok" "the store is sound" /work/told; fi
echo "TEST done"
echo b >/proc/sysrq-trigger
