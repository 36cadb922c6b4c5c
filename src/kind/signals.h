/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting signals as messages, for whoever else holds some. */
#ifndef KIND_SIGNALS_H
#define KIND_SIGNALS_H

#include <signal.h>

#include "kind/kind.h"

/** SI as the message M, whose parts are made in arena A; and back. */
struct kage_err *kage_signal_encode(struct arena *a, const siginfo_t *si, Kage__PendingSignal *m)
	_must_check_;
void kage_signal_decode(const Kage__PendingSignal *m, siginfo_t *si);

extern const struct kage_kind kage_kind_signals;

/** Prints the names of the signals in SET, bit S - 1 of which is signal S: "INT,TERM", "none". */
void kage_signals_print_set(uint64_t set, FILE *out);

#endif
