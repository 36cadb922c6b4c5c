/* SPDX-License-Identifier: Apache-2.0 */
/* Which POSIX timers there are has to be known before the target is asked about them. */
#ifndef KIND_TIMERS_H
#define KIND_TIMERS_H

#include "kind/kind.h"

/** Fills the list of POSIX timers of C's process, times aside. */
struct kage_err *kage_timers_list(struct kage_capture *c) _must_check_;

extern const struct kage_kind kage_kind_timers;

/** What a person calls CLOCK, of those that timers can have (timer_create(2), timerfd_create(2)). */
const char *kage_clock_name(int32_t clock);

#endif
