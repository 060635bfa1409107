/* A stream is opened, and its batches are announced. */
#include <stdio.h>
#include <string.h>

#include "preprocessd/serve/request_parts.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

static int read_options(const Wire__OpenStream *request, struct feed_options *out, struct hash *version, struct err *err)
{
	if (request->transform == NULL || request->n_mean != 3 || request->n_std != 3)
		return err_set(err, ERR_PROTOCOL, "OpenStream without a transform, or without 3 values each of mean and std");
	if (request->expect_version.len != 0 && request->expect_version.len != HASH_BYTES)
		return err_set(err, ERR_PROTOCOL, "OpenStream with a version of %zu bytes", request->expect_version.len);
	bool is_float = request->dtype == WIRE__PIXEL_TYPE__F32, none = request->dtype == WIRE__PIXEL_TYPE__NONE;
	bool nchw = request->layout == WIRE__PIXEL_LAYOUT__NCHW;
	if ((!is_float && !none && request->dtype != WIRE__PIXEL_TYPE__U8) || (!nchw && request->layout != WIRE__PIXEL_LAYOUT__NHWC))
		return err_set(err, ERR_UNSUPPORTED, "OpenStream with a data type or layout that this preprocessd does not know");
	*out = (struct feed_options){
		.dataset = request->dataset, .split = request->split, .vocab = request->vocab, .training = request->training,
		.seed = request->seed, .batch_size = request->batch_size, .world = request->world, .rank = request->rank,
		.image_size = request->transform->size, .exif_apply = request->transform->exif_apply,
		.pixels = none ? FEED_NO_PIXELS : is_float ? (nchw ? FEED_F32_NCHW : FEED_F32_NHWC) : (nchw ? FEED_U8_NCHW : FEED_U8_NHWC),
		.max_len = request->max_len, .slots = request->slots,
	};
	memcpy(out->mean, request->mean, sizeof(out->mean));
	memcpy(out->std, request->std, sizeof(out->std));
	if (request->expect_version.len == HASH_BYTES) {
		memcpy(version->bytes, request->expect_version.data, HASH_BYTES);
		out->expect_version = version;
	}
	return 0;
}

static int pack_opened(struct control *control, struct err *err)
{
	struct feed_info info = *feed_info(control->feed);
	const struct vocab *vocab = feed_vocab(control->feed);
	const struct manifest *manifest = feed_manifest(control->feed);
	Wire__StreamOpened opened = WIRE__STREAM_OPENED__INIT;
	ProtobufCBinaryData *labels = mem_array(manifest->label_count, sizeof(*labels));

	if (labels == NULL)
		return err_nomem(err, manifest->label_count * sizeof(*labels));
	for (uint32_t l = 0; l < manifest->label_count; l++)
		labels[l] = wire_string(manifest->label_name[l]);
	opened.version = wire_bytes(info.version.bytes, HASH_BYTES);
	opened.transform = wire_bytes(info.transform.bytes, HASH_BYTES);
	opened.vocab = wire_bytes(info.vocab.bytes, HASH_BYTES);
	opened.pictures = info.picture_count;
	opened.captions = info.caption_count;
	opened.steps = info.steps;
	opened.vocab_size = (uint32_t)vocab_size(vocab);
	opened.cls_id = vocab_id_cls(vocab);
	opened.sep_id = vocab_id_sep(vocab);
	opened.pad_id = vocab_id_pad(vocab);
	opened.unk_id = vocab_id_unk(vocab);
	opened.n_labels = manifest->label_count;
	opened.labels = labels;
	opened.vocab_name = info.vocab_name;
	opened.slot_bytes = info.slot_bytes;
	opened.slots = info.slots;
	opened.pool_bytes = info.pool_bytes;
	int code = request_pack(control, WIRE__REPLY__BODY_STREAM_OPENED, &opened, err);
	mem_free(labels);
	return code;
}

int request_open(struct worker *worker, struct control *control, struct err *err)
{
	struct feed_options options;
	struct hash version;
	int code = read_options(control->request->open_stream, &options, &version, err);

	if (code == 0)
		code = feed_open(&control->feed, worker, &options, err);
	if (code != 0)
		return code;
	code = pack_opened(control, err);
	if (code != 0) {
		feed_close(control->feed);
		control->feed = NULL;
	}
	return code;
}

static void batch_ready(void *context, const struct feed_result *result)
{
	struct connection *connection = context;
	Wire__BatchReady ready = WIRE__BATCH_READY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;

	if (result->code != 0) {
		log_warn("client %s (pid %u), epoch %llu step %llu: %s", connection->name, connection->pid,
			 (unsigned long long)result->epoch, (unsigned long long)result->step, result->err->message);
		connection_reply_error(connection, result->request_id, result->err);
	} else {
		ready.slot = result->slot;
		ready.generation = result->generation;
		ready.epoch = result->epoch;
		ready.step = result->step;
		ready.digest = wire_bytes(result->digest->bytes, HASH_BYTES);
		ready.count = result->count;
		ready.image_count = result->image_count;
		ready.token_count = result->token_count;
		reply.id = result->request_id;
		reply.body_case = WIRE__REPLY__BODY_BATCH_READY;
		reply.batch_ready = &ready;
		connection->batches++;
		connection_reply(connection, &reply);
	}
	connection_settle(connection);
}

void request_open_then(struct control *control)
{
	struct connection *connection = control->connection;
	const Wire__OpenStream *request = control->request->open_stream;

	if (connection->closing) {
		feed_close(control->feed);
		return;
	}
	connection->feed = control->feed;
	feed_start(connection->feed, batch_ready, connection);
	snprintf(connection->doing, sizeof(connection->doing), "%s %.*s %.*s, %u px, batches of %u",
		 request->training ? "training on" : "evaluating", MANIFEST_NAME_BYTES_MAX, request->dataset,
		 MANIFEST_NAME_BYTES_MAX, request->split, request->transform->size, request->batch_size);
	request_reply_with(control, feed_take_fd(connection->feed));
}
