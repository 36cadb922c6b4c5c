/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges of a process in which the kernel's soft-dirty bits do not tell all that was written. BPF programs note them
 * (bpf/blind.bpf.c) as long as this is open:
 *
 *	moved	  mremap(2) moves whole page tables, and the bits with them (move_normal_pmd() in mm/mremap.c); other
 *		  pages stand there then, or none
 *	protected in a mapping that is soft-dirty itself, as new and grown ones are, mprotect(2) lets a page be written
 *		  whose own bit is not set (can_change_pte_writable() in mm/mprotect.c). That of the mapping goes when it
 *		  becomes one with its neighbour (mprotect_fixup() gives both the flags of one)
 *	written	  from outside (process_vm_writev(2), /proc/PID/mem, ptrace(2)), which does not stop when the process does:
 *		  also between the reading of bits and their clearing
 *
 * Two logs take turns: what is told is all since the turn before the last one.
 */
#ifndef SYS_BLIND_H
#define SYS_BLIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct kage_blind;

struct kage_range {
	uint64_t start, end;
};

/** Nothing is noted yet. KAGE_PERM without the rights, KAGE_UNSUPPORTED where the kernel cannot. */
struct kage_err *kage_blind_open(struct kage_blind **ret_blind) _must_check_;

/** May take some ten milliseconds; NULL is fine. */
void kage_blind_close(struct kage_blind *b);

/** From here on ranges of process PID are noted. *RET_NEW: its memory is not that which it had at the last call
 *  (execve(2)), there was no such call, or whose memory it is cannot be told, since its first thread has ended. */
struct kage_err *kage_blind_watch(struct kage_blind *b, pid_t pid, bool *ret_new) _must_check_;

/** How often the bits of that process were cleared, by whomsoever. */
uint64_t kage_blind_cleared(const struct kage_blind *b);

/** The other log's turn: it is emptied. */
void kage_blind_turn(struct kage_blind *b);

/** What is in both logs, ascending, without overlap; the caller frees it. *RET_ALL: some ranges are not in it. */
struct kage_err *kage_blind_read(struct kage_blind *b, struct kage_range **ret_ranges,
				 size_t *ret_n, bool *ret_all) _must_check_;

/** Sorts N ranges and joins those that overlap or meet, drops empty ones; how many are left. */
size_t kage_ranges_join(struct kage_range *ranges, size_t n);

/** The first of N such ranges that ends behind ADDRESS; N if none does. */
size_t kage_ranges_find(const struct kage_range *ranges, size_t n, uint64_t address);

#endif
