#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""node: timers, a file that is watched, garbage, its pool of threads."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from sequence import test_program

PROGRAM = r'''
const fs = require("fs"), crypto = require("crypto");
const out = fs.openSync("out", "w");
let x = 17, n = 0, junk = [], hashed = 0;
function step() {
	for (let i = 0; i < 5; i++) {
		x = x * 16807 % 2147483647;
		n++;
		fs.writeSync(out, `${n} ${x}\n`);
		junk.push({ n, text: "x".repeat(x % 2000) });
	}
	if (junk.length > 3000) junk = junk.slice(1500);
}
setInterval(step, 1);
function hash() {                                   // in a thread of the pool, for ever
	crypto.pbkdf2("secret", "salt", 2000, 32, "sha256", (e, key) => {
		if (e || key.toString("hex") !== WANT) process.exit(8);
		hashed++;
		setImmediate(hash);
	});
}
const WANT = crypto.pbkdf2Sync("secret", "salt", 2000, 32, "sha256").toString("hex");
hash();
fs.watch(".", (event, name) => {                    // inotify
	if (name === "go" && fs.existsSync("go")) process.exit(hashed > 0 ? 0 : 7);
});
'''

if __name__ == "__main__":
    test_program("node", lambda box: ["node", box.write("program.js", PROGRAM)], {"out": 17})
