/* SPDX-License-Identifier: Apache-2.0 */
#include "target/call.h"

#include <pthread.h>

#include "base/cleanup.h"
#include "target/lookout.h"

enum { SPAN_NS = 1000 * 1000, TOGETHER_NS = 2 * 1000 * 1000 };

struct work {
	struct kage_target *t;
	struct target_call *c;
};

static struct kage_err *perform(struct kage_target *t, struct target_call *c)
{
	struct kage_patience patience = { .together_ns = TOGETHER_NS,
					  .timeout_ns = c->timeout_ns,
					  .execs = c->execs };
	struct kage_thread *thread;
	struct kage_err *e;

	TRY(kage_target_stop_one(t, c->reader, c->tid, false, SPAN_NS, &thread));
	c->in_tid = thread->tid;
	if (c->instead)
		return c->instead(c->user, t, thread);
	c->batch->patience = &patience;
	e = kage_batch_run(t, thread, c->batch);
	c->batch->patience = NULL;
	c->gave_up = patience.gave_up;
	c->replaced = patience.replaced;
	return e;
}

/* In a thread of its own, whose end lets go of whom it traced without stopping (target/ambush.c). */
static void *perform_in_thread(void *arg)
{
	struct work *w = arg;
	struct kage_err *e = perform(w->t, w->c);

	w->c->pause_ns = kage_target_pause_ns(w->t);
	kage_target_thaw(w->t, false);
	return e;
}

struct kage_err *kage_target_call(struct kage_target *t, struct target_call *c)
{
	struct work w = { t, c };
	struct lookout lookout = { 0 };
	void *e = NULL;
	pthread_t thread;
	int r;

	TRY(kage_lookout_post(t, &lookout));
	r = pthread_create(&thread, NULL, perform_in_thread, &w);
	if (r == 0)
		pthread_join(thread, &e);
	kage_lookout_end(&lookout);
	return r == 0 ? e : kage_err_sys(r, "start a thread");
}
