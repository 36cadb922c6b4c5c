/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments as somebody writes them:
 *
 *	7  -1  0x10  0600  O_RDWR|O_CREAT  NULL		numbers, constants, addresses
 *	"text\n"  x"00 ff"				bytes; a NUL is put behind a text
 *	[4096]						room for so many bytes
 *	{1, 500}  {tv_sec=1}				a structure by its fields, in order or by name
 *	inet:127.0.0.1:80  unix:/run/x			an address of a socket (address.h)
 *	{{…}, {…}}  {"ls", "-l"}			several
 *	{u16:2, u32:5, "text", 9}			where nothing is known of it: 8 bytes each, or as is said
 *	_						what is usual: room for what the call gives, or how many bytes there are
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "calls/address.h"
#include "calls/request.h"

enum { USUAL_BYTES = 4096, MOST_BYTES = 64 << 20, DEEPEST = 8 };

struct reader {
	struct kage_syscall *s;
	const char *word, *at;
	int depth;
};

/* Bytes that are being put together; what they point to lies in the batch already. */
struct block {
	uint8_t *bytes;
	size_t n;
	struct link {
		size_t at, to;
	} * links;
	size_t n_links;
};

static void block_deinit(struct block *b)
{
	free(b->bytes);
	free(b->links);
}

static struct kage_err *wrong(const struct reader *r, const char *why)
{
	return kage_err_new(KAGE_INVALID, "argument %zu of %s, '%s': %s", r->s->n + 1, r->s->name,
			    r->word, why);
}

static struct kage_err *block_add(struct block *b, const void *bytes, size_t n)
{
	uint8_t *grown;

	if (b->n + n > MOST_BYTES)
		return kage_err_new(KAGE_LIMIT, "more than %d bytes in one argument", MOST_BYTES);
	grown = realloc(b->bytes, b->n + n + 1);
	if (!grown)
		return kage_err_nomem();
	b->bytes = grown;
	if (bytes)
		memcpy(grown + b->n, bytes, n);
	else
		memset(grown + b->n, 0, n);
	b->n += n;
	return NULL;
}

static struct kage_err *block_link(struct block *b, size_t at, size_t to)
{
	struct link *grown = reallocarray(b->links, b->n_links + 1, sizeof(*grown));

	if (!grown)
		return kage_err_nomem();
	b->links = grown;
	b->links[b->n_links++] = (struct link){ at, to };
	return NULL;
}

/* Puts B into the batch. */
static size_t block_put(const struct reader *r, const struct block *b)
{
	size_t at = kage_batch_data(&r->s->batch, b->bytes, b->n);

	for (size_t i = 0; i < b->n_links; i++)
		kage_batch_point(&r->s->batch, at + b->links[i].at, b->links[i].to);
	return at;
}

/* --- characters ------------------------------------------------------------------------------- */

static void skip_space(struct reader *r)
{
	while (isspace((unsigned char)*r->at))
		r->at++;
}

static bool take(struct reader *r, char c)
{
	skip_space(r);
	if (*r->at != c)
		return false;
	r->at++;
	return true;
}

static size_t length_of_name(const char *p)
{
	size_t n = 0;

	while (isalnum((unsigned char)p[n]) || p[n] == '_')
		n++;
	return n;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static bool in_group(const struct calls_group *g, const char *name, size_t n, uint64_t *ret)
{
	for (size_t i = 0; g && i < g->n; i++)
		if (strlen(g->v[i].name) == n && memcmp(g->v[i].name, name, n) == 0) {
			*ret = g->v[i].value;
			return true;
		}
	return false;
}

/* One number or constant; those of G come first. */
static struct kage_err *read_one(struct reader *r, const struct calls_group *g, uint64_t *ret)
{
	bool minus = take(r, '-');
	size_t n;
	char *end;

	skip_space(r);
	n = length_of_name(r->at);
	if (n && isdigit((unsigned char)*r->at)) {
		errno = 0;
		*ret = strtoull(r->at, &end, 0);
		if (errno || end != r->at + n)
			return wrong(r, "not a number");
	} else if (n == 4 && memcmp(r->at, "NULL", 4) == 0) {
		*ret = 0;
	} else if (!n) {
		return wrong(r, "a number, a constant, \"text\", [ROOM] or {…} is wanted");
	} else if (!in_group(g, r->at, n, ret) && !calls_constant(r->at, n, ret)) {
		return kage_err_new(
			KAGE_INVALID,
			"argument %zu of %s: no constant '%.*s' is known; write its value",
			r->s->n + 1, r->s->name, (int)n, r->at);
	}
	r->at += n;
	*ret = minus ? -*ret : *ret;
	return NULL;
}

static struct kage_err *read_number(struct reader *r, const struct calls_group *g, uint64_t *ret)
{
	uint64_t one;

	*ret = 0;
	do {
		TRY(read_one(r, g, &one));
		*ret |= one;
	} while (take(r, '|'));
	return NULL;
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* Behind a backslash, as in C. */
static struct kage_err *read_escape(struct reader *r, char *ret)
{
	static const char letters[] = "abfnrtv0\\\"'", values[] = "\a\b\f\n\r\t\v\0\\\"'";
	const char *known = *r->at ? strchr(letters, *r->at) : NULL;

	if (*r->at == 'x' && hex_digit(r->at[1]) >= 0 && hex_digit(r->at[2]) >= 0) {
		*ret = (char)(hex_digit(r->at[1]) * 16 + hex_digit(r->at[2]));
		r->at += 3;
		return NULL;
	}
	if (!known)
		return wrong(r, "what stands behind the backslash is none of C's letters");
	*ret = values[known - letters];
	r->at++;
	return NULL;
}

static struct kage_err *read_text(struct reader *r, struct block *b)
{
	while (*r->at && *r->at != '"') {
		char c = *r->at++;

		if (c == '\\')
			TRY(read_escape(r, &c));
		TRY(block_add(b, &c, 1));
	}
	return take(r, '"') ? NULL : wrong(r, "the closing \" is missing");
}

static struct kage_err *read_hex(struct reader *r, struct block *b)
{
	for (;;) {
		uint8_t byte;

		if (take(r, '"'))
			return NULL;
		if (hex_digit(r->at[0]) < 0 || hex_digit(r->at[1]) < 0)
			return wrong(r, "two hexadecimal digits a byte are wanted");
		byte = (uint8_t)(hex_digit(r->at[0]) * 16 + hex_digit(r->at[1]));
		r->at += 2;
		TRY(block_add(b, &byte, 1));
	}
}

static bool begins_bytes(struct reader *r)
{
	skip_space(r);
	return r->at[0] == '"' || (r->at[0] == 'x' && r->at[1] == '"');
}

/* A text with its NUL (*RET_SIZE without it), or bytes. */
static struct kage_err *read_bytes(struct reader *r, struct block *b, size_t *ret_size)
{
	bool hex = r->at[0] == 'x';

	r->at += hex ? 2 : 1;
	TRY(hex ? read_hex(r, b) : read_text(r, b));
	*ret_size = b->n;
	return hex ? NULL : block_add(b, "", 1);
}

static struct kage_err *read_room(struct reader *r, struct block *b)
{
	uint64_t n;

	r->at++;
	TRY(read_number(r, NULL, &n));
	if (n > MOST_BYTES)
		return wrong(r, "that is too much room");
	TRY(block_add(b, NULL, n));
	return take(r, ']') ? NULL : wrong(r, "the closing ] is missing");
}

/* --- structures ------------------------------------------------------------------------------- */

static struct kage_err *read_struct(struct reader *r, const struct calls_struct *layout,
				    struct block *b, size_t at);
static struct kage_err *read_words(struct reader *r, struct block *b);

/* Something that is pointed to from AT in B. */
static struct kage_err *read_pointed(struct reader *r, struct block *b, size_t at)
{
	struct block other = { 0 };
	struct kage_err *e;
	size_t size;

	if (++r->depth > DEEPEST)
		return wrong(r, "that is too deep");
	if (begins_bytes(r))
		e = read_bytes(r, &other, &size);
	else if (*r->at == '[')
		e = read_room(r, &other);
	else
		e = read_words(r, &other);
	r->depth--;
	if (!e)
		e = block_link(b, at, block_put(r, &other));
	block_deinit(&other);
	return e;
}

static bool begins_pointed(struct reader *r)
{
	return begins_bytes(r) || *r->at == '[' || *r->at == '{';
}

static struct kage_err *read_atom(struct reader *r, const struct calls_atom *a, struct block *b,
				  size_t at)
{
	uint64_t v;

	if (a->kind == ATOM_STRUCT)
		return read_struct(r, a->layout, b, at);
	if (a->size == 8 && begins_pointed(r))
		return read_pointed(r, b, at);
	TRY(read_number(r, a->group, &v));
	memcpy(b->bytes + at, &v, a->size); /* the lower bytes come first on all that kage knows */
	return NULL;
}

/* Text into a field of bytes. */
static struct kage_err *read_chars(struct reader *r, const struct calls_field *f, struct block *b,
				   size_t at)
{
	struct block text = { 0 };
	size_t size = 0;
	struct kage_err *e = read_bytes(r, &text, &size);

	if (!e && size > f->n)
		e = wrong(r, "the text does not fit into its field");
	if (!e)
		memcpy(b->bytes + at, text.bytes, size);
	block_deinit(&text);
	return e;
}

static struct kage_err *read_field(struct reader *r, const struct calls_field *f, struct block *b,
				   size_t at)
{
	if ((f->atom.kind == ATOM_CHARS || f->atom.kind == ATOM_BYTES) && begins_bytes(r))
		return read_chars(r, f, b, at);
	if (!f->array)
		return read_atom(r, &f->atom, b, at);
	if (!take(r, '{'))
		return wrong(r, "{…} is wanted for an array");
	for (size_t i = 0; i < f->n && !take(r, '}'); i++) {
		TRY(read_atom(r, &f->atom, b, at + i * f->atom.size));
		if (!take(r, ','))
			return take(r, '}') ? NULL : wrong(r, "the closing } is missing");
	}
	return NULL;
}

static bool find_field(const struct calls_struct *layout, const char *name, size_t n,
		       struct calls_field *ret)
{
	struct calls_fields fields = { .layout = layout };

	while (calls_fields_next(&fields, ret))
		if (ret->name_length == n && memcmp(ret->name, name, n) == 0)
			return true;
	return false;
}

/* The field that comes next: by its name, or in order. */
static struct kage_err *choose_field(struct reader *r, struct calls_fields *order,
				     struct calls_field *ret)
{
	size_t n;

	skip_space(r);
	n = length_of_name(r->at);
	if (n && r->at[n] == '=') {
		if (!find_field(order->layout, r->at, n, ret))
			return wrong(r, "the structure has no field of that name");
		r->at += n + 1;
		return NULL;
	}
	do
		if (!calls_fields_next(order, ret))
			return wrong(r, "the structure has fewer fields");
	while (ret->hidden);
	return NULL;
}

/* Into B at AT, where there are as many zeros as the structure has bytes. */
static struct kage_err *read_struct(struct reader *r, const struct calls_struct *layout,
				    struct block *b, size_t at)
{
	struct calls_fields order = { .layout = layout };
	struct calls_field f;

	if (!take(r, '{'))
		return wrong(r, "{…} is wanted for a structure");
	if (take(r, '}'))
		return NULL;
	do {
		TRY(choose_field(r, &order, &f));
		TRY(read_field(r, &f, b, at + f.offset));
	} while (take(r, ','));
	return take(r, '}') ? NULL : wrong(r, "the closing } is missing");
}

/* Several of A. */
static struct kage_err *read_several(struct reader *r, const struct calls_atom *a, struct block *b)
{
	if (!take(r, '{'))
		return wrong(r, "{…} is wanted");
	if (take(r, '}'))
		return NULL;
	do {
		size_t at = b->n;

		TRY(block_add(b, NULL, a->size));
		TRY(read_atom(r, a, b, at));
	} while (take(r, ','));
	return take(r, '}') ? NULL : wrong(r, "the closing } is missing");
}

/* How many bytes the next word takes. */
static size_t read_width(struct reader *r)
{
	static const struct {
		const char *prefix;
		size_t width;
	} widths[] = { { "u8:", 1 }, { "u16:", 2 }, { "u32:", 4 }, { "u64:", 8 } };

	skip_space(r);
	for (size_t i = 0; i < ARRAY_SIZE(widths); i++)
		if (strncmp(r->at, widths[i].prefix, strlen(widths[i].prefix)) == 0) {
			r->at += strlen(widths[i].prefix);
			return widths[i].width;
		}
	return 8;
}

static struct kage_err *read_words(struct reader *r, struct block *b)
{
	if (!take(r, '{'))
		return wrong(r, "{…} is wanted");
	if (take(r, '}'))
		return NULL;
	do {
		const struct calls_atom word = { .size = read_width(r) };
		size_t at = b->n;

		TRY(block_add(b, NULL, word.size));
		TRY(read_atom(r, &word, b, at));
	} while (take(r, ','));
	return take(r, '}') ? NULL : wrong(r, "the closing } is missing");
}

/* --- arguments -------------------------------------------------------------------------------- */

static const struct calls_type *type_of(const struct kage_syscall *s, size_t i)
{
	return i < s->form.n ? &s->form.args[i].type : NULL;
}

static bool points(const struct calls_type *t)
{
	return t && t->way != WAY_VALUE;
}

static struct kage_err *read_braces(struct reader *r, const struct calls_type *t, struct block *b)
{
	static const struct calls_atom pointer = { .size = 8, .pointer = true };

	if (!points(t) || t->kind == TYPE_BUFFER || t->kind == TYPE_STRING)
		return read_words(r, b);
	if (t->kind == TYPE_STRINGS) {
		TRY(read_several(r, &pointer, b));
		return block_add(b, NULL, 8);
	}
	if (t->count.kind != COUNT_ONE || t->atom.kind != ATOM_STRUCT)
		return read_several(r, &t->atom, b);
	TRY(block_add(b, NULL, t->atom.size));
	return read_struct(r, t->atom.layout, b, 0);
}

static struct kage_err *read_data(struct reader *r, const struct calls_type *t,
				  struct calls_value *v)
{
	struct block b = { 0 };
	size_t size = SIZE_MAX;
	struct kage_err *e;

	if (begins_bytes(r))
		e = read_bytes(r, &b, &size);
	else if (*r->at == '[')
		e = read_room(r, &b);
	else
		e = read_braces(r, t, &b);
	if (!e) {
		v->given = GIVEN_DATA;
		v->at = block_put(r, &b);
		v->size = size == SIZE_MAX ? b.n : size;
	}
	block_deinit(&b);
	return e;
}

struct kage_err *calls_read_argument(struct kage_syscall *s, const char *word)
{
	struct reader r = { .s = s, .word = word, .at = word };
	const struct calls_type *t = type_of(s, s->n);
	struct calls_value *v = &s->args[s->n];
	struct sockaddr_storage address;

	if (take(&r, '_') && !*r.at) {
		s->n++;
		return NULL;
	}
	r.at = word;
	if (calls_address_read(word, &address, &v->size)) {
		v->given = GIVEN_DATA;
		v->at = kage_batch_data(&s->batch, &address, v->size);
		r.at += strlen(word);
	} else if (begins_pointed(&r)) {
		TRY(read_data(&r, t, v));
	} else {
		v->size = 0;
		v->given = GIVEN_VALUE;
		TRY(read_number(&r, t ? t->atom.group : NULL, &v->value));
		/* A number where one is pointed to is that number. */
		if (points(t) && t->kind == TYPE_ATOM && t->atom.kind == ATOM_NUMBER && v->value &&
		    t->way != WAY_OUT && t->count.kind == COUNT_ONE) {
			v->given = GIVEN_DATA;
			v->size = t->atom.size;
			v->at = kage_batch_data(&s->batch, &v->value, v->size);
		}
	}
	skip_space(&r);
	if (*r.at)
		return wrong(&r, "more stands there than one argument");
	s->n++;
	return NULL;
}

/* Numbers that say how many there are behind argument I. */
static uint64_t count_of(const struct kage_syscall *s, size_t i)
{
	const struct calls_count *c = &s->form.args[i].type.count;
	uint64_t n = 0;

	switch (c->kind) {
	case COUNT_ONE:
		return 1;
	case COUNT_FIXED:
		return c->n;
	case COUNT_POINTED:
		if (s->args[c->arg].given == GIVEN_DATA)
			memcpy(&n, calls_data(s, c->arg), s->args[c->arg].size < 8 ? 4 : 8);
		return n;
	default:
		n = s->args[c->arg].value + c->add;
		return c->divide ? (n + c->divide - 1) / c->divide : n;
	}
}

static size_t size_of(const struct calls_type *t)
{
	return t->kind == TYPE_ATOM ? t->atom.size : 1;
}

/* A count that was not given is that of what is given, or as much as is usual. */
static void fill_count(struct kage_syscall *s, size_t i)
{
	const struct calls_type *t = &s->form.args[i].type;
	struct calls_value *v = &s->args[t->count.arg];
	const struct calls_value *given = &s->args[i];
	uint64_t n = t->way == WAY_IN ? 0 : t->kind == TYPE_BUFFER ? USUAL_BYTES : 16;

	if (v->given != GIVEN_NOT)
		return;
	if (given->given == GIVEN_DATA)
		n = given->size / size_of(t) - (given->size >= t->count.add ? t->count.add : 0);
	v->value = n;
	v->given = GIVEN_VALUE;
	if (t->count.kind == COUNT_POINTED) {
		v->given = GIVEN_DATA;
		v->size = size_of(type_of(s, t->count.arg));
		v->at = kage_batch_data(&s->batch, &n, v->size);
	}
}

/* Room for what the call gives, where none was given. */
static struct kage_err *fill_room(struct kage_syscall *s, size_t i)
{
	const struct calls_type *t = &s->form.args[i].type;
	struct calls_value *v = &s->args[i];
	uint64_t n;

	if (v->given != GIVEN_NOT || t->way != WAY_OUT)
		return NULL;
	n = count_of(s, i);
	if (n > MOST_BYTES || n * size_of(t) > MOST_BYTES)
		return kage_err_new(KAGE_LIMIT, "argument %zu of %s: that is too much room", i + 1,
				    s->name);
	v->given = GIVEN_DATA;
	v->size = n * size_of(t);
	v->at = kage_batch_data(&s->batch, NULL, v->size);
	return NULL;
}

/* The kernel must not write behind what there is. */
static struct kage_err *check_room(const struct kage_syscall *s, size_t i)
{
	const struct calls_type *t = &s->form.args[i].type;
	uint64_t n = count_of(s, i);

	if (s->args[i].given != GIVEN_DATA || t->kind == TYPE_STRING || t->kind == TYPE_STRINGS)
		return NULL;
	if (n <= s->args[i].size / size_of(t))
		return NULL;
	return kage_err_new(KAGE_INVALID,
			    "argument %zu of %s has %zu bytes, and the call is told of %llu", i + 1,
			    s->name, s->args[i].size, (unsigned long long)(n * size_of(t)));
}

static bool has_count(const struct calls_type *t)
{
	return points(t) && (t->count.kind == COUNT_ARG || t->count.kind == COUNT_POINTED);
}

static bool is_called(const struct calls_argument *a, const char *name)
{
	return strlen(name) == a->name_length && memcmp(name, a->name, a->name_length) == 0;
}

static bool is_size(const struct calls_argument *a)
{
	return a->type.way == WAY_VALUE &&
	       (is_called(a, "size") || is_called(a, "usize") || is_called(a, "sigsetsize"));
}

/* Argument I says how large a structure is (that the kernel may know a larger one of): the nearest before it. */
static struct kage_err *fill_struct_size(struct kage_syscall *s, size_t i)
{
	size_t k = i, size;

	while (k > 0 && !(points(type_of(s, k - 1)) && s->form.args[k - 1].type.atom.layout))
		k--;
	if (k == 0)
		return NULL;
	size = is_called(&s->form.args[i], "sigsetsize") ? sizeof(uint64_t)
							 : s->form.args[k - 1].type.atom.size;
	if (s->args[i].given == GIVEN_NOT)
		s->args[i] = (struct calls_value){ .given = GIVEN_VALUE, .value = size };
	if (s->args[k - 1].given == GIVEN_DATA && s->args[i].value > s->args[k - 1].size)
		return kage_err_new(
			KAGE_INVALID,
			"argument %zu of %s has %zu bytes, and the call is told of %llu", k,
			s->name, s->args[k - 1].size, (unsigned long long)s->args[i].value);
	return NULL;
}

struct kage_err *calls_read_rest(struct kage_syscall *s)
{
	const struct calls_form *f = &s->form;

	if (!f->known)
		return NULL;
	if (s->n > f->n && f->n)
		return kage_err_new(KAGE_INVALID, "%s has %zu arguments, not %zu", s->name, f->n,
				    s->n);
	for (size_t i = 0; i < f->n; i++)
		if (has_count(&f->args[i].type) && s->args[i].given != GIVEN_VALUE)
			fill_count(s, i);
	for (size_t i = 0; i < f->n; i++) {
		TRY(fill_room(s, i));
		if (points(&f->args[i].type))
			TRY(check_room(s, i));
	}
	for (size_t i = 0; i < f->n; i++)
		if (is_size(&f->args[i]))
			TRY(fill_struct_size(s, i));
	/* What is read and was left out is none; a number is 0. */
	s->n = f->n > s->n ? f->n : s->n;
	return NULL;
}

const uint8_t *calls_data(const struct kage_syscall *s, size_t i)
{
	return kage_batch_bytes(&s->batch, s->args[i].at);
}

size_t calls_bytes_behind(const struct kage_syscall *s, size_t i)
{
	const struct calls_value *v = &s->args[i];
	const struct calls_type *t = type_of(s, i);
	uint64_t n;

	if (!points(t) || t->kind == TYPE_STRING || t->kind == TYPE_STRINGS || t->way == WAY_IN)
		return v->size;
	n = count_of(s, i);
	if (t->count.returned)
		n = s->result.value < 0 ? 0 : (uint64_t)s->result.value + t->count.add;
	n *= size_of(t);
	return n < v->size ? n : v->size;
}
