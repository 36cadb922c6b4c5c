/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a lazy restore: what it needed in the program is taken away.
 */
#ifndef RESTORE_PAGER_END_H
#define RESTORE_PAGER_END_H

#include <pthread.h>

#include "restore/pager.h"
#include "restore/pager_map.h"

/** All pages are in: the program and its children get rid of the descriptor that they have. LOCK is of MAP. Returns when that is so, or they are gone. */
void pager_end(const struct pager_job *job, const struct pager_map *map, pthread_rwlock_t *lock);

/** Calls FN for every process that has JOB's descriptor, and says whether there was any. */
bool pager_holders(const struct pager_job *job, void (*fn)(const struct pager_job *job, pid_t pid));

#endif
