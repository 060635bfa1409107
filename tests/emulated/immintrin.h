/*
 * immintrin.h - the AVX-512 instructions that the daemon's loops and the trainer's products use, in plain C.
 *
 * Found before the compiler's own header, it lets resize_avx512.c, normalize_x86.c, gemm_avx512.c and gemm_avx512_bf16.c
 * run in tests on processors that have no AVX-512, where nothing else would: an error in
 * them would change pixels and sums on other machines only. Files compiled so see EMULATED_AVX512. What each does is taken from Intel's
 * "Intrinsics Guide"; where there is AVX-512, the same tests run on the instructions.
 *
 * Vectors are bytes; elements are taken out by memcpy, little-endian as the processor's.
 */
#ifndef TESTS_EMULATED_IMMINTRIN_H
#define TESTS_EMULATED_IMMINTRIN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Every question about the processor is answered with yes, and attributes that would let the compiler use what it has not are empty. */
#define __builtin_cpu_supports(name) 1
#define target(names)

typedef struct {
	_Alignas(64) uint8_t u8[64];
} __m512i;
typedef struct {
	_Alignas(32) uint8_t u8[32];
} __m256i;
typedef struct {
	_Alignas(16) uint8_t u8[16];
} __m128i;
typedef struct {
	_Alignas(64) float f[16];
} __m512;
typedef uint64_t __mmask64;
typedef uint16_t __mmask16;

#define EMULATED static inline __attribute__((unused))
#define EACH(i, n) for (int i = 0; i < (n); i++)

EMULATED int32_t emulated_i32(const void *vector, int i)
{
	int32_t value;

	memcpy(&value, (const uint8_t *)vector + 4 * i, sizeof(value));
	return value;
}

EMULATED void emulated_set_i32(void *vector, int i, int32_t value)
{
	memcpy((uint8_t *)vector + 4 * i, &value, sizeof(value));
}

EMULATED int32_t emulated_limit(int32_t value, int32_t high)
{
	return value < 0 ? 0 : value > high ? high : value;
}

/* --- loads and stores --------------------------------------------------------------- */

EMULATED __m512i _mm512_loadu_si512(const void *from)
{
	__m512i out;

	memcpy(&out, from, sizeof(out));
	return out;
}

/* These end the program at an address that is not aligned: so do the instructions. */
EMULATED void emulated_aligned(const void *at, uintptr_t bytes)
{
	if ((uintptr_t)at % bytes != 0)
		__builtin_trap();
}

EMULATED __m512i _mm512_load_si512(const void *from)
{
	emulated_aligned(from, 64);
	return _mm512_loadu_si512(from);
}

EMULATED __m128i _mm_load_si128(const __m128i *from)
{
	__m128i out;

	emulated_aligned(from, 16);
	memcpy(&out, from, sizeof(out));
	return out;
}

EMULATED void _mm512_storeu_si512(void *to, __m512i v)
{
	memcpy(to, &v, sizeof(v));
}

EMULATED void _mm512_stream_si512(void *to, __m512i v)
{
	emulated_aligned(to, 64);
	memcpy(to, &v, sizeof(v));
}

EMULATED void _mm_storeu_si128(__m128i *to, __m128i v)
{
	memcpy(to, &v, sizeof(v));
}

EMULATED void _mm_storeu_si32(void *to, __m128i v)
{
	memcpy(to, &v, 4);
}

EMULATED void _mm512_mask_storeu_epi8(void *to, __mmask64 mask, __m512i v)
{
	EACH(i, 64)
		if (mask >> i & 1)
			((uint8_t *)to)[i] = v.u8[i];
}

EMULATED void _mm_sfence(void)
{
}

/* --- constants, casts, parts ---------------------------------------------------------- */

EMULATED __m512i _mm512_setzero_si512(void)
{
	__m512i out;

	memset(&out, 0, sizeof(out));
	return out;
}

EMULATED __m512i _mm512_set1_epi32(int32_t value)
{
	__m512i out;

	EACH(i, 16)
		emulated_set_i32(&out, i, value);
	return out;
}

EMULATED __m512i emulated_setr_epi32(const int32_t values[16])
{
	__m512i out;

	memcpy(&out, values, sizeof(out));
	return out;
}
#define _mm512_setr_epi32(...) emulated_setr_epi32((const int32_t[16]){ __VA_ARGS__ })

EMULATED __m128i emulated_setr_epi8(const int8_t values[16])
{
	__m128i out;

	memcpy(&out, values, sizeof(out));
	return out;
}
#define _mm_setr_epi8(...) emulated_setr_epi8((const int8_t[16]){ __VA_ARGS__ })

EMULATED __m512i _mm512_broadcast_i32x4(__m128i v)
{
	__m512i out;

	EACH(lane, 4)
		memcpy(out.u8 + 16 * lane, &v, 16);
	return out;
}

/* What lies above the cast value is not defined: here it is something that would be noticed. */
EMULATED __m512i _mm512_castsi128_si512(__m128i v)
{
	__m512i out;

	memset(&out, 0x5A, sizeof(out));
	memcpy(&out, &v, sizeof(v));
	return out;
}

EMULATED __m128i _mm512_extracti32x4_epi32(__m512i v, int lane)
{
	__m128i out;

	memcpy(&out, v.u8 + 16 * lane, sizeof(out));
	return out;
}

EMULATED __m256i _mm512_extracti64x4_epi64(__m512i v, int half)
{
	__m256i out;

	memcpy(&out, v.u8 + 32 * half, sizeof(out));
	return out;
}

EMULATED __m128i _mm256_extracti128_si256(__m256i v, int lane)
{
	__m128i out;

	memcpy(&out, v.u8 + 16 * lane, sizeof(out));
	return out;
}
#define _mm512_castsi512_si128(v) _mm512_extracti32x4_epi32(v, 0)
#define _mm512_castsi512_si256(v) _mm512_extracti64x4_epi64(v, 0)
#define _mm256_castsi256_si128(v) _mm256_extracti128_si256(v, 0)

/* --- arithmetic ------------------------------------------------------------------------- */

EMULATED void emulated_add_i32(void *out, const void *a, const void *b, int count)
{
	EACH(i, count)
		emulated_set_i32(out, i, (int32_t)((uint32_t)emulated_i32(a, i) + (uint32_t)emulated_i32(b, i)));
}

EMULATED __m512i _mm512_add_epi32(__m512i a, __m512i b)
{
	emulated_add_i32(&a, &a, &b, 16);
	return a;
}

EMULATED __m256i _mm256_add_epi32(__m256i a, __m256i b)
{
	emulated_add_i32(&a, &a, &b, 8);
	return a;
}

EMULATED __m128i _mm_add_epi32(__m128i a, __m128i b)
{
	emulated_add_i32(&a, &a, &b, 4);
	return a;
}

EMULATED __m512i _mm512_add_epi8(__m512i a, __m512i b)
{
	EACH(i, 64)
		a.u8[i] = (uint8_t)(a.u8[i] + b.u8[i]);
	return a;
}

EMULATED int32_t _mm512_reduce_add_epi32(__m512i v)
{
	uint32_t sum = 0;

	EACH(i, 16)
		sum += (uint32_t)emulated_i32(&v, i);
	return (int32_t)sum;
}

EMULATED __m512i _mm512_slli_epi32(__m512i v, unsigned bits)
{
	EACH(i, 16)
		emulated_set_i32(&v, i, (int32_t)((uint32_t)emulated_i32(&v, i) << bits));
	return v;
}

EMULATED __m512i _mm512_srli_epi32(__m512i v, unsigned bits)
{
	EACH(i, 16)
		emulated_set_i32(&v, i, (int32_t)((uint32_t)emulated_i32(&v, i) >> bits));
	return v;
}

/* Four products of an unsigned and a signed byte each, added to 32 bits without saturation. */
EMULATED __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i unsigned_bytes, __m512i signed_bytes)
{
	EACH(i, 16) {
		uint32_t total = (uint32_t)emulated_i32(&sum, i);

		EACH(j, 4)
			total += (uint32_t)(unsigned_bytes.u8[4 * i + j] * (int8_t)signed_bytes.u8[4 * i + j]);
		emulated_set_i32(&sum, i, (int32_t)total);
	}
	return sum;
}

/* --- packing ------------------------------------------------------------------------------ */

/* Unsigned, unlike the two below. */
EMULATED __m128i _mm512_cvtusepi32_epi8(__m512i v)
{
	__m128i out;

	EACH(i, 16) {
		uint32_t value = (uint32_t)emulated_i32(&v, i);

		out.u8[i] = (uint8_t)(value > 255 ? 255 : value);
	}
	return out;
}

EMULATED __m512i _mm512_packus_epi32(__m512i a, __m512i b)
{
	__m512i out;

	EACH(lane, 4)
		EACH(i, 8) {
			int32_t from = emulated_i32(i < 4 ? &a : &b, 4 * lane + i % 4);
			uint16_t value = (uint16_t)emulated_limit(from, 65535);

			memcpy(out.u8 + 16 * lane + 2 * i, &value, sizeof(value));
		}
	return out;
}

EMULATED __m512i _mm512_packus_epi16(__m512i a, __m512i b)
{
	__m512i out;

	EACH(lane, 4)
		EACH(i, 16) {
			int16_t from;

			memcpy(&from, (i < 8 ? a.u8 : b.u8) + 16 * lane + 2 * (i % 8), sizeof(from));
			out.u8[16 * lane + i] = (uint8_t)emulated_limit(from, 255);
		}
	return out;
}

/* --- permutations -------------------------------------------------------------------------- */

EMULATED __m512i emulated_unpack(__m512i a, __m512i b, int bytes, int first)
{
	__m512i out;

	EACH(lane, 4)
		EACH(i, 8 / bytes) {
			memcpy(out.u8 + 16 * lane + 2 * bytes * i, a.u8 + 16 * lane + first + bytes * i, (size_t)bytes);
			memcpy(out.u8 + 16 * lane + 2 * bytes * i + bytes, b.u8 + 16 * lane + first + bytes * i, (size_t)bytes);
		}
	return out;
}
#define _mm512_unpacklo_epi8(a, b) emulated_unpack(a, b, 1, 0)
#define _mm512_unpackhi_epi8(a, b) emulated_unpack(a, b, 1, 8)
#define _mm512_unpacklo_epi16(a, b) emulated_unpack(a, b, 2, 0)
#define _mm512_unpackhi_epi16(a, b) emulated_unpack(a, b, 2, 8)

EMULATED __m512i _mm512_permutexvar_epi32(__m512i index, __m512i v)
{
	__m512i out;

	EACH(i, 16)
		emulated_set_i32(&out, i, emulated_i32(&v, emulated_i32(&index, i) & 15));
	return out;
}

EMULATED __m512i _mm512_permutexvar_epi8(__m512i index, __m512i v)
{
	__m512i out;

	EACH(i, 64)
		out.u8[i] = v.u8[index.u8[i] & 63];
	return out;
}

EMULATED __m512i _mm512_permutex2var_epi8(__m512i a, __m512i index, __m512i b)
{
	__m512i out;

	EACH(i, 64)
		out.u8[i] = (index.u8[i] & 64 ? b.u8 : a.u8)[index.u8[i] & 63];
	return out;
}

EMULATED __m512i _mm512_mask_blend_epi8(__mmask64 mask, __m512i a, __m512i b)
{
	EACH(i, 64)
		if (mask >> i & 1)
			a.u8[i] = b.u8[i];
	return a;
}

EMULATED __m512i _mm512_mask_permutexvar_epi8(__m512i otherwise, __mmask64 mask, __m512i index, __m512i v)
{
	return _mm512_mask_blend_epi8(mask, otherwise, _mm512_permutexvar_epi8(index, v));
}

EMULATED __mmask64 _mm512_movepi8_mask(__m512i v)
{
	__mmask64 mask = 0;

	EACH(i, 64)
		mask |= (__mmask64)(v.u8[i] >> 7) << i;
	return mask;
}

/* --- floats ------------------------------------------------------------------------- */

EMULATED __m512 _mm512_set1_ps(float value)
{
	__m512 out;

	EACH(i, 16)
		out.f[i] = value;
	return out;
}

EMULATED __m512 _mm512_setzero_ps(void)
{
	return _mm512_set1_ps(0);
}

EMULATED __m512 _mm512_loadu_ps(const void *from)
{
	__m512 out;

	memcpy(&out, from, sizeof(out));
	return out;
}

EMULATED void _mm512_storeu_ps(void *to, __m512 v)
{
	memcpy(to, &v, sizeof(v));
}

EMULATED __m512 _mm512_add_ps(__m512 a, __m512 b)
{
	EACH(i, 16)
		a.f[i] += b.f[i];
	return a;
}

/* a b + c, rounded once */
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
	EACH(i, 16)
		c.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
	return c;
}

/* --- bf16 ----------------------------------------------------------------------------- */

typedef __m512 __m512bh; /* 32 numbers, two in each element */

EMULATED __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void *from)
{
	__m256i v = { { 0 } };

	EACH(i, 16)
		if (mask & 1u << i)
			memcpy(v.u8 + 2 * i, (const uint8_t *)from + 2 * i, 2);
	return v;
}

EMULATED __m512i _mm512_castsi256_si512(__m256i low)
{
	__m512i v = { { 0 } };

	memcpy(v.u8, low.u8, sizeof(low.u8));
	return v;
}

EMULATED __m512i _mm512_inserti64x4(__m512i v, __m256i half, int which)
{
	memcpy(v.u8 + 32 * which, half.u8, sizeof(half.u8));
	return v;
}

EMULATED __m512i emulated_set_epi16(const int16_t *last_first)
{
	__m512i v;

	EACH(i, 32)
		memcpy(v.u8 + 2 * i, last_first + 31 - i, 2);
	return v;
}
#define _mm512_set_epi16(...) emulated_set_epi16((const int16_t[]){ __VA_ARGS__ })

EMULATED __m512i _mm512_permutexvar_epi16(__m512i places, __m512i v)
{
	__m512i out;

	EACH(i, 32)
	{
		uint16_t place;

		memcpy(&place, places.u8 + 2 * i, 2);
		memcpy(out.u8 + 2 * i, v.u8 + 2 * (place & 31), 2);
	}
	return out;
}

EMULATED float emulated_half(const __m512bh *v, int i, int upper)
{
	uint32_t word;
	float value;

	memcpy(&word, &v->f[i], sizeof(word));
	word = upper ? word & 0xffff0000 : word << 16;
	memcpy(&value, &word, sizeof(value));
	return fabsf(value) < 0x1p-126f ? copysignf(0, value) : value;
}

EMULATED __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
	EACH(i, 16)
		for (int upper = 1; upper >= 0; upper--) {
			float x = emulated_half(&a, i, upper), y = emulated_half(&b, i, upper);

			sum.f[i] = fmaf(x, y, sum.f[i]);
		}
	return sum;
}

#endif
