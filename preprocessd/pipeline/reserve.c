#include "preprocessd/pipeline/reserve.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shared/base/mem.h"

enum { LOWEST_PRIORITY = 19 };

struct reserve {
	pthread_mutex_t lock;
	pthread_cond_t work, returned;
	pthread_t maker, releaser;
	/* under lock */
	int fd;                  /* -1: none, or the thread is just writing it */
	uint64_t filled, target;
	bool wanted;             /* to be filled up to target */
	bool stopping;
	struct reserve_return *first, **last;
	uint64_t waiting_bytes; /* of these */
};

static uint8_t zeros[RESERVE_PIECE_BYTES]; /* never written: as a constant it would lie in the program's file */

static int make_memory(void)
{
	return memfd_create("preprocessd-batches", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* lock is held, and let go of while the kernel works. Whoever takes meanwhile goes without.
 * Written rather than mapped and touched: a page costs half as much. */
static void fill_piece(struct reserve *reserve)
{
	int fd = reserve->fd;
	uint64_t at = fd >= 0 ? reserve->filled : 0;

	reserve->fd = -1;
	pthread_mutex_unlock(&reserve->lock);
	if (fd < 0)
		fd = make_memory();
	ssize_t put = fd >= 0 ? pwrite(fd, zeros, sizeof(zeros), (off_t)at) : -1;
	if (put <= 0 && fd >= 0) {
		/* No memory to spare: then a stream finds its own, or says that there is none. */
		close(fd);
		fd = -1;
	}
	pthread_mutex_lock(&reserve->lock);
	reserve->fd = fd;
	reserve->filled = fd >= 0 ? at + (uint64_t)put : 0;
	if (fd < 0 || reserve->filled >= reserve->target)
		reserve->wanted = false;
}

/* lock is held, and let go of meanwhile */
static void release_one(struct reserve *reserve)
{
	struct reserve_return *item = reserve->first;

	reserve->first = item->next;
	if (reserve->first == NULL)
		reserve->last = &reserve->first;
	reserve->waiting_bytes -= item->bytes;
	pthread_mutex_unlock(&reserve->lock);
	item->release(item);
	pthread_mutex_lock(&reserve->lock);
}

static void *release_main(void *context)
{
	struct reserve *reserve = context;

	pthread_setname_np(pthread_self(), "release");
	pthread_mutex_lock(&reserve->lock);
	while (reserve->first != NULL || !reserve->stopping) {
		if (reserve->first != NULL)
			release_one(reserve);
		else
			pthread_cond_wait(&reserve->returned, &reserve->lock);
	}
	pthread_mutex_unlock(&reserve->lock);
	return NULL;
}

static void *make_main(void *context)
{
	struct reserve *reserve = context;

	pthread_setname_np(pthread_self(), "reserve");
	(void)setpriority(PRIO_PROCESS, 0, LOWEST_PRIORITY); /* of this thread, on Linux; without it things work as well */
	pthread_mutex_lock(&reserve->lock);
	while (!reserve->stopping) {
		if (reserve->wanted)
			fill_piece(reserve);
		else
			pthread_cond_wait(&reserve->work, &reserve->lock);
	}
	pthread_mutex_unlock(&reserve->lock);
	return NULL;
}

static void stop(struct reserve *reserve)
{
	pthread_mutex_lock(&reserve->lock);
	reserve->stopping = true;
	pthread_cond_signal(&reserve->work);
	pthread_cond_signal(&reserve->returned);
	pthread_mutex_unlock(&reserve->lock);
}

int reserve_open(struct reserve **out, struct err *err)
{
	struct reserve *reserve = mem_zalloc(sizeof(*reserve));

	*out = NULL;
	if (reserve == NULL)
		return err_nomem(err, sizeof(*reserve));
	pthread_mutex_init(&reserve->lock, NULL);
	pthread_cond_init(&reserve->work, NULL);
	pthread_cond_init(&reserve->returned, NULL);
	reserve->fd = -1;
	reserve->target = RESERVE_FIRST_BYTES;
	reserve->wanted = true;
	reserve->last = &reserve->first;
	int reason = pthread_create(&reserve->releaser, NULL, release_main, reserve);
	if (reason == 0 && (reason = pthread_create(&reserve->maker, NULL, make_main, reserve)) != 0) {
		stop(reserve);
		pthread_join(reserve->releaser, NULL);
	}
	if (reason != 0) {
		mem_free(reserve);
		return err_errno(err, reason, "cannot start a thread");
	}
	*out = reserve;
	return 0;
}

void reserve_close(struct reserve *reserve)
{
	if (reserve == NULL)
		return;
	stop(reserve);
	pthread_join(reserve->maker, NULL);
	pthread_join(reserve->releaser, NULL);
	if (reserve->fd >= 0)
		close(reserve->fd);
	pthread_cond_destroy(&reserve->work);
	pthread_cond_destroy(&reserve->returned);
	pthread_mutex_destroy(&reserve->lock);
	mem_free(reserve);
}

static uint64_t size_of_reserve(uint64_t slot_bytes)
{
	if (slot_bytes < RESERVE_FIRST_BYTES)
		return RESERVE_FIRST_BYTES;
	return slot_bytes < RESERVE_BYTES_MAX ? slot_bytes : RESERVE_BYTES_MAX;
}

int reserve_take(struct reserve *reserve, uint64_t bytes, uint64_t slot_bytes, int *fd, uint64_t *ready, struct err *err)
{
	pthread_mutex_lock(&reserve->lock);
	while (reserve->waiting_bytes > RESERVE_WAITING_BYTES_MAX)
		release_one(reserve);
	*fd = reserve->fd;
	*ready = *fd < 0 ? 0 : reserve->filled < bytes ? reserve->filled : bytes;
	reserve->fd = -1;
	reserve->target = size_of_reserve(slot_bytes);
	reserve->wanted = false;
	pthread_mutex_unlock(&reserve->lock);
	if (*fd < 0)
		*fd = make_memory();
	if (*fd < 0 || ftruncate(*fd, (off_t)bytes) != 0) {
		int reason = errno;

		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		return err_errno(err, reason, "cannot make the memory for batches (%llu MiB)", (unsigned long long)(bytes >> 20));
	}
	return 0;
}

void reserve_refill(struct reserve *reserve)
{
	pthread_mutex_lock(&reserve->lock);
	reserve->wanted = reserve->fd < 0 || reserve->filled < reserve->target;
	pthread_cond_signal(&reserve->work);
	pthread_mutex_unlock(&reserve->lock);
}

void reserve_give_back(struct reserve *reserve, struct reserve_return *item)
{
	item->next = NULL;
	pthread_mutex_lock(&reserve->lock);
	*reserve->last = item;
	reserve->last = &item->next;
	reserve->waiting_bytes += item->bytes;
	pthread_cond_signal(&reserve->returned);
	pthread_mutex_unlock(&reserve->lock);
}
