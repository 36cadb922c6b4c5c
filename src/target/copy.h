/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying much memory out of a target that stands still: by all processors, since it does not use them.
 */
#ifndef TARGET_COPY_H
#define TARGET_COPY_H

#include "target/target.h"

struct kage_copy {
	struct iovec *here, *there;
	size_t n, max;
	uint64_t bytes;
};

/** Has SIZE bytes at FROM be copied to TO, later. */
struct kage_err *kage_copy_add(struct kage_copy *copy, void *to, kage_addr from, size_t size)
	_must_check_;

/** Copies all that was added. */
struct kage_err *kage_copy_run(struct kage_copy *copy, struct kage_target *t) _must_check_;

/** The same while the target runs, in this thread alone: what was unmapped meanwhile becomes zeros. */
struct kage_err *kage_copy_run_loose(struct kage_copy *copy, struct kage_target *t) _must_check_;

void kage_copy_deinit(struct kage_copy *copy);

#endif
