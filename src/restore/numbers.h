/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A life with numbers of its own: what the image says of the program's PID and the numbers of its threads is
 * replaced for as long as the life is made. In memory they stand where each thread has asked the kernel to clear
 * its number (set_tid_address(2)): there the GNU C library has it, and a child of fork(2) finds its own; and in robust
 * mutexes that it holds. Where else a program has noted it, it is the old one.
 */
#ifndef RESTORE_NUMBERS_H
#define RESTORE_NUMBERS_H

#include "kind/kind.h"

struct numbers; /* as they were */

/** From here on R's process has the number that its stub has; the image is to be put back by numbers_end(). */
struct kage_err *numbers_begin(struct kage_restore *r, struct numbers **ret_before) _must_check_;

/** All threads are made: they have the numbers of the stub's, also in memory. */
struct kage_err *numbers_of_threads(struct kage_restore *r, struct numbers *before) _must_check_;

/** Puts the image back; NULL is fine. */
void numbers_end(struct kage_restore *r, struct numbers *before);

#endif
