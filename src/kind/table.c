/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All kinds that a process has once, in the order of capture and restore. What takes rights away
 * stands last; seccomp filters, which may forbid anything, are the very last.
 */
#include "kind/kind.h"

extern const struct kage_kind kage_kind_threads, kage_kind_memory, kage_kind_filesystem,
	kage_kind_signals, kage_kind_timers, kage_kind_scheduling, kage_kind_limits,
	kage_kind_attributes, kage_kind_locks, kage_kind_surroundings, kage_kind_credentials,
	kage_kind_seccomp, kage_kind_session;

const struct kage_kind *const kage_kinds[] = {
	&kage_kind_threads,      &kage_kind_memory,
	&kage_kind_filesystem,   &kage_kind_signals,
	&kage_kind_timers,       &kage_kind_scheduling,
	&kage_kind_limits,       &kage_kind_attributes,
	&kage_kind_surroundings, &kage_kind_session,
	&kage_kind_locks,        &kage_kind_credentials,
	&kage_kind_seccomp,      NULL,
};
