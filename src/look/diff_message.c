/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two messages of one type, by the description that protobuf has of it: a new field needs no code
 * here. Elements of lists are told apart by their key, where they have one, else by their place.
 */
#include <inttypes.h>
#include <string.h>

#include "look/diff.h"

enum { BYTES_SHOWN = 24, DEPTH_MAX = 8 };

/* Fields that are numbers within one image only: of files, which have paths, and others. */
static const char *const file_fields[] = { "file", "fifo_file", "cwd_file", "root_file",
					   "exe_file" };
static const char *const inner_fields[] = {
	"id", "space", "description", "peer_description", "pipe", "object_space", "mappings"
};

/* The fields by which elements of a list are told apart. */
static const char *const key_fields[] = {
	"signal", "resource", "which", "id", "wd", "fd", "start"
};

static bool is_one_of(const char *name, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}
#define IS_ONE_OF(name, names) is_one_of((name), (names), sizeof(names) / sizeof((names)[0]))

/* --- values ----------------------------------------------------------------------------------- */

static bool is_message(const ProtobufCFieldDescriptor *f)
{
	return f->type == PROTOBUF_C_TYPE_MESSAGE;
}

static size_t value_bytes(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_UINT64:
		return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

static const char *bytes_words(struct arena *a, const ProtobufCBinaryData *b)
{
	char *text = arena_alloc(a, 2 * BYTES_SHOWN + 1);

	if (!text || b->len > BYTES_SHOWN)
		return text ? arena_printf(a, "%zu bytes", b->len) : NULL;
	for (size_t i = 0; i < b->len; i++)
		snprintf(text + 2 * i, 3, "%02x", b->data[i]);
	return text;
}

/* Fields whose numbers are read as bits or addresses. */
static bool is_hexadecimal(const char *name)
{
	static const char *const plain[] = { "left", "count", "offset", "soft",    "hard",
					     "time", "value", "ticks",  "interval" };

	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (strstr(name, plain[i]))
			return false;
	return true;
}

/* The value at P in words, which live in D->words; NULL without memory. */
static const char *words(struct diff *d, const struct kage_image *image,
			 const ProtobufCFieldDescriptor *f, const void *p)
{
	const ProtobufCEnumValue *value;
	const Kage__FileObject *file;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		return *(const char *const *)p;
	case PROTOBUF_C_TYPE_BYTES:
		return bytes_words(&d->words, p);
	case PROTOBUF_C_TYPE_BOOL:
		return *(const protobuf_c_boolean *)p ? "yes" : "no";
	case PROTOBUF_C_TYPE_ENUM:
		value = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)p);
		return value ? value->name : "?";
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
		return arena_printf(&d->words, "%" PRId64, *(const int64_t *)p);
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
		return arena_printf(&d->words, "%" PRId32, *(const int32_t *)p);
	case PROTOBUF_C_TYPE_UINT64:
		return arena_printf(&d->words, is_hexadecimal(f->name) ? "%#" PRIx64 : "%" PRIu64,
				    *(const uint64_t *)p);
	default:
		break;
	}
	if (IS_ONE_OF(f->name, file_fields)) {
		file = kage_image_file(image, *(const uint32_t *)p);
		return file ? file->path : "none";
	}
	return arena_printf(&d->words, strstr(f->name, "flags") ? "%#" PRIo32 : "%" PRIu32,
			    *(const uint32_t *)p);
}

static bool same_value(const ProtobufCFieldDescriptor *f, const void *a, const void *b)
{
	const ProtobufCBinaryData *x = a, *y = b;

	if (f->type == PROTOBUF_C_TYPE_STRING)
		return strcmp(*(const char *const *)a, *(const char *const *)b) == 0;
	if (f->type == PROTOBUF_C_TYPE_BYTES)
		return x->len == y->len && (!x->len || memcmp(x->data, y->data, x->len) == 0);
	return memcmp(a, b, value_bytes(f->type)) == 0;
}

/* --- fields ----------------------------------------------------------------------------------- */

/* What is being compared. */
struct place {
	struct diff *d;
	enum kage_diff_part part;
	const char *object;
	int depth;
};

static struct kage_err *compare(const struct place *place, const char *prefix,
				const ProtobufCMessage *a, const ProtobufCMessage *b);

static void tell(const struct place *place, const char *field, const char *before,
		 const char *after)
{
	look_diff_tell(place->d, &(struct kage_difference){
					 .part = place->part,
					 .how = KAGE_DIFF_CHANGED,
					 .object = place->object,
					 .field = field,
					 .before = before,
					 .after = after,
				 });
}

/* The value of the field F of M; NULL when it is a choice that was not made. */
static const void *value_of(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m;

	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)(base + f->quantifier_offset) != f->id)
		return NULL;
	return base + f->offset;
}

static struct kage_err *compare_one(const struct place *place, const char *prefix,
				    const ProtobufCFieldDescriptor *f, const void *a, const void *b)
{
	struct diff *d = place->d;
	char name[128];
	const char *before, *after;

	snprintf(name, sizeof(name), "%s%s", prefix, f->name);
	if (is_message(f) && a && b && *(void *const *)a && *(void *const *)b) {
		snprintf(name, sizeof(name), "%s%s.", prefix, f->name);
		return compare(place, (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ? prefix : name,
			       *(const ProtobufCMessage *const *)a,
			       *(const ProtobufCMessage *const *)b);
	}
	if (is_message(f)) {
		bool had = a && *(void *const *)a, has = b && *(void *const *)b;

		if (had != has)
			tell(place, name, had ? "there" : NULL, has ? "there" : NULL);
		return NULL;
	}
	before = a ? words(d, d->a, f, a) : NULL;
	after = b ? words(d, d->b, f, b) : NULL;
	if ((a && !before) || (b && !after))
		return kage_err_nomem();
	if (a && b && IS_ONE_OF(f->name, file_fields) ? strcmp(before, after) == 0
						      : a && b && same_value(f, a, b))
		return NULL;
	if (a && b && strcmp(before, after) == 0)
		after = "others"; /* of the same length */
	if (a || b)
		tell(place, name, before, after);
	return NULL;
}

/* --- lists ------------------------------------------------------------------------------------ */

struct list {
	const char *items;
	size_t n;
};

static struct list list_of(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	return (struct list){ *(const char *const *)((const char *)m + f->offset),
			      *(const size_t *)((const char *)m + f->quantifier_offset) };
}

/* The number by which M is told from others in its list, or PLACE. */
static uint64_t key_of(const ProtobufCMessage *m, uint64_t place)
{
	for (size_t i = 0; i < sizeof(key_fields) / sizeof(key_fields[0]); i++) {
		const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(
			m->descriptor, key_fields[i]);

		if (f && f->label != PROTOBUF_C_LABEL_REPEATED && value_bytes(f->type) == 4)
			return *(const uint32_t *)((const char *)m + f->offset);
		if (f && f->label != PROTOBUF_C_LABEL_REPEATED && value_bytes(f->type) == 8)
			return *(const uint64_t *)((const char *)m + f->offset);
	}
	return place;
}

static const ProtobufCMessage *find(const struct list *list, uint64_t key)
{
	for (size_t i = 0; i < list->n; i++) {
		const ProtobufCMessage *m = ((const ProtobufCMessage *const *)list->items)[i];

		if (key_of(m, i) == key)
			return m;
	}
	return NULL;
}

/* Elements of X; those that Y has too are compared if BOTH, else only those that it lacks are told. */
static struct kage_err *compare_elements(const struct place *place, const char *prefix,
					 const ProtobufCFieldDescriptor *f, const struct list *x,
					 const struct list *y, bool both)
{
	for (size_t i = 0; i < x->n; i++) {
		const ProtobufCMessage *m = ((const ProtobufCMessage *const *)x->items)[i];
		uint64_t key = key_of(m, i);
		const ProtobufCMessage *other = find(y, key);
		char name[128];

		snprintf(name, sizeof(name), "%s%s[%" PRIu64 "]%s", prefix, f->name, key,
			 other ? "." : "");
		if (!other)
			tell(place, name, both ? "there" : NULL, both ? NULL : "there");
		else if (both)
			TRY(compare(place, name, m, other));
	}
	return NULL;
}

/* Lists of plain values are told whole. */
static struct kage_err *compare_plain(const struct place *place, const char *prefix,
				      const ProtobufCFieldDescriptor *f, const struct list *x,
				      const struct list *y)
{
	size_t size = value_bytes(f->type);
	char name[128], before[32], after[32];
	bool same = x->n == y->n;

	for (size_t i = 0; same && i < x->n; i++)
		same = same_value(f, x->items + i * size, y->items + i * size);
	if (same)
		return NULL;
	snprintf(name, sizeof(name), "%s%s", prefix, f->name);
	snprintf(before, sizeof(before), "%zu values", x->n);
	snprintf(after, sizeof(after), "%zu values", y->n);
	tell(place, name, before, x->n == y->n ? "others" : after);
	return NULL;
}

static struct kage_err *compare_list(const struct place *place, const char *prefix,
				     const ProtobufCFieldDescriptor *f, const ProtobufCMessage *a,
				     const ProtobufCMessage *b)
{
	struct list x = list_of(a, f), y = list_of(b, f);

	if (!is_message(f))
		return compare_plain(place, prefix, f, &x, &y);
	TRY(compare_elements(place, prefix, f, &x, &y, true));
	return compare_elements(place, prefix, f, &y, &x, false);
}

static struct kage_err *compare(const struct place *place, const char *prefix,
				const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	struct place inner = *place;

	if (inner.depth++ == DEPTH_MAX)
		return NULL;
	for (unsigned i = 0; i < a->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &a->descriptor->fields[i];

		if (IS_ONE_OF(f->name, inner_fields))
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED)
			TRY(compare_list(&inner, prefix, f, a, b));
		else
			TRY(compare_one(&inner, prefix, f, value_of(a, f), value_of(b, f)));
	}
	return NULL;
}

struct kage_err *look_diff_message(struct diff *d, enum kage_diff_part part, const char *object,
				   const char *prefix, const ProtobufCMessage *a,
				   const ProtobufCMessage *b)
{
	const struct place place = { .d = d, .part = part, .object = object };

	return compare(&place, prefix, a, b);
}
