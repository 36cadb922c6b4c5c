/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work on many items by several threads, which begin and end with the call.
 */
#ifndef BASE_WORKERS_H
#define BASE_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/** How many processors this thread may use. */
unsigned kage_processors(void);

enum { WORKERS_MAX = 4 };

/** Works on item I; THREAD, below WORKERS_MAX, is no other's at the same time. */
typedef struct kage_err *kage_worker_fn(void *user, size_t thread, size_t i);

/** Calls FN for items 0 to N - 1, taken in this order, each once; by threads beside this one, as many as
 *  there are processors, if MANY. Signals are for the threads that were there before. Ends with the
 *  first error. */
struct kage_err *kage_workers_run(kage_worker_fn *fn, void *user, size_t n, bool many) _must_check_;

#endif
