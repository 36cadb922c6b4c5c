#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""lua: coroutines that are all in the middle of something, garbage, a file that it reads."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
local COROUTINES, KEPT = 50, 1000

local function following(x) return x * 16807 % 2147483647 end
local function text_of(x) return string.rep(string.char(65 + x % 26), x % 3000) end
local function wrong(...)
	print("wrong:", ...)
	os.exit(9)
end

-- Each makes the next number when its turn comes, deep in a recursion.
local function member(depth)
	if depth > 0 then return member(depth - 1) + 0 end
	local x = coroutine.yield()
	while true do x = coroutine.yield(following(x)) end
end
local members = {}
for i = 0, COROUTINES - 1 do
	members[i] = coroutine.wrap(member)
	members[i](i)
end

-- A file of numbers, read from its beginning to its end again and again.
local data = io.open("data", "w+")
for i = 0, 4999 do data:write(i, "\n") end
data:seek("set")
local at = 0
local function read_on()
	local got = data:read("n")
	if not got then
		if at ~= 5000 then wrong("the data end at", at) end
		data:seek("set")
		at, got = 0, data:read("n")
	end
	if got ~= at then wrong("read", got, "for", at) end
	at = at + 1
end

local out = io.open("out", "a")
out:setvbuf("line")
local x, n, kept = 11, 0, {}
while not io.open("go") do
	n = n + 1
	x = members[n % COROUTINES](x)
	out:write(string.format("%d %d\n", n, x))
	kept[n % KEPT] = { x = x, text = text_of(x) }
	read_on()
end
local before = collectgarbage("count")
collectgarbage()
if collectgarbage("count") >= before then wrong("there was no garbage") end
for i, k in pairs(kept) do
	local next = kept[(i + 1) % KEPT]
	if k.text ~= text_of(k.x) then wrong("text", i) end
	if i ~= n % KEPT and next and next.x ~= following(k.x) then wrong("number", i) end
end
os.exit(0)
'''

if __name__ == "__main__":
    test_program("lua", lambda box: ["lua5.4", box.write("program.lua", PROGRAM)], {"out": 11},
                 landmarks=["main"])
