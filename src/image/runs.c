/* SPDX-License-Identifier: Apache-2.0 */
#include "image/runs.h"

#include <stdlib.h>

#include "base/cleanup.h"

static uint64_t end_of(const struct page_run *r)
{
	return r->first + r->count;
}

void kage_runs_deinit(struct page_runs *s)
{
	free(s->v);
	*s = (struct page_runs){ 0 };
}

void kage_runs_clear(struct page_runs *s)
{
	s->n = 0;
	s->mixed = false;
}

/* Whether R, which does not begin before LAST, touches it; then LAST covers both. */
static bool join(struct page_run *last, const struct page_run *r)
{
	if (last->space != r->space || r->first < last->first || end_of(last) < r->first)
		return false;
	if (end_of(r) > end_of(last))
		last->count = end_of(r) - last->first;
	return true;
}

struct kage_err *kage_runs_add(struct page_runs *s, uint32_t space, uint64_t first, uint64_t count)
{
	struct page_run r = { .space = space, .first = first, .count = count };
	struct page_run *last = s->n ? &s->v[s->n - 1] : NULL;

	if (!count || (last && join(last, &r)))
		return NULL;
	if (last && (space < last->space || (space == last->space && first < last->first)))
		s->mixed = true;
	if (s->n == s->max) {
		size_t max = s->max ? s->max * 2 : 256;
		struct page_run *grown = reallocarray(s->v, max, sizeof(*grown));

		if (!grown)
			return kage_err_nomem();
		s->v = grown;
		s->max = max;
	}
	s->v[s->n++] = r;
	return NULL;
}

struct kage_err *kage_runs_add_all(struct page_runs *s, const struct page_run *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		TRY(kage_runs_add(s, v[i].space, v[i].first, v[i].count));
	return NULL;
}

struct kage_err *kage_runs_take(const struct page_runs *s, size_t *i, uint64_t *done, uint64_t most,
				struct page_runs *ret_piece)
{
	kage_runs_clear(ret_piece);
	while (*i < s->n && most) {
		const struct page_run *r = &s->v[*i];
		uint64_t n = r->count - *done < most ? r->count - *done : most;

		TRY(kage_runs_add(ret_piece, r->space, r->first + *done, n));
		most -= n;
		*done += n;
		if (*done == r->count) {
			(*i)++;
			*done = 0;
		}
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	const struct page_run *x = a, *y = b;

	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

void kage_runs_sort(struct page_runs *s)
{
	size_t n = 0;

	if (!s->mixed)
		return;
	qsort(s->v, s->n, sizeof(*s->v), compare);
	for (size_t i = 0; i < s->n; i++)
		if (n == 0 || !join(&s->v[n - 1], &s->v[i]))
			s->v[n++] = s->v[i];
	s->n = n;
	s->mixed = false;
}

struct kage_err *kage_runs_minus(const struct page_run *a, size_t n_a, const struct page_run *b,
				 size_t n_b, struct page_runs *ret)
{
	size_t k = 0;

	for (size_t i = 0; i < n_a; i++) {
		uint64_t at = a[i].first, end = end_of(&a[i]);

		while (k < n_b && (b[k].space < a[i].space ||
				   (b[k].space == a[i].space && end_of(&b[k]) <= at)))
			k++;
		/* The last of these may reach into the next run of A: K stays at it. */
		for (size_t j = k; j < n_b && b[j].space == a[i].space && b[j].first < end; j++) {
			if (b[j].first > at)
				TRY(kage_runs_add(ret, a[i].space, at, b[j].first - at));
			at = end_of(&b[j]) > at ? end_of(&b[j]) : at;
			if (end_of(&b[j]) <= end)
				k = j;
		}
		if (at < end)
			TRY(kage_runs_add(ret, a[i].space, at, end - at));
	}
	return NULL;
}

struct kage_err *kage_runs_common(const struct page_runs *a, const struct page_runs *b,
				  struct page_runs *ret)
{
	struct page_runs only = { 0 };
	struct kage_err *e = kage_runs_minus(a->v, a->n, b->v, b->n, &only);

	if (!e)
		e = kage_runs_minus(a->v, a->n, only.v, only.n, ret);
	kage_runs_deinit(&only);
	return e;
}

uint64_t kage_runs_total(const struct page_runs *s)
{
	uint64_t total = 0;

	for (size_t i = 0; i < s->n; i++)
		total += s->v[i].count;
	return total;
}
