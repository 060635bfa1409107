/* Requests about data sets, and about what the cache knows of a picture. */
#include <string.h>

#include "preprocessd/pipeline/describe.h"
#include "preprocessd/pipeline/features.h"
#include "preprocessd/serve/request_parts.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"

static int use_list(void *context, Wire__DatasetList *list, struct err *err)
{
	return request_pack(context, WIRE__REPLY__BODY_DATASETS, list, err);
}

int request_list(struct worker *worker, struct control *control, struct err *err)
{
	return describe_datasets(worker->reader, use_list, control, err);
}

static int use_detail(void *context, Wire__DatasetDetail *detail, struct err *err)
{
	return request_pack(context, WIRE__REPLY__BODY_DETAIL, detail, err);
}

int request_show(struct worker *worker, struct control *control, struct err *err)
{
	return describe_dataset(worker->pipeline->catalog, worker->reader, control->request->show_dataset->name, use_detail,
				control, err);
}

static int use_failures(void *context, Wire__FailureList *list, struct err *err)
{
	return request_pack(context, WIRE__REPLY__BODY_FAILURES, list, err);
}

int request_failures(struct worker *worker, struct control *control, struct err *err)
{
	const Wire__ListFailures *request = control->request->list_failures;

	return describe_failures(worker->reader, request->name, request->first, use_failures, control, err);
}

static int use_samples(void *context, Wire__SampleList *list, struct err *err)
{
	return request_pack(context, WIRE__REPLY__BODY_SAMPLES, list, err);
}

int request_samples(struct worker *worker, struct control *control, struct err *err)
{
	return describe_samples(worker->pipeline->catalog, worker->reader, control->request->describe_samples, use_samples, control,
				err);
}

/* Only the name goes: the manifest may be another name's too, and pictures are
 * shared; what nothing refers to any more is for gc. */
int request_remove(struct worker *worker, struct control *control, struct err *err)
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
	return request_pack(control, WIRE__REPLY__BODY_DONE, &done, err);
}

int request_explain(struct worker *worker, struct control *control, struct err *err)
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
	return request_pack(control, WIRE__REPLY__BODY_EXPLAINED, &explained, err);
}
