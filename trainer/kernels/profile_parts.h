/*
 * profile_parts.h - what the files of wrappers share. Private to profile_*.c.
 *
 * Threads: one caller, that of the kernels.
 */
#ifndef TRAINER_KERNELS_PROFILE_PARTS_H
#define TRAINER_KERNELS_PROFILE_PARTS_H

#include "trainer/kernels/contrast_ops.h"
#include "trainer/kernels/profile.h"
#include "trainer/kernels/reg_ops.h"

/* Bytes of a float. */
#define F ((double)sizeof(float))

#define TIMED(kind, flops, bytes, call)                                          \
	do {                                                                     \
		uint64_t began_ = profile_begin();                               \
		call;                                                            \
		profile_count(began_, kind, (double)(flops), (double)(bytes), NULL); \
	} while (0)

/* The same tables with clocks around what a step calls. */
const struct reg_ops *profile_wrap_reg(const struct reg_ops *inner);
const struct contrast_ops *profile_wrap_contrast(const struct contrast_ops *inner);

#endif
