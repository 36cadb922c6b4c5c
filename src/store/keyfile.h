/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys as text, and the files that they are in. One line each, to be pasted: a prefix and 48 characters, the
 * key and four bytes that tell a slip of the hand. Lines that begin with '#' are for people.
 */
#ifndef STORE_KEYFILE_H
#define STORE_KEYFILE_H

#include "store/format.h"

enum { KEY_TEXT_BYTES = 64 };

/* A pair of keys. Who has one wipes it. */
struct key_pair {
	uint8_t public[RECIPIENT_BYTES];
	uint8_t secret[RECIPIENT_BYTES];
};

/** The public key as text: "kage-pub-…". */
void kage_keyfile_text(const uint8_t public[RECIPIENT_BYTES], char ret_text[KEY_TEXT_BYTES]);

/** The public key that TEXT is, or that stands in the file TEXT. KAGE_INVALID says what is wrong. */
struct kage_err *kage_keyfile_recipient(const char *text, uint8_t ret_public[RECIPIENT_BYTES])
	_must_check_;

/** The file of the secret key that is meant when none is named: $KAGE_KEY, else the user's own, as a fresh
 *  string. *RET_OWN: it is the user's own, which nobody named. */
struct kage_err *kage_keyfile_default(char **ret_path, bool *ret_own) _must_check_;

/** Reads the secret key in the file PATH. KAGE_NOTFOUND when there is no such file, KAGE_PERM when others
 *  can read it. */
struct kage_err *kage_keyfile_read(const char *path, struct key_pair *ret_pair) _must_check_;

#endif
