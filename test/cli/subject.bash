# SPDX-License-Identifier: Apache-2.0
# The program of subject.c under test: source it after lib.bash.
SUBJECT=$B/test/cli/subject

# subject: starts one, whose number is $pid.
subject() {
	rm -f "$tmp/in" "$tmp/said"
	mkfifo "$tmp/in"
	: >"$tmp/said"
	"$SUBJECT" <>"$tmp/in" >>"$tmp/said" 2>&1 &
	pid=$!
	exec 3<>"$tmp/in"
	tell count 41
}

# tell LINE…: has it do so, and waits until it is done.
tell() {
	local before i
	before=$(wc -l <"$tmp/said")
	echo "$*" >&3
	for ((i = 0; i < 500; i++)); do
		[ "$(wc -l <"$tmp/said")" -gt "$before" ] && return 0
		sleep 0.01
	done
	echo "Bail out! the subject does not answer '$*'"
	exit 1
}

# Ends it, so that its number can be used again.
end_subject() {
	kill -KILL "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	pid=
	return 0
}

trap '[ -z "${pid-}" ] || kill -KILL $pid 2>/dev/null; rm -rf "$tmp"' EXIT
