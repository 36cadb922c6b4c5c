#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage diff: each kind of difference by itself, and that the bytes it tells make one memory of the other.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"

# snap: one more image; $last is its number.
last=0
snap() {
	"$KAGE" snap $pid --name s >"$tmp/snapped" || exit 1
	last=$((last + 1))
}
# differ: what the last two images differ in, as text and JSON.
differ() {
	"$KAGE" diff s@$((last - 1)) s@$last >"$tmp/text"
	"$KAGE" diff s@$((last - 1)) s@$last --hex --json >"$tmp/json"
}
told() { json "$1" <"$tmp/json"; }

subject
snap
is "$("$KAGE" diff s@1 s@1)" "no difference" "an image and itself"
is "$("$KAGE" diff s@1 s@1 --json | json 'sum(len(v) for v in d.values() if isinstance(v, list))')" 0 "as JSON"
snap
differ
is "$(told 'len(d["mappings"]), len(d["memory"]), len(d["descriptors"]), len(d["signals"])')" "(0, 0, 0, 0)" \
	"two images of a program that slept"

tell count 1000
snap
differ
is "$(told '[(s["name"], s["bytes"], s["size"]) for m in d["memory"] for s in m["symbols"] if s["name"] == "counter"]')" \
	"[('counter', 2, 4)]" "a variable by its name"
like "$(cat "$tmp/text")" "bytes in 1 page  $SUBJECT" "its mapping"
like "$(cat "$tmp/text")" " 2  counter" "as text"
address=$("$KAGE" cat s --symbol counter --json | json 'd["address"]')
is "$(told "[(r['before'], r['after']) for m in d['memory'] for r in m['runs'] if r['address'] <= $address < r['address'] + len(r['before']) // 2]")" \
	"[('2900', 'e803')]" "its bytes before and after"
like "$("$KAGE" diff s@$((last - 1)) s@$last --hex)" "- $(printf %012x "$address")  29 00 .*[+] $(printf %012x "$address")  e8 03 " "--hex"

tell heap x
snap
differ
is "$(told '[m["bytes"] >= 10000 for m in d["memory"] if m["object"] == "[heap]"]')" "[True]" "the heap"

tell map
tell code
snap
differ
is "$(told '[(m["change"], m["after"], m["end"] - m["start"], m["warning"]) for m in d["mappings"] if m["start"] >> 44 == 2]')" \
	"[('new', 'rw-p', 65536, None), ('new', 'rwxp', 4096, 'executable and writable, and comes from no file')]" \
	"new mappings, and what to think of them"
like "$(cat "$tmp/text")" "[+] 210000000000-210000001000  rwxp .*! executable and writable" "as text"
is "$("$KAGE" diff s@$last s@$((last - 1)) --json | json '[m["change"] for m in d["mappings"] if m["start"] >> 44 == 2]')" \
	"['gone', 'gone']" "the other way they are gone"

echo hello >"$tmp/file"
tell open "$tmp/file"
snap
differ
is "$(told "[(x['object'], x['change'], 'file $tmp/file' in x['after']) for x in d['descriptors'] if x['object'] == 'fd 9']")" \
	"[('fd 9', 'new', True)]" "a new descriptor"
tell seek 3
snap
differ
is "$(told '[(x["field"], x["before"], x["after"]) for x in d["descriptors"] if x["object"] == "fd 9"]')" \
	"[('offset', '0', '3')]" "its offset"
tell open /dev/null
snap
differ
like "$(grep 'fd 9' "$tmp/text")" "~ fd 9  what it is  file $tmp/file.* → file /dev/null" "another file"

tell signal
snap
differ
is "$(told '[(x["before"], x["after"]) for x in d["signals"] if x["object"] == "SIGUSR1" and x["field"] == "handler"]')" \
	"[('default', 'ignored')]" "what is done on a signal"

tell thread
snap
differ
is "$(told 'len([x for x in d["threads"] if x["change"] == "new" and "pause" in x["after"]])')" 1 "a new thread, and where it is"

prlimit --pid $pid --nofile=100:200
renice -n 5 -p $pid >"$tmp/renice"
snap
differ
is "$(told '[(x["field"], x["before"], x["after"]) for x in d["process"] if x["field"].endswith("soft")][0][2]')" 100 "a limit"
is "$(told '[(x["before"], x["after"]) for x in d["threads"] if x["field"] == "scheduling.nice"][0]')" "('0', '5')" "nice"

# What is told makes the first memory into the last.
"$KAGE" diff s@1 s@$last --hex --json >"$tmp/json"
cat >"$tmp/apply.py" <<'END'
import json, subprocess, sys
kage, first, last = sys.argv[1:]
d = json.load(sys.stdin)
checked = 0
def read(image, m):
    return bytearray(subprocess.run([kage, "cat", image, "%x-%x" % (m["start"], m["end"]), "--as", "raw"],
                                    stdout=subprocess.PIPE, check=True).stdout)
for m in d["memory"]:
    before, after = read(first, m), read(last, m)
    assert len(before) == len(after) == m["end"] - m["start"]
    assert sum(x != y for x, y in zip(before, after)) == m["bytes"], m["object"]
    for r in m["runs"]:
        at, old = r["address"] - m["start"], bytes.fromhex(r["before"])
        assert before[at:at + len(old)] == old
        before[at:at + len(old)] = bytes.fromhex(r["after"])
    assert before == after, m["object"]
    checked += 1
print(checked > 4)
END
is "$(/usr/bin/python3 "$tmp/apply.py" "$KAGE" s@1 s@$last <"$tmp/json")" True "the bytes make one memory of the other"

try "$KAGE" diff s@1
is "$status" 2 "one image alone"
try "$KAGE" diff s@1 s@99
is "$status" 1 "an image that is not there"
end_subject

# Little memory, whatever the size: 300 MiB of pages with 200 MB of room.
/usr/bin/python3 -c '
import os, sys, time
b = bytearray(os.urandom(1 << 20) * 300)
print(1, flush=True)
os.read(0, 1)
for i in range(0, len(b), 40960): b[i] ^= 1
print(2, flush=True)
time.sleep(1000)' <>"$tmp/in" >"$tmp/up" &
pid=$!
grown() { for ((i = 0; i < 1000; i++)); do grep -q "$1" "$tmp/up" && return; sleep 0.02; done; }
grown 1
"$KAGE" snap $pid --name big >"$tmp/snapped"
echo >"$tmp/in"
grown 2
"$KAGE" snap $pid --name big >"$tmp/snapped"
end_subject
# A sanitizer's own memory would not fit.
ldd "$KAGE" | grep -q asan && room=unlimited || room=200000
is "$( (ulimit -v $room; "$KAGE" diff big@1 big@2 --json) | json 'max(m["bytes"] for m in d["memory"])')" 7680 \
	"large images in little memory"
finish
