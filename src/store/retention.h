/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which images of a history are to be kept: rules of retention, as backup tools have them. Pure.
 *
 * An image is kept when any rule keeps it: the newest and those with tags always, the last so many, those of the last
 * so long, and of older ones the oldest within each period of a rule. Periods count from the epoch, so that
 * it does not matter how often one prunes.
 */
#ifndef STORE_RETENTION_H
#define STORE_RETENTION_H

#include <kage/kage.h>

/** Sets KEEP[i] for each of the N ENTRIES, of one history and ascending. NOW_NS is CLOCK_REALTIME. */
void kage_retention_choose(const struct kage_retention *rules, const struct kage_entry *entries,
			   size_t n, uint64_t now_ns, bool *keep);

#endif
