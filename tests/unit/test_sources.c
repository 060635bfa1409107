/* pipeline/sources.h: files read and hashed ahead of the workers: each once, in order, each with its own error, and nothing left
 * over whenever it is stopped. */
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "preprocessd/dataset/manifest.h"
#include "preprocessd/pipeline/sources.h"
#include "shared/base/fs.h"
#include "tests/support/scratch.h"

enum {
	FILES_MAX = 5 * SOURCES_AHEAD_MAX + 3, WORKERS = 3, WAIT_MS = 10000, SETTLE_MS = 20, NAME_BYTES = 32, STRANGER = 65533,
	LARGE_BYTES = 3 << 20, LAST_BYTES = 64 << 20
};

static struct scratch scratch;

/* A listing of `count` files of different sizes, an open reader of it, and what came out. */
struct fixture {
	struct pipeline pipeline; /* its counters alone are used */
	struct listing *listing;
	struct sources *sources;
	pthread_t thread;
	uint32_t count;
	atomic_uint taken[FILES_MAX]; /* how often */
	atomic_uint wrong;            /* hashes that are not those of the bytes, bytes that are not those of the file */
};

static const char *name_of(uint32_t i)
{
	static _Thread_local char name[NAME_BYTES];

	snprintf(name, sizeof(name), "p/%04u.jpg", i);
	return scratch_path(&scratch, name);
}

/* What stands in file i: its number, and after that more bytes the higher it is. */
static size_t content_of(uint32_t i, char *out, size_t bytes)
{
	size_t size = 16 + 100 * (size_t)i;

	assert_true(size <= bytes);
	memset(out, (int)('a' + i % 26), size);
	snprintf(out, 16, "picture %u", i);
	return size;
}

static void write_file(const char *path, const void *data, size_t size)
{
	struct err err;

	if (fs_write_atomic(path, data, size, &err) != 0)
		fail_msg("%s", err.message);
}

static void open_listing(struct fixture *f, uint32_t count)
{
	struct reader_options options = { .format = "csv", .caption_count = 1, .image_count = 1 };
	static char csv[FILES_MAX * NAME_BYTES], content[16 + 100 * FILES_MAX];
	struct err err;
	size_t used;

	memset(f, 0, sizeof(*f));
	f->count = count;
	scratch_open(&scratch);
	scratch_text(&scratch, "p/none", "");
	used = (size_t)snprintf(csv, sizeof(csv), "image,caption\n");
	for (uint32_t i = 0; i < count; i++) {
		write_file(name_of(i), content, content_of(i, content, sizeof(content)));
		used += (size_t)snprintf(csv + used, sizeof(csv) - used, "%04u.jpg,c\n", i);
	}
	scratch_text(&scratch, "c.csv", csv);
	options.captions = (const char *[]){ scratch_path(&scratch, "c.csv") };
	options.images = (const char *[]){ scratch_path(&scratch, "p") };
	assert_int_equal(listing_open(&f->listing, &err), 0);
	if (count > 0 && listing_read(f->listing, &options, &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(listing_picture_count(f->listing), count);
}

static void open_sources(struct fixture *f, const struct rights *rights)
{
	struct err err;

	assert_int_equal(sources_open(&f->sources, &f->pipeline, f->listing, rights, &err), 0);
}

static void close_all(struct fixture *f)
{
	sources_close(f->sources);
	listing_free(f->listing);
	scratch_close(&scratch);
}

static void *read_ahead(void *sources)
{
	sources_read(sources);
	return NULL;
}

static void start_reading(struct fixture *f)
{
	assert_int_equal(pthread_create(&f->thread, NULL, read_ahead, f->sources), 0);
}

static void join(pthread_t thread)
{
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static uint64_t bytes_of_files(uint32_t first, uint32_t end)
{
	uint64_t bytes = 0;

	for (uint32_t i = first; i < end; i++)
		bytes += 16 + 100 * (uint64_t)i;
	return bytes;
}

/* Until the reading thread has read so many bytes, and no more for a moment. */
static void wait_for_bytes(struct fixture *f, uint64_t bytes)
{
	const struct timespec nap = { 0, 1000000 };

	for (int i = 0; i < WAIT_MS && counter_get(&f->pipeline.counters.source_bytes) < bytes; i++)
		nanosleep(&nap, NULL);
	for (int i = 0; i < SETTLE_MS; i++)
		nanosleep(&nap, NULL);
	assert_int_equal(counter_get(&f->pipeline.counters.source_bytes), bytes);
}

/* The next file is number i, whole, and the hash is that of its bytes. */
static void expect_file(struct fixture *f, struct worker *worker, uint32_t i)
{
	char content[16 + 100 * FILES_MAX];
	size_t size = content_of(i, content, sizeof(content));
	struct hash hash, expected;
	struct err err = { 0 };
	uint32_t picture = UINT32_MAX;
	int code = -1;

	assert_true(sources_take(f->sources, worker, &picture, &hash, &code, &err));
	if (code != 0)
		fail_msg("%u: %s", i, err.message);
	assert_int_equal(picture, i);
	assert_int_equal(worker->file.size, size);
	assert_memory_equal(worker->file.data, content, size);
	hash_bytes(&expected, content, size);
	assert_true(hash_equal(&hash, &expected));
}

static void expect_error(struct fixture *f, struct worker *worker, uint32_t i, int expected, const char *words)
{
	struct err err = { 0 };
	struct hash hash;
	uint32_t picture = UINT32_MAX;
	int code = 0;

	assert_true(sources_take(f->sources, worker, &picture, &hash, &code, &err));
	assert_int_equal(picture, i);
	if (code != expected || err.code != expected || strstr(err.message, name_of(i)) == NULL || strstr(err.message, words) == NULL)
		fail_msg("%u: code %d: %s", i, code, err.message);
}

static void expect_end(struct fixture *f, struct worker *worker)
{
	struct err err;
	struct hash hash;
	uint32_t picture;
	int code;

	assert_false(sources_take(f->sources, worker, &picture, &hash, &code, &err));
}

/* ---- order and content ---- */

static void test_in_order(void **state)
{
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	for (int ahead = 0; ahead < 2; ahead++) {
		open_listing(&f, SOURCES_AHEAD_MAX);
		open_sources(&f, NULL);
		if (ahead == 1)
			sources_read(f.sources); /* all fit */
		for (uint32_t i = 0; i < f.count; i++)
			expect_file(&f, &worker, i);
		expect_end(&f, &worker);
		expect_end(&f, &worker);
		assert_int_equal(counter_get(&f.pipeline.counters.source_bytes), bytes_of_files(0, f.count));
		close_all(&f);
	}
	buf_free(&worker.file);
}

/* The reading thread goes so far and no further, and goes on when half of it was taken. */
static void test_more_than_slots(void **state)
{
	struct worker worker = { 0 };
	struct fixture f;
	uint32_t i = 0;

	(void)state;
	open_listing(&f, FILES_MAX);
	open_sources(&f, NULL);
	start_reading(&f);
	while (i + SOURCES_AHEAD_MAX < f.count) {
		uint32_t end = i + SOURCES_AHEAD_MAX;

		wait_for_bytes(&f, bytes_of_files(0, end));
		for (; i < end - SOURCES_AHEAD_MAX / 2; i++)
			expect_file(&f, &worker, i);
	}
	wait_for_bytes(&f, bytes_of_files(0, f.count));
	join(f.thread);
	for (; i < f.count; i++)
		expect_file(&f, &worker, i);
	expect_end(&f, &worker);
	close_all(&f);
	buf_free(&worker.file);
}

/* Large files: none is begun while SOURCES_AHEAD_BYTES are ready, and no buffer of that size stays with a slot. */
static void test_bytes_ahead(void **state)
{
	static char large[LARGE_BYTES];
	struct worker worker = { 0 };
	struct fixture f;
	uint32_t fit = (SOURCES_AHEAD_BYTES + LARGE_BYTES - 1) / LARGE_BYTES;

	(void)state;
	open_listing(&f, 8);
	for (uint32_t i = 0; i < f.count; i++)
		write_file(name_of(i), large, sizeof(large));
	open_sources(&f, NULL);
	start_reading(&f);
	for (uint32_t i = 0; i < f.count; i++) {
		struct hash hash;
		struct err err;
		uint32_t picture, now = i + fit < f.count ? i + fit : f.count;
		int code;

		wait_for_bytes(&f, (uint64_t)now * LARGE_BYTES);
		assert_true(sources_take(f.sources, &worker, &picture, &hash, &code, &err));
		assert_int_equal(code, 0);
		assert_int_equal(picture, i);
		assert_int_equal(worker.file.size, LARGE_BYTES);
	}
	join(f.thread);
	expect_end(&f, &worker);
	close_all(&f);
	buf_free(&worker.file);
}

/* The reading thread has the last file in hand: who comes now waits for it, since that thread gives it to nobody else. */
static void test_last_file_in_hand(void **state)
{
	const struct timespec nap = { 0, 5000000 };
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	open_listing(&f, 1);
	assert_int_equal(truncate(name_of(0), LAST_BYTES), 0);
	for (int round = 0; round < 3; round++) {
		struct hash hash;
		struct err err;
		uint32_t picture;
		int code;

		open_sources(&f, NULL);
		start_reading(&f);
		nanosleep(&nap, NULL);
		assert_true(sources_take(f.sources, &worker, &picture, &hash, &code, &err));
		assert_int_equal(code, 0);
		assert_int_equal(worker.file.size, LAST_BYTES);
		join(f.thread);
		expect_end(&f, &worker);
		sources_close(f.sources);
		f.sources = NULL;
	}
	close_all(&f);
	buf_free(&worker.file);
}

static void test_nothing_to_read(void **state)
{
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	open_listing(&f, 0);
	open_sources(&f, NULL);
	expect_end(&f, &worker);
	sources_read(f.sources);
	expect_end(&f, &worker);
	close_all(&f);
	sources_close(NULL);
}

/* ---- what cannot be read ---- */

static void spoil(uint32_t missing, uint32_t folder, uint32_t link, uint32_t fifo)
{
	assert_int_equal(unlink(name_of(missing)), 0);
	assert_int_equal(unlink(name_of(folder)), 0);
	assert_int_equal(mkdir(name_of(folder), 0755), 0);
	assert_int_equal(unlink(name_of(link)), 0);
	assert_int_equal(symlink("circle", scratch_path(&scratch, "p/circle")), 0);
	assert_int_equal(symlink("circle", name_of(link)), 0);
	assert_int_equal(unlink(name_of(fifo)), 0);
	assert_int_equal(mkfifo(name_of(fifo), 0644), 0);
}

static void test_errors_stand_at_their_places(void **state)
{
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	for (int ahead = 0; ahead < 2; ahead++) {
		open_listing(&f, 12);
		spoil(0, 3, 4, 7);
		/* half gone: what is there now is what counts; and one that is empty by now */
		assert_int_equal(truncate(name_of(9), 20), 0);
		assert_int_equal(truncate(name_of(10), 0), 0);
		open_sources(&f, NULL);
		if (ahead == 1)
			sources_read(f.sources);
		expect_error(&f, &worker, 0, ERR_NOTFOUND, "No such file");
		expect_file(&f, &worker, 1);
		expect_file(&f, &worker, 2);
		expect_error(&f, &worker, 3, ERR_FORMAT, "not a regular file");
		expect_error(&f, &worker, 4, ERR_IO, "symbolic links");
		assert_int_equal(worker.file.size, 0); /* and not what stood in it before */
		expect_file(&f, &worker, 5);
		expect_file(&f, &worker, 6);
		expect_error(&f, &worker, 7, ERR_FORMAT, "not a regular file");
		expect_file(&f, &worker, 8);
		for (uint32_t i = 9; i < 11; i++) {
			struct hash hash, expected;
			struct err err = { 0 };
			uint32_t picture;
			int code;

			assert_true(sources_take(f.sources, &worker, &picture, &hash, &code, &err));
			assert_int_equal(code, 0);
			assert_int_equal(picture, i);
			assert_int_equal(worker.file.size, i == 9 ? 20 : 0);
			hash_bytes(&expected, worker.file.data, worker.file.size);
			assert_true(hash_equal(&hash, &expected));
		}
		expect_file(&f, &worker, 11);
		expect_end(&f, &worker);
		close_all(&f);
	}
	buf_free(&worker.file);
}

/* With somebody's rights: a file that this user may not read is refused, the ones beside it are not. */
static void test_files_that_may_not_be_read(void **state)
{
	const struct rights stranger = { .uid = STRANGER, .gids = { STRANGER }, .gid_count = 1 };
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	open_listing(&f, 5);
	assert_int_equal(chmod(scratch.path, 0755), 0);
	assert_int_equal(chmod(scratch_path(&scratch, "p"), 0755), 0);
	for (uint32_t i = 0; i < f.count; i++)
		assert_int_equal(chmod(name_of(i), i == 2 ? 0600 : 0644), 0);
	open_sources(&f, &stranger);
	sources_read(f.sources);
	expect_file(&f, &worker, 0);
	expect_file(&f, &worker, 1);
	expect_error(&f, &worker, 2, ERR_NOTFOUND, "may read");
	expect_file(&f, &worker, 3);
	expect_file(&f, &worker, 4);
	expect_end(&f, &worker);
	close_all(&f);
	buf_free(&worker.file);
}

static atomic_bool shrinking;

static void *shrink_and_grow(void *unused)
{
	(void)unused;
	while (atomic_load(&shrinking))
		if (truncate(name_of(1), 1 << 10) != 0 || truncate(name_of(1), LARGE_BYTES) != 0)
			break;
	return NULL;
}

/* A file that is cut short and grows while it is read: whatever came is what was hashed, and its neighbours are whole. */
static void test_shrinks_while_it_is_read(void **state)
{
	struct worker worker = { 0 };
	pthread_t changer;
	struct fixture f;

	(void)state;
	open_listing(&f, 3);
	atomic_store(&shrinking, true);
	assert_int_equal(pthread_create(&changer, NULL, shrink_and_grow, NULL), 0);
	for (int round = 0; round < 30; round++) {
		struct hash hash, expected;
		struct err err = { 0 };
		uint32_t picture;
		int code;

		open_sources(&f, NULL);
		sources_read(f.sources);
		expect_file(&f, &worker, 0);
		assert_true(sources_take(f.sources, &worker, &picture, &hash, &code, &err));
		assert_int_equal(code, 0);
		assert_int_equal(picture, 1);
		assert_true(worker.file.size <= LARGE_BYTES);
		hash_bytes(&expected, worker.file.data, worker.file.size);
		assert_true(hash_equal(&hash, &expected));
		expect_file(&f, &worker, 2);
		expect_end(&f, &worker);
		sources_close(f.sources);
		f.sources = NULL;
	}
	atomic_store(&shrinking, false);
	join(changer);
	close_all(&f);
	buf_free(&worker.file);
}

/* ---- many workers, and the end in the middle ---- */

static void *work(void *context)
{
	struct fixture *f = context;
	struct worker worker = { 0 };
	struct hash hash, expected;
	struct err err;
	uint32_t picture;
	int code;

	while (sources_take(f->sources, &worker, &picture, &hash, &code, &err)) {
		char start[16];

		atomic_fetch_add(&f->taken[picture], 1);
		if (code != 0) {
			atomic_fetch_add(&f->wrong, strstr(err.message, listing_picture_path(f->listing, picture)) == NULL);
			continue;
		}
		snprintf(start, sizeof(start), "picture %u", picture);
		hash_bytes(&expected, worker.file.data, worker.file.size);
		atomic_fetch_add(&f->wrong, worker.file.size != 16 + 100 * (size_t)picture || !hash_equal(&hash, &expected) ||
						    memcmp(worker.file.data, start, strlen(start) + 1) != 0);
	}
	buf_free(&worker.file);
	return NULL;
}

static void test_each_once_to_many_workers(void **state)
{
	pthread_t workers[WORKERS];
	struct fixture f;

	(void)state;
	open_listing(&f, FILES_MAX);
	spoil(5, 17, 18, 40);
	for (int round = 0; round < 20; round++) {
		memset(f.taken, 0, sizeof(f.taken));
		open_sources(&f, NULL);
		start_reading(&f);
		for (int i = 0; i < WORKERS; i++)
			assert_int_equal(pthread_create(&workers[i], NULL, work, &f), 0);
		for (int i = 0; i < WORKERS; i++)
			join(workers[i]);
		join(f.thread);
		for (uint32_t i = 0; i < f.count; i++)
			assert_int_equal(f.taken[i], 1);
		assert_int_equal(f.wrong, 0);
		sources_close(f.sources);
		f.sources = NULL;
	}
	close_all(&f);
}

/* NULL: there was nothing more. */
static void *take_one(void *context)
{
	struct fixture *f = context;
	struct worker worker = { 0 };
	struct hash hash;
	struct err err;
	uint32_t picture;
	int code;
	bool taken = sources_take(f->sources, &worker, &picture, &hash, &code, &err);

	buf_free(&worker.file);
	return taken ? context : NULL;
}

/* Stopped with every slot full, and with the reading thread waiting for room: it returns, nobody gets anything any more, and the
 * memory of what was read ahead is freed. */
static void test_stopped_in_the_middle(void **state)
{
	enum { FILE_BYTES = 100 << 10, ROUNDS = 10 };
	static char content[FILE_BYTES];
	struct fixture f;
	size_t before = 0, after;

	(void)state;
	open_listing(&f, 2 * SOURCES_AHEAD_MAX);
	for (uint32_t i = 0; i < f.count; i++)
		write_file(name_of(i), content, sizeof(content));
	for (int round = 0; round <= ROUNDS; round++) {
		uint64_t read_before = counter_get(&f.pipeline.counters.source_bytes);
		struct worker worker = { 0 };
		struct hash hash;
		struct err err;
		uint32_t picture;
		pthread_t late;
		int code;

		open_sources(&f, NULL);
		start_reading(&f);
		wait_for_bytes(&f, read_before + SOURCES_AHEAD_MAX * FILE_BYTES);
		for (uint32_t i = 0; i < 3; i++) {
			assert_true(sources_take(f.sources, &worker, &picture, &hash, &code, &err));
			assert_int_equal(picture, i);
		}
		sources_stop(f.sources);
		assert_int_equal(pthread_create(&late, NULL, take_one, &f), 0);
		void *got;

		assert_int_equal(pthread_join(late, &got), 0);
		assert_null(got);
		join(f.thread);
		expect_end(&f, &worker);
		sources_close(f.sources);
		buf_free(&worker.file);
		f.sources = NULL;
		after = mallinfo2().uordblks;
		if (round == 0)
			before = after;
	}
	if (after > before + ROUNDS * FILE_BYTES / 2)
		fail_msg("%zu bytes more are in use after %d rounds", after - before, ROUNDS);
	close_all(&f);
}

static void test_stopped_before_it_began(void **state)
{
	struct worker worker = { 0 };
	struct fixture f;

	(void)state;
	open_listing(&f, 3);
	open_sources(&f, NULL);
	sources_stop(f.sources);
	sources_read(f.sources);
	expect_end(&f, &worker);
	assert_int_equal(counter_get(&f.pipeline.counters.source_bytes), 0);
	close_all(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_order),
		cmocka_unit_test(test_more_than_slots),
		cmocka_unit_test(test_bytes_ahead),
		cmocka_unit_test(test_last_file_in_hand),
		cmocka_unit_test(test_nothing_to_read),
		cmocka_unit_test(test_errors_stand_at_their_places),
		cmocka_unit_test(test_files_that_may_not_be_read),
		cmocka_unit_test(test_shrinks_while_it_is_read),
		cmocka_unit_test(test_each_once_to_many_workers),
		cmocka_unit_test(test_stopped_in_the_middle),
		cmocka_unit_test(test_stopped_before_it_began),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
