/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The triggers of a keeper's program: rules (trigger/watch.h), and what is done when one is met.
 *
 * What takes long is done by children: images are stored and commands run while the keeper serves on. The program goes on when its
 * memory has been copied; for a command it stands until that has ended.
 */
#ifndef KEEPER_TRIGGERS_H
#define KEEPER_TRIGGERS_H

#include "keeper.pb-c.h"
#include "keeper/brood.h"
#include "trigger/watch.h"

struct triggers_child;

/** Takes the program back to its twin (keep.c). */
typedef struct kage_err *triggers_back_fn(void *user, const char *which);

struct triggers {
	struct kage_ctx *ctx;
	struct brood *brood;
	triggers_back_fn *back;
	void *user;
	/* The rest is its own. */
	struct watch watch;
	struct triggers_child *children;
	size_t n_children;
};

/** Adds what M asks for. */
struct kage_err *triggers_add(struct triggers *t, const Kage__Keeper__On *m, uint64_t *ret_id)
	_must_check_;

/** Takes away the rule ID, or all with 0. */
struct kage_err *triggers_remove(struct triggers *t, uint64_t id) _must_check_;

/** Fills M, whose strings belong to the rule, with the I-th rule; false: there are no more. */
bool triggers_tell(const struct triggers *t, size_t i, Kage__Keeper__Trigger *m);

/** SIGCHLD came, by CHILD probably; 0: it was said that there may be more to do. True: there may be more. */
bool triggers_take(struct triggers *t, pid_t child);

/** Whether there are rules, or actions that go on. */
bool triggers_any(const struct triggers *t);

void triggers_end(struct triggers *t);

#endif
