#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "tools/prepctl/stream_flags.h"

struct options {
	struct stream_flags stream;
	int64_t first, steps, pause_ms, slots;
	bool rate;
};

static int parse(int argc, char *const argv[], struct options *o, struct args_result *result, struct err *err)
{
	const struct args_option table[] = {
		STREAM_FLAGS(&o->stream),
		{ .name = "first", .kind = ARGS_INT, .value = &o->first, .metavar = "K", .min = 0, .max = INT64_MAX,
		  .help = "First batch of the epoch, from 0. Default 0." },
		{ .name = "steps", .kind = ARGS_INT, .value = &o->steps, .metavar = "N", .min = 0, .max = INT64_MAX,
		  .help = "How many batches; --order train goes on with the next epoch. Default 0: to the end of the epoch." },
		{ .name = "pause", .kind = ARGS_INT, .value = &o->pause_ms, .metavar = "MS", .min = 0, .max = 60000,
		  .help = "Wait after each batch, as a trainer would compute. Default 0." },
		{ .name = "slots", .kind = ARGS_INT, .value = &o->slots, .metavar = "N", .min = 1, .max = CLIENT_SLOTS_MAX,
		  .help = "Batches in flight. Default 4." },
		{ .name = "rate", .kind = ARGS_FLAG, .value = &o->rate, .help = "Say at the end how fast they came." },
		PREPCTL_OPTIONS(&o->stream.common),
	};
	const struct args_spec spec = {
		.usage = "prepctl digests NAME --split S --batch-size N --seed S --epoch E [--steps N] [options]",
		.description =
			"Reads batches as a trainer with these settings would, and prints EPOCH STEP DIGEST for each. Equal digests mean\n"
			"equal samples, pixels and tokens, on whatever machine and day. What the cache lacks is prepared on the way, so\n"
			"this also warms it for another picture size. A daemon that goes away is waited for.",
		.options = table, .option_count = (int)ARRAY_LEN(table), .operands_min = 1, .operands_max = 1,
	};
	int code = prepctl_parse(&spec, argc, argv, result, err);

	return code != 0 || result->help ? code : stream_flags_check(&o->stream, err);
}

static void pause_ms(int64_t ms)
{
	if (ms > 0)
		nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static int read_all(const struct options *o, struct stream *stream, struct err *err)
{
	const struct stream_info *info = stream_info(stream);
	int64_t steps = o->steps > 0 ? o->steps : (int64_t)info->steps - o->first;
	uint64_t images = 0, samples = 0;
	double start_s = clock_seconds();
	int code = stream_seek(stream, (uint64_t)o->stream.epoch, (uint64_t)o->first, err);

	for (int64_t i = 0; i < steps && code == 0; i++) {
		char digest[HASH_HEX_BYTES];
		struct batch batch;
		bool got;

		code = stream_next(stream, &batch, &got, err);
		if (code != 0 || !got)
			break;
		hash_to_hex(&batch.digest, digest);
		printf("%llu %llu %s\n", (unsigned long long)batch.epoch, (unsigned long long)batch.step, digest);
		fflush(stdout);
		images += batch.image_count;
		samples += batch.count;
		pause_ms(o->pause_ms);
		stream_release(stream, &batch);
	}
	if (code == 0 && o->rate) {
		double seconds = clock_seconds() - start_s;
		char count[64];
		double bytes = (double)images * 12 * (double)o->stream.size * (double)o->stream.size;

		log_info("%s in %.3f s: %.0f a second, %.2f GB/s of pixels; waited %.3f s", prepctl_count(count, samples, "sample"), seconds,
			 (double)samples / seconds, bytes / seconds * 1e-9, stream_wait_seconds(stream));
	}
	return code;
}

int prepctl_digests(int argc, char *const argv[], struct err *err)
{
	struct options options = { .stream = STREAM_FLAGS_INIT, .slots = 4 };
	struct args_result result;
	struct stream *stream;
	int code = parse(argc, argv, &options, &result, err);

	if (code != 0 || result.help)
		return code;
	code = stream_flags_open(&options.stream, result.operands[0], "digests", (uint32_t)options.slots, 600, &stream, err);
	if (code != 0)
		return code;
	code = read_all(&options, stream, err);
	stream_close(stream);
	return code;
}
