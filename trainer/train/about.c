#include "trainer/train/about.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int about_model_write(const struct about_model *about, struct buf *out, struct err *err)
{
	return buf_printf(out, err,
			  "{\"task\": \"%s\", \"image_size\": %" PRId64 ", \"vocab_size\": %" PRId64 ", \"classes\": %" PRId64
			  ", \"pad_id\": %" PRId64 ", \"features\": %" PRId64 ", \"parameters\": %" PRId64
			  ", \"image_encoder\": \"%s\", \"text_encoder\": \"%s\"}",
			  model_task_name(about->task), about->image_size, about->vocab_size, about->classes,
			  about->pad_id, about->features, about->parameters, about->image_encoder, about->text_encoder);
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
