/* SPDX-License-Identifier: Apache-2.0 */
#include "target/copy.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/workers.h"

enum {
	PIECE_BYTES = 1 << 20,
	PIECES_AT_ONCE = 512, /* many are of a few pages: a system call costs more than they do */
	BYTES_AT_ONCE = 4 << 20,
	BYTES_FOR_THREAD = 8 << 20, /* below that a thread is not worth its making */
	MAX_THREADS = 8,
};

static struct kage_err *make_room(struct kage_copy *c)
{
	size_t max = c->max ? c->max * 2 : 1024;
	struct iovec *here, *there;

	if (c->n < c->max)
		return NULL;
	here = reallocarray(c->here, max, sizeof(*here));
	if (!here)
		return kage_err_nomem();
	c->here = here;
	there = reallocarray(c->there, max, sizeof(*there));
	if (!there)
		return kage_err_nomem();
	c->there = there;
	c->max = max;
	return NULL;
}

struct kage_err *kage_copy_add(struct kage_copy *copy, void *to, kage_addr from, size_t size)
{
	for (size_t done = 0; done < size;) {
		size_t piece = size - done < PIECE_BYTES ? size - done : PIECE_BYTES;

		TRY(make_room(copy));
		copy->here[copy->n] = (struct iovec){ (char *)to + done, piece };
		copy->there[copy->n++] =
			(struct iovec){ (void *)(uintptr_t)(from.v + done), piece };
		copy->bytes += piece;
		done += piece;
	}
	return NULL;
}

/* What the threads share. */
struct work {
	struct kage_copy *copy;
	struct kage_target *t;
	pthread_mutex_t lock; /* for the fields below */
	size_t next;
	struct kage_err *e; /* the first */
};

/* The next pieces, that a thread copies in one go; 0: none are left. */
static size_t claim(struct work *w, size_t *ret_from)
{
	size_t n = 0, bytes = 0;

	pthread_mutex_lock(&w->lock);
	*ret_from = w->next;
	while (!w->e && w->next < w->copy->n && n < PIECES_AT_ONCE && bytes < BYTES_AT_ONCE) {
		bytes += w->copy->here[w->next++].iov_len;
		n++;
	}
	pthread_mutex_unlock(&w->lock);
	return n;
}

static void *work(void *arg)
{
	struct work *w = arg;
	size_t from, n;

	while ((n = claim(w, &from))) {
		struct kage_err *e =
			kage_target_readv(w->t, w->copy->here + from, w->copy->there + from, n);

		if (!e)
			continue;
		pthread_mutex_lock(&w->lock);
		if (w->e)
			err_drop(e);
		else
			w->e = e;
		pthread_mutex_unlock(&w->lock);
	}
	return NULL;
}

struct kage_err *kage_copy_run(struct kage_copy *copy, struct kage_target *t)
{
	struct work w = { .copy = copy, .t = t, .lock = PTHREAD_MUTEX_INITIALIZER };
	unsigned processors = kage_processors();
	uint64_t others = copy->bytes / BYTES_FOR_THREAD;
	pthread_t threads[MAX_THREADS];
	size_t n = 0;

	/* This thread works as well; without the others it does all of it. */
	while (n < others && n < MAX_THREADS && n + 1 < processors &&
	       pthread_create(&threads[n], NULL, work, &w) == 0)
		n++;
	work(&w);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	return w.e;
}

/* One piece, page by page, because a part of it may be gone. */
static struct kage_err *copy_pages(struct kage_target *t, const struct iovec *here,
				   const struct iovec *there)
{
	for (size_t done = 0; done < here->iov_len; done += KAGE_PAGE_BYTES) {
		kage_addr from = addr((uintptr_t)there->iov_base + done);
		char *to = (char *)here->iov_base + done;
		struct kage_err *e = kage_target_read(t, from, to, KAGE_PAGE_BYTES);

		if (!e)
			continue;
		err_drop(e);
		TRY(kage_target_alive(t));
		memset(to, 0, KAGE_PAGE_BYTES);
	}
	return NULL;
}

struct kage_err *kage_copy_run_loose(struct kage_copy *copy, struct kage_target *t)
{
	struct work w = { .copy = copy, .t = t, .lock = PTHREAD_MUTEX_INITIALIZER };
	size_t from, n;

	while ((n = claim(&w, &from))) {
		struct kage_err *e = kage_target_readv(t, copy->here + from, copy->there + from, n);

		for (size_t i = from; e && i < from + n; i++) {
			struct kage_err *e2 = copy_pages(t, &copy->here[i], &copy->there[i]);

			if (e2) {
				err_drop(e);
				return e2;
			}
		}
		err_drop(e);
	}
	return NULL;
}

void kage_copy_deinit(struct kage_copy *copy)
{
	free(copy->here);
	free(copy->there);
}
