/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that lie in several sets over each other: what an upper one has hides what is below. So an
 * image is put together of what was copied last, what was copied before, and what has not changed
 * since the image before it.
 */
#ifndef IMAGE_LAYERS_H
#define IMAGE_LAYERS_H

#include "image/pages.h"

/** The pages of RUNS (N_RUNS, ascending, without overlap; copied), each from the uppermost of the N LAYERS that has it, the
 *  first being the top. Pages in none of them are zero. The layers are borrowed. */
struct kage_err *kage_layers_create(const struct page_run *runs, size_t n_runs,
				    struct kage_pages *const *layers, size_t n,
				    struct kage_pages **ret_pages) _must_check_;

#endif
