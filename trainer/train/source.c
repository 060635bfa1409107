#include "trainer/train/source.h"

#include <string.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/base/progress.h"
#include "shared/client/features.h"
#include "trainer/kernels/kernels.h"

enum {
	PICTURES_AT_A_TIME = 32,
	CAPTIONS_AT_A_TIME = 2048, /* many, so that there are full groups of every length */
};

/* Features of every picture, or every caption, of the part. */
struct table {
	bool captions;
	uint32_t rows, missing;
	float *values;  /* (rows, F) */
	uint8_t *found; /* (rows) */
	uint64_t *ids;  /* (rows) index in the manifest, ascending */
	struct features *client;
	bool kept;      /* what is computed is put into the cache; false after a refusal */
};

struct source {
	struct source_options options;
	struct table *pictures, *captions;
	int32_t *rows;      /* (rows_room) of a batch */
	float *batch;       /* (rows_room, F) */
	uint8_t *wanted;    /* (rows_room) */
	uint32_t *put_rows; /* (rows_room) */
	uint32_t rows_room;
};

static void table_close(struct table *table)
{
	if (table == NULL)
		return;
	features_close(table->client);
	model_release(table->values);
	mem_free(table->found);
	mem_free(table->ids);
	mem_free(table);
}

void source_close(struct source *s)
{
	if (s == NULL)
		return;
	table_close(s->pictures);
	table_close(s->captions);
	mem_free(s->rows);
	mem_free(s->wanted);
	mem_free(s->put_rows);
	model_release(s->batch);
	mem_free(s);
}

bool source_images(const struct source *s)
{
	return s != NULL && s->options.images;
}

bool source_texts(const struct source *s)
{
	return s != NULL && s->options.texts;
}

/* ---- tables ---- */

static int fetch(struct source *s, struct table *table, struct err *err)
{
	const struct source_options *o = &s->options;
	struct features_options features = {
		.socket = o->feed.socket, .client_name = o->feed.client_name, .dataset = o->feed.dataset, .split = o->feed.split,
		.version = o->version, .captions = table->captions, .image_size = o->feed.image_size, .exif_apply = o->feed.exif_apply,
		.vocab = o->feed.vocab, .max_len = o->feed.max_len, .width = (uint32_t)o->features, .wait_s = o->wait_s, .cancelled = o->feed.cancelled,
		.cancel_context = o->feed.cancel_context,
	};
	uint32_t count;
	int code;

	if ((code = encoder_hash(o->encoder, table->captions, o->settings, &features.encoder, err)) != 0 ||
	    (code = features_open(&table->client, &features, &table->rows, err)) != 0)
		return code;
	table->values = model_alloc((size_t)table->rows * (size_t)o->features);
	table->found = mem_array(table->rows, sizeof(*table->found));
	table->ids = mem_array(table->rows, sizeof(*table->ids));
	if (table->values == NULL || table->found == NULL || table->ids == NULL) {
		err_nomem(err, (size_t)table->rows * (size_t)o->features * sizeof(float));
		return err_prefix(err, "features of %u %s", table->rows, table->captions ? "captions" : "pictures");
	}
	if ((code = features_get_all(table->client, table->values, table->found, table->ids, &count, err)) != 0)
		return code;
	table->missing = table->rows - count;
	table->kept = true;
	return 0;
}

/* A cache that is full, or read-only for us, costs the next run time and this one nothing. */
static int put(struct table *table, const uint32_t *rows, uint32_t count, const float *values, bool flush, struct err *err)
{
	int code = table->kept ? features_put(table->client, rows, count, values, flush, err) : 0;

	if (code == 0 || code == ERR_CANCELLED || code == ERR_MISMATCH)
		return code;
	table->kept = false;
	log_warn("features are not kept for other runs: %s", err->message);
	return 0;
}

/* Encodes what the table lacks of this batch; `first`: the row of its first caption. */
static int encode_batch(struct source *s, struct table *table, const struct batch *batch, bool nhwc, uint32_t first, struct err *err)
{
	const struct vector_ops *ops = kernels_fast()->vector;
	uint32_t n = table->captions ? batch->count : batch->image_count, count = 0;
	size_t F = (size_t)s->options.features;

	memset(s->wanted, 0, n);
	if (batch->count > s->rows_room || (table->captions && batch->count > table->rows - first))
		return err_set(err, ERR_PROTOCOL, "the daemon sent more captions than the part has");
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t at = table->captions ? i : batch->image_index[i], row = table->captions ? first + i : batch->pictures[i];

		if (row >= table->rows || (table->captions && table->ids[row] != batch->sample_ids[i]))
			return err_set(err, ERR_PROTOCOL, "the daemon sent a sample that its part does not have");
		s->wanted[at] = !table->found[row];
		s->rows[at] = (int32_t)row;
	}
	if (table->captions)
		encoder_captions(s->options.encoder, batch->ids, batch->offsets, (int)n, s->wanted, s->batch);
	else
		encoder_pictures(s->options.encoder, batch->pixels, nhwc, (int)n, s->wanted, s->batch);
	for (uint32_t i = 0; i < n; i++) {
		size_t row = (size_t)s->rows[i];

		if (!s->wanted[i])
			continue;
		ops->copy(table->values + row * F, s->batch + i * F, F);
		ops->copy(s->batch + count * F, s->batch + i * F, count == i ? 0 : F);
		table->found[row] = 1;
		s->put_rows[count++] = (uint32_t)row;
	}
	table->missing -= count;
	return count == 0 ? 0 : put(table, s->put_rows, count, s->batch, false, err);
}

/* Runs over the part until nothing is missing. */
static int compute(struct source *s, struct table *table, struct err *err)
{
	struct feed_options options = s->options.feed;
	uint32_t wanted = table->missing, done = 0;
	const struct batch *batch;
	struct feed *feed;
	struct progress bar;
	int code;

	options.training = false;
	options.no_pixels = table->captions;
	options.batch_size = table->captions ? CAPTIONS_AT_A_TIME : PICTURES_AT_A_TIME;
	if ((code = feed_open(&feed, &options, err)) != 0)
		return code;
	progress_begin(&bar, table->captions ? "captions' features" : "pictures' features", wanted, s->options.feed.quiet);
	while (code == 0 && table->missing > 0 && (code = feed_next(feed, &batch, err)) == 0) {
		if (batch == NULL) {
			code = err_set(err, ERR_PROTOCOL, "the daemon did not send every sample of %s", options.split);
			break;
		}
		code = encode_batch(s, table, batch, feed_nhwc(feed), done, err);
		done += batch->count;
		progress_update(&bar, wanted - table->missing, NULL);
	}
	progress_end(&bar, wanted - table->missing, NULL);
	feed_close(feed);
	return code != 0 ? code : put(table, NULL, 0, NULL, true, err);
}

static int fill_table(struct source *s, struct table **out, bool captions, struct err *err)
{
	const char *what = captions ? "captions" : "pictures";
	struct table *table = mem_zalloc(sizeof(*table));
	double began = clock_seconds();
	int code;

	*out = table;
	if (table == NULL)
		return err_nomem(err, sizeof(*table));
	table->captions = captions;
	if ((code = fetch(s, table, err)) != 0)
		return code;
	uint32_t missing = table->missing;
	if (missing > 0) {
		log_info("features of %u of %u %s in %s are not in the cache: computing them once", missing, table->rows, what,
			 s->options.feed.split);
		code = compute(s, table, err);
	}
	if (code == 0)
		log_info("features of %u %s in %s: %u from the cache, %u computed; %.1f s", table->rows, what, s->options.feed.split,
			 table->rows - missing, missing, clock_seconds() - began);
	/* The connection is of no use any more. */
	features_close(table->client);
	table->client = NULL;
	return code;
}

/* ---- opening ---- */

int source_open(struct source **out, const struct source_options *options, struct err *err)
{
	struct source *s = mem_zalloc(sizeof(*s));
	uint32_t room = options->feed.batch_size;
	int code = 0;

	*out = NULL;
	if (s == NULL)
		return err_nomem(err, sizeof(*s));
	s->options = *options;
	room = room < CAPTIONS_AT_A_TIME ? CAPTIONS_AT_A_TIME : room;
	s->rows_room = room;
	s->rows = mem_array(room, sizeof(*s->rows));
	s->wanted = mem_array(room, sizeof(*s->wanted));
	s->put_rows = mem_array(room, sizeof(*s->put_rows));
	s->batch = model_alloc((size_t)room * (size_t)options->features);
	if (s->rows == NULL || s->wanted == NULL || s->put_rows == NULL || s->batch == NULL)
		code = err_nomem(err, (size_t)room * (size_t)options->features * sizeof(float));
	if (code == 0 && options->tables && !options->blank && options->images)
		code = fill_table(s, &s->pictures, false, err);
	if (code == 0 && options->tables && !options->blank && options->texts)
		code = fill_table(s, &s->captions, true, err);
	if (code != 0) {
		source_close(s);
		return code;
	}
	*out = s;
	return 0;
}

/* ---- batches ---- */

static int no_sample(struct err *err)
{
	return err_set(err, ERR_PROTOCOL, "the daemon sent a sample that its part does not have");
}

int source_pictures(struct source *s, const struct batch *batch, bool nhwc, const uint8_t *wanted, float *v, struct err *err)
{
	const struct kernels *kernels = kernels_fast();

	if (s->options.blank) {
		kernels->vector->fill(v, (size_t)batch->image_count * (size_t)s->options.features, 0.0f);
		return 0;
	}
	if (s->pictures == NULL) {
		encoder_pictures(s->options.encoder, batch->pixels, nhwc, (int)batch->image_count, wanted, v);
		return 0;
	}
	CHECK(batch->image_count <= s->rows_room);
	for (uint32_t i = 0; i < batch->count; i++) {
		if (batch->pictures[i] >= s->pictures->rows)
			return no_sample(err);
		s->rows[batch->image_index[i]] = (int32_t)batch->pictures[i];
	}
	kernels->dense->gather_rows(v, s->pictures->values, s->rows, (int)batch->image_count, s->options.features);
	return 0;
}

static bool find_row(const struct table *table, uint64_t id, int32_t *out)
{
	uint32_t low = 0, high = table->rows;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (table->ids[middle] <= id)
			low = middle;
		else
			high = middle;
	}
	*out = (int32_t)low;
	return table->rows > 0 && table->ids[low] == id;
}

int source_captions(struct source *s, const struct batch *batch, float *t, struct err *err)
{
	const struct kernels *kernels = kernels_fast();

	if (s->options.blank) {
		kernels->vector->fill(t, (size_t)batch->count * (size_t)s->options.features, 0.0f);
		return 0;
	}
	if (s->captions == NULL) {
		encoder_captions(s->options.encoder, batch->ids, batch->offsets, (int)batch->count, NULL, t);
		return 0;
	}
	CHECK(batch->count <= s->rows_room);
	for (uint32_t i = 0; i < batch->count; i++)
		if (!find_row(s->captions, batch->sample_ids[i], &s->rows[i]))
			return no_sample(err);
	kernels->dense->gather_rows(t, s->captions->values, s->rows, (int)batch->count, s->options.features);
	return 0;
}

/* ---- what it would cost ---- */

enum { TRIAL = MODEL_FROZEN_GROUP, TRIAL_REPEATS = 2 };

/* Marks up to TRIAL captions of the length that most have: a full group of one shape. */
static uint32_t choose_captions(const struct source *s, const struct batch *batch)
{
	uint32_t best = 0, most = 0, chosen = 0;

	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t length = batch->offsets[i + 1] - batch->offsets[i], same = 0;

		for (uint32_t k = 0; k < batch->count; k++)
			same += batch->offsets[k + 1] - batch->offsets[k] == length;
		if (same > most) {
			most = same;
			best = length;
		}
	}
	for (uint32_t i = 0; i < batch->count; i++) {
		s->wanted[i] = chosen < TRIAL && batch->offsets[i + 1] - batch->offsets[i] == best;
		chosen += s->wanted[i];
	}
	return chosen;
}

static uint32_t choose_pictures(const struct source *s, const struct batch *batch)
{
	for (uint32_t i = 0; i < batch->image_count; i++)
		s->wanted[i] = i < TRIAL;
	return batch->image_count < TRIAL ? batch->image_count : TRIAL;
}

/* The first time finds the kernels for the shape and does not count. */
static int try_batch(struct source *s, bool captions, double *each, uint32_t *all, struct err *err)
{
	struct feed_options options = s->options.feed;
	const struct batch *batch;
	struct feed *feed;
	int code;

	options.training = false;
	options.no_pixels = captions;
	options.batch_size = captions ? 8 * PICTURES_AT_A_TIME : PICTURES_AT_A_TIME;
	if ((code = feed_open(&feed, &options, err)) != 0)
		return code;
	*all = captions ? feed_info(feed)->caption_count : feed_info(feed)->picture_count;
	if ((code = feed_next(feed, &batch, err)) == 0 && batch == NULL)
		code = err_set(err, ERR_PROTOCOL, "the daemon sent no sample of %s", options.split);
	uint32_t count = code != 0 ? 0 : captions ? choose_captions(s, batch) : choose_pictures(s, batch);
	for (int i = 0; i <= TRIAL_REPEATS && code == 0; i++) {
		double began = clock_seconds();

		if (captions)
			encoder_captions(s->options.encoder, batch->ids, batch->offsets, (int)batch->count, s->wanted, s->batch);
		else
			encoder_pictures(s->options.encoder, batch->pixels, feed_nhwc(feed), (int)batch->image_count, s->wanted, s->batch);
		double seconds = (clock_seconds() - began) / count;
		if (i == 1 || (i > 1 && seconds < *each))
			*each = seconds;
	}
	feed_close(feed);
	return code;
}

int source_costs(struct source *s, struct source_costs *out, struct err *err)
{
	int code = 0;

	*out = (struct source_costs){ 0 };
	if (s->options.images)
		code = try_batch(s, false, &out->picture_s, &out->pictures, err);
	if (code == 0 && s->options.texts)
		code = try_batch(s, true, &out->caption_s, &out->captions, err);
	return code;
}
