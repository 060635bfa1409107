/*
 * test_cache_damage.c - a cache whose file is cut short or has flipped bits,
 * while it is open too: what is read is right or an error, never wrong, and
 * reading never crashes. Each trial is a process of its own.
 *
 * DAMAGE_TRIALS sets how many (150), DAMAGE_FIRST with which one it begins.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/store/cache.h"
#include "shared/base/fs.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/rng.h"
#include "tests/support/flush.h"
#include "tests/support/scratch.h"

enum { RECORDS = 400, LARGE_BYTES = 20000, TRIAL_SECONDS = 60, PAGE = 4096 };
enum { FINE = 0, ENDED = 1, WRONG = 3, BAD_CODE = 4 }; /* exit codes of a trial */

static size_t size_of(uint64_t number)
{
	return number % 5 == 0 ? LARGE_BYTES : 40 + number % 700;
}

static void make(struct cache_key *key, uint8_t *bytes, uint64_t number)
{
	struct hash hash;

	hash_bytes(&hash, &number, sizeof(number));
	cache_key_hashes(key, number % 5 == 0 ? CACHE_PICTURE : CACHE_TOKENS, &hash, NULL);
	for (size_t i = 0; i < size_of(number); i++)
		bytes[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

static int put(struct cache *cache, uint64_t number)
{
	uint8_t bytes[LARGE_BYTES];
	struct cache_key key;
	struct err err;

	make(&key, bytes, number);
	return cache_put(cache, &key, bytes, size_of(number), note_failure, NULL, &err);
}

static int open_at(struct cache **cache, const char *path)
{
	struct cache_options options = { .path = path };
	struct err err;
	int code = cache_open(cache, &options, &err);

	if (code != 0 && code != ERR_CORRUPT)
		log_error("open: %s (%s)", err.message, err_name(code));
	return code;
}

static void build(const struct scratch *dir)
{
	struct cache *cache;

	assert_int_equal(open_at(&cache, dir->path), 0);
	for (uint64_t i = 0; i < RECORDS; i++)
		assert_int_equal(put(cache, i), 0);
	assert_int_equal(try_flush(cache), 0);
	cache_close(cache);
}

static int visit(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	(void)checksum;
	return buf_add(context, payload, size, err);
}

static void ignore(void *context, const struct cache_key *key, const struct err *reason)
{
	(void)context;
	(void)key;
	(void)reason;
}

static int bad_code(const char *what, const struct err *err)
{
	log_error("%s: %s (%s)", what, err->message, err_name(err->code));
	return BAD_CODE;
}

/* FINE, WRONG or BAD_CODE; how many records could be read. */
static int read_all(struct cache_reader *reader, int *readable)
{
	uint8_t bytes[LARGE_BYTES];
	struct cache_key key;
	struct err err;

	*readable = 0;
	for (uint64_t i = 0; i < RECORDS; i++) {
		struct buf out = BUF_INIT;

		make(&key, bytes, i);
		int code = cache_read(reader, &key, true, visit, &out, &err);
		bool right = code == 0 && out.size == size_of(i) && memcmp(out.data, bytes, out.size) == 0;
		buf_free(&out);
		if (code == 0 && !right)
			return WRONG;
		if (code != 0 && code != ERR_CORRUPT && code != ERR_NOTFOUND && code != ERR_IO)
			return bad_code("read", &err);
		*readable += right;
	}
	return FINE;
}

/* All that one does with a cache. Never returns. */
static _Noreturn void use_cache(struct cache *cache)
{
	struct cache_check_counts counts;
	struct cache_reader *reader;
	struct err err;
	int readable;

	if (cache_reader_open(&reader, cache, &err) != 0)
		_exit(BAD_CODE);
	int result = read_all(reader, &readable);
	int code = cache_check(reader, ignore, NULL, NULL, &counts, &err);
	if (result == FINE && code != 0 && code != ERR_CORRUPT && code != ERR_IO)
		result = bad_code("check", &err);
	if (result != FINE)
		_exit(result);
	for (uint64_t i = 0; i < 20; i++)
		if (put(cache, i * 7) != 0)
			_exit(BAD_CODE);
	code = try_flush(cache);
	if (code != 0 && code != ERR_CORRUPT && code != ERR_IO && code != ERR_FULL && code != ERR_NOMEM)
		_exit(bad_code("flush", &failure));
	_exit(read_all(reader, &readable));
}

/* LMDB, writing into a tree whose pages lie about their sizes, may overwrite its own heap, which the allocator notices. Nothing short
 * of checksums in its pages would prevent it; it must stay rare. */
static int aborted;

static void expect_exit(pid_t child, const char *what, int trial)
{
	int status;

	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
		aborted++;
		return;
	}
	if (!WIFEXITED(status) || (WEXITSTATUS(status) != FINE && WEXITSTATUS(status) != ENDED))
		fail_msg("%s, trial %d: %s %d", what, trial, WIFSIGNALED(status) ? "signal" : "exit code",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static pid_t fork_quietly(void)
{
	pid_t child = fork();

	if (child == 0) {
		int null = open(getenv("DAMAGE_LOG") != NULL ? getenv("DAMAGE_LOG") : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0666);

		dup2(null, STDERR_FILENO);
		alarm(TRIAL_SECONDS);
	}
	return child;
}

static int trials(void)
{
	const char *text = getenv("DAMAGE_TRIALS");

	return text != NULL ? atoi(text) : 150;
}

/* A page of the tree (meta, branch, leaf), where LMDB's own numbers lie. */
static size_t tree_page(const struct buf *file, uint32_t draw)
{
	size_t pages = file->size / PAGE;

	for (size_t i = 0; i < pages; i++) {
		size_t page = (draw + i) % pages;
		uint16_t flags;

		memcpy(&flags, file->data + page * PAGE + 10, sizeof(flags));
		if (flags == 1 || flags == 2 || flags == 8)
			return page;
	}
	return 0;
}

static void flip(const struct buf *file, char *damaged, int trial)
{
	struct rng_block draw = rng_philox(rng_key(5, 6), (uint32_t)trial, 0, 0, 0);
	int flips = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 8 : 100;

	memcpy(damaged, file->data, file->size);
	for (int i = 0; i < flips; i++) {
		draw = rng_philox(rng_key(5, 6), (uint32_t)trial, (uint32_t)i + 1, 0, 0);
		size_t at = trial % 4 == 3 ? draw.v[0] % file->size : tree_page(file, draw.v[0]) * PAGE + draw.v[1] % (trial % 2 ? 64 : PAGE);

		damaged[at] ^= (char)(1 << draw.v[2] % 8);
	}
}

static void test_flipped_bits(void **state)
{
	struct buf file = BUF_INIT;
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	build(&dir);
	assert_int_equal(fs_read(scratch_path(&dir, "data.mdb"), SIZE_MAX, &file, &err), 0);
	char *damaged = mem_alloc(file.size);
	aborted = 0;
	for (int trial = getenv("DAMAGE_FIRST") != NULL ? atoi(getenv("DAMAGE_FIRST")) : 0; trial < trials(); trial++) {
		flip(&file, damaged, trial);
		assert_int_equal(fs_write_atomic(scratch_path(&dir, "data.mdb"), damaged, file.size, &err), 0);
		(void)unlink(scratch_path(&dir, "check"));
		pid_t child = fork_quietly();
		if (child == 0) {
			struct cache *cache;
			int code = open_at(&cache, dir.path);

			if (code == 0)
				use_cache(cache);
			_exit(code == ERR_CORRUPT || code == ERR_IO ? FINE : BAD_CODE);
		}
		expect_exit(child, "flipped bits", trial);
	}
	assert_in_range(aborted, 0, trials() / 20);
	mem_free(damaged);
	buf_free(&file);
	scratch_close(&dir);
}

static void test_cut_while_open(void **state)
{
	struct stat info;

	(void)state;
	for (int trial = 0; trial < 12; trial++) {
		struct scratch dir;

		scratch_open(&dir);
		build(&dir);
		assert_int_equal(stat(scratch_path(&dir, "data.mdb"), &info), 0);
		pid_t child = fork_quietly();
		if (child == 0) {
			struct cache_stats stats;
			struct cache *cache;

			if (open_at(&cache, dir.path) != 0 || truncate(scratch_path(&dir, "data.mdb"), info.st_size * trial / 12) != 0)
				_exit(BAD_CODE);
			cache_stats(cache, &stats);
			use_cache(cache);
		}
		expect_exit(child, "cut while open", trial);
		scratch_close(&dir);
	}
}

/* The lock file, too: reading fails, closing does not, and the next opening finds all that was there. */
static void test_lock_file_cut_while_open(void **state)
{
	struct cache_reader *reader, *idle;
	struct cache *cache;
	struct scratch dir;
	struct err err;
	int readable;

	(void)state;
	scratch_open(&dir);
	build(&dir);
	pid_t child = fork_quietly();
	if (child == 0) {
		if (open_at(&cache, dir.path) != 0 || cache_reader_open(&reader, cache, &err) != 0 || read_all(reader, &readable) != FINE ||
		    cache_reader_open(&idle, cache, &err) != 0 || read_all(idle, &readable) != FINE ||
		    readable != RECORDS || truncate(scratch_path(&dir, "lock.mdb"), 0) != 0)
			_exit(BAD_CODE);
		if (read_all(reader, &readable) != FINE || readable != 0)
			_exit(BAD_CODE);
		cache_reader_close(idle);
		cache_reader_close(reader);
		cache_close(cache);
		_exit(FINE);
	}
	expect_exit(child, "lock file cut while open", 0);
	assert_int_equal(open_at(&cache, dir.path), 0);
	assert_int_equal(cache_reader_open(&reader, cache, &err), 0);
	assert_int_equal(read_all(reader, &readable), FINE);
	assert_int_equal(readable, RECORDS);
	cache_reader_close(reader);
	cache_close(cache);
	scratch_close(&dir);
}

/* What the writer left behind when it ended: the next opening looks, and says what it finds. */
static void test_check_file(void **state)
{
	struct cache *cache;
	struct scratch dir;
	struct err err;

	(void)state;
	scratch_open(&dir);
	build(&dir);
	assert_int_equal(fs_write_atomic(scratch_path(&dir, "check"), "", 0, &err), 0);
	assert_int_equal(open_at(&cache, dir.path), 0); /* all is well after all */
	cache_close(cache);
	assert_false(fs_exists(scratch_path(&dir, "check")));
	scratch_close(&dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check_file),
#ifndef __SANITIZE_THREAD__ /* which stands between a fault and its handler */
		cmocka_unit_test(test_flipped_bits),
		cmocka_unit_test(test_cut_while_open),
		cmocka_unit_test(test_lock_file_cut_while_open),
#endif
	};

	/* used or not */
	(void)test_flipped_bits;
	(void)test_cut_while_open;
	log_setup("test", LOG_ERROR, 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
