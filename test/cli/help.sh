#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Help, manual pages and completion agree with each other about commands and options.
. "$(dirname "$0")/lib.bash"

# The page as plain text.
manual() { mandoc -Tutf8 "doc/man/$1.1" | sed 's/.\x08//g'; }

try "$KAGE" --help
is "$status" 0 "kage --help"
for word in help -h; do
	# shellcheck disable=SC2086
	is "$("$KAGE" $word)" "$out" "kage $word says the same"
done
manual kage >"$tmp/kage"
for c in $(commands); do
	try "$KAGE" "$c" --help
	is "$status" 0 "kage $c --help"
	like "$out" "^kage $c: " "kage $c --help tells about it"
	is "$("$KAGE" help "$c")" "$out" "kage help $c says the same"
	[ "$(wc -L <"$tmp/out")" -le 100 ]
	ok $? "kage $c --help is not wider than 100 columns"
	[ -f "doc/man/kage-$c.1" ]
	ok $? "kage-$c(1) is there"
	grep -q "kage-$c(1)" "$tmp/kage"
	ok $? "kage(1) names kage-$c(1)"
	page=$(manual "kage-$c")
	for section in NAME SYNOPSIS DESCRIPTION OPTIONS "EXIT STATUS" EXAMPLES "SEE ALSO"; do
		grep -q "^$section\$" <<<"$page"
		ok $? "kage-$c(1) has $section"
	done
	for option in $(grep -oE -- '^ +(-[a-z], )?--[a-z-]+' "$tmp/out" | grep -oE -- '--?[a-z-]+'); do
		sed -n '/^OPTIONS/,/^EXIT STATUS/p' <<<"$page" |
			grep -qE -- "^ +(-[a-z], )?$option([ ,]|$)"
		ok $? "kage-$c(1) documents $option"
	done
	# And nothing that is not there.
	for option in $(sed -n '/^OPTIONS/,/^EXIT STATUS/p' <<<"$page" |
		grep -oE -- '^     (-[a-z], )?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
		grep -qE -- "$option( |$)" "$tmp/out"
		ok $? "kage $c has the $option of its page"
	done
done
mandoc -Tlint -W warning doc/man/*.1 >"$tmp/lint" 2>&1
ok $? "mandoc finds nothing wrong"
sed 's/^/# /' "$tmp/lint"

try "$KAGE" snap --help
[[ $out != *$'\033'* ]]
ok $? "no colours in a pipe"
finish
