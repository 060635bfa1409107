/* Features of frozen encoders: read in pieces of a sealed memfd, and put by who may. */
#include <string.h>
#include <unistd.h>

#include "preprocessd/pipeline/features.h"
#include "preprocessd/serve/request_parts.h"
#include "shared/base/mem.h"

static int read_features_of(const Wire__Features *request, struct features_of *out, struct hash *version, struct err *err)
{
	if (request == NULL || request->encoder.len != HASH_BYTES || (!request->captions && request->transform == NULL) ||
	    (request->expect_version.len != 0 && request->expect_version.len != HASH_BYTES))
		return err_set(err, ERR_PROTOCOL, "features without an encoder's hash of 32 bytes, or without a transform");
	*out = (struct features_of){
		.dataset = request->dataset, .split = request->split, .captions = request->captions, .vocab = request->vocab,
		.max_len = request->max_len, .width = request->width,
	};
	memcpy(out->encoder.bytes, request->encoder.data, HASH_BYTES);
	if (request->transform != NULL) {
		out->image_size = request->transform->size;
		out->exif_apply = request->transform->exif_apply;
	}
	if (request->expect_version.len == HASH_BYTES) {
		memcpy(version->bytes, request->expect_version.data, HASH_BYTES);
		out->expect_version = version;
	}
	return 0;
}

int request_get_features(struct worker *worker, struct control *control, struct err *err)
{
	const Wire__GetFeatures *request = control->request->get_features;
	Wire__FeaturesFound body = WIRE__FEATURES_FOUND__INIT;
	struct features_found found;
	struct features_of of;
	struct hash version;
	int code = read_features_of(request->of, &of, &version, err);

	if (code != 0 || (code = features_get(worker, &of, request->first, request->count, &found, err)) != 0)
		return code;
	body.rows = found.rows;
	body.count = found.count;
	body.found = found.found;
	body.bytes = found.bytes;
	body.fingerprint = wire_bytes(found.fingerprint.bytes, HASH_BYTES);
	code = request_pack(control, WIRE__REPLY__BODY_FEATURES_FOUND, &body, err);
	if (code == 0)
		control->fd = found.fd;
	else
		close(found.fd);
	return code;
}

void request_get_features_then(struct control *control)
{
	if (control->connection->closing) {
		close(control->fd);
		return;
	}
	request_reply_with(control, control->fd);
}

/* The connection is the request's alone for as long as it is under way. */
static int flush_features(struct worker *worker, struct connection *connection, struct err *err)
{
	uint64_t before = connection->put_failures;

	cache_flush(worker->pipeline->cache);
	connection->put_failures = counter_get(&worker->pipeline->put_failures);
	return prepare_puts_failed(worker->pipeline, before, err) ? err->code : 0;
}

int request_put_features(struct worker *worker, struct control *control, struct err *err)
{
	const Wire__PutFeatures *request = control->request->put_features;
	Wire__FeaturesKept kept = WIRE__FEATURES_KEPT__INIT;
	struct features_of of;
	struct hash version;
	float *values = NULL;
	int code = read_features_of(request->of, &of, &version, err);

	if (code != 0)
		return code;
	if (request->values.len != (uint64_t)request->n_rows * of.width * sizeof(float))
		return err_set(err, ERR_PROTOCOL, "%zu rows of %u features in %zu bytes", request->n_rows, of.width, request->values.len);
	if (request->n_rows > 0) {
		/* protobuf-c's bytes lie where malloc put them, but nobody promised that they are aligned. */
		values = mem_alloc(request->values.len);
		if (values == NULL)
			return err_nomem(err, request->values.len);
		memcpy(values, request->values.data, request->values.len);
		code = features_put(worker, &of, request->rows, (uint32_t)request->n_rows, values, &kept.kept, err);
		mem_free(values);
	}
	if (code == 0 && request->flush)
		code = flush_features(worker, control->connection, err);
	return code != 0 ? code : request_pack(control, WIRE__REPLY__BODY_FEATURES_KEPT, &kept, err);
}
