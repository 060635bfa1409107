#include "preprocessd/codec/bert_chars.h"

#include <string.h>

#include "shared/base/mem.h"

/*
 * The short lists are spread out into cells of 16 bits, in rows of BERT_BLOCK
 * code points. Rows that are the same from end to end (most of the code
 * space) are shared: row c of the first BERT_MAPPED rows is all class c.
 */
enum { ROWS_MAX = 512 };

struct builder {
	struct bert_chars *chars;
	size_t rows;
	int outputs, outputs_max;
};

/* The cell of code, in a row of its own. */
static uint16_t *own_cell(struct builder *builder, uint32_t code)
{
	struct bert_chars *chars = builder->chars;
	uint16_t *row = &chars->blocks[code / BERT_BLOCK];

	if (*row < BERT_MAPPED) {
		uint16_t *fresh = chars->cells + builder->rows * BERT_BLOCK;

		CHECK(builder->rows < ROWS_MAX);
		for (int i = 0; i < BERT_BLOCK; i++)
			fresh[i] = *row;
		*row = (uint16_t)builder->rows++;
	}
	return &chars->cells[(size_t)*row * BERT_BLOCK + code % BERT_BLOCK];
}

static void set_range(struct builder *builder, uint32_t first, uint32_t last, uint8_t class)
{
	for (uint32_t code = first; code <= last;) {
		if (code % BERT_BLOCK == 0 && last - code >= BERT_BLOCK - 1 &&
		    builder->chars->blocks[code / BERT_BLOCK] < BERT_MAPPED) {
			builder->chars->blocks[code / BERT_BLOCK] = class;
			code += BERT_BLOCK;
		} else {
			*own_cell(builder, code++) = class;
		}
	}
}

static void set_output(struct builder *builder, uint32_t code, const uint32_t *to, int count)
{
	struct bert_output *output = &builder->chars->outputs[builder->outputs];

	CHECK(builder->outputs < builder->outputs_max && BERT_MAPPED + builder->outputs < UINT16_MAX);
	output->count = (uint8_t)count;
	memcpy(output->to, to, (size_t)count * sizeof(*to));
	*own_cell(builder, code) = (uint16_t)(BERT_MAPPED + builder->outputs++);
}

static uint8_t rank_of(uint32_t code)
{
	for (int i = 0; i < bert_ranks_count; i++)
		if (code >= bert_ranks[i].first && code <= bert_ranks[i].last)
			return bert_ranks[i].rank;
	return 0;
}

static int sequence_length(const struct bert_sequence *sequence)
{
	int count = 0;

	while (count < BERT_OUTPUT_MAX && sequence->to[count] != 0)
		count++;
	return count;
}

static int count_outputs(void)
{
	int count = bert_pairs_count + bert_sequences_count;

	for (int i = 0; i < bert_runs_count; i++)
		count += (int)((bert_runs[i].last - bert_runs[i].first) / bert_runs[i].step) + 1;
	for (int i = 0; i < bert_ranks_count; i++)
		count += (int)(bert_ranks[i].last - bert_ranks[i].first) + 1;
	return count;
}

static void fill(struct builder *builder)
{
	struct bert_chars *chars = builder->chars;

	for (int class = 0; class < BERT_MAPPED; class++)
		for (int i = 0; i < BERT_BLOCK; i++)
			chars->cells[class * BERT_BLOCK + i] = (uint16_t)class;
	builder->rows = BERT_MAPPED;
	for (int i = 0; i < bert_ranges_count; i++)
		set_range(builder, bert_ranges[i].first, bert_ranges[i].last, bert_ranges[i].class);
	for (int i = 0; i < bert_ranks_count; i++)
		for (uint32_t code = bert_ranks[i].first; code <= bert_ranks[i].last; code++)
			set_output(builder, code, &code, 1);
	for (int i = 0; i < bert_runs_count; i++) {
		const struct bert_run *run = &bert_runs[i];

		for (uint32_t code = run->first; code <= run->last; code += run->step) {
			uint32_t to = run->to + run->slope * (code - run->first);

			set_output(builder, code, &to, 1);
		}
	}
	for (int i = 0; i < bert_pairs_count; i++)
		set_output(builder, bert_pairs[i].from, &bert_pairs[i].to, 1);
	for (int i = 0; i < bert_sequences_count; i++)
		set_output(builder, bert_sequences[i].from, bert_sequences[i].to, sequence_length(&bert_sequences[i]));
	for (int i = 0; i < builder->outputs; i++) {
		struct bert_output *output = &chars->outputs[i];

		for (int k = 0; k < output->count; k++)
			output->rank[k] = rank_of(output->to[k]);
		output->alone = bert_chars_class(chars, output->to[0]) == BERT_ALONE;
	}
}

int bert_chars_open(struct bert_chars **out, struct err *err)
{
	struct builder builder = { .outputs_max = count_outputs() };
	struct bert_chars *chars = mem_zalloc(sizeof(*chars));

	*out = NULL;
	if (chars == NULL)
		return err_nomem(err, sizeof(*chars));
	chars->cells = mem_array((size_t)ROWS_MAX * BERT_BLOCK, sizeof(*chars->cells));
	chars->outputs = mem_array((size_t)builder.outputs_max, sizeof(*chars->outputs));
	if (chars->cells == NULL || chars->outputs == NULL) {
		bert_chars_close(chars);
		return err_nomem(err, (size_t)ROWS_MAX * BERT_BLOCK * sizeof(*chars->cells));
	}
	builder.chars = chars;
	fill(&builder);
	*out = chars;
	return 0;
}

void bert_chars_close(struct bert_chars *chars)
{
	if (chars == NULL)
		return;
	mem_free(chars->cells);
	mem_free(chars->outputs);
	mem_free(chars);
}

int bert_hangul(uint32_t code, uint32_t out[BERT_OUTPUT_MAX])
{
	enum { LEAD = 0x1100, VOWEL = 0x1161, TAIL = 0x11A7, VOWELS = 21, TAILS = 28 };
	uint32_t index = code - BERT_HANGUL_FIRST;

	out[0] = LEAD + index / (VOWELS * TAILS);
	out[1] = VOWEL + index / TAILS % VOWELS;
	out[2] = TAIL + index % TAILS;
	return out[2] == TAIL ? 2 : 3;
}
