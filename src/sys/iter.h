/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BPF iterators: programs of ours (sys/bpf/) that visit what the kernel knows of one process and write it out.
 *
 * Pinned programs. Loading takes milliseconds, mostly the kernel's verifier. So that the next open
 * takes microseconds, root keeps the loaded program at KAGE_ITER_PINS/<hash of the program>. A pin
 * is used only when that directory lies on a BPF file system, belongs to root and is closed to all
 * others (0700); it is made so when it is missing. Where no BPF file system is mounted at its usual place,
 * one is mounted at KAGE_ITER_OWN_PINS. Otherwise the program is loaded each time. A pin
 * lives until the machine restarts or the file is removed.
 */
#ifndef SYS_ITER_H
#define SYS_ITER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define KAGE_ITER_PINS     "/sys/fs/bpf/kage"
#define KAGE_ITER_OWN_PINS "/run/kage/bpf"

struct kage_iter_program {
	const char *name; /* as the kernel has it */
	const char *hash; /* of its code */
	/* Loads it. KAGE_PERM without the rights, KAGE_UNSUPPORTED where the kernel does not take it. */
	struct kage_err *(*load)(int *ret_prog);
};

/** Gives P as a descriptor, which the caller closes, from its pin or newly loaded. PINS is the directory of pins,
 *  normally KAGE_ITER_PINS; NULL: neither look for a pin nor make one. */
struct kage_err *kage_iter_open(const char *pins, const struct kage_iter_program *p, int *ret_prog,
				bool *ret_was_pinned) _must_check_;

/** What PROG writes when it visits each thread of process TGID, or thread TID alone; the caller frees it. KAGE_UNSUPPORTED where
 *  iterators cannot be told whom to visit (before Linux 6.1). */
struct kage_err *kage_iter_read_process(int prog, pid_t tgid, char **ret_buf, size_t *ret_size)
	_must_check_;
struct kage_err *kage_iter_read_thread(int prog, pid_t tid, char **ret_buf, size_t *ret_size)
	_must_check_;

/** The same for an iterator that visits what a thread has, not threads. One of mappings begins again with what filled its last
 *  buffer where that was full (Linux 6.18), without end: it ends when it has written ENOUGH bytes. */
struct kage_err *kage_iter_read_enough(int prog, pid_t tid, size_t enough, char **ret_buf,
				       size_t *ret_size) _must_check_;

#endif
