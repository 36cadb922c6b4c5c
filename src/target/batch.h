/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batch: a list of system calls that a target is made to run. The one way into a target.
 *
 *	struct kage_batch b;
 *	kage_batch_init(&b);
 *	size_t path = kage_batch_data(&b, "/tmp/x", 7);
 *	size_t fd = BATCH(&b, "open /tmp/x", SYS_openat, V(AT_FDCWD), DATA(path), V(O_RDONLY));
 *	BATCH(&b, "close it", SYS_close, RESULT(fd));
 *	e = kage_batch_run(target, thread, &b);
 *
 * Adding never fails by itself: what goes wrong is remembered and told by the run. The calls run at
 * native speed in one go; the first that fails ends the batch, unless it was added with go_on. One
 * stop, any number of calls.
 *
 * In a live target the runner lies in the unused tail of the vDSO's last page and works in an area
 * mapped for it; the thread goes back by itself should we die at any instant (arch/…/runner_code.S).
 * In a stub of ours (restore) both lie in memory that it shares with us.
 */
#ifndef TARGET_BATCH_H
#define TARGET_BATCH_H

#include <sys/syscall.h>

#include "target/target.h"

struct kage_arg {
	enum { ARG_VALUE, ARG_DATA, ARG_RESULT, ARG_LOAD } kind;
	uint64_t value;
};

#define V(x)      ((struct kage_arg){ ARG_VALUE, (uint64_t)(x) })
#define P(addr)   ((struct kage_arg){ ARG_VALUE, (addr).v })
#define DATA(off) ((struct kage_arg){ ARG_DATA, (off) })
#define RESULT(i) ((struct kage_arg){ ARG_RESULT, (i) })
#define LOAD(off) \
	((struct kage_arg){ ARG_LOAD, (off) }) /* the 8 bytes there when the call is made */

/** Is called in the middle of a batch with the RESULT of the call before. The thread stands meanwhile, and
 *  the calls behind are made whatever becomes of us or of this. */
typedef struct kage_err *kage_batch_meet_fn(void *user, struct kage_target *t, int64_t result);

/* How long calls may take that block. Without it they are taken to be over soon, and all threads stand meanwhile. */
struct kage_patience {
	uint64_t together_ns; /* so long; then the others go on, until the calls are over */
	uint64_t
		timeout_ns; /* then, or when the context is interrupted, they are given up; 0: never */
	bool execs;         /* one may make it another program; in the first thread only */
	/* Results: */
	bool apart;    /* the others went on */
	bool gave_up;  /* then the call has failed with EINTR, unless it was over just then */
	bool replaced; /* it is another program now, and there are no results */
};

struct kage_batch {
	struct arena arena;
	struct kage_call *calls;
	const char **labels;
	uint8_t (*kinds)[6]; /* of each argument */
	size_t n;
	uint8_t *data; /* goes in with the batch and comes back with it */
	size_t data_size;
	struct batch_pointer {
		size_t at, to;
	} * pointers;
	size_t n_pointers;
	struct batch_branch {
		size_t call, first;
	} * branches; /* the calls from `first` on are for the process that `call` makes */
	size_t n_branches;
	bool nomem;
	size_t n_done;            /* after a run: calls that were made */
	size_t meet_at;           /* before this call … */
	kage_batch_meet_fn *meet; /* … this is called, unless NULL, with the call before it made */
	void *meet_user;
	struct kage_patience *patience; /* borrowed; NULL: none is needed */
};

void kage_batch_init(struct kage_batch *b);
void kage_batch_deinit(struct kage_batch *b);

/** Empties B for other calls. */
void kage_batch_reset(struct kage_batch *b);

/** Appends a call; LABEL (borrowed until the run) says in an error what it was for. Returns its index,
 *  for RESULT() and kage_batch_result(). */
size_t kage_batch_add(struct kage_batch *b, const char *label, long number,
		      const struct kage_arg args[6], bool go_on);

#define BATCH(b, label, number, ...) \
	kage_batch_add((b), (label), (number), (const struct kage_arg[6]){ __VA_ARGS__ }, false)
#define BATCH_TRY(b, label, number, ...) \
	kage_batch_add((b), (label), (number), (const struct kage_arg[6]){ __VA_ARGS__ }, true)

/** What is appended from here on is for the new process that CALL makes (clone(2)): it performs these calls and
 *  no others, and the last of them must end it. They are no part of the batch's success, and their results are
 *  of use only where the process shares the memory. CALL is one of an earlier part. */
void kage_batch_branch(struct kage_batch *b, size_t call);

/** In the middle of a batch (kage_batch_meet_fn): reads SIZE bytes at OFFSET of its data. */
struct kage_err *kage_batch_peek(struct kage_target *t, const struct kage_batch *b, size_t offset,
				 void *to, size_t size) _must_check_;

/** Puts SIZE bytes into the batch's data and returns their offset, for DATA(); BYTES NULL gives room
 *  for results. Aligned to 16 bytes. */
size_t kage_batch_data(struct kage_batch *b, const void *bytes, size_t size);
size_t kage_batch_string(struct kage_batch *b, const char *s);

/** Makes the 8 bytes at offset AT of the data hold the address of the data at offset TO, for structures
 *  that the kernel follows. */
void kage_batch_point(struct kage_batch *b, size_t at, size_t to);

/** Runs B in THREAD of the frozen target T. Fails with the label and errno of the first call that
 *  failed and was not to go on. */
struct kage_err *kage_batch_run(struct kage_target *t, struct kage_thread *thread,
				struct kage_batch *b) _must_check_;

/** What call I returned: a value, or -errno. */
int64_t kage_batch_result(const struct kage_batch *b, size_t i);

/** The data at OFFSET as the calls left it. */
const void *kage_batch_bytes(const struct kage_batch *b, size_t offset);

/* --- where batches run ----------------------------------------------------------------------- */

struct kage_site {
	uint64_t runner;     /* address of the code in the target */
	uint64_t vdso_start; /* live: of the vDSO that it lies in */
	uint64_t area;       /* address of the area that the runner works in */
	size_t area_bytes;
	void *area_here;  /* the same area, when it is shared with us; else NULL */
	int event_signal; /* tells us that a batch has ended; suppressed, and ignored by default. 0:
			   * none can, the batch is stepped through */
	bool live;        /* in the vDSO of a target that is not ours */
	uint8_t *code;    /* live: the runner as it was laid down */
	size_t code_size;
	bool page_dropped;          /* live: the vDSO's page is the kernel's own again */
	struct kage_thread *thread; /* live: whose registers the laid-down runner restores */
};

/** Notes where in T a runner would be executing, for kage_target_read_threads(). */
struct kage_err *kage_site_find_zone(struct kage_target *t) _must_check_;

enum { KAGE_SLOT_BYTES = 16 };

/** The address of slot I in T: bytes behind the vDSO's contents that no runner covers, and that stay
 *  as they are as long as the process lives. 0: there are not that many, or the zone was not found
 *  yet. */
uint64_t kage_site_slot(const struct kage_target *t, size_t i);

/** Takes the area away and puts the vDSO's bytes back. Called by thaw. */
void kage_site_leave(struct kage_target *t);
void kage_site_destroy(struct kage_site *site);

/** Makes a short-lived process that shares T's memory, which can drop our private copy of the vDSO's last
 *  page (target/janitor.c). THREAD stands, and is left at the end of a system call in the runner. */
struct kage_err *kage_janitor_make(struct kage_target *t, struct kage_thread *thread,
				   struct kage_thread **ret_janitor) _must_check_;

/** Lets it do so, and ends and frees it. No thread of T may be in the runner any more. */
struct kage_err *kage_janitor_drop_page(struct kage_target *t, struct kage_thread *janitor)
	_must_check_;

/** Makes sure that T has a site with room for BYTES, for THREAD. */
struct kage_err *kage_site_enter(struct kage_target *t, struct kage_thread *thread, size_t bytes)
	_must_check_;

#endif
