/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread has a context and a store of its own, because these belong to one thread. What fails is told once,
 * at the end: recording is more important.
 */
#include "cli/thinner.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

struct cli_thinner {
	struct cli *cli;
	const struct cli_keep *keep;
	const struct kage_store *recorded; /* whose keys it shares */
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	char name[64];
	bool due, ending, working;
	bool urgent;        /* somebody waits until there is room again */
	uint64_t bytes;     /* of the history, not less than it has; once it is known */
	bool known;         /* since the first thinning */
	uint64_t largest;   /* image that was stored */
	struct kage_err *e; /* the last failure */
};

/* Removing is cheap in bulk: images that go one by one would have packs rewritten for each. */
enum { EVERY_S = 1 };

/* What the history may take before it is thinned: the next image has to fit in besides, and what is written anew of
 * those that stay is there twice for a moment. That moment is what one image more is allowed for. */
static uint64_t limit_of(const struct cli_thinner *t)
{
	uint64_t max = t->keep->rules.max_bytes;

	return max > t->largest ? max - t->largest : 1;
}

static struct kage_err *prune(const struct cli_thinner *t, const char *name, uint64_t limit,
			      struct kage_prune_result *result)
{
	struct kage_retention rules = t->keep->rules;
	struct kage_ctx *ctx = NULL;
	struct kage_store *store = NULL;
	struct kage_err *e = kage_ctx_create(&ctx);

	/* A little more goes than has to, so that not every image makes some go. */
	if (rules.max_bytes)
		rules.max_bytes = limit - limit / 16;

	if (!e)
		e = kage_store_open(ctx, t->cli->store_path, 0, &store);
	if (!e) {
		kage_store_share_keys(store, t->recorded);
		e = kage_store_prune(store, name, &rules, result);
	}
	kage_store_close(store);
	kage_ctx_destroy(ctx);
	return e;
}

/* Waits for a reason to prune; false when there is none left. */
static bool next(struct cli_thinner *t, char name[64], uint64_t *ret_limit)
{
	bool due;

	pthread_mutex_lock(&t->lock);
	while (!t->due && !t->ending)
		pthread_cond_wait(&t->changed, &t->lock);
	due = t->working = t->due;
	t->due = false;
	memcpy(name, t->name, sizeof(t->name));
	*ret_limit = limit_of(t);
	t->bytes = 0; /* what is stored from here on is counted once more, or twice */
	pthread_mutex_unlock(&t->lock);
	return due;
}

/* Takes E. */
static void note(struct cli_thinner *t, struct kage_err *e, const struct kage_prune_result *result)
{
	pthread_mutex_lock(&t->lock);
	kage_err_free(t->e);
	t->e = e;
	t->known = !e;
	t->bytes += e ? 0 : result->bytes_after;
	t->working = false;
	if (!t->due) /* else somebody came meanwhile, and waits for another round */
		t->urgent = false;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

static void rest(struct cli_thinner *t)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += EVERY_S;
	pthread_mutex_lock(&t->lock);
	while (!t->ending && !t->urgent &&
	       pthread_cond_timedwait(&t->changed, &t->lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&t->lock);
}

static void *work(void *arg)
{
	struct cli_thinner *t = arg;
	uint64_t limit;
	char name[64];

	while (next(t, name, &limit)) {
		struct kage_prune_result result = { 0 };
		struct kage_err *e = prune(t, name, limit, &result);

		note(t, e, &result);
		rest(t);
	}
	return NULL;
}

struct cli_thinner *cli_thinner_start(struct cli *cli, const struct cli_keep *keep,
				      const struct kage_store *store)
{
	struct cli_thinner *t;

	if (!cli_keep_any(keep))
		return NULL;
	t = cli_grow(NULL, 1, sizeof(*t));
	memset(t, 0, sizeof(*t));
	t->cli = cli;
	t->keep = keep;
	t->recorded = store;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	if (pthread_create(&t->thread, NULL, work, t))
		cli_out_of_memory();
	return t;
}

void cli_thinner_kick(struct cli_thinner *t, const char *name, uint64_t stored_bytes)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->bytes += stored_bytes;
	if (stored_bytes > t->largest)
		t->largest = stored_bytes;
	t->due = true;
	t->urgent = t->keep->rules.max_bytes && (!t->known || t->bytes > limit_of(t));
	pthread_cond_broadcast(&t->changed);
	while (t->urgent && (t->due || t->working))
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void cli_thinner_finish(struct cli_thinner *t, bool tell)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->ending = true;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	if (t->e && tell)
		cli_note(t->cli, "%s", kage_err_message(t->e));
	kage_err_free(t->e);
	free(t);
}
