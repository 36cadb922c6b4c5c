/* SPDX-License-Identifier: Apache-2.0 */
#include "store/description.h"

#include "base/cleanup.h"
#include "store/dir.h"

enum { SMALL_BYTES = 64 * 1024 };

static struct kage_err *read_at(const struct pack_place *place, const uint8_t *id, unsigned depth,
				struct kage_description *ret_description);

static struct kage_err *no_neighbour(uint64_t offset, const struct difference_place *neighbour,
				     const struct pack_place *place, const char *why)
{
	return kage_format_damage(offset, "its description needs that of %s@%llu, %s",
				  place && place->h ? place->history : "",
				  (unsigned long long)neighbour->base_number, why);
}

/* The description that R leans on. */
static struct kage_err *read_neighbour(const struct record *r,
				       const struct difference_place *neighbour,
				       const struct pack_place *place, unsigned depth,
				       struct kage_description *ret_description)
{
	struct pack_place at;
	struct kage_err *e;

	if (!neighbour->offset || !place || !place->h)
		return no_neighbour(r->offset, neighbour, place, "which is not known here");
	/* Neighbours have lower numbers, so this ends in any case. */
	if (neighbour->base_number >= place->number || depth >= LEANING_MAX)
		return no_neighbour(r->offset, neighbour, place, "which cannot be");
	at = kage_dir_place(place->h, neighbour->base_number);
	e = read_at(&at, neighbour->base_id, depth + 1, ret_description);
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		return no_neighbour(r->offset, neighbour, place, "which is gone");
	}
	return kage_err_wrap(e, "its description needs that of %s@%llu", place->history,
			     (unsigned long long)neighbour->base_number);
}

static struct kage_err *read_in(const struct pack_file *f, const struct difference_place *neighbour,
				const struct pack_place *place, unsigned depth,
				struct kage_description *ret_description)
{
	struct kage_description d = { 0 }, before = { 0 };
	struct kage_err *e = NULL;
	struct record r;

	TRY(kage_pack_read_head(f, f->footer.image_offset, f->footer_offset, RECORD_IMAGE, &r));
	/* Those who remove the neighbour go by the header. */
	if (r.leaning && (!f->pack.leaning || f->pack.keyframe))
		return kage_format_damage(r.offset, "a record that cannot lean on another does");
	if (r.leaning)
		TRY(read_neighbour(&r, neighbour, place, depth, &before));
	d.size = r.raw_bytes;
	d.leans = r.leaning ? before.leans + 1 : 0;
	e = kage_pack_read_leaning(f, &r, before.bytes, before.size, &d.bytes);
	kage_description_deinit(&before);
	if (!e)
		*ret_description = d;
	return e;
}

/* The description of image ID, in the pack at PLACE. */
static struct kage_err *read_file(struct pack_file *f, const struct pack_place *place,
				  const uint8_t *id, unsigned depth,
				  struct kage_description *ret_description)
{
	_cleanup_free_ uint8_t *payload = NULL;
	struct summary summary;

	TRY(kage_pack_open_file(f, SMALL_BYTES, &payload, &summary));
	if (id && memcmp(f->pack.id, id, IMAGE_ID_BYTES) != 0)
		return kage_err_new(KAGE_NOTFOUND, "it is another image");
	TRY(kage_pack_unlock(f, payload, place));
	return read_in(f, &summary.difference, place, depth, ret_description);
}

static struct kage_err *read_at(const struct pack_place *place, const uint8_t *id, unsigned depth,
				struct kage_description *ret_description)
{
	struct pack_file f = { .fd = -1, .direct_fd = -1, .path = "a neighbour" };
	struct kage_err *e;

	TRY(kage_dir_pack_open(place->h, place->number, &f.fd));
	e = read_file(&f, place, id, depth, ret_description);
	kage_pack_file_deinit(&f);
	close_fd(f.fd);
	return e;
}

struct kage_err *kage_description_of(const struct pack_file *f, const struct summary *summary,
				     const struct pack_place *place,
				     struct kage_description *ret_description)
{
	return read_in(f, &summary->difference, place, 0, ret_description);
}

struct kage_err *kage_description_read(const struct pack_place *place,
				       struct kage_description *ret_description)
{
	return read_at(place, NULL, 0, ret_description);
}
