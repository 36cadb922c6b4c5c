/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seccomp filters of each thread: read by ptrace, put back as the very last thing, because they may
 * forbid whatever else is left to do.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/kind.h"
#include "sys/taskread.h"
#include "sys/text.h"

extern const struct kage_kind kage_kind_seccomp;

/* The kernel numbers filters from the oldest (kernel/seccomp.c: get_nth_filter); ENOENT is behind the
 * newest. */
static struct kage_err *read_filter(struct arena *a, pid_t tid, unsigned long index,
				    Kage__SeccompFilter **ret_m, bool *ret_end)
{
	struct sock_filter insns[BPF_MAXINSNS];
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, (void *)index, insns);
	Kage__SeccompFilter *m;

	*ret_end = n < 0 && errno == ENOENT;
	if (*ret_end)
		return NULL;
	if (n < 0)
		return kage_err_sys(errno, "read the seccomp filters of thread %d", tid);
	m = msg_new(a, Kage__SeccompFilter, kage__seccomp_filter__init);
	for (long i = 0; m && i < n; i++) {
		Kage__SeccompFilter__Instruction *insn =
			msg_append(a, m, instructions, Kage__SeccompFilter__Instruction,
				   kage__seccomp_filter__instruction__init);
		if (!insn)
			return kage_err_nomem();
		insn->code = insns[i].code;
		insn->jt = insns[i].jt;
		insn->jf = insns[i].jf;
		insn->k = insns[i].k;
	}
	*ret_m = m;
	return m ? NULL : kage_err_nomem();
}

static struct kage_err *read_filters(struct kage_capture *c, Kage__Thread *t)
{
	struct arena *a = &c->image->arena;
	bool end = false;

	for (unsigned long i = 0; !end; i++) {
		Kage__SeccompFilter *m = NULL, **slot;

		TRY(read_filter(a, t->tid, i, &m, &end));
		if (end)
			break;
		slot = arena_push(a, &t->seccomp_filters, &t->n_seccomp_filters, sizeof(*slot));
		if (!slot)
			return kage_err_nomem();
		*slot = m;
	}
	return NULL;
}

static struct kage_err *read_mode(struct kage_capture *c, const struct kage_thread *thread,
				  uint32_t *ret_mode)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;
	uint64_t mode = 0;

	snprintf(path, sizeof(path), "task/%d/status", thread->tid);
	TRY(kage_file_slurp(c->target->proc_fd, path, 1 << 20, &text, &size));
	kage_text_u64(text, "Seccomp", 10, &mode);
	*ret_mode = (uint32_t)mode;
	return NULL;
}

static struct kage_err *capture_thread(struct kage_capture *c, const struct kage_thread *thread,
				       Kage__Thread *t)
{
	if (thread->seen)
		t->seccomp_mode = thread->seen->task.seccomp_mode;
	else
		TRY(read_mode(c, thread, &t->seccomp_mode));
	return t->seccomp_mode == SECCOMP_MODE_FILTER ? read_filters(c, t) : NULL;
}

static struct kage_err *capture(struct kage_capture *c)
{
	for (size_t i = 0; i < c->process->n_threads; i++)
		TRY(capture_thread(c, c->target->threads[i], c->process->threads[i]));
	return NULL;
}

static void install(const Kage__SeccompFilter *m, struct kage_batch *b)
{
	struct {
		uint16_t len;
		uint8_t pad[6];
		uint64_t filter;
	} prog = { .len = (uint16_t)m->n_instructions };
	size_t insns = kage_batch_data(b, NULL, m->n_instructions * sizeof(struct sock_filter));
	size_t at = kage_batch_data(b, &prog, sizeof(prog));

	for (size_t i = 0; i < m->n_instructions && !b->nomem; i++) {
		const Kage__SeccompFilter__Instruction *n = m->instructions[i];
		struct sock_filter f = { (uint16_t)n->code, (uint8_t)n->jt, (uint8_t)n->jf, n->k };

		memcpy(b->data + insns + i * sizeof(f), &f, sizeof(f));
	}
	kage_batch_point(b, at + 8, insns);
	BATCH(b, "install a seccomp filter", SYS_seccomp, V(SECCOMP_SET_MODE_FILTER), V(m->flags),
	      DATA(at));
}

/* Whether the first filters of MSG, in the order in which they were installed, are those of BORN_AS. */
static bool begins_with(const Kage__Thread *msg, const Kage__Thread *born_as)
{
	if (msg->n_seccomp_filters < born_as->n_seccomp_filters)
		return false;
	for (size_t i = 0; i < born_as->n_seccomp_filters; i++) {
		const Kage__SeccompFilter *a = msg->seccomp_filters[i];
		const Kage__SeccompFilter *b = born_as->seccomp_filters[i];

		if (a->n_instructions != b->n_instructions)
			return false;
		for (size_t k = 0; k < a->n_instructions; k++)
			if (a->instructions[k]->code != b->instructions[k]->code ||
			    a->instructions[k]->jt != b->instructions[k]->jt ||
			    a->instructions[k]->jf != b->instructions[k]->jf ||
			    a->instructions[k]->k != b->instructions[k]->k)
				return false;
	}
	return true;
}

/* With a filter in place the batch's own end must still get through; see restore/life.c, which runs
 * this batch last and then only uses ptrace. */
/* What thread MSG, of R's process, has by now. Kernels before 5.9 do not show how many filters. */
static struct kage_err *filters_of(const struct kage_restore *r, const Kage__Thread *msg,
				   uint64_t *ret_mode, uint64_t *ret_n)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/status", msg->tid);
	TRY(kage_file_slurp(r->stub->proc_fd, path, 1 << 20, &text, &size));
	*ret_mode = 0;
	*ret_n = msg->n_seccomp_filters;
	kage_text_u64(text, "Seccomp", 10, ret_mode);
	kage_text_u64(text, "Seccomp_filters", 10, ret_n);
	return NULL;
}

static struct kage_err *build_thread(struct kage_restore *r, const Kage__Thread *msg,
				     struct kage_batch *b)
{
	uint64_t n = 0, mode;

	/* In place a thread that had ended was made anew, with the leader's; the others have theirs. */
	if (r->in_place && msg->n_seccomp_filters) {
		TRY(filters_of(r, msg, &mode, &n));
	} else if (r->born_as) {
		n = r->born_as->n_seccomp_filters;
		if (!begins_with(msg, r->born_as))
			return kage_err_new(
				KAGE_UNSUPPORTED,
				"its threads have different seccomp filters, and a copy "
				"would be born with those of thread %d",
				r->born_as->tid);
	}
	for (size_t i = n; i < msg->n_seccomp_filters; i++)
		install(msg->seccomp_filters[i], b);
	if (msg->seccomp_mode == SECCOMP_MODE_STRICT &&
	    !(r->born_as && r->born_as->seccomp_mode == SECCOMP_MODE_STRICT))
		BATCH(b, "set strict seccomp", SYS_prctl, V(PR_SET_SECCOMP), V(SECCOMP_MODE_STRICT),
		      V(0), V(0), V(0));
	return NULL;
}

/* Filters only ever come, so as many are the same. */
static struct kage_err *check_one(struct kage_restore *r, const Kage__Thread *msg)
{
	uint64_t mode, n;

	TRY(filters_of(r, msg, &mode, &n));
	if (mode == msg->seccomp_mode && n == msg->n_seccomp_filters)
		return NULL;
	return kage_err_new(
		KAGE_UNSUPPORTED,
		"thread %d has got seccomp filters since, which cannot be taken away; wake the "
		"twin instead",
		msg->tid);
}

static struct kage_err *check_back(struct kage_restore *r)
{
	for (size_t i = 0; i < r->process->n_threads; i++)
		if (kage_target_thread(r->stub, r->process->threads[i]->tid))
			TRY(check_one(r, r->process->threads[i]));
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	(void)image, (void)full;
	if (p->n_threads && p->threads[0]->seccomp_mode)
		fprintf(out, "  seccomp: %s, %zu filters\n",
			p->threads[0]->seccomp_mode == SECCOMP_MODE_STRICT ? "strict" : "filters",
			p->threads[0]->n_seccomp_filters);
}

const struct kage_kind kage_kind_seccomp = {
	.name = "seccomp",
	.capture = capture,
	.check_back = check_back,
	.build_thread = build_thread,
	.print = print,
};
