/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resource limits.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "kind/parse.h"
#include "sys/text.h"

extern const struct kage_kind kage_kind_limits;

/* The lines of /proc/PID/limits (proc(5)) by resource. prlimit(2) would need the same user or a right
 * that even root may lack; this file only needs the right to read it. */
static const char *const lines[RLIM_NLIMITS] = {
	[RLIMIT_CPU] = "Max cpu time",
	[RLIMIT_FSIZE] = "Max file size",
	[RLIMIT_DATA] = "Max data size",
	[RLIMIT_STACK] = "Max stack size",
	[RLIMIT_CORE] = "Max core file size",
	[RLIMIT_RSS] = "Max resident set",
	[RLIMIT_NPROC] = "Max processes",
	[RLIMIT_NOFILE] = "Max open files",
	[RLIMIT_MEMLOCK] = "Max locked memory",
	[RLIMIT_AS] = "Max address space",
	[RLIMIT_LOCKS] = "Max file locks",
	[RLIMIT_SIGPENDING] = "Max pending signals",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size",
	[RLIMIT_NICE] = "Max nice priority",
	[RLIMIT_RTPRIO] = "Max realtime priority",
	[RLIMIT_RTTIME] = "Max realtime timeout",
};

static const char *name_of(unsigned resource)
{
	return resource < RLIM_NLIMITS ? lines[resource] + strlen("Max ") : "?";
}

static bool parse_value(const char **at, uint64_t *ret_value)
{
	*at += strspn(*at, " ");
	if (strncmp(*at, "unlimited", 9) == 0) {
		*at += 9;
		*ret_value = RLIM_INFINITY;
		return true;
	}
	return kage_text_number(at, 10, ret_value);
}

static bool find_limit(const char *text, unsigned resource, Kage__Limit *m)
{
	size_t n = strlen(lines[resource]);

	for (const char *at = text; at; at = kage_text_next_line(at)) {
		if (strncmp(at, lines[resource], n) != 0)
			continue;
		at += n;
		return parse_value(&at, &m->soft) && parse_value(&at, &m->hard);
	}
	return false;
}

struct kage_err *kage_limits_parse(struct arena *a, const char *text, Kage__Process *p)
{
	for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
		Kage__Limit *m = msg_append(a, p, limits, Kage__Limit, kage__limit__init);

		if (!m)
			return kage_err_nomem();
		m->resource = i;
		if (!find_limit(text, i, m))
			return kage_err_new(KAGE_CORRUPT, "/proc/PID/limits has no line “%s”",
					    lines[i]);
	}
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "limits", 1 << 16, &text, &size));
	return kage_limits_parse(&c->image->arena, text, c->process);
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
		snprintf(object, sizeof(object), "limit of %s", name_of(m->resource));
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
		struct rlimit mine = { RLIM_INFINITY, RLIM_INFINITY }, lim = { m->soft, m->hard };

		if (prlimit(r->stub->pid, m->resource, NULL, &mine) == 0 &&
		    mine.rlim_cur == lim.rlim_cur && mine.rlim_max == lim.rlim_max)
			continue;
		/* A hard limit that was lowered since stays; the soft one is set as far as it goes. */
		if (r->in_place && lim.rlim_max > mine.rlim_max) {
			const struct rlimit soft = { m->soft < mine.rlim_max ? m->soft
									     : mine.rlim_max,
						     mine.rlim_max };

			BATCH_TRY(b, "set a limit", SYS_prlimit64, V(0), V(m->resource),
				  DATA(kage_batch_data(b, &soft, sizeof(soft))), V(0));
		}
		BATCH_TRY(b, "set a limit", SYS_prlimit64, V(0), V(m->resource),
			  DATA(kage_batch_data(b, &lim, sizeof(lim))), V(0));
	}
	return NULL;
}

static void print_value(const char *which, uint64_t value, FILE *out)
{
	if (value == RLIM_INFINITY)
		fprintf(out, "  %s unlimited", which);
	else
		fprintf(out, "  %s %" PRIu64, which, value);
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	(void)image;
	for (size_t i = 0; full && i < p->n_limits; i++) {
		const Kage__Limit *m = p->limits[i];

		if (m->soft == RLIM_INFINITY && m->hard == RLIM_INFINITY)
			continue;
		fprintf(out, "  %-20s", name_of(m->resource));
		print_value("soft", m->soft, out);
		print_value("hard", m->hard, out);
		fputc('\n', out);
	}
}

const struct kage_kind kage_kind_limits = {
	.name = "limits",
	.carried = true,
	.capture = capture,
	.check = check,
	.finish = finish,
	.print = print,
};
