/* SPDX-License-Identifier: Apache-2.0 */
/* What tables.h says in words, as structures: the arguments of a call, the fields of a structure. */
#ifndef CALLS_FORM_H
#define CALLS_FORM_H

#include "calls/tables.h"

/* One number, string of bytes or structure. */
struct calls_atom {
	enum calls_atom_kind { ATOM_NUMBER, ATOM_CHARS, ATOM_BYTES, ATOM_STRUCT } kind;
	size_t size, align;
	bool is_signed;
	enum calls_shown { SHOW_DECIMAL, SHOW_HEX, SHOW_OCTAL, SHOW_FLAGS, SHOW_ENUM } shown;
	bool pointer;                      /* a number that is an address */
	const struct calls_group *group;   /* of constants; or NULL */
	const struct calls_struct *layout; /* of a structure */
};

/* How many there are behind a pointer. */
struct calls_count {
	enum { COUNT_ONE, COUNT_FIXED, COUNT_ARG, COUNT_POINTED } kind;
	uint64_t n;      /* COUNT_FIXED */
	size_t arg;      /* COUNT_ARG: that argument; COUNT_POINTED: what it points to */
	uint64_t add;    /* to the argument */
	uint64_t divide; /* it by, rounded up; 0: not */
	bool returned;   /* the call's result says how many were written, plus `add` */
};

struct calls_type {
	enum calls_way {
		WAY_VALUE,
		WAY_IN,
		WAY_OUT,
		WAY_INOUT
	} way; /* all but the first point to it */
	enum { TYPE_ATOM, TYPE_STRING, TYPE_STRINGS, TYPE_BUFFER } kind;
	struct calls_atom atom;
	struct calls_count count;
};

struct calls_argument {
	const char *name;
	size_t name_length;
	struct calls_type type;
};

struct calls_form {
	bool known; /* else ARGS are unknown, and there may be any */
	size_t n;
	struct calls_argument args[CALL_ARGS];
	struct calls_atom result;
};

/** Of the call NAME. */
void calls_form_of(const char *name, struct calls_form *ret_form);

/* The fields of a structure one after the other. Zero-initialise but for `layout`. */
struct calls_fields {
	const struct calls_struct *layout;
	const char *at;
	size_t end; /* of the last field */
};

struct calls_field {
	const char *name;
	size_t name_length;
	bool hidden;
	size_t offset;
	size_t n; /* elements of an array */
	bool array;
	struct calls_atom atom;
};

/** The next one; false at the end. */
bool calls_fields_next(struct calls_fields *fields, struct calls_field *ret_field);

/** The bytes of all of its elements. */
size_t calls_field_bytes(const struct calls_field *field);

#endif
