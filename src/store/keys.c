/* SPDX-License-Identifier: Apache-2.0 */
#include "store/keys.h"

#include <kage/kage.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/secret.h"

/* The key of one pack. */
struct remembered {
	uint8_t id[IMAGE_ID_BYTES];
	uint8_t master[PACK_KEY_BYTES];
};

struct kage_keys {
	pthread_mutex_t lock; /* of all that follows */
	size_t users;
	struct key_pair *pair; /* locked memory; NULL: none was read */
	char *path;            /* where it came from, or would have */
	struct kage_err *why;  /* why there is none, after it was tried */
	bool tried;
	struct remembered *packs; /* locked memory, of max_packs */
	size_t n_packs, max_packs;
};

struct kage_err *kage_keys_create(struct kage_keys **ret_keys)
{
	struct kage_keys *k = calloc(1, sizeof(*k));

	if (!k)
		return kage_err_nomem();
	pthread_mutex_init(&k->lock, NULL);
	k->users = 1;
	*ret_keys = k;
	return NULL;
}

struct kage_keys *kage_keys_share(struct kage_keys *k)
{
	pthread_mutex_lock(&k->lock);
	k->users++;
	pthread_mutex_unlock(&k->lock);
	return k;
}

void kage_keys_release(struct kage_keys *k)
{
	size_t left;

	if (!k)
		return;
	pthread_mutex_lock(&k->lock);
	left = --k->users;
	pthread_mutex_unlock(&k->lock);
	if (left)
		return;
	kage_secret_free(k->pair);
	kage_secret_free(k->packs);
	kage_err_free(k->why);
	free(k->path);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

/* --- the secret key --------------------------------------------------------------------------- */

static struct kage_err *read_pair(const char *path, struct key_pair **ret_pair)
{
	struct key_pair *pair = NULL;
	struct kage_err *e;

	TRY(kage_secret_alloc(sizeof(*pair), &pair));
	e = kage_keyfile_read(path, pair);
	if (e)
		kage_secret_free(pair);
	else
		*ret_pair = pair;
	return e;
}

struct kage_err *kage_keys_use_file(struct kage_keys *k, const char *path)
{
	struct key_pair *pair = NULL;
	char *copy = strdup(path);
	struct kage_err *e = copy ? read_pair(path, &pair) : kage_err_nomem();

	if (e) {
		free(copy);
		return e;
	}
	pthread_mutex_lock(&k->lock);
	kage_secret_free(k->pair);
	free(k->path);
	k->pair = pair;
	k->path = copy;
	k->tried = true;
	pthread_mutex_unlock(&k->lock);
	return NULL;
}

/* Reads the key that is meant by default, once. With the lock held. */
static void try_default(struct kage_keys *k)
{
	bool own = false;

	if (k->tried)
		return;
	k->tried = true;
	k->why = kage_keyfile_default(&k->path, &own);
	if (!k->why)
		k->why = read_pair(k->path, &k->pair);
	/* That the user has no key of his own is nothing to complain of. */
	if (k->why && own && kage_err_code(k->why) == KAGE_NOTFOUND) {
		err_drop(k->why);
		k->why = NULL;
	}
}

/* What would open a pack that is encrypted for RECIPIENT. With the lock held. */
static struct kage_err *locked(const struct kage_keys *k, const uint8_t recipient[RECIPIENT_BYTES])
{
	char theirs[KEY_TEXT_BYTES], ours[KEY_TEXT_BYTES];

	kage_keyfile_text(recipient, theirs);
	if (k->pair) {
		kage_keyfile_text(k->pair->public, ours);
		return kage_err_new(KAGE_PERM,
				    "it is encrypted for %s, and the key in %s is that of %s; "
				    "--key FILE names another",
				    theirs, k->path, ours);
	}
	if (k->why)
		return kage_err_new(KAGE_PERM,
				    "it is encrypted for %s, and there is no secret key: %s; "
				    "--key FILE names another",
				    theirs, kage_err_message(k->why));
	return kage_err_new(KAGE_PERM,
			    "it is encrypted for %s; its secret key is needed, --key FILE or "
			    "$KAGE_KEY names it",
			    theirs);
}

/* --- keys of packs ---------------------------------------------------------------------------- */

static struct remembered *find(const struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES])
{
	for (size_t i = k->n_packs; i-- > 0;)
		if (memcmp(k->packs[i].id, id, IMAGE_ID_BYTES) == 0)
			return &k->packs[i];
	return NULL;
}

static struct kage_err *make_room(struct kage_keys *k)
{
	size_t max = k->max_packs ? k->max_packs * 2 : 64;
	struct remembered *grown;

	if (k->n_packs < k->max_packs)
		return NULL;
	TRY(kage_secret_alloc(max * sizeof(*grown), &grown));
	if (k->n_packs)
		memcpy(grown, k->packs, k->n_packs * sizeof(*grown));
	kage_secret_free(k->packs);
	k->packs = grown;
	k->max_packs = max;
	return NULL;
}

struct kage_err *kage_keys_remember(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
				    const struct pack_key *key)
{
	struct kage_err *e = NULL;
	struct remembered *r;

	pthread_mutex_lock(&k->lock);
	r = find(k, id);
	if (!r)
		e = make_room(k);
	if (!e) {
		r = r ? r : &k->packs[k->n_packs++];
		memcpy(r->id, id, IMAGE_ID_BYTES);
		memcpy(r->master, key->master, PACK_KEY_BYTES);
	}
	pthread_mutex_unlock(&k->lock);
	return e;
}

void kage_keys_renew(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
		     const struct pack_key *key)
{
	struct remembered *r;

	pthread_mutex_lock(&k->lock);
	r = find(k, id);
	if (r)
		memcpy(r->master, key->master, PACK_KEY_BYTES);
	pthread_mutex_unlock(&k->lock);
}

void kage_keys_forget_others(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES])
{
	struct remembered *r;

	pthread_mutex_lock(&k->lock);
	r = find(k, id);
	if (k->n_packs > 1 || !r) {
		if (r)
			k->packs[0] = *r;
		if (k->n_packs > (r ? 1 : 0))
			kage_secret_wipe(k->packs + (r ? 1 : 0),
					 (k->n_packs - (r ? 1 : 0)) * sizeof(*k->packs));
		k->n_packs = r ? 1 : 0;
	}
	pthread_mutex_unlock(&k->lock);
}

/* --- opening a pack --------------------------------------------------------------------------- */

/* A remembered key opens what it was remembered for; if the pack was written anew by somebody else, its
 * key is another one. With the lock held. */
static bool open_remembered(const struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
			    const struct sealed_parts *parts, struct pack_key *key)
{
	const struct remembered *r = find(k, id);

	if (!r)
		return false;
	kage_seal_key_of(r->master, key);
	return kage_seal_is_right(key, parts);
}

/* With the lock held. */
static struct kage_err *open_with_pair(struct kage_keys *k, const struct sealed_parts *parts,
				       uint64_t offset, struct pack_key *key)
{
	const struct key_record *record = parts->key;

	bool ours;

	try_default(k);
	if (!k->pair)
		return locked(k, record->recipient);
	ours = memcmp(k->pair->public, record->recipient, RECIPIENT_BYTES) == 0;
	/* The recipient's name is only believed where the key bears it out. */
	if (!kage_seal_open_box(k->pair->public, k->pair->secret, record->box, key))
		return ours ? kage_format_damage(offset, "its key is not what was encrypted")
			    : locked(k, record->recipient);
	if (!kage_seal_is_right(key, parts))
		return kage_format_damage(offset,
					  "the seal is wrong: what it says of itself was altered, "
					  "or it is not the pack of %s@%llu",
					  parts->history, (unsigned long long)parts->number);
	return NULL;
}

struct kage_err *kage_keys_open(struct kage_keys *k, const uint8_t id[IMAGE_ID_BYTES],
				const struct sealed_parts *parts, uint64_t offset,
				struct pack_key *ret_key)
{
	struct pack_key key = { 0 };
	struct kage_err *e = NULL;

	TRY(kage_secret_init());
	pthread_mutex_lock(&k->lock);
	if (!open_remembered(k, id, parts, &key))
		e = open_with_pair(k, parts, offset, &key);
	pthread_mutex_unlock(&k->lock);
	if (!e)
		*ret_key = key;
	kage_secret_wipe(&key, sizeof(key));
	return e;
}
