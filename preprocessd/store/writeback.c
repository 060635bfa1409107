#include "preprocessd/store/writeback.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "shared/base/mem.h"

static const struct timespec PAUSE = { 0, 1000000 };

struct writeback {
	pthread_t thread;
	pthread_mutex_t lock; /* held while the file is in use */
	pthread_cond_t changed;
	int fd;               /* -1: nothing to do */
	bool stopping;
};

static void *writeback_main(void *argument)
{
	struct writeback *w = argument;

	pthread_setname_np(pthread_self(), "writeback");
	pthread_mutex_lock(&w->lock);
	while (!w->stopping) {
		if (w->fd < 0) {
			pthread_cond_wait(&w->changed, &w->lock);
			continue;
		}
		(void)sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* where it cannot, the commit takes longer */
		pthread_mutex_unlock(&w->lock);
		nanosleep(&PAUSE, NULL);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int writeback_open(struct writeback **out, struct err *err)
{
	struct writeback *w = mem_zalloc(sizeof(*w));
	int rc;

	*out = NULL;
	if (w == NULL)
		return err_nomem(err, sizeof(*w));
	w->fd = -1;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	rc = pthread_create(&w->thread, NULL, writeback_main, w);
	if (rc != 0) {
		pthread_cond_destroy(&w->changed);
		pthread_mutex_destroy(&w->lock);
		mem_free(w);
		return err_errno(err, rc, "cannot start a thread beside the cache's writer");
	}
	*out = w;
	return 0;
}

/* fd -1: stops. */
static void change(struct writeback *w, int fd, bool stopping)
{
	pthread_mutex_lock(&w->lock);
	w->fd = fd;
	w->stopping = stopping;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

void writeback_close(struct writeback *w)
{
	if (w == NULL)
		return;
	change(w, -1, true);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	mem_free(w);
}

void writeback_begin(struct writeback *w, int fd)
{
	change(w, fd, false);
}

void writeback_end(struct writeback *w)
{
	change(w, -1, false);
}
