/* SPDX-License-Identifier: Apache-2.0 */
#include "git/git.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "git/lib.h"

/* What a file held when it was committed last. */
struct version {
	char *path; /* in the tree */
	uint8_t hash[16];
	uint64_t size;
	git_oid blob;
};

struct kage_git {
	struct git_lib lib;
	char *dir;
	git_repository *repo;
	git_odb *odb;
	struct version *versions;
	size_t n_versions;
	git_oid made, parent; /* the commit that was made last, and the branch before it */
	bool is_first;        /* the branch was not there */
};

enum { REF_BYTES = 128, PIECE_PAGES = 256, FILE_MODE = 0100644, PROGRAM_MODE = 0100755 };

/* --- the repository --------------------------------------------------------------------------- */

static void free_versions(struct kage_git *g)
{
	for (size_t i = 0; i < g->n_versions; i++)
		free(g->versions[i].path);
	free(g->versions);
	g->versions = NULL;
	g->n_versions = 0;
}

void kage_git_close(struct kage_git *g)
{
	if (!g)
		return;
	free_versions(g);
	if (g->odb)
		g->lib.git_odb_free(g->odb);
	if (g->repo)
		g->lib.git_repository_free(g->repo);
	kage_git_lib_unload(&g->lib);
	free(g->dir);
	free(g);
}

const char *kage_git_dir(const struct kage_git *g)
{
	return g->dir;
}

/* rmdir(2) tells whether it is empty, and what is made again at once nobody misses. */
static bool is_missing_or_empty(const char *dir)
{
	return rmdir(dir) == 0 || errno == ENOENT;
}

static struct kage_err *make_repository(struct kage_git *g, const char *dir)
{
	git_repository_init_options how = { .version = GIT_REPOSITORY_INIT_OPTIONS_VERSION };
	int r;

	/* It holds what the files hold: nobody else's to read. */
	if (mkdir(dir, 0700) < 0)
		return kage_err_sys(errno, "make the git repository %s", dir);
	how.flags = GIT_REPOSITORY_INIT_BARE | GIT_REPOSITORY_INIT_NO_REINIT;
	r = g->lib.git_repository_init_ext(&g->repo, dir, &how);
	return r < 0 ? kage_git_lib_err(&g->lib, r, "make the git repository %s", dir) : NULL;
}

static struct kage_err *open_repository(struct kage_git *g, const char *dir, bool create)
{
	char path[PATH_MAX];
	int r;

	if (create && is_missing_or_empty(dir))
		TRY(make_repository(g, dir));
	else if ((r = g->lib.git_repository_open_ext(&g->repo, dir, GIT_REPOSITORY_OPEN_NO_SEARCH,
						     NULL)) < 0)
		return kage_git_lib_err(&g->lib, r, "open the git repository %s", dir);
	if (!realpath(dir, path))
		return kage_err_sys(errno, "open the git repository %s", dir);
	g->dir = strdup(path);
	if (!g->dir)
		return kage_err_nomem();
	/* Whose name reference logs have: without it libgit2 asks the user's configuration. */
	g->lib.git_repository_set_ident(g->repo, "kage", "kage@localhost");
	r = g->lib.git_repository_odb(&g->odb, g->repo);
	return r < 0 ? kage_git_lib_err(&g->lib, r, "open the git repository %s", dir) : NULL;
}

struct kage_err *kage_git_open(const char *dir, bool create, struct kage_git **ret_git)
{
	struct kage_git *g = calloc(1, sizeof(*g));
	struct kage_err *e;

	if (!g)
		return kage_err_nomem();
	e = kage_git_lib_load(&g->lib);
	if (e)
		e = kage_err_wrap(e, "use the git repository %s", dir);
	else
		e = open_repository(g, dir, create);
	if (e) {
		kage_git_close(g);
		return e;
	}
	*ret_git = g;
	return NULL;
}

/* --- contents --------------------------------------------------------------------------------- */

/* Whether F goes into the repository: others are only mapped or read. */
static bool is_wanted(const Kage__FileObject *f)
{
	return S_ISREG(f->mode) && (f->written || f->unlinked);
}

/* Where F stands in the tree, fresh. */
static char *tree_path(const Kage__FileObject *f)
{
	const char *path = f->path + strspn(f->path, "/");
	char *tree;
	int n = f->unlinked ? asprintf(&tree, ".unlinked/%s.%llu", path, (unsigned long long)f->ino)
			    : asprintf(&tree, "%s", path);

	return n < 0 ? NULL : tree;
}

static struct kage_err *write_pieces(struct kage_git *g, const struct kage_image *image,
				     const Kage__FileObject *f, git_odb_stream *stream,
				     git_oid *oid)
{
	_cleanup_free_ char *piece = malloc(PIECE_PAGES * KAGE_PAGE_BYTES);
	uint64_t piece_bytes = PIECE_PAGES * KAGE_PAGE_BYTES;
	int r = 0;

	if (!piece)
		return kage_err_nomem();
	for (uint64_t at = 0; r >= 0 && at < f->size_bytes; at += piece_bytes) {
		uint64_t n = f->size_bytes - at < piece_bytes ? f->size_bytes - at : piece_bytes;

		TRY(kage_pages_read(image->pages, f->content_space, at >> KAGE_PAGE_SHIFT,
				    (n + KAGE_PAGE_BYTES - 1) >> KAGE_PAGE_SHIFT, piece));
		r = g->lib.git_odb_stream_write(stream, piece, n);
	}
	if (r >= 0)
		r = g->lib.git_odb_stream_finalize_write(oid, stream);
	return r < 0 ? kage_git_lib_err(&g->lib, r, "write %s to %s", f->path, g->dir) : NULL;
}

static struct kage_err *write_blob(struct kage_git *g, const struct kage_image *image,
				   const Kage__FileObject *f, git_oid *ret_oid)
{
	git_odb_stream *stream;
	struct kage_err *e;
	int r = g->lib.git_odb_open_wstream(&stream, g->odb, (git_object_size_t)f->size_bytes,
					    GIT_OBJECT_BLOB);

	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "write %s to %s", f->path, g->dir);
	e = write_pieces(g, image, f, stream, ret_oid);
	g->lib.git_odb_stream_free(stream);
	return e;
}

static struct version *find_version(struct kage_git *g, const char *path)
{
	for (size_t i = 0; i < g->n_versions; i++)
		if (strcmp(g->versions[i].path, path) == 0)
			return &g->versions[i];
	return NULL;
}

/* Remembers that F at PATH is BLOB. */
static struct kage_err *note_version(struct kage_git *g, const Kage__FileObject *f,
				     const char *path, const git_oid *blob)
{
	struct version *v = find_version(g, path), *grown;

	if (f->hash.len != sizeof(v->hash))
		return NULL;
	if (!v) {
		grown = reallocarray(g->versions, g->n_versions + 1, sizeof(*grown));
		if (!grown)
			return kage_err_nomem();
		g->versions = grown;
		v = &grown[g->n_versions];
		v->path = strdup(path);
		if (!v->path)
			return kage_err_nomem();
		g->n_versions++;
	}
	memcpy(v->hash, f->hash.data, sizeof(v->hash));
	v->size = f->size_bytes;
	v->blob = *blob;
	return NULL;
}

static struct kage_err *find_blob(struct kage_git *g, const struct kage_image *image,
				  const Kage__FileObject *f, const char *path, git_oid *ret_oid)
{
	const struct version *v = find_version(g, path);

	if (v && f->hash.len == sizeof(v->hash) && v->size == f->size_bytes &&
	    memcmp(v->hash, f->hash.data, sizeof(v->hash)) == 0) {
		*ret_oid = v->blob;
		return NULL;
	}
	TRY(write_blob(g, image, f, ret_oid));
	return note_version(g, f, path, ret_oid);
}

/* --- the tree and the message ----------------------------------------------------------------- */

/* Adds F to INDEX. What has no contents in the image, or a path that git does not take, is named in LEFT_OUT. */
static struct kage_err *add_file(struct kage_git *g, const struct kage_image *image,
				 const Kage__FileObject *f, git_index *index, FILE *left_out)
{
	_cleanup_free_ char *path = tree_path(f);
	git_index_entry entry = { .mode = f->mode & 0111 ? PROGRAM_MODE : FILE_MODE, .path = path };

	if (!path)
		return kage_err_nomem();
	if (f->content_space) {
		TRY(find_blob(g, image, f, path, &entry.id));
		if (g->lib.git_index_add(index, &entry) >= 0)
			return NULL;
	}
	fprintf(left_out, "Kage-Left-Out: %s\n", path);
	return NULL;
}

static struct kage_err *write_tree(struct kage_git *g, const struct kage_image *image,
				   FILE *left_out, git_oid *ret_tree)
{
	struct kage_err *e = NULL;
	git_index *index;
	int r = g->lib.git_index_new(&index);

	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "make a tree");
	for (size_t i = 0; !e && i < image->msg->n_files; i++)
		if (is_wanted(image->msg->files[i]))
			e = add_file(g, image, image->msg->files[i], index, left_out);
	if (!e && (r = g->lib.git_index_write_tree_to(ret_tree, index, g->repo)) < 0)
		e = kage_git_lib_err(&g->lib, r, "write a tree to %s", g->dir);
	g->lib.git_index_free(index);
	return e;
}

/* TEXT on one line: it comes from the target. */
static void put_line(FILE *out, const char *key, const char *text)
{
	fprintf(out, "%s: ", key);
	for (; *text; text++)
		fputc((unsigned char)*text < ' ' || *text == 127 ? ' ' : *text, out);
	fputc('\n', out);
}

static void put_message(FILE *out, const struct kage_image *image, const char *name,
			uint64_t number)
{
	const Kage__Source *s = image->msg->source;
	const Kage__Process *p = image->msg->processes[0];
	time_t t = (time_t)(s->realtime_ns / 1000000000);
	char taken[64];
	struct tm tm;

	fprintf(out, "%s@%llu\n\n", name, (unsigned long long)number);
	if (s->message && s->message[0])
		fprintf(out, "%s\n\n", s->message);
	gmtime_r(&t, &tm);
	strftime(taken, sizeof(taken), "%Y-%m-%dT%H:%M:%S", &tm);
	fprintf(out, "Kage-Image: %s@%llu\n", name, (unsigned long long)number);
	fprintf(out, "Kage-Taken: %s.%09uZ\n", taken, (unsigned)(s->realtime_ns % 1000000000));
	put_line(out, "Kage-Host", s->hostname);
	fprintf(out, "Kage-Pid: %d\n", p->pid);
	put_line(out, "Kage-Command", s->command && s->command[0] ? s->command : p->comm);
}

/* --- commits ---------------------------------------------------------------------------------- */

static void ref_name(const char *name, char ref[REF_BYTES])
{
	snprintf(ref, REF_BYTES, "refs/heads/kage/%s", name);
}

/* Where the branch of NAME is, and that nobody works on it: his files would look changed. */
static struct kage_err *look_at_branch(struct kage_git *g, const char *name)
{
	char ref[REF_BYTES];
	git_reference *branch;
	bool used;
	int r;

	ref_name(name, ref);
	r = g->lib.git_reference_lookup(&branch, g->repo, ref);
	g->is_first = r == GIT_ENOTFOUND;
	if (g->is_first)
		return NULL;
	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "read the branch kage/%s of %s", name, g->dir);
	used = g->lib.git_branch_is_checked_out(branch) == 1;
	if (g->lib.git_reference_target(branch))
		g->parent = *g->lib.git_reference_target(branch);
	g->lib.git_reference_free(branch);
	if (used)
		return kage_err_new(KAGE_BUSY,
				    "the branch kage/%s is checked out in %s; check out another "
				    "one there",
				    name, g->dir);
	return NULL;
}

/* Writes the commit of TREE, to which no branch leads yet. */
static struct kage_err *write_commit(struct kage_git *g, const struct kage_image *image,
				     const git_oid *tree_id, const char *message)
{
	int64_t seconds = (int64_t)(image->msg->source->realtime_ns / 1000000000);
	git_signature *who = NULL;
	git_commit *parent = NULL;
	git_tree *tree = NULL;
	int r;

	r = g->lib.git_tree_lookup(&tree, g->repo, tree_id);
	if (r >= 0)
		r = g->lib.git_signature_new(&who, "kage", "kage@localhost", seconds, 0);
	if (r >= 0 && !g->is_first)
		r = g->lib.git_commit_lookup(&parent, g->repo, &g->parent);
	if (r >= 0)
		r = g->lib.git_commit_create(&g->made, g->repo, NULL, who, who, NULL, message, tree,
					     parent ? 1 : 0, (const git_commit **)&parent);
	if (parent)
		g->lib.git_commit_free(parent);
	if (who)
		g->lib.git_signature_free(who);
	if (tree)
		g->lib.git_tree_free(tree);
	return r < 0 ? kage_git_lib_err(&g->lib, r, "write a commit to %s", g->dir) : NULL;
}

static struct kage_err *commit(struct kage_git *g, const struct kage_image *image, const char *name,
			       uint64_t number)
{
	_cleanup_free_ char *message = NULL;
	struct kage_err *e;
	git_oid tree;
	size_t size;
	FILE *out;

	TRY(look_at_branch(g, name));
	out = open_memstream(&message, &size);
	if (!out)
		return kage_err_nomem();
	put_message(out, image, name, number);
	e = write_tree(g, image, out, &tree);
	if (fclose(out) != 0 && !e)
		e = kage_err_nomem();
	return e ? e : write_commit(g, image, &tree, message);
}

struct kage_err *kage_git_commit(struct kage_git *g, const struct kage_image *image,
				 const char *name, uint64_t number, char ret_id[KAGE_GIT_ID_BYTES])
{
	struct kage_err *e = commit(g, image, name, number);

	if (e) {
		free_versions(g); /* somebody may have taken them away */
		return kage_err_wrap(e, "commit the files of %s@%llu", name,
				     (unsigned long long)number);
	}
	g->lib.git_oid_tostr(ret_id, KAGE_GIT_ID_BYTES, &g->made);
	return NULL;
}

struct kage_err *kage_git_publish(struct kage_git *g, const char *name)
{
	char ref[REF_BYTES];
	git_reference *branch;
	int r;

	ref_name(name, ref);
	r = g->lib.git_reference_create_matching(&branch, g->repo, ref, &g->made, !g->is_first,
						 g->is_first ? NULL : &g->parent, "kage");
	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "move the branch kage/%s of %s", name, g->dir);
	g->lib.git_reference_free(branch);
	/* So that 'git log' in a repository that is only for this shows it. */
	if (g->is_first && g->lib.git_repository_is_bare(g->repo) == 1 &&
	    g->lib.git_repository_head_unborn(g->repo) == 1)
		g->lib.git_repository_set_head(g->repo, ref);
	return NULL;
}

/* --- comparing -------------------------------------------------------------------------------- */

static bool has_contents(struct kage_git *g, git_blob *blob, const Kage__FileObject *f)
{
	XXH128_canonical_t hash;
	uint64_t size = (uint64_t)g->lib.git_blob_rawsize(blob);

	if (size != f->size_bytes || f->hash.len != sizeof(hash))
		return size == f->size_bytes;
	XXH128_canonicalFromHash(&hash, XXH3_128bits(g->lib.git_blob_rawcontent(blob), size));
	return memcmp(&hash, f->hash.data, sizeof(hash)) == 0;
}

static bool is_left_out(struct kage_git *g, const git_commit *c, const char *path)
{
	const char *at = g->lib.git_commit_message(c);
	size_t n = strlen(path);
	static const char key[] = "\nKage-Left-Out: ";

	while ((at = strstr(at, key))) {
		at += sizeof(key) - 1;
		if (strncmp(at, path, n) == 0 && at[n] == '\n')
			return true;
	}
	return false;
}

static struct kage_err *compare_file(struct kage_git *g, const git_commit *c, git_tree *tree,
				     const Kage__FileObject *f)
{
	_cleanup_free_ char *path = tree_path(f);
	git_tree_entry *entry = NULL;
	git_blob *blob = NULL;
	bool same = false;
	int r;

	if (!path)
		return kage_err_nomem();
	if (is_left_out(g, c, path))
		return NULL;
	r = g->lib.git_tree_entry_bypath(&entry, tree, path);
	if (r >= 0)
		r = g->lib.git_blob_lookup(&blob, g->repo, g->lib.git_tree_entry_id(entry));
	if (r >= 0)
		same = has_contents(g, blob, f);
	if (blob)
		g->lib.git_blob_free(blob);
	if (entry)
		g->lib.git_tree_entry_free(entry);
	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "read %s of the commit", path);
	return same ? NULL
		    : kage_err_new(KAGE_CHANGED, "%s of the commit is not the image's", path);
}

static struct kage_err *compare_files(struct kage_git *g, const struct kage_image *image,
				      const git_commit *c)
{
	struct kage_err *e = NULL;
	git_tree *tree;
	int r = g->lib.git_commit_tree(&tree, c);

	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "read its tree");
	for (size_t i = 0; !e && i < image->msg->n_files; i++)
		if (is_wanted(image->msg->files[i]))
			e = compare_file(g, c, tree, image->msg->files[i]);
	g->lib.git_tree_free(tree);
	return e;
}

struct kage_err *kage_git_compare(struct kage_git *g, const struct kage_image *image)
{
	const char *id = image->msg->source->git_commit;
	struct kage_err *e;
	git_commit *c;
	git_oid oid;
	int r;

	if (!id || !id[0])
		return kage_err_new(KAGE_NOTFOUND,
				    "no commit belongs to it: it was taken without "
				    "--git; --files=restore puts its files back, too");
	r = g->lib.git_oid_fromstr(&oid, id);
	if (r >= 0)
		r = g->lib.git_commit_lookup(&c, g->repo, &oid);
	if (r < 0)
		return kage_git_lib_err(&g->lib, r, "find the commit %.12s in %s", id, g->dir);
	e = compare_files(g, image, c);
	g->lib.git_commit_free(c);
	return kage_err_wrap(e, "compare with the commit %.12s in %s", id, g->dir);
}
