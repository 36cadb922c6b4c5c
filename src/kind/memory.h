/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of the memory kind that capture and restore order among others by themselves.
 */
#ifndef KIND_MEMORY_H
#define KIND_MEMORY_H

#include "kind/kind.h"

/** Copies the contents of private mappings into C's pages from T: C's target, frozen, or a twin of it. WHICH chooses
 *  among them; NULL: all. */
struct kage_err *kage_memory_copy(struct kage_capture *c, struct kage_target *t,
				  bool (*which)(const Kage__Mapping *)) _must_check_;

/** Whether M is the process's own and a fork takes it along with its contents (madvise(2), MADV_DONTFORK,
 *  MADV_WIPEONFORK; pages of hugetlbfs would be taken away when their pool is empty). */
bool kage_memory_is_carried(const Kage__Mapping *m);
bool kage_memory_is_not_carried(const Kage__Mapping *m);

/** Whether VMA can have pages that belong to the process alone. */
bool kage_memory_is_private(const struct kage_vma *vma);

/** Notes that there are guards from START to END. */
struct kage_err *kage_memory_note_guard(struct kage_capture *c, uint64_t start, uint64_t end)
	_must_check_;

/** Notes the guard regions inside of C's mappings, as T has them: C's target or a twin of it. */
struct kage_err *kage_memory_guards(struct kage_capture *c, const struct kage_target *t)
	_must_check_;

/** Bytes that kage_memory_copy() would copy now, about: for preparing room beforehand. */
struct kage_err *kage_memory_estimate(struct kage_target *t, const struct kage_maps *maps,
				      uint64_t *ret_bytes) _must_check_;

/** Opens what VMA maps, for reading. */
struct kage_err *kage_memory_open_mapped(struct kage_target *t, const struct kage_vma *vma,
					 int *ret_fd) _must_check_;

/** The mappings that a restored process must have, as a kage_maps for finding holes. */
struct kage_err *kage_memory_layout(const Kage__Memory *m, struct kage_maps *ret_maps) _must_check_;

/** Calls that empty the stub (its map is NOW) but for the batch's site, bring the vDSO to its place
 *  by way of SPARE (a free address) and map everything. */
struct kage_err *kage_memory_build(struct kage_restore *r, const struct kage_maps *now,
				   uint64_t spare, struct kage_batch *b) _must_check_;

/** The mapping of M that holds ADDRESS, or NULL. */
const Kage__Mapping *kage_memory_at(const Kage__Memory *m, uint64_t address);

/** In place: the descriptor of ours (borrowed) that M maps, -1 for none; calls that map the part of M from START to END,
 *  where the process has it as FD; and what comes last, for all of M. */
struct kage_err *kage_memory_mapping_fd(struct kage_restore *r, const Kage__Mapping *m, int *ret_fd)
	_must_check_;
void kage_memory_map_part(struct kage_restore *r, const Kage__Mapping *m, uint64_t start,
			  uint64_t end, int fd, struct kage_batch *b);
void kage_memory_finish_one(struct kage_restore *r, const Kage__Mapping *m, struct kage_batch *b);

/** Calls that map what a life of a twin has not. */
struct kage_err *kage_memory_build_rest(struct kage_restore *r, struct kage_batch *b) _must_check_;

/* Callbacks of the kind that stand in memory_restore.c and memory_print.c. */
struct kage_err *kage_memory_check(struct kage_restore *r) _must_check_;
struct kage_err *kage_memory_prepare(struct kage_restore *r) _must_check_;
struct kage_err *kage_memory_finish(struct kage_restore *r, struct kage_batch *b) _must_check_;
void kage_memory_print(const struct kage_image *image, const Kage__Process *p, FILE *out,
		       bool full);
extern const struct kage_kind kage_kind_memory;

#endif
