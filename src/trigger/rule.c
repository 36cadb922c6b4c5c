/* SPDX-License-Identifier: Apache-2.0 */
#include "trigger/rule.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/signame.h"
#include "calls/request.h"

enum { TEXT_MAX = 4096, ERRNO_MAX = 4095 };

/* --- conditions ---------------------------------------------------------------------------------- */

/* Longer ones first. */
static const struct {
	const char *sign;
	enum kage_exit_op op;
	bool is_text, unlike;
} operators[] = {
	{ "!~", EXIT_EQ, true, true },   { "!=", EXIT_NE, false, false },
	{ "<=", EXIT_LE, false, false }, { ">=", EXIT_GE, false, false },
	{ "~", EXIT_EQ, true, false },   { "=", EXIT_EQ, false, false },
	{ "<", EXIT_LT, false, false },  { ">", EXIT_GT, false, false },
	{ "&", EXIT_ANY, false, false },
};

static struct kage_err *read_operator(const char **at, struct trigger_condition *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(operators); i++) {
		size_t n = strlen(operators[i].sign);

		if (strncmp(*at, operators[i].sign, n) != 0)
			continue;
		c->number.op = (uint16_t)operators[i].op;
		c->is_text = operators[i].is_text;
		c->unlike = operators[i].unlike;
		*at += n;
		return NULL;
	}
	return kage_err_new(KAGE_INVALID, "one of = != < <= > >= & ~ !~ is to stand before '%s'",
			    *at);
}

static struct kage_err *read_regex(const char *text, struct trigger_condition *c)
{
	_cleanup_free_ char *whole = NULL;
	char why[128];
	int r;

	if (asprintf(&whole, "^(%s)$", text) < 0) {
		whole = NULL;
		return kage_err_nomem();
	}
	r = regcomp(&c->regex, whole, REG_EXTENDED | REG_NOSUB);
	if (r) {
		regerror(r, &c->regex, why, sizeof(why));
		return kage_err_new(KAGE_INVALID, "'%s' is no regular expression: %s", text, why);
	}
	c->text = strdup(text);
	return c->text ? NULL : kage_err_nomem();
}

static struct trigger_condition *add_condition(struct trigger_rule *r)
{
	struct trigger_condition *grown =
		reallocarray(r->conditions, r->n_conditions + 1, sizeof(*grown));

	if (!grown)
		return NULL;
	r->conditions = grown;
	grown[r->n_conditions] = (struct trigger_condition){ 0 };
	return &grown[r->n_conditions++];
}

/* N~REGEX, N=VALUE and so on. */
static struct kage_err *read_argument(struct trigger_rule *r, const char *call, const char *text)
{
	struct trigger_condition *c = add_condition(r);
	const char *at = text + 1;
	uint64_t value = 0;
	bool narrow = false;

	if (!c)
		return kage_err_nomem();
	if (text[0] < '0' || text[0] >= '0' + EXIT_ARGS)
		return kage_err_new(KAGE_INVALID,
				    "'%s': the number of an argument comes first, 0 to %d", text,
				    EXIT_ARGS - 1);
	c->number.what = (uint32_t)(text[0] - '0');
	TRY(read_operator(&at, c));
	if (c->is_text)
		return read_regex(at, c);
	TRY(calls_read_value(call, c->number.what, at, &value, &narrow));
	c->number.value = value;
	c->number.narrow = narrow;
	return NULL;
}

static bool read_errno(const char *text, uint64_t *ret)
{
	for (int i = 1; i < ERRNO_MAX; i++) {
		const char *name = strerrorname_np(i);

		if (!name || strcmp(name, text) != 0)
			continue;
		*ret = (uint64_t) - (int64_t)i;
		return true;
	}
	return false;
}

/* OP VALUE, or a value alone. */
static struct kage_err *read_result(struct trigger_rule *r, const char *text)
{
	struct trigger_condition *c = add_condition(r);
	const char *at = text;
	uint64_t value = 0;
	char *end;

	if (!c)
		return kage_err_nomem();
	c->number.what = EXIT_RESULT;
	if (isalnum((unsigned char)*at) || *at == '-')
		c->number.op = EXIT_EQ;
	else
		TRY(read_operator(&at, c));
	if (c->is_text)
		return kage_err_new(KAGE_INVALID, "'%s': a result is a number", text);
	if (!read_errno(at, &value)) {
		value = (uint64_t)strtoll(at, &end, 0);
		if (end == at || *end)
			return kage_err_new(KAGE_INVALID,
					    "'%s' is no result, such as 0, ENOENT or '>=0'", text);
	}
	c->number.value = value;
	return NULL;
}

/* FIRST, FIRST+ or FIRST+STEP, as in strace(1). */
static struct kage_err *read_count(struct trigger_rule *r, const char *text)
{
	char *end;

	r->first = r->step = 1;
	if (!text)
		return NULL;
	r->first = strtoull(text, &end, 10);
	r->step = 0;
	if (*end == '+') {
		const char *step = end + 1;

		r->step = *step ? strtoull(step, &end, 10) : 1;
		end = *step ? end : (char *)step;
		if (!r->step)
			r->first = 0;
	}
	if (!isdigit((unsigned char)text[0]) || *end || !r->first)
		return kage_err_new(KAGE_INVALID,
				    "'%s' is no count, such as 3 (the third), 3+ (the third and "
				    "all later ones) or 3+2 (and each second one then)",
				    text);
	return NULL;
}

/* --- the event ----------------------------------------------------------------------------------- */

static struct kage_err *read_call(struct trigger_rule *r, const struct kage_trigger_options *o)
{
	uint64_t number;

	TRY(calls_find_number(o->call, &number));
	if (number >= EXIT_NUMBERS)
		return kage_err_new(KAGE_INVALID, "%s: there is no such system call", o->call);
	r->on = ON_CALL;
	r->number = (unsigned)number;
	for (size_t i = 0; i < o->n_args; i++)
		TRY(read_argument(r, o->call, o->args[i]));
	for (size_t i = 0; i < o->n_results; i++)
		TRY(read_result(r, o->results[i]));
	return NULL;
}

static struct kage_err *read_signal(struct trigger_rule *r, const char *name)
{
	char *end;

	r->on = ON_SIGNAL;
	r->signal = kage_signal_number(name);
	if (!r->signal && isdigit((unsigned char)name[0])) {
		long n = strtol(name, &end, 10);

		r->signal = *end || n < 1 || n > 64 ? 0 : (int)n;
	}
	if (!r->signal)
		return kage_err_new(KAGE_INVALID, "'%s' is no signal", name);
	if (r->signal == SIGKILL)
		return kage_err_new(KAGE_UNSUPPORTED,
				    "SIGKILL cannot be met: who gets it is gone; --exit is the "
				    "last that can be seen of others");
	return NULL;
}

static struct kage_err *read_event(struct trigger_rule *r, const struct kage_trigger_options *o)
{
	int n = !!o->call + !!o->signal + o->exit + o->exec;

	if (n != 1)
		return kage_err_new(KAGE_INVALID,
				    n ? "a trigger is one of --call, --signal, --exit and --exec"
				      : "when? --call, --signal, --exit or --exec says it");
	if (!o->call && (o->n_args || o->n_results))
		return kage_err_new(KAGE_INVALID, "--arg and --result belong to a --call");
	if (o->call)
		return read_call(r, o);
	if (o->signal)
		return read_signal(r, o->signal);
	r->on = o->exit ? ON_EXIT : ON_EXEC;
	return NULL;
}

/* --- the action ---------------------------------------------------------------------------------- */

static const struct {
	const char *word;
	enum trigger_action action;
	bool has_argument;
} actions[] = {
	{ "count", DO_COUNT, false },       { "snap", DO_SNAP, false },
	{ "clone", DO_CLONE, false },       { "stop", DO_STOP, false },
	{ "call:", DO_CALL, true },         { "exec:", DO_EXEC, true },
	{ "rollback", DO_ROLLBACK, false }, { "rollback:", DO_ROLLBACK, true },
};

static struct kage_err *check_action(const struct trigger_rule *r)
{
	struct kage_syscall *call = NULL;

	if (r->on == ON_EXIT && (r->action == DO_CLONE || r->action == DO_ROLLBACK ||
				 r->action == DO_CALL || r->action == DO_STOP))
		return kage_err_new(
			KAGE_UNSUPPORTED,
			"who is about to end makes no calls any more, is not stopped, "
			"not forked and not taken back: --exit goes with snap, exec and count");
	if (r->action != DO_CALL)
		return NULL;
	TRY(calls_parse_line(r->argument, &call));
	kage_syscall_free(call);
	return NULL;
}

static struct kage_err *read_action(struct trigger_rule *r, const char *text)
{
	if (!text)
		return kage_err_new(KAGE_INVALID, "--do says what is to be done: snap, clone, "
						  "rollback, stop, call:…, exec:… or count");
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		size_t n = strlen(actions[i].word);

		if (actions[i].has_argument ? strncmp(text, actions[i].word, n) != 0 || !text[n]
					    : strcmp(text, actions[i].word) != 0)
			continue;
		r->action = actions[i].action;
		r->argument = strdup(text + n);
		return r->argument ? check_action(r) : kage_err_nomem();
	}
	return kage_err_new(KAGE_INVALID,
			    "--do %s: it is one of snap, clone, rollback, stop, call:NAME …, "
			    "exec:COMMAND and count",
			    text);
}

/* --- in words ------------------------------------------------------------------------------------ */

static struct kage_err *tell(struct trigger_rule *r, const struct kage_trigger_options *o)
{
	size_t size;
	FILE *out = open_memstream(&r->told, &size);

	if (!out)
		return kage_err_nomem();
	if (o->call)
		fprintf(out, "--call %s", o->call);
	if (o->signal)
		fprintf(out, "--signal %s", o->signal);
	if (o->exit || o->exec)
		fputs(o->exit ? "--exit" : "--exec", out);
	for (size_t i = 0; i < o->n_args; i++)
		fprintf(out, " --arg %s", o->args[i]);
	for (size_t i = 0; i < o->n_results; i++)
		fprintf(out, " --result %s", o->results[i]);
	if (o->tid)
		fprintf(out, " --thread %d", o->tid);
	if (o->count)
		fprintf(out, " --count %s", o->count);
	if (o->follow)
		fputs(" --follow", out);
	fprintf(out, " --do %s", o->action);
	return fclose(out) == 0 ? NULL : kage_err_nomem();
}

static struct kage_err *parse(struct trigger_rule *r, const struct kage_trigger_options *o)
{
	TRY(read_event(r, o));
	TRY(read_count(r, o->count));
	TRY(read_action(r, o->action));
	r->tid = o->tid;
	r->max = o->max;
	r->follow = o->follow;
	return tell(r, o);
}

struct kage_err *trigger_rule_parse(const struct kage_trigger_options *o,
				    struct trigger_rule **ret_rule)
{
	struct trigger_rule *r = calloc(1, sizeof(*r));
	struct kage_err *e;

	if (!r)
		return kage_err_nomem();
	e = parse(r, o);
	if (e)
		trigger_rule_free(r);
	else
		*ret_rule = r;
	return e;
}

void trigger_rule_free(struct trigger_rule *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n_conditions; i++) {
		if (r->conditions[i].text)
			regfree(&r->conditions[i].regex);
		free(r->conditions[i].text);
	}
	free(r->conditions);
	free(r->argument);
	free(r->store);
	free(r->told);
	free(r->last_error);
	free(r->delays);
	free(r);
}

/* --- meeting it ---------------------------------------------------------------------------------- */

static bool holds(const struct kage_exit_condition *c, const struct kage_exit_hit *hit)
{
	return kage_exit_holds(c,
			       c->what == EXIT_RESULT ? (uint64_t)hit->result : hit->args[c->what]);
}

/* The string at ADDRESS; its end, or that of what can be read, is the end. */
static size_t read_text(struct kage_target *t, uint64_t address, char text[TEXT_MAX])
{
	size_t n = 0;

	while (n < TEXT_MAX - 1) {
		size_t to_page = 4096 - (address + n) % 4096;
		size_t some = to_page < TEXT_MAX - 1 - n ? to_page : TEXT_MAX - 1 - n;
		struct kage_err *e = kage_target_read(t, addr(address + n), text + n, some);
		bool failed = e;

		err_drop(e);
		if (failed)
			break;
		if (memchr(text + n, '\0', some))
			return strlen(text);
		n += some;
	}
	text[n] = '\0';
	return n;
}

static bool text_holds(const struct trigger_condition *c, struct kage_target *t,
		       const struct kage_exit_hit *hit)
{
	uint64_t address = hit->args[c->number.what];
	char text[TEXT_MAX];
	bool like;

	if (!address)
		return c->unlike;
	read_text(t, address, text);
	like = regexec(&c->regex, text, 0, NULL, 0) == 0;
	return like != c->unlike;
}

bool trigger_rule_meets(struct trigger_rule *r, struct kage_target *t, pid_t tid,
			const struct kage_exit_hit *hit)
{
	if (r->tid && r->tid != tid)
		return false;
	for (size_t i = 0; i < r->n_conditions; i++) {
		const struct trigger_condition *c = &r->conditions[i];

		if (c->is_text ? !text_holds(c, t, hit) : !holds(&c->number, hit))
			return false;
	}
	return true;
}

bool trigger_rule_counts(struct trigger_rule *r)
{
	uint64_t n = ++r->n_met;

	r->last_ns = kage_clock_real_ns();
	if (n < r->first || trigger_rule_is_over(r))
		return false;
	return n == r->first || (r->step && (n - r->first) % r->step == 0);
}

bool trigger_rule_is_over(const struct trigger_rule *r)
{
	if (r->max && r->n_done >= r->max)
		return true;
	return !r->step && r->n_met >= r->first && r->n_done;
}

/* --- for the kernel ------------------------------------------------------------------------------ */

/* What every string that meets the expression TEXT begins with. */
static size_t literal_bytes(const char *text)
{
	size_t n = strcspn(text, ".[]()*+?{}|\\^$");

	if (strchr(text, '|'))
		return 0;
	if (n && (text[n] == '*' || text[n] == '?' || text[n] == '{' || text[n] == '+'))
		n--;
	return n < EXIT_PREFIX_BYTES ? n : EXIT_PREFIX_BYTES;
}

void trigger_rule_for_kernel(const struct trigger_rule *r, struct kage_exit_rule *ret)
{
	*ret = (struct kage_exit_rule){ 0 };
	if (r->tid)
		ret->conditions[ret->n++] =
			(struct kage_exit_condition){ EXIT_THREAD, EXIT_EQ, 0, (uint64_t)r->tid };
	for (size_t i = 0; i < r->n_conditions; i++) {
		const struct trigger_condition *c = &r->conditions[i];

		if (!c->is_text && ret->n < EXIT_CONDITIONS)
			ret->conditions[ret->n++] = c->number;
		if (!c->is_text || c->unlike || ret->prefix_bytes)
			continue;
		ret->prefix_argument = c->number.what;
		ret->prefix_bytes = (uint32_t)literal_bytes(c->text);
		memcpy(ret->prefix, c->text, ret->prefix_bytes);
	}
}

/* --- how long it took ---------------------------------------------------------------------------- */

void trigger_rule_note_delay(struct trigger_rule *r, uint64_t ns)
{
	if (!r->delays)
		r->delays = calloc(TRIGGER_DELAYS, sizeof(*r->delays));
	if (r->delays)
		r->delays[r->n_delays++ % TRIGGER_DELAYS] = ns;
}

static int by_size(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

uint64_t trigger_rule_median_delay(const struct trigger_rule *r)
{
	size_t n = r->n_delays < TRIGGER_DELAYS ? r->n_delays : TRIGGER_DELAYS;
	_cleanup_free_ uint64_t *sorted = n ? malloc(n * sizeof(*sorted)) : NULL;

	if (!sorted)
		return 0;
	memcpy(sorted, r->delays, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_size);
	return sorted[n / 2];
}
