#include "preprocessd/pipeline/features.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preprocessd/pipeline/prepare.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

/* The request with everything it names. */
struct open_part {
	const struct features_of *of;
	struct pipeline *pipeline;
	struct dataset_ref *dataset;
	struct vocab_ref *vocab; /* captions */
	const struct part_ref *part;
	uint32_t rows;
	size_t row_bytes;
	struct hash fingerprint;
};

static void close_part(struct open_part *p)
{
	catalog_part_unref(p->pipeline->catalog, p->part);
	catalog_dataset_unref(p->pipeline->catalog, p->dataset);
	catalog_vocab_unref(p->pipeline->catalog, p->vocab);
}

/* schemas/features.md */
static int fingerprint(struct open_part *p, struct err *err)
{
	const struct features_of *of = p->of;
	struct picture_settings settings;
	struct hash_stream *stream;
	int code = 0;

	if (!of->captions)
		code = picture_settings_init(&settings, of->image_size, of->exif_apply, err);
	if (code != 0 || (code = hash_stream_open(&stream, err)) != 0)
		return code;
	hash_stream_add_field(stream, "preprocessd features 1", strlen("preprocessd features 1"));
	hash_stream_add(stream, of->encoder.bytes, HASH_BYTES);
	hash_stream_add_u64(stream, of->captions);
	hash_stream_add_u64(stream, of->width);
	hash_stream_add(stream, of->captions ? p->vocab->fingerprint.bytes : settings.fingerprint.bytes, HASH_BYTES);
	hash_stream_add_u64(stream, of->captions ? of->max_len : 0);
	hash_stream_final(stream, &p->fingerprint);
	return 0;
}

static int open_vocab(struct open_part *p, struct worker *worker, const Records__DatasetRecord *record, struct err *err)
{
	const char *name = p->of->vocab[0] != '\0' ? p->of->vocab : record->vocab_name;

	if (name[0] == '\0')
		return err_set(err, ERR_NOTFOUND, "data set %s was added without a vocabulary, and none was named", p->of->dataset);
	if (p->of->max_len < 2)
		return err_set(err, ERR_USAGE, "max_len %u: [CLS] and [SEP] alone are 2", p->of->max_len);
	return catalog_vocab(p->pipeline->catalog, worker->reader, name, &p->vocab, err);
}

static int open_part(struct open_part *p, struct worker *worker, const struct features_of *of, struct err *err)
{
	Records__DatasetRecord *record;
	int code;

	*p = (struct open_part){ .of = of, .pipeline = worker->pipeline };
	if (of->width == 0 || of->width > FEATURES_WIDTH_MAX)
		return err_set(err, ERR_LIMIT, "features of %u numbers; it must be 1 to %d", of->width, FEATURES_WIDTH_MAX);
	if ((code = catalog_record(worker->reader, of->dataset, &record, err)) != 0)
		return code;
	if (of->expect_version != NULL && memcmp(of->expect_version->bytes, record->version.data, HASH_BYTES) != 0)
		code = err_set(err, ERR_MISMATCH, "data set %s was replaced by another version meanwhile; a run goes on only with the "
			       "data that it began with", of->dataset);
	if (code == 0 && of->captions)
		code = open_vocab(p, worker, record, err);
	if (code == 0)
		code = catalog_dataset(worker->pipeline->catalog, worker->reader, of->dataset, record, &p->dataset, err);
	if (code == 0)
		code = catalog_part(worker->pipeline->catalog, p->dataset, of->split, false, &p->part, err);
	if (code == 0)
		code = fingerprint(p, err);
	records__dataset_record__free_unpacked(record, NULL);
	if (code != 0) {
		close_part(p);
		return err_prefix(err, "features of %s", of->dataset);
	}
	p->rows = of->captions ? p->part->part->caption_count : p->part->part->picture_count;
	p->row_bytes = (size_t)of->width * sizeof(float);
	return 0;
}

static uint32_t sample_of(const struct open_part *p, uint32_t row)
{
	return p->of->captions ? p->part->part->captions[row] : p->part->part->pictures[row];
}

static void key_of(const struct open_part *p, uint32_t row, struct cache_key *out)
{
	const struct manifest *manifest = p->dataset->manifest;
	uint32_t sample = sample_of(p, row);
	struct hash content;

	if (!p->of->captions) {
		cache_key_hashes(out, CACHE_FEATURES, &manifest->picture_hash[sample], &p->fingerprint);
		return;
	}
	const uint64_t *at = manifest->caption_at + sample;
	hash_bytes(&content, manifest->caption_text + at[0], at[1] - at[0]);
	cache_key_hashes(out, CACHE_FEATURES, &content, &p->fingerprint);
}

struct row_place {
	size_t bytes;
	void *out; /* NULL: to know whether it is there */
};

static int place_row(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	const struct row_place *place = context;

	(void)checksum;
	if (size != place->bytes)
		return cache_size_differs(size, place->bytes, err);
	if (place->out != NULL)
		memcpy(place->out, payload, size);
	return 0;
}

/* Whether the row is there, sound; a damaged one is as good as none. */
static int read_row(struct worker *worker, const struct cache_key *key, struct row_place *place, bool *found, struct err *err)
{
	struct err reason;
	int code = cache_read(worker->reader, key, true, place_row, place, &reason);

	*found = code == 0;
	if (code == ERR_CORRUPT)
		log_warn("damaged features in the cache (%s); whoever needs them computes them again", reason.message);
	if (code == 0 || code == ERR_NOTFOUND || code == ERR_CORRUPT)
		return 0;
	*err = reason;
	return code;
}

/* --- get --------------------------------------------------------------------------- */

static int fill(struct worker *worker, const struct open_part *p, uint32_t first, const struct features_layout *layout, char *memory,
		struct features_found *out, struct err *err)
{
	uint64_t *ids = (uint64_t *)(void *)memory;
	uint8_t *found = (uint8_t *)memory + layout->found_at;

	for (uint32_t i = 0; i < out->count; i++) {
		struct row_place place = { p->row_bytes, memory + layout->values_at + i * p->row_bytes };
		struct cache_key key;
		bool there;
		int code;

		key_of(p, first + i, &key);
		if ((code = read_row(worker, &key, &place, &there, err)) != 0)
			return code;
		ids[i] = sample_of(p, first + i);
		found[i] = there;
		out->found += there;
	}
	return 0;
}

/* Shared memory that nobody can write to any more. */
static int fill_memory(struct worker *worker, const struct open_part *p, uint32_t first, const struct features_layout *layout,
		       struct features_found *out, struct err *err)
{
	int code = 0;

	out->fd = memfd_create("preprocessd-features", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* All of it now: where there is no memory that is an error, and would be a signal when a page is written to. */
	while (out->fd >= 0 && (code = posix_fallocate(out->fd, 0, (off_t)layout->bytes)) == EINTR)
		;
	if (out->fd < 0 || code != 0)
		return err_errno(err, out->fd < 0 ? errno : code, "cannot make the memory for features (%llu MiB)",
				 (unsigned long long)(layout->bytes >> 20));
	char *memory = mmap(NULL, layout->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out->fd, 0);
	if (memory == MAP_FAILED)
		return err_errno(err, errno, "cannot map the memory for features");
	code = fill(worker, p, first, layout, memory, out, err);
	munmap(memory, layout->bytes);
	if (code == 0 && fcntl(out->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
		code = err_errno(err, errno, "cannot seal the memory for features");
	return code;
}

int features_get(struct worker *worker, const struct features_of *of, uint32_t first, uint32_t count, struct features_found *out,
		 struct err *err)
{
	struct counters *counters = &worker->pipeline->counters;
	struct features_layout layout;
	struct open_part p;
	int code;

	*out = (struct features_found){ .fd = -1 };
	if ((code = open_part(&p, worker, of, err)) != 0)
		return code;
	out->rows = p.rows;
	out->fingerprint = p.fingerprint;
	if (first >= p.rows)
		code = err_set(err, ERR_USAGE, "features of %s from row %u on: there are %u", of->dataset, first, p.rows);
	if (code == 0) {
		out->count = count < p.rows - first ? count : p.rows - first;
		code = features_layout_init(&layout, out->count, of->width, err);
	}
	if (code == 0)
		code = fill_memory(worker, &p, first, &layout, out, err);
	close_part(&p);
	if (code != 0) {
		if (out->fd >= 0)
			close(out->fd);
		out->fd = -1;
		return code;
	}
	out->bytes = layout.bytes;
	counter_add(&counters->feature_hits, out->found);
	counter_add(&counters->feature_misses, out->count - out->found);
	return 0;
}

static void put_done(void *context, int code, const struct err *err)
{
	if (code != 0)
		prepare_put_failed(context, err);
}

/* --- put ---------------------------------------------------------------------------- */

static int check_rows(const struct open_part *p, const uint32_t *rows, uint32_t count, const float *values, struct err *err)
{
	for (uint32_t i = 0; i < count; i++) {
		if (rows[i] >= p->rows)
			return err_set(err, ERR_USAGE, "features of %s, row %u: there are %u", p->of->dataset, rows[i], p->rows);
		for (uint32_t k = 0; k < p->of->width; k++)
			if (!isfinite(values[(size_t)i * p->of->width + k]))
				return err_set(err, ERR_FORMAT, "features of %s, row %u: a value that is not finite is not kept", p->of->dataset,
					       rows[i]);
	}
	return 0;
}

int features_put(struct worker *worker, const struct features_of *of, const uint32_t *rows, uint32_t count, const float *values,
		 uint32_t *kept, struct err *err)
{
	struct row_place nowhere = { (size_t)of->width * sizeof(float), NULL };
	struct open_part p;
	int code;

	*kept = 0;
	if ((code = open_part(&p, worker, of, err)) != 0)
		return code;
	code = check_rows(&p, rows, count, values, err);
	for (uint32_t i = 0; code == 0 && i < count; i++) {
		struct cache_key key;
		bool there;

		key_of(&p, rows[i], &key);
		code = read_row(worker, &key, &nowhere, &there, err);
		if (code != 0 || there)
			continue;
		code = cache_put(worker->pipeline->cache, &key, values + (size_t)i * of->width, p.row_bytes, put_done,
				 worker->pipeline, err);
		*kept += code == 0;
	}
	close_part(&p);
	counter_add(&worker->pipeline->counters.features_kept, *kept);
	return code;
}

/* --- explain ---------------------------------------------------------------------------- */

struct explained {
	struct hash *out;
	size_t count;
};

static int note_fingerprint(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct explained *explained = context;

	(void)size;
	(void)err;
	/* A damaged one is as good as none. */
	if (payload != NULL && name_bytes == 2 * HASH_BYTES && explained->count < FEATURES_EXPLAINED)
		memcpy(explained->out[explained->count++].bytes, name + HASH_BYTES, HASH_BYTES);
	return 0;
}

int features_explain(struct worker *worker, const struct hash *content, struct hash out[FEATURES_EXPLAINED], size_t *count,
		     struct err *err)
{
	struct explained explained = { out, 0 };
	int code = cache_each_of(worker->reader, CACHE_FEATURES, content, note_fingerprint, &explained, err);

	*count = explained.count;
	return code;
}
