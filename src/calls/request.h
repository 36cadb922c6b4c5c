/* SPDX-License-Identifier: Apache-2.0 */
/* A system call that somebody asks for: read from words (read.c), made (make.c), told (tell.c). */
#ifndef CALLS_REQUEST_H
#define CALLS_REQUEST_H

#include <kage/kage.h>

#include "calls/form.h"
#include "target/batch.h"

struct calls_value {
	enum { GIVEN_NOT, GIVEN_VALUE, GIVEN_DATA } given;
	uint64_t value;
	size_t at, size; /* GIVEN_DATA: in the data of the batch */
};

struct kage_syscall {
	char *name;
	uint64_t number;
	struct calls_form form;
	struct kage_batch batch; /* the data; and when it was made the call */
	size_t n;                /* arguments */
	struct calls_value args[CALL_ARGS];
	char *words[CALL_ARGS]; /* as they were written; NULL: not at all */
	bool made;
	struct kage_syscall_result result;
};

/** Reads WORD as argument number S->n. */
struct kage_err *calls_read_argument(struct kage_syscall *s, const char *word) _must_check_;

/** Fills in what was not given: room for results, and counts. */
struct kage_err *calls_read_rest(struct kage_syscall *s) _must_check_;

/** How many bytes behind argument I there are to be shown, after the call. */
size_t calls_bytes_behind(const struct kage_syscall *s, size_t i);

/** The bytes of argument I, GIVEN_DATA. */
const uint8_t *calls_data(const struct kage_syscall *s, size_t i);

/** Argument I as text. */
struct kage_err *calls_tell_argument(const struct kage_syscall *s, size_t i, char **ret_text)
	_must_check_;

#endif
