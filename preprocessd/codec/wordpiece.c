#include "preprocessd/codec/wordpiece.h"

#include <string.h>

#include "preprocessd/codec/vocab.h"
#include "shared/base/mem.h"
#include "shared/base/utf8.h"

enum {
	/* No code point becomes more words or letters than it has bytes
	 * (tests/unit/test_wordpiece.c checks the tables), so a text of n bytes
	 * gives at most n ids, plus [CLS] and [SEP]. */
	SPECIALS = 2,
	FIRST_IDS = 4096,
};

/* Letters in the way of NFD's reordering: they wait until the run ends. */
struct waiting {
	uint32_t code;
	uint8_t rank;
};

struct wordpiece {
	const struct vocab *vocab;
	int32_t *ids;
	size_t count, capacity; /* of ids */
	/* The text with its ASCII letters lowered, and WORDTABLE_READ_BYTES of
	 * zeros behind it: that ends every scan and may be read by every load. */
	uint8_t *text;
	/* The word being built, in UTF-8. chars goes on counting when the word
	 * has become too long to matter; bytes stop at WORD_CHARS_MAX letters. */
	size_t chars, bytes;
	uint8_t word[WORD_BYTES_MAX + WORDTABLE_READ_BYTES];
	struct waiting run[WORD_CHARS_MAX];
	int run_count;
};

/* Shorthands for the table below. */
enum { L = BERT_KEEP, D = BERT_DROP, S = BERT_SPACE, A = BERT_ALONE, M = BERT_MAPPED };

/* ASCII without a look into the tables; capital letters do not occur, see
 * fold_text(). M: look into the tables. */
static const uint8_t byte_class[256] = {
	D, D, D, D, D, D, D, D, D, S, S, D, D, S, D, D, D, D, D, D, D, D, D, D, D, D, D, D, D, D, D, D,
	S, A, A, A, A, A, A, A, A, A, A, A, A, A, A, A, L, L, L, L, L, L, L, L, L, L, A, A, A, A, A, A,
	A, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, A, A, A, A, A,
	A, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, A, A, A, A, D,
	M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
	M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
};

static inline void add_id(struct wordpiece *wp, int32_t id)
{
	CHECK(wp->count < wp->capacity);
	wp->ids[wp->count++] = id;
}

/* Greedy, longest piece first; a rest that no piece fits makes the whole word
 * [UNK]. Pieces end between characters because both sides are UTF-8. */
static void add_pieces(struct wordpiece *wp, const uint8_t *word, size_t bytes)
{
	const struct vocab *vocab = wp->vocab;
	const struct trie_unit *units = vocab->trie.units;
	size_t before = wp->count, at = 0;
	int32_t node = TRIE_ROOT;

	while (at < bytes && node != TRIE_NONE) {
		int32_t id = TRIE_NONE;
		size_t id_end = at;

		for (size_t i = at; i < bytes; i++) {
			int32_t child = units[node].base + word[i];

			if (units[child].check != node)
				break;
			node = child;
			if (units[node].id != TRIE_NONE) {
				id = units[node].id;
				id_end = i + 1;
			}
		}
		if (id == TRIE_NONE)
			break;
		add_id(wp, id);
		at = id_end;
		node = vocab->continuing;
	}
	if (at < bytes) {
		wp->count = before;
		add_id(wp, vocab->unk);
	}
}

/* word: WORDTABLE_READ_BYTES readable bytes at least. */
static inline void add_word(struct wordpiece *wp, const uint8_t *word, size_t bytes)
{
	int32_t id = bytes <= WORDTABLE_BYTES_MAX ? wordtable_find(&wp->vocab->whole, word, bytes) : TRIE_NONE;

	if (id != TRIE_NONE)
		add_id(wp, id);
	else
		add_pieces(wp, word, bytes);
}

static void put_letter(struct wordpiece *wp, uint32_t code)
{
	if (wp->chars < WORD_CHARS_MAX)
		wp->bytes += utf8_encode(wp->word + wp->bytes, code);
	wp->chars++;
}

static void end_run(struct wordpiece *wp)
{
	int count = wp->run_count;

	wp->run_count = 0;
	for (int i = 0; i < count; i++)
		put_letter(wp, wp->run[i].code);
}

/* Letters of a run are sorted by rank, equal ones stay in order. */
static void add_ranked(struct wordpiece *wp, uint32_t code, uint8_t rank)
{
	int at = wp->run_count;

	if (wp->chars + (size_t)at >= WORD_CHARS_MAX) {
		/* The word is [UNK], in whatever order. */
		wp->chars = WORD_CHARS_MAX + 1;
		return;
	}
	for (; at > 0 && wp->run[at - 1].rank > rank; at--)
		wp->run[at] = wp->run[at - 1];
	wp->run[at] = (struct waiting){ code, rank };
	wp->run_count++;
}

static void end_word(struct wordpiece *wp)
{
	if (wp->run_count > 0)
		end_run(wp);
	if (wp->chars > WORD_CHARS_MAX)
		add_id(wp, wp->vocab->unk);
	else if (wp->chars > 0)
		add_word(wp, wp->word, wp->bytes);
	wp->chars = 0;
	wp->bytes = 0;
}

static void add_letter(struct wordpiece *wp, uint32_t code)
{
	if (wp->run_count > 0)
		end_run(wp);
	put_letter(wp, code);
}

static void add_alone(struct wordpiece *wp, uint32_t code)
{
	uint8_t bytes[WORDTABLE_READ_BYTES] = { 0 };

	end_word(wp);
	add_word(wp, bytes, utf8_encode(bytes, code));
}

static void add_output(struct wordpiece *wp, const struct bert_output *output)
{
	if (output->alone) {
		add_alone(wp, output->to[0]);
		return;
	}
	for (int i = 0; i < output->count; i++) {
		if (output->rank[i] == 0)
			add_letter(wp, output->to[i]);
		else
			add_ranked(wp, output->to[i], output->rank[i]);
	}
}

static void add_code_point(struct wordpiece *wp, uint32_t code)
{
	const struct bert_chars *chars = wp->vocab->chars;
	uint32_t jamo[BERT_OUTPUT_MAX];
	uint16_t class = bert_chars_class(chars, code);

	switch (class) {
	case BERT_KEEP:
		add_letter(wp, code);
		break;
	case BERT_DROP:
	case BERT_MARK:
		break;
	case BERT_SPACE:
		end_word(wp);
		break;
	case BERT_ALONE:
		add_alone(wp, code);
		break;
	case BERT_MARK_STARTER:
		end_run(wp);
		break;
	case BERT_HANGUL:
		for (int i = 0, count = bert_hangul(code, jamo); i < count; i++)
			add_letter(wp, jamo[i]);
		break;
	default:
		add_output(wp, &chars->outputs[class - BERT_MAPPED]);
	}
}

/* [p, q) are ASCII letters and digits. ends: a space, punctuation or the end
 * of the text follows, so that they are a whole word if none was begun. */
static void add_ascii_letters(struct wordpiece *wp, const uint8_t *p, const uint8_t *q, bool ends)
{
	if (!ends || wp->chars > 0 || wp->run_count > 0) {
		for (; p < q; p++)
			add_letter(wp, *p);
		return;
	}
	if (q - p > WORD_CHARS_MAX)
		add_id(wp, wp->vocab->unk);
	else
		add_word(wp, p, (size_t)(q - p));
}

static void add_text(struct wordpiece *wp, const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		const uint8_t *q = p + 1;
		uint32_t code;

		switch (byte_class[*p]) {
		case L:
			while (byte_class[*q] == L)
				q++;
			add_ascii_letters(wp, p, q, q == end || byte_class[*q] == S || byte_class[*q] == A);
			break;
		case D:
			break;
		case S:
			end_word(wp);
			break;
		case A:
			end_word(wp);
			add_id(wp, wp->vocab->ascii_alone[*p]);
			break;
		default:
			q = p + utf8_decode(p, end, &code);
			/* U+FFFD, which ill-formed bytes stand for, is dropped. */
			if (code != UTF8_INVALID)
				add_code_point(wp, code);
		}
		p = q;
	}
	end_word(wp);
}

/* Room for the text and for its ids. */
static int reserve(struct wordpiece *wp, size_t needed, struct err *err)
{
	size_t capacity = wp->capacity == 0 ? FIRST_IDS : wp->capacity;

	if (needed <= wp->capacity)
		return 0;
	while (capacity < needed)
		capacity *= 2;
	int32_t *ids = mem_realloc_array(wp->ids, capacity, sizeof(*ids));
	if (ids == NULL)
		return err_nomem(err, capacity * sizeof(*ids));
	wp->ids = ids;
	uint8_t *text = mem_realloc_array(wp->text, capacity + WORDTABLE_READ_BYTES, 1);
	if (text == NULL)
		return err_nomem(err, capacity);
	wp->text = text;
	wp->capacity = capacity;
	return 0;
}

static void fold_text(uint8_t *restrict out, const uint8_t *restrict text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		out[i] = (uint8_t)(text[i] | ((uint8_t)(text[i] - 'A') < 26) << 5);
	memset(out + bytes, 0, WORDTABLE_READ_BYTES);
}

int wordpiece_open(struct wordpiece **out, const struct vocab *vocab, struct err *err)
{
	struct wordpiece *wp = mem_zalloc(sizeof(*wp));

	*out = NULL;
	if (wp == NULL)
		return err_nomem(err, sizeof(*wp));
	wp->vocab = vocab;
	int code = reserve(wp, FIRST_IDS, err);
	if (code == 0)
		*out = wp;
	else
		wordpiece_close(wp);
	return code;
}

void wordpiece_close(struct wordpiece *wp)
{
	if (wp == NULL)
		return;
	mem_free(wp->ids);
	mem_free(wp->text);
	mem_free(wp);
}

int wordpiece_encode(struct wordpiece *wp, const char *text, size_t bytes, const int32_t **ids, size_t *count,
		     struct err *err)
{
	int code;

	if (bytes > WORDPIECE_TEXT_BYTES_MAX)
		return err_set(err, ERR_LIMIT, "the text has %zu bytes, the limit is %d", bytes, WORDPIECE_TEXT_BYTES_MAX);
	if ((code = reserve(wp, bytes + SPECIALS, err)) != 0)
		return code;
	wp->count = 0;
	add_id(wp, wp->vocab->cls);
	fold_text(wp->text, (const uint8_t *)text, bytes);
	add_text(wp, wp->text, wp->text + bytes);
	add_id(wp, wp->vocab->sep);
	*ids = wp->ids;
	*count = wp->count;
	return 0;
}
