/* SPDX-License-Identifier: Apache-2.0 */
/* System calls from words and back to text; making them is for test/cli/call.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <kage/kage.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "arch/arch.h"
#include "base/cleanup.h"
#include "calls/request.h"

enum { NUMBERS_END = 512, ROUNDS = 20000 };

static struct kage_syscall *parse(const char *const *words, size_t n)
{
	struct kage_syscall *s = NULL;
	struct kage_err *e = kage_syscall_parse(words, n, &s);

	if (e)
		fail_msg("%s", kage_err_message(e));
	return s;
}

#define PARSE(...)                                  \
	parse((const char *const[]){ __VA_ARGS__ }, \
	      sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static void assert_told(struct kage_syscall *s, const char *wanted)
{
	_cleanup_free_ char *text = NULL;
	struct kage_err *e = kage_syscall_describe(s, &text);

	assert_null(e);
	assert_string_equal(text, wanted);
	kage_syscall_free(s);
}

/* As if it had been made, and had given VALUE. */
static struct kage_syscall *made(struct kage_syscall *s, int64_t value)
{
	s->result.value = value;
	s->made = true;
	return s;
}

static void test_told(void **state)
{
	(void)state;
	assert_told(PARSE("getpid"), "getpid()");
	assert_told(made(PARSE("getpid"), 7), "getpid() = 7");
	assert_told(PARSE("open", "\"a\\n\"", "O_RDWR|O_CREAT|O_SYNC", "0640"),
		    "open(\"a\\n\", O_RDWR|O_SYNC|O_CREAT, 0640)");
	assert_told(PARSE("mmap", "0", "4096", "0", "34", "-1", "0"),
		    "mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)");
	assert_told(PARSE("write", "1", "\"four\"", "_"), "write(1, \"four\", 4)");
	assert_told(PARSE("kill", "-1", "SIGTERM"), "kill(-1, SIGTERM)");
	assert_told(PARSE("lseek", "3", "-2", "2"), "lseek(3, -2, SEEK_END)");
	assert_told(PARSE("kexec_load"), "kexec_load(NULL, 0, NULL, KEXEC_ARCH_DEFAULT)");
	assert_told(made(PARSE("mmap"), (int64_t)0x7f0000001000),
		    "mmap(NULL, 0, PROT_NONE, 0, 0, 0) = 0x7f0000001000");
}

/* Bytes as the kernel would see them. */
static void test_bytes(void **state)
{
	struct kage_syscall *s = PARSE("nanosleep", "{1, tv_sec=5}");
	const int64_t time[] = { 5, 0 };

	(void)state;
	assert_memory_equal(calls_data(s, 0), time, sizeof(time));
	assert_int_equal(s->args[0].size, sizeof(time));
	assert_int_equal(s->args[1].size, sizeof(time));
	kage_syscall_free(s);
	s = PARSE("bind", "3", "{u16:1, u8:0x2f, u32:7}");
	assert_memory_equal(calls_data(s, 1), "\1\0\x2f\7\0\0", 7);
	assert_int_equal(s->args[2].value, 7);
	kage_syscall_free(s);
	s = PARSE("connect", "3", "inet:127.0.0.1:258");
	assert_memory_equal(calls_data(s, 1), "\2\0\1\2\x7f\0\0\1", 8);
	assert_int_equal(s->args[2].value, 16);
	kage_syscall_free(s);
	s = PARSE("bind", "3", "unix:@a");
	assert_memory_equal(calls_data(s, 1), "\1\0\0a", 4);
	assert_int_equal(s->args[2].value, 4);
	kage_syscall_free(s);
	s = PARSE("bind", "3", "inet6:[::1]:1");
	assert_int_equal(s->args[2].value, 28);
	kage_syscall_free(s);
}

static void assert_refused(const char *const *words, size_t n)
{
	struct kage_syscall *s = NULL;
	struct kage_err *e = kage_syscall_parse(words, n, &s);

	assert_non_null(e);
	assert_null(s);
	kage_err_free(e);
}

#define REFUSED(...)                                         \
	assert_refused((const char *const[]){ __VA_ARGS__ }, \
		       sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static void test_refused(void **state)
{
	(void)state;
	REFUSED("nosuch");
	REFUSED("fork");
	REFUSED("close", "1", "2");
	REFUSED("close", "");
	REFUSED("close", "1x");
	REFUSED("close", "0x");
	REFUSED("close", "99999999999999999999");
	REFUSED("open", "\"x");
	REFUSED("open", "\"\\y\"");
	REFUSED("open", "x\"0\"");
	REFUSED("read", "0", "[99999999999]");
	REFUSED("read", "0", "_", "99999999999");
	REFUSED("read", "0", "[1", "1");
	REFUSED("read", "0", "[4]", "5");
	REFUSED("clone3", "{}");
	REFUSED("sched_getattr", "0", "_", "4096");
	REFUSED("nanosleep", "{1,2,3}");
	REFUSED("bind", "3", "inet:127.0.0.1:65536");
	REFUSED("bind", "3", "inet:127.0.0:1");
	REFUSED("bind", "3", "inet6:::1:1");
	REFUSED("nanosleep", "{1,2");
	REFUSED("writev", "1", "{{{{{{{{{{{1}}}}}}}}}}}");
}

/* Every call of the table without arguments, and told before and after. */
static void test_all(void **state)
{
	(void)state;
	for (uint64_t i = 0; i < NUMBERS_END; i++) {
		const char *name = kage_arch_syscall_name(i);
		struct kage_syscall *s = NULL;
		_cleanup_free_ char *text = NULL, *after = NULL;
		struct kage_err *e;

		if (!name)
			continue;
		e = kage_syscall_parse(&name, 1, &s);
		if (e) {
			assert_int_equal(kage_err_code(e), KAGE_UNSUPPORTED);
			kage_err_free(e);
			continue;
		}
		assert_null(kage_syscall_describe(s, &text));
		assert_null(kage_syscall_describe(made(s, 1 << 20), &after));
		assert_true(strlen(after) > strlen(text));
		kage_syscall_free(s);
	}
}

/* Whatever somebody types. */
static void test_random(void **state)
{
	static const char *const pieces[] = { "{", "}", "[", "]",    "\"",  "x\"", ",",  "=",
					      "|", "_", "0", "9",    "-",   "a",   "\\", "u8:",
					      " ", "7", "A", "NULL", "fd=", "{{",  "}}", "0x" };
	const char *seed = getenv("KAGE_SEED");
	unsigned int n = seed ? (unsigned int)strtoul(seed, NULL, 10) : (unsigned int)time(NULL);

	(void)state;
	printf("# KAGE_SEED=%u\n", n);
	srandom(n);
	for (int round = 0; round < ROUNDS; round++) {
		char words[6][64] = { { 0 } };
		const char *pointers[7];
		struct kage_syscall *s = NULL;
		_cleanup_free_ char *text = NULL;
		size_t n_words = 1 + (size_t)random() % 6;
		struct kage_err *e;

		pointers[0] = calls_signatures[(size_t)random() % calls_n_signatures].name;
		for (size_t i = 1; i < n_words; i++) {
			for (long k = random() % 8; k >= 0; k--)
				strcat(words[i], pieces[(size_t)random() % ARRAY_SIZE(pieces)]);
			pointers[i] = words[i];
		}
		e = kage_syscall_parse(pointers, n_words, &s);
		if (!e)
			assert_null(kage_syscall_describe(made(s, random()), &text));
		kage_err_free(e);
		kage_syscall_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_told),    cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_all),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
