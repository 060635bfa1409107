/* Captions and pictures of samples, from the daemon that has the data set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/client/client.h"
#include "shared/client/conn.h"
#include "trainer/study/jpeg_write.h"
#include "trainer/study/report_samples.h"

enum { THUMB_QUALITY = 70 };

struct fetch {
	struct report_samples *samples;
	const struct report_data *data;
	char *socket;
	uint64_t *ids;   /* every picture and caption that is shown, ascending, each once */
	size_t count;
	uint32_t image_size;
	bool exif_apply;
	struct hash version;
};

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int collect_ids(struct fetch *f, struct err *err)
{
	size_t total = 0, used = 0;

	for (int row = 0; row < f->samples->row_count; row++)
		total += 2 * (size_t)f->samples->rows[row].count;
	f->ids = mem_array(total + 1, sizeof(*f->ids));
	if (f->ids == NULL)
		return err_nomem(err, total * sizeof(*f->ids));
	for (int row = 0; row < f->samples->row_count; row++) {
		for (int k = 0; k < f->samples->rows[row].count; k++) {
			f->ids[used++] = f->samples->rows[row].sample[k].picture;
			f->ids[used++] = f->samples->rows[row].sample[k].caption;
		}
	}
	qsort(f->ids, used, sizeof(*f->ids), ascending);
	for (size_t i = 0; i < used; i++)
		if (i == 0 || f->ids[i] != f->ids[i - 1])
			f->ids[f->count++] = f->ids[i];
	return 0;
}

static int take_sample(struct fetch *f, const Wire__Sample *sample, struct err *err)
{
	int code = 0;

	for (int row = 0; code == 0 && row < f->samples->row_count; row++) {
		for (int k = 0; code == 0 && k < f->samples->rows[row].count; k++) {
			struct report_sample *s = &f->samples->rows[row].sample[k];

			if (s->caption == sample->id && s->text.size == 0)
				code = buf_add(&s->text, sample->caption.data, sample->caption.len, err);
			if (code == 0 && s->picture == sample->id && s->source.size == 0)
				code = buf_add(&s->source, sample->source.data, sample->source.len, err);
		}
	}
	return code;
}

/* The study says which version it was run on; pictures of another one would be other pictures. */
static int check_version(struct fetch *f, const Wire__SampleList *list, struct err *err)
{
	char hex[HASH_HEX_BYTES];

	if (list->version.len != HASH_BYTES || list->transform == NULL)
		return err_set(err, ERR_PROTOCOL, "the daemon's answer has no version");
	memcpy(f->version.bytes, list->version.data, HASH_BYTES);
	f->image_size = list->transform->size;
	f->exif_apply = list->transform->exif_apply;
	hash_to_hex(&f->version, hex);
	if (f->data->data_version != NULL && strcmp(hex, f->data->data_version) != 0)
		return err_set(err, ERR_MISMATCH, "the data set %s is another version now than the study's", f->data->data);
	return 0;
}

static int fetch_captions(struct fetch *f, const struct report_options *options, struct err *err)
{
	Wire__DescribeSamples describe = WIRE__DESCRIBE_SAMPLES__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct conn conn;
	int code;

	conn_init(&conn, options->cancelled, NULL);
	code = conn_open(&conn, f->socket, "trainer report", err);
	request.verb_case = WIRE__REQUEST__VERB_DESCRIBE_SAMPLES;
	request.describe_samples = &describe;
	describe.dataset = (char *)(uintptr_t)f->data->data;
	for (size_t at = 0; code == 0 && at < f->count; at += describe.n_samples) {
		Wire__Reply *reply;

		describe.samples = f->ids + at;
		describe.n_samples = f->count - at < WIRE_SAMPLES_PER_REQUEST ? f->count - at : WIRE_SAMPLES_PER_REQUEST;
		request.id++;
		if ((code = conn_call(&conn, &request, WIRE__REPLY__BODY_SAMPLES, &reply, err)) != 0 ||
		    (code = check_version(f, reply->samples, err)) != 0)
			break;
		for (size_t i = 0; code == 0 && i < reply->samples->n_samples; i++)
			code = take_sample(f, reply->samples->samples[i], err);
	}
	conn_free(&conn);
	return code;
}

/* Means over boxes: enough for a thumbnail. */
static void shrink(const uint8_t *rgb, uint32_t side, uint8_t *out, uint32_t small)
{
	for (uint32_t y = 0; y < small; y++) {
		for (uint32_t x = 0; x < small; x++) {
			uint32_t y0 = y * side / small, y1 = (y + 1) * side / small, x0 = x * side / small, x1 = (x + 1) * side / small;
			uint32_t sum[3] = { 0 }, n = (y1 - y0) * (x1 - x0);

			for (uint32_t v = y0; v < y1; v++)
				for (uint32_t u = x0; u < x1; u++)
					for (uint32_t c = 0; c < 3; c++)
						sum[c] += rgb[3 * ((size_t)v * side + u) + c];
			for (uint32_t c = 0; c < 3; c++)
				out[3 * ((size_t)y * small + x) + c] = (uint8_t)((sum[c] + n / 2) / n);
		}
	}
}

static int take_picture(struct fetch *f, uint64_t id, const uint8_t *rgb, uint8_t *small, struct err *err)
{
	uint32_t side = f->image_size < REPORT_THUMB_PIXELS ? f->image_size : REPORT_THUMB_PIXELS;
	int code = 0;

	shrink(rgb, f->image_size, small, side);
	for (int row = 0; code == 0 && row < f->samples->row_count; row++) {
		for (int k = 0; code == 0 && k < f->samples->rows[row].count; k++) {
			struct report_sample *s = &f->samples->rows[row].sample[k];

			if (s->picture == id && s->jpeg.size == 0)
				code = jpeg_write(small, (int)side, (int)side, THUMB_QUALITY, &s->jpeg, err);
		}
	}
	return code;
}

/* Evaluation over everything visits captions in order of their ids: with batches of one, step = sample id. */
static int fetch_pictures(struct fetch *f, const struct report_options *options, struct err *err)
{
	uint8_t *small = mem_alloc((size_t)3 * REPORT_THUMB_PIXELS * REPORT_THUMB_PIXELS);
	struct stream_options o;
	struct stream *stream = NULL;
	int code = 0;

	if (small == NULL)
		return err_nomem(err, (size_t)3 * REPORT_THUMB_PIXELS * REPORT_THUMB_PIXELS);
	stream_options_init(&o);
	o.socket = f->socket;
	o.client_name = "trainer report";
	o.dataset = f->data->data;
	o.split = "all";
	o.training = false;
	o.batch_size = 1;
	o.image_size = f->image_size;
	o.exif_apply = f->exif_apply;
	o.dtype = PIXEL_U8;
	o.layout = PIXEL_NHWC;
	o.slots = 2;
	o.wait_s = 0;
	o.cancelled = options->cancelled;
	code = stream_open(&stream, &o, err);
	if (code == 0 && !hash_equal(&stream_info(stream)->version, &f->version))
		code = err_set(err, ERR_MISMATCH, "the data set %s changed at this moment", f->data->data);
	for (size_t i = 0; code == 0 && i < f->count; i++) {
		struct batch batch;
		bool got = false, wanted = false;

		for (int row = 0; row < f->samples->row_count; row++)
			for (int k = 0; k < f->samples->rows[row].count; k++)
				wanted = wanted || f->samples->rows[row].sample[k].picture == f->ids[i];
		if (!wanted)
			continue;
		if ((code = stream_seek(stream, 0, f->ids[i], err)) != 0 || (code = stream_next(stream, &batch, &got, err)) != 0)
			break;
		if (!got || batch.count != 1 || batch.sample_ids[0] != f->ids[i])
			code = err_set(err, ERR_MISMATCH, "sample %llu is not where it should be", (unsigned long long)f->ids[i]);
		else
			code = take_picture(f, f->ids[i], batch.pixels, small, err);
		if (got)
			stream_release(stream, &batch);
	}
	stream_close(stream);
	mem_free(small);
	return code;
}

int report_samples_fetch(struct report_samples *samples, const struct report_data *data, const struct report_options *options,
			 struct err *err)
{
	struct fetch f = { .samples = samples, .data = data };
	struct err reason = { 0 };
	int code = collect_ids(&f, err);

	if (code != 0)
		return code;
	if (f.count == 0)
		goto out;
	if (data->data == NULL) {
		snprintf(samples->note, sizeof(samples->note), "study.json does not name the data set");
		goto out;
	}
	if ((code = paths_socket(&f.socket, options->socket, false, &reason)) == 0 && (code = fetch_captions(&f, options, &reason)) == 0)
		code = fetch_pictures(&f, options, &reason);
	samples->pictures = code == 0;
	if (code == ERR_NOMEM || code == ERR_CANCELLED) {
		if (err != NULL)
			*err = reason;
		goto out;
	}
	if (code != 0)
		snprintf(samples->note, sizeof(samples->note), "%s", reason.message);
	code = 0;
out:
	mem_free(f.ids);
	mem_free(f.socket);
	return code;
}
