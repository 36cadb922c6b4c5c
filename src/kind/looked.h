/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mapped files, opened and looked at beside the running target, so that it need not stand still for
 * that: of files that are only read (executables, libraries) nothing changes until the freeze.
 */
#ifndef KIND_LOOKED_H
#define KIND_LOOKED_H

#include "kind/kind.h"

struct kage_looked_file {
	uint32_t dev_major, dev_minor; /* as in the memory map, which may differ from st.st_dev */
	char *path;                    /* likewise */
	int fd;                        /* ours; may be read */
	struct stat st;
	const char *fs_type;
	bool leads; /* the path leads to this file */
};

struct kage_looked {
	struct kage_looked_file *files;
	size_t n;
};

/** Looks at the files that C->maps shows as mapped. What cannot be opened is left out. */
struct kage_err *kage_looked_look(struct kage_capture *c) _must_check_;

/** The regular file that VMA maps, NULL when it was not looked at. */
const struct kage_looked_file *kage_looked_mapped(const struct kage_capture *c,
						  const struct kage_vma *vma);

/** The file with stat ST and path LINK, likewise. */
const struct kage_looked_file *kage_looked_same(const struct kage_capture *c, const struct stat *st,
						const char *link);

void kage_looked_free(struct kage_capture *c);

#endif
