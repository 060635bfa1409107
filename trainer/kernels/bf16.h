/*
 * bf16.h - the upper half of a float: 8 bits of exponent, 7 of fraction.
 *
 * Stored as uint16_t. Rounding is to nearest, ties to even, as the processor's
 * VCVTNEPS2BF16 and PyTorch do it; NaN stays NaN. (The instruction takes numbers
 * below 1.2e-38 for zero; these functions keep them.)
 */
#ifndef TRAINER_KERNELS_BF16_H
#define TRAINER_KERNELS_BF16_H

#include <stdint.h>
#include <string.h>

static inline float bf16_to_float(uint16_t half)
{
	uint32_t bits = (uint32_t)half << 16;
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static inline uint16_t bf16_from_float(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	if ((bits & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
