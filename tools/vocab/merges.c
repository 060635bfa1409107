#include "tools/vocab/merges.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "shared/base/hash.h"
#include "shared/base/mem.h"
#include "shared/base/utf8.h"

enum { SPECIALS = 5, NO_PIECE = -1, FIRST_PAIRS = 1 << 14, FIRST_USES = 4 };
static const char *const SPECIAL_NAMES[SPECIALS] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]" };

/* A word as pieces; a merge shortens it in place. */
struct spelled {
	int32_t *pieces; /* (length) ids of pieces */
	int length;
	uint64_t count;
};

struct pair {
	int32_t left, right; /* left NO_PIECE: free */
	int64_t count;
	uint32_t *uses;      /* (use_count) words that had it when it was noted: some may have lost it since */
	uint32_t use_count, use_capacity;
};

struct training {
	struct words pieces;    /* id = index; what words.h counts are not used */
	struct spelled *words;  /* (word_count) */
	size_t word_count;
	struct pair *pairs;     /* (pair_slots) hashed by (left, right) */
	size_t pair_slots, pair_count;
};

/* --- pairs ---------------------------------------------------------------- */

static struct pair *pair_find(const struct training *training, int32_t left, int32_t right)
{
	int32_t key[2] = { left, right };
	size_t at = (size_t)hash_checksum(key, sizeof(key)) & (training->pair_slots - 1);

	for (;; at = (at + 1) & (training->pair_slots - 1)) {
		struct pair *pair = &training->pairs[at];

		if (pair->left == NO_PIECE || (pair->left == left && pair->right == right))
			return pair;
	}
}

static int pairs_resize(struct training *training, size_t slots, struct err *err)
{
	struct training next = *training;

	next.pair_slots = slots;
	next.pairs = mem_array(slots, sizeof(*next.pairs));
	if (next.pairs == NULL)
		return err_nomem(err, slots * sizeof(*next.pairs));
	for (size_t i = 0; i < slots; i++)
		next.pairs[i].left = NO_PIECE;
	for (size_t i = 0; i < training->pair_slots; i++) {
		const struct pair *pair = &training->pairs[i];

		if (pair->left != NO_PIECE)
			*pair_find(&next, pair->left, pair->right) = *pair;
	}
	mem_free(training->pairs);
	*training = next;
	return 0;
}

static int pair_add(struct training *training, int32_t left, int32_t right, int64_t count, uint32_t word, struct err *err)
{
	struct pair *pair = pair_find(training, left, right);

	if (pair->left == NO_PIECE) {
		if (2 * (training->pair_count + 1) > training->pair_slots) {
			int rc = pairs_resize(training, 2 * training->pair_slots, err);

			if (rc != 0)
				return rc;
			pair = pair_find(training, left, right);
		}
		*pair = (struct pair){ .left = left, .right = right };
		training->pair_count++;
	}
	pair->count += count;
	if (count < 0 || (pair->use_count > 0 && pair->uses[pair->use_count - 1] == word))
		return 0;
	if (pair->use_count == pair->use_capacity) {
		uint32_t capacity = pair->use_capacity == 0 ? FIRST_USES : 2 * pair->use_capacity;
		uint32_t *uses = mem_realloc_array(pair->uses, capacity, sizeof(*uses));

		if (uses == NULL)
			return err_nomem(err, capacity * sizeof(*uses));
		pair->uses = uses;
		pair->use_capacity = capacity;
	}
	pair->uses[pair->use_count++] = word;
	return 0;
}

static int count_pairs(struct training *training, uint32_t word, int sign, struct err *err)
{
	const struct spelled *spelled = &training->words[word];
	int rc = 0;

	for (int i = 0; i + 1 < spelled->length && rc == 0; i++)
		rc = pair_add(training, spelled->pieces[i], spelled->pieces[i + 1], sign * (int64_t)spelled->count, word, err);
	return rc;
}

static struct pair *best_pair(struct training *training)
{
	struct pair *best = NULL;

	for (size_t i = 0; i < training->pair_slots; i++) {
		struct pair *pair = &training->pairs[i];

		if (pair->left == NO_PIECE || pair->count <= 0)
			continue;
		if (best == NULL || pair->count > best->count ||
		    (pair->count == best->count && (pair->left < best->left || (pair->left == best->left && pair->right < best->right))))
			best = pair;
	}
	return best;
}

/* --- pieces --------------------------------------------------------------- */

/* The id of a piece, which is added if it is new. */
static int add_piece(struct training *training, const char *text, size_t size, int32_t *id, struct err *err)
{
	int rc = words_add(&training->pieces, text, size, 1, err);

	*id = rc == 0 ? (int32_t)words_find(&training->pieces, text, size) : NO_PIECE;
	return rc;
}

struct letter {
	const char *text; /* in a word */
	size_t bytes;
	uint64_t count;
};

static int by_bytes(const void *a, const void *b)
{
	const struct letter *x = a, *y = b;
	size_t common = x->bytes < y->bytes ? x->bytes : y->bytes;
	int order = memcmp(x->text, y->text, common);

	return order != 0 ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_count(const void *a, const void *b)
{
	const struct letter *x = a, *y = b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return by_bytes(a, b);
}

/* Letters by frequency, cut, then in the order of their bytes. */
static int add_letters(struct training *training, const struct words *words, size_t letters_max, struct err *err)
{
	struct letter *letters = NULL;
	size_t total = 0, count = 0;
	int rc = 0;

	for (size_t i = 0; i < words->count; i++)
		total += strlen(words->all[i].text);
	letters = mem_array(total + 1, sizeof(*letters));
	if (letters == NULL)
		return err_nomem(err, total * sizeof(*letters));
	for (size_t i = 0; i < words->count; i++) {
		const char *text = words->all[i].text;

		for (size_t left = strlen(text), bytes; left > 0; text += bytes, left -= bytes) {
			bytes = utf8_char_bytes(text, left);
			letters[count++] = (struct letter){ text, bytes, words->all[i].count };
		}
	}
	qsort(letters, count, sizeof(*letters), by_bytes);
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (kept > 0 && by_bytes(&letters[kept - 1], &letters[i]) == 0)
			letters[kept - 1].count += letters[i].count;
		else
			letters[kept++] = letters[i];
	}
	qsort(letters, kept, sizeof(*letters), by_count);
	kept = kept < letters_max ? kept : letters_max;
	qsort(letters, kept, sizeof(*letters), by_bytes);
	for (size_t i = 0; i < 2 * kept && rc == 0; i++) {
		char text[8] = "##";
		size_t mark = i < kept ? 0 : 2;
		const struct letter *letter = &letters[i % kept];
		int32_t id;

		memcpy(text + mark, letter->text, letter->bytes);
		rc = add_piece(training, text, mark + letter->bytes, &id, err);
	}
	mem_free(letters);
	return rc;
}

/* Words as letters; one with a letter that was cut is left out. */
static int spell_words(struct training *training, const struct words *words, struct err *err)
{
	training->words = mem_array(words->count + 1, sizeof(*training->words));
	if (training->words == NULL)
		return err_nomem(err, words->count * sizeof(*training->words));
	for (size_t i = 0; i < words->count; i++) {
		struct spelled *spelled = &training->words[training->word_count];
		const char *text = words->all[i].text;

		spelled->pieces = mem_array(strlen(text), sizeof(*spelled->pieces));
		if (spelled->pieces == NULL)
			return err_nomem(err, strlen(text) * sizeof(*spelled->pieces));
		training->word_count++;
		spelled->count = words->all[i].count;
		for (size_t left = strlen(text), bytes; left > 0; text += bytes, left -= bytes) {
			char piece[8] = "##";
			size_t mark = spelled->length == 0 ? 0 : 2;

			bytes = utf8_char_bytes(text, left);
			memcpy(piece + mark, text, bytes);
			size_t id = words_find(&training->pieces, piece, mark + bytes);

			if (id == training->pieces.count) {
				spelled->length = 0;
				break;
			}
			spelled->pieces[spelled->length++] = (int32_t)id;
		}
	}
	return 0;
}

/* --- merging -------------------------------------------------------------- */

static int merged_piece(struct training *training, const struct pair *pair, int32_t *id, struct err *err)
{
	const char *left = training->pieces.all[pair->left].text, *right = training->pieces.all[pair->right].text;
	struct buf text = BUF_INIT;
	int rc = buf_printf(&text, err, "%s%s", left, right + 2);

	if (rc == 0)
		rc = add_piece(training, text.data, text.size, id, err);
	buf_free(&text);
	return rc;
}

static void merge_in_word(struct spelled *spelled, int32_t left, int32_t right, int32_t merged)
{
	int length = 0;

	for (int i = 0; i < spelled->length; i++) {
		bool here = i + 1 < spelled->length && spelled->pieces[i] == left && spelled->pieces[i + 1] == right;

		spelled->pieces[length++] = here ? merged : spelled->pieces[i];
		i += here;
	}
	spelled->length = length;
}

static int merge(struct training *training, struct pair *pair, struct err *err)
{
	int32_t left = pair->left, right = pair->right, merged;
	/* The table may move while pairs are added. */
	uint32_t *uses = pair->uses;
	uint32_t use_count = pair->use_count;
	int rc = merged_piece(training, pair, &merged, err);

	pair->uses = NULL;
	pair->use_count = pair->use_capacity = 0;
	for (uint32_t i = 0; i < use_count && rc == 0; i++) {
		rc = count_pairs(training, uses[i], -1, err);
		merge_in_word(&training->words[uses[i]], left, right, merged);
		if (rc == 0)
			rc = count_pairs(training, uses[i], 1, err);
	}
	mem_free(uses);
	return rc;
}

static int training_start(struct training *training, const struct words *words, const struct merges_options *options,
			  struct err *err)
{
	int32_t id;
	int rc = words_open(&training->pieces, err);

	for (int i = 0; i < SPECIALS && rc == 0; i++)
		rc = add_piece(training, SPECIAL_NAMES[i], strlen(SPECIAL_NAMES[i]), &id, err);
	if (rc == 0)
		rc = add_letters(training, words, options->letters_max, err);
	if (rc == 0)
		rc = spell_words(training, words, err);
	if (rc == 0)
		rc = pairs_resize(training, FIRST_PAIRS, err);
	for (size_t i = 0; i < training->word_count && rc == 0; i++)
		rc = count_pairs(training, (uint32_t)i, 1, err);
	if (rc == 0 && training->pieces.count > options->size)
		rc = err_set(err, ERR_USAGE, "--size %zu is too small: the letters of this text alone take %zu lines", options->size,
			     training->pieces.count);
	return rc;
}

static void training_free(struct training *training)
{
	for (size_t i = 0; i < training->pair_slots; i++)
		mem_free(training->pairs[i].uses);
	for (size_t i = 0; i < training->word_count; i++)
		mem_free(training->words[i].pieces);
	mem_free(training->pairs);
	mem_free(training->words);
	words_close(&training->pieces);
}

int merges_train(const struct words *words, const struct merges_options *options, struct buf *out, size_t *lines, struct err *err)
{
	struct training training = { .pairs = NULL };
	int rc = training_start(&training, words, options, err);

	while (rc == 0 && training.pieces.count < options->size) {
		struct pair *pair = best_pair(&training);

		if (pair == NULL || (uint64_t)pair->count < options->min_count)
			break;
		rc = merge(&training, pair, err);
	}
	for (size_t i = 0; i < training.pieces.count && rc == 0; i++)
		rc = buf_printf(out, err, "%s\n", training.pieces.all[i].text);
	*lines = training.pieces.count;
	training_free(&training);
	return rc;
}
