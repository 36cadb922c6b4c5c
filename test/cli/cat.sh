#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kage cat: memory by address and by symbol, in every form, of a small program and of python3.
. "$(dirname "$0")/lib.bash"
. "$(dirname "$0")/subject.bash"

subject
tell count 7
"$KAGE" snap $pid --name s >"$tmp/out"
tell count 8
tell text changed
"$KAGE" snap $pid --name s >"$tmp/out"

is "$("$KAGE" cat s@1 --symbol counter --as u32)" 7 "a number of the first image"
is "$("$KAGE" cat s@2 --symbol counter --as u32)" 8 "and of the second"
is "$("$KAGE" cat s --symbol subject:counter --as i32)" 8 "FILE:NAME"
is "$("$KAGE" cat s --symbol hidden --as i64 | paste -sd' ')" "1 -2 3 4" "an array of a static symbol"
is "$("$KAGE" cat s --symbol hidden+16 --as u64 | paste -sd' ')" "1 18446744073709551614" "NAME+LENGTH"
is "$("$KAGE" cat s --symbol ratio --as f64)" 1.5 "a floating point number"
is "$("$KAGE" cat s@1 --symbol text --as str)" "some text" "text"
is "$("$KAGE" cat s@2 --symbol text --as str)" "changed" "text that changed"
like "$("$KAGE" cat s --symbol greeting --as ptr)" "^0x[0-9a-f]{16}  subject\+0x[0-9a-f]+ \(text\)$" "a pointer"
is "$("$KAGE" cat s@1 --symbol text --as raw | head -c 9)" "some text" "raw bytes"
is "$("$KAGE" cat s@1 --symbol text --as raw | wc -c)" 32 "all of them"
address=$("$KAGE" cat s@1 --symbol text --json | json 'hex(d["address"])')
is "$("$KAGE" cat s@1 "$address+9" --as raw)" "some text" "ADDRESS+LENGTH"
is "$("$KAGE" cat s@1 "${address#0x}-$(printf %x $((address + 4)))" --as raw)" some "ADDRESS-END"
is "$("$KAGE" cat s@1 "$address" --as str)" "some text" "a string by its address alone"
"$KAGE" cat s@1 "$address+40" >"$tmp/dump"
"$KAGE" cat s@1 "$address+40" --as raw >"$tmp/raw"
is "$(head -n 1 "$tmp/dump" | sed 's/^[0-9a-f]*//')" "  73 6f 6d 65 20 74 65 78  74 00 00 00 00 00 00 00  |some text.......|" \
	"a dump"
is "$(sed 's/^[0-9a-f]* *//; s/|.*//' "$tmp/dump" | head -n 3 | tr -d ' \n')" "$(od -An -v -tx1 "$tmp/raw" | tr -d ' \n')" \
	"which is what od tells"
like "$("$KAGE" cat s --symbol main+16)" "^[0-9a-f]{12}  " "code, which stands in the file only"
is "$("$KAGE" cat s --symbol hidden --as i64 --json | json 'd["values"], d["symbol"], d["size"], d["image"]')" \
	"([1, -2, 3, 4], 'hidden', 32, 's@2')" "--json"
is "$("$KAGE" cat s --symbol text --json | json 'bytes.fromhex("".join(d["hex"]))[:7]')" "b'changed'" "--json of bytes"

# A long range is what a debugger sees in a core file.
stack=$("$KAGE" show s@2 --json | json '[(int(m["start"]), int(m["end"])) for m in d["processes"][0]["memory"]["mappings"] if int(m["start"]) <= int(d["processes"][0]["memory"]["start_stack"]) < int(m["end"])][0]' | tr -d '(),')
read -r from to <<<"$stack"
"$KAGE" cat s "$(printf %x-%x "$from" "$to")" --as raw | sha256sum >"$tmp/cat"
"$KAGE" core s -o "$tmp/core"
gdb -batch -ex "dump binary memory $tmp/gdb.bin $from $to" "$SUBJECT" "$tmp/core" >"$tmp/gdb" 2>&1
is "$(sha256sum <"$tmp/gdb.bin")" "$(cat "$tmp/cat")" "all of the stack, as gdb has it"

try "$KAGE" cat s --symbol conter
is "$status" 1 "a symbol that is not there"
like "$err" "no symbol 'conter' .*counter" "what is near"
try "$KAGE" cat s --symbol of_thread
like "$err" "thread-local" "a thread-local symbol"
try "$KAGE" cat s 1000+16
is "$status" 1 "an address where nothing is"
like "$err" "no memory at 0x1000" "says so"
try "$KAGE" cat s "$(printf %x $((to - 16)))+64"
is "$status" 1 "a range that ends in a hole"
is "$(wc -l <"$tmp/out")" 1 "shows what is there"
for bad in zz 12 12+ 12+0 20-10 +5 12+5x; do
	try "$KAGE" cat s "$bad"
	is "$status" 2 "'$bad' is no range"
done
try "$KAGE" cat s
is "$status" 2 "nothing asked for"

# The file was replaced: its symbols would lie.
end_subject
cp "$SUBJECT" "$tmp/moved"
whole=$SUBJECT
SUBJECT=$tmp/moved
subject
tell count 5
"$KAGE" snap $pid --name moved >"$tmp/out"
end_subject
SUBJECT=$whole
is "$("$KAGE" cat moved --symbol counter --as u32)" 5 "a program of which there is a copy"
cp /bin/true "$tmp/other"
mv "$tmp/other" "$tmp/moved"
try "$KAGE" cat moved --symbol counter --as u32
is "$status" 1 "its file was replaced by another"
like "$err" "moved is not the file any more" "which is told"

# A debug file of the same build-id speaks for a stripped one.
id=$(readelf -n "$SUBJECT" | sed -n 's/.*Build ID: //p')
folder=/usr/lib/debug/.build-id/${id:0:2}
objcopy --only-keep-debug "$SUBJECT" "$tmp/debug"
objcopy --strip-all "$SUBJECT" "$tmp/bare"
SUBJECT=$tmp/bare
subject
"$KAGE" snap $pid --name bare >"$tmp/out"
try "$KAGE" cat bare --symbol hidden --as i64
is "$status" 1 "a stripped program has no such symbol"
if mkdir -p "$folder" 2>/dev/null && cp "$tmp/debug" "$folder/${id:2}.debug" 2>/dev/null; then
	is "$("$KAGE" cat bare --symbol hidden --as i64 | paste -sd' ')" "1 -2 3 4" "but for its debug file"
	is "$("$KAGE" cat bare --symbol counter --as u32)" 41 "at the right address"
	cp /bin/true "$folder/${id:2}.debug"
	try "$KAGE" cat bare --symbol hidden --as i64
	is "$status" 1 "one of another program does not count"
	rm "$folder/${id:2}.debug"
	rmdir "$folder" 2>/dev/null
fi
end_subject

# Without either, .dynsym does.
/usr/bin/python3 -c 'import sys, time; print(sys.hexversion, flush=True); time.sleep(1000)' >"$tmp/up" 2>&1 &
pid=$!
for ((i = 0; i < 500; i++)); do [ -s "$tmp/up" ] && break; sleep 0.01; done
"$KAGE" snap $pid --name py >"$tmp/out"
is "$("$KAGE" cat py --symbol Py_Version --as u64)" "$(cat "$tmp/up")" "python3 knows its version"
like "$("$KAGE" cat py --symbol PyExc_ValueError --as ptr)" " python3[.0-9]*\+0x[0-9a-f]+" "and its classes"
end_subject
finish
