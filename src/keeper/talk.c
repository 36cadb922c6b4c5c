/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/talk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "store/store.h"

static const char suffix[] = ".twins";

enum { PATH_BYTES = 80, BACKLOG = 64 };

void talk_fds_close(struct talk_fds *fds)
{
	for (size_t i = 0; i < fds->n; i++)
		close_fd(fds->v[i]);
	fds->n = 0;
}

struct kage_err *talk_check_name(const char *name)
{
	TRY(kage_store_check_name(name));
	if (strlen(name) + sizeof(suffix) > TALK_NAME_BYTES)
		return kage_err_new(KAGE_INVALID, "a name of twins has at most %zu characters",
				    TALK_NAME_BYTES - sizeof(suffix));
	return NULL;
}

/* --- the directory ---------------------------------------------------------------------------- */

static struct kage_err *dir_path(char **ret_path)
{
	const char *run = secure_getenv("KAGE_RUN"), *xdg = secure_getenv("XDG_RUNTIME_DIR");
	int n;

	if (run && run[0])
		n = asprintf(ret_path, "%s", run);
	else if (geteuid() == 0)
		n = asprintf(ret_path, "/run/kage");
	else if (xdg && xdg[0])
		n = asprintf(ret_path, "%s/kage", xdg);
	else
		n = asprintf(ret_path, "/tmp/kage-%u", geteuid());
	if (n < 0) {
		*ret_path = NULL;
		return kage_err_nomem();
	}
	return NULL;
}

/* Nobody else may put a socket there, in which we would believe. */
static struct kage_err *check_dir(int dir, const char *path)
{
	struct stat st;

	if (fstat(dir, &st) < 0)
		return kage_err_sys(errno, "stat %s", path);
	if (st.st_uid != geteuid())
		return kage_err_new(KAGE_PERM,
				    "%s belongs to user %u; name another one in KAGE_RUN", path,
				    st.st_uid);
	if (st.st_mode & 022)
		return kage_err_new(
			KAGE_PERM,
			"other users may write to %s; remove it, or name another one in "
			"KAGE_RUN",
			path);
	return NULL;
}

struct kage_err *talk_open_dir(bool make, int *ret_dir)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_fd_ int dir = -1;

	TRY(dir_path(&path));
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return kage_err_sys(errno, "make %s", path);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT) {
		*ret_dir = -1;
		return NULL;
	}
	if (dir < 0)
		return kage_err_sys(errno, "open %s", path);
	TRY(check_dir(dir, path));
	*ret_dir = take_fd(&dir);
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *name_in(const char *entry)
{
	size_t n = strlen(entry), s = strlen(suffix);

	return entry[0] != '.' && n > s && strcmp(entry + n - s, suffix) == 0
		       ? strndup(entry, n - s)
		       : NULL;
}

struct kage_err *talk_names(char ***ret_names, size_t *ret_n)
{
	char **names = NULL;
	struct dirent *d;
	size_t n = 0;
	int fd;
	DIR *dir;

	*ret_names = NULL;
	*ret_n = 0;
	TRY(talk_open_dir(false, &fd));
	if (fd < 0)
		return NULL;
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return kage_err_nomem();
	}
	while ((d = readdir(dir))) {
		char *name = name_in(d->d_name), **grown;

		if (!name)
			continue;
		grown = realloc(names, (n + 1) * sizeof(*names));
		if (!grown) {
			free(name);
			continue;
		}
		names = grown;
		names[n++] = name;
	}
	closedir(dir);
	if (n)
		qsort(names, n, sizeof(*names), by_name);
	*ret_names = names;
	*ret_n = n;
	return NULL;
}

/* The directory may have a long path, a socket's address not: by way of our descriptor. */
static void address(int dir, const char *name, struct sockaddr_un *ret_sa)
{
	*ret_sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret_sa->sun_path, sizeof(ret_sa->sun_path), "/proc/self/fd/%d/%s%s", dir, name,
		 suffix);
}

/* --- connections ------------------------------------------------------------------------------ */

struct kage_err *talk_check_peer(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return kage_err_sys(errno, "learn who is at the other end");
	if (peer.uid != geteuid() && peer.uid != 0)
		return kage_err_new(KAGE_PERM, "user %u is not to be served", peer.uid);
	return NULL;
}

struct kage_err *talk_connect(const char *name, int *ret_fd)
{
	_cleanup_fd_ int dir = -1, fd = -1;
	struct sockaddr_un sa;

	TRY(talk_check_name(name));
	TRY(talk_open_dir(false, &dir));
	if (dir < 0)
		return kage_err_new(KAGE_NOTFOUND, "there are no twins called %s", name);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return kage_err_sys(errno, "make a socket");
	address(dir, name, &sa);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED)
			return kage_err_new(KAGE_NOTFOUND, "there are no twins called %s", name);
		return kage_err_sys(errno, "reach the keeper of %s", name);
	}
	TRY_WRAP(talk_check_peer(fd), "the keeper of %s", name);
	*ret_fd = take_fd(&fd);
	return NULL;
}

/* The lock says who has the name; a socket that is left over is nobody's. */
static struct kage_err *lock_name(int dir, const char *name, int *ret_lock)
{
	char file[TALK_NAME_BYTES + 16];
	_cleanup_fd_ int lock = -1;

	snprintf(file, sizeof(file), ".%s.lock", name);
	lock = openat(dir, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0)
		return kage_err_sys(errno, "open %s", file);
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK
			       ? kage_err_new(KAGE_CHANGED, "%s has got another keeper just now",
					      name)
			       : kage_err_sys(errno, "lock %s", file);
	*ret_lock = take_fd(&lock);
	return NULL;
}

struct kage_err *talk_listen(const char *name, int *ret_fd, int *ret_lock)
{
	_cleanup_fd_ int dir = -1, fd = -1, lock = -1;
	char entry[TALK_NAME_BYTES + 16];
	struct sockaddr_un sa;
	mode_t before;
	int r;

	TRY(talk_open_dir(true, &dir));
	TRY(lock_name(dir, name, &lock));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return kage_err_sys(errno, "make a socket");
	snprintf(entry, sizeof(entry), "%s%s", name, suffix);
	unlinkat(dir, entry, 0);
	address(dir, name, &sa);
	before = umask(0177);
	r = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	umask(before);
	if (r < 0 || listen(fd, BACKLOG) < 0)
		return kage_err_sys(errno, "listen on %s", entry);
	*ret_fd = take_fd(&fd);
	*ret_lock = take_fd(&lock);
	return NULL;
}

void talk_unlisten(const char *name)
{
	char entry[TALK_NAME_BYTES + 16];
	_cleanup_fd_ int dir = -1;

	err_drop(talk_open_dir(false, &dir));
	if (dir < 0)
		return;
	snprintf(entry, sizeof(entry), "%s%s", name, suffix);
	unlinkat(dir, entry, 0);
}

/* --- messages --------------------------------------------------------------------------------- */

union control {
	char bytes[CMSG_SPACE(TALK_FDS * sizeof(int))];
	struct cmsghdr align;
};

struct kage_err *talk_send(int fd, const ProtobufCMessage *m, const int *fds, size_t n)
{
	size_t size = protobuf_c_message_get_packed_size(m);
	_cleanup_free_ uint8_t *bytes = malloc(size + 1);
	union control control = { 0 };
	/* A packet of no bytes would be taken for the end. */
	struct iovec iov[2] = { { (char[]){ 'k' }, 1 }, { bytes, size } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

	if (!bytes)
		return kage_err_nomem();
	protobuf_c_message_pack(m, bytes);
	if (n) {
		struct cmsghdr *c = &control.align;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
				       .cmsg_type = SCM_RIGHTS,
				       .cmsg_len = CMSG_LEN(n * sizeof(int)) };
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	while (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return kage_err_sys(errno, "send a message");
	return NULL;
}

static void take_fds(struct msghdr *msg, struct talk_fds *ret_fds)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || n > TALK_FDS)
			continue;
		memcpy(ret_fds->v, CMSG_DATA(c), n * sizeof(int));
		ret_fds->n = n;
	}
}

struct kage_err *talk_receive(int fd, const ProtobufCMessageDescriptor *type,
			      ProtobufCMessage **ret_m, struct talk_fds *ret_fds)
{
	_cleanup_free_ uint8_t *bytes = malloc(TALK_BYTES);
	union control control = { 0 };
	struct iovec iov = { bytes, TALK_BYTES };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	ssize_t n;

	*ret_m = NULL;
	*ret_fds = (struct talk_fds){ 0 };
	if (!bytes)
		return kage_err_nomem();
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return kage_err_sys(errno, "receive a message");
	take_fds(&msg, ret_fds);
	if (n == 0)
		return NULL;
	*ret_m = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
			 ? NULL
			 : protobuf_c_message_unpack(type, NULL, (size_t)n - 1, bytes + 1);
	if (!*ret_m) {
		talk_fds_close(ret_fds);
		return kage_err_new(KAGE_CORRUPT, "a message is not understood");
	}
	return NULL;
}
