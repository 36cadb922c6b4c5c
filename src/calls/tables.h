/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is known of the kernel's system calls beyond their numbers: the signature of each, the constants that their
 * arguments are made of, and how the structures that they point to are laid out. Facts from the manual pages (section 2)
 * and the kernel's own headers for programs.
 */
#ifndef CALLS_TABLES_H
#define CALLS_TABLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CALL_ARGS = 6 };

/*
 * ARGS is a list of `name:TYPE`, separated by spaces; RESULT is a TYPE of this table, "" for a number. TYPE:
 *
 *	int uint long ulong		numbers (32 bits signed, unsigned; 64 bits)
 *	size off			of bytes
 *	fd dirfd			a descriptor; one or AT_FDCWD (group dirfd)
 *	pid uid gid mode dev		mode is octal
 *	signal				a signal's number, by its name (group signal) or not
 *	addr				an address of the program's own
 *	flags:GROUP enum:GROUP		constants of a group: flags are or-ed, of an enum there is one; what has no name is
 *					a number
 *
 * and what is pointed to, with `<` read by the kernel, `>` written, `=` both; NULL may always be given:
 *
 *	<str				a string that ends with NUL
 *	<strs				an array of them that ends with NULL (execve)
 *	<buf[size]			as many bytes as the argument named `size` says
 *	>buf[size]			the same; if the call returns a number of bytes, so many are there: >buf[size]~
 *	>STRUCT <STRUCT =STRUCT		a structure of calls_structs
 *	>STRUCT[n] …			an array; n is the name of an argument that counts them, or a number; >STRUCT[n]~ if
 *					the call returns how many there are (epoll_wait)
 *	>int >uint >long >ulong >off …	also numbers of the first table
 *	>buf[*size]			`size` points to a number that is both capacity and result (getsockname): its type is =int
 *	<buf[size+8]			8 bytes more than `size` says, also than the call returns (>buf[size+8]~): msgsnd, msgrcv
 *	>buf[size/4096]			a byte for each 4096, rounded up (mincore)
 *
 * Of a structure whose size is another argument (sched_getattr), more than the size here must not be asked for.
 */
struct calls_signature {
	const char *name;
	const char *args;
	const char *result;
};

struct calls_constant {
	const char *name;
	uint64_t value;
};

/*
 * Who takes the constants of a flags group one after the other, each that fits into what is left, gets the shortest text:
 * what is made of several bits comes before its parts, what has another name later. A constant that is 0 outside of
 * enum_mask says that there is nothing (PROT_NONE). Negative constants are so in 64 bits. No name has two values: bits of
 * sets have names of their own (SIGINT_BIT, CAP_KILL_BIT).
 */
struct calls_group {
	const char *name;
	const struct calls_constant *v;
	size_t n;
	/* Of flags in which an enum lies as well (O_ACCMODE): bits of it. Those constants come first. */
	uint64_t enum_mask;
};

/*
 * FIELDS is a list of `name:TYPE`, laid out as C would on this processor: s8 u8 s16 u16 s32 u32 s64 u64, ptr, a
 * `flags:GROUP/u32` or `enum:GROUP/u16` (type of the number behind the slash), `octal/u32`, chars[N] (a string), bytes[N], another
 * STRUCT, any of them as TYPE[N] (an array). `name@OFFSET:TYPE` where C's rule does not hold. Names that begin with
 * `_` are not shown.
 */
struct calls_struct {
	const char *name;
	size_t size;
	const char *fields;
};

/** What is known of the call NAME; NULL: nothing. */
const struct calls_signature *calls_signature(const char *name);

/** The group NAME of constants, of LENGTH characters; NULL: none. */
const struct calls_group *calls_group(const char *name, size_t length);

/** The constant NAME (LENGTH characters) of any group. */
bool calls_constant(const char *name, size_t length, uint64_t *ret_value);

/** The structure NAME, of LENGTH characters; NULL: none. */
const struct calls_struct *calls_struct(const char *name, size_t length);

/* For tests: all of them. */
extern const struct calls_signature calls_signatures[];
extern const size_t calls_n_signatures;
extern const struct calls_struct calls_structs[];
extern const size_t calls_n_structs;
/** The group of this index; NULL: there are no more. */
const struct calls_group *calls_group_at(size_t i);

#endif
