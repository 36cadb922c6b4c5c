#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gawk in a long run."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
BEGIN {
	x = 13
	for (n = 1; (getline line < "go") < 0; n++) {
		x = x * 16807 % 2147483647
		printf "%d %d\n", n, x > "out"
		fflush("out")
		seen[x % 3000] = seen[x % 3000] " " x
		if (length(seen[x % 3000]) > 200) delete seen[x % 3000]
	}
	exit 0
}
'''

if __name__ == "__main__":
    test_program("gawk", lambda box: ["gawk", "-f", box.write("program.awk", PROGRAM)], {"out": 13})
