/*
 * How fast a client gets prepared batches from a running daemon, beside one
 * memcpy of the same bytes in the same run. Started by bench_pipeline.py:
 *
 *     bench_stream --socket PATH --data NAME [--split S] [--batch-size N] [--seconds X] [--dtype f32|u8] [--layout nchw|nhwc]
 *
 * Prints one JSON object. The memcpy is of one batch's worth, over and over, from as many buffers as a stream has slots; for uint8 also of a
 * larger split's worth, batch by batch. The consumer touches nothing but the batch's first
 * and last pixel: this measures delivery, not what a client does with it.
 *
 * With --random N it asks for N batches of random epochs and steps instead, one
 * at a time with nothing read ahead, and prints what each of them took.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/args.h"
#include "shared/base/clock.h"
#include "shared/base/mem.h"
#include "shared/base/paths.h"
#include "shared/base/rng.h"
#include "shared/client/client.h"

enum { RANDOM_MAX = 100000, RANDOM_EPOCHS = 1000, RANDOM_STREAM = 77 };
enum { SLOTS = 4 }; /* a stream's, usually */

struct bench {
	const char *socket, *data, *split, *dtype, *layout;
	int64_t batch_size, image_size, random;
	double seconds;
};

struct measured {
	double first_s, seconds;
	uint64_t pictures, bytes, batches;
};

static size_t pixel_bytes(const struct bench *bench, const struct batch *batch)
{
	size_t side = (size_t)bench->image_size;

	return (size_t)batch->image_count * 3 * side * side * (strcmp(bench->dtype, "u8") == 0 ? 1 : 4);
}

static int read_batches(const struct bench *bench, struct stream *stream, double opened, struct measured *out, struct err *err)
{
	double until = 0.0, started = 0.0;
	volatile unsigned char touched;
	int rc = 0;

	*out = (struct measured){ 0 };
	while (rc == 0) {
		struct batch batch;
		bool got;

		rc = stream_next(stream, &batch, &got, err);
		if (rc != 0 || !got)
			break;
		const unsigned char *pixels = batch.pixels;
		double now = clock_seconds();

		touched = pixels[0];
		touched = pixels[pixel_bytes(bench, &batch) - 1];
		(void)touched;
		if (started == 0.0) {
			/* The first batch is the latency; the rate counts from here. */
			out->first_s = now - opened;
			started = now;
			until = now + bench->seconds;
		} else {
			out->pictures += batch.count;
			out->bytes += pixel_bytes(bench, &batch);
			out->batches++;
		}
		stream_release(stream, &batch);
		if (now > until && out->batches > 0)
			break;
	}
	out->seconds = clock_seconds() - started;
	return rc;
}

/* Bytes a second of copying batches of so many bytes to one place, from `count` buffers in turns; 0: no memory. */
static double memcpy_rate(size_t bytes, size_t count)
{
	enum { COPIES_MIN = 24 };
	size_t copies = (COPIES_MIN + count - 1) / count * count; /* of each buffer as many */
	unsigned char *from = mem_aligned(bytes * count), *to = mem_aligned(bytes);
	double started, rate = 0.0;

	if (from == NULL || to == NULL)
		goto out;
	memset(from, 1, bytes * count);
	memset(to, 0, bytes);
	started = clock_seconds();
	for (size_t i = 0; i < copies; i++) {
		memcpy(to, from + i % count * bytes, bytes);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	rate = (double)bytes * (double)copies / (clock_seconds() - started);
out:
	mem_free(from);
	mem_free(to);
	return rate;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* One batch of a random place: asked for, waited for, given back. */
static int random_batch(struct stream *stream, int64_t number, double *seconds, struct err *err)
{
	struct rng_block block = rng_philox(rng_key(0, RANDOM_STREAM), (uint32_t)number, 0, 0, 0);
	double started = clock_seconds();
	struct batch batch;
	bool got;
	int rc = stream_seek(stream, block.v[0] % RANDOM_EPOCHS, block.v[1] % stream_info(stream)->steps, err);

	if (rc == 0)
		rc = stream_next(stream, &batch, &got, err);
	if (rc == 0)
		stream_release(stream, &batch);
	*seconds = clock_seconds() - started;
	return rc;
}

static int measure_random(const struct bench *bench, struct stream *stream, double opened, struct err *err)
{
	double *seconds = mem_array((size_t)bench->random, sizeof(*seconds)), first = 0;
	int rc = seconds == NULL ? err_nomem(err, (size_t)bench->random * sizeof(*seconds)) : random_batch(stream, RANDOM_MAX, &first, err);

	first = clock_seconds() - opened;
	for (int64_t i = 0; i < bench->random && rc == 0; i++)
		rc = random_batch(stream, i, &seconds[i], err);
	if (rc == 0) {
		qsort(seconds, (size_t)bench->random, sizeof(*seconds), by_size);
		printf("{\"first_batch_s\": %.6f, \"batches\": %lld, \"low_s\": %.6f, \"median_s\": %.6f, \"p95_s\": %.6f}\n", first,
		       (long long)bench->random, seconds[bench->random / 20], seconds[bench->random / 2], seconds[bench->random * 95 / 100]);
	}
	mem_free(seconds);
	return rc;
}

static int measure_flow(const struct bench *bench, struct stream *stream, double opened, struct err *err)
{
	struct measured measured;
	int rc = stream_seek(stream, 0, 0, err);

	if (rc == 0)
		rc = read_batches(bench, stream, opened, &measured, err);
	if (rc != 0)
		return rc;
	size_t batch = (size_t)(measured.bytes / measured.batches), batches = (size_t)stream_info(stream)->steps;

	printf("{\"first_batch_s\": %.6f, \"pictures_per_s\": %.1f, \"bytes_per_s\": %.0f, \"memcpy_bytes_per_s\": %.0f", measured.first_s,
	       (double)measured.pictures / measured.seconds, (double)measured.bytes / measured.seconds, memcpy_rate(batch, SLOTS));
	/* More than the slots' worth may not fit the processor's cache. Only the bytes of uint8 are the records' own. */
	if (strcmp(bench->dtype, "u8") == 0 && batches > SLOTS)
		printf(", \"memcpy_split_bytes_per_s\": %.0f", memcpy_rate(batch, batches));
	printf("}\n");
	return 0;
}

static int measure(const struct bench *bench, struct err *err)
{
	struct stream_options options;
	struct stream *stream = NULL;
	char *socket = NULL;
	int rc = paths_socket(&socket, bench->socket, false, err);

	if (rc != 0)
		return rc;
	stream_options_init(&options);
	options.socket = socket;
	options.client_name = "bench_stream";
	options.dataset = bench->data;
	options.split = bench->split;
	options.training = true;
	options.batch_size = (uint32_t)bench->batch_size;
	options.image_size = (uint32_t)bench->image_size;
	options.dtype = strcmp(bench->dtype, "u8") == 0 ? PIXEL_U8 : PIXEL_F32;
	options.layout = strcmp(bench->layout, "nhwc") == 0 ? PIXEL_NHWC : PIXEL_NCHW;
	double opened = clock_seconds();

	if (bench->random > 0)
		options.slots = 1;
	rc = stream_open(&stream, &options, err);
	if (rc == 0)
		rc = bench->random > 0 ? measure_random(bench, stream, opened, err) : measure_flow(bench, stream, opened, err);
	stream_close(stream);
	mem_free(socket);
	return rc;
}

int main(int argc, char *argv[])
{
	struct bench bench = { .split = "train", .dtype = "f32", .layout = "nchw", .batch_size = 64, .image_size = 224, .seconds = 3.0 };
	const struct args_option options[] = {
		{ .name = "socket", .kind = ARGS_TEXT, .value = &bench.socket, .metavar = "PATH", .help = "The daemon's socket." },
		{ .name = "data", .kind = ARGS_TEXT, .value = &bench.data, .metavar = "NAME", .help = "Data set." },
		{ .name = "split", .kind = ARGS_TEXT, .value = &bench.split, .metavar = "S", .help = "Split (default train)." },
		{ .name = "dtype", .kind = ARGS_TEXT, .value = &bench.dtype, .metavar = "T", .help = "f32 (default) or u8." },
		{ .name = "layout", .kind = ARGS_TEXT, .value = &bench.layout, .metavar = "L",
		  .help = "nchw (default), or nhwc, as the trainer reads them." },
		{ .name = "batch-size", .kind = ARGS_INT, .value = &bench.batch_size, .metavar = "N", .min = 1, .max = 4096,
		  .help = "Samples a batch (default 64)." },
		{ .name = "size", .kind = ARGS_INT, .value = &bench.image_size, .metavar = "N", .min = 1, .max = 2048,
		  .help = "Pixels a side (default 224)." },
		{ .name = "seconds", .kind = ARGS_REAL, .value = &bench.seconds, .metavar = "X", .help = "How long (default 3)." },
		{ .name = "random", .kind = ARGS_INT, .value = &bench.random, .metavar = "N", .min = 1, .max = RANDOM_MAX,
		  .help = "Read N batches of random places, one at a time." },
	};
	const struct args_spec spec = {
		.usage = "bench_stream --data NAME [--socket PATH] [options]",
		.description = "Reads training batches as fast as they come and prints the rates.",
		.options = options,
		.option_count = ARRAY_LEN(options),
	};
	struct args_result result;
	struct err err = { 0 };
	int rc = args_parse(&spec, argc - 1, argv + 1, &result, &err);

	if (rc == 0 && result.help) {
		args_print_help(&spec);
		return 0;
	}
	if (rc == 0 && bench.data == NULL)
		rc = err_set(&err, ERR_USAGE, "--data is missing: name a data set (prepctl datasets lists them)");
	if (rc == 0)
		rc = measure(&bench, &err);
	if (rc != 0)
		fprintf(stderr, "bench_stream: %s\n", err.message);
	return err_exit_code(rc);
}
