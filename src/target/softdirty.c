/* SPDX-License-Identifier: Apache-2.0 */
#include "target/softdirty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/blind.h"
#include "sys/dirtybits.h"

struct kage_softdirty {
	struct kage_dirtybits *bits;
	struct kage_blind *blind;
	struct kage_range *ranges; /* of this pass: what the bits do not tell */
	size_t n_ranges;
	bool all;           /* in this pass they tell nothing */
	bool doubt;         /* something may have been written between reading and clearing */
	uint64_t n_cleared; /* clearings, by anybody, as of our last one */
	uint64_t n_begun;   /* and as of the beginning of this pass */
	bool turned;        /* since the last clearing it was the other log's turn */
	bool has_merged; /* KSM may have made pages of the target one: in this pass, and in the one before */
	bool had_merged;
};

/* --- making and unmaking ---------------------------------------------------------------------- */

/* When the kernel moves memory between nodes, it lets pages be written as mprotect(2) does (do_numa_page(), Linux
 * 6.2), which nothing notes (sys/blind.h). */
static struct kage_err *check_balancing(void)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct kage_err *e =
		kage_file_slurp(AT_FDCWD, "/proc/sys/kernel/numa_balancing", 64, &text, &size);
	bool balances = !e && text[0] != '0';

	err_drop(e);
	return balances ? kage_err_new(KAGE_UNSUPPORTED, "the kernel balances memory between nodes "
							 "(kernel.numa_balancing)")
			: NULL;
}

/* How the bits come and go was looked up in the sources of kernels that have nothing better. */
static struct kage_err *check_kernel(const struct kage_target *t)
{
	_cleanup_fd_ int pagemap = openat(t->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);

	if (pagemap < 0)
		return kage_err_sys(errno, "open /proc/%d/pagemap", t->pid);
	return kage_pagemap_can_scan(pagemap)
		       ? kage_err_new(KAGE_UNSUPPORTED,
				      "soft-dirty bits are of use only where there is no "
				      "PAGEMAP_SCAN (before Linux 6.7)")
		       : NULL;
}

/* *RET_ALONE: nobody else has cleared anything since the pass began. */
static struct kage_err *clear(struct kage_softdirty *s, const struct kage_target *t,
			      bool *ret_alone)
{
	TRY(kage_dirtybits_clear(t->proc_fd));
	s->n_cleared = kage_blind_cleared(s->blind);
	*ret_alone = s->n_cleared == s->n_begun + 1;
	return NULL;
}

static struct kage_err *prepare(struct kage_softdirty *s, const struct kage_target *t)
{
	bool new, alone;

	TRY(kage_dirtybits_open(&s->bits));
	TRY(kage_blind_open(&s->blind));
	TRY(kage_blind_watch(s->blind, t->pid, &new));
	TRY(clear(s, t, &alone));
	return s->n_cleared ? NULL
			    : kage_err_new(KAGE_UNSUPPORTED,
					   "the kernel does not tell who clears soft-dirty bits");
}

struct kage_err *kage_softdirty_create(const struct kage_target *t,
				       struct kage_softdirty **ret_soft)
{
	struct kage_softdirty *s;
	struct kage_err *e;

	TRY(check_kernel(t));
	TRY(check_balancing());
	s = calloc(1, sizeof(*s));
	if (!s)
		return kage_err_nomem();
	e = prepare(s, t);
	if (e) {
		kage_softdirty_destroy(s);
		return e;
	}
	*ret_soft = s;
	return NULL;
}

void kage_softdirty_destroy(struct kage_softdirty *s)
{
	if (!s)
		return;
	kage_blind_close(s->blind);
	kage_dirtybits_close(s->bits);
	free(s->ranges);
	free(s);
}

/* --- a pass --------------------------------------------------------------------------------------- */

struct kage_err *kage_softdirty_start(struct kage_softdirty *s, struct kage_target *t, bool anew,
				      bool *ret_cleared)
{
	bool new, alone;

	TRY(kage_blind_watch(s->blind, t->pid, &new));
	*ret_cleared = new || anew;
	if (!*ret_cleared)
		return NULL;
	kage_blind_turn(s->blind);
	TRY(clear(s, t, &alone));
	s->turned = false;
	s->doubt = false;
	return NULL;
}

void kage_softdirty_distrust(struct kage_softdirty *s)
{
	s->doubt |= !s->turned;
}

struct kage_err *kage_softdirty_begin(struct kage_softdirty *s, struct kage_target *t)
{
	bool new, all;

	s->n_begun = kage_blind_cleared(s->blind);
	TRY(kage_blind_watch(s->blind, t->pid, &new));
	if (!s->turned) {
		kage_blind_turn(s->blind);
		s->had_merged = s->has_merged;
		s->has_merged = false;
	}
	s->turned = true;
	free(s->ranges);
	s->ranges = NULL;
	s->n_ranges = 0;
	TRY(kage_blind_read(s->blind, &s->ranges, &s->n_ranges, &all));
	/* Until its bits are cleared, no more is known of a new program, nor of one whose bits somebody else has
	 * cleared. */
	s->doubt |= new || s->n_begun != s->n_cleared;
	s->all = all || s->doubt || s->had_merged;
	return NULL;
}

/* Tells pages to FN, and which of them the bits do not tell. */
struct sieve {
	const struct kage_softdirty *s;
	kage_pagemap_changes_fn *fn;
	void *user;
	bool all;
};

static struct kage_err *sift(void *user, uint64_t start, uint64_t end, enum kage_page_state state)
{
	const struct sieve *v = user;
	const struct kage_softdirty *s = v->s;

	if (v->all || state == KAGE_PAGE_WRITTEN)
		return v->fn(v->user, start, end, KAGE_PAGE_WRITTEN);
	TRY(v->fn(v->user, start, end, state));
	for (size_t i = kage_ranges_find(s->ranges, s->n_ranges, start);
	     i < s->n_ranges && s->ranges[i].start < end; i++) {
		const struct kage_range *r = &s->ranges[i];

		TRY(v->fn(v->user, r->start > start ? r->start : start, r->end < end ? r->end : end,
			  KAGE_PAGE_WRITTEN));
	}
	return NULL;
}

struct kage_err *kage_softdirty_look(struct kage_softdirty *s, const struct kage_vma *v,
				     int pagemap_fd, kage_pagemap_changes_fn *fn, void *user)
{
	bool merged = kage_vma_has(v, VMFLAG('m', 'g'));
	struct sieve sieve = { s, fn, user, s->all || merged || kage_vma_has(v, VMFLAG('h', 't')) };

	s->has_merged |= merged;
	return kage_dirtybits_look(s->bits, pagemap_fd, v->start, v->end, sift, &sieve);
}

struct kage_err *kage_softdirty_clear(struct kage_softdirty *s, struct kage_target *t,
				      bool *ret_still)
{
	bool alone;

	TRY(kage_target_still(t, ret_still));
	if (!*ret_still)
		return NULL;
	s->doubt = true;
	TRY(clear(s, t, &alone));
	TRY(kage_target_still(t, ret_still));
	s->doubt = !*ret_still || !alone;
	s->turned = false;
	return NULL;
}
