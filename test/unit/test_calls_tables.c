/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of system calls: whole, well formed, and laid out as the headers say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/kexec.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <utime.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "calls/tables.h"

enum { WORD = 64, NUMBERS = 1024 };

struct layout {
	size_t size, align;
};

static const struct calls_group *group(const char *name)
{
	const struct calls_group *g = calls_group(name, strlen(name));

	if (!g)
		fail_msg("there is no group %s", name);
	return g;
}

/* Who goes through the constants of flags in order finds what is made of several before its parts. */
static void check_flags(const struct calls_group *g)
{
	size_t enums = 0;

	while (enums < g->n && g->v[enums].value == (g->v[enums].value & g->enum_mask) &&
	       g->enum_mask)
		enums++;
	for (size_t i = enums; i < g->n; i++) {
		uint64_t value = g->v[i].value;

		if (value & g->enum_mask)
			fail_msg("%s: %s is not before those of no enum", g->name, g->v[i].name);
		if (value >> 32 == UINT32_MAX)
			fail_msg("%s: %s is negative", g->name, g->v[i].name);
		for (size_t k = enums; k < i; k++)
			if (g->v[k].value && (value & g->v[k].value) == g->v[k].value &&
			    value != g->v[k].value)
				fail_msg("%s: %s before %s", g->name, g->v[k].name, g->v[i].name);
	}
}

/* `flags:GROUP` or `enum:GROUP`: true if TYPE is one of them. */
static bool is_of_group(const char *type)
{
	if (strncmp(type, "enum:", 5) == 0)
		return group(type + 5);
	if (strncmp(type, "flags:", 6) != 0)
		return false;
	check_flags(group(type + 6));
	return true;
}

static bool is_number(const char *type)
{
	static const char *const known[] = { "int", "uint", "long",  "ulong",  "size",
					     "off", "fd",   "dirfd", "pid",    "uid",
					     "gid", "mode", "dev",   "signal", "addr" };

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(type, known[i]) == 0)
			return true;
	return is_of_group(type);
}

/* The words of LIST, one after the other. */
static bool next_word(const char **list, char ret[static WORD])
{
	size_t n = strcspn(*list, " ");

	assert_true(n < WORD);
	memcpy(ret, *list, n);
	ret[n] = '\0';
	*list += n + ((*list)[n] == ' ');
	return n > 0;
}

/* Splits NAME:TYPE. */
static char *type_of(char *word)
{
	char *colon = strchr(word, ':');

	if (!colon || colon == word)
		fail_msg("%s is no NAME:TYPE", word);
	*colon = '\0';
	return colon + 1;
}

static bool find_arg(const char *args, const char *name, char ret_type[static WORD])
{
	char word[WORD];

	while (next_word(&args, word)) {
		char *type = type_of(word);

		if (strcmp(word, name) == 0) {
			memcpy(ret_type, type, strlen(type) + 1);
			return true;
		}
	}
	return false;
}

/* A count as it stands in brackets: a number, or an argument, then perhaps +N or /N. */
static void check_count(const struct calls_signature *s, char *count)
{
	bool pointed = *count == '*';
	char type[WORD], *rest = count + strcspn(count, "+/");

	if (isdigit((unsigned char)*count)) {
		assert_int_equal(strspn(count, "0123456789"), strlen(count));
		return;
	}
	if (*rest && (rest[1] == '\0' || strspn(rest + 1, "0123456789") != strlen(rest + 1)))
		fail_msg("%s: %s", s->name, count);
	*rest = '\0';
	if (!find_arg(s->args, count + pointed, type))
		fail_msg("%s: no argument %s", s->name, count + pointed);
	if (pointed ? strcmp(type, "=int") != 0 : !is_number(type))
		fail_msg("%s: %s is a %s", s->name, count + pointed, type);
}

static void check_pointed(const struct calls_signature *s, char *type)
{
	char how = *type++, *bracket = strchr(type, '[');
	size_t length = strlen(type);

	if (length && type[length - 1] == '~') {
		if (how == '<' || !bracket)
			fail_msg("%s: ~ without anything that is written", s->name);
		type[--length] = '\0';
	}
	if (bracket) {
		if (type[length - 1] != ']')
			fail_msg("%s: %s", s->name, type);
		type[length - 1] = *bracket = '\0';
		check_count(s, bracket + 1);
	}
	if (strcmp(type, "str") == 0 || strcmp(type, "strs") == 0)
		assert_true(how == '<' && !bracket);
	else if (strcmp(type, "buf") == 0)
		assert_non_null(bracket);
	else if (!is_number(type) && !calls_struct(type, strlen(type)))
		fail_msg("%s: there is no %s", s->name, type);
}

static void check_signature(const struct calls_signature *s)
{
	char word[WORD], other[WORD];
	int n = 0;

	for (const char *rest = s->args; next_word(&rest, word); n++) {
		char *type = type_of(word);

		for (const char *after = rest; next_word(&after, other);) {
			type_of(other);
			if (strcmp(word, other) == 0)
				fail_msg("%s: two arguments are called %s", s->name, word);
		}
		if (strchr("<>=", *type))
			check_pointed(s, type);
		else if (!is_number(type))
			fail_msg("%s: %s is a %s", s->name, word, type);
	}
	assert_in_range(n, 0, CALL_ARGS);
	if (*s->result && !is_number(s->result))
		fail_msg("%s: its result is a %s", s->name, s->result);
}

static void test_signatures(void **state)
{
	(void)state;
	for (size_t i = 0; i < calls_n_signatures; i++) {
		const struct calls_signature *s = &calls_signatures[i];

		check_signature(s);
		assert_ptr_equal(calls_signature(s->name), s);
		if (i && strcmp(s[-1].name, s->name) >= 0)
			fail_msg("%s is not before %s", s[-1].name, s->name);
	}
	assert_null(calls_signature("no_such_call"));
}

static void test_every_call_has_one(void **state)
{
	(void)state;
	for (uint64_t number = 0; number < NUMBERS; number++) {
		const char *name = kage_arch_syscall_name(number);

		if (name && !calls_signature(name))
			fail_msg("nothing is known of %s", name);
	}
}

static struct layout layout_of(const struct calls_struct *s);

static size_t number_size(const char *type)
{
	if (strcmp(type, "ptr") == 0)
		return 8;
	if (strcmp(type, "bytes") == 0 || strcmp(type, "chars") == 0)
		return 1;
	for (size_t bits = 8; bits <= 64; bits *= 2)
		if ((*type == 's' || *type == 'u') && strtoul(type + 1, NULL, 10) == bits)
			return bits / 8;
	return 0;
}

static struct layout field_layout(const char *where, char *type)
{
	size_t n = 1, size;
	char *bracket = strchr(type, '['), *slash = strchr(type, '/');
	const struct calls_struct *inner;

	if (bracket) {
		n = strtoul(bracket + 1, NULL, 10);
		*bracket = '\0';
		assert_true(n > 0);
	}
	if (slash) {
		*slash = '\0';
		assert_true(strcmp(type, "octal") == 0 || is_of_group(type));
		type = slash + 1;
	}
	size = number_size(type);
	if (size)
		return (struct layout){ n * size, size };
	inner = calls_struct(type, strlen(type));
	if (slash || !inner)
		fail_msg("%s: there is no %s", where, type);
	return (struct layout){ n * inner->size, layout_of(inner).align };
}

/* Offset and layout of the field NAME; by name NULL the end of the last field and the structure's alignment. */
static size_t walk(const struct calls_struct *s, const char *name, struct layout *ret)
{
	char word[WORD];
	size_t end = 0, align = 1;

	for (const char *rest = s->fields; next_word(&rest, word);) {
		char *type = type_of(word), *at = strchr(word, '@');
		struct layout l = field_layout(s->name, type);

		if (at) {
			*at = '\0';
			end = strtoul(at + 1, NULL, 10);
		} else {
			end = (end + l.align - 1) / l.align * l.align;
			align = l.align > align ? l.align : align;
		}
		if (name && strcmp(word, name) == 0) {
			*ret = l;
			return end;
		}
		end += l.size;
	}
	if (name)
		fail_msg("%s has no %s", s->name, name);
	ret->align = align;
	return end;
}

static struct layout layout_of(const struct calls_struct *s)
{
	struct layout l;
	size_t end = walk(s, NULL, &l);

	l.size = (end + l.align - 1) / l.align * l.align;
	return l;
}

static void test_layouts(void **state)
{
	(void)state;
	for (size_t i = 0; i < calls_n_structs; i++) {
		const struct calls_struct *s = &calls_structs[i];

		assert_ptr_equal(calls_struct(s->name, strlen(s->name)), s);
		if (layout_of(s).size != s->size)
			fail_msg("%s has %zu bytes, its fields have %zu", s->name, s->size,
				 layout_of(s).size);
	}
	assert_null(calls_struct("stat64", 6));
	assert_non_null(calls_struct("stat64", 4));
}

/* clang-format off */
#define AT(name, type, field) \
	{ name, #field, sizeof(type), offsetof(type, field), sizeof(((type *)NULL)->field) }
/* clang-format on */

/* Of each structure a field behind those that could be wrong. */
static const struct real {
	const char *name, *field;
	size_t size, offset, field_size;
} real[] = {
	AT("cap_header", struct __user_cap_header_struct, pid),
	AT("clone_args", struct clone_args, cgroup),
	AT("epoll_event", struct epoll_event, data),
	AT("f_owner_ex", struct f_owner_ex, pid),
	AT("flock", struct flock, l_pid),
	AT("futex_waitv", struct futex_waitv, flags),
	AT("io_cqring_offsets", struct io_cqring_offsets, flags),
	AT("io_event", struct io_event, res),
	AT("io_sqring_offsets", struct io_sqring_offsets, array),
	AT("io_uring_params", struct io_uring_params, cq_off),
	AT("iocb", struct iocb, aio_offset),
	AT("iovec", struct iovec, iov_len),
	AT("itimerspec", struct itimerspec, it_value),
	AT("itimerval", struct itimerval, it_value),
	AT("kexec_segment", struct kexec_segment, memsz),
	AT("linger", struct linger, l_linger),
	AT("mmsghdr", struct mmsghdr, msg_len),
	AT("mq_attr", struct mq_attr, mq_curmsgs),
	AT("msghdr", struct msghdr, msg_flags),
	AT("msqid_ds", struct msqid_ds, msg_lrpid),
	AT("open_how", struct open_how, resolve),
	AT("pollfd", struct pollfd, revents),
	AT("rlimit", struct rlimit, rlim_max),
	AT("rusage", struct rusage, ru_nivcsw),
	AT("sched_param", struct sched_param, sched_priority),
	AT("sembuf", struct sembuf, sem_flg),
	AT("semid_ds", struct semid_ds, sem_nsems),
	AT("shmid_ds", struct shmid_ds, shm_nattch),
	AT("sigevent", struct sigevent, sigev_notify),
	AT("siginfo", siginfo_t, si_value),
	AT("siginfo_child", siginfo_t, si_stime),
	AT("sockaddr", struct sockaddr, sa_data),
	AT("sockaddr_in", struct sockaddr_in, sin_addr),
	AT("sockaddr_in6", struct sockaddr_in6, sin6_scope_id),
	AT("sockaddr_un", struct sockaddr_un, sun_path),
	AT("stack", stack_t, ss_size),
	AT("stat", struct stat, st_ctim),
	AT("statfs", struct statfs, f_flags),
	AT("statx", struct statx, stx_dev_minor),
	AT("sysinfo", struct sysinfo, mem_unit),
	AT("timespec", struct timespec, tv_nsec),
	AT("timeval", struct timeval, tv_usec),
	AT("timex", struct timex, tai),
	AT("timezone", struct timezone, tz_dsttime),
	AT("tms", struct tms, tms_cstime),
	AT("ucred", struct ucred, gid),
	AT("utimbuf", struct utimbuf, modtime),
	AT("utsname", struct utsname, domainname),
	AT("winsize", struct winsize, ws_ypixel),
};

static void test_real_structures(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(real); i++) {
		const struct real *r = &real[i];
		const struct calls_struct *s = calls_struct(r->name, strlen(r->name));
		struct layout l;

		assert_non_null(s);
		if (s->size != r->size)
			fail_msg("%s has %zu bytes, not %zu", r->name, r->size, s->size);
		if (walk(s, r->field, &l) != r->offset)
			fail_msg("%s: %s is not at %zu", r->name, r->field, walk(s, r->field, &l));
		if (l.size != r->field_size)
			fail_msg("%s: %s has %zu bytes", r->name, r->field, r->field_size);
	}
	assert_int_equal(calls_struct("ipc_perm", 8)->size, sizeof(struct ipc_perm));
	assert_int_equal(calls_struct("fd_set", 6)->size, sizeof(fd_set));
}

static void check_constant(const struct calls_group *g, size_t i)
{
	const char *name = g->v[i].name;
	uint64_t value = ~g->v[i].value;

	if (!*name || isdigit((unsigned char)*name))
		fail_msg("%s: %s is no name", g->name, name);
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '_')
			fail_msg("%s: %s is no name", g->name, name);
	for (size_t k = 0; k < i; k++)
		if (strcmp(g->v[k].name, name) == 0)
			fail_msg("%s: %s is there twice", g->name, name);
	assert_true(calls_constant(name, strlen(name), &value));
	if (value != g->v[i].value)
		fail_msg("%s: %s has another value in another group", g->name, name);
}

static void test_groups(void **state)
{
	const struct calls_group *g;
	size_t n = 0;

	(void)state;
	for (; (g = calls_group_at(n)); n++) {
		assert_ptr_equal(group(g->name), g);
		assert_true(g->n > 0);
		for (size_t i = 0; i < g->n; i++)
			check_constant(g, i);
	}
	assert_true(n > 100);
	assert_null(calls_group("ope", 3));
	assert_null(calls_group("openx", 5));
	assert_non_null(calls_group("openx", 4));
}

static void test_constants(void **state)
{
	static const struct calls_constant known[] = {
		{ "O_CLOEXEC", O_CLOEXEC },    { "AT_FDCWD", (uint64_t)AT_FDCWD },
		{ "MAP_HUGE_2MB", 21u << 26 }, { "SIGCHLD", SIGCHLD },
		{ "SIGCHLD_BIT", 1u << 16 },   { "CAP_BPF_BIT", 1u << 7 },
		{ "TIOCGWINSZ", TIOCGWINSZ },  { "EPOLLET", 0x80000000 },
		{ "Q_SYNC", 0x80000100 },      { "RUSAGE_CHILDREN", (uint64_t)-1 },
	};
	uint64_t value;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		assert_true(calls_constant(known[i].name, strlen(known[i].name), &value));
		assert_int_equal(value, known[i].value);
	}
	assert_true(calls_constant("O_RDWR|O_CREAT", 6, &value));
	assert_int_equal(value, O_RDWR);
	assert_false(calls_constant("O_RDWR|O_CREAT", 5, &value));
	assert_false(calls_constant("", 0, &value));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signatures), cmocka_unit_test(test_every_call_has_one),
		cmocka_unit_test(test_layouts),    cmocka_unit_test(test_real_structures),
		cmocka_unit_test(test_groups),     cmocka_unit_test(test_constants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
