#include "preprocessd/store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preprocessd/store/guard.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

#define DATA_FILE "data.mdb" /* LMDB's own name for it */
#define LOCK_FILE "daemon.lock"
#define CHECK_FILE "check" /* there: the tree wants a look before it is used again */

enum {
	FIRST_MAP_BYTES = 1 << 30,
	EXTRA_BYTES = 16 << 20,  /* for deletions in a full cache */
	PID_TEXT_BYTES = 32,
	PROBE_PIECES = 256,      /* of PROBE_BYTES, written to see whether there is space */
	PROBE_BYTES = 4096,
};
static const uint64_t GROW_BYTES_MAX = (uint64_t)64 << 30;

/* --- one daemon ------------------------------------------------------------ */

static int busy(const struct cache *cache, int fd, struct err *err)
{
	char text[PID_TEXT_BYTES] = "";
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
	long pid = got > 0 ? strtol(text, NULL, 10) : 0;
	char owner[64] = "another process";

	if (pid > 0)
		snprintf(owner, sizeof(owner), "process %ld", pid);
	return err_set(err, ERR_BUSY, "the cache %s is in use by %s; one daemon at a time can have it: stop that one "
		       "(prepctl shutdown) or give another folder with --cache", cache->path, owner);
}

int env_lock(struct cache *cache, struct err *err)
{
	char pid[PID_TEXT_BYTES];
	char *path = NULL;
	int code = fs_join(&path, cache->path, LOCK_FILE, err);

	if (code != 0)
		return code;
	cache->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (cache->lock_fd < 0) {
		code = err_errno(err, errno, "%s", path);
	} else if (flock(cache->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		code = errno == EWOULDBLOCK ? busy(cache, cache->lock_fd, err) : err_errno(err, errno, "%s", path);
	} else {
		int length = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

		/* The pid is for the other daemon's message only: a full disk is no obstacle here. */
		if (ftruncate(cache->lock_fd, 0) != 0 || pwrite(cache->lock_fd, pid, (size_t)length, 0) != length)
			log_debug("%s: the process id could not be written", path);
	}
	if (code != 0 && cache->lock_fd >= 0) {
		close(cache->lock_fd);
		cache->lock_fd = -1;
	}
	mem_free(path);
	return code;
}

void env_unlock(struct cache *cache)
{
	/* The file stays: unlinking it could take away a lock that a newcomer has just got. */
	if (cache->lock_fd >= 0)
		close(cache->lock_fd);
	cache->lock_fd = -1;
}

/* --- error texts -------------------------------------------------------------- */

static int disk_full(const struct cache *cache, struct err *err)
{
	return err_set(err, ERR_FULL, "no space left for the cache %s; free some on that disk, or give a folder on another "
		       "one with --cache (nothing that was stored is lost)", cache->path);
}

int env_error(const struct cache *cache, int rc, struct err *err)
{
	switch (rc) {
	case MDB_MAP_FULL:
		return err_set(err, ERR_FULL, "the cache %s has reached its limit of %.1f MiB; raise --max-cache, or remove data "
			       "sets (prepctl rm) and what nothing needs any more (prepctl gc)", cache->path,
			       (double)cache->max_bytes / (1 << 20));
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return disk_full(cache, err);
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_BAD_TXN:
		return err_set(err, ERR_CORRUPT, "the cache %s is damaged (%s); stop the daemon, remove the folder and add the "
			       "data sets again", cache->path, mdb_strerror(rc));
	case MDB_INVALID:
		return err_set(err, ERR_CORRUPT, "%s/" DATA_FILE " is not an LMDB file, so not a cache; give another folder with "
			       "--cache, or remove the file", cache->path);
	case MDB_VERSION_MISMATCH:
		return err_set(err, ERR_CORRUPT, "%s/" DATA_FILE " is of another version of LMDB; remove the folder, or give "
			       "another one with --cache", cache->path);
	case MDB_BAD_RSLOT:
		return err_set(err, ERR_IO, "the lock file of the cache %s was changed while in use (%s); stop the daemon and start it again: "
			       "nothing that was stored is lost", cache->path, mdb_strerror(rc));
	case MDB_READERS_FULL:
		return err_set(err, ERR_LIMIT, "the cache %s has %d readers, no more are allowed", cache->path, CACHE_READERS_MAX);
	case ENOMEM:
		return err_set(err, ERR_NOMEM, "out of memory or address space for the cache %s", cache->path);
	default:
		if (rc > 0)
			return err_errno(err, rc, "the cache %s", cache->path);
		return err_set(err, ERR_IO, "the cache %s: %s", cache->path, mdb_strerror(rc));
	}
}

/* LMDB turns a short write into EIO and forgets the reason, so look for it: the space behind the
 * file's end is nobody's, and what is written there is taken back. */
int env_write_error(const struct cache *cache, int rc, struct err *err)
{
	static const char zeros[PROBE_BYTES];
	struct stat file;
	mdb_filehandle_t fd;
	bool full = false;

	if (rc != EIO || mdb_env_get_fd(cache->env, &fd) != 0 || fstat(fd, &file) != 0)
		return env_error(cache, rc, err);
	for (int i = 0; i < PROBE_PIECES && !full; i++) {
		ssize_t put = pwrite(fd, zeros, sizeof(zeros), file.st_size + (off_t)i * PROBE_BYTES);

		full = put < 0 ? errno == ENOSPC || errno == EDQUOT || errno == EFBIG : put < PROBE_BYTES;
		if (put < 0)
			break;
	}
	if (ftruncate(fd, file.st_size) != 0)
		log_debug("%s/" DATA_FILE " stays longer than it need be", cache->path);
	return full ? disk_full(cache, err) : env_error(cache, rc, err);
}

/* --- opening -------------------------------------------------------------------- */

static int check_meta(const struct cache *cache, const MDB_val *value, struct err *err)
{
	struct cache_meta meta;

	if (value->mv_size != sizeof(meta) || memcmp(value->mv_data, CACHE_META_MAGIC, sizeof(CACHE_META_MAGIC)) != 0)
		return err_set(err, ERR_CORRUPT, "%s/" DATA_FILE " is an LMDB file, but not a cache of preprocessd; give another "
			       "folder with --cache", cache->path);
	memcpy(&meta, value->mv_data, sizeof(meta));
	if (meta.layout_version > CACHE_LAYOUT_VERSION)
		return err_set(err, ERR_CORRUPT, "the cache %s was made by a newer version (layout %u, this one knows %u); update "
			       "preprocessd, or give another folder with --cache", cache->path, meta.layout_version,
			       CACHE_LAYOUT_VERSION);
	if (meta.layout_version < CACHE_LAYOUT_VERSION)
		return err_set(err, ERR_CORRUPT, "the cache %s was made by an older version (layout %u, this one knows %u); remove "
			       "the folder and add the data sets again, or give another one with --cache", cache->path,
			       meta.layout_version, CACHE_LAYOUT_VERSION);
	return 0;
}

/* Opens the one database and makes or checks its meta record. */
static int make_database(struct cache *cache, struct err *err)
{
	struct cache_meta meta = { .magic = CACHE_META_MAGIC, .layout_version = CACHE_LAYOUT_VERSION };
	MDB_val key = { sizeof(CACHE_META_KEY) - 1, (void *)CACHE_META_KEY }, value;
	MDB_stat stat;
	MDB_txn *txn = NULL;
	int code = 0, rc;

	if ((rc = mdb_txn_begin(cache->env, NULL, 0, &txn)) != 0 || (rc = mdb_dbi_open(txn, NULL, 0, &cache->dbi)) != 0 ||
	    (rc = mdb_stat(txn, cache->dbi, &stat)) != 0)
		goto out;
	rc = mdb_get(txn, cache->dbi, &key, &value);
	if (rc == 0) {
		code = check_meta(cache, &value, err);
	} else if (rc == MDB_NOTFOUND && stat.ms_entries > 0) {
		value = (MDB_val){ 0, NULL };
		code = check_meta(cache, &value, err);
		rc = 0;
	} else if (rc == MDB_NOTFOUND) {
		value = (MDB_val){ sizeof(meta), &meta };
		if ((rc = mdb_put(txn, cache->dbi, &key, &value, 0)) != 0)
			goto out;
		rc = mdb_txn_commit(txn);
		txn = NULL;
	}
out:
	mdb_txn_abort(txn);
	return rc != 0 ? env_error(cache, rc, err) : code;
}

/* --- a damaged file ---------------------------------------------------------------- */

int env_damaged(const struct cache *cache, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the file of the cache %s is damaged or was cut short while in use", cache->path);
}

int env_names(struct cache *cache, struct err *err)
{
	struct buf message = BUF_INIT;
	int code = fs_join(&cache->check_path, cache->path, CHECK_FILE, err);

	if (code == 0)
		code = buf_printf(&message, err, "preprocessd: error: the file of the cache %s is damaged or was cut short while in use; "
				  "ending. The next start looks at all of it.\n", cache->path);
	cache->end_message = message.data;
	return code;
}

/* LMDB may have been stopped inside malloc(), so nothing here may want memory or a lock. */
_Noreturn void env_end_damaged(const struct cache *cache)
{
	int fd = open(cache->check_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	/* With or without the file and the message, there is no way but out. */
	if (fd < 0 || write(STDERR_FILENO, cache->end_message, strlen(cache->end_message)) < 0)
		_exit(EXIT_FAILURE);
	_exit(EXIT_FAILURE);
}

/* LMDB found its own pages impossible and ends the process after this, unless we leave. */
static void on_lmdb_assert(MDB_env *env, const char *message)
{
	const struct cache *cache = mdb_env_get_userctx(env);

	guard_escape();
	log_error("LMDB: %s", message);
	env_end_damaged(cache);
}

/* Every key once, which reads all pages of the tree but no large value. */
static int walk_keys(struct cache *cache)
{
	MDB_txn *txn = NULL;
	MDB_cursor *volatile cursor = NULL;
	MDB_cursor *opened;
	MDB_val key;
	struct guard guard;
	volatile int rc = mdb_txn_begin(cache->env, NULL, MDB_RDONLY, &txn);

	if (rc != 0)
		return rc;
	if (guard_enter(&guard) == 0) {
		if ((rc = mdb_cursor_open(txn, cache->dbi, &opened)) == 0)
			cursor = opened;
		while (rc == 0)
			rc = mdb_cursor_get(opened, &key, NULL, MDB_NEXT);
	} else {
		rc = MDB_CORRUPTED;
	}
	guard_leave();
	if (cursor != NULL)
		mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int open_database(struct cache *cache, struct err *err)
{
	struct guard guard;
	int code;

	if (guard_enter(&guard) == 0)
		code = make_database(cache, err);
	else
		code = env_error(cache, MDB_CORRUPTED, err);
	guard_leave();
	return code;
}

static int check_tree(struct cache *cache, struct err *err)
{
	int rc = walk_keys(cache);

	if (rc != 0)
		return env_error(cache, rc, err);
	(void)unlink(cache->check_path); /* still there: another look the next time */
	return 0;
}

/* Reading beyond the file's end would kill the process (SIGBUS). LMDB may leave free pages at
 * the end unwritten, so a short file need not be damaged: it is lengthened with zeros, which
 * every reader of a page recognises, and *mended says that the tree wants a look. */
static int mend_short_file(struct cache *cache, bool *mended, struct err *err)
{
	MDB_envinfo info;
	MDB_stat pages;
	struct stat file;
	mdb_filehandle_t fd;
	int rc;

	*mended = false;
	if ((rc = mdb_env_info(cache->env, &info)) != 0 || (rc = mdb_env_stat(cache->env, &pages)) != 0 ||
	    (rc = mdb_env_get_fd(cache->env, &fd)) != 0)
		return env_error(cache, rc, err);
	cache->page_bytes = pages.ms_psize;
	if (fstat(fd, &file) != 0)
		return err_errno(err, errno, "%s/" DATA_FILE, cache->path);
	uint64_t want = ((uint64_t)info.me_last_pgno + 1) * pages.ms_psize;
	if ((uint64_t)file.st_size >= want)
		return 0;
	log_debug("%s/" DATA_FILE " has %lld bytes, its tree reaches to %llu", cache->path, (long long)file.st_size,
		  (unsigned long long)want);
	*mended = true;
	return ftruncate(fd, (off_t)want) == 0 ? 0 : err_errno(err, errno, "%s/" DATA_FILE, cache->path);
}

static int data_file_bytes(const struct cache *cache, uint64_t *out, struct err *err)
{
	struct stat info;
	char *path = NULL;
	int code = fs_join(&path, cache->path, DATA_FILE, err);

	if (code != 0)
		return code;
	*out = 0;
	if (stat(path, &info) == 0)
		*out = (uint64_t)info.st_size;
	else if (errno != ENOENT)
		code = err_errno(err, errno, "%s", path);
	mem_free(path);
	return code;
}

/* LMDB makes a file by writing its first two pages, and refuses one where that was interrupted. Nothing was
 * stored in such a file yet, so it is made anew; anything else of that size is not touched. */
static int drop_unfinished(const struct cache *cache, uint64_t *file_bytes, struct err *err)
{
	/* page 0, a meta page, and LMDB's magic number */
	static const uint8_t first[] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0xDE, 0xC0, 0xEF, 0xBE };
	enum { PAGES = 2 };
	uint8_t head[sizeof(first)];
	ssize_t got = 0;
	char *path = NULL;
	int code = 0, fd;

	if (*file_bytes == 0 || *file_bytes >= PAGES * (uint64_t)sysconf(_SC_PAGESIZE))
		return 0;
	if ((code = fs_join(&path, cache->path, DATA_FILE, err)) != 0)
		return code;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || (got = pread(fd, head, sizeof(head), 0)) < 0) {
		code = err_errno(err, errno, "%s", path);
	} else if (memcmp(head, first, (size_t)got) == 0) {
		if (ftruncate(fd, 0) != 0)
			code = err_errno(err, errno, "%s", path);
		*file_bytes = 0;
	}
	if (fd >= 0)
		close(fd);
	mem_free(path);
	return code;
}

static uint64_t round_up_map(uint64_t bytes)
{
	uint64_t unit = 65536; /* a multiple of any page size */

	return (bytes + unit - 1) / unit * unit;
}

static uint64_t first_map(const struct cache *cache, uint64_t file_bytes, uint64_t asked)
{
	uint64_t bytes = asked != 0 ? asked : FIRST_MAP_BYTES;

	if (asked == 0 && bytes < 2 * file_bytes)
		bytes = 2 * file_bytes;
	if (cache->max_bytes != 0 && bytes > cache->max_bytes)
		bytes = cache->max_bytes;
	return round_up_map(bytes < file_bytes ? file_bytes : bytes);
}

static int note_map(struct cache *cache, struct err *err)
{
	MDB_envinfo info;
	int rc = mdb_env_info(cache->env, &info);

	if (rc != 0)
		return env_error(cache, rc, err);
	/* LMDB may have made it larger than asked for, to hold what is there. */
	cache->map_bytes = info.me_mapsize;
	return 0;
}

/* env_lock() tells one folder from another; a link can put one file into two of them. */
static int lock_data(const struct cache *cache, struct err *err)
{
	mdb_filehandle_t fd;
	int rc = mdb_env_get_fd(cache->env, &fd);

	if (rc != 0)
		return env_error(cache, rc, err);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
		return 0;
	return err_set(err, ERR_BUSY, "%s/" DATA_FILE " is in use by another process, which has the same file in another folder (a link); give a "
		       "folder with a copy of its own with --cache, or stop that process", cache->path);
}

static int open_environment(struct cache *cache)
{
	int dead;
	int rc = mdb_env_create(&cache->env);

	/* No MDB_WRITEMAP and no MDB_NOSYNC: power loss must not damage the file. Read-ahead stays
	 * on: a picture is 37 pages in a row, and faulting them in one by one is slow. */
	if (rc != 0 || (rc = mdb_env_set_userctx(cache->env, cache)) != 0 ||
	    (rc = mdb_env_set_assert(cache->env, on_lmdb_assert)) != 0 ||
	    (rc = mdb_env_set_mapsize(cache->env, cache->map_bytes)) != 0 ||
	    (rc = mdb_env_set_maxreaders(cache->env, CACHE_READERS_MAX)) != 0 ||
	    (rc = mdb_env_open(cache->env, cache->path, MDB_NOTLS, 0600)) != 0)
		return rc;
	return mdb_reader_check(cache->env, &dead);
}

int env_open(struct cache *cache, uint64_t first_map_bytes, struct err *err)
{
	uint64_t file_bytes;
	bool mended;
	int rc, code = data_file_bytes(cache, &file_bytes, err);

	if (code == 0)
		code = drop_unfinished(cache, &file_bytes, err);
	if (code != 0)
		return code;
	cache->map_bytes = first_map(cache, file_bytes, first_map_bytes);
	if ((rc = open_environment(cache)) != 0) {
		code = env_error(cache, rc, err);
		goto out;
	}
	if ((code = lock_data(cache, err)) != 0 || (code = note_map(cache, err)) != 0 || (code = mend_short_file(cache, &mended, err)) != 0 ||
	    (code = open_database(cache, err)) != 0 || (code = fs_sync_folder(cache->path, err)) != 0)
		goto out;
	/* An earlier daemon may have found damage and left word. */
	if (mended || fs_exists(cache->check_path))
		code = check_tree(cache, err);
out:
	if (code != 0)
		env_close(cache);
	else
		cache->generation++;
	return code;
}

void env_close(struct cache *cache)
{
	struct guard guard;

	/* LMDB leaves its lock file in order, where that is still what it was; without it there is nothing to leave. */
	if (guard_enter(&guard) == 0 && cache->env != NULL)
		mdb_env_close(cache->env);
	guard_leave();
	cache->env = NULL;
}

/* The error that made env NULL; gate held. */
static int is_broken(const struct cache *cache, struct err *err)
{
	return err_set(err, cache->broken.code, "%s", cache->broken.message);
}

/* --- growth and repair, with the gate held exclusively ------------------------------ */

static int break_down(struct cache *cache, int code, struct err *err)
{
	env_close(cache);
	return err_set(err, code, "%s", cache->broken.message);
}

/* LMDB reads its first pages for this, with the file mapped anew. */
static int resize_map(struct cache *cache, uint64_t bytes)
{
	struct guard guard;
	int rc;

	if (guard_enter(&guard) != 0)
		env_end_damaged(cache);
	rc = mdb_env_set_mapsize(cache->env, bytes);
	guard_leave();
	return rc;
}

static int set_map(struct cache *cache, uint64_t bytes, struct err *err)
{
	/* LMDB unmaps before it maps anew and cannot go back: see first that there is room. */
	void *probe = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (probe == MAP_FAILED)
		return env_error(cache, errno, err);
	munmap(probe, bytes);
	int rc = resize_map(cache, bytes);
	if (rc != 0)
		return break_down(cache, env_error(cache, rc, &cache->broken), err);
	return note_map(cache, err);
}

static uint64_t next_map(const struct cache *cache, uint64_t more_bytes, bool allow_extra)
{
	uint64_t now = cache->map_bytes;
	uint64_t step = now < GROW_BYTES_MAX ? now : GROW_BYTES_MAX;
	uint64_t next = now + (step > more_bytes ? step : more_bytes);

	if (cache->max_bytes != 0 && next > cache->max_bytes)
		next = cache->max_bytes + (allow_extra ? EXTRA_BYTES : 0);
	return round_up_map(next);
}

int env_grow(struct cache *cache, uint64_t map_bytes_seen, uint64_t more_bytes, bool allow_extra, struct err *err)
{
	int code = 0;

	pthread_rwlock_wrlock(&cache->gate);
	if (cache->env == NULL) {
		code = is_broken(cache, err);
	} else if (cache->map_bytes == map_bytes_seen) {
		uint64_t next = next_map(cache, more_bytes, allow_extra);

		code = next > cache->map_bytes ? set_map(cache, next, err) : env_error(cache, MDB_MAP_FULL, err);
		if (code == 0 && cache->max_bytes != 0 && next > round_up_map(cache->max_bytes))
			cache->map_has_extra = true;
	}
	pthread_rwlock_unlock(&cache->gate);
	return code;
}

int env_drop_extra(struct cache *cache, struct err *err)
{
	int code = 0;

	pthread_rwlock_wrlock(&cache->gate);
	if (cache->env == NULL) {
		code = is_broken(cache, err);
	} else if (cache->map_has_extra) {
		code = set_map(cache, round_up_map(cache->max_bytes), err);
		cache->map_has_extra = code != 0;
	}
	pthread_rwlock_unlock(&cache->gate);
	return code;
}

int env_follow(struct cache *cache, struct err *err)
{
	int code = 0;

	pthread_rwlock_wrlock(&cache->gate);
	if (cache->env == NULL) {
		code = is_broken(cache, err);
	} else {
		/* 0: as large as the file says */
		int rc = resize_map(cache, 0);

		code = rc != 0 ? break_down(cache, env_error(cache, rc, &cache->broken), err) : note_map(cache, err);
	}
	pthread_rwlock_unlock(&cache->gate);
	return code;
}

int env_reopen(struct cache *cache, uint64_t generation, struct err *err)
{
	int code = 0;

	pthread_rwlock_wrlock(&cache->gate);
	if (cache->generation == generation) {
		pthread_mutex_lock(&cache->readers_lock);
		for (struct cache_reader *r = cache->readers; r != NULL; r = r->next) {
			mdb_txn_abort(r->txn);
			r->txn = NULL;
		}
		pthread_mutex_unlock(&cache->readers_lock);
		env_close(cache);
		if ((code = env_open(cache, cache->map_bytes, &cache->broken)) != 0)
			code = is_broken(cache, err);
	} else if (cache->env == NULL) {
		code = is_broken(cache, err);
	}
	pthread_rwlock_unlock(&cache->gate);
	return code;
}
