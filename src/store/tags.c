/* SPDX-License-Identifier: Apache-2.0 */
#include "store/tags.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"

static const char prefix[] = ".tag-";
static const char temporary[] = ".tag-~"; /* no tag has that name; under the lock there is one */
enum { LINK_BYTES = sizeof(prefix) + KAGE_NAME_BYTES };

bool kage_tags_can_be(const char *text)
{
	struct kage_err *e = kage_store_check_name(text);

	if (e) {
		err_drop(e);
		return false;
	}
	return isalpha((unsigned char)text[0]) && strcmp(text, "latest") != 0 &&
	       strcmp(text, "first") != 0;
}

static void link_name(const char *tag, char name[LINK_BYTES])
{
	snprintf(name, LINK_BYTES, "%s%s", prefix, tag);
}

/* --- reading ---------------------------------------------------------------------------------- */

struct kage_err *kage_tags_find(const struct history *h, const char *tag, uint64_t *ret_number)
{
	char name[LINK_BYTES], target[PACK_NAME_BYTES];
	ssize_t n;

	*ret_number = 0;
	if (!kage_tags_can_be(tag))
		return NULL;
	link_name(tag, name);
	n = readlinkat(h->fd, name, target, sizeof(target) - 1);
	if (n < 0 && (errno == ENOENT || errno == EINVAL))
		return NULL;
	if (n < 0)
		return kage_err_sys(errno, "read the tag %s/%s/%s", h->store->path, h->name, name);
	target[n] = '\0';
	*ret_number = kage_dir_pack_number(target);
	return NULL;
}

static int compare(const void *a, const void *b)
{
	const struct kage_tag *x = a, *y = b;

	if (x->number != y->number)
		return x->number < y->number ? -1 : 1;
	return strcmp(x->name, y->name);
}

struct kage_err *kage_tags_read(const struct history *h, struct arena *a,
				struct kage_tag **ret_tags, size_t *ret_n)
{
	_cleanup_dir_ DIR *dir = kage_file_opendir(h->fd, ".");
	struct kage_tag *tags = NULL;
	const struct dirent *d;
	size_t n = 0;

	if (!dir)
		return kage_err_sys(errno, "read the history %s/%s", h->store->path, h->name);
	while ((d = readdir(dir))) {
		const char *tag = d->d_name + strlen(prefix);
		struct kage_tag *slot;
		uint64_t number = 0;

		if (strncmp(d->d_name, prefix, strlen(prefix)) != 0)
			continue;
		TRY(kage_tags_find(h, tag, &number));
		slot = number ? arena_push(a, &tags, &n, sizeof(*tags)) : NULL;
		if (!number)
			continue;
		if (!slot || !(slot->name = arena_strdup(a, tag)))
			return kage_err_nomem();
		slot->number = number;
	}
	if (n)
		qsort(tags, n, sizeof(*tags), compare);
	*ret_tags = tags;
	*ret_n = n;
	return NULL;
}

struct kage_err *kage_tags_refuse(const struct history *h, uint64_t first, uint64_t last)
{
	_cleanup_(arena_deinit) struct arena a = ARENA_INIT;
	struct kage_tag *tags = NULL;
	size_t n = 0;

	TRY(kage_tags_read(h, &a, &tags, &n));
	for (size_t i = 0; i < n; i++)
		if (tags[i].number >= first && tags[i].number <= last)
			return kage_err_new(
				KAGE_BUSY,
				"%s@%llu has the tag '%s'; 'kage tag -d %s@%s' takes it "
				"away, 'kage rm --force' removes both",
				h->name, (unsigned long long)tags[i].number, tags[i].name, h->name,
				tags[i].name);
	return NULL;
}

/* --- the public list -------------------------------------------------------------------------- */

/* What stands before the tags that the caller sees. */
struct tags_block {
	struct arena arena;
	struct kage_tag tags[];
};

void kage_tags_free(struct kage_tags *tags)
{
	struct tags_block *block;

	if (!tags || !tags->tags)
		return;
	block = (struct tags_block *)((char *)tags->tags - offsetof(struct tags_block, tags));
	arena_deinit(&block->arena);
	free(block);
	*tags = (struct kage_tags){ 0 };
}

struct kage_err *kage_store_tags(struct kage_store *store, const char *name,
				 struct kage_tags *ret_tags)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	struct arena a = ARENA_INIT;
	struct kage_tag *tags = NULL;
	struct tags_block *block;
	struct kage_err *e;
	size_t n = 0;

	TRY(kage_dir_history_open(store, name, &h));
	e = kage_tags_read(&h, &a, &tags, &n);
	block = e ? NULL : calloc(1, sizeof(*block) + (n + 1) * sizeof(*tags));
	if (!block) {
		arena_deinit(&a);
		return e ? e : kage_err_nomem();
	}
	block->arena = a;
	if (n)
		memcpy(block->tags, tags, n * sizeof(*tags));
	*ret_tags = (struct kage_tags){ .tags = block->tags, .n = n };
	return NULL;
}

/* --- changing, under the history's lock ------------------------------------------------------- */

static struct kage_err *sync_history(const struct history *h)
{
	if (fsync(h->fd) < 0)
		return kage_err_sys(errno, "sync the directory %s/%s", h->store->path, h->name);
	return NULL;
}

/* A link to the pack of NUMBER, which takes the place of what has the name of TAG. */
static struct kage_err *put_link(const struct history *h, uint64_t number, const char *tag)
{
	char name[LINK_BYTES], pack[PACK_NAME_BYTES];

	link_name(tag, name);
	kage_dir_pack_name(number, pack);
	unlinkat(h->fd, temporary, 0); /* of one who was killed here */
	if (symlinkat(pack, h->fd, temporary) < 0)
		return kage_err_sys(errno, "make a tag in %s/%s", h->store->path, h->name);
	if (renameat(h->fd, temporary, h->fd, name) < 0) {
		struct kage_err *e =
			kage_err_sys(errno, "make the tag %s/%s/%s", h->store->path, h->name, name);

		unlinkat(h->fd, temporary, 0);
		return e;
	}
	return sync_history(h);
}

struct kage_err *kage_store_tag(struct kage_store *store, const char *name, uint64_t number,
				const char *tag, bool move)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	_cleanup_fd_ int pack = -1;
	uint64_t before = 0;

	if (!kage_tags_can_be(tag))
		return kage_err_new(KAGE_INVALID,
				    "'%s' cannot be a tag: tags begin with a letter, have only "
				    "letters, digits and . _ + - in them, 63 at most, and are "
				    "neither latest nor first",
				    tag);
	TRY(kage_dir_history_lock(store, name, false, &h));
	TRY(kage_dir_pack_open(&h, number, &pack));
	TRY(kage_tags_find(&h, tag, &before));
	if (before && before != number && !move)
		return kage_err_new(KAGE_BUSY, "the tag '%s' is on %s@%llu; --force moves it", tag,
				    h.name, (unsigned long long)before);
	return before == number ? NULL : put_link(&h, number, tag);
}

struct kage_err *kage_store_untag(struct kage_store *store, const char *name, const char *tag)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	char link[LINK_BYTES];

	if (!kage_tags_can_be(tag))
		return kage_err_new(KAGE_NOTFOUND, "%s has no tag '%s'", name, tag);
	TRY(kage_dir_history_lock(store, name, false, &h));
	link_name(tag, link);
	if (unlinkat(h.fd, link, 0) == 0)
		return sync_history(&h);
	if (errno == ENOENT)
		return kage_err_new(KAGE_NOTFOUND, "%s has no tag '%s'; 'kage tag %s' lists them",
				    name, tag, name);
	return kage_err_sys(errno, "remove the tag '%s' of %s", tag, name);
}

void kage_tags_drop_dangling(const struct history *h)
{
	_cleanup_(arena_deinit) struct arena a = ARENA_INIT;
	struct kage_tag *tags = NULL;
	size_t n = 0;

	unlinkat(h->fd, temporary, 0);
	err_drop(kage_tags_read(h, &a, &tags, &n));
	for (size_t i = 0; i < n; i++) {
		char name[LINK_BYTES], pack[PACK_NAME_BYTES];

		kage_dir_pack_name(tags[i].number, pack);
		link_name(tags[i].name, name);
		if (faccessat(h->fd, pack, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
			unlinkat(h->fd, name, 0);
	}
}
