/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What NAME@WHICH means. WHICH is a number; "latest" or "first"; -N, the N-th before the latest; or
 * an age such as 30s, 5min, 2h, 1d, 1w: the newest image that is at least as old; or a tag.
 */
#include "store/resolve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/dir.h"
#include "store/pack_read.h"
#include "store/tags.h"

static const struct {
	const char *unit;
	uint64_t seconds;
} units[] = {
	{ "s", 1 },     { "sec", 1 },     { "m", 60 },       { "min", 60 },   { "h", 3600 },
	{ "d", 86400 }, { "day", 86400 }, { "days", 86400 }, { "w", 604800 },
};

static struct kage_err *bad(const char *which)
{
	return kage_err_new(KAGE_INVALID,
			    "behind the @ stands a number (NAME@12), latest, first, -1 (the one "
			    "before the latest), an age (NAME@5min) or a tag, not '%s'",
			    which);
}

/* Decimal digits at TEXT; *ret_end is what follows. False when there are none or too many. */
static bool digits(const char *text, uint64_t *ret_n, const char **ret_end)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret_n = strtoull(text, &end, 10);
	*ret_end = end;
	return errno == 0 && *ret_n < (uint64_t)1 << 60;
}

struct kage_err *kage_which_parse(const char *text, struct kage_which *ret_which)
{
	const char *end;
	uint64_t n;

	if (strcmp(text, "latest") == 0)
		*ret_which = (struct kage_which){ KAGE_WHICH_BEFORE, 0 };
	else if (strcmp(text, "first") == 0)
		*ret_which = (struct kage_which){ KAGE_WHICH_FIRST, 0 };
	else if (*text == '-' && digits(text + 1, &n, &end) && *end == '\0')
		*ret_which = (struct kage_which){ KAGE_WHICH_BEFORE, n };
	else if (digits(text, &n, &end) && *end == '\0')
		*ret_which = (struct kage_which){ KAGE_WHICH_NUMBER, n };
	else if (digits(text, &n, &end)) {
		for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
			if (strcmp(units[i].unit, end) != 0)
				continue;
			if (n > UINT64_MAX / 1000000000u / units[i].seconds)
				return bad(text);
			*ret_which = (struct kage_which){ KAGE_WHICH_AGE,
							  n * units[i].seconds * 1000000000u };
			return NULL;
		}
		return bad(text);
	} else {
		return bad(text);
	}
	return NULL;
}

/* When image NUMBER was taken; 0 when the pack does not tell. */
static struct kage_err *time_of(const struct history *h, uint64_t number, uint64_t *ret_ns)
{
	_cleanup_(kage_pack_glance_deinit) struct pack_glance g = { 0 };
	_cleanup_free_ char *path = kage_dir_pack_path(h, number);
	_cleanup_fd_ int fd = -1;

	if (!path)
		return kage_err_nomem();
	TRY(kage_dir_pack_open(h, number, &fd));
	TRY(kage_pack_glance(fd, path, &g));
	*ret_ns = g.summary.realtime_ns;
	return NULL;
}

/* The newest image that is at least AGE_NS old. One that cannot be read is passed over. */
static struct kage_err *find_age(const struct history *h, const uint64_t *numbers, size_t n,
				 uint64_t age_ns, const char *text, uint64_t *ret_number)
{
	uint64_t now = kage_clock_real_ns(), taken = 0;

	for (size_t i = n; i-- > 0;) {
		struct kage_err *e = time_of(h, numbers[i], &taken);

		if (e && kage_err_code(e) == KAGE_NOMEM)
			return e;
		if (!e && taken <= now && now - taken >= age_ns) {
			*ret_number = numbers[i];
			return NULL;
		}
		err_drop(e);
	}
	return kage_err_new(KAGE_NOTFOUND, "no image of %s is as old as %s; the oldest is %s@%llu",
			    h->name, text, h->name, (unsigned long long)numbers[0]);
}

static struct kage_err *find(const struct history *h, const struct kage_which *which,
			     const char *text, uint64_t *ret_number)
{
	_cleanup_free_ uint64_t *numbers = NULL;
	size_t n;

	TRY(kage_dir_numbers(h, &numbers, &n));
	if (n == 0)
		return kage_err_new(KAGE_NOTFOUND, "the history %s is empty", h->name);
	switch (which->kind) {
	case KAGE_WHICH_NUMBER:
		*ret_number = which->n;
		return NULL;
	case KAGE_WHICH_FIRST:
		*ret_number = numbers[0];
		return NULL;
	case KAGE_WHICH_BEFORE:
		if (which->n >= n)
			return kage_err_new(KAGE_NOTFOUND,
					    "there is no %s@%s: the history has only %zu image%s",
					    h->name, text, n, n == 1 ? "" : "s");
		*ret_number = numbers[n - 1 - which->n];
		return NULL;
	case KAGE_WHICH_AGE:
		break;
	}
	return find_age(h, numbers, n, which->n, text, ret_number);
}

/* A number is only right if there is such an image. */
static struct kage_err *check_exists(const struct history *h, uint64_t number)
{
	_cleanup_fd_ int fd = -1;

	return kage_dir_pack_open(h, number, &fd);
}

/* The number of the image of NAME with the tag TEXT, 0 when there is none. */
static struct kage_err *find_tag(struct kage_store *store, const char *name, const char *text,
				 uint64_t *ret_number)
{
	_cleanup_history_ struct history h = HISTORY_INIT;

	*ret_number = 0;
	if (!kage_tags_can_be(text))
		return NULL;
	TRY(kage_dir_history_open(store, name, &h));
	return kage_tags_find(&h, text, ret_number);
}

struct kage_err *kage_store_resolve(struct kage_store *store, const char *spec, char **ret_name,
				    uint64_t *ret_number)
{
	_cleanup_history_ struct history h = HISTORY_INIT;
	const char *at = strchr(spec, '@');
	const char *text = at ? at + 1 : "latest";
	_cleanup_free_ char *name = at ? strndup(spec, (size_t)(at - spec)) : strdup(spec);
	struct kage_which which = { 0 };
	uint64_t number = 0;

	if (!name)
		return kage_err_nomem();
	TRY(find_tag(store, name, text, &number));
	if (number)
		which.kind = KAGE_WHICH_NUMBER;
	else
		TRY_WRAP(kage_which_parse(text, &which), "'%s' names no image", spec);
	TRY(kage_dir_history_open(store, name, &h));
	if (!number)
		TRY(find(&h, &which, text, &number));
	if (which.kind == KAGE_WHICH_NUMBER)
		TRY(check_exists(&h, number));
	*ret_name = take_ptr(name);
	*ret_number = number;
	return NULL;
}
