/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a lazy restore: what it needed in the program is taken away; or it waits for the program's end.
 */
#ifndef RESTORE_PAGER_END_H
#define RESTORE_PAGER_END_H

#include "restore/pager.h"

/** All pages are in: the program and its children get rid of the descriptor that they have. Returns when that is so, or they are gone. */
void pager_end(const struct pager_job *job);

/** Not all pages can be had: returns when the program is gone, and every address space of which this process has
 *  a userfaultfd. Until then who touches a missing page waits; if we left, he would find zeros. */
void pager_outlive_all(const struct pager_job *job);

/** Calls FN for every process that has JOB's descriptor, and says whether there was any. */
bool pager_holders(const struct pager_job *job, void (*fn)(const struct pager_job *job, pid_t pid));

#endif
