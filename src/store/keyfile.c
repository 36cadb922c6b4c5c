/* SPDX-License-Identifier: Apache-2.0 */
#include "store/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <kage/kage.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/secret.h"

static const char public_prefix[] = "kage-pub-", secret_prefix[] = "kage-secret-";

enum {
	CHECK_BYTES = 4,
	CODED_BYTES = RECIPIENT_BYTES + CHECK_BYTES,
	CODED_CHARS = CODED_BYTES / 3 * 4, /* without padding: 36 is a multiple of three */
	FILE_BYTES = 64 * 1024,
};

_Static_assert(sizeof(secret_prefix) + CODED_CHARS <= KEY_TEXT_BYTES, "a key fits");

/* --- one line --------------------------------------------------------------------------------- */

static void check_of(const char *prefix, const uint8_t key[RECIPIENT_BYTES],
		     uint8_t ret_check[CHECK_BYTES])
{
	uint8_t hash[crypto_generichash_BYTES];

	crypto_generichash(hash, sizeof(hash), key, RECIPIENT_BYTES, (const uint8_t *)prefix,
			   strlen(prefix));
	memcpy(ret_check, hash, CHECK_BYTES);
	kage_secret_wipe(hash, sizeof(hash));
}

static void encode(const char *prefix, const uint8_t key[RECIPIENT_BYTES],
		   char ret_text[KEY_TEXT_BYTES])
{
	uint8_t coded[CODED_BYTES];
	size_t n = strlen(prefix);

	memcpy(coded, key, RECIPIENT_BYTES);
	check_of(prefix, key, coded + RECIPIENT_BYTES);
	memcpy(ret_text, prefix, n);
	sodium_bin2base64(ret_text + n, KEY_TEXT_BYTES - n, coded, sizeof(coded),
			  sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	kage_secret_wipe(coded, sizeof(coded));
}

/* The key that the SIZE characters at TEXT are, which begin with PREFIX. */
static bool decode(const char *prefix, const char *text, size_t size,
		   uint8_t ret_key[RECIPIENT_BYTES])
{
	uint8_t coded[CODED_BYTES], check[CHECK_BYTES];
	size_t n = strlen(prefix), got = 0;
	bool good = size == n + CODED_CHARS &&
		    sodium_base642bin(coded, sizeof(coded), text + n, CODED_CHARS, NULL, &got, NULL,
				      sodium_base64_VARIANT_URLSAFE_NO_PADDING) == 0 &&
		    got == sizeof(coded);

	if (good) {
		check_of(prefix, coded, check);
		good = memcmp(check, coded + RECIPIENT_BYTES, CHECK_BYTES) == 0;
	}
	if (good)
		memcpy(ret_key, coded, RECIPIENT_BYTES);
	kage_secret_wipe(coded, sizeof(coded));
	return good;
}

void kage_keyfile_text(const uint8_t public[RECIPIENT_BYTES], char ret_text[KEY_TEXT_BYTES])
{
	encode(public_prefix, public, ret_text);
}

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* The first line of TEXT that is not for people, without blanks around it. */
static const char *key_line(const char *text, size_t *ret_size)
{
	for (; *text; text += strcspn(text, "\n"), text += *text == '\n') {
		const char *at = text + strspn(text, " \t\r");

		*ret_size = strcspn(at, " \t\r\n");
		if (*ret_size && *at != '#')
			return at;
	}
	*ret_size = 0;
	return text;
}

/* --- public keys ------------------------------------------------------------------------------ */

/* WHERE: what the text is of, for messages. */
static struct kage_err *parse_public(const char *text, const char *where,
				     uint8_t ret_public[RECIPIENT_BYTES])
{
	size_t size;
	const char *line = key_line(text, &size);

	if (has_prefix(line, secret_prefix))
		return kage_err_new(KAGE_INVALID,
				    "%s is a secret key, which must not be on the machine that "
				    "records; 'kage key show FILE' prints the public one",
				    where);
	if (!has_prefix(line, public_prefix))
		return kage_err_new(KAGE_INVALID,
				    "%s is no public key; 'kage key new' makes one, it begins "
				    "with %s",
				    where, public_prefix);
	if (!decode(public_prefix, line, size, ret_public))
		return kage_err_new(KAGE_INVALID,
				    "%s is not as 'kage key' printed it: a character is wrong or "
				    "missing",
				    where);
	return NULL;
}

struct kage_err *kage_keyfile_recipient(const char *text, uint8_t ret_public[RECIPIENT_BYTES])
{
	_cleanup_free_ char *in_file = NULL;
	struct kage_err *e;
	size_t size;

	TRY(kage_secret_init());
	if (has_prefix(text, public_prefix) || has_prefix(text, secret_prefix))
		return parse_public(text, "what was given", ret_public);
	e = kage_file_slurp(AT_FDCWD, text, FILE_BYTES, &in_file, &size);
	if (e && kage_err_errno(e) == ENOENT) {
		err_drop(e);
		return kage_err_new(KAGE_INVALID,
				    "'%s' is neither a public key nor a file with one; 'kage key "
				    "new' makes one, it begins with %s",
				    text, public_prefix);
	}
	if (!e)
		e = parse_public(in_file, text, ret_public);
	return e;
}

/* --- secret keys ------------------------------------------------------------------------------ */

struct kage_err *kage_keyfile_default(char **ret_path, bool *ret_own)
{
	const char *named = getenv("KAGE_KEY"), *home = getenv("HOME"),
		   *config = getenv("XDG_CONFIG_HOME");
	int r = 0;

	*ret_own = !named || !*named;
	if (!*ret_own)
		*ret_path = strdup(named);
	else if (geteuid() == 0)
		*ret_path = strdup("/etc/kage/key");
	else if (config && config[0] == '/')
		r = asprintf(ret_path, "%s/kage/key", config);
	else if (home && home[0] == '/')
		r = asprintf(ret_path, "%s/.config/kage/key", home);
	else
		return kage_err_new(KAGE_INVALID, "no place for a key: neither KAGE_KEY, "
						  "XDG_CONFIG_HOME nor HOME is set");
	return r < 0 || !*ret_path ? kage_err_nomem() : NULL;
}

static struct kage_err *parse_secret(const char *text, struct key_pair *ret_pair)
{
	size_t size;
	const char *line = key_line(text, &size);

	if (has_prefix(line, public_prefix))
		return kage_err_new(KAGE_INVALID, "it holds a public key, not the secret one");
	if (!has_prefix(line, secret_prefix) ||
	    !decode(secret_prefix, line, size, ret_pair->secret))
		return kage_err_new(KAGE_INVALID,
				    "it holds no secret key that 'kage key new' made");
	crypto_scalarmult_base(ret_pair->public, ret_pair->secret);
	return NULL;
}

struct kage_err *kage_keyfile_read(const char *path, struct key_pair *ret_pair)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	_cleanup_free_ char *text = NULL;
	struct kage_err *e;
	struct stat st;
	size_t size;

	TRY(kage_secret_init());
	if (fd < 0 || fstat(fd, &st) < 0) {
		e = kage_err_sys(errno, "open the key %s", path);
		return errno == ENOENT ? kage_err_recode(e, KAGE_NOTFOUND) : e;
	}
	if (S_ISREG(st.st_mode) && (st.st_mode & (S_IRWXG | S_IRWXO)))
		return kage_err_new(KAGE_PERM, "the key %s can be read by others; 'chmod 600 %s'",
				    path, path);
	TRY(kage_file_slurp_fd(fd, path, FILE_BYTES, &text, &size));
	e = parse_secret(text, ret_pair);
	kage_secret_wipe(text, size);
	return kage_err_wrap(e, "the key %s", path);
}

/* --- making a pair ---------------------------------------------------------------------------- */

/* Makes the directories above PATH that are missing, closed to others. */
static struct kage_err *make_parents(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return kage_err_nomem();
	for (char *at = copy + 1; (at = strchr(at, '/')); at++) {
		*at = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST)
			return kage_err_sys(errno, "make the directory %s", copy);
		*at = '/';
	}
	return NULL;
}

static struct kage_err *write_pair(int fd, const char *path, const struct key_pair *pair)
{
	char public[KEY_TEXT_BYTES], secret[KEY_TEXT_BYTES], text[512];
	struct kage_err *e;
	int n;

	kage_keyfile_text(pair->public, public);
	encode(secret_prefix, pair->secret, secret);
	n = snprintf(text, sizeof(text),
		     "# A secret key of kage. Whoever has it can read what is encrypted for:\n"
		     "# %s\n%s\n",
		     public, secret);
	e = kage_file_write(fd, text, (size_t)n, -1, path);
	kage_secret_wipe(secret, sizeof(secret));
	kage_secret_wipe(text, sizeof(text));
	if (!e && fsync(fd) < 0)
		e = kage_err_sys(errno, "sync %s", path);
	return e;
}

/* Writes PAIR to a new file PATH. */
static struct kage_err *make_file(const char *path, const struct key_pair *pair)
{
	_cleanup_fd_ int fd = -1;
	struct kage_err *e;

	TRY(make_parents(path));
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return kage_err_new(KAGE_BUSY,
				    "%s is there already and is not overwritten: images may need "
				    "it; name another file, or 'kage key show %s' prints its "
				    "public key",
				    path, path);
	if (fd < 0)
		return kage_err_sys(errno, "make the key %s", path);
	e = write_pair(fd, path, pair);
	if (e)
		unlink(path);
	return e;
}

static struct kage_err *copy_text(const struct key_pair *pair, char **ret_public)
{
	char text[KEY_TEXT_BYTES];

	kage_keyfile_text(pair->public, text);
	*ret_public = strdup(text);
	return *ret_public ? NULL : kage_err_nomem();
}

/* The file that is meant, fresh. */
static struct kage_err *name_file(const char *path, char **ret_path)
{
	bool own;

	if (!path)
		return kage_keyfile_default(ret_path, &own);
	*ret_path = strdup(path);
	return *ret_path ? NULL : kage_err_nomem();
}

struct kage_err *kage_key_new(const char *path, char **ret_path, char **ret_public)
{
	_cleanup_free_ char *where = NULL;
	struct key_pair *pair = NULL;
	struct kage_err *e;

	TRY(name_file(path, &where));
	TRY(kage_secret_alloc(sizeof(*pair), &pair));
	crypto_box_keypair(pair->public, pair->secret);
	e = make_file(where, pair);
	if (!e)
		e = copy_text(pair, ret_public);
	kage_secret_free(pair);
	if (!e && ret_path)
		*ret_path = take_ptr(where);
	return e;
}

struct kage_err *kage_key_show(const char *path, char **ret_path, char **ret_public)
{
	_cleanup_free_ char *where = NULL;
	struct key_pair *pair = NULL;
	struct kage_err *e;

	TRY(name_file(path, &where));
	TRY(kage_secret_alloc(sizeof(*pair), &pair));
	e = kage_keyfile_read(where, pair);
	if (!e)
		e = copy_text(pair, ret_public);
	kage_secret_free(pair);
	if (e && kage_err_code(e) == KAGE_NOTFOUND)
		return kage_err_advise(e, "'kage key new' makes one");
	if (!e && ret_path)
		*ret_path = take_ptr(where);
	return e;
}

struct kage_err *kage_key_recipient(const char *text, char **ret_public)
{
	struct key_pair pair = { 0 };

	TRY_WRAP(kage_keyfile_recipient(text, pair.public), "encrypt for a recipient");
	return copy_text(&pair, ret_public);
}
