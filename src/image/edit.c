/* SPDX-License-Identifier: Apache-2.0 */
/* Changes to an image in memory, by who restores it otherwise than it was. */
#include <stdio.h>
#include <string.h>

#include "image/image.h"

/* Takes element I out of the list of *N pointers V. */
#define remove_at(v, n, i)                                                       \
	do {                                                                     \
		memmove((v) + (i), (v) + (i) + 1, ((n) - (i)-1) * sizeof(*(v))); \
		(n)--;                                                           \
	} while (0)

static bool is_used(const Kage__Process *p, uint32_t description)
{
	for (size_t i = 0; i < p->n_descriptors; i++)
		if (p->descriptors[i]->description == description)
			return true;
	for (size_t i = 0; p->memory && i < p->memory->n_mappings; i++)
		if (p->memory->mappings[i]->description == description)
			return true;
	return false;
}

/* What D knew of DESCRIPTION, which is no more. */
static void forget_in(Kage__Description *d, uint32_t description)
{
	if (d->kind_case == KAGE__DESCRIPTION__KIND_EPOLL)
		for (size_t i = d->epoll->n_watches; i-- > 0;)
			if (d->epoll->watches[i]->description == description)
				remove_at(d->epoll->watches, d->epoll->n_watches, i);
	if (d->kind_case == KAGE__DESCRIPTION__KIND_UNIX_SOCKET &&
	    d->unix_socket->peer_description == description) {
		d->unix_socket->peer_description = 0;
		d->unix_socket->peer_closed = true;
	}
}

/* The file behind D, 0 for none. */
static uint32_t file_of(const Kage__Description *d)
{
	return d->kind_case == KAGE__DESCRIPTION__KIND_FILE   ? d->file->file
	       : d->kind_case == KAGE__DESCRIPTION__KIND_PIPE ? d->pipe->fifo_file
							      : 0;
}

static bool is_file_used(const Kage__Image *m, const Kage__Process *p, uint32_t file)
{
	for (size_t i = 0; p->memory && i < p->memory->n_mappings; i++)
		if (p->memory->mappings[i]->file == file)
			return true;
	for (size_t i = 0; i < m->n_descriptions; i++)
		if (file_of(m->descriptions[i]) == file)
			return true;
	return (p->memory && p->memory->exe_file == file) ||
	       (p->filesystem &&
		(p->filesystem->cwd_file == file || p->filesystem->root_file == file));
}

static void drop_file(Kage__Image *m, const Kage__Process *p, uint32_t file)
{
	for (size_t i = 0; i < m->n_files; i++)
		if (file && m->files[i]->id == file && !is_file_used(m, p, file)) {
			remove_at(m->files, m->n_files, i);
			return;
		}
}

static void drop_description(Kage__Image *m, const Kage__Process *p, uint32_t description)
{
	for (size_t i = 0; i < m->n_descriptions; i++) {
		uint32_t file = file_of(m->descriptions[i]);

		if (m->descriptions[i]->id != description)
			continue;
		remove_at(m->descriptions, m->n_descriptions, i);
		drop_file(m, p, file);
		break;
	}
	for (size_t i = 0; i < m->n_descriptions; i++)
		forget_in(m->descriptions[i], description);
}

/* What stood in the way because of descriptor FD: labels begin with "fd 7 (" or "fd 7: " (kind/fds.h, kind/unix.c). */
static void drop_obstacles(Kage__Image *m, int fd)
{
	char label[32];
	size_t n = (size_t)snprintf(label, sizeof(label), "fd %d", fd);

	for (size_t i = m->n_obstacles; i-- > 0;)
		if (strncmp(m->obstacles[i]->object, label, n) == 0 &&
		    strchr(" :", m->obstacles[i]->object[n]))
			remove_at(m->obstacles, m->n_obstacles, i);
}

bool kage_image_drop_fd(struct kage_image *image, int fd)
{
	Kage__Process *p = image->msg->n_processes ? image->msg->processes[0] : NULL;
	uint32_t description = 0;

	for (size_t i = 0; p && i < p->n_descriptors; i++)
		if (p->descriptors[i]->fd == (uint32_t)fd) {
			description = p->descriptors[i]->description;
			remove_at(p->descriptors, p->n_descriptors, i);
			break;
		}
	if (!description)
		return false;
	drop_obstacles(image->msg, fd);
	for (size_t i = p->n_locks; i-- > 0;)
		if (p->locks[i]->fd == (uint32_t)fd)
			remove_at(p->locks, p->n_locks, i);
	if (!is_used(p, description))
		drop_description(image->msg, p, description);
	return true;
}
