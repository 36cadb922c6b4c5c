/* SPDX-License-Identifier: Apache-2.0 */
/* Images for tests: a small valid one, and sets of pages from a seed. */
#ifndef LIB_SAMPLE_IMAGE_H
#define LIB_SAMPLE_IMAGE_H

#include <assert.h>
#include <stdlib.h>

#include "image/image.h"

/* Fails the test with the message of an error. */
#define must(expr)                                                              \
	do {                                                                    \
		struct kage_err *must_err_ = (expr);                            \
		if (must_err_)                                                  \
			fail_msg("%s: %s", #expr, kage_err_message(must_err_)); \
	} while (0)

/* Fails the test unless EXPR fails with CODE and a message that contains TEXT. */
#define must_fail(expr, code, text)                                                             \
	do {                                                                                    \
		struct kage_err *must_err_ = (expr);                                            \
		if (!must_err_)                                                                 \
			fail_msg("%s did not fail", #expr);                                     \
		if (kage_err_code(must_err_) != (code) ||                                       \
		    !strstr(kage_err_message(must_err_), (text)))                               \
			fail_msg("%s: %s: %s", #expr, kage_code_name(kage_err_code(must_err_)), \
				 kage_err_message(must_err_));                                  \
		kage_err_free(must_err_);                                                       \
	} while (0)

struct random_state {
	uint64_t v;
};

static inline uint64_t random_next(struct random_state *r)
{
	uint64_t z = r->v += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Both spaces that sample_image() has. */
enum { SAMPLE_SPACE = 1, SAMPLE_SHARED_SPACE = 2, SAMPLE_SHARED_PAGES = 64 };

static inline void sample_mapping(struct arena *a, Kage__Memory *memory, uint64_t start,
				  uint64_t end, uint32_t prot, int backing)
{
	Kage__Mapping *m = msg_append(a, memory, mappings, Kage__Mapping, kage__mapping__init);

	m->start = start;
	m->end = end;
	m->prot = prot;
	m->backing = backing;
}

/* A process with one thread, two mappings and one file, and no pages yet. */
static inline struct kage_image *sample_image(void)
{
	struct kage_image *image = NULL;
	struct arena *a;
	Kage__Space *space;
	Kage__Process *p;
	Kage__Thread *t;
	Kage__FileObject *f;

	if (kage_image_create(&image))
		abort();
	a = &image->arena;
	image->msg->source = msg_new(a, Kage__Source, kage__source__init);
	image->msg->source->realtime_ns = 1700000000000000000u;
	image->msg->source->pause_ns = 250000;
	image->msg->source->arch = (char *)"x86_64";
	image->msg->source->command = (char *)"sleep 1000";
	image->msg->source->message = (char *)"before the change";
	image->msg->source->reason = (char *)"snap";
	image->msg->source->page_bytes = 4096;
	space = msg_append(a, image->msg, spaces, Kage__Space, kage__space__init);
	space->id = SAMPLE_SPACE;
	space->kind = KAGE__SPACE__KIND__ADDRESS_SPACE;
	space = msg_append(a, image->msg, spaces, Kage__Space, kage__space__init);
	space->id = SAMPLE_SHARED_SPACE;
	space->kind = KAGE__SPACE__KIND__SHARED_MEMORY;
	space->size_bytes = SAMPLE_SHARED_PAGES * KAGE_PAGE_BYTES;
	f = msg_append(a, image->msg, files, Kage__FileObject, kage__file_object__init);
	f->id = 1;
	f->path = (char *)"/usr/bin/sleep";
	f->mode = 0100755;
	f->size_bytes = 43888;
	p = msg_append(a, image->msg, processes, Kage__Process, kage__process__init);
	p->pid = 4242;
	p->comm = (char *)"sleep";
	p->memory = msg_new(a, Kage__Memory, kage__memory__init);
	p->memory->space = SAMPLE_SPACE;
	p->memory->exe_file = 1;
	sample_mapping(a, p->memory, 0x10000000, 0x50000000, 3, KAGE__MAPPING__BACKING__ANONYMOUS);
	sample_mapping(a, p->memory, 0x7ff000000000, 0x7ff000200000, 3,
		       KAGE__MAPPING__BACKING__ANONYMOUS);
	t = msg_append(a, p, threads, Kage__Thread, kage__thread__init);
	t->tid = 4242;
	t->comm = (char *)"sleep";
	t->registers = msg_new(a, Kage__Registers, kage__registers__init);
	t->registers->arch_case = KAGE__REGISTERS__ARCH_X86_64;
	t->registers->x86_64 = msg_new(a, Kage__RegistersX8664, kage__registers_x86_64__init);
	t->registers->x86_64->rip = 0x10000123;
	t->registers->x86_64->rax = UINT64_MAX;
	return image;
}

/* What a page holds is decided by KIND and SEED: 0 zeros, 1 text-like, 2 random, 3 one of few. */
static inline void sample_page(unsigned char *page, unsigned kind, uint64_t seed)
{
	struct random_state r = { seed };

	memset(page, 0, KAGE_PAGE_BYTES);
	for (size_t i = 0; kind == 1 && i + 16 < KAGE_PAGE_BYTES; i += 16)
		memcpy(page + i, "key:value; other" + random_next(&r) % 8, 8);
	for (size_t i = 0; kind == 2 && i < KAGE_PAGE_BYTES; i += 8) {
		uint64_t v = random_next(&r);

		memcpy(page + i, &v, 8);
	}
	if (kind == 3)
		memset(page, (int)(1 + seed % 5), KAGE_PAGE_BYTES);
}

/* Adds a run of COUNT pages whose contents follow from R. */
static inline void sample_run(struct mem_pages *m, struct random_state *r, uint32_t space,
			      uint64_t first, uint64_t count)
{
	void *bytes = NULL;

	if (kage_mem_pages_add(m, space, first, count, &bytes))
		abort();
	for (uint64_t i = 0; i < count; i++)
		sample_page((unsigned char *)bytes + i * KAGE_PAGE_BYTES,
			    (unsigned)(random_next(r) % 4), random_next(r));
}

#endif
