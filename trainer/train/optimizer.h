/*
 * optimizer.h - AdamW and SGD with momentum over the parameter arena.
 *
 * Updates are those of torch.optim.AdamW (betas 0.9 and 0.999, eps 1e-8) and
 * torch.optim.SGD (dampening 0, no Nesterov), see vector_ops.h. Weight decay
 * is always decoupled here; the coupled penalty adds to gradients (reg/l2.h).
 *
 * Moments lie in arenas of the layout of the gradients. In files they are
 * named after the parameter: `exp_avg.NAME`, `exp_avg_sq.NAME` (AdamW),
 * `momentum_buffer.NAME` (SGD).
 *
 * Threads:   one caller.
 * Ownership: borrows params and spans, which must outlive it.
 */
#ifndef TRAINER_TRAIN_OPTIMIZER_H
#define TRAINER_TRAIN_OPTIMIZER_H

#include "shared/io/tensorfile.h"
#include "trainer/kernels/vector_ops.h"
#include "trainer/nn/params.h"
#include "trainer/reg/l2.h"

enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_SGD };

struct optimizer_config {
	enum optimizer_kind kind;
	double momentum; /* SGD */
};

struct optimizer; /* opaque: moments and the number of steps taken */

MUST_USE int optimizer_kind_parse(enum optimizer_kind *out, const char *name, struct err *err);
const char *optimizer_kind_name(enum optimizer_kind kind);

MUST_USE int optimizer_open(struct optimizer **out, const struct optimizer_config *config, struct params *params,
			    const struct decay_spans *spans, const struct vector_ops *ops, struct err *err);
void optimizer_close(struct optimizer *optimizer); /* NULL is fine */
/* One step with the gradients in params, each multiplied by grad_scale first; they are zero afterwards. */
void optimizer_step(struct optimizer *optimizer, double lr, double decay, float grad_scale);
/* More float32 state of the run, (rows, width), that belongs into checkpoints beside the moments. name and data are borrowed. */
enum { OPTIMIZER_EXTRAS_MAX = 8 };
void optimizer_attach(struct optimizer *optimizer, const char *name, float *data, int64_t rows, int64_t width);
/* Updates taken, where a run's step is more than one. */
void optimizer_set_steps(struct optimizer *optimizer, uint64_t steps);
size_t optimizer_state_bytes(const struct optimizer *optimizer);

/* Moments of every trained parameter for writing: *out has *count views that
 * live as long as the optimizer does not step. Caller frees *out with mem_free. */
MUST_USE int optimizer_views(const struct optimizer *optimizer, struct tensor_view **out, int *count, struct err *err);
uint64_t optimizer_steps(const struct optimizer *optimizer);
/* Reads them back from a file; every one must be there in the right shape, else
 * ERR_MISMATCH and nothing has changed. */
MUST_USE int optimizer_restore(struct optimizer *optimizer, const struct tensorfile *file, uint64_t steps, struct err *err);

#endif
