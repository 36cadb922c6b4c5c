/* SPDX-License-Identifier: Apache-2.0 */
/* Calls as text, with names, flags and structures: name(argument, …) = result. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "calls/address.h"
#include "calls/request.h"

enum { MOST_CHARS = 1024, MOST_ELEMENTS = 256 };

/* --- numbers ---------------------------------------------------------------------------------- */

static uint64_t cut(uint64_t v, size_t size)
{
	return size < 8 ? v & ((1ull << (8 * size)) - 1) : v;
}

static int64_t extend(uint64_t v, size_t size)
{
	unsigned shift = 64 - 8 * (unsigned)size;

	return (int64_t)(v << shift) >> shift;
}

/* What all others are made of: 0 with the mask, or without one. */
static const char *name_of(const struct calls_group *g, uint64_t v, size_t size)
{
	for (size_t i = 0; g && i < g->n; i++)
		if (cut(g->v[i].value, size) == cut(v, size))
			return g->v[i].name;
	return NULL;
}

static void tell_flags(FILE *out, const struct calls_group *g, uint64_t v)
{
	const char *name = g && g->enum_mask ? name_of(g, v & g->enum_mask, 8) : NULL;
	const char *sep = "";

	if (name) {
		fputs(name, out);
		sep = "|";
		v &= ~g->enum_mask;
	}
	for (size_t i = 0; g && i < g->n; i++) {
		uint64_t flag = g->v[i].value;

		if (!flag || (flag & ~g->enum_mask) == 0 || (v & flag) != flag)
			continue;
		fprintf(out, "%s%s", sep, g->v[i].name);
		sep = "|";
		v &= ~flag;
	}
	if (v || !sep[0]) {
		name = !sep[0] && !v ? name_of(g, 0, 8) : NULL;
		if (name)
			fputs(name, out);
		else
			fprintf(out, v ? "%s%#" PRIx64 : "%s%" PRIx64, sep, v);
	}
}

static void tell_number(FILE *out, const struct calls_atom *a, uint64_t v)
{
	const char *name;

	v = cut(v, a->size);
	if (a->shown == SHOW_FLAGS) {
		tell_flags(out, a->group, v);
		return;
	}
	name = a->shown == SHOW_ENUM ? name_of(a->group, v, a->size < 8 ? a->size : 4) : NULL;
	if (name)
		fputs(name, out);
	else if (a->pointer && !v)
		fputs("NULL", out);
	else if (a->shown == SHOW_HEX)
		fprintf(out, "%#" PRIx64, v);
	else if (a->shown == SHOW_OCTAL)
		fprintf(out, v ? "0%" PRIo64 : "%" PRIo64, v);
	else if (a->is_signed || (a->shown == SHOW_ENUM && extend(v, a->size) < 0))
		fprintf(out, "%" PRId64, extend(v, a->size));
	else
		fprintf(out, "%" PRIu64, v);
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void tell_char(FILE *out, uint8_t c, uint8_t next)
{
	static const char values[] = "\a\b\f\n\r\t\v\\\"", letters[] = "abfnrtv\\\"";
	const char *known = c ? strchr(values, c) : NULL;

	if (known)
		fprintf(out, "\\%c", letters[known - values]);
	else if (c == 0 && !isdigit(next))
		fputs("\\0", out);
	else if (c >= 0x20 && c < 0x7f)
		fputc(c, out);
	else
		fprintf(out, "\\x%02x", c);
}

static void tell_text(FILE *out, const uint8_t *bytes, size_t n)
{
	size_t shown = n < MOST_CHARS ? n : MOST_CHARS;

	fputc('"', out);
	for (size_t i = 0; i < shown; i++)
		tell_char(out, bytes[i], i + 1 < n ? bytes[i + 1] : 0);
	fputs(shown < n ? "\"…" : "\"", out);
}

/* Zeros at the end say nothing. */
static void tell_hex(FILE *out, const uint8_t *bytes, size_t n)
{
	while (n && !bytes[n - 1])
		n--;
	fputs("x\"", out);
	for (size_t i = 0; i < n && i < MOST_CHARS; i++)
		fprintf(out, "%s%02x", i ? " " : "", bytes[i]);
	fputs(n > MOST_CHARS ? "\"…" : "\"", out);
}

/* --- structures ------------------------------------------------------------------------------- */

static void tell_struct(FILE *out, const struct calls_struct *layout, const uint8_t *bytes,
			size_t n);

static void tell_atom(FILE *out, const struct calls_atom *a, const uint8_t *bytes)
{
	uint64_t v = 0;

	if (a->kind == ATOM_STRUCT) {
		tell_struct(out, a->layout, bytes, a->size);
		return;
	}
	memcpy(&v, bytes, a->size);
	tell_number(out, a, v);
}

static void tell_several(FILE *out, const struct calls_atom *a, const uint8_t *bytes, size_t n)
{
	fputc('{', out);
	for (size_t i = 0; i < n && i < MOST_ELEMENTS; i++) {
		fputs(i ? ", " : "", out);
		tell_atom(out, a, bytes + i * a->size);
	}
	fputs(n > MOST_ELEMENTS ? ", …}" : "}", out);
}

static void tell_field(FILE *out, const struct calls_field *f, const uint8_t *bytes)
{
	if (f->atom.kind == ATOM_CHARS)
		tell_text(out, bytes, strnlen((const char *)bytes, f->n));
	else if (f->atom.kind == ATOM_BYTES)
		tell_hex(out, bytes, f->n);
	else if (f->array)
		tell_several(out, &f->atom, bytes, f->n);
	else
		tell_atom(out, &f->atom, bytes);
}

static void tell_struct(FILE *out, const struct calls_struct *layout, const uint8_t *bytes,
			size_t n)
{
	struct calls_fields fields = { .layout = layout };
	struct calls_field f;
	const char *sep = "";

	fputc('{', out);
	while (calls_fields_next(&fields, &f)) {
		if (f.hidden || f.offset + calls_field_bytes(&f) > n)
			continue;
		fprintf(out, "%s%.*s=", sep, (int)f.name_length, f.name);
		tell_field(out, &f, bytes + f.offset);
		sep = ", ";
	}
	fputc('}', out);
}

/* --- arguments -------------------------------------------------------------------------------- */

static bool is_address(const struct kage_syscall *s, const struct calls_type *t)
{
	static const char name[] = "addrlen";
	const struct calls_argument *a = &s->form.args[t->count.arg];

	return (t->count.kind == COUNT_ARG || t->count.kind == COUNT_POINTED) &&
	       a->name_length == strlen(name) && memcmp(a->name, name, a->name_length) == 0;
}

static void tell_data(FILE *out, const struct kage_syscall *s, size_t i)
{
	const struct calls_type *t = i < s->form.n ? &s->form.args[i].type : NULL;
	const uint8_t *bytes = calls_data(s, i);
	size_t n = calls_bytes_behind(s, i);

	if (t && t->kind == TYPE_BUFFER && is_address(s, t) && calls_address_tell(out, bytes, n))
		return;
	if (!t || t->way == WAY_VALUE || t->kind == TYPE_BUFFER || t->kind == TYPE_STRING)
		tell_text(out, bytes, n);
	else if (t->count.kind == COUNT_ONE && n >= t->atom.size)
		tell_atom(out, &t->atom, bytes);
	else if (t->atom.kind == ATOM_NUMBER && t->count.kind == COUNT_ONE)
		tell_text(out, bytes, n);
	else
		tell_several(out, &t->atom, bytes, n / t->atom.size);
}

static void tell_value(FILE *out, const struct kage_syscall *s, size_t i)
{
	const struct calls_type *t = i < s->form.n ? &s->form.args[i].type : NULL;
	const struct calls_atom address = { .size = 8, .shown = SHOW_HEX, .pointer = true };
	const struct calls_atom any = { .size = 8, .is_signed = true };

	tell_number(out, !t ? &any : t->way == WAY_VALUE ? &t->atom : &address, s->args[i].value);
}

/* What was only read is told as it was written: what it points to lies elsewhere by now. */
static bool is_as_written(const struct kage_syscall *s, size_t i)
{
	return s->words[i] && s->args[i].given == GIVEN_DATA &&
	       (i >= s->form.n || s->form.args[i].type.way <= WAY_IN) && s->words[i][0] != '[';
}

static bool is_unwritten(const struct kage_syscall *s, size_t i)
{
	return s->args[i].given == GIVEN_DATA && i < s->form.n &&
	       s->form.args[i].type.way == WAY_OUT && (!s->made || s->result.error);
}

struct kage_err *calls_tell_argument(const struct kage_syscall *s, size_t i, char **ret_text)
{
	size_t size;
	FILE *out = open_memstream(ret_text, &size);

	if (!out)
		return kage_err_nomem();
	if (is_as_written(s, i))
		fputs(s->words[i], out);
	else if (is_unwritten(s, i))
		fputc('_', out);
	else if (s->args[i].given == GIVEN_DATA)
		tell_data(out, s, i);
	else
		tell_value(out, s, i);
	return fclose(out) == 0 ? NULL : kage_err_nomem();
}

static void tell_result(FILE *out, const struct kage_syscall *s)
{
	const struct kage_syscall_result *r = &s->result;

	if (r->ended)
		fputs("?  (it has ended)", out);
	else if (r->error)
		fprintf(out, "-1 %s (%s)%s",
			strerrorname_np(r->error) ? strerrorname_np(r->error) : "E?",
			strerror(r->error), r->gave_up ? ", given up" : "");
	else
		tell_number(out, &s->form.result, (uint64_t)r->value);
}

struct kage_err *kage_syscall_describe(const struct kage_syscall *s, char **ret_text)
{
	size_t size;
	FILE *out = open_memstream(ret_text, &size);
	struct kage_err *e = NULL;

	if (!out)
		return kage_err_nomem();
	fprintf(out, "%s(", s->name);
	for (size_t i = 0; i < s->n && !e; i++) {
		_cleanup_free_ char *text = NULL;

		e = calls_tell_argument(s, i, &text);
		if (!e)
			fprintf(out, "%s%s", i ? ", " : "", text);
	}
	fputs(")", out);
	if (s->made) {
		fputs(" = ", out);
		tell_result(out, s);
	}
	if (fclose(out) != 0 && !e)
		e = kage_err_nomem();
	return e;
}
