/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where batches run in a live target: the runner in the unused tail of the vDSO's last page, and an
 * area of memory mapped for the time of the freeze.
 *
 * Should we be killed at any instant here, the thread that was sent into the runner unmaps the
 * area, loads its registers and goes on. What is laid down tells it which area: none until the area
 * is mapped, none again before it is unmapped, so that it never unmaps what somebody else got there
 * since.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "sys/maps.h"
#include "sys/text.h"
#include "target/batch.h"
#include "target/vdso.h"

enum { AREA_MIN_BYTES = 64 * 1024, AREA_MARGIN_BYTES = 1 << 20, VDSO_MAX_BYTES = 1 << 20 };

void kage_site_destroy(struct kage_site *site)
{
	if (!site)
		return;
	free(site->code);
	free(site);
}

/* Signals that the kernel drops when nobody handles them. The first that the target has no handler
 * for serves; 0 when it handles them all, as Go programs do. */
static struct kage_err *choose_signal(struct kage_target *t, int *ret_signal)
{
	static const int candidates[] = { SIGURG, SIGWINCH, SIGCHLD };
	_cleanup_free_ char *text = NULL;
	uint64_t caught;
	size_t size;

	TRY(kage_file_slurp(t->proc_fd, "status", 1 << 20, &text, &size));
	if (!kage_text_u64(text, "SigCgt", 16, &caught))
		return kage_err_new(KAGE_CORRUPT, "/proc/%d/status has no SigCgt", t->pid);
	for (size_t i = 0; i < ARRAY_SIZE(candidates); i++) {
		if (caught & 1ull << (candidates[i] - 1))
			continue;
		*ret_signal = candidates[i];
		return NULL;
	}
	*ret_signal = 0;
	return NULL;
}

static uint64_t runner_start(const struct kage_target *t)
{
	return (t->tail_start + 15) & ~15ull;
}

/* Finds room for SIZE bytes behind the vDSO's contents. What a killed kage left there is overwritten:
 * no thread executes it any more (kage_target_read_threads() saw to that). */
static struct kage_err *find_tail(struct kage_target *t, const struct kage_maps *maps, size_t size,
				  uint64_t *ret_address)
{
	const struct kage_vma *v = kage_maps_named(maps, "[vdso]");
	uint64_t at = runner_start(t);

	if (!v || !t->tail_start || at + size > v->end || page_floor(at) != page_floor(at + size))
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"process %d has no vDSO with room for %zu bytes, where system calls could "
			"be made from",
			t->pid, size);
	*ret_address = at;
	t->site->vdso_start = v->start;
	return NULL;
}

struct kage_err *kage_site_find_zone(struct kage_target *t)
{
	_cleanup_(kage_maps_deinit) struct kage_maps maps = { 0 };
	_cleanup_free_ uint8_t *bytes = NULL;
	const struct kage_vma *v;
	size_t size, code_end, end;

	TRY(kage_maps_read(t->proc_fd, false, &maps));
	v = kage_maps_named(&maps, "[vdso]");
	if (!v || v->end - v->start > VDSO_MAX_BYTES)
		return NULL;
	size = v->end - v->start;
	bytes = malloc(size);
	if (!bytes)
		return kage_err_nomem();
	TRY(kage_target_read(t, addr(v->start), bytes, size));
	if (!kage_vdso_ends(bytes, size, &code_end, &end))
		return NULL;
	t->zone_start = v->start + code_end;
	t->zone_end = v->end;
	t->tail_start = v->start + end;
	return NULL;
}

/* The runner lies at the beginning of the tail, the slots at its end. */
static uint64_t runner_end(const struct kage_target *t)
{
	size_t size;

	kage_arch_runner(&size);
	return runner_start(t) + size;
}

uint64_t kage_site_slot(const struct kage_target *t, size_t i)
{
	uint64_t room =
		t->tail_start && t->zone_end > runner_end(t) ? t->zone_end - runner_end(t) : 0;

	/* All of them in the last page, of which they make one private copy. */
	if (room > KAGE_PAGE_BYTES)
		room = KAGE_PAGE_BYTES;
	return i < room / KAGE_SLOT_BYTES ? t->zone_end - (i + 1) * KAGE_SLOT_BYTES : 0;
}

/* Whether there is something in slots: then the page is the process's own, and has to stay so. */
static struct kage_err *has_slots(struct kage_target *t, bool *ret_has)
{
	uint8_t bytes[KAGE_PAGE_BYTES];
	uint64_t end = runner_end(t), size = t->zone_end - end;

	*ret_has = false;
	if (end >= t->zone_end || size > sizeof(bytes))
		return NULL;
	TRY(kage_target_read(t, addr(end), bytes, size));
	for (size_t i = 0; i < size; i++)
		*ret_has |= bytes[i] != 0;
	return NULL;
}

/* Lays the runner down so that it would restore THREAD and unmap AREA_BYTES at AREA. */
static struct kage_err *lay_down(struct kage_target *t, struct kage_thread *thread, uint64_t area,
				 size_t area_bytes)
{
	struct kage_site *s = t->site;

	kage_arch_runner_prepare(s->code, &(struct kage_return){ .regs = &thread->regs,
								 .sigmask = thread->sigmask,
								 .area = area,
								 .area_bytes = area_bytes });
	s->thread = thread;
	return kage_target_write_forced(t, addr(s->runner), s->code, s->code_size);
}

/* One call at the runner's own system call instruction, behind which it leaves by itself. */
static struct kage_err *one_call(struct kage_target *t, struct kage_thread *thread,
				 struct kage_regs *enter, int64_t *ret_result)
{
	const uint64_t blocked = ~0ull;

	TRY(kage_arch_set_regs(thread->tid, false, enter));
	if (ptrace(PTRACE_SETSIGMASK, thread->tid, (void *)sizeof(blocked), &blocked) < 0)
		return kage_err_sys(errno, "set signal mask of thread %d", thread->tid);
	TRY(kage_target_step_syscall(t, thread));
	TRY(kage_target_step_syscall(t, thread));
	TRY(kage_arch_get_regs(thread->tid, false, enter));
	*ret_result = kage_arch_result(enter);
	return NULL;
}

static struct kage_err *map_area(struct kage_target *t, struct kage_thread *thread, uint64_t at,
				 size_t bytes)
{
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	int64_t result;

	if (!regs)
		return kage_err_nomem();
	kage_arch_enter_mapper(&thread->regs, t->site->runner, at, bytes, regs);
	TRY(one_call(t, thread, regs, &result));
	if (result < 0)
		return kage_err_sys((int)-result, "map %zu bytes in process %d", bytes, t->pid);
	t->site->area = at;
	t->site->area_bytes = bytes;
	return lay_down(t, thread, at, bytes);
}

/* Brings THREAD back to where it was stopped. */
static struct kage_err *put_back(struct kage_target *t, struct kage_thread *thread)
{
	TRY(kage_target_settle(t, thread));
	if (ptrace(PTRACE_SETSIGMASK, thread->tid, (void *)sizeof(thread->sigmask),
		   &thread->sigmask) < 0)
		return kage_err_sys(errno, "set signal mask of thread %d", thread->tid);
	return kage_arch_set_regs(thread->tid, false, &thread->regs);
}

static struct kage_err *make_site(struct kage_target *t)
{
	_cleanup_free_ struct kage_site *s = calloc(1, sizeof(*s));
	const void *code;

	if (!s)
		return kage_err_nomem();
	code = kage_arch_runner(&s->code_size);
	s->live = true;
	TRY(choose_signal(t, &s->event_signal));
	s->code = malloc(s->code_size);
	if (!s->code)
		return kage_err_nomem();
	memcpy(s->code, code, s->code_size);
	t->site = take_ptr(s);
	return NULL;
}

static struct kage_err *enter_live(struct kage_target *t, struct kage_thread *thread, size_t bytes)
{
	_cleanup_(kage_maps_deinit) struct kage_maps maps = { 0 };
	uint64_t hole;

	/* Where its vDSO was known to be there may be anything now. */
	if (kage_target_replaced(t))
		return kage_err_new(KAGE_CHANGED, "process %d has executed another program",
				    t->pid);
	bytes = page_ceil(bytes > AREA_MIN_BYTES ? bytes : AREA_MIN_BYTES);
	if (!t->site)
		TRY(make_site(t));
	if (!t->tail_start) /* it was opened in the middle of execve(2) */
		TRY(kage_site_find_zone(t));
	TRY(kage_maps_read(t->proc_fd, false, &maps));
	TRY(find_tail(t, &maps, t->site->code_size, &t->site->runner));
	hole = kage_maps_hole(&maps, bytes, AREA_MARGIN_BYTES, 1ull << 20, KAGE_ARCH_USER_CEILING);
	if (!hole)
		return kage_err_new(KAGE_LIMIT, "process %d has no room for %zu bytes", t->pid,
				    bytes);
	TRY(lay_down(t, thread, 0, 0));
	return map_area(t, thread, hole, bytes);
}

struct kage_err *kage_site_enter(struct kage_target *t, struct kage_thread *thread, size_t bytes)
{
	struct kage_site *s = t->site;

	if (s && !s->live)
		return bytes <= s->area_bytes
			       ? NULL
			       : kage_err_new(KAGE_LIMIT, "a batch of %zu bytes is too large",
					      bytes);
	if (s && s->area && bytes <= s->area_bytes)
		return s->thread == thread ? NULL : lay_down(t, thread, s->area, s->area_bytes);
	kage_site_leave(t);
	return enter_live(t, thread, bytes);
}

/* Undoes what enter_live() did; goes as far as it can. */
static struct kage_err *leave_live(struct kage_target *t)
{
	struct kage_site *s = t->site;
	struct kage_thread *thread = s->thread, *janitor = NULL;
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));
	_cleanup_free_ uint8_t *zeros = calloc(1, s->code_size);
	const uint64_t args[6] = { s->area, s->area_bytes };
	bool keep = false;
	int64_t result;

	s->page_dropped = false;
	if (!regs || !zeros)
		return kage_err_nomem();
	if (s->area) {
		TRY(lay_down(t, thread, 0, 0));
		kage_arch_enter_mapper(&thread->regs, s->runner, 0, 0, regs);
		kage_arch_enter_syscall(&thread->regs, kage_arch_ip(regs), SYS_munmap, args, regs);
		TRY(one_call(t, thread, regs, &result));
		s->area = 0;
	}
	err_drop(has_slots(t, &keep));
	/* Without it (no right to make a process) the page stays a private copy, zeroed. */
	if (!keep)
		err_drop(kage_janitor_make(t, thread, &janitor));
	TRY(put_back(t, thread));
	if (janitor)
		err_drop(kage_janitor_drop_page(t, janitor));
	return s->page_dropped ? NULL
			       : kage_target_write_forced(t, addr(s->runner), zeros, s->code_size);
}

void kage_site_leave(struct kage_target *t)
{
	if (!t->site || !t->site->live || !t->site->thread)
		return;
	/* One that does not come back from a call goes the runner's own way when it does. */
	if (t->site->thread->attached && t->site->thread->stopped)
		err_drop(leave_live(t));
	t->site->thread = NULL;
	t->site->area = 0;
}
