#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"
#include "shared/io/tensorfile.h"
#include "tools/prepctl/stream_flags.h"

enum { TENSORS_MAX = 5, NUMBER_BYTES = 24 };

struct options {
	struct stream_flags stream;
	const char *out;
	int64_t step;
};

static int parse(int argc, char *const argv[], struct options *o, struct args_result *result, struct err *err)
{
	const struct args_option table[] = {
		STREAM_FLAGS(&o->stream),
		{ .name = "step", .kind = ARGS_INT, .value = &o->step, .metavar = "K", .min = 0, .max = INT64_MAX,
		  .help = "Which batch of the epoch, from 0. Default 0." },
		{ .name = "out", .letter = 'o', .kind = ARGS_TEXT, .value = &o->out, .metavar = "FILE.safetensors",
		  .help = "The file to write. Needed." },
		PREPCTL_OPTIONS(&o->stream.common),
	};
	const struct args_spec spec = {
		.usage = "prepctl batch NAME --split S --batch-size N --seed S --epoch E --step K --out FILE.safetensors [options]",
		.description =
			"Writes the batch that a trainer with these settings gets: image (B, 3, H, W) F32, input_ids and attention_mask\n"
			"(B, T) I64 padded with 0 to the longest caption, labels (B) I64 where the data set has them, sample_ids (B) I64.\n"
			"The file's metadata names the digest and the data set's version.",
		.options = table, .option_count = (int)ARRAY_LEN(table), .operands_min = 1, .operands_max = 1,
	};
	int code = prepctl_parse(&spec, argc, argv, result, err);

	if (code != 0 || result->help)
		return code;
	if (o->out == NULL)
		return err_set(err, ERR_USAGE, "prepctl batch: --out FILE is missing");
	if (strcmp(o->out, "-") == 0)
		return err_set(err, ERR_USAGE, "--out -: standard output gets the digest; name a file for the tensors");
	return stream_flags_check(&o->stream, err);
}

/* The batch as padded tensors of its own. */
struct tensors {
	float *image;
	int64_t *ids, *mask, *labels, *sample_ids;
	struct tensor_view views[TENSORS_MAX];
	int count;
};

static void add_view(struct tensors *t, const char *name, enum tensor_dtype dtype, const void *data, int rank,
		     const int64_t *shape)
{
	struct tensor_view *view = &t->views[t->count++];

	*view = (struct tensor_view){ .name = name, .dtype = dtype, .rank = rank, .data = data };
	view->bytes = tensor_dtype_bytes(dtype);
	for (int d = 0; d < rank; d++) {
		view->shape[d] = shape[d];
		view->bytes *= (size_t)shape[d];
	}
}

static void fill(struct tensors *t, const struct batch *batch, size_t image_floats, size_t longest)
{
	for (size_t i = 0; i < batch->count; i++) {
		const int32_t *ids = batch->ids + batch->offsets[i];
		size_t length = batch->offsets[i + 1] - batch->offsets[i];

		memcpy(t->image + i * image_floats, (const float *)batch->pixels + batch->image_index[i] * image_floats,
		       image_floats * sizeof(float));
		for (size_t k = 0; k < length; k++) {
			t->ids[i * longest + k] = ids[k];
			t->mask[i * longest + k] = 1;
		}
		t->labels[i] = batch->labels[i];
		t->sample_ids[i] = (int64_t)batch->sample_ids[i];
	}
}

static int make_tensors(struct tensors *t, const struct batch *batch, int64_t size, bool with_labels, struct err *err)
{
	size_t n = batch->count, longest = 0, image_floats = (size_t)3 * (size_t)size * (size_t)size;

	for (size_t i = 0; i < n; i++)
		if (batch->offsets[i + 1] - batch->offsets[i] > longest)
			longest = batch->offsets[i + 1] - batch->offsets[i];
	t->image = mem_array(n * image_floats, sizeof(*t->image));
	t->ids = mem_array(n * longest, sizeof(*t->ids));
	t->mask = mem_array(n * longest, sizeof(*t->mask));
	t->labels = mem_array(n, sizeof(*t->labels));
	t->sample_ids = mem_array(n, sizeof(*t->sample_ids));
	if (t->image == NULL || t->ids == NULL || t->mask == NULL || t->labels == NULL || t->sample_ids == NULL)
		return err_nomem(err, n * image_floats * sizeof(*t->image));
	fill(t, batch, image_floats, longest);
	const int64_t image_shape[] = { (int64_t)n, 3, size, size }, text_shape[] = { (int64_t)n, (int64_t)longest };
	add_view(t, "image", TENSOR_F32, t->image, 4, image_shape);
	add_view(t, "input_ids", TENSOR_I64, t->ids, 2, text_shape);
	add_view(t, "attention_mask", TENSOR_I64, t->mask, 2, text_shape);
	if (with_labels)
		add_view(t, "labels", TENSOR_I64, t->labels, 1, text_shape);
	add_view(t, "sample_ids", TENSOR_I64, t->sample_ids, 1, text_shape);
	return 0;
}

static void free_tensors(struct tensors *t)
{
	mem_free(t->image);
	mem_free(t->ids);
	mem_free(t->mask);
	mem_free(t->labels);
	mem_free(t->sample_ids);
}

static int write_batch(const struct options *o, const char *name, const struct stream_info *info, const struct batch *batch,
		       struct err *err)
{
	char digest[HASH_HEX_BYTES], version[HASH_HEX_BYTES], epoch[NUMBER_BYTES], step[NUMBER_BYTES], seed[NUMBER_BYTES];
	const struct tensor_metadata metadata[] = {
		{ "dataset", name }, { "split", o->stream.split }, { "version", version }, { "digest", digest },
		{ "epoch", epoch }, { "step", step }, { "seed", seed }, { "vocab", info->vocab_name },
	};
	char samples[64], tokens[64];
	struct tensors tensors = { 0 };
	int code = make_tensors(&tensors, batch, o->stream.size, info->label_count > 0, err);

	hash_to_hex(&batch->digest, digest);
	hash_to_hex(&info->version, version);
	snprintf(epoch, sizeof(epoch), "%llu", (unsigned long long)batch->epoch);
	snprintf(step, sizeof(step), "%llu", (unsigned long long)batch->step);
	snprintf(seed, sizeof(seed), "%lld", (long long)o->stream.seed);
	if (code == 0)
		code = tensorfile_write(o->out, tensors.views, tensors.count, metadata, (int)ARRAY_LEN(metadata), err);
	if (code == 0)
		printf("%s: %s, %s, digest %s\n", o->out, prepctl_count(samples, batch->count, "sample"),
		       prepctl_count(tokens, batch->token_count, "token"), digest);
	free_tensors(&tensors);
	return code;
}

static int run(const struct options *o, const char *name, struct err *err)
{
	struct stream *stream;
	struct batch batch;
	bool got = false;
	int code = stream_flags_open(&o->stream, name, "batch", 1, 0, &stream, err);

	if (code != 0)
		return code;
	code = stream_seek(stream, (uint64_t)o->stream.epoch, (uint64_t)o->step, err);
	if (code == 0)
		code = stream_next(stream, &batch, &got, err);
	if (code == 0 && (!got || batch.count == 0))
		code = err_set(err, ERR_MISMATCH, "rank %lld has no samples in this batch", (long long)o->stream.rank);
	if (code == 0)
		code = write_batch(o, name, stream_info(stream), &batch, err);
	stream_close(stream);
	return code;
}

int prepctl_batch(int argc, char *const argv[], struct err *err)
{
	struct options options = { .stream = STREAM_FLAGS_INIT };
	struct args_result result;
	int code = parse(argc, argv, &options, &result, err);

	if (code != 0 || result.help)
		return code;
	return run(&options, result.operands[0], err);
}
