/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forkx: a copy-on-write duplicate of a target, a *twin*, made from outside by a fork that the target does not
 * notice, and that has not run.
 *
 * The target stands only while its page tables are copied. A twin lies in a read(2) of a pipe or socket whose other end
 * only its holder has: when that is closed, or the holder dies at whatever instant, the twin ends by itself. It is never
 * stopped by a signal. It holds no descriptor of the target but that one, and is in a session of its own.
 *
 * Its parent is init, or the nearest subreaper above the target, which sees it exit (PR_SET_CHILD_SUBREAPER).
 */
#ifndef TWIN_FORKX_H
#define TWIN_FORKX_H

#include "sys/maps.h"
#include "target/batch.h"
#include "target/inside.h"
#include "target/target.h"

struct kage_twin {
	struct kage_target *process; /* for reading its memory and /proc; it is never frozen */
	int hold_fd; /* as long as it is open the twin lives; a socket if it can be woken */
	struct kage_site
		born_in; /* where the batch that made it lies in it; nothing in it is owned */
	pid_t born_of;   /* the thread of the target that made it */
	void *area;      /* held: the memory shared with it, or NULL */
	size_t area_bytes;
};

/** Why T, about which INSIDE is known and whose map is MAPS (with flags), must not be forked; NULL: it may be.
 *  All of these would be felt. */
const char *kage_twin_obstacle(const struct kage_target *t, const struct kage_inside *inside,
			       const struct kage_maps *maps);

/** Whether what T may be charged for covers BYTES more: as long as there is a twin, each page that the target
 *  writes is one more of it. */
bool kage_twin_has_room(const struct kage_target *t, uint64_t bytes);

/** Whether a fork takes the contents of VMA along (madvise(2): MADV_DONTFORK, MADV_WIPEONFORK; pages of hugetlbfs
 *  would be taken away from the twin when the pool is empty). */
bool kage_twin_has(const struct kage_vma *vma);

/** Makes a twin of T, which is frozen; THREAD of it stands, and is put back. WAKEABLE: it can be held later
 *  (kage_twin_hold()). KAGE_UNSUPPORTED, KAGE_PERM or KAGE_LIMIT where it cannot be had. */
struct kage_err *kage_twin_fork(struct kage_target *t, struct kage_thread *thread, bool wakeable,
				struct kage_twin **ret_twin) _must_check_;

/** Fails with KAGE_CHANGED when the twin was ended by somebody else. What was read of it before a success is its. */
struct kage_err *kage_twin_check(const struct kage_twin *twin) _must_check_;

/** Ends and frees it; NULL is fine. */
void kage_twin_end(struct kage_twin *twin);

#endif
