#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gawk in a long run: it reads a file from end to end again and again, and remembers what it made."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
function following(x) { return x * 16807 % 2147483647 }
function text_of(x) { return sprintf("%0" (1 + x % 200) "d", x) }
function wrong(what) { print "wrong: " what; failed = 1; exit 9 }

# The next line of a file whose lines are numbered.
function read_on(   line) {
	if ((getline line < "data") <= 0) {
		if (at != 5000) wrong("the data end at " at)
		close("data")
		at = 0
		getline line < "data"
	}
	if (line != "line " at) wrong("read " line " for " at)
	at++
}

BEGIN {
	KEPT = 3000
	for (i = 0; i < 5000; i++) print "line " i > "data"
	close("data")
	at = 0
	x = 13
	for (n = 1; (getline line < "go") < 0; n++) {
		x = following(x)
		printf "%d %d\n", n, x >> "out"
		fflush("out")
		number[n % KEPT] = x
		text[x] = text_of(x)
		if (n > KEPT) delete text[oldest]
		if (n >= KEPT) oldest = number[(n + 1) % KEPT]
		read_on()
	}
	last = (n - 1) % KEPT
	for (i in number) {
		next_one = (i + 1) % KEPT
		if (text[number[i]] != text_of(number[i])) wrong("text of " number[i] ": " text[number[i]])
		if (i != last && next_one in number && number[next_one] != following(number[i]))
			wrong("number " i)
	}
	if (length(text) != length(number)) wrong(length(text) " texts")
	exit 0
}
'''

if __name__ == "__main__":
    test_program("gawk", lambda box: ["gawk", "-f", box.write("program.awk", PROGRAM)], {"out": 13})
