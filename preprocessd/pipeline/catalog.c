#include "preprocessd/pipeline/catalog.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/mem.h"

enum { NAMES_SHOWN_MAX = 20 };

/* Items of one kind. */
struct shelf {
	struct catalog_item *first;
	void (*free_item)(struct catalog_item *item);
};

struct catalog {
	pthread_mutex_t lock;
	struct shelf datasets, vocabs;
	uint64_t uses;
};

static void free_dataset(struct catalog_item *item);
static void free_vocab(struct catalog_item *item);

int catalog_open(struct catalog **out, struct err *err)
{
	struct catalog *catalog = mem_zalloc(sizeof(*catalog));

	*out = NULL;
	if (catalog == NULL)
		return err_nomem(err, sizeof(*catalog));
	pthread_mutex_init(&catalog->lock, NULL);
	catalog->datasets.free_item = free_dataset;
	catalog->vocabs.free_item = free_vocab;
	*out = catalog;
	return 0;
}

/* --- what is in memory; the catalog's lock is held, but for shelf_unref() and shelf_find_locked() ------- */

static struct catalog_item *shelf_find(struct catalog *catalog, struct shelf *shelf, const struct hash *key)
{
	for (struct catalog_item *item = shelf->first; item != NULL; item = item->next)
		if (hash_equal(&item->key, key)) {
			item->refs++;
			item->used = ++catalog->uses;
			return item;
		}
	return NULL;
}

static struct catalog_item *shelf_find_locked(struct catalog *catalog, struct shelf *shelf, const struct hash *key)
{
	pthread_mutex_lock(&catalog->lock);
	struct catalog_item *item = shelf_find(catalog, shelf, key);
	pthread_mutex_unlock(&catalog->lock);
	return item;
}

static void shelf_add(struct catalog *catalog, struct shelf *shelf, struct catalog_item *item, const struct hash *key)
{
	item->key = *key;
	item->refs = 1;
	item->used = ++catalog->uses;
	item->next = shelf->first;
	shelf->first = item;
}

/* Frees what nobody uses, but for the CATALOG_IDLE_MAX used last. */
static void shelf_trim(struct shelf *shelf)
{
	for (;;) {
		struct catalog_item **oldest = NULL;
		int idle = 0;

		for (struct catalog_item **at = &shelf->first; *at != NULL; at = &(*at)->next) {
			if ((*at)->refs > 0)
				continue;
			idle++;
			if (oldest == NULL || (*at)->used < (*oldest)->used)
				oldest = at;
		}
		if (idle <= CATALOG_IDLE_MAX)
			return;
		struct catalog_item *gone = *oldest;
		*oldest = gone->next;
		shelf->free_item(gone);
	}
}

static void shelf_unref(struct catalog *catalog, struct shelf *shelf, struct catalog_item *item)
{
	pthread_mutex_lock(&catalog->lock);
	CHECK(item->refs > 0);
	item->refs--;
	shelf_trim(shelf);
	pthread_mutex_unlock(&catalog->lock);
}

static void shelf_close(struct shelf *shelf)
{
	while (shelf->first != NULL) {
		struct catalog_item *next = shelf->first->next;

		CHECK(shelf->first->refs == 0);
		shelf->free_item(shelf->first);
		shelf->first = next;
	}
}

/* --- names ---------------------------------------------------------------------- */

struct names {
	struct buf *out;
	int count;
};

static int add_name(void *context, const uint8_t *name, size_t name_bytes, const void *payload, size_t size, struct err *err)
{
	struct names *names = context;

	(void)payload;
	(void)size;
	names->count++;
	if (names->count > NAMES_SHOWN_MAX)
		return 0;
	return buf_printf(names->out, err, "%s%.*s", names->count > 1 ? ", " : "", (int)name_bytes, (const char *)name);
}

/* "a, b, c and 2 more" of those registered under a kind; empty: none. */
static int list_names(struct cache_reader *reader, enum cache_kind kind, struct buf *out, struct err *err)
{
	struct names names = { .out = out };
	int code = cache_each(reader, kind, add_name, &names, err);

	if (code == 0 && names.count > NAMES_SHOWN_MAX)
		code = buf_printf(out, err, " and %d more", names.count - NAMES_SHOWN_MAX);
	return code;
}

static int unknown(struct cache_reader *reader, enum cache_kind kind, const char *what, const char *name, const char *remedy,
		   struct err *err)
{
	struct buf names = BUF_INIT;
	int code = list_names(reader, kind, &names, err);

	if (code == 0 && names.size == 0)
		code = err_set(err, ERR_NOTFOUND, "there is no %s '%s', nor any other; %s", what, name, remedy);
	else if (code == 0)
		code = err_set(err, ERR_NOTFOUND, "there is no %s '%s'; known: %s (%s)", what, name, names.data, remedy);
	buf_free(&names);
	return code;
}

/* Of what is written when a data set is added. */
static int damaged_dataset(const char *name, int code, struct err *err)
{
	const struct err reason = *err;

	return err_set(err, code, "data set %s: %s%s", name, reason.message, code == ERR_CORRUPT ? "; add it again" : "");
}

int catalog_record(struct cache_reader *reader, const char *name, Records__DatasetRecord **out, struct err *err)
{
	static const char remedy[] = "add one with prepctl add NAME";
	struct buf bytes = BUF_INIT;
	struct cache_key key;

	*out = NULL;
	if (cache_key_name(&key, CACHE_DATASET, name, err) != 0)
		return unknown(reader, CACHE_DATASET, "data set", name, remedy, err);
	int code = cache_read_copy(reader, &key, &bytes, err);
	if (code == ERR_NOTFOUND)
		code = unknown(reader, CACHE_DATASET, "data set", name, remedy, err);
	else if (code == 0)
		code = records_dataset_decode(out, name, bytes.data, bytes.size, err);
	else
		damaged_dataset(name, code, err);
	buf_free(&bytes);
	return code;
}

/* --- data sets -------------------------------------------------------------------- */

static void free_part(struct part_ref *part)
{
	manifest_part_free(part->part);
	mem_free(part->wrong_pictures);
	mem_free(part->split);
	mem_free(part);
}

static struct dataset_ref *dataset_of(struct catalog_item *item)
{
	static_assert(offsetof(struct dataset_ref, item) == 0, "a data set begins with its item");
	return (struct dataset_ref *)(void *)item;
}

static void free_dataset(struct catalog_item *item)
{
	struct dataset_ref *dataset = dataset_of(item);

	while (dataset->parts != NULL) {
		struct part_ref *next = dataset->parts->next;

		free_part(dataset->parts);
		dataset->parts = next;
	}
	manifest_free(dataset->manifest);
	mem_free(dataset);
}

static int decode_manifest(void *context, const void *payload, size_t size, uint64_t checksum, struct err *err)
{
	(void)checksum;
	return manifest_decode(context, payload, size, err);
}

static int load_manifest(struct cache_reader *reader, const char *name, const struct hash *at, const uint8_t *version,
			 struct manifest **out, struct err *err)
{
	struct cache_key key;

	*out = NULL;
	cache_key_hashes(&key, CACHE_MANIFEST, at, NULL);
	int code = cache_read(reader, &key, true, decode_manifest, out, err);
	if (code == ERR_NOTFOUND)
		return err_set(err, ERR_CORRUPT, "data set %s: its manifest is not in the cache; add it again", name);
	if (code != 0)
		return damaged_dataset(name, code, err);
	if (memcmp((*out)->version.bytes, version, HASH_BYTES) != 0) {
		manifest_free(*out);
		*out = NULL;
		return err_set(err, ERR_CORRUPT, "data set %s: its manifest in the cache is of another version; add it again", name);
	}
	return 0;
}

int catalog_dataset(struct catalog *catalog, struct cache_reader *reader, const char *name,
		    const Records__DatasetRecord *record, struct dataset_ref **out, struct err *err)
{
	struct manifest *manifest;
	struct hash key;

	records_dataset_manifest(record, &key);
	*out = dataset_of(shelf_find_locked(catalog, &catalog->datasets, &key));
	if (*out != NULL)
		return 0;
	/* Two may load the same one at the same moment; the second then finds the first's. */
	int code = load_manifest(reader, name, &key, record->version.data, &manifest, err);
	if (code != 0)
		return code;
	struct dataset_ref *dataset = mem_zalloc(sizeof(*dataset));
	if (dataset == NULL) {
		manifest_free(manifest);
		return err_nomem(err, sizeof(*dataset));
	}
	dataset->manifest = manifest;
	pthread_mutex_lock(&catalog->lock);
	*out = dataset_of(shelf_find(catalog, &catalog->datasets, &key));
	if (*out == NULL) {
		shelf_add(catalog, &catalog->datasets, &dataset->item, &key);
		*out = dataset;
	}
	pthread_mutex_unlock(&catalog->lock);
	if (*out != dataset)
		free_dataset(&dataset->item);
	return 0;
}

void catalog_dataset_unref(struct catalog *catalog, struct dataset_ref *dataset)
{
	if (dataset != NULL)
		shelf_unref(catalog, &catalog->datasets, &dataset->item);
}

struct dataset_ref *catalog_dataset_next(struct catalog *catalog, struct dataset_ref *after)
{
	pthread_mutex_lock(&catalog->lock);
	struct catalog_item *item = after != NULL ? after->item.next : catalog->datasets.first;
	while (item != NULL && item->refs == 0)
		item = item->next;
	if (item != NULL)
		item->refs++;
	pthread_mutex_unlock(&catalog->lock);
	catalog_dataset_unref(catalog, after);
	return dataset_of(item);
}

static int open_part(struct dataset_ref *dataset, const char *split, struct part_ref **out, struct err *err)
{
	struct part_ref *part = mem_zalloc(sizeof(*part));
	int code = 0;

	*out = NULL;
	if (part == NULL || (part->split = mem_strdup(split)) == NULL)
		code = err_nomem(err, sizeof(*part));
	if (code == 0)
		code = manifest_part_open(&part->part, dataset->manifest, split, err);
	if (code != 0) {
		if (part != NULL)
			mem_free(part->split);
		mem_free(part);
		return code;
	}
	*out = part;
	return 0;
}

/* lock is held: frees what nobody uses, but for the CATALOG_IDLE_PARTS_MAX that were asked for last. The list
 * has the newest in front. */
static void trim_parts(struct dataset_ref *dataset)
{
	int idle = 0;

	for (struct part_ref **at = &dataset->parts; *at != NULL;) {
		struct part_ref *part = *at;

		if (part->refs == 0 && ++idle > CATALOG_IDLE_PARTS_MAX) {
			*at = part->next;
			free_part(part);
		} else {
			at = &part->next;
		}
	}
}

/* lock is held: the part of this name, moved to the front; NULL: there is none. */
static struct part_ref *find_part(struct dataset_ref *dataset, const char *split)
{
	for (struct part_ref **at = &dataset->parts; *at != NULL; at = &(*at)->next) {
		struct part_ref *part = *at;

		if (strcmp(part->split, split) != 0)
			continue;
		*at = part->next;
		part->next = dataset->parts;
		dataset->parts = part;
		return part;
	}
	return NULL;
}

/* Under the lock, since a part is made once and then read by everybody: other
 * clients that open a stream at this moment wait, running streams do not. */
int catalog_part(struct catalog *catalog, struct dataset_ref *dataset, const char *split, bool with_pairs,
		 const struct part_ref **out, struct err *err)
{
	struct part_ref *part;
	int code = 0;

	pthread_mutex_lock(&catalog->lock);
	part = find_part(dataset, split);
	if (part == NULL) {
		code = open_part(dataset, split, &part, err);
		if (code != 0)
			goto out;
		part->next = dataset->parts;
		dataset->parts = part;
	}
	if (with_pairs && part->wrong_pictures == NULL) {
		uint32_t *wrong = mem_array(part->part->caption_count, sizeof(*wrong));

		code = wrong == NULL ? err_nomem(err, part->part->caption_count * sizeof(*wrong)) :
				       manifest_eval_pairs(dataset->manifest, part->part, split, wrong, err);
		if (code != 0) {
			mem_free(wrong);
			goto out;
		}
		part->wrong_pictures = wrong;
	}
	part->refs++;
	trim_parts(dataset);
	*out = part;
out:
	pthread_mutex_unlock(&catalog->lock);
	return code;
}

void catalog_part_unref(struct catalog *catalog, const struct part_ref *part)
{
	if (part == NULL)
		return;
	pthread_mutex_lock(&catalog->lock);
	CHECK(part->refs > 0);
	((struct part_ref *)(uintptr_t)part)->refs--;
	pthread_mutex_unlock(&catalog->lock);
}

/* --- vocabularies ------------------------------------------------------------------- */

static struct vocab_ref *vocab_of(struct catalog_item *item)
{
	static_assert(offsetof(struct vocab_ref, item) == 0, "a vocabulary begins with its item");
	return (struct vocab_ref *)(void *)item;
}

static void free_vocab(struct catalog_item *item)
{
	struct vocab_ref *vocab = vocab_of(item);

	vocab_free(vocab->vocab);
	mem_free(vocab);
}

int catalog_vocab_parse(struct catalog *catalog, const char *name, const void *bytes, size_t size, struct vocab_ref **out,
			struct err *err)
{
	struct hash content;
	int code = 0;

	hash_bytes(&content, bytes, size);
	pthread_mutex_lock(&catalog->lock);
	*out = vocab_of(shelf_find(catalog, &catalog->vocabs, &content));
	if (*out != NULL)
		goto out;
	struct vocab_ref *vocab = mem_zalloc(sizeof(*vocab));
	if (vocab == NULL) {
		code = err_nomem(err, sizeof(*vocab));
		goto out;
	}
	code = vocab_parse(&vocab->vocab, name, bytes, size, err);
	if (code != 0) {
		mem_free(vocab);
		goto out;
	}
	vocab_fingerprint(vocab->vocab, &vocab->fingerprint);
	shelf_add(catalog, &catalog->vocabs, &vocab->item, &content);
	*out = vocab;
out:
	pthread_mutex_unlock(&catalog->lock);
	return code;
}

static int damaged_vocab(const char *name, const char *what, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "vocabulary %s: %s in the cache is damaged; add it again with prepctl add --vocab", name, what);
}

/* The name as given, with ".txt", or without it: people mean the same. */
static int find_vocab_name(struct cache_reader *reader, const char *name, struct hash *content, struct err *err)
{
	char tries[3][MANIFEST_NAME_BYTES_MAX + 8];
	size_t bytes = strlen(name);

	if (bytes > 0 && bytes <= MANIFEST_NAME_BYTES_MAX) {
		snprintf(tries[0], sizeof(tries[0]), "%s", name);
		snprintf(tries[1], sizeof(tries[1]), "%s.txt", name);
		snprintf(tries[2], sizeof(tries[2]), "%s", name);
		if (bytes > 4 && strcmp(name + bytes - 4, ".txt") == 0)
			tries[2][bytes - 4] = '\0';
		for (int i = 0; i < 3; i++) {
			struct buf found = BUF_INIT;
			struct cache_key key;
			int code = cache_key_name(&key, CACHE_VOCAB_NAME, tries[i], err);

			if (code == 0)
				code = cache_read_copy(reader, &key, &found, err);
			if (code == 0 && found.size == HASH_BYTES)
				memcpy(content->bytes, found.data, HASH_BYTES);
			else if (code == 0)
				code = ERR_CORRUPT;
			buf_free(&found);
			if (code == ERR_CORRUPT)
				return damaged_vocab(name, "its name", err);
			if (code == 0)
				return 0;
		}
	}
	return unknown(reader, CACHE_VOCAB_NAME, "vocabulary", name, "register one with prepctl add --vocab FILE", err);
}

int catalog_vocab(struct catalog *catalog, struct cache_reader *reader, const char *name, struct vocab_ref **out,
		  struct err *err)
{
	struct buf bytes = BUF_INIT;
	struct cache_key key;
	struct hash content;

	*out = NULL;
	int code = find_vocab_name(reader, name, &content, err);
	if (code != 0)
		return code;
	*out = vocab_of(shelf_find_locked(catalog, &catalog->vocabs, &content));
	if (*out != NULL)
		return 0;
	cache_key_hashes(&key, CACHE_VOCAB, &content, NULL);
	code = cache_read_copy(reader, &key, &bytes, err);
	if (code == ERR_NOTFOUND)
		code = err_set(err, ERR_CORRUPT, "vocabulary %s: its words are not in the cache; add it again with prepctl add "
			       "--vocab", name);
	else if (code == ERR_CORRUPT)
		code = damaged_vocab(name, "the list of its words", err);
	if (code == 0)
		code = catalog_vocab_parse(catalog, name, bytes.data, bytes.size, out, err);
	buf_free(&bytes);
	return code;
}

void catalog_vocab_ref(struct catalog *catalog, struct vocab_ref *vocab)
{
	pthread_mutex_lock(&catalog->lock);
	vocab->item.refs++;
	pthread_mutex_unlock(&catalog->lock);
}

void catalog_vocab_unref(struct catalog *catalog, struct vocab_ref *vocab)
{
	if (vocab != NULL)
		shelf_unref(catalog, &catalog->vocabs, &vocab->item);
}

void catalog_close(struct catalog *catalog)
{
	if (catalog == NULL)
		return;
	shelf_close(&catalog->datasets);
	shelf_close(&catalog->vocabs);
	pthread_mutex_destroy(&catalog->lock);
	mem_free(catalog);
}
