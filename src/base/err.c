/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kage_err {
	enum kage_code code;
	int num; /* errno, 0 if none */
	char *message;
};

/* Given out when there is no memory for a real one; kage_err_free() knows it. */
static struct kage_err out_of_memory = {
	.code = KAGE_NOMEM,
	.num = ENOMEM,
	.message = "out of memory",
};

enum kage_code kage_err_code(const struct kage_err *e)
{
	return e->code;
}

int kage_err_errno(const struct kage_err *e)
{
	return e->num;
}

const char *kage_err_message(const struct kage_err *e)
{
	return e->message;
}

const char *kage_code_name(enum kage_code code)
{
	static const char *const names[] = {
		[KAGE_NOMEM] = "nomem",
		[KAGE_SYS] = "sys",
		[KAGE_GONE] = "gone",
		[KAGE_UNSUPPORTED] = "unsupported",
		[KAGE_PERM] = "perm",
		[KAGE_BUSY] = "busy",
		[KAGE_CORRUPT] = "corrupt",
		[KAGE_VERSION] = "version",
		[KAGE_LIMIT] = "limit",
		[KAGE_INVALID] = "invalid",
		[KAGE_NOTFOUND] = "notfound",
		[KAGE_CHANGED] = "changed",
		[KAGE_INTERRUPTED] = "interrupted",
	};
	if ((size_t)code >= sizeof(names) / sizeof(names[0]))
		return "unknown";
	return names[code];
}

void kage_err_free(struct kage_err *e)
{
	if (!e || e == &out_of_memory)
		return;
	free(e->message);
	free(e);
}

struct kage_err *kage_err_nomem(void)
{
	return &out_of_memory;
}

/* Takes MESSAGE. */
static struct kage_err *make(enum kage_code code, int num, char *message)
{
	struct kage_err *e = message ? malloc(sizeof(*e)) : NULL;

	if (!e) {
		free(message);
		return &out_of_memory;
	}
	*e = (struct kage_err){ .code = code, .num = num, .message = message };
	return e;
}

struct kage_err *kage_err_new(enum kage_code code, const char *fmt, ...)
{
	char *message = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&message, fmt, ap) < 0)
		message = NULL;
	va_end(ap);
	return make(code, 0, message);
}

static enum kage_code code_of_errno(int num)
{
	switch (num) {
	case ESRCH:
		return KAGE_GONE;
	case EPERM:
	case EACCES:
		return KAGE_PERM;
	case ENOMEM:
		return KAGE_NOMEM;
	default:
		return KAGE_SYS;
	}
}

struct kage_err *kage_err_sys(int num, const char *fmt, ...)
{
	char *what = NULL, *message = NULL;
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vasprintf(&what, fmt, ap);
	va_end(ap);
	if (r < 0)
		return &out_of_memory;
	if (asprintf(&message, "%s: %s", what, strerror(num)) < 0)
		message = NULL;
	free(what);
	return make(code_of_errno(num), num, message);
}

struct kage_err *kage_err_wrap(struct kage_err *e, const char *fmt, ...)
{
	char *what = NULL, *message = NULL;
	va_list ap;
	int r;

	if (!e || e == &out_of_memory)
		return e;
	va_start(ap, fmt);
	r = vasprintf(&what, fmt, ap);
	va_end(ap);
	if (r < 0)
		return e;
	r = asprintf(&message, "%s: %s", what, e->message);
	free(what);
	if (r < 0)
		return e;
	free(e->message);
	e->message = message;
	return e;
}

struct kage_err *kage_err_advise(struct kage_err *e, const char *fmt, ...)
{
	char *advice = NULL, *message = NULL;
	va_list ap;
	int r;

	if (!e || e == &out_of_memory)
		return e;
	va_start(ap, fmt);
	r = vasprintf(&advice, fmt, ap);
	va_end(ap);
	if (r < 0)
		return e;
	r = asprintf(&message, "%s; %s", e->message, advice);
	free(advice);
	if (r < 0)
		return e;
	free(e->message);
	e->message = message;
	return e;
}

struct kage_err *kage_err_recode(struct kage_err *e, enum kage_code code)
{
	if (e && e != &out_of_memory)
		e->code = code;
	return e;
}
