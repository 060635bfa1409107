#include "shared/client/features.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "shared/base/log.h"
#include "shared/base/mem.h"
#include "shared/client/conn.h"
#include "shared/wire/features.h"

enum { RETRY_MS = 100 };

struct features {
	struct features_options options;
	struct conn conn;
	uint32_t rows;
	uint64_t id;
};

static void fill_of(const struct features *f, Wire__Features *of, Wire__Transform *transform)
{
	const struct features_options *o = &f->options;

	wire__features__init(of);
	wire__transform__init(transform);
	transform->size = o->image_size;
	transform->exif_apply = o->exif_apply;
	of->dataset = (char *)(uintptr_t)o->dataset;
	of->split = (char *)(uintptr_t)o->split;
	of->expect_version = wire_bytes(o->version.bytes, HASH_BYTES);
	of->encoder = wire_bytes(o->encoder.bytes, HASH_BYTES);
	of->captions = o->captions;
	if (!o->captions)
		of->transform = transform;
	if (o->captions && o->vocab != NULL)
		of->vocab = (char *)(uintptr_t)o->vocab;
	of->max_len = o->captions ? o->max_len : 0;
	of->width = o->width;
}

/* A call that may be made again: what broke is connected anew until wait_s have passed. */
static int call(struct features *f, Wire__Request *request, Wire__Reply__BodyCase expected, Wire__Reply **reply, struct err *err)
{
	const struct timespec pause = { .tv_nsec = RETRY_MS * 1000000L };
	double until = clock_seconds() + f->options.wait_s;
	bool said = false;

	request->id = ++f->id;
	for (;;) {
		int code = f->conn.fd >= 0 ? 0 : conn_open(&f->conn, f->options.socket, f->options.client_name, err);

		if (code == 0)
			code = conn_call(&f->conn, request, expected, reply, err);
		/* The connection's end is worth another try; what the daemon says of itself too, once it is gone. */
		if (code != ERR_UNAVAILABLE || (f->conn.fd >= 0 && !f->conn.broken) ||
		    (f->options.wait_s >= 0 && clock_seconds() > until))
			return code;
		if (f->options.cancelled != NULL && f->options.cancelled(f->options.cancel_context))
			return err_set(err, ERR_CANCELLED, "cancelled");
		if (!said)
			log_warn("%s; waiting for it", err->message);
		said = true;
		nanosleep(&pause, NULL);
	}
}

/* Maps what came with the reply. Sealed: nothing of it changes while we read. */
static int map_piece(struct conn *conn, uint64_t bytes, char **out, struct err *err)
{
	struct stat info;
	int fd = conn->received_fd, seals;

	if (fd < 0)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent features without their memory");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || fstat(fd, &info) != 0)
		return err_errno(err, errno, "the daemon's memory of features");
	if ((seals & (F_SEAL_SHRINK | F_SEAL_WRITE)) != (F_SEAL_SHRINK | F_SEAL_WRITE) || (uint64_t)info.st_size != bytes)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent features in memory of another size, or not sealed");
	void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	conn->received_fd = -1;
	if (base == MAP_FAILED)
		return err_errno(err, errno, "cannot map the daemon's memory of features");
	*out = base;
	return 0;
}

/* One piece into the arrays at row `first`; *count: its rows. values NULL: only to learn how many rows there are. */
static int get_piece(struct features *f, uint32_t first, uint32_t wanted, float *values, uint8_t *found, uint64_t *ids,
		     uint32_t *count, uint64_t *rows, struct err *err)
{
	Wire__GetFeatures get = WIRE__GET_FEATURES__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	struct features_layout layout;
	Wire__Transform transform;
	Wire__Features of;
	Wire__Reply *reply;
	char *base = NULL;
	int code;

	fill_of(f, &of, &transform);
	get.of = &of;
	get.first = first;
	get.count = wanted;
	request.verb_case = WIRE__REQUEST__VERB_GET_FEATURES;
	request.get_features = &get;
	if ((code = call(f, &request, WIRE__REPLY__BODY_FEATURES_FOUND, &reply, err)) != 0)
		return code;
	*count = reply->features_found->count;
	*rows = reply->features_found->rows;
	if (*count == 0 || *count > wanted || *rows > UINT32_MAX || first + (uint64_t)*count > *rows ||
	    features_layout_init(&layout, *count, f->options.width, NULL) != 0 || layout.bytes != reply->features_found->bytes)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent features of impossible sizes");
	if ((code = map_piece(&f->conn, layout.bytes, &base, err)) != 0)
		return code;
	if (values != NULL) {
		memcpy(ids, base, 8 * (size_t)*count);
		memcpy(found, base + layout.found_at, *count);
		memcpy(values, base + layout.values_at, layout.bytes - layout.values_at);
	}
	munmap(base, layout.bytes);
	return 0;
}

int features_open(struct features **out, const struct features_options *options, uint32_t *rows, struct err *err)
{
	struct features *f = mem_zalloc(sizeof(*f));
	uint64_t total = 0;
	uint32_t count;
	int code;

	*out = NULL;
	if (f == NULL)
		return err_nomem(err, sizeof(*f));
	f->options = *options;
	conn_init(&f->conn, options->cancelled, options->cancel_context);
	if ((code = get_piece(f, 0, 1, NULL, NULL, NULL, &count, &total, err)) != 0) {
		features_close(f);
		return code;
	}
	f->rows = (uint32_t)total;
	*rows = f->rows;
	*out = f;
	return 0;
}

void features_close(struct features *f)
{
	if (f == NULL)
		return;
	conn_free(&f->conn);
	mem_free(f);
}

int features_get_all(struct features *f, float *values, uint8_t *found, uint64_t *ids, uint32_t *count, struct err *err)
{
	uint32_t most = features_rows_max(f->options.width), got;
	uint64_t rows;
	int code;

	*count = 0;
	for (uint32_t at = 0; at < f->rows; at += got) {
		uint32_t wanted = f->rows - at < most ? f->rows - at : most;

		if ((code = get_piece(f, at, wanted, values + (size_t)at * f->options.width, found + at, ids + at, &got, &rows, err)) != 0)
			return code;
		if (rows != f->rows)
			return err_set(err, ERR_PROTOCOL, "preprocessd changed its mind about how many features there are");
	}
	for (uint32_t i = 0; i < f->rows; i++) {
		if (i > 0 && ids[i] <= ids[i - 1])
			return err_set(err, ERR_PROTOCOL, "preprocessd sent features out of order");
		*count += found[i] != 0;
	}
	return 0;
}

int features_put(struct features *f, const uint32_t *rows, uint32_t count, const float *values, bool flush, struct err *err)
{
	size_t width = f->options.width, row_bytes = width * sizeof(*values);
	uint32_t most = (uint32_t)(FEATURES_PUT_BYTES_MAX / row_bytes);
	uint32_t at = 0;

	if (most == 0)
		most = 1;
	do {
		uint32_t piece = count - at < most ? count - at : most;
		Wire__PutFeatures put = WIRE__PUT_FEATURES__INIT;
		Wire__Request request = WIRE__REQUEST__INIT;
		Wire__Transform transform;
		Wire__Features of;
		Wire__Reply *reply;

		fill_of(f, &of, &transform);
		put.of = &of;
		put.n_rows = piece;
		put.rows = (uint32_t *)(uintptr_t)(rows + at);
		put.values = wire_bytes(values + at * width, piece * row_bytes);
		put.flush = flush && at + piece == count;
		request.verb_case = WIRE__REQUEST__VERB_PUT_FEATURES;
		request.put_features = &put;
		int code = call(f, &request, WIRE__REPLY__BODY_FEATURES_KEPT, &reply, err);
		if (code != 0)
			return code;
		at += piece;
	} while (at < count);
	return 0;
}
