#include "preprocessd/pipeline/sources.h"

#include "preprocessd/pipeline/prepare.h"
#include "shared/base/mem.h"

enum { BUFFER_KEPT_BYTES = 1 << 20 }; /* a larger one is freed after its use */

struct source {
	uint32_t picture;
	int code;
	struct err err;
	struct hash content;
	struct buf file;
};

struct sources {
	struct pipeline *pipeline;
	const struct listing *listing;
	const struct rights *rights;
	uint32_t total;
	pthread_mutex_t lock;
	pthread_cond_t room, ready;
	/* under lock; slots that are not ready belong to the reading thread */
	struct source slots[SOURCES_AHEAD_MAX];
	uint32_t first, count; /* ready ones */
	size_t bytes;          /* of these */
	uint32_t next;         /* picture that nobody has taken up */
	bool reading;          /* the reading thread has a file in hand */
	bool stopped;
};

int sources_open(struct sources **out, struct pipeline *pipeline, const struct listing *listing, const struct rights *rights,
		 struct err *err)
{
	struct sources *sources = mem_zalloc(sizeof(*sources));

	*out = sources;
	if (sources == NULL)
		return err_nomem(err, sizeof(*sources));
	sources->pipeline = pipeline;
	sources->listing = listing;
	sources->rights = rights;
	sources->total = listing_picture_count(listing);
	pthread_mutex_init(&sources->lock, NULL);
	pthread_cond_init(&sources->room, NULL);
	pthread_cond_init(&sources->ready, NULL);
	return 0;
}

void sources_close(struct sources *sources)
{
	if (sources == NULL)
		return;
	for (int i = 0; i < SOURCES_AHEAD_MAX; i++)
		buf_free(&sources->slots[i].file);
	pthread_cond_destroy(&sources->room);
	pthread_cond_destroy(&sources->ready);
	pthread_mutex_destroy(&sources->lock);
	mem_free(sources);
}

static int read_picture(const struct sources *sources, uint32_t picture, struct buf *file, struct hash *content, struct err *err)
{
	return prepare_source(sources->pipeline, listing_picture_path(sources->listing, picture), sources->rights, file, content,
			      err);
}

void sources_read(struct sources *sources)
{
	pthread_mutex_lock(&sources->lock);
	while (!sources->stopped && sources->next < sources->total) {
		if (sources->count == SOURCES_AHEAD_MAX || sources->bytes >= SOURCES_AHEAD_BYTES) {
			pthread_cond_wait(&sources->room, &sources->lock);
			continue;
		}
		struct source *source = &sources->slots[(sources->first + sources->count) % SOURCES_AHEAD_MAX];

		source->picture = sources->next++;
		sources->reading = true;
		pthread_mutex_unlock(&sources->lock);
		source->code = read_picture(sources, source->picture, &source->file, &source->content, &source->err);
		pthread_mutex_lock(&sources->lock);
		sources->reading = false;
		sources->count++;
		sources->bytes += source->file.size;
		pthread_cond_signal(&sources->ready);
	}
	/* Several may wait for a last file that only one of them gets. */
	pthread_cond_broadcast(&sources->ready);
	pthread_mutex_unlock(&sources->lock);
}

void sources_stop(struct sources *sources)
{
	pthread_mutex_lock(&sources->lock);
	sources->stopped = true;
	pthread_cond_broadcast(&sources->room);
	pthread_cond_broadcast(&sources->ready);
	pthread_mutex_unlock(&sources->lock);
}

/* Lock held. The worker's last buffer goes into the slot. */
static int take_ready(struct sources *sources, struct worker *worker, uint32_t *picture, struct hash *content, struct err *err)
{
	struct source *source = &sources->slots[sources->first];
	struct buf empty = worker->file;

	*picture = source->picture;
	*content = source->content;
	if (source->code != 0)
		*err = source->err;
	sources->bytes -= source->file.size;
	worker->file = source->file;
	if (empty.capacity > BUFFER_KEPT_BYTES)
		buf_free(&empty);
	source->file = empty;
	sources->first = (sources->first + 1) % SOURCES_AHEAD_MAX;
	/* Waking the reader costs about as much as reading a small file: not for each. */
	if (--sources->count <= SOURCES_AHEAD_MAX / 2)
		pthread_cond_signal(&sources->room);
	return source->code;
}

bool sources_take(struct sources *sources, struct worker *worker, uint32_t *picture, struct hash *content, int *code,
		  struct err *err)
{
	bool taken = false, own = false;

	pthread_mutex_lock(&sources->lock);
	while (!sources->stopped && sources->count == 0 && sources->next >= sources->total && sources->reading)
		pthread_cond_wait(&sources->ready, &sources->lock);
	if (!sources->stopped && sources->count > 0) {
		*code = take_ready(sources, worker, picture, content, err);
		taken = true;
	} else if (!sources->stopped && sources->next < sources->total) {
		*picture = sources->next++;
		taken = own = true;
	}
	pthread_mutex_unlock(&sources->lock);
	if (own)
		*code = read_picture(sources, *picture, &worker->file, content, err);
	return taken;
}
