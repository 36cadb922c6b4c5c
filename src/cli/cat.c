/* SPDX-License-Identifier: Apache-2.0 */
/* kage cat: prints memory as of an image, as bytes, numbers, text or addresses with their symbols. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/text.h"

/* The words of --as, in the order of the option's argument; 0: not given. */
enum as {
	AS_HEX = 1,
	AS_RAW,
	AS_STR,
	AS_PTR,
	AS_U8,
	AS_U16,
	AS_U32,
	AS_U64,
	AS_I32,
	AS_I64,
	AS_F64,
};

struct cat_values {
	const char *symbol;
	int as;
};

static const struct cli_option options[] = {
	{ "symbol", 's', "NAME", "what a symbol names, or NAME+LENGTH", CLI_TEXT,
	  .offset = offsetof(struct cat_values, symbol) },
	{ "as", 'a', "hex|raw|str|ptr|u8|u16|u32|u64|i32|i64|f64", "how to print it", CLI_CHOICE,
	  .offset = offsetof(struct cat_values, as) },
	{ 0 },
};

enum {
	PIECE_BYTES = 1 << 20,
	STRING_BYTES = 1 << 16, /* where no length is given, a string is looked for in so much */
	LINE_BYTES = 16,
};

/* A place and how it is to be shown. */
struct view {
	struct cli *cli;
	const struct kage_image *image;
	struct kage_symbols *symbols;
	enum as as;
	uint64_t address, size;
	unsigned char before[LINE_BYTES]; /* the last line of a dump, to be told once */
	bool repeats, starred;
	json_t *values;
};

/* --- values ----------------------------------------------------------------------------------- */

static size_t width_of(enum as as)
{
	switch (as) {
	case AS_U8:
		return 1;
	case AS_U16:
		return 2;
	case AS_U32:
	case AS_I32:
		return 4;
	case AS_U64:
	case AS_I64:
	case AS_F64:
	case AS_PTR:
		return 8;
	default:
		return 0;
	}
}

static uint64_t load(const unsigned char *p, size_t width)
{
	uint64_t v = 0;

	for (size_t i = width; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

static int64_t extend(uint64_t v, size_t width)
{
	unsigned shift = 64 - 8 * (unsigned)width;

	return (int64_t)(v << shift) >> shift;
}

static double as_double(uint64_t v)
{
	double d;

	memcpy(&d, &v, sizeof(d));
	return d;
}

/* One value as text, fresh; *RET_JSON is the same for --json. */
static struct kage_err *value(struct view *v, const unsigned char *p, char **ret_text,
			      json_t **ret_json)
{
	size_t width = width_of(v->as);
	uint64_t bits = load(p, width);
	_cleanup_free_ char *where = NULL;
	struct kage_err *e;

	if (v->as == AS_PTR) {
		e = kage_symbols_describe(v->symbols, bits, &where);
		if (e)
			return e;
		*ret_text = cli_printf("%#018" PRIx64 "  %s", bits, where);
		*ret_json = json_pack("{s:o, s:o}", "address", cli_json_number(bits), "where",
				      cli_json_text(where));
	} else if (v->as == AS_F64) {
		*ret_text = cli_printf("%.17g", as_double(bits));
		*ret_json = json_real(as_double(bits));
		if (!*ret_json) /* infinite, or not a number */
			*ret_json = json_string(*ret_text);
	} else if (v->as == AS_I32 || v->as == AS_I64) {
		*ret_text = cli_printf("%" PRId64, extend(bits, width));
		*ret_json = cli_json_signed(extend(bits, width));
	} else {
		*ret_text = cli_printf("%" PRIu64, bits);
		*ret_json = cli_json_number(bits);
	}
	return NULL;
}

static struct kage_err *print_values(struct view *v, const unsigned char *bytes, size_t n)
{
	size_t width = width_of(v->as);

	for (size_t at = 0; at + width <= n; at += width) {
		_cleanup_free_ char *text = NULL;
		json_t *json;
		struct kage_err *e = value(v, bytes + at, &text, &json);

		if (e)
			return e;
		if (v->cli->json) {
			json_array_append_new(v->values, json);
			continue;
		}
		puts(text);
		json_decref(json);
	}
	return NULL;
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void print_line(const struct view *v, uint64_t address, const unsigned char *line, size_t n)
{
	const char *dim = v->cli->colour ? "\033[2m" : "", *off = v->cli->colour ? "\033[0m" : "";

	printf("%s%012" PRIx64 "%s ", dim, address, off);
	for (size_t i = 0; i < LINE_BYTES; i++) {
		if (i < n)
			printf("%s%02x", i == LINE_BYTES / 2 ? "  " : " ", line[i]);
		else
			fputs(i == LINE_BYTES / 2 ? "    " : "   ", stdout);
	}
	printf("  %s|%s", dim, off);
	for (size_t i = 0; i < n; i++)
		putchar(line[i] >= ' ' && line[i] < 0x7f ? line[i] : '.');
	printf("%s|%s\n", dim, off);
}

/* As hexdump -C: lines that are equal to the one before stand as one '*'. */
static void dump(struct view *v, uint64_t address, const unsigned char *bytes, size_t n)
{
	for (size_t at = 0; at < n; at += LINE_BYTES) {
		size_t length = n - at < LINE_BYTES ? n - at : LINE_BYTES;

		if (v->repeats && length == LINE_BYTES &&
		    memcmp(v->before, bytes + at, LINE_BYTES) == 0) {
			if (!v->starred)
				puts("*");
			v->starred = true;
			continue;
		}
		v->starred = false;
		v->repeats = length == LINE_BYTES;
		memcpy(v->before, bytes + at, length);
		print_line(v, address + at, bytes + at, length);
	}
}

static void dump_json(struct view *v, const unsigned char *bytes, size_t n)
{
	_cleanup_free_ char *text = cli_grow(NULL, n, 2);
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	json_array_append_new(v->values, json_stringn(text, 2 * n));
}

static struct kage_err *show(struct view *v, uint64_t address, const unsigned char *bytes, size_t n)
{
	if (width_of(v->as))
		return print_values(v, bytes, n);
	if (v->cli->json)
		dump_json(v, bytes, n);
	else if (v->as == AS_RAW)
		fwrite(bytes, 1, n, stdout);
	else
		dump(v, address, bytes, n);
	return NULL;
}

/* --- all of it -------------------------------------------------------------------------------- */

/* Up to the first zero byte. */
static int print_string(struct view *v)
{
	size_t most = v->size && v->size < STRING_BYTES ? (size_t)v->size : STRING_BYTES, n = 0;
	_cleanup_free_ char *text = cli_grow(NULL, most + 1, 1);
	_cleanup_free_ char *clean = NULL;
	struct kage_err *e = kage_image_read(v->image, v->address, text, most, &n);

	if (e)
		return cli_fail(v->cli, e);
	if (n == 0)
		return cli_fail_own(v->cli, KAGE_NOTFOUND, 0, "%s has no memory at %#" PRIx64,
				    kage_image_label(v->image), v->address);
	text[n] = '\0';
	clean = isatty(STDOUT_FILENO) ? cli_text_clean(text) : cli_printf("%s", text);
	if (v->cli->json)
		json_array_append_new(v->values, cli_json_text(text));
	else
		puts(clean);
	return CLI_DONE;
}

static int print_range(struct view *v)
{
	_cleanup_free_ unsigned char *bytes = cli_grow(NULL, PIECE_BYTES, 1);

	for (uint64_t done = 0; done < v->size;) {
		uint64_t left = v->size - done, at = v->address + done;
		size_t want = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES, n = 0;
		struct kage_err *e = kage_image_read(v->image, at, bytes, want, &n);

		if (!e)
			e = show(v, at, bytes, n);
		if (e)
			return cli_fail(v->cli, e);
		if (n < want)
			return cli_fail_own(v->cli, KAGE_NOTFOUND, 0,
					    "%s has no memory at %#" PRIx64,
					    kage_image_label(v->image), at + n);
		done += n;
	}
	return CLI_DONE;
}

static void print_json(struct view *v, const struct kage_symbol *symbol)
{
	cli_json_print_take(json_pack("{s:o, s:o, s:o, s:o, s:o, s:O}", "image",
				      cli_json_text(kage_image_label(v->image)), "address",
				      cli_json_number(v->address), "size", cli_json_number(v->size),
				      "symbol", cli_json_text(symbol->name), "module",
				      cli_json_text(symbol->module),
				      width_of(v->as)   ? "values"
				      : v->as == AS_STR ? "text"
							: "hex",
				      v->values));
}

static int print(struct view *v, const struct kage_symbol *symbol)
{
	int status;

	if (v->cli->json)
		v->values = json_array();
	status = v->as == AS_STR ? print_string(v) : print_range(v);
	if (status == CLI_DONE && v->as == AS_HEX && !v->cli->json)
		printf("%012" PRIx64 "\n", v->address + v->size);
	if (status == CLI_DONE && v->cli->json)
		print_json(v, symbol);
	json_decref(v->values);
	return status;
}

static int check(struct cli *cli, const struct cat_values *values, int argc)
{
	if (!values->symbol && argc < 2)
		return cli_fail_usage(cli, "which memory? kage cat IMAGE ADDRESS+LENGTH, "
					   "ADDRESS-END or --symbol NAME");
	if (values->symbol && argc > 1)
		return cli_fail_usage(cli, "either an address or --symbol, not both");
	if (values->as == AS_RAW && isatty(STDOUT_FILENO) && !cli->json)
		return cli_fail_usage(cli, "raw bytes are not for a terminal; send them into a "
					   "pipe or file");
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct cat_values *values = data;
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *image = NULL;
	_cleanup_symbols_ struct kage_symbols *symbols = NULL;
	struct view v = { .cli = cli, .as = values->as ? (enum as)values->as : AS_HEX };
	struct cli_place place;
	int status = check(cli, values, argc);
	struct kage_err *e;

	if (status != CLI_DONE)
		return status;
	e = cli_image_open(cli, argv[0], &store, &image);
	if (!e)
		e = kage_symbols_open(image, &symbols);
	if (e)
		return cli_fail(cli, e);
	v.image = image;
	v.symbols = symbols;
	status = values->symbol ? cli_place_symbol(cli, symbols, values->symbol, &place)
				: cli_place_range(cli, argv[1], v.as == AS_STR, &place);
	if (status != CLI_DONE)
		return status;
	v.address = place.address;
	v.size = place.size ? place.size : v.as == AS_STR ? 0 : width_of(v.as);
	if (!v.size && v.as != AS_STR)
		return cli_fail_usage(cli, "the size of '%s' is not known; write %s+LENGTH",
				      values->symbol, values->symbol);
	cli_progress_clear(cli->progress);
	return print(&v, &place.symbol);
}

const struct cli_command cli_cat = {
	.name = "cat",
	.arguments = "IMAGE ADDRESS+LENGTH|ADDRESS-END|--symbol NAME",
	.summary = "print memory as of an image",
	.details =
		"  Prints LENGTH bytes of memory of IMAGE from ADDRESS, or what a symbol names, as a dump of\n"
		"  bytes, or as numbers, text or addresses with their symbols, one a line.",
	.options = options,
	.min_args = 1,
	.max_args = 2,
	.reads_images = true,
	.run = run,
};
