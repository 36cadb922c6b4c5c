#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""perl in a long run, with what it has seen in hashes, an alarm again and again, and a signal that waits."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
use strict; use warnings; use IO::Handle; use POSIX; use Time::HiRes qw(setitimer ITIMER_REAL);

my $KEPT = 5000;  # of the newest numbers, each with a text that follows from it
sub following { return $_[0] * 16807 % 2147483647 }
sub text_of { return chr(65 + $_[0] % 26) x ($_[0] % 100) }
sub wrong { print "wrong: @_\n"; POSIX::_exit(9) }

my $alarms = 0;
$SIG{ALRM} = sub { $alarms++ };
my $blocked = POSIX::SigSet->new(SIGUSR2);
POSIX::sigprocmask(SIG_BLOCK, $blocked);
kill USR2 => $$;
setitimer(ITIMER_REAL, 0.01, 0.01);

open(my $out, ">>", "out") or die; $out->autoflush(1);
my ($x, $n, $enough, %x, %text) = (7, 0, undef);
while (!defined $enough || $alarms < $enough) {
	$x = following($x);
	$n++;
	print $out "$n $x\n";
	($x{$n}, $text{$x}) = ($x, text_of($x));
	if ($n > $KEPT) {
		delete $text{$x{$n - $KEPT}};
		delete $x{$n - $KEPT};
	}
	$enough = $alarms + 3 if !defined $enough && -e "go";
}
setitimer(ITIMER_REAL, 0);
for my $i (keys %x) {
	wrong("$i has $x{$i}") if exists $x{$i - 1} && $x{$i} != following($x{$i - 1});
	wrong("$x{$i} has $text{$x{$i}}") if $text{$x{$i}} ne text_of($x{$i});
}
wrong("it remembers " . keys(%x) . " and " . keys(%text)) if keys(%x) > $KEPT || keys(%text) != keys(%x);
my $waiting = POSIX::SigSet->new;
POSIX::sigpending($waiting);
wrong("the signal is gone") if !$waiting->ismember(SIGUSR2) || $waiting->ismember(SIGUSR1);
exit 0;
'''

if __name__ == "__main__":
    need("perl")
    test_program("perl", lambda box: ["perl", box.write("program.pl", PROGRAM)], {"out": 7},
                 landmarks=["perl_run"])
