/*
 * rng.h - counter-based random numbers: a value is a pure function of names.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011; checked against the known-answer vectors of their Random123). There is no state to save,
 * so a resumed run draws what the uninterrupted one would have drawn, and the
 * draw of an element does not depend on how a buffer is packed or split.
 *
 * A draw is named by a key (seed, domain) and a 128-bit counter. The domain
 * keeps users of one seed apart; every one in the project is listed here.
 */
#ifndef SHARED_BASE_RNG_H
#define SHARED_BASE_RNG_H

#include <stdint.h>

enum rng_domain {
	RNG_PERMUTATION = 1, /* sample order: round keys of the permutation */
	RNG_CAPTION = 2,     /* which caption of a picture */
	RNG_SPLIT = 3,       /* --split by ratio */
	RNG_EVAL_PAIRS = 4,  /* the wrong picture of a validation pair */
	RNG_INIT = 5,        /* initial weights */
	RNG_NEGATIVES = 6,   /* in-batch negatives of matching */
	RNG_DRAW = 7,        /* --limit: which pictures of a data set */
	RNG_FOLD = 32,       /* folds of cross-validation */
	RNG_ATTACK = 33,     /* random starts of attacks, and their noise control */
	RNG_BOOTSTRAP = 0x100, /* which pictures a replicate draws */
	RNG_SIGN_FLIP = 0x101, /* the signs of a permutation test */
	RNG_DROPOUT = 0x1000, /* + layer number */
	RNG_NOISE = 0x2000,   /* + target number: random perturbations */
	RNG_MIXUP = 0x2100,   /* partners and shares of mixed pairs */
	RNG_DEPTH = 0x3000,   /* + layer number: branches that are dropped whole */
};

struct rng_key {
	uint32_t k0, k1;
};

struct rng_block {
	uint32_t v[4];
};

/* Mixes a 64-bit seed and a domain into a key (SplitMix64's finalizer). */
static inline struct rng_key rng_key(uint64_t seed, uint32_t domain)
{
	uint64_t z = seed + 0x9E3779B97F4A7C15u * ((uint64_t)domain + 1);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	z ^= z >> 31;
	return (struct rng_key){ (uint32_t)z, (uint32_t)(z >> 32) };
}

/* The four words of counter (c0, c1, c2, c3) under key. */
static inline struct rng_block rng_philox(struct rng_key key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
	uint32_t k0 = key.k0, k1 = key.k1;

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * c0;
		uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
		uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;

		c1 = (uint32_t)p1;
		c3 = (uint32_t)p0;
		c0 = n0;
		c2 = n2;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	return (struct rng_block){ { c0, c1, c2, c3 } };
}

/* Uniform in [0, 1) with 24 bits, exact in float32. */
static inline float rng_unit(uint32_t word)
{
	return (float)(word >> 8) * (1.0f / 16777216.0f);
}

/* Uniform in [0, n) from 64 random bits; n > 0. Bias below n / 2^64. */
static inline uint64_t rng_below(uint32_t high, uint32_t low, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)(((uint64_t)high << 32) | low) * n) >> 64);
}

#endif
