/* SPDX-License-Identifier: Apache-2.0 */
#include "calls/form.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* A word of the tables: not terminated. */
struct word {
	const char *p;
	size_t n;
};

static bool is(struct word w, const char *text)
{
	return strlen(text) == w.n && memcmp(w.p, text, w.n) == 0;
}

static bool begins(struct word w, const char *text, struct word *ret_rest)
{
	size_t n = strlen(text);

	if (w.n < n || memcmp(w.p, text, n) != 0)
		return false;
	*ret_rest = (struct word){ w.p + n, w.n - n };
	return true;
}

/* Splits W at the first C, if there is one. */
static bool split(struct word w, char c, struct word *ret_before, struct word *ret_after)
{
	const char *at = memchr(w.p, c, w.n);

	if (!at)
		return false;
	*ret_before = (struct word){ w.p, (size_t)(at - w.p) };
	*ret_after = (struct word){ at + 1, w.n - ret_before->n - 1 };
	return true;
}

static struct calls_atom number(size_t size, bool is_signed, enum calls_shown shown)
{
	return (struct calls_atom){ .kind = ATOM_NUMBER,
				    .size = size,
				    .align = size,
				    .is_signed = is_signed,
				    .shown = shown };
}

static const struct {
	const char *name;
	size_t size;
	bool is_signed;
	enum calls_shown shown;
	const char *group;
} scalars[] = {
	{ "int", 4, true, SHOW_DECIMAL, NULL },   { "uint", 4, false, SHOW_DECIMAL, NULL },
	{ "long", 8, true, SHOW_DECIMAL, NULL },  { "ulong", 8, false, SHOW_DECIMAL, NULL },
	{ "size", 8, false, SHOW_DECIMAL, NULL }, { "off", 8, true, SHOW_DECIMAL, NULL },
	{ "fd", 4, true, SHOW_DECIMAL, NULL },    { "dirfd", 4, true, SHOW_ENUM, "dirfd" },
	{ "pid", 4, true, SHOW_DECIMAL, NULL },   { "uid", 4, true, SHOW_DECIMAL, NULL },
	{ "gid", 4, true, SHOW_DECIMAL, NULL },   { "mode", 4, false, SHOW_OCTAL, NULL },
	{ "dev", 8, false, SHOW_HEX, NULL },      { "signal", 4, true, SHOW_ENUM, "signal" },
	{ "addr", 8, false, SHOW_HEX, NULL },     { "s8", 1, true, SHOW_DECIMAL, NULL },
	{ "u8", 1, false, SHOW_DECIMAL, NULL },   { "s16", 2, true, SHOW_DECIMAL, NULL },
	{ "u16", 2, false, SHOW_DECIMAL, NULL },  { "s32", 4, true, SHOW_DECIMAL, NULL },
	{ "u32", 4, false, SHOW_DECIMAL, NULL },  { "s64", 8, true, SHOW_DECIMAL, NULL },
	{ "u64", 8, false, SHOW_DECIMAL, NULL },  { "ptr", 8, false, SHOW_HEX, NULL },
};

static bool scalar(struct word w, struct calls_atom *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(scalars); i++) {
		if (!is(w, scalars[i].name))
			continue;
		*ret = number(scalars[i].size, scalars[i].is_signed, scalars[i].shown);
		ret->pointer = is(w, "ptr") || is(w, "addr");
		if (scalars[i].group)
			ret->group = calls_group(scalars[i].group, strlen(scalars[i].group));
		return true;
	}
	return false;
}

static size_t align_of(const struct calls_struct *s)
{
	struct calls_fields fields = { .layout = s };
	struct calls_field f;
	size_t align = 1;

	while (calls_fields_next(&fields, &f))
		if (f.offset % f.atom.align == 0 && s->size % f.atom.align == 0 &&
		    f.atom.align > align)
			align = f.atom.align;
	return align;
}

/* "flags:open", in a structure "flags:open/u32". */
static bool constants(struct word w, struct calls_atom *ret)
{
	enum calls_shown shown;
	struct word group, size;

	if (begins(w, "flags:", &w))
		shown = SHOW_FLAGS;
	else if (begins(w, "enum:", &w))
		shown = SHOW_ENUM;
	else
		return false;
	*ret = number(8, false, shown);
	group = w;
	if (split(w, '/', &group, &size))
		(void)scalar(size, ret);
	ret->shown = shown;
	ret->group = calls_group(group.p, group.n);
	return true;
}

static struct calls_atom atom_of(struct word w)
{
	struct calls_atom a = number(8, false, SHOW_DECIMAL);
	struct word rest;

	if (scalar(w, &a) || constants(w, &a))
		return a;
	if (begins(w, "octal/", &rest) && scalar(rest, &a)) {
		a.shown = SHOW_OCTAL;
		return a;
	}
	if (is(w, "chars") || is(w, "bytes") || is(w, "buf"))
		return (struct calls_atom){ .kind = is(w, "chars") ? ATOM_CHARS : ATOM_BYTES,
					    .size = 1,
					    .align = 1 };
	a.layout = calls_struct(w.p, w.n);
	if (a.layout) {
		a.kind = ATOM_STRUCT;
		a.size = a.layout->size;
		a.align = align_of(a.layout);
	}
	return a;
}

/* --- arguments -------------------------------------------------------------------------------- */

static uint64_t decimal(struct word w)
{
	uint64_t v = 0;

	for (size_t i = 0; i < w.n && w.p[i] >= '0' && w.p[i] <= '9'; i++)
		v = v * 10 + (uint64_t)(w.p[i] - '0');
	return v;
}

static size_t find_arg(const struct calls_form *form, struct word name)
{
	for (size_t i = 0; i < form->n; i++)
		if (form->args[i].name_length == name.n &&
		    memcmp(form->args[i].name, name.p, name.n) == 0)
			return i;
	return 0;
}

/* What stands between the brackets. Names of arguments need all of these to be known. */
static void read_count(const struct calls_form *form, struct word w, struct calls_count *c)
{
	struct word operand;

	if (w.n && w.p[0] >= '0' && w.p[0] <= '9') {
		c->kind = COUNT_FIXED;
		c->n = decimal(w);
		return;
	}
	c->kind = COUNT_ARG;
	if (begins(w, "*", &w))
		c->kind = COUNT_POINTED;
	if (split(w, '+', &w, &operand))
		c->add = decimal(operand);
	else if (split(w, '/', &w, &operand))
		c->divide = decimal(operand);
	c->arg = find_arg(form, w);
}

static void read_type(const struct calls_form *form, struct word w, struct calls_type *t)
{
	struct word count, rest;

	*t = (struct calls_type){ .way = begins(w, "<", &w)   ? WAY_IN
					 : begins(w, ">", &w) ? WAY_OUT
					 : begins(w, "=", &w) ? WAY_INOUT
							      : WAY_VALUE };
	if (t->way != WAY_VALUE && split(w, '[', &w, &count)) {
		t->count.returned = count.n && count.p[count.n - 1] == '~';
		(void)split(count, ']', &count, &rest);
		read_count(form, count, &t->count);
	}
	if (is(w, "str"))
		t->kind = TYPE_STRING;
	else if (is(w, "strs"))
		t->kind = TYPE_STRINGS;
	else if (is(w, "buf"))
		t->kind = TYPE_BUFFER;
	t->atom = atom_of(w);
}

static bool next_word(const char **at, struct word *ret)
{
	*at += strspn(*at, " ");
	*ret = (struct word){ *at, strcspn(*at, " ") };
	*at += ret->n;
	return ret->n > 0;
}

void calls_form_of(const char *name, struct calls_form *ret_form)
{
	const struct calls_signature *s = calls_signature(name);
	struct word w, arg, types[CALL_ARGS];
	struct calls_form f = { .known = s };

	f.result = number(8, true, SHOW_DECIMAL);
	for (const char *at = s ? s->args : ""; f.n < CALL_ARGS && next_word(&at, &w); f.n++) {
		if (!split(w, ':', &arg, &types[f.n]))
			break;
		f.args[f.n].name = arg.p;
		f.args[f.n].name_length = arg.n;
	}
	for (size_t i = 0; i < f.n; i++)
		read_type(&f, types[i], &f.args[i].type);
	if (s && s->result[0])
		f.result = atom_of((struct word){ s->result, strlen(s->result) });
	*ret_form = f;
}

/* --- fields ----------------------------------------------------------------------------------- */

size_t calls_field_bytes(const struct calls_field *field)
{
	return field->n * field->atom.size;
}

bool calls_fields_next(struct calls_fields *fields, struct calls_field *ret_field)
{
	struct calls_field f = { .n = 1 };
	struct word w, name, type, count, place = { 0 }, rest;
	const char *at = fields->at ? fields->at : fields->layout->fields;

	if (!next_word(&at, &w) || !split(w, ':', &name, &type))
		return false;
	fields->at = at;
	(void)split(name, '@', &name, &place);
	if (split(type, '[', &type, &count)) {
		(void)split(count, ']', &count, &rest);
		f.n = decimal(count);
		f.array = true;
	}
	f.name = name.p;
	f.name_length = name.n;
	f.hidden = name.p[0] == '_';
	f.atom = atom_of(type);
	f.offset = place.p ? decimal(place)
			   : (fields->end + f.atom.align - 1) / f.atom.align * f.atom.align;
	fields->end = f.offset + calls_field_bytes(&f);
	*ret_field = f;
	return true;
}
