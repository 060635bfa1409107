#include "preprocessd/pipeline/describe.h"

#include <string.h>

#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "shared/base/utf8.h"
#include "shared/wire/frame.h"

enum { REASON_BYTES_MAX = ERR_MESSAGE_BYTES };

/* record: NULL where it is damaged. */
static void fill_dataset(Wire__Dataset *out, const char *name, const Records__DatasetRecord *record)
{
	wire__dataset__init(out);
	out->name = (char *)(uintptr_t)name;
	if (record == NULL)
		return;
	out->version = record->version;
	out->pictures = record->pictures;
	out->captions = record->captions;
	out->failures = record->failures;
	out->vocab_name = record->vocab_name;
	out->added_unix_s = record->added_unix_s;
	out->format = record->format;
}

/* --- one --------------------------------------------------------------------------------- */

/* The arrays that a detail points into. */
struct detail_arrays {
	Wire__Split *splits;
	Wire__Split **split_pointers;
	ProtobufCBinaryData *labels;
	uint64_t *label_pictures;
};

static void free_arrays(struct detail_arrays *arrays)
{
	mem_free(arrays->splits);
	mem_free(arrays->split_pointers);
	mem_free(arrays->labels);
	mem_free(arrays->label_pictures);
}

static int fill_counts(Wire__DatasetDetail *detail, const struct manifest *manifest, struct detail_arrays *arrays,
		       struct err *err)
{
	size_t splits = manifest->split_count, labels = manifest->label_count;

	arrays->splits = mem_array(splits, sizeof(*arrays->splits));
	arrays->split_pointers = mem_array(splits, sizeof(*arrays->split_pointers));
	arrays->labels = mem_array(labels, sizeof(*arrays->labels));
	arrays->label_pictures = mem_array(labels, sizeof(*arrays->label_pictures));
	if (arrays->splits == NULL || arrays->split_pointers == NULL || arrays->labels == NULL || arrays->label_pictures == NULL)
		return err_nomem(err, labels * sizeof(*arrays->labels));
	for (size_t s = 0; s < splits; s++) {
		wire__split__init(&arrays->splits[s]);
		arrays->splits[s].name = (char *)(uintptr_t)manifest->split_name[s];
		arrays->split_pointers[s] = &arrays->splits[s];
	}
	for (size_t l = 0; l < labels; l++)
		arrays->labels[l] = wire_string(manifest->label_name[l]);
	for (uint32_t p = 0; p < manifest->picture_count; p++) {
		Wire__Split *split = &arrays->splits[manifest->picture_split[p]];

		split->pictures++;
		split->captions += manifest->captions_of_at[p + 1] - manifest->captions_of_at[p];
		if (manifest->picture_label[p] >= 0)
			arrays->label_pictures[manifest->picture_label[p]]++;
	}
	detail->n_splits = splits;
	detail->splits = arrays->split_pointers;
	detail->n_labels = detail->n_label_pictures = labels;
	detail->labels = arrays->labels;
	detail->label_pictures = arrays->label_pictures;
	return 0;
}

static void fill_origin(Wire__DatasetDetail *detail, Wire__Transform *transform, const Records__DatasetRecord *record,
			const struct manifest *manifest)
{
	wire__transform__init(transform);
	transform->size = record->image_size;
	transform->exif_apply = record->exif_apply;
	detail->transform = transform;
	detail->n_images = record->n_images;
	detail->images = record->images;
	detail->n_captions = record->n_caption_files;
	detail->captions = record->caption_files;
	detail->columns = record->columns;
	detail->split_ratio = record->split_ratio;
	detail->split_seed = record->split_seed;
	detail->skip_bad = record->skip_bad;
	detail->limit = record->limit;
	detail->limit_seed = record->limit_seed;
	if (manifest->picture_count > 0 && manifest->captions_of_at[1] > 0) {
		const uint64_t *at = manifest->caption_at + manifest->captions_of[0];

		detail->sample_source = wire_string(manifest->source_text + manifest->source_at[0]);
		detail->sample_caption = wire_bytes(manifest->caption_text + at[0], at[1] - at[0]);
	}
}

int describe_dataset(struct catalog *catalog, struct cache_reader *reader, const char *name, describe_detail_use use,
		     void *context, struct err *err)
{
	Wire__DatasetDetail detail = WIRE__DATASET_DETAIL__INIT;
	Wire__Dataset summary;
	Wire__Transform transform;
	struct detail_arrays arrays = { 0 };
	Records__DatasetRecord *record = NULL;
	struct dataset_ref *dataset = NULL;
	struct vocab_ref *vocab = NULL;
	int code = catalog_record(reader, name, &record, err);

	if (code != 0)
		return code;
	if ((code = catalog_dataset(catalog, reader, name, record, &dataset, err)) != 0 ||
	    (code = fill_counts(&detail, dataset->manifest, &arrays, err)) != 0)
		goto out;
	fill_dataset(&summary, name, record);
	detail.dataset = &summary;
	fill_origin(&detail, &transform, record, dataset->manifest);
	if (record->vocab_name[0] != '\0') {
		if ((code = catalog_vocab(catalog, reader, record->vocab_name, &vocab, err)) != 0)
			goto out;
		detail.vocab_hash = wire_bytes(vocab->item.key.bytes, HASH_BYTES);
		detail.vocab_size = (uint32_t)vocab_size(vocab->vocab);
	}
	code = use(context, &detail, err);
out:
	catalog_vocab_unref(catalog, vocab);
	catalog_dataset_unref(catalog, dataset);
	records__dataset_record__free_unpacked(record, NULL);
	free_arrays(&arrays);
	return code;
}

/* --- all ----------------------------------------------------------------------------------- */

struct list {
	size_t count, capacity;
	struct listed {
		char name[MANIFEST_NAME_BYTES_MAX + 1];
		Records__DatasetRecord *record; /* NULL: damaged */
		Wire__Dataset message;
	} *items;
};

static int list_one(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct list *list = context;

	if (name_bytes > MANIFEST_NAME_BYTES_MAX)
		return 0;
	if (list->count == list->capacity) {
		size_t capacity = list->capacity > 0 ? 2 * list->capacity : 16;
		struct listed *items = mem_realloc_array(list->items, capacity, sizeof(*items));

		if (items == NULL)
			return err_nomem(err, capacity * sizeof(*items));
		list->items = items;
		list->capacity = capacity;
	}
	struct listed *item = &list->items[list->count];
	memcpy(item->name, name, name_bytes);
	item->name[name_bytes] = '\0';
	item->record = NULL;
	/* One that cannot be read hides none of the others. */
	if (payload != NULL)
		(void)!records_dataset_decode(&item->record, item->name, payload, size, err);
	list->count++;
	return 0;
}

int describe_datasets(struct cache_reader *reader, describe_list_use use, void *context, struct err *err)
{
	Wire__DatasetList message = WIRE__DATASET_LIST__INIT;
	Wire__Dataset **pointers = NULL;
	struct list list = { 0 };
	int code = cache_each(reader, CACHE_DATASET, list_one, &list, err);

	if (code != 0)
		goto out;
	pointers = mem_array(list.count, sizeof(*pointers));
	if (pointers == NULL) {
		code = err_nomem(err, list.count * sizeof(*pointers));
		goto out;
	}
	for (size_t i = 0; i < list.count; i++) {
		fill_dataset(&list.items[i].message, list.items[i].name, list.items[i].record);
		pointers[i] = &list.items[i].message;
	}
	message.n_datasets = list.count;
	message.datasets = pointers;
	code = use(context, &message, err);
out:
	for (size_t i = 0; i < list.count; i++)
		if (list.items[i].record != NULL)
			records__dataset_record__free_unpacked(list.items[i].record, NULL);
	mem_free(list.items);
	mem_free(pointers);
	return code;
}

static int count_one(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	(void)name;
	(void)name_bytes;
	(void)payload;
	(void)size;
	(void)err;
	++*(uint64_t *)context;
	return 0;
}

int describe_count(struct cache_reader *reader, enum cache_kind kind, uint64_t *out, struct err *err)
{
	*out = 0;
	return cache_each(reader, kind, count_one, out, err);
}

/* --- samples --------------------------------------------------------------------------------- */

/* Bytes of the caption that a sample shows: whole characters. */
static size_t shown_bytes(const char *text, uint64_t bytes)
{
	size_t shown = bytes < WIRE_SAMPLE_CAPTION_BYTES_MAX ? (size_t)bytes : WIRE_SAMPLE_CAPTION_BYTES_MAX;

	return shown == bytes ? shown : utf8_valid_bytes(text, shown);
}

static int fill_sample(Wire__Sample *out, const struct manifest *m, uint64_t id, const char *name, struct err *err)
{
	if (id >= m->caption_count)
		return err_set(err, ERR_NOTFOUND, "data set %s has %u caption%s; there is no sample %llu", name, m->caption_count, plural(m->caption_count),
			       (unsigned long long)id);
	uint32_t picture = m->caption_picture[id];
	const char *text = m->caption_text + m->caption_at[id];

	wire__sample__init(out);
	out->id = id;
	out->caption = wire_bytes(text, shown_bytes(text, m->caption_at[id + 1] - m->caption_at[id]));
	out->source = wire_string(m->source_text + m->source_at[picture]);
	out->content = wire_bytes(m->picture_hash[picture].bytes, HASH_BYTES);
	out->label = m->picture_label[picture];
	out->split = (char *)(uintptr_t)m->split_name[m->picture_split[picture]];
	out->picture = picture;
	return 0;
}

int describe_samples(struct catalog *catalog, struct cache_reader *reader, const Wire__DescribeSamples *request,
		     describe_samples_use use, void *context, struct err *err)
{
	Wire__SampleList list = WIRE__SAMPLE_LIST__INIT;
	Wire__Transform transform = WIRE__TRANSFORM__INIT;
	Records__DatasetRecord *record;
	struct dataset_ref *dataset = NULL;
	Wire__Sample *samples = NULL, **pointers = NULL;
	int code;

	if (request->n_samples > WIRE_SAMPLES_PER_REQUEST)
		return err_set(err, ERR_LIMIT, "%zu samples in one request; the limit is %d", request->n_samples, WIRE_SAMPLES_PER_REQUEST);
	if ((code = catalog_record(reader, request->dataset, &record, err)) != 0)
		return code;
	samples = mem_array(request->n_samples + 1, sizeof(*samples));
	pointers = mem_array(request->n_samples + 1, sizeof(*pointers));
	if (samples == NULL || pointers == NULL) {
		code = err_nomem(err, request->n_samples * sizeof(*samples));
		goto out;
	}
	if ((code = catalog_dataset(catalog, reader, request->dataset, record, &dataset, err)) != 0)
		goto out;
	for (size_t i = 0; code == 0 && i < request->n_samples; i++) {
		pointers[i] = &samples[i];
		code = fill_sample(&samples[i], dataset->manifest, request->samples[i], request->dataset, err);
	}
	if (code != 0)
		goto out;
	transform.size = record->image_size;
	transform.exif_apply = record->exif_apply;
	list.version = wire_bytes(dataset->manifest->version.bytes, HASH_BYTES);
	list.transform = &transform;
	list.n_samples = request->n_samples;
	list.samples = pointers;
	code = use(context, &list, err);
out:
	catalog_dataset_unref(catalog, dataset);
	records__dataset_record__free_unpacked(record, NULL);
	mem_free(samples);
	mem_free(pointers);
	return code;
}

/* --- failures ---------------------------------------------------------------------------------- */

static int use_failures(const Records__FailureListRecord *record, uint64_t first, describe_failures_use use, void *context,
			struct err *err)
{
	Wire__FailureList message = WIRE__FAILURE_LIST__INIT;
	size_t total = record != NULL ? record->n_failures : 0;
	size_t count = first < total ? total - (size_t)first : 0;
	Wire__Failure *items = NULL, **pointers = NULL;
	char *texts = NULL;
	int code;

	if (count > WIRE_FAILURES_PER_REPLY)
		count = WIRE_FAILURES_PER_REPLY;
	items = mem_array(count, sizeof(*items));
	pointers = mem_array(count, sizeof(*pointers));
	texts = mem_array(count, REASON_BYTES_MAX);
	if (items == NULL || pointers == NULL || texts == NULL) {
		code = err_nomem(err, count * REASON_BYTES_MAX);
		goto out;
	}
	for (size_t i = 0; i < count; i++) {
		const Records__FailureItem *item = record->failures[first + i];

		wire__failure__init(&items[i]);
		items[i].source = wire_source(item->source.data, item->source.len);
		items[i].reason = wire_text(texts + i * REASON_BYTES_MAX, REASON_BYTES_MAX, (const char *)item->reason.data,
					    item->reason.len);
		pointers[i] = &items[i];
	}
	message.total = total;
	message.n_failures = count;
	message.failures = pointers;
	code = use(context, &message, err);
out:
	mem_free(items);
	mem_free(pointers);
	mem_free(texts);
	return code;
}

int describe_failures(struct cache_reader *reader, const char *name, uint64_t first, describe_failures_use use,
		      void *context, struct err *err)
{
	Records__FailureListRecord *list = NULL;
	Records__DatasetRecord *record;
	struct buf bytes = BUF_INIT;
	int code = catalog_record(reader, name, &record, err);

	if (code != 0)
		return code;
	if (record->failure_list.len == HASH_BYTES) {
		struct cache_key key;
		struct hash at;

		memcpy(at.bytes, record->failure_list.data, HASH_BYTES);
		cache_key_hashes(&key, CACHE_FAILURE, &at, NULL);
		code = cache_read_copy(reader, &key, &bytes, err);
		if (code == ERR_NOTFOUND)
			code = err_set(err, ERR_CORRUPT, "data set %s: its list of failures is not in the cache; add it again", name);
		if (code == 0)
			code = records_failures_decode(&list, name, bytes.data, bytes.size, err);
	}
	if (code == 0)
		code = use_failures(list, first, use, context, err);
	if (list != NULL)
		records__failure_list_record__free_unpacked(list, NULL);
	records__dataset_record__free_unpacked(record, NULL);
	buf_free(&bytes);
	return code;
}
