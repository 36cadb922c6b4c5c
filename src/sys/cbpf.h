/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a seccomp filter would say to a system call, without making the call.
 */
#ifndef SYS_CBPF_H
#define SYS_CBPF_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>

/** Runs the N instructions of a seccomp filter on DATA. *RET_ACTION is what the filter returns
 *  (SECCOMP_RET_…). False when they come to something that is not valid, or to a division by zero. The
 *  program may come from anyone: it cannot loop, as jumps only lead forward, nor read outside of
 *  DATA. */
bool kage_cbpf_run(const struct sock_filter *insns, size_t n, const struct seccomp_data *data,
		   unsigned *ret_action);

#endif
