/* SPDX-License-Identifier: Apache-2.0 */
/* Making a call in another process (target/call.h), and the public face of src/calls. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/ctx.h"
#include "calls/request.h"
#include "sys/iter.h"
#include "sys/taskread.h"
#include "target/call.h"

enum { NUMBERS_END = 1024 };

/* Those that mean something only where a program makes them itself. */
static const struct {
	long number;
	const char *why;
} refused[] = {
	{ SYS_rt_sigreturn, "only the end of a signal handler can make it" },
	{ SYS_restart_syscall, "only the kernel makes it" },
	{ SYS_fork, "the new process would go on in the middle of it" },
	{ SYS_vfork, "the new process would go on in the middle of it" },
	{ SYS_clone, "the new process would go on in the middle of it" },
	{ SYS_clone3, "the new process would go on in the middle of it" },
};

/* --- reading ---------------------------------------------------------------------------------- */

struct kage_err *calls_find_number(const char *name, uint64_t *ret_number)
{
	char *end;

	if (isdigit((unsigned char)name[0])) {
		*ret_number = strtoull(name, &end, 0);
		return *end ? kage_err_new(KAGE_INVALID, "'%s' is no system call", name) : NULL;
	}
	for (*ret_number = 0; *ret_number < NUMBERS_END; ++*ret_number) {
		const char *known = kage_arch_syscall_name(*ret_number);

		if (known && strcmp(known, name) == 0)
			return NULL;
	}
	return kage_err_new(KAGE_INVALID, "no system call '%s' is known; write its number", name);
}

static struct kage_err *find_number(struct kage_syscall *s, const char *name)
{
	TRY(calls_find_number(name, &s->number));
	s->name = strdup(kage_arch_syscall_name(s->number) ? kage_arch_syscall_name(s->number)
							   : name);
	return s->name ? NULL : kage_err_nomem();
}

struct kage_err *calls_read_value(const char *name, size_t i, const char *word, uint64_t *ret_value,
				  bool *ret_narrow)
{
	struct kage_syscall s = { .n = i };
	const struct calls_argument *a = &s.form.args[i];
	struct kage_err *e;

	TRY(find_number(&s, name));
	kage_batch_init(&s.batch);
	calls_form_of(s.name, &s.form);
	e = calls_read_argument(&s, word);
	if (!e && s.args[i].given != GIVEN_VALUE)
		e = kage_err_new(KAGE_INVALID,
				 "'%s' is no number, and what an argument points to can be "
				 "compared by ~ only",
				 word);
	*ret_value = s.args[i].value;
	*ret_narrow = s.form.known && i < s.form.n && a->type.way == WAY_VALUE &&
		      a->type.kind == TYPE_ATOM && a->type.atom.size == sizeof(int32_t);
	if (*ret_narrow)
		*ret_value = (uint64_t)(int64_t)(int32_t)*ret_value;
	kage_batch_deinit(&s.batch);
	free(s.name);
	return e;
}

/* Where the word at TEXT ends. */
static size_t word_bytes(const char *text)
{
	size_t n = 0;
	int depth = 0;
	bool quoted = false;

	for (; text[n] && (quoted || depth || text[n] != ' '); n++) {
		if (quoted && text[n] == '\\' && text[n + 1])
			n++;
		else if (text[n] == '"')
			quoted = !quoted;
		else if (!quoted && (text[n] == '{' || text[n] == '['))
			depth++;
		else if (!quoted && (text[n] == '}' || text[n] == ']'))
			depth--;
	}
	return n;
}

struct kage_err *calls_parse_line(const char *line, struct kage_syscall **ret_call)
{
	char *words[1 + CALL_ARGS + 1] = { NULL };
	struct kage_err *e = NULL;
	size_t n = 0;

	for (line += strspn(line, " "); *line && n < ARRAY_SIZE(words); n++) {
		size_t bytes = word_bytes(line);

		words[n] = strndup(line, bytes);
		if (!words[n])
			e = kage_err_nomem();
		line += bytes;
		line += strspn(line, " ");
	}
	if (!e)
		e = kage_syscall_parse((const char *const *)words, n, ret_call);
	while (n)
		free(words[--n]);
	return e;
}

static struct kage_err *permitted(const struct kage_syscall *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (s->number == (uint64_t)refused[i].number)
			return kage_err_new(KAGE_UNSUPPORTED, "%s cannot be made from outside: %s",
					    s->name, refused[i].why);
	return NULL;
}

static struct kage_err *parse(struct kage_syscall *s, const char *const *words, size_t n)
{
	TRY(find_number(s, words[0]));
	TRY(permitted(s));
	calls_form_of(s->name, &s->form);
	if (n - 1 > CALL_ARGS)
		return kage_err_new(KAGE_INVALID, "a system call has at most %d arguments",
				    CALL_ARGS);
	for (size_t i = 1; i < n; i++) {
		s->words[i - 1] = strdup(words[i]);
		if (!s->words[i - 1])
			return kage_err_nomem();
		TRY(calls_read_argument(s, words[i]));
	}
	TRY(calls_read_rest(s));
	return s->batch.nomem ? kage_err_nomem() : NULL;
}

struct kage_err *kage_syscall_parse(const char *const *words, size_t n,
				    struct kage_syscall **ret_call)
{
	struct kage_syscall *s;
	struct kage_err *e;

	if (!n)
		return kage_err_new(KAGE_INVALID, "which system call?");
	s = calloc(1, sizeof(*s));
	if (!s)
		return kage_err_nomem();
	kage_batch_init(&s->batch);
	e = parse(s, words, n);
	if (e)
		kage_syscall_free(s);
	else
		*ret_call = s;
	return e;
}

void kage_syscall_free(struct kage_syscall *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < CALL_ARGS; i++)
		free(s->words[i]);
	kage_batch_deinit(&s->batch);
	free(s->name);
	free(s);
}

const char *kage_syscall_name(const struct kage_syscall *s)
{
	return s->name;
}

const struct kage_syscall_result *kage_syscall_result(const struct kage_syscall *s)
{
	return s->made ? &s->result : NULL;
}

struct kage_err *kage_syscall_argument(const struct kage_syscall *s, size_t i,
				       struct kage_syscall_argument *ret_argument)
{
	struct kage_syscall_argument a = { 0 };

	if (i >= s->n)
		return kage_err_new(KAGE_INVALID, "%s has %zu arguments", s->name, s->n);
	if (i < s->form.n)
		a.name = strndup(s->form.args[i].name, s->form.args[i].name_length);
	TRY(calls_tell_argument(s, i, &a.text));
	if (s->args[i].given == GIVEN_DATA) {
		a.bytes = calls_data(s, i);
		a.size = calls_bytes_behind(s, i);
	}
	*ret_argument = a;
	return NULL;
}

void kage_syscall_argument_deinit(struct kage_syscall_argument *argument)
{
	free(argument->name);
	free(argument->text);
	*argument = (struct kage_syscall_argument){ 0 };
}

size_t kage_syscall_arguments(const struct kage_syscall *s)
{
	return s->n;
}

/* --- making ----------------------------------------------------------------------------------- */

/* The mask of a thread is ours while it makes calls, so this one is done in its place. */
static struct kage_err *read_mask(struct kage_target *t, const struct kage_syscall *s, size_t i,
				  uint64_t *ret)
{
	if (s->args[i].given == GIVEN_DATA) {
		memcpy(ret, calls_data(s, i), sizeof(*ret));
		return NULL;
	}
	return kage_target_read(t, addr(s->args[i].value), ret, sizeof(*ret));
}

static bool is_null(const struct kage_syscall *s, size_t i)
{
	return s->args[i].given != GIVEN_DATA && !s->args[i].value;
}

static int change_mask(uint64_t how, uint64_t set, uint64_t *mask)
{
	const uint64_t never = 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1);

	if (how == SIG_BLOCK)
		*mask |= set;
	else if (how == SIG_UNBLOCK)
		*mask &= ~set;
	else if (how == SIG_SETMASK)
		*mask = set;
	else
		return EINVAL;
	*mask &= ~never;
	return 0;
}

static struct kage_err *set_mask(void *user, struct kage_target *t, struct kage_thread *thread)
{
	struct kage_syscall *s = user;
	uint64_t mask = thread->sigmask, set = 0;

	s->result.error = s->args[3].value == sizeof(mask) ? 0 : EINVAL;
	if (!s->result.error && !is_null(s, 1)) {
		TRY(read_mask(t, s, 1, &set));
		s->result.error = change_mask(s->args[0].value, set, &mask);
	}
	if (s->result.error)
		return NULL;
	if (s->args[2].given == GIVEN_DATA)
		memcpy(s->batch.data + s->args[2].at, &thread->sigmask, sizeof(mask));
	else if (!is_null(s, 2))
		TRY(kage_target_write(t, addr(s->args[2].value), &thread->sigmask, sizeof(mask)));
	return kage_thread_set_mask(thread, mask);
}

void calls_add(struct kage_syscall *s)
{
	struct kage_arg args[CALL_ARGS] = { 0 };

	for (size_t i = 0; i < CALL_ARGS; i++)
		args[i] =
			s->args[i].given == GIVEN_DATA ? DATA(s->args[i].at) : V(s->args[i].value);
	(void)kage_batch_add(&s->batch, s->name, (long)s->number, args, true);
}

static bool ends(const struct kage_syscall *s)
{
	return s->number == SYS_exit || s->number == SYS_exit_group || s->number == SYS_kill ||
	       s->number == SYS_tgkill || s->number == SYS_tkill;
}

enum { EXEC_TRIES = 8 };

static bool executes(const struct kage_syscall *s)
{
	return s->number == SYS_execve || s->number == SYS_execveat;
}

static void note_value(struct kage_syscall *s, int64_t value)
{
	if (value < 0 && value >= -4095)
		s->result.error = (int)-value;
	s->result.value = s->result.error ? -1 : value;
	s->made = true;
}

void calls_note_result(struct kage_syscall *s, pid_t tid)
{
	s->result.tid = tid;
	note_value(s, kage_batch_result(&s->batch, 0));
}

static void note_result(struct kage_syscall *s, const struct target_call *c)
{
	s->result.tid = c->in_tid;
	s->result.gave_up = c->gave_up;
	s->result.pause_ns = c->pause_ns;
	note_value(s, c->instead || c->replaced ? 0 : kage_batch_result(&s->batch, 0));
}

static struct kage_err *make(struct kage_target *t, struct kage_taskread *reader,
			     const struct kage_syscall_options *o, struct kage_syscall *s)
{
	struct target_call c = { .reader = reader,
				 .tid = o ? o->tid : 0,
				 .timeout_ns = o ? o->timeout_ns : 0,
				 .batch = &s->batch };
	struct kage_err *e;

	if (s->number == SYS_rt_sigprocmask)
		c.instead = set_mask;
	c.user = s;
	c.execs = executes(s);
	if (c.execs && !c.tid)
		c.tid = t->pid;
	if (reader)
		TRY(kage_target_get_ready(t, reader));
	e = kage_target_call(t, &c);
	if (e && kage_err_code(e) == KAGE_GONE && ends(s)) {
		err_drop(e);
		s->result.tid = c.in_tid;
		s->result.ended = s->made = true;
		return NULL;
	}
	if (!e)
		note_result(s, &c);
	return e;
}

struct kage_err *kage_syscall_make(struct kage_ctx *ctx, pid_t pid,
				   const struct kage_syscall_options *options,
				   struct kage_syscall *s)
{
	struct kage_taskread *reader = NULL;
	struct kage_target *t = NULL;
	struct kage_err *e;

	if (s->made)
		return kage_err_new(KAGE_INVALID, "%s was made already", s->name);
	e = kage_taskread_open(KAGE_ITER_PINS, &reader);
	if (e && (kage_err_code(e) == KAGE_PERM || kage_err_code(e) == KAGE_UNSUPPORTED)) {
		err_drop(e);
		e = NULL;
	}
	calls_add(s);
	if (!e)
		e = kage_target_open(ctx, pid, &t);
	if (!e)
		e = make(t, reader, options, s);
	/* One that executes another program just then, before anything was done in it, is that. */
	for (int i = 1; i < EXEC_TRIES && t && e && kage_err_code(e) == KAGE_CHANGED; i++) {
		err_drop(e);
		kage_target_close(take_ptr(t));
		e = kage_target_open(ctx, pid, &t);
		if (!e)
			e = make(t, reader, options, s);
	}
	kage_target_close(t);
	kage_taskread_close(reader);
	return e ? kage_err_wrap(e, "make %s in process %d", s->name, pid) : NULL;
}
