/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to hold for any image, whoever sent it: first for every field by its type, by a walk of the
 * messages' own descriptions; then the references and orders that image.proto promises. What only
 * one kind knows is that kind's to check (src/kind).
 */
#include "image/image.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Beyond anything that a kernel gives, and small enough to work with. */
enum {
	MAX_STRING_BYTES = 8 << 20,
	MAX_BYTES = 64 << 20,
	MAX_REPEATED = 4 << 20,
	MAX_SIGNAL = 64,
	MAX_PKEY = 31, /* 15 on x86-64; other processors have more */
	HASH_BYTES = 16,
	MAX_BUILD_ID_BYTES = 64,
	MAX_XSAVE_BYTES = 64 * 1024,
};

#define bad(...) kage_err_wrap(kage_err_new(KAGE_CORRUPT, __VA_ARGS__), "invalid image")

/* --- every field ------------------------------------------------------------------------------ */

static struct kage_err *check_message(const ProtobufCMessage *m);

static struct kage_err *check_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f,
				    const void *p)
{
	const char *where = m->descriptor->short_name;
	const ProtobufCBinaryData *bytes = p;
	const char *text;

	switch (f->type) {
	case PROTOBUF_C_TYPE_ENUM:
		if (protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)p))
			return NULL;
		return bad("%s.%s has the unknown value %d", where, f->name, *(const int *)p);
	case PROTOBUF_C_TYPE_STRING:
		text = *(const char *const *)p;
		if (!text || strnlen(text, MAX_STRING_BYTES + 1) > MAX_STRING_BYTES)
			return bad("%s.%s is no string or too long", where, f->name);
		return NULL;
	case PROTOBUF_C_TYPE_BYTES:
		if (bytes->len > MAX_BYTES || (bytes->len && !bytes->data))
			return bad("%s.%s has %zu bytes", where, f->name, bytes->len);
		return NULL;
	case PROTOBUF_C_TYPE_MESSAGE:
		return check_message(*(const ProtobufCMessage *const *)p);
	default:
		return NULL;
	}
}

static size_t type_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_ENUM:
		return sizeof(int);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return sizeof(void *);
	}
}

static struct kage_err *check_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m, *items;
	size_t n;

	if (f->label != PROTOBUF_C_LABEL_REPEATED) {
		bool chosen = !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
			      *(const uint32_t *)(base + f->quantifier_offset) == f->id;
		bool absent = f->type == PROTOBUF_C_TYPE_MESSAGE &&
			      (!chosen || !*(const void *const *)(base + f->offset));

		if (chosen && absent && (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
			return bad("%s.%s is empty", m->descriptor->short_name, f->name);
		return chosen && !absent ? check_value(m, f, base + f->offset) : NULL;
	}
	n = *(const size_t *)(base + f->quantifier_offset);
	items = *(const char *const *)(base + f->offset);
	if (n > MAX_REPEATED)
		return bad("%s.%s has %zu elements", m->descriptor->short_name, f->name, n);
	if (f->type == PROTOBUF_C_TYPE_ENUM || f->type == PROTOBUF_C_TYPE_STRING ||
	    f->type == PROTOBUF_C_TYPE_BYTES || f->type == PROTOBUF_C_TYPE_MESSAGE)
		for (size_t i = 0; i < n; i++)
			TRY(check_value(m, f, items + i * type_size(f->type)));
	return NULL;
}

static struct kage_err *check_message(const ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		TRY(check_field(m, &m->descriptor->fields[i]));
	/* Fields of a later version are kept; the decoder takes the number 0 in a long form only, so that
	 * it would not take what the encoder makes of it. */
	for (unsigned i = 0; i < m->n_unknown_fields; i++)
		if (m->unknown_fields[i].tag == 0)
			return bad("%s has a field with the number 0", m->descriptor->short_name);
	return NULL;
}

/* --- numbers that others refer to ------------------------------------------------------------- */

struct id {
	uint32_t id;
	const void *msg;
};

struct ids {
	const char *what;
	struct id *v; /* ascending */
	size_t n;
};

struct checked {
	const Kage__Image *msg;
	struct ids spaces, files, descriptions, fds;
};

static int compare_ids(const void *a, const void *b)
{
	uint32_t x = ((const struct id *)a)->id, y = ((const struct id *)b)->id;

	return x < y ? -1 : x > y;
}

static const void *find(const struct ids *ids, uint32_t id)
{
	struct id key = { .id = id };
	const struct id *found = NULL;

	if (ids->n)
		found = bsearch(&key, ids->v, ids->n, sizeof(*ids->v), compare_ids);
	return found ? found->msg : NULL;
}

static struct kage_err *ids_create(struct ids *ids, const char *what, size_t n)
{
	ids->what = what;
	ids->v = calloc(n + 1, sizeof(*ids->v));
	return ids->v ? NULL : kage_err_nomem();
}

/* Sorts; each number has to be there once, and none be 0 unless ZERO. */
static struct kage_err *ids_finish(struct ids *ids, bool zero)
{
	qsort(ids->v, ids->n, sizeof(*ids->v), compare_ids);
	if (ids->n && ids->v[0].id == 0 && !zero)
		return bad("a %s has the number 0", ids->what);
	for (size_t i = 1; i < ids->n; i++)
		if (ids->v[i].id == ids->v[i - 1].id)
			return bad("two %ss have the number %u", ids->what, ids->v[i].id);
	return NULL;
}

#define COLLECT(ids, list, n_list, field)             \
	for (size_t i_ = 0; i_ < (n_list); i_++)      \
		(ids)->v[(ids)->n++] = (struct id)    \
		{                                     \
			(list)[i_]->field, (list)[i_] \
		}

static struct kage_err *collect(struct checked *c)
{
	const Kage__Image *m = c->msg;

	TRY(ids_create(&c->spaces, "space", m->n_spaces));
	TRY(ids_create(&c->files, "file", m->n_files));
	TRY(ids_create(&c->descriptions, "description", m->n_descriptions));
	COLLECT(&c->spaces, m->spaces, m->n_spaces, id);
	COLLECT(&c->files, m->files, m->n_files, id);
	COLLECT(&c->descriptions, m->descriptions, m->n_descriptions, id);
	TRY(ids_finish(&c->spaces, false));
	TRY(ids_finish(&c->files, false));
	return ids_finish(&c->descriptions, false);
}

static bool is_space(const struct checked *c, uint32_t id, Kage__Space__Kind kind)
{
	const Kage__Space *s = find(&c->spaces, id);

	return s && s->kind == kind;
}

static bool file_or_none(const struct checked *c, uint32_t id)
{
	return id == 0 || find(&c->files, id);
}

static bool description_or_none(const struct checked *c, uint32_t id)
{
	return id == 0 || find(&c->descriptions, id);
}

static bool hash_or_none(const ProtobufCBinaryData *b)
{
	return b->len == 0 || b->len == HASH_BYTES;
}

/* --- spaces, files, descriptions -------------------------------------------------------------- */

static struct kage_err *check_spaces(const struct checked *c)
{
	for (size_t i = 0; i < c->msg->n_spaces; i++) {
		const Kage__Space *s = c->msg->spaces[i];

		if (s->kind == KAGE__SPACE__KIND__NONE || s->size_bytes > INT64_MAX)
			return bad("space %u is of no kind or too large", s->id);
	}
	return NULL;
}

static struct kage_err *check_files(const struct checked *c)
{
	for (size_t i = 0; i < c->msg->n_files; i++) {
		const Kage__FileObject *f = c->msg->files[i];

		if (f->path[0] != '/')
			return bad("the path '%.80s' of file %u is not absolute", f->path, f->id);
		if (f->content_space &&
		    !is_space(c, f->content_space, KAGE__SPACE__KIND__FILE_CONTENT))
			return bad("file %u has its contents in space %u, which is none for that",
				   f->id, f->content_space);
		if (f->size_bytes > INT64_MAX || f->build_id.len > MAX_BUILD_ID_BYTES ||
		    !hash_or_none(&f->hash) || !hash_or_none(&f->tail_hash))
			return bad("file %u has an impossible size or hash", f->id);
	}
	return NULL;
}

static struct kage_err *check_epoll(const struct checked *c, uint32_t id, const Kage__Epoll *epoll)
{
	for (size_t i = 0; i < epoll->n_watches; i++)
		if (!description_or_none(c, epoll->watches[i]->description))
			return bad(
				"epoll description %u watches description %u, which is not there",
				id, epoll->watches[i]->description);
	return NULL;
}

static struct kage_err *check_pipe(const struct checked *c, uint32_t id, const Kage__Pipe *p)
{
	uint64_t total = 0;

	for (size_t i = 0; i < p->n_packet_bytes; i++)
		total += p->packet_bytes[i];
	if (!file_or_none(c, p->fifo_file))
		return bad("pipe description %u refers to file %u, which is not there", id,
			   p->fifo_file);
	if (p->n_packet_bytes && total != p->content.len)
		return bad("the packets of pipe description %u do not add up to its content", id);
	return NULL;
}

static struct kage_err *check_description(const struct checked *c, const Kage__Description *d)
{
	switch (d->kind_case) {
	case KAGE__DESCRIPTION__KIND_FILE:
		if (!find(&c->files, d->file->file))
			return bad("description %u refers to file %u, which is not there", d->id,
				   d->file->file);
		return NULL;
	case KAGE__DESCRIPTION__KIND_PIPE:
		return check_pipe(c, d->id, d->pipe);
	case KAGE__DESCRIPTION__KIND_EPOLL:
		return check_epoll(c, d->id, d->epoll);
	case KAGE__DESCRIPTION__KIND_MEMFD:
		if (!is_space(c, d->memfd->space, KAGE__SPACE__KIND__SHARED_MEMORY))
			return bad(
				"memfd description %u has its contents in space %u, which is none for "
				"that",
				d->id, d->memfd->space);
		return NULL;
	case KAGE__DESCRIPTION__KIND__NOT_SET:
		return bad("description %u is of no known kind", d->id);
	default:
		return NULL;
	}
}

/* --- memory ----------------------------------------------------------------------------------- */

static struct kage_err *check_guards(const Kage__Mapping *m)
{
	uint64_t end = m->start;

	for (size_t i = 0; i < m->n_guards; i++) {
		const Kage__Range *g = m->guards[i];

		if (g->start < end || g->end <= g->start || g->end > m->end ||
		    (g->start | g->end) % KAGE_PAGE_BYTES)
			return bad("guard %zu of the mapping at %#llx is not inside it", i,
				   (unsigned long long)m->start);
		end = g->end;
	}
	return NULL;
}

/* Whether what M says it is made of is there. */
static bool backing_good(const struct checked *c, const Kage__Mapping *m)
{
	switch (m->backing) {
	case KAGE__MAPPING__BACKING__NONE: /* an obstacle to restoring it */
		return true;
	case KAGE__MAPPING__BACKING__FILE_PRIVATE:
	case KAGE__MAPPING__BACKING__FILE_SHARED:
	case KAGE__MAPPING__BACKING__FILE_DEVICE:
		return find(&c->files, m->file);
	case KAGE__MAPPING__BACKING__SHARED_OBJECT:
	case KAGE__MAPPING__BACKING__MEMFD_PRIVATE:
		return is_space(c, m->object_space, KAGE__SPACE__KIND__SHARED_MEMORY);
	default:
		return true;
	}
}

static struct kage_err *check_mapping(const struct checked *c, const Kage__Mapping *m, uint64_t end)
{
	unsigned long long start = m->start;

	if ((m->start | m->end | m->offset_bytes) % KAGE_PAGE_BYTES || m->start >= m->end)
		return bad("the mapping at %#llx is empty or does not keep to pages", start);
	if (m->start < end)
		return bad("the mapping at %#llx begins within the one before it", start);
	if (m->offset_bytes > INT64_MAX || m->end - m->start > INT64_MAX - m->offset_bytes)
		return bad("the mapping at %#llx has an impossible offset", start);
	if (m->prot & ~7u)
		return bad("the mapping at %#llx has unknown rights %#x", start, m->prot);
	if (m->pkey > MAX_PKEY)
		return bad("the mapping at %#llx has the protection key %u", start, m->pkey);
	if (!backing_good(c, m))
		return bad("what backs the mapping at %#llx is not in the image", start);
	if (!file_or_none(c, m->file) || !description_or_none(c, m->description))
		return bad("the mapping at %#llx refers to what is not there", start);
	return check_guards(m);
}

static struct kage_err *check_memory(const struct checked *c, const Kage__Memory *m)
{
	uint64_t end = 0;

	if (!is_space(c, m->space, KAGE__SPACE__KIND__ADDRESS_SPACE))
		return bad("the memory is in space %u, which is no address space", m->space);
	if (!file_or_none(c, m->exe_file))
		return bad("the executable is file %u, which is not there", m->exe_file);
	if (m->auxv.len % 16 || !hash_or_none(&m->vdso_hash))
		return bad("the auxiliary vector or the vDSO's hash has an impossible size");
	if (m->brk < m->start_brk)
		return bad("the heap ends before it begins");
	for (size_t i = 0; i < m->n_mappings; i++) {
		TRY(check_mapping(c, m->mappings[i], end));
		end = m->mappings[i]->end;
	}
	return NULL;
}

/* --- processes -------------------------------------------------------------------------------- */

static struct kage_err *check_pending(Kage__PendingSignal *const *signals, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (signals[i]->signal < 1 || signals[i]->signal > MAX_SIGNAL)
			return bad("there is no signal %d to be pending", signals[i]->signal);
	return NULL;
}

static struct kage_err *check_threads(const Kage__Process *p)
{
	_cleanup_free_ struct id *v = NULL;
	struct ids tids;

	if (p->n_threads == 0)
		return bad("process %d has no thread", p->pid);
	memset(&tids, 0, sizeof(tids));
	TRY(ids_create(&tids, "thread", p->n_threads));
	v = tids.v;
	for (size_t i = 0; i < p->n_threads; i++) {
		const Kage__Thread *t = p->threads[i];

		if (t->tid <= 0)
			return bad("a thread has the number %d", t->tid);
		if (!t->registers || t->registers->arch_case == KAGE__REGISTERS__ARCH__NOT_SET)
			return bad("thread %d has no registers", t->tid);
		if (t->registers->arch_case == KAGE__REGISTERS__ARCH_X86_64 &&
		    t->registers->x86_64->xsave.len > MAX_XSAVE_BYTES)
			return bad("thread %d has %zu bytes of extended state", t->tid,
				   t->registers->x86_64->xsave.len);
		TRY(check_pending(t->pending, t->n_pending));
		tids.v[tids.n++] = (struct id){ (uint32_t)t->tid, t };
	}
	if (p->threads[0]->tid != p->pid)
		return bad("the first thread of process %d is %d", p->pid, p->threads[0]->tid);
	return ids_finish(&tids, false);
}

static struct kage_err *check_actions(const Kage__Process *p)
{
	uint64_t seen = 0;

	for (size_t i = 0; i < p->n_actions; i++) {
		uint32_t signal = p->actions[i]->signal;

		if (signal < 1 || signal > MAX_SIGNAL || seen >> (signal - 1) & 1)
			return bad("signal %u has no or two actions", signal);
		seen |= (uint64_t)1 << (signal - 1);
	}
	return NULL;
}

static struct kage_err *check_fds(struct checked *c, const Kage__Process *p)
{
	TRY(ids_create(&c->fds, "descriptor", p->n_descriptors));
	COLLECT(&c->fds, p->descriptors, p->n_descriptors, fd);
	TRY(ids_finish(&c->fds, true));
	for (size_t i = 0; i < p->n_descriptors; i++) {
		const Kage__Descriptor *d = p->descriptors[i];

		if (d->fd > INT_MAX || !find(&c->descriptions, d->description))
			return bad("descriptor %u refers to description %u, which is not there",
				   d->fd, d->description);
	}
	for (size_t i = 0; i < p->n_locks; i++)
		if (!find(&c->fds, p->locks[i]->fd))
			return bad("a lock is held through descriptor %u, which is not there",
				   p->locks[i]->fd);
	return NULL;
}

static struct kage_err *check_timers(const Kage__Process *p)
{
	for (size_t i = 0; i < p->n_interval_timers; i++)
		if (p->interval_timers[i]->which > 2)
			return bad("there is no interval timer %u", p->interval_timers[i]->which);
	for (size_t i = 0; i < p->n_posix_timers; i++)
		if (p->posix_timers[i]->id < 0)
			return bad("a timer has the number %d", p->posix_timers[i]->id);
	for (size_t i = 0; i < p->n_limits; i++)
		if (p->limits[i]->resource > 63)
			return bad("there is no limit %u", p->limits[i]->resource);
	return NULL;
}

static struct kage_err *check_process(struct checked *c, const Kage__Process *p)
{
	if (p->pid <= 0)
		return bad("a process has the number %d", p->pid);
	if (!p->memory)
		return bad("process %d has no memory", p->pid);
	TRY(check_memory(c, p->memory));
	TRY(check_threads(p));
	TRY(check_actions(p));
	TRY(check_pending(p->pending, p->n_pending));
	TRY(check_fds(c, p));
	TRY(check_timers(p));
	if (p->filesystem && (!file_or_none(c, p->filesystem->cwd_file) ||
			      !file_or_none(c, p->filesystem->root_file)))
		return bad("the working or root directory is not in the image");
	return NULL;
}

/* --- all of it -------------------------------------------------------------------------------- */

static struct kage_err *check_image(struct checked *c)
{
	TRY(check_message(&c->msg->base));
	if (c->msg->n_processes != 1)
		return bad("%zu processes; this version knows images of one", c->msg->n_processes);
	TRY(collect(c));
	TRY(check_spaces(c));
	TRY(check_files(c));
	for (size_t i = 0; i < c->msg->n_descriptions; i++)
		TRY(check_description(c, c->msg->descriptions[i]));
	return check_process(c, c->msg->processes[0]);
}

struct kage_err *kage_image_validate(const struct kage_image *image)
{
	struct checked c = { .msg = image->msg };
	struct kage_err *e = check_image(&c);

	free(c.spaces.v);
	free(c.files.v);
	free(c.descriptions.v);
	free(c.fds.v);
	return e;
}
