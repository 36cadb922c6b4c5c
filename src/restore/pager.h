/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pager: a process that brings the pages of a program that was restored lazily. See pager.c.
 */
#ifndef RESTORE_PAGER_H
#define RESTORE_PAGER_H

#include <linux/userfaultfd.h>

#include "kind/kind.h"
#include "target/target.h"

enum { PAGER_LOG_MAX = 1 << 18 };

/* What a userfaultfd told, and of which space. */
struct pager_message {
	uint32_t space;
	struct uffd_msg msg;
};

/* Shared by the pagers that follow each other. */
struct pager_log {
	uint64_t n;    /* messages that count */
	bool overflow; /* there were more: nobody can take over */
	/* The next one is read into its place here, so that it is known also if the reader is killed right
	 * then; event 0: there is none. */
	struct pager_message messages[PAGER_LOG_MAX + 1];
};

struct pager_job {
	struct kage_ctx *ctx;
	struct kage_image *image;
	uint32_t space; /* of the image */
	pid_t pid;
	int pidfd;
	int uffd;
	int begin_fd; /* a pipe that ends when the program runs: what nobody waits for can wait until then */
	int kept_fd; /* in the program: a duplicate, so that faults wait should nobody bring pages */
	const Kage__Memory *memory;
	const uint8_t *later; /* by mapping: it is brought by the pager */
	struct pager_log *log;
	void (*lost)(void *user, pid_t pid, const char *why);
	void *lost_user;
};

/** Brings all pages, makes an end and exits; status 0: all is well, or the program is gone; else it was ended, because a page
 *  could not be had. */
_Noreturn void pager_run(const struct pager_job *job);

/** Ends the program, which cannot get its memory, and tells WHY (taken). Returns when nobody is left to whom pages are
 *  owed: a child that has closed the descriptor is not known, but waits for its pages as long as we are there. */
void pager_give_up(const struct pager_job *job, struct kage_err *why);

#endif
