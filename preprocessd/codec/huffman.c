#include "preprocessd/codec/huffman.h"

#include <string.h>

#include "shared/base/check.h"

enum {
	/* Longer values do not come from pictures of 8 bits a sample. */
	DC_BITS_MAX = 11,
	AC_BITS_MAX = 10,
	RUN_OF_ZEROS = 15, /* without a value: 16 zeros; other runs without a value: the block's end */
	FIRST_RESTART = 0xD0,
	/* Up to here the first value of a pair can't be the block's last. */
	PAIRS_END = HUFFMAN_BLOCK_COEFFICIENTS - 1 - 16,
};

/* Entries of a pair table from here on hold values. */
#define PAIR_VALUE ((uint32_t)1 << 24)

/* Zigzag order to the order of rows. A run may lead beyond the block by 15 at
 * most, and like libjpeg puts its value last then. */
static const uint8_t NATURAL[HUFFMAN_BLOCK_COEFFICIENTS + 16] = {
	0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
	6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
	39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
};

/* The value of `size` bits: those that start with 0 are negative (T.81 F.2.2.1). */
static inline int extend(unsigned bits, unsigned size)
{
	return (int)bits - (int)((bits >> (size - 1) ^ 1) * ((1U << size) - 1));
}

/* An entry of table->whole for a code of `length` bits, with the bits that follow it. */
static uint32_t whole_entry(const struct huffman_table *table, unsigned symbol, unsigned length, unsigned window)
{
	const unsigned size = table->of_dc ? symbol : symbol & 15, run = table->of_dc ? 0 : symbol >> 4;
	const unsigned left = HUFFMAN_LOOKUP_BITS - length;
	const unsigned step = size == 0 && !table->of_dc ? (run == RUN_OF_ZEROS ? 16 : HUFFMAN_BLOCK_COEFFICIENTS) : run + 1;
	int value = 0;

	if (size > left)
		return 0;
	if (size > 0)
		value = extend(window >> (left - size) & ((1U << size) - 1), size);
	return (uint32_t)value << 16 | step << 8 | (length + size);
}

/* Entries of table->pair, from those of table->whole. */
static void build_pairs(struct huffman_table *table)
{
	const unsigned windows = 1U << HUFFMAN_LOOKUP_BITS;

	for (unsigned window = 0; window < windows; window++) {
		const uint32_t one = table->whole[window];
		const unsigned bits = one & 0xFF, step = one >> 8 & 0xFF;
		const int value = (int32_t)one >> 16;
		/* What is looked up behind the last bits are zeros: a second code counts if it needs none of them. */
		const uint32_t two = table->whole[window << bits & (windows - 1)];
		const unsigned two_bits = bits + (two & 0xFF), two_step = two >> 8 & 0xFF;
		const int two_value = (int32_t)two >> 16;
		const bool two_fits = two != 0 && two_bits <= HUFFMAN_LOOKUP_BITS;
		const uint32_t first = (uint32_t)(value & 0xFF) << 24 | (step - 1) << 8, again = (uint32_t)(value & 0xFF) << 16;

		if (value == 0)
			table->pair[window] = step == HUFFMAN_BLOCK_COEFFICIENTS ? HUFFMAN_BLOCK_COEFFICIENTS | bits : 0;
		else if (value != (int8_t)value)
			table->pair[window] = 0;
		else if (two_fits && two_value == 0 && two_step == HUFFMAN_BLOCK_COEFFICIENTS)
			table->pair[window] = first | again | HUFFMAN_BLOCK_COEFFICIENTS | two_bits;
		else if (two_fits && two_value != 0 && two_value == (int8_t)two_value && two_step < 16)
			table->pair[window] = first | (uint32_t)(two_value & 0xFF) << 16 | two_step << 12 | two_bits;
		else
			table->pair[window] = first | again | bits;
	}
}

bool huffman_table_build(struct huffman_table *table, const uint8_t *counts, const uint8_t *symbols, bool of_dc)
{
	unsigned code = 0;
	int first = 0;

	if (table->built && table->of_dc == of_dc && memcmp(table->counts, counts, sizeof(table->counts)) == 0 &&
	    memcmp(table->symbols, symbols, sizeof(table->symbols)) == 0)
		return true;
	table->built = false;
	table->of_dc = of_dc;
	memcpy(table->counts, counts, sizeof(table->counts));
	memcpy(table->symbols, symbols, sizeof(table->symbols));
	memset(table->whole, 0, sizeof(table->whole));
	memset(table->code, 0, sizeof(table->code));
	for (unsigned length = 1; length <= HUFFMAN_CODE_BITS_MAX; length++, code <<= 1) {
		table->offset[length] = first - (int)code;
		table->limit[length] = 0;
		if (counts[length] == 0)
			continue;
		if (code + counts[length] > 1U << length || first + counts[length] > (int)sizeof(table->symbols))
			return false;
		for (unsigned i = 0; i < counts[length] && length <= HUFFMAN_LOOKUP_BITS; i++) {
			const unsigned symbol = symbols[(unsigned)first + i], left = HUFFMAN_LOOKUP_BITS - length;
			const unsigned from = (code + i) << left;

			for (unsigned window = from; window < from + (1U << left); window++) {
				table->whole[window] = whole_entry(table, symbol, length, window);
				table->code[window] = (uint16_t)(symbol << 8 | length);
			}
		}
		code += counts[length];
		first += counts[length];
		table->limit[length] = code << (HUFFMAN_CODE_BITS_MAX - length);
	}
	if (!of_dc)
		build_pairs(table);
	table->built = true;
	return true;
}

static void start_window(struct huffman_stream *stream)
{
	stream->next = stream->end = stream->window;
	stream->bits = 0;
	stream->count = 0;
	stream->marker = 0;
}

void huffman_stream_open(struct huffman_stream *stream, const void *bytes, size_t size, size_t at)
{
	stream->bytes = bytes;
	stream->size = size;
	stream->at = at;
	start_window(stream);
}

/* Moves what is left to the front of the window and puts more behind it,
 * without the zero that follows each 0xFF of the data. */
static bool top_up(struct huffman_stream *stream)
{
	const size_t kept = (size_t)(stream->end - stream->next);
	uint8_t *out = stream->window + kept, *const out_end = stream->window + HUFFMAN_WINDOW_BYTES;
	const uint8_t *in = stream->bytes + stream->at, *const in_end = stream->bytes + stream->size;

	/* As no marker was met, the window held more than the MCU before this took. */
	CHECK(stream->next <= stream->end && kept < HUFFMAN_SLACK_BYTES);
	memmove(stream->window, stream->next, kept);
	while (out < out_end && stream->marker == 0) {
		const size_t room = (size_t)(out_end - out), left = (size_t)(in_end - in);
		const size_t look = left < room ? left : room;
		const uint8_t *stuffed = memchr(in, 0xFF, look);
		const size_t plain = stuffed != NULL ? (size_t)(stuffed - in) : look;

		memcpy(out, in, plain);
		out += plain;
		in += plain;
		if (stuffed == NULL) {
			if (look == left)
				return false;
		} else if (left - plain < 2 || in[1] == 0xFF) {
			return false;
		} else if (in[1] != 0) {
			stream->marker = in[1];
		} else {
			*out++ = 0xFF;
			in += 2;
		}
	}
	stream->at = (size_t)(in - stream->bytes);
	stream->end = out;
	stream->next = stream->window;
	memset(out, 0, HUFFMAN_SLACK_BYTES);
	return true;
}

bool huffman_stream_fill(struct huffman_stream *stream)
{
	if (stream->marker != 0 || stream->end - stream->next >= HUFFMAN_SLACK_BYTES)
		return true;
	return top_up(stream);
}

bool huffman_stream_spent(struct huffman_stream *stream)
{
	ptrdiff_t left;

	if (!huffman_stream_fill(stream))
		return false;
	left = (stream->end - stream->next) * 8 + (ptrdiff_t)stream->count;
	return stream->marker != 0 && left >= 0 && left < 8;
}

bool huffman_stream_restart(struct huffman_stream *stream, unsigned restart)
{
	if (!huffman_stream_spent(stream) || stream->marker != FIRST_RESTART + restart)
		return false;
	stream->at += 2;
	start_window(stream);
	return true;
}

/* The bits of a stream, in registers while a block is decoded. */
struct reader {
	const uint8_t *next;
	uint64_t bits;
	unsigned count;
};

/* At least 56 bits count afterwards: two look-ups and any one code with its value. */
static inline void refill(struct reader *reader)
{
	uint64_t word;

	memcpy(&word, reader->next, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	reader->bits |= word >> reader->count;
	reader->next += (63 - reader->count) >> 3;
	reader->count |= 56;
}

static inline unsigned look(const struct reader *reader)
{
	return (unsigned)(reader->bits >> (64 - HUFFMAN_LOOKUP_BITS));
}

static inline void drop(struct reader *reader, unsigned bits)
{
	reader->bits <<= bits;
	reader->count -= bits;
}

static inline int take_value(struct reader *reader, unsigned size)
{
	const unsigned taken = (unsigned)(reader->bits >> (64 - size));

	drop(reader, size);
	return extend(taken, size);
}

/* The symbol of the next code, or -1 where it is none. */
static inline int next_symbol(struct reader *reader, const struct huffman_table *table)
{
	const unsigned entry = table->code[look(reader)];
	const uint32_t window = (uint32_t)(reader->bits >> (64 - HUFFMAN_CODE_BITS_MAX));

	if (entry != 0) {
		drop(reader, entry & 0xFF);
		return (int)(entry >> 8);
	}
	for (unsigned length = HUFFMAN_LOOKUP_BITS + 1; length <= HUFFMAN_CODE_BITS_MAX; length++) {
		if (window < table->limit[length]) {
			drop(reader, length);
			return table->symbols[(int)(window >> (HUFFMAN_CODE_BITS_MAX - length)) + table->offset[length]];
		}
	}
	return -1;
}

/* The difference to the DC value before; false: not sound. */
static inline bool next_dc(struct reader *reader, const struct huffman_table *table, int *difference)
{
	const uint32_t entry = table->whole[look(reader)];
	int size;

	if (__builtin_expect(entry != 0, 1)) {
		drop(reader, entry & 0xFF);
		*difference = (int32_t)entry >> 16;
		return true;
	}
	size = next_symbol(reader, table);
	*difference = size > 0 && size <= DC_BITS_MAX ? take_value(reader, (unsigned)size) : 0;
	return size >= 0 && size <= DC_BITS_MAX;
}

/* An AC value bit by bit, and the step to it; 0: the step to the
 * end of 16 zeros or of the block. False: not sound. */
static inline bool next_ac(struct reader *reader, const struct huffman_table *table, size_t *step, int *value)
{
	const int symbol = next_symbol(reader, table);
	const int run = symbol >> 4, size = symbol & 15;

	if (symbol < 0 || size > AC_BITS_MAX)
		return false;
	if (size == 0) {
		*step = run == RUN_OF_ZEROS ? 16 : HUFFMAN_BLOCK_COEFFICIENTS;
		*value = 0;
		return true;
	}
	*step = (size_t)run + 1;
	*value = take_value(reader, (unsigned)size);
	return true;
}

/* The same, by one look-up where that is enough. */
static inline bool next_whole_ac(struct reader *reader, const struct huffman_table *table, size_t *step, int *value)
{
	const uint32_t entry = table->whole[look(reader)];

	if (__builtin_expect(entry == 0, 0))
		return next_ac(reader, table, step, value);
	drop(reader, entry & 0xFF);
	*step = entry >> 8 & 0xFF;
	*value = (int32_t)entry >> 16;
	return true;
}

/* A block that is being decoded. */
struct block {
	int16_t *coefficients;
	size_t place; /* in zigzag order, of the last value */
	size_t places;
};

static inline void put(struct block *block, size_t step, int value)
{
	size_t at;

	block->place += step;
	at = NATURAL[block->place];
	block->coefficients[at] = (int16_t)value;
	block->places |= at;
}

/* What next_ac() told. */
static inline void put_or_skip(struct block *block, size_t step, int value)
{
	if (value != 0)
		put(block, step, value);
	else
		block->place += step;
}

/* The values of an entry of table->pair. */
static inline void put_pair(struct block *block, struct reader *reader, uint32_t entry)
{
	drop(reader, entry & 0x3F);
	put(block, (entry >> 8 & 0xF) + 1, (int32_t)entry >> 24);
	put(block, entry >> 12 & 0xF, (int8_t)(entry >> 16));
	block->place += entry & HUFFMAN_BLOCK_COEFFICIENTS;
}

int huffman_block(struct huffman_stream *stream, const struct huffman_table *dc_table, const struct huffman_table *ac_table,
		  int *dc, int16_t *coefficients)
{
	struct reader reader = { stream->next, stream->bits, stream->count };
	struct block block = { .coefficients = coefficients };
	size_t step;
	int value;

	refill(&reader);
	if (!next_dc(&reader, dc_table, &value))
		return -1;
	*dc += value;
	if (*dc != (int16_t)*dc)
		return -1;
	coefficients[0] = (int16_t)*dc;
	while (block.place < PAIRS_END) {
		uint32_t entry;

		refill(&reader);
		entry = ac_table->pair[look(&reader)];
		if (__builtin_expect(entry >= PAIR_VALUE, 1)) {
			put_pair(&block, &reader, entry);
			if (block.place >= PAIRS_END)
				break;
			entry = ac_table->pair[look(&reader)];
			if (__builtin_expect(entry >= PAIR_VALUE, 1)) {
				put_pair(&block, &reader, entry);
				continue;
			}
		}
		if (entry != 0) {
			drop(&reader, entry & 0x3F);
			block.place = HUFFMAN_BLOCK_COEFFICIENTS;
			break;
		}
		if (!next_ac(&reader, ac_table, &step, &value))
			return -1;
		put_or_skip(&block, step, value);
	}
	while (block.place < HUFFMAN_BLOCK_COEFFICIENTS - 1) {
		refill(&reader);
		if (!next_whole_ac(&reader, ac_table, &step, &value))
			return -1;
		put_or_skip(&block, step, value);
	}
	stream->next = reader.next;
	stream->bits = reader.bits;
	stream->count = reader.count;
	/* Beyond the data are zeros, for as long as one block. */
	if (reader.next > stream->end + sizeof(uint64_t))
		return -1;
	return (int)block.places;
}
