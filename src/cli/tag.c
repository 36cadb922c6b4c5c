/* SPDX-License-Identifier: Apache-2.0 */
/* kage tag: gives images names, lists them, takes them away. */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "cli/table.h"

struct tag_values {
	bool delete;
	bool force;
};

static const struct cli_option options[] = {
	{ "delete", 'd', NULL, "take the tag away from NAME@TAG; the image stays", CLI_FLAG,
	  .offset = offsetof(struct tag_values, delete) },
	{ "force", 'f', NULL, "take the tag from the image that has it", CLI_FLAG,
	  .offset = offsetof(struct tag_values, force) },
	{ 0 },
};

static const struct cli_column columns[] = { { .title = "TAG" }, { .title = "IMAGE" } };

/* Appends the tags of history NAME to LIST. */
static struct kage_err *list_history(struct kage_store *store, const char *name, json_t *list)
{
	struct kage_tags tags;
	struct kage_err *e = kage_store_tags(store, name, &tags);

	if (e)
		return e;
	for (size_t i = 0; i < tags.n; i++) {
		_cleanup_free_ char *label = cli_printf("%s@%" PRIu64, name, tags.tags[i].number);

		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:o}", "tag", tags.tags[i].name,
						"image", label, "name", name, "number",
						cli_json_number(tags.tags[i].number)));
	}
	kage_tags_free(&tags);
	return NULL;
}

static struct kage_err *list_all(struct kage_store *store, json_t *list)
{
	struct kage_list histories;
	struct kage_err *e = kage_store_list(store, NULL, &histories);

	if (e)
		return e;
	for (size_t i = 0; i < histories.n && !e; i++)
		e = list_history(store, histories.entries[i].name, list);
	kage_list_free(&histories);
	return e;
}

static void print(const struct cli *cli, const json_t *list)
{
	_cleanup_table_ struct cli_table table = { .columns = columns,
						   .n_columns = ARRAY_SIZE(columns) };
	const json_t *tag;
	size_t i;

	json_array_foreach(list, i, tag)
	{
		cli_table_add(&table, json_string_value(json_object_get(tag, "tag")));
		cli_table_add(&table, json_string_value(json_object_get(tag, "image")));
	}
	if (json_array_size(list))
		cli_table_print(&table, stdout, cli->columns, cli->colour);
	else
		cli_note(cli, "no tags; 'kage tag IMAGE TAG' gives one");
}

/* Of the history NAME, or of all when that is NULL. */
static int list(struct cli *cli, struct kage_store *store, const char *name)
{
	json_t *all = json_array();
	struct kage_err *e = name ? list_history(store, name, all) : list_all(store, all);

	if (!e && cli->json)
		cli_json_print_take(json_pack("{s:O}", "tags", all));
	else if (!e)
		print(cli, all);
	json_decref(all);
	return e ? cli_fail(cli, e) : CLI_DONE;
}

static int give(struct cli *cli, struct kage_store *store, const char *spec, const char *tag,
		bool move)
{
	_cleanup_free_ char *name = NULL;
	uint64_t number = 0;
	struct kage_err *e = kage_store_resolve(store, spec, &name, &number);

	if (!e)
		e = kage_store_tag(store, name, number, tag, move);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		cli_json_print_take(json_pack("{s:s, s:s, s:o}", "tag", tag, "name", name, "number",
					      cli_json_number(number)));
	else
		printf("%s@%" PRIu64 " is %s@%s\n", name, number, name, tag);
	return CLI_DONE;
}

/* SPEC is NAME@TAG, or NAME with the tag in TAG. */
static int take(struct cli *cli, struct kage_store *store, const char *spec, const char *tag)
{
	const char *at = strchr(spec, '@');
	_cleanup_free_ char *name = NULL;
	struct kage_err *e;

	if (!at == !tag)
		return cli_fail_usage(cli, "which tag? kage tag -d NAME@TAG");
	name = cli_printf("%.*s", (int)(at ? (size_t)(at - spec) : strlen(spec)), spec);
	tag = tag ? tag : at + 1;
	e = kage_store_untag(store, name, tag);
	if (e)
		return cli_fail(cli, e);
	if (cli->json)
		cli_json_print_take(json_pack("{s:s, s:s}", "removed", tag, "name", name));
	return CLI_DONE;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct tag_values *values = data;
	_cleanup_store_ struct kage_store *store = NULL;
	struct kage_err *e;

	if (values->delete &&argc == 0)
		return cli_fail_usage(cli, "which tag? kage tag -d NAME@TAG");
	e = cli_store_open(cli, 0, &store);
	if (e)
		return cli_fail(cli, e);
	if (values->delete)
		return take(cli, store, argv[0], argc > 1 ? argv[1] : NULL);
	if (argc == 2)
		return give(cli, store, argv[0], argv[1], values->force);
	return list(cli, store, argc ? argv[0] : NULL);
}

const struct cli_command cli_tag = {
	.name = "tag",
	.arguments = "[NAME] | IMAGE TAG | -d NAME@TAG",
	.summary = "give images names",
	.details =
		"  Gives IMAGE the name TAG: NAME@TAG means it from then on, and it is not removed by chance.\n"
		"  Without TAG, lists the tags of history NAME, or of all.",
	.options = options,
	.min_args = 0,
	.max_args = 2,
	.run = run,
};
