/*
 * request.c - what each request does.
 *
 * ReadBatch goes to the feed at once. Everything else is a control: it runs on
 * a worker (or a thread of its own) with its own copy of the request, packs
 * its reply there, and comes back to the loop, which sends it.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "preprocessd/pipeline/describe.h"
#include "preprocessd/pipeline/features.h"
#include "preprocessd/serve/internal.h"
#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

void control_free(struct control *control)
{
	wire__request__free_unpacked(control->request, NULL);
	buf_free(&control->reply);
	mem_free(control);
}

/* The control's work has ended: its reply goes out, and the connection is free for the next. */
static void control_done(struct completion *completion)
{
	struct control *control = (struct control *)(void *)((char *)completion - offsetof(struct control, completion));
	struct connection *connection = control->connection;

	connection->control = NULL;
	connection->doing[0] = '\0';
	if (control->code != 0)
		connection_reply_error(connection, control->request->id, &control->err);
	else if (control->reply.size > 0 && control->then == NULL)
		connection_send_frame(connection, &control->reply);
	else
		control->then(control);
	control_free(control);
	connection_settle(connection);
}

static void control_run(struct worker *worker, struct pool_job *job)
{
	struct control *control = (struct control *)(void *)job;
	struct pipeline *pipeline = worker->pipeline;

	control->code = control->work(worker, control, &control->err);
	pipeline->post(pipeline->post_context, &control->completion);
}

static int pack_reply(struct control *control, Wire__Reply__BodyCase kind, void *body, struct err *err)
{
	Wire__Reply reply = WIRE__REPLY__INIT;

	reply.id = control->request->id;
	reply.body_case = kind;
	reply.done = body; /* the members of the oneof are pointers in one place */
	return frame_append(&control->reply, &reply.base, err);
}

/* --- data sets ----------------------------------------------------------------------------- */

static int use_list(void *context, Wire__DatasetList *list, struct err *err)
{
	return pack_reply(context, WIRE__REPLY__BODY_DATASETS, list, err);
}

static int work_list(struct worker *worker, struct control *control, struct err *err)
{
	return describe_datasets(worker->reader, use_list, control, err);
}

static int use_detail(void *context, Wire__DatasetDetail *detail, struct err *err)
{
	return pack_reply(context, WIRE__REPLY__BODY_DETAIL, detail, err);
}

static int work_show(struct worker *worker, struct control *control, struct err *err)
{
	return describe_dataset(worker->pipeline->catalog, worker->reader, control->request->show_dataset->name, use_detail,
				control, err);
}

static int use_failures(void *context, Wire__FailureList *list, struct err *err)
{
	return pack_reply(context, WIRE__REPLY__BODY_FAILURES, list, err);
}

static int work_failures(struct worker *worker, struct control *control, struct err *err)
{
	const Wire__ListFailures *request = control->request->list_failures;

	return describe_failures(worker->reader, request->name, request->first, use_failures, control, err);
}

static int use_samples(void *context, Wire__SampleList *list, struct err *err)
{
	return pack_reply(context, WIRE__REPLY__BODY_SAMPLES, list, err);
}

static int work_samples(struct worker *worker, struct control *control, struct err *err)
{
	return describe_samples(worker->pipeline->catalog, worker->reader, control->request->describe_samples, use_samples, control,
				err);
}

/* Only the name goes: the manifest may be another name's too, and pictures are
 * shared; what nothing refers to any more is for gc. */
static int work_remove(struct worker *worker, struct control *control, struct err *err)
{
	const char *name = control->request->remove_dataset->name;
	Wire__Done done = WIRE__DONE__INIT;
	Records__DatasetRecord *record;
	struct cache_change change = { .payload = NULL };
	int code = catalog_record(worker->reader, name, &record, err);

	if (code != 0 && code != ERR_CORRUPT)
		return code;
	if (code == 0)
		records__dataset_record__free_unpacked(record, NULL);
	if ((code = cache_key_name(&change.key, CACHE_DATASET, name, err)) != 0 ||
	    (code = cache_apply(worker->pipeline->cache, &change, 1, err)) != 0)
		return err_prefix(err, "data set %s", name);
	log_info("removed data set %s", name);
	return pack_reply(control, WIRE__REPLY__BODY_DONE, &done, err);
}

/* --- what is where, and why ---------------------------------------------------------------------- */

static int work_explain(struct worker *worker, struct control *control, struct err *err)
{
	const Wire__ExplainPicture *request = control->request->explain_picture;
	Wire__ExplainReply explained = WIRE__EXPLAIN_REPLY__INIT;
	ProtobufCBinaryData features[FEATURES_EXPLAINED];
	struct hash fingerprints[FEATURES_EXPLAINED];
	struct prepare_explained found;
	char *others[PREPARE_OTHERS_MAX];
	size_t count = 0;
	int code;

	if (request->transform == NULL || request->path.len == 0)
		return err_set(err, ERR_PROTOCOL, "ExplainPicture without a path or a transform");
	char *path = mem_strndup((const char *)request->path.data, request->path.len);
	if (path == NULL)
		return err_nomem(err, request->path.len);
	struct picture_settings settings;
	code = picture_settings_init(&settings, request->transform->size, request->transform->exif_apply, err);
	if (code == 0)
		code = prepare_explain(worker, &settings, path, &control->connection->rights, &found, err);
	mem_free(path);
	if (code == 0)
		code = features_explain(worker, &found.content, fingerprints, &count, err);
	if (code != 0)
		return code;
	for (size_t i = 0; i < count; i++)
		features[i] = wire_bytes(fingerprints[i].bytes, HASH_BYTES);
	explained.n_features = count;
	explained.features = features;
	char reason[ERR_MESSAGE_BYTES];
	explained.content = wire_bytes(found.content.bytes, HASH_BYTES);
	explained.fingerprint = wire_bytes(settings.fingerprint.bytes, HASH_BYTES);
	explained.settings = found.settings;
	explained.found = found.found;
	for (size_t i = 0; i < found.other_count; i++)
		others[i] = found.others[i];
	explained.n_others = found.other_count;
	explained.others = others;
	explained.failure = wire_text(reason, sizeof(reason), found.failure.message, strlen(found.failure.message));
	return pack_reply(control, WIRE__REPLY__BODY_EXPLAINED, &explained, err);
}

/* --- features ------------------------------------------------------------------------------------ */

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

static int work_get_features(struct worker *worker, struct control *control, struct err *err)
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
	code = pack_reply(control, WIRE__REPLY__BODY_FEATURES_FOUND, &body, err);
	if (code == 0)
		control->fd = found.fd;
	else
		close(found.fd);
	return code;
}

/* The reply with its descriptor, in the way of a stream that was opened. */
static void then_get_features(struct control *control)
{
	struct connection *connection = control->connection;
	struct buf swap;

	if (connection->closing) {
		close(control->fd);
		return;
	}
	swap = connection->opened;
	connection->opened = control->reply;
	control->reply = swap;
	connection->opened_fd = control->fd;
	connection_send_opened(connection);
}

/* The connection is the request's alone for as long as it is under way. */
static int flush_features(struct worker *worker, struct connection *connection, struct err *err)
{
	uint64_t before = connection->put_failures;

	cache_flush(worker->pipeline->cache);
	connection->put_failures = counter_get(&worker->pipeline->put_failures);
	return prepare_puts_failed(worker->pipeline, before, err) ? err->code : 0;
}

static int work_put_features(struct worker *worker, struct control *control, struct err *err)
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
	return code != 0 ? code : pack_reply(control, WIRE__REPLY__BODY_FEATURES_KEPT, &kept, err);
}

/* --- status ----------------------------------------------------------------------------------------- */

static int work_status(struct worker *worker, struct control *control, struct err *err)
{
	return describe_count(worker->reader, CACHE_DATASET, &control->datasets, err);
}

static void fill_counters(Wire__Counters *out, struct counters *counters)
{
	out->decoded = counter_get(&counters->decoded);
	out->tokenized = counter_get(&counters->tokenized);
	out->hits = counter_get(&counters->hits);
	out->misses = counter_get(&counters->misses);
	out->caption_hits = counter_get(&counters->caption_hits);
	out->caption_misses = counter_get(&counters->caption_misses);
	out->joins = counter_get(&counters->joins);
	out->remade = counter_get(&counters->remade);
	out->failures = counter_get(&counters->failures);
	out->source_bytes = counter_get(&counters->source_bytes);
	out->batches = counter_get(&counters->batches);
	out->batch_bytes = counter_get(&counters->batch_bytes);
	out->feature_hits = counter_get(&counters->feature_hits);
	out->feature_misses = counter_get(&counters->feature_misses);
	out->features_kept = counter_get(&counters->features_kept);
}

/* All but the one who asks. */
static size_t fill_clients(const struct connection *asking, Wire__ClientStatus *clients, Wire__ClientStatus **pointers)
{
	size_t count = 0;
	double now = clock_seconds();

	for (struct connection *c = asking->server->connections; c != NULL && count < SERVER_CLIENTS_MAX; c = c->next) {
		Wire__ClientStatus *client = &clients[count];

		if (!c->greeted || c->closing || c == asking)
			continue;
		wire__client_status__init(client);
		client->name = c->name;
		client->pid = c->pid;
		client->doing = c->doing;
		client->batches = c->batches;
		client->connected_s = now - c->since_s;
		pointers[count++] = client;
	}
	return count;
}

static void then_status(struct control *control)
{
	struct server *server = control->connection->server;
	Wire__ClientStatus clients[SERVER_CLIENTS_MAX], *pointers[SERVER_CLIENTS_MAX];
	Wire__Counters counters = WIRE__COUNTERS__INIT;
	Wire__StatusReply status = WIRE__STATUS_REPLY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	struct cache_stats stats;

	cache_stats(server->cache, &stats);
	fill_counters(&counters, &server->pipeline->counters);
	status.pid = (uint32_t)uv_os_getpid();
	status.program = (char *)(uintptr_t)SERVER_PROGRAM;
	status.uptime_s = clock_seconds() - server->start_s;
	status.workers = (uint32_t)pool_workers(server->pipeline->pool);
	status.cache_path = wire_string(server->cache_path);
	status.socket_path = wire_string(server->options->socket);
	status.counters = &counters;
	status.cache_records = stats.records;
	status.cache_file_bytes = stats.file_bytes;
	status.cache_used_bytes = stats.used_bytes;
	status.cache_max_bytes = server->options->max_cache_bytes;
	status.datasets = control->datasets;
	status.n_clients = fill_clients(control->connection, clients, pointers);
	status.clients = pointers;
	reply.id = control->request->id;
	reply.body_case = WIRE__REPLY__BODY_STATUS;
	reply.status = &status;
	connection_reply(control->connection, &reply);
}

/* --- streams ------------------------------------------------------------------------------------------------ */

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
	int code = pack_reply(control, WIRE__REPLY__BODY_STREAM_OPENED, &opened, err);
	mem_free(labels);
	return code;
}

static int work_open(struct worker *worker, struct control *control, struct err *err)
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

static void then_open(struct control *control)
{
	struct connection *connection = control->connection;
	const Wire__OpenStream *request = control->request->open_stream;
	struct buf swap;

	if (connection->closing) {
		feed_close(control->feed);
		return;
	}
	connection->feed = control->feed;
	feed_start(connection->feed, batch_ready, connection);
	snprintf(connection->doing, sizeof(connection->doing), "%s %.*s %.*s, %u px, batches of %u",
		 request->training ? "training on" : "evaluating", MANIFEST_NAME_BYTES_MAX, request->dataset,
		 MANIFEST_NAME_BYTES_MAX, request->split, request->transform->size, request->batch_size);
	swap = connection->opened;
	connection->opened = control->reply;
	control->reply = swap;
	connection->opened_fd = feed_take_fd(connection->feed);
	connection_send_opened(connection);
}

/* --- dispatch --------------------------------------------------------------------------------------------------- */

static void fail_protocol(struct connection *connection, uint64_t id, const char *what)
{
	struct err err;

	err_set(&err, ERR_PROTOCOL, "%s", what);
	log_warn("client %s (pid %u) broke the protocol: %s; closing", connection->name, connection->pid, what);
	connection_reply_error(connection, id, &err);
	connection_end(connection);
}

static void read_batch(struct connection *connection, uint64_t id, const Wire__ReadBatch *request)
{
	struct err err;
	int code = feed_read(connection->feed, id, request->epoch, request->step, request->slot, request->generation, &err);

	if (code == ERR_PROTOCOL)
		fail_protocol(connection, id, err.message);
	else if (code != 0)
		connection_reply_error(connection, id, &err);
}

static void greet(struct connection *connection, const Wire__Request *request)
{
	Wire__HelloReply hello = WIRE__HELLO_REPLY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	struct err err;

	if (request->hello->version != WIRE_VERSION) {
		err_set(&err, ERR_MISMATCH, "the client speaks protocol version %u, this preprocessd %d; use programs of the same "
			"release", request->hello->version, WIRE_VERSION);
		connection_reply_error(connection, request->id, &err);
		connection_end(connection);
		return;
	}
	connection->greeted = true;
	uv_timer_stop(&connection->timer);
	wire_text(connection->name, sizeof(connection->name), request->hello->client_name, strlen(request->hello->client_name));
	log_clean(connection->name, strlen(connection->name)); /* it will be printed on terminals */
	hello.version = WIRE_VERSION;
	hello.program = (char *)(uintptr_t)SERVER_PROGRAM;
	hello.pid = (uint32_t)uv_os_getpid();
	hello.cache_path = wire_string(connection->server->cache_path);
	reply.id = request->id;
	reply.body_case = WIRE__REPLY__BODY_HELLO;
	reply.hello = &hello;
	connection_reply(connection, &reply);
}

/* What only the daemon's own user may ask for, and what adders may as well. */
static int check_rights(const struct connection *connection, Wire__Request__VerbCase verb, struct err *err)
{
	bool add = verb == WIRE__REQUEST__VERB_ADD_DATASET || verb == WIRE__REQUEST__VERB_PUT_FEATURES;
	bool owner = verb == WIRE__REQUEST__VERB_REMOVE_DATASET || verb == WIRE__REQUEST__VERB_SHUTDOWN ||
		     verb == WIRE__REQUEST__VERB_VERIFY_CACHE || verb == WIRE__REQUEST__VERB_COLLECT_GARBAGE;

	if ((owner && !connection->rights.all) || (add && !connection->may_add))
		return err_set(err, ERR_UNAVAILABLE, "user %u may not do this here: %s", (unsigned)connection->rights.uid,
			       add ? "adding takes membership in the group of preprocessd --adders" :
				     "it is for the user who runs this preprocessd");
	return 0;
}

static void start_control(struct connection *connection, const Wire__Request *request, const uint8_t *bytes, size_t size)
{
	struct control *control = mem_zalloc(sizeof(*control));
	struct err err;
	int code = 0;

	/* The arena is for the next request; this one may take long. */
	if (control == NULL || (control->request = wire__request__unpack(NULL, size, bytes)) == NULL) {
		code = err_nomem(&err, size);
		goto out;
	}
	control->connection = connection;
	control->job.run = control_run;
	control->completion.run = control_done;
	switch (request->verb_case) {
	case WIRE__REQUEST__VERB_ADD_DATASET:
		code = task_start_add(connection, control, &err);
		goto out;
	case WIRE__REQUEST__VERB_VERIFY_CACHE:
	case WIRE__REQUEST__VERB_COLLECT_GARBAGE:
		code = task_start_upkeep(connection, control, &err);
		goto out;
	case WIRE__REQUEST__VERB_LIST_DATASETS:
		control->work = work_list;
		break;
	case WIRE__REQUEST__VERB_SHOW_DATASET:
		control->work = work_show;
		break;
	case WIRE__REQUEST__VERB_LIST_FAILURES:
		control->work = work_failures;
		break;
	case WIRE__REQUEST__VERB_STATUS:
		control->work = work_status;
		control->then = then_status;
		break;
	case WIRE__REQUEST__VERB_REMOVE_DATASET:
		control->work = work_remove;
		break;
	case WIRE__REQUEST__VERB_OPEN_STREAM:
		control->work = work_open;
		control->then = then_open;
		break;
	case WIRE__REQUEST__VERB_GET_FEATURES:
		control->work = work_get_features;
		control->then = then_get_features;
		break;
	case WIRE__REQUEST__VERB_PUT_FEATURES:
		control->work = work_put_features;
		break;
	case WIRE__REQUEST__VERB_EXPLAIN_PICTURE:
		control->work = work_explain;
		break;
	case WIRE__REQUEST__VERB_DESCRIBE_SAMPLES:
		control->work = work_samples;
		break;
	default:
		code = err_set(&err, ERR_UNSUPPORTED, "a request of kind %d, which this preprocessd does not know",
			       (int)request->verb_case);
		goto out;
	}
	connection->control = control;
	pool_submit(connection->server->pipeline->pool, &control->job, POOL_CONTROL);
out:
	if (code == 0)
		return;
	connection_reply_error(connection, request->id, &err);
	if (control != NULL)
		control_free(control);
}

static void shut_down(struct connection *connection, const Wire__Request *request)
{
	Wire__Done done = WIRE__DONE__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	char why[WIRE_CLIENT_NAME_BYTES_MAX + 32];

	reply.id = request->id;
	reply.body_case = WIRE__REPLY__BODY_DONE;
	reply.done = &done;
	connection_reply(connection, &reply);
	snprintf(why, sizeof(why), "asked by pid %u", connection->pid);
	server_drain(connection->server, why);
}

void request_handle(struct connection *connection, const Wire__Request *request, const uint8_t *bytes, size_t size)
{
	struct err err;

	if (!connection->greeted) {
		if (request->verb_case == WIRE__REQUEST__VERB_HELLO)
			greet(connection, request);
		else
			fail_protocol(connection, request->id, "the first request was not Hello");
	} else if (connection->control != NULL || connection->opened_fd >= 0) {
		fail_protocol(connection, request->id, "a request while another was under way");
	} else if (connection->server->draining) {
		err_set(&err, ERR_UNAVAILABLE, "preprocessd is shutting down");
		connection_reply_error(connection, request->id, &err);
		connection_settle(connection);
	} else if (connection->feed != NULL) {
		if (request->verb_case == WIRE__REQUEST__VERB_READ_BATCH)
			read_batch(connection, request->id, request->read_batch);
		else
			fail_protocol(connection, request->id, "a stream takes nothing but ReadBatch");
	} else if (request->verb_case == WIRE__REQUEST__VERB_READ_BATCH) {
		fail_protocol(connection, request->id, "ReadBatch before OpenStream");
	} else if (request->verb_case == WIRE__REQUEST__VERB_HELLO) {
		fail_protocol(connection, request->id, "Hello twice");
	} else if (check_rights(connection, request->verb_case, &err) != 0) {
		connection_reply_error(connection, request->id, &err);
	} else if (request->verb_case == WIRE__REQUEST__VERB_SHUTDOWN) {
		shut_down(connection, request);
	} else {
		start_control(connection, request, bytes, size);
	}
}
