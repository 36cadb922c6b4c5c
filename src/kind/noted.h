/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and shared objects that a capture has met, by device and inode, so that each gets one number
 * though many mappings and descriptors lead to it.
 */
#ifndef KIND_NOTED_H
#define KIND_NOTED_H

#include "kind/kind.h"

struct kage_noted_entry {
	uint64_t dev, ino;
	uint32_t id; /* of the FileObject, or of the Space */
	bool is_space;
	int fd;        /* a descriptor of ours for what is read after the thaw, -1 for none */
	int looked_fd; /* the same, borrowed from C->looked */
};

struct kage_noted {
	struct kage_noted_entry *entries;
	size_t n, max;
	uint32_t *slots; /* 1 + index of an entry, 0 for none; a power of two of them */
	size_t n_slots;
};

/** NULL when it was not met before. Valid until the next one is added. */
struct kage_noted_entry *kage_noted_find(const struct kage_capture *c, const struct stat *st,
					 bool is_space);

/** Adds one. FD is duplicated unless it is -1. */
struct kage_err *kage_noted_add(struct kage_capture *c, const struct stat *st, bool is_space,
				uint32_t id, int fd) _must_check_;

void kage_noted_free(struct kage_capture *c);

#endif
