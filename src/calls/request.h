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

/** The number of the call that is named NAME, or written as a number. */
struct kage_err *calls_find_number(const char *name, uint64_t *ret_number) _must_check_;

/** What WORD says as argument I of the call NAME: constants or a number. *RET_NARROW: only 32 bits of it count, which are
 *  signed. */
struct kage_err *calls_read_value(const char *name, size_t i, const char *word, uint64_t *ret_value,
				  bool *ret_narrow) _must_check_;

/** As kage_syscall_parse(), from words in one line: what stands in quotes, brackets or braces is one word. */
struct kage_err *calls_parse_line(const char *line, struct kage_syscall **ret_call) _must_check_;

/** Adds the call to its own batch, which can then be run. */
void calls_add(struct kage_syscall *s);

/** Notes what the batch has brought, which thread TID has run. */
void calls_note_result(struct kage_syscall *s, pid_t tid);

/** How many bytes behind argument I there are to be shown, after the call. */
size_t calls_bytes_behind(const struct kage_syscall *s, size_t i);

/** The bytes of argument I, GIVEN_DATA. */
const uint8_t *calls_data(const struct kage_syscall *s, size_t i);

/** Argument I as text. */
struct kage_err *calls_tell_argument(const struct kage_syscall *s, size_t i, char **ret_text)
	_must_check_;

#endif
