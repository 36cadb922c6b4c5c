/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of a comparison of two images. Each tells its findings one by one; what a finding points
 * to lives until tell returns.
 */
#ifndef LOOK_DIFF_H
#define LOOK_DIFF_H

#include <kage/kage.h>

#include "base/ctx.h"
#include "image/image.h"

struct diff {
	struct kage_ctx *ctx;
	const struct kage_image *a, *b; /* before and after */
	const Kage__Process *pa, *pb;
	struct kage_symbols *sa, *sb;
	bool bytes; /* tell each changed run of bytes */
	kage_diff_fn *fn;
	void *user;
	struct arena words; /* of one finding or a few; look_diff_tell() empties it */
};

/** Hands F to the caller, and releases the words that were made for it. */
void look_diff_tell(struct diff *d, const struct kage_difference *f);

/** Mappings that came, went or changed. */
struct kage_err *look_diff_mappings(struct diff *d) _must_check_;

/** Contents of the mappings that both have. */
struct kage_err *look_diff_memory(struct diff *d) _must_check_;

/** Descriptors, threads, and what the process has once. */
struct kage_err *look_diff_process(struct diff *d) _must_check_;

/** Compares the messages A and B of one type field by field; OBJECT is what they are of. Numbers that
 *  mean something only within their image are translated or left out. */
struct kage_err *look_diff_message(struct diff *d, enum kage_diff_part part, const char *object,
				   const char *prefix, const ProtobufCMessage *a,
				   const ProtobufCMessage *b) _must_check_;

/* --- mappings (diff_mappings.c) -------------------------------------------------------------- */

/** Whether A and B, at addresses that overlap, are the same mapping, grown or protected otherwise
 *  perhaps: then their contents can be compared. */
bool look_diff_same(const struct diff *d, const Kage__Mapping *a, const Kage__Mapping *b);

/** "rw-p" */
void look_diff_protection(const Kage__Mapping *m, char text[5]);

/** What the file or mapping at ADDRESS is called. */
struct kage_err *look_diff_label(struct kage_symbols *symbols, uint64_t address,
				 const char **ret_label) _must_check_;

/** What is to be thought of a mapping that may be executed; NULL where it is as usual. */
const char *look_diff_warning(const Kage__Mapping *m);

#endif
