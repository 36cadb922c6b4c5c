/* SPDX-License-Identifier: Apache-2.0 */
/* Mappings of files: private ones with changed and with clean pages, shared ones, odd ends. */
#include "lib/kindtest.h"

enum { PAGE = 4096 };

static int make_file(const char *name, size_t size, uint64_t seed)
{
	unsigned char *bytes = malloc(size);
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	KT_NEED(fd >= 0 && bytes);
	kt_fill(bytes, size, seed);
	KT_NEED(write(fd, bytes, size) == (ssize_t)size);
	free(bytes);
	return fd;
}

static unsigned char *map_fd(int fd, size_t size, int prot, int flags, off_t offset)
{
	void *p = mmap(NULL, size, prot, flags, fd, offset);

	KT_NEED(p != MAP_FAILED);
	return p;
}

int main(void)
{
	int priv = make_file("private", 20 * PAGE + 100, 1);
	int shared = make_file("shared", 16 * PAGE, 2);
	int look = make_file("look", 8 * PAGE, 3);
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	unsigned char *p, *s1, *s2, *ro, *z, *offset, *hidden;
	unsigned char back[PAGE];
	const unsigned char *text = (const unsigned char *)(uintptr_t)&kt_wait;
	unsigned char text_byte = *text;

	KT_NEED(zero >= 0);
	p = map_fd(priv, 21 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	kt_fill(p + 3 * PAGE, PAGE, 4);              /* changed pages among clean ones */
	kt_fill(p + 20 * PAGE + 100, PAGE - 100, 5); /* behind the end of the file */
	memset(p + 5 * PAGE, 0, PAGE);               /* zeros that are not the file's */
	p[10 * PAGE] = 77;
	offset = map_fd(priv, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 8 * PAGE);
	offset[PAGE] = 78;
	hidden = map_fd(priv, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	hidden[2 * PAGE] = 79;
	KT_NEED(mprotect(hidden, 4 * PAGE, PROT_NONE) == 0);
	s1 = map_fd(shared, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	s2 = map_fd(shared, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 4 * PAGE);
	kt_fill(s1 + 5 * PAGE, PAGE, 6);
	ro = map_fd(look, 8 * PAGE, PROT_READ, MAP_SHARED, 0);
	z = map_fd(zero, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
	z[PAGE] = 80;
	close(priv);
	close(look);
	close(zero);

	kt_maps_remember();
	kt_wait();
	kt_maps_compare();

	KT(*text == text_byte);
	for (size_t i = 0; i < 20 * PAGE + 100; i++) {
		unsigned char want = i / PAGE == 3    ? kt_byte(4, i - 3 * PAGE)
				     : i / PAGE == 5  ? 0
				     : i == 10 * PAGE ? 77
						      : kt_byte(1, i);
		if (p[i] != want) {
			KT(false, "private mapping at %zu: %u, not %u", i, p[i], want);
			break;
		}
	}
	KT(kt_differs(p + 20 * PAGE + 100, PAGE - 100, 5) < 0);
	KT(offset[PAGE] == 78 && offset[PAGE + 1] == kt_byte(1, 9 * PAGE + 1));
	KT(offset[0] == kt_byte(1, 8 * PAGE));
	KT(mprotect(hidden, 4 * PAGE, PROT_READ) == 0);
	KT(hidden[2 * PAGE] == 79 && hidden[PAGE] == kt_byte(1, PAGE));
	KT(kt_differs(s1 + 5 * PAGE, PAGE, 6) < 0);
	KT(kt_differs(s2 + PAGE, PAGE, 6) < 0);
	s1[6 * PAGE] = 81; /* still one memory, and the file's */
	KT(s2[2 * PAGE] == 81);
	KT(pread(shared, back, PAGE, 6 * PAGE) == PAGE && back[0] == 81);
	KT(pwrite(shared, "R", 1, 7 * PAGE) == 1 && s1[7 * PAGE] == 'R' && s2[3 * PAGE] == 'R');
	KT(kt_differs(ro, 8 * PAGE, 3) < 0);
	KT(mprotect(ro, PAGE, PROT_READ | PROT_WRITE) == 0); /* it was opened for writing */
	KT(z[0] == 0 && z[PAGE] == 80);
	kt_end();
}
