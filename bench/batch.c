/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A batch of 1,000 getppid calls in a stopped process, beside 1,000 that a program makes by itself.
 * Prints microseconds: the batch, the direct calls.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kage/kage.h>

#include "base/cleanup.h"
#include "common.h"
#include "target/batch.h"

enum { CALLS = 1000 };

static void must(struct kage_err *e)
{
	if (!e)
		return;
	fprintf(stderr, "batch: %s\n", kage_err_message(e));
	exit(1);
}

static double direct(void)
{
	uint64_t begin = now_ns();

	for (int i = 0; i < CALLS; i++)
		syscall(SYS_getppid);
	return (double)(now_ns() - begin) / 1e3;
}

static double batched(struct kage_target *t, pid_t parent)
{
	struct kage_batch b;
	uint64_t begin;

	kage_batch_init(&b);
	for (int i = 0; i < CALLS; i++)
		BATCH(&b, "getppid", SYS_getppid, V(0));
	must(kage_target_freeze(t, &(struct kage_freeze){ .stop_all = true }));
	must(kage_target_read_threads(t));
	begin = now_ns();
	must(kage_batch_run(t, t->threads[0], &b));
	begin = now_ns() - begin;
	kage_target_thaw(t, false);
	for (int i = 0; i < CALLS; i++)
		if (kage_batch_result(&b, (size_t)i) != parent)
			exit(1);
	kage_batch_deinit(&b);
	return (double)begin / 1e3;
}

int main(void)
{
	struct kage_target *t;
	struct kage_ctx *ctx;
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	must(kage_ctx_create(&ctx));
	must(kage_target_open(ctx, pid, &t));
	printf("%.1f %.1f\n", batched(t, getpid()), direct());
	kage_target_close(t);
	kage_ctx_destroy(ctx);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}
