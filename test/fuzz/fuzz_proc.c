/* SPDX-License-Identifier: Apache-2.0 */
/* Files of /proc/PID and /proc. Every parser gets every text. What was understood and is written again
 * as the kernel writes it is understood as the same. */
#include "capture/source.h"
#include "kind/parse.h"
#include "lib/fuzzing.h"
#include "sys/text.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>

static void check_stat(const char *text)
{
	for (int i = 3; i < 60; i++) {
		int32_t n = 0;
		uint64_t u = 0;
		bool is_int = kage_text_stat_int(text, i, &n),
		     is_u64 = kage_text_stat_u64(text, i, &u);

		holds(!is_u64 || is_int == (u <= INT32_MAX));
		holds(!is_int || is_u64 == (n >= 0) || n == 0);
		holds(!is_int || !is_u64 || (uint64_t)n == u);
	}
}

static void check_escapes(struct arena *a, const char *text)
{
	char *plain = arena_strdup(a, text), *escaped, *to;

	kage_text_unescape(plain);
	holds(strlen(plain) <= strlen(text));
	escaped = to = arena_alloc(a, strlen(plain) * 4 + 1);
	for (const char *p = plain; *p; p++)
		if (strchr(" \t\n\\", *p))
			to += sprintf(to, "\\%03o", *p);
		else
			*to++ = *p;
	kage_text_unescape(escaped);
	holds(strcmp(escaped, plain) == 0);
}

static bool parse_credentials(struct arena *a, const char *text, Kage__Credentials *m)
{
	kage__credentials__init(m);
	return !fuzz_refused(kage_credentials_parse(a, text, m));
}

static void check_credentials(struct arena *a, const char *text)
{
	Kage__Credentials m, again;
	char *groups = arena_strdup(a, ""), *status;

	if (!parse_credentials(a, text, &m))
		return;
	for (size_t i = 0; i < m.n_groups && i < 32; i++)
		groups = arena_printf(a, "%s %u", groups, m.groups[i]);
	status = arena_printf(
		a,
		"Uid:\t%u\t%u\t%u\t%u\nGid:\t%u\t%u\t%u\t%u\nGroups:\t%s \n"
		"CapInh:\t%016" PRIx64 "\nCapPrm:\t%016" PRIx64 "\nCapEff:\t%016" PRIx64
		"\nCapBnd:\t%016" PRIx64 "\nCapAmb:\t%016" PRIx64 "\n",
		m.ruid, m.euid, m.suid, m.fsuid, m.rgid, m.egid, m.sgid, m.fsgid, groups,
		m.cap_inheritable, m.cap_permitted, m.cap_effective, m.cap_bounding, m.cap_ambient);
	holds(parse_credentials(a, status, &again));
	holds(again.ruid == m.ruid && again.fsgid == m.fsgid && again.sgid == m.sgid);
	holds(again.n_groups == (m.n_groups < 32 ? m.n_groups : 32));
	for (size_t i = 0; i < again.n_groups; i++)
		holds(again.groups[i] == m.groups[i]);
	holds(again.cap_effective == m.cap_effective && again.cap_ambient == m.cap_ambient);
}

static void check_limits(struct arena *a, const char *text)
{
	Kage__Process p = KAGE__PROCESS__INIT;

	if (!fuzz_refused(kage_limits_parse(a, text, &p)))
		holds(p.n_limits == RLIM_NLIMITS && p.limits[RLIMIT_CORE]->resource == RLIMIT_CORE);
}

static void check_timer(struct arena *a, const Kage__PosixTimer *m)
{
	static const char *const ways[] = { "signal", "none", "thread" };
	Kage__Process p = KAGE__PROCESS__INIT;
	bool tid = m->notify & SIGEV_THREAD_ID;
	char *text = arena_printf(
		a, "ID: %d\nsignal: %u/%016" PRIx64 "\nnotify: %s/%s.%d\nClockID: %d\n", m->id,
		m->signal, m->value, ways[m->notify & 3], tid ? "tid" : "pid", m->thread, m->clock);

	holds(!fuzz_refused(kage_timers_parse(a, text, &p)) && p.n_posix_timers == 1);
	holds(p.posix_timers[0]->id == m->id && p.posix_timers[0]->signal == m->signal &&
	      p.posix_timers[0]->value == m->value && p.posix_timers[0]->notify == m->notify &&
	      p.posix_timers[0]->thread == m->thread && p.posix_timers[0]->clock == m->clock);
}

static void check_timers(struct arena *a, const char *text)
{
	Kage__Process p = KAGE__PROCESS__INIT;

	if (fuzz_refused(kage_timers_parse(a, text, &p)))
		return;
	for (size_t i = 1; i < p.n_posix_timers; i++)
		holds(p.posix_timers[i - 1]->id <= p.posix_timers[i]->id);
	for (size_t i = 0; i < p.n_posix_timers && i < 8; i++)
		check_timer(a, p.posix_timers[i]);
}

static void check_cpu(struct arena *a, const char *text)
{
	Kage__CpuFeatures m = KAGE__CPU_FEATURES__INIT;

	holds(!fuzz_refused(source_parse_cpu(a, text, &m)));
	holds(!strchr(m.model, '\n'));
	for (size_t i = 0; i < m.n_flags; i++)
		holds(!strpbrk(m.flags[i], " \n"));
}

/* The words with their zeros are what was there, but for a zero that may be missing at the end. */
static void check_command(struct arena *a, const uint8_t *data, size_t size)
{
	Kage__Process p = KAGE__PROCESS__INIT;
	char *text = arena_alloc(a, size + 1), *shown;
	size_t at = 0;

	memcpy(text, data, size);
	holds(!fuzz_refused(source_parse_command(a, text, size, &p, &shown)));
	for (size_t i = 0; i < p.n_argv; i++) {
		size_t n = strlen(p.argv[i]) + 1;

		holds(n <= size - at + 1);
		holds(memcmp(data + at, p.argv[i], n < size - at ? n : size - at) == 0);
		at += n;
	}
	holds(at == size || at == size + 1);
	holds(strlen(shown) <= 4096);
}

static void check_mounts(struct arena *a, const char *text)
{
	char *path = kage_inotify_mount(
		a, text, &(struct kage_inotify_line){ .dev_major = 254, .dev_minor = 0 });

	holds(!path || strlen(path) < strlen(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = fuzz_text(data, size);
	_cleanup_(arena_deinit) struct arena a = ARENA_INIT;

	check_stat(text);
	check_escapes(&a, text);
	check_credentials(&a, text);
	check_limits(&a, text);
	check_timers(&a, text);
	check_cpu(&a, text);
	check_mounts(&a, text);
	check_command(&a, data, size);
	return 0;
}
