#include "preprocessd/pipeline/add_internal.h"

#include <string.h>
#include <time.h>

#include "preprocessd/pipeline/describe.h"
#include "preprocessd/pipeline/records.h"
#include "shared/base/clock.h"
#include "shared/base/fs.h"
#include "shared/base/mem.h"
#include "shared/base/plural.h"
#include "shared/wire/frame.h"

enum { CHANGES_MAX = 5, MANY_PICTURES = 10000 };

static void set_phase(struct add *add, Wire__Progress__Phase phase, uint64_t total)
{
	atomic_store(&add->done_count, 0);
	atomic_store(&add->total, total);
	atomic_store(&add->phase, (int)phase);
}

/* --- the steps of an add ------------------------------------------------------------------- */

/* A text list from the bytes of a message; freed by one mem_free. */
static int copy_texts(const ProtobufCBinaryData *items, size_t count, char ***out, struct err *err)
{
	size_t bytes = count * sizeof(char *);

	for (size_t i = 0; i < count; i++)
		bytes += items[i].len + 1;
	char **list = mem_alloc(bytes);
	*out = list;
	if (list == NULL)
		return err_nomem(err, bytes);
	char *at = (char *)(list + count);
	for (size_t i = 0; i < count; i++) {
		list[i] = at;
		if (items[i].len > 0)
			memcpy(at, items[i].data, items[i].len);
		at[items[i].len] = '\0';
		at += items[i].len + 1;
	}
	return 0;
}

static int copy_text(const ProtobufCBinaryData *item, char **out, struct err *err)
{
	*out = mem_alloc(item->len + 1);
	if (*out == NULL)
		return err_nomem(err, item->len + 1);
	memcpy(*out, item->data, item->len);
	(*out)[item->len] = '\0';
	return 0;
}

/* May one more be registered under this name? */
static int check_room(struct add *add, enum cache_kind kind, const char *name, struct err *err)
{
	uint64_t limit = add->pipeline->datasets_max, count;
	struct cache_key key;
	int code = cache_key_name(&key, kind, name, err);

	if (code != 0 || cache_has(add->reader, &key))
		return code;
	if ((code = describe_count(add->reader, kind, &count, err)) != 0 || count < limit)
		return code;
	return err_set(err, ERR_LIMIT, "%s cannot be registered: there are %llu %s, and this preprocessd takes %llu (--max-datasets)", name,
		       (unsigned long long)count, kind == CACHE_DATASET ? "data sets" : "vocabularies", (unsigned long long)limit);
}

/* What the name stood for is not known. Words that are registered are taken to be those. */
static int check_damaged_vocab(struct add *add, const struct hash *content, struct err *err)
{
	struct cache_key key;

	cache_key_hashes(&key, CACHE_VOCAB, content, NULL);
	if (cache_has(add->reader, &key))
		return 0;
	return err_set(err, ERR_CORRUPT, "the name %s of a vocabulary is damaged in the cache, and the words in this file are of none that is "
		       "registered; give the file that it was, or give this one another name", add->vocab_name);
}

/* A vocabulary keeps its name for ever. */
static int check_vocab(struct add *add, struct err *err)
{
	struct buf found = BUF_INIT;
	struct hash content;
	struct cache_key key;
	int code = cache_key_name(&key, CACHE_VOCAB_NAME, add->vocab_name, err);

	hash_bytes(&content, add->vocab_bytes.data, add->vocab_bytes.size);
	if (code == 0)
		code = cache_read_copy(add->reader, &key, &found, err);
	if (code == 0 && (found.size != HASH_BYTES || memcmp(found.data, content.bytes, HASH_BYTES) != 0))
		code = err_set(err, ERR_EXISTS, "a vocabulary named %s with another content is registered already; give the file another name",
			       add->vocab_name);
	else if (code == ERR_NOTFOUND)
		code = check_room(add, CACHE_VOCAB_NAME, add->vocab_name, err);
	else if (code == ERR_CORRUPT)
		code = check_damaged_vocab(add, &content, err);
	buf_free(&found);
	return code;
}

/* Reads it and checks its name; parsing takes longer and is done while pictures are decoded. */
static int read_vocab(struct add *add, struct err *err)
{
	struct cache_key key;
	int code;

	if (add->request->vocab_path.len == 0)
		return 0;
	if ((code = copy_text(&add->request->vocab_path, &add->vocab_path, err)) != 0)
		return code;
	const char *slash = strrchr(add->vocab_path, '/');
	const char *name = slash != NULL ? slash + 1 : add->vocab_path;
	code = cache_key_name(&key, CACHE_VOCAB_NAME, name, err);
	if (code != 0) {
		err_prefix(err, "%s: a vocabulary has its file's name; rename the file", add->vocab_path);
		return code;
	}
	memcpy(add->vocab_name, name, strlen(name) + 1);
	code = rights_read(&add->rights, add->vocab_path, VOCAB_FILE_BYTES_MAX, &add->vocab_bytes, err);
	if (code == 0 && (code = check_vocab(add, err)) != 0)
		err_prefix(err, "%s", add->vocab_path);
	return code;
}

int add_parse_vocab(struct add *add, struct err *err)
{
	if (add->vocab_path == NULL)
		return 0;
	return catalog_vocab_parse(add->pipeline->catalog, add->vocab_path, add->vocab_bytes.data, add->vocab_bytes.size,
				   &add->vocab, err);
}

static int read_listing(struct add *add, struct err *err)
{
	const Wire__AddDataset *request = add->request;
	char **images = NULL, **captions = NULL;
	int code = listing_open(&add->listing, err);

	if (code == 0)
		code = copy_texts(request->images, request->n_images, &images, err);
	if (code == 0)
		code = copy_texts(request->captions, request->n_captions, &captions, err);
	if (code == 0) {
		struct reader_options options = {
			.format = request->format, .images = (const char *const *)images, .image_count = (int)request->n_images,
			.captions = (const char *const *)captions, .caption_count = (int)request->n_captions,
			.columns = request->columns[0] != '\0' ? request->columns : NULL,
			.split_ratio = request->split_ratio[0] != '\0' ? request->split_ratio : NULL,
			.split_seed = request->split_seed, .limit = request->limit, .limit_seed = request->limit_seed,
			.skip_bad = request->skip_bad, .rights = &add->rights,
		};

		code = listing_read(add->listing, &options, err);
	}
	mem_free(images);
	mem_free(captions);
	return code;
}

static int prepare_pictures(struct add *add, struct err *err)
{
	uint32_t total = listing_picture_count(add->listing);

	set_phase(add, WIRE__PROGRESS__PHASE__PICTURES, total);
	int code = add_work_pictures(add, err);
	if (code != 0)
		return code;
	/* Records that wait to be written and what the heap has kept of them: as much as a large data set's manifest will take. */
	if (total >= MANY_PICTURES) {
		cache_flush(add->pipeline->cache); /* what fails here is told of at the end */
		mem_give_back();
	}
	add->failure_count = listing_failure_count(add->listing);
	if (!add->request->skip_bad && add->failure_count > 0)
		return err_set(err, ERR_FORMAT, "%llu of %u pictures of %s cannot be used, so nothing was registered; mend or remove "
			       "them, or leave them out with --on-bad skip", (unsigned long long)add->failure_count, total,
			       add->request->name);
	return 0;
}

/* As in the record. */
static uint64_t added_by(const struct add *add)
{
	return add->rights.all ? 0 : (uint64_t)add->rights.uid + 1;
}

static void forget_before(struct add *add)
{
	if (add->before != NULL)
		records__dataset_record__free_unpacked(add->before, NULL);
	add->before = NULL;
	add->unchanged = false;
}

/* Into add->before: the data set that has the name, NULL if none has. */
static int read_before(struct add *add, struct err *err)
{
	struct cache_key key;
	struct buf bytes = BUF_INIT;
	int code = cache_key_name(&key, CACHE_DATASET, add->request->name, err);

	forget_before(add);
	if (code == 0)
		code = cache_read_copy(add->reader, &key, &bytes, err);
	/* A record that is damaged or of another layout gives way to the new one. */
	if (code == ERR_NOTFOUND || code == ERR_CORRUPT)
		code = check_room(add, CACHE_DATASET, add->request->name, err);
	else if (code == 0 && records_dataset_decode(&add->before, add->request->name, bytes.data, bytes.size, NULL) == 0 &&
		 !add->rights.all && add->before->added_by != added_by(add))
		code = err_set(err, ERR_EXISTS, "there is a data set %s already, of another user; choose another name", add->request->name);
	buf_free(&bytes);
	return code;
}

static int check_name(struct add *add, struct err *err)
{
	char was[HASH_HEX_BYTES], is[HASH_HEX_BYTES];
	struct hash version;
	int code = read_before(add, err);

	if (code != 0 || add->before == NULL)
		return code;
	memcpy(version.bytes, add->before->version.data, HASH_BYTES);
	add->unchanged = hash_equal(&version, &add->manifest->version);
	if (add->unchanged || add->request->replace)
		return 0;
	hash_to_hex(&version, was);
	hash_to_hex(&add->manifest->version, is);
	return err_set(err, ERR_EXISTS, "there is a data set %s already, with other data (version %.12s with %llu picture%s, this is "
		       "%.12s with %u); choose another name, or add --replace", add->request->name, was,
		       (unsigned long long)add->before->pictures, plural(add->before->pictures), is, add->manifest->picture_count);
}

/* Before the pictures, which may take hours: their hashes make the version, but where numbers show that it will be another one,
 * nobody has to wait for that. Pictures can only become fewer (equal ones are one), captions with --on-bad skip alone. */
static int check_name_early(struct add *add, struct err *err)
{
	uint32_t pictures = listing_picture_count(add->listing), captions = listing_caption_count(add->listing);
	int code = read_before(add, err);

	if (code != 0 || add->before == NULL || add->request->replace)
		return code;
	if (add->before->pictures <= pictures &&
	    (add->request->skip_bad ? add->before->captions <= captions : add->before->captions == captions))
		return 0;
	return err_set(err, ERR_EXISTS, "there is a data set %s already, with other data (%llu picture%s with %llu caption%s; these files name "
		       "%u with %u); choose another name, or add --replace", add->request->name, (unsigned long long)add->before->pictures,
		       plural(add->before->pictures), (unsigned long long)add->before->captions, plural(add->before->captions), pictures, captions);
}

static int make_manifest(struct add *add, struct err *err)
{
	int code = listing_finish(add->listing, &add->manifest, err);

	if (code != 0)
		return err_prefix(err, "data set %s", add->request->name);
	listing_drop_captions(add->listing);
	add->failure_count = listing_failure_count(add->listing);
	return check_name(add, err);
}

/* Later `add`s without --vocab keep the vocabulary that there was. */
static int default_vocab(struct add *add, struct err *err)
{
	if (add->vocab != NULL || add->before == NULL || add->before->vocab_name[0] == '\0' ||
	    strlen(add->before->vocab_name) > MANIFEST_NAME_BYTES_MAX)
		return 0;
	memcpy(add->vocab_name, add->before->vocab_name, strlen(add->before->vocab_name) + 1);
	return catalog_vocab(add->pipeline->catalog, add->reader, add->vocab_name, &add->vocab, err);
}

static int note_vocab(struct add *add, struct err *err)
{
	char warning[ERR_MESSAGE_BYTES];

	if (!vocab_warning(add->vocab->vocab, add->vocab_name, warning, sizeof(warning)))
		return 0;
	return listing_add_note(add->listing, err, "%s", warning);
}

static int prepare_captions(struct add *add, struct err *err)
{
	int code = default_vocab(add, err);

	if (code != 0 || add->vocab == NULL)
		return code;
	if ((code = note_vocab(add, err)) != 0)
		return code;
	set_phase(add, WIRE__PROGRESS__PHASE__CAPTIONS, add->manifest->caption_count);
	return add_work_captions(add, err);
}

static void fill_record(struct add *add, Records__DatasetRecord *record)
{
	const Wire__AddDataset *request = add->request;

	record->layout = RECORDS_LAYOUT;
	record->version = wire_bytes(add->manifest->version.bytes, HASH_BYTES);
	record->added_unix_s = add->unchanged ? add->before->added_unix_s : (int64_t)time(NULL);
	record->pictures = add->manifest->picture_count;
	record->captions = add->manifest->caption_count;
	record->failures = add->failure_count;
	record->vocab_name = add->vocab_name;
	record->format = request->format;
	record->n_images = request->n_images;
	record->images = request->images;
	record->n_caption_files = request->n_captions;
	record->caption_files = request->captions;
	record->columns = request->columns;
	record->split_ratio = request->split_ratio;
	record->split_seed = request->split_seed;
	record->skip_bad = request->skip_bad;
	record->limit = request->limit;
	record->limit_seed = request->limit_seed;
	record->image_size = add->settings.transform.size;
	record->added_by = added_by(add);
	record->exif_apply = add->settings.transform.exif == EXIF_APPLY;
}

struct commit {
	struct cache_change changes[CHANGES_MAX];
	int count;
	struct buf manifest, failures, record;
	struct hash manifest_at, failures_at;
};

static struct cache_change *next_change(struct commit *commit, const void *payload, size_t size)
{
	struct cache_change *change = &commit->changes[commit->count++];

	CHECK(commit->count <= CHANGES_MAX);
	change->payload = payload;
	change->size = size;
	return change;
}

static int fill_commit(struct add *add, struct commit *commit, struct err *err)
{
	Records__DatasetRecord record = RECORDS__DATASET_RECORD__INIT;
	int code = manifest_encode(add->manifest, &commit->manifest, err);

	if (code != 0)
		return code;
	fill_record(add, &record);
	hash_bytes(&commit->manifest_at, commit->manifest.data, commit->manifest.size);
	record.manifest = wire_bytes(commit->manifest_at.bytes, HASH_BYTES);
	cache_key_hashes(&next_change(commit, commit->manifest.data, commit->manifest.size)->key, CACHE_MANIFEST,
			 &commit->manifest_at, NULL);
	if (add->failure_count > 0) {
		if ((code = records_failures_encode(add->listing, &commit->failures, err)) != 0)
			return code;
		hash_bytes(&commit->failures_at, commit->failures.data, commit->failures.size);
		record.failure_list = wire_bytes(commit->failures_at.bytes, HASH_BYTES);
		cache_key_hashes(&next_change(commit, commit->failures.data, commit->failures.size)->key, CACHE_FAILURE,
				 &commit->failures_at, NULL);
	}
	if (add->vocab_bytes.size > 0) {
		cache_key_hashes(&next_change(commit, add->vocab_bytes.data, add->vocab_bytes.size)->key, CACHE_VOCAB,
				 &add->vocab->item.key, NULL);
		code = cache_key_name(&next_change(commit, add->vocab->item.key.bytes, HASH_BYTES)->key, CACHE_VOCAB_NAME,
				      add->vocab_name, err);
	}
	if (code == 0)
		code = records_dataset_encode(&record, &commit->record, err);
	if (code == 0)
		code = cache_key_name(&next_change(commit, commit->record.data, commit->record.size)->key, CACHE_DATASET,
				      add->request->name, err);
	return code;
}

/* The names were looked at before; other adds may have taken them since. Returns with the lock held where *locked. */
static int check_names_again(struct add *add, bool *locked, struct err *err)
{
	int code;

	pthread_mutex_lock(&add->pipeline->register_lock);
	*locked = true;
	code = check_name(add, err);
	if (code == 0 && add->vocab_bytes.size > 0)
		code = check_vocab(add, err);
	return code;
}

static int commit_all(struct add *add, struct err *err)
{
	struct pipeline *pipeline = add->pipeline;
	struct commit commit = { .manifest = BUF_INIT, .failures = BUF_INIT, .record = BUF_INIT };
	bool locked = false;

	set_phase(add, WIRE__PROGRESS__PHASE__COMMITTING, 0);
	cache_flush(pipeline->cache);
	int code = add_cache_failed(add, err) ? err->code : 0;
	if (code == 0)
		code = check_names_again(add, &locked, err);
	if (code == 0)
		code = fill_commit(add, &commit, err);
	if (code == 0)
		code = cache_apply(pipeline->cache, commit.changes, commit.count, err);
	if (locked)
		pthread_mutex_unlock(&pipeline->register_lock);
	buf_free(&commit.manifest);
	buf_free(&commit.failures);
	buf_free(&commit.record);
	return code;
}

static int run_add(struct add *add, struct err *err)
{
	const Wire__Transform *transform = add->request->transform;
	int code;

	if (transform == NULL)
		return err_set(err, ERR_PROTOCOL, "AddDataset without a transform");
	if ((code = picture_settings_init(&add->settings, transform->size, transform->exif_apply, err)) != 0 ||
	    (code = cache_reader_open(&add->reader, add->pipeline->cache, err)) != 0 ||
	    (code = check_room(add, CACHE_DATASET, add->request->name, err)) != 0)
		return code;
	int (*const steps[])(struct add *, struct err *) = {
		read_vocab, read_listing, check_name_early, prepare_pictures, make_manifest, prepare_captions, commit_all,
	};
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		code = steps[i](add, err);
		if (code == ERR_FULL || code == ERR_NOMEM)
			err_prefix(err, "data set %s was not registered; what was prepared stays in the cache", add->request->name);
		if (code == 0 && add_is_cancelled(add) && i + 1 < ARRAY_LEN(steps))
			code = add_cancelled_error(add, err);
		if (code != 0)
			return code;
	}
	return 0;
}

/* --- the reply ------------------------------------------------------------------------------- */

static int reply_added(void *context, Wire__DatasetDetail *detail, struct err *err)
{
	struct add *add = context;
	Wire__AddReply added = WIRE__ADD_REPLY__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	char notes[WIRE_NOTES_SHOWN][ERR_MESSAGE_BYTES], *pointers[WIRE_NOTES_SHOWN];

	added.detail = detail;
	added.unchanged = add->unchanged;
	added.decoded = atomic_load(&add->decoded);
	added.tokenized = atomic_load(&add->tokenized);
	added.seconds = add->seconds;
	for (uint32_t i = 0; i < listing_note_count(add->listing) && i < WIRE_NOTES_SHOWN; i++) {
		const char *note = listing_note_at(add->listing, i);

		pointers[i] = wire_text(notes[i], sizeof(notes[i]), note, strlen(note));
		added.n_notes++;
	}
	added.notes = pointers;
	reply.id = add->request_id;
	reply.body_case = WIRE__REPLY__BODY_ADDED;
	reply.added = &added;
	return frame_append(&add->reply, &reply.base, err);
}

static int reply_failed(struct add *add, struct err *err)
{
	Wire__Error error = WIRE__ERROR__INIT;
	Wire__Reply reply = WIRE__REPLY__INIT;
	Wire__Failure failures[WIRE_FAILURES_SHOWN], *pointers[WIRE_FAILURES_SHOWN];
	char reasons[WIRE_FAILURES_SHOWN][ERR_MESSAGE_BYTES];
	char message[ERR_MESSAGE_BYTES];
	uint32_t count = add->failure_count < WIRE_FAILURES_SHOWN ? (uint32_t)add->failure_count : WIRE_FAILURES_SHOWN;

	for (uint32_t i = 0; i < count; i++) {
		struct listing_failure failure = listing_failure_at(add->listing, i);

		wire__failure__init(&failures[i]);
		failures[i].source = wire_source(failure.source, strlen(failure.source));
		failures[i].reason = wire_text(reasons[i], sizeof(reasons[i]), failure.reason, strlen(failure.reason));
		pointers[i] = &failures[i];
	}
	error.code = (Wire__ErrorCode)-add->code;
	error.message = wire_text(message, sizeof(message), add->err.message, strlen(add->err.message));
	error.n_failures = count;
	error.failures = pointers;
	error.failure_count = add->failure_count;
	reply.id = add->request_id;
	reply.body_case = WIRE__REPLY__BODY_ERROR;
	reply.error = &error;
	return frame_append(&add->reply, &reply.base, err);
}

/* Here and not on the loop: a manifest may have to be read for it. */
static void make_reply(struct add *add)
{
	struct err err;

	if (add->code == 0)
		add->code = describe_dataset(add->pipeline->catalog, add->reader, add->request->name, reply_added, add,
					     &add->err);
	if (add->code != 0 && reply_failed(add, &err) != 0)
		buf_free(&add->reply);
}

static void *add_main(void *context)
{
	struct add *add = context;
	struct err err;
	int code = run_add(add, &err);

	if (code != 0) {
		add->code = code;
		add->err = err;
	}
	add->seconds = clock_seconds() - add->start_s;
	make_reply(add);
	cache_reader_close(add->reader);
	add->pipeline->post(add->pipeline->post_context, add->done);
	return NULL;
}

/* --- from outside ---------------------------------------------------------------------------- */

int add_start(struct add **out, struct pipeline *pipeline, uint64_t request_id, const Wire__AddDataset *request,
	      const struct rights *rights, struct completion *done, struct err *err)
{
	struct cache_key key;
	struct err key_err;

	*out = NULL;
	/* A name that is not allowed is the fault of whoever typed it, and nothing to show to others as what is under way. */
	if (cache_key_name(&key, CACHE_DATASET, request->name, &key_err) != 0)
		return err_set(err, ERR_USAGE, "%s", key_err.message);
	struct add *add = mem_zalloc(sizeof(*add));
	if (add == NULL)
		return err_nomem(err, sizeof(*add));
	add->pipeline = pipeline;
	add->request = request;
	add->request_id = request_id;
	add->rights = *rights;
	add->done = done;
	add->start_s = clock_seconds();
	add->put_failures_before = counter_get(&pipeline->put_failures);
	pthread_mutex_init(&add->lock, NULL);
	pthread_cond_init(&add->finished, NULL);
	int reason = pthread_create(&add->thread, NULL, add_main, add);
	if (reason != 0) {
		pthread_cond_destroy(&add->finished);
		pthread_mutex_destroy(&add->lock);
		mem_free(add);
		return err_errno(err, reason, "cannot start a thread for adding %s", request->name);
	}
	pthread_setname_np(add->thread, "add");
	*out = add;
	return 0;
}

void add_cancel(struct add *add)
{
	atomic_store(&add->cancelled, true);
}

void add_progress(struct add *add, Wire__Progress *out)
{
	out->phase = (Wire__Progress__Phase)atomic_load(&add->phase);
	out->total = atomic_load(&add->total);
	out->done = atomic_load(&add->done_count);
	out->failed = atomic_load(&add->failed);
}

int add_result(const struct add *add, struct err *err)
{
	if (add->code != 0)
		*err = add->err;
	return add->code;
}

const struct buf *add_reply(const struct add *add)
{
	return add->reply.size > 0 ? &add->reply : NULL;
}

void add_free(struct add *add)
{
	if (add == NULL)
		return;
	pthread_join(add->thread, NULL);
	forget_before(add);
	catalog_vocab_unref(add->pipeline->catalog, add->vocab);
	buf_free(&add->vocab_bytes);
	mem_free(add->vocab_path);
	manifest_free(add->manifest);
	listing_free(add->listing);
	buf_free(&add->reply);
	pthread_cond_destroy(&add->finished);
	pthread_mutex_destroy(&add->lock);
	mem_free(add);
}
