#include "trainer/client/feed.h"

#include "shared/base/mem.h"

enum { FEED_SLOTS = 4, TOKENS_MIN = 2 };

struct feed {
	struct stream *stream;
	struct batch batch;
	bool held, training;
	uint32_t batch_size, max_len;
};

/* The most samples of a batch: those of the part where it has fewer than were asked for. Training takes each picture once. */
static uint32_t batch_most(const struct stream_info *info, uint32_t batch_size, bool training)
{
	uint32_t all = training ? info->picture_count : info->caption_count;

	return all < batch_size ? all : batch_size;
}

int feed_open(struct feed **out, const struct feed_options *options, struct err *err)
{
	struct stream_options stream;
	struct feed *feed = mem_zalloc(sizeof(*feed));
	int code;

	*out = NULL;
	if (feed == NULL)
		return err_nomem(err, sizeof(*feed));
	stream_options_init(&stream);
	stream.socket = options->socket;
	stream.client_name = options->client_name;
	stream.dataset = options->dataset;
	stream.split = options->split;
	stream.vocab = options->vocab;
	stream.training = options->training;
	stream.seed = options->seed;
	stream.batch_size = options->batch_size;
	stream.image_size = options->image_size;
	stream.exif_apply = options->exif_apply;
	stream.max_len = options->max_len;
	stream.dtype = options->no_pixels ? PIXEL_NONE : PIXEL_F32;
	stream.layout = PIXEL_NHWC; /* what the image tower works on */
	stream.slots = FEED_SLOTS;
	stream.cancelled = options->cancelled;
	stream.cancel_context = options->cancel_context;
	feed->training = options->training;
	feed->max_len = options->max_len;
	if ((code = stream_open(&feed->stream, &stream, err)) != 0) {
		feed_close(feed);
		return code;
	}
	feed->batch_size = batch_most(feed_info(feed), options->batch_size, options->training);
	*out = feed;
	return 0;
}

void feed_release(struct feed *feed)
{
	if (feed->held)
		stream_release(feed->stream, &feed->batch);
	feed->held = false;
}

void feed_close(struct feed *feed)
{
	if (feed == NULL)
		return;
	feed_release(feed);
	stream_close(feed->stream);
	mem_free(feed);
}

const struct stream_info *feed_info(const struct feed *feed)
{
	return stream_info(feed->stream);
}

int feed_seek(struct feed *feed, uint64_t epoch, uint64_t step, struct err *err)
{
	feed_release(feed);
	return stream_seek(feed->stream, epoch, step, err);
}

int feed_next(struct feed *feed, const struct batch **out, struct err *err)
{
	bool got;
	int code;

	*out = NULL;
	feed_release(feed);
	if ((code = stream_next(feed->stream, &feed->batch, &got, err)) != 0 || !got)
		return code;
	feed->held = true;
	if ((code = feed_check(&feed->batch, feed_info(feed), feed->batch_size, feed->max_len, feed->training, err)) != 0)
		return code;
	*out = &feed->batch;
	return 0;
}

double feed_wait_seconds(const struct feed *feed)
{
	return stream_wait_seconds(feed->stream);
}

bool feed_nhwc(const struct feed *feed)
{
	(void)feed;
	return true;
}

void feed_chain(struct hash *chain, const struct hash *digest)
{
	struct hash link[2] = { *chain, *digest };

	hash_bytes(chain, link, sizeof(link));
}

/* ---- checks ---- */

static int bad(const struct batch *batch, struct err *err, const char *what)
{
	return err_set(err, ERR_PROTOCOL, "the batch of epoch %llu, step %llu has %s; preprocessd and trainer do not fit together",
		       (unsigned long long)batch->epoch, (unsigned long long)batch->step, what);
}

static int check_sizes(const struct batch *b, uint32_t batch_size, struct err *err)
{
	if (b->count == 0 || b->count > batch_size)
		return bad(b, err, "an impossible number of samples");
	if (b->image_count == 0 || b->image_count > b->count)
		return bad(b, err, "an impossible number of pictures");
	if (b->pixels == NULL || b->image_index == NULL || b->ids == NULL || b->offsets == NULL || b->pictures == NULL ||
	    b->labels == NULL || b->sample_ids == NULL)
		return bad(b, err, "a part missing");
	return 0;
}

int feed_check(const struct batch *b, const struct stream_info *info, uint32_t batch_size, uint32_t max_len, bool training,
	       struct err *err)
{
	int code = check_sizes(b, batch_size, err);

	if (code != 0)
		return code;
	if (b->offsets[0] != 0 || b->offsets[b->count] != b->token_count)
		return bad(b, err, "token offsets that do not add up");
	for (uint32_t i = 0; i < b->count; i++) {
		uint32_t from = b->offsets[i], to = b->offsets[i + 1];

		if (to < from || to - from < TOKENS_MIN || to - from > max_len)
			return bad(b, err, "a caption of impossible length");
		if (b->image_index[i] >= b->image_count)
			return bad(b, err, "a sample without its picture");
		if (b->pictures[i] >= info->picture_count)
			return bad(b, err, "a picture that its part does not have");
		if (b->labels[i] >= (int32_t)info->label_count && b->labels[i] >= 0)
			return bad(b, err, "a label that the data set does not have");
		if (!training && (b->wrong_pictures == NULL || (b->wrong_pictures[i] != UINT32_MAX &&
								b->wrong_pictures[i] >= info->picture_count)))
			return bad(b, err, "a wrong picture that its part does not have");
	}
	for (uint32_t k = 0; k < b->token_count; k++)
		if (b->ids[k] < 0 || (uint32_t)b->ids[k] >= info->vocab_size)
			return bad(b, err, "a token beyond the vocabulary");
	return 0;
}
