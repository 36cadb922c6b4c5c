/* SPDX-License-Identifier: Apache-2.0 */
/* Names of images, histories and packs. What stands behind an '@' and was understood, written again,
 * is understood as the same. */
#include "lib/fuzzing.h"
#include "store/dir.h"
#include "store/resolve.h"
#include "store/suggest.h"

#include <inttypes.h>

static void check_which(const char *text)
{
	struct kage_which which, again;
	char plain[40];

	if (fuzz_refused(kage_which_parse(text, &which)))
		return;
	switch (which.kind) {
	case KAGE_WHICH_NUMBER:
		snprintf(plain, sizeof(plain), "%" PRIu64, which.n);
		break;
	case KAGE_WHICH_FIRST:
		snprintf(plain, sizeof(plain), "first");
		break;
	case KAGE_WHICH_BEFORE:
		snprintf(plain, sizeof(plain), "-%" PRIu64, which.n);
		break;
	case KAGE_WHICH_AGE:
		holds(which.n % 1000000000 == 0);
		snprintf(plain, sizeof(plain), "%" PRIu64 "s", which.n / 1000000000);
		break;
	}
	holds(!fuzz_refused(kage_which_parse(plain, &again)));
	holds(again.kind == which.kind && again.n == which.n);
}

static void check_name(const char *text)
{
	char name[KAGE_NAME_BYTES];

	kage_store_default_name(text, name);
	holds(!fuzz_refused(kage_store_check_name(name)));
	if (fuzz_refused(kage_store_check_name(text)))
		return;
	holds(strcmp(name, text) == 0);
	holds(!strpbrk(text, "/@ \n") && text[0] != '.' && text[0] != '-');
}

static void check_pack(const char *text)
{
	uint64_t number = kage_dir_pack_number(text);
	char name[PACK_NAME_BYTES];

	if (!number)
		return;
	kage_dir_pack_name(number, name);
	holds(strcmp(name, text) == 0);
}

/* What was meant stands first when it is there. */
static void check_suggestion(const char *text)
{
	const char *names[] = { "redis", text, "python3", "0" };
	_cleanup_free_ char *suggestion = kage_suggest(text, names, ARRAY_SIZE(names));

	holds(suggestion);
	holds(strlen(text) > 60 || strstr(suggestion, text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = fuzz_text(data, size);

	check_which(text);
	check_name(text);
	check_pack(text);
	check_suggestion(text);
	return 0;
}
