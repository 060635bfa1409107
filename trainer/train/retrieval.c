#include "trainer/train/retrieval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/mem.h"
#include "trainer/kernels/kernels.h"

/* Scores of a block: small enough for the cache, large enough for the products. */
enum { RETRIEVAL_ELEMENTS = 1 << 20, BLOCK_ROWS_MAX = 256 };

const uint32_t retrieval_recall_at[RECALLS] = { 1, 5, 10 };

struct text_of {
	uint64_t text;
	uint32_t caption;
};

struct retrieval {
	uint32_t pictures, captions, block_rows;
	float *scores;              /* (block_rows, pictures) */
	float *length;              /* (the larger of pictures, captions) of the rows before */
	float *own, *best;          /* (captions) with its picture; (pictures) with the nearest of its captions */
	struct text_of *texts;      /* (captions) sorted */
	uint32_t *first;            /* (captions) where the caption's text begins in texts */
	uint32_t *related_at, *related; /* of a block: (block_rows + 1), and for all of it */
	size_t related_room;
	uint32_t *row_beaten, *beaten; /* (block_rows), (pictures) */
	double *row_sum, *sum;      /* (captions), (pictures) */
};

int retrieval_open(struct retrieval **out, uint32_t pictures, uint32_t captions, struct err *err)
{
	struct retrieval *r = mem_zalloc(sizeof(*r));
	uint32_t most = pictures > captions ? pictures : captions;
	size_t bytes = 0;

	*out = NULL;
	if (r == NULL)
		return err_nomem(err, sizeof(*r));
	r->pictures = pictures;
	r->captions = captions;
	r->block_rows = RETRIEVAL_ELEMENTS / (pictures > 0 ? pictures : 1);
	r->block_rows = r->block_rows < 1 ? 1 : r->block_rows > BLOCK_ROWS_MAX ? BLOCK_ROWS_MAX : r->block_rows;
	if (size_mul((size_t)r->block_rows * pictures, sizeof(float), &bytes))
		r->scores = mem_aligned(bytes);
	r->length = mem_array(most, sizeof(*r->length));
	r->own = mem_array(captions, sizeof(*r->own));
	r->best = mem_array(pictures, sizeof(*r->best));
	r->texts = mem_array(captions, sizeof(*r->texts));
	r->first = mem_array(captions, sizeof(*r->first));
	r->related_at = mem_array((size_t)r->block_rows + 1, sizeof(*r->related_at));
	r->row_beaten = mem_array(r->block_rows, sizeof(*r->row_beaten));
	r->beaten = mem_array(pictures, sizeof(*r->beaten));
	r->row_sum = mem_array(captions, sizeof(*r->row_sum));
	r->sum = mem_array(pictures, sizeof(*r->sum));
	if (r->scores == NULL || r->length == NULL || r->own == NULL || r->best == NULL || r->texts == NULL || r->first == NULL ||
	    r->related_at == NULL || r->row_beaten == NULL || r->beaten == NULL || r->row_sum == NULL || r->sum == NULL) {
		retrieval_close(r);
		return err_nomem(err, bytes + 40 * (size_t)most);
	}
	*out = r;
	return 0;
}

void retrieval_close(struct retrieval *r)
{
	if (r == NULL)
		return;
	mem_free(r->scores);
	mem_free(r->length);
	mem_free(r->own);
	mem_free(r->best);
	mem_free(r->texts);
	mem_free(r->first);
	mem_free(r->related_at);
	mem_free(r->related);
	mem_free(r->row_beaten);
	mem_free(r->beaten);
	mem_free(r->row_sum);
	mem_free(r->sum);
	mem_free(r);
}

static int by_text(const void *a, const void *b)
{
	const struct text_of *x = a, *y = b;

	if (x->text != y->text)
		return x->text < y->text ? -1 : 1;
	return x->caption < y->caption ? -1 : x->caption > y->caption;
}

/* Captions with the same text side by side, and for each where its text begins. */
static void sort_texts(struct retrieval *r, const uint64_t *text)
{
	for (uint32_t c = 0; c < r->captions; c++)
		r->texts[c] = (struct text_of){ text[c], c };
	qsort(r->texts, r->captions, sizeof(*r->texts), by_text);
	for (uint32_t at = 0, begin = 0; at < r->captions; at++) {
		if (r->texts[at].text != r->texts[begin].text)
			begin = at;
		r->first[r->texts[at].caption] = begin;
	}
}

/* Each caption with its own picture; each picture's nearest caption. */
static void own_scores(struct retrieval *r, const struct retrieval_input *in, const struct vector_ops *vector)
{
	size_t F = (size_t)in->features;

	for (uint32_t p = 0; p < r->pictures; p++)
		r->best[p] = -INFINITY;
	for (uint32_t c = 0; c < r->captions; c++) {
		r->own[c] = (float)vector->dot(in->t + c * F, in->v + in->own[c] * F, F);
		r->best[in->own[c]] = fmaxf(r->best[in->own[c]], r->own[c]);
	}
}

static double compare_fixed_pairs(const struct retrieval *r, const struct retrieval_input *in, const struct vector_ops *vector,
				  uint64_t *pairs)
{
	size_t F = (size_t)in->features;
	uint64_t right = 0;

	*pairs = 0;
	for (uint32_t c = 0; c < r->captions; c++) {
		if (in->wrong[c] == UINT32_MAX)
			continue;
		right += r->own[c] - (float)vector->dot(in->t + c * F, in->v + in->wrong[c] * F, F) > CONTRAST_TIE;
		++*pairs;
	}
	return *pairs > 0 ? (double)right / (double)*pairs : 0;
}

/* Pictures that have the text of each caption of the block. */
static int fill_related(struct retrieval *r, const struct retrieval_input *in, uint32_t from, uint32_t rows, struct err *err)
{
	size_t count = 0;

	for (uint32_t row = 0; row < rows; row++) {
		uint32_t begin = r->first[from + row], end = begin;

		r->related_at[row] = (uint32_t)count;
		while (end < r->captions && r->texts[end].text == r->texts[begin].text)
			end++;
		if (count + (end - begin) > r->related_room) {
			size_t room = 2 * (count + (end - begin)) + r->captions / 8 + 64;
			uint32_t *more = mem_array(room, sizeof(*more));

			if (more == NULL || room > UINT32_MAX) {
				mem_free(more);
				return err_nomem(err, room * sizeof(*more));
			}
			if (count > 0)
				memcpy(more, r->related, count * sizeof(*more));
			mem_free(r->related);
			r->related = more;
			r->related_room = room;
		}
		for (uint32_t at = begin; at < end; at++)
			r->related[count++] = in->own[r->texts[at].caption];
	}
	r->related_at[rows] = (uint32_t)count;
	return 0;
}

static void count_recalls(double recalls[RECALLS], uint32_t beaten)
{
	for (int k = 0; k < RECALLS; k++)
		recalls[k] += beaten < retrieval_recall_at[k];
}

static int rank_blocks(struct retrieval *r, const struct retrieval_input *in, struct retrieval_scores *out, struct err *err)
{
	const struct kernels *kernels = kernels_fast();
	size_t F = (size_t)in->features;
	int code;

	memset(r->beaten, 0, r->pictures * sizeof(*r->beaten));
	memset(r->sum, 0, r->pictures * sizeof(*r->sum));
	for (uint32_t from = 0; from < r->captions; from += r->block_rows) {
		uint32_t rows = r->captions - from < r->block_rows ? r->captions - from : r->block_rows;
		struct linear_shape shape = { (int)rows, (int)F, (int)r->pictures, (int)F, (int)F, (int)r->pictures };

		if ((code = fill_related(r, in, from, rows, err)) != 0)
			return code;
		kernels->dense->linear(r->scores, in->t + from * F, in->v, NULL, shape, false);
		struct contrast_block block = { r->scores, (int)rows, (int)r->pictures, r->related_at, r->related,
						expf(in->log_scale) };
		kernels->contrast->rank_mask(block);
		kernels->contrast->rank_rows(block, r->own + from, r->row_beaten, r->row_sum + from);
		kernels->contrast->rank_columns(block, r->best, r->beaten, r->sum);
		for (uint32_t row = 0; row < rows; row++)
			count_recalls(out->text_to_image, r->row_beaten[row]);
	}
	for (uint32_t p = 0; p < r->pictures; p++)
		count_recalls(out->image_to_text, r->beaten[p]);
	for (int k = 0; k < RECALLS; k++) {
		out->text_to_image[k] /= r->captions;
		out->image_to_text[k] /= r->pictures;
	}
	return 0;
}

/* -log of the share of its own among own and others; sums are of exp(scale * (score - 1)). */
static double surprise(double own, double others, double scale)
{
	double mine = scale * (own - 1.0);

	return log(exp(mine) + others) - mine;
}

int retrieval_run(struct retrieval *r, const struct retrieval_input *in, struct retrieval_scores *out, struct err *err)
{
	const struct kernels *kernels = kernels_fast();
	double scale = expf(in->log_scale), loss = 0;
	int code;

	CHECK(in->pictures == r->pictures && in->captions == r->captions);
	*out = (struct retrieval_scores){ 0 };
	kernels->contrast->unit_rows(in->v, r->length, in->v, (int)in->pictures, in->features);
	kernels->contrast->unit_rows(in->t, r->length, in->t, (int)in->captions, in->features);
	sort_texts(r, in->text);
	own_scores(r, in, kernels->vector);
	out->accuracy = compare_fixed_pairs(r, in, kernels->vector, &out->pairs);
	if (out->pairs == 0)
		return err_set(err, ERR_FORMAT, "the split has nothing to compare: it needs at least two pictures with different captions");
	if ((code = rank_blocks(r, in, out, err)) != 0)
		return code;
	for (uint32_t c = 0; c < r->captions; c++)
		loss += surprise(r->own[c], r->row_sum[c], scale) + surprise(r->own[c], r->sum[in->own[c]], scale);
	out->loss = loss / (2.0 * r->captions);
	return 0;
}
