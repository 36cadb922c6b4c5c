/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The many small settings of a process and of its threads: limits, umask, working directory,
 * personality, nice, policy, processors, ioprio, OOM score, timer slack, dumpable, death signal …
 */
#include <linux/ioprio.h>
#include <pthread.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "lib/kindtest.h"

static pthread_barrier_t ready;
static volatile int leave;

/* Where setting fails for want of a right or a feature, the value stays as it was and is compared
 * all the same. */
static void *thread(void *arg)
{
	struct sched_param param = { 0 };
	cpu_set_t one, now;

	(void)arg;
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	sched_setaffinity(0, sizeof(one), &one);
	sched_setscheduler(0, SCHED_BATCH, &param);
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 11);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
	prctl(PR_SET_TIMERSLACK, 77777);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	KT(sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_EQUAL(&now, &one));
	KT(sched_getscheduler(0) == SCHED_BATCH);
	KT(getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid)) == 11);
	KT(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) ==
	   IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
	KT(prctl(PR_GET_TIMERSLACK) == 77777);
	{
		int s = 0;

		KT(prctl(PR_GET_PDEATHSIG, &s) == 0 && s == SIGUSR1, "%d", s);
	}
	return NULL;
}

static void *real_time(void *arg)
{
	struct sched_param param = { .sched_priority = 5 };
	int policy, set;

	(void)arg;
	set = sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param);
	policy = sched_getscheduler(0);
	pthread_barrier_wait(&ready);
	while (!leave)
		kt_nap(10);
	KT(sched_getscheduler(0) == policy);
	KT(sched_getparam(0, &param) == 0 && (set < 0 || param.sched_priority == 5));
	return NULL;
}

struct state {
	struct rlimit limits[RLIM_NLIMITS];
	int personality, nice, policy, dumpable, subreaper, slack, pdeathsig, flusher;
	long ioprio;
	char oom[32], filter[32], cwd[4096], comm[32], bounds[512];
	char environ[16384], auxv[4096];
	mode_t mask;
	cpu_set_t cpus;
	pid_t pid;
};

/* Where code, data, heap, stack, arguments and environment are: the fields of stat(5) that tell it. */
static void look_at_bounds(char *to, size_t size)
{
	static char text[4096];
	const char *at = strrchr(kt_slurp("/proc/self/stat", text, sizeof(text)), ')');
	size_t n = 0;

	for (int field = 2; at && n < size; field++, at = strchr(at + 1, ' '))
		if ((field >= 26 && field <= 28) || (field >= 45 && field <= 51))
			n += (size_t)snprintf(to + n, size - n, "%.*s",
					      (int)(1 + strcspn(at + 1, " \n")), at);
}

static void look(struct state *s)
{
	memset(s, 0, sizeof(*s));
	for (int i = 0; i < RLIM_NLIMITS; i++)
		getrlimit(i, &s->limits[i]);
	s->personality = personality(0xffffffff);
	s->nice = getpriority(PRIO_PROCESS, 0);
	s->policy = sched_getscheduler(0);
	s->dumpable = prctl(PR_GET_DUMPABLE);
	prctl(PR_GET_CHILD_SUBREAPER, &s->subreaper);
	s->slack = prctl(PR_GET_TIMERSLACK);
	prctl(PR_GET_PDEATHSIG, &s->pdeathsig);
	s->flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
	s->ioprio = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
	kt_slurp("/proc/self/oom_score_adj", s->oom, sizeof(s->oom));
	kt_slurp("/proc/self/coredump_filter", s->filter, sizeof(s->filter));
	kt_slurp("/proc/self/comm", s->comm, sizeof(s->comm));
	if (!getcwd(s->cwd, sizeof(s->cwd)))
		strcpy(s->cwd, "?");
	kt_slurp("/proc/self/environ", s->environ, sizeof(s->environ));
	kt_slurp("/proc/self/auxv", s->auxv, sizeof(s->auxv));
	look_at_bounds(s->bounds, sizeof(s->bounds));
	s->mask = umask(0);
	umask(s->mask);
	sched_getaffinity(0, sizeof(s->cpus), &s->cpus);
	s->pid = getpid();
}

static void write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		errno = 0;
	close(fd);
}

#define SAME(field) \
	KT(before.field == after.field, "%ld was %ld", (long)after.field, (long)before.field)
#define SAME_TEXT(field) \
	KT(strcmp(before.field, after.field) == 0, "'%s' was '%s'", after.field, before.field)

int main(void)
{
	static struct state before, after;
	struct rlimit files = { 333, 777 }, core = { 4096, 1 << 20 }, stack = { 6 << 20, 1 << 30 };
	static char text[65536], exe[4096], exe_after[4096], cmdline[4096];
	pthread_t threads[2];

	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &core);
	setrlimit(RLIMIT_STACK, &stack);
	umask(0137);
	personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS);
	setpriority(PRIO_PROCESS, 0, 3);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6));
	write_to("/proc/self/oom_score_adj", "321");
	write_to("/proc/self/coredump_filter", "0x7f");
	prctl(PR_SET_TIMERSLACK, 123456);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	prctl(PR_SET_NAME, "attributes x y");
	KT_NEED(mkdir("in here", 0755) == 0 || errno == EEXIST);
	KT_NEED(chdir("in here") == 0);
	pthread_barrier_init(&ready, NULL, 3);
	KT_NEED(pthread_create(&threads[0], NULL, thread, NULL) == 0);
	KT_NEED(pthread_create(&threads[1], NULL, real_time, NULL) == 0);
	pthread_barrier_wait(&ready);
	prctl(PR_SET_DUMPABLE, 0);
	look(&before);
	KT_NEED(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	kt_slurp("/proc/self/cmdline", text, sizeof(text));

	kt_say("ready\n");
	while (!kt_told("../go"))
		kt_nap(10);

	look(&after);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		KT(before.limits[i].rlim_cur == after.limits[i].rlim_cur &&
			   before.limits[i].rlim_max == after.limits[i].rlim_max,
		   "limit %d: %lu/%lu was %lu/%lu", i, after.limits[i].rlim_cur,
		   after.limits[i].rlim_max, before.limits[i].rlim_cur, before.limits[i].rlim_max);
	SAME(personality);
	SAME(nice);
	SAME(policy);
	SAME(dumpable);
	SAME(subreaper);
	SAME(slack);
	SAME(pdeathsig);
	SAME(flusher);
	SAME(ioprio);
	SAME(mask);
	SAME(pid);
	SAME_TEXT(oom);
	SAME_TEXT(filter);
	SAME_TEXT(cwd);
	SAME_TEXT(comm);
	SAME_TEXT(bounds);
	KT(memcmp(before.environ, after.environ, sizeof(before.environ)) == 0);
	KT(memcmp(before.auxv, after.auxv, sizeof(before.auxv)) == 0);
	KT(CPU_EQUAL(&before.cpus, &after.cpus));
	KT(readlink("/proc/self/exe", exe_after, sizeof(exe_after) - 1) > 0);
	KT(strcmp(exe, exe_after) == 0, "executable '%s' was '%s'", exe_after, exe);
	kt_slurp("/proc/self/cmdline", cmdline, sizeof(cmdline));
	KT(strcmp(text, cmdline) == 0, "command line '%s' was '%s'", cmdline, text);
	leave = 1;
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	kt_end();
}
