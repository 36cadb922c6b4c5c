#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The examples of the manual pages run as printed.
. "$(dirname "$0")/lib.bash"

mkdir "$tmp/bin"
ln -s "$KAGE" "$tmp/bin/kage"
PATH=$tmp/bin:$PATH
# What examples leave running ends with this test: it has a store of ours in its environment.
end_all() {
	for process in /proc/[0-9]*; do
		tr '\0' '\n' 2>/dev/null <"$process/environ" | grep -q "^KAGE_STORE=$tmp/" && kill -KILL "${process#/proc/}"
	done
	rm -rf "$tmp"
}
trap end_all EXIT

for page in doc/man/kage*.1; do
	name=$(basename "$page" .1)
	mandoc -Tutf8 "$page" | sed 's/.\x08//g' | sed -n '/^EXAMPLES/,/^SEE ALSO/s/^ *\$ //p' >"$tmp/script"
	[ -s "$tmp/script" ]
	ok $? "$name(1) has examples"
	mkdir "$tmp/$name"
	(cd "$tmp/$name" && KAGE_STORE=$tmp/$name/store KAGE_RUN=$tmp/$name/run timeout 60 bash -ex "$tmp/script") \
		>"$tmp/said" 2>&1 </dev/null
	status=$?
	ok $status "the examples of $name(1)"
	[ $status = 0 ] || sed 's/^/# /' "$tmp/said"
done
finish
