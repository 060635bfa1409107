/*
 * bert_table.h - the generated tables behind bert_chars.h, in the short form
 * that the source keeps. Printed by tools/unicode/bert-table.cjs; every list is
 * in ascending order of code points. A code point in none of them is kept as
 * it is.
 */
#ifndef PREPROCESSD_CODEC_BERT_TABLE_H
#define PREPROCESSD_CODEC_BERT_TABLE_H

#include <stdint.h>

enum bert_class {
	BERT_KEEP,         /* a letter of a word, as it is */
	BERT_DROP,         /* as if it were not there */
	BERT_SPACE,        /* ends a word */
	BERT_ALONE,        /* a word of its own: punctuation, Chinese characters */
	BERT_MARK,         /* an accent: vanishes */
	BERT_MARK_STARTER, /* vanishes, but marks are not reordered across it */
	BERT_HANGUL,       /* a syllable, taken apart by rule */
	BERT_MAPPED        /* first of the numbers that name a struct bert_output */
};

struct bert_range {
	uint32_t first, last;
	uint8_t class;
};

/* Letters that NFD reorders: ascending ranks within a run of them. */
struct bert_rank {
	uint32_t first, last;
	uint8_t rank;
};

/* first, first + step, ... last become to, to + step*slope, ... */
struct bert_run {
	uint32_t first, last, to;
	uint8_t step, slope;
};

struct bert_pair {
	uint32_t from, to;
};

struct bert_sequence {
	uint32_t from, to[3]; /* 0: no more */
};

extern const struct bert_range bert_ranges[];
extern const struct bert_rank bert_ranks[];
extern const struct bert_run bert_runs[];
extern const struct bert_pair bert_pairs[];
extern const struct bert_sequence bert_sequences[];
extern const int bert_ranges_count, bert_ranks_count, bert_runs_count, bert_pairs_count, bert_sequences_count;

#endif
