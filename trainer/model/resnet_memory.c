/*
 * resnet_memory.c - where the image tower's activations and gradients lie.
 *
 * Training: each buffer is placed by the moments between which it is needed, so
 * gradients take the room of activations that backward is done with. Every second
 * block's output is not kept, but made again in the cache when backward reads it. With
 * recompute, blocks are grouped into segments; of a segment only the output is
 * kept, and what is inside is made again when backward gets there (the last
 * segment stays: it would be made again at once). How long segments are is
 * tried out, stage by stage, for the smallest whole.
 *
 * Inference: blocks share their places, what the next one still reads takes turns.
 */
#include "shared/base/mem.h"
#include "trainer/model/resnet_parts.h"

enum { SEGMENT_BLOCKS_MAX = 4 };

/* Moments: the stem, every unit of every block, the head; then the head's
 * backward pass and the blocks' from last to first, each with a moment before
 * its first unit's in which the segment before is made again; the stem. */
struct moments {
	int head, head_back, stem_back;
};

static struct moments number_moments(struct resnet *resnet)
{
	struct moments m;
	int now = 1;

	for (int b = 0; b < resnet->block_count; b++) {
		resnet->blocks[b].forward_at = now;
		now += resnet->blocks[b].units;
	}
	m.head = now++;
	m.head_back = now++;
	for (int b = resnet->block_count - 1; b >= 0; b--) {
		resnet->blocks[b].backward_at = now;
		now += resnet->blocks[b].units + 1;
	}
	m.stem_back = now;
	return m;
}

/* When the gradient of unit number i is worked on. */
static int backward_of(const struct block *block, int i)
{
	return i > 0 ? block->backward_at + block->units - 1 - i : block->backward_at + block->units;
}

static int again_before(const struct block *block)
{
	return block->backward_at + block->units - 1;
}

/* Divides every stage into segments of so many blocks. */
static void divide(struct resnet *resnet, const int length[RESNET_STAGES], bool recompute)
{
	int b = 0;

	for (int stage = 0; stage < RESNET_STAGES; stage++)
		for (int i = 0; i < resnet->config.blocks[stage]; i++, b++) {
			int first = i / length[stage] * length[stage], last = first + length[stage] - 1;

			if (last >= resnet->config.blocks[stage])
				last = resnet->config.blocks[stage] - 1;
			resnet->blocks[b].segment_first = b - i + first;
			resnet->blocks[b].segment_last = b - i + last;
			resnet->blocks[b].again = recompute && resnet->blocks[b].segment_last < resnet->block_count - 1;
			/* Every second one: its shortcut must be there. */
			resnet->blocks[b].out_is_remade = !resnet->blocks[b].again && i % 2 == 0 && b < resnet->block_count - 1;
		}
}

/* Adds buffers to resnet->lifetimes, or, with an arena, gives them their places. */
static void *take_bytes(const struct resnet *resnet, size_t bytes, struct lifetime life, struct lifetime again)
{
	if (resnet->arena != NULL)
		return resnet->arena + lifetimes_next(resnet->lifetimes);
	lifetimes_add(resnet->lifetimes, bytes, life, again);
	return NULL;
}

static void *take(const struct resnet *resnet, size_t elements, int first, int last)
{
	return take_bytes(resnet, elements * resnet->ops->element_bytes, (struct lifetime){ first, last }, LIFETIME_NONE);
}

/* Written at `first`, read until `last`; and for backward until `end`, kept or made again at `again`. */
static void *take_kept(const struct resnet *resnet, size_t elements, int first, int last, int again, int end)
{
	struct lifetime one = { first, again < 0 ? end : last }, two = again < 0 ? LIFETIME_NONE : (struct lifetime){ again, end };

	return take_bytes(resnet, elements * resnet->ops->element_bytes, one, two);
}

static size_t max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

struct sizes { /* elements of one picture, or of one chunk */
	size_t unit_raw[RESNET_UNITS_MAX], down_raw, block_out, active, gradient;
};

static void measure_unit(struct sizes *sizes, const struct unit *unit)
{
	sizes->active = max_size(sizes->active, (size_t)unit->chunk * unit_in_elements(unit));
	sizes->gradient = max_size(sizes->gradient, (size_t)unit->chunk * unit_out_elements(unit));
}

static struct sizes measure(const struct resnet *resnet)
{
	struct sizes sizes = { .block_out = unit_out_elements(&resnet->stem) };

	measure_unit(&sizes, &resnet->stem);
	for (int b = 0; b < resnet->block_count; b++) {
		const struct block *block = &resnet->blocks[b];

		for (int i = 0; i < block->units; i++) {
			size_t elements = unit_out_elements(&block->unit[i]);

			measure_unit(&sizes, &block->unit[i]);
			sizes.unit_raw[i] = max_size(sizes.unit_raw[i], elements);
			if (i == block->units - 1)
				sizes.block_out = max_size(sizes.block_out, elements);
		}
		if (block->has_down) {
			measure_unit(&sizes, &block->down);
			sizes.down_raw = max_size(sizes.down_raw, unit_out_elements(&block->down));
		}
	}
	return sizes;
}

static size_t pooled_elements(const struct resnet *resnet)
{
	return (size_t)resnet->pool_height * (size_t)resnet->pool_width * (size_t)resnet->config.width;
}

static void take_block(struct resnet *resnet, int b, struct moments m, size_t n)
{
	struct block *block = &resnet->blocks[b];
	bool last_block = b == resnet->block_count - 1;
	/* The block ends while the next one begins, forward and backward. */
	int end = last_block ? m.head : block[1].forward_at, end_back = last_block ? m.head_back : backward_of(block + 1, 0);
	int read = b + 2 < resnet->block_count ? block[2].forward_at : m.head; /* its output, as a shortcut */
	int again = block->again ? again_before(&resnet->blocks[block->segment_last + 1]) : -1;

	for (int i = 0; i < block->units; i++) {
		int at = block->forward_at + i;

		block->unit[i].raw = take_kept(resnet, n * unit_out_elements(&block->unit[i]), at,
					       i < block->units - 1 ? at + 1 : end, again, backward_of(block, i));
		if (i > 0)
			block->unit[i].input_gradient = take(resnet, n * unit_in_elements(&block->unit[i]), backward_of(block, i),
							     backward_of(block, i - 1));
	}
	if (block->has_down)
		block->down.raw = take_kept(resnet, n * unit_out_elements(&block->down), block->forward_at, end, again,
					    backward_of(block, 0));
	block->out = block->out_is_remade
			     ? take(resnet, n * unit_out_elements(block_last(block)), end, read)
			     : take_kept(resnet, n * unit_out_elements(block_last(block)), end, last_block ? end : read,
					 b == block->segment_last ? -1 : again, end_back);
}

/* The gradient of a block's output becomes that of its input in place, unless the shortcut has a convolution. */
static void take_gradients(struct resnet *resnet, struct moments m, size_t n)
{
	int born = m.head_back;

	for (int b = resnet->block_count - 1; b >= 0;) {
		size_t elements = n * unit_out_elements(block_last(&resnet->blocks[b]));
		int first = b;
		void *gradient;

		while (first > 0 && !resnet->blocks[first].has_down)
			first--;
		bool to_the_stem = first == 0 && !resnet->blocks[0].has_down;
		gradient = take(resnet, elements, born, to_the_stem ? m.stem_back : backward_of(&resnet->blocks[first], 0));
		for (int i = first; i <= b; i++)
			resnet->blocks[i].gradient = gradient;
		if (to_the_stem)
			resnet->pooled_gradient = gradient;
		born = backward_of(&resnet->blocks[first], 0);
		b = first - 1;
	}
	if (resnet->blocks[0].has_down)
		resnet->pooled_gradient = take(resnet, n * pooled_elements(resnet), born, m.stem_back);
	resnet->stem_gradient = take(resnet, n * unit_out_elements(&resnet->stem), m.stem_back, m.stem_back);
}

static void take_training(struct resnet *resnet, const struct sizes *sizes, size_t n)
{
	struct moments m = number_moments(resnet);
	size_t features = n * (size_t)resnet->features * sizeof(float);
	int stem_again = resnet->blocks[0].again ? m.stem_back : -1, first = resnet->blocks[0].forward_at;

	resnet->active = take(resnet, sizes->active, 0, m.stem_back);
	resnet->gradient = take(resnet, sizes->gradient, m.head_back, m.stem_back);
	resnet->features_out = take_bytes(resnet, features, (struct lifetime){ m.head, m.head_back }, LIFETIME_NONE);
	resnet->features_gradient = take_bytes(resnet, features, (struct lifetime){ m.head_back, m.head_back }, LIFETIME_NONE);
	resnet->pooled = take(resnet, n * pooled_elements(resnet), first, backward_of(&resnet->blocks[0], 0));
	resnet->stem.raw = take_kept(resnet, n * unit_out_elements(&resnet->stem), 0, first, stem_again, m.stem_back);
	for (int b = 0; b < resnet->block_count; b++)
		take_block(resnet, b, m, n);
	take_gradients(resnet, m, n);
}

/* Everything lives at once; blocks share. */
static void take_inference(struct resnet *resnet, const struct sizes *sizes, size_t n)
{
	void *raw[RESNET_UNITS_MAX], *down[2], *outs[2];

	resnet->active = take(resnet, sizes->active, 0, 0);
	resnet->features_out = take_bytes(resnet, n * (size_t)resnet->features * sizeof(float), (struct lifetime){ 0, 0 }, LIFETIME_NONE);
	resnet->pooled = take(resnet, n * pooled_elements(resnet), 0, 0);
	for (int i = 0; i < RESNET_UNITS_MAX; i++)
		raw[i] = take(resnet, n * sizes->unit_raw[i], 0, 0);
	for (int i = 0; i < 2; i++) {
		outs[i] = take(resnet, n * sizes->block_out, 0, 0);
		down[i] = take(resnet, n * sizes->down_raw, 0, 0); /* a block ends while the next one begins */
	}
	resnet->stem.raw = outs[1]; /* read when the first block starts, before the second block's output is written */
	for (int b = 0; b < resnet->block_count; b++) {
		struct block *block = &resnet->blocks[b];

		for (int i = 0; i < block->units; i++)
			block->unit[i].raw = raw[i];
		block->down.raw = down[b % 2];
		block->out = outs[b % 2];
	}
}

static void take_all(struct resnet *resnet)
{
	struct sizes sizes = measure(resnet);

	if (resnet->training)
		take_training(resnet, &sizes, (size_t)resnet->kept_max);
	else
		take_inference(resnet, &sizes, (size_t)resnet->kept_max);
}

static size_t place_divided(struct resnet *resnet, const int length[RESNET_STAGES], bool recompute)
{
	char *arena = resnet->arena;
	size_t bytes;

	resnet->arena = NULL;
	divide(resnet, length, recompute);
	lifetimes_clear(resnet->lifetimes);
	take_all(resnet);
	bytes = lifetimes_place(resnet->lifetimes);
	resnet->arena = arena;
	return bytes;
}

/* Leaves the tower divided as is best. */
static size_t place_best(struct resnet *resnet, bool recompute)
{
	int best[RESNET_STAGES] = { 1, 1, 1, 1 };
	size_t least = place_divided(resnet, best, recompute);

	for (int stage = 0; recompute && stage < RESNET_STAGES; stage++)
		for (int length = 2; length <= SEGMENT_BLOCKS_MAX && length <= resnet->config.blocks[stage]; length++) {
			int tried[RESNET_STAGES] = { best[0], best[1], best[2], best[3] };
			size_t bytes;

			tried[stage] = length;
			bytes = place_divided(resnet, tried, recompute);
			if (bytes < least) {
				least = bytes;
				best[stage] = length;
			}
		}
	return place_divided(resnet, best, recompute);
}

static size_t pool_index_bytes(const struct resnet *resnet)
{
	return (size_t)resnet->kept_max * pooled_elements(resnet);
}

static size_t pixel_bytes(const struct resnet *resnet)
{
	return (size_t)resnet->kept_max * unit_in_elements(&resnet->stem) * resnet->ops->element_bytes;
}

int resnet_memory_open(struct resnet *resnet, bool recompute, struct err *err)
{
	resnet->other_bytes = resnet->training ? place_best(resnet, !recompute) : 0;
	resnet->recompute = recompute;
	resnet->arena_bytes = place_best(resnet, recompute);
	resnet->arena = mem_large(resnet->arena_bytes);
	resnet->pool_index = mem_aligned(pool_index_bytes(resnet));
	resnet->pixels = mem_aligned(pixel_bytes(resnet));
	if (resnet->training)
		resnet->branch = mem_array((size_t)resnet->block_count * (size_t)resnet->pictures_max, sizeof(*resnet->branch));
	if (resnet->arena == NULL || resnet->pool_index == NULL || resnet->pixels == NULL || (resnet->training && resnet->branch == NULL))
		return err_set(err, ERR_NOMEM, "out of memory (%zu MB of activations for %d pictures); choose a smaller --batch-size%s",
			       (resnet->arena_bytes + pool_index_bytes(resnet) + pixel_bytes(resnet)) >> 20, resnet->pictures_max,
			       resnet->training && !recompute ? ", or --recompute" : "");
	take_all(resnet);
	return 0;
}

size_t resnet_activation_bytes(const struct resnet *resnet, bool recompute)
{
	size_t pixels = resnet->ops->element_bytes == sizeof(float) ? 0 : pixel_bytes(resnet); /* floats stay where they come from */

	if (resnet->engine == NULL)
		return 0;
	return (!resnet->training || recompute == resnet->recompute ? resnet->arena_bytes : resnet->other_bytes) + pool_index_bytes(resnet) + pixels +
	       resnet->ops->engine_bytes(resnet->engine);
}
