/* SPDX-License-Identifier: Apache-2.0 */
/* Checking a store. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "store/dir.h"
#include "store/pack_read.h"

/* What stands before the findings that the caller sees. */
struct fsck_block {
	struct arena arena; /* of the strings */
	struct kage_finding findings[];
};

struct fsck {
	struct kage_store *store;
	struct arena arena;
	struct kage_finding *findings;
	struct kage_fsck_result result;
	const char *pack; /* the one being read */
	bool bad, unreadable;
	bool out_of_memory;
};

void kage_fsck_result_free(struct kage_fsck_result *result)
{
	struct fsck_block *block;

	if (!result || !result->findings)
		return;
	block = (struct fsck_block *)((char *)result->findings -
				      offsetof(struct fsck_block, findings));
	arena_deinit(&block->arena);
	free(block);
	*result = (struct kage_fsck_result){ 0 };
}

static void add_finding(void *user, struct kage_err *e)
{
	struct fsck *f = user;
	struct kage_finding *finding;
	bool unreadable = kage_err_code(e) != KAGE_CORRUPT;

	finding = arena_push(&f->arena, &f->findings, &f->result.n_findings, sizeof(*finding));
	if (finding) {
		finding->pack = f->pack;
		finding->unreadable = unreadable;
		finding->problem = arena_strdup(
			&f->arena, kage_dir_without_path(kage_err_message(e), f->pack));
	}
	if (!finding || !finding->problem)
		f->out_of_memory = true;
	f->bad |= !unreadable;
	f->unreadable |= unreadable;
	err_drop(e);
}

/* Damage is the worse news: who has both is counted as damaged. */
static void count_trouble(struct fsck *f)
{
	f->result.n_bad += f->bad;
	f->result.n_unreadable += f->unreadable && !f->bad;
}

static struct kage_err *check_pack(struct fsck *f, const struct history *h, uint64_t number)
{
	_cleanup_free_ char *path = kage_dir_pack_path(h, number);
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;
	struct stat st;

	f->pack = path ? arena_strdup(&f->arena, path) : NULL;
	f->bad = f->unreadable = false;
	if (!f->pack)
		return kage_err_nomem();
	e = kage_dir_pack_open(h, number, &fd);
	if (e && kage_err_code(e) == KAGE_NOTFOUND) { /* removed meanwhile */
		err_drop(e);
		return NULL;
	}
	if (!e)
		e = kage_pack_check(fd, path, add_finding, f, NULL);
	if (e && kage_err_code(e) == KAGE_NOMEM)
		return e;
	if (e)
		add_finding(f, e);
	if (fd >= 0 && fstat(fd, &st) == 0)
		f->result.bytes += (uint64_t)st.st_size;
	f->result.n_packs++;
	count_trouble(f);
	return f->out_of_memory ? kage_err_nomem() : NULL;
}

static struct kage_err *check_history(struct fsck *f, const char *name)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_history_open(f->store, name, &h));
	TRY(kage_dir_numbers(&h, &numbers, &n));
	for (size_t i = 0; i < n; i++) {
		TRY(kage_ctx_poll(f->store->ctx));
		kage_ctx_progress(f->store->ctx, "check", i, n);
		TRY(check_pack(f, &h, numbers[i]));
	}
	return NULL;
}

/* A history that cannot be read is told like a damaged pack, and does not keep the others from being
 * checked. */
static struct kage_err *pass_over(struct fsck *f, const char *name, struct kage_err *e)
{
	enum kage_code code = kage_err_code(e);

	if (code == KAGE_NOTFOUND) { /* removed meanwhile */
		err_drop(e);
		return NULL;
	}
	if (code == KAGE_NOMEM || code == KAGE_INTERRUPTED)
		return e;
	f->pack = arena_printf(&f->arena, "%s/%s", f->store->path, name);
	if (!f->pack)
		f->out_of_memory = true;
	f->bad = f->unreadable = false;
	add_finding(f, e);
	count_trouble(f);
	return f->out_of_memory ? kage_err_nomem() : NULL;
}

static struct kage_err *check_all(struct fsck *f)
{
	char **names = NULL;
	size_t n = 0;
	struct kage_err *e = kage_dir_names(f->store, &names, &n);

	for (size_t i = 0; !e && i < n; i++) {
		e = check_history(f, names[i]);
		if (e)
			e = pass_over(f, names[i], e);
	}
	kage_dir_free_names(names, n);
	return e;
}

/* Moves the findings to where kage_fsck_result_free() finds all. */
static struct kage_err *finish(struct fsck *f, struct kage_fsck_result *ret_result)
{
	size_t n = f->result.n_findings;
	struct fsck_block *block = calloc(1, sizeof(*block) + (n + 1) * sizeof(*block->findings));

	if (!block)
		return kage_err_nomem();
	for (size_t i = 0; i < n; i++)
		block->findings[i] = f->findings[i];
	block->arena = f->arena;
	f->arena = ARENA_INIT;
	f->result.findings = block->findings;
	*ret_result = f->result;
	return NULL;
}

struct kage_err *kage_store_fsck(struct kage_store *store, const char *name,
				 struct kage_fsck_result *ret_result)
{
	struct fsck f = { .store = store };
	struct kage_err *e = name ? check_history(&f, name) : check_all(&f);

	if (!e)
		e = finish(&f, ret_result);
	arena_deinit(&f.arena);
	return e;
}
