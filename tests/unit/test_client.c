/*
 * test_client.c - the client library against a daemon that is made up here and
 * misbehaves: what it sends is checked before it is believed.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "shared/client/client.h"
#include "shared/client/conn.h"
#include "shared/client/conn.h"
#include "shared/wire/slot.h"
#include "tests/support/scratch.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { SIDE = 2, BATCH = 2, MAX_LEN = 4, STEPS = 3 };
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };

/* What the made-up daemon does wrong; zero: nothing. */
struct faults {
	uint32_t hello_version;  /* 0: the right one */
	bool no_descriptor;
	int seals;               /* 0: the right ones */
	int64_t pool_bytes_less;
	bool wrong_generation, wrong_step, wrong_slot, bad_slot;
	bool garbage_reply;
	int close_after;         /* batches; 0: never. The next connection is served without faults. */
	bool other_version_then; /* the data set, on the second connection */
	bool error_once;         /* for the second batch asked for */
};

struct fake {
	struct scratch scratch;
	struct faults faults;
	char path[SCRATCH_PATH_BYTES];
	int listener, connection;
	struct frame_reader in;
	struct arena arena;
	struct buf out;
	struct slot_layout layout;
	char *pool;
	uint32_t slots;
	int connections, served, errors;
	pthread_t thread;
};

static struct err trash;

static void send_all(struct fake *fake, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec piece = { fake->out.data, fake->out.size };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(int));
	}
	/* A client that has had enough is gone: that is its right. */
	(void)!sendmsg(fake->connection, &message, MSG_NOSIGNAL);
	buf_clear(&fake->out);
}

static void reply(struct fake *fake, Wire__Reply *body, int fd)
{
	CHECK(frame_append(&fake->out, &body->base, &trash) == 0);
	send_all(fake, fd);
}

static void on_hello(struct fake *fake, const Wire__Request *request)
{
	Wire__HelloReply hello = WIRE__HELLO_REPLY__INIT;
	Wire__Reply body = WIRE__REPLY__INIT;

	hello.version = fake->faults.hello_version != 0 ? fake->faults.hello_version : WIRE_VERSION;
	body.id = request->id;
	body.body_case = WIRE__REPLY__BODY_HELLO;
	body.hello = &hello;
	reply(fake, &body, -1);
}

static void on_open(struct fake *fake, const Wire__Request *request)
{
	static uint8_t hash[HASH_BYTES], other[HASH_BYTES] = { 1 };
	const Wire__OpenStream *open = request->open_stream;
	Wire__StreamOpened opened = WIRE__STREAM_OPENED__INIT;
	Wire__Reply body = WIRE__REPLY__INIT;
	const struct faults *faults = &fake->faults;

	CHECK(slot_layout_init(&fake->layout, open->batch_size, 3 * SIDE * SIDE * 4, MAX_LEN, open->training, &trash) == 0);
	fake->slots = open->slots;
	size_t bytes = fake->layout.slot_bytes * open->slots;
	int fd = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes - faults->pool_bytes_less) == 0);
	fake->pool = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(fake->pool != MAP_FAILED && fcntl(fd, F_ADD_SEALS, faults->seals != 0 ? faults->seals : SEALS) == 0);
	bool is_other = faults->other_version_then && fake->connections > 1;
	opened.version = (ProtobufCBinaryData){ HASH_BYTES, is_other ? other : hash };
	opened.transform = opened.vocab = (ProtobufCBinaryData){ HASH_BYTES, hash };
	opened.pictures = opened.captions = STEPS * BATCH;
	opened.steps = STEPS;
	opened.slot_bytes = fake->layout.slot_bytes;
	opened.slots = open->slots;
	opened.pool_bytes = bytes;
	body.id = request->id;
	body.body_case = WIRE__REPLY__BODY_STREAM_OPENED;
	body.stream_opened = &opened;
	reply(fake, &body, faults->no_descriptor ? -1 : fd);
	close(fd);
}

/* A batch whose every number says which step it is. */
static void fill_slot(struct fake *fake, const Wire__ReadBatch *read)
{
	const struct slot_layout *layout = &fake->layout;
	char *slot = fake->pool + read->slot * layout->slot_bytes;
	struct slot_header *h = (struct slot_header *)(void *)slot;
	uint32_t *offsets = (uint32_t *)(void *)(slot + layout->token_offsets_at);
	uint32_t *images = (uint32_t *)(void *)(slot + layout->image_index_at);
	uint64_t *ids = (uint64_t *)(void *)(slot + layout->sample_ids_at);
	float *pixels = (float *)(void *)(slot + layout->pixels_at);

	*h = (struct slot_header){
		.generation = read->generation, .epoch = read->epoch, .step = read->step, .count = BATCH, .image_count = BATCH,
		.token_count = 4, .pixels_at = layout->pixels_at, .pixels_bytes = BATCH * layout->image_bytes,
		.image_index_at = layout->image_index_at, .token_offsets_at = layout->token_offsets_at,
		.sample_ids_at = layout->sample_ids_at, .pictures_at = layout->pictures_at,
		.wrong_pictures_at = layout->wrong_pictures_at, .labels_at = layout->labels_at, .ids_at = layout->ids_at,
		.flags = layout->wrong_pictures_at != 0 ? SLOT_EVALUATION : 0,
	};
	memcpy(h->magic, SLOT_MAGIC, sizeof(h->magic));
	for (uint32_t i = 0; i < BATCH; i++) {
		images[i] = i;
		ids[i] = read->step * BATCH + i;
		offsets[i + 1] = offsets[i] + 2;
	}
	pixels[0] = (float)read->step;
	h->generation += fake->faults.wrong_generation;
	h->step += fake->faults.wrong_step;
	if (fake->faults.bad_slot)
		images[1] = BATCH;
}

static bool on_read(struct fake *fake, const Wire__Request *request)
{
	static uint8_t hash[HASH_BYTES];
	const Wire__ReadBatch *read = request->read_batch;
	Wire__BatchReady ready = WIRE__BATCH_READY__INIT;
	Wire__Error error = WIRE__ERROR__INIT;
	Wire__Reply body = WIRE__REPLY__INIT;

	if (fake->faults.close_after > 0 && fake->served == fake->faults.close_after && fake->connections == 1)
		return false;
	body.id = request->id;
	if (fake->faults.garbage_reply) {
		CHECK(buf_add(&fake->out, "\3\0\0\0\xFF\xFF\xFF", 7, &trash) == 0);
		send_all(fake, -1);
		return true;
	}
	if (fake->faults.error_once && read->step == 1 && fake->errors++ == 0) {
		error.code = WIRE__ERROR_CODE__MISMATCH;
		error.message = (char *)(uintptr_t)"photo.jpg: has changed";
		body.body_case = WIRE__REPLY__BODY_ERROR;
		body.error = &error;
	} else {
		fill_slot(fake, read);
		ready.slot = read->slot + fake->faults.wrong_slot;
		ready.generation = read->generation;
		ready.epoch = read->epoch;
		ready.step = read->step;
		ready.digest = (ProtobufCBinaryData){ HASH_BYTES, hash };
		body.body_case = WIRE__REPLY__BODY_BATCH_READY;
		body.batch_ready = &ready;
		fake->served++;
	}
	reply(fake, &body, -1);
	return true;
}

static bool serve_one(struct fake *fake)
{
	ProtobufCMessage *message;
	const uint8_t *bytes;
	size_t size, room;
	bool got;
	char *at;

	CHECK(frame_reader_next(&fake->in, &bytes, &size, &got, &trash) == 0);
	if (!got) {
		CHECK(frame_reader_room(&fake->in, &at, &room, &trash) == 0);
		ssize_t count = read(fake->connection, at, room);
		if (count <= 0)
			return false;
		frame_reader_received(&fake->in, (size_t)count);
		return true;
	}
	arena_reset(&fake->arena);
	CHECK(wire_decode(&wire__request__descriptor, &fake->arena, bytes, size, &message, &trash) == 0);
	const Wire__Request *request = (const Wire__Request *)message;
	if (request->verb_case == WIRE__REQUEST__VERB_HELLO)
		on_hello(fake, request);
	else if (request->verb_case == WIRE__REQUEST__VERB_OPEN_STREAM)
		on_open(fake, request);
	else
		return on_read(fake, request);
	return true;
}

static void *fake_main(void *context)
{
	struct fake *fake = context;

	while ((fake->connection = accept(fake->listener, NULL, NULL)) >= 0) {
		fake->connections++;
		fake->pool = NULL;
		frame_reader_init(&fake->in, FRAME_REQUEST_BYTES_MAX);
		while (serve_one(fake))
			continue;
		frame_reader_free(&fake->in);
		if (fake->pool != NULL)
			munmap(fake->pool, fake->layout.slot_bytes * fake->slots);
		close(fake->connection);
	}
	return NULL;
}

static void fake_start(struct fake *fake, struct faults faults)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*fake = (struct fake){ .faults = faults, .out = BUF_INIT };
	scratch_open(&fake->scratch);
	const char *path = scratch_path(&fake->scratch, "s");
	assert_true(strlen(path) < sizeof(address.sun_path));
	memcpy(fake->path, path, strlen(path) + 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	assert_int_equal(arena_init(&fake->arena, 1 << 20, &trash), 0);
	fake->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fake->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fake->listener, 8), 0);
	assert_int_equal(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
}

static void fake_stop(struct fake *fake)
{
	shutdown(fake->listener, SHUT_RDWR);
	pthread_join(fake->thread, NULL);
	close(fake->listener);
	arena_free(&fake->arena);
	buf_free(&fake->out);
	scratch_close(&fake->scratch);
}

static int open_at(struct fake *fake, struct stream **out, bool training, double wait_s, struct err *err)
{
	struct stream_options options;

	stream_options_init(&options);
	options.socket = fake->path;
	options.dataset = "data";
	options.training = training;
	options.batch_size = BATCH;
	options.image_size = SIDE;
	options.max_len = MAX_LEN;
	options.wait_s = wait_s;
	return stream_open(out, &options, err);
}

static void expect_batch(struct stream *stream, uint64_t epoch, uint64_t step, struct batch *batch)
{
	struct err err;
	bool got;

	assert_int_equal(stream_next(stream, batch, &got, &err), 0);
	assert_true(got);
	assert_int_equal(batch->epoch, epoch);
	assert_int_equal(batch->step, step);
	assert_int_equal(batch->sample_ids[1], step * BATCH + 1);
	assert_true(*(const float *)batch->pixels == (float)step);
}

/* --- what works --------------------------------------------------------------------- */

static void test_order_and_end(void **state)
{
	struct stream *stream;
	struct batch batch;
	struct fake fake;
	bool got;

	(void)state;
	fake_start(&fake, (struct faults){ 0 });
	assert_int_equal(open_at(&fake, &stream, true, 0, &trash), 0);
	for (uint64_t i = 0; i < 3 * STEPS; i++) { /* over the ends of epochs */
		expect_batch(stream, i / STEPS, i % STEPS, &batch);
		stream_release(stream, &batch);
	}
	assert_int_equal(stream_seek(stream, 7, 1, &trash), 0); /* while others are on their way */
	for (uint64_t i = 1; i < 3 * STEPS; i++) {
		expect_batch(stream, 7 + i / STEPS, i % STEPS, &batch);
		stream_release(stream, &batch);
	}
	assert_int_equal(stream_seek(stream, 0, STEPS, &trash), ERR_USAGE);
	stream_close(stream);
	assert_int_equal(open_at(&fake, &stream, false, 0, &trash), 0);
	for (uint64_t i = 0; i < STEPS; i++) {
		expect_batch(stream, 0, i, &batch);
		assert_non_null(batch.wrong_pictures);
		stream_release(stream, &batch);
	}
	assert_int_equal(stream_next(stream, &batch, &got, &trash), 0);
	assert_false(got);
	assert_int_equal(stream_seek(stream, 0, 1, &trash), 0);
	expect_batch(stream, 0, 1, &batch);
	stream_close(stream);
	fake_stop(&fake);
}

/* Queued requests go out together, and none before. */
static void test_requests_in_one_piece(void **state)
{
	Wire__ReadBatch read_batch = WIRE__READ_BATCH__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct conn conn;
	char got[256];
	int ends[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
	conn_init(&conn, NULL, NULL);
	assert_int_equal(conn_queue(&conn, &request, &trash), ERR_UNAVAILABLE); /* closed */
	conn.fd = ends[0];
	request.verb_case = WIRE__REQUEST__VERB_READ_BATCH;
	request.read_batch = &read_batch;
	for (uint32_t i = 0; i < 4; i++) {
		request.id = read_batch.slot = i + 1;
		assert_int_equal(conn_queue(&conn, &request, &trash), 0);
		assert_int_equal(recv(ends[1], got, sizeof(got), 0), -1);
	}
	size_t queued = conn.out.size;
	assert_int_equal(conn_flush(&conn, &trash), 0);
	assert_int_equal(recv(ends[1], got, sizeof(got), 0), queued);
	/* Nothing twice. */
	assert_int_equal(conn_flush(&conn, &trash), 0);
	assert_int_equal(recv(ends[1], got, sizeof(got), 0), -1);
	conn_free(&conn);
	close(ends[1]);
}

/* Batches that are held stay what they are while the daemon goes and comes. */
static void test_held_batches_survive(void **state)
{
	struct batch held[3], next;
	struct stream *stream;
	struct fake fake;

	(void)state;
	fake_start(&fake, (struct faults){ .close_after = 3 });
	assert_int_equal(open_at(&fake, &stream, true, -1, &trash), 0);
	for (uint64_t i = 0; i < 3; i++)
		expect_batch(stream, 0, i, &held[i]);
	for (uint64_t i = 3; i < 20; i++) {
		expect_batch(stream, i / STEPS, i % STEPS, &next);
		stream_release(stream, &next);
	}
	assert_int_equal(fake.connections, 2);
	for (uint64_t i = 0; i < 3; i++) {
		assert_true(*(const float *)held[i].pixels == (float)i);
		assert_int_equal(held[i].sample_ids[0], i * BATCH);
		stream_release(stream, &held[i]);
	}
	for (uint64_t i = 20; i < 30; i++) {
		expect_batch(stream, i / STEPS, i % STEPS, &next);
		stream_release(stream, &next);
	}
	stream_close(stream);
	fake_stop(&fake);
}

static void test_all_held_is_an_error(void **state)
{
	struct batch batches[5];
	struct stream *stream;
	struct fake fake;
	struct err err;
	bool got;

	(void)state;
	fake_start(&fake, (struct faults){ 0 });
	assert_int_equal(open_at(&fake, &stream, true, 0, &trash), 0);
	for (uint64_t i = 0; i < 4; i++)
		expect_batch(stream, i / STEPS, i % STEPS, &batches[i]);
	assert_int_equal(stream_next(stream, &batches[4], &got, &err), ERR_USAGE);
	stream_release(stream, &batches[1]);
	expect_batch(stream, 1, 1, &batches[4]);
	stream_close(stream);
	fake_stop(&fake);
}

/* A batch that cannot be made is an error in its turn, and asked for again. */
static void test_error_in_turn(void **state)
{
	struct stream *stream;
	struct batch batch;
	struct fake fake;
	struct err err;
	bool got;

	(void)state;
	fake_start(&fake, (struct faults){ .error_once = true });
	assert_int_equal(open_at(&fake, &stream, true, 0, &trash), 0);
	expect_batch(stream, 0, 0, &batch);
	stream_release(stream, &batch);
	assert_int_equal(stream_next(stream, &batch, &got, &err), ERR_MISMATCH);
	assert_string_equal(err.message, "photo.jpg: has changed");
	expect_batch(stream, 0, 1, &batch);
	stream_close(stream);
	fake_stop(&fake);
}

/* --- what is refused ---------------------------------------------------------------------- */

static void expect_open(struct faults faults, int code, const char *word)
{
	struct stream *stream;
	struct fake fake;
	struct err err = { 0 };

	fake_start(&fake, faults);
	assert_int_equal(open_at(&fake, &stream, true, 0, &err), code);
	assert_null(stream);
	if (strstr(err.message, word) == NULL)
		fail_msg("no '%s' in '%s'", word, err.message);
	fake_stop(&fake);
}

static void test_hostile_open(void **state)
{
	(void)state;
	expect_open((struct faults){ .hello_version = 2 }, ERR_MISMATCH, "version 2");
	expect_open((struct faults){ .no_descriptor = true }, ERR_PROTOCOL, "without its batch memory");
	expect_open((struct faults){ .seals = F_SEAL_GROW | F_SEAL_SHRINK }, ERR_PROTOCOL, "not sealed");
	expect_open((struct faults){ .seals = F_SEAL_GROW | F_SEAL_FUTURE_WRITE }, ERR_PROTOCOL, "not sealed");
	expect_open((struct faults){ .pool_bytes_less = 4096 }, ERR_PROTOCOL, "bytes instead of");
}

static void expect_next(struct faults faults, int code, const char *word)
{
	struct stream *stream;
	struct batch batch;
	struct fake fake;
	struct err err = { 0 };
	bool got;

	fake_start(&fake, faults);
	assert_int_equal(open_at(&fake, &stream, true, 0, &err), 0);
	assert_int_equal(stream_next(stream, &batch, &got, &err), code);
	assert_false(got);
	if (strstr(err.message, word) == NULL)
		fail_msg("no '%s' in '%s'", word, err.message);
	stream_close(stream);
	fake_stop(&fake);
}

static void test_hostile_batches(void **state)
{
	(void)state;
	expect_next((struct faults){ .wrong_generation = true }, ERR_PROTOCOL, "another batch");
	expect_next((struct faults){ .wrong_step = true }, ERR_PROTOCOL, "another batch");
	expect_next((struct faults){ .wrong_slot = true }, ERR_PROTOCOL, "another batch");
	expect_next((struct faults){ .bad_slot = true }, ERR_PROTOCOL, "wrong index");
	expect_next((struct faults){ .garbage_reply = true }, ERR_PROTOCOL, "no Reply");
}

static void test_lost_daemon_without_waiting(void **state)
{
	struct stream *stream;
	struct batch batch;
	struct fake fake;
	bool got;

	(void)state;
	fake_start(&fake, (struct faults){ .close_after = 1 });
	assert_int_equal(open_at(&fake, &stream, true, 0, &trash), 0);
	expect_batch(stream, 0, 0, &batch);
	assert_int_equal(stream_next(stream, &batch, &got, &trash), ERR_UNAVAILABLE);
	stream_close(stream);
	fake_stop(&fake);
}

static void test_another_version_after_the_restart(void **state)
{
	struct stream *stream;
	struct batch batch;
	struct fake fake;
	struct err err;
	bool got;

	(void)state;
	fake_start(&fake, (struct faults){ .close_after = 1, .other_version_then = true });
	assert_int_equal(open_at(&fake, &stream, true, -1, &trash), 0);
	expect_batch(stream, 0, 0, &batch);
	assert_int_equal(stream_next(stream, &batch, &got, &err), ERR_MISMATCH);
	stream_close(stream);
	fake_stop(&fake);
}

static void test_no_daemon(void **state)
{
	struct stream_options options;
	struct stream *stream;
	struct err err;

	(void)state;
	stream_options_init(&options);
	options.socket = "/nonexistent/s";
	options.dataset = "data";
	assert_int_equal(stream_open(&stream, &options, &err), ERR_UNAVAILABLE);
	assert_non_null(strstr(err.message, "preprocessd --socket /nonexistent/s &"));
	options.world = 3;
	assert_int_equal(stream_open(&stream, &options, &err), ERR_USAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_and_end), cmocka_unit_test(test_requests_in_one_piece), cmocka_unit_test(test_held_batches_survive),
		cmocka_unit_test(test_all_held_is_an_error), cmocka_unit_test(test_error_in_turn),
		cmocka_unit_test(test_hostile_open), cmocka_unit_test(test_hostile_batches),
		cmocka_unit_test(test_lost_daemon_without_waiting), cmocka_unit_test(test_another_version_after_the_restart),
		cmocka_unit_test(test_no_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
