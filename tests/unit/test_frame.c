/* test_frame.c - frames, decoding limits, text, and the layout of a slot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "shared/base/mem.h"
#include "shared/wire/frame.h"
#include "shared/wire/slot.h"
#include "wire.pb-c.h"

static struct err err;

static void feed(struct frame_reader *reader, const void *bytes, size_t size)
{
	const char *from = bytes;

	while (size > 0) {
		char *at;
		size_t room;

		assert_int_equal(frame_reader_room(reader, &at, &room, &err), 0);
		size_t part = room < size ? room : size;
		memcpy(at, from, part);
		frame_reader_received(reader, part);
		from += part;
		size -= part;
	}
}

static void make_request(struct buf *out, uint64_t id, const char *name)
{
	Wire__ShowDataset show = WIRE__SHOW_DATASET__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;

	show.name = (char *)(uintptr_t)name;
	request.id = id;
	request.verb_case = WIRE__REQUEST__VERB_SHOW_DATASET;
	request.show_dataset = &show;
	assert_int_equal(frame_append(out, &request.base, &err), 0);
}

static void expect_request(struct frame_reader *reader, struct arena *arena, uint64_t id, const char *name)
{
	ProtobufCMessage *message;
	const uint8_t *bytes;
	size_t size;
	bool got;

	assert_int_equal(frame_reader_next(reader, &bytes, &size, &got, &err), 0);
	assert_true(got);
	arena_reset(arena);
	assert_int_equal(wire_decode(&wire__request__descriptor, arena, bytes, size, &message, &err), 0);
	const Wire__Request *request = (const Wire__Request *)message;
	assert_int_equal(request->id, id);
	assert_int_equal(request->verb_case, WIRE__REQUEST__VERB_SHOW_DATASET);
	assert_string_equal(request->show_dataset->name, name);
}

/* Whatever pieces the stream arrives in, the same messages come out. */
static void test_pieces(void **state)
{
	static const char *const names[] = { "a", "flowers", "", "a longer name" };
	struct buf stream = BUF_INIT;
	struct arena arena;

	(void)state;
	assert_int_equal(arena_init(&arena, 1 << 20, &err), 0);
	for (uint64_t i = 0; i < ARRAY_LEN(names); i++)
		make_request(&stream, i + 1, names[i]);
	for (size_t piece = 1; piece <= stream.size; piece++) {
		struct frame_reader reader;
		size_t next = 0;

		frame_reader_init(&reader, FRAME_REQUEST_BYTES_MAX);
		for (size_t at = 0; at < stream.size; at += piece) {
			const uint8_t *bytes;
			size_t size;
			bool got;

			feed(&reader, stream.data + at, at + piece < stream.size ? piece : stream.size - at);
			while (frame_reader_next(&reader, &bytes, &size, &got, &err) == 0 && got) {
				reader.at = reader.at - size - FRAME_HEADER_BYTES; /* once more, decoded */
				expect_request(&reader, &arena, next + 1, names[next]);
				next++;
			}
		}
		assert_int_equal(next, ARRAY_LEN(names));
		assert_int_equal(reader.at, reader.bytes.size);
		frame_reader_free(&reader);
	}
	arena_free(&arena);
	buf_free(&stream);
}

static void expect_refused(const void *bytes, size_t size, const char *word)
{
	struct frame_reader reader;
	const uint8_t *message;
	size_t message_bytes;
	bool got;

	frame_reader_init(&reader, 1000);
	feed(&reader, bytes, size);
	assert_int_equal(frame_reader_next(&reader, &message, &message_bytes, &got, &err), ERR_PROTOCOL);
	assert_non_null(strstr(err.message, word));
	assert_false(got);
	assert_true(reader.bytes.capacity < 100000); /* nothing was asked for on the word of a length */
	frame_reader_free(&reader);
}

static void test_lengths(void **state)
{
	static const uint8_t zero[] = { 0, 0, 0, 0 }, over[] = { 0xE9, 3, 0, 0 }, huge[] = { 255, 255, 255, 255 };
	static const uint8_t limit[] = { 0xE8, 3, 0, 0 };
	struct frame_reader reader;
	const uint8_t *message;
	size_t size;
	bool got;

	(void)state;
	expect_refused(zero, sizeof(zero), "zero bytes");
	expect_refused(over, sizeof(over), "1001");
	expect_refused(huge, sizeof(huge), "4294967295");
	frame_reader_init(&reader, 1000);
	feed(&reader, limit, sizeof(limit));
	assert_int_equal(frame_reader_next(&reader, &message, &size, &got, &err), 0);
	assert_false(got);
	assert_int_equal(reader.at, 0);
	frame_reader_free(&reader);
}

static void test_garbage_does_not_decode(void **state)
{
	static const uint8_t garbage[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	ProtobufCMessage *message;
	struct arena arena;

	(void)state;
	assert_int_equal(arena_init(&arena, 1 << 20, &err), 0);
	assert_int_equal(wire_decode(&wire__request__descriptor, &arena, garbage, sizeof(garbage), &message, &err), ERR_PROTOCOL);
	assert_null(message);
	arena_free(&arena);
}

/* A small message that would decode into a large one stops at the arena's limit. */
static void test_decoding_is_bounded(void **state)
{
	enum { PATHS = 20000 };
	Wire__AddDataset add = WIRE__ADD_DATASET__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	ProtobufCBinaryData *paths = mem_array(PATHS, sizeof(*paths));
	ProtobufCMessage *message;
	struct buf frame = BUF_INIT;
	struct arena arena;

	(void)state;
	assert_non_null(paths);
	add.n_images = PATHS;
	add.images = paths;
	request.verb_case = WIRE__REQUEST__VERB_ADD_DATASET;
	request.add_dataset = &add;
	assert_int_equal(frame_append(&frame, &request.base, &err), 0);
	const uint8_t *bytes = (const uint8_t *)frame.data + FRAME_HEADER_BYTES;
	size_t size = frame.size - FRAME_HEADER_BYTES;
	assert_int_equal(arena_init(&arena, 64 << 10, &err), 0);
	assert_int_equal(wire_decode(&wire__request__descriptor, &arena, bytes, size, &message, &err), ERR_PROTOCOL);
	arena_free(&arena);
	assert_int_equal(arena_init(&arena, 4 << 20, &err), 0);
	assert_int_equal(wire_decode(&wire__request__descriptor, &arena, bytes, size, &message, &err), 0);
	assert_int_equal(((Wire__Request *)message)->add_dataset->n_images, PATHS);
	arena_free(&arena);
	buf_free(&frame);
	mem_free(paths);
}

static void expect_text(const char *in, size_t size, size_t room, const char *out)
{
	char text[64];

	memset(text, 'x', sizeof(text));
	assert_string_equal(wire_text(text, room, in, size), out);
}

static void test_text(void **state)
{
	(void)state;
	expect_text("plain", 5, 64, "plain");
	expect_text("plain", 5, 4, "pla");
	expect_text("", 0, 1, "");
	expect_text("gr\xC3\xBC\xC3\x9F", 6, 64, "gr\xC3\xBC\xC3\x9F");
	expect_text("gr\xC3\xBC\xC3\x9F", 6, 6, "gr\xC3\xBC"); /* never half a character */
	expect_text("a\xFF" "b", 3, 64, "a\xEF\xBF\xBD" "b");
	expect_text("\xED\xA0\x80", 3, 64, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

/* --- slots --------------------------------------------------------------------------- */

enum { SAMPLES = 4, IMAGE_BYTES = 300, MAX_LEN = 8 };

static struct slot_header *make_slot(struct slot_layout *layout)
{
	assert_int_equal(slot_layout_init(layout, SAMPLES, IMAGE_BYTES, MAX_LEN, false, &err), 0);
	char *slot = mem_aligned(layout->slot_bytes);
	assert_non_null(slot);
	memset(slot, 0, layout->slot_bytes);
	struct slot_header *h = (struct slot_header *)(void *)slot;
	memcpy(h->magic, SLOT_MAGIC, sizeof(h->magic));
	h->count = SAMPLES;
	h->image_count = 3;
	h->token_count = 10;
	h->flags = SLOT_EVALUATION;
	h->pixels_at = layout->pixels_at;
	h->pixels_bytes = 3 * IMAGE_BYTES;
	h->image_index_at = layout->image_index_at;
	h->token_offsets_at = layout->token_offsets_at;
	h->sample_ids_at = layout->sample_ids_at;
	h->pictures_at = layout->pictures_at;
	h->wrong_pictures_at = layout->wrong_pictures_at;
	h->labels_at = layout->labels_at;
	h->ids_at = layout->ids_at;
	uint32_t *offsets = (uint32_t *)(void *)(slot + layout->token_offsets_at);
	uint32_t *images = (uint32_t *)(void *)(slot + layout->image_index_at);
	static const uint32_t at[] = { 0, 2, 5, 5, 10 }, image[] = { 0, 1, 1, 2 };
	memcpy(offsets, at, sizeof(at));
	memcpy(images, image, sizeof(image));
	return h;
}

static void test_layout(void **state)
{
	struct slot_layout layout;

	(void)state;
	assert_int_equal(slot_layout_init(&layout, SAMPLES, IMAGE_BYTES, MAX_LEN, true, &err), 0);
	assert_int_equal(layout.wrong_pictures_at, 0);
	assert_int_equal(layout.pixels_at % SLOT_PIXEL_ALIGN_BYTES, 0);
	assert_int_equal(layout.slot_bytes % SLOT_PAGE_BYTES, 0);
	assert_true(layout.sample_ids_at >= SLOT_HEADER_BYTES);
	assert_true(layout.token_offsets_at >= layout.sample_ids_at + 8 * SAMPLES);
	assert_true(layout.image_index_at >= layout.token_offsets_at + 4 * (SAMPLES + 1));
	assert_true(layout.pixels_at >= layout.ids_at + 4 * SAMPLES * MAX_LEN);
	assert_true(layout.slot_bytes >= layout.pixels_at + SAMPLES * IMAGE_BYTES);
	assert_int_equal(slot_layout_init(&layout, 0, IMAGE_BYTES, MAX_LEN, true, &err), ERR_LIMIT);
	assert_int_equal(slot_layout_init(&layout, SLOT_SAMPLES_MAX + 1, 1, MAX_LEN, true, &err), ERR_LIMIT);
	assert_int_equal(slot_layout_init(&layout, 1, IMAGE_BYTES, 1, true, &err), ERR_LIMIT);
	assert_int_equal(slot_layout_init(&layout, SLOT_SAMPLES_MAX, (uint64_t)1 << 60, MAX_LEN, true, &err), ERR_LIMIT);
}

/* Each number of a header, made wrong, is noticed. */
static void test_slot_check(void **state)
{
	struct slot_layout layout;
	struct slot_header *h = make_slot(&layout), sound = *h;

	(void)state;
	assert_int_equal(slot_check(h, layout.slot_bytes, IMAGE_BYTES, &err), 0);
#define EXPECT_BAD(change) do { \
		change; \
		assert_int_equal(slot_check(h, layout.slot_bytes, IMAGE_BYTES, &err), ERR_PROTOCOL); \
		*h = sound; \
	} while (0)
	EXPECT_BAD(h->magic[0] = 'X');
	EXPECT_BAD(h->count = UINT32_MAX);
	EXPECT_BAD(h->count = SAMPLES + 1);
	EXPECT_BAD(h->image_count = SAMPLES + 1);
	EXPECT_BAD(h->image_count = 2);
	EXPECT_BAD(h->token_count = UINT32_MAX);
	EXPECT_BAD(h->token_count = 9);
	EXPECT_BAD(h->pixels_at += 1);
	EXPECT_BAD(h->pixels_at = UINT64_MAX - 63);
	EXPECT_BAD(h->pixels_bytes += 1);
	EXPECT_BAD(h->image_index_at = layout.slot_bytes);
	EXPECT_BAD(h->token_offsets_at = 0);
	EXPECT_BAD(h->sample_ids_at = layout.slot_bytes - 8);
	EXPECT_BAD(h->pictures_at = UINT64_MAX - 3);
	EXPECT_BAD(h->wrong_pictures_at = 0);
	EXPECT_BAD(h->labels_at += 2);
	EXPECT_BAD(h->ids_at = layout.slot_bytes - 4);
	uint32_t *offsets = (uint32_t *)(void *)((char *)h + layout.token_offsets_at);
	uint32_t *images = (uint32_t *)(void *)((char *)h + layout.image_index_at);
	offsets[2] = 11;
	assert_int_equal(slot_check(h, layout.slot_bytes, IMAGE_BYTES, &err), ERR_PROTOCOL);
	offsets[2] = 5;
	images[3] = 3;
	assert_int_equal(slot_check(h, layout.slot_bytes, IMAGE_BYTES, &err), ERR_PROTOCOL);
	images[3] = 2;
	assert_int_equal(slot_check(h, layout.slot_bytes, IMAGE_BYTES, &err), 0);
	assert_int_equal(slot_check(h, 100, IMAGE_BYTES, &err), ERR_PROTOCOL);
	mem_free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces), cmocka_unit_test(test_lengths), cmocka_unit_test(test_garbage_does_not_decode),
		cmocka_unit_test(test_decoding_is_bounded), cmocka_unit_test(test_text), cmocka_unit_test(test_layout),
		cmocka_unit_test(test_slot_check),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
