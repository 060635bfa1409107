/*
 * read_coco.c - COCO's captions_*.json.
 *
 *     {"images": [{"id": 5, "file_name": "a.jpg", ...}, ...],
 *      "annotations": [{"image_id": 5, "caption": "...", ...}, ...], ...}
 *
 * Keys may stand in any order, so the file is read twice: images first. Other
 * keys are passed over. Ids are numbers or strings.
 */
#include <stdio.h>
#include <string.h>

#include "preprocessd/dataset/reader.h"
#include "shared/base/mem.h"

struct coco {
	struct reader *reader;
	struct strings ids, names;
	uint32_t *name_of_id;      /* (ids.count) */
	uint32_t name_capacity;
	bool *captioned;           /* (ids.count) */
	bool has_images, has_annotations;
	bool images_seen, annotations_seen, id_seen, text_seen; /* keys of the object that is being read: none may repeat */
	bool sentences;            /* looks like the Karpathy format */
	uint32_t pass;             /* 1: images, 2: annotations */
	struct buf id;
	bool has_id;
	struct item item;
	bool has_caption;
	uint32_t unknown_count;
	char unknown[160];         /* the first few ids */
};

/* --- images --------------------------------------------------------------------- */

static int image_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct coco *coco = context;
	int code;

	if (strcmp(key, "id") == 0)
		return (code = json_once(json, &coco->id_seen, key, err)) != 0 ? code :
		       json_text(json, &coco->id, &coco->has_id, "the id of an image", err);
	if (strcmp(key, "file_name") == 0)
		return (code = json_once(json, &coco->text_seen, key, err)) != 0 ? code :
		       json_text(json, &coco->item.image, &coco->item.has_image, "file_name", err);
	if (strcmp(key, "sentences") == 0)
		coco->sentences = true;
	return json_skip(json, err);
}

static int note_image(struct coco *coco, uint32_t number, struct err *err)
{
	struct listing *listing = coco->reader->listing;
	uint32_t id, name;
	bool added;
	int code;

	if ((code = strings_add(&coco->ids, coco->id.data, coco->id.size, &id, &added, err)) != 0 ||
	    (code = strings_add(&coco->names, coco->item.image.data, coco->item.image.size, &name, NULL, err)) != 0)
		return code;
	if (!added && coco->name_of_id[id] != name)
		return err_set(err, ERR_FORMAT, "%s: image %u: the id %.40s belongs to %.200s and to %.200s",
			       listing->files[coco->reader->file].name, number, coco->id.data,
			       strings_at(&coco->names, coco->name_of_id[id]), coco->item.image.data);
	if (coco->ids.count > coco->name_capacity) {
		uint32_t *grown = mem_realloc_array(coco->name_of_id, coco->ids.capacity, sizeof(*grown));

		if (grown == NULL)
			return err_nomem(err, coco->ids.capacity * sizeof(*grown));
		coco->name_of_id = grown;
		coco->name_capacity = coco->ids.capacity;
	}
	coco->name_of_id[id] = name;
	return 0;
}

static int image(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct coco *coco = context;
	int code;

	item_clear(&coco->item);
	coco->has_id = coco->id_seen = coco->text_seen = false;
	if ((code = json_object(json, "an image", image_field, coco, err)) != 0)
		return code;
	if (!coco->has_id || !coco->item.has_image)
		return json_fail(json, err, "image %u has no %s%s", number, coco->has_id ? "file_name" : "id",
				 coco->sentences ? "; is this a Karpathy file? Then use --format karpathy" : "");
	return note_image(coco, number, err);
}

/* --- annotations -------------------------------------------------------------------- */

static int annotation_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct coco *coco = context;
	int code;

	if (strcmp(key, "image_id") == 0)
		return (code = json_once(json, &coco->id_seen, key, err)) != 0 ? code :
		       json_text(json, &coco->id, &coco->has_id, "image_id", err);
	if (strcmp(key, "caption") != 0)
		return json_skip(json, err);
	if ((code = json_once(json, &coco->text_seen, key, err)) == 0)
		code = json_next(json, err);
	if (code == 0 && json->kind != JSON_STRING)
		code = json_fail(json, err, "caption must be a string");
	coco->has_caption = true;
	return code != 0 ? code : item_add_caption(&coco->item, json->text.data, json->text.size, err);
}

static int unknown_image(struct coco *coco, uint32_t number, struct err *err)
{
	size_t used = strlen(coco->unknown);

	if (coco->unknown_count++ < LISTING_EXAMPLES_MAX)
		snprintf(coco->unknown + used, sizeof(coco->unknown) - used, "%s%.40s", used > 0 ? ", " : "", coco->id.data);
	if (!coco->reader->listing->skip_bad)
		return 0; /* the error comes at the end and says how many */
	return reader_bad_item(coco->reader, number, err, "its image_id %.40s is not in the file's list of images",
			       coco->id.data);
}

static int annotation(void *context, struct json_reader *json, uint32_t number, struct err *err)
{
	struct coco *coco = context;
	int code;

	item_clear(&coco->item);
	coco->has_id = coco->has_caption = coco->id_seen = coco->text_seen = false;
	if ((code = json_object(json, "an annotation", annotation_field, coco, err)) != 0)
		return code;
	if (!coco->has_id || !coco->has_caption)
		return json_fail(json, err, "annotation %u has no %s%s", number, coco->has_id ? "caption" : "image_id",
				 coco->has_id ? "; captions_*.json has captions, instances_*.json has none" : "");
	uint32_t id = strings_find(&coco->ids, coco->id.data, coco->id.size);
	if (id == STRINGS_NONE)
		return unknown_image(coco, number, err);
	coco->captioned[id] = true;
	uint32_t name = coco->name_of_id[id];
	coco->item.number = number;
	coco->item.has_image = true;
	if ((code = buf_add(&coco->item.image, strings_at(&coco->names, name), strings_bytes(&coco->names, name), err)) != 0)
		return code;
	return reader_item(coco->reader, &coco->item, err);
}

/* --- the file ----------------------------------------------------------------------------- */

static int top_field(void *context, struct json_reader *json, const char *key, struct err *err)
{
	struct coco *coco = context;
	int code;

	if (strcmp(key, "images") == 0) {
		coco->has_images = true;
		if ((code = json_once(json, &coco->images_seen, key, err)) != 0)
			return code;
		return coco->pass == 1 ? json_array(json, "images", image, coco, err) : json_skip(json, err);
	}
	if (strcmp(key, "annotations") == 0) {
		coco->has_annotations = true;
		if ((code = json_once(json, &coco->annotations_seen, key, err)) != 0)
			return code;
		return coco->pass == 2 ? json_array(json, "annotations", annotation, coco, err) : json_skip(json, err);
	}
	return json_skip(json, err);
}

static int read_pass(struct coco *coco, uint32_t pass, const char *bytes, size_t size, struct err *err)
{
	struct json_reader json;
	int code;

	json_reader_init(&json, coco->reader->name, bytes, size);
	json.lenient_utf8 = true; /* captions are judged one by one */
	coco->pass = pass;
	coco->images_seen = coco->annotations_seen = false;
	if ((code = json_next(&json, err)) == 0 &&
	    (code = json_object(&json, "a COCO captions file", top_field, coco, err)) == 0)
		code = json_expect(&json, JSON_END, err);
	json_reader_free(&json);
	return code;
}

static int check_found(struct coco *coco, struct err *err)
{
	struct reader *reader = coco->reader;
	uint32_t without = 0;

	if (coco->unknown_count > 0 && !reader->listing->skip_bad)
		return err_set(err, ERR_MISMATCH, "%s: %u annotation%s that its list of images lacks (image_id %s%s); "
			       "images and annotations are not of the same data set, or leave %s out with --on-bad skip",
			       reader->name, coco->unknown_count, coco->unknown_count == 1 ? " belongs to a picture" : "s belong to pictures",
			       coco->unknown,
			       coco->unknown_count > LISTING_EXAMPLES_MAX ? ", ..." : "", coco->unknown_count == 1 ? "it" : "these");
	for (uint32_t i = 0; i < coco->ids.count; i++)
		without += !coco->captioned[i];
	if (without == 0)
		return 0;
	return listing_add_note(reader->listing, err, "%s: %u of its %u image%s no caption and %s left out", reader->name, without,
				coco->ids.count, coco->ids.count == 1 ? " has" : without == 1 ? "s has" : "s have", without == 1 ? "is" : "are");
}

int read_coco(struct reader *reader, const char *bytes, size_t size, struct err *err)
{
	struct coco coco = { .reader = reader };
	int code;

	reader->listing->files[reader->file].item = "annotation";
	if ((code = read_pass(&coco, 1, bytes, size, err)) != 0)
		goto out;
	if (!coco.has_images || !coco.has_annotations) {
		code = err_set(err, ERR_FORMAT, "%s: no \"%s\"; a COCO captions file has \"images\" and \"annotations\"%s", reader->name,
			       coco.has_images ? "annotations" : "images",
			       coco.sentences ? " (this looks like --format karpathy)" : "");
		goto out;
	}
	if ((coco.captioned = mem_array((size_t)coco.ids.count + 1, sizeof(bool))) == NULL) {
		code = err_nomem(err, coco.ids.count);
		goto out;
	}
	if ((code = read_pass(&coco, 2, bytes, size, err)) == 0)
		code = check_found(&coco, err);
out:
	strings_free(&coco.ids);
	strings_free(&coco.names);
	mem_free(coco.name_of_id);
	mem_free(coco.captioned);
	buf_free(&coco.id);
	item_free(&coco.item);
	return code;
}
