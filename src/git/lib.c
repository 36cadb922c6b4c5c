/* SPDX-License-Identifier: Apache-2.0 */
#include "git/lib.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What our headers are of: another version's structures may be others. */
static const char library[] = "libgit2.so." LIBGIT2_SOVERSION;

static struct kage_err *find_calls(struct git_lib *lib)
{
#define X(name)                                                       \
	lib->name = (__typeof__(lib->name))dlsym(lib->handle, #name); \
	if (!lib->name)                                               \
		return kage_err_new(KAGE_UNSUPPORTED, "%s has no %s", library, #name);
	GIT_CALLS(X)
#undef X
	return NULL;
}

struct kage_err *kage_git_lib_load(struct git_lib *ret_lib)
{
	struct git_lib lib = { .handle = dlopen(library, RTLD_NOW | RTLD_LOCAL) };
	struct kage_err *e;

	if (!lib.handle)
		return kage_err_new(KAGE_UNSUPPORTED, "%s is needed for it; install libgit2",
				    library);
	e = find_calls(&lib);
	if (e) {
		dlclose(lib.handle);
		return e;
	}
	lib.git_libgit2_init();
	/* Commits shall be as durable as images. */
	lib.git_libgit2_opts(GIT_OPT_ENABLE_FSYNC_GITDIR, 1);
	*ret_lib = lib;
	return NULL;
}

void kage_git_lib_unload(struct git_lib *lib)
{
	if (!lib->handle)
		return;
	lib->git_libgit2_shutdown();
	dlclose(lib->handle);
	lib->handle = NULL;
}

static enum kage_code code_of(int r)
{
	switch (r) {
	case GIT_ENOTFOUND:
		return KAGE_NOTFOUND;
	case GIT_ELOCKED:
	case GIT_EMODIFIED:
		return KAGE_BUSY;
	case GIT_EOWNER:
		return KAGE_PERM;
	default:
		return KAGE_SYS;
	}
}

struct kage_err *kage_git_lib_err(const struct git_lib *lib, int r, const char *fmt, ...)
{
	const git_error *error = lib->git_error_last();
	const char *said = error && error->message ? error->message : "no reason given";
	char what[4096 + 256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return kage_err_new(code_of(r), "%s: %.*s", what, (int)strcspn(said, "\n"), said);
}
