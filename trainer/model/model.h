/*
 * model.h - the fusion model as a chain of stages, forward and backward.
 *
 *     pixels -> image tower -> v      (B, F)
 *     ids -> word embeddings -> text tower -> t   (C, F)
 *     (v, t, pairs) -> fusion -> head -> logits (N, K), loss
 * or  (v, t, samples) -> InfoNCE (contrast.h), in the place of the fusion stage
 *
 * Each stage runs alone in both directions and gives the gradient of its
 * input, which is what an adversary needs: a perturbation of word embeddings
 * re-runs only the text tower, one of features only the fusion stage.
 *
 * A backward call uses the activations of the last forward call of the same
 * stage, and ADDS to the gradients in params (zero them first). Everything is
 * planned in model_open(): no call below allocates, none can fail.
 *
 * Threads:   one caller; kernels use the OpenMP team inside.
 * Ownership: the model owns parameters and activations; inputs and outputs are the caller's
 *            (from model_alloc(), 64-byte aligned).
 * Limits:    struct model_limits.
 */
#ifndef TRAINER_MODEL_MODEL_H
#define TRAINER_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "shared/base/err.h"
#include "trainer/nn/params.h"

enum { MODEL_FROZEN_GROUP = 8 }; /* pictures or captions of one call of a frozen tower */

enum model_task { TASK_MATCH, TASK_CLASSIFY, TASK_CONTRAST };
/* "match", "classify", "contrast" */
const char *model_task_name(enum model_task task);
/* ERR_USAGE: no such task. */
MUST_USE int model_task_parse(enum model_task *out, const char *name, struct err *err);

struct resnet_config {
	bool bottleneck;      /* blocks of 1x1-3x3-1x1, expansion 4 (ResNet-50); else two 3x3 (ResNet-18) */
	int blocks[4];        /* {3,4,6,3}; {2,2,2,2} */
	int width;            /* channels of the stem and first stage: 64 */
	int image_size;       /* pixels */
	int out_features;     /* fc: F */
};

struct bert_config {
	int layers, width, heads, inner;
	int vocab_size, max_positions, token_types; /* 30522, 512, 2 */
	int pad_id;
	double dropout;       /* of embeddings and layers' outputs: 0.1 in the script */
	double attention_dropout; /* of attention probabilities; -1: the same */
	double norm_eps;      /* of every LayerNorm: 1e-12 */
};

struct model_config {
	enum model_task task;
	struct resnet_config image;
	struct bert_config text;
	int features;         /* F: 768; tiny: smaller. Fusion is Linear(2F, F), head Linear(F, classes) */
	int classes;          /* 2 for matching, 1 (and not used) for contrast */
	double fusion_dropout; /* 0.3 in the script; changes between steps through model_set_fusion_dropout() */
	bool freeze_image, freeze_text; /* forward only, as for evaluation, at most MODEL_FROZEN_GROUP at a time; see encoder.h */
};

/* name: full, small, tiny. image_size 0: the preset's own (224, 112, 64).
 * ERR_USAGE names the presets. vocab_size and classes are set by the caller afterwards. */
MUST_USE int model_preset(struct model_config *out, const char *name, int image_size, struct err *err);
/* ERR_LIMIT: a batch of so many pictures leaves a batch norm one value a channel, whose own mean it is: the last stage would be
 * constant, and PyTorch refuses to train so, too. */
MUST_USE int model_check_batch(const struct model_config *config, int pictures, struct err *err);
/* Sizes read off the names and shapes of a weights file (vocabulary, classes); see probe. */

struct model_limits {
	int pictures;   /* B of one image_forward */
	int captions;   /* C of one text_forward */
	int tokens;     /* sum of their lengths */
	int tokens_per_caption;
	int pairs;      /* N */
	bool training;  /* false: forward only, less memory */
	int fused_rows; /* rows of v, or of t, of one fusion_forward; 0: pictures and captions */
	bool recompute; /* training: keep little of a forward pass and make it again in backward. Less memory, more time, the same bits */
};

struct model;
MUST_USE int model_open(struct model **out, const struct model_config *config, const struct model_limits *limits,
			struct err *err);
void model_close(struct model *model); /* NULL is fine */
const struct model_config *model_config(const struct model *model);
struct params *model_params(struct model *model);
/* Memory for activations, gradients of activations and scratch that batches of at most this size touch, with or without recompute. */
size_t model_activation_bytes(const struct model *model, const struct model_limits *batch, bool recompute);
void model_set_fusion_dropout(struct model *model, double probability);

/* Probabilities of whatever is dropped in the towers and behind the fusion layer. */
struct model_drops {
	double head;                      /* between LayerNorm and head */
	double bert_hidden, bert_attention; /* below 0: the configuration's */
	double image_depth, text_depth;   /* of the last block's or layer's branches; l/L of it in number l of L */
};
/* Between steps: a backward call must see what its forward call saw. */
void model_set_drops(struct model *model, const struct model_drops *drops);
/* While true, backward calls give gradients of inputs alone and leave those of parameters as they are. */
void model_inputs_only(struct model *model, bool inputs_only);

enum model_mode {
	MODEL_TRAIN,       /* batch norm on batch statistics, running statistics updated */
	MODEL_TRAIN_KEEP,  /* batch statistics, running statistics untouched (probe, adversarial passes) */
	MODEL_EVAL,        /* running statistics */
};

/* How a forward call runs. The same (seed, step) and positions give the same
 * dropout masks, so a stage can be run again with them. */
struct model_call {
	enum model_mode mode;
	bool dropout;              /* off: no dropout anywhere */
	uint64_t seed, step;
	const uint32_t *positions; /* place of each picture or caption in the global batch; NULL: 0, 1, 2 ... */
};

/* pixels (B,3,H,W) f32 normalized, or (B,H,W,3) when nhwc -> v (B,F). The latter are read again by backward: they stay as they are until then. */
void model_image_forward(struct model *model, const struct model_call *call, const float *pixels, bool nhwc, int B, float *v);
/* dv (B,F) -> parameter gradients; dpixels as pixels' layout, or NULL. Once after each forward call: it spends what that has kept. */
void model_image_backward(struct model *model, const float *dv, float *dpixels);

/* ids (T) packed -> word (T,W): rows of the word-embedding table */
void model_embed_forward(struct model *model, const int32_t *ids, int T, float *word);
void model_embed_backward(struct model *model, const int32_t *ids, int T, const float *dword);

/* word (T,W), offsets (C+1) -> t (C,F). Positions, types, LayerNorm, encoder, [CLS], projector. */
void model_text_forward(struct model *model, const struct model_call *call, const float *word, const uint32_t *offsets,
			int C, float *t);
/* dt (C,F) -> parameter gradients; dword (T,W) or NULL */
void model_text_backward(struct model *model, const float *dt, float *dword);

struct model_pairs {
	int count;               /* N */
	const uint32_t *picture; /* (N) row of v */
	const uint32_t *caption; /* (N) row of t */
	const int32_t *label;    /* (N) class */
	const float *weight;     /* (N) of each pair's cross-entropy in the loss; NULL: 1/N each */
	/* contrast, where pairs are samples and label and weight are not used: (N) samples of equal
	 * numbers have the same picture, the same text */
	const uint32_t *picture_group, *caption_group;
};
struct model_result {
	double loss;        /* sum of weight * cross-entropy */
	int correct;        /* argmax = label (a tie is class 0, wrong unless 0); contrast: see contrast_ops.h, 0..2N */
};
/* v (B,F), t (C,F) -> logits (N,K) (contrast: (N,N); may be NULL), result. The positions of call
 * are not used: pair masks are named by (picture_position, caption_position), NULL: row numbers. */
void model_fusion_forward(struct model *model, const struct model_call *call, const float *v, int B, const float *t, int C,
			  const struct model_pairs *pairs, const uint32_t *picture_positions,
			  const uint32_t *caption_positions, float *logits, struct model_result *result);
/* Gradient of scale * loss: parameter gradients, dv (B,F) and dt (C,F), which are overwritten. Both NULL: nobody wants them. */
void model_fusion_backward(struct model *model, float scale, float *dv, float *dt);
/* The same from a gradient of the logits, (N,K), of any loss on them. */
void model_fusion_backward_from(struct model *model, const float *dlogits, float *dv, float *dt);

/* After each optimizer step: brings parameters back that have bounds (contrast's temperature). */
void model_settle(struct model *model);
/* Contrast: the logarithm of what cosines are multiplied by. */
float model_contrast_log_scale(const struct model *model);

/* 64-byte aligned float memory for inputs and outputs (device memory with another kernel table). */
MUST_USE float *model_alloc(size_t elements);
void model_release(float *memory);

#endif
