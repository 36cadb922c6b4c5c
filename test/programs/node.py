#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""node: timers, files that are watched, garbage, its pool of threads, another thread with a heap of its own."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
const fs = require("fs"), crypto = require("crypto");
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { PerformanceObserver } = require("perf_hooks");

const KEPT = 3000;
const following = x => x * 16807 % 2147483647;
const textOf = x => String.fromCharCode(65 + x % 26).repeat(x % 2000);
function wrong(...what) {
	console.log("wrong:", ...what);
	process.exit(9);
}

function serve() {                                  // the other thread makes numbers
	let x = 99;
	const made = [];
	parentPort.on("message", n => {
		for (let i = 0; i < n; i++) made.push(x = following(x));
		parentPort.postMessage(made.splice(0));
	});
}

// What must go on, and how often it has been seen to.
const seen = { interval: 0, timeout: 0, hashed: 0, asked: 0, collected: 0, watched: 0, polled: 0 };

let x = 17, n = 0;
const kept = [];
function step(out) {
	for (let i = 0; i < 5; i++) {
		x = following(x);
		n++;
		fs.writeSync(out, `${n} ${x}\n`);
		kept.push({ x, text: textOf(x) });
	}
	if (kept.length > KEPT) kept.splice(0, KEPT / 2);
	seen.interval++;
}

function timeouts() {
	seen.timeout++;
	setTimeout(timeouts, 3);
}

const digest = () => crypto.pbkdf2Sync("secret", "salt", 2000, 32, "sha256").toString("hex");
function hash(want) {                               // in a thread of the pool, for ever
	crypto.pbkdf2("secret", "salt", 2000, 32, "sha256", (e, key) => {
		if (e || key.toString("hex") !== want) wrong("hash", e, key);
		seen.hashed++;
		setImmediate(hash, want);
	});
}

function ask(worker) {
	let expected = 99;
	worker.on("message", numbers => {
		for (const got of numbers)
			if (got !== (expected = following(expected))) wrong("the other thread's", got);
		seen.asked++;
		worker.postMessage(10);
	});
	worker.postMessage(10);
}

let target;                                         // of seen, once "go" is there
function poke() {                                   // changes what is watched
	fs.writeFileSync("watched", `${n}`);
	if (Object.keys(target).every(k => seen[k] >= target[k])) end();
	else setTimeout(poke, 5);
}

function watch() {
	fs.writeFileSync("watched", "");
	fs.watch("watched", () => seen.watched++);          // inotify of a file, and of a directory
	fs.watchFile("watched", { interval: 20 }, () => seen.polled++);
	fs.watch(".", (event, name) => {
		if (name !== "go" || target || !fs.existsSync("go")) return;
		target = Object.fromEntries(Object.keys(seen).map(k => [k, seen[k] + 2]));
		poke();
	});
	new PerformanceObserver(list => seen.collected += list.getEntries().length)
		.observe({ entryTypes: ["gc"] });
}

function end() {
	kept.forEach((k, i) => {
		if (k.text !== textOf(k.x)) wrong("text of", k.x);
		if (i && k.x !== following(kept[i - 1].x)) wrong("number", i);
	});
	process.exit(0);
}

if (isMainThread) {
	setInterval(step, 1, fs.openSync("out", "a"));
	timeouts();
	hash(digest());
	ask(new Worker(__filename));
	watch();
} else {
	serve();
}
'''

if __name__ == "__main__":
    need("node")
    test_program("node", lambda box: ["node", box.write("program.js", PROGRAM)], {"out": 17},
                 landmarks=["uv_"])
