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
	bool due, ending;
	struct kage_err *e; /* the last failure */
};

/* Removing is cheap in bulk: images that go one by one would have packs rewritten for each. */
enum { EVERY_S = 1 };

static struct kage_err *prune(struct cli_thinner *t, const char *name)
{
	struct kage_ctx *ctx = NULL;
	struct kage_store *store = NULL;
	struct kage_prune_result result;
	struct kage_err *e = kage_ctx_create(&ctx);

	if (!e)
		e = kage_store_open(ctx, t->cli->store_path, 0, &store);
	if (!e) {
		kage_store_share_keys(store, t->recorded);
		e = kage_store_prune(store, name, &t->keep->rules, &result);
	}
	kage_store_close(store);
	kage_ctx_destroy(ctx);
	return e;
}

/* Waits for a reason to prune; false when there is none left. */
static bool next(struct cli_thinner *t, char name[64])
{
	bool due;

	pthread_mutex_lock(&t->lock);
	while (!t->due && !t->ending)
		pthread_cond_wait(&t->changed, &t->lock);
	due = t->due;
	t->due = false;
	memcpy(name, t->name, sizeof(t->name));
	pthread_mutex_unlock(&t->lock);
	return due;
}

static void rest(struct cli_thinner *t)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += EVERY_S;
	pthread_mutex_lock(&t->lock);
	while (!t->ending && pthread_cond_timedwait(&t->changed, &t->lock, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&t->lock);
}

static void *work(void *arg)
{
	struct cli_thinner *t = arg;
	char name[64];

	while (next(t, name)) {
		struct kage_err *e = prune(t, name);

		kage_err_free(t->e);
		t->e = e;
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

void cli_thinner_kick(struct cli_thinner *t, const char *name)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->due = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

void cli_thinner_finish(struct cli_thinner *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->ending = true;
	pthread_cond_signal(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	if (t->e)
		cli_note(t->cli, "%s", kage_err_message(t->e));
	kage_err_free(t->e);
	free(t);
}
