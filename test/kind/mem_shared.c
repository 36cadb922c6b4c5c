/* SPDX-License-Identifier: Apache-2.0 */
/* Shared anonymous memory and memfds: contents, names, seals, aliases, holes. */
#include "lib/kindtest.h"

enum { PAGE = 4096, MIB = 1 << 20 };

static unsigned char *map(size_t size, int flags, int fd, off_t offset)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);

	KT_NEED(p != MAP_FAILED);
	return p;
}

static bool link_is(int fd, const char *what)
{
	char path[64], link[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	link[n < 0 ? 0 : n] = '\0';
	return strcmp(link, what) == 0;
}

int main(void)
{
	int plain = memfd_create("plain", 0);
	int sealed = memfd_create("sealed one", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int sparse = memfd_create("sparse", MFD_CLOEXEC);
	int gone = memfd_create("gone", MFD_CLOEXEC);
	int again;
	unsigned char *anon, *alias, *m1, *m2, *priv, *left;
	struct stat st;
	char link[64];

	KT_NEED(plain >= 0 && sealed >= 0 && sparse >= 0 && gone >= 0);
	anon = map(64 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	kt_fill(anon + 3 * PAGE, 5 * PAGE, 1);
	/* The same memory a second time: mremap of a shared mapping with old size 0. */
	alias = mremap(anon, 0, 64 * PAGE, MREMAP_MAYMOVE);
	KT_NEED(alias != MAP_FAILED);
	KT_NEED(ftruncate(plain, 32 * PAGE + 17) == 0);
	m1 = map(32 * PAGE, MAP_SHARED, plain, 0);
	m2 = map(8 * PAGE, MAP_SHARED, plain, 16 * PAGE);
	priv = map(8 * PAGE, MAP_PRIVATE, plain, 0);
	kt_fill(m1, 20 * PAGE, 2);
	priv[2 * PAGE] = 99;
	KT_NEED(lseek(plain, 12345, SEEK_SET) == 12345);
	KT_NEED(ftruncate(sealed, 2 * PAGE) == 0 && pwrite(sealed, "seal", 4, PAGE) == 4);
	KT_NEED(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
	KT_NEED(ftruncate(sparse, 512 * MIB) == 0 && pwrite(sparse, "x", 1, 300 * MIB) == 1);
	KT_NEED(fchmod(sparse, 0640) == 0);
	KT_NEED(ftruncate(gone, 4 * PAGE) == 0);
	left = map(4 * PAGE, MAP_SHARED, gone, 0); /* mapped, but no descriptor is left */
	kt_fill(left, 4 * PAGE, 3);
	close(gone);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", plain);
	again = open(link, O_RDONLY | O_CLOEXEC); /* another description of the same memfd */
	KT_NEED(again >= 0);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(kt_zero(anon, 3 * PAGE) && kt_zero(anon + 8 * PAGE, 56 * PAGE));
	KT(kt_differs(anon + 3 * PAGE, 5 * PAGE, 1) < 0);
	anon[9 * PAGE] = 7;
	KT(alias[9 * PAGE] == 7 && kt_differs(alias + 3 * PAGE, 5 * PAGE, 1) < 0);
	KT(link_is(plain, "/memfd:plain (deleted)"));
	KT(link_is(sealed, "/memfd:sealed one (deleted)"));
	KT(fstat(plain, &st) == 0 && st.st_size == 32 * PAGE + 17);
	KT(lseek(plain, 0, SEEK_CUR) == 12345);
	KT(lseek(again, 0, SEEK_CUR) == 0);
	KT((fcntl(again, F_GETFL) & O_ACCMODE) == O_RDONLY);
	KT(fcntl(plain, F_GETFD) == 0 && fcntl(sealed, F_GETFD) == FD_CLOEXEC);
	KT(kt_differs(m1, 20 * PAGE, 2) < 0);
	m1[17 * PAGE] = 8;
	KT(m2[PAGE] == 8);
	KT(pwrite(plain, "W", 1, 5) == 1 && m1[5] == 'W' && priv[5] == 'W');
	KT(priv[2 * PAGE] == 99 && m1[2 * PAGE] == kt_byte(2, 2 * PAGE));
	KT(pread(again, link, 1, 5) == 1 && link[0] == 'W');
	KT(fcntl(sealed, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "%x",
	   fcntl(sealed, F_GET_SEALS));
	KT(pread(sealed, link, 4, PAGE) == 4 && memcmp(link, "seal", 4) == 0);
	KT(pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM);
	KT(fcntl(plain, F_GET_SEALS) == F_SEAL_SEAL);
	KT(fstat(sparse, &st) == 0 && st.st_size == 512 * MIB && (st.st_mode & 07777) == 0640);
	KT(st.st_blocks < 100, "%ld blocks: holes were filled", (long)st.st_blocks);
	KT(pread(sparse, link, 1, 300 * MIB) == 1 && link[0] == 'x');
	KT(kt_differs(left, 4 * PAGE, 3) < 0);
	kt_end();
}
