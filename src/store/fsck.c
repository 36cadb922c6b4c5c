/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking a store, and making whole what is left of it.
 *
 * A history is checked in two steps: each pack by itself, which tells what of it can be used; then which
 * images a way of usable differences connects with a usable keyframe. Repairing has the lock all along
 * and takes nothing away before what it is replaced by is durable.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "store/pack_read.h"
#include "store/prune.h"
#include "store/rewrite.h"
#include "store/tags.h"

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
	bool repair;
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

/* An image of the history that is being checked. */
struct checked {
	struct pack_health health;
	bool gone; /* removed meanwhile */
	bool bad, unreadable;
	bool lost;
};

static struct kage_err *name_pack(struct fsck *f, const struct history *h, uint64_t number)
{
	_cleanup_free_ char *path = kage_dir_pack_path(h, number);

	f->pack = path ? arena_strdup(&f->arena, path) : NULL;
	f->bad = f->unreadable = false;
	return f->pack ? NULL : kage_err_nomem();
}

static struct kage_err *check_pack(struct fsck *f, const struct history *h, uint64_t number,
				   struct checked *c)
{
	struct pack_place place = kage_dir_place(h, number);
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;
	struct stat st;

	TRY(name_pack(f, h, number));
	e = kage_dir_pack_open(h, number, &fd);
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		c->gone = true;
		err_drop(e);
		return NULL;
	}
	if (!e)
		e = kage_pack_check(fd, f->pack, &place, add_finding, f, &c->health);
	if (e && kage_err_code(e) == KAGE_NOMEM)
		return e;
	if (e)
		add_finding(f, e);
	if (fd >= 0 && fstat(fd, &st) == 0)
		f->result.bytes += (uint64_t)st.st_size;
	f->result.n_packs++;
	f->result.n_encrypted += c->health.encrypted;
	f->result.n_locked += c->health.locked;
	c->bad = f->bad;
	c->unreadable = f->unreadable;
	return f->out_of_memory ? kage_err_nomem() : NULL;
}

/* --- all of a history ------------------------------------------------------------------------- */

static struct kage_err *check_packs(struct fsck *f, struct way_map *m, struct checked *checked)
{
	for (size_t i = 0; i < m->n; i++) {
		struct way_node *node = &m->nodes[i];

		TRY(kage_ctx_poll(f->store->ctx));
		kage_ctx_progress(f->store->ctx, "check", i, m->n);
		TRY(check_pack(f, m->h, node->number, &checked[i]));
		TRY(kage_way_load(m, i));
		node->bad_pages = !checked[i].health.pages;
		node->bad_difference = !checked[i].health.difference;
	}
	return NULL;
}

/* What image I is to who has its history, beyond what was found in its pack. */
static struct kage_err *judge(struct fsck *f, const struct way_map *m, size_t i, bool reachable,
			      struct checked *c)
{
	const char *fate = NULL;

	c->lost = !c->gone && !c->unreadable && (!c->health.image || !reachable);
	f->result.n_bad += c->bad;
	f->result.n_unreadable += c->unreadable && !c->bad;
	f->result.n_lost += c->lost;
	if (c->lost && !c->bad)
		fate = "whole, but it needs another pack that is damaged or gone: the image is lost";
	else if (c->lost)
		fate = "the image is lost";
	else if (c->bad)
		fate = "the image can still be restored, by way of others";
	if (!fate)
		return NULL;
	TRY(name_pack(f, m->h, m->nodes[i].number));
	add_finding(f, kage_err_new(KAGE_CORRUPT, "%s", fate));
	return f->out_of_memory ? kage_err_nomem() : NULL;
}

static struct kage_err *judge_all(struct fsck *f, struct way_map *m, struct checked *checked)
{
	_cleanup_free_ bool *reachable = NULL;

	TRY(kage_prune_reachable(m, &reachable));
	for (size_t i = 0; i < m->n; i++)
		TRY(judge(f, m, i, reachable[i], &checked[i]));
	return NULL;
}

/* --- repairing -------------------------------------------------------------------------------- */

static const char damaged_name[] = ".damaged";

static struct kage_err *move_away(struct fsck *f, const struct way_map *m, size_t i, int damaged)
{
	const struct history *h = m->h;
	uint64_t number = m->nodes[i].number;
	char name[PACK_NAME_BYTES], to[2 * PACK_NAME_BYTES];
	int r;

	kage_dir_pack_name(number, name);
	r = renameat2(h->fd, name, damaged, name, RENAME_NOREPLACE);
	/* Another image had the number once, and was damaged too. */
	for (unsigned n = 1; r < 0 && errno == EEXIST && n < 1000; n++) {
		snprintf(to, sizeof(to), "%s.%u", name, n);
		r = renameat2(h->fd, name, damaged, to, RENAME_NOREPLACE);
	}
	if (r < 0)
		return kage_err_sys(errno, "move %s/%s to %s", h->name, name, damaged_name);
	f->result.n_moved++;
	TRY(name_pack(f, h, number));
	add_finding(f, kage_err_new(KAGE_CORRUPT, "moved to %s/%s/%s", h->store->path, h->name,
				    damaged_name));
	return NULL;
}

static struct kage_err *move_lost(struct fsck *f, const struct way_map *m, const bool *lost)
{
	const struct history *h = m->h;
	_cleanup_fd_ int damaged = -1;

	if (mkdirat(h->fd, damaged_name, 0700) < 0 && errno != EEXIST)
		return kage_err_sys(errno, "make %s/%s/%s", h->store->path, h->name, damaged_name);
	damaged = openat(h->fd, damaged_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (damaged < 0)
		return kage_err_sys(errno, "open %s/%s/%s", h->store->path, h->name, damaged_name);
	for (size_t i = m->n; i-- > 0;)
		if (lost[i])
			TRY(move_away(f, m, i, damaged));
	kage_tags_drop_dangling(h);
	if (fsync(damaged) < 0 || fsync(h->fd) < 0)
		return kage_err_sys(errno, "sync the directory %s/%s", h->store->path, h->name);
	return NULL;
}

/* Images whose packs are damaged, and that can be read. */
static struct kage_err *rewrite_damaged(struct fsck *f, struct way_map *m,
					const struct checked *checked)
{
	for (size_t i = 0; i < m->n; i++) {
		if (!checked[i].bad || checked[i].lost)
			continue;
		TRY(kage_rewrite_as_keyframe(m, i));
		f->result.n_repaired++;
		TRY(name_pack(f, m->h, m->nodes[i].number));
		add_finding(f, kage_err_new(KAGE_CORRUPT, "written anew"));
	}
	return NULL;
}

static struct kage_err *repair_history(struct fsck *f, struct way_map *m,
				       const struct checked *checked)
{
	_cleanup_free_ bool *lost = calloc(m->n + 1, sizeof(*lost));
	bool any = false;

	if (!lost)
		return kage_err_nomem();
	for (size_t i = 0; i < m->n; i++) {
		if (checked[i].unreadable)
			return NULL;
		lost[i] = checked[i].lost;
		any |= lost[i];
	}
	kage_rewrite_clean(m->h);
	TRY(rewrite_damaged(f, m, checked));
	if (!any)
		return NULL;
	TRY(kage_prune_prepare(m, lost));
	return move_lost(f, m, lost);
}

/* --- all of it -------------------------------------------------------------------------------- */

/* *ret_odd: something was missing, or what it needs was, which somebody may have removed meanwhile if there was no
 * lock. */
static struct kage_err *check_in(struct fsck *f, const struct history *h, bool *ret_odd)
{
	_cleanup_way_ struct way_map m = { 0 };
	_cleanup_free_ struct checked *checked = NULL;

	TRY(kage_way_init(h, &m));
	checked = calloc(m.n + 1, sizeof(*checked));
	if (!checked)
		return kage_err_nomem();
	TRY(check_packs(f, &m, checked));
	TRY(judge_all(f, &m, checked));
	*ret_odd = false;
	for (size_t i = 0; i < m.n; i++)
		*ret_odd |= checked[i].gone || checked[i].lost;
	return f->repair ? repair_history(f, &m, checked) : NULL;
}

/* Tells that there are encrypted images in NAME, if more of them are counted than BEFORE. */
static struct kage_err *note_encrypted(struct fsck *f, const char *name, size_t before)
{
	const char *others = f->result.encrypted;

	if (f->result.n_encrypted == before)
		return NULL;
	f->result.encrypted =
		arena_printf(&f->arena, "%s%s%s", others ? others : "", others ? ", " : "", name);
	return f->result.encrypted ? NULL : kage_err_nomem();
}

/* Who only looks does so without a lock at first: it may take long, and nobody shall wait for it. */
static struct kage_err *check_history(struct fsck *f, const char *name)
{
	_cleanup_history_ struct history h = HISTORY_INIT, locked = HISTORY_INIT;
	struct kage_fsck_result before = f->result;
	bool odd;

	if (f->repair) {
		TRY(kage_dir_history_lock(f->store, name, false, &locked));
		TRY(check_in(f, &locked, &odd));
		return note_encrypted(f, name, before.n_encrypted);
	}
	TRY(kage_dir_history_open(f->store, name, &h));
	TRY(check_in(f, &h, &odd));
	if (odd) {
		f->result = before;
		TRY(kage_dir_history_share(f->store, name, &locked));
		TRY(check_in(f, &locked, &odd));
	}
	return note_encrypted(f, name, before.n_encrypted);
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
	f->result.n_bad += f->bad;
	f->result.n_unreadable += f->unreadable && !f->bad;
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
	if (!f->result.encrypted)
		f->result.encrypted = "";
	block->arena = f->arena;
	f->arena = ARENA_INIT;
	f->result.findings = block->findings;
	*ret_result = f->result;
	return NULL;
}

static struct kage_err *fsck_store(struct fsck *f, const char *name,
				   struct kage_fsck_result *ret_result)
{
	struct kage_err *e = name ? check_history(f, name) : check_all(f);

	if (!e)
		e = finish(f, ret_result);
	arena_deinit(&f->arena);
	return e;
}

struct kage_err *kage_store_fsck(struct kage_store *store, const char *name,
				 struct kage_fsck_result *ret_result)
{
	return fsck_store(&(struct fsck){ .store = store }, name, ret_result);
}

struct kage_err *kage_store_repair(struct kage_store *store, const char *name,
				   struct kage_fsck_result *ret_result)
{
	return fsck_store(&(struct fsck){ .store = store, .repair = true }, name, ret_result);
}
