#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Go: goroutines and channels, one that must be interrupted, garbage, timers, files, signals."""

import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from kagetest import need
from sequence import test_program

PROGRAM = r'''
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const kept = 1000

var (
	over               = make(chan bool)
	done               sync.WaitGroup
	sleeps, got, turns int64
)

func following(x int64) int64 { return x * 16807 % 2147483647 }
func textOf(x int64) []byte   { return bytes.Repeat([]byte{byte(x)}, int(x%3000)) }
func wrong(what string, a ...interface{}) {
	fmt.Printf("wrong: "+what+"\n", a...)
	os.Exit(9)
}

// Steps go through three goroutines.
func numbers(x int64, to chan int64) {
	for {
		x = following(x)
		to <- x
	}
}

func pass(from, to chan int64) {
	for x := range from {
		to <- x
	}
}

type thing struct {
	x    int64
	text []byte
}

func work(name string, x int64) {
	defer done.Done()
	out, e := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if e != nil {
		wrong("%v", e)
	}
	first, second := make(chan int64), make(chan int64, 5)
	go numbers(x, first)
	go pass(first, second)
	things := map[int]thing{}
	for n := 1; ; n++ {
		select {
		case <-over:
			for i, t := range things {
				next, ok := things[(i+1)%kept]
				if !bytes.Equal(t.text, textOf(t.x)) || (ok && i != (n-1)%kept && next.x != following(t.x)) {
					wrong("%s: it remembers %d, then %d", name, t.x, next.x)
				}
			}
			out.Close()
			return
		case x := <-second:
			fmt.Fprintf(out, "%d %d\n", n, x)
			things[n%kept] = thing{x, textOf(x)}
		}
	}
}

// Never calls anything: only a signal (SIGURG) brings it to a stop, which each collection needs.
func turn() {
	for x := int64(1); ; x = x * 16807 % 2147483647 {
		if x == 1 {
			turns++
		}
	}
}

// Reads a file where its descriptor stands.
func read() {
	const n = 5000
	f, e := os.OpenFile("data", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if e != nil || os.Remove("data") != nil {
		wrong("data: %v", e)
	}
	for i := uint32(0); i < n; i++ {
		binary.Write(f, binary.LittleEndian, i)
	}
	var word [4]byte
	for at := uint32(0); ; at = (at + 1) % n {
		if at == 0 {
			f.Seek(0, 0)
		}
		if _, e := f.Read(word[:]); e != nil || binary.LittleEndian.Uint32(word[:]) != at {
			wrong("read %d for %d: %v", binary.LittleEndian.Uint32(word[:]), at, e)
		}
		runtime.Gosched()
	}
}

func sleep() {
	for {
		time.Sleep(3 * time.Millisecond)
		atomic.AddInt64(&sleeps, 1)
	}
}

func listen() {
	c := make(chan os.Signal, 10)
	signal.Notify(c, syscall.SIGUSR1)
	for range c {
		atomic.AddInt64(&got, 1)
	}
}

func collections() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.NumGC)
}

// What must go on before the end, once "go" is there.
func await(ticker *time.Ticker) {
	s, g, c := atomic.LoadInt64(&sleeps), atomic.LoadInt64(&got), collections()
	after := time.After(10 * time.Millisecond)
	for i := 0; i < 3; i++ {
		<-ticker.C
	}
	for atomic.LoadInt64(&sleeps) < s+3 || atomic.LoadInt64(&got) < g+3 || collections() < c+3 {
		syscall.Kill(os.Getpid(), syscall.SIGUSR1)
		runtime.GC()
	}
	<-after
}

func main() {
	for i := 0; i < 6; i++ {
		done.Add(1)
		go work(fmt.Sprintf("out.%d", i), int64(i+23))
	}
	go turn()
	go read()
	go sleep()
	go listen()
	ticker := time.NewTicker(2 * time.Millisecond)
	for range ticker.C {
		syscall.Kill(os.Getpid(), syscall.SIGUSR1)
		if _, e := os.Stat("go"); e == nil {
			break
		}
	}
	await(ticker)
	close(over)
	done.Wait()
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
    test_program("go", lambda box: [box.path("program")], {f"out.{i}": i + 23 for i in range(6)}, prepare,
                 landmarks=["runtime."])
