/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring(7) with one registered buffer, by bare system calls: as much of it as reading into that buffer
 * takes.
 */
#ifndef TEST_RING_H
#define TEST_RING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct ring {
	int fd;
	struct io_uring_params p;
	char *rings; /* both of them */
	struct io_uring_sqe *sqes;
	size_t rings_bytes;
};

__attribute__((unused)) static void ring_close(struct ring *r)
{
	munmap(r->rings, r->rings_bytes);
	munmap(r->sqes, r->p.sq_entries * sizeof(*r->sqes));
	close(r->fd);
}

/** False where there is no io_uring, or it may not be used. BUFFER is written to and pinned. */
__attribute__((unused)) static bool ring_open(struct ring *r, void *buffer, size_t size)
{
	struct iovec iov = { buffer, size };
	size_t sq, cq;

	memset(r, 0, sizeof(*r));
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->p);
	if (r->fd < 0)
		return false;
	sq = r->p.sq_off.array + r->p.sq_entries * sizeof(uint32_t);
	cq = r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe);
	r->rings_bytes = sq > cq ? sq : cq;
	r->rings = mmap(NULL, r->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, r->p.sq_entries * sizeof(*r->sqes), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	if (r->rings == MAP_FAILED || (void *)r->sqes == MAP_FAILED ||
	    syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &iov, 1) < 0) {
		close(r->fd);
		return false;
	}
	return true;
}

/** What read(2) would return, or -errno. BUFFER lies in the registered one. */
__attribute__((unused)) static int ring_read_fixed(struct ring *r, int fd, void *buffer,
						   size_t size, uint64_t offset)
{
	uint32_t *tail = (uint32_t *)(r->rings + r->p.sq_off.tail);
	uint32_t *head = (uint32_t *)(r->rings + r->p.cq_off.head);
	const uint32_t *cq_tail = (uint32_t *)(r->rings + r->p.cq_off.tail);
	uint32_t *array = (uint32_t *)(r->rings + r->p.sq_off.array);
	uint32_t i = *tail & (r->p.sq_entries - 1), done = *head & (r->p.cq_entries - 1);
	const struct io_uring_cqe *cqes =
		(const struct io_uring_cqe *)(r->rings + r->p.cq_off.cqes);
	long n;

	r->sqes[i] = (struct io_uring_sqe){ .opcode = IORING_OP_READ_FIXED,
					    /* Every second one by a worker thread. */
					    .flags = *tail & 1 ? IOSQE_ASYNC : 0,
					    .fd = fd,
					    .off = offset,
					    .addr = (uintptr_t)buffer,
					    .len = (uint32_t)size };
	array[i] = i;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	n = syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	if (n != 1)
		return -1;
	/* It has submitted, and may have been interrupted then. */
	while (__atomic_load_n(cq_tail, __ATOMIC_ACQUIRE) == *head)
		syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return cqes[done].res;
}

#endif
