/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a core file on their way out: in order, never back, and as holes where they are zero
 * and the file can have holes.
 */
#ifndef CORE_OUT_H
#define CORE_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct core_out {
	int fd; /* borrowed */
	bool sparse;
	uint64_t at;      /* bytes given so far, holes included */
	uint64_t pending; /* of these, zeros at the end that are not written yet */
};

/** Begins at the position of FD. What a regular file has behind that is cut off, so that a hole is
 *  zero. A pipe, or a file that is only appended to, gets its zeros written. */
void core_out_init(struct core_out *out, int fd);

struct kage_err *core_out_write(struct core_out *out, const void *p, size_t size) _must_check_;

/** SIZE zero bytes. */
struct kage_err *core_out_skip(struct core_out *out, uint64_t size) _must_check_;

/** The same as write, looking page by page for what can be a hole. SIZE is of whole pages. */
struct kage_err *core_out_pages(struct core_out *out, const void *p, size_t size) _must_check_;

/** All zeros up to the next page, counted from where we began. */
struct kage_err *core_out_align(struct core_out *out) _must_check_;

/** What is pending becomes part of the file. */
struct kage_err *core_out_finish(struct core_out *out) _must_check_;

#endif
