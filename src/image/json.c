/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image as JSON: a walk of the message's own description, so that a new field needs no code here.
 *
 * Names are those of image.proto. Every scalar is there, zeros too; lists are there even if empty;
 * a message that is absent, and the fields of a oneof that are not chosen, are left out. Enumerations
 * are the names of their values. Bytes are hexadecimal. Whole numbers are numbers, but those beyond
 * 2^53 are strings in decimal: jq and JavaScript would silently round them. A string that is no
 * UTF-8 has its wrong bytes replaced, and a sibling NAME_hex with what it really is.
 */
#include "image/image.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

static const uint64_t exact_limit = (uint64_t)1 << 53;

static json_t *message_json(const ProtobufCMessage *m);

static json_t *unsigned_json(uint64_t v)
{
	char text[24];

	if (v <= exact_limit)
		return json_integer((json_int_t)v);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	return json_string(text);
}

static json_t *signed_json(int64_t v)
{
	char text[24];

	if (v >= 0 || (uint64_t) - (v + 1) < exact_limit)
		return v >= 0 ? unsigned_json((uint64_t)v) : json_integer(v);
	snprintf(text, sizeof(text), "%lld", (long long)v);
	return json_string(text);
}

static json_t *hex_json(const uint8_t *bytes, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	_cleanup_free_ char *text = malloc(2 * n + 1);

	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	return json_stringn_nocheck(text, 2 * n);
}

/* --- text ------------------------------------------------------------------------------------- */

/* The number of bytes of the character at S (LEFT bytes), 0 when it is not UTF-8. */
static size_t character(const unsigned char *s, size_t left)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80       ? 1
		   : s[0] >> 5 == 6  ? 2
		   : s[0] >> 4 == 14 ? 3
		   : s[0] >> 3 == 30 ? 4
				     : 0;
	uint32_t c = s[0] & (0xffu >> (n + 1));

	if (n < 2 || n > left)
		return n == 1 ? 1 : 0;
	for (size_t i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	return c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : n;
}

/* TEXT with a replacement character for each byte that is not UTF-8; *ret_exact tells if there was
 * none. */
static json_t *text_json(const char *text, bool *ret_exact)
{
	size_t size = strlen(text), n, used = 0;
	_cleanup_free_ char *clean = malloc(3 * size + 1);

	*ret_exact = true;
	if (!clean)
		return NULL;
	for (size_t i = 0; i < size; i += n ? n : 1) {
		n = character((const unsigned char *)text + i, size - i);
		memcpy(clean + used, n ? text + i : "\xef\xbf\xbd", n ? n : 3);
		used += n ? n : 3;
		*ret_exact = *ret_exact && n;
	}
	return json_stringn_nocheck(clean, used);
}

/* Gives ITEM to OBJECT; false when either is missing. */
static bool set(json_t *object, const char *name, json_t *item)
{
	return item && json_object_set_new(object, name, item) == 0;
}

static bool set_hex(json_t *object, const char *name, json_t *item)
{
	char sibling[64];

	snprintf(sibling, sizeof(sibling), "%s_hex", name);
	return set(object, sibling, item);
}

/* --- values ----------------------------------------------------------------------------------- */

static json_t *enum_json(const ProtobufCEnumDescriptor *d, int v)
{
	const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(d, v);

	return value ? json_string(value->name) : json_integer(v);
}

/* The value at P, which is of F's type and not a string. */
static json_t *value_json(const ProtobufCFieldDescriptor *f, const void *p)
{
	const ProtobufCBinaryData *bytes = p;

	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		return signed_json(*(const int32_t *)p);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		return signed_json(*(const int64_t *)p);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		return unsigned_json(*(const uint32_t *)p);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return unsigned_json(*(const uint64_t *)p);
	case PROTOBUF_C_TYPE_FLOAT:
		return json_real((double)*(const float *)p);
	case PROTOBUF_C_TYPE_DOUBLE:
		return json_real(*(const double *)p);
	case PROTOBUF_C_TYPE_BOOL:
		return json_boolean(*(const protobuf_c_boolean *)p);
	case PROTOBUF_C_TYPE_ENUM:
		return enum_json(f->descriptor, *(const int *)p);
	case PROTOBUF_C_TYPE_BYTES:
		return hex_json(bytes->data, bytes->len);
	case PROTOBUF_C_TYPE_MESSAGE:
		return message_json(*(const ProtobufCMessage *const *)p);
	case PROTOBUF_C_TYPE_STRING:
		break;
	}
	return NULL;
}

static bool set_string(json_t *object, const char *name, const char *text)
{
	bool exact;
	json_t *value;

	text = text ? text : "";
	value = text_json(text, &exact);
	return set(object, name, value) &&
	       (exact || set_hex(object, name, hex_json((const uint8_t *)text, strlen(text))));
}

static size_t type_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

/* A list of strings; one that is not UTF-8 makes the whole list come as hexadecimal, too. */
static bool set_strings(json_t *object, const char *name, char *const *texts, size_t n)
{
	json_t *list = json_array(), *hex = json_array();
	bool good = list && hex, all_exact = true, exact;

	for (size_t i = 0; good && i < n; i++) {
		const uint8_t *bytes = (const uint8_t *)texts[i];

		good = json_array_append_new(list, text_json(texts[i], &exact)) == 0 &&
		       json_array_append_new(hex, hex_json(bytes, strlen(texts[i]))) == 0;
		all_exact = all_exact && exact;
	}
	if (good)
		good = set(object, name, json_incref(list)) &&
		       (all_exact || set_hex(object, name, json_incref(hex)));
	json_decref(list);
	json_decref(hex);
	return good;
}

static bool set_list(json_t *object, const ProtobufCFieldDescriptor *f, const void *items, size_t n)
{
	json_t *list;

	if (f->type == PROTOBUF_C_TYPE_STRING)
		return set_strings(object, f->name, items, n);
	list = json_array();
	for (size_t i = 0; list && i < n; i++) {
		const char *p = (const char *)items + i * type_size(f->type);

		if (json_array_append_new(list, value_json(f, p)) < 0) {
			json_decref(list);
			return false;
		}
	}
	return set(object, f->name, list);
}

/* Whether the field F of M holds something: a chosen oneof, a message that is there. */
static bool present(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m;

	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
	    *(const uint32_t *)(base + f->quantifier_offset) != f->id)
		return false;
	return f->type != PROTOBUF_C_TYPE_MESSAGE || *(const void *const *)(base + f->offset);
}

static bool set_field(json_t *object, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *at = (const char *)m + f->offset;

	if (f->label == PROTOBUF_C_LABEL_REPEATED)
		return set_list(object, f, *(const void *const *)at,
				*(const size_t *)((const char *)m + f->quantifier_offset));
	if (!present(m, f))
		return true;
	if (f->type == PROTOBUF_C_TYPE_STRING)
		return set_string(object, f->name, *(const char *const *)at);
	return set(object, f->name, value_json(f, at));
}

static json_t *message_json(const ProtobufCMessage *m)
{
	json_t *object = json_object();

	for (unsigned i = 0; object && i < m->descriptor->n_fields; i++)
		if (!set_field(object, m, &m->descriptor->fields[i])) {
			json_decref(object);
			return NULL;
		}
	return object;
}

/* --- the image -------------------------------------------------------------------------------- */

static json_t *runs_json(const struct kage_pages *pages)
{
	json_t *list = json_array();

	for (size_t i = 0; list && pages && i < pages->n_runs; i++) {
		const struct page_run *r = &pages->runs[i];
		json_t *run = json_object();

		if (!run || !set(run, "space", unsigned_json(r->space)) ||
		    !set(run, "first", unsigned_json(r->first)) ||
		    !set(run, "count", unsigned_json(r->count)) ||
		    json_array_append(list, run) < 0) {
			json_decref(list);
			list = NULL;
		}
		json_decref(run);
	}
	return list;
}

struct kage_err *kage_image_json(const struct kage_image *image, char **ret_json)
{
	json_t *object = message_json(&image->msg->base);
	char *text = NULL;
	bool good = object != NULL;

	if (good && image->label)
		good = set(object, "image", json_string(image->label));
	if (good && image->pack_path)
		good = set_string(object, "pack", image->pack_path);
	if (good && image->recipient)
		good = set(object, "encrypted_for", json_string(image->recipient));
	if (good)
		good = set(object, "page_runs", runs_json(image->pages));
	if (good)
		text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	if (!text)
		return kage_err_nomem();
	*ret_json = text;
	return NULL;
}
