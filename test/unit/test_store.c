/* SPDX-License-Identifier: Apache-2.0 */
/* Stores: putting, listing, finding, removing, checking, trusting; full disks, rivals, kills. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "lib/sample_image.h"
#include "store/store.h"

struct fixture {
	char dir[64];
	struct kage_ctx *ctx;
	struct kage_store *store;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kage-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	must(kage_ctx_create(&f->ctx));
	must(kage_store_open(f->ctx, f->dir, KAGE_STORE_CREATE, &f->store));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	kage_store_close(f->store);
	kage_ctx_destroy(f->ctx);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

/* Good until the fourth call after this one. */
static char *path_in(const struct fixture *f, const char *rest)
{
	static char paths[4][256];
	static unsigned n;
	char *path = paths[n++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", f->dir, rest);
	return path;
}

/* An image taken AGE seconds ago with PAGES pages from SEED. */
static struct kage_image *image_of(uint64_t seed, uint64_t pages, uint64_t age)
{
	struct kage_image *image = sample_image();
	struct random_state r = { seed };
	struct mem_pages *m;

	image->msg->source->realtime_ns = kage_clock_real_ns() - age * 1000000000u;
	must(kage_mem_pages_create(&m));
	sample_run(m, &r, SAMPLE_SPACE, 0x10000, pages);
	sample_run(m, &r, SAMPLE_SHARED_SPACE, 2, 7);
	image->pages = kage_mem_pages_finish(m);
	return image;
}

static uint64_t put_aged(struct fixture *f, const char *name, uint64_t age)
{
	struct kage_image *image = image_of(1, 30, age);
	struct kage_put_result result;

	must(kage_store_put(f->store, name, image, NULL, &result));
	kage_image_close(image);
	return result.number;
}

static uint64_t put_sample(struct fixture *f, const char *name)
{
	return put_aged(f, name, 0);
}

static unsigned count_entries(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *d;
	unsigned n = 0;

	assert_non_null(dir);
	while ((d = readdir(dir)))
		n += strcmp(d->d_name, ".") && strcmp(d->d_name, "..");
	closedir(dir);
	return n;
}

static void assert_sound(struct fixture *f, size_t packs)
{
	struct kage_fsck_result result;

	must(kage_store_fsck(f->store, NULL, &result));
	for (size_t i = 0; i < result.n_findings; i++)
		print_message("# %s\n", result.findings[i].problem);
	assert_int_equal(result.n_bad, 0);
	assert_int_equal(result.n_packs, packs);
	kage_fsck_result_free(&result);
}

static void damage(const char *path, off_t at)
{
	int fd = open(path, O_RDWR);
	unsigned char c;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &c, 1, at), 1);
	c ^= 0x10;
	assert_int_equal(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

/* --- putting, listing ------------------------------------------------------------------------- */

static void test_put_list_open(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image;
	struct kage_list list;
	unsigned char page[KAGE_PAGE_BYTES], expected[KAGE_PAGE_BYTES];
	struct kage_image *original = image_of(1, 30, 0);
	struct stat st;

	assert_int_equal(put_sample(f, "sleep"), 1);
	assert_int_equal(put_sample(f, "sleep"), 2);
	assert_int_equal(put_sample(f, "other"), 1);
	must(kage_store_list(f->store, "sleep", &list));
	assert_int_equal(list.n, 2);
	assert_string_equal(list.entries[1].name, "sleep");
	assert_int_equal(list.entries[1].number, 2);
	assert_string_equal(list.entries[1].comm, "sleep");
	assert_string_equal(list.entries[1].command, "sleep 1000");
	assert_string_equal(list.entries[1].message, "before the change");
	assert_string_equal(list.entries[1].reason, "snap");
	assert_null(list.entries[1].damage);
	assert_int_equal(list.entries[1].memory_bytes, 37 * 4096);
	assert_int_equal(list.entries[1].pause_ns, 250000);
	assert_int_equal(list.entries[1].n_threads, 1);
	assert_int_equal(stat(path_in(f, "sleep/0000000002.kage"), &st), 0);
	assert_int_equal(list.entries[1].stored_bytes, st.st_size);
	assert_int_equal(st.st_mode & 07777, 0600);
	kage_list_free(&list);
	must(kage_store_list(f->store, NULL, &list));
	assert_int_equal(list.n, 2);
	assert_string_equal(list.entries[0].name, "other");
	assert_int_equal(list.entries[1].number, 2);
	kage_list_free(&list);
	must(kage_image_open(f->store, "sleep", &image));
	assert_string_equal(kage_image_label(image), "sleep@2");
	assert_string_equal(image->pack_path, path_in(f, "sleep/0000000002.kage"));
	must(kage_pages_read(image->pages, SAMPLE_SPACE, 0x10001, 1, page));
	must(kage_pages_read(original->pages, SAMPLE_SPACE, 0x10001, 1, expected));
	assert_memory_equal(page, expected, sizeof(page));
	kage_image_close(image);
	kage_image_close(original);
}

static void test_empty_store(void **state)
{
	struct fixture *f = *state;
	struct kage_list list;
	struct kage_store *none;

	must(kage_store_list(f->store, NULL, &list));
	assert_int_equal(list.n, 0);
	kage_list_free(&list);
	must_fail(kage_store_list(f->store, "redis", &list), KAGE_NOTFOUND, "holds no images yet");
	must_fail(kage_store_open(f->ctx, path_in(f, "not/there"), 0, &none), KAGE_NOTFOUND,
		  "no store at");
	must_fail(kage_store_open(f->ctx, "/dev/null", 0, &none), KAGE_SYS, "Not a directory");
}

static void test_default_path(void **state)
{
	struct fixture *f = *state;
	struct kage_store *s;
	struct stat st;

	setenv("KAGE_STORE", path_in(f, "a/b/c"), 1);
	must(kage_store_open(f->ctx, NULL, KAGE_STORE_CREATE, &s));
	assert_string_equal(kage_store_path(s), path_in(f, "a/b/c"));
	assert_int_equal(stat(path_in(f, "a/b/c"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	kage_store_close(s);
	unsetenv("KAGE_STORE");
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "redis", "9", "a.b_c+d-e", "Z0" };
	static const char *const wrong[] = { "",    ".",   "..",  ".hidden", "-x",
					     "a/b", "a b", "a@1", "ä",       "a\n" };
	char longest[66];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		must(kage_store_check_name(good[i]));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		must_fail(kage_store_check_name(wrong[i]), KAGE_INVALID, "");
	memset(longest, 'n', sizeof(longest));
	longest[63] = '\0';
	must(kage_store_check_name(longest));
	longest[63] = 'n';
	longest[64] = '\0';
	must_fail(kage_store_check_name(longest), KAGE_INVALID, "too long");
}

/* Large enough for threads and for going past the page cache. */
enum { LARGE_PAGES = 12000 };

struct seen {
	struct kage_pages *expected;
	uint64_t n, stop_at;
};

static struct kage_err *compare_pages(void *user, uint32_t space, uint64_t first, uint64_t count,
				      const void *bytes)
{
	unsigned char page[KAGE_PAGE_BYTES];
	struct seen *s = user;

	for (uint64_t i = 0; i < count; i++) {
		must(kage_pages_read(s->expected, space, first + i, 1, page));
		if (bytes)
			assert_memory_equal(page, (const char *)bytes + i * sizeof(page),
					    sizeof(page));
		else
			assert_int_equal(page[0] | page[4095], 0);
	}
	s->n += count;
	if (s->stop_at && s->n >= s->stop_at)
		return kage_err_new(KAGE_LIMIT, "enough");
	return NULL;
}

static void test_large(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image = image_of(77, LARGE_PAGES, 0), *back;
	struct seen s = { .expected = image->pages };
	struct kage_put_result result;

	must(kage_store_put(f->store, "large", image, NULL, &result));
	assert_sound(f, 1);
	must(kage_image_open(f->store, "large", &back));
	must(kage_pages_each(back->pages, 0, compare_pages, &s));
	assert_int_equal(s.n, LARGE_PAGES + 7);
	s = (struct seen){ .expected = image->pages, .stop_at = 3000 };
	must_fail(kage_pages_each(back->pages, SAMPLE_SPACE, compare_pages, &s), KAGE_LIMIT,
		  "enough");
	kage_image_close(back);
	/* Damage far behind is told when it is reached, and only then. */
	damage(path_in(f, "large/0000000001.kage"), (off_t)result.stored_bytes / 2);
	must(kage_image_open(f->store, "large", &back));
	s = (struct seen){ .expected = image->pages };
	must_fail(kage_pages_each(back->pages, 0, compare_pages, &s), KAGE_CORRUPT, "offset");
	assert_true(s.n > LARGE_PAGES / 4);
	kage_image_close(back);
	kage_image_close(image);
}

/* --- finding ---------------------------------------------------------------------------------- */

static void assert_resolves(struct fixture *f, const char *spec, uint64_t expected)
{
	char *name;
	uint64_t number;

	must(kage_store_resolve(f->store, spec, &name, &number));
	if (number != expected)
		fail_msg("%s is %llu, not %llu", spec, (unsigned long long)number,
			 (unsigned long long)expected);
	assert_string_equal(name, "redis");
	free(name);
}

static void test_resolve(void **state)
{
	struct fixture *f = *state;
	static const char *const wrong[] = { "redis@",
					     "redis@x",
					     "redis@-",
					     "redis@1x",
					     "redis@--1",
					     "redis@+1",
					     "redis@1 ",
					     "redis@5mins",
					     "redis@-1s",
					     "redis@99999999999999999999",
					     "redis@99999999999999999w" };
	char *name;
	uint64_t n;

	put_aged(f, "redis", 90000); /* 1: 25 hours */
	put_aged(f, "redis", 7300);  /* 2: two hours */
	put_aged(f, "redis", 400);   /* 3: 6 minutes */
	put_aged(f, "redis", 40);    /* 4 */
	put_aged(f, "redis", 0);     /* 5 */
	assert_resolves(f, "redis", 5);
	assert_resolves(f, "redis@latest", 5);
	assert_resolves(f, "redis@first", 1);
	assert_resolves(f, "redis@3", 3);
	assert_resolves(f, "redis@-0", 5);
	assert_resolves(f, "redis@-1", 4);
	assert_resolves(f, "redis@-4", 1);
	assert_resolves(f, "redis@0s", 5);
	assert_resolves(f, "redis@30s", 4);
	assert_resolves(f, "redis@5min", 3);
	assert_resolves(f, "redis@2h", 2);
	assert_resolves(f, "redis@1d", 1);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		must_fail(kage_store_resolve(f->store, wrong[i], &name, &n), KAGE_INVALID,
			  "names no image");
	must_fail(kage_store_resolve(f->store, "redis@-5", &name, &n), KAGE_NOTFOUND,
		  "only 5 images");
	must_fail(kage_store_resolve(f->store, "redis@6", &name, &n), KAGE_NOTFOUND, "from 1 to 5");
	must_fail(kage_store_resolve(f->store, "redis@0", &name, &n), KAGE_NOTFOUND, "from 1 to 5");
	must_fail(kage_store_resolve(f->store, "redis@2d", &name, &n), KAGE_NOTFOUND, "oldest");
	must_fail(kage_store_resolve(f->store, "@1", &name, &n), KAGE_INVALID, "empty");
}

static void test_suggestions(void **state)
{
	struct fixture *f = *state;
	char expected[200];
	struct kage_list list;

	put_sample(f, "python3");
	snprintf(expected, sizeof(expected), "no history 'redsi' in %s; there is: python3", f->dir);
	must_fail(kage_store_list(f->store, "redsi", &list), KAGE_NOTFOUND, expected);
	put_sample(f, "redis");
	snprintf(expected, sizeof(expected), "no history 'redsi' in %s; there are: redis, python3",
		 f->dir);
	must_fail(kage_store_list(f->store, "redsi", &list), KAGE_NOTFOUND, expected);
}

/* --- removing --------------------------------------------------------------------------------- */

static void test_remove(void **state)
{
	struct fixture *f = *state;
	size_t n;

	for (int i = 0; i < 6; i++)
		put_sample(f, "redis");
	must(kage_store_remove(f->store, "redis", 2, 3, &n));
	assert_int_equal(n, 2);
	must_fail(kage_store_remove(f->store, "redis", 2, 3, &n), KAGE_NOTFOUND,
		  "no image from 2 to 3");
	assert_int_equal(put_sample(f, "redis"), 7);
	assert_sound(f, 5);
	must(kage_store_remove(f->store, "redis", 0, 0, &n));
	assert_int_equal(n, 5);
	assert_int_equal(count_entries(f->dir), 0);
	must_fail(kage_store_remove(f->store, "redis", 0, 0, &n), KAGE_NOTFOUND, "no history");
	assert_int_equal(put_sample(f, "redis"), 1);
}

/* What somebody who was killed in the middle of a removal left. */
static void test_remove_rubbish(void **state)
{
	struct fixture *f = *state;
	size_t n;
	struct kage_list list;

	put_sample(f, "a");
	put_sample(f, "b");
	assert_int_equal(rename(path_in(f, "b"), path_in(f, ".rm-0000000000000001")), 0);
	must(kage_store_list(f->store, NULL, &list));
	assert_int_equal(list.n, 1);
	kage_list_free(&list);
	must(kage_store_remove(f->store, "a", 0, 0, &n));
	assert_int_equal(count_entries(f->dir), 0);
}

/* --- damage ----------------------------------------------------------------------------------- */

static void test_damaged_pack(void **state)
{
	struct fixture *f = *state;
	struct kage_fsck_result result;
	struct kage_image *image;
	struct kage_list list;

	for (int i = 0; i < 3; i++)
		put_sample(f, "redis");
	damage(path_in(f, "redis/0000000001.kage"), 5000); /* its pages */
	damage(path_in(f, "redis/0000000002.kage"), 130);  /* its summary */
	assert_int_equal(truncate(path_in(f, "redis/0000000003.kage"), 4500), 0);
	put_sample(f, "redis");
	must(kage_store_list(f->store, "redis", &list));
	assert_int_equal(list.n, 4);
	assert_null(list.entries[0].damage); /* what the list shows is right */
	assert_non_null(strstr(list.entries[1].damage, "offset"));
	assert_non_null(strstr(list.entries[2].damage, "cut short"));
	assert_null(list.entries[3].damage);
	kage_list_free(&list);
	must_fail(kage_image_open(f->store, "redis@2", &image), KAGE_CORRUPT, "0000000002.kage");
	must_fail(kage_image_open(f->store, "redis@3", &image), KAGE_CORRUPT, "0000000003.kage");
	must(kage_image_open(f->store, "redis@4", &image));
	kage_image_close(image);
	must(kage_store_fsck(f->store, "redis", &result));
	assert_int_equal(result.n_packs, 4);
	assert_int_equal(result.n_bad, 3);
	assert_string_equal(result.findings[0].pack, path_in(f, "redis/0000000001.kage"));
	kage_fsck_result_free(&result);
}

/* Things that are no packs are passed over or named, never waited for. */
static void test_foreign_files(void **state)
{
	struct fixture *f = *state;
	struct kage_list list;

	put_sample(f, "redis");
	assert_int_equal(mkfifo(path_in(f, "redis/0000000009.kage"), 0600), 0);
	assert_int_equal(mkdir(path_in(f, "redis/0000000008.kage"), 0700), 0);
	assert_int_equal(symlink("/etc/passwd", path_in(f, "redis/0000000007.kage")), 0);
	assert_int_equal(close(creat(path_in(f, "redis/0000000006.kage~"), 0600)), 0);
	assert_int_equal(close(creat(path_in(f, "notes"), 0600)), 0);
	must(kage_store_list(f->store, "redis", &list));
	assert_int_equal(list.n, 4);
	for (size_t i = 1; i < 4; i++)
		assert_true(list.entries[i].damage || list.entries[i].unreadable);
	kage_list_free(&list);
	must(kage_store_list(f->store, NULL, &list));
	assert_int_equal(list.n, 1);
	kage_list_free(&list);
}

/* --- full disks ------------------------------------------------------------------------------- */

static void test_full_disk(void **state)
{
	struct fixture *f = *state;
	char *mount_point = strdup(path_in(f, "small"));
	struct kage_image *image = image_of(3, LARGE_PAGES, 0);
	struct kage_put_result result;
	struct kage_store *small;

	assert_int_equal(mkdir(mount_point, 0700), 0);
	if (mount("tmpfs", mount_point, "tmpfs", 0, "size=1m") < 0) {
		free(mount_point);
		kage_image_close(image);
		print_message("# skipped: no right to mount a tmpfs\n");
		skip();
	}
	must(kage_store_open(f->ctx, mount_point, KAGE_STORE_CREATE, &small));
	must_fail(kage_store_put(small, "redis", image, NULL, &result), KAGE_SYS,
		  "No space left on device");
	assert_int_equal(count_entries(mount_point), 0);
	kage_image_close(image);
	image = image_of(3, 5, 0); /* and a smaller one has room: nothing was lost */
	must(kage_store_put(small, "redis", image, NULL, &result));
	kage_store_close(small);
	kage_image_close(image);
	assert_int_equal(umount(mount_point), 0);
	free(mount_point);
}

static void test_file_size_limit(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, low;
	struct kage_image *image = image_of(3, 2000, 0);
	struct kage_put_result result;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	low = old;
	low.rlim_cur = 100000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	must_fail(kage_store_put(f->store, "redis", image, NULL, &result), KAGE_SYS,
		  "File too large");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(count_entries(f->dir), 0);
	kage_image_close(image);
}

/* --- failing calls ---------------------------------------------------------------------------- */

/* These stand in front of the C library's. Call number fail_at fails; none when that is 0. */
static unsigned fail_at, n_calls;
static int fail_with;
static bool no_nameless_files, flock_failed;

static bool fails(void)
{
	if (!fail_at || ++n_calls != fail_at)
		return false;
	errno = fail_with;
	return true;
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	if (no_nameless_files && (flags & O_TMPFILE) == O_TMPFILE) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return fails() ? -1 : (int)syscall(SYS_openat, dir, path, flags, mode);
}

ssize_t write(int fd, const void *p, size_t n)
{
	return fails() ? -1 : syscall(SYS_write, fd, p, n);
}

int fdatasync(int fd)
{
	return fails() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	return fails() ? -1 : (int)syscall(SYS_fsync, fd);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	return fails() ? -1 : (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	return fails() ? -1 : (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	return fails() ? -1 : (int)syscall(SYS_mkdirat, dir, path, mode);
}

int flock(int fd, int operation)
{
	flock_failed = fails();
	return flock_failed ? -1 : (int)syscall(SYS_flock, fd, operation);
}

/* Makes each call of a put fail in turn: one line, nothing left, and what was there stays. */
static void fail_each_call(struct fixture *f, struct kage_image *image, size_t packs)
{
	struct kage_put_result result;
	struct kage_err *e;

	for (fail_at = 1;; fail_at++) {
		n_calls = 0;
		e = kage_store_put(f->store, "redis", image, NULL, &result);
		if (n_calls < fail_at)
			break;
		if (!e) { /* a call that may fail, such as one that is only tried */
			size_t n;

			fail_at = 0;
			must(kage_store_remove(f->store, "redis", result.number, result.number,
					       &n));
			fail_at = n_calls;
			continue;
		}
		assert_null(strchr(kage_err_message(e), '\n'));
		assert_non_null(strstr(kage_err_message(e), "store an image of 'redis'"));
		kage_err_free(e);
		/* Without the lock an empty history cannot be taken away safely; nobody sees it. */
		if (!flock_failed)
			assert_int_equal(count_entries(f->dir), packs ? 1 : 0);
		if (packs)
			assert_int_equal(count_entries(path_in(f, "redis")), packs + 1);
	}
	must(e);
	print_message("# %u calls\n", n_calls);
	assert_true(fail_at > 5);
	fail_at = 0;
	assert_sound(f, packs + 1);
}

static void test_failing_calls(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image = image_of(1, 3000, 0);

	fail_with = EIO;
	fail_each_call(f, image, 0);
	kage_image_close(image);
	image = image_of(1, LARGE_PAGES, 0);
	fail_with = ENOSPC;
	fail_each_call(f, image, 1);
	kage_image_close(image);
}

static void test_without_nameless_files(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image = image_of(1, 3000, 0);

	no_nameless_files = true;
	fail_with = EIO;
	fail_each_call(f, image, 0);
	assert_int_equal(close(creat(path_in(f, ".tmp-0000000000000000"), 0600)), 0);
	fail_each_call(f, image, 1); /* the first put removes what a dead writer left */
	no_nameless_files = false;
	kage_image_close(image);
}

/* --- rivals and kills ------------------------------------------------------------------------- */

/* A child with a store of its own that puts IMAGES images, or for ever when that is 0. */
static pid_t start_writer(struct fixture *f, const char *name, int images, uint64_t pages)
{
	pid_t pid = fork();
	struct kage_ctx *ctx;
	struct kage_store *store;
	struct kage_put_result result;
	struct kage_image *image;

	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	if (kage_ctx_create(&ctx) || kage_store_open(ctx, f->dir, 0, &store))
		_exit(1);
	image = image_of((uint64_t)getpid(), pages, 0);
	for (int i = 0; images == 0 || i < images; i++)
		if (kage_store_put(store, name, image, NULL, &result))
			_exit(2);
	_exit(0);
}

static void test_two_writers(void **state)
{
	struct fixture *f = *state;
	pid_t children[4];
	struct kage_list list;
	int status;

	for (int i = 0; i < 4; i++)
		children[i] = start_writer(f, "redis", 25, 20);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(waitpid(children[i], &status, 0), children[i]);
		assert_int_equal(status, 0);
	}
	must(kage_store_list(f->store, "redis", &list));
	assert_int_equal(list.n, 100);
	assert_int_equal(list.entries[0].number, 1);
	assert_int_equal(list.entries[99].number, 100); /* no gaps */
	kage_list_free(&list);
	assert_sound(f, 100);
}

/* One puts, one removes all: whatever happens, each put succeeds and no pack is broken. */
static void test_writer_and_remover(void **state)
{
	struct fixture *f = *state;
	pid_t child = start_writer(f, "redis", 100, 5);
	size_t n;
	int status;

	while (waitpid(child, &status, WNOHANG) == 0)
		kage_err_free(kage_store_remove(f->store, "redis", 0, 0, &n));
	assert_int_equal(status, 0);
	kage_err_free(kage_store_remove(f->store, "redis", 0, 0, &n));
	assert_int_equal(count_entries(f->dir), 0);
}

static void test_killed_writers(void **state)
{
	struct fixture *f = *state;
	struct random_state r = { (uint64_t)time(NULL) };
	struct kage_fsck_result result;

	print_message("# seed %llu\n", (unsigned long long)r.v);
	for (int i = 0; i < 60; i++) {
		pid_t child = start_writer(f, "redis", 0, 100 + random_next(&r) % 1500);

		usleep((useconds_t)(random_next(&r) % 30000));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		if (i == 30) {
			size_t n;
			kage_err_free(kage_store_remove(f->store, "redis", 0, 0, &n));
		}
	}
	must(kage_store_fsck(f->store, NULL, &result));
	assert_int_equal(result.n_bad, 0);
	print_message("# %zu whole packs were left\n", result.n_packs);
	assert_true(result.n_packs > 0);
	assert_int_equal(count_entries(f->dir), 1);
	assert_int_equal(count_entries(path_in(f, "redis")), result.n_packs + 1);
	kage_fsck_result_free(&result);
}

static void test_interrupted(void **state)
{
	struct fixture *f = *state;
	struct kage_image *image = image_of(3, 2000, 0);
	struct kage_put_result result;
	volatile sig_atomic_t flag = 1;

	kage_ctx_set_interrupt(f->ctx, &flag);
	must_fail(kage_store_put(f->store, "redis", image, NULL, &result), KAGE_INTERRUPTED,
		  "interrupted");
	kage_ctx_set_interrupt(f->ctx, NULL);
	assert_int_equal(count_entries(f->dir), 0);
	kage_image_close(image);
}

/* --- trust ------------------------------------------------------------------------------------ */

static void test_trust(void **state)
{
	struct fixture *f = *state;
	char *pack;

	put_sample(f, "redis");
	pack = strdup(path_in(f, "redis/0000000001.kage"));
	must(kage_store_check_trust(pack)); /* though under /tmp, which is sticky */
	chmod(pack, 0620);
	must_fail(kage_store_check_trust(pack), KAGE_PERM, "may be written by others");
	chmod(pack, 0600);
	chmod(path_in(f, "redis"), 0777);
	must_fail(kage_store_check_trust(pack), KAGE_PERM, "to which others may write");
	chmod(path_in(f, "redis"), 01777);
	must(kage_store_check_trust(pack));
	chmod(path_in(f, "redis"), 0700);
	assert_int_equal(symlink(pack, path_in(f, "link")), 0);
	must(kage_store_check_trust(path_in(f, "link")));
	assert_int_equal(symlink("loop", path_in(f, "loop")), 0);
	must_fail(kage_store_check_trust(path_in(f, "loop")), KAGE_SYS, "symbolic links");
	must_fail(kage_store_check_trust(path_in(f, "none")), KAGE_SYS, "No such file");
	must_fail(kage_store_check_trust(f->dir), KAGE_INVALID, "is a directory");
	must_fail(kage_store_check_trust("/dev/null"), KAGE_PERM, "no regular file");
	assert_int_equal(chdir(f->dir), 0);
	must(kage_store_check_trust("./redis/../redis//0000000001.kage"));
	assert_int_equal(chdir("/"), 0);
	free(pack);
}

static void test_trust_owners(void **state)
{
	struct fixture *f = *state;
	char *pack;

	if (geteuid() != 0) {
		print_message("# skipped: only root can give files away\n");
		skip();
	}
	put_sample(f, "redis");
	pack = strdup(path_in(f, "redis/0000000001.kage"));
	assert_int_equal(chown(pack, 65534, 65534), 0);
	must_fail(kage_store_check_trust(pack), KAGE_PERM, "belongs to another user");
	assert_int_equal(chown(pack, 0, 0), 0);
	assert_int_equal(chown(path_in(f, "redis"), 65534, 65534), 0);
	must_fail(kage_store_check_trust(pack), KAGE_PERM,
		  "directory that belongs to another user");
	assert_int_equal(chown(path_in(f, "redis"), 0, 0), 0);
	/* A link in a trusted place that leads through an untrusted one. */
	assert_int_equal(mkdir(path_in(f, "theirs"), 0700), 0);
	assert_int_equal(symlink(pack, path_in(f, "theirs/link")), 0);
	assert_int_equal(symlink("theirs/link", path_in(f, "link")), 0);
	must(kage_store_check_trust(path_in(f, "link")));
	assert_int_equal(chown(path_in(f, "theirs"), 65534, 65534), 0);
	must_fail(kage_store_check_trust(path_in(f, "link")), KAGE_PERM, "belongs to another user");
	free(pack);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_large),
		TEST(test_put_list_open),
		TEST(test_empty_store),
		TEST(test_default_path),
		TEST(test_names),
		TEST(test_resolve),
		TEST(test_suggestions),
		TEST(test_remove),
		TEST(test_remove_rubbish),
		TEST(test_damaged_pack),
		TEST(test_foreign_files),
		TEST(test_full_disk),
		TEST(test_file_size_limit),
		TEST(test_failing_calls),
		TEST(test_without_nameless_files),
		TEST(test_two_writers),
		TEST(test_writer_and_remover),
		TEST(test_killed_writers),
		TEST(test_interrupted),
		TEST(test_trust),
		TEST(test_trust_owners),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
