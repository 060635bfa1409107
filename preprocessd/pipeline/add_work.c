#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preprocessd/pipeline/add_internal.h"
#include "shared/base/mem.h"

enum { CAPTIONS_A_TURN = 64 };

bool add_is_cancelled(struct add *add)
{
	return atomic_load_explicit(&add->cancelled, memory_order_relaxed);
}

int add_cancelled_error(struct add *add, struct err *err)
{
	return err_set(err, ERR_CANCELLED, "adding %s was cancelled; what was prepared stays in the cache, and adding it again goes "
		       "on from there", add->request->name);
}

/* Something that is not about one picture: the add ends. */
static void stop_all(struct add *add, const struct err *err)
{
	pthread_mutex_lock(&add->lock);
	if (add->code == 0) {
		add->code = err->code;
		add->err = *err;
	}
	pthread_mutex_unlock(&add->lock);
	atomic_store(&add->cancelled, true);
}

static void runner_ends(struct add *add)
{
	pthread_mutex_lock(&add->lock);
	if (--add->running == 0)
		pthread_cond_signal(&add->finished);
	pthread_mutex_unlock(&add->lock);
}

/* A cache that keeps nothing any more: the disk is full, say. Sooner heard than at the end. */
bool add_cache_failed(struct add *add, struct err *err)
{
	return prepare_puts_failed(add->pipeline, add->put_failures_before, err);
}

/* Is it the picture's fault? What is not (no memory, no descriptors, a
 * damaged cache) must not leave samples out of a data set. */
static bool blames_picture(int code, const char *path)
{
	switch (code) {
	case ERR_FORMAT:
	case ERR_UNSUPPORTED:
	case ERR_LIMIT:
	case ERR_NOTFOUND:
		return true;
	case ERR_IO:
		return access(path, R_OK) != 0;
	default:
		return false;
	}
}

static void picture_failed(struct add *add, uint32_t i, const char *path, struct err *err)
{
	size_t bytes = strlen(path);
	struct err trouble;

	if (!blames_picture(err->code, path)) {
		stop_all(add, err);
		return;
	}
	/* The list names the source beside the reason. */
	if (strncmp(err->message, path, bytes) == 0 && strncmp(err->message + bytes, ": ", 2) == 0)
		memmove(err->message, err->message + bytes + 2, strlen(err->message + bytes + 2) + 1);
	if (listing_set_failure(add->listing, i, err) != 0) {
		err_nomem(&trouble, sizeof(*err));
		stop_all(add, &trouble);
		return;
	}
	atomic_fetch_add(&add->failed, 1);
}

static bool add_picture(struct worker *worker, struct add *add)
{
	struct hash content;
	enum prepared how = PREPARED_HIT;
	struct err err, trouble;
	uint32_t i;
	int code;

	if (!sources_take(add->sources, worker, &i, &content, &code, &err))
		return false;
	const char *path = listing_picture_path(add->listing, i);
	if (code == 0)
		code = prepare_file(worker, &add->settings, path, &content, &how, &err);
	if (add_cache_failed(add, &trouble)) {
		stop_all(add, &trouble);
	} else if (code == 0) {
		listing_set_hash(add->listing, i, &content);
		if (how == PREPARED_MADE)
			atomic_fetch_add(&add->decoded, 1);
	} else {
		picture_failed(add, i, path, &err);
	}
	atomic_fetch_add(&add->done_count, 1);
	return true;
}

static void run_picture(struct worker *worker, struct pool_job *job)
{
	struct add *add = ((struct add_runner *)(void *)job)->add;

	if (add_is_cancelled(add))
		sources_stop(add->sources);
	if (!add_picture(worker, add)) {
		runner_ends(add);
		return;
	}
	pool_submit(worker->pool, job, POOL_WARM);
}

static void run_captions(struct worker *worker, struct pool_job *job)
{
	struct add *add = ((struct add_runner *)(void *)job)->add;
	const struct manifest *manifest = add->manifest;
	uint32_t first = atomic_fetch_add(&add->next, CAPTIONS_A_TURN);
	struct err err;

	if (first >= manifest->caption_count || add_is_cancelled(add)) {
		runner_ends(add);
		return;
	}
	for (uint32_t n = first; n < first + CAPTIONS_A_TURN && n < manifest->caption_count; n++) {
		uint32_t i = add->caption_places[n].caption;
		const uint64_t *at = manifest->caption_at + i;
		enum prepared how;

		if (prepare_tokens(worker, add->vocab, manifest->caption_text + at[0], at[1] - at[0], NULL, NULL, &how,
				   &err) != 0) {
			err_prefix(&err, "caption %u", i);
			stop_all(add, &err);
			break;
		}
		if (how == PREPARED_MADE)
			atomic_fetch_add(&add->tokenized, 1);
		atomic_fetch_add(&add->done_count, 1);
	}
	pool_submit(worker->pool, job, POOL_WARM);
}

/* meanwhile (or NULL): what this thread does while the workers are busy. */
static int run_phase(struct add *add, void (*run)(struct worker *, struct pool_job *), void (*meanwhile)(struct add *),
		     struct err *err)
{
	int workers = pool_workers(add->pipeline->pool);

	atomic_store(&add->next, 0);
	add->running = workers;
	for (int i = 0; i < workers; i++) {
		add->runners[i].add = add;
		add->runners[i].job.run = run;
		pool_submit(add->pipeline->pool, &add->runners[i].job, POOL_WARM);
	}
	if (meanwhile != NULL)
		meanwhile(add);
	pthread_mutex_lock(&add->lock);
	while (add->running > 0)
		pthread_cond_wait(&add->finished, &add->lock);
	pthread_mutex_unlock(&add->lock);
	if (add->code != 0) { /* all workers are done */
		*err = add->err;
		add->code = 0; /* add_main() sets it again */
		return err->code;
	}
	return add_is_cancelled(add) ? add_cancelled_error(add, err) : 0;
}

static void beside_pictures(struct add *add)
{
	struct err err;

	if (add_parse_vocab(add, &err) != 0)
		stop_all(add, &err);
	sources_read(add->sources);
}

int add_work_pictures(struct add *add, struct err *err)
{
	int code = sources_open(&add->sources, add->pipeline, add->listing, &add->rights, err);

	if (code == 0)
		code = run_phase(add, run_picture, beside_pictures, err);
	sources_close(add->sources);
	add->sources = NULL;
	return code;
}

static int by_key(const void *a, const void *b)
{
	const struct caption_place *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->caption < y->caption ? -1 : x->caption > y->caption;
}

/* Captions in the order of their keys. Taken as they come, nearly each would dirty a page of the tree of
 * its own once there are more pages than captions to a commit; so neighbours share one, however many there are. */
static int order_captions(struct add *add, struct err *err)
{
	const struct manifest *manifest = add->manifest;
	uint32_t count = manifest->caption_count;

	add->caption_places = mem_array(count, sizeof(*add->caption_places));
	if (add->caption_places == NULL)
		return err_nomem(err, count * sizeof(*add->caption_places));
	for (uint32_t i = 0; i < count; i++) {
		const uint64_t *at = manifest->caption_at + i;
		struct hash hash;
		uint64_t key = 0;

		hash_bytes(&hash, manifest->caption_text + at[0], at[1] - at[0]);
		for (int b = 0; b < 8; b++)
			key = key << 8 | hash.bytes[b];
		add->caption_places[i] = (struct caption_place){ key, i };
	}
	qsort(add->caption_places, count, sizeof(*add->caption_places), by_key);
	return 0;
}

int add_work_captions(struct add *add, struct err *err)
{
	int code = order_captions(add, err);

	if (code == 0)
		code = run_phase(add, run_captions, NULL, err);
	mem_free(add->caption_places);
	add->caption_places = NULL;
	return code;
}
