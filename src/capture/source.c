/* SPDX-License-Identifier: Apache-2.0 */
#include "capture/source.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/text.h"

enum { CMDLINE_MAX = 4 << 20, COMMAND_SHOWN_MAX = 4096 };

/* Fields 4 to 8 of stat(5). */
static struct kage_err *read_ids(struct kage_capture *c)
{
	_cleanup_free_ char *text = NULL;
	Kage__Process *p = c->process;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "stat", 1 << 16, &text, &size));
	if (!kage_text_stat_int(text, 4, &p->ppid) || !kage_text_stat_int(text, 5, &p->pgid) ||
	    !kage_text_stat_int(text, 6, &p->sid) || !kage_text_stat_int(text, 8, &p->tty_pgid))
		return kage_err_new(KAGE_CORRUPT, "/proc/PID/stat is not understood");
	return NULL;
}

struct kage_err *source_instant(struct kage_capture *c)
{
	Kage__Source *s = msg_new(&c->image->arena, Kage__Source, kage__source__init);

	if (!s)
		return kage_err_nomem();
	c->image->msg->source = s;
	s->realtime_ns = kage_clock_ns(CLOCK_REALTIME);
	s->monotonic_ns = kage_clock_ns(CLOCK_MONOTONIC);
	s->boottime_ns = kage_clock_ns(CLOCK_BOOTTIME);
	c->process->pid = c->target->pid;
	return read_ids(c);
}

void source_pause(struct kage_capture *c)
{
	c->image->msg->source->pause_ns = kage_target_pause_ns(c->target);
	c->image->msg->source->rung = c->inside.rung;
	c->image->msg->source->tracking = c->tracking;
}

static struct kage_err *read_string(struct kage_capture *c, int dirfd, const char *path,
				    char **ret_s)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(dirfd, path, 1 << 16, &text, &size));
	text[strcspn(text, "\n")] = '\0';
	*ret_s = arena_strdup(&c->image->arena, text);
	return *ret_s ? NULL : kage_err_nomem();
}

struct kage_err *source_parse_command(struct arena *a, char *text, size_t size, Kage__Process *p,
				      char **ret_shown)
{
	size_t shown;

	for (size_t i = 0; i < size; i += strlen(text + i) + 1) {
		char **slot = arena_push(a, &p->argv, &p->n_argv, sizeof(*slot));

		if (!slot)
			return kage_err_nomem();
		*slot = arena_strdup(a, text + i);
		if (!*slot)
			return kage_err_nomem();
	}
	while (size && !text[size - 1])
		size--;
	shown = size < COMMAND_SHOWN_MAX ? size : COMMAND_SHOWN_MAX;
	for (size_t i = 0; i < shown; i++)
		if (!text[i])
			text[i] = ' ';
	text[shown] = '\0';
	*ret_shown = arena_strdup(a, text);
	return *ret_shown ? NULL : kage_err_nomem();
}

static struct kage_err *read_command(struct kage_capture *c)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	TRY(kage_file_slurp(c->target->proc_fd, "cmdline", CMDLINE_MAX, &text, &size));
	return source_parse_command(&c->image->arena, text, size, c->process,
				    &c->image->msg->source->command);
}

struct kage_err *source_parse_cpu(struct arena *a, const char *text, Kage__CpuFeatures *m)
{
	size_t size;
	const char *p = kage_text_field(text, "model name\t", &size);

	if (p && !(m->model = arena_printf(a, "%.*s", (int)size, p)))
		return kage_err_nomem();
	p = kage_text_field(text, "flags\t\t", &size);
	for (const char *end = p ? p + size : NULL; p && p < end;) {
		size_t n = strcspn(p, " \n");
		char **slot = arena_push(a, &m->flags, &m->n_flags, sizeof(*slot));

		if (!slot || !(*slot = arena_printf(a, "%.*s", (int)n, p)))
			return kage_err_nomem();
		p += n + 1;
	}
	return NULL;
}

static struct kage_err *read_cpu(struct kage_capture *c)
{
	struct arena *a = &c->image->arena;
	Kage__CpuFeatures *m = msg_new(a, Kage__CpuFeatures, kage__cpu_features__init);
	_cleanup_free_ char *text = NULL;
	size_t size;

	if (!m)
		return kage_err_nomem();
	TRY(kage_file_slurp(AT_FDCWD, "/proc/cpuinfo", 16 << 20, &text, &size));
	c->image->msg->source->cpu = m;
	return source_parse_cpu(a, text, m);
}

struct kage_err *source_fill(struct kage_capture *c)
{
	struct arena *a = &c->image->arena;
	Kage__Source *s = c->image->msg->source;
	struct utsname u;

	uname(&u);
	s->arch = (char *)kage_arch_name;
	s->kernel_release = arena_strdup(a, u.release);
	s->hostname = arena_strdup(a, u.nodename);
	s->kage_version = arena_strdup(a, kage_version());
	s->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	if (!s->kernel_release || !s->hostname || !s->kage_version)
		return kage_err_nomem();
	TRY(read_string(c, AT_FDCWD, "/proc/sys/kernel/random/boot_id", &s->boot_id));
	TRY(read_string(c, c->target->proc_fd, "comm", &c->process->comm));
	TRY(read_command(c));
	return read_cpu(c);
}
