/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Putting written files back: the ways that it can go, what others see of it, and that an error undoes
 * all of it. Files are noted in an image as a capture does it, changed, and put back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/ctx.h"
#include "base/file.h"
#include "kind/files.h"
#include "kind/noted.h"
#include "kind/obstacles.h"

#define must(e)                                               \
	do {                                                  \
		struct kage_err *e_ = (e);                    \
		if (e_)                                       \
			fail_msg("%s", kage_err_message(e_)); \
	} while (0)

static char dir[64]; /* fresh for every test */

static char *path_of(const char *name)
{
	static char path[4][128];
	static int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static void write_file(const char *name, const char *text)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void assert_text(const char *name, const char *text)
{
	_cleanup_free_ char *now = NULL;
	size_t size;

	must(kage_file_slurp(AT_FDCWD, path_of(name), 1 << 20, &now, &size));
	assert_string_equal(now, text);
}

static ino_t inode_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(path_of(name), &st), 0);
	return st.st_ino;
}

static int names(void)
{
	DIR *d = opendir(dir);
	int n = -2;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* --- an image of files ------------------------------------------------------------------------------ */

struct scene {
	struct kage_ctx *ctx;
	struct kage_capture c;
	struct kage_restore r;
	struct kage_restore_options options;
};

static void begin(struct scene *s)
{
	*s = (struct scene){ .options.files = KAGE_FILES_RESTORE };
	must(kage_ctx_create(&s->ctx));
	s->c.obstacles = kage_obstacles_create();
	must(kage_image_create(&s->c.image));
	must(kage_mem_pages_create(&s->c.pages));
	s->c.image->msg->source = msg_new(&s->c.image->arena, Kage__Source, kage__source__init);
	s->c.process = msg_append(&s->c.image->arena, s->c.image->msg, processes, Kage__Process,
				  kage__process__init);
}

static Kage__FileObject *note(struct scene *s, const char *name)
{
	_cleanup_fd_ int fd = open(path_of(name), O_RDWR | O_CLOEXEC);
	struct stat st;
	uint32_t id;

	assert_int_equal(fstat(fd, &st), 0);
	must(kage_file_note(&s->c, fd, &st, path_of(name), true, &id));
	return kage_image_file(s->c.image, id);
}

static void image_taken(struct scene *s)
{
	s->c.image->msg->source->realtime_ns = kage_clock_real_ns();
	kage_noted_free(&s->c);
	s->c.image->pages = kage_mem_pages_finish(s->c.pages);
	s->r = (struct kage_restore){ .ctx = s->ctx,
				      .image = s->c.image,
				      .process = s->c.process,
				      .options = &s->options,
				      .obstacles = kage_obstacles_create() };
}

static bool is_noted(struct scene *s, const char *text)
{
	struct kage_report report;
	bool found = false;

	must(kage_files_check(&s->r));
	must(kage_obstacles_report(s->r.obstacles, &report));
	assert_int_equal(report.n_fatal, 0);
	for (size_t i = 0; i < report.n_obstacles; i++)
		found = found || strstr(report.obstacles[i].why, text);
	kage_report_free(&report);
	return found;
}

static void put_back(struct scene *s)
{
	must(kage_files_put_back(&s->r));
	must(kage_files_settle(&s->r, NULL));
}

static void end(struct scene *s)
{
	kage_obstacles_destroy(s->r.obstacles);
	kage_obstacles_destroy(s->c.obstacles);
	kage_image_close(s->c.image);
	kage_ctx_destroy(s->ctx);
}

/* --- the ways --------------------------------------------------------------------------------------- */

static void test_rewrite(void **state)
{
	struct scene s;
	ino_t before;

	(void)state;
	begin(&s);
	write_file("a", "as of the image");
	assert_int_equal(link(path_of("a"), path_of("other name")), 0);
	assert_int_equal(chmod(path_of("a"), 0640), 0);
	note(&s, "a");
	image_taken(&s);
	before = inode_of("a");
	write_file("a", "later, and longer than it was");
	assert_int_equal(chmod(path_of("a"), 0600), 0);
	put_back(&s);
	assert_text("a", "as of the image");
	assert_text("other name", "as of the image");
	assert_int_equal(inode_of("a"), before);
	assert_int_equal(names(), 2);
	end(&s);
}

static void test_rewrite_sparse(void **state)
{
	static const off_t far = (off_t)5 << 30; /* too far for a hash of the whole */
	struct scene s;
	struct stat st;
	char got[8] = "";
	int fd = open(path_of("a"), O_RDWR | O_CREAT, 0644);

	(void)state;
	begin(&s);
	assert_int_equal(ftruncate(fd, far + 9999), 0);
	assert_int_equal(pwrite(fd, "one", 3, 5000) + pwrite(fd, "two", 3, far), 6);
	note(&s, "a");
	image_taken(&s);
	assert_int_equal(pwrite(fd, "ONE", 3, 5000) + pwrite(fd, "more", 4, far / 2) +
				 pwrite(fd, "beyond", 6, far + 20000),
			 13);
	close(fd);
	put_back(&s);
	fd = open(path_of("a"), O_RDONLY);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, far + 9999);
	assert_true(st.st_blocks < 1024);
	assert_int_equal(pread(fd, got, 3, 5000) + pread(fd, got + 3, 3, far), 6);
	assert_memory_equal(got, "onetwo", 6);
	assert_int_equal(pread(fd, got, 4, far / 2), 4);
	assert_memory_equal(got, "\0\0\0", 4);
	assert_int_equal(pread(fd, got, 8, far + 3), 8);
	assert_memory_equal(got, "\0\0\0\0\0\0\0", 8);
	close(fd);
	end(&s);
}

/* Its times do not change with what is written through the mapping. */
static void test_written_by_mapping(void **state)
{
	struct scene s;
	Kage__Mapping *m;
	Kage__FileObject *f;
	char *map;
	int fd;

	(void)state;
	begin(&s);
	write_file("a", "first text");
	fd = open(path_of("a"), O_RDWR);
	map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	memcpy(map, "As of the ", 10);
	f = note(&s, "a");
	s.c.process->memory = msg_new(&s.c.image->arena, Kage__Memory, kage__memory__init);
	m = msg_append(&s.c.image->arena, s.c.process->memory, mappings, Kage__Mapping,
		       kage__mapping__init);
	m->file = f->id;
	m->shared = m->max_writable = true;
	image_taken(&s);
	s.c.image->msg->source->realtime_ns +=
		10000000000; /* as if nothing had happened for long */
	memcpy(map, "of later  ", 10);
	munmap(map, 4096);
	put_back(&s);
	assert_text("a", "As of the ");
	end(&s);
}

static void test_replace(void **state)
{
	struct scene s;
	ino_t other;

	(void)state;
	begin(&s);
	write_file("a", "as of the image");
	note(&s, "a");
	image_taken(&s);
	assert_int_equal(rename(path_of("a"), path_of("a.1")), 0);
	write_file("a", "another file");
	assert_int_equal(link(path_of("a"), path_of("other name")), 0);
	other = inode_of("a");
	assert_true(is_noted(&s, "it is not the file of then"));
	put_back(&s);
	assert_text("a", "as of the image");
	assert_text("other name", "another file");
	assert_text("a.1", "as of the image");
	assert_true(inode_of("a") != other);
	assert_int_equal(names(), 3);
	end(&s);
}

/* Who writes to a file is not robbed of it. */
static void test_written_elsewhere(void **state)
{
	struct scene s;
	char text[32] = "";
	int fd;

	(void)state;
	begin(&s);
	write_file("a", "as of the image");
	note(&s, "a");
	image_taken(&s);
	write_file("a", "what another one writes");
	fd = open(path_of("a"), O_RDWR);
	assert_true(is_noted(&s, "another process has it open"));
	put_back(&s);
	assert_text("a", "as of the image");
	assert_int_equal(pread(fd, text, sizeof(text), 0), 23);
	assert_string_equal(text, "what another one writes");
	assert_int_equal(names(), 1);
	close(fd);
	end(&s);
}

/* --- databases -------------------------------------------------------------------------------------- */

static const char database[] = "SQLite format 3";

static void test_journal(void **state)
{
	struct scene s;
	int fd;

	(void)state;
	begin(&s);
	write_file("db", "");
	write_file("plain", "no database");
	note(&s, "db");
	note(&s, "plain");
	image_taken(&s);
	fd = open(path_of("db"), O_WRONLY);
	assert_int_equal(write(fd, database, sizeof(database)), sizeof(database));
	close(fd);
	write_file("db-journal", "of a later state");
	write_file("plain", "not any more");
	write_file("plain-journal", "means nothing to anybody");
	assert_true(is_noted(&s, "begun since the image"));
	put_back(&s);
	assert_text("db", "");
	assert_int_equal(access(path_of("db-journal"), F_OK), -1);
	assert_text("plain-journal", "means nothing to anybody");
	assert_int_equal(names(), 3);
	end(&s);
}

/* What was there before the image, what is part of it, and what lies beside a database that did not
 * change, stays. */
static void test_journal_stays(void **state)
{
	struct scene s;

	(void)state;
	begin(&s);
	write_file("old", database);
	write_file("old-wal", "old");
	write_file("open", database);
	write_file("open-journal", "in the image");
	write_file("same", database);
	note(&s, "old");
	note(&s, "open");
	note(&s, "open-journal");
	note(&s, "same");
	image_taken(&s);
	write_file("old", "SQLite format 3 and more");
	write_file("open", "SQLite format 3 and more");
	assert_int_equal(unlink(path_of("open-journal")), 0);
	write_file("same-journal", "hot");
	s.c.image->msg->source->realtime_ns += 3000000000; /* old-wal is older than that */
	put_back(&s);
	assert_text("old", database);
	assert_text("old-wal", "old");
	assert_text("open-journal", "in the image");
	assert_text("same-journal", "hot");
	end(&s);
}

/* --- endings ---------------------------------------------------------------------------------------- */

static void test_undo(void **state)
{
	struct scene s;
	struct kage_err *e;
	ino_t other, same;
	struct stat st;

	(void)state;
	begin(&s);
	write_file("same", database);
	write_file("other", "as of the image");
	write_file("gone", "as of the image");
	note(&s, "same");
	note(&s, "other");
	note(&s, "gone");
	image_taken(&s);
	write_file("same", "what is there now");
	assert_int_equal(chmod(path_of("same"), 0604), 0);
	write_file("same-wal", "later");
	unlink(path_of("other"));
	unlink(path_of("gone"));
	write_file("another inode", "");
	write_file("other", "what is there now");
	same = inode_of("same");
	other = inode_of("other");
	must(kage_files_put_back(&s.r));
	assert_text("other", "as of the image");
	assert_text("gone", "as of the image");
	assert_text(".same.kage-before", "what is there now");
	assert_int_equal(access(path_of("same-wal"), F_OK), -1);
	e = kage_files_settle(&s.r, kage_err_new(KAGE_LIMIT, "no life"));
	assert_string_equal(kage_err_message(e), "no life");
	kage_err_free(e);
	assert_text("same", "what is there now");
	assert_text("same-wal", "later");
	assert_text("other", "what is there now");
	assert_int_equal(access(path_of("gone"), F_OK), -1);
	assert_true(inode_of("same") == same && inode_of("other") == other);
	assert_int_equal(stat(path_of("same"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0604);
	assert_int_equal(names(), 4);
	end(&s);
}

/* What a kill left is not overwritten, and goes away in the end. */
static void test_after_a_kill(void **state)
{
	struct scene s;

	(void)state;
	begin(&s);
	write_file("a", "as of the image");
	note(&s, "a");
	image_taken(&s);
	write_file("a", "as half mixture");
	write_file(".a.kage-before", "before the kill");
	must(kage_files_put_back(&s.r));
	assert_text("a", "as of the image");
	assert_text(".a.kage-before", "before the kill");
	assert_text(".a.kage-before.2", "as half mixture");
	must(kage_files_settle(&s.r, NULL));
	assert_int_equal(names(), 1);
	/* Killed between the last step and the end. */
	write_file(".a.kage-before", "before the kill");
	put_back(&s);
	assert_int_equal(names(), 1);
	end(&s);
}

/* --- ---------------------------------------------------------------------------------------------- */

static int fresh_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/kage-put-back-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

#define WAY(name) cmocka_unit_test_setup_teardown(name, fresh_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WAY(test_rewrite),
		WAY(test_rewrite_sparse),
		WAY(test_written_by_mapping),
		WAY(test_replace),
		WAY(test_written_elsewhere),
		WAY(test_journal),
		WAY(test_journal_stays),
		WAY(test_undo),
		WAY(test_after_a_kill),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
