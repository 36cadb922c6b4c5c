#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""lua, with coroutines and garbage."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
local out = io.open("out", "w")
out:setvbuf("line")
local function sequence()
	local x = 11
	while true do
		x = x * 16807 % 2147483647
		coroutine.yield(x)
	end
end
local next_x, n, junk = coroutine.wrap(sequence), 0, {}
while true do
	local go = io.open("go")
	if go then break end
	n = n + 1
	local x = next_x()
	out:write(string.format("%d %d\n", n, x))
	junk[x % 1000] = string.rep("x", x % 3000)
end
os.exit(0)
'''

if __name__ == "__main__":
    test_program("lua", lambda box: ["lua5.4", box.write("program.lua", PROGRAM)], {"out": 11})
