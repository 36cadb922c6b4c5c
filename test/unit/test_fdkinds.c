/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors of every kind through their whole life: a process builds its state, is frozen and
 * captured, and ends; another process is made of the image and judges what it finds.
 *
 * The calls that a stub would be made to run are made by a forked process itself, so that this tests
 * the kinds without the restore around them. What the target shows in /proc is compared before and
 * after the capture.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/content.h"
#include "kind/fds.h"
#include "kind/files.h"
#include "kind/obstacles.h"
#include "kind/sockopt.h"

extern const struct kage_kind kage_kind_filesystem, kage_kind_locks;

#define must(e)                                               \
	do {                                                  \
		struct kage_err *e_ = (e);                    \
		if (e_)                                       \
			fail_msg("%s", kage_err_message(e_)); \
	} while (0)

/* --- a process that tells what went wrong in it --------------------------------------------------- */

static char dir[64]; /* fresh for every test, also the working directory of the target */
static int port;     /* new for every test: connections outlive their program */
static char *words;  /* shared with the processes made here */
enum { WORDS_BYTES = 4096 };

/* In processes of the test: ends with a message unless COND holds. */
#define CHECK(cond)                                                                             \
	do {                                                                                    \
		if (!(cond)) {                                                                  \
			snprintf(words, WORDS_BYTES, "line %d: %s (errno %d)", __LINE__, #cond, \
				 errno);                                                        \
			_exit(1);                                                               \
		}                                                                               \
	} while (0)

typedef void body_fn(void);

enum { READY = 900, GO = 901 }; /* descriptors for talking, closed before the body's own are seen */

static char *path_of(const char *name)
{
	static char path[4][128];
	static int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void place_at(int from, int to)
{
	CHECK(from >= 0);
	CHECK(dup3(from, to, 0) == to);
	close(from);
}

static pid_t start_target(body_fn *setup)
{
	int ready[2];
	char c;
	pid_t pid;

	words[0] = '\0';
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(ready[1], READY);
		close_range(3, READY - 1, 0);
		close_range(READY + 1, ~0u, 0);
		CHECK(chdir(dir) == 0);
		place_at(open("/dev/null", O_RDWR), 0);
		dup2(0, 1);
		dup2(0, 2);
		setup();
		CHECK(write(READY, "r", 1) == 1);
		close(READY);
		for (;;)
			pause();
	}
	close(ready[1]);
	/* A word, then the end: by then it has closed its end and sleeps soon. */
	if (read(ready[0], &c, 1) != 1 || read(ready[0], &c, 1) != 0)
		fail_msg("target: %s", words);
	close(ready[0]);
	return pid;
}

/* --- what /proc shows ----------------------------------------------------------------------------- */

static void append(char **text, const char *more)
{
	size_t n = *text ? strlen(*text) : 0;

	*text = realloc(*text, n + strlen(more) + 1);
	assert_non_null(*text);
	strcpy(*text + n, more);
}

/* All descriptors with their fdinfo, but the time that a timer has left. */
static char *show_fds(pid_t pid)
{
	char path[64], link[256], *all = NULL;

	append(&all, "");
	for (int fd = 0; fd < 1000; fd++) {
		_cleanup_free_ char *info = NULL;
		char *left;
		size_t size;
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
		must(kage_file_slurp(AT_FDCWD, path, 1 << 20, &info, &size));
		left = strstr(info, "it_value");
		if (left)
			*left = '\0';
		append(&all, link);
		append(&all, "\n");
		append(&all, info);
	}
	return all;
}

/* --- capture -------------------------------------------------------------------------------------- */

struct scene {
	struct kage_ctx *ctx;
	struct kage_target *target;
	struct kage_capture c;
	struct kage_restore r;
	struct kage_restore_options options;
	struct kage_obstacles *of_capture;
	pid_t pid;
	bool maps_first_file; /* what descriptor 10 refers to counts as the executable */
};

static void capture(struct scene *s, body_fn *setup)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	size_t size;

	s->pid = start_target(setup);
	must(kage_ctx_create(&s->ctx));
	s->of_capture = kage_obstacles_create();
	s->c = (struct kage_capture){ .ctx = s->ctx,
				      .obstacles = s->of_capture,
				      .carry = s->c.carry };
	must(kage_target_open(s->ctx, s->pid, &s->target));
	s->c.target = s->target;
	must(kage_image_create(&s->c.image));
	must(kage_mem_pages_create(&s->c.pages));
	s->c.process = msg_append(&s->c.image->arena, s->c.image->msg, processes, Kage__Process,
				  kage__process__init);
	s->c.process->pid = s->pid;
	before = show_fds(s->pid);
	must(kage_target_freeze(s->target, &(struct kage_freeze){ .stop_all = true }));
	must(kage_file_slurp(s->target->proc_fd, "status", 1 << 20, &s->c.status, &size));
	must(kage_fds_scan(&s->c));
	must(kage_kind_filesystem.capture(&s->c));
	must(kage_kind_locks.capture(&s->c));
	kage_target_thaw(s->target, false);
	if (s->maps_first_file) {
		s->c.process->memory =
			msg_new(&s->c.image->arena, Kage__Memory, kage__memory__init);
		s->c.process->memory->exe_file = s->c.fds[3].description->file->file;
	}
	must(kage_fds_finish(&s->c));
	after = show_fds(s->pid);
	assert_string_equal(before, after);
	kage_fds_free(&s->c);
	kage_sockopt_forget(s->c.usual_options);
	s->c.image->pages = kage_mem_pages_finish(s->c.pages);
}

/* The encoded image is what restore works on, so that nothing hides in memory. */
static struct kage_image *through_bytes(struct kage_image *image)
{
	size_t size = kage__image__get_packed_size(image->msg);
	uint8_t *bytes = malloc(size + 1);
	Kage__Image *again;

	kage__image__pack(image->msg, bytes);
	again = kage__image__unpack(NULL, size, bytes);
	assert_non_null(again);
	free(bytes);
	image->msg = again;
	return image;
}

static void kill_target(struct scene *s)
{
	kage_target_close(s->target);
	s->target = NULL;
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
}

static int *minus_ones(size_t n)
{
	int *fds = malloc((n + 1) * sizeof(*fds));

	for (size_t i = 0; i < n; i++)
		fds[i] = -1;
	return fds;
}

static void begin_restore(struct scene *s)
{
	struct kage_image *image = through_bytes(s->c.image);

	s->r = (struct kage_restore){ .ctx = s->ctx,
				      .image = image,
				      .process = image->msg->processes[0],
				      .options = &s->options,
				      .kept_fd = -1,
				      .obstacles = kage_obstacles_create(),
				      .fds = minus_ones(image->msg->n_descriptions),
				      .files = minus_ones(image->msg->n_files),
				      .spaces = minus_ones(image->msg->n_spaces),
				      .tty_fd = -1 };
	must(kage_fds_check(&s->r));
	must(kage_kind_locks.check(&s->r));
}

static void close_all(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close_fd(fds[i]);
	free(fds);
}

static void end(struct scene *s)
{
	Kage__Image *m = s->c.image->msg;

	if (s->target)
		kill_target(s);
	if (s->r.image) {
		close_all(s->r.fds, m->n_descriptions);
		close_all(s->r.files, m->n_files);
		close_all(s->r.spaces, m->n_spaces);
		kage_obstacles_destroy(s->r.obstacles);
		free(s->r.tty_before);
		kage__image__free_unpacked(m, NULL);
	}
	free(s->c.status);
	kage_obstacles_destroy(s->of_capture);
	kage_image_close(s->c.image);
	kage_ctx_destroy(s->ctx);
}

/* Whether O has an obstacle whose object or reason contains TEXT. */
static bool is_named(struct kage_obstacles *o, const char *text, bool fatal)
{
	struct kage_report report;
	bool found = false;

	must(kage_obstacles_report(o, &report));
	for (size_t i = 0; i < report.n_obstacles; i++) {
		const struct kage_obstacle *k = &report.obstacles[i];

		assert_true(k->cure[0]);
		if (k->fatal == fatal && (strstr(k->object, text) || strstr(k->why, text)))
			found = true;
	}
	kage_report_free(&report);
	return found;
}

static void none_fatal(struct kage_obstacles *o)
{
	must(kage_obstacles_refuse(o));
}

/* --- restore -------------------------------------------------------------------------------------- */

/* Does what the runner would do in a stub. */
static void run_natively(struct kage_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		struct kage_call *k = &b->calls[i];
		uint64_t a[6];
		long r;

		for (int n = 0; n < 6; n++) {
			a[n] = k->args[n];
			if (b->kinds[i][n] == ARG_DATA)
				a[n] = (uint64_t)(uintptr_t)(b->data + k->args[n]);
			else if (b->kinds[i][n] == ARG_RESULT)
				a[n] = (uint64_t)b->calls[k->args[n]].result;
		}
		r = syscall((long)k->number, a[0], a[1], a[2], a[3], a[4], a[5]);
		k->result = r < 0 ? -errno : r;
		if (r < 0 && !k->go_on) {
			snprintf(words, WORDS_BYTES, "%s: %s", b->labels[i], strerror(errno));
			_exit(1);
		}
	}
}

static void live(struct scene *s, body_fn *verify)
{
	struct kage_batch b, late;
	int ready[2], go[2], status;
	char c;
	pid_t pid;

	words[0] = '\0';
	kage_batch_init(&b);
	kage_batch_init(&late);
	must(kage_kind_filesystem.prepare(&s->r));
	must(kage_fds_make(&s->r));
	must(kage_kind_filesystem.build(&s->r, &b));
	must(kage_fds_place(&s->r, &b));
	must(kage_kind_locks.finish(&s->r, &late));
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		void *shared =
			mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		pid_t helper;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		helper = fork(); /* stands for the process; its parent keeps the talking ends */

		if (helper == 0) {
			run_natively(&b);
			run_natively(&late);
			*(volatile int *)shared = 1;
			while (*(volatile int *)shared != 2)
				usleep(500);
			verify();
			_exit(0);
		}
		while (*(volatile int *)shared != 1 && waitpid(helper, &status, WNOHANG) == 0)
			usleep(500);
		if (*(volatile int *)shared != 1 || write(ready[1], "r", 1) != 1 ||
		    read(go[0], &c, 1) != 1)
			_exit(1);
		*(volatile int *)shared = 2;
		waitpid(helper, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) == 1) {
		must(kage_fds_start(&s->r));
		assert_int_equal(write(go[1], "g", 1), 1);
	}
	waitpid(pid, &status, 0);
	close(ready[0]);
	close(go[0]);
	close(go[1]);
	kage_batch_deinit(&b);
	kage_batch_deinit(&late);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("restored: %s", words);
	must(kage_files_settle(&s->r, NULL));
}

/* Captured, killed, restored, judged. No obstacle may be fatal. */
static void whole_life(body_fn *setup, body_fn *verify)
{
	struct scene s = { 0 };

	capture(&s, setup);
	none_fatal(s.of_capture);
	kill_target(&s);
	begin_restore(&s);
	none_fatal(s.r.obstacles);
	live(&s, verify);
	end(&s);
}

/* --- files ---------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static bool has_text(const char *path, const char *text)
{
	char buffer[256] = "";
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, buffer, sizeof(buffer) - 1);

	close_fd(fd);
	return n >= 0 && strcmp(buffer, text) == 0;
}

static void files_setup(void)
{
	char c[4];

	write_file("a", "0123456789");
	write_file("gone", "the contents of a file without a name");
	place_at(open("a", O_RDONLY | O_NOATIME), 10);
	CHECK(lseek(10, 4, SEEK_SET) == 4);
	CHECK(dup3(10, 20, O_CLOEXEC) == 20);
	place_at(open("a", O_WRONLY | O_APPEND | O_CLOEXEC), 11);
	CHECK(fcntl(11, F_SETFD, FD_CLOEXEC) == 0);
	place_at(open("gone", O_RDWR), 12);
	place_at(open("gone", O_RDONLY), 13);
	CHECK(read(13, c, 3) == 3 && unlink("gone") == 0);
	place_at(open("/dev/urandom", O_RDONLY | O_NONBLOCK), 14);
	place_at(open(".", O_PATH), 15);
	place_at(open("/proc/self/stat", O_RDONLY), 16);
	place_at(open("a", O_RDWR | O_DSYNC), 400);
}

static void files_verify(void)
{
	char buffer[128];

	CHECK(read(10, buffer, 3) == 3 && memcmp(buffer, "456", 3) == 0);
	CHECK(lseek(20, 0, SEEK_CUR) == 7 && fcntl(20, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(10, F_GETFD) == 0 && (fcntl(10, F_GETFL) & O_NOATIME));
	CHECK(fcntl(11, F_GETFD) == FD_CLOEXEC && (fcntl(11, F_GETFL) & O_APPEND));
	CHECK(write(11, "x", 1) == 1 && has_text("a", "0123456789x"));
	CHECK(pread(12, buffer, sizeof(buffer), 0) == 37 &&
	      memcmp(buffer, "the contents of a file without a name", 37) == 0);
	CHECK(lseek(13, 0, SEEK_CUR) == 3 && lseek(12, 0, SEEK_CUR) == 0);
	/* Both are of one file. */
	CHECK(pwrite(12, "T", 1, 0) == 1 && pread(13, buffer, 1, 0) == 1 && buffer[0] == 'T');
	CHECK(read(14, buffer, 4) == 4 && (fcntl(14, F_GETFL) & O_NONBLOCK));
	CHECK(openat(15, "a", O_RDONLY) >= 0 && (fcntl(15, F_GETFL) & O_PATH));
	CHECK(pread(16, buffer, sizeof(buffer), 0) > 0 && atoi(buffer) == getpid());
	CHECK(fcntl(400, F_GETFL) & O_DSYNC);
	CHECK(fcntl(30, F_GETFD) == -1 && fcntl(READY, F_GETFD) == -1);
	CHECK(getcwd(buffer, sizeof(buffer)) && strcmp(buffer, dir) == 0);
	CHECK(umask(0) == 027);
}

static void files_setup_umask(void)
{
	files_setup();
	umask(027);
}

static void test_files(void **state)
{
	(void)state;
	whole_life(files_setup_umask, files_verify);
}

static const int many = 500;

static void directory_setup(void)
{
	char name[32];
	DIR *d;

	for (int i = 0; i < many; i++) {
		snprintf(name, sizeof(name), "entry%d", i);
		write_file(name, "");
	}
	d = opendir(".");
	CHECK(d != NULL);
	place_at(open(".", O_RDONLY | O_DIRECTORY), 10);
	/* The kernel's calls, so that the position is known: about half of the entries. */
	char buffer[8192];
	long n = syscall(SYS_getdents64, 10, buffer, sizeof(buffer));

	CHECK(n > 0);
	closedir(d);
}

/* Those that are left: fewer than all, more than none, and the end comes. */
static void directory_verify(void)
{
	static char buffer[65536];
	int left = 0;
	long n;

	while ((n = syscall(SYS_getdents64, 10, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16))
			left++;
	CHECK(n == 0 && left > many / 4 && left < many);
	words[1000] = (char)left;
}

static void test_directory(void **state)
{
	(void)state;
	whole_life(directory_setup, directory_verify);
}

static void removed_cwd_setup(void)
{
	CHECK(mkdir("sub", 0755) == 0 && chdir("sub") == 0 && rmdir("../sub") == 0);
}

static void removed_cwd_verify(void)
{
	char buffer[128];

	CHECK(!getcwd(buffer, sizeof(buffer)) && errno == ENOENT);
}

static void test_removed_cwd(void **state)
{
	(void)state;
	whole_life(removed_cwd_setup, removed_cwd_verify);
}

/* A sparse file of 10 GiB with data at two places, open for writing and without a name. */
static void sparse_setup(void)
{
	place_at(open("sparse", O_RDWR | O_CREAT, 0600), 10);
	CHECK(ftruncate(10, (off_t)10 << 30) == 0);
	CHECK(pwrite(10, "one", 3, 5000) == 3 && pwrite(10, "two", 3, (off_t)9 << 30) == 3);
	CHECK(unlink("sparse") == 0);
}

static void sparse_verify(void)
{
	char buffer[8] = "";
	struct stat st;

	CHECK(fstat(10, &st) == 0 && st.st_size == (off_t)10 << 30);
	CHECK(st.st_blocks < 1024);
	CHECK(pread(10, buffer, 3, 5000) == 3 && memcmp(buffer, "one", 3) == 0);
	CHECK(pread(10, buffer, 3, (off_t)9 << 30) == 3 && memcmp(buffer, "two", 3) == 0);
	CHECK(pread(10, buffer, 3, 4096) == 3 && memcmp(buffer, "\0\0\0", 3) == 0);
}

static void test_sparse(void **state)
{
	(void)state;
	whole_life(sparse_setup, sparse_verify);
}

/* --- files that change ---------------------------------------------------------------------------- */

static void written_setup(void)
{
	write_file("log", "line 1\n");
	write_file("data", "first state");
	write_file("read", "read only");
	place_at(open("log", O_WRONLY | O_APPEND), 10);
	place_at(open("data", O_RDWR), 11);
	place_at(open("read", O_RDONLY), 12);
}

static void written_verify(void)
{
	CHECK(has_text("data", "first state") && has_text("log", "line 1\n"));
	CHECK(write(10, "line 2\n", 7) == 7 && has_text("log", "line 1\nline 2\n"));
	CHECK(pwrite(11, "F", 1, 0) == 1 && has_text("data", "First state"));
}

static void appended_verify(void)
{
	CHECK(has_text("log", "line 1\nmore\n"));
	CHECK(write(10, "2\n", 2) == 2 && has_text("log", "line 1\nmore\n2\n"));
}

static void test_appended(void **state)
{
	struct scene s = { 0 };
	int fd;

	(void)state;
	capture(&s, written_setup);
	kill_target(&s);
	fd = open(path_of("log"), O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "more\n", 5), 5);
	close(fd);
	begin_restore(&s);
	none_fatal(s.r.obstacles);
	live(&s, appended_verify);
	end(&s);
}

static void test_changed_keep(void **state)
{
	struct scene s = { 0 };

	(void)state;
	capture(&s, written_setup);
	kill_target(&s);
	write_file(path_of("data"), "other state");
	unlink(path_of("log"));
	write_file(path_of("read"), "changed!!");
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "/data", true));
	assert_true(is_named(s.r.obstacles, "/log", true));
	assert_true(is_named(s.r.obstacles, "/read", false));
	end(&s);
}

static void test_changed_restore(void **state)
{
	struct scene s = { .options.files = KAGE_FILES_RESTORE };
	struct stat st;
	DIR *d;
	int n = 0;

	(void)state;
	capture(&s, written_setup);
	kill_target(&s);
	write_file(path_of("data"), "another state, and longer");
	unlink(path_of("log"));
	begin_restore(&s);
	none_fatal(s.r.obstacles);
	live(&s, written_verify);
	assert_int_equal(stat(path_of("log"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	d = opendir(dir);
	while (readdir(d))
		n++;
	closedir(d);
	assert_int_equal(n, 2 + 3); /* no temporary names */
	end(&s);
}

static void test_missing(void **state)
{
	struct scene s = { 0 };

	(void)state;
	capture(&s, written_setup);
	kill_target(&s);
	unlink(path_of("read"));
	assert_int_equal(mkdir(path_of("read"), 0755), 0);
	unlink(path_of("data"));
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "/read", true));
	assert_true(is_named(s.r.obstacles, "/data", true));
	end(&s);
}

/* --- executables and libraries ---------------------------------------------------------------------- */

static void copy_file(const char *from, const char *to)
{
	char command[256];

	unlink(to);
	snprintf(command, sizeof(command), "cp %s %s", from, to);
	CHECK(system(command) == 0);
}

static void library_setup(void)
{
	copy_file("/bin/true", "library");
	place_at(open("library", O_RDONLY), 10);
}

/* What became of the library after CHANGE. */
static enum kage_file_state after(struct scene *s, const char *now)
{
	enum kage_file_state state;

	if (now)
		copy_file(now, path_of("library"));
	else
		unlink(path_of("library"));
	must(kage_file_compare(&s->r, s->c.image->msg->files[1], &state));
	return state;
}

static void test_library(void **state)
{
	struct scene s = { .maps_first_file = true };

	(void)state;
	capture(&s, library_setup);
	assert_string_equal(strrchr(s.c.image->msg->files[1]->path, '/'), "/library");
	assert_true(s.c.image->msg->files[1]->build_id.len > 8);
	kill_target(&s);
	assert_int_equal(after(&s, "/bin/true"), KAGE_FILE_TOUCHED);
	assert_int_equal(after(&s, NULL), KAGE_FILE_MISSING);
	assert_int_equal(after(&s, "/bin/false"), KAGE_FILE_CHANGED);
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "another version", true));
	end(&s);
}

static void carried_verify(void)
{
	char a[1024], b[1024];
	int fd = open("/bin/true", O_RDONLY);

	for (ssize_t n; (n = read(fd, a, sizeof(a))) > 0;)
		CHECK(read(10, b, sizeof(b)) == n && memcmp(a, b, (size_t)n) == 0);
	CHECK(read(10, b, 1) == 0);
}

static void test_carried(void **state)
{
	struct scene s = { .maps_first_file = true, .c.carry = true };

	(void)state;
	capture(&s, library_setup);
	kill_target(&s);
	assert_int_equal(after(&s, "/bin/false"), KAGE_FILE_CHANGED);
	begin_restore(&s);
	none_fatal(s.r.obstacles);
	assert_true(is_named(s.r.obstacles, "the copy in the image is used", false));
	live(&s, carried_verify);
	end(&s);
}

/* --- pipes ---------------------------------------------------------------------------------------- */

static void pipe_setup(void)
{
	int p[2];
	char big[60000];

	CHECK(pipe(p) == 0);
	place_at(p[0], 10);
	place_at(p[1], 11);
	CHECK(fcntl(10, F_SETPIPE_SZ, 131072) == 131072);
	memset(big, 'b', sizeof(big));
	CHECK(write(11, "hello", 5) == 5 && write(11, big, sizeof(big)) == sizeof(big));
	CHECK(pipe2(p, O_DIRECT | O_NONBLOCK) == 0);
	place_at(p[1], 20);
	place_at(p[0], 21);
	CHECK(write(20, "abc", 3) == 3 && write(20, "de", 2) == 2);
	/* The writing end is gone: what is inside, then the end. */
	CHECK(pipe(p) == 0);
	place_at(p[0], 30);
	CHECK(write(p[1], "rest", 4) == 4);
	close(p[1]);
	/* Full to the last buffer, each with one byte. */
	CHECK(pipe2(p, O_NONBLOCK | O_DIRECT) == 0);
	place_at(p[0], 40);
	place_at(p[1], 41);
	while (write(41, "x", 1) == 1)
		;
	CHECK(mkfifo("fifo", 0600) == 0);
	place_at(open("fifo", O_RDWR), 50);
	CHECK(write(50, "named", 5) == 5);
}

static void pipe_verify(void)
{
	static char buffer[131072];
	int n = 0;

	CHECK(fcntl(10, F_GETPIPE_SZ) == 131072 && fcntl(10, F_GETFL) == O_RDONLY &&
	      fcntl(11, F_GETFL) == O_WRONLY);
	CHECK(read(10, buffer, sizeof(buffer)) == 60005 && memcmp(buffer, "hellobbb", 8) == 0);
	CHECK(write(11, "on", 2) == 2 && read(10, buffer, 10) == 2);
	CHECK(read(21, buffer, 100) == 3 && memcmp(buffer, "abc", 3) == 0);
	CHECK(read(21, buffer, 100) == 2 && read(21, buffer, 100) == -1 && errno == EAGAIN);
	CHECK((fcntl(20, F_GETFL) & (O_DIRECT | O_NONBLOCK)) == (O_DIRECT | O_NONBLOCK));
	CHECK(read(30, buffer, 100) == 4 && read(30, buffer, 100) == 0);
	CHECK(poll(&(struct pollfd){ .fd = 30, .events = POLLIN }, 1, 0) == 1);
	while (read(40, buffer, 100) == 1)
		n++;
	CHECK(n == 16);
	CHECK(read(50, buffer, 100) == 5 && memcmp(buffer, "named", 5) == 0);
}

static void test_pipe(void **state)
{
	(void)state;
	whole_life(pipe_setup, pipe_verify);
}

/* The other end is held by this process. */
static int half_pipe[2];

static void half_setup(void)
{
	/* Numbers below READY were closed; the pipe comes by its name in /proc. */
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), half_pipe[0]);
	place_at(open(path, O_RDONLY | O_NONBLOCK), 10);
}

static void test_half_pipe(void **state)
{
	struct scene s = { 0 };

	(void)state;
	assert_int_equal(pipe(half_pipe), 0);
	capture(&s, half_setup);
	assert_true(is_named(s.of_capture, "fd 10", true));
	end(&s);
	close(half_pipe[0]);
	close(half_pipe[1]);
}

/* --- eventfd, signalfd, timerfd ------------------------------------------------------------------- */

static void counters_setup(void)
{
	uint64_t v = 0x123456789abull;
	sigset_t set;

	place_at(eventfd(0, EFD_NONBLOCK), 10);
	CHECK(write(10, &v, 8) == 8);
	place_at(eventfd(5, EFD_SEMAPHORE), 11);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMAX);
	sigprocmask(SIG_BLOCK, &set, NULL);
	place_at(signalfd(-1, &set, SFD_NONBLOCK), 12);
}

static void counters_verify(void)
{
	struct signalfd_siginfo info;
	uint64_t v;
	sigset_t set;

	CHECK(read(10, &v, 8) == 8 && v == 0x123456789abull && read(10, &v, 8) < 0);
	CHECK(read(11, &v, 8) == 8 && v == 1 && !(fcntl(11, F_GETFL) & O_NONBLOCK));
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGRTMAX);
	kill(getpid(), SIGUSR2);
	CHECK(read(12, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR1);
	CHECK(read(12, &info, sizeof(info)) == sizeof(info) &&
	      info.ssi_signo == (uint32_t)SIGRTMAX);
	CHECK(read(12, &info, sizeof(info)) < 0);
}

static void test_counters(void **state)
{
	(void)state;
	whole_life(counters_setup, counters_verify);
}

static void timers_setup(void)
{
	struct itimerspec t = { .it_value = { 100, 0 }, .it_interval = { 7, 5 } };

	place_at(timerfd_create(CLOCK_MONOTONIC, 0), 10);
	CHECK(timerfd_settime(10, 0, &t, NULL) == 0);
	place_at(timerfd_create(CLOCK_BOOTTIME, 0), 11); /* never armed */
	/* Expired once and for good, unread. */
	place_at(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 12);
	t = (struct itimerspec){ .it_value = { 0, 1 } };
	CHECK(timerfd_settime(12, 0, &t, NULL) == 0);
	/* Periodic, several periods unread. */
	place_at(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 13);
	t = (struct itimerspec){ .it_value = { 0, 1 }, .it_interval = { 0, 2000000 } };
	CHECK(timerfd_settime(13, 0, &t, NULL) == 0);
	usleep(20000);
	/* The same, looked at since: it is on its way again. */
	place_at(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 15);
	t = (struct itimerspec){ .it_value = { 0, 1 }, .it_interval = { 0, 200000000 } };
	CHECK(timerfd_settime(15, 0, &t, NULL) == 0);
	usleep(500000);
	CHECK(timerfd_gettime(15, &t) == 0);
	/* A time of day. */
	place_at(timerfd_create(CLOCK_REALTIME, 0), 14);
	clock_gettime(CLOCK_REALTIME, &t.it_value);
	t.it_value.tv_sec += 50;
	t.it_interval = (struct timespec){ 0, 0 };
	CHECK(timerfd_settime(14, TFD_TIMER_ABSTIME, &t, NULL) == 0);
}

static void timers_verify(void)
{
	struct itimerspec t;
	uint64_t n;

	CHECK(timerfd_gettime(10, &t) == 0);
	CHECK(t.it_value.tv_sec >= 98 && t.it_value.tv_sec < 100);
	CHECK(t.it_interval.tv_sec == 7 && t.it_interval.tv_nsec == 5);
	CHECK(timerfd_gettime(11, &t) == 0 && !t.it_value.tv_sec && !t.it_value.tv_nsec);
	CHECK(read(12, &n, 8) == 8 && n == 1 && read(12, &n, 8) < 0);
	CHECK(read(13, &n, 8) == 8 && n >= 1 && n < 5000);
	usleep(6000);
	CHECK(read(13, &n, 8) == 8 && n >= 2);
	CHECK(read(15, &n, 8) == 8 && n >= 3 && n < 100);
	CHECK(timerfd_gettime(14, &t) == 0 && t.it_value.tv_sec >= 48 && t.it_value.tv_sec < 50);
}

static void test_timers(void **state)
{
	(void)state;
	whole_life(timers_setup, timers_verify);
}

/* --- epoll ---------------------------------------------------------------------------------------- */

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = { .events = events, .data.u64 = data };

	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0);
}

static void epoll_setup(void)
{
	struct epoll_event e;
	int fd;

	place_at(epoll_create1(0), 10);
	place_at(epoll_create1(0), 11);
	place_at(eventfd(1, 0), 20);
	place_at(eventfd(0, 0), 21);
	place_at(eventfd(3, 0), 22);
	add(10, 20, EPOLLIN, 0xfedcba9876543210ull);
	add(10, 21, EPOLLIN | EPOLLET, 21);
	add(11, 10, EPOLLIN, 10); /* nested */
	add(11, 22, EPOLLIN | EPOLLONESHOT, 22);
	do /* disables it */
		CHECK(epoll_wait(11, &e, 1, 0) == 1);
	while (e.data.u64 != 22);
	/* Two descriptions watched under one number: the first one lives on as 31. */
	place_at(eventfd(0, 0), 30);
	add(10, 30, EPOLLIN, 31);
	CHECK(dup2(30, 31) == 31);
	place_at(eventfd(0, 0), 30);
	add(10, 30, EPOLLIN, 30);
	/* Watched under a number that is closed. */
	fd = dup2(31, 40);
	add(10, fd, EPOLLIN, 40);
	close(fd);
}

static int wait_all(int epoll, uint64_t *data, int n)
{
	struct epoll_event e[16];
	int got = epoll_wait(epoll, e, 16, 0);

	for (int i = 0; i < got && i < n; i++)
		data[i] = e[i].data.u64;
	return got;
}

static bool has(const uint64_t *data, int n, uint64_t what)
{
	for (int i = 0; i < n; i++)
		if (data[i] == what)
			return true;
	return false;
}

static void epoll_verify(void)
{
	uint64_t data[16], one = 1;
	struct epoll_event e = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 22 };

	CHECK(wait_all(10, data, 16) == 1 && data[0] == 0xfedcba9876543210ull);
	CHECK(wait_all(11, data, 16) == 1 && data[0] == 10);
	CHECK(epoll_ctl(11, EPOLL_CTL_MOD, 22, &e) == 0);
	CHECK(wait_all(11, data, 16) == 2 && has(data, 2, 22));
	CHECK(write(31, &one, 8) == 8);
	CHECK(wait_all(10, data, 16) == 3 && has(data, 3, 31) && has(data, 3, 40));
	CHECK(write(30, &one, 8) == 8 && write(21, &one, 8) == 8);
	CHECK(wait_all(10, data, 16) == 5 && has(data, 5, 30) && has(data, 5, 21));
	CHECK(wait_all(10, data, 16) == 4); /* the edge was seen */
	CHECK(fcntl(40, F_GETFD) == -1);
}

static void test_epoll(void **state)
{
	(void)state;
	whole_life(epoll_setup, epoll_verify);
}

/* --- memfd ---------------------------------------------------------------------------------------- */

static void memfd_setup(void)
{
	place_at(memfd_create("a name (deleted)", MFD_ALLOW_SEALING), 10);
	CHECK(ftruncate(10, (off_t)64 << 30) == 0);
	CHECK(pwrite(10, "begin", 5, 0) == 5 && pwrite(10, "far", 3, (off_t)40 << 30) == 3);
	CHECK(lseek(10, 1234, SEEK_SET) == 1234);
	CHECK(fcntl(10, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	CHECK(fchmod(10, 0640) == 0);
	place_at(open("/proc/self/fd/10", O_RDONLY), 11);
	place_at(memfd_create("sealed", MFD_ALLOW_SEALING), 12);
	CHECK(write(12, "fixed", 5) == 5);
	CHECK(fcntl(12, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0);
	place_at(memfd_create("plain", 0), 13);
}

static void memfd_verify(void)
{
	char buffer[64];
	struct stat st, st2;

	CHECK(readlink("/proc/self/fd/10", buffer, sizeof(buffer)) == 33 &&
	      memcmp(buffer, "/memfd:a name (deleted) (deleted)", 33) == 0);
	CHECK(fstat(10, &st) == 0 && st.st_size == (off_t)64 << 30 && st.st_blocks <= 64);
	CHECK((st.st_mode & 07777) == 0640 && lseek(10, 0, SEEK_CUR) == 1234);
	CHECK(pread(10, buffer, 5, 0) == 5 && memcmp(buffer, "begin", 5) == 0);
	CHECK(pread(11, buffer, 3, (off_t)40 << 30) == 3 && memcmp(buffer, "far", 3) == 0);
	CHECK(fcntl(10, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW));
	CHECK(fstat(11, &st2) == 0 && st2.st_ino == st.st_ino);
	CHECK((fcntl(11, F_GETFL) & O_ACCMODE) == O_RDONLY);
	CHECK(fcntl(12, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SEAL));
	CHECK(pread(12, buffer, 9, 0) == 5 && memcmp(buffer, "fixed", 5) == 0);
	CHECK(fcntl(13, F_GET_SEALS) == F_SEAL_SEAL);
}

static void test_memfd(void **state)
{
	(void)state;
	whole_life(memfd_setup, memfd_verify);
}

/* --- inotify -------------------------------------------------------------------------------------- */

static void inotify_setup(void)
{
	CHECK(mkdir("x", 0755) == 0 && mkdir("y", 0755) == 0);
	write_file("file", "");
	place_at(inotify_init1(IN_NONBLOCK), 10);
	CHECK(inotify_add_watch(10, "x", IN_CREATE) == 1);
	CHECK(inotify_add_watch(10, "y", IN_CREATE) == 2);
	CHECK(inotify_rm_watch(10, 1) == 0);
	CHECK(inotify_add_watch(10, "file", IN_MODIFY | IN_ONESHOT) == 3);
	for (int i = 0; i < 100; i++)
		CHECK(inotify_rm_watch(10, inotify_add_watch(10, "x", IN_CREATE)) == 0);
	CHECK(inotify_add_watch(10, "/dev/shm", IN_DELETE) == 104);
	char events[8192];

	while (read(10, events, sizeof(events)) > 0)
		;
}

static void inotify_verify(void)
{
	union {
		struct inotify_event e;
		char bytes[4096];
	} u;

	CHECK(read(10, &u, sizeof(u)) < 0 && errno == EAGAIN);
	write_file("y/new", "");
	CHECK(read(10, &u, sizeof(u)) > 0 && u.e.wd == 2 && u.e.mask == IN_CREATE);
	write_file("file", "x");
	CHECK(read(10, &u, sizeof(u)) > 0 && u.e.wd == 3 && u.e.mask == IN_MODIFY);
	CHECK(inotify_rm_watch(10, 104) == 0);
}

static void test_inotify(void **state)
{
	(void)state;
	whole_life(inotify_setup, inotify_verify);
}

/* --- sockets -------------------------------------------------------------------------------------- */

static struct sockaddr_in loopback(int number)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static void set(int fd, int level, int name, int value)
{
	CHECK(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

static int get(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(getsockopt(fd, level, name, &v, &n) == 0);
	return v;
}

static void inet_setup(void)
{
	struct sockaddr_in a = loopback(port), peer = loopback(9);
	struct sockaddr_in6 six = { .sin6_family = AF_INET6,
				    .sin6_port = htons((uint16_t)(port + 1)),
				    .sin6_addr = in6addr_loopback };
	struct timeval t = { 3, 500000 };
	struct linger l = { 1, 7 };

	place_at(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), 10);
	set(10, SOL_SOCKET, SO_RCVBUF, 50000);
	set(10, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(10, IPPROTO_TCP, TCP_NODELAY, 1);
	set(10, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3);
	CHECK(setsockopt(10, SOL_SOCKET, SO_LINGER, &l, sizeof(l)) == 0);
	CHECK(setsockopt(10, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) == 0);
	CHECK(bind(10, (void *)&a, sizeof(a)) == 0 && listen(10, 77) == 0);
	place_at(socket(AF_INET6, SOCK_STREAM, 0), 11);
	set(11, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set(11, SOL_SOCKET, SO_REUSEADDR, 1);
	CHECK(bind(11, (void *)&six, sizeof(six)) == 0 && listen(11, 5) == 0);
	place_at(socket(AF_INET, SOCK_DGRAM, 0), 12);
	a = loopback(port + 2);
	CHECK(bind(12, (void *)&a, sizeof(a)) == 0);
	CHECK(connect(12, (void *)&peer, sizeof(peer)) == 0);
	place_at(socket(AF_INET, SOCK_STREAM, 0), 13); /* nothing but made */
	place_at(socket(AF_INET, SOCK_STREAM, 0), 14); /* bound, does not listen */
	a = loopback(port + 3);
	CHECK(bind(14, (void *)&a, sizeof(a)) == 0);
}

static void inet_verify(void)
{
	struct sockaddr_in a = loopback(port), b = { 0 };
	struct timeval t;
	struct linger l;
	struct tcp_info info;
	socklen_t n = sizeof(t);
	int client = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(getsockopt(10, SOL_SOCKET, SO_RCVTIMEO, &t, &n) == 0 && t.tv_sec == 3 &&
	      t.tv_usec >= 490000);
	n = sizeof(l);
	CHECK(getsockopt(10, SOL_SOCKET, SO_LINGER, &l, &n) == 0 && l.l_onoff && l.l_linger == 7);
	CHECK(get(10, SOL_SOCKET, SO_RCVBUF) == 100000 && get(10, SOL_SOCKET, SO_KEEPALIVE) == 1);
	CHECK(get(10, IPPROTO_TCP, TCP_NODELAY) == 1 && get(10, SOL_SOCKET, SO_REUSEADDR) == 0);
	CHECK(get(10, IPPROTO_TCP, TCP_DEFER_ACCEPT) == 3);
	n = sizeof(info);
	CHECK(getsockopt(10, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 && info.tcpi_sacked == 77);
	set(10, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	CHECK(connect(client, (void *)&a, sizeof(a)) == 0);
	CHECK(poll(&(struct pollfd){ .fd = 10, .events = POLLIN }, 1, 1000) == 1);
	CHECK(accept(10, NULL, NULL) >= 0);
	CHECK(get(11, IPPROTO_IPV6, IPV6_V6ONLY) == 1 && get(11, SOL_SOCKET, SO_ACCEPTCONN) == 1);
	CHECK(get(11, SOL_SOCKET, SO_REUSEADDR) == 1);
	n = sizeof(b);
	CHECK(getpeername(12, (void *)&b, &n) == 0 && ntohs(b.sin_port) == 9);
	CHECK(getsockname(12, (void *)&b, &n) == 0 && ntohs(b.sin_port) == port + 2);
	CHECK(getsockname(13, (void *)&b, &n) == 0 && b.sin_port == 0);
	CHECK(getsockname(14, (void *)&b, &n) == 0 && ntohs(b.sin_port) == port + 3);
}

static void test_inet(void **state)
{
	(void)state;
	whole_life(inet_setup, inet_verify);
}

static void connected_setup(void)
{
	struct sockaddr_in a = loopback(port);

	place_at(socket(AF_INET, SOCK_STREAM, 0), 10);
	set(10, SOL_SOCKET, SO_REUSEADDR, 1);
	CHECK(bind(10, (void *)&a, sizeof(a)) == 0 && listen(10, 5) == 0);
	place_at(socket(AF_INET, SOCK_STREAM, 0), 11);
	CHECK(connect(11, (void *)&a, sizeof(a)) == 0);
	place_at(accept(10, NULL, NULL), 12);
	place_at(socket(AF_INET, SOCK_STREAM, 0), 13);
	CHECK(connect(13, (void *)&a, sizeof(a)) == 0); /* waits to be accepted */
}

static void test_connected(void **state)
{
	struct scene s = { 0 };
	char arrow[48];

	(void)state;
	snprintf(arrow, sizeof(arrow), "→ 127.0.0.1:%d", port);
	capture(&s, connected_setup);
	assert_true(is_named(s.of_capture, arrow, true));
	assert_true(is_named(s.of_capture, "1 connections wait", false));
	end(&s);
}

static void test_port_taken(void **state)
{
	struct scene s = { 0 };
	struct sockaddr_in a = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char taken[48];

	(void)state;
	snprintf(taken, sizeof(taken), "127.0.0.1:%d is taken", port);
	capture(&s, inet_setup);
	kill_target(&s);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)), 0);
	assert_int_equal(bind(fd, (void *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, taken, true));
	close(fd);
	end(&s);
}

static void name_un(struct sockaddr_un *a, const char *name)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(a->sun_path, name);
}

static void unix_setup(void)
{
	struct sockaddr_un a;
	int p[2];

	umask(0);
	place_at(socket(AF_UNIX, SOCK_STREAM, 0), 10);
	name_un(&a, path_of("listen"));
	CHECK(bind(10, (void *)&a, sizeof(a)) == 0 && listen(10, 33) == 0);
	CHECK(chmod(a.sun_path, 0751) == 0);
	place_at(socket(AF_UNIX, SOCK_STREAM, 0), 11);
	name_un(&a, "relative");
	CHECK(bind(11, (void *)&a, sizeof(a)) == 0 && listen(11, 3) == 0);
	place_at(socket(AF_UNIX, SOCK_DGRAM, 0), 12);
	memcpy(a.sun_path, "\0kage-test", 10);
	CHECK(bind(12, (void *)&a, offsetof(struct sockaddr_un, sun_path) + 10) == 0);
	place_at(socket(AF_UNIX, SOCK_DGRAM, 0), 13);
	CHECK(connect(13, (void *)&a, offsetof(struct sockaddr_un, sun_path) + 10) == 0);
	place_at(socket(AF_UNIX, SOCK_SEQPACKET, 0), 14);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
	place_at(p[0], 20);
	place_at(p[1], 21);
	CHECK(write(20, "to twenty-one", 13) == 13 && write(20, " and on", 7) == 7);
	CHECK(write(21, "back", 4) == 4 && shutdown(20, SHUT_WR) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0);
	place_at(p[0], 22);
	CHECK(write(p[1], "last words", 10) == 10);
	close(p[1]);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, p) == 0);
	place_at(p[0], 23);
	place_at(p[1], 24);
	set(23, SOL_SOCKET, SO_PASSCRED, 1);
}

static void unix_verify(void)
{
	struct sockaddr_un a;
	socklen_t n = sizeof(a);
	char buffer[64];
	struct stat st;
	int client = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(getsockname(11, (void *)&a, &n) == 0 && strcmp(a.sun_path, "relative") == 0);
	CHECK(connect(client, (void *)&a, n) == 0 && accept(11, NULL, NULL) >= 0);
	client = socket(AF_UNIX, SOCK_STREAM, 0);
	name_un(&a, path_of("listen"));
	CHECK(stat(a.sun_path, &st) == 0 && (st.st_mode & 0777) == 0751);
	CHECK(connect(client, (void *)&a, sizeof(a)) == 0 && accept(10, NULL, NULL) >= 0);
	CHECK(write(13, "dgram", 5) == 5 && read(12, buffer, 10) == 5);
	CHECK(get(14, SOL_SOCKET, SO_TYPE) == SOCK_SEQPACKET);
	CHECK(read(21, buffer, sizeof(buffer)) == 20 &&
	      memcmp(buffer, "to twenty-one and on", 20) == 0);
	CHECK(read(21, buffer, sizeof(buffer)) == 0);
	CHECK(read(20, buffer, sizeof(buffer)) == 4 && write(21, "x", 1) == 1);
	CHECK(read(22, buffer, sizeof(buffer)) == 10 && read(22, buffer, 1) == 0);
	CHECK(send(22, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	CHECK(write(23, "a", 1) == 1 && write(23, "bc", 2) == 2 && read(24, buffer, 9) == 1);
	CHECK(get(23, SOL_SOCKET, SO_PASSCRED) == 1 && get(24, SOL_SOCKET, SO_PASSCRED) == 0);
}

static void test_unix(void **state)
{
	(void)state;
	whole_life(unix_setup, unix_verify);
}

static void test_unix_taken(void **state)
{
	struct scene s = { 0 };
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)state;
	capture(&s, unix_setup);
	kill_target(&s);
	unlink(path_of("listen"));
	name_un(&a, path_of("listen"));
	assert_int_equal(bind(fd, (void *)&a, sizeof(a)), 0);
	unlink(path_of("relative"));
	write_file(path_of("relative"), "a file");
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "/listen is taken", true));
	assert_true(is_named(s.r.obstacles, "relative is a file", true));
	close(fd);
	end(&s);
}

static int outer_pair[2];

static void foreign_setup(void)
{
	int self = (int)syscall(SYS_pidfd_open, getppid(), 0);

	place_at((int)syscall(SYS_pidfd_getfd, self, outer_pair[0], 0), 10);
	close(self);
	place_at(socket(AF_NETLINK, SOCK_RAW, 0), 11);
	place_at((int)syscall(SYS_pidfd_open, getpid(), 0), 12);
	place_at(posix_openpt(O_RDWR | O_NOCTTY), 13);
}

static void test_unsupported(void **state)
{
	struct scene s = { 0 };

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, outer_pair), 0);
	capture(&s, foreign_setup);
	assert_true(is_named(s.of_capture, "fd 10", true));
	assert_true(is_named(s.of_capture, "fd 11", true));
	assert_true(is_named(s.of_capture, "fd 12", true));
	assert_true(is_named(s.of_capture, "fd 13", true));
	close(outer_pair[0]);
	close(outer_pair[1]);
	end(&s);
}

/* --- locks ---------------------------------------------------------------------------------------- */

static void lock_range(int fd, int cmd, short type, off_t start, off_t n)
{
	struct flock l = { .l_type = type, .l_start = start, .l_len = n };

	CHECK(fcntl(fd, cmd, &l) == 0);
}

static void locks_setup(void)
{
	write_file("a", "0123456789");
	write_file("b", "0123456789");
	place_at(open("a", O_RDWR), 10);
	place_at(open("b", O_RDWR), 11);
	CHECK(dup2(11, 12) == 12);
	lock_range(10, F_SETLK, F_WRLCK, 2, 3);
	lock_range(10, F_SETLK, F_RDLCK, 8, 0);
	lock_range(11, F_OFD_SETLK, F_WRLCK, 0, 5);
	CHECK(flock(11, LOCK_EX) == 0);
}

static void locks_verify(void)
{
	int a = open("a", O_RDWR), b = open("b", O_RDWR);
	struct flock l = { .l_type = F_WRLCK, .l_start = 0, .l_len = 0 };

	/* An OFD query of another description sees the POSIX locks. */
	CHECK(fcntl(a, F_OFD_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_start == 2 &&
	      l.l_len == 3 && l.l_pid == getpid());
	l = (struct flock){ .l_type = F_WRLCK, .l_start = 6, .l_len = 0 };
	CHECK(fcntl(a, F_OFD_GETLK, &l) == 0 && l.l_type == F_RDLCK && l.l_start == 8);
	l = (struct flock){ .l_type = F_RDLCK, .l_start = 0, .l_len = 0 };
	CHECK(fcntl(b, F_OFD_GETLK, &l) == 0 && l.l_type == F_WRLCK && l.l_len == 5 &&
	      l.l_pid == -1);
	CHECK(flock(b, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
	CHECK(flock(12, LOCK_UN) == 0 && flock(b, LOCK_EX | LOCK_NB) == 0);
}

static void test_locks(void **state)
{
	(void)state;
	whole_life(locks_setup, locks_verify);
}

/* Not this process: it opens and closes the file to compare it, and would lose the lock by that. */
static void others_setup(void)
{
	struct flock l = { .l_type = F_RDLCK, .l_start = 0, .l_len = 0 };
	int a = open("a", O_RDWR), b = open("b", O_RDWR);

	CHECK(fcntl(a, F_SETLK, &l) == 0);
	CHECK(flock(b, LOCK_SH) == 0);
}

static void test_locks_taken(void **state)
{
	struct scene s = { 0 };
	pid_t other;

	(void)state;
	capture(&s, locks_setup);
	assert_int_equal(s.c.process->n_locks, 4);
	kill_target(&s);
	other = start_target(others_setup);
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "holds a POSIX lock", true));
	assert_true(is_named(s.r.obstacles, "holds a flock", true));
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	end(&s);
}

/* --- terminals ------------------------------------------------------------------------------------ */

static int open_pty(int *ret_master)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	*ret_master = master;
	return open(ptsname(master), O_RDWR | O_NOCTTY);
}

static char tty_name[64];

static void terminal_setup(void)
{
	struct termios t;
	struct winsize w = { .ws_row = 33, .ws_col = 77 };

	CHECK(setsid() > 0);
	place_at(open(tty_name, O_RDWR), 10); /* its controlling terminal now */
	CHECK(tcgetattr(10, &t) == 0);
	cfmakeraw(&t);
	t.c_cc[VINTR] = 7;
	CHECK(tcsetattr(10, TCSANOW, &t) == 0 && ioctl(10, TIOCSWINSZ, &w) == 0);
	place_at(open(tty_name, O_WRONLY | O_NONBLOCK), 11);
}

static void terminal_verify(void)
{
	struct termios t, raw;

	CHECK(isatty(10) && tcgetattr(10, &t) == 0);
	raw = t;
	cfmakeraw(&raw);
	CHECK(raw.c_lflag == t.c_lflag && raw.c_oflag == t.c_oflag && t.c_cc[VINTR] == 7);
	CHECK((fcntl(10, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == O_RDWR);
	CHECK((fcntl(11, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (O_WRONLY | O_NONBLOCK));
	CHECK(write(11, "seen", 4) == 4);
}

static void no_terminal_verify(void)
{
	char c;

	CHECK(!isatty(10) && read(10, &c, 1) == 0 && write(11, "x", 1) == 1);
}

/* On another terminal than the one of the image; and on none. */
static void test_terminal(void **state)
{
	struct scene s = { 0 };
	int old, new, other, slave = open_pty(&old);
	char text[8] = "";

	(void)state;
	strcpy(tty_name, ptsname(old));
	close(slave);
	capture(&s, terminal_setup);
	none_fatal(s.of_capture);
	assert_true(s.c.image->msg->descriptions[1]->terminal->controlling);
	assert_int_equal(s.c.image->msg->descriptions[1]->terminal->columns, 77);
	kill_target(&s);
	close(old);
	other = open_pty(&new);
	s.options.tty = tty_name;
	strcpy(tty_name, ptsname(new));
	begin_restore(&s);
	none_fatal(s.r.obstacles);
	live(&s, terminal_verify);
	assert_int_equal(read(new, text, sizeof(text)), 4);
	assert_string_equal(text, "seen");
	close(s.r.tty_fd);
	close(other);
	close(new);
	end(&s);
}

static void terminal_by_lines_setup(void)
{
	CHECK(setsid() > 0);
	place_at(open(tty_name, O_RDWR), 10);
	place_at(open(tty_name, O_WRONLY | O_NONBLOCK), 11);
}

/* Leaves an image of a program on a terminal that is gone. */
static void capture_on_terminal(struct scene *s, body_fn *setup)
{
	int master, slave = open_pty(&master);

	strcpy(tty_name, ptsname(master));
	close(slave);
	capture(s, setup);
	kill_target(s);
	close(master);
}

static void test_no_terminal(void **state)
{
	struct scene s = { .options.detached = true };

	(void)state;
	capture_on_terminal(&s, terminal_by_lines_setup);
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "no terminal", false));
	none_fatal(s.r.obstacles);
	live(&s, no_terminal_verify);
	end(&s);
}

/* One that takes keys one by one would end at once, or spin. */
static void test_no_keys(void **state)
{
	struct scene s = { .options.detached = true };

	(void)state;
	capture_on_terminal(&s, terminal_setup);
	begin_restore(&s);
	assert_true(is_named(s.r.obstacles, "takes keys", true));
	end(&s);
}

/* --- owners, leases ------------------------------------------------------------------------------- */

static void owner_setup(void)
{
	int p[2];

	signal(SIGIO, SIG_IGN);
	CHECK(pipe(p) == 0);
	place_at(p[0], 10);
	place_at(p[1], 11);
	CHECK(fcntl(10, F_SETOWN, getpid()) == 0 && fcntl(10, F_SETSIG, SIGUSR2) == 0);
	CHECK(fcntl(10, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
	write_file("leased", "x");
	place_at(open("leased", O_RDONLY), 12);
	CHECK(fcntl(12, F_SETLEASE, F_RDLCK) == 0);
}

/* The owner is the target's PID, which the process that judges does not have here. */
static void owner_verify(void)
{
	CHECK(fcntl(10, F_GETSIG) == SIGUSR2);
	CHECK((fcntl(10, F_GETFL) & (O_ASYNC | O_NONBLOCK)) == (O_ASYNC | O_NONBLOCK));
	CHECK(fcntl(12, F_GETLEASE) == F_RDLCK);
}

static void test_owner(void **state)
{
	(void)state;
	whole_life(owner_setup, owner_verify);
}

/* --- many ----------------------------------------------------------------------------------------- */

static void many_setup(void)
{
	for (int i = 0; i < 700; i++) {
		CHECK(eventfd((unsigned)i, 0) == i + 3);
		if (i % 7 == 0)
			CHECK(dup3(i + 3, i + 3 + 1000, 0) >= 0 || errno == EBADF);
	}
}

static void many_verify(void)
{
	uint64_t v;

	for (int i = 1; i < 700; i++)
		CHECK(read(i + 3, &v, 8) == 8 && v == (uint64_t)i);
}

static void test_many(void **state)
{
	(void)state;
	whole_life(many_setup, many_verify);
}

/* --- ---------------------------------------------------------------------------------------------- */

static int fresh_dir(void **state)
{
	(void)state;
	port += 10;
	strcpy(dir, "/tmp/kage-fdkinds-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

#define KIND(name) cmocka_unit_test_setup_teardown(name, fresh_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		KIND(test_files),
		KIND(test_directory),
		KIND(test_removed_cwd),
		KIND(test_sparse),
		KIND(test_appended),
		KIND(test_changed_keep),
		KIND(test_changed_restore),
		KIND(test_missing),
		KIND(test_pipe),
		KIND(test_half_pipe),
		KIND(test_counters),
		KIND(test_timers),
		KIND(test_epoll),
		KIND(test_memfd),
		KIND(test_inotify),
		KIND(test_inet),
		KIND(test_connected),
		KIND(test_port_taken),
		KIND(test_unix),
		KIND(test_unix_taken),
		KIND(test_unsupported),
		KIND(test_locks),
		KIND(test_locks_taken),
		KIND(test_owner),
		KIND(test_many),
		KIND(test_terminal),
		KIND(test_no_terminal),
		KIND(test_no_keys),
		KIND(test_library),
		KIND(test_carried),
	};

	words = mmap(NULL, WORDS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED)
		return 1;
	port = 20000 + getpid() % 1000 * 12; /* below those that the kernel gives out */
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
