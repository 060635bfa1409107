#include "preprocessd/pipeline/reserve.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shared/base/mem.h"

struct reserve {
	struct pool_job job;
	struct pool *pool; /* NULL: stopped, or not started */
	pthread_mutex_t lock;
	/* under lock */
	int fd;            /* -1: none */
	uint64_t filled, target;
	bool running;      /* the job is queued or runs */
};

static const uint8_t ZEROS[RESERVE_PIECE_BYTES];

static int make_memory(void)
{
	return memfd_create("preprocessd-batches", MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

/* lock is held. Written rather than mapped and touched: a page costs half as much. */
static bool fill_piece(struct reserve *reserve)
{
	if (reserve->fd < 0 && (reserve->fd = make_memory()) < 0)
		return false;
	ssize_t put = pwrite(reserve->fd, ZEROS, sizeof(ZEROS), (off_t)reserve->filled);
	if (put > 0) {
		reserve->filled += (uint64_t)put;
		return true;
	}
	/* No memory to spare: then a stream finds its own, or says that there is none. */
	close(reserve->fd);
	reserve->fd = -1;
	reserve->filled = 0;
	return false;
}

static void run_fill(struct worker *worker, struct pool_job *job)
{
	struct reserve *reserve = (struct reserve *)(void *)job;
	bool more;

	pthread_mutex_lock(&reserve->lock);
	more = reserve->pool != NULL && reserve->filled < reserve->target && fill_piece(reserve);
	reserve->running = more;
	pthread_mutex_unlock(&reserve->lock);
	if (more)
		pool_submit(worker->pool, job, POOL_WARM);
}

/* lock is held */
static void start_filling(struct reserve *reserve)
{
	if (reserve->running || reserve->pool == NULL || reserve->filled >= reserve->target)
		return;
	reserve->running = true;
	pool_submit(reserve->pool, &reserve->job, POOL_WARM);
}

int reserve_open(struct reserve **out, struct err *err)
{
	struct reserve *reserve = mem_zalloc(sizeof(*reserve));

	*out = NULL;
	if (reserve == NULL)
		return err_nomem(err, sizeof(*reserve));
	pthread_mutex_init(&reserve->lock, NULL);
	reserve->fd = -1;
	reserve->target = RESERVE_FIRST_BYTES;
	reserve->job.run = run_fill;
	*out = reserve;
	return 0;
}

void reserve_start(struct reserve *reserve, struct pool *pool)
{
	pthread_mutex_lock(&reserve->lock);
	reserve->pool = pool;
	start_filling(reserve);
	pthread_mutex_unlock(&reserve->lock);
}

void reserve_stop(struct reserve *reserve)
{
	if (reserve == NULL)
		return;
	pthread_mutex_lock(&reserve->lock);
	reserve->pool = NULL;
	pthread_mutex_unlock(&reserve->lock);
}

void reserve_close(struct reserve *reserve)
{
	if (reserve == NULL)
		return;
	CHECK(!reserve->running);
	if (reserve->fd >= 0)
		close(reserve->fd);
	pthread_mutex_destroy(&reserve->lock);
	mem_free(reserve);
}

void reserve_refill(struct reserve *reserve)
{
	pthread_mutex_lock(&reserve->lock);
	start_filling(reserve);
	pthread_mutex_unlock(&reserve->lock);
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
	*fd = reserve->fd;
	*ready = reserve->filled < bytes ? reserve->filled : bytes;
	reserve->fd = -1;
	reserve->filled = 0;
	reserve->target = size_of_reserve(slot_bytes);
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
