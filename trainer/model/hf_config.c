#include "trainer/model/hf_config.h"

#include <stdio.h>
#include <string.h>

#include "shared/base/fs.h"
#include "shared/base/json.h"
#include "shared/base/mem.h"
#include "trainer/model/encoders.h"

enum { SIZE_MOST = 1 << 24 };

#define CONFIG_BYTES_MAX ((size_t)1 << 20)

static int read_size(struct json_reader *reader, const char *key, int *out, struct err *err)
{
	int64_t number = 0;
	int code = json_expect(reader, JSON_NUMBER, err);

	if (code != 0 || (code = json_int(reader, &number, err)) != 0)
		return code;
	if (number < 1 || number > SIZE_MOST)
		return json_fail(reader, err, "%s is a number from 1 to %d, so not %lld", key, SIZE_MOST, (long long)number);
	*out = (int)number;
	return 0;
}

static int read_real(struct json_reader *reader, const char *key, double *out, struct err *err)
{
	int code = json_expect(reader, JSON_NUMBER, err);

	if (code != 0 || (code = json_real(reader, out, err)) != 0)
		return code;
	if (!(*out >= 0 && *out < 1))
		return json_fail(reader, err, "%s is at least 0 and below 1, so not %g", key, *out);
	return 0;
}

/* A text that must be one of these two; other may be NULL. */
static int expect_text(struct json_reader *reader, const char *key, const char *one, const char *other, struct err *err)
{
	int code = json_next(reader, err);

	if (code != 0 || reader->kind == JSON_NULL)
		return code;
	if (reader->kind != JSON_STRING)
		return json_fail(reader, err, "%s is a text", key);
	if (strcmp(reader->text.data, one) == 0 || (other != NULL && strcmp(reader->text.data, other) == 0))
		return 0;
	return err_set(err, ERR_UNSUPPORTED, "%s: %s is '%.60s', but the text tower is a BERT with %s '%s' only", reader->name, key,
		       reader->text.data, key, one);
}

static int expect_false(struct json_reader *reader, const char *key, struct err *err)
{
	int code = json_next(reader, err);

	if (code != 0 || reader->kind == JSON_NULL || reader->kind == JSON_FALSE)
		return code;
	return err_set(err, ERR_UNSUPPORTED, "%s: %s is set, but the text tower is an encoder without it", reader->name, key);
}

/* The value of a key that the reader has just read. */
static int read_member(struct bert_config *config, struct json_reader *reader, struct err *err)
{
	const struct {
		const char *key;
		int *size;
	} sizes[] = {
		{ "hidden_size", &config->width }, { "num_hidden_layers", &config->layers }, { "num_attention_heads", &config->heads },
		{ "intermediate_size", &config->inner }, { "vocab_size", &config->vocab_size },
		{ "max_position_embeddings", &config->max_positions }, { "type_vocab_size", &config->token_types },
	};
	const struct {
		const char *key;
		double *real;
	} reals[] = {
		{ "layer_norm_eps", &config->norm_eps }, { "hidden_dropout_prob", &config->dropout },
		{ "attention_probs_dropout_prob", &config->attention_dropout },
	};
	const char *key = reader->text.data;

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		if (strcmp(sizes[i].key, key) == 0)
			return read_size(reader, sizes[i].key, sizes[i].size, err);
	for (size_t i = 0; i < ARRAY_LEN(reals); i++)
		if (strcmp(reals[i].key, key) == 0)
			return read_real(reader, reals[i].key, reals[i].real, err);
	if (strcmp(key, "hidden_act") == 0)
		return expect_text(reader, "hidden_act", "gelu", "gelu_python", err); /* both are the erf form */
	if (strcmp(key, "model_type") == 0)
		return expect_text(reader, "model_type", "bert", NULL, err);
	if (strcmp(key, "position_embedding_type") == 0)
		return expect_text(reader, "position_embedding_type", "absolute", NULL, err);
	if (strcmp(key, "is_decoder") == 0)
		return expect_false(reader, "is_decoder", err);
	if (strcmp(key, "add_cross_attention") == 0)
		return expect_false(reader, "add_cross_attention", err);
	return json_skip(reader, err);
}

static int parse(struct bert_config *config, const char *path, const struct buf *text, struct err *err)
{
	struct json_reader reader;
	int code;

	json_reader_init(&reader, path, text->data, text->size);
	code = json_expect(&reader, JSON_OBJECT_BEGIN, err);
	while (code == 0 && (code = json_next(&reader, err)) == 0 && reader.kind == JSON_KEY)
		code = read_member(config, &reader, err);
	if (code == 0)
		code = json_expect(&reader, JSON_END, err);
	json_reader_free(&reader);
	return code;
}

int hf_config_read(struct bert_config *config, const char *path, struct err *err)
{
	struct bert_config read = { .layers = 12, .width = 768, .heads = 12, .inner = 3072, .max_positions = 512, .token_types = 2,
				    .pad_id = config->pad_id, .dropout = 0.1, .attention_dropout = 0.1, .norm_eps = 1e-12 };
	struct buf text = BUF_INIT;
	char *inside = NULL;
	int code = 0;

	if (fs_is_dir(path)) {
		if ((code = fs_join(&inside, path, "config.json", err)) != 0)
			return code;
		path = inside;
	}
	if ((code = fs_read(path, CONFIG_BYTES_MAX, &text, err)) == 0)
		code = parse(&read, path, &text, err);
	if (code == 0)
		*config = read;
	buf_free(&text);
	mem_free(inside);
	return code;
}

int encoders_apply(struct model_config *config, const char *image_encoder, const char *text_config, const char *text_encoder,
		   struct err *err)
{
	struct bert_config *text = &config->text;
	double dropout = text->dropout, attention_dropout = text->attention_dropout;
	int code;

	if (image_encoder != NULL && (code = image_encoder_set(&config->image, image_encoder, err)) != 0)
		return code;
	if (text_config != NULL && (code = hf_config_read(text, text_config, err)) != 0)
		return err_prefix(err, "--text-config");
	if (text_encoder != NULL && (code = text_encoder_set(text, text_encoder, err)) != 0)
		return code;
	text->dropout = dropout;
	text->attention_dropout = attention_dropout;
	return 0;
}

bool hf_config_beside(const char *weights, char *out, size_t out_bytes)
{
	const char *slash = strrchr(weights, '/');
	int folder = slash == NULL ? 0 : (int)(slash - weights) + 1, length;

	if (fs_is_dir(weights))
		length = snprintf(out, out_bytes, "%s/config.json", weights);
	else
		length = snprintf(out, out_bytes, "%.*sconfig.json", folder, weights);
	return length > 0 && (size_t)length < out_bytes && fs_exists(out) && !fs_is_dir(out);
}
