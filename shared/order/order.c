#include "shared/order/order.h"

#include <string.h>

#include "shared/base/check.h"

enum { ORDER_ROUNDS = 8, ORDER_SPLIT_BYTES_MAX = 4096 };

static uint64_t load_le64(const uint8_t *p)
{
	uint64_t value = 0;

	for (int i = 7; i >= 0; i--)
		value = value << 8 | p[i];
	return value;
}

/* SHA-256 of (version, split) names the part; its first 8 bytes make it a number. */
static uint64_t part_number(const struct hash *version, const char *split)
{
	uint8_t text[HASH_BYTES + ORDER_SPLIT_BYTES_MAX];
	size_t length = strlen(split);
	struct hash name;

	/* Names are checked long before they get here; a longer one is cut rather than trusted. */
	if (length > ORDER_SPLIT_BYTES_MAX)
		length = ORDER_SPLIT_BYTES_MAX;
	memcpy(text, version->bytes, HASH_BYTES);
	memcpy(text + HASH_BYTES, split, length);
	hash_bytes(&name, text, HASH_BYTES + length);
	return load_le64(name.bytes);
}

void order_init(struct order *out, const struct hash *version, const char *split, uint64_t seed, uint32_t epoch, uint32_t n)
{
	CHECK(n > 0);
	struct rng_key part = rng_key(part_number(version, split), RNG_PERMUTATION);
	struct rng_key own = rng_key(seed, RNG_PERMUTATION);
	struct rng_block mixed = rng_philox(part, own.k0, own.k1, 0, 0);

	out->n = n;
	out->epoch = epoch;
	out->rounds = (struct rng_key){ mixed.v[0], mixed.v[1] };
	out->captions = rng_key(seed, RNG_CAPTION);
	out->half_bits = 1;
	while (((uint64_t)1 << (2 * out->half_bits)) < n)
		out->half_bits++;
}

/* One permutation of 0 .. 2^(2 * half_bits) - 1. */
static uint32_t feistel(const struct order *order, uint32_t x)
{
	uint32_t mask = (1u << order->half_bits) - 1;
	uint32_t left = x >> order->half_bits, right = x & mask;

	for (uint32_t round = 0; round < ORDER_ROUNDS; round++) {
		uint32_t mixed = rng_philox(order->rounds, right, round, order->epoch, 0).v[0] & mask;
		uint32_t old_left = left;

		left = right;
		right = old_left ^ mixed;
	}
	return left << order->half_bits | right;
}

uint32_t order_at(const struct order *order, uint32_t position)
{
	CHECK(position < order->n);
	/* Walking the cycle of a value below n comes back below n: it ends. The domain is
	 * below 4 n, so it takes fewer than 4 turns on average. */
	uint32_t x = feistel(order, position);

	while (x >= order->n)
		x = feistel(order, x);
	return x;
}

uint32_t order_caption(const struct order *order, uint32_t picture, uint32_t count)
{
	CHECK(count > 0);
	struct rng_block block = rng_philox(order->captions, picture, order->epoch, 0, 0);

	return (uint32_t)rng_below(block.v[0], block.v[1], count);
}

uint64_t order_steps(uint64_t samples, uint32_t global_batch, bool training)
{
	CHECK(global_batch > 0);
	uint64_t whole = samples / global_batch;
	bool rest = samples % global_batch != 0;

	if (training)
		return whole == 0 && rest ? 1 : whole;
	return whole + rest;
}

struct order_range order_rank(uint64_t samples, uint32_t global_batch, uint32_t world, uint32_t rank, uint64_t step)
{
	CHECK(global_batch > 0 && world > 0 && global_batch % world == 0 && rank < world);
	uint32_t share = global_batch / world;

	if (step > samples / global_batch)
		return (struct order_range){ samples, 0 };
	uint64_t first = step * global_batch + (uint64_t)rank * share;
	uint64_t left = first < samples ? samples - first : 0;
	return (struct order_range){ left > 0 ? first : samples, left < share ? (uint32_t)left : share };
}
