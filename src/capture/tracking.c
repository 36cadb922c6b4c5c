/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/tracking.h"

#include <pthread.h>

enum { SPAN_NS = 1000 * 1000 };

struct tracking {
	struct kage_capture *c;
	struct kage_tracker *tracker;
};

static struct kage_err *inject(struct tracking *t)
{
	struct kage_capture *c = t->c;
	struct kage_thread *thread;
	struct kage_err *e =
		kage_target_stop_one(c->target, c->reader, 0, c->stop_all, SPAN_NS, &thread);

	if (!e)
		e = kage_tracker_create(c->target, thread, &t->tracker);
	kage_target_thaw(c->target, false);
	return e;
}

static void *inject_thread(void *arg)
{
	return inject(arg);
}

/* In a thread of its own, whose end lets go of whom it traced (capture.c). */
struct kage_err *tracking_begin(struct kage_capture *c, struct kage_tracker **ret_tracker)
{
	struct tracking t = { .c = c };
	pthread_t thread;
	void *e = NULL;
	int r = pthread_create(&thread, NULL, inject_thread, &t);

	if (r != 0)
		return kage_err_sys(r, "start a thread");
	pthread_join(thread, &e);
	if (!e)
		*ret_tracker = t.tracker;
	return e;
}
