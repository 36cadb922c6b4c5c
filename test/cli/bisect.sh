#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage bisect: the first bad image by core, by life and by name, with gaps, skips, and damage.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"
export KAGE

subject
for i in {1..20}; do
	tell count "$i"
	"$KAGE" snap $pid --name s >"$tmp/out" || exit 1
done
end_subject
"$KAGE" tag s@2 fine >"$tmp/out"

cat >"$tmp/judge" <<'END'
#!/bin/bash
# Bad from 13 on; cannot tell where $SKIP says.
n=$("$KAGE" cat "$KAGE_IMAGE" --symbol counter --as u32)
echo "$n" >>"$LOG"
[[ " ${SKIP-} " != *" $n "* ]] || exit 125
[ "$n" -lt 13 ]
END
chmod +x "$tmp/judge"
export LOG=$tmp/judged

try "$KAGE" bisect s --good 1 --bad 20 -- "$tmp/judge"
is "$status" 0 "bisect"
like "$out" "s@13 is the first bad image, taken .*; s@12 is the last good one$" "finds the first bad one"
[ "$(wc -l <"$LOG")" -le 5 ]
ok $? "in few steps"
is "$(wc -l <"$tmp/out")" $(($(wc -l <"$LOG") + 1)) "each of which is printed"
like "$out" "s@[0-9]+ is good" "good ones"
like "$out" "s@[0-9]+ is bad" "bad ones"
is "$("$KAGE" bisect s --good 1 --bad 20 --json -- sh -c 'echo noise; exec "$0"' "$tmp/judge" 2>"$tmp/err" | json 'd["first_bad"], d["last_good"], d["certain"], len(d["steps"]) > 3')" \
	"('s@13', 's@12', True, True)" "--json"
like "$(cat "$tmp/err")" noise "the command's output goes elsewhere then"
is "$("$KAGE" bisect s -- "$tmp/judge" | tail -n 1 | cut -d' ' -f1)" "s@13" "from the first to the latest by default"
is "$("$KAGE" bisect s --good fine --bad s@-1 -- "$tmp/judge" | tail -n 1 | cut -d' ' -f1)" "s@13" "bounds by tag and from the end"
is "$(SKIP="10 11 15 16" "$KAGE" bisect s -- "$tmp/judge" | tail -n 1 | cut -d' ' -f1)" "s@13" "around skipped ones"
try env SKIP="12 13 14" "$KAGE" bisect s -- "$tmp/judge"
is "$status" 1 "skipped ones in the way"
like "$err" "one of s@12 to s@15" "are named"
is "$(SKIP="12 13 14" "$KAGE" bisect s --json -- "$tmp/judge" | json 'd["certain"], d["skipped_between"]')" \
	"(False, ['s@12', 's@13', 's@14'])" "as JSON"

"$KAGE" rm s@9..11 --yes >"$tmp/out"
"$KAGE" rm s@13 --yes >"$tmp/out"
is "$("$KAGE" bisect s -- "$tmp/judge" | tail -n 1 | cut -d' ' -f1)" "s@14" "numbers that are not there any more"

try "$KAGE" bisect s -- sh -c '[ "$(gdb -batch -ex "print counter" "$1" "{core}" 2>&1 | sed -n "s/^\$1 = //p")" -lt 6 ]' x "$SUBJECT"
like "$out" "s@6 is the first bad image" "{core} is a core file"
try "$KAGE" bisect s -- sh -c 'test -s "$KAGE_CORE" && test -z "${KAGE_PID-}" && exec "$0"' "$tmp/judge"
like "$out" "s@14 is the first bad image" "so is \$KAGE_CORE"
is "$(find "${TMPDIR:-/var/tmp}" -name 'kage-bisect*' -newer "$tmp/judge")" "" "no core file is left"

address=$("$KAGE" cat s --symbol counter --json | json 'd["address"]')
cat >"$tmp/live.py" <<END
import os, sys
pid = int(os.environ["KAGE_PID"])
assert "KAGE_CORE" not in os.environ
assert "T (stopped)" in open("/proc/%d/status" % pid).read()
with open("/proc/%d/mem" % pid, "rb") as f, open("$tmp/pids", "a") as pids:
    f.seek($address)
    print(pid, file=pids)
    sys.exit(int.from_bytes(f.read(4), "little") > 16)
END
try "$KAGE" bisect s -- false
like "$out" "s@2 is the first bad image" "the image that is given as good is not judged"
try "$KAGE" bisect s --live -- /usr/bin/python3 "$tmp/live.py"
like "$out" "s@17 is the first bad image" "--live restores each"
gone=1
for p in $(cat "$tmp/pids"); do [ -e "/proc/$p" ] && grep -q subject "/proc/$p/comm" && gone=0; done
is "$gone" 1 "and ends it"

try "$KAGE" bisect s -- "$tmp/nosuch"
is "$status" 1 "a command that is not there"
like "$err" "could not be run" "judges nothing"
try "$KAGE" bisect s --good 20 --bad 1 -- true
is "$status" 2 "good after bad"
try "$KAGE" bisect s --good 1 --bad 77 -- true
is "$status" 1 "an end that is not there"
try "$KAGE" bisect s
is "$status" 2 "without a command"
pack=$(find "$KAGE_STORE/s" -name '*08.kage')
printf X | dd of="$pack" bs=1 seek=100 conv=notrunc status=none
try "$KAGE" bisect s --good 7 --bad 12 -- sh -c 'exit 1'
is "$status" 1 "an image that is damaged is passed over"
like "$err" "s@8 cannot be judged" "and named"
try "$KAGE" when s --symbol environ
is "$status" 0 "by when, too"
like "$err" "s@8 is passed over" "which names it"
finish
