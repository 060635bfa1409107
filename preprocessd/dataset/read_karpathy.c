/*
 * read_karpathy.c - the split files of Karpathy and Fei-Fei (dataset_coco.json,
 * dataset_flickr8k.json, dataset_flickr30k.json, dataset_rsicd.json, ...).
 *
 *     {"images": [{"filename": "a.jpg", "filepath": "val2014", "split": "train",
 *                  "sentences": [{"raw": "..."}, ...]}, ...]}
 *
 * filepath is optional. "restval" stays a split of its own: "train+restval"
 * selects both. label (or class) and group are ours.
 */
#include <string.h>

#include "preprocessd/dataset/reader.h"

enum key { KEY_SENTENCES, KEY_FILENAME, KEY_FILEPATH, KEY_SPLIT, KEY_LABEL, KEY_CLASS, KEY_GROUP, KEY_COUNT };

static const char *const KEYS[] = { "sentences", "filename", "filepath", "split", "label", "class", "group" };

struct karpathy {
	struct reader *reader;
	struct item item;
	bool has_images, has_sentences, raw;
	bool seen[KEY_COUNT]; /* of the image that is being read: none may repeat */
	struct buf class;     /* stands where there is no label */
	bool has_class;
	uint32_t without; /* images that have no sentence */
};

static int sentence_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct karpathy *k = context;
	int code;

	if (strcmp(key, "raw") != 0)
		return json_skip(json, err);
	if ((code = json_once(json, &k->raw, key, err)) != 0 || (code = json_next(json, err)) != 0)
		return code;
	if (json->kind != JSON_STRING)
		return json_fail(json, err, "raw must be a string");
	return item_add_caption(&k->item, json->text.data, json->text.size, err);
}

static int sentence(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct karpathy *k = context;
	int code;

	k->raw = false;
	if ((code = json_object(json, "a sentence", sentence_field, k, err)) != 0)
		return code;
	if (!k->raw)
		return json_fail(json, err, "sentence %u has no \"raw\" text", number);
	return 0;
}

static int image_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct karpathy *k = context;
	struct item *item = &k->item;

	int which = 0, code;

	while (which < KEY_COUNT && strcmp(key, KEYS[which]) != 0)
		which++;
	if (which == KEY_COUNT)
		return json_skip(json, err);
	if ((code = json_once(json, &k->seen[which], key, err)) != 0)
		return code;
	switch ((enum key)which) {
	case KEY_FILENAME:
		return json_text(json, &item->image, &item->has_image, "filename", err);
	case KEY_FILEPATH:
		return json_text(json, &item->folder, &item->has_folder, "filepath", err);
	case KEY_SPLIT:
		return json_text(json, &item->split, &item->has_split, "split", err);
	case KEY_LABEL:
		return json_label(json, &item->label, &item->has_label, "label", err);
	case KEY_CLASS:
		return json_label(json, &k->class, &k->has_class, "class", err);
	case KEY_GROUP:
		return json_label(json, &item->group, &item->has_group, "group", err);
	default:
		k->has_sentences = true;
		return json_array(json, "sentences", sentence, k, err);
	}
}

static int image(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct karpathy *k = context;
	int code;

	item_clear(&k->item);
	k->has_sentences = k->has_class = false;
	memset(k->seen, 0, sizeof(k->seen));
	k->item.number = number;
	if ((code = json_object(json, "an image", image_field, k, err)) != 0)
		return code;
	if (!k->item.has_image || !k->has_sentences)
		return json_fail(json, err, "image %u has no \"%s\"%s", number, k->item.has_image ? "sentences" : "filename",
				 k->has_sentences ? "" : "; is this a COCO file? Then use --format coco");
	if (k->item.caption_count == 0) {
		k->without++;
		return 0;
	}
	if (!k->item.has_label && k->has_class) {
		k->item.has_label = true;
		if ((code = buf_add(&k->item.label, k->class.data, k->class.size, err)) != 0)
			return code;
	}
	return reader_item(k->reader, &k->item, err);
}

static int top_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct karpathy *k = context;

	int code;

	if (strcmp(key, "images") != 0)
		return json_skip(json, err);
	if ((code = json_once(json, &k->has_images, key, err)) != 0)
		return code;
	return json_array(json, "images", image, k, err);
}

int read_karpathy(struct reader *reader, const char *bytes, size_t size, struct err *err)
{
	struct karpathy k = { .reader = reader };
	struct json_reader json;
	int code;

	reader->listing->files[reader->file].item = "image";
	json_reader_init(&json, reader->name, bytes, size);
	json.lenient_utf8 = true; /* captions are judged one by one */
	if ((code = json_next(&json, err)) == 0 && (code = json_object(&json, "a Karpathy split file", top_field, &k, err)) == 0)
		code = json_expect(&json, JSON_END, err);
	if (code == 0 && !k.has_images)
		code = err_set(err, ERR_FORMAT, "%s: no \"images\"; a Karpathy split file has them", reader->name);
	if (code == 0 && k.without > 0)
		code = listing_add_note(reader->listing, err, k.without == 1 ? "%s: %u image has no sentence and is left out" :
					"%s: %u images have no sentence and are left out", reader->name, k.without);
	json_reader_free(&json);
	item_free(&k.item);
	buf_free(&k.class);
	return code;
}
