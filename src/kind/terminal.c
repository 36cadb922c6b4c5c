/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals that are not the target's own making: usually the one it was started on. A restored
 * program takes the terminal on which it is restored and gets the settings it had made there; where
 * there is none, /dev/null takes its place. A line to a device (a serial port …) that does not
 * control it is another matter: the program means that very one. The two ends of a pseudo-terminal
 * that the target made itself are not supported yet (kind/other.c names its master).
 */
#include "kind/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>
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

struct kage_terminal_before {
	struct ktermios2 termios;
};

/* Documentation/admin-guide/devices.txt: 4 serial lines above the virtual consoles, 166 and 188 those
 * on USB, 204 those of many other makes. */
static bool is_line(dev_t rdev)
{
	unsigned m = major(rdev);

	return (m == 4 && minor(rdev) >= 64) || m == 166 || m == 188 || m == 204;
}

/* The same: 4 virtual consoles, 5 the tty itself and the console, 136-143 slaves of
 * pseudo-terminals, 229 consoles of a hypervisor. 5:2 is the master of pseudo-terminals. */
static bool is_terminal(dev_t rdev)
{
	unsigned m = major(rdev);

	return m == 4 || (m == 5 && minor(rdev) != 2) || (m >= 136 && m <= 143) || m == 229 ||
	       is_line(rdev);
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

/* What was typed and not read is in the kernel, from where it can only be taken away: it cannot be in
 * an image. In the background it is not the program's. */
static void count_unread(struct kage_capture *c, const struct kage_fd_seen *fd, Kage__Terminal *m)
{
	int n = 0;

	if (!m->controlling || !kage_terminal_was_foreground(c->process) ||
	    ioctl(fd->ours, FIONREAD, &n) < 0 || n <= 0)
		return;
	m->unread_bytes = (uint32_t)n;
	kage_obstacle(c->obstacles, false, "take the image when it has read them",
		      kage_fds_label(c, fd),
		      "%d bytes that were typed, but not read yet, will not be in the image", n);
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
	m->line = !m->controlling && is_line(fd->st.st_rdev);
	/* Reading settings is no access in the sense of job control (tty_ioctl(4)). A terminal that was
	 * hung up has none. */
	if (ioctl(fd->ours, KTCGETS2, &t) == 0)
		TRY(store_termios(&c->image->arena, &t, &m->termios));
	if (ioctl(fd->ours, TIOCGWINSZ, &w) == 0) {
		m->rows = w.ws_row;
		m->columns = w.ws_col;
	}
	count_unread(c, fd, m);
	return NULL;
}

/* --- which terminal ------------------------------------------------------------------------------ */

/* A description of our own. Another user's terminal cannot be opened by its path (after su(1)), but
 * as our controlling one it can. */
static int open_callers(void)
{
	int fd = STDIN_FILENO, again;

	while (fd <= STDERR_FILENO && !isatty(fd))
		fd++;
	if (fd > STDERR_FILENO)
		return -1;
	again = kage_fds_reopen(fd, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (again < 0 && tcgetsid(fd) == getsid(0))
		again = open("/dev/tty", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	return again < 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : again;
}

void kage_terminal_find(struct kage_restore *r)
{
	if (r->tty_sought)
		return;
	r->tty_sought = true;
	if (r->options->tty) {
		r->tty_fd = open(r->options->tty, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		r->tty_errno = errno;
	} else if (!r->options->detached) {
		r->tty_fd = open_callers();
	}
	r->tty_own = r->tty_fd >= 0 && tcgetsid(r->tty_fd) == getsid(0);
}

bool kage_terminal_was_foreground(const Kage__Process *p)
{
	return p->tty_pgid == p->pgid;
}

bool kage_terminal_takes_keys(const struct kage_restore *r)
{
	const uint32_t by_lines = ICANON | ECHO;
	struct ktermios2 t;

	if (!kage_terminal_was_foreground(r->process))
		return false;
	for (size_t i = 0; i < r->image->msg->n_descriptions; i++) {
		const Kage__Description *d = r->image->msg->descriptions[i];

		if (d->kind_case != KAGE__DESCRIPTION__KIND_TERMINAL || !d->terminal->controlling ||
		    d->terminal->termios.len != TERMIOS_BYTES)
			continue;
		load_termios(d->terminal->termios.data, &t);
		if ((t.lflag & by_lines) != by_lines)
			return true;
	}
	return false;
}

bool kage_terminal_may_set(const struct kage_restore *r)
{
	return r->tty_fd >= 0 && (!r->tty_own || tcgetpgrp(r->tty_fd) == getpgrp());
}

/* --- restore ------------------------------------------------------------------------------------ */

static struct kage_err *check_line(struct kage_restore *r, const Kage__Description *d)
{
	const char *path = d->terminal->path;

	if (access(path, (d->flags & O_ACCMODE) == O_WRONLY ? W_OK : R_OK) < 0)
		kage_obstacle(r->obstacles, true, "connect the device, with the same name", path,
			      "the line cannot be opened (%s)", strerror(errno));
	return NULL;
}

void kage_terminal_check_named(struct kage_restore *r)
{
	const char *why;

	if (!r->options->tty)
		return;
	kage_terminal_find(r);
	why = r->tty_fd < 0 ? strerror(r->tty_errno) : "it is none";
	if (r->tty_fd < 0 || !isatty(r->tty_fd))
		kage_obstacle(r->obstacles, true, "name one that you can open", r->options->tty,
			      "it cannot be opened as a terminal (%s)", why);
}

/* There is no terminal for the program. Those that take keys would end or spin at once. */
static void check_without(struct kage_restore *r, const Kage__Description *d)
{
	const char *cure = r->options->detached
				   ? "restore it without --detach, or name a terminal with --tty"
				   : "restore it on a terminal, or name one with --tty";

	if (kage_terminal_takes_keys(r))
		kage_obstacle(r->obstacles, true, cure, d->terminal->path,
			      "the program takes keys from its terminal, and there is none here");
	else
		kage_obstacle(r->obstacles, false, cure, d->terminal->path,
			      "there is no terminal for the program; /dev/null takes its place");
}

static struct kage_err *check(struct kage_restore *r, const Kage__Description *d)
{
	const Kage__Terminal *m = d->terminal;

	if (m->line)
		return check_line(r, d);
	kage_terminal_find(r);
	if (!r->options->tty && r->tty_fd < 0)
		check_without(r, d);
	if (m->unread_bytes)
		kage_obstacle(r->obstacles, false, "type them again", m->path,
			      "%u bytes were typed, but not read yet: they are not in the image",
			      m->unread_bytes);
	return NULL;
}

/* A description of its own: O_NONBLOCK set on it must not hit the shell that shares ours. */
static int open_again(int fd, int flags)
{
	int again = kage_fds_reopen(fd, flags);

	return again < 0 && errno == EACCES ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : again;
}

static struct kage_err *make(struct kage_restore *r, const Kage__Description *d, int *ret_fd)
{
	int flags = (int)(d->flags & O_ACCMODE) | O_NOCTTY | O_NONBLOCK, fd;

	kage_terminal_find(r);
	if (d->terminal->line)
		fd = open(d->terminal->path, flags | O_CLOEXEC);
	else if (r->tty_fd >= 0)
		fd = open_again(r->tty_fd, flags);
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

/* Speed, parity and the encoding of characters are matters of the terminal, not of the program. */
static void keep_own(struct ktermios2 *t, const struct ktermios2 *now)
{
	t->iflag = (t->iflag & ~(uint32_t)IUTF8) | (now->iflag & IUTF8);
	t->cflag = now->cflag;
	t->line = now->line;
	t->ispeed = now->ispeed;
	t->ospeed = now->ospeed;
}

static struct kage_err *set_own(struct kage_restore *r, const Kage__Terminal *m)
{
	struct ktermios2 now, t;

	if (m->termios.len != TERMIOS_BYTES || ioctl(r->tty_fd, KTCGETS2, &now) < 0)
		return NULL;
	if (!r->tty_before) {
		r->tty_before = malloc(sizeof(*r->tty_before));
		if (!r->tty_before)
			return kage_err_nomem();
		r->tty_before->termios = now;
	}
	load_termios(m->termios.data, &t);
	keep_own(&t, &now);
	return set_termios(r->tty_fd, &t) < 0 ? kage_err_sys(errno, "set the terminal") : NULL;
}

void kage_terminal_undo(struct kage_restore *r)
{
	if (r->tty_before)
		set_termios(r->tty_fd, &r->tty_before->termios);
}

/* The terminal keeps its size, but one without any gets that of the image. */
static void give_size(const struct kage_restore *r, const Kage__Terminal *m)
{
	struct winsize w;

	if (ioctl(r->tty_fd, TIOCGWINSZ, &w) < 0 || w.ws_row || w.ws_col)
		return;
	w.ws_row = (unsigned short)m->rows;
	w.ws_col = (unsigned short)m->columns;
	ioctl(r->tty_fd, TIOCSWINSZ, &w);
}

static struct kage_err *start_line(const Kage__Terminal *m, int ours)
{
	struct ktermios2 t;

	if (m->termios.len != TERMIOS_BYTES)
		return NULL;
	load_termios(m->termios.data, &t);
	return set_termios(ours, &t) < 0 ? kage_err_sys(errno, "set %s", m->path) : NULL;
}

static struct kage_err *start(struct kage_restore *r, const Kage__Description *d, int ours)
{
	const Kage__Terminal *m = d->terminal;

	if (m->line)
		return start_line(m, ours);
	if (!m->controlling || !kage_terminal_was_foreground(r->process) ||
	    !kage_terminal_may_set(r))
		return NULL;
	give_size(r, m);
	return set_own(r, m);
}

static void print(const struct kage_image *image, const Kage__Description *d, FILE *out)
{
	const Kage__Terminal *m = d->terminal;

	(void)image;
	fprintf(out, "%s, %u x %u%s", m->path, m->columns, m->rows,
		m->controlling ? ", controlling" : "");
	if (m->unread_bytes)
		fprintf(out, ", %u bytes typed and not read", m->unread_bytes);
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
