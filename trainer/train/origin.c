#include "trainer/train/origin.h"

#include <string.h>

#include "trainer/model/encoders.h"

/* In the order of origin_read()'s keys. */
static int read_text(struct origin *out, int which, struct json_reader *reader, struct err *err)
{
	switch (which) {
	case 0: return run_config_read(&out->config, reader, err);
	case 1: return about_model_read(&out->model, reader, err);
	case 2: return about_classes_read(&out->classes, reader, err);
	default: return about_data_read(&out->data, reader, err);
	}
}

int origin_read(struct origin *out, const struct statefile *state, struct err *err)
{
	static const char *const keys[] = { "config", "model", "model", "dataset" };
	const struct tensorfile *file = statefile_safetensors(state);
	int code = 0;

	*out = (struct origin){ .ours = file != NULL && tensorfile_metadata(file, "checksum") != NULL };
	run_config_init(&out->config);
	for (int i = 0; out->ours && code == 0 && i < (int)ARRAY_LEN(keys); i++) {
		const char *text = tensorfile_metadata(file, keys[i]);
		struct json_reader reader;

		if (text == NULL)
			return err_set(err, ERR_MISMATCH, "%s: does not say what model it is; name best.safetensors or last.safetensors of a run",
				       tensorfile_path(file));
		json_reader_init(&reader, tensorfile_path(file), text, strlen(text));
		code = read_text(out, i, &reader, err);
		json_reader_free(&reader);
	}
	return code;
}

int origin_check_text(const struct origin *origin, const char *path, const struct bert_config *ours, struct err *err)
{
	struct bert_config theirs = *ours;
	int code = origin->config.text_encoder == NULL ? 0 : text_encoder_set(&theirs, origin->config.text_encoder, err);

	if (code != 0)
		return err_prefix(err, "%s", path);
	/* Another width is another tower altogether, as the shapes will say. */
	if (theirs.width != ours->width || (theirs.heads == ours->heads && (float)theirs.norm_eps == (float)ours->norm_eps))
		return 0;
	return err_set(err, ERR_MISMATCH, "%s: its text tower was trained with %d heads and an eps of %.9g, this model's has %d and %.9g, which "
		       "makes another tower of the same weights; add --text-encoder heads=%d,eps=%.9g", path, theirs.heads, theirs.norm_eps,
		       ours->heads, ours->norm_eps, theirs.heads, theirs.norm_eps);
}

void origin_free(struct origin *origin)
{
	run_config_free(&origin->config);
	about_classes_free(&origin->classes);
}
