/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making and wrapping errors; reading them is public (kage/error.h).
 *
 * A failure while cleaning up never replaces the first one: pass it to err_drop().
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <kage/error.h>

#define _must_check_      __attribute__((warn_unused_result))
#define _printf_(fmt, va) __attribute__((format(printf, fmt, va)))

/** A new error. Never NULL: when memory is short, a static object stands in. */
struct kage_err *kage_err_new(enum kage_code code, const char *fmt, ...) _printf_(2, 3)
	_must_check_;

/** A new error from a failed system call with errno value NUM. The code follows from it: ESRCH gives
 *  KAGE_GONE, EPERM and EACCES give KAGE_PERM, ENOMEM gives KAGE_NOMEM, the rest KAGE_SYS. The text
 *  of errno is appended. */
struct kage_err *kage_err_sys(int num, const char *fmt, ...) _printf_(2, 3) _must_check_;

/** Prepends what the caller was doing: "<fmt>: <message of E>". Consumes E and returns it, changed.
 *  NULL stays NULL, so a call may be wrapped without looking. */
struct kage_err *kage_err_wrap(struct kage_err *e, const char *fmt, ...) _printf_(2, 3)
	_must_check_;

/** Appends the way out: "<message of E>; <fmt>". Consumes E and returns it, changed. NULL stays NULL. */
struct kage_err *kage_err_advise(struct kage_err *e, const char *fmt, ...) _printf_(2, 3)
	_must_check_;

/** Changes the code of E, where the caller knows better what it means. */
struct kage_err *kage_err_recode(struct kage_err *e, enum kage_code code) _must_check_;

/** Out of memory, without allocating. */
struct kage_err *kage_err_nomem(void) _must_check_;

/** Discards a second failure on purpose. */
static inline void err_drop(struct kage_err *e)
{
	kage_err_free(e);
}

/** Returns early when EXPR fails. */
#define TRY(expr)                                   \
	do {                                        \
		struct kage_err *try_err_ = (expr); \
		if (try_err_)                       \
			return try_err_;            \
	} while (0)

/** The same, saying what was being done. */
#define TRY_WRAP(expr, ...)                                          \
	do {                                                         \
		struct kage_err *try_err_ = (expr);                  \
		if (try_err_)                                        \
			return kage_err_wrap(try_err_, __VA_ARGS__); \
	} while (0)

#endif
