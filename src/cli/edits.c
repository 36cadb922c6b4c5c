/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/edits.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cli/place.h"

enum { POINTER_BYTES = 8, VARIABLES_MAX = 100000, VARIABLE_BYTES = 1 << 17 };

void cli_edits_deinit(struct cli_edits *edits)
{
	for (size_t i = 0; i < edits->n; i++)
		free((void *)edits->v[i].bytes);
	free(edits->v);
}

/* Adds SIZE bytes at ADDRESS. BYTES is consumed. */
static void add_take(struct cli_edits *edits, uint64_t address, void *bytes, size_t size)
{
	edits->v = cli_grow(edits->v, edits->n + 1, sizeof(*edits->v));
	edits->v[edits->n++] =
		(struct kage_patch){ .address = address, .bytes = bytes, .size = size };
}

/* --- values ----------------------------------------------------------------------------------- */

enum value_kind { INTEGER, FLOATING, STRING, HEX };

static const struct type {
	const char *name;
	enum value_kind kind;
	size_t bytes; /* 0: as many as the value has */
} types[] = {
	{ "u8", INTEGER, 1 },   { "u16", INTEGER, 2 }, { "u32", INTEGER, 4 },
	{ "u64", INTEGER, 8 },  { "i8", INTEGER, 1 },  { "i16", INTEGER, 2 },
	{ "i32", INTEGER, 4 },  { "i64", INTEGER, 8 }, { "f32", FLOATING, 4 },
	{ "f64", FLOATING, 8 }, { "str", STRING, 0 },  { "hex", HEX, 0 },
};

static const struct type *find_type(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	return NULL;
}

static const struct type *type_of_size(uint64_t size)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].kind == INTEGER && types[i].bytes == size)
			return &types[i];
	return NULL;
}

/* TEXT as an integer of so many bytes, with a sign or without. */
static void *integer(const char *text, size_t bytes)
{
	bool negative = text[0] == '-';
	unsigned bits = 8 * (unsigned)bytes;
	uint64_t v, most = UINT64_MAX >> (64 - bits);
	const char *end;
	uint8_t *to;

	if (!cli_place_number(text + negative, &v, &end) || *end ||
	    v > (negative ? most / 2 + 1 : most))
		return NULL;
	v = negative ? -v : v;
	to = cli_grow(NULL, bytes, 1);
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)(v >> (8 * i));
	return to;
}

static void *floating(const char *text, size_t bytes)
{
	char *end;
	double d = strtod(text, &end);
	float f = (float)d;
	void *to;

	if (end == text || *end)
		return NULL;
	to = cli_grow(NULL, bytes, 1);
	memcpy(to, bytes == sizeof(f) ? (void *)&f : (void *)&d, bytes);
	return to;
}

static void *hexadecimal(const char *text, size_t *ret_bytes)
{
	size_t n = strlen(text) / 2;
	uint8_t *to;

	if (n == 0 || strlen(text) % 2 || strspn(text, "0123456789abcdefABCDEF") != 2 * n)
		return NULL;
	to = cli_grow(NULL, n, 1);
	for (size_t i = 0; i < n; i++) {
		const char pair[3] = { text[2 * i], text[2 * i + 1], '\0' };

		to[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	*ret_bytes = n;
	return to;
}

/* The bytes of TEXT as TYPE has it, fresh; NULL when it is no such value. */
static void *value(const char *text, const struct type *type, size_t *ret_bytes)
{
	*ret_bytes = type->bytes;
	switch (type->kind) {
	case INTEGER:
		return integer(text, type->bytes);
	case FLOATING:
		return floating(text, type->bytes);
	case HEX:
		return hexadecimal(text, ret_bytes);
	case STRING:
		break;
	}
	*ret_bytes = strlen(text) + 1;
	return cli_printf("%s", text);
}

/* --- variables -------------------------------------------------------------------------------- */

/* The place that NAME means; its size is 0 for an address. */
static int find_place(struct cli *cli, struct kage_symbols *symbols, const char *name,
		      struct cli_place *ret_place)
{
	const char *end;

	*ret_place = (struct cli_place){ 0 };
	if (strncmp(name, "0x", 2) != 0)
		return cli_place_symbol(cli, symbols, name, ret_place);
	if (!cli_place_number(name, &ret_place->address, &end) || *end)
		return cli_fail_usage(cli, "'%s' is no address", name);
	return CLI_DONE;
}

static bool is_there(const struct kage_image *image, uint64_t address, size_t size)
{
	_cleanup_free_ char *bytes = cli_grow(NULL, size, 1);
	size_t n = 0;
	struct kage_err *e = kage_image_read(image, address, bytes, size, &n);

	kage_err_free(e);
	return !e && n == size;
}

/* Cuts the type off the end of VALUE, where one is told. */
static const struct type *cut_type(char *value_text)
{
	char *colon = strrchr(value_text, ':');
	const struct type *type = colon ? find_type(colon + 1) : NULL;

	if (type)
		*colon = '\0';
	return type;
}

int cli_edits_set(struct cli *cli, const struct kage_image *image, struct kage_symbols *symbols,
		  const char *setting, struct cli_edits *edits)
{
	const char *equals = strchr(setting, '=');
	_cleanup_free_ char *name =
		cli_printf("%.*s", (int)(equals ? equals - setting : 0), setting);
	_cleanup_free_ char *text = cli_printf("%s", equals ? equals + 1 : "");
	const struct type *type = cut_type(text);
	_cleanup_free_ void *bytes = NULL;
	struct cli_place place;
	size_t size;
	int status;

	if (!*name)
		return cli_fail_usage(cli,
				      "'%s' sets nothing; write SYMBOL=VALUE or "
				      "0xADDRESS=VALUE:u32",
				      setting);
	status = find_place(cli, symbols, name, &place);
	if (status != CLI_DONE)
		return status;
	type = type ? type : type_of_size(place.size);
	if (!type)
		return cli_fail_usage(cli,
				      "of which type is %s? write %s:u32, or u8 to i64, f32, "
				      "f64, str, hex",
				      name, setting);
	bytes = value(text, type, &size);
	if (!bytes)
		return cli_fail_usage(cli, "'%s' is no value of type %s", text, type->name);
	if (place.size && size > place.size)
		return cli_fail_usage(cli, "%s has %" PRIu64 " bytes, the value %zu", name,
				      place.size, size);
	if (!is_there(image, place.address, size))
		return cli_fail_own(cli, KAGE_NOTFOUND, 0, "%s has no memory at %#" PRIx64,
				    kage_image_label(image), place.address);
	add_take(edits, place.address, bytes, size);
	bytes = NULL;
	return CLI_DONE;
}

/* --- the environment -------------------------------------------------------------------------- */

static bool read_pointer(const struct kage_image *image, uint64_t address, uint64_t *ret_pointer)
{
	uint8_t bytes[POINTER_BYTES];
	size_t n = 0;
	struct kage_err *e = kage_image_read(image, address, bytes, sizeof(bytes), &n);

	*ret_pointer = 0;
	for (size_t i = sizeof(bytes); i-- > 0;)
		*ret_pointer = *ret_pointer << 8 | bytes[i];
	kage_err_free(e);
	return !e && n == sizeof(bytes);
}

/* The string at ADDRESS, fresh; NULL when there is none. */
static char *read_string(const struct kage_image *image, uint64_t address)
{
	char *text = cli_grow(NULL, VARIABLE_BYTES, 1);
	size_t n = 0;
	struct kage_err *e = kage_image_read(image, address, text, VARIABLE_BYTES, &n);

	kage_err_free(e);
	if (!e && memchr(text, '\0', n))
		return text;
	free(text);
	return NULL;
}

/* Where the program has "NAME=…", and that string, fresh; NULL when it has none. */
static char *find_variable(const struct kage_image *image, uint64_t environment, const char *name,
			   uint64_t *ret_address)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < VARIABLES_MAX; i++) {
		char *text;

		if (!read_pointer(image, environment + i * POINTER_BYTES, ret_address) ||
		    !*ret_address)
			return NULL;
		text = read_string(image, *ret_address);
		if (text && strncmp(text, name, length) == 0 && text[length] == '=')
			return text;
		free(text);
	}
	return NULL;
}

int cli_edits_env(struct cli *cli, const struct kage_image *image, struct kage_symbols *symbols,
		  const char *setting, struct cli_edits *edits)
{
	const char *equals = strchr(setting, '=');
	_cleanup_free_ char *name =
		cli_printf("%.*s", (int)(equals ? equals - setting : 0), setting);
	_cleanup_free_ char *old = NULL;
	struct kage_symbol symbol;
	uint64_t environment, address;
	struct kage_err *e;

	if (!*name)
		return cli_fail_usage(cli, "'%s' is no variable; write NAME=VALUE", setting);
	e = kage_symbols_find(symbols, "environ", &symbol);
	if (e)
		return cli_fail(cli, e);
	if (read_pointer(image, symbol.address, &environment) && environment)
		old = find_variable(image, environment, name, &address);
	if (!old)
		return cli_fail_own(
			cli, KAGE_NOTFOUND, 0,
			"the environment in %s has no %s, and there is no room to add one",
			kage_image_label(image), name);
	if (strlen(setting) > strlen(old))
		return cli_fail_own(
			cli, KAGE_LIMIT, 0,
			"%s does not fit: there is room for %zu bytes, its value has %zu", name,
			strlen(old) - strlen(name) - 1, strlen(equals + 1));
	add_take(edits, address, cli_printf("%s", setting), strlen(setting) + 1);
	return CLI_DONE;
}
