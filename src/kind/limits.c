/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resource limits. Read and set from outside by prlimit(2).
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "kind/kind.h"

extern const struct kage_kind kage_kind_limits;

static struct kage_err *capture(struct kage_capture *c)
{
	for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit lim;
		Kage__Limit *m;

		if (prlimit(c->target->pid, i, NULL, &lim) < 0)
			return kage_err_sys(errno, "read limits of process %d", c->target->pid);
		m = msg_append(&c->image->arena, c->process, limits, Kage__Limit,
			       kage__limit__init);
		if (!m)
			return kage_err_nomem();
		m->resource = i;
		m->soft = lim.rlim_cur;
		m->hard = lim.rlim_max;
	}
	return NULL;
}

/* Raising a hard limit needs a right that even root may lack; the program goes on with what there
 * is, which is told beforehand. */
static struct kage_err *check(struct kage_restore *r)
{
	for (size_t i = 0; i < r->process->n_limits; i++) {
		const Kage__Limit *m = r->process->limits[i];
		struct rlimit lim;
		char object[32];

		if (prlimit(0, m->resource, NULL, &lim) < 0 || m->hard <= lim.rlim_max)
			continue;
		snprintf(object, sizeof(object), "resource limit %u", m->resource);
		if (prlimit(0, m->resource, &(struct rlimit){ lim.rlim_cur, m->hard }, NULL) == 0)
			prlimit(0, m->resource, &lim, NULL);
		else
			kage_obstacle(r->obstacles, false, "raise your own limit first (ulimit -H)",
				      object, "it was %" PRIu64 ", yours is %" PRIu64, m->hard,
				      (uint64_t)lim.rlim_max);
	}
	return NULL;
}

static struct kage_err *finish(struct kage_restore *r, struct kage_batch *b)
{
	for (size_t i = 0; i < r->process->n_limits; i++) {
		const Kage__Limit *m = r->process->limits[i];
		struct rlimit mine, lim = { m->soft, m->hard };

		if (prlimit(0, m->resource, NULL, &mine) == 0 && mine.rlim_cur == lim.rlim_cur &&
		    mine.rlim_max == lim.rlim_max)
			continue;
		BATCH_TRY(b, "set a limit", SYS_prlimit64, V(0), V(m->resource),
			  DATA(kage_batch_data(b, &lim, sizeof(lim))), V(0));
	}
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	(void)image;
	for (size_t i = 0; full && i < p->n_limits; i++)
		if (p->limits[i]->soft != RLIM_INFINITY)
			fprintf(out, "  limit %2u  soft %" PRIu64 "\n", p->limits[i]->resource,
				p->limits[i]->soft);
}

const struct kage_kind kage_kind_limits = {
	.name = "limits",
	.capture = capture,
	.check = check,
	.finish = finish,
	.print = print,
};
