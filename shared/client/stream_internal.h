/* stream_internal.h - a stream's state, for client.c (batches in order) and stream_connect.c (connection, pools). */
#ifndef SHARED_CLIENT_STREAM_INTERNAL_H
#define SHARED_CLIENT_STREAM_INTERNAL_H

#include "shared/client/client.h"
#include "shared/client/conn.h"

enum { POOLS_MAX = CLIENT_SLOTS_MAX + 1 }; /* each old one holds a batch that is still in use */

/* One mapping of a daemon's memfd. It outlives the connection while batches of it are in use. */
struct pool {
	char *base; /* NULL: this place is free */
	uint64_t bytes;
	uint32_t users; /* entries READY and batches held */
};

enum slot_state {
	SLOT_FREE,
	SLOT_LENT,  /* the daemon has it */
	SLOT_OURS,  /* filled, and waiting or held */
};

enum entry_state {
	ENTRY_NEEDED, /* to be asked for */
	ENTRY_LENT,
	ENTRY_READY,
	ENTRY_FAILED,
};

/* A batch that stream_next() will return, in order. */
struct entry {
	uint64_t epoch, step, generation;
	enum entry_state state;
	uint32_t pool, slot;
	struct hash digest;
	struct err err; /* ENTRY_FAILED */
};

struct stream {
	struct stream_options options;
	struct stream_info info;
	struct conn conn;
	struct pool pools[POOLS_MAX];
	uint32_t pool;                          /* the current one */
	enum slot_state slots[CLIENT_SLOTS_MAX]; /* of the current pool */
	uint64_t lent[CLIENT_SLOTS_MAX];        /* SLOT_LENT: the generation asked for */
	struct entry window[CLIENT_SLOTS_MAX];  /* ring */
	uint32_t first, count;
	uint32_t held;
	uint64_t next_epoch, next_step; /* of the entry that comes after the window */
	bool ended;                     /* evaluation: the last step is in the window or gone */
	bool opened;                    /* once: from then on a broken connection is worth waiting for */
	uint64_t generation;
	uint64_t image_bytes;
	double wait_s;
	char *socket, *client_name, *dataset, *split, *vocab, *vocab_name;
	char **labels;
};

/* stream_connect.c. Connects and opens the stream, the first time or again. */
MUST_USE int stream_connect(struct stream *stream, struct err *err);
/* Lets go of a pool that nobody uses and that is not the connected one. */
void stream_pool_drop(struct stream *stream, uint32_t index);
MUST_USE int stream_copy_hash(struct hash *out, ProtobufCBinaryData bytes, const char *what, struct err *err);

#endif
