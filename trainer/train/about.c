#include "trainer/train/about.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- classes ---- */

int about_classes_set(struct about_classes *out, const char *const *names, uint32_t count, struct err *err)
{
	struct hash_stream *stream;
	size_t bytes = 0;
	int code = hash_stream_open(&stream, err);

	*out = (struct about_classes){ .known = false };
	if (code != 0)
		return code;
	for (uint32_t i = 0; i < count; i++) {
		size_t length = strlen(names[i]);

		hash_stream_add_field(stream, names[i], length);
		bytes += length + 1;
	}
	hash_stream_final(stream, &out->hash);
	for (uint32_t i = 0; bytes <= ABOUT_CLASSES_BYTES && code == 0 && i < count; i++)
		code = buf_add(&out->names, names[i], strlen(names[i]) + 1, err);
	out->known = code == 0;
	if (code != 0)
		about_classes_free(out);
	return code;
}

void about_classes_free(struct about_classes *classes)
{
	buf_free(&classes->names);
	classes->known = false;
}

bool about_classes_differ(const struct about_classes *there, const struct about_classes *here, char text[ABOUT_DIFFERENCE_BYTES])
{
	const struct buf *a = &there->names, *b = &here->names;
	size_t at = 0, other = 0;
	int index = 0;

	if (!there->known || !here->known || hash_equal(&there->hash, &here->hash))
		return false;
	for (; at < a->size && other < b->size && strcmp(a->data + at, b->data + other) == 0; index++) {
		at += strlen(a->data + at) + 1;
		other += strlen(b->data + other) + 1;
	}
	if (at < a->size && other < b->size)
		snprintf(text, ABOUT_DIFFERENCE_BYTES, "class %d is '%.120s' there and '%.120s' here", index, a->data + at, b->data + other);
	else
		snprintf(text, ABOUT_DIFFERENCE_BYTES, "the names of the classes are others");
	return true;
}

static int write_classes(const struct about_classes *classes, struct buf *out, struct err *err)
{
	char hex[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&classes->hash, hex);
	if ((code = buf_printf(out, err, ", \"class_hash\": \"%s\"", hex)) != 0 || classes->names.size == 0)
		return code;
	code = buf_add_text(out, ", \"class_names\": [", err);
	for (size_t at = 0; code == 0 && at < classes->names.size;) {
		const char *name = classes->names.data + at;

		if ((code = buf_add_text(out, at > 0 ? ", " : "", err)) == 0)
			code = json_add_string(out, name, strlen(name), err);
		at += strlen(name) + 1;
	}
	return code != 0 ? code : buf_add_byte(out, ']', err);
}

static int read_names(struct buf *out, struct json_reader *reader, struct err *err)
{
	int code = json_expect(reader, JSON_ARRAY_BEGIN, err);

	while (code == 0 && (code = json_next(reader, err)) == 0 && reader->kind != JSON_ARRAY_END) {
		if (reader->kind != JSON_STRING)
			return json_fail(reader, err, "the name of a class is a text");
		if (out->size + reader->text.size >= ABOUT_CLASSES_BYTES)
			return json_fail(reader, err, "names of classes longer than %d bytes", ABOUT_CLASSES_BYTES);
		if ((code = buf_add(out, reader->text.data, reader->text.size, err)) == 0)
			code = buf_add_byte(out, '\0', err);
	}
	return code;
}

int about_classes_read(struct about_classes *classes, struct json_reader *reader, struct err *err)
{
	int code = json_expect(reader, JSON_OBJECT_BEGIN, err);

	*classes = (struct about_classes){ .known = false };
	while (code == 0) {
		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		if (strcmp(reader->text.data, "class_names") == 0) {
			code = read_names(&classes->names, reader, err);
		} else if (strcmp(reader->text.data, "class_hash") != 0) {
			code = json_skip(reader, err);
		} else if ((code = json_expect(reader, JSON_STRING, err)) == 0) {
			code = hash_from_hex(&classes->hash, reader->text.data, err);
			classes->known = code == 0;
		}
	}
	if (code != 0)
		about_classes_free(classes);
	return code;
}

/* ---- the model ---- */

int about_model_write(const struct about_model *about, const struct about_classes *classes, struct buf *out, struct err *err)
{
	int code = buf_printf(out, err,
			      "{\"task\": \"%s\", \"image_size\": %" PRId64 ", \"vocab_size\": %" PRId64 ", \"classes\": %" PRId64
			      ", \"pad_id\": %" PRId64 ", \"features\": %" PRId64 ", \"parameters\": %" PRId64
			      ", \"image_encoder\": \"%s\", \"text_encoder\": \"%s\"",
			      model_task_name(about->task), about->image_size, about->vocab_size, about->classes,
			      about->pad_id, about->features, about->parameters, about->image_encoder, about->text_encoder);

	if (code == 0 && classes->known)
		code = write_classes(classes, out, err);
	return code != 0 ? code : buf_add_byte(out, '}', err);
}

static int read_number(struct json_reader *reader, int64_t *out, struct err *err)
{
	int code = json_expect(reader, JSON_NUMBER, err);

	return code != 0 ? code : json_int(reader, out, err);
}

int about_model_read(struct about_model *about, struct json_reader *reader, struct err *err)
{
	struct {
		const char *name;
		int64_t *value;
	} numbers[] = {
		{ "image_size", &about->image_size }, { "vocab_size", &about->vocab_size }, { "classes", &about->classes },
		{ "pad_id", &about->pad_id }, { "features", &about->features }, { "parameters", &about->parameters },
	};
	int code;

	*about = (struct about_model){ .image_size = -1, .vocab_size = -1, .classes = -1, .pad_id = -1 };
	code = json_expect(reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		int64_t *number = NULL;

		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		bool task = strcmp(reader->text.data, "task") == 0;
		for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
			if (strcmp(numbers[i].name, reader->text.data) == 0)
				number = numbers[i].value;
		if (number != NULL) {
			code = read_number(reader, number, err);
		} else if (task) {
			if ((code = json_expect(reader, JSON_STRING, err)) == 0)
				code = model_task_parse(&about->task, reader->text.data, err);
		} else {
			code = json_skip(reader, err);
		}
	}
	if (code == 0 && (about->image_size < 1 || about->vocab_size < 1 || about->classes < 1 || about->pad_id < 0))
		code = json_fail(reader, err, "the sizes of the model are incomplete");
	return code;
}

/* ---- the data ---- */

int about_data_write(const struct about_data *about, struct buf *out, struct err *err)
{
	char version[HASH_HEX_BYTES], vocab[HASH_HEX_BYTES];
	int code;

	hash_to_hex(&about->version, version);
	hash_to_hex(&about->vocab_hash, vocab);
	if ((code = buf_add_text(out, "{\"name\": ", err)) != 0 ||
	    (code = json_add_string(out, about->name, strlen(about->name), err)) != 0 ||
	    (code = buf_printf(out, err, ", \"version\": \"%s\", \"vocab\": ", version)) != 0 ||
	    (code = json_add_string(out, about->vocab, strlen(about->vocab), err)) != 0)
		return code;
	return buf_printf(out, err, ", \"vocab_hash\": \"%s\"}", vocab);
}

int about_data_read(struct about_data *about, struct json_reader *reader, struct err *err)
{
	bool has_version = false, has_vocab = false;
	int code;

	*about = (struct about_data){ .name = "" };
	code = json_expect(reader, JSON_OBJECT_BEGIN, err);
	while (code == 0) {
		char key[32];

		if ((code = json_next(reader, err)) != 0 || reader->kind == JSON_OBJECT_END)
			break;
		snprintf(key, sizeof(key), "%s", reader->text.data);
		bool name = strcmp(key, "name") == 0, vocab = strcmp(key, "vocab") == 0;
		bool version = strcmp(key, "version") == 0, vocab_hash = strcmp(key, "vocab_hash") == 0;
		if (!name && !vocab && !version && !vocab_hash) {
			code = json_skip(reader, err);
			continue;
		}
		if ((code = json_expect(reader, JSON_STRING, err)) != 0)
			break;
		if (name)
			snprintf(about->name, sizeof(about->name), "%s", reader->text.data);
		else if (vocab)
			snprintf(about->vocab, sizeof(about->vocab), "%s", reader->text.data);
		else
			code = hash_from_hex(version ? &about->version : &about->vocab_hash, reader->text.data, err);
		has_version |= version;
		has_vocab |= vocab_hash;
	}
	if (code == 0 && (!has_version || !has_vocab))
		code = json_fail(reader, err, "the data set's version or vocabulary is missing");
	return code;
}
