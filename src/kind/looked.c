/* SPDX-License-Identifier: Apache-2.0 */
#include "kind/looked.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "kind/files.h"
#include "kind/memory.h"

static bool same_file(const struct kage_looked_file *f, const struct kage_vma *v)
{
	return f->st.st_ino == v->ino && f->dev_major == v->dev_major &&
	       f->dev_minor == v->dev_minor && strcmp(f->path, v->path) == 0;
}

const struct kage_looked_file *kage_looked_mapped(const struct kage_capture *c,
						  const struct kage_vma *vma)
{
	for (size_t i = 0; c->looked && i < c->looked->n; i++)
		if (same_file(&c->looked->files[i], vma))
			return &c->looked->files[i];
	return NULL;
}

const struct kage_looked_file *kage_looked_same(const struct kage_capture *c, const struct stat *st,
						const char *link)
{
	for (size_t i = 0; c->looked && i < c->looked->n; i++) {
		const struct kage_looked_file *f = &c->looked->files[i];

		if (f->st.st_ino == st->st_ino && f->st.st_dev == st->st_dev &&
		    strcmp(f->path, link) == 0)
			return f;
	}
	return NULL;
}

/* Adds what VMA maps, unless it is gone already or is no regular file. */
static struct kage_err *look_at(struct kage_capture *c, const struct kage_vma *v)
{
	struct kage_looked_file f = { .dev_major = v->dev_major, .dev_minor = v->dev_minor };
	_cleanup_free_ char *path = strdup(v->path);
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;

	if (!path)
		return kage_err_nomem();
	e = kage_memory_open_mapped(c->target, v, &fd);
	if (e) {
		err_drop(e);
		return NULL;
	}
	if (fstat(fd, &f.st) < 0 || !S_ISREG(f.st.st_mode) || f.st.st_ino != v->ino)
		return NULL;
	f.fs_type = kage_file_fs_name(fd);
	f.leads = kage_file_leads_to(path, &f.st);
	f.fd = take_fd(&fd);
	f.path = take_ptr(path);
	c->looked->files[c->looked->n++] = f;
	return NULL;
}

struct kage_err *kage_looked_look(struct kage_capture *c)
{
	c->looked = calloc(1, sizeof(*c->looked));
	if (!c->looked)
		return kage_err_nomem();
	c->looked->files = calloc(c->maps.n + 1, sizeof(*c->looked->files));
	if (!c->looked->files)
		return kage_err_nomem();
	for (size_t i = 0; i < c->maps.n; i++) {
		const struct kage_vma *v = &c->maps.vmas[i];

		if (v->ino && v->path[0] == '/' && !v->shared && !kage_looked_mapped(c, v))
			TRY(look_at(c, v));
	}
	return NULL;
}

void kage_looked_free(struct kage_capture *c)
{
	if (!c->looked)
		return;
	for (size_t i = 0; i < c->looked->n; i++) {
		close_fd(c->looked->files[i].fd);
		free(c->looked->files[i].path);
	}
	free(c->looked->files);
	free(c->looked);
	c->looked = NULL;
}
