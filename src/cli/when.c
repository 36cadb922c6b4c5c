/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage when: the images of a history at which some bytes of memory changed.
 *
 * Most images need not be opened: the list of pages in which an image differs from the one before it
 * stands in its pack, and is read without any contents.
 */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/text.h"

struct when_values {
	const char *symbol;
};

static const struct cli_option options[] = {
	{ "symbol", 's', "NAME", "what a symbol names, or NAME+LENGTH", CLI_TEXT,
	  .offset = offsetof(struct when_values, symbol) },
	{ 0 },
};

enum {
	PAGE_SHIFT = 12,
	SIZE_MAX_BYTES = 1 << 20,
	SHOWN_BYTES = 16, /* of a value in the table */
	ADDRESS_SPACE = 1,
};

static const struct cli_column columns[] = {
	{ .title = "IMAGE" },
	{ .title = "AGE", .right = true },
	{ .title = "TAKEN", .spare = 1 },
	{ .title = "BEFORE" },
	{ .title = "AFTER", .stretch = true },
};

/* The bytes as of one image. */
struct value {
	unsigned char *bytes;
	size_t n; /* there; fewer than asked for where a hole follows */
};

struct search {
	struct cli *cli;
	struct kage_store *store;
	struct cli_place place;
	struct value before, after;
	size_t n_opened, n_found;
	struct cli_table table;
	json_t *changes;
};

static struct kage_err *open_image(struct search *s, const char *name, uint64_t number,
				   struct kage_image **ret_image)
{
	_cleanup_free_ char *spec = cli_printf("%s@%" PRIu64, name, number);

	s->n_opened++;
	return kage_image_open(s->store, spec, ret_image);
}

static struct kage_err *read_value(struct search *s, const struct kage_entry *entry,
				   struct value *value)
{
	_cleanup_image_ struct kage_image *image = NULL;
	struct kage_err *e = open_image(s, entry->name, entry->number, &image);

	if (e)
		return e;
	value->bytes = cli_grow(value->bytes, s->place.size, 1);
	return kage_image_read(image, s->place.address, value->bytes, s->place.size, &value->n);
}

/* Whether the pages of the place may have changed in ENTRY since the image BEFORE it in the list. What its pack
 * cannot tell (a keyframe without a neighbour, shared memory) has to be looked at. */
static struct kage_err *may_differ(struct search *s, const struct kage_entry *entry,
				   const struct kage_entry *before, bool *ret_may)
{
	_cleanup_free_ char *spec = cli_printf("%s@%" PRIu64, entry->name, entry->number);
	uint64_t first = s->place.address >> PAGE_SHIFT;
	uint64_t last = (s->place.address + s->place.size - 1) >> PAGE_SHIFT;
	struct kage_change_list list = { 0 };
	struct kage_err *e;

	*ret_may = true;
	if (entry->base_number != before->number)
		return NULL;
	e = kage_store_changes(s->store, spec, &list);
	if (e)
		return e;
	/* Since the list was made it may have got another neighbour. */
	*ret_may = list.base_number != before->number;
	for (size_t i = 0; i < list.n; i++) {
		const struct kage_change *c = &list.runs[i];

		*ret_may |= c->space != ADDRESS_SPACE ||
			    (c->first_page <= last && c->first_page + c->n_pages > first);
	}
	kage_change_list_free(&list);
	return NULL;
}

/* As hexadecimal numbers, those of up to eight bytes as one. */
static void show_value(const struct value *v, uint64_t size, char text[4 * SHOWN_BYTES])
{
	size_t n = v->n < SHOWN_BYTES ? v->n : SHOWN_BYTES, at = 0;
	uint64_t number = 0;

	if (v->n == 0) {
		strcpy(text, "not there");
		return;
	}
	if (v->n == size && (size == 1 || size == 2 || size == 4 || size == 8)) {
		memcpy(&number, v->bytes, size);
		sprintf(text, "%#" PRIx64, number);
		return;
	}
	for (size_t i = 0; i < n; i++)
		at += (size_t)sprintf(text + at, "%02x ", v->bytes[i]);
	strcpy(text + at - 1, v->n > n ? " …" : "");
}

static json_t *value_json(const struct value *v)
{
	return v->n ? cli_json_hex(v->bytes, v->n) : json_null();
}

static void tell(struct search *s, const struct kage_entry *entry)
{
	_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, entry->name, entry->number);
	char text[4 * SHOWN_BYTES], time[CLI_TEXT_BYTES];
	uint64_t now = cli_clock_real_ns();

	s->n_found++;
	if (s->cli->json) {
		json_array_append_new(
			s->changes,
			json_pack("{s:o, s:o, s:s, s:o, s:o}", "image", cli_json_text(label),
				  "number", cli_json_number(entry->number), "time",
				  cli_text_time_utc(time, entry->realtime_ns), "before",
				  value_json(&s->before), "after", value_json(&s->after)));
		return;
	}
	cli_table_add(&s->table, label);
	cli_table_add(&s->table, cli_text_duration(time, now - entry->realtime_ns));
	cli_table_add(&s->table, cli_text_time(time, entry->realtime_ns));
	show_value(&s->before, s->place.size, text);
	cli_table_add(&s->table, text);
	show_value(&s->after, s->place.size, text);
	cli_table_add(&s->table, text);
}

static bool equal(const struct value *a, const struct value *b)
{
	return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

static void swap(struct search *s)
{
	struct value v = s->before;

	s->before = s->after;
	s->after = v;
}

/* ENTRY and the one BEFORE it in the list. */
static struct kage_err *look_at(struct search *s, const struct kage_entry *before,
				const struct kage_entry *entry)
{
	struct kage_err *e;
	bool may;

	e = may_differ(s, entry, before, &may);
	if (e || !may)
		return e;
	/* Between the last image that was opened and this one nothing changed but perhaps here. */
	e = read_value(s, entry, &s->after);
	if (e)
		return e;
	if (!equal(&s->before, &s->after))
		tell(s, entry);
	swap(s);
	return NULL;
}

/* Whether the search can go on without an image because of which E (taken then) came: it was removed since the list was made,
 * or is damaged, which is told. */
static bool pass_over(struct search *s, const struct kage_entry *entry, struct kage_err *e)
{
	if (kage_err_code(e) == KAGE_CORRUPT)
		cli_note(s->cli, "%s@%" PRIu64 " is passed over: %s", entry->name, entry->number,
			 kage_err_message(e));
	else if (kage_err_code(e) != KAGE_NOTFOUND)
		return false;
	kage_err_free(e);
	return true;
}

static struct kage_err *search(struct search *s, const struct kage_list *list)
{
	const struct kage_entry *before = NULL;

	for (size_t i = 0; i < list->n; i++) {
		const struct kage_entry *entry = &list->entries[i];
		struct kage_err *e =
			before ? look_at(s, before, entry) : read_value(s, entry, &s->before);

		if (!e)
			before = entry;
		else if ((i == list->n - 1 && !before) || !pass_over(s, entry, e))
			return e;
	}
	return NULL;
}

/* Symbols are those of the newest image. */
static int find_place(struct search *s, const struct when_values *values, int argc, char **argv)
{
	_cleanup_image_ struct kage_image *image = NULL;
	_cleanup_symbols_ struct kage_symbols *symbols = NULL;
	struct kage_err *e;

	if (!values->symbol && argc < 2)
		return cli_fail_usage(s->cli, "which memory? kage when NAME ADDRESS+LENGTH, "
					      "ADDRESS or --symbol NAME");
	if (!values->symbol)
		return cli_place_range(s->cli, argv[1], true, &s->place);
	e = kage_image_open(s->store, argv[0], &image);
	if (!e)
		e = kage_symbols_open(image, &symbols);
	if (e)
		return cli_fail(s->cli, e);
	return cli_place_symbol(s->cli, symbols, values->symbol, &s->place);
}

static void print(struct search *s, const struct kage_list *list)
{
	if (s->cli->json)
		cli_json_print_take(json_pack(
			"{s:o, s:o, s:o, s:o, s:o}", "address", cli_json_number(s->place.address),
			"size", cli_json_number(s->place.size), "images", cli_json_number(list->n),
			"opened", cli_json_number(s->n_opened), "changes",
			json_incref(s->changes)));
	else if (s->n_found)
		cli_table_print(&s->table, stdout, s->cli->columns, s->cli->colour);
	else
		cli_note(s->cli, "it did not change in any of %zu images", list->n);
}

static int run_search(struct search *s, const struct when_values *values, int argc, char **argv)
{
	struct kage_list list = { 0 };
	int status = find_place(s, values, argc, argv);
	struct kage_err *e;

	if (status != CLI_DONE)
		return status;
	if (!s->place.size)
		s->place.size = sizeof(uint64_t);
	if (s->place.size > SIZE_MAX_BYTES)
		return cli_fail_usage(s->cli, "at most 1 MiB can be looked for at once");
	e = kage_store_list(s->store, argv[0], &list);
	if (!e && list.n)
		e = search(s, &list);
	cli_progress_clear(s->cli->progress);
	if (!e)
		print(s, &list);
	kage_list_free(&list);
	return e ? cli_fail(s->cli, e) : CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	_cleanup_store_ struct kage_store *store = NULL;
	struct search s = { .cli = cli,
			    .table = { .columns = columns, .n_columns = ARRAY_SIZE(columns) } };
	struct kage_err *e = cli_store_open(cli, 0, &store);
	int status;

	if (e)
		return cli_fail(cli, e);
	s.store = store;
	s.changes = json_array();
	status = run_search(&s, data, argc, argv);
	json_decref(s.changes);
	cli_table_deinit(&s.table);
	free(s.before.bytes);
	free(s.after.bytes);
	return status;
}

const struct cli_command cli_when = {
	.name = "when",
	.arguments = "NAME [ADDRESS|ADDRESS+LENGTH|ADDRESS-END]",
	.summary = "find the images at which some memory changed",
	.details =
		"  Lists every image of history NAME at which these bytes (eight, where no length is given) are\n"
		"  others than in the image before it, with both values.",
	.options = options,
	.min_args = 1,
	.max_args = 2,
	.reads_images = true,
	.run = run,
};
