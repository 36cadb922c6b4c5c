/* SPDX-License-Identifier: Apache-2.0 */
/* What stands behind the '@' of an image's name. */
#ifndef STORE_RESOLVE_H
#define STORE_RESOLVE_H

#include <stdint.h>

#include "base/err.h"

struct kage_which {
	enum kage_which_kind {
		KAGE_WHICH_NUMBER,
		KAGE_WHICH_FIRST,
		KAGE_WHICH_BEFORE, /* the N-th before the latest */
		KAGE_WHICH_AGE,    /* the newest that is at least N nanoseconds old */
	} kind;
	uint64_t n;
};

/** Parses TEXT: "12", "latest", "first", "-1", "5min". KAGE_INVALID tells what can be written. */
struct kage_err *kage_which_parse(const char *text, struct kage_which *ret_which) _must_check_;

#endif
