/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libgit2, loaded when it is first needed: most commands never do, start faster without it and its dozen
 * libraries, and work where it is not installed.
 */
#ifndef GIT_LIB_H
#define GIT_LIB_H

#include <git2.h>

#include "base/err.h"

#define GIT_CALLS(X)                     \
	X(git_libgit2_init)              \
	X(git_libgit2_shutdown)          \
	X(git_libgit2_opts)              \
	X(git_error_last)                \
	X(git_repository_open_ext)       \
	X(git_repository_init_ext)       \
	X(git_repository_set_ident)      \
	X(git_repository_head_unborn)    \
	X(git_repository_is_bare)        \
	X(git_repository_set_head)       \
	X(git_repository_odb)            \
	X(git_repository_free)           \
	X(git_odb_open_wstream)          \
	X(git_odb_stream_write)          \
	X(git_odb_stream_finalize_write) \
	X(git_odb_stream_free)           \
	X(git_odb_free)                  \
	X(git_index_new)                 \
	X(git_index_add)                 \
	X(git_index_write_tree_to)       \
	X(git_index_free)                \
	X(git_tree_lookup)               \
	X(git_tree_entry_bypath)         \
	X(git_tree_entry_id)             \
	X(git_tree_entry_free)           \
	X(git_tree_free)                 \
	X(git_blob_lookup)               \
	X(git_blob_rawcontent)           \
	X(git_blob_rawsize)              \
	X(git_blob_free)                 \
	X(git_commit_create)             \
	X(git_commit_lookup)             \
	X(git_commit_tree)               \
	X(git_commit_message)            \
	X(git_commit_free)               \
	X(git_signature_new)             \
	X(git_signature_free)            \
	X(git_reference_lookup)          \
	X(git_reference_target)          \
	X(git_reference_create_matching) \
	X(git_reference_free)            \
	X(git_branch_is_checked_out)     \
	X(git_oid_fromstr)               \
	X(git_oid_tostr)

struct git_lib {
	void *handle;
#define X(name) __typeof__(name) *name;
	GIT_CALLS(X)
#undef X
};

/** Loads it. KAGE_UNSUPPORTED where it is not installed. */
struct kage_err *kage_git_lib_load(struct git_lib *ret_lib) _must_check_;
void kage_git_lib_unload(struct git_lib *lib);

/** What libgit2 said last, as an error of ours. R is the status that it returned. */
struct kage_err *kage_git_lib_err(const struct git_lib *lib, int r, const char *fmt, ...)
	_printf_(3, 4) _must_check_;

#endif
