/*
 * weights.h - a model's state dict out into safetensors files, and in from any
 * file that statefile.h opens (safetensors, torch.save(), shards, folders).
 *
 * Names and shapes are those of the PyTorch module (params.h), so a saved file
 * loads there with strict=True and back. F32, F64 (rounded to the nearest
 * float32), F16 and BF16 (exact) are accepted; for num_batches_tracked integers,
 * too. A file whose values are not all finite is refused, and
 * on any error the model keeps the values it had.
 *
 * Three kinds of file are understood:
 *   WEIGHTS_STATE  the whole model under the script's names
 *   WEIGHTS_IMAGE  torchvision's ResNet: names without `image_encoder.`; fc is skipped when it has
 *                  another shape, since the script replaces it
 *   WEIGHTS_TEXT   Hugging Face's BertModel: names without `text_encoder.`, with or without `bert.`;
 *                  LayerNorm's `gamma` and `beta` count as `weight` and `bias`; the heads of
 *                  pre-training (cls.*) are skipped
 * `embeddings.position_ids` is ignored: it is a constant.
 *
 * Threads:   one caller.
 * Ownership: weights_load() copies; nothing of the file is kept.
 * Format:    schemas/weights.md.
 */
#ifndef TRAINER_IO_WEIGHTS_H
#define TRAINER_IO_WEIGHTS_H

#include "shared/base/buf.h"
#include "trainer/io/statefile.h"
#include "trainer/nn/params.h"

enum weights_kind { WEIGHTS_STATE, WEIGHTS_IMAGE, WEIGHTS_TEXT };

/* What a load did. Lists are lines of names for people. */
struct weights_report {
	int loaded;           /* parameters and buffers that took a value */
	int missing;          /* of the model's (of the kind's part of it), not in the file */
	int unexpected;       /* in the file, not in the model */
	int skipped;          /* in the file, left out on purpose (fc, cls.*, position_ids) */
	struct buf missing_names, unexpected_names, skipped_names; /* "a\nb\n" */
};
void weights_report_free(struct weights_report *report);

/* Reads values into params. A tensor of another shape is ERR_MISMATCH that
 * names it and both shapes, and so is a file with no tensor of the kind; one
 * that is missing keeps its value and is reported. The pooler, counters and a
 * replaced fc never count as missing. report is filled on success and may be NULL. */
MUST_USE int weights_load(struct params *params, const char *path, enum weights_kind kind, struct weights_report *report,
			  struct err *err);
/* The same of an open file. */
MUST_USE int weights_take(struct params *params, const struct statefile *file, enum weights_kind kind, struct weights_report *report,
			  struct err *err);

/* As weights_load for WEIGHTS_STATE from an open file; every tensor that is
 * trained must be there: ERR_MISMATCH names the first ones missing. Unused
 * parameters, running statistics and counters may be missing. prefix: names in the file are
 * prefix + name ("" for none); other names of the file are not looked at when
 * the prefix is not empty. */
MUST_USE int weights_load_strict(struct params *params, const struct statefile *file, const char *prefix, struct err *err);

/* Views of every parameter, buffer, counter and unused parameter, for
 * tensorfile_write(): out has room for params->count; returns how many.
 * Counters point into params. Views live as long as params. */
int weights_views(const struct params *params, struct tensor_view *out);

#endif
