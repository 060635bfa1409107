#include "trainer/model/encoders.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/args.h"

enum { TORCHVISION_WIDTH = 64, SIZE_MAX_VALUE = 1 << 24 };

static const struct {
	const char *name;
	bool bottleneck;
	int blocks[4];
} resnets[] = {
	{ "resnet18", false, { 2, 2, 2, 2 } },  { "resnet34", false, { 3, 4, 6, 3 } },  { "resnet50", true, { 3, 4, 6, 3 } },
	{ "resnet101", true, { 3, 4, 23, 3 } }, { "resnet152", true, { 3, 8, 36, 3 } },
};

int image_encoder_set(struct resnet_config *config, const char *name, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(resnets); i++) {
		if (strcmp(resnets[i].name, name) != 0)
			continue;
		config->bottleneck = resnets[i].bottleneck;
		memcpy(config->blocks, resnets[i].blocks, sizeof(config->blocks));
		config->width = TORCHVISION_WIDTH;
		return 0;
	}
	return err_set(err, ERR_USAGE, "--image-encoder: no encoder is called '%s'; choose resnet18, resnet34, resnet50, resnet101 or resnet152",
		       name);
}

const char *image_encoder_text(const struct resnet_config *config, char out[ENCODER_TEXT_BYTES])
{
	const int *b = config->blocks;

	for (size_t i = 0; i < ARRAY_LEN(resnets); i++)
		if (config->width == TORCHVISION_WIDTH && config->bottleneck == resnets[i].bottleneck &&
		    memcmp(b, resnets[i].blocks, sizeof(resnets[i].blocks)) == 0) {
			snprintf(out, ENCODER_TEXT_BYTES, "%s", resnets[i].name);
			return out;
		}
	snprintf(out, ENCODER_TEXT_BYTES, "%d+%d+%d+%d %s blocks of width %d", b[0], b[1], b[2], b[3],
		 config->bottleneck ? "bottleneck" : "basic", config->width);
	return out;
}

static int set_real(const char *key, const char *value, double most, double *out, struct err *err)
{
	if (args_parse_real(value, out, NULL) != 0 || !(*out >= 0 && *out < most))
		return err_set(err, ERR_USAGE, "--text-encoder: %s is at least 0 and below %g, so not '%.40s'", key, most, value);
	return 0;
}

static int set_size(const char *key, const char *value, int *out, struct err *err)
{
	int64_t number;

	if (args_parse_int(value, 1, SIZE_MAX_VALUE, &number, NULL) != 0)
		return err_set(err, ERR_USAGE, "--text-encoder: %s is a number from 1 to %d, so not '%.40s'", key, SIZE_MAX_VALUE, value);
	*out = (int)number;
	return 0;
}

static int set_one(struct bert_config *config, const char *key, const char *value, struct err *err)
{
	const struct {
		const char *name;
		int *size;
	} sizes[] = {
		{ "layers", &config->layers }, { "width", &config->width },   { "heads", &config->heads },
		{ "inner", &config->inner },   { "vocab", &config->vocab_size }, { "positions", &config->max_positions },
		{ "types", &config->token_types },
	};

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		if (strcmp(sizes[i].name, key) == 0)
			return set_size(key, value, sizes[i].size, err);
	if (strcmp(key, "eps") == 0)
		return set_real(key, value, 1, &config->norm_eps, err);
	if (strcmp(key, "attention-dropout") == 0)
		return set_real(key, value, 1, &config->attention_dropout, err);
	return err_set(err, ERR_USAGE, "--text-encoder: '%.40s' is none of layers, width, heads, inner, vocab, positions, types, eps, "
		       "attention-dropout", key);
}

/* Whether a key stands in the first so many bytes of a specification, too. */
static bool stood_before(const char *spec, size_t bytes, const char *key)
{
	size_t length = strlen(key);

	for (const char *at = spec; at < spec + bytes; at += strcspn(at, ",") + 1)
		if (strncmp(at, key, length) == 0 && at[length] == '=')
			return true;
	return false;
}

int text_encoder_set(struct bert_config *config, const char *spec, struct err *err)
{
	char copy[ENCODER_TEXT_BYTES], *rest = copy, *item;
	int code = 0;

	if (snprintf(copy, sizeof(copy), "%s", spec) >= (int)sizeof(copy))
		return err_set(err, ERR_USAGE, "--text-encoder: longer than %d characters", ENCODER_TEXT_BYTES - 1);
	while (code == 0 && (item = strsep(&rest, ",")) != NULL) {
		char *equals = strchr(item, '=');

		if (equals == NULL)
			return err_set(err, ERR_USAGE, "--text-encoder: '%.40s' is no KEY=VALUE; an example: layers=4,width=256,heads=4,inner=1024",
				       item);
		*equals = '\0';
		if (stood_before(spec, (size_t)(item - copy), item))
			return err_set(err, ERR_USAGE, "--text-encoder: %.40s stands twice", item);
		code = set_one(config, item, equals + 1, err);
	}
	return code;
}

const char *text_encoder_text(const struct bert_config *config, char out[ENCODER_TEXT_BYTES])
{
	int used = snprintf(out, ENCODER_TEXT_BYTES, "layers=%d,width=%d,heads=%d,inner=%d,positions=%d,types=%d,eps=%.9g", config->layers,
			    config->width, config->heads, config->inner, config->max_positions, config->token_types, config->norm_eps);

	if (config->vocab_size > 0)
		used += snprintf(out + used, ENCODER_TEXT_BYTES - (size_t)used, ",vocab=%d", config->vocab_size);
	if (config->attention_dropout >= 0)
		snprintf(out + used, ENCODER_TEXT_BYTES - (size_t)used, ",attention-dropout=%.9g", config->attention_dropout);
	return out;
}
