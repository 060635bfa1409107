/*
 * Every allocation of every `_open` fails once: the error says so, nothing is
 * given out, and all that was taken before is given back. What needs a running
 * daemon (streams, features) is starved from outside by tests/fault/test_alloc.py.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* --- an allocator that fails when told; mem.c once more, on top of it ------------- */

static _Atomic long asked, live;
static long fail_at; /* 0: never */

static bool fails(void)
{
	return atomic_fetch_add(&asked, 1) + 1 == fail_at;
}

static void *counted(void *p)
{
	if (p != NULL)
		atomic_fetch_add(&live, 1);
	return p;
}

static void *starved_malloc(size_t bytes)
{
	return fails() ? NULL : counted(malloc(bytes));
}

static void *starved_calloc(size_t count, size_t bytes)
{
	return fails() ? NULL : counted(calloc(count, bytes));
}

static void *starved_realloc(void *old, size_t bytes)
{
	if (fails())
		return NULL;
	void *p = realloc(old, bytes);
	return old == NULL ? counted(p) : p;
}

static int starved_memalign(void **out, size_t align, size_t bytes)
{
	if (fails())
		return ENOMEM;
	int code = posix_memalign(out, align, bytes);
	counted(*out);
	return code;
}

static void *starved_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t from)
{
	return fails() ? MAP_FAILED : mmap(at, bytes, protection, flags, fd, from);
}

static void counted_free(void *p)
{
	if (p != NULL)
		atomic_fetch_sub(&live, 1);
	free(p);
}

#define malloc starved_malloc
#define calloc starved_calloc
#define realloc starved_realloc
#define posix_memalign starved_memalign
#define mmap starved_mmap
#define free counted_free
#include "shared/base/mem.c"
#undef malloc
#undef calloc
#undef realloc
#undef posix_memalign
#undef mmap
#undef free

#include "preprocessd/codec/bert_chars.h"
#include "preprocessd/codec/jpeg.h"
#include "preprocessd/codec/picture.h"
#include "preprocessd/codec/resize.h"
#include "preprocessd/codec/wordpiece.h"
#include "preprocessd/dataset/blob.h"
#include "preprocessd/pipeline/catalog.h"
#include "preprocessd/pipeline/flight.h"
#include "preprocessd/pipeline/pipeline.h"
#include "preprocessd/serve/socket.h"
#include "preprocessd/store/cache.h"
#include "shared/base/fs.h"
#include "shared/client/conn.h"
#include "shared/io/tensorfile.h"
#include "tests/support/scratch.h"
#include "trainer/io/pickle.h"
#include "trainer/io/statefile.h"
#include "trainer/io/tensorboard.h"
#include "trainer/io/torchfile.h"
#include "trainer/kernels/kernels.h"
#include "trainer/model/encoder.h"
#include "trainer/model/model.h"
#include "trainer/nn/lifetimes.h"
#include "trainer/reg/objective.h"
#include "trainer/train/best.h"
#include "trainer/train/metrics.h"
#include "trainer/train/optimizer.h"
#include "trainer/train/pairs.h"
#include "trainer/train/predictions.h"
#include "trainer/train/retrieval.h"
#include "trainer/train/validate.h"

/* --- the loop --------------------------------------------------------------------------- */

enum { ALLOCATIONS_MAX = 5000 };

/* open fills *out, which close takes back; keep: it may fail only in ways that leave *out alone. */
typedef int (*opener)(void **out, struct err *err);
typedef void (*closer)(void *opened);

static void starve(const char *name, opener open, closer close)
{
	for (fail_at = 1; fail_at < ALLOCATIONS_MAX; fail_at++) {
		struct err err = { 0 };
		void *opened = NULL;
		long before = atomic_load(&live);

		atomic_store(&asked, 0);
		int code = open(&opened, &err);
		bool hit = atomic_load(&asked) >= fail_at;
		if (code == 0)
			close(opened);
		else if (code != ERR_NOMEM || err.code != code || opened != NULL)
			fail_msg("%s, allocation %ld: code %d, \"%s\"%s", name, fail_at, code, err.message, opened != NULL ? ", and it gave something" : "");
		if (atomic_load(&live) != before)
			fail_msg("%s, allocation %ld (code %d): %ld allocations are left", name, fail_at, code, atomic_load(&live) - before);
		if (!hit) {
			if (code != 0)
				fail_msg("%s: %s", name, err.message);
			printf("%-20s %ld allocations\n", name, atomic_load(&asked));
			fail_at = 0;
			return;
		}
	}
	fail_msg("%s takes more than %d allocations", name, ALLOCATIONS_MAX);
}

#define CLOSER(name, type, function) \
	static void name(void *opened) \
	{ \
		function((type *)opened); \
	}
#define OPENER(name, type, call) \
	static int name(void **out, struct err *err) \
	{ \
		type *opened = NULL; \
		int code = call; \
		*out = opened; \
		return code; \
	}
#define STARVE(what) starve(#what, open_##what, close_##what)

static struct scratch scratch;

static int set_up(void **state)
{
	(void)state;
	scratch_open(&scratch);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	fail_at = 0;
	scratch_close(&scratch);
	return 0;
}

/* --- the daemon's ------------------------------------------------------------------------- */

static const char words[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n##b\nred\n";
static struct vocab *vocab;

OPENER(open_vocab, struct vocab, vocab_parse(&opened, "v", words, sizeof(words) - 1, err))
CLOSER(close_vocab, struct vocab, vocab_free)
OPENER(open_wordpiece, struct wordpiece, wordpiece_open(&opened, vocab, err))
CLOSER(close_wordpiece, struct wordpiece, wordpiece_close)
OPENER(open_bert_chars, struct bert_chars, bert_chars_open(&opened, err))
CLOSER(close_bert_chars, struct bert_chars, bert_chars_close)
OPENER(open_jpeg, struct jpeg, jpeg_open(&opened, err))
CLOSER(close_jpeg, struct jpeg, jpeg_close)
OPENER(open_picture_codec, struct picture_codec, picture_codec_open(&opened, err))
CLOSER(close_picture_codec, struct picture_codec, picture_codec_close)

static void test_codecs(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(vocab_parse(&vocab, "v", words, sizeof(words) - 1, &err), 0);
	STARVE(vocab);
	STARVE(wordpiece);
	STARVE(bert_chars);
	STARVE(jpeg);
	STARVE(picture_codec);
	vocab_free(vocab);
}

static int open_blob(void **out, struct err *err)
{
	const struct blob_counts counts = { 2, 3, 1, 1, 2, 20, 30, 10 };
	struct blob *blob;
	int code = blob_open(&blob, &counts, err);

	*out = blob;
	return code;
}

static void close_blob(void *opened)
{
	manifest_free(&((struct blob *)opened)->view);
}

OPENER(open_listing, struct listing, listing_open(&opened, err))
CLOSER(close_listing, struct listing, listing_free)
OPENER(open_catalog, struct catalog, catalog_open(&opened, err))
CLOSER(close_catalog, struct catalog, catalog_close)
OPENER(open_flights, struct flights, flights_open(&opened, err))
CLOSER(close_flights, struct flights, flights_close)
OPENER(open_socket_lock, struct socket_lock, socket_lock_open(&opened, scratch_path(&scratch, "s"), err))
CLOSER(close_socket_lock, struct socket_lock, socket_lock_close)

static void test_data_sets(void **state)
{
	(void)state;
	STARVE(blob);
	STARVE(listing);
	STARVE(catalog);
	STARVE(flights);
	STARVE(socket_lock);
}

static struct cache *cache;

static int open_cache(void **out, struct err *err)
{
	const struct cache_options options = { .path = scratch.path, .first_map_bytes = 1 << 20 };
	struct cache *opened;
	int code = cache_open(&opened, &options, err);

	*out = opened;
	return code;
}

static void no_post(void *context, struct completion *completion)
{
	(void)context;
	(void)completion;
}

static int open_pipeline(void **out, struct err *err)
{
	const struct pipeline_options options = { .cache = cache, .workers = 2, .datasets_max = 1, .post = no_post };
	struct pipeline *opened;
	int code = pipeline_open(&opened, &options, err);

	*out = opened;
	return code;
}

CLOSER(close_cache, struct cache, cache_close)
CLOSER(close_pipeline, struct pipeline, pipeline_close)
OPENER(open_reader, struct cache_reader, cache_reader_open(&opened, cache, err))
CLOSER(close_reader, struct cache_reader, cache_reader_close)

static void test_store(void **state)
{
	struct err err;
	void *opened;

	(void)state;
	STARVE(cache);
	assert_int_equal(open_cache(&opened, &err), 0);
	cache = opened;
	STARVE(reader);
	STARVE(pipeline);
	cache_close(cache);
}

/* --- files ---------------------------------------------------------------------------------- */

OPENER(open_fs_writer, struct fs_writer, fs_writer_open(&opened, scratch_path(&scratch, "out"), err))
CLOSER(close_fs_writer, struct fs_writer, fs_writer_abort)
OPENER(open_tensorfile, struct tensorfile, tensorfile_open(&opened, scratch_path(&scratch, "t.safetensors"), err))
CLOSER(close_tensorfile, struct tensorfile, tensorfile_close)
OPENER(open_statefile, struct statefile, statefile_open(&opened, scratch_path(&scratch, "t.safetensors"), err))
CLOSER(close_statefile, struct statefile, statefile_close)
OPENER(open_torchfile, struct torchfile, torchfile_open(&opened, "tests/fuzz/corpus/torchfile/kinds-zip-2", err))
CLOSER(close_torchfile, struct torchfile, torchfile_close)
OPENER(open_legacy, struct torchfile, torchfile_open(&opened, "tests/fuzz/corpus/torchfile/kinds-legacy-2", err))
CLOSER(close_legacy, struct torchfile, torchfile_close)
OPENER(open_pickle, struct pickle, pickle_open(&opened, "p", err))
CLOSER(close_pickle, struct pickle, pickle_close)
OPENER(open_metrics, struct metrics, metrics_open(&opened, scratch_path(&scratch, "metrics.jsonl"), 0, 0, err))
CLOSER(close_metrics, struct metrics, metrics_close)
OPENER(open_tensorboard, struct tensorboard, tensorboard_open(&opened, scratch.path, 0, err))
CLOSER(close_tensorboard, struct tensorboard, tensorboard_close)

static void test_files(void **state)
{
	static const char file[] = "\x40\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}          \0\0\0\0";

	(void)state;
	scratch_write(&scratch, "t.safetensors", file, 8 + 64 + 4);
	STARVE(fs_writer);
	STARVE(tensorfile);
	STARVE(statefile);
	STARVE(pickle);
	if (access("tests/fuzz/corpus/torchfile/kinds-zip-2", R_OK) == 0) {
		STARVE(torchfile);
		STARVE(legacy);
	}
	STARVE(metrics);
	STARVE(tensorboard);
}

/* --- the trainer's ------------------------------------------------------------------------------ */

static struct model_config config;
static struct model *model;
static struct reg_spec spec;
static const struct model_limits limits = { 4, 4, 40, 10, 16, true, 16, false };

OPENER(open_model, struct model, model_open(&opened, &config, &limits, err))
CLOSER(close_model, struct model, model_close)
OPENER(open_encoder, struct encoder, encoder_open(&opened, model, 10, err))
CLOSER(close_encoder, struct encoder, encoder_close)
OPENER(open_validator, struct validator, validator_open(&opened, model, &limits, kernels_fast()->vector, 4, 9, 4, err))
CLOSER(close_validator, struct validator, validator_close)
OPENER(open_objective, struct objective, objective_open(&opened, &spec, &config, &limits, err))
CLOSER(close_objective, struct objective, objective_close)
OPENER(open_best, struct best, best_open(&opened, model_params(model), kernels_fast()->vector, err))
CLOSER(close_best, struct best, best_close)
OPENER(open_params, struct params, params_open(&opened, err))
CLOSER(close_params, struct params, params_close)
OPENER(open_lifetimes, struct lifetimes, lifetimes_open(&opened, err))
CLOSER(close_lifetimes, struct lifetimes, lifetimes_close)
OPENER(open_pairs, struct pairs, pairs_open(&opened, TASK_MATCH, 4, 2, err))
CLOSER(close_pairs, struct pairs, pairs_close)
OPENER(open_retrieval, struct retrieval, retrieval_open(&opened, 4, 9, err))
CLOSER(close_retrieval, struct retrieval, retrieval_close)

static int open_optimizer(void **out, struct err *err)
{
	const struct optimizer_config chosen = { .kind = OPTIMIZER_ADAMW };
	struct decay_spans *spans = NULL;
	struct optimizer *opened = NULL;
	int code = optimizer_open(&opened, &chosen, model_params(model), spans, kernels_fast()->vector, err);

	*out = opened;
	return code;
}

static void close_optimizer(void *opened)
{
	optimizer_close(opened);
}

static void test_trainer(void **state)
{
	struct err err = { 0 };

	(void)state;
	assert_int_equal(model_preset(&config, "tiny", 32, &err), 0);
	config.classes = 2;
	config.text.vocab_size = 50;
	STARVE(params);
	STARVE(lifetimes);
	STARVE(pairs);
	STARVE(retrieval);
	STARVE(model);
	assert_int_equal(model_open(&model, &config, &limits, &err), 0);
	STARVE(optimizer);
	STARVE(best);
	STARVE(validator);
	STARVE(encoder);
	static const char *const regs[] = { "none", "dropout+l2+adv", "adv:method=freelb,target=text+feat", "adv:method=smart", "sam", "rdrop", "mixup" };
	for (size_t i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
		if (reg_spec_parse(&spec, regs[i], &err) != 0)
			fail_msg("%s", err.message);
		STARVE(objective);
	}
	model_close(model);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CAN_STARVE_LIBRARIES false /* their shadow memory is address space, too */
#else
#define CAN_STARVE_LIBRARIES true
#endif

/* Hashing a string has no way to say that it failed: it must go on when a library could not allocate a byte. */
static void test_hash_without_memory(void **state)
{
	const struct rlimit none = { 0, 0 };
	struct hash want, got;
	void *volatile kept; /* or compilers leave the calls of malloc() out */
	int status;

	(void)state;
	if (!CAN_STARVE_LIBRARIES)
		skip();
	hash_bytes(&want, "abc", 3);
	pid_t child = fork();
	if (child == 0) {
		if (setrlimit(RLIMIT_AS, &none) != 0)
			_exit(2);
		for (size_t size = 1 << 20; size > 0; size /= 2)
			while ((kept = malloc(size)) != NULL)
				continue;
		hash_bytes(&got, "abc", 3);
		_exit(hash_equal(&got, &want) ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hash_without_memory),
		cmocka_unit_test_setup_teardown(test_codecs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_data_sets, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_trainer, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
