/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/numbers.h"

#include <stdlib.h>

#include "base/cleanup.h"

struct numbers {
	int32_t pid, pgid, sid;
	int32_t *tids;   /* of threads */
	int32_t *timers; /* of whom each POSIX timer tells */
	int32_t *owners; /* of descriptions */
};

static void destroy(struct numbers *n)
{
	free(n->tids);
	free(n->timers);
	free(n->owners);
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
	if (!n->tids || !n->timers || !n->owners) {
		destroy(n);
		return kage_err_nomem();
	}
	save(r, n);
	p->pid = number_of(r->stub, 0);
	p->threads[0]->tid = p->pid;
	if (n->pgid == n->pid)
		p->pgid = p->pid;
	if (n->sid == n->pid)
		p->sid = p->pid;
	replace(r, n, n->pid, p->pid);
	*ret_before = n;
	return NULL;
}

/* The number of thread I in the life's memory, if there it has one. */
static struct kage_err *patch(struct kage_restore *r, size_t i, int32_t from, int32_t to)
{
	kage_addr at = addr(r->process->threads[i]->clear_child_tid);
	int32_t now = 0;
	struct kage_err *e;

	if (!at.v || from == to)
		return NULL;
	/* Nothing obliges a program to have memory there. */
	e = kage_target_read(r->stub, at, &now, sizeof(now));
	if (e || now != from) {
		err_drop(e);
		return NULL;
	}
	return kage_target_write(r->stub, at, &to, sizeof(to));
}

struct kage_err *numbers_of_threads(struct kage_restore *r, struct numbers *before)
{
	Kage__Process *p = r->process;

	for (size_t i = 0; i < p->n_threads; i++) {
		p->threads[i]->tid = number_of(r->stub, i);
		replace(r, before, before->tids[i], p->threads[i]->tid);
		TRY(patch(r, i, before->tids[i], p->threads[i]->tid));
	}
	return NULL;
}

void numbers_end(struct kage_restore *r, struct numbers *n)
{
	Kage__Process *p = r->process;

	if (!n)
		return;
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
