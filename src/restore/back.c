/* SPDX-License-Identifier: Apache-2.0 */
#include "restore/back.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "kind/files.h"
#include "kind/memory.h"
#include "restore/restore.h"
#include "sys/text.h"

enum { CODE_BYTES = 4096, MARGIN_BYTES = 16 << 20, SIGNALS_AT_ONCE = 16 };

static const uint64_t user_floor = 1ull << 24;
static const uintptr_t in_hand = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;

struct kage_err *back_flush(struct back *k)
{
	struct kage_batch *b = &k->calls;
	struct kage_err *e = b->n ? kage_batch_run(k->program, k->program->threads[0], b) : NULL;

	kage_batch_reset(b);
	return e;
}

struct kage_err *back_flush_long(struct back *k)
{
	return k->calls.n >= BACK_CALLS_AT_ONCE ? back_flush(k) : NULL;
}

/* --- looking ---------------------------------------------------------------------------------- */

/* clone(2): a number can be chosen with one of two capabilities, which are the program's own here. */
static struct kage_err *check_missing(const struct back *k)
{
	const uint64_t enough = 1ull << CAP_SYS_ADMIN | 1ull << CAP_CHECKPOINT_RESTORE;
	const Kage__Process *p = k->r->process;

	for (size_t i = 0; i < p->n_threads; i++)
		if (!kage_target_thread(k->program, p->threads[i]->tid) &&
		    !(p->credentials->cap_effective & enough))
			return kage_err_new(
				KAGE_PERM,
				"thread %d has ended since, and the program may not make one with its number "
				"(CAP_CHECKPOINT_RESTORE); wake the twin instead",
				p->threads[i]->tid);
	return NULL;
}

static struct kage_err *check_threads(const struct back *k)
{
	const struct kage_target *t = k->program;

	if (t->inner_pid)
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"process %d is in a PID namespace of its own: such programs cannot go "
			"back in place yet; wake the twin instead",
			t->pid);
	TRY(check_missing(k));
	for (size_t i = 0; i < t->n_threads; i++)
		if (t->threads[i]->job_stopped)
			return kage_err_new(
				KAGE_BUSY,
				"process %d is stopped; let it go on first (kill -CONT %d)", t->pid,
				t->pid);
	return NULL;
}

static struct kage_err *check_kinds(struct kage_restore *r)
{
	for (const struct kage_kind *const *kind = kage_kinds; *kind; kind++)
		if ((*kind)->check_back)
			TRY((*kind)->check_back(r));
	return NULL;
}

/* Those of the kernel's that are left of an io_uring(7) which is closed are nobody's business. */
static void drop_kernels(struct kage_target *t)
{
	while (t->n_threads > t->n_own) {
		struct kage_thread *thread = t->threads[--t->n_threads];

		ptrace(PTRACE_DETACH, thread->tid, NULL, NULL);
		kage_thread_free(thread);
	}
}

/* Of proc_pid_limits(5), which unlike prlimit(2) shows those of other users: name, soft and hard limit, unit. */
static struct kage_err *read_limit(struct back *k)
{
	_cleanup_free_ char *text = NULL;
	const char *at;
	size_t size;

	TRY(kage_file_slurp(k->program->proc_fd, "limits", 1 << 16, &text, &size));
	at = strstr(text, "Max open files");
	if (!at || sscanf(at, "Max open files %*u %" SCNu64, &k->max_fds) != 1)
		return kage_err_new(KAGE_CORRUPT, "/proc/%d/limits is not understood",
				    k->program->pid);
	return NULL;
}

/* Descriptors that are made anew are on their way under numbers above all others. */
static struct kage_err *check_room(struct back *k)
{
	const uint64_t most = (uint64_t)k->floor + k->r->image->msg->n_descriptions + 64;

	TRY(read_limit(k));
	return k->max_fds >= most
		       ? NULL
		       : kage_err_new(
				 KAGE_LIMIT,
				 "it may not have descriptors as high as %llu, which is needed for "
				 "the moment (RLIMIT_NOFILE: %llu)",
				 (unsigned long long)most, (unsigned long long)k->max_fds);
}

static struct kage_err *look(struct back *k)
{
	TRY(check_threads(k));
	TRY(check_kinds(k->r));
	TRY(kage_files_put_back(k->r));
	TRY(back_read_maps(k, &k->now));
	TRY(kage_fds_back_look(k->r, k->then->fds, k->then->n_fds, &k->fds));
	TRY(back_check_seals(k));
	drop_kernels(k->program);
	k->floor = kage_fds_back_floor(k->fds);
	TRY(check_room(k));
	return back_find_spaces(k);
}

/* --- the hand --------------------------------------------------------------------------------- */

/* The program must not act on signals, and its filters must not hit what it is made to do. */
static struct kage_err *take(struct back *k)
{
	struct kage_target *t = k->program;

	k->masks = calloc(t->n_threads + 1, sizeof(*k->masks));
	if (!k->masks)
		return kage_err_nomem();
	for (size_t i = 0; i < t->n_threads; i++)
		k->masks[i] = t->threads[i]->sigmask;
	for (size_t i = 0; i < t->n_threads; i++) {
		pid_t tid = t->threads[i]->tid;

		if (ptrace(PTRACE_SETOPTIONS, tid, NULL,
			   (void *)(in_hand | PTRACE_O_SUSPEND_SECCOMP)) < 0 &&
		    ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)in_hand) < 0)
			return kage_err_sys(errno, "take thread %d in hand", tid);
		TRY(kage_thread_set_mask(t->threads[i], ~0ull));
	}
	return NULL;
}

/* One call of the leader, before there is room for a batch. */
static struct kage_err *one_call(struct back *k, long number, const uint64_t args[6],
				 int64_t *ret_result)
{
	struct kage_thread *leader = k->program->threads[0];
	_cleanup_free_ struct kage_regs *regs = calloc(1, sizeof(*regs));

	if (!regs)
		return kage_err_nomem();
	kage_arch_enter_syscall(&leader->regs, k->syscall_at, (uint64_t)number, args, regs);
	TRY(kage_arch_set_regs(leader->tid, false, regs));
	TRY(kage_target_step_syscall(k->program, leader));
	TRY(kage_target_step_syscall(k->program, leader));
	TRY(kage_arch_get_regs(leader->tid, false, regs));
	*ret_result = kage_arch_result(regs);
	return NULL;
}

static struct kage_err *map(struct back *k, uint64_t at, uint64_t bytes, int prot)
{
	const uint64_t args[6] = { at,
				   bytes,
				   (uint64_t)prot,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				   (uint64_t)-1,
				   0 };
	int64_t result;

	TRY(one_call(k, SYS_mmap, args, &result));
	return result == (int64_t)at ? NULL
				     : kage_err_sys(result < 0 ? (int)-result : EEXIST,
						    "map %llu bytes in process %d",
						    (unsigned long long)bytes, k->program->pid);
}

static struct kage_err *find_room(struct back *k)
{
	size_t bytes = 0;
	uint64_t at;

	TRY(restore_area_bytes(k->r->image, &bytes));
	bytes = CODE_BYTES + page_ceil(bytes);
	at = kage_maps_common_hole(&k->now, &k->then->maps, bytes, MARGIN_BYTES, user_floor,
				   KAGE_ARCH_USER_CEILING);
	if (!at)
		return kage_err_new(KAGE_LIMIT, "no room for %zu bytes beside its memory", bytes);
	k->hand = (struct stub_area){ .base = (uint8_t *)(uintptr_t)at, .bytes = bytes };
	return NULL;
}

static struct kage_err *lay_hand(struct back *k)
{
	uint64_t base = (uint64_t)(uintptr_t)k->hand.base;
	struct kage_site *s;
	const void *code;
	size_t size;

	TRY(map(k, base, CODE_BYTES, PROT_READ | PROT_EXEC));
	TRY(map(k, base + CODE_BYTES, k->hand.bytes - CODE_BYTES, PROT_READ | PROT_WRITE));
	code = kage_arch_runner(&size);
	TRY(kage_target_write_forced(k->program, addr(base), code, size));
	s = calloc(1, sizeof(*s));
	if (!s)
		return kage_err_nomem();
	s->runner = base;
	s->area = base + CODE_BYTES;
	s->area_bytes = k->hand.bytes - CODE_BYTES;
	k->program->site = s;
	return stub_choose_event(k->r, &s->event_signal);
}

/* Nothing was changed yet: the program goes on as if nothing had been. */
static void let_go(struct back *k)
{
	struct kage_target *t = k->program;
	const uint64_t args[6] = { (uint64_t)(uintptr_t)k->hand.base, k->hand.bytes };
	int64_t result;

	if (k->hand.base)
		err_drop(one_call(k, SYS_munmap, args, &result));
	if (k->hand.base) {
		err_drop(kage_target_settle(t, t->threads[0]));
		err_drop(kage_arch_set_regs(t->threads[0]->tid, false, &t->threads[0]->regs));
	}
	for (size_t i = 0; k->masks && i < t->n_threads; i++) {
		err_drop(kage_thread_set_mask(t->threads[i], k->masks[i]));
		ptrace(PTRACE_SETOPTIONS, t->threads[i]->tid, NULL,
		       (void *)(uintptr_t)PTRACE_O_TRACESYSGOOD);
	}
	kage_site_destroy(take_ptr(t->site));
}

/* --- descriptors for the program -------------------------------------------------------------- */

/* Their numbers are higher than it may want to have; its own limit comes back with the image's. */
static void say_limit(const struct back *k, struct kage_batch *b)
{
	const struct rlimit l = { k->max_fds, k->max_fds };

	BATCH(b, "raise the limit of open files", SYS_prlimit64, V(0), V(RLIMIT_NOFILE),
	      DATA(kage_batch_data(b, &l, sizeof(l))), V(0));
}

static struct kage_err *connect_to_it(struct back *k)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	size_t pair;
	int theirs[2];

	kage_batch_init(&b);
	say_limit(k, &b);
	pair = kage_batch_data(&b, NULL, 2 * sizeof(int) + sizeof(int64_t));
	BATCH(&b, "make a pair of sockets", SYS_socketpair, V(AF_UNIX), V(SOCK_STREAM), V(0),
	      DATA(pair));
	BATCH(&b, "put a socket out of the way", SYS_dup3, LOAD(pair), V(k->floor), V(0));
	BATCH(&b, "close a socket", SYS_close, LOAD(pair));
	TRY(kage_batch_run(k->program, k->program->threads[0], &b));
	memcpy(theirs, kage_batch_bytes(&b, pair), sizeof(theirs));
	TRY(kage_target_get_fd(k->program, theirs[1], &k->here));
	kage_batch_reset(&b);
	BATCH(&b, "close a socket", SYS_close, V(theirs[1]));
	return kage_batch_run(k->program, k->program->threads[0], &b);
}

static struct kage_err *give_some(struct back *k, const int *fds, size_t n, int first)
{
	_cleanup_(kage_batch_deinit) struct kage_batch b;
	size_t at;

	kage_batch_init(&b);
	TRY(kage_twin_send(k->here, fds, n));
	kage_twin_say_receive(&b, k->floor, n, &at);
	for (size_t i = 0; i < n; i++) {
		BATCH(&b, "put a descriptor out of the way", SYS_dup3, LOAD(at + i * sizeof(int)),
		      V(first + (int)i), V(0));
		BATCH(&b, "close a descriptor", SYS_close, LOAD(at + i * sizeof(int)));
	}
	return kage_batch_run(k->program, k->program->threads[0], &b);
}

struct kage_err *back_give(struct back *k, const int *fds, size_t n, int *ret_first)
{
	TRY(back_flush(k));
	if (k->here < 0)
		TRY(connect_to_it(k));
	*ret_first = k->floor + 1 + k->n_there;
	for (size_t at = 0, some; at < n; at += some) {
		some = n - at < KAGE_TWIN_GIVE_MOST ? n - at : KAGE_TWIN_GIVE_MOST;
		TRY(give_some(k, fds + at, some, *ret_first + (int)at));
	}
	k->n_there += (int)n;
	return NULL;
}

static struct kage_err *give_descriptors(struct back *k, int *there)
{
	size_t n = k->r->image->msg->n_descriptions, n_given = 0;
	_cleanup_free_ int *given = calloc(n + 1, sizeof(*given));
	int first = 0;

	if (!given)
		return kage_err_nomem();
	for (size_t i = 0; i < n; i++) {
		int ours = kage_fds_back_ours(k->r, k->fds, i);

		there[i] = ours < 0 ? -1 : (int)n_given;
		if (ours >= 0)
			given[n_given++] = ours;
	}
	if (n_given)
		TRY(back_give(k, given, n_given, &first));
	for (size_t i = 0; i < n; i++)
		there[i] += there[i] < 0 ? 0 : first;
	k->result.n_made = n_given;
	return NULL;
}

static struct kage_err *place_descriptors(struct back *k)
{
	_cleanup_free_ int *there = calloc(k->r->image->msg->n_descriptions + 1, sizeof(*there));

	if (!there)
		return kage_err_nomem();
	TRY(give_descriptors(k, there));
	TRY(kage_fds_back_settle(k->r));
	return kage_fds_back_place(k->r, k->fds, there, &k->calls);
}

/* --- steps ------------------------------------------------------------------------------------ */

/* Returns the last call. */
static size_t say_drain(struct kage_batch *b)
{
	const uint64_t all = ~0ull, no_time[2] = { 0 };
	size_t set = kage_batch_data(b, &all, sizeof(all)), last = 0;
	size_t time = kage_batch_data(b, no_time, sizeof(no_time));

	for (int i = 0; i < SIGNALS_AT_ONCE; i++)
		last = BATCH_TRY(b, "take a signal", SYS_rt_sigtimedwait, DATA(set), V(0),
				 DATA(time), V(sizeof(all)));
	return last;
}

/* Takes what waits for THREAD, or for the program, until nothing does. */
static struct kage_err *drain(struct back *k, struct kage_thread *thread)
{
	bool more = true;

	while (more) {
		_cleanup_(kage_batch_deinit) struct kage_batch b;
		size_t last;

		kage_batch_init(&b);
		last = say_drain(&b);
		TRY(kage_batch_run(k->program, thread, &b));
		more = kage_batch_result(&b, last) > 0;
	}
	return NULL;
}

/* Mostly nothing waits, and the kernel shows that. */
static struct kage_err *has_waiting(const struct back *k, const struct kage_thread *thread,
				    bool *ret_waiting)
{
	_cleanup_free_ char *text = NULL;
	uint64_t own = ~0ull, shared = ~0ull;
	char path[64];
	size_t size;

	snprintf(path, sizeof(path), "task/%d/status", thread->tid);
	TRY(kage_file_slurp(k->program->proc_fd, path, 1 << 20, &text, &size));
	kage_text_u64(text, "SigPnd", 16, &own);
	kage_text_u64(text, "ShdPnd", 16, &shared);
	*ret_waiting = own || shared;
	return NULL;
}

/* No timer must send one any more. */
static struct kage_err *drain_all(struct back *k)
{
	struct kage_target *t = k->program;

	/* Of the others the timers may send some up to here. */
	if (t->n_threads > 1)
		TRY(back_flush(k));
	for (size_t i = 0; i < t->n_threads; i++) {
		bool waiting;

		TRY(has_waiting(k, t->threads[i], &waiting));
		if (!waiting)
			continue;
		TRY(back_flush(k));
		TRY(drain(k, t->threads[i]));
	}
	return NULL;
}

static struct kage_err *reset(struct back *k)
{
	TRY(back_end_threads(k));
	for (const struct kage_kind *const *kind = kage_kinds; *kind; kind++)
		if ((*kind)->reset)
			TRY_WRAP((*kind)->reset(k->r, &k->calls), "%s", (*kind)->name);
	/* What has come before its timers were stopped. */
	say_drain(&k->calls);
	return NULL;
}

/* Calls that are made while all is as it was; each run takes some stops and goes of a thread. */
static struct kage_err *build(struct back *k)
{
	struct kage_restore *r = k->r;

	TRY(place_descriptors(k));
	TRY(restore_say_step(r, false, &k->calls));
	if (k->program->n_threads > 1 || r->process->n_threads > 1)
		TRY(back_flush(k));
	TRY(back_make_threads(k));
	TRY(restore_say_step(r, true, &k->calls));
	TRY(threads_build(r, &k->calls));
	kage_batch_reset(&k->calls);
	TRY(kage_fds_back_start(r, k->fds));
	return threads_release(r, &k->hand, r->process->stopped);
}

static struct kage_err *change(struct back *k)
{
	struct kage_target *t = k->program;

	t->ours = true;
	/* A batch stands on no stack, and the alternate one cannot be set from itself. */
	for (size_t i = 0; i < t->n_threads; i++)
		kage_arch_set_sp(&t->threads[i]->regs, 0);
	TRY(reset(k));
	TRY(back_memory(k));
	TRY(drain_all(k));
	return build(k);
}

/* The program is half what it was: it must not go on. */
static struct kage_err *end_it(struct back *k, struct kage_err *e)
{
	struct kage_target *t = k->program;

	pidfd_send_signal(t->pidfd, SIGKILL, NULL, 0);
	kage_target_thaw(t, true);
	return kage_err_wrap(e, "it failed in the middle, and the program was ended");
}

static struct kage_err *back(struct back *k)
{
	struct kage_target *t = k->program;
	struct kage_err *e;

	k->r->stub = t;
	e = look(k);
	if (!e)
		e = kage_fds_back_make(k->r, k->fds);
	if (!e)
		e = restore_find_syscall(k->r, &k->syscall_at);
	if (!e)
		e = take(k);
	if (!e)
		e = find_room(k);
	if (!e)
		e = lay_hand(k);
	if (e) {
		let_go(k);
		kage_target_thaw(t, false);
		return e;
	}
	e = change(k);
	return e ? end_it(k, e) : NULL;
}

static void deinit(struct back *k)
{
	kage_maps_deinit(&k->now);
	kage_fds_back_destroy(k->fds);
	kage_batch_deinit(&k->calls);
	close_fd(k->here);
	free(k->masks);
	free(k->has_space);
}

static struct kage_err *freeze(struct kage_target *t)
{
	const struct kage_freeze how = { .stop_all = true };
	struct kage_err *e = kage_target_freeze(t, &how);

	if (!e)
		e = kage_target_read_threads(t);
	if (e)
		kage_target_thaw(t, false);
	return e;
}

void kage_back_untrack(struct back_tracking *tracking)
{
	kage_tracker_destroy(tracking->tracker);
	kage_vmaread_close(tracking->vmas);
	*tracking = (struct back_tracking){ 0 };
}

struct kage_err *kage_back(struct kage_ctx *ctx, struct kage_target *program,
			   struct kage_image *image, struct kage_twin *twin,
			   struct cloned_instant *instant, struct back_tracking *tracking,
			   const struct back_options *options, struct back_result *ret_result)
{
	uint64_t begin = kage_clock_mono_ns();
	struct kage_restore r;
	struct back k = {
		.r = &r, .program = program, .then = instant, .tracking = tracking, .here = -1
	};
	struct kage_err *e = restore_init(&r, ctx, image, &options->restore);

	r.twin = twin;
	r.in_place = true;
	r.children.had = instant->children;
	r.children.n_had = instant->n_children;
	r.children.end = options->end_children;
	if (!e)
		e = freeze(program);
	if (!e)
		e = kage_files_settle(&r, back(&k));
	deinit(&k);
	restore_deinit(&r);
	if (e)
		return e;
	k.result.total_ns = kage_clock_mono_ns() - begin;
	k.result.pause_ns = kage_target_pause_ns(program);
	*ret_result = k.result;
	return NULL;
}
