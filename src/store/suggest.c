/* SPDX-License-Identifier: Apache-2.0 */
#include "store/suggest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

enum { MAX_SHOWN = 8, MAX_LENGTH = 64 };

struct candidate {
	const char *name;
	size_t distance;
};

/* How many letters have to be inserted, removed or changed, or neighbours swapped. */
static size_t distance(const char *a, const char *b)
{
	size_t rows[3][MAX_LENGTH + 1], na = strnlen(a, MAX_LENGTH), nb = strnlen(b, MAX_LENGTH);

	for (size_t j = 0; j <= nb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t *row = rows[i % 3], *up = rows[(i + 2) % 3], *upper = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);

			best = up[j] + 1 < best ? up[j] + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				best = upper[j - 2] + 1 < best ? upper[j - 2] + 1 : best;
			row[j] = best;
		}
	}
	return rows[na % 3][nb];
}

static int compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->distance != y->distance)
		return x->distance < y->distance ? -1 : 1;
	return strcmp(x->name, y->name);
}

char *kage_suggest(const char *name, const char *const *names, size_t n)
{
	_cleanup_free_ struct candidate *all = calloc(n + 1, sizeof(*all));
	char *text = NULL;
	size_t size;
	FILE *f;

	if (!all)
		return NULL;
	for (size_t i = 0; i < n; i++)
		all[i] = (struct candidate){ names[i], distance(name, names[i]) };
	qsort(all, n, sizeof(*all), compare);
	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	for (size_t i = 0; i < n && i < MAX_SHOWN; i++)
		fprintf(f, "%s%s", i ? ", " : "", all[i].name);
	if (n > MAX_SHOWN)
		fprintf(f, " and %zu more", n - MAX_SHOWN);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
