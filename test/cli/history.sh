#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A history as a user meets it: record, run --every, log, when, prune.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"

# The recorder tells each image on a line of its own: wait for the N-th.
images() {
	local i
	for ((i = 0; i < 2000; i++)); do
		[ "$(wc -l <"$tmp/recorded")" -ge "$1" ] && return 0
		sleep 0.01
	done
	echo "Bail out! no image $1: $(cat "$tmp/recorded")"
	exit 1
}

subject
: >"$tmp/recorded"
"$KAGE" record $pid --name s --every 50ms --verify --json >"$tmp/recorded" 2>"$tmp/err" </dev/null &
recorder=$!
images 3
tell count 7
images 8
tell count 8
images 12
kill -TERM $recorder
wait $recorder
is $? 0 "an interrupted recording is a good one"
is "$(cat "$tmp/err")" "" "and says nothing"
is "$(head -n 1 "$tmp/recorded" | json 'd["image"], d["keyframe"]')" "('s@1', True)" "the first image is a keyframe"
is "$(sed -n 3p "$tmp/recorded" | json 'd["keyframe"], d["changed_bytes"] < 65536, d["stored_bytes"] < 65536')" \
	"(False, True, True)" "another one is a small difference"
is "$("$KAGE" fsck --json | json 'd["bad"]' 2>/dev/null)" 0 "fsck"

try "$KAGE" when s --symbol counter
is "$status" 0 "when"
is "$(awk 'NR > 1 { print $(NF - 1), $NF }' "$tmp/out")" "0x29 0x7
0x7 0x8" "finds both changes"
is "$("$KAGE" when s --symbol counter --json | json 'len(d["changes"]), d["opened"] < d["images"]')" "(2, True)" \
	"without looking into all images"
first=$("$KAGE" when s --symbol counter --json | json 'd["changes"][0]["number"]')
is "$("$KAGE" cat s@$((first - 1)) --symbol counter --as u32) $("$KAGE" cat s@$first --symbol counter --as u32)" \
	"41 7" "and cat agrees"
is "$("$KAGE" when s --symbol counter+4 --json | json '[c["after"] for c in d["changes"]]')" \
	"['07000000', '08000000']" "of the length that was asked for"
try "$KAGE" when s
is "$status" 2 "which memory?"

try "$KAGE" prune s
is "$status" 2 "prune without a rule"
try "$KAGE" prune s --keep-last 3 --dry-run
like "$out" "^[0-9]+ images would go$" "prune --dry-run"
before=$("$KAGE" cat s@latest --symbol counter)
is "$("$KAGE" prune s --keep-last 3 --json | json 'd["kept"]')" 3 "prune --keep-last"
is "$("$KAGE" log s --json | json 'len(d["images"])')" 3 "as many are left"
is "$("$KAGE" cat s@latest --symbol counter)" "$before" "which are what they were"
is "$("$KAGE" fsck --json | json 'd["bad"]')" 0 "and whole"
end_subject

"$KAGE" restore s@first --detach >"$tmp/out" 2>&1
is $? 0 "the oldest one that is left lives"
kill -KILL "$(grep -oE '[0-9]+' "$tmp/out" | tail -n 1)" 2>/dev/null

try "$KAGE" run --name r --every 20ms -- /usr/bin/python3 -c 'import time
for i in range(30): time.sleep(0.02)'
is "$status" 0 "run --every: the status is the program's"
[ "$("$KAGE" log r --json | json 'len(d["images"])')" -gt 3 ]
ok $? "and it was recorded"
subject
try env KAGE_TRACK=copy "$KAGE" record $pid --name c --every 10ms --count 4 --verify
is "$status" 0 "without tracking"
like "$err" "cannot be tracked" "which is told"
is "$("$KAGE" log c --json | json '[i["keyframe"] for i in d["images"]]')" "[True, False, False, False]" \
	"differences all the same"
is "$("$KAGE" log c --json | json '{i["tracking"] for i in d["images"]}')" "{'copy'}" "the images tell how they were taken"
try env KAGE_TRACK=twin "$KAGE" record $pid --name d --every 10ms --count 4 --verify
is "$status" 0 "from twins"
is "$("$KAGE" log d --json | json '[(i["tracking"], i["keyframe"]) for i in d["images"]]')" \
	"[('twin', True), ('twin', False), ('twin', False), ('twin', False)]" "differences, too"
try env KAGE_TRACK=twin "$KAGE" snap $pid --name e --json
is "$(json 'd["tracking"]' <<<"$out")" twin "an image of its own from one"
try "$KAGE" show e
like "$out" "from a twin" "which show tells"
try "$KAGE" record $pid --name f --every 10ms --count 2
is "$("$KAGE" log f --json | json '{i["tracking"] for i in d["images"]}')" "{'wp'}" "else what is written is tracked"
end_subject

try "$KAGE" run --every often -- true
is "$status" 2 "a duration that is none"
try "$KAGE" record 1x
is "$status" 2 "a PID that is none"

subject
try "$KAGE" record $pid --name t --every 10ms --count 30 --keep-last 5
is "$status" 0 "record --keep-last"
[ "$("$KAGE" log t --json | json 'len(d["images"])')" -lt 30 ]
ok $? "old images went meanwhile"
is "$("$KAGE" fsck --json | json 'd["bad"]')" 0 "and the rest is whole"
end_subject
finish
