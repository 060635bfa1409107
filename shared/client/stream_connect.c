#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/mem.h"
#include "shared/client/stream_internal.h"
#include "shared/wire/slot.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* --- pools ----------------------------------------------------------------- */

void stream_pool_drop(struct stream *stream, uint32_t index)
{
	struct pool *pool = &stream->pools[index];

	if (pool->base == NULL || pool->users > 0 || (index == stream->pool && stream->conn.fd >= 0))
		return;
	munmap(pool->base, pool->bytes);
	*pool = (struct pool){ 0 };
}

/* Sealed so that a page can neither vanish under us nor change by our hand. */
static int check_pool(int fd, uint64_t bytes, struct err *err)
{
	struct stat info;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || fstat(fd, &info) != 0)
		return err_errno(err, errno, "the daemon's batch memory");
	if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) ||
	    (seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) == 0)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent batch memory that is not sealed");
	if (info.st_size < 0 || (uint64_t)info.st_size != bytes)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent batch memory of %lld bytes instead of %llu",
			       (long long)info.st_size, (unsigned long long)bytes);
	return 0;
}

static int pool_map(struct stream *stream, uint64_t bytes, struct err *err)
{
	uint32_t index = 0;
	int fd = stream->conn.received_fd;

	if (fd < 0)
		return err_set(err, ERR_PROTOCOL, "preprocessd opened a stream without its batch memory");
	int code = check_pool(fd, bytes, err);
	if (code != 0)
		return code;
	while (index < POOLS_MAX && stream->pools[index].base != NULL)
		index++;
	CHECK(index < POOLS_MAX); /* every other one has a user, and users are fewer */
	void *base = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return err_errno(err, errno, "cannot map the daemon's batch memory of %llu bytes", (unsigned long long)bytes);
	close(fd);
	stream->conn.received_fd = -1;
	stream->pools[index] = (struct pool){ .base = base, .bytes = bytes };
	stream->pool = index;
	for (uint32_t s = 0; s < CLIENT_SLOTS_MAX; s++)
		stream->slots[s] = SLOT_FREE;
	return 0;
}

/* --- opening ---------------------------------------------------------------- */

int stream_copy_hash(struct hash *out, ProtobufCBinaryData bytes, const char *what, struct err *err)
{
	if (bytes.len != HASH_BYTES)
		return err_set(err, ERR_PROTOCOL, "preprocessd sent a %s of %zu bytes", what, bytes.len);
	memcpy(out->bytes, bytes.data, HASH_BYTES);
	return 0;
}

static int keep_labels(struct stream *stream, const Wire__StreamOpened *opened, struct err *err)
{
	stream->labels = mem_array(opened->n_labels + 1, sizeof(*stream->labels));
	if (stream->labels == NULL)
		return err_nomem(err, opened->n_labels);
	for (size_t i = 0; i < opened->n_labels; i++) {
		stream->labels[i] = mem_strndup((const char *)opened->labels[i].data, opened->labels[i].len);
		if (stream->labels[i] == NULL)
			return err_nomem(err, opened->labels[i].len);
		stream->info.label_count++;
	}
	stream->info.label_names = (const char *const *)stream->labels;
	stream->vocab_name = mem_strdup(opened->vocab_name);
	stream->info.vocab_name = stream->vocab_name;
	return stream->vocab_name != NULL ? 0 : err_nomem(err, strlen(opened->vocab_name));
}

static int take_info(struct stream *stream, const Wire__StreamOpened *opened, struct err *err)
{
	struct stream_info *info = &stream->info;
	struct hash version, transform, vocab;
	int code = stream_copy_hash(&version, opened->version, "version", err);

	if (code == 0)
		code = stream_copy_hash(&transform, opened->transform, "transform fingerprint", err);
	if (code == 0)
		code = stream_copy_hash(&vocab, opened->vocab, "vocabulary fingerprint", err);
	if (code != 0)
		return code;
	if (opened->slots != stream->options.slots || opened->slot_bytes > SLOT_BYTES_MAX || opened->slot_bytes == 0 ||
	    opened->pool_bytes != opened->slots * opened->slot_bytes || opened->slot_bytes % SLOT_PAGE_BYTES != 0 ||
	    opened->steps == 0 || opened->pictures > UINT32_MAX || opened->captions > UINT32_MAX)
		return err_set(err, ERR_PROTOCOL, "preprocessd opened a stream of impossible sizes");
	if (stream->opened) {
		if (!hash_equal(&version, &info->version))
			return err_set(err, ERR_MISMATCH, "data set %s is another version now than when the stream began; add that one "
				       "again to go on", stream->dataset);
		if (!hash_equal(&transform, &info->transform) || !hash_equal(&vocab, &info->vocab))
			return err_set(err, ERR_MISMATCH, "the preprocessd that came back prepares other pixels or tokens than the one "
				       "before (another release of it, or another vocabulary); start the old one, or begin the run anew");
		if (opened->slot_bytes != info->slot_bytes)
			return err_set(err, ERR_MISMATCH, "the preprocessd that came back lays out batches in another way");
		return 0;
	}
	info->version = version;
	info->transform = transform;
	info->vocab = vocab;
	info->picture_count = (uint32_t)opened->pictures;
	info->caption_count = (uint32_t)opened->captions;
	info->steps = opened->steps;
	info->vocab_size = opened->vocab_size;
	info->cls_id = opened->cls_id;
	info->sep_id = opened->sep_id;
	info->pad_id = opened->pad_id;
	info->unk_id = opened->unk_id;
	info->slot_bytes = opened->slot_bytes;
	return keep_labels(stream, opened, err);
}

int stream_connect(struct stream *stream, struct err *err)
{
	struct stream_options *o = &stream->options;
	Wire__Transform transform = WIRE__TRANSFORM__INIT;
	Wire__OpenStream open = WIRE__OPEN_STREAM__INIT;
	Wire__Request request = WIRE__REQUEST__INIT;
	Wire__Reply *reply;
	int code = conn_open(&stream->conn, stream->socket, stream->client_name, err);

	if (code != 0)
		return code;
	transform.size = o->image_size;
	transform.exif_apply = o->exif_apply;
	open.dataset = stream->dataset;
	open.split = stream->split;
	open.training = o->training;
	open.seed = o->seed;
	open.batch_size = o->batch_size;
	open.world = o->world;
	open.rank = o->rank;
	open.transform = &transform;
	open.dtype = o->dtype == PIXEL_NONE ? WIRE__PIXEL_TYPE__NONE : o->dtype == PIXEL_U8 ? WIRE__PIXEL_TYPE__U8 : WIRE__PIXEL_TYPE__F32;
	open.layout = o->layout == PIXEL_NHWC ? WIRE__PIXEL_LAYOUT__NHWC : WIRE__PIXEL_LAYOUT__NCHW;
	open.n_mean = open.n_std = 3;
	open.mean = o->mean;
	open.std = o->std;
	/* A data set's own vocabulary may be another one by the time that the connection is made anew. */
	if (stream->vocab != NULL || stream->opened)
		open.vocab = stream->opened ? stream->vocab_name : stream->vocab;
	open.max_len = o->max_len;
	open.slots = o->slots;
	if (stream->opened)
		open.expect_version = wire_bytes(stream->info.version.bytes, HASH_BYTES);
	request.id = ++stream->generation;
	request.verb_case = WIRE__REQUEST__VERB_OPEN_STREAM;
	request.open_stream = &open;
	code = conn_call(&stream->conn, &request, WIRE__REPLY__BODY_STREAM_OPENED, &reply, err);
	if (code == 0)
		code = take_info(stream, reply->stream_opened, err);
	if (code == 0)
		code = pool_map(stream, reply->stream_opened->pool_bytes, err);
	if (code != 0)
		conn_close(&stream->conn);
	return code;
}
