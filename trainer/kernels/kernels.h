/*
 * kernels.h - the one table of functions through which everything reaches tensor memory.
 *
 * Nothing outside kernels/ loops over tensors. Five families, each a struct
 * of function pointers with its own header:
 *   image_ops.h  convolution, batch norm, pooling, residual additions
 *   dense_ops.h  matrix products, linear, LayerNorm, GELU, attention, embeddings, dropout, cross-entropy
 *   vector_ops.h fills, sums, norms, AdamW, SGD, perturbations
 *   contrast_ops.h unit vectors, InfoNCE, ranks
 *   reg_ops.h    soft targets, divergences, mixing, random perturbations and their bounds
 * kernels_reference() is a plain version of every one, kept as the oracle of
 * the fast ones; kernels_fast() is OpenBLAS and oneDNN (where built with it) or, where those are slow,
 * products of our own (gemm.h), and hand-written loops, in bf16 after kernels_set_precision(). With profile_turn_on() (profile.h) it has clocks around it.
 */
#ifndef TRAINER_KERNELS_KERNELS_H
#define TRAINER_KERNELS_KERNELS_H

#include "trainer/kernels/contrast_ops.h"
#include "trainer/kernels/dense_ops.h"
#include "trainer/kernels/image_ops.h"
#include "trainer/kernels/reg_ops.h"
#include "trainer/kernels/vector_ops.h"

struct kernels {
	const char *name;
	const struct image_ops *image;
	const struct dense_ops *dense;
	const struct vector_ops *vector;
	const struct contrast_ops *contrast;
	const struct reg_ops *reg;
};

const struct kernels *kernels_reference(void);
const struct kernels *kernels_fast(void);
enum { KERNELS_TEXT_BYTES = 512 };
/* Everything besides the input that decides the bits of a result: libraries, their versions and choices, instruction sets,
 * threads. */
void kernels_describe(char out[KERNELS_TEXT_BYTES]);

/* Reads --precision, "fp32" or "bf16". ERR_USAGE: neither; ERR_UNSUPPORTED: bf16, and the processor's instructions or
 * oneDNN are missing. */
MUST_USE int kernels_check_precision(const char *precision, struct err *err);
/* After that check: with bf16, from now on kernels_fast() gives the image tower's convolutions and activations and the
 * encoder layers' products in bf16. Before the first model is opened. */
void kernels_set_precision(const char *precision);
/* OpenMP, OpenBLAS and oneDNN all use this many; 0: the cores this process may run on.
 * No more than OpenMP gives to a team (OMP_THREAD_LIMIT); more are warned of. Returns the number set. Call once, before the first kernel. */
int kernels_set_threads(int threads);

#endif
