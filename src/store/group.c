/* SPDX-License-Identifier: Apache-2.0 */
#include "store/group.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"

enum {
	BLOCK_BYTES = 4096,
	/* A record in whole blocks, wherever it begins. */
	BUFFER_BYTES = GROUP_BYTES + 2 * BLOCK_BYTES,
	MAX_THREADS = 4,
	SLOTS = 2 * MAX_THREADS,
};

_Static_assert((int)BLOCK_BYTES >= (int)RECORD_BYTES + (int)RECORD_TAG_BYTES,
	       "a head and a tag fit into the slack");

/* --- one group -------------------------------------------------------------------------------- */

struct kage_err *kage_group_prepare(struct group_reader *r)
{
	if (!r->zstd)
		r->zstd = ZSTD_createDCtx();
	if (!r->stored)
		r->stored = aligned_alloc(BLOCK_BYTES, BUFFER_BYTES);
	if (!r->raw)
		r->raw = malloc(GROUP_BYTES);
	return r->zstd && r->stored && r->raw ? NULL : kage_err_nomem();
}

void kage_group_reader_deinit(struct group_reader *r)
{
	ZSTD_freeDCtx(r->zstd);
	free(r->stored);
	free(r->raw);
	*r = (struct group_reader){ 0 };
}

/* SIZE bytes at OFFSET into BUFFER, *ret_bytes telling where in it. From the page cache if they are
 * there; else past it, as they were written: filling it would cost more than the reading. */
static struct kage_err *read_bytes(const struct pack_file *f, uint64_t offset, size_t size,
				   uint8_t *buffer, uint8_t **ret_bytes)
{
	struct iovec cached = { buffer, size };
	uint64_t before = offset % BLOCK_BYTES;
	size_t blocks = (before + size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
	ssize_t n;

	*ret_bytes = buffer;
	if (f->direct_fd < 0)
		return kage_pack_read_at(f, offset, size, buffer);
	if (preadv2(f->fd, &cached, 1, (off_t)offset, RWF_NOWAIT) == (ssize_t)size)
		return NULL;
	n = pread(f->direct_fd, buffer, blocks, (off_t)(offset - before));
	if (n < 0 || (size_t)n < before + size) /* whatever it is, the ordinary way tells */
		return kage_pack_read_at(f, offset, size, buffer);
	*ret_bytes = buffer + before;
	return NULL;
}

struct kage_err *kage_group_read(const struct pack_file *f, const struct pack_index *x,
				 size_t number, struct group_reader *r, const uint8_t **ret_bytes)
{
	const struct group *g = &x->groups[number];
	uint64_t raw = (uint64_t)g->n_pages * KAGE_PAGE_BYTES;
	uint64_t size = RECORD_BYTES + g->stored_bytes;
	uint8_t *bytes;
	struct record head;

	TRY(read_bytes(f, g->offset, size, r->stored, &bytes));
	TRY(kage_format_record(bytes, g->offset, size, &head));
	if (head.type != RECORD_PAGES || head.argument != number || head.raw_bytes != raw ||
	    head.stored_bytes != g->stored_bytes)
		return kage_format_damage(g->offset,
					  "not the group of pages that the index speaks of");
	TRY(kage_format_payload(&head, bytes + RECORD_BYTES));
	TRY(kage_seal_decrypt(&f->key, &head, bytes + RECORD_BYTES, bytes + RECORD_BYTES));
	if (head.compressed)
		TRY(kage_pack_decompress(r->zstd, &head, bytes + RECORD_BYTES, r->raw));
	*ret_bytes = head.compressed ? r->raw : bytes + RECORD_BYTES;
	return NULL;
}

/* --- many ------------------------------------------------------------------------------------- */

/* The states of a slot: free (the user had its group), claimed by a thread, done. Group i of the list goes
 * to slot i % SLOTS; a thread claims group i only when the user is done with group i - SLOTS. */
struct slot {
	struct group_reader reader;
	const uint8_t *bytes;
	struct kage_err *e;
	bool done;
};

struct group_ahead {
	const struct pack_file *file;
	const struct pack_index *index;
	const size_t *numbers;
	size_t n, n_claimed, n_released, n_taken;
	struct slot slots[SLOTS];
	pthread_t threads[MAX_THREADS];
	size_t n_threads;
	pthread_mutex_t lock;
	pthread_cond_t released, finished;
	bool stop;
};

/* Claims the next group, waiting for room. False at the end. With the lock held. */
static bool claim(struct group_ahead *a, size_t *ret_i)
{
	while (!a->stop && a->n_claimed < a->n && a->n_claimed - a->n_released >= SLOTS)
		pthread_cond_wait(&a->released, &a->lock);
	if (a->stop || a->n_claimed >= a->n)
		return false;
	*ret_i = a->n_claimed++;
	return true;
}

static void *thread_main(void *arg)
{
	struct group_ahead *a = arg;
	size_t i;

	pthread_mutex_lock(&a->lock);
	while (claim(a, &i)) {
		struct slot *s = &a->slots[i % SLOTS];

		pthread_mutex_unlock(&a->lock);
		s->e = kage_group_prepare(&s->reader);
		if (!s->e)
			s->e = kage_group_read(a->file, a->index, a->numbers[i], &s->reader,
					       &s->bytes);
		pthread_mutex_lock(&a->lock);
		s->done = true;
		pthread_cond_signal(&a->finished);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* Signals are for the threads that were there before. */
static void start_threads(struct group_ahead *a, unsigned n)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (a->n_threads < n && a->n_threads < MAX_THREADS &&
	       pthread_create(&a->threads[a->n_threads], NULL, thread_main, a) == 0)
		a->n_threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct kage_err *kage_group_ahead_create(const struct pack_file *f, const struct pack_index *x,
					 const size_t *numbers, size_t n, unsigned n_threads,
					 struct group_ahead **ret_ahead)
{
	struct group_ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return kage_err_nomem();
	a->file = f;
	a->index = x;
	a->numbers = numbers;
	a->n = n;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->released, NULL);
	pthread_cond_init(&a->finished, NULL);
	start_threads(a, n_threads);
	if (a->n_threads == 0) {
		kage_group_ahead_destroy(a);
		a = NULL;
	}
	*ret_ahead = a;
	return NULL;
}

struct kage_err *kage_group_ahead_next(struct group_ahead *a, const uint8_t **ret_bytes)
{
	struct slot *s = &a->slots[a->n_taken % SLOTS];
	struct kage_err *e;

	pthread_mutex_lock(&a->lock);
	a->n_released = a->n_taken; /* all before this one */
	pthread_cond_broadcast(&a->released);
	while (!s->done)
		pthread_cond_wait(&a->finished, &a->lock);
	s->done = false;
	a->n_taken++;
	pthread_mutex_unlock(&a->lock);
	e = take_ptr(s->e);
	*ret_bytes = s->bytes;
	return e;
}

void kage_group_ahead_destroy(struct group_ahead *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_broadcast(&a->released);
	pthread_mutex_unlock(&a->lock);
	for (size_t i = 0; i < a->n_threads; i++)
		pthread_join(a->threads[i], NULL);
	for (size_t i = 0; i < SLOTS; i++) {
		kage_group_reader_deinit(&a->slots[i].reader);
		err_drop(a->slots[i].e);
	}
	pthread_cond_destroy(&a->released);
	pthread_cond_destroy(&a->finished);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
