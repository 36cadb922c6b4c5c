/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/numbers.h"

#include <linux/futex.h>
#include <stdlib.h>

#include "base/cleanup.h"

struct numbers {
	int32_t pid, pgid, sid;
	int32_t *tids;   /* of threads */
	int32_t *timers; /* of whom each POSIX timer tells */
	int32_t *owners; /* of descriptions */
	int32_t **
		senders; /* in the image: who sent a signal that waits, where it was the program itself */
	size_t n_senders;
};

static void destroy(struct numbers *n)
{
	free(n->tids);
	free(n->timers);
	free(n->owners);
	free(n->senders);
	free(n);
}

static void save(const struct kage_restore *r, struct numbers *n)
{
	const Kage__Process *p = r->process;

	n->pid = p->pid;
	n->pgid = p->pgid;
	n->sid = p->sid;
	for (size_t i = 0; i < p->n_threads; i++)
		n->tids[i] = p->threads[i]->tid;
	for (size_t i = 0; i < p->n_posix_timers; i++)
		n->timers[i] = p->posix_timers[i]->thread;
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++)
		n->owners[i] = r->image->msg->descriptions[i]->owner;
}

static size_t n_pending(const Kage__Process *p)
{
	size_t n = p->n_pending;

	for (size_t t = 0; t < p->n_threads; t++)
		n += p->threads[t]->n_pending;
	return n;
}

static void find_senders(Kage__Process *p, struct numbers *b)
{
	for (size_t t = 0; t <= p->n_threads; t++) {
		size_t n = t < p->n_threads ? p->threads[t]->n_pending : p->n_pending;
		Kage__PendingSignal **v = t < p->n_threads ? p->threads[t]->pending : p->pending;

		for (size_t i = 0; i < n; i++)
			if (v[i]->fields_case == KAGE__PENDING_SIGNAL__FIELDS_SENT &&
			    v[i]->sent->pid == b->pid)
				b->senders[b->n_senders++] = &v[i]->sent->pid;
	}
}

static void set_senders(const struct numbers *n, int32_t pid)
{
	for (size_t i = 0; i < n->n_senders; i++)
		*n->senders[i] = pid;
}

/* All that is FROM becomes TO. */
static void replace(struct kage_restore *r, const struct numbers *before, int32_t from, int32_t to)
{
	Kage__Process *p = r->process;

	for (size_t i = 0; i < p->n_posix_timers; i++)
		if (before->timers[i] == from)
			p->posix_timers[i]->thread = to;
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++)
		if (before->owners[i] == from)
			r->image->msg->descriptions[i]->owner = to;
}

static pid_t number_of(const struct kage_target *stub, size_t i)
{
	const struct kage_thread *thread = stub->threads[i];

	return thread->inner_tid ? thread->inner_tid : thread->tid;
}

struct kage_err *numbers_begin(struct kage_restore *r, struct numbers **ret_before)
{
	struct numbers *n = calloc(1, sizeof(*n));
	Kage__Process *p = r->process;

	if (!n)
		return kage_err_nomem();
	n->tids = calloc(p->n_threads + 1, sizeof(*n->tids));
	n->timers = calloc(p->n_posix_timers + 1, sizeof(*n->timers));
	n->owners = calloc(r->image->msg->n_descriptions + 1, sizeof(*n->owners));
	n->senders = calloc(n_pending(p) + 1, sizeof(*n->senders));
	if (!n->tids || !n->timers || !n->owners || !n->senders) {
		destroy(n);
		return kage_err_nomem();
	}
	save(r, n);
	find_senders(p, n);
	p->pid = number_of(r->stub, 0);
	p->threads[0]->tid = p->pid;
	if (n->pgid == n->pid)
		p->pgid = p->pid;
	if (n->sid == n->pid)
		p->sid = p->pid;
	replace(r, n, n->pid, p->pid);
	set_senders(n, p->pid);
	*ret_before = n;
	return NULL;
}

/* --- in memory -------------------------------------------------------------------------------- */

/* Nothing obliges a program to have memory where it says. */
static bool can_read(struct kage_restore *r, uint64_t at, void *to, size_t size)
{
	struct kage_err *e = at ? kage_target_read(r->stub, addr(at), to, size) : NULL;
	bool ok = at && !e;

	err_drop(e);
	return ok;
}

/* Of the word at AT the bits of MASK, if they are FROM. */
static struct kage_err *patch(struct kage_restore *r, uint64_t at, uint32_t mask, int32_t from,
			      int32_t to)
{
	uint32_t now;

	if (!can_read(r, at, &now, sizeof(now)) || (now & mask) != (uint32_t)from)
		return NULL;
	now = (now & ~mask) | (uint32_t)to;
	return kage_target_write(r->stub, addr(at), &now, sizeof(now));
}

/* A robust mutex that a thread holds has its number, by which the kernel knows that it was the thread's when that ends;
 * and once more where the GNU C library looks for the owner (struct __pthread_mutex_s). */
static struct kage_err *patch_mutex(struct kage_restore *r, uint64_t futex, int32_t from,
				    int32_t to)
{
	enum { OWNER_OFFSET = 8 };

	TRY(patch(r, futex, FUTEX_TID_MASK, from, to));
	return patch(r, futex + OWNER_OFFSET, ~0u, from, to);
}

/* set_robust_list(2): a ring of entries, each somewhere in its mutex; the lowest bit of a pointer says what kind that is. */
static struct kage_err *patch_robust(struct kage_restore *r, uint64_t list, int32_t from,
				     int32_t to)
{
	struct {
		uint64_t next;
		int64_t futex_offset;
		uint64_t pending;
	} head;
	uint64_t entry;

	if (!can_read(r, list, &head, sizeof(head)))
		return NULL;
	if (head.pending & ~1ull)
		TRY(patch_mutex(r, (head.pending & ~1ull) + (uint64_t)head.futex_offset, from, to));
	entry = head.next & ~1ull;
	for (int i = 0; i < ROBUST_LIST_LIMIT && entry != list; i++) {
		TRY(patch_mutex(r, entry + (uint64_t)head.futex_offset, from, to));
		if (!can_read(r, entry, &entry, sizeof(entry)))
			break;
		entry &= ~1ull;
	}
	return NULL;
}

static struct kage_err *patch_thread(struct kage_restore *r, const Kage__Thread *m, int32_t from,
				     int32_t to)
{
	if (from == to)
		return NULL;
	TRY(patch(r, m->clear_child_tid, ~0u, from, to));
	return patch_robust(r, m->robust_list, from, to);
}

/* --- steps ------------------------------------------------------------------------------------ */

struct kage_err *numbers_of_threads(struct kage_restore *r, struct numbers *before)
{
	Kage__Process *p = r->process;

	for (size_t i = 0; i < p->n_threads; i++) {
		p->threads[i]->tid = number_of(r->stub, i);
		replace(r, before, before->tids[i], p->threads[i]->tid);
		TRY(patch_thread(r, p->threads[i], before->tids[i], p->threads[i]->tid));
	}
	return NULL;
}

void numbers_end(struct kage_restore *r, struct numbers *n)
{
	Kage__Process *p = r->process;

	if (!n)
		return;
	set_senders(n, n->pid);
	p->pid = n->pid;
	p->pgid = n->pgid;
	p->sid = n->sid;
	for (size_t i = 0; i < p->n_threads; i++)
		p->threads[i]->tid = n->tids[i];
	for (size_t i = 0; i < p->n_posix_timers; i++)
		p->posix_timers[i]->thread = n->timers[i];
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++)
		r->image->msg->descriptions[i]->owner = n->owners[i];
	destroy(n);
}
