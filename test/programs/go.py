#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Go: goroutines, channels, garbage, timers, files."""

import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

func numbers(x int64, to chan int64) {
	for {
		x = x * 16807 % 2147483647
		to <- x
	}
}

func work(name string, x int64, done *sync.WaitGroup, stop chan bool) {
	defer done.Done()
	out, e := os.Create(name)
	if e != nil {
		os.Exit(8)
	}
	from := make(chan int64)
	go numbers(x, from)
	junk := map[int64][]byte{}
	for n := 1; ; n++ {
		select {
		case <-stop:
			out.Close()
			return
		case x := <-from:
			fmt.Fprintf(out, "%d %d\n", n, x)
			junk[x%1000] = make([]byte, x%50000)
		}
	}
}

func main() {
	var done sync.WaitGroup
	stop := make(chan bool)
	for i := 0; i < 8; i++ {
		done.Add(1)
		go work(fmt.Sprintf("out.%d", i), int64(i+23), &done, stop)
	}
	ticks := 0
	ticker := time.NewTicker(2 * time.Millisecond)
	for range ticker.C {
		ticks++
		if _, e := os.Stat("go"); e == nil {
			break
		}
	}
	close(stop)
	done.Wait()
	if ticks == 0 {
		os.Exit(7)
	}
}
'''


def prepare(box):
    need("go")
    box.write("main.go", PROGRAM)
    subprocess.run(["go", "build", "-o", box.path("program"), box.path("main.go")], check=True,
                   env=dict(os.environ, GOCACHE=os.environ.get("GOCACHE") or box.path("cache"),
                            GO111MODULE="off", HOME=box.dir), stderr=subprocess.STDOUT,
                   stdout=subprocess.PIPE)


if __name__ == "__main__":
    test_program("go", lambda box: [box.path("program")], {f"out.{i}": i + 23 for i in range(8)}, prepare)
