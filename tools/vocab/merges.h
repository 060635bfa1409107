/*
 * merges.h - a WordPiece vocabulary from counted words.
 *
 * As the usual WordPiece trainers do it: every word starts as its letters
 * ("c", then "##a", "##t"), and the pair of neighbors that is most frequent
 * over all words becomes one piece, again and again, until the vocabulary has
 * the size asked for or no pair is frequent enough. Byte-pair encoding:
 * Sennrich et al., "Neural Machine Translation of Rare Words with Subword
 * Units", 2016. Ties go to the pair whose pieces are older, so the result
 * depends on the words and their order alone.
 *
 * Cost: pairs that a merge touches are updated in place; finding the best is
 * one pass over the distinct pairs.
 */
#ifndef TOOLS_VOCAB_MERGES_H
#define TOOLS_VOCAB_MERGES_H

#include "shared/base/buf.h"
#include "tools/vocab/words.h"

struct merges_options {
	size_t size;         /* lines of the vocabulary, special ones included */
	uint64_t min_count;  /* a pair that is rarer is not merged */
	size_t letters_max;  /* distinct letters kept, the most frequent */
};

/* Appends the vocabulary to out, a piece a line: [PAD] [UNK] [CLS] [SEP]
 * [MASK], letters, "##" letters, then pieces in order of their merge. */
MUST_USE int merges_train(const struct words *words, const struct merges_options *options, struct buf *out, size_t *lines,
			  struct err *err);

#endif
