#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""perl in a long run, with its data in hashes and a child-free file."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
use strict; use IO::Handle;
open(my $out, ">", "out") or die; $out->autoflush(1);
my ($x, $n, %seen) = (7, 0);
while (!-e "go") {
	$x = $x * 16807 % 2147483647; $n++;
	print $out "$n $x\n";
	$seen{$x % 5000} .= chr(65 + $x % 26);
	delete $seen{$n % 5000} if length($seen{$n % 5000} // "") > 20;
}
exit 0;
'''

if __name__ == "__main__":
    need("perl")
    test_program("perl", lambda box: ["perl", box.write("program.pl", PROGRAM)], {"out": 7})
