/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of libkage.
 *
 * Every function that can fail returns a `struct kage_err *`: NULL means success, anything else is
 * owned by the caller, who reads it and hands it to kage_err_free(). The code says what a caller
 * can do about it, the message is one line for a person: what was asked, which object, why.
 */
#ifndef KAGE_ERROR_H
#define KAGE_ERROR_H

#include <kage/export.h>

enum kage_code {
	KAGE_NOMEM,       /* out of memory */
	KAGE_SYS,         /* a system call failed; kage_err_errno() says how */
	KAGE_GONE,        /* the target ended or became another program: ordinary, no bug */
	KAGE_UNSUPPORTED, /* an object or a kernel that kage cannot handle; the message names it */
	KAGE_PERM,        /* the caller lacks the right */
	KAGE_BUSY,        /* somebody else holds it: another tracer, another kage, a taken PID */
	KAGE_CORRUPT,     /* bytes that are not what they claim to be; pack and offset are named */
	KAGE_VERSION,     /* made by a newer kage with features that this one does not know */
	KAGE_LIMIT,       /* a bound was reached: of time, of size, of a resource limit */
	KAGE_INVALID,     /* the request itself makes no sense */
	KAGE_NOTFOUND,    /* no such image, history, store or process */
	KAGE_CHANGED,     /* a file is not any more what it was when the image was taken */
	KAGE_INTERRUPTED, /* the caller's interrupt flag was raised */
};

struct kage_err;

/** The code of E, which must not be NULL. */
KAGE_API enum kage_code kage_err_code(const struct kage_err *e);

/** The errno that the kernel gave, 0 where no system call failed. */
KAGE_API int kage_err_errno(const struct kage_err *e);

/** One line without a newline, from what was asked down to what the kernel said. Valid until E is
 *  freed. */
KAGE_API const char *kage_err_message(const struct kage_err *e);

/** A short lower-case word for CODE, as `--json` prints it ("gone", "corrupt", …). */
KAGE_API const char *kage_code_name(enum kage_code code);

/** Frees E; NULL is fine. */
KAGE_API void kage_err_free(struct kage_err *e);

#endif
