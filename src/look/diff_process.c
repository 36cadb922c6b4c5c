/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors, threads and their registers, signals, and all that a process has once. */
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "kind/kind.h"
#include "look/diff.h"

/* --- descriptors ------------------------------------------------------------------------------ */

/* What the descriptor is, as `kage show` has it, in D->words. */
static const char *describe(struct diff *d, const struct kage_image *image,
			    const Kage__Description *description)
{
	_cleanup_free_ char *text = NULL;
	const struct kage_fd_kind *kind;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	kind = kage_fd_kind_of(description);
	fprintf(out, "%s ", kind ? kind->name : "of an unknown kind");
	if (kind && kind->print)
		kind->print(image, description, out);
	if (fclose(out) != 0)
		return NULL;
	return arena_strdup(&d->words, text);
}

/* The path behind a regular file, or NULL: another path is another file. */
static const char *path_of(const struct kage_image *image, const Kage__Description *d)
{
	const Kage__FileObject *f = d->kind_case == KAGE__DESCRIPTION__KIND_FILE
					    ? kage_image_file(image, d->file->file)
					    : NULL;

	return f ? f->path : NULL;
}

static struct kage_err *tell_descriptor(struct diff *d, uint32_t fd, const Kage__Description *a,
					const Kage__Description *b)
{
	struct kage_difference f = {
		.part = KAGE_DIFF_DESCRIPTOR,
		.how = !a   ? KAGE_DIFF_NEW
		       : !b ? KAGE_DIFF_GONE
			    : KAGE_DIFF_CHANGED,
		.object = arena_printf(&d->words, "fd %u", fd),
		.field = a && b ? "what it is" : NULL,
	};

	f.before = a ? describe(d, d->a, a) : NULL;
	f.after = b ? describe(d, d->b, b) : NULL;
	if (!f.object || (a && !f.before) || (b && !f.after))
		return kage_err_nomem();
	look_diff_tell(d, &f);
	return NULL;
}

static const Kage__Descriptor *find_fd(const Kage__Process *p, uint32_t fd)
{
	for (size_t i = 0; i < p->n_descriptors; i++)
		if (p->descriptors[i]->fd == fd)
			return p->descriptors[i];
	return NULL;
}

static struct kage_err *compare_descriptor(struct diff *d, const Kage__Descriptor *x,
					   const Kage__Descriptor *y)
{
	const Kage__Description *a = kage_image_description(d->a, x->description);
	const Kage__Description *b = kage_image_description(d->b, y->description);
	const char *before, *after;
	char object[32];

	if (!a || !b)
		return NULL;
	before = path_of(d->a, a);
	after = path_of(d->b, b);
	if (a->kind_case != b->kind_case || (before && after && strcmp(before, after) != 0))
		return tell_descriptor(d, x->fd, a, b);
	snprintf(object, sizeof(object), "fd %u", x->fd);
	if (x->close_on_exec != y->close_on_exec)
		look_diff_tell(d, &(struct kage_difference){
					  .part = KAGE_DIFF_DESCRIPTOR,
					  .how = KAGE_DIFF_CHANGED,
					  .object = object,
					  .field = "close_on_exec",
					  .before = x->close_on_exec ? "yes" : "no",
					  .after = y->close_on_exec ? "yes" : "no",
				  });
	return look_diff_message(d, KAGE_DIFF_DESCRIPTOR, object, "", &a->base, &b->base);
}

static struct kage_err *compare_descriptors(struct diff *d)
{
	for (size_t i = 0; i < d->pa->n_descriptors; i++) {
		const Kage__Descriptor *x = d->pa->descriptors[i], *y = find_fd(d->pb, x->fd);
		const Kage__Description *a = kage_image_description(d->a, x->description);

		if (y)
			TRY(compare_descriptor(d, x, y));
		else if (a)
			TRY(tell_descriptor(d, x->fd, a, NULL));
	}
	for (size_t i = 0; i < d->pb->n_descriptors; i++) {
		const Kage__Descriptor *y = d->pb->descriptors[i];
		const Kage__Description *b = kage_image_description(d->b, y->description);

		if (b && !find_fd(d->pa, y->fd))
			TRY(tell_descriptor(d, y->fd, NULL, b));
	}
	return NULL;
}

/* --- threads ---------------------------------------------------------------------------------- */

static const Kage__Thread *find_thread(const Kage__Process *p, int32_t tid)
{
	for (size_t i = 0; i < p->n_threads; i++)
		if (p->threads[i]->tid == tid)
			return p->threads[i];
	return NULL;
}

/* Another process has other numbers: the leaders are compared all the same. */
static const Kage__Thread *counterpart(const Kage__Process *p, const Kage__Process *other, size_t i)
{
	if (i == 0)
		return other->n_threads ? other->threads[0] : NULL;
	return find_thread(other, p->threads[i]->tid);
}

/* The instruction pointer says most with its symbol. */
static struct kage_err *compare_rip(struct diff *d, const char *object, uint64_t a, uint64_t b)
{
	_cleanup_free_ char *before = NULL, *after = NULL;

	if (a == b)
		return NULL;
	TRY(kage_symbols_describe(d->sa, a, &before));
	TRY(kage_symbols_describe(d->sb, b, &after));
	look_diff_tell(d, &(struct kage_difference){
				  .part = KAGE_DIFF_THREAD,
				  .how = KAGE_DIFF_CHANGED,
				  .object = object,
				  .field = "rip",
				  .before = before,
				  .after = after,
			  });
	return NULL;
}

/* Registers stand with their own names, the rest with its path in the message. */
static struct kage_err *compare_thread(struct diff *d, const Kage__Thread *x, const Kage__Thread *y)
{
	const Kage__Registers *rx = x->registers, *ry = y->registers;
	Kage__Thread a = *x, b = *y;
	char object[64];

	snprintf(object, sizeof(object), "thread %d (%s)", y->tid, y->comm ? y->comm : "");
	a.registers = b.registers = NULL;
	if (rx && ry && rx->arch_case == KAGE__REGISTERS__ARCH_X86_64 &&
	    ry->arch_case == KAGE__REGISTERS__ARCH_X86_64) {
		Kage__RegistersX8664 before = *rx->x86_64, after = *ry->x86_64;

		TRY(compare_rip(d, object, before.rip, after.rip));
		before.rip = after.rip;
		TRY(look_diff_message(d, KAGE_DIFF_THREAD, object, "", &before.base, &after.base));
	}
	return look_diff_message(d, KAGE_DIFF_THREAD, object, "", &a.base, &b.base);
}

static struct kage_err *tell_thread(struct diff *d, const Kage__Thread *t, bool new)
{
	_cleanup_free_ char *where = NULL;
	char object[64];
	struct kage_difference f = {
		.part = KAGE_DIFF_THREAD,
		.how = new ? KAGE_DIFF_NEW : KAGE_DIFF_GONE,
		.object = object,
	};

	snprintf(object, sizeof(object), "thread %d (%s)", t->tid, t->comm ? t->comm : "");
	if (t->registers && t->registers->arch_case == KAGE__REGISTERS__ARCH_X86_64)
		TRY(kage_symbols_describe(new ? d->sb : d->sa, t->registers->x86_64->rip, &where));
	*(new ? &f.after : &f.before) = where;
	look_diff_tell(d, &f);
	return NULL;
}

static struct kage_err *compare_threads(struct diff *d)
{
	for (size_t i = 0; i < d->pa->n_threads; i++) {
		const Kage__Thread *other = counterpart(d->pa, d->pb, i);

		TRY(other ? compare_thread(d, d->pa->threads[i], other)
			  : tell_thread(d, d->pa->threads[i], false));
	}
	for (size_t i = 0; i < d->pb->n_threads; i++)
		if (!counterpart(d->pb, d->pa, i))
			TRY(tell_thread(d, d->pb->threads[i], true));
	return NULL;
}

/* --- signals and the rest --------------------------------------------------------------------- */

static const Kage__SignalAction *find_action(const Kage__Process *p, uint32_t signal)
{
	static const Kage__SignalAction by_default = KAGE__SIGNAL_ACTION__INIT;

	for (size_t i = 0; i < p->n_actions; i++)
		if (p->actions[i]->signal == signal)
			return p->actions[i];
	return &by_default;
}

static struct kage_err *handler_words(struct kage_symbols *symbols, uint64_t handler,
				      char **ret_words)
{
	if (handler > 1)
		return kage_symbols_describe(symbols, handler, ret_words);
	*ret_words = strdup(handler ? "ignored" : "default");
	return *ret_words ? NULL : kage_err_nomem();
}

static struct kage_err *compare_action(struct diff *d, uint32_t signal)
{
	Kage__SignalAction a = *find_action(d->pa, signal), b = *find_action(d->pb, signal);
	_cleanup_free_ char *before = NULL, *after = NULL;
	const char *name = sigabbrev_np((int)signal);
	char object[32];

	if (name)
		snprintf(object, sizeof(object), "SIG%s", name);
	else
		snprintf(object, sizeof(object), "signal %u", signal);
	if (a.handler != b.handler) {
		TRY(handler_words(d->sa, a.handler, &before));
		TRY(handler_words(d->sb, b.handler, &after));
		look_diff_tell(d, &(struct kage_difference){
					  .part = KAGE_DIFF_SIGNAL,
					  .how = KAGE_DIFF_CHANGED,
					  .object = object,
					  .field = "handler",
					  .before = before,
					  .after = after,
				  });
	}
	a.handler = b.handler;
	a.signal = b.signal;
	return look_diff_message(d, KAGE_DIFF_SIGNAL, object, "", &a.base, &b.base);
}

/* All of the process that was not compared by its own rules. */
static struct kage_err *compare_rest(struct diff *d)
{
	Kage__Process a = *d->pa, b = *d->pb;
	Kage__Memory ma = *a.memory, mb = *b.memory;

	ma.n_mappings = mb.n_mappings = 0;
	a.memory = &ma;
	b.memory = &mb;
	a.n_threads = b.n_threads = a.n_actions = b.n_actions = 0;
	a.n_descriptors = b.n_descriptors = 0;
	a.namespaces = b.namespaces = NULL;
	return look_diff_message(d, KAGE_DIFF_PROCESS, "process", "", &a.base, &b.base);
}

struct kage_err *look_diff_process(struct diff *d)
{
	TRY(compare_descriptors(d));
	TRY(compare_threads(d));
	for (uint32_t signal = 1; signal <= 64; signal++)
		TRY(compare_action(d, signal));
	return compare_rest(d);
}
