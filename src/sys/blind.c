/* SPDX-License-Identifier: Apache-2.0 */
#include "sys/blind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "blind.lskel.h"
#include "sys/bpf/blind_record.h"
#include "sys/iter.h"

struct kage_blind {
	struct blind_bpf *bpf;
	struct kage_blind_shared *shared;
	int events[2];     /* of the programs that are attached by them */
	uint64_t missed;   /* runs of the programs that the kernel left out, as of the last turn */
	bool missed_some;  /* since the turn before the last one */
	bool missed_later; /* since the last one */
};

/* --- making and unmaking ---------------------------------------------------------------------- */

/* The type of events for functions of the kernel; -1 without them. */
static int kprobe_type(void)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct kage_err *e = kage_file_slurp(AT_FDCWD, "/sys/bus/event_source/devices/kprobe/type",
					     64, &text, &size);
	int type = e ? -1 : atoi(text);

	err_drop(e);
	return type;
}

/* Runs PROGRAM whenever FUNCTION of the kernel is called; the event, or -1. */
static int probe(const char *function, int program)
{
	struct perf_event_attr attr = {
		.type = (uint32_t)kprobe_type(),
		.size = sizeof(attr),
		.config1 = (uint64_t)(uintptr_t)function,
	};
	/* The program runs on all processors, whichever the event is of. */
	int fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	int num;

	if (fd < 0)
		return -1;
	if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, program) == 0 &&
	    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0) == 0)
		return fd;
	num = errno;
	close(fd);
	errno = num;
	return -1;
}

static struct kage_err *attach(struct kage_blind *b)
{
	struct blind_bpf *bpf = b->bpf;
	const char *what = "copy_vma";

	if (blind_bpf__kage_moved__attach(bpf) > 0 && blind_bpf__kage_protected__attach(bpf) > 0 &&
	    blind_bpf__kage_cleared__attach(bpf) > 0) {
		what = "get_user_pages_remote";
		b->events[0] = probe(what, bpf->progs.kage_got.prog_fd);
		b->events[1] = probe("pin_user_pages_remote", bpf->progs.kage_pinned.prog_fd);
		if (b->events[0] >= 0 && b->events[1] >= 0)
			return NULL;
	}
	return kage_err_new(errno == EPERM || errno == EACCES ? KAGE_PERM : KAGE_UNSUPPORTED,
			    "no BPF program can be attached to %s() in the kernel: %s", what,
			    strerror(errno));
}

static struct kage_err *load(struct kage_blind *b)
{
	errno = 0;
	b->bpf = blind_bpf__open_and_load();
	if (!b->bpf)
		return kage_err_new(errno == EPERM || errno == EACCES ? KAGE_PERM
								      : KAGE_UNSUPPORTED,
				    "the BPF programs for soft-dirty bits cannot be loaded: %s",
				    strerror(errno));
	b->shared = mmap(NULL, sizeof(*b->shared), PROT_READ | PROT_WRITE, MAP_SHARED,
			 b->bpf->maps.shared.map_fd, 0);
	if (b->shared == MAP_FAILED)
		return kage_err_sys(errno, "map memory of a BPF program");
	return attach(b);
}

struct kage_err *kage_blind_open(struct kage_blind **ret_blind)
{
	struct kage_blind *b = calloc(1, sizeof(*b));
	struct kage_err *e;

	if (!b)
		return kage_err_nomem();
	b->shared = MAP_FAILED;
	b->events[0] = b->events[1] = -1;
	e = load(b);
	if (e) {
		kage_blind_close(b);
		return e;
	}
	*ret_blind = b;
	return NULL;
}

void kage_blind_close(struct kage_blind *b)
{
	if (!b)
		return;
	if (b->shared != MAP_FAILED)
		munmap(b->shared, sizeof(*b->shared));
	close_fd(b->events[0]);
	close_fd(b->events[1]);
	blind_bpf__destroy(b->bpf);
	free(b);
}

/* --- whose ---------------------------------------------------------------------------------------- */

struct kage_err *kage_blind_watch(struct kage_blind *b, pid_t pid, bool *ret_new)
{
	_cleanup_free_ char *buf = NULL;
	uint64_t mm = 0;
	size_t size;

	TRY(kage_iter_read_thread(b->bpf->progs.kage_mm.prog_fd, pid, &buf, &size));
	if (size >= sizeof(mm))
		memcpy(&mm, buf, sizeof(mm));
	*ret_new = !mm || mm != b->shared->mm;
	__atomic_store_n(&b->shared->mm, mm, __ATOMIC_SEQ_CST);
	return NULL;
}

uint64_t kage_blind_cleared(const struct kage_blind *b)
{
	return __atomic_load_n(&b->shared->n_cleared, __ATOMIC_SEQ_CST);
}

/* --- the logs ------------------------------------------------------------------------------------- */

/* How often the kernel has left out a program, because it was running already on that processor. */
static uint64_t missed_by(int prog)
{
	struct bpf_prog_info info = { 0 };
	union bpf_attr attr = { 0 };

	attr.info.bpf_fd = (uint32_t)prog;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uint64_t)(uintptr_t)&info;
	return skel_sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) == 0
		       ? info.recursion_misses
		       : UINT64_MAX;
}

static void count_missed(struct kage_blind *b)
{
	uint64_t n = missed_by(b->bpf->progs.kage_moved.prog_fd) +
		     missed_by(b->bpf->progs.kage_protected.prog_fd) +
		     missed_by(b->bpf->progs.kage_cleared.prog_fd);

	b->missed_later |= n != b->missed;
	b->missed = n;
}

void kage_blind_turn(struct kage_blind *b)
{
	uint64_t other = !b->shared->now;

	count_missed(b);
	b->missed_some = b->missed_later;
	b->missed_later = false;
	__atomic_store_n(&b->shared->logs[other].n, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&b->shared->now, other, __ATOMIC_SEQ_CST);
}

static int by_start(const void *a, const void *b)
{
	const struct kage_range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

size_t kage_ranges_join(struct kage_range *ranges, size_t n)
{
	size_t left = 0;

	qsort(ranges, n, sizeof(*ranges), by_start);
	for (size_t i = 0; i < n; i++) {
		struct kage_range r = ranges[i];

		if (r.start >= r.end)
			continue;
		if (left && r.start <= ranges[left - 1].end) {
			if (r.end > ranges[left - 1].end)
				ranges[left - 1].end = r.end;
			continue;
		}
		ranges[left++] = r;
	}
	return left;
}

size_t kage_ranges_find(const struct kage_range *ranges, size_t n, uint64_t address)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (ranges[mid].end <= address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct kage_err *kage_blind_read(struct kage_blind *b, struct kage_range **ret_ranges,
				 size_t *ret_n, bool *ret_all)
{
	struct kage_range *ranges;
	uint64_t n[2], all = 0;

	for (int i = 0; i < 2; i++) {
		uint64_t told = __atomic_load_n(&b->shared->logs[i].n, __ATOMIC_SEQ_CST);

		n[i] = told < BLIND_RANGES ? told : BLIND_RANGES;
		all |= told > BLIND_RANGES;
	}
	ranges = calloc(n[0] + n[1] + 1, sizeof(*ranges));
	if (!ranges)
		return kage_err_nomem();
	_Static_assert(sizeof(*ranges) == sizeof(struct kage_blind_range), "the same");
	memcpy(ranges, b->shared->logs[0].ranges, n[0] * sizeof(*ranges));
	memcpy(ranges + n[0], b->shared->logs[1].ranges, n[1] * sizeof(*ranges));
	count_missed(b);
	*ret_n = kage_ranges_join(ranges, n[0] + n[1]);
	*ret_ranges = ranges;
	*ret_all = all || b->missed_some || b->missed_later;
	return NULL;
}
