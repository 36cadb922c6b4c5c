/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers: threads spin in assembly with values in every general register, the flags, x87, SSE, AVX
 * and, where there are some, AVX-512 registers, and look at them again when they are told to leave.
 * Others sleep in a system call with them: of such a thread nobody but the kernel knows them.
 */
#include <asm/prctl.h>
#include <pthread.h>
#include <stddef.h>

#include "lib/kindtest.h"

static volatile int leave;
static pthread_barrier_t ready;

/* All general registers but rsp and the one that points to `leave`; direction flag set. */
static void *general(void *arg)
{
	uint64_t wrong = 1;

	(void)arg;
	pthread_barrier_wait(&ready);
	__asm__ volatile(
		"push %%rbp\n"
		"push %[leave]\n" /* (%rsp) */
		"mov $0x1111111111111111, %%rax\n"
		"mov $0x2222222222222222, %%rbx\n"
		"mov $0x3333333333333333, %%rcx\n"
		"mov $0x4444444444444444, %%rdx\n"
		"mov $0x5555555555555555, %%rsi\n"
		"mov $0x6666666666666666, %%rdi\n"
		"mov $0x7777777777777777, %%rbp\n"
		"mov $0x8888888888888888, %%r8\n"
		"mov $0x9999999999999999, %%r9\n"
		"mov $0xaaaaaaaaaaaaaaaa, %%r10\n"
		"mov $0xbbbbbbbbbbbbbbbb, %%r11\n"
		"mov $0xcccccccccccccccc, %%r12\n"
		"mov $0xdddddddddddddddd, %%r13\n"
		"mov $0xeeeeeeeeeeeeeeee, %%r14\n"
		"std\n"
		"1: mov (%%rsp), %%r15\n"
		"pause\n"
		"cmpl $0, (%%r15)\n"
		"je 1b\n"
		"pushf\n"
		"pop %%r15\n"
		"cld\n"
		"and $0x400, %%r15\n"
		"xor $0x400, %%r15\n"
#define SAME(reg, value) \
	"push %%rax\n mov $" value ", %%rax\n xor " reg ", %%rax\n or %%rax, %%r15\n pop %%rax\n"
		SAME("%%rbx", "0x2222222222222222") SAME("%%rcx", "0x3333333333333333") SAME(
			"%%rdx",
			"0x4444444444444444") SAME("%%rsi",
						   "0x5555555555555555") SAME("%%rdi",
									      "0x6666666666666666")
			SAME("%%rbp", "0x7777777777777777") SAME("%%r8", "0x8888888888888888") SAME(
				"%%r9", "0x9999999999999999") SAME("%%r10", "0xaaaaaaaaaaaaaaaa")
				SAME("%%r11", "0xbbbbbbbbbbbbbbbb") SAME(
					"%%r12", "0xcccccccccccccccc") SAME("%%r13",
									    "0xdddddddddddddddd")
					SAME("%%r14",
					     "0xeeeeeeeeeeeeeeee") "mov $0x1111111111111111, %%rbx\n"
								   "xor %%rbx, %%rax\n"
								   "or %%rax, %%r15\n"
								   "pop %%rax\n"
								   "pop %%rbp\n"
								   "mov %%r15, %[wrong]\n"
		: [wrong] "=a"(wrong)
		: [leave] "r"(&leave)
		: "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
		  "r15", "memory", "cc");
	KT(wrong == 0, "general registers: %lx", wrong);
	return NULL;
}

#define TEN(x, op) \
	x(0, op) x(1, op) x(2, op) x(3, op) x(4, op) x(5, op) x(6, op) x(7, op) x(8, op) x(9, op)
#define SIX(x, op) x(10, op) x(11, op) x(12, op) x(13, op) x(14, op) x(15, op)
#define REST(x, op)                                                                               \
	x(16, op) x(17, op) x(18, op) x(19, op) x(20, op) x(21, op) x(22, op) x(23, op) x(24, op) \
		x(25, op) x(26, op) x(27, op) x(28, op) x(29, op) x(30, op) x(31, op)
#define LOAD(n, r)  "vmovups " #n "*%c[w](%[in]), %%" r #n "\n"
#define STORE(n, r) "vmovups %%" r #n ", " #n "*%c[w](%[out])\n"

__attribute__((target("avx"), noinline)) static void spin_avx(const void *in, void *out)
{
	__asm__ volatile(TEN(LOAD, "ymm")
				 SIX(LOAD, "ymm") "1: pause\n cmpl $0, (%[leave])\n je 1b\n" TEN(
					 STORE, "ymm") SIX(STORE, "ymm")
			 :
			 : [in] "r"(in), [out] "r"(out), [leave] "r"(&leave), [w] "i"(32)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

__attribute__((target("avx512f,avx512bw"), noinline)) static void spin_avx512(const void *in,
									      void *out,
									      uint64_t masks[8])
{
	__asm__ volatile(
		TEN(LOAD, "zmm") SIX(LOAD, "zmm") REST(
			LOAD,
			"zmm") "kmovq (%[k]), %%k1\n kmovq 8(%[k]), %%k2\n kmovq 16(%[k]), %%k3\n"
			       "kmovq 24(%[k]), %%k4\n kmovq 32(%[k]), %%k5\n kmovq 40(%[k]), %%k6\n"
			       "kmovq 48(%[k]), %%k7\n kmovq 56(%[k]), %%k0\n"
			       "1: pause\n cmpl $0, (%[leave])\n je 1b\n" TEN(STORE, "zmm") SIX(
				       STORE, "zmm")
				       REST(STORE,
					    "zmm") "kmovq %%k1, (%[k])\n kmovq %%k2, 8(%[k])\n kmovq %%k3, 16(%[k])\n"
						   "kmovq %%k4, 24(%[k])\n kmovq %%k5, 32(%[k])\n kmovq %%k6, 40(%[k])\n"
						   "kmovq %%k7, 48(%[k])\n kmovq %%k0, 56(%[k])\n"
		:
		: [in] "r"(in), [out] "r"(out), [leave] "r"(&leave), [k] "r"(masks), [w] "i"(64)
		: "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
		  "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17",
		  "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26",
		  "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6",
		  "k7");
}

static void *avx(void *arg)
{
	unsigned char in[16 * 32], out[16 * 32];

	(void)arg;
	kt_fill(in, sizeof(in), 1);
	pthread_barrier_wait(&ready);
	spin_avx(in, out);
	KT(memcmp(in, out, sizeof(in)) == 0, "AVX registers");
	return NULL;
}

static void *avx512(void *arg)
{
	unsigned char in[32 * 64], out[32 * 64];
	uint64_t masks[8], before[8];

	(void)arg;
	kt_fill(in, sizeof(in), 2);
	kt_fill(masks, sizeof(masks), 3);
	memcpy(before, masks, sizeof(masks));
	pthread_barrier_wait(&ready);
	spin_avx512(in, out, masks);
	KT(memcmp(in, out, sizeof(in)) == 0, "AVX-512 registers");
	KT(memcmp(before, masks, sizeof(masks)) == 0, "AVX-512 masks");
	return NULL;
}

/* The x87 stack, its control word, the SSE control word; the GS base; all while asleep too. */
static void *control(void *arg)
{
	static uint64_t gs_area[4] = { 0x1234 };
	uint64_t base = 0, through_gs;
	unsigned mxcsr = 0x1f80 | 0x6000 | 0x8000, mxcsr_after;
	unsigned short cw = 0x0f7f, cw_after;
	long double top;

	(void)arg;
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs_area);
	__asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(cw));
	pthread_barrier_wait(&ready);
	__asm__ volatile("fldpi; fldl2e; 1: pause; cmpl $0, (%[leave]); je 1b; faddp"
			 : "=t"(top)
			 : [leave] "r"(&leave)
			 : "memory");
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr_after), "=m"(cw_after));
	__asm__ volatile("mov %%gs:0, %0" : "=r"(through_gs));
	syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
	KT((mxcsr_after & ~0x3fu) == (mxcsr & ~0x3fu), "mxcsr %x", mxcsr_after);
	KT(cw_after == cw, "x87 control word %x", cw_after);
	KT(top > 4.58428L && top < 4.58429L, "x87 stack");
	KT(base == (uintptr_t)gs_area && through_gs == 0x1234, "GS base %lx", base);
	return NULL;
}

/* One that sleeps in the kernel with values in its registers. */
static void *sleeper(void *arg)
{
	unsigned char in[16 * 32], out[16 * 32];

	(void)arg;
	kt_fill(in, sizeof(in), 4);
	__builtin_ia32_ldmxcsr(0x1f80 | 0x4000); /* round upward */
	pthread_barrier_wait(&ready);
	while (!leave) {
		struct timespec nap = { 0, 20000000 };
		long result = SYS_nanosleep;

		__asm__ volatile("vmovups (%[in]), %%ymm0\n vmovups 32(%[in]), %%ymm7\n"
				 "vmovups 64(%[in]), %%ymm15\n syscall\n"
				 "vmovups %%ymm0, (%[out])\n vmovups %%ymm7, 32(%[out])\n"
				 "vmovups %%ymm15, 64(%[out])\n"
				 : "+a"(result)
				 : "D"(&nap), "S"(NULL), [in] "r"(in), [out] "r"(out)
				 : "rcx", "r11", "memory", "xmm0", "xmm7", "xmm15");
		KT(memcmp(in, out, 96) == 0, "AVX registers across a sleep");
		if (memcmp(in, out, 96) != 0)
			break;
	}
	KT((__builtin_ia32_stmxcsr() & 0x6000) == 0x4000);
	return NULL;
}

/* What call_with() has in the registers when it makes a system call, or had behind it. */
struct machine {
	uint64_t general[13]; /* rax rbx rdx rsi rdi rbp, r8 to r15 without r11 */
	uint64_t level;       /* of vectors: 0 none, 1 AVX, 2 AVX-512 */
	uint64_t masks[8];
	unsigned char x87[16]; /* only told: the sum of pi and log2(e) */
	unsigned char vectors[32 * 64];
};
_Static_assert(offsetof(struct machine, level) == 104 && offsetof(struct machine, masks) == 112 &&
		       offsetof(struct machine, x87) == 176 &&
		       offsetof(struct machine, vectors) == 192,
	       "call_with() goes by these");

/* Makes a system call with all registers as IN says, and tells in OUT what they were behind it. rcx and
 * r11 are the call's own. */
void call_with(const struct machine *in, struct machine *out);
__asm__(".text\n"
	"call_with:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	push %rsi\n"
	"	fldpi\n	fldl2e\n"
	"	cmpq $1, 104(%rdi)\n	jb 2f\n	ja 1f\n"
	"	.irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovups 192+32*\\i(%rdi), %ymm\\i\n"
	"	.endr\n"
	"	jmp 2f\n"
	"1:	.irp i, 0,1,2,3,4,5,6,7\n"
	"	kmovq 112+8*\\i(%rdi), %k\\i\n"
	"	.endr\n"
	"	.irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovups 192+64*\\i(%rdi), %zmm\\i\n"
	"	.endr\n"
	"2:	push 104(%rdi)\n"
	"	mov (%rdi), %rax\n	mov 8(%rdi), %rbx\n	mov 16(%rdi), %rdx\n"
	"	mov 24(%rdi), %rsi\n	mov 40(%rdi), %rbp\n	mov 48(%rdi), %r8\n"
	"	mov 56(%rdi), %r9\n	mov 64(%rdi), %r10\n	mov 72(%rdi), %r12\n"
	"	mov 80(%rdi), %r13\n	mov 88(%rdi), %r14\n	mov 96(%rdi), %r15\n"
	"	mov 32(%rdi), %rdi\n"
	"	syscall\n"
	"	pop %r11\n	pop %rcx\n"
	"	mov %rax, (%rcx)\n	mov %rbx, 8(%rcx)\n	mov %rdx, 16(%rcx)\n"
	"	mov %rsi, 24(%rcx)\n	mov %rdi, 32(%rcx)\n	mov %rbp, 40(%rcx)\n"
	"	mov %r8, 48(%rcx)\n	mov %r9, 56(%rcx)\n	mov %r10, 64(%rcx)\n"
	"	mov %r12, 72(%rcx)\n	mov %r13, 80(%rcx)\n	mov %r14, 88(%rcx)\n"
	"	mov %r15, 96(%rcx)\n"
	"	faddp\n	fstpt 176(%rcx)\n"
	"	cmp $1, %r11\n	jb 2f\n	ja 1f\n"
	"	.irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovups %ymm\\i, 192+32*\\i(%rcx)\n"
	"	.endr\n"
	"	jmp 2f\n"
	"1:	.irp i, 0,1,2,3,4,5,6,7\n"
	"	kmovq %k\\i, 112+8*\\i(%rcx)\n"
	"	.endr\n"
	"	.irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	"	vmovups %zmm\\i, 192+64*\\i(%rcx)\n"
	"	.endr\n"
	"2:	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n");

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

/* One system call with three arguments, in which the thread sleeps: everything is the same behind it. */
static long sleep_with(uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t seed)
{
	struct machine in, out;
	long double sum = 0;

	kt_fill(&in, sizeof(in), seed);
	memset(&out, 0, sizeof(out));
	in.level = has_avx512() ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
	in.general[0] = number;
	in.general[4] = a;
	in.general[3] = b;
	in.general[2] = c;
	call_with(&in, &out);
	for (int i = 1; i < 13; i++)
		KT(in.general[i] == out.general[i], "register %d across a sleep: %lx, not %lx", i,
		   out.general[i], in.general[i]);
	KT(in.level < 2 || memcmp(in.masks, out.masks, sizeof(in.masks)) == 0);
	KT(memcmp(in.vectors, out.vectors,
		  in.level == 2   ? 2048
		  : in.level == 1 ? 512
				  : 0) == 0,
	   "vectors across a sleep");
	memcpy(&sum, out.x87, 10);
	KT(sum > 4.58428L && sum < 4.58429L, "x87 stack across a sleep");
	return (long)out.general[0];
}

static int wake[2];

/* Sleeps in one and the same call from before the image to the end. */
static void *asleep(void *arg)
{
	static uint64_t gs_area[4] = { 0x5678 };
	unsigned short cw = 0x0b7f, cw_after;
	uint64_t through_gs;
	char c = 0;

	(void)arg;
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs_area);
	__asm__ volatile("fldcw %0" : : "m"(cw));
	pthread_barrier_wait(&ready);
	KT(sleep_with(SYS_read, (uint64_t)wake[0], (uintptr_t)&c, 1, 5) == 1 && c == 'w');
	__asm__ volatile("fnstcw %0" : "=m"(cw_after));
	__asm__ volatile("mov %%gs:0, %0" : "=r"(through_gs));
	KT(cw_after == cw, "x87 control word %x across a sleep", cw_after);
	KT(through_gs == 0x5678, "GS base across a sleep");
	return NULL;
}

/* Sleeps for a time, the rest of which it sleeps in the life after. */
static void *dozing(void *arg)
{
	struct timespec nap = { 0, 300000000 };
	long result;

	(void)arg;
	pthread_barrier_wait(&ready);
	while (!leave)
		KT((result = sleep_with(SYS_nanosleep, (uintptr_t)&nap, 0, 77, 6)) == 0, "%ld",
		   result);
	return NULL;
}

int main(void)
{
	void *(*const all[])(void *) = { general, control, asleep, dozing, sleeper, avx, avx512 };
	int n = has_avx512() ? 7 : __builtin_cpu_supports("avx") ? 6 : 4;
	pthread_t threads[7];

	KT_NEED(pipe(wake) == 0);
	pthread_barrier_init(&ready, NULL, (unsigned)n + 1);
	for (int i = 0; i < n; i++)
		KT_NEED(pthread_create(&threads[i], NULL, all[i], NULL) == 0);
	pthread_barrier_wait(&ready);
	kt_wait();
	leave = 1;
	KT(write(wake[1], "w", 1) == 1);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	kt_end();
}
