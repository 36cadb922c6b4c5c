/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single settings of a process that belong to nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

extern const struct kage_kind kage_kind_attributes;

/* A number in a file of /proc; absent files leave *RET_V as it is. */
static struct kage_err *read_number(int dirfd, const char *path, int base, int64_t *ret_v)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct kage_err *e = kage_file_slurp(dirfd, path, 4096, &text, &size);

	if (e && kage_err_errno(e) == ENOENT) {
		err_drop(e);
		return NULL;
	}
	TRY(e);
	*ret_v = strtoll(text, NULL, base);
	return NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	Kage__Attributes *m = msg_new(&c->image->arena, Kage__Attributes, kage__attributes__init);
	int proc = c->target->proc_fd;
	int64_t personality_bits = 0, oom = 0, filter = 0;

	if (!m)
		return kage_err_nomem();
	TRY(read_number(proc, "personality", 16, &personality_bits));
	TRY(read_number(proc, "oom_score_adj", 10, &oom));
	TRY(read_number(proc, "coredump_filter", 16, &filter));
	m->personality = (uint64_t)personality_bits;
	m->oom_score_adj = (int32_t)oom;
	m->coredump_filter = (uint32_t)filter;
	m->dumpable = c->inside.dumpable;
	m->child_subreaper = c->inside.child_subreaper;
	m->io_flusher = c->inside.io_flusher;
	c->process->attributes = m;
	return NULL;
}

/* Files of the stub's /proc, written by ourselves while we still may. */
static void write_number(struct kage_restore *r, const char *name, const char *fmt, long value)
{
	_cleanup_fd_ int fd = openat(r->stub->proc_fd, name, O_WRONLY | O_CLOEXEC);
	char text[32];
	int n = snprintf(text, sizeof(text), fmt, value);

	if (fd < 0 || write(fd, text, (size_t)n) != n)
		kage_ctx_notice(r->ctx, "%s could not be set to %s", name, text);
}

/* What the program has changed of these since. */
static struct kage_err *finish_in_place(struct kage_restore *r, const Kage__Attributes *m,
					struct kage_batch *b)
{
	int64_t oom = m->oom_score_adj, filter = m->coredump_filter;

	BATCH_TRY(b, "set the personality", SYS_personality, V(m->personality));
	BATCH(b, "be a subreaper or not", SYS_prctl, V(PR_SET_CHILD_SUBREAPER),
	      V(m->child_subreaper));
	if (m->dumpable <= 1)
		BATCH(b, "set dumpable", SYS_prctl, V(PR_SET_DUMPABLE), V(m->dumpable));
	TRY(read_number(r->stub->proc_fd, "oom_score_adj", 10, &oom));
	TRY(read_number(r->stub->proc_fd, "coredump_filter", 16, &filter));
	if (oom != m->oom_score_adj)
		write_number(r, "oom_score_adj", "%ld", (long)m->oom_score_adj);
	if (filter != (int64_t)m->coredump_filter)
		write_number(r, "coredump_filter", "0x%lx", (long)m->coredump_filter);
	return NULL;
}

static struct kage_err *finish(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Attributes *m = r->process->attributes;

	if (!m)
		return NULL;
	if (r->in_place)
		return finish_in_place(r, m, b);
	if (m->personality != (uint64_t)personality(0xffffffff))
		BATCH(b, "set the personality", SYS_personality, V(m->personality));
	if (m->child_subreaper)
		BATCH(b, "make it a subreaper", SYS_prctl, V(PR_SET_CHILD_SUBREAPER), V(1));
	if (m->io_flusher)
		BATCH_TRY(b, "make it an I/O flusher", SYS_prctl, V(PR_SET_IO_FLUSHER), V(1), V(0),
			  V(0), V(0));
	if (!r->twin) /* else it has it */
		write_number(r, "coredump_filter", "0x%lx", (long)m->coredump_filter);
	write_number(r, "oom_score_adj", "%ld", (long)m->oom_score_adj);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	const Kage__Attributes *m = p->attributes;

	(void)image;
	if (!m || !full)
		return;
	fprintf(out, "  personality %#" PRIx64 "  dumpable %u  oom_score_adj %d\n", m->personality,
		m->dumpable, m->oom_score_adj);
}

const struct kage_kind kage_kind_attributes = {
	.name = "attributes",
	.capture = capture,
	.finish = finish,
	.print = print,
};
