/* SPDX-License-Identifier: Apache-2.0 */
#include "store/rewrite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/secret.h"
#include "store/chain.h"
#include "store/pack_read.h"
#include "store/pack_write.h"
#include "store/patch.h"

/* One writer at a time: the history is locked. */
static const char temporary_name[] = ".tmp-pack";

void kage_rewrite_clean(const struct history *h)
{
	unlinkat(h->fd, temporary_name, 0);
}

/* --- the file --------------------------------------------------------------------------------- */

/* Renames the file in FD, which has the temporary name, over the pack of node I. */
static struct kage_err *replace(const struct way_map *m, size_t i, int fd)
{
	const struct history *h = m->h;
	char name[PACK_NAME_BYTES];

	kage_dir_pack_name(m->nodes[i].number, name);
	if (fdatasync(fd) < 0)
		return kage_err_sys(errno, "sync a pack of %s", h->name);
	if (renameat(h->fd, temporary_name, h->fd, name) < 0)
		return kage_err_sys(errno, "replace the pack %s/%s", h->name, name);
	if (fsync(h->fd) < 0)
		return kage_err_sys(errno, "sync the directory %s/%s", h->store->path, h->name);
	return NULL;
}

static struct kage_err *write_file(struct way_map *m, size_t i, const struct kage_image *image,
				   const struct pack_options *o)
{
	const struct history *h = m->h;
	_cleanup_fd_ int fd = -1;
	struct pack_written written;
	struct kage_err *e;

	kage_rewrite_clean(h);
	fd = openat(h->fd, temporary_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return kage_err_sys(errno, "make a file in %s/%s", h->store->path, h->name);
	e = kage_pack_write(h->store->ctx, fd, temporary_name, image, o, &written);
	if (!e)
		e = replace(m, i, fd);
	if (e) {
		kage_rewrite_clean(h);
		return e;
	}
	if (o->sealing)
		kage_keys_renew(h->store->keys, m->nodes[i].id, &o->sealing->key);
	return kage_way_reload(m, i);
}

/* --- the difference --------------------------------------------------------------------------- */

struct chain_of_differences {
	struct difference *v;
	size_t n;
};

static void release(struct chain_of_differences *c)
{
	for (size_t i = 0; i < c->n; i++)
		kage_difference_deinit(&c->v[i]);
	free(c->v);
}

/* The differences from node I to its BASE, joined. */
static struct kage_err *join(struct way_map *m, size_t i, size_t base, struct patch **ret_patch)
{
	_cleanup_(release) struct chain_of_differences c = { 0 };
	size_t n = 0;

	for (size_t at = i; at != base; at = kage_way_base(m, at))
		n++;
	c.v = calloc(n + 1, sizeof(*c.v));
	if (!c.v)
		return kage_err_nomem();
	for (size_t at = i; at != base; at = kage_way_base(m, at)) {
		TRY(kage_way_difference(m, at, false, &c.v[c.n]));
		c.n++;
	}
	return kage_patch_create(c.v, c.n, NULL, 0, ret_patch);
}

/* Writes IMAGE, that of node I, with the difference to node BASE, unless that is NO_NODE. Its description is D, and
 * leans on none then. */
static struct kage_err *write_sealed(struct way_map *m, size_t i, const struct kage_image *image,
				     const struct kage_description *d, bool keyframe, size_t base,
				     struct pack_sealing *sealing)
{
	struct pack_difference difference = { 0 };
	struct pack_options o = {
		.history = m->h->name,
		.id = m->nodes[i].id,
		.keyframe = keyframe,
		.sealing = sealing,
		.description = d,
	};
	struct patch *patch = NULL;
	struct kage_err *e;

	if (base == NO_NODE)
		return write_file(m, i, image, &o);
	TRY(join(m, i, base, &patch));
	difference.base_number = m->nodes[base].number;
	memcpy(difference.base_id, m->nodes[base].id, sizeof(difference.base_id));
	difference.runs = patch->runs;
	difference.n_runs = patch->base.n_runs;
	difference.before = &patch->base;
	o.difference = &difference;
	e = write_file(m, i, image, &o);
	kage_patch_destroy(patch);
	return e;
}

/* The same; an encrypted pack stays so, for the same recipient. */
static struct kage_err *write_image(struct way_map *m, size_t i, const struct kage_image *image,
				    bool keyframe, size_t base)
{
	_cleanup_(kage_description_deinit) struct kage_description d = { 0 };
	const struct way_node *node = &m->nodes[i];
	struct pack_place place = kage_dir_place(m->h, node->number);
	struct pack_sealing *sealing = NULL;
	struct kage_err *e;

	TRY(kage_description_read(&place, &d));
	if (node->encrypted)
		TRY(kage_pack_sealing_create(node->recipient, node->number, &sealing));
	e = write_sealed(m, i, image, &d, keyframe, base, sealing);
	kage_secret_free(sealing);
	return e;
}

struct kage_err *kage_rewrite_as_keyframe(struct way_map *m, size_t i)
{
	struct kage_image *image;
	struct kage_err *e = kage_chain_open(m, i, &image);

	if (!e) {
		e = write_image(m, i, image, true, kage_way_base(m, i));
		kage_image_close(image);
	}
	return kage_err_wrap(e, "store %s@%llu as a keyframe", m->h->name,
			     (unsigned long long)m->nodes[i].number);
}

static struct kage_err *rewrite_neighbour(struct way_map *m, size_t i, size_t base)
{
	_cleanup_free_ char *path = kage_dir_pack_path(m->h, m->nodes[i].number);
	struct pack_place place = kage_dir_place(m->h, m->nodes[i].number);
	struct kage_image *image;
	struct kage_err *e;
	bool keyframe;
	int fd;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(m->h, m->nodes[i].number, &fd));
	TRY(kage_pack_open(fd, path, &place, &image, &keyframe));
	e = write_image(m, i, image, keyframe, base);
	kage_image_close(image);
	return e;
}

struct kage_err *kage_rewrite_neighbour(struct way_map *m, size_t i, size_t base)
{
	TRY_WRAP(rewrite_neighbour(m, i, base), "store %s@%llu as a difference from %s@%llu",
		 m->h->name, (unsigned long long)m->nodes[i].number, m->h->name,
		 (unsigned long long)m->nodes[base].number);
	return NULL;
}
