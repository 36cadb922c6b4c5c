/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/obstacles.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "kind/kind.h"

struct kage_obstacles {
	struct arena arena;
	struct kage_obstacle *items;
	size_t n, n_fatal;
	bool lost; /* one could not be noted */
};

struct kage_obstacles *kage_obstacles_create(void)
{
	return calloc(1, sizeof(struct kage_obstacles));
}

void kage_obstacles_destroy(struct kage_obstacles *o)
{
	if (!o)
		return;
	arena_deinit(&o->arena);
	free(o);
}

void kage_obstacles_clear(struct kage_obstacles *o)
{
	arena_deinit(&o->arena);
	*o = (struct kage_obstacles){ 0 };
}

static bool same(const struct kage_obstacle *a, const struct kage_obstacle *b)
{
	return a->fatal == b->fatal && strcmp(a->object, b->object) == 0 &&
	       strcmp(a->why, b->why) == 0;
}

void kage_obstacle(struct kage_obstacles *o, bool fatal, const char *cure, const char *object,
		   const char *why_fmt, ...)
{
	_cleanup_free_ char *why = NULL;
	struct kage_obstacle new = { .fatal = fatal }, *slot;
	va_list ap;
	int r;

	va_start(ap, why_fmt);
	r = vasprintf(&why, why_fmt, ap);
	va_end(ap);
	if (r < 0) {
		why = NULL;
		o->lost = true;
		return;
	}
	new.object = arena_strdup(&o->arena, object);
	new.why = arena_strdup(&o->arena, why);
	new.cure = arena_strdup(&o->arena, cure ? cure : "");
	if (!new.object || !new.why || !new.cure) {
		o->lost = true;
		return;
	}
	/* The same thing is often met twice in a row: by a descriptor and by its duplicate. */
	if (o->n && same(&o->items[o->n - 1], &new))
		return;
	slot = arena_push(&o->arena, &o->items, &o->n, sizeof(*slot));
	if (!slot) {
		o->lost = true;
		return;
	}
	*slot = new;
	o->n_fatal += fatal;
}

size_t kage_obstacles_count(const struct kage_obstacles *o, size_t *ret_fatal)
{
	*ret_fatal = o->n_fatal;
	return o->n;
}

static char *put(char **at, const char *s)
{
	char *begin = *at;

	*at = stpcpy(begin, s) + 1;
	return begin;
}

/* The list and its strings are one block, so that freeing the list frees all. */
struct kage_err *kage_obstacles_report(const struct kage_obstacles *o,
				       struct kage_report *ret_report)
{
	size_t size = o->n * sizeof(*o->items) + 1;
	struct kage_obstacle *items;
	char *at;

	if (o->lost)
		return kage_err_nomem();
	for (size_t i = 0; i < o->n; i++)
		size += strlen(o->items[i].object) + strlen(o->items[i].why) +
			strlen(o->items[i].cure) + 3;
	items = malloc(size);
	if (!items)
		return kage_err_nomem();
	at = (char *)(items + o->n);
	for (size_t i = 0; i < o->n; i++)
		items[i] = (struct kage_obstacle){ .object = put(&at, o->items[i].object),
						   .why = put(&at, o->items[i].why),
						   .cure = put(&at, o->items[i].cure),
						   .fatal = o->items[i].fatal };
	*ret_report = (struct kage_report){ .obstacles = items,
					    .n_obstacles = o->n,
					    .n_fatal = o->n_fatal };
	return NULL;
}

void kage_report_free(struct kage_report *report)
{
	free((void *)report->obstacles);
	*report = (struct kage_report){ 0 };
}

struct kage_err *kage_obstacles_refuse(const struct kage_obstacles *o)
{
	const struct kage_obstacle *first = o->items;
	char more[64] = "";

	if (o->lost)
		return kage_err_nomem();
	if (!o->n_fatal)
		return NULL;
	while (!first->fatal)
		first++;
	if (o->n_fatal > 1)
		snprintf(more, sizeof(more), "; %zu more stand in the way, see kage check",
			 o->n_fatal - 1);
	return kage_err_new(KAGE_UNSUPPORTED, "%s: %s; %s%s", first->object, first->why,
			    first->cure, more);
}

struct kage_err *kage_obstacles_note(const struct kage_obstacles *o, struct kage_image *image)
{
	struct arena *a = &image->arena;

	for (size_t i = 0; i < o->n; i++) {
		Kage__Obstacle *m;

		if (!o->items[i].fatal)
			continue;
		m = msg_append(a, image->msg, obstacles, Kage__Obstacle, kage__obstacle__init);
		if (!m)
			return kage_err_nomem();
		m->object = arena_strdup(a, o->items[i].object);
		m->why = arena_strdup(a, o->items[i].why);
		m->cure = arena_strdup(a, o->items[i].cure);
		if (!m->object || !m->why || !m->cure)
			return kage_err_nomem();
	}
	return o->lost ? kage_err_nomem() : NULL;
}
