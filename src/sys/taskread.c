/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The task iterator: loaded or taken from its pin, then run over one process.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "task.lskel.h"

enum { TRIES = 8 };

struct kage_taskread {
	int prog;
	bool was_pinned;
	uint64_t tick_ns;
};

/* --- the program ------------------------------------------------------------------------------- */

static struct kage_err *load(int *ret_prog)
{
	struct task_bpf *skel;
	int num;

	errno = 0;
	skel = task_bpf__open_and_load();
	num = errno;
	if (!skel && (num == EPERM || num == EACCES))
		return kage_err_new(KAGE_PERM, "reading threads without stopping them needs root "
					       "(CAP_BPF and CAP_PERFMON)");
	if (!skel && num == ENOMEM)
		return kage_err_nomem();
	if (!skel)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "this kernel does not take the BPF task iterator (%s), which "
				    "reads threads without stopping them",
				    strerror(num));
	*ret_prog = fcntl(skel->progs.kage_task.prog_fd, F_DUPFD_CLOEXEC, 3);
	num = errno;
	task_bpf__destroy(skel);
	return *ret_prog < 0 ? kage_err_sys(num, "duplicate a descriptor") : NULL;
}

/* Timeouts that are counted in ticks are found as such; the coarse clocks advance once a tick. */
static uint64_t tick_ns(void)
{
	struct timespec ts;

	if (clock_getres(CLOCK_MONOTONIC_COARSE, &ts) < 0 || ts.tv_sec || !ts.tv_nsec)
		return 10000000;
	return (uint64_t)ts.tv_nsec;
}

static const struct kage_iter_program program = { "kage_task", TASK_BPF_HASH, load };

struct kage_err *kage_taskread_open(const char *pins, struct kage_taskread **ret_reader)
{
	_cleanup_fd_ int prog = -1;
	struct kage_taskread *r;
	bool was_pinned;

	TRY(kage_iter_open(pins, &program, &prog, &was_pinned));
	r = calloc(1, sizeof(*r));
	if (!r)
		return kage_err_nomem();
	r->prog = take_fd(&prog);
	r->was_pinned = was_pinned;
	r->tick_ns = tick_ns();
	*ret_reader = r;
	return NULL;
}

bool kage_taskread_was_pinned(const struct kage_taskread *reader)
{
	return reader->was_pinned;
}

void kage_taskread_close(struct kage_taskread *reader)
{
	if (!reader)
		return;
	close(reader->prog);
	free(reader);
}

/* --- reading ------------------------------------------------------------------------------------- */

/* Kernels that do not know the parameter visit every thread there is. */
static struct kage_err *check_tgid(const char *buf, size_t size, pid_t tgid)
{
	struct kage_task_thread t;

	if (size < sizeof(struct task_record) + sizeof(t))
		return NULL;
	memcpy(&t, buf + sizeof(struct task_record), sizeof(t));
	if (t.tgid == tgid)
		return NULL;
	return kage_err_new(KAGE_UNSUPPORTED,
			    "this kernel's task iterator cannot visit one process alone");
}

static struct kage_err *read_once(const struct kage_taskread *r, pid_t tgid,
				  struct kage_taskinfo **ret_info)
{
	_cleanup_free_ char *buf = NULL;
	size_t size;

	TRY(kage_iter_read_process(r->prog, tgid, &buf, &size));
	TRY(check_tgid(buf, size, tgid));
	return kage_taskinfo_parse(buf, size, r->tick_ns, ret_info);
}

struct kage_err *kage_taskread_read(const struct kage_taskread *reader, pid_t tgid,
				    struct kage_taskinfo **ret_info)
{
	for (int i = 0; i < TRIES; i++) {
		struct kage_taskinfo *info;

		TRY_WRAP(read_once(reader, tgid, &info), "read threads of process %d", tgid);
		if (!info->torn) {
			*ret_info = info;
			return NULL;
		}
		kage_taskinfo_free(info);
	}
	return kage_err_new(KAGE_BUSY, "signals of process %d come and go too fast to be read",
			    tgid);
}
