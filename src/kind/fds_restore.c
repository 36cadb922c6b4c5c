/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors on their way back: see kind/fds.h for the steps. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kind/fds.h"
#include "kind/files.h"

/* What F_SETFL changes (fcntl(2)), but O_ASYNC: that ties a signal to a number, so it is set last, at
 * the number it belongs to. */
static const int settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

/* --- check -------------------------------------------------------------------------------------- */

static void check_limit(struct kage_restore *r)
{
	const Kage__Process *p = r->process;
	struct rlimit l;
	uint64_t need = r->image->msg->n_descriptions + r->image->msg->n_files +
			r->image->msg->n_spaces + 32;

	for (size_t i = 0; i < p->n_descriptors; i++)
		if (p->descriptors[i]->fd + r->image->msg->n_descriptions + 32 > need)
			need = p->descriptors[i]->fd + r->image->msg->n_descriptions + 32;
	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_max < need)
		kage_obstacle(r->obstacles, true, "raise it (ulimit -Hn)", "limit of open files",
			      "restoring needs %llu numbers, you are allowed %llu",
			      (unsigned long long)need, (unsigned long long)l.rlim_max);
}

struct kage_err *kage_fds_check(struct kage_restore *r)
{
	TRY(kage_files_check(r));
	check_limit(r);
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++) {
		const Kage__Description *d = r->image->msg->descriptions[i];
		const struct kage_fd_kind *k = kage_fd_kind_of(d);

		if (!k || !k->make)
			kage_obstacle(r->obstacles, true, "restore it with a newer kage",
				      kage_fds_label_of(r, d),
				      "this version cannot make what is behind it");
		else if (k->check)
			TRY_WRAP(k->check(r, d), "check %s", kage_fds_label_of(r, d));
	}
	return NULL;
}

/* --- make --------------------------------------------------------------------------------------- */

/* Above every number that the image uses, so that putting one in place never covers another. */
static struct kage_err *lift(int floor, int *fd)
{
	int high = *fd;

	if (*fd >= floor)
		return NULL;
	high = fcntl(*fd, F_DUPFD_CLOEXEC, floor);
	if (high < 0)
		return kage_err_sys(errno, "move a descriptor above %d", floor);
	close(*fd);
	*fd = high;
	return NULL;
}

bool kage_fds_has_offset(const Kage__Description *d)
{
	return !(d->flags & O_PATH) && (d->kind_case == KAGE__DESCRIPTION__KIND_FILE ||
					d->kind_case == KAGE__DESCRIPTION__KIND_MEMFD);
}

struct kage_err *kage_fds_set_state(const Kage__Description *d, int fd)
{
	int now = fcntl(fd, F_GETFL), want = (int)d->flags;

	if (d->offset && kage_fds_has_offset(d) && lseek(fd, (off_t)d->offset, SEEK_SET) < 0 &&
	    errno != ESPIPE)
		return kage_err_sys(errno, "seek to %llu", (unsigned long long)d->offset);
	if (now < 0)
		return kage_err_sys(errno, "read the flags of a descriptor");
	if ((want & O_PATH) || (now & settable) == (want & settable))
		return NULL;
	if (fcntl(fd, F_SETFL, (now & ~settable) | (want & settable)) == 0)
		return NULL;
	/* O_NOATIME needs to be the file's owner; nothing but an access time hangs on it. */
	if (errno == EPERM &&
	    fcntl(fd, F_SETFL, (now & ~settable) | (want & settable & ~O_NOATIME)) == 0)
		return NULL;
	return kage_err_sys(errno, "set flags %#o", (unsigned)want);
}

/* The descriptors that the caller gives. */
static struct kage_err *take_given(struct kage_restore *r, int floor)
{
	for (size_t i = 0; i < r->options->n_fds; i++) {
		const struct kage_fd_given *g = &r->options->fds[i];

		for (size_t k = 0; k < r->process->n_descriptors; k++)
			if ((int)r->process->descriptors[k]->fd == g->fd)
				return kage_err_new(KAGE_INVALID,
						    "descriptor %d is in the image, and given",
						    g->fd);
		r->given[i] = fcntl(g->from, F_DUPFD_CLOEXEC, floor);
		if (g->fd < 0 || r->given[i] < 0)
			return kage_err_sys(errno, "take descriptor %d as %d", g->from, g->fd);
	}
	return NULL;
}

struct kage_err *kage_fds_make_one(struct kage_restore *r, size_t i)
{
	const Kage__Description *d = r->image->msg->descriptions[i];
	const struct kage_fd_kind *k = kage_fd_kind_of(d);

	/* Some come in pairs, and the other one made this one. */
	if (r->fds[i] >= 0)
		return NULL;
	if (!k || !k->make)
		return kage_err_new(KAGE_UNSUPPORTED, "this version cannot make it");
	return k->make(r, d, &r->fds[i]);
}

struct kage_err *kage_fds_make(struct kage_restore *r)
{
	const Kage__Image *m = r->image->msg;
	int floor = 3;

	kage_fds_raise_limit();
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if ((int)r->process->descriptors[i]->fd >= floor)
			floor = (int)r->process->descriptors[i]->fd + 1;
	for (size_t i = 0; i < r->options->n_fds; i++)
		if (r->options->fds[i].fd >= floor)
			floor = r->options->fds[i].fd + 1;
	TRY(take_given(r, floor));
	TRY(kage_files_put_back(r));
	for (size_t i = 0; i < m->n_descriptions; i++)
		TRY_WRAP(kage_fds_make_one(r, i), "make %s",
			 kage_fds_label_of(r, m->descriptions[i]));
	for (size_t i = 0; i < m->n_descriptions; i++) {
		TRY(lift(floor, &r->fds[i]));
		TRY_WRAP(kage_fds_set_state(m->descriptions[i], r->fds[i]), "make %s",
			 kage_fds_label_of(r, m->descriptions[i]));
	}
	return NULL;
}

/* --- place -------------------------------------------------------------------------------------- */

static void close_range_in(struct kage_batch *b, uint64_t from, uint64_t to)
{
	if (from <= to)
		BATCH(b, "close what it inherited", SYS_close_range, V(from), V(to), V(0));
}

/* The lowest number from FROM on that the program has; *AT goes through the image's, which ascend. */
static bool next_number(const struct kage_restore *r, size_t *at, uint64_t from,
			uint64_t *ret_number)
{
	const Kage__Process *p = r->process;

	while (*at < p->n_descriptors && p->descriptors[*at]->fd < from)
		(*at)++;
	*ret_number = *at < p->n_descriptors ? p->descriptors[*at]->fd : UINT64_MAX;
	for (size_t i = 0; i < r->options->n_fds; i++)
		if ((uint64_t)r->options->fds[i].fd >= from &&
		    (uint64_t)r->options->fds[i].fd < *ret_number)
			*ret_number = (uint64_t)r->options->fds[i].fd;
	return *ret_number != UINT64_MAX;
}

/* Ours all lie above the highest number of the image. */
static struct kage_err *place_numbers(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Process *p = r->process;
	uint64_t next = 0, number;
	size_t at = 0;

	for (size_t i = 0; i < p->n_descriptors; i++) {
		const Kage__Descriptor *n = p->descriptors[i];
		const Kage__Description *d = kage_image_description(r->image, n->description);

		if (!d || n->fd < next)
			return kage_err_new(KAGE_CORRUPT, "descriptor %u is out of order", n->fd);
		next = (uint64_t)n->fd + 1;
		BATCH(b, "put a descriptor in its place", SYS_dup3, V(r->fds[kage_fds_index(r, d)]),
		      V(n->fd), V(n->close_on_exec ? O_CLOEXEC : 0));
	}
	for (size_t i = 0; i < r->options->n_fds; i++)
		BATCH(b, "put a descriptor in its place", SYS_dup3, V(r->given[i]),
		      V(r->options->fds[i].fd), V(0));
	for (next = 0; next_number(r, &at, next, &number); next = number + 1)
		if (number > next)
			close_range_in(b, next, number - 1);
	if (r->kept_fd >= 0) {
		close_range_in(b, next, (uint64_t)r->kept_fd - 1);
		next = (uint64_t)r->kept_fd + 1;
	}
	close_range_in(b, next, ~0u);
	return NULL;
}

/* Who gets SIGIO. Another process is not ours to signal: it may be anybody by now. */
static void place_owner(struct kage_restore *r, const Kage__Description *d, int fd,
			struct kage_batch *b)
{
	struct f_owner_ex owner = { .type = (__typeof__(owner.type))d->owner_type,
				    .pid = d->owner };

	if (d->owner_signal)
		BATCH(b, "set the signal of a descriptor", SYS_fcntl, V(fd), V(F_SETSIG),
		      V(d->owner_signal));
	if (d->owner == r->process->pid || d->owner == r->process->pgid)
		BATCH_TRY(b, "set the owner of a descriptor", SYS_fcntl, V(fd), V(F_SETOWN_EX),
			  DATA(kage_batch_data(b, &owner, sizeof(owner))));
	if ((d->flags & O_ASYNC) && !(d->flags & O_PATH))
		BATCH(b, "set the flags of a descriptor", SYS_fcntl, V(fd), V(F_SETFL),
		      V(d->flags));
}

/* A number of D's, -1 when it is in no table (which an image does not have). */
static int number_of(const struct kage_restore *r, const Kage__Description *d)
{
	for (size_t i = 0; i < r->process->n_descriptors; i++)
		if (r->process->descriptors[i]->description == d->id)
			return (int)r->process->descriptors[i]->fd;
	return -1;
}

void kage_fds_place_owner(struct kage_restore *r, const Kage__Description *d, struct kage_batch *b)
{
	int fd = number_of(r, d);

	if (fd >= 0)
		place_owner(r, d, fd, b);
}

struct kage_err *kage_fds_place_one(struct kage_restore *r, const Kage__Description *d,
				    struct kage_batch *b)
{
	const struct kage_fd_kind *k = kage_fd_kind_of(d);
	int fd = number_of(r, d);

	if (fd < 0)
		return NULL;
	place_owner(r, d, fd, b);
	return k && k->place ? kage_err_wrap(k->place(r, d, fd, b), "fd %d", fd) : NULL;
}

struct kage_err *kage_fds_place(struct kage_restore *r, struct kage_batch *b)
{
	const Kage__Image *m = r->image->msg;

	TRY(place_numbers(r, b));
	for (size_t i = 0; i < m->n_descriptions; i++)
		TRY(kage_fds_place_one(r, m->descriptions[i], b));
	return NULL;
}

struct kage_err *kage_fds_start_one(struct kage_restore *r, size_t i)
{
	const Kage__Description *d = r->image->msg->descriptions[i];
	const struct kage_fd_kind *k = kage_fd_kind_of(d);

	if (k && k->start)
		TRY_WRAP(k->start(r, d, r->fds[i]), "start %s", kage_fds_label_of(r, d));
	return NULL;
}

struct kage_err *kage_fds_start(struct kage_restore *r)
{
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++)
		TRY(kage_fds_start_one(r, i));
	return NULL;
}

/* --- print -------------------------------------------------------------------------------------- */

enum { BRIEF_LINES = 20 };

static const Kage__Descriptor *earlier_of_same(const Kage__Process *p, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (p->descriptors[k]->description == p->descriptors[i]->description)
			return p->descriptors[k];
	return NULL;
}

static void print_one(const struct kage_image *image, const Kage__Process *p, size_t i, FILE *out)
{
	const Kage__Descriptor *n = p->descriptors[i], *earlier = earlier_of_same(p, i);
	const Kage__Description *d = kage_image_description(image, n->description);
	const struct kage_fd_kind *k = d ? kage_fd_kind_of(d) : NULL;

	fprintf(out, "  %5u  ", n->fd);
	if (earlier) {
		fprintf(out, "the same as %u", earlier->fd);
	} else {
		fprintf(out, "%s: ", k ? k->name : "?");
		if (k && k->print)
			k->print(image, d, out);
	}
	fprintf(out, "%s\n", n->close_on_exec ? ", close-on-exec" : "");
}

void kage_fds_print(const struct kage_image *image, const Kage__Process *p, FILE *out, bool full)
{
	for (size_t i = 0; i < p->n_descriptors; i++) {
		if (!full && i == BRIEF_LINES) {
			fprintf(out, "  … and %zu more\n", p->n_descriptors - i);
			break;
		}
		print_one(image, p, i, out);
	}
}
