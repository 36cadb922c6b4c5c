/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage diff: in what two images differ.
 *
 * Differences are printed as libkage finds them, so that what is held in memory is at most the
 * symbols of one mapping, and the registers of one thread.
 */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "cli/text.h"

struct diff_values {
	bool hex;
	bool full;
};

static const struct cli_option options[] = {
	{ "hex", 'x', NULL, "print the bytes before and after", CLI_FLAG,
	  .offset = offsetof(struct diff_values, hex) },
	{ "full", 'f', NULL, "print every symbol and every register", CLI_FLAG,
	  .offset = offsetof(struct diff_values, full) },
	{ 0 },
};

enum { SYMBOLS_SHOWN = 10, LINE_BYTES = 16 };

struct symbol {
	char *name;
	uint64_t bytes;
};

/* What was printed so far, and what waits for its line. */
struct printer {
	const struct cli *cli;
	bool full;
	const char *section;
	size_t n; /* differences */
	struct symbol *symbols;
	size_t n_symbols;
	bool bytes_begun; /* runs of a mapping were printed, so its name was, too */
	char *thread;     /* whose registers wait for their line */
	char *registers;
	json_t *json; /* of --json: arrays by section; `memory` waits for its end */
	json_t *json_symbols, *json_runs;
};

static const char *section_of(enum kage_diff_part part)
{
	switch (part) {
	case KAGE_DIFF_MAPPING:
		return "mappings";
	case KAGE_DIFF_BYTES:
	case KAGE_DIFF_SYMBOL:
	case KAGE_DIFF_MEMORY:
		return "memory";
	case KAGE_DIFF_DESCRIPTOR:
		return "descriptors";
	case KAGE_DIFF_THREAD:
		return "threads";
	case KAGE_DIFF_SIGNAL:
		return "signals";
	case KAGE_DIFF_PROCESS:
		return "process";
	}
	return "other";
}

/* --- for a person ----------------------------------------------------------------------------- */

static const char *sign(const struct printer *p, enum kage_diff_how how)
{
	static const char *const plain[] = { "~", "+", "-" };
	static const char *const coloured[] = { "\033[33m~\033[0m", "\033[32m+\033[0m",
						"\033[31m-\033[0m" };

	return p->cli->colour ? coloured[how] : plain[how];
}

static void print_clean(const char *text)
{
	_cleanup_free_ char *clean = cli_text_clean(text ? text : "none");

	fputs(clean, stdout);
}

static void print_warning(const struct printer *p, const struct kage_difference *d)
{
	if (d->warning)
		printf("  %s! %s%s", p->cli->colour ? "\033[1;31m" : "", d->warning,
		       p->cli->colour ? "\033[0m" : "");
	putchar('\n');
}

static void print_mapping(const struct printer *p, const struct kage_difference *d)
{
	char size[CLI_TEXT_BYTES];

	printf("  %s %012" PRIx64 "-%012" PRIx64 "  ", sign(p, d->how), d->start, d->end);
	if (d->before && d->after)
		printf("%s → %s  ", d->before, d->after);
	else
		printf("%s  ", d->before ? d->before : d->after);
	printf("%9s  ", cli_text_size(size, d->end - d->start));
	print_clean(d->object);
	if (d->how != KAGE_DIFF_CHANGED && d->field)
		fputs(d->how == KAGE_DIFF_NEW ? ", grown" : ", shrunk", stdout);
	print_warning(p, d);
}

/* One line of the bytes from ADDRESS on. */
static void print_bytes(const struct printer *p, enum kage_diff_how how, uint64_t address,
			const unsigned char *bytes, size_t n)
{
	printf("    %s %012" PRIx64 " ", sign(p, how), address);
	for (size_t i = 0; i < LINE_BYTES; i++)
		if (i < n)
			printf(" %02x", bytes[i]);
		else
			fputs("   ", stdout);
	fputs("  |", stdout);
	for (size_t i = 0; i < n; i++)
		putchar(bytes[i] >= ' ' && bytes[i] < 0x7f ? bytes[i] : '.');
	puts("|");
}

static void print_run(struct printer *p, const struct kage_difference *d)
{
	size_t size = (size_t)(d->end - d->start);

	if (!p->bytes_begun) {
		fputs("  ", stdout);
		print_clean(d->object);
		putchar('\n');
	}
	p->bytes_begun = true;
	for (size_t at = 0; at < size; at += LINE_BYTES) {
		size_t n = size - at < LINE_BYTES ? size - at : LINE_BYTES;

		print_bytes(p, KAGE_DIFF_GONE, d->start + at, d->old_bytes + at, n);
		print_bytes(p, KAGE_DIFF_NEW, d->start + at, d->new_bytes + at, n);
	}
}

static void add_symbol(struct printer *p, const struct kage_difference *d)
{
	p->symbols = cli_grow(p->symbols, p->n_symbols + 1, sizeof(*p->symbols));
	p->symbols[p->n_symbols++] =
		(struct symbol){ .name = cli_text_clean(d->object), .bytes = d->bytes };
}

static int more_bytes(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

static void print_symbols(struct printer *p)
{
	size_t n = p->full || p->n_symbols <= SYMBOLS_SHOWN ? p->n_symbols : SYMBOLS_SHOWN;

	if (p->n_symbols)
		qsort(p->symbols, p->n_symbols, sizeof(*p->symbols), more_bytes);
	for (size_t i = 0; i < n; i++)
		printf("      %9" PRIu64 "  %s\n", p->symbols[i].bytes, p->symbols[i].name);
	if (n < p->n_symbols)
		printf("                 … and %zu more symbols\n", p->n_symbols - n);
	for (size_t i = 0; i < p->n_symbols; i++)
		free(p->symbols[i].name);
	p->n_symbols = 0;
}

/* The sum of a mapping, and its symbols. */
static void print_memory(struct printer *p, const struct kage_difference *d)
{
	printf("  %s %012" PRIx64 "-%012" PRIx64 "  %9" PRIu64 " %s in %" PRIu64 " %s  ",
	       sign(p, KAGE_DIFF_CHANGED), d->start, d->end, d->bytes,
	       d->bytes == 1 ? "byte" : "bytes", d->pages, d->pages == 1 ? "page" : "pages");
	print_clean(d->object);
	if (d->lost_pages)
		printf("  (its file changed; %" PRIu64 " pages of it are in neither image)",
		       d->lost_pages);
	print_warning(p, d);
	print_symbols(p);
	p->bytes_begun = false;
}

static void flush_registers(struct printer *p)
{
	if (p->registers)
		printf("  %s %s  also: %s\n", sign(p, KAGE_DIFF_CHANGED), p->thread, p->registers);
	free(p->registers);
	free(p->thread);
	p->registers = p->thread = NULL;
}

/* Names the field among those of its thread that changed, too. */
static void add_register(struct printer *p, const struct kage_difference *d)
{
	char *before = p->registers;

	if (p->thread && strcmp(p->thread, d->object) != 0)
		flush_registers(p);
	before = p->registers;
	if (!p->thread)
		p->thread = cli_text_clean(d->object);
	p->registers = before ? cli_printf("%s, %s", before, d->field) : cli_printf("%s", d->field);
	free(before);
}

static void print_other(struct printer *p, const struct kage_difference *d)
{
	printf("  %s ", sign(p, d->how));
	print_clean(d->object);
	if (d->field)
		printf("  %s", d->field);
	fputs("  ", stdout);
	if (d->how == KAGE_DIFF_CHANGED) {
		print_clean(d->before);
		fputs(" → ", stdout);
	}
	print_clean(d->how == KAGE_DIFF_GONE ? d->before : d->after);
	print_warning(p, d);
}

static void print_one(struct printer *p, const struct kage_difference *d)
{
	switch (d->part) {
	case KAGE_DIFF_MAPPING:
		print_mapping(p, d);
		return;
	case KAGE_DIFF_BYTES:
		print_run(p, d);
		return;
	case KAGE_DIFF_SYMBOL:
		add_symbol(p, d);
		return;
	case KAGE_DIFF_MEMORY:
		print_memory(p, d);
		return;
	case KAGE_DIFF_THREAD:
		if (!p->full && d->how == KAGE_DIFF_CHANGED && strcmp(d->field, "rip") != 0) {
			add_register(p, d);
			return;
		}
		flush_registers(p); /* of the thread before */
		break;
	default:
		break;
	}
	print_other(p, d);
}

static void begin_section(struct printer *p, const char *name)
{
	if (p->section && strcmp(p->section, name) == 0)
		return;
	flush_registers(p);
	printf("%s%s%s\n", p->cli->colour ? "\033[1m" : "", name, p->cli->colour ? "\033[0m" : "");
	p->section = name;
}

static void told(void *user, const struct kage_difference *d)
{
	struct printer *p = user;

	cli_progress_clear(p->cli->progress);
	p->n++;
	begin_section(p, section_of(d->part));
	print_one(p, d);
}

/* --- for programs ----------------------------------------------------------------------------- */

static json_t *common_json(const struct kage_difference *d)
{
	static const char *const how[] = { "changed", "new", "gone" };

	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "change", how[d->how], "object",
			 cli_json_text(d->object), "field", cli_json_text(d->field), "before",
			 cli_json_text(d->before), "after", cli_json_text(d->after), "warning",
			 cli_json_text(d->warning));
}

static json_t *symbol_json(const struct kage_difference *d)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "name", cli_json_text(d->object), "address",
			 cli_json_number(d->start), "size", cli_json_number(d->end - d->start),
			 "bytes", cli_json_number(d->bytes));
}

static json_t *run_json(const struct kage_difference *d)
{
	uint64_t n = d->end - d->start;

	return json_pack("{s:o, s:o, s:o}", "address", cli_json_number(d->start), "before",
			 cli_json_hex(d->old_bytes, n), "after", cli_json_hex(d->new_bytes, n));
}

static void add_addresses(json_t *object, const struct kage_difference *d)
{
	json_object_set_new(object, "start", cli_json_number(d->start));
	json_object_set_new(object, "end", cli_json_number(d->end));
	json_object_set_new(object, "pages", cli_json_number(d->pages));
}

static void told_json(void *user, const struct kage_difference *d)
{
	struct printer *p = user;
	json_t *object;

	p->n++;
	if (d->part == KAGE_DIFF_SYMBOL) {
		json_array_append_new(p->json_symbols, symbol_json(d));
		return;
	}
	if (d->part == KAGE_DIFF_BYTES) {
		json_array_append_new(p->json_runs, run_json(d));
		return;
	}
	object = common_json(d);
	if (d->part == KAGE_DIFF_MAPPING || d->part == KAGE_DIFF_MEMORY)
		add_addresses(object, d);
	if (d->part == KAGE_DIFF_MEMORY) {
		json_object_set_new(object, "bytes", cli_json_number(d->bytes));
		json_object_set_new(object, "lost_pages", cli_json_number(d->lost_pages));
		json_object_set_new(object, "symbols", p->json_symbols);
		json_object_set_new(object, "runs", p->json_runs);
		p->json_symbols = json_array();
		p->json_runs = json_array();
	}
	json_array_append_new(json_object_get(p->json, section_of(d->part)), object);
}

static void begin_json(struct printer *p, const struct kage_image *a, const struct kage_image *b)
{
	p->json_symbols = json_array();
	p->json_runs = json_array();
	p->json = json_pack("{s:o, s:o, s:[], s:[], s:[], s:[], s:[], s:[]}", "before",
			    cli_json_text(kage_image_label(a)), "after",
			    cli_json_text(kage_image_label(b)), "mappings", "memory", "descriptors",
			    "threads", "signals", "process");
}

/* --- the command ------------------------------------------------------------------------------ */

static void printer_deinit(struct printer *p)
{
	for (size_t i = 0; i < p->n_symbols; i++)
		free(p->symbols[i].name);
	free(p->symbols);
	free(p->registers);
	free(p->thread);
	json_decref(p->json);
	json_decref(p->json_symbols);
	json_decref(p->json_runs);
}

static int compare(struct cli *cli, const struct diff_values *values, const struct kage_image *a,
		   const struct kage_image *b)
{
	__attribute__((cleanup(printer_deinit))) struct printer p = { .cli = cli,
								      .full = values->full };
	struct kage_diff_options how = { .bytes = values->hex };
	struct kage_err *e;

	if (cli->json)
		begin_json(&p, a, b);
	e = kage_image_diff(cli->ctx, a, b, &how, cli->json ? told_json : told, &p);
	if (e)
		return cli_fail(cli, e);
	cli_progress_clear(cli->progress);
	if (cli->json)
		cli_json_print_take(json_incref(p.json));
	else if (p.n == 0)
		puts("no difference");
	else
		flush_registers(&p);
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	_cleanup_image_ struct kage_image *before = NULL;
	_cleanup_image_ struct kage_image *after = NULL;
	struct kage_err *e = cli_image_open(cli, argv[0], &store, &before);

	(void)argc;
	if (!e)
		e = kage_image_open(store, argv[1], &after);
	return e ? cli_fail(cli, e) : compare(cli, data, before, after);
}

const struct cli_command cli_diff = {
	.name = "diff",
	.arguments = "IMAGE1 IMAGE2",
	.summary = "tell in what two images differ",
	.details =
		"  Tells what came, went and changed from IMAGE1 to IMAGE2: mappings, memory by mapping and\n"
		"  symbol, descriptors, threads and their registers, signals, and the rest of the process.",
	.options = options,
	.min_args = 2,
	.max_args = 2,
	.reads_images = true,
	.run = run,
};
