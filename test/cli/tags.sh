#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage tag: names that stay with images, resolve everywhere, and keep them; kage du.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"

try "$KAGE" tag
is "$status" 1 "no store yet"
subject
for _ in 1 2 3 4; do "$KAGE" snap $pid --name s -m "one of four" >"$tmp/out"; done
"$KAGE" snap $pid --name other >"$tmp/out"
end_subject

try "$KAGE" tag s
is "$status $out" "0 " "no tags yet"
is "$("$KAGE" tag s@2 good)" "s@2 is s@good" "an image gets a tag"
is "$("$KAGE" tag s bad)" "s@4 is s@bad" "the latest"
is "$("$KAGE" tag s@good also-good)" "s@2 is s@also-good" "an image that is named by its tag"
"$KAGE" tag other first-one >"$tmp/out"
is "$("$KAGE" tag s --json | json '[(t["tag"], t["number"]) for t in d["tags"]]')" \
	"[('also-good', 2), ('good', 2), ('bad', 4)]" "they are listed by number"
is "$("$KAGE" tag | wc -l)" 5 "all of them, with titles"
is "$("$KAGE" show s@good --json | json 'd["image"]')" "s@2" "show knows a tag"
is "$("$KAGE" diff s@good s@2)" "no difference" "diff"
is "$("$KAGE" cat s@bad --symbol counter --as u32)" 41 "cat"
like "$("$KAGE" log s)" "s@2 .*\(also-good, good\) one of four" "log shows them"
is "$("$KAGE" log s --json | json '[i["tags"] for i in d["images"]]')" "[[], ['also-good', 'good'], [], ['bad']]" "as JSON"
is "$("$KAGE" log --json | json '[i["tags"] for i in d["images"]]')" "[['first-one'], ['bad']]" "of all histories"

try "$KAGE" tag s@3 good
is "$status" 1 "a tag that another image has"
like "$err" "the tag 'good' is on s@2; --force moves it" "is refused"
"$KAGE" tag s@3 good --force >"$tmp/out"
is "$("$KAGE" show s@good --json | json 'd["image"]')" "s@3" "or moved"
for bad in latest first 5 -1 5min .x a/b "a b" ""; do
	"$KAGE" tag s@1 -- "$bad" >"$tmp/out" 2>&1
	[ $? != 0 ]
	ok $? "'$bad' cannot be a tag"
done
try "$KAGE" tag s@9 nine
is "$status" 1 "an image that is not there"
try "$KAGE" show s@nosuch
like "$err" "'s@nosuch' names no image" "a tag that is not there"

try "$KAGE" rm s@3 --yes
is "$status" 1 "rm of a tagged image"
like "$err" "s@3 has the tag 'good'" "tells why"
try "$KAGE" rm s@1..3 --yes
is "$status" 1 "rm of a range with one in it"
try "$KAGE" rm s --yes
is "$status" 1 "rm of a history with one in it"
is "$("$KAGE" log s --json | json 'len(d["images"])')" 4 "all are there"
is "$("$KAGE" rm s@1 --yes)" "1 image removed" "one without a tag goes"
is "$("$KAGE" rm s@2 --yes --force)" "1 image removed" "--force"
is "$("$KAGE" tag s --json | json '[t["tag"] for t in d["tags"]]')" "['good', 'bad']" "takes its tag along"
"$KAGE" tag -d s@good
is $? 0 "a tag is taken away"
is "$("$KAGE" rm s@3 --yes)" "1 image removed" "then the image goes"
try "$KAGE" tag -d s@good
is "$status" 1 "a tag that is gone"
"$KAGE" tag -d s bad
is $? 0 "with the name apart"
try "$KAGE" tag -d s
is "$status" 2 "which one?"
"$KAGE" tag s@4 again >"$tmp/out"
is "$(find "$KAGE_STORE/s" -name '.t*' | wc -l)" 1 "nothing else is left"
is "$("$KAGE" fsck --json | json 'd["bad"]')" 0 "fsck is content"
is "$("$KAGE" rm s --yes --force)" "1 image removed" "a history with its tags"
[ ! -e "$KAGE_STORE/s" ]
ok $? "which is gone"

# du: what the files take.
subject
for _ in 1 2; do "$KAGE" snap $pid --name s >"$tmp/out"; done
end_subject
files=$(find "$KAGE_STORE" -name '*.kage' -printf '%s\n' | awk '{ n += $1 } END { print n }')
is "$("$KAGE" du --json | json 'd["total"]["stored_bytes"], d["total"]["images"], len(d["usage"])')" "($files, 3, 2)" "du of all"
memory=$("$KAGE" log s --json | json 'sum(i["memory_bytes"] for i in d["images"])')
is "$("$KAGE" du s --json | json 'd["total"]["memory_bytes"], [u["what"] for u in d["usage"]]')" "($memory, ['s@1', 's@2'])" \
	"du of a history"
like "$("$KAGE" du)" "^WHAT +IMAGES +STORED +MEMORY +RATIO"$'\n'"other +1 .*"$'\n'"s +2 .*"$'\n'"all +3 " "as text"
try "$KAGE" du nosuch
is "$status" 1 "du of a history that is not there"
finish
