/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/request.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/store.h"
#include "sys/text.h"

enum { TRIES = 5, FIRST_FD = 3 };

extern char **environ;

/* --- a request and its replies ---------------------------------------------------------------- */

void request_reply_free(Reply *r)
{
	if (r)
		kage__keeper__reply__free_unpacked(r, NULL);
}

void request_reply_cleanup(Reply **r)
{
	request_reply_free(*r);
}

struct kage_err *request_next_reply(struct kage_ctx *ctx, int fd, Reply **ret_reply, int *ret_fd)
{
	_cleanup_reply_ Reply *r = NULL;
	struct talk_fds fds;

	TRY(talk_receive(fd, &kage__keeper__reply__descriptor, (ProtobufCMessage **)&r, &fds));
	if (r && ret_fd && fds.n == 1 && !r->failure) {
		*ret_fd = fds.v[0];
		fds.n = 0;
	}
	talk_fds_close(&fds);
	if (!r)
		return kage_err_new(KAGE_GONE, "the keeper has ended; its twins are gone");
	for (size_t i = 0; i < r->n_notices; i++)
		kage_ctx_notice(ctx, "%s", r->notices[i]);
	if (r->failure)
		return kage_err_new((enum kage_code)r->failure->code, "%s", r->failure->message);
	*ret_reply = take_ptr(r);
	return NULL;
}

struct kage_err *request_ask(struct kage_ctx *ctx, int fd, const Request *q, const int *fds,
			     size_t n, Reply **ret_reply, int *ret_fd)
{
	struct kage_err *e = talk_send(fd, &q->base, fds, n);

	/* What an ended keeper had to say may be there still. */
	if (e && kage_err_errno(e) != EPIPE)
		return e;
	err_drop(e);
	return request_next_reply(ctx, fd, ret_reply, ret_fd);
}

/* --- a keeper ------------------------------------------------------------------------------------ */

static struct kage_err *open_log(const char *name, int *ret_fd)
{
	_cleanup_fd_ int dir = -1;
	char file[TALK_NAME_BYTES + 16];

	TRY(talk_open_dir(true, &dir));
	snprintf(file, sizeof(file), "%s.log", name);
	*ret_fd = openat(dir, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	return *ret_fd < 0 ? kage_err_sys(errno, "open %s", file) : NULL;
}

/* kage(1), with the connection as its descriptor FIRST_FD, and nothing else of ours. */
static int spawn(const char *program, const char *name, int connection, int log, pid_t *ret_pid)
{
	char *argv[] = { "kage", "twins", "--be-keeper-of", (char *)name, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int num;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
	posix_spawn_file_actions_adddup2(&actions, connection, FIRST_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, FIRST_FD + 1);
	num = posix_spawnp(ret_pid, program, &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	return num;
}

/* Above those that it gets. */
static struct kage_err *lift(int *fd)
{
	int high = fcntl(*fd, F_DUPFD_CLOEXEC, FIRST_FD + 1);

	if (high < 0)
		return kage_err_sys(errno, "duplicate a descriptor");
	close(*fd);
	*fd = high;
	return NULL;
}

static struct kage_err *make_keeper(const char *program, const char *name, int *ret_fd)
{
	_cleanup_fd_ int ours = -1, theirs = -1, log = -1;
	int pair[2], num, status;
	pid_t pid = 0;

	TRY(open_log(name, &log));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return kage_err_sys(errno, "make a socket");
	ours = pair[0];
	theirs = pair[1];
	TRY(lift(&log));
	TRY(lift(&theirs));
	num = spawn(program ? program : "kage", name, theirs, log, &pid);
	if (num)
		return kage_err_sys(num, "start a keeper (%s)", program ? program : "kage");
	/* It makes the keeper, and ends at once. */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	*ret_fd = take_fd(&ours);
	return NULL;
}

struct kage_err *request_start_of(pid_t pid, uint64_t *ret_ticks, char *ret_comm, size_t size)
{
	_cleanup_free_ char *text = NULL;
	const char *open, *close;
	char path[64];
	size_t n;
	struct kage_err *e;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	e = kage_file_slurp(AT_FDCWD, path, 1 << 16, &text, &n);
	if (e && kage_err_errno(e) == ENOENT) {
		err_drop(e);
		return kage_err_new(KAGE_NOTFOUND, "there is no process %d", pid);
	}
	TRY(e);
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || !kage_text_stat_u64(text, 22, ret_ticks))
		return kage_err_new(KAGE_CORRUPT, "/proc/%d/stat is not understood", pid);
	snprintf(ret_comm, size, "%.*s", (int)(close - open - 1), open + 1);
	return NULL;
}

/* Asks the keeper of NAME, or a new one. *RET_AGAIN: it was about to end, or another one has become it. */
static struct kage_err *once(struct kage_ctx *ctx, const char *name, const char *program,
			     const Request *q, Reply **ret_reply, bool *ret_again)
{
	_cleanup_fd_ int fd = -1;
	struct kage_err *e = talk_connect(name, &fd);

	*ret_again = false;
	if (e && kage_err_code(e) == KAGE_NOTFOUND) {
		err_drop(e);
		e = make_keeper(program, name, &fd);
	}
	TRY(e);
	e = request_ask(ctx, fd, q, NULL, 0, ret_reply, NULL);
	*ret_again = e && (kage_err_code(e) == KAGE_GONE || kage_err_code(e) == KAGE_CHANGED ||
			   kage_err_errno(e) == ECONNRESET);
	return e;
}

static struct kage_err *of_name(struct kage_ctx *ctx, const char *name, const char *program,
				const Request *q, Reply **ret_reply)
{
	bool again = true;
	struct kage_err *e = NULL;

	TRY(talk_check_name(name));
	for (int i = 0; i < TRIES && again; i++) {
		err_drop(e);
		e = once(ctx, name, program, q, ret_reply, &again);
	}
	return e;
}

struct kage_err *request_of_program(struct kage_ctx *ctx, const struct request_program *p,
				    const Request *q, Reply **ret_reply)
{
	char name[64], other[TALK_NAME_BYTES];
	struct kage_err *e;

	if (p->name)
		return of_name(ctx, p->name, p->program, q, ret_reply);
	kage_store_default_name(p->comm, name);
	e = of_name(ctx, name, p->program, q, ret_reply);
	if (!e || kage_err_code(e) != KAGE_BUSY)
		return e;
	/* Of another program with the same command. */
	err_drop(e);
	snprintf(other, sizeof(other), "%.40s-%d", name, p->pid);
	return of_name(ctx, other, p->program, q, ret_reply);
}
