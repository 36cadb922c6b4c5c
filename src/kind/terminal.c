/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals that are not the target's own making: usually the one it was started on. A restored
 * program takes the terminal on which it is restored and gets the settings it had made there; where
 * there is none, /dev/null takes its place. The two ends of a pseudo-terminal that the target made
 * itself are not supported yet (kind/other.c names its master).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/fds.h"
#include "sys/text.h"

enum { N_CONTROL = 19, TERMIOS_BYTES = 7 * 4 + N_CONTROL };

/* struct termios2 and its ioctls, include/uapi/asm-generic/termbits.h; the C library's own header
 * excludes the kernel's. */
struct ktermios2 {
	uint32_t iflag, oflag, cflag, lflag;
	uint8_t line;
	uint8_t cc[N_CONTROL];
	uint32_t ispeed, ospeed;
};
#define KTCGETS2 _IOR('T', 0x2A, struct ktermios2)
#define KTCSETS2 _IOW('T', 0x2B, struct ktermios2)

/* Documentation/admin-guide/devices.txt: 4 virtual consoles and serial lines, 5 the tty itself and the
 * console, 136-143 slaves of pseudo-terminals. 5:2 is their master. */
static bool is_terminal(dev_t rdev)
{
	unsigned m = major(rdev);

	return m == 4 || (m == 5 && minor(rdev) != 2) || (m >= 136 && m <= 143);
}

static bool match(const struct kage_fd_seen *fd)
{
	return S_ISCHR(fd->st.st_mode) && is_terminal(fd->st.st_rdev) &&
	       !(kage_fds_flags(fd) & O_PATH);
}

/* The seventh field of stat(5). */
static struct kage_err *read_controlling(struct kage_capture *c, uint64_t *ret_tty)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "stat", 1 << 16, &text, &size));
	if (!kage_text_stat_u64(text, 7, ret_tty))
		*ret_tty = 0;
	return NULL;
}

static struct kage_err *store_termios(struct arena *a, const struct ktermios2 *t,
				      ProtobufCBinaryData *ret)
{
	const uint32_t words[7] = { t->iflag, t->oflag,  t->cflag, t->lflag,
				    t->line,  t->ispeed, t->ospeed };
	uint8_t bytes[TERMIOS_BYTES];

	for (size_t i = 0; i < 7; i++)
		le_store_(bytes + i * 4, 4, words[i]);
	memcpy(bytes + 28, t->cc, N_CONTROL);
	ret->data = arena_dup(a, bytes, sizeof(bytes));
	ret->len = sizeof(bytes);
	return ret->data ? NULL : kage_err_nomem();
}

static void load_termios(const uint8_t *bytes, struct ktermios2 *t)
{
	uint32_t words[7];

	for (size_t i = 0; i < 7; i++)
		words[i] = (uint32_t)le_load_(bytes + i * 4, 4);
	*t = (struct ktermios2){ .iflag = words[0],
				 .oflag = words[1],
				 .cflag = words[2],
				 .lflag = words[3],
				 .line = (uint8_t)words[4],
				 .ispeed = words[5],
				 .ospeed = words[6] };
	memcpy(t->cc, bytes + 28, N_CONTROL);
}

static struct kage_err *capture(struct kage_capture *c, const struct kage_fd_seen *fd,
				Kage__Description *d)
{
	Kage__Terminal *m = msg_new(&c->image->arena, Kage__Terminal, kage__terminal__init);
	struct ktermios2 t;
	struct winsize w;
	uint64_t tty;

	if (!m)
		return kage_err_nomem();
	d->kind_case = KAGE__DESCRIPTION__KIND_TERMINAL;
	d->terminal = m;
	m->path = arena_strdup(&c->image->arena, fd->link);
	if (!m->path)
		return kage_err_nomem();
	TRY(read_controlling(c, &tty));
	/* tty_nr has the minor in bits 31-20 and 7-0, the major in 15-8 (stat(5)). */
	m->controlling = fd->st.st_rdev == makedev(5, 0) ||
			 fd->st.st_rdev == makedev((tty >> 8) & 0xfff,
						   (tty & 0xff) | ((tty >> 12) & 0xfff00));
	/* Reading settings is no access in the sense of job control (tty_ioctl(4)). A terminal that was
	 * hung up has none. */
	if (ioctl(fd->ours, KTCGETS2, &t) == 0)
		TRY(store_termios(&c->image->arena, &t, &m->termios));
	if (ioctl(fd->ours, TIOCGWINSZ, &w) == 0) {
		m->rows = w.ws_row;
		m->columns = w.ws_col;
	}
	return NULL;
}

/* --- restore ------------------------------------------------------------------------------------ */

/* The terminal named by the caller, else the one that the caller itself is on. */
static void find_terminal(struct kage_restore *r)
{
	if (r->tty_fd >= 0)
		return;
	if (r->options->tty) {
		r->tty_fd = open(r->options->tty, O_RDWR | O_NOCTTY | O_CLOEXEC);
		return;
	}
	for (int fd = 0; !r->options->detached && fd <= 2 && r->tty_fd < 0; fd++)
		if (isatty(fd))
			r->tty_fd = kage_fds_reopen(fd, O_RDWR | O_NOCTTY);
}

static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	find_terminal(r);
	if (r->tty_fd >= 0 && isatty(r->tty_fd))
		return NULL;
	if (r->options->tty)
		kage_obstacle(r->obstacles, true, "name one that you can open", r->options->tty,
			      "it cannot be opened as a terminal (%s)", strerror(errno));
	else
		kage_obstacle(r->obstacles, false,
			      "restore it on a terminal, or name one with --tty", d->terminal->path,
			      "there is no terminal for the program; /dev/null takes its place");
	return NULL;
}

/* A description of its own: O_NONBLOCK set on it must not hit the shell that shares ours. */
static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	int flags = (int)(d->flags & O_ACCMODE) | O_NOCTTY | O_NONBLOCK, fd;

	find_terminal(r);
	if (r->tty_fd >= 0)
		fd = kage_fds_reopen(r->tty_fd, flags);
	else
		fd = open("/dev/null", flags | O_CLOEXEC);
	if (fd < 0)
		return kage_err_sys(errno, "open the terminal");
	*ret_fd = fd;
	return NULL;
}

/* Setting a terminal from the background stops the caller with SIGTTOU, unless that is blocked: then
 * it works (tcsetpgrp and the line discipline, termios(3)). */
static int set_termios(int fd, const struct ktermios2 *t)
{
	sigset_t block, before;
	int r;

	sigemptyset(&block);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &before);
	r = ioctl(fd, KTCSETS2, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

static struct kage_err *start(struct kage_restore *r, const Kage__Description *d, int ours)
{
	const Kage__Terminal *m = d->terminal;
	struct ktermios2 t;
	struct winsize w;

	if (r->tty_fd < 0 || !m->controlling)
		return NULL;
	if (m->termios.len == TERMIOS_BYTES) {
		load_termios(m->termios.data, &t);
		if (set_termios(ours, &t) < 0)
			return kage_err_sys(errno, "set the terminal");
	}
	/* The terminal keeps its size; the program is told as it would be of any change. */
	if (ioctl(ours, TIOCGWINSZ, &w) == 0 && r->stub &&
	    (w.ws_row != m->rows || w.ws_col != m->columns))
		kill(r->stub->pid, SIGWINCH);
	return NULL;
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__Terminal *m = d->terminal;

	(void)image;
	fprintf(out, "%s, %u x %u%s", m->path, m->columns, m->rows,
		m->controlling ? ", controlling" : "");
}

const struct kage_fd_kind kage_fd_terminal = {
	.name = "terminal",
	.which = KAGE__DESCRIPTION__KIND_TERMINAL,
	.match = match,
	.capture = capture,
	.check = check,
	.make = make,
	.start = start,
	.print = print,
};
